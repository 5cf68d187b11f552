// Structured log lines on stderr: time, level, message, then key=value pairs. A transition is logged once, where it
// happens. Never secrets, never memory contents. Any thread.
//
//   log_info("epoch committed", {{"job", job.value}, {"epoch", epoch.value}});
#pragma once

#include <fmt/format.h>

#include <initializer_list>
#include <string>
#include <string_view>

namespace stillpoint {

struct LogField {
  template <class T>
  LogField(std::string_view k, const T& v) : key(k), value(fmt::format("{}", v)) {}
  std::string_view key;
  std::string value;
};
using LogFields = std::initializer_list<LogField>;

void log_debug(std::string_view message, LogFields fields = {});
void log_info(std::string_view message, LogFields fields = {});
void log_warn(std::string_view message, LogFields fields = {});
void log_error(std::string_view message, LogFields fields = {});

// "debug", "info", "warn" or "error"; once, before the first thread.
void set_log_level(std::string_view level);

// key=value, quoted where the value holds anything but a plain word: no value can forge a line or a field.
std::string format_log_line(std::string_view message, LogFields fields);

}  // namespace stillpoint
