#include "mpi-hooks/agent/gang.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstdio>

namespace stillpoint::agent {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

std::uint64_t wall_clock_ns() {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch())
          .count());
}

}  // namespace

int Guest::fd() {
  if (!link_) link_ = connect();
  return link_.get();
}

void Guest::reconnect() {
  link_.reset();
  reader_ = FrameReader();
  link_ = connect();
}

bool Guest::send(const wire::GuestRequest& request) {
  const int link = fd();
  const std::string frame = encode_frame(request.SerializeAsString());
  for (std::size_t done = 0; link >= 0 && done < frame.size();) {
    const ssize_t n = ::send(link, frame.data() + done, frame.size() - done, MSG_NOSIGNAL);
    if (n <= 0) return false;
    done += static_cast<std::size_t>(n);
  }
  return link >= 0;
}

std::optional<wire::FromGuest> Guest::receive() {
  for (;;) {
    if (auto payload = reader_.next()) {
      wire::FromGuest message;
      if (message.ParseFromString(*payload)) return message;
      continue;
    }
    std::array<char, 65536> bytes;
    const ssize_t n = ::recv(fd(), bytes.data(), bytes.size(), MSG_DONTWAIT);
    if (n <= 0) return std::nullopt;
    reader_.feed({bytes.data(), static_cast<std::size_t>(n)});
  }
}

std::string Gang::address(unsigned guest) { return "10.99.0." + std::to_string(guest + 1); }

std::string Gang::mac(unsigned guest) {
  std::array<char, 18> text;
  std::snprintf(text.data(), text.size(), "52:54:00:99:00:%02x", (guest + 1) & 0xff);
  return text.data();
}

