#include "jobs/yaml_tree.h"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <sstream>

namespace stillpoint::jobs {
namespace {

constexpr std::size_t kMaxDepth = 16;
constexpr std::size_t kMaxNodes = 20'000;

// Ends the parse at the first thing that a manifest cannot be. Caught in read_yaml, never leaves this file.
struct Stop {
  Problem problem;
};

Mark mark_of(const YAML::Mark& mark) {
  if (mark.is_null()) return {};
  return {static_cast<std::size_t>(mark.line) + 1, static_cast<std::size_t>(mark.column) + 1};
}

bool one_of(std::string_view text, std::initializer_list<std::string_view> words) {
  return std::find(words.begin(), words.end(), text) != words.end();
}

bool all_digits(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
}

bool is_integer(std::string_view text) {
  if (!text.empty() && (text.front() == '-' || text.front() == '+')) text.remove_prefix(1);
  if (text.starts_with("0x") || text.starts_with("0o")) {
    text.remove_prefix(2);
    return !text.empty() &&
           std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isxdigit(c) != 0; });
  }
  return all_digits(text);
}

bool is_number(std::string_view text) {
  if (!text.empty() && (text.front() == '-' || text.front() == '+')) text.remove_prefix(1);
  if (one_of(text, {".inf", ".Inf", ".INF", ".nan", ".NaN", ".NAN"})) return true;
  const auto exponent = text.find_first_of("eE");
  auto mantissa = text.substr(0, exponent);
  if (exponent != std::string_view::npos) {
    auto power = text.substr(exponent + 1);
    if (!power.empty() && (power.front() == '-' || power.front() == '+')) power.remove_prefix(1);
    if (!all_digits(power)) return false;
  }
  const auto point = mantissa.find('.');
  if (point == std::string_view::npos) return all_digits(mantissa);
  const auto whole = mantissa.substr(0, point), part = mantissa.substr(point + 1);
  return (whole.empty() || all_digits(whole)) && (part.empty() || all_digits(part)) && mantissa.size() > 1;
}

// What other YAML readers would make of a scalar written without quotes.
YamlNode::Kind plain_kind(std::string_view text) {
  using Kind = YamlNode::Kind;
  if (one_of(text, {"", "~", "null", "Null", "NULL"})) return Kind::null;
  if (one_of(text, {"true", "True", "TRUE", "false", "False", "FALSE", "yes", "Yes", "YES", "no", "No", "NO", "on",
                    "On", "ON", "off", "Off", "OFF"}))
    return Kind::boolean;
  if (is_integer(text)) return Kind::integer;
  if (is_number(text)) return Kind::number;
  return Kind::string;
}

// Builds the tree from yaml-cpp's events: unlike YAML::Node it sees duplicate keys, aliases and quotes.
class TreeBuilder final : public YAML::EventHandler {
 public:
  std::optional<YamlNode> root;

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t) override { add(node(YamlNode::Kind::null, mark)); }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    throw Stop{{mark_of(mark), "an alias (*name), expected the value itself: a manifest has no aliases"}};
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t, const std::string& value) override {
    if (!one_of(tag, {"?", "!", ""})) refuse_tag(mark, tag);
    if (value.find('\0') != std::string::npos) {
      throw Stop{{mark_of(mark), "the text holds a NUL character, expected text without it"}};
    }
    auto scalar = node(tag == "!" ? YamlNode::Kind::string : plain_kind(value), mark);
    scalar.text = value;
    add(std::move(scalar));
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {
    open(mark, tag, YamlNode::Kind::sequence);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t, YAML::EmitterStyle::value) override {
    open(mark, tag, YamlNode::Kind::mapping);
  }
  void OnMapEnd() override { close(); }

 private:
  YamlNode node(YamlNode::Kind kind, const YAML::Mark& mark) {
    if (++nodes_ > kMaxNodes) {
      throw Stop{{mark_of(mark), fmt::format("more than {} values, expected a job manifest", kMaxNodes)}};
    }
    YamlNode made;
    made.kind = kind;
    made.mark = mark_of(mark);
    return made;
  }

  [[noreturn]] static void refuse_tag(const YAML::Mark& mark, const std::string& tag) {
    throw Stop{{mark_of(mark), fmt::format("a tag ({}), expected the value alone: a manifest has no tags", tag)}};
  }

  void open(const YAML::Mark& mark, const std::string& tag, YamlNode::Kind kind) {
    if (!one_of(tag, {"?", "!", ""})) refuse_tag(mark, tag);
    if (open_.size() >= kMaxDepth) {
      throw Stop{{mark_of(mark), fmt::format("nested deeper than {} levels, expected a job manifest", kMaxDepth)}};
    }
    open_.push_back({node(kind, mark), std::nullopt});
  }

  void close() {
    auto done = std::move(open_.back().node);
    open_.pop_back();
    add(std::move(done));
  }

  void add(YamlNode child) {
    if (open_.empty()) {
      root = std::move(child);
      return;
    }
    auto& parent = open_.back();
    if (parent.node.kind == YamlNode::Kind::sequence) {
      parent.node.items.push_back(std::move(child));
    } else if (!parent.key) {
      parent.key = std::move(child);
    } else {
      parent.node.members.emplace_back(std::move(*parent.key), std::move(child));
      parent.key.reset();
    }
  }

  struct Open {
    YamlNode node;
    std::optional<YamlNode> key;  // of a mapping, read and waiting for its value
  };
  std::vector<Open> open_;
  std::size_t nodes_ = 0;
};

