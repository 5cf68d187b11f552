// Images read back, copied, and named for the coordinator. The first two take long: a request that comes again, after
// the session was lost, joins what is under way.
#include "node-daemon/core/host_impl.h"

namespace stillpoint::node {
namespace {

// Without the request's number, which is another one each time.
std::string what_is_asked(wire::ToHost ask) {
  ask.set_request(0);
  return ask.SerializeAsString();
}

}  // namespace

std::optional<std::uint64_t> Host::Impl::begin_image_work(const wire::ToHost& ask) {
  const std::string what = what_is_asked(ask);
  for (auto& [token, known] : image_work) {
    if (what_is_asked(known.ask) != what) continue;
    known.waiters.push_back(ask.request());
    return std::nullopt;
  }
  const std::uint64_t token = next_token++;
  image_work[token] = {ask, {ask.request()}};
  return token;
}

void Host::Impl::verify_images(const wire::ToHost& ask) {
  const auto& what = ask.verify_images();
  const auto token = begin_image_work(ask);
  if (!token) return;
  VerifyImages work{{what.images().begin(), what.images().end()}, *token, {what.peers().begin(), what.peers().end()}};
  work.object_store.assign(what.object_store().begin(), what.object_store().end());
  effects.push_back(std::move(work));
}

void Host::Impl::copy_images(const wire::ToHost& ask) {
  const auto& what = ask.copy_images();
  if (const auto token = begin_image_work(ask))
    effects.push_back(CopyImages{{ask.gang().job()},
                                 Epoch{ask.epoch()},
                                 {what.images().begin(), what.images().end()},
                                 what.durability(),
                                 *token});
}

void Host::Impl::images_copied(const ImagesCopied& event) {
  const auto node = image_work.extract(event.token);
  if (node.empty()) return;
  const ImageWork& done = node.mapped();
  wire::FromHost message;
  if (event.images)
    message.mutable_images_copied()->mutable_images()->Assign(event.images->begin(), event.images->end());
  else *message.mutable_failure() = to_wire(event.images.error());
  for (const std::uint64_t waiter : done.waiters) answer(done.ask, waiter, message);
}

void Host::Impl::images_listed(ImagesListed event) {
  if (!event.held) return log(Log::Level::warn, "images not listed", {}, {}, event.held.error().message());
  wire::FromHost message;
  wire::HeldImages& held = *message.mutable_held() = std::move(*event.held);
  for (const auto& [job, epochs] : strays) {
    auto& theirs = *held.add_jobs();
    theirs.set_job(job.value);
    for (const Epoch epoch : epochs) theirs.add_epochs(epoch.value);
  }
  if (!welcomed || held.jobs().empty()) return;
  effects.push_back(SendToCoordinator{std::move(message)});
}

void Host::Impl::images_verified(const ImagesVerified& event) {
  const auto node = image_work.extract(event.token);
  if (node.empty()) return;
  const ImageWork& done = node.mapped();
  for (const auto& image : event.report.images())
    for (const auto& problem : image.problems())
      log(Log::Level::warn, "image not whole", {{done.ask.gang().job()}, {}}, Epoch{done.ask.epoch()},
          from_wire(problem).message());
  wire::FromHost message;
  *message.mutable_verified() = event.report;
  for (const std::uint64_t waiter : done.waiters) answer(done.ask, waiter, message);
}

}  // namespace stillpoint::node