bool Gang::configure(const std::string& workdir, bool clock) {
  const auto replies = ask_all(
      [&](unsigned guest) {
        wire::GuestRequest request;
        wire::ConfigureGuest& configure = *request.mutable_configure();
        configure.set_guest(guest);
        configure.set_prefix_length(16);
        configure.set_workdir(workdir);
        configure.set_mtu(1450);
        if (clock) configure.set_wall_clock_ns(wall_clock_ns());
        for (unsigned other = 0; other < size(); ++other) {
          wire::Neighbour& n = *configure.add_gang();
          n.set_guest(other);
          n.set_name(guest_name(other));
          n.set_ip(address(other));
          n.set_mac(mac(other));
        }
        return request;
      },
      milliseconds(10'000));
  return replies && std::none_of(replies->begin(), replies->end(), [](const auto& r) { return r.has_failure(); });
}

bool Gang::all_said_hello() const {
  return std::all_of(hellos_.begin(), hellos_.end(), [](const auto& hello) { return hello.has_value(); });
}

std::uint64_t Gang::send(unsigned guest, wire::GuestRequest request) {
  request.set_id(next_id_);
  request.mutable_gang()->set_job("j1");
  if (request.gang().incarnation() == 0) request.mutable_gang()->set_incarnation(incarnation);
  if (request.epoch() == 0) request.set_epoch(epoch);
  request.set_lease_ms(lease_ms);
  guests_[guest]->send(request);
  return next_id_++;
}

std::optional<wire::GuestReply> Gang::ask(unsigned guest, wire::GuestRequest request, milliseconds deadline) {
  const std::uint64_t id = send(guest, std::move(request));
  if (!serve_until([&] { return replies_.contains(id); }, deadline)) return std::nullopt;
  return std::move(replies_.extract(id).mapped());
}

std::optional<std::vector<wire::GuestReply>> Gang::ask_all(const std::function<wire::GuestRequest(unsigned)>& request,
                                                           milliseconds deadline) {
  std::vector<std::uint64_t> ids;
  for (unsigned guest = 0; guest < size(); ++guest) ids.push_back(send(guest, request(guest)));
  const auto all_there = [&] {
    return std::all_of(ids.begin(), ids.end(), [&](std::uint64_t id) { return replies_.contains(id); });
  };
  if (!serve_until(all_there, deadline)) return std::nullopt;
  std::vector<wire::GuestReply> replies;
  for (std::uint64_t id : ids) replies.push_back(std::move(replies_.extract(id).mapped()));
  return replies;
}

bool Gang::serve_until(const std::function<bool()>& condition, milliseconds deadline) {
  const auto end = Clock::now() + deadline;
  while (!condition()) {
    const auto left = std::chrono::ceil<milliseconds>(end - Clock::now());
    if (left.count() <= 0) return false;
    serve(std::min(left, milliseconds(20)));
  }
  return true;
}

void Gang::tell_of_lease() {
  for (unsigned guest = 0; guest < size(); ++guest) {
    wire::GuestRequest request;
    request.mutable_host_lease();
    send(guest, std::move(request));
  }
}

void Gang::serve(milliseconds wait) {
  std::vector<pollfd> polls;
  for (auto& guest : guests_) polls.push_back({guest->fd(), POLLIN, 0});
  ::poll(polls.data(), polls.size(), static_cast<int>(wait.count()));
  for (unsigned guest = 0; guest < size(); ++guest) {
    if (polls[guest].revents == 0) continue;
    while (auto message = guests_[guest]->receive()) take(guest, std::move(*message));
  }
}

void Gang::take(unsigned guest, wire::FromGuest message) {
  switch (message.body_case()) {
    case wire::FromGuest::kHello: hellos_[guest] = message.hello(); return;
    case wire::FromGuest::kExited: exited_ = message.exited(); return;
    case wire::FromGuest::kOutput: {
      const wire::Output& piece = message.output();
      if (piece.offset() <= output_.size() && piece.offset() + piece.data().size() > output_.size())
        output_.append(piece.data().substr(output_.size() - piece.offset()));
      wire::GuestRequest ack;
      ack.mutable_output_ack()->set_offset(output_.size());
      send(guest, std::move(ack));
      return;
    }
    case wire::FromGuest::kLaunch: {
      ++launches_;
      wire::GuestRequest start;
      start.mutable_start_daemon()->set_launch(message.launch().launch());
      *start.mutable_start_daemon()->mutable_argv() = message.launch().argv();
      unsigned target = 0;
      while (target + 1 < size() && message.launch().target() != guest_name(target)) ++target;
      relayed_[send(target, std::move(start))] = message.launch().launch();
      return;
    }
    case wire::FromGuest::kReply: {
      const auto relay = relayed_.find(message.reply().id());
      if (relay == relayed_.end()) {
        replies_[message.reply().id()] = std::move(*message.mutable_reply());
        return;
      }
      wire::GuestRequest outcome;
      outcome.mutable_launch_outcome()->set_launch(relay->second);
      if (message.reply().has_failure())
        *outcome.mutable_launch_outcome()->mutable_failure() = message.reply().failure();
      relayed_.erase(relay);
      send(0, std::move(outcome));
      return;
    }
    case wire::FromGuest::kRankFailed: failed_ranks_.push_back(message.rank_failed()); return;
    case wire::FromGuest::kRankWish: return;  // nobody here takes checkpoints because a program asks
    case wire::FromGuest::BODY_NOT_SET: return;
  }
}

bool Gang::put_file(unsigned guest, const std::string& name, const std::string& content, unsigned mode) {
  constexpr std::size_t kPiece = 256u << 10;
  for (std::size_t offset = 0;; offset += kPiece) {
    wire::GuestRequest request;
    wire::PutFile& piece = *request.mutable_put_file();
    piece.set_path(name);
    piece.set_mode(mode);
    piece.set_offset(offset);
    piece.set_data(content.substr(offset, kPiece));
    piece.set_last(offset + kPiece >= content.size());
    const bool last = piece.last();
    const auto reply = ask(guest, std::move(request), milliseconds(10'000));
    if (!reply || reply->has_failure()) return false;
    if (last) return true;
  }
}

std::string Gang::problem() {
  std::string text;
  for (unsigned guest = 0; guest < size(); ++guest)
    text += guest_name(guest) + ": " + (guests_[guest] ? guests_[guest]->story() : "not there") + "\n";
  return text + "output: " + output_ + "\n";
}

}  // namespace stillpoint::agent
