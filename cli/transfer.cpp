// export, import: a checkpoint as one file that another site can restore.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/api_client.h"
#include "cli/command.h"
#include "cli/commands.h"
#include "cli/export/export_file.h"
#include "cli/export/interrupts.h"
#include "cli/export/new_file.h"
#include "cli/text.h"
#include "common/random_id.h"

namespace stillpoint::cli {
namespace {

using nlohmann::json;

constexpr std::chrono::minutes kPiece{2};

struct Arguments {
  std::string job, file, name, passphrase_file;
  std::vector<std::string> rest;
  bool plain = false;
};

Failure failed(const Error& error) { return {error, kFailed}; }

Called<std::string> bytes_at(const ApiClient& client, const std::string& target, bool& last) {
  auto answer = client.ask("GET", target, "", kPiece);
  if (!answer) return answer.error();
  if (answer->status != 200) return failure_in(*answer, target);
  const auto mark = answer->headers.find("x-last");
  if (mark == answer->headers.end())
    return Failure{
        {ErrorKind::permanent, "read", target, "the coordinator's answer does not say whether more follows"}};
  last = mark->second == "1";
  return std::move(answer->body);
}

// One image, or the output, piece by piece.
Called<std::uint64_t> export_image(const ApiClient& client, const std::string& target, ExportWriter& writer,
                                   const Interrupts& interrupts) {
  std::uint64_t offset = 0;
  for (bool last = false; !last;) {
    if (auto going = interrupts.check(); !going) return failed(going.error());
    auto bytes = bytes_at(client, fmt::format("{}?offset={}", target, offset), last);
    if (!bytes) return bytes.error();
    if (bytes->empty() && !last)
      return Failure{{ErrorKind::permanent, "read", target, "the coordinator gave nothing, and more is to follow"}};
    if (auto written = writer.data(*bytes); !written) return failed(written.error());
    offset += bytes->size();
  }
  if (auto ended = writer.image_end(); !ended) return failed(ended.error());
  return offset;
}

struct Figures {
  std::uint64_t raw = 0, file = 0;
};

Called<Figures> export_all(const ApiClient& client, const json& description, ExportWriter& writer,
                           const Interrupts& interrupts) {
  if (auto put = writer.description(description.dump()); !put) return failed(put.error());
  const std::string base = fmt::format("/v1/jobs/{}/export/{}", url_segment(description.at("job").get<std::string>()),
                                       description.at("epoch").get<std::uint64_t>());
  std::vector<std::string> images;
  for (const auto& guest : description.at("guests"))
    for (const char* part : {"memory", "disk"})
      images.push_back(fmt::format("/guests/{}/{}", guest.at("guest").get<std::uint64_t>(), part));
  images.emplace_back("/output");
  Figures figures;
  for (const auto& image : images) {
    auto bytes = export_image(client, base + image, writer, interrupts);
    if (!bytes) return bytes.error();
    figures.raw += *bytes;
  }
  if (auto finished = writer.finish(); !finished) return failed(finished.error());
  figures.file = writer.bytes();
  return figures;
}

// "[EPOCH] FILE", as the command line has it.
Called<std::uint64_t> epoch_in(Arguments& arguments) {
  arguments.file = arguments.rest.back();
  std::uint64_t epoch = 0;
  if (arguments.rest.size() == 1) return epoch;
  const std::string& text = arguments.rest.front();
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), epoch);
  if (parsed.ec == std::errc{} && parsed.ptr == text.data() + text.size() && epoch > 0) return epoch;
  return Failure{{ErrorKind::refused, "export", text, "expected the number of a checkpoint"}, kWrongUsage};
}

Called<std::optional<std::string>> passphrase_of(const Arguments& arguments) {
  if (arguments.plain) return std::optional<std::string>();
  if (arguments.passphrase_file.empty())
    return Failure{{ErrorKind::refused, "export", arguments.job,
                    "the file would hold the guests' memory: give the passphrase to seal it with as --passphrase-file "
                    "FILE, or say --plain"},
                   kWrongUsage};
  auto text = read_passphrase(arguments.passphrase_file);
  if (!text) return failed(text.error());
  return std::optional<std::string>(std::move(*text));
}

