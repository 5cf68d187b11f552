#include "coordinator/test_support/fake_host.h"

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <stdexcept>
#include <thread>

#include "common/net/frame_session.h"

namespace stillpoint::coordinator {

namespace {

wire::StoreFigures store_figures() {
  wire::StoreFigures store;
  store.set_packs(3);
  store.set_pack_bytes(40u << 20);
  store.set_pages(20'000);
  store.set_total_bytes(2ull << 40);
  store.set_reserve_bytes(1ull << 30);
  return store;
}

// A thread that runs what is posted to it.
struct OwnThread {
  boost::asio::io_context io{1};
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work{io.get_executor()};
  std::thread thread{[this] { io.run(); }};

  ~OwnThread() {
    work.reset();
    thread.join();
  }
};

net::TlsContext identity_at(const std::filesystem::path& directory) {
  auto tls = net::TlsContext::load(directory, net::TlsRole::host);
  if (!tls) throw std::runtime_error(tls.error().message());
  return std::move(*tls);
}

}  // namespace

struct FakeHost::Impl {
  std::optional<OwnThread> own;
  boost::asio::io_context& io;
  net::TlsContext tls;
  std::shared_ptr<net::FrameSession> session;  // the test's thread only

  explicit Impl(net::TlsContext context) : own(std::in_place), io(own->io), tls(std::move(context)) {}
  Impl(net::TlsContext context, boost::asio::io_context& shared) : io(shared), tls(std::move(context)) {}
};

FakeHost::FakeHost(std::string name, const std::filesystem::path& identity, std::uint16_t port)
    : name_(std::move(name)), port_(port), impl_(std::make_unique<Impl>(identity_at(identity))) {}
FakeHost::FakeHost(std::string name, const std::filesystem::path& identity, std::uint16_t port,
                   boost::asio::io_context& io)
    : name_(std::move(name)), port_(port), impl_(std::make_unique<Impl>(identity_at(identity), io)) {}

FakeHost::~FakeHost() { disconnect(); }

void FakeHost::edit(Edit edit) {
  std::lock_guard lock(mutex_);
  edit_ = std::move(edit);
}

void FakeHost::connect(std::optional<std::string> raw_hello) {
  disconnect();
  {
    std::lock_guard lock(mutex_);
    open_ = false;
    closed_.clear();
  }
  impl_->session = net::connect_session(impl_->io.get_executor(), impl_->tls, "127.0.0.1:" + std::to_string(port_), {},
                                        {[this](const std::string&) {
                                           std::lock_guard lock(mutex_);
                                           open_ = true;
                                           changed_.notify_all();
                                         },
                                         [this](const std::string& payload) { take(payload); },
                                         [this](const Error& why) {
                                           std::lock_guard lock(mutex_);
                                           closed_ = why.message();
                                           changed_.notify_all();
                                         }});
  wait_for([this] { return open_ || !closed_.empty(); });
  wire::FromHost first;
  *first.mutable_hello() = hello();
  impl_->session->send(raw_hello ? *raw_hello : first.SerializeAsString());
}

void FakeHost::disconnect() {
  if (!impl_->session) return;
  impl_->session->close(Error{ErrorKind::transient, "session", name_, "the fake host leaves"});
  wait_for([this] { return !closed_.empty(); });
  impl_->session.reset();
}

void FakeHost::send(const wire::FromHost& message) { send_raw(message.SerializeAsString()); }
void FakeHost::send_raw(const std::string& payload) { impl_->session->send(payload); }

bool FakeHost::wait_for(const std::function<bool()>& condition) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, std::chrono::seconds(60), condition);
}

std::size_t FakeHost::count(wire::ToHost::BodyCase kind) {
  std::lock_guard lock(mutex_);
  return counts_[kind];
}

std::string FakeHost::closed_because() {
  std::lock_guard lock(mutex_);
  return closed_;
}

std::map<std::string, std::string> FakeHost::files() {
  std::lock_guard lock(mutex_);
  return files_;
}

std::set<std::uint32_t> FakeHost::guests(const std::string& job) {
  std::lock_guard lock(mutex_);
  return guests_[job];
}

std::uint64_t FakeHost::acknowledged_output() {
  std::lock_guard lock(mutex_);
  return acknowledged_;
}

