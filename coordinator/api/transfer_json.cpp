#include "coordinator/api/transfer_json.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "coordinator/core/json_reader.h"
#include "coordinator/core/spec_json.h"
#include "coordinator/core/core.h"

namespace stillpoint::coordinator {
namespace {

using nlohmann::json;

constexpr std::uint64_t kVersion = 1;
constexpr std::size_t kMaxManifest = 1u << 20;

std::string hex_of(const std::string& bytes) {
  constexpr const char* kDigits = "0123456789abcdef";
  std::string text;
  for (const char byte : bytes) {
    text += kDigits[static_cast<unsigned char>(byte) >> 4];
    text += kDigits[static_cast<unsigned char>(byte) & 15];
  }
  return text;
}

std::optional<std::string> bytes_of(const std::string& hex) {
  const auto digit = [](char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; };
  if (hex.size() % 2 != 0) return std::nullopt;
  std::string bytes;
  for (std::size_t i = 0; i < hex.size(); i += 2) {
    if (digit(hex[i]) < 0 || digit(hex[i + 1]) < 0) return std::nullopt;
    bytes += static_cast<char>(digit(hex[i]) * 16 + digit(hex[i + 1]));
  }
  return bytes;
}

// What a restore needs of it, without where it lies here.
wire::GuestImage description_of(const EpochRecord& epoch, const wire::GuestImage& image) {
  wire::GuestImage described = image;
  described.clear_memory();
  described.clear_disk();
  described.set_known_as_job(known_as(epoch).value);
  if (described.known_as_epoch() == 0) described.set_known_as_epoch(epoch.epoch.value);
  return described;
}

template <class Message>
void read_message(JsonReader& reader, const std::string& key, Message& message) {
  std::string hex;
  reader.read(key, hex, true);
  const auto bytes = bytes_of(hex);
  if (!bytes || !message.ParseFromString(*bytes)) reader.problem(key, "expected a message of the protocol");
}

void read_guests(const json& list, ForeignCheckpoint& checkpoint, std::vector<std::string>& problems) {
  for (const auto& one : list) {
    JsonReader guest(one, "guests", problems);
    read_message(guest, "image", checkpoint.images.emplace_back());
    read_message(guest, "cut", checkpoint.cut.emplace_back());
    std::uint32_t number = 0;
    guest.read("guest", number, true);
    guest.refuse_unknown();
    auto& image = checkpoint.images.back();
    if (image.guest() != number || checkpoint.cut.back().guest() != number)
      guest.problem("guest", "its image or its cut is another guest's");
    image.clear_memory();
    image.clear_disk();
    const std::string& job = image.known_as_job();
    const bool named = !job.empty() && job.size() <= 32 && std::ranges::all_of(job, [](unsigned char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
    });
    if (!named) guest.problem("image", "the guest's job has no name that a job has");
  }
}

}  // namespace

json export_json(const JobRecord& job, const EpochRecord& epoch) {
  json guests = json::array();
  for (const auto& image : epoch.images)
    for (const auto& cut : epoch.cut)
      if (cut.guest() == image.guest())
        guests.push_back({{"guest", image.guest()},
                          {"image", hex_of(description_of(epoch, image).SerializeAsString())},
                          {"cut", hex_of(cut.SerializeAsString())}});
  return {{"version", kVersion},
          {"job", job.job.value},
          {"epoch", epoch.epoch.value},
          {"incarnation", epoch.incarnation.value},
          {"time", static_cast<std::uint64_t>(std::max<WallSeconds>(0, epoch.time))},
          {"spec", spec_to_json(job.spec)},
          {"manifest", job.manifest},
          {"outputBytes", epoch.output_offset},
          {"guests", std::move(guests)}};
}

Result<ForeignCheckpoint> foreign_checkpoint(const json& document, const std::string& name) {
  ForeignCheckpoint checkpoint;
  std::vector<std::string> problems;
  JsonReader reader(document, "", problems);
  std::uint64_t version = 0, time = 0;
  std::string job;
  reader.read("version", version, true);
  if (problems.empty() && version != kVersion)
    return Error{ErrorKind::refused, "import", "checkpoint",
                 "its description has version " + std::to_string(version) +
                     ", this program knows version 1: import it " + "with the newer one"};
  reader.read("job", job, true);
  reader.read("epoch", checkpoint.epoch.value, true);
  reader.read("incarnation", checkpoint.incarnation.value, true);
  reader.read("time", time, true);
  reader.read("manifest", checkpoint.manifest, true);
  reader.read("outputBytes", checkpoint.output_bytes, true);
  reader.read("submitDirectory", checkpoint.spec.submit_directory);
  const std::string directory = checkpoint.spec.submit_directory;
  const json* spec = reader.find("spec", true);
  const json* guests = reader.find("guests", true);
  reader.refuse_unknown();
  if (spec != nullptr) {
    auto read = spec_from_json(*spec);
    if (read) checkpoint.spec = std::move(*read);
    else problems.push_back(read.error().cause);
  }
  if (!name.empty()) checkpoint.spec.name = name;
  checkpoint.spec.submit_directory = directory;
  if (problems.empty()) problems = spec_problems(checkpoint.spec);
  if (guests == nullptr || !guests->is_array() || guests->size() != checkpoint.spec.guests)
    problems.emplace_back("guests: expected a list of all guests");
  else read_guests(*guests, checkpoint, problems);
  if (checkpoint.manifest.size() > kMaxManifest) problems.emplace_back("manifest: too long");
  if (time >> 62 != 0) problems.emplace_back("time: too late");
  checkpoint.time = static_cast<WallSeconds>(time);
  if (!problems.empty())
    return Error{ErrorKind::refused, "import", "description of the checkpoint", join_problems(problems)};
  return checkpoint;
}

}  // namespace stillpoint::coordinator
