// What the host's core is told. Values; made by the adapters, consumed by Host::step on the core's strand.
#pragma once

#include <cstdint>
#include <string>
#include <variant>

#include "common/result.h"
#include "guest.pb.h"
#include "host.pb.h"
#include "node-daemon/core/types.h"

namespace stillpoint::node {

// ---- the coordinator
struct Connected {};     // a session with it is open; HostHello has to go first
struct Disconnected {};  // its answers to what is under way would reach nobody
struct CoordinatorSaid {
  wire::ToHost message;
};

// ---- the guests
struct LinkOpened {
  DomainId id;
};  // bytes of before may be lost
struct GuestSaid {
  DomainId id;
  wire::FromGuest message;
};
struct DomainEnded {
  DomainId id;
  std::string reason;
};  // by itself; never after a DestroyGuest
struct DomainStopped {
  DomainId id;
  std::string reason;
};  // stands still and needs a ContinueGuest, once its cause may be gone

// ---- ends of the work that effects asked for
struct GangPrepared {
  GangId gang;
  std::uint32_t mtu = 0;
  Status status;
};
struct RecordStored {
  GangId gang;
  std::uint64_t version = 0;
  Status status;
};
struct HostStored {
  Status status;
};
struct GuestStarted {
  DomainId id;
  Status status;
};
struct GuestRestored {
  DomainId id;
  Status status;
};
struct GuestResumed {
  DomainId id;
  Status status;
};
struct GuestContinued {
  DomainId id;
  Status status;
};  // it runs; where the cause is still there another DomainStopped follows
struct GuestReady {
  DomainId id;
  Epoch epoch;
};  // its capture waits for the instant
struct GuestCaptured {
  DomainId id;
  Epoch epoch;
  CaptureTimes times;
};  // the instant has passed
// After it, or instead of it: memory stream and disk are durable, or why not. layers: the disk's chain now.
struct GuestStored {
  DomainId id;
  Epoch epoch;
  Result<wire::GuestImage> image;
  std::uint32_t layers = 0;
};
// packets: that passed on the gang's taps since WatchTaps and had no business there; first: one of them, in words.
struct TapsRead {
  GangId gang;
  Epoch epoch;
  std::uint64_t packets = 0;
  std::string first;
};
struct DiskFlattened {
  DomainId id;
  Status status;
};
struct GuestDestroyed {
  DomainId id;
  Status status;
};
struct GangRemoved {
  GangId gang;
  Status status;
};
struct ImagesDeleted {
  std::uint64_t token = 0;
  Status status;
  std::uint64_t freed_bytes = 0;  // that this host's packs take less than before
};
struct ImagesListed {
  Result<wire::HeldImages> held;
};
struct ImagesVerified {
  std::uint64_t token = 0;
  wire::VerifyReport report;
};
// With the answer's body, or its failure.
struct ImageTransferred {
  std::uint64_t token = 0;
  wire::FromHost answer;
};
struct ImagesCopied {
  std::uint64_t token = 0;
  Result<std::vector<wire::GuestImage>> images;  // with their copies
};

struct HostFigures {
  std::uint64_t memory_free = 0;
  std::uint64_t image_free = 0;
  wire::StoreFigures store;
};
struct Tick {};  // time has passed; step() compares deadlines with now

using Event =
    std::variant<Connected, Disconnected, CoordinatorSaid, LinkOpened, GuestSaid, DomainEnded, DomainStopped,
                 GangPrepared, RecordStored, HostStored, GuestStarted, GuestRestored, GuestResumed, GuestContinued,
                 GuestReady, GuestCaptured, GuestStored, TapsRead, DiskFlattened, GuestDestroyed, GangRemoved,
                 ImagesDeleted, ImagesListed, ImagesVerified, ImagesCopied, ImageTransferred, HostFigures, Tick>;

}  // namespace stillpoint::node