Called<json> export_checkpoint(CommandContext& context, Arguments& arguments) {
  auto epoch = epoch_in(arguments);
  if (!epoch) return epoch.error();
  auto passphrase = passphrase_of(arguments);
  if (!passphrase) return passphrase.error();
  if (context.json && arguments.file == "-")
    return Failure{{ErrorKind::refused, "export", "-", "standard output cannot take both the file and --json"},
                   kWrongUsage};
  auto client = connect(context);
  if (!client) return client.error();
  const std::string target = "/v1/jobs/" + url_segment(arguments.job) + "/export";
  const auto description = client->get(*epoch == 0 ? target : fmt::format("{}?epoch={}", target, *epoch));
  if (!description) return description.error();
  const Interrupts interrupts;
  auto file = NewFile::create(arguments.file);
  if (!file) return failed(file.error());
  auto salt = random_id();  // 32 digits of 16 random bytes: half of them will do
  if (!salt) return failed(salt.error());
  auto writer = ExportWriter::begin([&](std::string_view bytes) { return file->write(bytes); }, *passphrase,
                                    sha256(*salt).substr(0, 16));
  if (!writer) return failed(writer.error());
  auto figures = export_all(*client, *description, *writer, interrupts);
  if (!figures) return figures.error();
  if (auto published = file->publish(); !published) return failed(published.error());
  return json{{"job", description->at("job")}, {"epoch", description->at("epoch")},
              {"file", arguments.file},        {"bytesRaw", figures->raw},
              {"bytes", figures->file},        {"sealed", passphrase->has_value()}};
}

int run_export(CommandContext& context, Arguments& arguments) {
  const auto done = export_checkpoint(context, arguments);
  if (!done) return report(context, done.error());
  if (context.json) print_json(context, *done);
  else if (arguments.file != "-")
    context.out << fmt::format("checkpoint {} of {} exported to {}, {} in {}{}\n", cell(*done, "epoch"),
                               plain(arguments.job), plain(arguments.file),
                               human_bytes(done->at("bytesRaw").get<double>()),
                               human_bytes(done->at("bytes").get<double>()), arguments.plain ? ", not sealed" : "")
                << std::flush;
  return kDone;
}

// ---- import

// The import under way at the coordinator; taken back unless it is kept.
class Import {
 public:
  Import(const ApiClient& client, std::string job) : client_(client), job_(std::move(job)) {}
  Import(const Import&) = delete;
  Import& operator=(const Import&) = delete;
  ~Import() {
    if (!kept_) (void)client_.remove(target());
  }
  std::string target() const { return "/v1/imports/" + url_segment(job_); }
  void keep() { kept_ = true; }

 private:
  const ApiClient& client_;
  const std::string job_;
  bool kept_ = false;
};

Called<void> put(const ApiClient& client, const std::string& target, const std::string& bytes) {
  const auto answer = client.ask("PUT", target, bytes, kPiece);
  if (!answer) return answer.error();
  if (answer->status != 200) return failure_in(*answer, target);
  return {};
}

Called<void> import_image(const ApiClient& client, const std::string& target, ExportReader& reader,
                          const Interrupts& interrupts) {
  std::uint64_t offset = 0;
  for (;;) {
    if (auto going = interrupts.check(); !going) return failed(going.error());
    auto record = reader.next();
    if (!record) return failed(record.error());
    const bool last = record->kind == RecordKind::image_end;
    if (!last && record->kind != RecordKind::data)
      return failed({ErrorKind::damaged, "import", "file", "it has fewer images than it says"});
    const bool image = !target.ends_with("/output");
    if (!last || image) {
      const std::string at = fmt::format("{}?offset={}{}", target, offset, last ? "&last=1" : "");
      if (auto sent = put(client, at, record->bytes); !sent) return sent;
    }
    if (last) return {};
    offset += record->bytes.size();
  }
}

Called<json> description_in(ExportReader& reader) {
  auto record = reader.next();
  if (!record) return failed(record.error());
  auto document = json::parse(record->bytes, nullptr, false);
  const bool usable = document.is_object() && document.contains("guests") && document["guests"].is_array();
  if (record->kind != RecordKind::description || !usable)
    return failed({ErrorKind::damaged, "import", "file", "it has no description of a checkpoint"});
  for (const auto& guest : document["guests"])
    if (!guest.is_object() || !guest.contains("guest") || !guest["guest"].is_number_unsigned())
      return failed({ErrorKind::damaged, "import", "file", "its description names guests without a number"});
  std::error_code unknown;  // then the outputs have nowhere to go back to by themselves
  document["submitDirectory"] = std::filesystem::current_path(unknown).string();
  return document;
}

