#include "node-daemon/domain/domain_name.h"

#include <algorithm>
#include <boost/uuid/name_generator_sha1.hpp>
#include <boost/uuid/uuid.hpp>
#include <boost/uuid/uuid_io.hpp>
#include <charconv>

namespace stillpoint::node {
namespace {

constexpr std::string_view kPrefix = "sp-";

bool valid_job(std::string_view job) {
  return !job.empty() && job.size() <= 32 && std::all_of(job.begin(), job.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  });
}

std::optional<std::uint64_t> number(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return value;
}

}  // namespace

std::string_view name(Accelerator accelerator) { return accelerator == Accelerator::kvm ? "kvm" : "tcg"; }

std::string_view name(CaptureMode mode) {
  return mode == CaptureMode::background_snapshot ? "background-snapshot" : "paused-save";
}

std::string to_string(const DomainId& id) {
  return id.job.value + "/" + std::to_string(id.incarnation.value) + "/guest-" + std::to_string(id.guest.value);
}

std::string domain_name(const DomainId& id) {
  return std::string(kPrefix) + id.job.value + "-i" + std::to_string(id.incarnation.value) + "-g" +
         std::to_string(id.guest.value);
}

std::optional<DomainId> parse_domain_name(std::string_view name) {
  const std::string_view whole = name;
  if (!name.starts_with(kPrefix)) return std::nullopt;
  name.remove_prefix(kPrefix.size());
  const auto guest_at = name.rfind("-g");
  if (guest_at == name.npos) return std::nullopt;
  const auto guest = number(name.substr(guest_at + 2));
  name = name.substr(0, guest_at);
  const auto incarnation_at = name.rfind("-i");
  if (incarnation_at == name.npos) return std::nullopt;
  const auto incarnation = number(name.substr(incarnation_at + 2));
  name = name.substr(0, incarnation_at);
  if (!guest || !incarnation || !valid_job(name)) return std::nullopt;
  DomainId id{JobId{std::string(name)}, Incarnation{*incarnation}, GuestIndex{*guest}};
  if (domain_name(id) != whole) return std::nullopt;  // leading zeros
  return id;
}

Status check_domain_id(const DomainId& id) {
  if (valid_job(id.job.value)) return {};
  return Error{ErrorKind::refused, "name domain", to_string(id), "a job id is 1 to 32 of A-Z a-z 0-9 _"};
}

std::string domain_uuid(const DomainId& id) {
  // The namespace is any fixed UUID; this one was drawn for Stillpoint's guests.
  static const boost::uuids::uuid kNamespace = {
      {0x5b, 0x0e, 0x3d, 0x6a, 0x91, 0xc4, 0x4f, 0x27, 0x8a, 0x60, 0x2e, 0x17, 0xd3, 0x45, 0xb8, 0xf9}};
  boost::uuids::name_generator_sha1 make(kNamespace);
  return boost::uuids::to_string(make(id.job.value + "/guest-" + std::to_string(id.guest.value)));
}

}  // namespace stillpoint::node
