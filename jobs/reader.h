// Reads typed values out of a YAML tree and collects what is wrong on the way: a wrong value never hides the next
// one. Owned by one parse; one thread. The tree outlives everything here.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "jobs/yaml_tree.h"

namespace stillpoint::jobs {

class Problems {
 public:
  // Bounded: what comes after the limit is counted in one last problem, not kept.
  void add(Mark mark, std::string what);
  std::vector<Problem> sorted() &&;

 private:
  static constexpr std::size_t kMost = 200;
  std::vector<Problem> problems_;
  std::size_t beyond_ = 0;
};

// value as an error shows it: short, on one line, quotes around.
std::string in_quotes(std::string_view value);

// The candidate that somebody who wrote `written` probably meant; empty when none is near.
std::string_view nearest(std::string_view written, const std::vector<std::string_view>& candidates);

// One mapping of the manifest with the keys that it may have. Reports a value that is no mapping, unknown keys,
// duplicate keys. Where a value is missing or wrong the getters return nothing, having reported it.
class Section {
 public:
  // path names the mapping in errors ("spec.guests"). node is the mapping's value.
  Section(Problems& problems, const YamlNode& node, std::string path, std::vector<std::string_view> keys);

  const YamlNode* find(std::string_view key) const;  // nothing when it is not there
  const YamlNode* require(std::string_view key, std::string_view expected) const;
  std::string name_of(std::string_view key) const;  // "spec.guests.count"
  const YamlNode& node() const { return *node_; }
  Problems& problems() const { return *problems_; }

  std::optional<std::string> text(std::string_view key, std::string_view expected) const;
  std::optional<std::uint64_t> integer(std::string_view key, std::uint64_t least, std::uint64_t most) const;
  std::optional<bool> boolean(std::string_view key) const;
  std::optional<std::uint64_t> size(std::string_view key, std::uint64_t least, std::uint64_t most) const;
  const std::vector<YamlNode>* list(std::string_view key, std::string_view expected) const;

 private:
  void check_keys(const std::vector<std::string_view>& keys) const;

  Problems* problems_;
  const YamlNode* node_;
  std::string path_;
};

// A whole number between least and most at node; reports what else it is. what names it ("spec.guests.count").
std::optional<std::uint64_t> read_integer(Problems& problems, const YamlNode& node, const std::string& what,
                                          std::uint64_t least, std::uint64_t most);
// Text at node; numbers and booleans without quotes are refused.
std::optional<std::string> read_text(Problems& problems, const YamlNode& node, const std::string& what,
                                     std::string_view expected);
// A scalar as it is written, numbers and booleans too: arguments and environment values.
std::optional<std::string> read_word(Problems& problems, const YamlNode& node, const std::string& what);

}  // namespace stillpoint::jobs
