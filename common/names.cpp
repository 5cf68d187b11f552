#include "common/names.h"

#include <algorithm>

namespace stillpoint {
namespace {

constexpr std::size_t kLongest = 1024;
constexpr std::size_t kLongestPart = 255;
constexpr std::size_t kDeepest = 16;

}  // namespace

std::string relative_name_fault(std::string_view name) {
  if (name.empty()) return "is empty";
  if (name.front() == '/') return "is absolute";
  if (name.size() > kLongest) return "is too long";
  if (std::any_of(name.begin(), name.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }))
    return "holds a control character";
  if (static_cast<std::size_t>(std::count(name.begin(), name.end(), '/')) >= kDeepest) return "is too deep";
  while (true) {
    const auto slash = name.find('/');
    const auto part = name.substr(0, slash);
    if (part == "..") return "leads out with \"..\"";
    if (part.empty() || part == ".") return "has an empty or \".\" part";
    if (part.size() > kLongestPart) return "has a part that is too long";
    if (slash == std::string_view::npos) return "";
    name.remove_prefix(slash + 1);
  }
}

}  // namespace stillpoint
