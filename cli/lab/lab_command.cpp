#include "cli/lab/lab_command.h"

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>

#include "cli/command.h"
#include "cli/lab/lab.h"

namespace stillpoint::cli {
namespace {

using lab::Lab;
using nlohmann::json;

// What the command line said; shared by the subcommands' callbacks, which outlive add_lab_command().
struct Arguments {
  std::string directory = lab::kDefaultDirectory;
  unsigned hosts = 3;
  std::string host;
  lab::LabOptions options;
};

struct Answer {
  json document;     // --json
  std::string text;  // otherwise
};

int fail(CommandContext& context, const Error& error) {
  int code = kFailed;
  if (error.kind == ErrorKind::not_found && error.step == "find laboratory") code = kNoCoordinator;
  if (error.kind == ErrorKind::not_found && error.step == "find host") code = kNotFound;
  return report(context, Failure{error, code});
}

int run(CommandContext& context, const std::string& directory, const std::function<Result<Answer>(Lab&)>& command) {
  auto opened = Lab::open(directory);
  if (!opened) return fail(context, opened.error());
  auto answer = command(*opened);
  if (!answer) return fail(context, answer.error());
  if (context.json) print_json(context, answer->document);
  else context.out << answer->text << std::endl;
  return kDone;
}

Result<Answer> do_up(Lab& opened, const Arguments& arguments) {
  auto made = opened.up(arguments.hosts, arguments.options);
  if (!made) return made.error();
  std::string text = "The laboratory is up:";
  for (const auto& host : made->at("hosts")) text += " " + host.at("name").get<std::string>();
  return Answer{*made, text + "\nserver " + made->at("server").get<std::string>()};
}

Result<Answer> do_status(Lab& opened) {
  auto found = opened.status();
  if (!found) return found.error();
  const auto line = [](const std::string& name, const json& of) {
    return name + "  " + of.at("state").get<std::string>() + "  pid " + of.at("pid").dump() + "  " +
           of.at("address").get<std::string>();
  };
  std::string text = line("coordinator", found->at("coordinator"));
  for (const auto& host : found->at("hosts")) text += "\n" + line(host.at("name").get<std::string>(), host);
  return Answer{*found, text};
}

Result<Answer> done(const Status& status, const json& document, const std::string& text) {
  if (!status) return status.error();
  return Answer{document, text};
}

}  // namespace

void add_lab_command(CLI::App& app, CommandContext& context) {
  auto shared = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("lab", "A coordinator and several hosts on this machine, to try things out");
  command->require_subcommand(1);
  const auto add = [&](const char* name, const char* help, std::function<Result<Answer>(Lab&, const Arguments&)> act) {
    CLI::App* sub = command->add_subcommand(name, help);
    sub->add_option("--dir", shared->directory, "The laboratory's directory")->capture_default_str();
    sub->callback([shared, act = std::move(act), &context] {
      context.action = [shared, act, &context] {
        return run(context, shared->directory, [&](Lab& opened) { return act(opened, *shared); });
      };
    });
    return sub;
  };
  const auto add_for_host = [&](const char* name, const char* help, const char* said,
                                std::function<Status(Lab&, const std::string&)> act) {
    add(name, help,
        [act = std::move(act), said](Lab& opened, const Arguments& a) {
          return done(act(opened, a.host), {{"host", a.host}}, a.host + " " + said);
        })
        ->add_option("host", shared->host, "Name of the host")
        ->required();
  };

  CLI::App* up = add("up", "Make and start it", do_up);
  up->add_option("--hosts", shared->hosts, "How many hosts")
      ->capture_default_str()
      ->check(CLI::Range(1u, lab::kMaxHosts));
  up->add_option("--lease-ms", shared->options.lease_ms, "How long a silent host is waited for");
  up->add_flag("--own-images", shared->options.own_images,
               "Each host keeps checkpoints in its own directory, with copies at others, and kill-host takes them");
  up->add_option("--images-dir", shared->options.images, "Where checkpoints go, instead of inside the laboratory");
  up->add_option("--guest-image", shared->options.guest_image, "Directory of the guest image");
  up->add_option("--programs", shared->options.programs, "Directory of stillpointd and stillpoint-node");
  up->add_option("--node-arg", shared->options.node_args, "One more argument for every node daemon (--node-arg=--x)")
      ->allow_extra_args(false);
  up->add_option("--coordinator-arg", shared->options.coordinator_args, "One more argument for the coordinator")
      ->allow_extra_args(false);
  add("status", "What runs", [](Lab& opened, const Arguments&) { return do_status(opened); });
  add("down", "Stop it all and leave nothing behind", [](Lab& opened, const Arguments&) -> Result<Answer> {
    auto text = opened.down();
    if (!text) return text.error();
    return Answer{json{{"down", true}}, *text};
  });
  add("start-coordinator", "Start the coordinator again after it died", [](Lab& opened, const Arguments&) {
    return done(opened.start_coordinator(), json::object(), "The coordinator runs.");
  });
  add_for_host("kill-host", "Power loss: all that runs there dies at once, its directory is gone", "is dead",
               [](Lab& opened, const std::string& host) { return opened.kill_host(host); });
  add_for_host("start-host", "Bring a dead host back, empty, or start its daemon again if only that died", "runs",
               [](Lab& opened, const std::string& host) { return opened.start_host(host); });
  add_for_host("partition", "Pull the host's network cable", "is cut off",
               [](Lab& opened, const std::string& host) { return opened.partition(host, true); });
  add_for_host("heal", "Plug the host's network cable in again", "is back on the network",
               [](Lab& opened, const std::string& host) { return opened.partition(host, false); });
}

}  // namespace stillpoint::cli
