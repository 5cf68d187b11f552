// stillpointd, the coordinator: one per site. Exit codes: 0 stopped by a signal, 1 it could not start, 2 wrong usage,
// 70 the catalog could not be written.
#include <sys/stat.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <iostream>

#include "common/descriptor_limit.h"
#include "common/log.h"
#include "coordinator/server.h"

namespace {

using stillpoint::coordinator::ServerOptions;
using stillpoint::coordinator::Settings;

void add_duration(CLI::App& app, const std::string& flag, std::chrono::milliseconds& target, const std::string& text) {
  app.add_option_function<std::int64_t>(
         flag, [&target](const std::int64_t& ms) { target = std::chrono::milliseconds(ms); },
         text + " [default " + std::to_string(target.count()) + "]")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{24} * 3600 * 1000))
      ->type_name("MS");
}

void add_settings(CLI::App& app, Settings& settings) {
  add_duration(app, "--heartbeat-ms", settings.heartbeat, "Time between signs of life");
  add_duration(app, "--lease-ms", settings.lease, "A host that hears nothing for so long destroys its gangs");
  add_duration(app, "--start-deadline-ms", settings.start_deadline,
               "For a job's guests to boot and its program to start");
  add_duration(app, "--drain-deadline-ms", settings.drain_deadline, "For a job to come to its still point");
  add_duration(app, "--hold-ms", settings.hold, "Hosts let a held job go by themselves after it");
  add_duration(app, "--prepare-deadline-ms", settings.prepare_deadline,
               "For memory to be copied beforehand, while the job works");
  add_duration(app, "--capture-deadline-ms", settings.capture_deadline, "For all guests to be captured");
  add_duration(app, "--upload-deadline-ms", settings.upload_deadline, "For all images to be durable");
  add_duration(app, "--restore-deadline-ms", settings.restore_deadline, "For all guests to be restored");
  add_duration(app, "--link-deadline-ms", settings.link_deadline, "For the restored guests to reach one another");
  app.add_option("--verify-attempts", settings.verify_attempts, "Looks at the cut before a checkpoint is given up")
      ->check(CLI::Range(1u, 100u))
      ->capture_default_str();
}

// What became of the catalog that was asked to be put back or made anew; the coordinator is then started as ever.
int report(const stillpoint::Result<stillpoint::coordinator::PutBack>& done, const char* what, const char* next) {
  if (!done) {
    stillpoint::log_error(what, {{"cause", done.error().message()}});
    return 1;
  }
  stillpoint::log_info(
      what, {{"id", done->coordinator}, {"jobs", done->jobs}, {"aside", done->aside.string()}, {"next", next}});
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Stillpoint's coordinator: checkpoints and restarts the site's MPI jobs.", "stillpointd");
  ServerOptions options;
  std::string log_level = "info";
  std::filesystem::path backup;
  bool anew = false;
  app.set_version_flag("--version", STILLPOINT_VERSION);
  app.add_option("--state", options.state, "Directory for catalog, spools and output")->required();
  app.add_option("--api-socket", options.api_socket,
                 "Unix socket of the API [default: api.sock in the state directory]");
  app.add_option("--listen", options.listen, "ADDR:PORT where the hosts connect");
  app.add_option("--tls", options.tls, "Directory with ca.pem, cert.pem (named \"coordinator\") and key.pem");
  app.add_option("--restore-catalog", backup,
                 "Put this backup in the catalog's place, keep the one that is there aside, and end");
  app.add_flag("--new-catalog", anew,
               "Put an empty catalog in its place, which knows of no job or checkpoint, keep the one that is there "
               "aside, and end")
      ->excludes("--restore-catalog");
  app.add_option("--log-level", log_level, "debug, info, warn or error")
      ->check(CLI::IsMember({"debug", "info", "warn", "error"}))
      ->capture_default_str();
  add_settings(app, options.settings);
  try {
    app.parse(argc, argv);
    const bool starts = backup.empty() && !anew;
    if (starts && (options.listen.empty() || options.tls.empty())) throw CLI::RequiredError("--listen and --tls");
    if (options.settings.lease < 3 * options.settings.heartbeat)
      throw CLI::ValidationError("--lease-ms", "must be at least three times --heartbeat-ms");
  } catch (const CLI::ParseError& problem) {
    return app.exit(problem) == 0 ? 0 : 2;
  }
  stillpoint::set_log_level(log_level);
  std::signal(SIGPIPE, SIG_IGN);
  ::umask(077);
  if (!backup.empty())
    return report(stillpoint::coordinator::put_catalog_back(options.state, backup), "catalog put back",
                  "start the coordinator; when the hosts are up, and before a job is restarted, take in what was "
                  "committed since: stillpoint catalog rebuild");
  if (anew)
    return report(stillpoint::coordinator::make_catalog_anew(options.state), "catalog made anew",
                  "start the coordinator; when the hosts are up, take in what they have records of: stillpoint catalog "
                  "rebuild");
  stillpoint::raise_descriptor_limit();  // one for each host and client
  auto server = stillpoint::coordinator::Server::open(options);
  if (!server) {
    stillpoint::log_error("the coordinator cannot start", {{"cause", server.error().message()}});
    return 1;
  }
  (*server)->run(true);
  server->reset();
  stillpoint::log_info("coordinator has stopped");
  return 0;
}
