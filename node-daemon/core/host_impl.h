// The inside of Host, shared by the files that implement it: host.cpp (sessions, time), requests.cpp (what the
// coordinator asks), guests.cpp (what agents say), lifecycle.cpp (gangs come and go), capture.cpp (images),
// verify.cpp (images read back, copied, and named), transfer.cpp (images that leave the site or come from another one).
#pragma once

#include <map>
#include <set>

#include "common/failure.h"
#include "node-daemon/core/host.h"
#include "node-daemon/core/relay.h"

namespace stillpoint::node {

struct Guest {
  bool lost = false;
  std::string lost_reason;
  std::string boot_id;
  bool watches_lease = false;  // its agent does, as its hello says
  Time last_heard{};
  std::uint32_t layers = 0;  // of its disk, as far as known
  bool flattening = false;
  // Its machine stands still: why, since when, and when it is tried again (nothing: tried, not heard of since).
  std::optional<std::string> stopped;
  Time stopped_since{};
  std::optional<Time> next_try;
};

// A request of the coordinator that is under way for a gang.
struct Operation {
  wire::ToHost ask;
  std::vector<std::uint64_t> waiters;  // request ids to answer; empty after the coordinator's session ended
  std::set<std::uint32_t> waiting;     // guests that are not done
  GuestReplies replies;
  Time deadline{};
  bool awaits_taps = false;  // a release: guests are not asked before the taps' alarm was read
  TapsRead taps;
  std::uint64_t needs_version = 0;   // not answered before the record of this version is durable
  std::uint64_t stored_version = 0;  // not 0: done but for the record of this version
};

// A request that a guest has not answered yet.
struct Outstanding {
  std::uint32_t guest = 0;
  std::string operation;  // key; empty: nobody waits for the answer
  wire::GuestRequest request;
  bool stamp_clock = false;
  Time next_send{};
};

// One checkpoint attempt's captures and images on this host.
struct Capture {
  std::map<std::uint32_t, CaptureTimes> captured;
  std::map<std::uint32_t, wire::GuestImage> images;
  std::set<std::uint32_t> running;  // guests whose capture is under way, or whose stream or disk is being stored
  bool taken = false;               // the instant was asked for: what comes is an image
  std::optional<Error> failure;
  bool reported = false;             // the CaptureReport was given: an ImageReport follows
  std::uint64_t stored_version = 0;  // not 0: all images durable; reported as soon as the record of this version is
  bool durable = false;              // and it is: these images are the coordinator's to delete
  bool discarded = false;
  bool repeat_report = false;  // say the ImageReport again after a reconnect

  std::optional<Error> over(const GangId& gang) const;
};

struct Gang {
  GangId id;
  record::Gang record;
  std::uint64_t version = 0;  // of the record, counted at each change
  std::uint64_t durable_version = 0;
  std::uint32_t mtu = 0;
  bool dying = false;  // VMs, disks, network are being removed; nothing else is done for it
  std::set<std::uint32_t> undestroyed;
  std::optional<Time> retry_removal;
  std::map<std::uint32_t, Guest> guests;
  std::map<std::string, Operation> operations;
  std::map<std::uint64_t, Outstanding> outstanding;
  std::map<Epoch, Capture> captures;
  Epoch held;                            // 0 = not held
  Epoch given_up;                        // the newest that was; up to it nothing is prepared
  std::pair<Epoch, std::uint64_t> step;  // the last order of a hold; what comes behind it was overtaken
  std::optional<std::pair<Epoch, wire::ReleaseReport>> released;  // the newest release and what was answered
  std::map<std::pair<std::uint32_t, std::uint64_t>, wire::LaunchRequest> launches;  // not answered yet
  std::vector<wire::RankFailed> rank_failures;

