// The rules of a manifest, one function for each of its mappings. JSON Schema: jobs/schema/stillpoint-v1.json.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>

#include "common/names.h"
#include "jobs/manifest.h"
#include "jobs/reader.h"
#include "jobs/units.h"

namespace stillpoint::jobs {
namespace {

constexpr std::uint64_t kMostMemory = 16ull << 40;
constexpr std::uint64_t kMostDisk = 64ull << 40;
constexpr std::uint64_t kMostInterval = 30 * 86400;
constexpr std::uint64_t kMostKept = 1000;
constexpr std::uint64_t kMostRestarts = 1'000'000;

bool is_lower_or_digit(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

// RFC 1123 label.
bool is_label(std::string_view text) {
  return !text.empty() && text.size() <= 63 && is_lower_or_digit(text.front()) && is_lower_or_digit(text.back()) &&
         std::all_of(text.begin(), text.end(), [](char c) { return is_lower_or_digit(c) || c == '-'; });
}

bool is_host_name(std::string_view text) {
  if (text.size() > 253) return false;
  while (true) {
    const auto dot = text.find('.');
    if (!is_label(text.substr(0, dot))) return false;
    if (dot == std::string_view::npos) return true;
    text.remove_prefix(dot + 1);
  }
}

bool is_variable_name(std::string_view text) {
  const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; };
  return !text.empty() && letter(text.front()) &&
         std::all_of(text.begin(), text.end(), [&](char c) { return letter(c) || is_digit(c); });
}

void read_metadata(Problems& problems, const YamlNode& node, Manifest& manifest) {
  const Section section(problems, node, "metadata", {"name"});
  constexpr std::string_view kExpected = "a job name such as melt";
  section.require("name", kExpected);
  const auto text = section.text("name", kExpected);
  if (!text) return;
  manifest.name = *text;
  const auto mark = section.find("name")->mark;
  if (!is_label(*text)) {
    problems.add(mark, fmt::format("metadata.name is {}, expected at most 63 lower-case letters, digits and \"-\", "
                                   "beginning and ending with a letter or digit",
                                   in_quotes(*text)));
  } else if (text->size() > 1 && text->front() == 'j' && std::all_of(text->begin() + 1, text->end(), is_digit)) {
    problems.add(mark,
                 fmt::format("metadata.name {} looks like a job's id, expected a name that is none", in_quotes(*text)));
  }
}

void read_guests(Problems& problems, const YamlNode& node, Manifest& manifest) {
  const Section section(problems, node, "spec.guests", {"count", "vcpus", "memory", "disk"});
  section.require("count", "the number of virtual machines");
  auto& guests = manifest.guests;
  if (const auto n = section.integer("count", 1, kMostGuests)) guests.count = static_cast<std::uint32_t>(*n);
  if (const auto n = section.integer("vcpus", 1, kMostVcpus)) guests.vcpus = static_cast<std::uint32_t>(*n);
  if (const auto n = section.size("memory", kMinGuestMemory, kMostMemory)) guests.memory_bytes = *n;
  if (const auto n = section.size("disk", kMinGuestDisk, kMostDisk)) guests.disk_bytes = *n;
  const auto* memory = section.find("memory");
  manifest.marks.memory = memory != nullptr ? memory->mark : node.mark;
}

// How many ranks each guest gets. guests is nothing when spec.guests.count is not known.
class RankLayout {
 public:
  RankLayout(const Section& section, std::optional<std::uint32_t> guests) : section_(section), guests_(guests) {}

  std::vector<std::uint32_t> read() {
    const auto* per_guest = section_.find("ranksPerGuest");
    const auto* ranks = section_.find("ranks");
    if (per_guest == nullptr) section_.require("ranks", "the number of MPI ranks");
    const auto total = section_.integer("ranks", 1, kMostRanks);
    if (per_guest == nullptr) return total && guests_ ? evenly(*ranks, *total) : std::vector<std::uint32_t>{};
    auto layout = per_guest->kind == YamlNode::Kind::sequence ? listed(*per_guest) : same_for_all(*per_guest);
    if (total && !layout.empty()) check_sum(*ranks, *total, layout);
    return layout;
  }

