#include "coordinator/core/spec_json.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "common/names.h"
#include "coordinator/core/json_reader.h"

namespace stillpoint::coordinator {
namespace {

using nlohmann::json;

void read_env(JsonReader& spec, std::map<std::string, std::string>& env, std::vector<std::string>& problems) {
  const json* value = spec.find("env");
  if (value == nullptr) return;
  JsonReader reader(*value, spec.path("env"), problems);
  if (!value->is_object()) return;
  for (const auto& [key, ignored] : value->items()) reader.read(key, env[key]);
}

void read_policies(JsonReader& reader, JobSpec& spec, std::vector<std::string>& problems) {
  if (const json* value = reader.find("checkpoint")) {
    JsonReader checkpoint(*value, reader.path("checkpoint"), problems);
    checkpoint.read("intervalSeconds", spec.interval_seconds);
    checkpoint.read("intervalAuto", spec.interval_auto);
    checkpoint.read("keep", spec.keep);
    checkpoint.read("whileUploading", spec.while_uploading);
    checkpoint.read("laterDurability", spec.later_durability);
    checkpoint.refuse_unknown();
  }
  if (const json* value = reader.find("restart")) {
    JsonReader restart(*value, reader.path("restart"), problems);
    restart.read("onFailure", spec.restart_on_failure);
    restart.read("maxRestarts", spec.max_restarts);
    restart.refuse_unknown();
  }
  if (const json* value = reader.find("placement")) {
    JsonReader placement(*value, reader.path("placement"), problems);
    std::vector<std::string> hosts;
    placement.read("hosts", hosts);
    placement.read("spread", spec.spread);
    placement.refuse_unknown();
    for (auto& host : hosts) spec.hosts.push_back(HostName{std::move(host)});
  }
}

// One number for each guest, or one for all of them.
void read_ranks(JsonReader& reader, JobSpec& spec) {
  const json* value = reader.find("ranksPerGuest");
  if (value == nullptr || !value->is_number()) return reader.read("ranksPerGuest", spec.ranks_per_guest, true);
  std::uint32_t ranks = 0;
  reader.read("ranksPerGuest", ranks);
  if (spec.guests <= kMostGuests) spec.ranks_per_guest.assign(spec.guests, ranks);
  else reader.problem("guests", "expected at most " + std::to_string(kMostGuests));
}

bool plain_name(std::string_view name) {
  return !name.empty() && name.size() <= 63 && std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
           c == '.';
  });
}

// Strings end up as arguments and variables of a process: a NUL would cut them.
bool has_nul(const std::string& text) { return text.find('\0') != std::string::npos; }

}  // namespace

json spec_to_json(const JobSpec& spec) {
  json hosts = json::array();
  for (const auto& host : spec.hosts) hosts.push_back(host.value);
  return {{"name", spec.name},
          {"image", spec.image},
          {"guests", spec.guests},
          {"vcpus", spec.vcpus},
          {"memoryBytes", spec.memory_bytes},
          {"diskBytes", spec.disk_bytes},
          {"ranksPerGuest", spec.ranks_per_guest},
          {"command", spec.command},
          {"env", json(spec.env)},
          {"workdir", spec.workdir},
          {"files", spec.files},
          {"outputs", spec.outputs},
          {"checkpoint",
           {{"intervalSeconds", spec.interval_seconds ? json(*spec.interval_seconds) : json(nullptr)},
            {"intervalAuto", spec.interval_auto},
            {"keep", spec.keep},
            {"whileUploading", spec.while_uploading},
            {"laterDurability", spec.later_durability}}},
          {"durability", spec.durability},
          {"restart", {{"onFailure", spec.restart_on_failure}, {"maxRestarts", spec.max_restarts}}},
          {"placement", {{"hosts", std::move(hosts)}, {"spread", spec.spread}}},
          {"submitDirectory", spec.submit_directory}};
}

json spec_to_short_json(const JobSpec& spec) {
  json document = spec_to_json(spec);
  const auto& ranks = spec.ranks_per_guest;
  if (!ranks.empty() && std::ranges::count(ranks, ranks.front()) == std::ssize(ranks))
    document["ranksPerGuest"] = ranks.front();
  return document;
}

