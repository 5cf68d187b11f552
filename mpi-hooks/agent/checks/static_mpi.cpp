// A program with MPI linked into it: there is no call between it and a library that could be stepped in on.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "common/fd.h"
#include "mpi-hooks/agent/checks/check.h"

namespace stillpoint::agent {
namespace {

// A whole file as text; empty where it cannot be read.
class FileText {
 public:
  explicit FileText(const std::string& path) {
    const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    struct stat status {};
    if (!file || ::fstat(file.get(), &status) != 0 || status.st_size <= 0) return;
    size_ = static_cast<std::size_t>(status.st_size);
    bytes_ = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.get(), 0);
  }
  ~FileText() {
    if (bytes_ != MAP_FAILED) ::munmap(bytes_, size_);
  }
  FileText(const FileText&) = delete;
  FileText& operator=(const FileText&) = delete;
  std::string_view text() const {
    return bytes_ == MAP_FAILED ? std::string_view() : std::string_view(static_cast<const char*>(bytes_), size_);
  }

 private:
  void* bytes_ = MAP_FAILED;
  std::size_t size_ = 0;
};

// Words that are in the program's data, whatever was stripped: an MPI library's own error texts.
constexpr std::string_view kSigns[] = {"MPI_ERRORS_ARE_FATAL", "ompi_mpi_init", "MPIR_ERRORS_ARE_FATAL", "PMPI_Init"};

}  // namespace

Finding static_mpi(const Subject& process) {
  if (process.linked || process.mapped.empty() || find_library(process.mapped, "libstillpoint-mpi.so") != nullptr)
    return std::nullopt;
  for (const char* library : {"libmpi.so", "libmpich.so", "libpmix.so", "libprrte.so"})
    if (find_library(process.mapped, library) != nullptr) return std::nullopt;
  // A program that is linked with an MPI library names it; what has a loader and no such name is looked into.
  const FileText program(process.proc.executable(process.pid));
  for (const std::string_view sign : kSigns)
    if (program.text().find(sign) != std::string_view::npos &&
        program.text().find("libmpi.so") == std::string_view::npos)
      return "MPI is linked into the program, and the hook library cannot step in on its calls: link it with the "
             "shared "
             "libmpi.so of the guest's Open MPI (without -static)";
  return std::nullopt;
}

}  // namespace stillpoint::agent