  std::vector<std::uint32_t> local() const { return {record.guests().begin(), record.guests().end()}; }
  // A numbered order that comes behind a later one (ToHost's step); else it is the last one now.
  bool overtaken(const wire::ToHost& ask);
  bool settled() const { return record.stage() != record::Gang::MAKING && !dying; }
  bool disk_busy() const;  // by what must not fall together with a join of disk layers
};

// Images that are being read back.
struct ImageWork {
  wire::ToHost ask;
  std::vector<std::uint64_t> waiters;  // request ids to answer; empty after the coordinator's session ended
};

// A piece of an image on its way; without the piece's bytes.
struct Transfer {
  wire::ToHost ask;
  std::uint64_t request = 0;  // to answer; 0 after the coordinator's session ended
};

struct DestroyWait {
  JobId job;
  Incarnation upto;
  wire::ToHost ask;
};

struct Host::Impl {
  explicit Impl(HostSettings s) : settings(std::move(s)), next_request(settings.first_request) {}

  HostSettings settings;
  record::Host host;
  bool host_is_stored = true;
  std::uint32_t hosts_under_way = 0;  // records of it that are being stored
  HostFigures figures;
  Time now{};
  // The coordinator waits for a host from the moment when it heard it last. A message from it may have been under way
  // for long, so its arrival proves nothing; but a welcome answers a hello, and a ping goes out only when the pong
  // before it has arrived: it heard the host no earlier than that was sent.
  Time last_word{};             // the lease counts from here
  Time last_said{};             // when the hello or pong that the coordinator's next word answers was sent
  std::uint64_t last_ping = 0;  // of this session
  bool connected = false;
  bool welcomed = false;
  std::uint64_t next_request;
  std::uint64_t next_token = 1;
  std::map<GangId, Gang> gangs;
  std::map<JobId, Incarnation> destroyed;  // up to these nothing may be made again
  std::vector<wire::ToHost> deferred;      // wait for an older gang of their job to be gone
  std::vector<DestroyWait> destroy_waits;
  std::map<std::uint64_t, wire::ToHost> deletions;  // token → request
  // Epochs whose images were stored here and thrown away by this host itself, that the coordinator had not heard of:
  // copies may have come to a partner after that one deleted what it had. Named as held until the coordinator says that
  // they go.
  std::map<JobId, std::set<Epoch>> strays;
  std::map<std::uint64_t, ImageWork> image_work;  // by token
  std::map<std::uint64_t, Transfer> transfers;    // by token
  Effects effects;

  // host.cpp
  void take_up(HostFindings found);
  void handle(Event& event);
  void on_connected();
  void on_disconnected();
  void on_welcome(const wire::Welcome& welcome);
  void on_ping(const wire::Ping& ping);
  wire::HostHello hello() const;
  void repeat_news();
  void tick();
  void check_lease();
  void heard();
  void store_host();
  void host_stored(const HostStored& event);
  void tell_of_lease();
  void tell_of_lease(const Gang& gang);
  std::optional<Time> next_deadline() const;
  milliseconds lease() const;
  void log(Log::Level level, std::string what, const GangId& gang = {}, Epoch epoch = {}, std::string detail = {});

  // requests.cpp
  void coordinator_said(const wire::ToHost& ask);
  void gang_request(Gang& gang, const wire::ToHost& ask);
  void relay(Gang& gang, const wire::ToHost& ask);
  void ask_operation_guests(Gang& gang, const std::string& key, Operation& operation);
  Operation& begin(Gang& gang, const wire::ToHost& ask, const std::vector<std::uint32_t>& guests);
  void guest_done(Gang& gang, const std::string& key, std::uint32_t guest, wire::GuestReply reply);
  void finish(Gang& gang, const std::string& key);
  void finish_when_stored(Gang& gang, const std::string& key);
  void fail(Gang& gang, const std::string& key, const Error& error);
  wire::FromHost answer_of(Gang& gang, const Operation& operation);
  void answer(const wire::ToHost& ask, std::uint64_t request, wire::FromHost message);
  void answer_failure(const wire::ToHost& ask, std::uint64_t request, const Error& error);
  void say(const Gang& gang, Epoch epoch, wire::FromHost message);
  void ask_guest(Gang& gang, std::uint32_t guest, const std::string& key, wire::GuestRequest request, bool stamp_clock);
  void send_ack(Gang& gang, std::uint64_t offset);
  void send_lease(const Gang& gang, std::uint32_t guest);
  void send_to_guest(const GangId& gang, std::uint32_t guest, wire::GuestRequest request, bool stamp_clock = false);

