// Where everything of a laboratory is: one file that owns every name, path and address of it. All of them follow from
// the laboratory's directory, so that what a crashed `lab up` left behind is found again even without its journal, and
// laboratories in different directories never meet.
//
//   DIR/lab.json              the journal
//   DIR/site/                 the laboratory's certificate authority, and the keys of its images (store.keys)
//   DIR/coordinator/{state,tls,api.sock}
//   DIR/hosts/H/{state,tls}   all that host H has; kill-host takes it away
//   DIR/images/               the site's shared file system; kill-host does not touch it
//   DIR/log/{coordinator,H}.log
//   /run/stillpoint/ID        link to DIR
//
// Values; any thread.
#pragma once

#include <filesystem>
#include <string>

#include "common/result.h"

namespace stillpoint::lab {

inline constexpr const char* kDefaultDirectory = "/var/lib/stillpoint/lab";
inline constexpr const char* kRuntimeDirectory = "/run/stillpoint";
// Holds the API socket's path of the laboratory that was started last: what the other commands use by default.
inline constexpr const char* kLabSocketFile = "/run/stillpoint/lab";
inline constexpr const char* kNamespaceDirectory = "/run/netns";
inline constexpr const char* kCoordinatorAddress = "10.98.0.1";
inline constexpr unsigned kCoordinatorPort = 7420;
inline constexpr unsigned kUnderlayPrefix = 24;
inline constexpr unsigned kUnderlayMtu = 9000;  // room for a gang's full-sized frames inside VXLAN
inline constexpr unsigned kMaxHosts = 64;

class Layout {
 public:
  // The directory need not exist; it is made absolute, links in the part that exists are resolved.
  // Refused: anything in its place that is not a directory.
  static Result<Layout> at(const std::filesystem::path& directory);

  const std::filesystem::path& directory() const { return directory_; }
  // Six hexadecimal digits from the directory's name.
  const std::string& id() const { return id_; }

  std::filesystem::path journal() const { return directory_ / "lab.json"; }
  std::filesystem::path site() const { return directory_ / "site"; }
  std::filesystem::path store_keys() const { return site() / "store.keys"; }
  std::filesystem::path coordinator() const { return directory_ / "coordinator"; }
  std::filesystem::path api_socket() const { return coordinator() / "api.sock"; }
  std::filesystem::path host(const std::string& name) const { return directory_ / "hosts" / name; }
  std::filesystem::path images() const { return directory_ / "images"; }
  // name is a host's, or "coordinator".
  std::filesystem::path log(const std::string& name) const { return directory_ / "log" / (name + ".log"); }
  // A link to the directory with a short name, for the paths that libvirt makes sockets in: those have 107 bytes.
  std::filesystem::path link() const;
  std::filesystem::path short_host(const std::string& name) const { return link() / "hosts" / name; }
  std::filesystem::path lock() const;

  std::string namespace_prefix() const { return "spl-" + id_ + "-"; }
  std::string switch_namespace() const { return namespace_prefix() + "switch"; }
  std::string host_namespace(const std::string& name) const { return namespace_prefix() + name; }

 private:
  std::filesystem::path directory_;
  std::string id_;
};

// Its parent exists. Fine when it is there already; its mode is then what it was.
Status make_directory(const std::filesystem::path& path, unsigned mode = 0700);

// Hosts are h1, h2, …
std::string host_name(unsigned number);
// The number in a host's name; 0 when it is not one.
unsigned host_number(const std::string& name);
std::string host_address(unsigned number);
// The switch's port for a host, inside the switch's namespace.
std::string switch_port(const std::string& host);
std::filesystem::path namespace_file(const std::string& name);

}  // namespace stillpoint::lab