// Length of the well-formed UTF-8 sequence at the start of text; 0 when there is none (RFC 3629).
std::size_t utf8_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  if ((first == 0xe0 && byte(1) < 0xa0) || (first == 0xed && byte(1) > 0x9f)) return 0;
  if ((first == 0xf0 && byte(1) < 0x90) || (first == 0xf4 && byte(1) > 0x8f)) return 0;
  return length;
}

// Bytes that a manifest cannot hold, before any YAML is looked at.
std::optional<Problem> check_text(std::string_view text) {
  Mark mark;
  for (std::size_t at = 0; at < text.size();) {
    const auto length = utf8_length(text.substr(at));
    if (length == 0) return Problem{mark, "not UTF-8, expected text in UTF-8"};
    const auto c = static_cast<unsigned char>(text[at]);
    if (length == 1 && (c < 0x20 || c == 0x7f) && c != '\n' && c != '\r' && c != '\t') {
      return Problem{mark, fmt::format("a control character (0x{:02x}), expected text", c)};
    }
    mark = c == '\n' ? Mark{mark.line + 1, 1} : Mark{mark.line, mark.column + 1};
    at += length;
  }
  return std::nullopt;
}

// yaml-cpp counts columns in bytes; people count characters.
void to_characters(std::string_view line, Mark& mark) {
  std::size_t characters = 1;
  for (std::size_t at = 0; at < line.size() && at + 1 < mark.column; ++at) {
    if ((static_cast<unsigned char>(line[at]) & 0xc0) != 0x80) ++characters;
  }
  mark.column = characters;
}

class LineIndex {
 public:
  explicit LineIndex(std::string_view text) {
    while (true) {
      const auto end = text.find('\n');
      lines_.push_back(text.substr(0, end));
      if (end == std::string_view::npos) return;
      text.remove_prefix(end + 1);
    }
  }
  void fix(Mark& mark) const {
    if (mark.line <= lines_.size()) to_characters(lines_[mark.line - 1], mark);
  }
  void fix(YamlNode& node) const {
    fix(node.mark);
    for (auto& item : node.items) fix(item);
    for (auto& [key, value] : node.members) {
      fix(key);
      fix(value);
    }
  }

 private:
  std::vector<std::string_view> lines_;
};

Problem no_manifest(Mark mark) {
  return {mark, "no YAML document, expected a manifest that begins with apiVersion: stillpoint/v1"};
}

YamlOutcome read_document(std::string_view text) {
  std::istringstream stream{std::string(text)};
  TreeBuilder builder;
  try {
    YAML::Parser parser(stream);
    if (!parser.HandleNextDocument(builder) || !builder.root) return {std::nullopt, no_manifest({})};
    TreeBuilder second;
    if (parser.HandleNextDocument(second)) {
      const auto mark = second.root ? second.root->mark : Mark{};
      return {std::nullopt, Problem{mark, "a second YAML document, expected one manifest per file"}};
    }
  } catch (const Stop& stop) {
    return {std::nullopt, stop.problem};
  } catch (const YAML::Exception& broken) {
    return {std::nullopt, Problem{mark_of(broken.mark), fmt::format("not valid YAML: {}", broken.msg)}};
  } catch (const std::exception& broken) {
    return {std::nullopt, Problem{{}, fmt::format("not readable as YAML: {}", broken.what())}};
  }
  return {std::move(builder.root), std::nullopt};
}

}  // namespace

std::string_view describe(YamlNode::Kind kind) {
  switch (kind) {
    case YamlNode::Kind::null: return "empty";
    case YamlNode::Kind::boolean: return "a boolean";
    case YamlNode::Kind::integer: return "a number";
    case YamlNode::Kind::number: return "a number";
    case YamlNode::Kind::string: return "text";
    case YamlNode::Kind::sequence: return "a list";
    case YamlNode::Kind::mapping: return "a mapping";
  }
  return "something else";
}

YamlOutcome read_yaml(std::string_view text) {
  if (text.size() > kMaxManifestBytes) {
    return {std::nullopt, Problem{{},
                                  fmt::format("{} bytes long, expected a manifest of at most {} KiB", text.size(),
                                              kMaxManifestBytes >> 10)}};
  }
  if (auto problem = check_text(text)) return {std::nullopt, std::move(problem)};
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  auto outcome = read_document(text);
  const LineIndex lines(text);
  if (outcome.root) lines.fix(*outcome.root);
  if (outcome.problem) lines.fix(outcome.problem->mark);
  return outcome;
}

}  // namespace stillpoint::jobs
