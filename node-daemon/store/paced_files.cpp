#include "node-daemon/store/paced_files.h"

#include <algorithm>

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;

class PacedFile final : public WritableFile {
 public:
  PacedFile(std::unique_ptr<WritableFile> file, UploadCaps& caps) : file_(std::move(file)), caps_(caps) {}
  Status append(std::string_view bytes) override {
    while (!bytes.empty()) {
      const std::string_view piece = bytes.substr(0, caps_.piece_bytes());
      caps_.sending(piece.size(), {});
      if (auto written = file_->append(piece); !written) return written;
      bytes.remove_prefix(piece.size());
    }
    return {};
  }
  Status sync() override { return file_->sync(); }

 private:
  const std::unique_ptr<WritableFile> file_;
  UploadCaps& caps_;
};

class PacedFiles final : public Files {
 public:
  PacedFiles(Files& files, UploadCaps& caps) : files_(files), caps_(caps) {}

  Result<std::unique_ptr<WritableFile>> create(const fs::path& path) override {
    auto file = files_.create(path);
    if (!file) return file;
    return std::make_unique<PacedFile>(std::move(*file), caps_);
  }
  Result<std::shared_ptr<const ReadableFile>> open(const fs::path& path) override { return files_.open(path); }
  Status rename(const fs::path& from, const fs::path& to) override { return files_.rename(from, to); }
  Status remove(const fs::path& path) override { return files_.remove(path); }
  Status make_directory(const fs::path& path) override { return files_.make_directory(path); }
  Status remove_directory(const fs::path& path) override { return files_.remove_directory(path); }
  Status sync_directory(const fs::path& path) override { return files_.sync_directory(path); }
  Result<std::vector<std::string>> list(const fs::path& path) override { return files_.list(path); }
  Result<std::uint64_t> free_bytes(const fs::path& path) override { return files_.free_bytes(path); }

 private:
  Files& files_;
  UploadCaps& caps_;
};

}  // namespace

std::unique_ptr<Files> make_paced_files(Files& files, UploadCaps& caps) {
  return std::make_unique<PacedFiles>(files, caps);
}

}  // namespace stillpoint::node
