#include "node-daemon/shell/guest_work.h"

#include "common/failure.h"
#include "common/log.h"
#include "node-daemon/shell/guest_disk.h"
#include "node-daemon/store/read_ahead.h"

namespace stillpoint::node {
namespace {

namespace fs = std::filesystem;

// Remembers why the image could not be read: the driver only sees that its stream ended.
class ImageSource final : public MemorySource {
 public:
  explicit ImageSource(ImageReader& reader) : reader_(reader) {}
  Result<std::string> read() override {
    auto block = reader_.read();
    if (!block) failure = block.error();
    return block;
  }
  std::optional<Error> failure;

 private:
  ImageReader& reader_;
};

// A check that came to no end says nothing about the image.
Error not_checked(Error why) {
  if (why.kind == ErrorKind::damaged) why.kind = ErrorKind::permanent;
  return why;
}

}  // namespace

GangPrepared GuestWork::prepare(const PrepareGang& work) {
  GangPrepared done{gang_of(work.record.gang()), 0, {}};
  done.status = state_.store_gang(work.record);
  if (!done.status) return done;
  auto mtu = networks_.bring_up(work.record.network());
  if (mtu) done.mtu = *mtu;
  else done.status = mtu.error();
  return done;
}

RecordStored GuestWork::store_record(const StoreRecord& work) {
  return {gang_of(work.record.gang()), work.version, state_.store_gang(work.record)};
}

Result<DomainSpec> GuestWork::spec(const GuestPlan& plan, fs::path disk) const {
  DomainSpec spec;
  spec.id = plan.id;
  spec.vcpus = plan.hardware.vcpus();
  spec.memory_bytes = plan.hardware.memory_bytes();
  spec.kernel = (guest_image_ / "vmlinuz").string();
  spec.initramfs = (guest_image_ / "initrd.img").string();
  const std::string& image = plan.hardware.image();
  spec.base_image = image.empty() || image == "openmpi" ? (guest_image_ / "base.squashfs").string() : image;
  spec.disk = std::move(disk);
  spec.mac = plan.mac;
  spec.known_as = plan.known_as;
  spec.bridge = bridge_name(plan.vni);
  std::error_code failed;
  for (const std::string& file : {spec.kernel, spec.initramfs, spec.base_image})
    if (!fs::path(file).is_absolute() || !fs::is_regular_file(file, failed))
      return Error{ErrorKind::not_found, "find guest image", file, "there is no such file on this host"};
  return spec;
}

GuestStarted GuestWork::start(const StartGuest& work) {
  const DomainId& id = work.plan.id;
  auto checked = spec(work.plan, {});  // before a disk is made for nothing
  if (!checked) return {id, checked.error()};
  auto base = bases_.digest(checked->base_image);
  if (!base) return {id, base.error()};
  auto disk = make_fresh_disk(state_.guest_directory(id), work.plan.hardware.disk_bytes());
  if (!disk) return {id, disk.error()};
  if (auto recorded = record_base_image(state_.guest_directory(id), *base); !recorded) return {id, recorded};
  checked->disk = *disk;
  return {id, driver_.start(*checked)};
}

GuestRestored GuestWork::restore(const RestoreGuest& work) { return {work.plan.id, restore_image(work)}; }

Status GuestWork::restore_image(const RestoreGuest& work) {
  auto domain = spec(work.plan, {});
  if (!domain) return domain.error();
  auto base = bases_.digest(domain->base_image);
  if (!base) return base.error();
  if (auto fits = check_base_image(domain->base_image, *base, work.image.base_sha256()); !fits) return fits;
  // Every piece is verified before QEMU or the disk gets it. The machine stays paused until every guest of the gang has
  // come to the end of its images without an error.
  auto opened = store_.open(work.image.memory(), work.peers);
  if (!opened) return opened.error();
  auto disk = store_.open(work.image.disk(), work.peers);
  if (!disk) return disk.error();
  auto layer = make_restored_disk(state_.guest_directory(work.plan.id), **disk);
  if (!layer) return layer.error();
  domain->disk = *layer;
  if (auto recorded = record_base_image(state_.guest_directory(work.plan.id), *base); !recorded) return recorded;
  const auto memory = read_ahead(std::move(*opened));
  ImageSource source(*memory);
  const Status restored = driver_.restore(*domain, work.image.domain_xml(), source);
  if (!restored) return source.failure ? *source.failure : restored.error();
  // The driver may have stopped at the end of what QEMU wants: the rest of the image must be whole, too.
  for (;;) {
    auto rest = source.read();
    if (rest && !rest->empty()) continue;
    if (rest) return {};
    if (auto gone = driver_.destroy(work.plan.id); !gone)
      log_error("damaged domain not destroyed", {{"cause", gone.error().message()}});
    return rest.error();
  }
}

GuestResumed GuestWork::resume(const ResumeGuest& work) { return {work.id, driver_.resume(work.id)}; }

GuestContinued GuestWork::carry_on(const ContinueGuest& work) { return {work.id, driver_.carry_on(work.id)}; }

// The memory stream on its way into the store, until somebody gives the epoch up.
class GuestWork::Sink final : public MemorySink {
 public:
  Sink(ImageStore& store, const PrepareCapture& work, std::stop_token stop)
      : store_(store), work_(work), stop_(std::move(stop)) {}

