#include "jobs/units.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <limits>
#include <optional>
#include <span>
#include <stdexcept>

namespace stillpoint::jobs {
namespace {

struct Unit {
  std::string_view name;
  std::uint64_t factor;
};
constexpr std::array kSizes{Unit{"KiB", 1ull << 10}, Unit{"MiB", 1ull << 20}, Unit{"GiB", 1ull << 30},
                            Unit{"TiB", 1ull << 40}};
constexpr std::array kDurations{Unit{"s", 1}, Unit{"min", 60}, Unit{"h", 3600}, Unit{"d", 86400}};

// What people write instead, and what they should.
struct Habit {
  std::string_view written, meant;
};
constexpr std::array kHabits{
    Habit{"k", "KiB"},    Habit{"K", "KiB"},       Habit{"kB", "KiB"},  Habit{"KB", "KiB"},    Habit{"Ki", "KiB"},
    Habit{"M", "MiB"},    Habit{"m", "MiB"},       Habit{"MB", "MiB"},  Habit{"mb", "MiB"},    Habit{"Mi", "MiB"},
    Habit{"mib", "MiB"},  Habit{"MIB", "MiB"},     Habit{"G", "GiB"},   Habit{"g", "GiB"},     Habit{"GB", "GiB"},
    Habit{"gb", "GiB"},   Habit{"Gi", "GiB"},      Habit{"gib", "GiB"}, Habit{"GIB", "GiB"},   Habit{"T", "TiB"},
    Habit{"TB", "TiB"},   Habit{"Ti", "TiB"},      Habit{"sec", "s"},   Habit{"seconds", "s"}, Habit{"m", "min"},
    Habit{"mins", "min"}, Habit{"minutes", "min"}, Habit{"hr", "h"},    Habit{"hours", "h"},   Habit{"days", "d"},
};

std::string suggestion(std::string_view written, std::span<const Unit> units) {
  for (const auto& unit : units) {
    if (unit.name == written) return fmt::format("; did you mean {} without a space?", unit.name);
    for (const auto& habit : kHabits) {
      if (habit.meant == unit.name && habit.written == written) return fmt::format("; did you mean {}?", unit.name);
    }
  }
  return "";
}

Measured<std::uint64_t> parse(std::string_view text, std::span<const Unit> units, std::string_view expected) {
  std::uint64_t number = 0;
  const auto* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  std::string_view unit(rest, static_cast<std::size_t>(end - rest));
  if (rest == text.data() || unit.starts_with('.')) return UnitError{fmt::format("\"{}\" is not {}", text, expected)};
  const UnitError too_large{fmt::format("\"{}\" is too large, expected {}", text, expected)};
  if (error == std::errc::result_out_of_range) return too_large;
  if (unit.empty()) return UnitError{fmt::format("\"{}\" has no unit, expected {}", text, expected)};
  for (const auto& known : units) {
    if (known.name != unit) continue;
    if (number > std::numeric_limits<std::uint64_t>::max() / known.factor) return too_large;
    return number * known.factor;
  }
  while (unit.starts_with(' ')) unit.remove_prefix(1);
  return UnitError{
      fmt::format("\"{}\" has the unknown unit \"{}\", expected {}{}", text, unit, expected, suggestion(unit, units))};
}

}  // namespace

void throw_exception_from_error(const UnitError& error, const boost::source_location&) {
  throw std::logic_error("value() of a failed result: " + error.what);
}

Measured<std::uint64_t> parse_size(std::string_view text) {
  return parse(text, kSizes, "a whole number with KiB, MiB, GiB or TiB, such as 512MiB");
}

Measured<std::uint64_t> parse_duration(std::string_view text, std::string_view or_else) {
  return parse(text, kDurations, fmt::format("a whole number with s, min, h or d, such as 10min{}", or_else));
}

std::string format_size(std::uint64_t bytes) {
  for (auto unit = kSizes.rbegin(); unit != kSizes.rend(); ++unit) {
    if (bytes != 0 && bytes % unit->factor == 0) return fmt::format("{}{}", bytes / unit->factor, unit->name);
  }
  return fmt::format("{} bytes", bytes);
}

}  // namespace stillpoint::jobs
