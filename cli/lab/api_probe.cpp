#include "cli/lab/api_probe.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>

#include "common/fd.h"

namespace stillpoint::lab {
namespace {

constexpr std::size_t kMaxAnswer = 4u << 20;

Result<Fd> connect_to(const std::filesystem::path& socket) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = socket.string();
  if (path.size() >= sizeof address.sun_path)
    return Error{ErrorKind::permanent, "connect", path, "too long for a socket"};
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return errno_error("connect", path, errno);
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    Error error = errno_error("connect", path, errno);
    error.kind = ErrorKind::transient;
    return error;
  }
  return fd;
}

}  // namespace

Result<nlohmann::json> api_get(const std::filesystem::path& socket, const std::string& path,
                               std::chrono::milliseconds deadline) {
  const auto end = std::chrono::steady_clock::now() + deadline;
  auto fd = connect_to(socket);
  if (!fd) return fd.error();
  const std::string request = "GET " + path + " HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n";
  if (::send(fd->get(), request.data(), request.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(request.size()))
    return Error{ErrorKind::transient, "ask", path, "the coordinator did not take the request"};
  std::string answer;
  for (;;) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now()).count();
    pollfd readable{fd->get(), POLLIN, 0};
    if (left <= 0 || ::poll(&readable, 1, static_cast<int>(left)) == 0)
      return Error{ErrorKind::transient, "ask", path, "the coordinator did not answer in time"};
    char block[16 << 10];
    const ssize_t n = ::read(fd->get(), block, sizeof block);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Error{ErrorKind::transient, "ask", path, std::strerror(errno)};
    if (n == 0) break;
    answer.append(block, static_cast<std::size_t>(n));
    if (answer.size() > kMaxAnswer) return Error{ErrorKind::permanent, "ask", path, "the answer is too long"};
  }
  const auto body = answer.find("\r\n\r\n");
  if (body == std::string::npos || !answer.starts_with("HTTP/1.1 200"))
    return Error{ErrorKind::transient, "ask", path, "answered " + answer.substr(0, answer.find('\r'))};
  auto document =
      nlohmann::json::parse(answer.begin() + static_cast<std::ptrdiff_t>(body) + 4, answer.end(), nullptr, false);
  if (document.is_discarded()) return Error{ErrorKind::permanent, "ask", path, "the answer is not JSON"};
  return document;
}

}  // namespace stillpoint::lab
