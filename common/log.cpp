#include "common/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>

namespace stillpoint {
namespace {

spdlog::logger& logger() {
  static const std::shared_ptr<spdlog::logger> instance = [] {
    auto made = std::make_shared<spdlog::logger>("stillpoint", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made->set_pattern("%Y-%m-%dT%H:%M:%S.%f%z %l %v");
    made->flush_on(spdlog::level::info);
    return made;
  }();
  return *instance;
}

bool plain(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return c > 0x20 && c < 0x7f && c != '"' && c != '=' && c != '\\';
  });
}

void append_quoted(std::string& line, std::string_view text) {
  line += '"';
  for (unsigned char c : text) {
    if (c == '"' || c == '\\') line += '\\';
    if (c < 0x20 || c == 0x7f) line += fmt::format("\\x{:02x}", c);
    else line += static_cast<char>(c);
  }
  line += '"';
}

}  // namespace

std::string format_log_line(std::string_view message, LogFields fields) {
  std::string line(message);
  for (const auto& field : fields) {
    line.append(" ").append(field.key).append("=");
    if (plain(field.value)) line += field.value;
    else append_quoted(line, field.value);
  }
  return line;
}

void log_debug(std::string_view message, LogFields fields) { logger().debug("{}", format_log_line(message, fields)); }
void log_info(std::string_view message, LogFields fields) { logger().info("{}", format_log_line(message, fields)); }
void log_warn(std::string_view message, LogFields fields) { logger().warn("{}", format_log_line(message, fields)); }
void log_error(std::string_view message, LogFields fields) { logger().error("{}", format_log_line(message, fields)); }

void set_log_level(std::string_view level) { logger().set_level(spdlog::level::from_str(std::string(level))); }

}  // namespace stillpoint