 private:
  std::vector<std::uint32_t> evenly(const YamlNode& ranks, std::uint64_t total) {
    if (total % *guests_ == 0) return std::vector(*guests_, static_cast<std::uint32_t>(total / *guests_));
    section_.problems().add(ranks.mark, fmt::format("{} ranks do not divide evenly over {} guests, expected a multiple "
                                                    "of {}, or spec.mpi.ranksPerGuest",
                                                    total, *guests_, *guests_));
    return {};
  }

  std::vector<std::uint32_t> same_for_all(const YamlNode& node) {
    if (node.kind != YamlNode::Kind::integer) {
      section_.problems().add(node.mark, fmt::format("spec.mpi.ranksPerGuest is {}, expected a number, or a list with "
                                                     "one number for each guest",
                                                     describe(node.kind)));
      return {};
    }
    const auto each = read_integer(section_.problems(), node, "spec.mpi.ranksPerGuest", 1, kMostRanks);
    if (!each || !guests_) return {};
    return std::vector(*guests_, static_cast<std::uint32_t>(*each));
  }

  std::vector<std::uint32_t> listed(const YamlNode& node) {
    std::vector<std::uint32_t> layout;
    bool whole = true;
    for (const auto& item : node.items) {
      const auto n = read_integer(section_.problems(), item, "a number in spec.mpi.ranksPerGuest", 1, kMostRanks);
      whole = whole && n.has_value();
      layout.push_back(static_cast<std::uint32_t>(n.value_or(1)));
    }
    if (guests_ && layout.size() != *guests_) {
      section_.problems().add(node.mark, fmt::format("spec.mpi.ranksPerGuest has {} numbers, expected one for each of "
                                                     "the {} guests",
                                                     layout.size(), *guests_));
      whole = false;
    }
    return whole && guests_ ? layout : std::vector<std::uint32_t>{};
  }

  void check_sum(const YamlNode& ranks, std::uint64_t total, const std::vector<std::uint32_t>& layout) {
    std::uint64_t sum = 0;
    for (const auto n : layout) sum += n;
    if (sum == total) return;
    section_.problems().add(
        ranks.mark, fmt::format("spec.mpi.ranks is {}, expected {}, the sum of spec.mpi.ranksPerGuest", total, sum));
  }

