#include "coordinator/server.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cerrno>
#include <csignal>
#include <optional>

#include "common/log.h"
#include "coordinator/api/http_server.h"
#include "coordinator/driver/driver.h"
#include "coordinator/files/below.h"
#include "coordinator/net/host_sessions.h"

namespace stillpoint::coordinator {
namespace {

namespace asio = boost::asio;

constexpr std::chrono::milliseconds kLastWords{300};  // for what is still on its way to hosts and clients at a stop

Result<Fd> lock_state(const std::filesystem::path& state) {
  const auto path = state / "lock";
  Fd lock(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!lock) return errno_error("opening", path.string(), errno);
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) == 0) return lock;
  if (errno != EWOULDBLOCK) return errno_error("lock", path.string(), errno);
  return Error{ErrorKind::refused, "lock", state.string(), "another coordinator is running on this state directory"};
}

}  // namespace

Result<PutBack> put_catalog_back(const std::filesystem::path& state, const std::filesystem::path& backup) {
  if (auto made = make_private_directory(state); !made) return made.error();
  const auto locked = lock_state(state);
  if (!locked) return locked.error();
  return restore_catalog(state, backup);
}

Result<PutBack> make_catalog_anew(const std::filesystem::path& state) {
  if (auto made = make_private_directory(state); !made) return made.error();
  const auto locked = lock_state(state);
  if (!locked) return locked.error();
  return begin_anew(state);
}

// Members in the order in which they may use one another; destroyed the other way round.
struct Server::Impl {
  Impl(const std::filesystem::path& state) : spools(state / "spool"), files(state / "jobs", spools) {}

  Status open(const ServerOptions& options);
  void shut_down();

  Fd lock;
  Spools spools;
  JobFiles files;
  asio::io_context io{1};  // after the spools: what it still holds when it goes may be an upload
  std::optional<Driver> driver;
  std::optional<Api> api;
  std::unique_ptr<HostSessions> sessions;
  std::unique_ptr<HttpServer> http;
  bool stopping = false;
};

Status Server::Impl::open(const ServerOptions& options) {
  auto locked = lock_state(options.state);
  if (!locked) return locked.error();
  lock = std::move(*locked);
  auto tls = net::TlsContext::load(options.tls, net::TlsRole::coordinator);
  if (!tls) return tls.error();
  auto catalog = Catalog::open(options.state / "catalog.db");
  if (!catalog) return catalog.error();
  auto state = catalog->load();
  if (!state) return state.error();

  std::set<std::string> owned;
  std::set<JobId> jobs;
  for (const auto& [id, job] : state->jobs) {
    owned.insert(job.spool);
    jobs.insert(id);
  }
  if (auto opened = spools.open(owned); !opened) return opened;
  // What a catalog that was lost had is nobody's to remove.
  const auto is_lost = [&](const JobId& id) {
    const auto number = number_of(id);
    return number && (*number >= state->next_job || was_lost(*state, *number));
  };
  if (auto opened = files.open(jobs, is_lost); !opened) return opened;

  const std::string identity = state->coordinator;
  driver.emplace(options.settings, std::move(*catalog), std::move(*state), files);
  api.emplace(*driver, files, spools, options.state / "catalog.db", Api::Limits{});
  auto listening = HostSessions::listen(io.get_executor(), *tls, options.listen, HostLimits{},
                                        [this](std::vector<Delivery> events) { driver->post(std::move(events)); });
  if (!listening) return listening.error();
  sessions = std::move(*listening);
  const auto socket = options.api_socket.empty() ? options.state / "api.sock" : options.api_socket;
  std::error_code exists;
  if (socket.has_parent_path() && !std::filesystem::exists(socket.parent_path(), exists))
    if (auto made = make_private_directory(socket.parent_path()); !made) return made;
  auto serving = HttpServer::listen(io.get_executor(), *api, socket, HttpLimits{});
  if (!serving) return serving.error();
  http = std::move(*serving);

  files.start([this](Event event) { driver->post(std::move(event)); });
  driver->start({[this](const Send& send) { sessions->send(send.host, send.session, send.message, send.common); },
                 [this](const HostName& host, SessionId session, const std::string& why) {
                   sessions->close_session(host, session, why);
                 }});
  log_info("coordinator is ready", {{"id", identity},
                                    {"version", STILLPOINT_VERSION},
                                    {"port", sessions->port()},
                                    {"api", socket.string()},
                                    {"jobs", jobs.size()}});
  return {};
}

// On the io thread. Work under way is left as a crash would leave it: the next start settles it.
void Server::Impl::shut_down() {
  if (std::exchange(stopping, true)) return;
  log_info("coordinator is stopping");
  http->stop();
  sessions->stop();
  auto timer = std::make_shared<asio::steady_timer>(io, kLastWords);
  timer->async_wait([this, timer](boost::system::error_code) { io.stop(); });
}

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Server::~Server() {
  if (impl_->http) impl_->http->stop();
  if (impl_->driver) impl_->driver->stop();
  impl_->files.stop();
}

Result<std::unique_ptr<Server>> Server::open(const ServerOptions& options) {
  if (auto made = make_private_directory(options.state); !made) return made.error();
  std::unique_ptr<Server> server(new Server(std::make_unique<Impl>(options.state)));
  if (auto opened = server->impl_->open(options); !opened) return opened.error();
  return server;
}

void Server::run(bool signals) {
  std::optional<asio::signal_set> ending;
  if (signals) {
    ending.emplace(impl_->io, SIGTERM, SIGINT);
    ending->async_wait([this](boost::system::error_code cancelled, int) {
      if (!cancelled) impl_->shut_down();
    });
  }
  const auto work = asio::make_work_guard(impl_->io);
  impl_->io.run();
}

void Server::stop() {
  asio::post(impl_->io, [this] { impl_->shut_down(); });
}

std::uint16_t Server::port() const { return impl_->sessions->port(); }

}  // namespace stillpoint::coordinator
