#include "coordinator/test_support/http_client.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <sstream>

namespace stillpoint::coordinator {
namespace {

// True when the reply is whole.
bool parse(const std::string& bytes, HttpReply& reply) {
  std::size_t start = 0;
  for (;;) {
    const std::size_t end = bytes.find("\r\n\r\n", start);
    if (end == std::string::npos) return false;
    reply = {};
    std::istringstream lines(bytes.substr(start, end - start));
    std::string version, line;
    lines >> version >> reply.status;
    std::getline(lines, line);
    while (std::getline(lines, line)) {
      if (!line.empty() && line.back() == '\r') line.pop_back();
      const std::size_t colon = line.find(": ");
      if (colon != std::string::npos) reply.headers[line.substr(0, colon)] = line.substr(colon + 2);
    }
    start = end + 4;
    if (reply.status != 100) break;
  }
  const std::size_t length = reply.headers.contains("Content-Length") ? std::stoul(reply.headers["Content-Length"]) : 0;
  if (bytes.size() - start < length) return false;
  reply.body = bytes.substr(start, length);
  return true;
}

}  // namespace

std::string HttpReply::error_kind() const {
  const auto document = json();
  return document.contains("error") ? document["error"].value("kind", "") : "";
}

Fd HttpClient::connect() const {
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, socket_.c_str(), sizeof address.sun_path - 1);
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) return Fd();
  return fd;
}

HttpReply HttpClient::raw(const std::string& bytes, std::chrono::milliseconds deadline) const {
  const Fd fd = connect();
  HttpReply reply;
  if (!fd) return reply;
  const auto end = std::chrono::steady_clock::now() + deadline;
  std::size_t sent = 0;
  bool writable = true;
  std::string got;
  char block[64 << 10];
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
    pollfd wait{fd.get(), POLLIN, 0};
    if (writable && sent < bytes.size()) wait.events |= POLLOUT;
    if (left.count() <= 0 || ::poll(&wait, 1, static_cast<int>(left.count())) <= 0) break;
    if ((wait.revents & (POLLIN | POLLHUP | POLLERR)) != 0) {
      const ssize_t n = ::recv(fd.get(), block, sizeof block, MSG_DONTWAIT);
      if (n > 0) got.append(block, static_cast<std::size_t>(n));
      if (n > 0 && parse(got, reply)) return reply;
      if (n == 0 || (n < 0 && errno != EAGAIN)) break;
    }
    if ((wait.revents & POLLOUT) != 0) {
      const ssize_t n = ::send(fd.get(), bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n > 0) sent += static_cast<std::size_t>(n);
      else if (errno != EAGAIN) writable = false;  // refused: the answer may still be there to read
    }
  }
  return {};
}

HttpReply HttpClient::request(const std::string& method, const std::string& target, const std::string& body,
                              const std::string& extra_headers) const {
  return raw(method + " " + target + " HTTP/1.1\r\nHost: x\r\nContent-Length: " + std::to_string(body.size()) + "\r\n" +
             extra_headers + "\r\n" + body);
}

}  // namespace stillpoint::coordinator
