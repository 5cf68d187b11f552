// stillpoint-node: runs the guests of one host for the coordinator.
#include <sys/sysinfo.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <optional>
#include <vector>

#include "common/descriptor_limit.h"
#include "common/log.h"
#include "node-daemon/domain/libvirt_driver.h"
#include "node-daemon/object_store_flags.h"
#include "node-daemon/peer/peer_blobs.h"
#include "node-daemon/peer/peer_server.h"
#include "node-daemon/shell/daemon.h"
#include "node-daemon/store/chunk_image_store.h"
#include "node-daemon/store/site_key.h"
#include "node-daemon/upload_flags.h"

namespace {

using namespace stillpoint;
using namespace stillpoint::node;

struct Flags {
  std::string name, state, coordinator, address, tls, images, store_keys, guest_image;
  std::string libvirt = "embed";
  std::string log_level = "info";
  bool own_images = false;
  bool rotate_store_key = false;
  std::uint16_t images_port = 7444;
  std::string domain;
  std::optional<std::uint64_t> store_reserve;
  ObjectStoreFlags object_store;
  UploadLimits upload;
};

int read_flags(CLI::App& app, Flags& flags, int argc, char** argv) {
  std::vector<CLI::Option*> to_run;  // needed by a daemon that is to run
  const auto needed = [&](const std::string& name, std::string& value, const std::string& what) {
    to_run.push_back(app.add_option(name, value, what)->required());
  };
  app.set_version_flag("--version", STILLPOINT_VERSION);
  needed("--name", flags.name, "this host's name, as in its certificate");
  needed("--state", flags.state, "directory of this daemon's own state");
  needed("--coordinator", flags.coordinator, "ADDRESS:PORT of the coordinator");
  needed("--address", flags.address, "this host's address on the network between the hosts");
  needed("--tls", flags.tls, "directory with ca.pem, cert.pem, key.pem");
  needed("--images", flags.images, "directory of the checkpoint images, reached by all hosts");
  needed("--guest-image", flags.guest_image, "directory with vmlinuz, initrd.img, base.squashfs");
  app.add_flag("--own-images", flags.own_images,
               "no other host reaches the directory of images: copies of them go to other hosts");
  app.add_option("--images-port", flags.images_port,
                 "with --own-images: port at --address where other hosts fetch images and put copies");
  app.add_option("--domain", flags.domain,
                 "what fails together with this host, a rack or a power line: copies go to another one");
  app.add_option(
      "--store-keys", flags.store_keys,
      "file of the keys that seal the images, the same on all hosts; store.keys beside the certificate if not "
      "given, and made if no host has stored anything yet");
  app.add_flag_callback(
      "--rotate-store-key",
      [&flags, &to_run] {
        flags.rotate_store_key = true;
        for (CLI::Option* option : to_run) option->required(false);
      },
      "adds a new key to that file, which seals what is stored from the daemons' next start on, says what to do next, "
      "and ends; needs nothing but --store-keys or --tls");
  app.add_option("--store-reserve", flags.store_reserve,
                 "no checkpoint begins with less than this free for images, such as 20GiB; if not given, the larger of "
                 "1 GiB and 5 % of the file system")
      ->transform(CLI::AsSizeValue(false))
      ->take_last();
  add_flags(app, flags.object_store);
  add_flags(app, flags.upload);
  app.add_option("--libvirt", flags.libvirt, "embed, or qemu:///system")
      ->check(CLI::IsMember({"embed", "qemu:///system"}));
  app.add_option("--log-level", flags.log_level, "debug, info, warn or error")
      ->check(CLI::IsMember({"debug", "info", "warn", "error"}));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? 0 : 2;
  }
  return -1;
}

std::uint64_t total_memory() {
  struct sysinfo info {};
  return ::sysinfo(&info) == 0 ? static_cast<std::uint64_t>(info.totalram) * info.mem_unit : 0;
}

// Higher than any id of an earlier daemon: agents remember what they have answered.
std::uint64_t first_request_id() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(now).count()) << 20;
}

std::filesystem::path store_keys(const Flags& flags) {
  if (!flags.store_keys.empty()) return flags.store_keys;
  return std::filesystem::absolute(flags.tls) / "store.keys";
}

