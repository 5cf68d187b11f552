// One external memory snapshot by libvirt of each machine below an embedded libvirt's root whose daemon has ended, as
// bench/stall wants it: how long the machines stood still in all. Prints a JSON document. The memory goes to a tmpfs,
// and away; the disk goes on in a new layer beside the one before.
//
//   external-snapshot --root ROOT [--live]
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <iostream>
#include <nlohmann/json.hpp>

#include "node-daemon/domain/disk.h"
#include "node-daemon/domain/hypervisor.h"

using namespace stillpoint;
using namespace stillpoint::node;
using nlohmann::json;
namespace fs = std::filesystem;

namespace {

constexpr auto kResume = std::chrono::seconds(30);

std::string snapshot_xml(const fs::path& memory, const fs::path& layer) {
  return "<domainsnapshot><memory snapshot='external' file='" + memory.string() +
         "'/><disks><disk name='vda' snapshot='no'/><disk name='vdb' snapshot='external' type='file'>"
         "<driver type='qcow2'/><source file='" +
         layer.string() + "'/></disk></disks></domainsnapshot>";
}

// Milliseconds from QEMU's STOP to its RESUME.
Result<double> snapshot(Hypervisor& hypervisor, virDomainPtr domain, bool live) {
  auto chain = disk_chain_of(domain);
  if (!chain) return chain.error();
  const fs::path memory = "/dev/shm/stillpoint-external-" + std::to_string(::getpid());
  const fs::path layer = chain->front().string() + ".external";
  EventWatch watch(hypervisor.events(), virDomainGetName(domain));
  const unsigned flags = VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA | VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC |
                         (live ? VIR_DOMAIN_SNAPSHOT_CREATE_LIVE : 0);
  const std::unique_ptr<virDomainSnapshot, VirFree> taken(
      virDomainSnapshotCreateXML(domain, snapshot_xml(memory, layer).c_str(), flags));
  fs::remove(memory);
  if (!taken) return libvirt_error("snapshot", virDomainGetName(domain));
  std::int64_t stopped = 0;
  const auto deadline = std::chrono::steady_clock::now() + kResume;
  while (const auto event = watch.wait(deadline)) {
    if (event->event == "STOP") stopped = event->micros;
    if (event->event == "RESUME" && stopped) return static_cast<double>(event->micros - stopped) / 1000;
  }
  return Error{ErrorKind::deadline, "snapshot", virDomainGetName(domain), "it did not go on"};
}

Result<double> snapshots(const fs::path& root, bool live) {
  const Hypervisor::Handlers nobody{.lifecycle = [](const std::string&, int, int) {},
                                    .stopped = [](const std::string&, const std::string&) {}};
  auto hypervisor = Hypervisor::open_embedded(root, nobody);
  if (!hypervisor) return hypervisor.error();
  virDomainPtr* list = nullptr;
  const int count = virConnectListAllDomains((*hypervisor)->connection(), &list, VIR_CONNECT_LIST_DOMAINS_ACTIVE);
  if (count < 0) return libvirt_error("list domains", "libvirt");
  const std::vector<DomainHandle> domains(list, list + count);
  std::free(list);
  double sum = 0;
  for (const auto& domain : domains) {
    auto pause = snapshot(**hypervisor, domain.get(), live);
    if (!pause) return pause.error();
    sum += *pause;
  }
  if (domains.empty()) return Error{ErrorKind::not_found, "list domains", root.string(), "no machine runs there"};
  return sum;
}

}  // namespace

int main(int argc, char** argv) {
  fs::path root;
  bool live = false;
  CLI::App app{"libvirt's external memory snapshots"};
  app.add_option("--root", root, "of the embedded libvirt")->required();
  app.add_flag("--live", live);
  CLI11_PARSE(app, argc, argv);
  const auto pause = snapshots(root, live);
  if (!pause) std::cerr << pause.error() << "\n";
  else std::cout << json{{"pauseMs", *pause}}.dump() << "\n";
  return pause ? 0 : 1;
}
