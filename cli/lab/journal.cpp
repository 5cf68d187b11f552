#include "cli/lab/journal.h"

#include <nlohmann/json.hpp>

#include "common/file.h"

namespace stillpoint::lab {

using nlohmann::json;

NLOHMANN_JSON_SERIALIZE_ENUM(LabState,
                             {{LabState::starting, "starting"}, {LabState::up, "up"}, {LabState::stopping, "stopping"}})
NLOHMANN_JSON_SERIALIZE_ENUM(HostState, {{HostState::present, "present"},
                                         {HostState::cut_off, "cut-off"},
                                         {HostState::killed, "killed"}})
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(ProcessRecord, pid, start_ticks)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(HostRecord, name, state, daemon)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(LabOptions, programs, guest_image, images, own_images, lease_ms, node_args, coordinator_args)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Journal, state, options, coordinator, hosts, made_directories)

namespace {
constexpr int kVersion = 1;
}

HostRecord* Journal::find(const std::string& host) {
  for (auto& record : hosts)
    if (record.name == host) return &record;
  return nullptr;
}

std::string to_json(const Journal& journal) {
  json document = journal;
  document["version"] = kVersion;
  return document.dump(2) + "\n";
}

Result<Journal> journal_from_json(const std::string& text, const std::string& object) {
  try {
    const json document = json::parse(text);
    if (document.at("version") != kVersion)
      return Error{ErrorKind::permanent, "read journal", object, "written by another version of Stillpoint"};
    return document.get<Journal>();
  } catch (const json::exception& e) {
    return Error{ErrorKind::damaged, "read journal", object, e.what()};
  }
}

bool holds_nothing(const std::filesystem::path& directory) {
  std::error_code failed;
  for (std::filesystem::directory_iterator entry(directory, failed), end; !failed && entry != end;
       entry.increment(failed))
    if (!entry->path().filename().string().starts_with("lab.json.")) return false;
  return !failed || failed == std::errc::no_such_file_or_directory;
}

Status publish_journal(const std::filesystem::path& path, const Journal& journal) {
  return publish_file(path, to_json(journal));
}

Result<Journal> read_journal(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored))
    return Error{ErrorKind::not_found, "find laboratory", path.parent_path().string(), "there is none"};
  auto text = read_file(path);
  if (!text) return text.error();
  return journal_from_json(*text, path.string());
}

}  // namespace stillpoint::lab
