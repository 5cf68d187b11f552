#include "node-daemon/upload_flags.h"

namespace stillpoint::node {
namespace {

constexpr std::uint64_t kLeastRate = 64u << 10;  // with less the other side takes us for stuck
constexpr double kLeastCores = 0.05;

// "200MiB/s", or without the end.
void read_rate(const std::string& text, UploadLimits& limits) {
  std::string size = text;
  if (size.ends_with("/s")) size.resize(size.size() - 2);
  const std::string wrong = CLI::AsSizeValue(false)(size);
  if (!wrong.empty() || !CLI::detail::lexical_cast(size, limits.bytes_per_second) ||
      limits.bytes_per_second < kLeastRate)
    throw CLI::ValidationError("--upload-rate", "\"" + text + "\": expected such as 200MiB/s, at least 64KiB/s");
}

// "50%", of one core.
void read_cores(const std::string& text, UploadLimits& limits) {
  double percent = 0;
  const bool ends_well = text.ends_with('%');
  if (!ends_well || !CLI::detail::lexical_cast(text.substr(0, text.size() - 1), percent) ||
      !(percent / 100 >= kLeastCores) || percent > 10'000)
    throw CLI::ValidationError("--upload-cpu", "\"" + text + "\": expected such as 50%, at least 5%");
  limits.cores = percent / 100;
}

}  // namespace

void add_flags(CLI::App& app, UploadLimits& limits) {
  app.add_option_function<std::string>(
         "--upload-rate", [&limits](const std::string& text) { read_rate(text, limits); },
         "bytes of checkpoints that leave for other places in a second, such as 200MiB/s: partners, the S3 store, a "
         "directory that hosts share; no limit if not given")
      ->take_last();
  app.add_option_function<std::string>(
         "--upload-cpu", [&limits](const std::string& text) { read_cores(text, limits); },
         "share of one core that storing and copying checkpoints may take while the job runs, such as 50%; no limit if "
         "not given")
      ->take_last();
}

std::shared_ptr<UploadCaps> make_upload_caps(const UploadLimits& limits) {
  if (limits.bytes_per_second == 0 && limits.cores == 0) return nullptr;
  return std::make_shared<UploadCaps>(limits);
}

}  // namespace stillpoint::node