  const Section& section_;
  std::optional<std::uint32_t> guests_;
};

void read_command(const Section& section, Mpi& mpi) {
  constexpr std::string_view kExpected = "a list: the program and its arguments, such as [./heat, 512]";
  section.require("command", kExpected);
  const auto* items = section.list("command", kExpected);
  if (items == nullptr) return;
  if (items->empty())
    section.problems().add(section.find("command")->mark,
                           fmt::format("spec.mpi.command is empty, expected {}", kExpected));
  for (const auto& item : *items) {
    if (auto word = read_word(section.problems(), item, "an argument in spec.mpi.command"))
      mpi.command.push_back(std::move(*word));
  }
  if (!mpi.command.empty() && items->front().is_scalar() && items->front().text.empty()) {
    section.problems().add(items->front().mark, "the program's name is empty, expected a file such as ./heat");
  }
}

void read_env(Problems& problems, const YamlNode& node, Mpi& mpi) {
  if (node.kind != YamlNode::Kind::mapping) {
    problems.add(node.mark, fmt::format("spec.mpi.env is {}, expected a mapping such as {{OMP_NUM_THREADS: \"1\"}}",
                                        describe(node.kind)));
    return;
  }
  std::set<std::string> seen;
  for (const auto& [key, value] : node.members) {
    if (!key.is_scalar() || !is_variable_name(key.text)) {
      problems.add(key.mark,
                   fmt::format("{} is no name for an environment variable, expected letters, digits and \"_\", "
                               "not beginning with a digit",
                               in_quotes(key.text)));
      continue;
    }
    if (!seen.insert(key.text).second) {
      problems.add(key.mark, fmt::format("{} appears twice in spec.mpi.env, expected once", in_quotes(key.text)));
      continue;
    }
    if (key.text == "LD_PRELOAD" || key.text.starts_with("STILLPOINT_")) {
      problems.add(key.mark, fmt::format("{} is Stillpoint's own, expected another variable", key.text));
      continue;
    }
    if (auto word = read_word(problems, value, "spec.mpi.env." + key.text)) mpi.env[key.text] = std::move(*word);
  }
}

void read_workdir(const Section& section, Mpi& mpi) {
  constexpr std::string_view kExpected = "an absolute path in the guest such as /job";
  const auto text = section.text("workdir", kExpected);
  if (!text) return;
  mpi.workdir = *text;
  const auto complain = [&](const std::string& why) {
    section.problems().add(section.find("workdir")->mark,
                           fmt::format("spec.mpi.workdir {} {}, expected {}", in_quotes(*text), why, kExpected));
  };
  if (text->empty() || text->front() != '/') return complain("is not absolute");
  if (*text == "/") return complain("is the guest's whole file system");
  if (const auto fault = relative_name_fault(std::string_view(*text).substr(1)); !fault.empty()) return complain(fault);
  for (const std::string_view taken : {"/proc", "/sys", "/dev", "/run"}) {
    if (*text == taken || text->starts_with(std::string(taken) + "/")) return complain("is the guest system's own");
  }
}

// files and outputs: names below a directory, each once.
std::vector<std::string> read_paths(const Section& section, std::string_view key, std::string_view base,
                                    std::vector<Mark>* marks) {
  std::vector<std::string> paths;
  const auto expected = fmt::format("a list of file names relative to {}", base);
  const auto* items = section.list(key, expected);
  if (items == nullptr) return paths;
  if (items->size() > kMostFiles) {
    section.problems().add(section.find(key)->mark, fmt::format("{} has {} entries, expected at most {}",
                                                                section.name_of(key), items->size(), kMostFiles));
    return paths;
  }
  std::set<std::string> seen;
  for (const auto& item : *items) {
    auto text = read_text(section.problems(), item, "a name in " + section.name_of(key), "a file name");
    if (!text) continue;
    if (const auto fault = relative_name_fault(*text); !fault.empty()) {
      section.problems().add(item.mark, fmt::format("{} in {} {}, expected a file name relative to {}, without \"..\"",
                                                    in_quotes(*text), section.name_of(key), fault, base));
      continue;
    }
    if (!seen.insert(*text).second) {
      section.problems().add(
          item.mark, fmt::format("{} appears twice in {}, expected once", in_quotes(*text), section.name_of(key)));
      continue;
    }
    if (marks != nullptr) marks->push_back(item.mark);
    paths.push_back(std::move(*text));
  }
  return paths;
}

void read_mpi(Problems& problems, const YamlNode& node, Manifest& manifest, std::optional<std::uint32_t> guests) {
  const Section section(problems, node, "spec.mpi",
                        {"ranks", "ranksPerGuest", "command", "env", "workdir", "files", "outputs"});
  manifest.mpi.ranks_per_guest = RankLayout(section, guests).read();
  read_command(section, manifest.mpi);
  if (const auto* env = section.find("env")) read_env(problems, *env, manifest.mpi);
  read_workdir(section, manifest.mpi);
  manifest.mpi.files = read_paths(section, "files", "the manifest", &manifest.marks.files);
  manifest.mpi.outputs = read_paths(section, "outputs", "the workdir", nullptr);
}

void read_interval(const Section& section, CheckpointPolicy& policy) {
  const auto* node = section.find("interval");
  if (node == nullptr) return;
  if (!node->is_scalar() || node->kind == YamlNode::Kind::null || node->kind == YamlNode::Kind::boolean) {
    section.problems().add(
        node->mark, fmt::format("spec.checkpoint.interval is {}, expected a duration such as 10min, auto or never",
                                describe(node->kind)));
    return;
  }
  if (node->text == "never") return;
  if (node->text == "auto") {
    policy.interval_auto = true;
    return;
  }
  const auto seconds = parse_duration(node->text, ", auto or never");
  if (!seconds) {
    section.problems().add(node->mark, fmt::format("spec.checkpoint.interval: {}", seconds.error().what));
  } else if (*seconds < 1 || *seconds > kMostInterval) {
    section.problems().add(node->mark, fmt::format("spec.checkpoint.interval is {}, expected 1s to {}d, auto or never",
                                                   node->text, kMostInterval / 86400));
  } else {
    policy.interval_seconds = static_cast<std::uint32_t>(*seconds);
  }
}

// One of a few words.
std::optional<std::string> read_choice(const Section& section, std::string_view key,
                                       const std::vector<std::string_view>& words) {
  const auto* node = section.find(key);
  if (node == nullptr) return std::nullopt;
  std::string expected;
  for (const auto word : words) expected += fmt::format("{}{}", expected.empty() ? "" : " or ", word);
  const auto text = read_text(section.problems(), *node, section.name_of(key), expected);
  if (!text || std::find(words.begin(), words.end(), *text) != words.end()) return text;
  const auto meant = nearest(*text, words);
  section.problems().add(node->mark,
                         fmt::format("{} is {}, expected {}{}", section.name_of(key), in_quotes(*text), expected,
                                     meant.empty() ? "" : fmt::format("; did you mean {}?", meant)));
  return std::nullopt;
}

void read_checkpoint(Problems& problems, const YamlNode& node, CheckpointPolicy& policy) {
  const Section section(problems, node, "spec.checkpoint",
                        {"interval", "keep", "durability", "laterDurability", "whileUploading"});
  read_interval(section, policy);
  if (const auto n = section.integer("keep", 1, kMostKept)) policy.keep = static_cast<std::uint32_t>(*n);
  if (auto word = read_choice(section, "durability", {"local", "host-loss", "site"}))
    policy.durability = std::move(*word);
  if (auto word = read_choice(section, "laterDurability", {"host-loss", "site"})) {
    const bool higher = policy.durability == "local" || (policy.durability == "host-loss" && *word == "site");
    if (higher) policy.later_durability = std::move(*word);
    else
      problems.add(section.find("laterDurability")->mark,
                   fmt::format("{} is {}, expected a higher level than durability, which is {}",
                               section.name_of("laterDurability"), in_quotes(*word), policy.durability));
  }
  if (auto word = read_choice(section, "whileUploading", {"wait", "refuse"})) policy.while_uploading = std::move(*word);
}

void read_restart(Problems& problems, const YamlNode& node, RestartPolicy& policy) {
  if (node.kind == YamlNode::Kind::string && node.text == "never") {
    policy.on_failure = false;
    return;
  }
  if (node.kind != YamlNode::Kind::mapping) {
    problems.add(
        node.mark,
        fmt::format("spec.restart is {}, expected never, or a mapping such as {{policy: on-failure, maxRestarts: 5}}",
                    node.kind == YamlNode::Kind::string ? in_quotes(node.text) : std::string(describe(node.kind))));
    return;
  }
  const Section section(problems, node, "spec.restart", {"policy", "maxRestarts"});
  if (const auto word = read_choice(section, "policy", {"on-failure", "never"}))
    policy.on_failure = *word == "on-failure";
  if (const auto n = section.integer("maxRestarts", 0, kMostRestarts))
    policy.max_restarts = static_cast<std::uint32_t>(*n);
}

void read_placement(Problems& problems, const YamlNode& node, Manifest& manifest) {
  const Section section(problems, node, "spec.placement", {"hosts", "spread"});
  if (const auto spread = section.boolean("spread")) manifest.placement.spread = *spread;
  const auto* items = section.list("hosts", "a list of host names, [] for any");
  if (items == nullptr) return;
  std::set<std::string> seen;
  for (const auto& item : *items) {
    auto text = read_text(problems, item, "a name in spec.placement.hosts", "a host name");
    if (!text) continue;
    if (!is_host_name(*text)) {
      problems.add(
          item.mark,
          fmt::format("{} in spec.placement.hosts is no host name, expected one as `stillpoint hosts` shows it",
                      in_quotes(*text)));
    } else if (!seen.insert(*text).second) {
      problems.add(item.mark, fmt::format("{} appears twice in spec.placement.hosts, expected once", in_quotes(*text)));
    } else {
      manifest.marks.hosts.push_back(item.mark);
      manifest.placement.hosts.push_back(std::move(*text));
    }
  }
}

void read_image(const Section& section, Manifest& manifest) {
  constexpr std::string_view kExpected = "openmpi, or the path of a qcow2 or raw disk image";
  const auto* node = section.find("image");
  if (node == nullptr) return;
  manifest.marks.image = node->mark;
  const auto text = section.text("image", kExpected);
  if (!text) return;
  const bool path = text->find('/') != std::string::npos || text->ends_with(".qcow2") || text->ends_with(".raw") ||
                    text->ends_with(".img");
  if (*text == "openmpi" || path) {
    manifest.image = *text;
    return;
  }
  section.problems().add(
      node->mark, fmt::format("spec.image {} is no built-in image, expected {}{}", in_quotes(*text), kExpected,
                              nearest(*text, {"openmpi"}).empty() ? "; write ./NAME for a file beside the manifest"
                                                                  : "; did you mean openmpi?"));
}

void read_spec(Problems& problems, const YamlNode& node, Manifest& manifest) {
  const Section section(problems, node, "spec", {"image", "guests", "mpi", "checkpoint", "restart", "placement"});
  read_image(section, manifest);
  std::optional<std::uint32_t> count;
  if (const auto* guests = section.require("guests", "a mapping such as {count: 2, memory: 512MiB}")) {
    manifest.guests.count = 0;
    read_guests(problems, *guests, manifest);
    if (manifest.guests.count > 0) count = manifest.guests.count;
  }
  if (const auto* mpi = section.require("mpi", "a mapping with ranks and command"))
    read_mpi(problems, *mpi, manifest, count);
  if (const auto* checkpoint = section.find("checkpoint")) read_checkpoint(problems, *checkpoint, manifest.checkpoint);
  if (const auto* restart = section.find("restart")) read_restart(problems, *restart, manifest.restart);
  if (const auto* placement = section.find("placement")) read_placement(problems, *placement, manifest);
}

void read_fixed(const Section& section, std::string_view key, std::string_view value) {
  section.require(key, value);
  const auto text = section.text(key, value);
  if (text && *text != value) {
    section.problems().add(section.find(key)->mark, fmt::format("{} is {}, expected {}", key, in_quotes(*text), value));
  }
}

}  // namespace

std::string format_problem(std::string_view file, const Problem& problem) {
  return fmt::format("{}:{}:{}: {}", file, problem.mark.line, problem.mark.column, problem.what);
}

Parsed parse_manifest(std::string_view text) {
  Parsed parsed;
  auto outcome = read_yaml(text);
  if (outcome.problem) {
    parsed.problems.push_back(std::move(*outcome.problem));
    return parsed;
  }
  Problems problems;
  const Section top(problems, *outcome.root, "", {"apiVersion", "kind", "metadata", "spec"});
  read_fixed(top, "apiVersion", "stillpoint/v1");
  read_fixed(top, "kind", "MpiJob");
  if (const auto* metadata = top.require("metadata", "a mapping such as {name: melt}"))
    read_metadata(problems, *metadata, parsed.manifest);
  if (const auto* spec = top.require("spec", "a mapping with guests and mpi"))
    read_spec(problems, *spec, parsed.manifest);
  parsed.problems = std::move(problems).sorted();
  return parsed;
}

}  // namespace stillpoint::jobs
