// Taking a laboratory down, and making sure that nothing of it is left.
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <sstream>

#include "cli/lab/lab.h"
#include "cli/lab/network.h"
#include "cli/lab/processes.h"
#include "common/file.h"

namespace stillpoint::lab {
namespace fs = std::filesystem;
namespace {

constexpr std::chrono::milliseconds kKillDeadline{30'000};

// mountinfo writes a blank as \040 and so on.
std::string unescape(const std::string& field) {
  std::string text;
  for (std::size_t i = 0; i < field.size(); ++i) {
    if (field[i] == '\\' && i + 3 < field.size()) {
      text += static_cast<char>(std::stoi(field.substr(i + 1, 3), nullptr, 8));
      i += 3;
    } else {
      text += field[i];
    }
  }
  return text;
}

// Mounts below directory, the one on top first.
std::vector<std::string> mounts_below(const fs::path& directory) {
  std::vector<std::string> found;
  auto table = read_file("/proc/self/mountinfo");
  if (!table) return found;
  std::istringstream lines(*table);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields(line);
    std::string skipped, point;
    fields >> skipped >> skipped >> skipped >> skipped >> point;
    point = unescape(point);
    if (point.starts_with(directory.string() + "/")) found.push_back(point);
  }
  std::reverse(found.begin(), found.end());
  return found;
}

}  // namespace

std::vector<std::string> Lab::namespaces() const {
  std::vector<std::string> names = existing_namespaces(layout_);
  const auto add = [&names](const std::string& name) {
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  };
  add(layout_.switch_namespace());
  for (const auto& host : journal_.hosts) add(layout_.host_namespace(host.name));
  return names;
}

Status Lab::remove_everything() {
  const auto names = namespaces();
  if (auto killed = kill_all_in(names, kKillDeadline); !killed) return killed.error();
  // The interfaces are in the namespaces and go with them.
  for (const auto& name : names)
    if (auto removed = remove_namespace(name); !removed) return removed;
  remove_namespace_directory();
  for (const auto& mount : mounts_below(layout_.directory()))
    if (::umount2(mount.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) != 0) return errno_error("unmount", mount, errno);

  // The journal goes last but for the directory itself, so that a `down` that is cut short can be done again.
  std::error_code failed;
  for (fs::directory_iterator entry(layout_.directory(), failed), end; !failed && entry != end;
       entry.increment(failed)) {
    if (entry->path() == layout_.journal()) continue;
    if (std::error_code error; fs::remove_all(entry->path(), error), error)
      return Error{ErrorKind::permanent, "delete", entry->path().string(), error.message()};
  }
  fs::remove(layout_.journal(), failed);
  ::rmdir(layout_.directory().c_str());  // never anything but a directory; leftovers() looks whether it went
  for (auto made = journal_.made_directories.rbegin(); made != journal_.made_directories.rend(); ++made)
    ::rmdir(made->c_str());  // where others have put something into it, it stays
  if (auto ours = read_file(kLabSocketFile); ours.has_value() && *ours == layout_.api_socket().string() + "\n")
    ::unlink(kLabSocketFile);
  ::unlink(layout_.link().c_str());
  return {};
}

std::vector<std::string> Lab::leftovers(const std::vector<std::string>& names) const {
  std::vector<std::string> left;
  for (const auto& name : existing_namespaces(layout_)) left.push_back("network namespace " + name);
  for (const pid_t pid : processes_in(names)) left.push_back("process " + std::to_string(pid));
  for (const auto& mount : mounts_below(layout_.directory())) left.push_back("mount " + mount);
  std::error_code ignored;
  for (const auto& path : {layout_.directory(), layout_.link()})
    if (fs::exists(fs::symlink_status(path, ignored))) left.push_back("file " + path.string());
  return left;
}

Result<std::string> Lab::down() {
  auto journal = read_journal(layout_.journal());
  std::error_code ignored;
  const bool found = journal.has_value() || journal.error().kind != ErrorKind::not_found;
  if (journal) journal_ = std::move(*journal);
  // Without a journal there may still be names from one whose file was lost, and an empty directory; one with something
  // else in it is not ours.
  if (!found && !holds_nothing(layout_.directory()))
    return Error{ErrorKind::refused, "take down", layout_.directory().string(),
                 "there is no lab.json in it: this is not a laboratory"};
  const bool anything = found || fs::exists(layout_.directory(), ignored) || !existing_namespaces(layout_).empty();
  if (found) {
    journal_.state = LabState::stopping;
    if (auto published = publish(); !published) return published.error();
  }
  const auto names = namespaces();
  if (auto removed = remove_everything(); !removed) return removed.error();
  if (const auto left = leftovers(names); !left.empty()) {
    std::string list;
    for (const auto& thing : left) list += (list.empty() ? "" : ", ") + thing;
    return Error{ErrorKind::permanent, "take down", layout_.directory().string(), "still there: " + list};
  }
  if (!anything) return "There is no laboratory in " + layout_.directory().string() + ".";
  return "The laboratory in " + layout_.directory().string() +
         " is down: no process, namespace, interface, mount or file of it is left.";
}

}  // namespace stillpoint::lab
