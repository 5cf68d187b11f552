#include "jobs/reader.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <numeric>

#include "jobs/units.h"

namespace stillpoint::jobs {
namespace {

// Where each key of a manifest belongs, to help whoever put one into the wrong mapping.
const std::map<std::string_view, std::string_view> kHomes{{"apiVersion", "the top level"},
                                                          {"kind", "the top level"},
                                                          {"metadata", "the top level"},
                                                          {"spec", "the top level"},
                                                          {"name", "metadata"},
                                                          {"image", "spec"},
                                                          {"guests", "spec"},
                                                          {"mpi", "spec"},
                                                          {"checkpoint", "spec"},
                                                          {"restart", "spec"},
                                                          {"placement", "spec"},
                                                          {"count", "spec.guests"},
                                                          {"vcpus", "spec.guests"},
                                                          {"memory", "spec.guests"},
                                                          {"disk", "spec.guests"},
                                                          {"ranks", "spec.mpi"},
                                                          {"ranksPerGuest", "spec.mpi"},
                                                          {"command", "spec.mpi"},
                                                          {"env", "spec.mpi"},
                                                          {"workdir", "spec.mpi"},
                                                          {"files", "spec.mpi"},
                                                          {"outputs", "spec.mpi"},
                                                          {"interval", "spec.checkpoint"},
                                                          {"keep", "spec.checkpoint"},
                                                          {"durability", "spec.checkpoint"},
                                                          {"laterDurability", "spec.checkpoint"},
                                                          {"whileUploading", "spec.checkpoint"},
                                                          {"policy", "spec.restart"},
                                                          {"maxRestarts", "spec.restart"},
                                                          {"hosts", "spec.placement"},
                                                          {"spread", "spec.placement"}};

std::string lower(std::string_view text) {
  std::string made(text);
  for (auto& c : made) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return made;
}

// Levenshtein distance.
std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const auto swapped = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = std::exchange(row[j], std::min({row[j] + 1, row[j - 1] + 1, swapped}));
    }
  }
  return row.back();
}

std::string where(const std::string& path) { return path.empty() ? "at the top level" : "in " + path; }

// Where the key belongs, if it is one that merely stands in the wrong place.
std::string home_hint(std::string_view key, const std::string& path) {
  const auto home = kHomes.find(key);
  return home == kHomes.end() || home->second == path
             ? ""
             : fmt::format("; {} belongs {}{}", key, home->second.starts_with("the") ? "at " : "in ", home->second);
}

// "is text", "is empty": what a value is instead of what was expected.
std::string is_kind(const YamlNode& node) {
  if (node.kind == YamlNode::Kind::null) return "is empty";
  if (!node.is_scalar()) return fmt::format("is {}", describe(node.kind));
  return fmt::format("is {} ({})", describe(node.kind), in_quotes(node.text));
}

}  // namespace

namespace {

// A value that was folded over several lines must not make several of the message: scripts read it line by line.
std::string on_one_line(std::string_view text) {
  std::string line;
  for (const char c : text) {
    if (c == '\n') line += "\\n";
    else line += c;
  }
  return line;
}

}  // namespace

void Problems::add(Mark mark, std::string what) {
  if (problems_.size() < kMost) {
    problems_.push_back({mark, on_one_line(what)});
  } else {
    ++beyond_;
  }
}

std::vector<Problem> Problems::sorted() && {
  std::stable_sort(problems_.begin(), problems_.end(), [](const auto& a, const auto& b) { return a.mark < b.mark; });
  if (beyond_ > 0) problems_.push_back({problems_.back().mark, fmt::format("and {} more errors", beyond_)});
  return std::move(problems_);
}

std::string in_quotes(std::string_view value) {
  constexpr std::size_t kMost = 60;
  std::string shown;
  for (const char c : value.substr(0, kMost)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) shown += fmt::format("\\x{:02x}", byte);
    else shown += c;
  }
  // Not in the middle of a character.
  while (value.size() > kMost && !shown.empty() && (static_cast<unsigned char>(shown.back()) & 0x80) != 0)
    shown.pop_back();
  return fmt::format("\"{}{}\"", shown, value.size() > kMost ? "…" : "");
}

std::string_view nearest(std::string_view written, const std::vector<std::string_view>& candidates) {
  if (written.size() > 40) return {};
  std::string_view best;
  std::size_t least = std::max<std::size_t>(1, std::min<std::size_t>(3, written.size() / 3)) + 1;
  for (const auto candidate : candidates) {
    const auto apart = distance(lower(written), lower(candidate));
    if (apart < least) {
      least = apart;
      best = candidate;
    }
  }
  return best;
}

Section::Section(Problems& problems, const YamlNode& node, std::string path, std::vector<std::string_view> keys)
    : problems_(&problems), node_(&node), path_(std::move(path)) {
  if (node.kind != YamlNode::Kind::mapping) {
    problems.add(node.mark, fmt::format("{} {}, expected a mapping with {}", path_.empty() ? "the manifest" : path_,
                                        is_kind(node), fmt::join(keys, ", ")));
    return;
  }
  check_keys(keys);
}

