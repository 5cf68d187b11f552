// The text of a manifest as a tree that remembers positions and how scalars were written. Bounded: hostile input
// (nesting, aliases, huge files, other encodings) is one problem with a position, never a crash or a long wait.
// Pure functions; any thread.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "jobs/manifest.h"

namespace stillpoint::jobs {

struct YamlNode {
  enum class Kind { null, boolean, integer, number, string, sequence, mapping };
  Kind kind = Kind::null;
  Mark mark;
  std::string text;                                    // of a scalar, as written (escapes of quoted ones resolved)
  std::vector<YamlNode> items;                         // of a sequence
  std::vector<std::pair<YamlNode, YamlNode>> members;  // of a mapping, in the order written, duplicates included
  bool is_scalar() const { return kind < Kind::sequence; }
};
// "a number", "a mapping", … as an error names it.
std::string_view describe(YamlNode::Kind kind);

struct YamlOutcome {
  std::optional<YamlNode> root;  // of the one document; nothing when there is a problem
  std::optional<Problem> problem;
};
YamlOutcome read_yaml(std::string_view text);

}  // namespace stillpoint::jobs
