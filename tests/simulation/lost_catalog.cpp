// At the end of some histories the catalog is lost with all jobs running. Made again from the records that hosts keep,
// it has every committed checkpoint of which each guest's image lay where the lost one knew of it, as it was.
#include <fmt/format.h>

#include <algorithm>

#include "tests/simulation/cluster.h"

namespace stillpoint::simulation {
namespace {

using namespace coordinator;

constexpr Millis kBack{60'000};

bool same(const std::vector<wire::GuestCut>& a, const std::vector<wire::GuestCut>& b) {
  return std::ranges::equal(a, b, {}, &wire::GuestCut::SerializeAsString, &wire::GuestCut::SerializeAsString);
}

// Copies that the lost catalog had given up may be named again: who restores takes another one.
bool same(std::vector<wire::GuestImage> found, const std::vector<wire::GuestImage>& lost) {
  for (std::size_t i = 0; i < std::min(found.size(), lost.size()); ++i) {
    const auto& copies = found[i].memory().copies();
    for (const auto& copy : lost[i].memory().copies())
      if (std::ranges::find(copies, copy) == copies.end()) return false;
    *found[i].mutable_memory()->mutable_copies() = lost[i].memory().copies();
    *found[i].mutable_disk()->mutable_copies() = lost[i].disk().copies();
  }
  return std::ranges::equal(found, lost, {}, &wire::GuestImage::SerializeAsString,
                            &wire::GuestImage::SerializeAsString);
}

std::string texts(const std::vector<wire::GuestImage>& images) {
  std::string all;
  for (const auto& image : images) {
    all += image.memory().path() + " with copies on";
    for (const auto& copy : image.memory().copies()) all += " " + copy;
    all += "; ";
  }
  return all;
}

// Empty: none.
std::string difference(const EpochRecord& found, const EpochRecord& lost) {
  if (found.job != lost.job || found.incarnation != lost.incarnation || found.restored_from != lost.restored_from)
    return "another history";
  if (found.state != EpochState::committed) return "state " + std::string(coordinator::name(found.state));
  if (found.output_offset != lost.output_offset) return "another output";
  if (found.bytes_stored != lost.bytes_stored) return "another size";
  if (!same(found.cut, lost.cut)) return "another cut";
  if (!same(found.images, lost.images))
    return fmt::format("images {} instead of {}", texts(found.images), texts(lost.images));
  return "";
}

}  // namespace

bool Cluster::has_all_images(const EpochRecord& epoch) const {
  return std::ranges::all_of(epoch.images, [&](const auto& image) {
    const auto stored = store.all().find(image.memory().path());
    if (stored == store.all().end()) return false;
    const auto& places = stored->second.places;
    const auto& copies = image.memory().copies();
    return places.contains(store.own() ? stored->second.owner.value : "") ||
           std::ranges::any_of(copies, [&](const auto& copy) { return places.contains(copy); });
  });
}

void Cluster::lose_catalog() {
  CatalogState before = coordinator->durable();
  std::erase_if(before.epochs, [&](const auto& entry) {
    const EpochRecord& epoch = entry.second;
    return epoch.state != EpochState::committed || epoch.control || !has_all_images(epoch);
  });
  coordinator->lose_catalog();
  if (!come_together(kBack)) return;
  const auto answer = ask([](RequestId r) { return RebuildCatalog{r}; });
  if (!answer) return;
  if (!*answer) return invariants.fail("made again", answer->error().message());
  check_rebuilt(before);
}

void Cluster::check_rebuilt(const CatalogState& before) {
  const auto& after = coordinator->durable();
  for (const auto& [number, lost] : before.epochs) {
    const auto found = after.epochs.find(number);
    if (found == after.epochs.end())
      return invariants.fail("made again", fmt::format("epoch {} of {} is not there", number.value, lost.job.value));
    const EpochRecord& epoch = found->second;
    if (const auto what = difference(epoch, lost); !what.empty())
      return invariants.fail("made again", fmt::format("epoch {} has {}", number.value, what));
    const JobRecord& job = after.jobs.at(lost.job);
    const JobRecord& known = before.jobs.at(lost.job);
    if (job.manifest != known.manifest || job.spec.guests != known.spec.guests || job.spec.keep != known.spec.keep)
      return invariants.fail("made again", lost.job.value + " has another manifest");
    if (job.incarnation <= known.incarnation)
      return invariants.fail("made again", lost.job.value + " has an incarnation that it had before");
  }
}

}  // namespace stillpoint::simulation
