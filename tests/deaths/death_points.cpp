#include "tests/deaths/death_points.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <openssl/types.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <mutex>
#include <sstream>
#include <string>
#include <string_view>

#include "common/framing.h"
#include "host.pb.h"

namespace stillpoint::test {
namespace {

struct Points {
  bool from_coordinator = false;
  std::string file;
  std::mutex mutex;  // guards what follows
  std::string orders, step;
  bool stops = false, after = false;
  int occurrence = 0, seen = 0;

  void read_orders();
};
Points* points = nullptr;  // set once, before there are threads

// The file is replaced as a whole.
void Points::read_orders() {
  std::string line;
  std::ifstream in(file);
  std::getline(in, line);
  if (line == orders) return;
  orders = line;
  seen = 0;
  step.clear();
  std::istringstream words(line);
  std::string what, when;
  if (!(words >> what >> when >> occurrence >> std::ws)) return;
  std::getline(words, step);
  stops = what == "stop";
  after = when == "after";
}

// One call that may be the one to end at.
class Step {
 public:
  explicit Step(const std::string& name) {
    if (points == nullptr || name.empty()) return;
    const std::lock_guard lock(points->mutex);
    points->read_orders();
    if (points->orders == "record") std::ofstream(points->file + ".steps", std::ios::app) << name + "\n";
    chosen_ = name == points->step && ++points->seen == points->occurrence;
    if (chosen_ && !points->after) end();
  }
  template <class Value>
  Value done(Value result) const {
    if (chosen_ && points->after) end();
    return result;
  }

 private:
  static void end() { ::kill(::getpid(), points->stops ? SIGSTOP : SIGKILL); }
  bool chosen_ = false;
};

template <class Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

std::string kind_of(const wire::ToHost& m) {
  switch (m.body_case()) {
    case wire::ToHost::kStartGuests: return "start";
    case wire::ToHost::kLaunchJob: return "launch";
    case wire::ToHost::kExamine: return m.examine().again() ? "examine again" : "examine";
    case wire::ToHost::kPrepareCapture: return "prepare";
    case wire::ToHost::kClose: return "close";
    case wire::ToHost::kCount: return "count";
    case wire::ToHost::kFreeze: return "freeze";
    case wire::ToHost::kCapture: return "capture";
    case wire::ToHost::kRelease: return "release";
    case wire::ToHost::kDeleteImages: return "delete images";
    case wire::ToHost::kKeepRecord: return "keep record";
    case wire::ToHost::kRestore: return "restore";
    case wire::ToHost::kResume: return "resume";
    case wire::ToHost::kCheckLinks: return "check links";
    case wire::ToHost::kDestroy: return "destroy";
    case wire::ToHost::kStop: return "stop";
    default: return "";
  }
}

std::string kind_of(const wire::FromHost& m) {
  switch (m.body_case()) {
    case wire::FromHost::kDone: return "done";
    case wire::FromHost::kRound: return "round";
    case wire::FromHost::kCut: return "cut";
    case wire::FromHost::kCapture: return "captured";
    case wire::FromHost::kRelease: return "released";
    case wire::FromHost::kImages: return "images";
    case wire::FromHost::kLinks: return "links";
    default: return m.has_failure() ? "failure" : "";
  }
}

template <class Message>
std::string sent(const std::string& payload) {
  Message message;
  if (!message.ParseFromString(payload)) return "";
  const std::string kind = kind_of(message);
  return kind.empty() ? "" : "send " + kind;
}

std::string sent_step(const std::string& payload) {
  return points->from_coordinator ? sent<wire::ToHost>(payload) : sent<wire::FromHost>(payload);
}

// Of a frame: those that are steps are small. They are written at once, or their end, which is the same for all hosts
// of a gang, behind their beginning: the step is that end's.
std::string frame_step(const SSL* to, std::string_view bytes) {
  static std::mutex mutex;
  static std::map<const SSL*, std::string> begun;
  const std::lock_guard lock(mutex);
  if (auto beginning = begun.extract(to); !beginning.empty()) return beginning.mapped();
  FrameReader reader;
  reader.feed(bytes);
  if (const auto payload = reader.next()) return sent_step(*payload);
  if (bytes.size() < kFrameHeaderBytes || !bytes.starts_with("SPF1")) return "";
  if (std::string name = sent_step(std::string(bytes.substr(kFrameHeaderBytes))); !name.empty()) begun[to] = name;
  return "";
}

bool is_named(std::string_view path, std::string_view name) {
  return path.ends_with(name) && path.size() > name.size() && path[path.size() - name.size() - 1] == '/';
}

// What a file's new name says of it: a record of a daemon's, below its state directory, or a program's output that the
// coordinator has cut back. Empty for any other.
std::string rename_step(std::string_view from, std::string_view to) {
  if (points == nullptr) return "";
  if (points->from_coordinator) return is_named(from, "output.next") && is_named(to, "output") ? "truncate" : "";
  if (to.find("/state/") == to.npos) return "";
  for (const char* name : {"record", "host.record"})
    if (is_named(to, name)) return "record " + std::string(name);
  return "";
}

}  // namespace

void read_death_points(bool from_coordinator) {
  const char* const file = std::getenv("STILLPOINT_TEST_ORDERS");
  if (file == nullptr) return;
  points = new Points;  // as long as the process
  points->from_coordinator = from_coordinator;
  points->file = file;
}

}  // namespace stillpoint::test

using stillpoint::test::Step;

extern "C" {

int sqlite3_exec(sqlite3* db, const char* sql, int (*each)(void*, int, char**, char**), void* to, char** error) {
  static const auto real = stillpoint::test::next<decltype(sqlite3_exec)>("sqlite3_exec");
  const Step step(std::string_view(sql).starts_with("COMMIT") ? "commit" : "");
  return step.done(real(db, sql, each, to, error));
}

int SSL_write(SSL* ssl, const void* bytes, int count) {
  static const auto real = stillpoint::test::next<int(SSL*, const void*, int)>("SSL_write");
  using namespace stillpoint::test;
  const Step step(
      points == nullptr ? "" : frame_step(ssl, {static_cast<const char*>(bytes), static_cast<std::size_t>(count)}));
  return step.done(real(ssl, bytes, count));
}

int rename(const char* from, const char* to) noexcept {
  using namespace stillpoint::test;
  const Step step(rename_step(from, to));
  return step.done(static_cast<int>(::syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to)));
}
}
