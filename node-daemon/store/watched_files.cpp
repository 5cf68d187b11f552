#include "node-daemon/store/watched_files.h"

namespace stillpoint::node::test {

namespace fs = std::filesystem;
using Kind = FileStep::Kind;

std::string FileStep::text() const {
  static constexpr const char* kNames[] = {"create",         "append",           "sync",           "rename", "remove",
                                           "make_directory", "remove_directory", "sync_directory", "open",   "list"};
  std::string name = path.filename().string();
  if (name.size() > 32 && name.find_first_not_of("0123456789abcdef") >= 32) name.replace(0, 32, "ID");
  return std::string(kNames[static_cast<std::size_t>(kind)]) + " " + name;
}

class WatchedFiles::Writable final : public WritableFile {
 public:
  Writable(WatchedFiles& files, fs::path path, std::unique_ptr<WritableFile> below)
      : files_(files), path_(std::move(path)), below_(std::move(below)) {}
  Status append(std::string_view bytes) override {
    return files_.watched({Kind::append, path_, bytes, below_.get()}, [&] { return below_->append(bytes); });
  }
  Status sync() override {
    return files_.watched({Kind::sync, path_, {}, below_.get()}, [&] { return below_->sync(); });
  }

 private:
  WatchedFiles& files_;
  const fs::path path_;
  const std::unique_ptr<WritableFile> below_;
};

Result<std::unique_ptr<WritableFile>> WatchedFiles::create(const fs::path& path) {
  auto file = watched({Kind::create, path, {}}, [&] { return below_.create(path); });
  if (!file) return file.error();
  return std::make_unique<Writable>(*this, path, std::move(*file));
}
Result<std::shared_ptr<const ReadableFile>> WatchedFiles::open(const fs::path& path) {
  return watched({Kind::open, path, {}}, [&] { return below_.open(path); });
}
Status WatchedFiles::rename(const fs::path& from, const fs::path& to) {
  return watched({Kind::rename, to, {}}, [&] { return below_.rename(from, to); });
}
Status WatchedFiles::remove(const fs::path& path) {
  return watched({Kind::remove, path, {}}, [&] { return below_.remove(path); });
}
Status WatchedFiles::make_directory(const fs::path& path) {
  return watched({Kind::make_directory, path, {}}, [&] { return below_.make_directory(path); });
}
Status WatchedFiles::remove_directory(const fs::path& path) {
  return watched({Kind::remove_directory, path, {}}, [&] { return below_.remove_directory(path); });
}
Status WatchedFiles::sync_directory(const fs::path& path) {
  return watched({Kind::sync_directory, path, {}}, [&] { return below_.sync_directory(path); });
}
Result<std::vector<std::string>> WatchedFiles::list(const fs::path& path) {
  return watched({Kind::list, path, {}}, [&] { return below_.list(path); });
}

}  // namespace stillpoint::node::test