// A daemon that runs has read the file when it started, and goes on with that.
int rotate_store_key(const Flags& flags) {
  if (flags.store_keys.empty() && flags.tls.empty()) {
    std::fputs("--rotate-store-key: name the file with --store-keys, or its directory with --tls\n", stderr);
    return 2;
  }
  const auto keys = rotate_site_key(store_keys(flags));
  if (!keys) {
    std::fprintf(stderr, "the key was not rotated: %s\n", keys.error().message().c_str());
    return 1;
  }
  std::printf(
      "%s has a new key, %s, beside the %zu before it, which go on opening what they have sealed.\n"
      "No daemon seals with it before it is started anew. So, in this order:\n"
      "  1. copy the file to every other host of the site, mode 0600\n"
      "  2. then restart the node daemons, one right after the other: each within the lease, so that its machines "
      "live\n"
      "  3. back the file up, apart from the images\n",
      keys->file().c_str(), key_id_text(keys->active().id).c_str(), keys->all().size() - 1);
  return 0;
}

Status serve(const Flags& flags) {
  DaemonParts parts;
  auto tls = net::TlsContext::load(flags.tls, net::TlsRole::host);
  if (!tls) return tls.error();
  if (tls->name() != flags.name)
    return Error{ErrorKind::refused, "start", flags.name,
                 "the certificate in " + flags.tls + " is for \"" + tls->name() + "\""};
  parts.tls = std::move(*tls);

  auto state = StateDirectory::open(flags.state);
  if (!state) return state.error();
  parts.state = std::make_unique<StateDirectory>(std::move(*state));
  const auto tls_file = [&](const char* name) { return std::filesystem::absolute(flags.tls) / name; };
  ImageStoreOptions images;
  images.own = flags.own_images;
  images.reserve = flags.store_reserve.value_or(std::uint64_t{1} << 30);
  parts.upload_caps = images.caps = make_upload_caps(flags.upload);
  images.connect = [caps = images.caps,
                    identity = SiteIdentity{tls_file("ca.pem"), tls_file("cert.pem"), tls_file("key.pem")}](
                       const wire::StorePeer& peer) { return connect_peer(peer, identity, caps); };
  auto object_store = open_object_store(flags.object_store, flags.tls, {flags.name}, images.caps);
  if (!object_store) return object_store.error();
  parts.settings.object_store = object_store->usable;
  images.object_store = std::move(object_store->store);
  auto store = open_chunk_image_store(std::filesystem::absolute(flags.images), {flags.name}, store_keys(flags),
                                      std::move(images));
  if (!store) return store.error();
  std::unique_ptr<PeerServer> peers;
  if (flags.own_images) {
    auto listening = PeerServer::listen(*parts.tls, flags.address + ":" + std::to_string(flags.images_port),
                                        system_files(), (*store)->hosts(), (*store)->mirrors());
    if (!listening) return listening.error();
    peers = std::move(*listening);
    parts.settings.store_endpoint = peers->endpoint();
  }
  parts.settings.store_id = (*store)->id();
  parts.settings.store_is_own = flags.own_images;
  parts.settings.domain = flags.domain;
  parts.store = std::move(*store);
  parts.networks = std::make_unique<GangNetworks>(flags.address);

  LibvirtSettings libvirt;
  libvirt.instance = flags.libvirt == "embed" ? LibvirtSettings::Instance::embed : LibvirtSettings::Instance::system;
  libvirt.root = parts.state->libvirt_root();
  if (auto read = settings_from_environment(libvirt); !read) return read;
  auto driver = open_libvirt_driver(libvirt);
  if (!driver) return driver.error();
  parts.driver = std::move(*driver);

  parts.settings.name = {flags.name};
  parts.settings.address = flags.address;
  parts.settings.probe = parts.driver->probe();
  parts.settings.cpus = static_cast<std::uint32_t>(std::max(1L, ::sysconf(_SC_NPROCESSORS_ONLN)));
  parts.settings.memory_bytes = total_memory();
  parts.settings.version = STILLPOINT_VERSION;
  parts.settings.pid = static_cast<std::uint32_t>(::getpid());
  parts.settings.first_request = first_request_id();
  parts.guest_image = std::filesystem::absolute(flags.guest_image);
  parts.coordinator = flags.coordinator;
  parts.store_reserve = flags.store_reserve;
  Daemon daemon(std::move(parts));
  Status served = daemon.run();
  peers.reset();  // it lives on what the daemon has
  return served;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Stillpoint's node daemon: runs the guests of one host", "stillpoint-node"};
  Flags flags;
  if (const int code = read_flags(app, flags, argc, argv); code >= 0) return code;
  if (flags.rotate_store_key) return rotate_store_key(flags);
  set_log_level(flags.log_level);
  std::signal(SIGPIPE, SIG_IGN);
  share_heap();
  raise_descriptor_limit();  // a pack of images that are being stored has one
  if (const Status served = serve(flags); !served) {
    log_error("node daemon cannot run", {{"cause", served.error().message()}});
    return 1;
  }
  return 0;
}