  Status restart() override {
    writer_.reset();
    auto begun = store_.begin({work_.id.job, work_.epoch, work_.id.guest, ImageName::Part::memory}, stop_);
    if (!begun) return begun.error();
    writer_ = std::move(*begun);
    return {};
  }
  Status write(std::string_view bytes) override {
    if (stop_.stop_requested()) return given_up(work_);
    return writer_->write(bytes);
  }
  Result<wire::ImageFile> commit() { return writer_->commit(); }
  static Error given_up(const PrepareCapture& work) {
    return {ErrorKind::refused, "capture", name_of(work.id), "this epoch was given up"};
  }

 private:
  ImageStore& store_;
  const PrepareCapture& work_;
  const std::stop_token stop_;
  std::unique_ptr<ImageWriter> writer_;
};

class GuestWork::Turn final : public CaptureTurn {
 public:
  Turn(GuestWork& owner, const PrepareCapture& work, std::stop_token stop, const std::function<void(Event)>& tell)
      : owner_(owner), work_(work), stop_(std::move(stop)), tell_(tell) {}

  Status await_instant() override {
    tell_(GuestReady{work_.id, work_.epoch});
    std::unique_lock lock(owner_.mutex_);
    const CaptureControl& control = owner_.control_of(work_.id, work_.epoch);
    if (!owner_.instants_.wait(lock, stop_, [&] { return control.instant; })) return Sink::given_up(work_);
    if (owner_.caps_ != nullptr) owner_.held_[work_.id] = std::make_unique<UploadCaps::Held>(*owner_.caps_);
    return {};
  }
  void captured(CaptureTimes times) override { tell_(GuestCaptured{work_.id, work_.epoch, times}); }

 private:
  GuestWork& owner_;
  const PrepareCapture& work_;
  const std::stop_token stop_;
  const std::function<void(Event)>& tell_;
};

class GuestWork::BeforeCopies {
 public:
  explicit BeforeCopies(GuestWork& work) : work_(work) {
    const std::lock_guard lock(work_.mutex_);
    ++work_.before_copies_;
    work_.copies_stopping_.request_stop();
  }
  ~BeforeCopies() {
    const std::lock_guard lock(work_.mutex_);
    if (--work_.before_copies_ == 0 && !work_.all_cancelled_) work_.copies_stopping_ = {};
  }
  BeforeCopies(const BeforeCopies&) = delete;
  BeforeCopies& operator=(const BeforeCopies&) = delete;

