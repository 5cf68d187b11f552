#include "mpi-hooks/agent/launches.h"

#include <sys/socket.h>

#include <algorithm>

#include "mpi-hooks/agent/local_socket.h"

namespace stillpoint::agent {
namespace {

// Target and argv, each ended by NUL.
bool parse(std::string_view packet, wire::LaunchRequest& request) {
  for (bool first = true; !packet.empty(); first = false) {
    const std::size_t end = packet.find('\0');
    if (end == packet.npos) return false;
    const std::string word(packet.substr(0, end));
    if (first) {
      request.set_target(word);
    } else {
      request.add_argv(word);
    }
    packet.remove_prefix(end + 1);
  }
  return !request.target().empty() && request.argv_size() > 0;
}

}  // namespace

Done Launches::listen(const std::string& path) {
  auto listener = listen_local(path);
  if (!listener.ok()) return listener.failure();
  listener_ = std::move(listener.value());
  return Nothing{};
}

void Launches::wait_for(std::vector<pollfd>& polls) const {
  polls.push_back({waiting_.size() < kMaxWaiting ? listener_.get() : -1, POLLIN, 0});
  for (const auto& [id, waiting] : waiting_) polls.push_back({waiting.fd.get(), POLLIN, 0});
}

void Launches::handle(const std::vector<pollfd>& polls) {
  const auto reported = [&](int fd) {
    const auto at = std::find_if(polls.begin(), polls.end(), [fd](const pollfd& p) { return p.fd == fd; });
    return at != polls.end() && at->revents != 0;
  };
  for (auto at = waiting_.begin(); at != waiting_.end();)
    at = reported(at->second.fd.get()) && !receive(at->second) ? waiting_.erase(at) : std::next(at);
  if (!reported(listener_.get())) return;
  for (;;) {
    Fd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd) return;
    Waiting& waiting = waiting_[next_];
    waiting.fd = std::move(fd);
    waiting.request.set_launch(next_++);
  }
}

// False: it went away, with mpirun, or makes no sense.
bool Launches::receive(Waiting& waiting) {
  std::string packet(256u << 10, '\0');
  const ssize_t n = ::recv(waiting.fd.get(), packet.data(), packet.size(), MSG_DONTWAIT);
  if (n < 0) return errno == EAGAIN || errno == EINTR;
  return n > 0 && waiting.request.target().empty() &&
         parse(std::string_view(packet).substr(0, static_cast<std::size_t>(n)), waiting.request);
}

std::vector<wire::LaunchRequest> Launches::due(Millis now) {
  std::vector<wire::LaunchRequest> requests;
  for (auto& [id, waiting] : waiting_) {
    if (waiting.request.target().empty() || now < waiting.send_at) continue;
    waiting.send_at = now + kSendAgainAfter;
    requests.push_back(waiting.request);
  }
  return requests;
}

Millis Launches::deadline() const {
  Millis first = kNever;
  for (const auto& [id, waiting] : waiting_)
    if (!waiting.request.target().empty()) first = std::min(first, waiting.send_at);
  return first;
}

void Launches::send_again() {
  for (auto& [id, waiting] : waiting_) waiting.send_at = 0;
}

void Launches::outcome(const wire::LaunchOutcome& outcome) {
  const auto at = waiting_.find(outcome.launch());
  if (at == waiting_.end()) return;
  // One packet: empty words are success, anything else is what to say before failing.
  std::string words(1, '\0');
  if (outcome.has_failure())
    words = outcome.failure().step() + " of " + outcome.failure().object() + ": " + outcome.failure().cause();
  (void)::send(at->second.fd.get(), words.data(), words.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  waiting_.erase(at);
}

}  // namespace stillpoint::agent