Result<JobSpec> spec_from_json(const json& document) {
  JobSpec spec;
  std::vector<std::string> problems;
  JsonReader reader(document, "spec", problems);
  reader.read("name", spec.name, true);
  reader.read("image", spec.image);
  reader.read("guests", spec.guests, true);
  reader.read("vcpus", spec.vcpus);
  reader.read("memoryBytes", spec.memory_bytes, true);
  reader.read("diskBytes", spec.disk_bytes, true);
  read_ranks(reader, spec);
  reader.read("command", spec.command, true);
  read_env(reader, spec.env, problems);
  reader.read("workdir", spec.workdir);
  reader.read("files", spec.files);
  reader.read("outputs", spec.outputs);
  reader.read("durability", spec.durability);
  reader.read("submitDirectory", spec.submit_directory);
  read_policies(reader, spec, problems);
  reader.refuse_unknown();
  if (!problems.empty()) return Error{ErrorKind::refused, "reading", "job spec", join_problems(problems)};
  return spec;
}

std::vector<std::string> spec_problems(const JobSpec& spec) {
  std::vector<std::string> problems;
  auto expect = [&problems](bool holds, std::string otherwise) {
    if (!holds) problems.push_back(std::move(otherwise));
  };
  expect(plain_name(spec.name), "name: expected 1 to 63 letters, digits, '-', '_' or '.'");
  expect(!spec.image.empty() && spec.image.size() <= 4096 && !has_nul(spec.image), "image: expected a name or a path");
  expect(spec.guests >= 1 && spec.guests <= kMostGuests, "guests: expected 1 to " + std::to_string(kMostGuests));
  expect(spec.vcpus >= 1 && spec.vcpus <= kMostVcpus, "vcpus: expected 1 to " + std::to_string(kMostVcpus));
  expect(spec.memory_bytes >= 64u << 20 && spec.memory_bytes <= 1ull << 44, "memoryBytes: expected 64 MiB to 16 TiB");
  expect(spec.disk_bytes >= 1u << 20 && spec.disk_bytes <= 1ull << 46, "diskBytes: expected 1 MiB to 64 TiB");
  expect(spec.ranks_per_guest.size() == spec.guests, "ranksPerGuest: expected one number for each guest");
  const bool each_has_one = std::all_of(spec.ranks_per_guest.begin(), spec.ranks_per_guest.end(),
                                        [](std::uint32_t n) { return n >= 1 && n <= kMostRanks; });
  expect(
      each_has_one && spec.ranks_per_guest.size() <= kMostGuests && spec.ranks() <= kMostRanks,
      "ranksPerGuest: expected at least 1 rank for each guest and " + std::to_string(kMostRanks) + " at most in all");
  expect(!spec.command.empty() && !spec.command.front().empty(), "command: expected the program and its arguments");
  expect(std::none_of(spec.command.begin(), spec.command.end(), has_nul), "command: an argument holds a NUL");
  for (const auto& [key, value] : spec.env)
    expect(!key.empty() && key.find('=') == std::string::npos && !has_nul(key) && !has_nul(value),
           "env: \"" + key + "\" cannot be a variable");
  expect(spec.workdir.size() > 1 && spec.workdir.front() == '/' && safe_relative_name(spec.workdir.substr(1)),
         "workdir: expected an absolute path below /");
  expect(spec.files.size() <= kMostFiles && spec.outputs.size() <= kMostFiles, "files, outputs: too many");
  for (const auto& file : spec.files)
    expect(safe_relative_name(file), "files: \"" + file + "\" is not a relative path without '..'");
  for (const auto& file : spec.outputs)
    expect(safe_relative_name(file), "outputs: \"" + file + "\" is not a relative path without '..'");
  expect(!spec.interval_seconds || *spec.interval_seconds >= 1,
         "checkpoint.intervalSeconds: expected at least 1, or null");
  expect(!spec.interval_seconds || !spec.interval_auto,
         "checkpoint.intervalAuto: expected false where intervalSeconds is given");
  expect(spec.keep >= 1, "checkpoint.keep: expected at least 1");
  expect(spec.while_uploading == "wait" || spec.while_uploading == "refuse",
         "checkpoint.whileUploading: expected \"wait\" or \"refuse\"");
  expect(spec.durability == "host-loss" || spec.durability == "local" || spec.durability == "site",
         "durability: expected \"local\", \"host-loss\" or \"site\"");
  expect(spec.later_durability.empty() || (spec.later_durability == "site" && spec.durability != "site") ||
             (spec.later_durability == "host-loss" && spec.durability == "local"),
         "checkpoint.laterDurability: expected a higher level than durability's, or none");
  for (const auto& host : spec.hosts)
    expect(plain_name(host.value), "placement.hosts: \"" + host.value + "\" is no host name");
  return problems;
}

}  // namespace stillpoint::coordinator