wire::GangRef FakeHost::gang(const std::string& job) {
  std::lock_guard lock(mutex_);
  return gangs_[job];
}

void FakeHost::print(const std::string& job, std::uint64_t offset, const std::string& text) {
  wire::FromHost message;
  {
    std::lock_guard lock(mutex_);
    *message.mutable_gang() = gangs_[job];
    output_[job] = offset + text.size();
  }
  auto* output = message.mutable_output()->mutable_output();
  output->set_offset(offset);
  output->set_data(text);
  send(message);
}

void FakeHost::end_job(const std::string& job, int exit_code, std::uint64_t output_offset) {
  wire::FromHost message;
  *message.mutable_gang() = gang(job);
  auto* exited = message.mutable_job_ended()->mutable_exited();
  exited->set_exit_code(exit_code);
  exited->set_output_offset(output_offset);
  send(message);
}

wire::HostHello FakeHost::hello() {
  std::lock_guard lock(mutex_);
  wire::HostHello hello;
  hello.set_protocol(1);
  hello.set_host(name_);
  hello.set_address("192.0.2.1");
  hello.set_store_id("1");
  hello.set_accelerator("tcg");
  hello.set_accelerator_reason("a fake has no machines");
  hello.set_capture_mode("background-snapshot");
  hello.set_cpus(2);
  hello.set_memory_bytes(8ull << 30);
  hello.set_memory_free_bytes(8ull << 30);
  hello.set_image_free_bytes(1ull << 40);
  hello.set_pid(1);
  *hello.mutable_store() = store_figures();
  for (const auto& [job, guests] : guests_) {
    if (guests.empty()) continue;
    auto* presence = hello.add_gangs();
    *presence->mutable_gang() = gangs_[job];
    for (auto guest : guests) presence->add_guests(guest);
  }
  return hello;
}

void FakeHost::take(const std::string& payload) {
  wire::ToHost request;
  if (!request.ParseFromString(payload)) return;
  wire::FromHost reply;
  bool send_reply = false;
  Edit edit;
  {
    std::lock_guard lock(mutex_);
    ++counts_[request.body_case()];
    send_reply = answer(request, reply);
    edit = edit_;
  }
  reply.set_request(request.request());
  *reply.mutable_gang() = request.gang();
  reply.set_epoch(request.epoch());
  if (send_reply && edit) send_reply = edit(request, reply);
  if (send_reply) impl_->session->send(reply.SerializeAsString());
  if (request.has_capture() && send_reply && !reply.has_failure()) {
    wire::FromHost images;
    *images.mutable_gang() = request.gang();
    images.set_epoch(request.epoch());
    for (const auto& captured : reply.capture().guests()) {
      auto* image = images.mutable_images()->add_images();
      image->set_guest(captured.guest());
      image->mutable_memory()->set_path("h1/" + request.gang().job() + "/e1/guest-0.ram");
      image->mutable_memory()->add_copies("dir:1");
      image->mutable_memory()->set_raw_bytes(512u << 20);
      image->mutable_memory()->set_stored_bytes(50u << 20);
      image->mutable_disk()->set_path("h1/" + request.gang().job() + "/e1/guest-0.disk");
      image->mutable_disk()->add_copies("dir:1");
      image->mutable_disk()->set_raw_bytes(1000);
      image->mutable_disk()->set_stored_bytes(100);
      image->set_domain_xml("<domain/>");
    }
    impl_->session->send(images.SerializeAsString());
  }
  std::lock_guard lock(mutex_);
  changed_.notify_all();
}

