#include "tests/e2e/examples.h"

#include <doctest/doctest.h>

namespace stillpoint::e2e {
namespace {

std::string command(const std::string& program, const std::vector<std::string>& arguments) {
  std::string text = "[" + program;
  for (const auto& argument : arguments) text += ", \"" + argument + "\"";
  return text + "]";
}

}  // namespace

Heat Heat::long_enough_on(const TestLab& lab) {
  Heat heat;
  if (lab.ok({"hosts"}).at(0).at("accel") != "tcg") heat.steps *= 30;
  return heat;
}

std::vector<std::string> Heat::arguments() const {
  return {std::to_string(size), std::to_string(size), std::to_string(steps), std::to_string(every), kHeatPicture};
}

JobText Heat::job(const std::string& name) const {
  return {.name = name,
          .command = command("./heat", arguments()),
          .files = {example("heat/heat")},
          .outputs = {kHeatPicture}};
}

std::vector<std::string> Ring::arguments() const { return {std::to_string(rounds), "1", "1048576"}; }

JobText Ring::job(const std::string& name) const {
  return {.name = name, .command = command("./ring", arguments()), .files = {example("ring/ring")}, .outputs = {}};
}

std::vector<std::string> Churn::arguments() const {
  return {std::to_string(steps), std::to_string(mebibytes), std::to_string(percent)};
}

JobText Churn::job(const std::string& name) const {
  return {.name = name, .command = command("./churn", arguments()), .files = {example("churn/churn")}, .outputs = {}};
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