 private:
  GuestWork& work_;
};

void GuestWork::released(const DomainId& id) {
  const std::lock_guard lock(mutex_);
  held_.erase(id);
}

GuestStored GuestWork::capture(const PrepareCapture& work, const std::function<void(Event)>& tell) {
  const BeforeCopies first(*this);
  std::stop_token stop;
  {
    const std::lock_guard lock(mutex_);
    stop = control_of(work.id, work.epoch).stop.get_token();
  }
  GuestStored done{work.id, work.epoch, capture_image(work, stop, tell), 0};
  released(work.id);  // it may have failed before anybody let the guest go
  if (auto chain = driver_.disk_chain(work.id)) done.layers = static_cast<std::uint32_t>(chain->size());
  const std::lock_guard lock(mutex_);
  std::erase_if(captures_,
                [&](const auto& entry) { return entry.first.first == work.id && entry.first.second <= work.epoch; });
  return done;
}

Result<wire::ImageFile> GuestWork::capture_memory(const PrepareCapture& work, const std::stop_token& stop,
                                                  const std::function<void(Event)>& tell) {
  Sink sink(store_, work, stop);
  if (auto begun = sink.restart(); !begun) return begun.error();
  const fs::path layer = state_.guest_directory(work.id) / ("layer-e" + std::to_string(work.epoch.value) + ".qcow2");
  Turn turn(*this, work, stop, tell);
  if (auto done = driver_.capture(work.id, layer, sink, turn); !done) return done.error();
  return sink.commit();
}

Result<wire::GuestImage> GuestWork::capture_image(const PrepareCapture& work, const std::stop_token& stop,
                                                  const std::function<void(Event)>& tell) {
  const DomainId& id = work.id;
  auto memory_file = capture_memory(work, stop, tell);
  if (!memory_file) return memory_file.error();
  wire::GuestImage image;
  image.set_guest(static_cast<std::uint32_t>(id.guest.value));
  *image.mutable_memory() = std::move(*memory_file);

  auto base = recorded_base_image(state_.guest_directory(id));
  if (!base) return base.error();
  image.set_base_sha256(std::move(*base));
  auto xml = driver_.describe(id);
  if (!xml) return xml.error();
  image.set_domain_xml(std::move(*xml));
  auto chain = driver_.disk_chain(id);
  if (!chain) return chain.error();
  if (chain->size() < 2)
    return Error{ErrorKind::permanent, "store disk", name_of(id), "the capture left no layer below the active one"};
  auto disk = store_.begin({id.job, work.epoch, id.guest, ImageName::Part::disk}, stop);
  if (!disk) return disk.error();
  auto disk_file = store_disk({chain->begin() + 1, chain->end()}, room_, **disk, caps_, stop);
  if (!disk_file) return disk_file.error();
  *image.mutable_disk() = std::move(*disk_file);
  if (auto replicated = store_.replicate(image, work.durability, stop); !replicated) return replicated.error();
  return image;
}

DiskFlattened GuestWork::flatten(const FlattenDisk& work) { return {work.id, driver_.flatten_disk(work.id)}; }

void GuestWork::fence(const DomainId& id) {
  std::vector<std::stop_source> stops;
  {
    const std::lock_guard lock(mutex_);
    for (auto& [key, control] : captures_)
      if (key.first == id) stops.push_back(control.stop);
  }
  for (auto& stop : stops) stop.request_stop();
  if (auto gone = driver_.destroy(id); !gone)
    log_error("machine not destroyed at once", {{"guest", name_of(id)}, {"cause", gone.error().message()}});
}

GuestDestroyed GuestWork::destroy(const DestroyGuest& work) {
  GuestDestroyed done{work.id, driver_.destroy(work.id)};
  if (done.status) done.status = state_.remove_guest(work.id);
  const std::lock_guard lock(mutex_);
  std::erase_if(captures_, [&](const auto& entry) { return entry.first.first == work.id; });
  return done;
}

GangRemoved GuestWork::remove(const RemoveGang& work) {
  GangRemoved done{work.gang, networks_.take_down(work.vni)};
  if (done.status) done.status = state_.remove_gang(work.gang);
  return done;
}

ImagesDeleted GuestWork::delete_images(const DeleteImages& work) {
  const BeforeCopies first(*this);
  using Reach = ImageStore::Reach;
  const std::uint64_t before = store_.use().pack_bytes;
  ImagesDeleted done{
      work.token, store_.remove(work.job, work.epochs, work.all_hosts ? Reach::all_hosts : Reach::own, work.lost_hosts),
      0};
  const std::uint64_t after = store_.use().pack_bytes;  // more, if a checkpoint was stored meanwhile
  done.freed_bytes = before > after ? before - after : 0;
  return done;
}

ImagesCopied GuestWork::copy(const CopyImages& work) {
  std::stop_token stop;
  {
    const std::lock_guard lock(mutex_);
    stop = copies_stopping_.get_token();
  }
  const auto not_now = [&] {
    return Error{ErrorKind::transient, "copy images", work.job.value + "/e" + std::to_string(work.epoch.value),
                 "a checkpoint is being stored or deleted on this host; that goes first"};
  };
  if (stop.stop_requested()) return {work.token, not_now()};
  std::vector<wire::GuestImage> images = work.images;
  for (wire::GuestImage& image : images)
    if (auto copied = store_.replicate(image, work.durability, stop); !copied)
      return {work.token, stop.stop_requested() ? not_now() : copied.error()};
  return {work.token, std::move(images)};
}

ImagesListed GuestWork::list_images() { return {store_.held()}; }

ImageTransferred GuestWork::carry(const CarryRecord& work) {
  ImageTransferred done{work.token, {}};
  const auto fails = [&](const Error& error) { *done.answer.mutable_failure() = to_wire(error); };
  if (work.ask.has_keep_record()) {
    const auto kept = store_.keep_record({work.ask.gang().job()}, Epoch{work.ask.epoch()}, work.ask.keep_record(),
                                         stopping_.get_token());
    if (kept) done.answer.mutable_done();
    else fails(kept.error());
    return done;
  }
  auto page = store_.records(work.ask.read_records());
  if (page) *done.answer.mutable_records() = std::move(*page);
  else fails(page.error());
  return done;
}

// What is here first: from that the copy in the S3 store can be put right, and it from that one.
ImagesVerified GuestWork::verify(const VerifyImages& work) {
  ImagesVerified done{work.token, {}};
  const std::stop_token stop = stopping_.get_token();
  const auto read_back = [&](const wire::GuestImage& image, const auto& verify_file) -> wire::ImageCheck& {
    auto& check = *done.report.add_images();
    check.set_guest(image.guest());
    for (const wire::ImageFile* file : {&image.memory(), &image.disk()}) {
      const Result<ImageCheck> found = verify_file(*file);
      if (!found) *check.add_problems() = to_wire(not_checked(found.error()));
      else check.set_bytes(check.bytes() + found->bytes);
      for (const Error& problem : found ? found->problems : std::vector<Error>{})
        *check.add_problems() = to_wire(problem);
      for (const std::string& what : found ? found->mended : std::vector<std::string>{}) check.add_mended(what);
    }
    return check;
  };
  for (const wire::GuestImage& image : work.images)
    read_back(image, [&](const wire::ImageFile& file) { return store_.verify(file, work.peers, stop); });
  for (const wire::GuestImage& image : work.object_store)
    read_back(image, [&](const wire::ImageFile& file) {
      return store_.verify_in_object_store(file, work.peers, stop);
    }).set_object_store(true);
  return done;
}

GuestWork::CaptureControl& GuestWork::control_of(const DomainId& id, Epoch epoch) {
  CaptureControl& control = captures_[{id, epoch}];
  if (all_cancelled_) control.stop.request_stop();
  return control;
}

void GuestWork::take_instant(const TakeInstant& work) {
  const std::lock_guard lock(mutex_);
  control_of(work.id, work.epoch).instant = true;
  instants_.notify_all();
}

void GuestWork::cancel(const CancelCapture& work) {
  std::stop_source stop;
  {
    const std::lock_guard lock(mutex_);
    stop = control_of(work.id, work.epoch).stop;
  }
  stop.request_stop();  // without the lock, which whoever waits takes when woken
}

void GuestWork::cancel_all() {
  std::vector<std::stop_source> stops{stopping_};
  {
    const std::lock_guard lock(mutex_);
    all_cancelled_ = true;
    stops.push_back(copies_stopping_);
    if (caps_ != nullptr) caps_->lift();
    for (auto& [key, control] : captures_) stops.push_back(control.stop);
  }
  for (auto& stop : stops) stop.request_stop();
  store_.stop_freeing();
}

}  // namespace stillpoint::node
