// What the host's core wants done. Work that names the same guest (or the same gang, where no guest is named) is done
// in the order of its effects, one after the other; the rest side by side. Every piece of work answers with its event,
// once. Values.
#pragma once

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "common/result.h"
#include "guest.pb.h"
#include "host.pb.h"
#include "node-daemon/core/types.h"
#include "record.pb.h"

namespace stillpoint::node {

struct SendToCoordinator {
  wire::FromHost message;
};  // dropped when no session is open
struct DropCoordinator {
  std::string why;
};

// Dropped when the link is down or full: what needs an answer is sent again. stamp_clock: put the wall clock of the
// moment of sending into it.
struct SendToGuest {
  DomainId id;
  wire::GuestRequest request;
  bool stamp_clock = false;
};
struct OpenLink {
  DomainId id;
};  // and keep it open → LinkOpened, GuestSaid
struct CloseLink {
  DomainId id;
};

// Everything about a gang that work on a guest needs.
struct GuestPlan {
  DomainId id;
  wire::GuestHardware hardware;
  std::uint32_t vni = 0;
  std::string mac;
  JobId known_as;  // of a machine that came from another site: the job that it was made for; empty: its own
};

struct PrepareGang {
  record::Gang record;
};  // record durable, then network → GangPrepared
struct StoreRecord {
  record::Gang record;
  std::uint64_t version;
};  // → RecordStored
struct StoreHost {
  record::Host record;
};  // → HostStored
// At each heartbeat: from here the lease counts, for a daemon's successor too, which knows of the lease that is in the
// stored record of the host alone. It need not outlive the machine.
struct StoreLastWord {
  Time last_word;
};  // no event
struct StartGuest {
  GuestPlan plan;
};  // disk, domain → GuestStarted
struct RestoreGuest {
  GuestPlan plan;
  wire::GuestImage image;
  std::vector<wire::StorePeer> peers;  // that may have it
};                                     // → GuestRestored
struct ResumeGuest {
  DomainId id;
};  // → GuestResumed
struct ContinueGuest {
  DomainId id;
};  // a machine that stands still → GuestContinued
struct PrepareCapture {
  DomainId id;
  Epoch epoch;
  wire::Durability durability;
};  // → GuestReady; after TakeInstant GuestCaptured, GuestStored
struct TakeInstant {
  DomainId id;
  Epoch epoch;
};  // at once, whatever else is being done with the guest
struct CancelCapture {
  DomainId id;
  Epoch epoch;
};  // at once; its GuestStored comes soon, failed
// The alarm on the taps of the gang's guests: armed before the first of them is captured, read before the first is let
// go. An alarm that cannot be armed is logged and sees nothing: it stands behind VERIFY, not in its place.
struct WatchTaps {
  GangId gang;
  std::uint32_t vni;
  Epoch epoch;
};  // no event
struct ReadTaps {
  GangId gang;
  Epoch epoch;
};  // and disarm → TapsRead
struct FlattenDisk {
  DomainId id;
};  // → DiskFlattened
struct DestroyGuest {
  DomainId id;
};  // domain and disks → GuestDestroyed
struct RemoveGang {
  GangId gang;
  std::uint32_t vni;
};                     // network, directory, record → GangRemoved
struct DeleteImages {  // → ImagesDeleted
  JobId job;
  std::vector<Epoch> epochs;
  bool all_hosts = false;                 // also what other hosts stored, and copies of it
  std::uint64_t token = 0;                // 0: nobody waits for it
  std::vector<HostName> lost_hosts = {};  // whose space in the S3 store is freed here
};
struct ListImages {};  // whose images the host's own store holds → ImagesListed
struct VerifyImages {  // → ImagesVerified
  std::vector<wire::GuestImage> images;
  std::uint64_t token = 0;
  std::vector<wire::StorePeer> peers = {};          // that may have them, too
  std::vector<wire::GuestImage> object_store = {};  // whose copies in the S3 store are read
};
// ReadImage, WriteImage, KeepImages: pieces of images that leave the site or come from another one. In order with the
// deletions of the job's images.
struct TransferImage {
  wire::ToHost ask;
  std::uint64_t token = 0;
};  // → ImageTransferred
// KeepRecord, in order with the deletions of the job's images, and ReadRecords.
struct CarryRecord {
  wire::ToHost ask;
  std::uint64_t token = 0;
};  // → ImageTransferred
// Gives way to captures and deletions.
struct CopyImages {  // → ImagesCopied
  JobId job;
  Epoch epoch;
  std::vector<wire::GuestImage> images;
  wire::Durability durability;
  std::uint64_t token = 0;
};

struct Log {
  enum class Level { info, warn, error } level;
  std::string what;
  GangId gang;
  Epoch epoch;
  std::string detail;
};

using Effect =
    std::variant<SendToCoordinator, DropCoordinator, SendToGuest, OpenLink, CloseLink, PrepareGang, StoreRecord,
                 StoreHost, StoreLastWord, StartGuest, RestoreGuest, ResumeGuest, ContinueGuest, PrepareCapture,
                 TakeInstant, CancelCapture, WatchTaps, ReadTaps, FlattenDisk, DestroyGuest, RemoveGang, DeleteImages,
                 ListImages, VerifyImages, CopyImages, TransferImage, CarryRecord, Log>;
using Effects = std::vector<Effect>;

}  // namespace stillpoint::node