// Under the mutex. False: this message has no answer.
bool FakeHost::answer(const wire::ToHost& request, wire::FromHost& reply) {
  const std::string& job = request.gang().job();
  auto& mine = guests_[job];
  auto cut_of = [&](std::uint32_t guest) {
    wire::GuestCut cut;
    cut.set_guest(guest);
    if (guest == 0) cut.set_output_offset(output_[job]);
    return cut;
  };
  switch (request.body_case()) {
    case wire::ToHost::kWelcome:
    case wire::ToHost::BODY_NOT_SET: return false;
    case wire::ToHost::kAckOutput: acknowledged_ = request.ack_output().offset(); return false;
    case wire::ToHost::kPing:
      reply.mutable_pong()->set_number(request.ping().number());
      reply.mutable_pong()->set_memory_free_bytes(8ull << 30);
      reply.mutable_pong()->set_image_free_bytes(1ull << 40);
      *reply.mutable_pong()->mutable_store() = store_figures();
      return true;
    case wire::ToHost::kStartGuests:
      gangs_[job] = request.gang();
      mine.clear();
      for (auto guest : request.start_guests().guests()) mine.insert(guest);
      reply.mutable_guests_started();
      return true;
    case wire::ToHost::kRestore:
      gangs_[job] = request.gang();
      mine.clear();
      for (const auto& image : request.restore().images()) mine.insert(image.guest());
      reply.mutable_done();
      return true;
    case wire::ToHost::kPutFile: {
      const auto& piece = request.put_file().piece();
      auto& file = files_[piece.path()];
      file.resize(piece.offset());
      file += piece.data();
      reply.mutable_done();
      return true;
    }
    case wire::ToHost::kFetchFile: {
      auto* data = reply.mutable_file()->mutable_data();
      data->set_data("content of " + request.fetch_file().read().path());
      data->set_size(data->data().size());
      data->set_end(true);
      return true;
    }
    case wire::ToHost::kClose:
    case wire::ToHost::kCount:
      for (auto guest : mine) {
        auto* round = reply.mutable_round()->add_guests();
        round->set_guest(guest);
        round->mutable_figures();
      }
      return true;
    case wire::ToHost::kFreeze:
      for (auto guest : mine) *reply.mutable_cut()->add_guests() = cut_of(guest);
      return true;
    case wire::ToHost::kExamine:
    case wire::ToHost::kPrepareCapture:
    case wire::ToHost::kCopyImages:
    case wire::ToHost::kKeepRecord: reply.mutable_done(); return true;
    case wire::ToHost::kReadRecords: reply.mutable_records(); return true;
    case wire::ToHost::kCapture:
      for (auto guest : mine) reply.mutable_capture()->add_guests()->set_guest(guest);
      return true;
    case wire::ToHost::kRelease: reply.mutable_release()->set_held(true); return true;
    case wire::ToHost::kCheckLinks:
      for (auto guest : mine) {
        auto* links = reply.mutable_links()->add_guests();
        links->set_guest(guest);
        for (std::uint32_t other = 0; other < 2; ++other)
          if (other != guest) links->mutable_links()->add_reached(other);
        *links->mutable_links()->mutable_cut() = cut_of(guest);
      }
      return true;
    case wire::ToHost::kDestroy:
      mine.clear();
      reply.mutable_done();
      return true;
    case wire::ToHost::kQuery:
      for (auto guest : mine) {
        auto* rank = reply.mutable_ranks()->add_ranks();
        rank->set_rank(guest);
        rank->set_guest(guest);
        rank->set_state(wire::RankReport::IN_CALL);
        rank->set_call("MPI_Barrier");
      }
      return true;
    case wire::ToHost::kDeleteImages: reply.mutable_done()->set_freed_bytes(1000); return true;
    case wire::ToHost::kVerifyImages:
      for (const auto& image : request.verify_images().images()) {
        auto* check = reply.mutable_verified()->add_images();
        check->set_guest(image.guest());
        check->set_bytes(image.memory().stored_bytes());
      }
      for (const auto& image : request.verify_images().object_store()) {
        auto* check = reply.mutable_verified()->add_images();
        check->set_guest(image.guest());
        check->set_object_store(true);
      }
      return true;
    case wire::ToHost::kReadImage:
      reply.mutable_image_piece()->set_data("image");
      reply.mutable_image_piece()->set_last(true);
      return true;
    case wire::ToHost::kWriteImage:
      reply.mutable_image_written();
      if (request.write_image().last()) reply.mutable_image_written()->mutable_file()->set_path(name_ + "/" + job);
      return true;
    case wire::ToHost::kKeepImages:
      *reply.mutable_images_kept()->mutable_images() = request.keep_images().images();
      return true;
    case wire::ToHost::kLaunchJob:
    case wire::ToHost::kLaunchDaemon:
    case wire::ToHost::kAnswerLaunch:
    case wire::ToHost::kReopen:
    case wire::ToHost::kThaw:
    case wire::ToHost::kResume:
    case wire::ToHost::kStop: reply.mutable_done(); return true;
  }
  return false;
}

}  // namespace stillpoint::coordinator
