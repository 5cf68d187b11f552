// A machine's memory sent while the machine works, pass after pass, until little is left that changed meanwhile; then
// QEMU waits, the pipe being full, until the instant may come. The machine stands still only for the rest.
//
// Against a background snapshot: no fault at the first write to each page, no page table changed for each page; but
// the pause grows with what the machine changes. So it is for machines that change less than kFastest; the rate is
// measured first (calc-dirty-rate). docs/capture.md has the figures.
//
//   approach()                                            take()
//   -----------------------------------------------       ------------------------------------------------
//   rate measured; bandwidth without limit, no pause      disk goes on in its new layer
//     allowed; pipe, migrate                              pause allowed, whatever its length; pipe read on
//   pass 1, 2, … read; little left: pipe read no more     last pages: QEMU stops the machine, ends; resumed
//
// QEMU may come to an end by itself before take(), when a machine changes nothing at all: it is resumed at once, and
// this way does not suit it.
//
// Threads: a reader of its own between approach() and the end of take(); everything else on the owner's thread. The
// sink is called from either, never from both at once.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "node-daemon/domain/capture_stream.h"

namespace stillpoint::node {

class PreCopy {
 public:
  PreCopy(virDomainPtr domain, EventHub& events, MemorySink& sink);
  ~PreCopy();  // the reader ends; cancel_migration() is still to follow

  // An error of kind transient: this way does not suit the machine now, which runs as before. Others are the sink's.
  Status approach();
  // transient: as above, the disk may have been switched by then.
  Status take(const std::function<Status()>& switch_disk);

  double pause_ms() const { return stream_.pause_ms(); }
  std::uint64_t bytes() const { return stream_.bytes(); }

 private:
  // narrow: QEMU can be ahead by no more than a page or two, and only what is granted is read; waiting: it is to stand
  // still at the full pipe; about_to: still, until it has taken a command.
  enum class Reader { reading, narrow, waiting, about_to, ended };
  Status start();
  Status allow_pause(bool allowed);
  void read();
  bool wait_at_pipe();
  void account(std::uint64_t read);
  void resume();
  Status converge(double rate);
  void wake();
  Status unsuited(std::string cause) const;

  virDomainPtr domain_;
  const std::string name_;
  CaptureStream stream_;  // the reader's while it runs
  const Fd wake_;         // eventfd: the reader looks at wanted_ again

  std::mutex mutex_;  // guards the seven below
  std::condition_variable changed_;
  Reader wanted_ = Reader::reading;
  bool narrow_ = false;
  std::uint64_t granted_ = 0;  // bytes that may still be read while narrow, until somebody has looked
  bool taking_ = false;
  bool early_ = false;  // QEMU has ended before
  bool ended_ = false;
  Status failure_;
  std::thread reader_;
  std::vector<id_t> behind_;  // threads of the migration with less of a processor
};

}  // namespace stillpoint::node
