// Sizes and durations as a manifest writes them: a whole number and a unit, nothing between. Pure; any thread.
#pragma once

#include <boost/system/result.hpp>
#include <cstdint>
#include <string>
#include <string_view>

namespace stillpoint::jobs {

// What is wrong, and what was expected: the text of a Problem.
struct UnitError {
  std::string what;
};
[[noreturn]] void throw_exception_from_error(const UnitError& error, const boost::source_location& where);
template <class T>
using Measured = boost::system::result<T, UnitError>;

Measured<std::uint64_t> parse_size(std::string_view text);  // 512MiB: KiB, MiB, GiB, TiB; in bytes
// 10min: s, min, h, d; in seconds. `or_else` is what else may stand there, for the error.
Measured<std::uint64_t> parse_duration(std::string_view text, std::string_view or_else = "");

// "512MiB", in the largest unit that divides it.
std::string format_size(std::uint64_t bytes);

}  // namespace stillpoint::jobs
