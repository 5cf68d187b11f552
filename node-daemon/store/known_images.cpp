#include "node-daemon/store/known_images.h"

#include <algorithm>

namespace stillpoint::node {
namespace {

class NotingIngest final : public ImageIngest {
 public:
  NotingIngest(std::unique_ptr<ImageIngest> ingest, KnownImages& known, std::string name)
      : ingest_(std::move(ingest)), known_(known), name_(std::move(name)) {}
  Status write(std::string_view raw) override { return ingest_->write(raw); }
  Result<ImageFigures> commit() override {
    auto figures = ingest_->commit();
    if (figures) known_.add(name_);
    return figures;
  }

 private:
  const std::unique_ptr<ImageIngest> ingest_;
  KnownImages& known_;
  const std::string name_;
};

}  // namespace

void KnownImages::add(const std::string& name) {
  const std::lock_guard lock(mutex_);
  names_.insert(name);
}

void KnownImages::look_anew(ChunkStore& store) {
  {
    const std::lock_guard lock(mutex_);
    names_.clear();
    looked_ = true;
  }
  if (auto names = store.images())
    for (const std::string& name : *names) add(name);
}

bool KnownImages::all_there(ChunkStore& store) {
  auto names = store.images();
  if (!names) return false;
  const std::set<std::string> there(names->begin(), names->end());
  const std::lock_guard lock(mutex_);
  return looked_ && std::ranges::includes(there, names_);
}

std::unique_ptr<ImageIngest> KnownImages::noting(std::unique_ptr<ImageIngest> ingest, std::string name) {
  return std::make_unique<NotingIngest>(std::move(ingest), *this, std::move(name));
}

}  // namespace stillpoint::node
