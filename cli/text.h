// Output for people. Pure; any thread.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace stillpoint::cli {

// Left-aligned columns with two spaces between; each line ends with a newline, none with blanks.
std::string table(const std::vector<std::string>& heads, const std::vector<std::vector<std::string>>& rows);

std::string human_bytes(double bytes);  // "103 MiB"
std::string human_ms(double ms);        // "12 ms", "1.4 s", "3 min 20 s", "2 h 5 min", "3 d 4 h"

// What the coordinator said as a table's cell: "-" for nothing, text as it is, numbers and lists plainly. Control
// characters of foreign text do not reach the terminal.
std::string cell(const nlohmann::json& object, std::string_view key);
std::string plain(std::string_view text);

}  // namespace stillpoint::cli