void Section::check_keys(const std::vector<std::string_view>& keys) const {
  std::map<std::string_view, Mark> seen;
  for (const auto& [key, value] : node_->members) {
    if (!key.is_scalar() || key.kind == YamlNode::Kind::null) {
      problems_->add(key.mark,
                     fmt::format("a key {} {}, expected one of {}", where(path_), is_kind(key), fmt::join(keys, ", ")));
      continue;
    }
    if (const auto [first, fresh] = seen.emplace(key.text, key.mark); !fresh) {
      problems_->add(key.mark, fmt::format("{} appears twice {}, expected once: it stands in line {} already",
                                           in_quotes(key.text), where(path_), first->second.line));
      continue;
    }
    if (std::find(keys.begin(), keys.end(), key.text) != keys.end()) continue;
    const auto meant = nearest(key.text, keys);
    const auto hint = meant.empty() ? home_hint(key.text, path_) : fmt::format("; did you mean \"{}\"?", meant);
    problems_->add(key.mark, fmt::format("unknown key {} {}, expected one of {}{}", in_quotes(key.text), where(path_),
                                         fmt::join(keys, ", "), hint));
  }
}

const YamlNode* Section::find(std::string_view key) const {
  for (const auto& [name, value] : node_->members) {
    if (name.is_scalar() && name.text == key) return &value;
  }
  return nullptr;
}

std::string Section::name_of(std::string_view key) const {
  return path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key);
}

const YamlNode* Section::require(std::string_view key, std::string_view expected) const {
  const auto* value = find(key);
  // Something that is no mapping at all was reported as such.
  if (value == nullptr && node_->kind == YamlNode::Kind::mapping) {
    problems_->add(node_->mark, fmt::format("{} is missing, expected {}", name_of(key), expected));
  }
  return value;
}

std::optional<std::string> Section::text(std::string_view key, std::string_view expected) const {
  const auto* value = find(key);
  return value == nullptr ? std::nullopt : read_text(*problems_, *value, name_of(key), expected);
}

std::optional<std::uint64_t> Section::integer(std::string_view key, std::uint64_t least, std::uint64_t most) const {
  const auto* value = find(key);
  return value == nullptr ? std::nullopt : read_integer(*problems_, *value, name_of(key), least, most);
}

std::optional<bool> Section::boolean(std::string_view key) const {
  const auto* value = find(key);
  if (value == nullptr) return std::nullopt;
  const auto word = lower(value->text);
  if (value->kind == YamlNode::Kind::boolean && (word == "true" || word == "false")) return word == "true";
  problems_->add(value->mark, fmt::format("{} {}, expected true or false", name_of(key),
                                          value->kind == YamlNode::Kind::boolean ? "is " + in_quotes(value->text)
                                                                                 : is_kind(*value)));
  return std::nullopt;
}

std::optional<std::uint64_t> Section::size(std::string_view key, std::uint64_t least, std::uint64_t most) const {
  const auto* value = find(key);
  if (value == nullptr) return std::nullopt;
  const auto what = name_of(key);
  if (!value->is_scalar() || value->kind == YamlNode::Kind::null || value->kind == YamlNode::Kind::boolean) {
    problems_->add(value->mark, fmt::format("{} {}, expected a size such as 512MiB", what, is_kind(*value)));
    return std::nullopt;
  }
  const auto bytes = parse_size(value->text);
  if (!bytes) {
    problems_->add(value->mark, fmt::format("{}: {}", what, bytes.error().what));
    return std::nullopt;
  }
  if (*bytes < least || *bytes > most || *bytes % (1u << 20) != 0) {
    problems_->add(value->mark, fmt::format("{} is {}, expected whole MiB between {} and {}", what, value->text,
                                            format_size(least), format_size(most)));
    return std::nullopt;
  }
  return *bytes;
}

const std::vector<YamlNode>* Section::list(std::string_view key, std::string_view expected) const {
  const auto* value = find(key);
  if (value == nullptr) return nullptr;
  if (value->kind == YamlNode::Kind::sequence) return &value->items;
  problems_->add(value->mark, fmt::format("{} {}, expected {}", name_of(key), is_kind(*value), expected));
  return nullptr;
}

std::optional<std::uint64_t> read_integer(Problems& problems, const YamlNode& node, const std::string& what,
                                          std::uint64_t least, std::uint64_t most) {
  const auto expected = fmt::format("a whole number from {} to {}", least, most);
  if (node.kind != YamlNode::Kind::integer) {
    problems.add(node.mark, fmt::format("{} {}, expected {}", what, is_kind(node), expected));
    return std::nullopt;
  }
  std::uint64_t number = 0;
  const auto* end = node.text.data() + node.text.size();
  const auto [rest, error] = std::from_chars(node.text.data(), end, number);
  const bool other_base = node.text.size() > 1 && node.text[0] == '0';  // readers of YAML differ on what 010 is
  if (error == std::errc() && rest == end && !other_base && number >= least && number <= most) return number;
  problems.add(node.mark, fmt::format("{} is {}, expected {}", what, node.text, expected));
  return std::nullopt;
}

std::optional<std::string> read_text(Problems& problems, const YamlNode& node, const std::string& what,
                                     std::string_view expected) {
  if (node.kind == YamlNode::Kind::string) return node.text;
  const bool quotes_help = node.is_scalar() && node.kind != YamlNode::Kind::null;
  problems.add(node.mark, fmt::format("{} {}, expected {}{}", what, is_kind(node), expected,
                                      quotes_help ? "; put it in quotes if it is meant" : ""));
  return std::nullopt;
}

std::optional<std::string> read_word(Problems& problems, const YamlNode& node, const std::string& what) {
  if (node.is_scalar() && node.kind != YamlNode::Kind::null) return node.text;
  problems.add(node.mark, fmt::format("{} {}, expected text (\"\" for an empty one)", what, is_kind(node)));
  return std::nullopt;
}

}  // namespace stillpoint::jobs
