// A host as the coordinator sees it, in memory: answers each request as a node daemon with real guests does, in the
// same order and idempotently. What its guests do is a small program: guest 0 prints a numbered line per step, and each
// step sends bytes over every connection of the gang.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <tuple>

#include "coordinator/core/coordinator.h"

namespace stillpoint::coordinator::testing {

using std::chrono::milliseconds;

// The state of one guest that an image holds.
struct GuestState {
  std::map<std::uint32_t, std::uint64_t> acked, received;  // payload, by peer
  std::uint64_t step = 0;                                  // guest 0
  std::uint64_t output_acked = 0;                          // guest 0: the coordinator has everything before
  std::string output;                                      // guest 0: all of it, from the first byte
};

struct FakeGuest {
  GuestState state;
  bool running = false;  // the VM executes
  bool held = false;     // gates shut
  bool frozen = false;
  std::uint64_t epoch = 0;  // of the hold
  Time hold_until{};
  std::chrono::milliseconds hold{20'000};
};

struct FakeGang {
  JobId job;
  std::uint64_t incarnation = 0;
  std::uint32_t size = 0;  // guests in the whole gang
  std::map<std::uint32_t, FakeGuest> guests;
  bool launched = false;
  bool ended = false;
  std::uint64_t restored_from = 0;
  std::map<std::uint64_t, wire::ImageReport> images;                 // epochs captured
  std::map<std::uint64_t, std::map<std::uint32_t, Time>> uploading;  // epoch → not durable yet
  std::optional<std::pair<std::uint64_t, bool>> released;
  std::set<std::uint64_t> discarded;
  std::map<std::uint64_t, wire::Durability> prepared;  // captures, by epoch
  std::map<std::uint64_t, bool> reported;              // epochs whose images were reported on this session
  Time output_sent{};
  std::uint64_t output_next = 0;  // sent so far
  std::string file;               // the one that PutJobFile wrote
  std::set<std::uint64_t> daemons;

  bool works() const;  // every guest of it here computes
};

// What every host reaches.
struct SharedStore {
  std::map<std::string, GuestState> images;  // by path
  std::set<std::string> damaged;
  std::set<std::string> unreachable;
  std::set<std::string> damaged_in_object_store;
  bool object_store_down = false;
  // Of checkpoints, by the host that keeps them, job and epoch.
  std::map<HostName, std::map<std::pair<JobId, std::uint64_t>, wire::KeepRecord>> records;
  std::map<HostName, std::set<std::string>> space;  // by host: images whose space it has not freed yet
};

// An image's path in SharedStore: without the host's name.
std::string key_of(const wire::ImageFile& file);
// As key_of() gives it; or with the host's name, which is then the only place that is meant.
bool names(const std::set<std::string>& images, const wire::ImageFile& file);

struct Script {
  // Says what goes wrong with a request, before the host looks at it.
  std::function<std::optional<Error>(const HostName&, const wire::ToHost&)> failure;
  std::function<bool(const HostName&, const wire::ToHost&)> swallow;  // never answered
  int unquiet_freezes = 0;                                            // so many cuts have a byte on the wire
  int busy_rounds = 0;
  bool never_equal = false;
  int deferring_closes = 0;  // so many closings meet a rank inside a call that must finish first
  int reopened = 0;          // counted: gates opened again because of that
  std::string hold_packet;   // not empty: the taps see it during the next hold
  milliseconds upload{0};
  std::set<std::string> missing_outputs;
  std::function<std::optional<Error>(const StoreOutputPiece&)> store_failure;  // of the coordinator's own disk
  std::function<std::optional<Error>(const TruncateOutput&)> cut_failure;
  std::function<bool(const TruncateOutput&)> cut_hangs;  // true: it is not done, and nothing is said of it
  std::function<std::optional<Error>(const AppendOutput&)> append_failure;
  bool append_hangs = false;    // of the coordinator's disk: nothing is stored, and nothing is said of it
  int measure_failures = 0;     // so many times
  std::uint64_t last_step = 0;  // the program ends then; 0 = never
  int exit_code = 0;
  std::optional<std::uint32_t> failed_rank;  // gone without MPI_Finalize, as agents know
};

class FakeHost {
 public:
  FakeHost(HostName host, SharedStore& store, Script& script) : name(std::move(host)), store_(store), script_(script) {}

  HostName name;
  bool power = true;
  bool partitioned = false;
  std::optional<SessionId> session;
  Time heard{};
  milliseconds lease{10'000};
  std::map<std::pair<JobId, std::uint64_t>, FakeGang> gangs;
  std::map<JobId, std::uint64_t> destroyed;
  std::deque<wire::FromHost> out;
  std::uint64_t memory = 4ull << 30;
  bool own_images = false;  // no other host reaches its images; copies of others' are taken as asked
  bool object_store = false;
  std::string domain;
  std::uint64_t image_free = 100ull << 30, image_reserve = 1ull << 30;

  wire::HostHello hello() const;
  void connected(SessionId session, Time now);
  void on(const wire::ToHost& message, Time now);
  void tick(Time now);               // leases, holds, uploads, output
  void lose_power();                 // everything is gone
  FakeGang* gang(const JobId& job);  // the newest one here

 private:
  void answer(const wire::ToHost& ask, wire::FromHost message);
  void refuse(const wire::ToHost& ask, ErrorKind kind, const std::string& cause);
  void make(const wire::ToHost& ask);
  void gang_request(FakeGang& gang, const wire::ToHost& ask, Time now);
  wire::GuestCut cut(const FakeGang& gang, std::uint32_t guest);
  wire::RoundFigures round(const FakeGang& gang, std::uint32_t guest);
  void capture(FakeGang& gang, const wire::ToHost& ask, Time now);
  std::uint64_t delete_images(const JobId& job, const wire::DeleteImages& what);  // bytes freed
  void verify(const wire::ToHost& ask, wire::FromHost message);
  void transfer(const wire::ToHost& ask);
  void copy(const wire::ToHost& ask, wire::FromHost message);
  void read_records(const wire::ToHost& ask);
  void free_space();
  void discard(FakeGang& gang, std::uint64_t epoch);
  void send_output(FakeGang& gang, Time now);
  wire::FromHost of(const FakeGang& gang, std::uint64_t epoch = 0) const;

  SharedStore& store_;
  Script& script_;
  std::uint64_t noise_ = 0;
  std::map<std::tuple<std::string, std::uint32_t, bool>, std::string> written_;  // by job, guest, disk
};

}  // namespace stillpoint::coordinator::testing
