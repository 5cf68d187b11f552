// Images read back for the coordinator, and named to it. Reading takes long: a request that comes again, after the
// session was lost, joins the reading that is under way.
#include "node-daemon/core/host_impl.h"

namespace stillpoint::node {

void Host::Impl::verify_images(const wire::ToHost& ask) {
  const std::string images = ask.verify_images().SerializeAsString();
  for (auto& [token, known] : verifications) {
    if (known.ask.gang().job() != ask.gang().job() || known.ask.epoch() != ask.epoch()) continue;
    if (known.ask.verify_images().SerializeAsString() != images) continue;
    known.waiters.push_back(ask.request());
    return;
  }
  const std::uint64_t token = next_token++;
  verifications[token] = {ask, {ask.request()}};
  const auto& what = ask.verify_images();
  effects.push_back(
      VerifyImages{{what.images().begin(), what.images().end()}, token, {what.peers().begin(), what.peers().end()}});
}

void Host::Impl::images_listed(const ImagesListed& event) {
  if (!event.held) return log(Log::Level::warn, "images not listed", {}, {}, event.held.error().message());
  if (!welcomed || event.held->jobs().empty()) return;
  wire::FromHost message;
  *message.mutable_held() = *event.held;
  effects.push_back(SendToCoordinator{std::move(message)});
}

void Host::Impl::images_verified(const ImagesVerified& event) {
  const auto node = verifications.extract(event.token);
  if (node.empty()) return;
  const Verification& done = node.mapped();
  for (const auto& image : event.report.images())
    for (const auto& problem : image.problems())
      log(Log::Level::warn, "image not whole", {{done.ask.gang().job()}, {}}, Epoch{done.ask.epoch()},
          from_wire(problem).message());
  wire::FromHost message;
  *message.mutable_verified() = event.report;
  for (const std::uint64_t waiter : done.waiters) answer(done.ask, waiter, message);
}

}  // namespace stillpoint::node
