#include "node-daemon/domain/disk.h"

#include <algorithm>

#include "common/log.h"
#include "common/process.h"
#include "node-daemon/domain/domain_xml.h"

namespace stillpoint::node {
namespace {

constexpr auto kCommitDeadline = std::chrono::minutes(10);
constexpr auto kLook = std::chrono::seconds(1);  // a machine that was ended says nothing of its block job

Status wait_for_commit(virDomainPtr domain, EventWatch& watch) {
  const auto deadline = std::chrono::steady_clock::now() + kCommitDeadline;
  for (;;) {
    const auto now = std::chrono::steady_clock::now();
    const auto event = watch.wait(std::min(deadline, now + kLook));
    if (!event && virDomainIsActive(domain) != 1)
      return Error{ErrorKind::refused, "flatten disk", virDomainGetName(domain), "the machine has ended"};
    if (!event && now < deadline) continue;
    if (!event) {
      virDomainBlockJobAbort(domain, "vdb", 0);
      return Error{ErrorKind::deadline, "flatten disk", virDomainGetName(domain), "the block commit did not end"};
    }
    if (event->event != "block job" || event->detail != "vdb") continue;
    switch (event->code) {
      case VIR_DOMAIN_BLOCK_JOB_COMPLETED: return {};
      case VIR_DOMAIN_BLOCK_JOB_FAILED:
        return Error{ErrorKind::transient, "flatten disk", virDomainGetName(domain), "the block commit failed"};
      case VIR_DOMAIN_BLOCK_JOB_CANCELED:
        return Error{ErrorKind::transient, "flatten disk", virDomainGetName(domain), "the block commit was cancelled"};
      default: break;
    }
  }
}

}  // namespace

Result<std::vector<std::filesystem::path>> disk_chain_of(virDomainPtr domain) {
  const VirString xml(virDomainGetXMLDesc(domain, 0));
  if (!xml) return libvirt_error("describe", virDomainGetName(domain));
  auto facts = parse_domain_xml(xml.get());
  if (!facts) return facts.error();
  if (facts->disk_chain.empty())
    return Error{ErrorKind::permanent, "describe", virDomainGetName(domain), "it has no disk vdb"};
  return std::move(facts->disk_chain);
}

Status make_layer(virDomainPtr domain, const std::filesystem::path& new_layer) {
  auto chain = disk_chain_of(domain);
  if (!chain) return chain.error();
  virDomainBlockInfo info{};
  if (virDomainGetBlockInfo(domain, "vdb", &info, 0) < 0)
    return libvirt_error("size of disk", virDomainGetName(domain));
  std::error_code code;
  if (std::filesystem::exists(new_layer, code))
    return Error{ErrorKind::refused, "make disk layer", new_layer.string(), "the file is there already"};
  // -u: the layer below is open in QEMU, which holds its lock; size and format are known without opening it.
  auto made = run_checked({"qemu-img", "create", "-q", "-f", "qcow2", "-u", "-F", "qcow2", "-b",
                           chain->front().string(), new_layer.string(), std::to_string(info.capacity)});
  if (!made) {
    std::filesystem::remove(new_layer, code);
    return made.error();
  }
  return {};
}

Status switch_to_layer(virDomainPtr domain, const std::filesystem::path& new_layer) {
  const std::unique_ptr<virDomainSnapshot, VirFree> snapshot(
      virDomainSnapshotCreateXML(domain, disk_snapshot_xml(new_layer).c_str(),
                                 VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY | VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC |
                                     VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA | VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT));
  if (!snapshot) return libvirt_error("disk snapshot", virDomainGetName(domain));
  return {};
}

Status flatten_chain(virDomainPtr domain, EventHub& events) {
  auto before = disk_chain_of(domain);
  if (!before) return before.error();
  if (before->size() <= 2) return {};
  EventWatch watch(events, virDomainGetName(domain));
  const std::string top = (*before)[1].string(), base = before->back().string();
  if (virDomainBlockCommit(domain, "vdb", base.c_str(), top.c_str(), 0, 0) < 0)
    return libvirt_error("flatten disk", virDomainGetName(domain));
  if (auto ended = wait_for_commit(domain, watch); !ended) return ended;

  auto after = disk_chain_of(domain);
  if (!after) return after.error();
  for (const auto& file : *before) {
    if (std::find(after->begin(), after->end(), file) != after->end()) continue;
    std::error_code code;
    if (!std::filesystem::remove(file, code) || code)
      log_warn("a disk layer that is no longer used could not be deleted", {{"file", file.string()}});
  }
  return {};
}

}  // namespace stillpoint::node
