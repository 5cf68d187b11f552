// The blocking work behind the core's effects: one function per kind of work, each done whole or reported as failed.
// From workers; per guest one call at a time, cancel() and fence() excepted. No state but which captures may take
// their instant, or are cancelled.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <stop_token>

#include "node-daemon/core/effects.h"
#include "node-daemon/core/events.h"
#include "node-daemon/network/gang_network.h"
#include "node-daemon/shell/base_image.h"
#include "node-daemon/shell/guest_disk.h"
#include "node-daemon/shell/state_directory.h"
#include "node-daemon/store/image_store.h"

namespace stillpoint::node {

class GuestWork {
 public:
  // All are borrowed. caps: of what captures take; may be null. guest_image: directory with vmlinuz, initrd.img,
  // base.squashfs.
  GuestWork(DomainDriver& driver, ImageStore& store, GangNetworks& networks, const StateDirectory& state,
            std::filesystem::path guest_image, UploadCaps* caps)
      : driver_(driver),
        store_(store),
        networks_(networks),
        state_(state),
        guest_image_(std::move(guest_image)),
        caps_(caps) {}

  GangPrepared prepare(const PrepareGang& work);
  RecordStored store_record(const StoreRecord& work);
  GuestStarted start(const StartGuest& work);
  GuestRestored restore(const RestoreGuest& work);
  GuestResumed resume(const ResumeGuest& work);
  GuestContinued carry_on(const ContinueGuest& work);
  // Tells in between, from whatever thread the driver has for it: GuestReady; after take_instant() GuestCaptured.
  GuestStored capture(const PrepareCapture& work, const std::function<void(Event)>& tell);
  DiskFlattened flatten(const FlattenDisk& work);
  // The machine ends, whatever else is being done with it; that fails soon. destroy() is still to follow.
  void fence(const DomainId& id);
  GuestDestroyed destroy(const DestroyGuest& work);
  GangRemoved remove(const RemoveGang& work);
  ImagesDeleted delete_images(const DeleteImages& work);
  ImagesListed list_images();
  ImageTransferred carry(const CarryRecord& work);
  ImagesVerified verify(const VerifyImages& work);  // ends soon after cancel_all()
  // Ends soon, and fails, when a capture or a deletion begins; while there are any it does not begin.
  ImagesCopied copy(const CopyImages& work);
  // Any thread: the guest is let go; what its capture still takes of this host is within the caps from now on.
  void released(const DomainId& id);

  // Any thread: the capture of that guest and epoch, under way or still to begin, may take its instant.
  void take_instant(const TakeInstant& work);
  // Any thread: the same ends soon and fails.
  void cancel(const CancelCapture& work);
  void cancel_all();

 private:
  struct CaptureControl {
    std::stop_source stop;
    bool instant = false;  // it may be taken
  };
  class Turn;
  class Sink;
  CaptureControl& control_of(const DomainId& id, Epoch epoch);  // with mutex_ held
  // While one of these is alive, no copy() is under way or begins.
  class BeforeCopies;
  Result<DomainSpec> spec(const GuestPlan& plan, std::filesystem::path disk) const;
  Result<wire::GuestImage> capture_image(const PrepareCapture& work, const std::stop_token& stop,
                                         const std::function<void(Event)>& tell);
  Result<wire::ImageFile> capture_memory(const PrepareCapture& work, const std::stop_token& stop,
                                         const std::function<void(Event)>& tell);
  Status restore_image(const RestoreGuest& work);

  DomainDriver& driver_;
  ImageStore& store_;
  GangNetworks& networks_;
  const StateDirectory& state_;
  const std::filesystem::path guest_image_;
  UploadCaps* const caps_;

  BaseImages bases_;
  DiskRoom room_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable_any instants_;
  std::map<std::pair<DomainId, Epoch>, CaptureControl> captures_;
  std::map<DomainId, std::unique_ptr<UploadCaps::Held>> held_;  // captured, and not let go yet
  bool all_cancelled_ = false;
  unsigned before_copies_ = 0;        // captures and deletions under way
  std::stop_source copies_stopping_;  // of the copies under way; another one for those after
  std::stop_source stopping_;         // requested by cancel_all()
};

}  // namespace stillpoint::node