Called<json> import_all(const ApiClient& client, const Arguments& arguments, ExportReader& reader,
                        const Interrupts& interrupts) {
  const auto description = description_in(reader);
  if (!description) return description.error();
  const auto begun =
      client.post("/v1/imports" + (arguments.name.empty() ? "" : "?name=" + url_segment(arguments.name)), *description);
  if (!begun) return begun.error();
  Import import(client, begun->at("job").get<std::string>());
  for (const auto& guest : description->at("guests"))
    for (const char* part : {"memory", "disk"}) {
      const auto target = fmt::format("{}/guests/{}/{}", import.target(), guest.at("guest").get<std::uint64_t>(), part);
      if (auto sent = import_image(client, target, reader, interrupts); !sent) return sent.error();
    }
  if (auto sent = import_image(client, import.target() + "/output", reader, interrupts); !sent) return sent.error();
  const auto end = reader.next();
  if (!end) return failed(end.error());
  if (end->kind != RecordKind::end)
    return failed({ErrorKind::damaged, "import", "file", "it has more images than it says"});
  auto done = client.post(import.target() + "/finish", json::object(), kLong);
  if (done) import.keep();
  return done;
}

Called<json> import_checkpoint(CommandContext& context, const Arguments& arguments) {
  const Fd file(arguments.file == "-" ? ::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3)
                                      : ::open(arguments.file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) return failed(errno_error("open", arguments.file, errno));
  const auto read = [&](char* buffer, std::size_t most) -> Result<std::size_t> {
    for (;;) {
      const ssize_t n = ::read(file.get(), buffer, most);
      if (n >= 0) return static_cast<std::size_t>(n);
      if (errno != EINTR) return errno_error("read", arguments.file, errno);
    }
  };
  const auto passphrase = [&]() -> Result<std::string> {
    if (!arguments.passphrase_file.empty()) return read_passphrase(arguments.passphrase_file);
    return Error{ErrorKind::refused, "import", arguments.file,
                 "it is sealed with a passphrase: give the file that holds it as --passphrase-file FILE"};
  };
  auto client = connect(context);
  if (!client) return client.error();
  auto reader = ExportReader::begin(read, passphrase);
  if (!reader) return failed(reader.error());
  // Else whoever can put a plain file in a sealed one's place could have anything imported.
  if (!arguments.passphrase_file.empty() && !reader->sealed())
    return failed({ErrorKind::refused, "import", arguments.file,
                   "it is not sealed, though a passphrase was given for it: it may not be the file that was exported; "
                   "leave --passphrase-file out if it is meant to be plain"});
  const Interrupts interrupts;
  return import_all(*client, arguments, *reader, interrupts);
}

int run_import(CommandContext& context, const Arguments& arguments) {
  const auto done = import_checkpoint(context, arguments);
  if (!done) return report(context, done.error());
  if (context.json) print_json(context, *done);
  else
    context.out << fmt::format("imported as {}, checkpoint {}; stillpoint restart {} brings it to life\n",
                               cell(*done, "job"), cell(*done, "epoch"), cell(*done, "job"))
                << std::flush;
  return kDone;
}

}  // namespace

void add_transfer_commands(CLI::App& app, CommandContext& context) {
  auto out = std::make_shared<Arguments>();
  auto* command = app.add_subcommand("export", "Write a committed checkpoint into one file, for another site");
  command->add_option("JOB", out->job)->required();
  command
      ->add_option("FILE", out->rest, "[EPOCH] FILE: the checkpoint, the newest if none is named; - is standard output")
      ->required()
      ->expected(1, 2);
  command->add_option("--passphrase-file", out->passphrase_file,
                      "The file is sealed with a key made of what this one holds (0600)");
  command->add_flag("--plain", out->plain, "Do not seal it: whoever has the file has the guests' memory")
      ->excludes("--passphrase-file");
  command->callback([&context, out] { context.action = [&context, out] { return run_export(context, *out); }; });

  auto in = std::make_shared<Arguments>();
  command = app.add_subcommand("import", "Make a stopped job of an exported checkpoint; restart brings it to life");
  command->add_option("FILE", in->file, "As export wrote it; - is standard input")->required();
  command->add_option("--name", in->name, "Of the job; as it was if not given");
  command->add_option("--passphrase-file", in->passphrase_file, "The file with the passphrase that it was sealed with");
  command->callback([&context, in] { context.action = [&context, in] { return run_import(context, *in); }; });
}

}  // namespace stillpoint::cli
