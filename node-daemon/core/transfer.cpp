// Pieces of images that leave the site or come from another one, and records of checkpoints. The coordinator asks for
// one at a time; what it asks for again, after the session was lost, joins the work that is under way.
#include "node-daemon/core/host_impl.h"

namespace stillpoint::node {
namespace {

constexpr std::size_t kMostTransfers = 64;

// The request without the bytes that it carries: what is remembered of it.
wire::ToHost without_bytes(const wire::ToHost& ask) {
  wire::ToHost small;
  small.set_request(ask.request());
  *small.mutable_gang() = ask.gang();
  small.set_epoch(ask.epoch());
  if (ask.has_read_image()) *small.mutable_read_image() = ask.read_image();
  if (ask.has_keep_images()) *small.mutable_keep_images() = ask.keep_images();
  if (ask.has_write_image()) {
    const auto& piece = ask.write_image();
    auto& copy = *small.mutable_write_image();
    copy.set_guest(piece.guest());
    copy.set_disk(piece.disk());
    copy.set_offset(piece.offset());
    copy.set_last(piece.last());
  }
  if (ask.has_keep_record()) small.mutable_keep_record()->set_revision(ask.keep_record().revision());
  if (ask.has_read_records()) *small.mutable_read_records() = ask.read_records();
  return small;
}

}  // namespace

void Host::Impl::transfer(const wire::ToHost& ask) {
  const wire::ToHost small = without_bytes(ask);
  for (auto& [token, known] : transfers)
    if (known.ask.SerializeAsString() == small.SerializeAsString()) {
      known.request = ask.request();
      return;
    }
  if (transfers.size() >= kMostTransfers)
    return answer_failure(ask, ask.request(),
                          {ErrorKind::transient, request_name(ask.body_case()), "job " + ask.gang().job(),
                           "this host moves " + std::to_string(kMostTransfers) + " images and records already"});
  const std::uint64_t token = next_token++;
  transfers[token] = {small, ask.request()};
  if (ask.has_keep_record() || ask.has_read_records()) effects.push_back(CarryRecord{ask, token});
  else effects.push_back(TransferImage{ask, token});
}

void Host::Impl::image_transferred(const ImageTransferred& event) {
  const auto node = transfers.extract(event.token);
  if (node.empty()) return;
  answer(node.mapped().ask, node.mapped().request, event.answer);
}

}  // namespace stillpoint::node
