// Asks the coordinator: HTTP and JSON over its unix socket (docs/protocol.md). One connection for each question, so a
// client may be used again after the coordinator was started anew. Blocking, each call with a deadline; one thread per
// client, any number of clients.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "cli/command.h"

namespace stillpoint::cli {

inline constexpr std::chrono::seconds kShort{30};   // answers that wait for nothing but the coordinator
inline constexpr std::chrono::seconds kLong{3600};  // checkpoints, restarts, files

struct HttpAnswer {
  unsigned status = 0;
  std::string body;
  std::map<std::string, std::string> headers;  // names in lower case
};

class ApiClient {
 public:
  explicit ApiClient(std::filesystem::path socket) : socket_(std::move(socket)) {}

  // Any answer, whatever its status. Fails only when there was none: exit code 3 when the coordinator is not there or
  // went away.
  Called<HttpAnswer> ask(const std::string& method, const std::string& target, const std::string& body,
                         std::chrono::milliseconds deadline) const;
  // The JSON of an answer with status 2xx; other answers become the Failure that they describe.
  Called<nlohmann::json> get(const std::string& target, std::chrono::milliseconds deadline = kShort) const;
  Called<nlohmann::json> post(const std::string& target, const nlohmann::json& body,
                              std::chrono::milliseconds deadline = kShort) const;
  Called<nlohmann::json> remove(const std::string& target, std::chrono::milliseconds deadline = kShort) const;
  // PUT of a file's content, streamed, with its mode as X-Mode.
  Called<void> upload(const std::string& target, const std::filesystem::path& file, unsigned mode) const;
  // GET into a file that does not exist yet, streamed. On failure nothing is left of it.
  Called<void> download(const std::string& target, const std::filesystem::path& file) const;

  const std::filesystem::path& socket() const { return socket_; }

 private:
  std::filesystem::path socket_;
};

// The Failure that an answer with an error status tells of; step and object say what was asked.
Failure failure_in(const HttpAnswer& answer, const std::string& target);

// text as one segment of a URL's path.
std::string url_segment(std::string_view text);
// A name that may hold "/", each of its segments encoded.
std::string url_path(std::string_view text);

// The socket that --server, STILLPOINT_SERVER or the machine's own coordinator or laboratory names; a Failure with exit
// code 3 when there is none.
Called<std::filesystem::path> find_server(const std::string& server);
Called<ApiClient> connect(const CommandContext& context);

}  // namespace stillpoint::cli
