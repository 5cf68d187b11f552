#include "bench/store/page_comparison.h"

#include "bench/store/bench_tools.h"

namespace stillpoint::bench {

using namespace stillpoint::node;

// Zeros are not in the image.
class PageComparison::Reader final : public RamStreamSink {
 public:
  explicit Reader(PageHasher& hasher) : hasher_(hasher) {}
  Status ram(const std::vector<RamBlock>&) override { return {}; }
  Status page(std::uint32_t block, std::uint64_t page, std::string_view content) override {
    if (content.find_first_not_of('\0') == content.npos) return zero_page(block, page);
    image[{block, page}] = hasher_(content).low;
    return {};
  }
  Status zero_page(std::uint32_t block, std::uint64_t page) override {
    image.erase({block, page});
    return {};
  }
  Status other(std::string_view) override { return {}; }
  Image image;

 private:
  PageHasher& hasher_;
};

PageComparison::New PageComparison::add(std::size_t guest, std::string_view stream) {
  Reader reader(hasher_);
  RamStreamParser parser(reader);
  must(parser.push(stream));
  (void)must(parser.finish());
  std::unordered_set<std::uint64_t> elsewhere;
  for (const auto& [other, image] : last_)
    if (other != guest)
      for (const auto& [place, content] : image) elsewhere.insert(content);
  New found;
  const Image& before = last_[guest];
  for (const auto& [place, content] : reader.image) {
    const auto known = before.find(place);
    if ((known == before.end() || known->second != content) && !elsewhere.contains(content)) found.bytes += kPageBytes;
    if (ever_.insert(content).second) found.distinct_bytes += kPageBytes;
  }
  last_[guest] = std::move(reader.image);
  return found;
}

}  // namespace stillpoint::bench