  // guests.cpp
  void guest_said(const DomainId& id, const wire::FromGuest& message);
  void guest_hello(Gang& gang, std::uint32_t index, const wire::GuestHello& hello);
  void guest_reply(Gang& gang, const wire::GuestReply& reply);
  void guest_lost(Gang& gang, std::uint32_t index, const std::string& reason);
  void resend(Gang& gang, std::uint32_t guest);
  void watch_guests(Gang& gang);
  void guest_stopped(const DomainStopped& event);
  void guest_continued(const GuestContinued& event);
  bool watch_stopped(Gang& gang, std::uint32_t index, Guest& guest);
  void configure(Gang& gang, std::uint32_t index);

  // lifecycle.cpp
  Gang* find(const GangId& id);
  Gang* find_settled(const DomainId& id);
  Incarnation newest(const JobId& job) const;
  void make_gang(const wire::ToHost& ask);
  std::optional<Error> refuse_making(const wire::ToHost& ask) const;
  void answer_made(Gang& gang, const wire::ToHost& ask);
  GuestPlan plan(const Gang& gang, std::uint32_t guest) const;
  void gang_prepared(const GangPrepared& event);
  void guest_started(const GuestStarted& event);
  void guest_restored(const GuestRestored& event);
  void guest_resumed(const GuestResumed& event);
  void making_failed(Gang& gang, std::uint32_t guest, const Error& error);
  void store_record(Gang& gang);
  void record_stored(const RecordStored& event);
  void resume_gang(Gang& gang, const wire::ToHost& ask);
  void destroy(const wire::ToHost& ask);
  void tear_down(Gang& gang, const std::string& why);
  void destroy_guests(Gang& gang);
  void guest_destroyed(const GuestDestroyed& event);
  void gang_removed(const GangRemoved& event);
  void removal_failed(Gang& gang, const Error& error);
  void settle_destroy_waits(const JobId& job, const std::optional<Error>& failure);

  // capture.cpp
  void prepare_capture(Gang& gang, const wire::ToHost& ask);
  std::optional<Error> obstacle_to(const Gang& gang, Epoch epoch) const;
  void capture_gang(Gang& gang, const wire::ToHost& ask);
  void guest_ready(const GuestReady& event);
  void guest_captured(const GuestCaptured& event);
  void guest_stored(const GuestStored& event);
  void taps_read(const TapsRead& event);
  void capture_failed(Gang& gang, Epoch epoch, const Error& error);
  void images_durable(Gang& gang, Epoch epoch);
  void report_images(Gang& gang, Epoch epoch);
  void discard(Gang& gang, Epoch epoch);
  void discard_prepared_before(Gang& gang, Epoch epoch);
  void drop_discarded(Gang& gang, Epoch epoch);
  void note_stray(const Gang& gang, Epoch epoch);
  void forget_older(Gang& gang, Epoch epoch);
  void flatten_long_chains(Gang& gang);
  void disk_flattened(const DiskFlattened& event);
  void delete_images(const wire::ToHost& ask);
  void images_deleted(const ImagesDeleted& event);

  // verify.cpp
  void images_listed(ImagesListed event);
  std::optional<std::uint64_t> begin_image_work(const wire::ToHost& ask);  // nothing: it joined what is under way
  void verify_images(const wire::ToHost& ask);
  void copy_images(const wire::ToHost& ask);
  void images_verified(const ImagesVerified& event);
  void images_copied(const ImagesCopied& event);

  // transfer.cpp
  void transfer(const wire::ToHost& ask);
  void image_transferred(const ImageTransferred& event);
};

wire::CaptureReport capture_report(const Capture& capture);

}  // namespace stillpoint::node
