#include "mpi-hooks/agent/checks/check.h"

namespace stillpoint::agent {
namespace {

constexpr Finding (*kChecks[])(const Subject&) = {&static_mpi, &other_mpi,   &hooks_missing,
                                                  &transport,  &rdma_device, &outside_connection};

}  // namespace

Finding examine(const Subject& process) {
  for (const auto check : kChecks)
    if (Finding finding = check(process)) return finding;
  return std::nullopt;
}

const std::string* find_library(const std::vector<std::string>& files, std::string_view name) {
  for (const std::string& file : files) {
    const std::string_view base = std::string_view(file).substr(file.rfind('/') + 1);
    if (base.starts_with(name) && (base.size() == name.size() || base[name.size()] == '.')) return &file;
  }
  return nullptr;
}

}  // namespace stillpoint::agent
