#include "tests/e2e/examples.h"

#include <doctest/doctest.h>

namespace stillpoint::e2e {

std::vector<std::string> Heat::arguments() const {
  return {"--size", std::to_string(size), "--steps", std::to_string(steps), "--every", std::to_string(every)};
}

JobText Heat::job(const std::string& name) const {
  std::string command = "[./heat";
  for (const auto& argument : arguments()) command += ", \"" + argument + "\"";
  return {.name = name, .command = command + "]", .files = {example("heat/heat")}, .outputs = {kHeatPicture}};
}

JobText Ring::job(const std::string& name) const {
  return {.name = name, .command = "[./ring, --rounds, \"" + std::to_string(rounds) + "\"]", .files = {example("ring/ring")}, .outputs = {}};
}

std::size_t check_numbered(const std::string& text, const std::string& prefix, long first, long stride) {
  const auto lines = lines_starting(text, prefix);
  long expected = first;
  for (const auto& line : lines) {
    const long number = std::strtol(line.c_str() + prefix.size(), nullptr, 10);
    if (number != expected) {
      CHECK_MESSAGE(number == expected, "the line after " << expected - stride << " is: " << line);
      break;
    }
    expected += stride;
  }
  return lines.size();
}

long last_number(const std::string& text, const std::string& prefix) {
  const auto lines = lines_starting(text, prefix);
  return lines.empty() ? 0 : std::strtol(lines.back().c_str() + prefix.size(), nullptr, 10);
}

}  // namespace stillpoint::e2e
