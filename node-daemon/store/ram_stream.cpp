#include "node-daemon/store/ram_stream.h"

#include <algorithm>
#include <optional>

#include "node-daemon/store/bytes.h"

namespace stillpoint::node {
namespace {

constexpr std::uint32_t kMagic = 0x5145564d, kVersion = 3, kRamVersion = 4;
enum : std::uint8_t {
  kSectionStart = 0x01,
  kSectionPart = 0x02,
  kSectionEnd = 0x03,
  kSubsection = 0x05,
  kConfiguration = 0x07,
  kCommand = 0x08,
  kFooter = 0x7e,
};
enum : std::uint64_t { kZero = 0x02, kMemSize = 0x04, kPage = 0x08, kEos = 0x10, kContinue = 0x20 };
constexpr std::uint64_t kFlags = kPageBytes - 1;
// No step is longer: the RAM header, with a name of 255 bytes for each block.
constexpr std::size_t kLongestStep = 8 + kMaxRamBlocks * (1 + 255 + 8) + kPageBytes;
static_assert(kLongestStep > 5 + 0xffff);  // a command
constexpr std::size_t kMaxCommands = std::size_t{1} << 20;
constexpr std::size_t kMaxMachineType = 1024, kMaxCapabilities = 64;

std::uint8_t byte_at(std::string_view bytes, std::size_t at) { return static_cast<std::uint8_t>(bytes[at]); }

// Length of the subsection of the configuration at the beginning of bytes; 0: not there whole; nullopt: not known.
std::optional<std::size_t> subsection_length(std::string_view bytes) {
  if (bytes.size() < 2) return 0;
  const std::size_t body = 2 + byte_at(bytes, 1) + 4u;  // type, length, name, version
  if (bytes.size() < body) return 0;
  const std::string_view name = bytes.substr(2, byte_at(bytes, 1));
  if (name == "configuration/uuid") return bytes.size() < body + 16 ? 0 : body + 16;
  if (name != "configuration/capabilities") return std::nullopt;
  if (bytes.size() < body + 4) return 0;
  const auto count = get_be<std::uint32_t>(bytes.data() + body);
  if (count > kMaxCapabilities) return std::nullopt;
  std::size_t end = body + 4;
  for (std::uint32_t i = 0; i < count; ++i) {
    if (bytes.size() <= end) return 0;
    end += 1u + byte_at(bytes, end);
  }
  return bytes.size() < end ? 0 : end;
}

}  // namespace

Error RamStreamParser::damaged(std::string cause) const {
  return {ErrorKind::damaged, "read memory stream", "", std::move(cause)};
}

Status RamStreamParser::push(std::string_view bytes) {
  if (!failed_) return failed_;
  shape_.raw_bytes += bytes.size();
  while (!pending_.empty() && !bytes.empty()) {
    // Completed from the new bytes; what that leaves over is read where it lies.
    const std::size_t before = pending_.size();
    pending_.append(bytes.substr(0, kLongestStep));
    std::size_t used = 0;
    if (failed_ = consume(pending_, used); !failed_) return failed_;
    if (used < before) {
      const std::size_t taken = pending_.size() - before;
      pending_.erase(0, used);
      bytes.remove_prefix(taken);
    } else {
      pending_.clear();
      bytes.remove_prefix(used - before);
    }
  }
  std::size_t used = 0;
  if (failed_ = consume(bytes, used); !failed_) return failed_;
  pending_.append(bytes.substr(used));
  return {};
}

Status RamStreamParser::consume(std::string_view bytes, std::size_t& used) {
  while (used < bytes.size()) {
    auto done = step(bytes.substr(used));
    if (!done) return done.error();
    if (*done == 0) {
      if (bytes.size() - used > kLongestStep) return damaged("a record is longer than any may be");
      return {};
    }
    used += *done;
  }
  return {};
}

Result<StreamShape> RamStreamParser::finish() {
  if (!failed_) return failed_.error();
  if (state_ != State::rest) return damaged("it ends too early");
  return shape_;
}

Result<std::size_t> RamStreamParser::step(std::string_view bytes) {
  switch (state_) {
    case State::magic: return magic(bytes);
    case State::section: return section(bytes);
    case State::record: return record(bytes);
    case State::footer: return footer(bytes);
    case State::rest: return keep(bytes, bytes.size());
  }
  return damaged("no such state");
}

Result<std::size_t> RamStreamParser::keep(std::string_view bytes, std::size_t count) {
  if (auto taken = sink_.other(bytes.substr(0, count)); !taken) return taken.error();
  if (state_ != State::rest) shape_.head_bytes += count;
  return count;
}

Result<std::size_t> RamStreamParser::keep_rest(std::string_view bytes) {
  state_ = State::rest;
  if (!commands_.empty())
    if (auto taken = sink_.other(std::exchange(commands_, {})); !taken) return taken.error();
  return keep(bytes, bytes.size());
}

// QEMU tells the other side that the last pages follow. Behind all pages it says as much.
Result<std::size_t> RamStreamParser::command(std::string_view bytes) {
  if (bytes.size() < 5) return 0u;
  const std::size_t length = 5u + get_be<std::uint16_t>(bytes.data() + 3);
  if (commands_.size() + length > kMaxCommands) return damaged("too many commands among the pages");
  if (bytes.size() < length) return 0u;
  commands_ += bytes.substr(0, length);
  return length;
}

Result<std::size_t> RamStreamParser::magic(std::string_view bytes) {
  if (bytes.size() < 8) return 0u;
  if (get_be<std::uint32_t>(bytes.data()) != kMagic || get_be<std::uint32_t>(bytes.data() + 4) != kVersion)
    return keep_rest(bytes);
  state_ = State::section;
  return keep(bytes, 8);
}

Result<std::size_t> RamStreamParser::section(std::string_view bytes) {
  switch (byte_at(bytes, 0)) {
    case kConfiguration: return blocks_.empty() ? configuration(bytes) : keep_rest(bytes);
    case kSectionStart: return section_start(bytes);
    case kSectionPart:
    case kSectionEnd: return section_part(bytes);
    case kCommand: return shape_.has_pages ? command(bytes) : keep_rest(bytes);
    default: return keep_rest(bytes);
  }
}

Result<std::size_t> RamStreamParser::configuration(std::string_view bytes) {
  if (bytes.size() < 5) return 0u;
  const auto name = get_be<std::uint32_t>(bytes.data() + 1);
  if (name > kMaxMachineType) return keep_rest(bytes);
  std::size_t end = 5 + name;
  for (;;) {
    if (bytes.size() <= end) return 0u;
    if (byte_at(bytes, end) != kSubsection) return keep(bytes, end);
    const auto length = subsection_length(bytes.substr(end));
    if (!length) return keep_rest(bytes);
    if (*length == 0) return 0u;
    end += *length;
  }
}

Result<std::size_t> RamStreamParser::section_start(std::string_view bytes) {
  if (bytes.size() < 6) return 0u;
  const std::size_t name = byte_at(bytes, 5), end = 6 + name + 8;
  if (bytes.size() < end) return 0u;
  const auto version = get_be<std::uint32_t>(bytes.data() + end - 4);
  if (bytes.substr(6, name) != "ram" || version != kRamVersion || !blocks_.empty()) return keep_rest(bytes);
  shape_.section_id = get_be<std::uint32_t>(bytes.data() + 1);
  in_start_ = true;
  state_ = State::record;
  return keep(bytes, end);
}

Result<std::size_t> RamStreamParser::section_part(std::string_view bytes) {
  if (bytes.size() < 5) return 0u;
  if (blocks_.empty() || get_be<std::uint32_t>(bytes.data() + 1) != shape_.section_id) return keep_rest(bytes);
  shape_.has_pages = true;
  shape_.section_type = byte_at(bytes, 0);
  state_ = State::record;
  return 5u;
}

Result<std::size_t> RamStreamParser::record(std::string_view bytes) {
  if (bytes.size() < 8) return 0u;
  const auto header = get_be<std::uint64_t>(bytes.data());
  const std::uint64_t flags = header & kFlags;
  if (flags == kEos) {
    state_ = State::footer;
    if (in_start_) return blocks_.empty() ? keep_rest(bytes) : keep(bytes, 8);
    return 8u;
  }
  if (in_start_) return flags == kMemSize && blocks_.empty() ? ram_header(bytes, header - flags) : keep_rest(bytes);
  if (flags == kPage || flags == (kPage | kContinue) || flags == kZero || flags == (kZero | kContinue))
    return page_record(bytes, header);
  return Error{ErrorKind::refused, "read memory stream", "",
               "a RAM record with flags " + std::to_string(flags) + " is not known here"};
}

Result<std::size_t> RamStreamParser::ram_header(std::string_view bytes, std::uint64_t total) {
  if (total > kMaxRamBytes) return keep_rest(bytes);
  std::vector<RamBlock> blocks;
  std::uint64_t sum = 0;
  std::size_t at = 8;
  while (sum < total) {
    if (blocks.size() == kMaxRamBlocks) return keep_rest(bytes);
    if (bytes.size() <= at || bytes.size() < at + 1 + byte_at(bytes, at) + 8) return 0u;
    RamBlock block{std::string(bytes.substr(at + 1, byte_at(bytes, at))), 0};
    at += 1 + block.name.size();
    block.bytes = get_be<std::uint64_t>(bytes.data() + at);
    at += 8;
    const bool again = std::ranges::any_of(blocks, [&](const RamBlock& other) { return other.name == block.name; });
    if (again || block.bytes % kPageBytes != 0 || block.bytes > total - sum) return keep_rest(bytes);
    sum += block.bytes;
    blocks.push_back(std::move(block));
  }
  // Something else than the end of the header: a capability that adds to it.
  if (bytes.size() < at + 8) return 0u;
  if (blocks.empty() || get_be<std::uint64_t>(bytes.data() + at) != kEos) return keep_rest(bytes);
  if (auto taken = sink_.ram(blocks); !taken) return taken.error();
  blocks_ = std::move(blocks);
  block_ = static_cast<std::uint32_t>(blocks_.size());
  return keep(bytes, at);
}

Result<std::size_t> RamStreamParser::page_record(std::string_view bytes, std::uint64_t header) {
  std::size_t at = 8;
  std::uint32_t block = block_;
  if ((header & kContinue) == 0) {
    if (bytes.size() < 9 || bytes.size() < 9u + byte_at(bytes, 8)) return 0u;
    const std::string_view name = bytes.substr(9, byte_at(bytes, 8));
    at = 9 + name.size();
    const auto found = std::ranges::find(blocks_, name, &RamBlock::name);
    block = static_cast<std::uint32_t>(found - blocks_.begin());
  }
  if (block >= blocks_.size()) return damaged("a page of a RAM block that was not announced");
  const std::uint64_t page = (header & ~kFlags) / kPageBytes;
  if (page >= blocks_[block].pages()) return damaged("a page beyond the end of " + blocks_[block].name);
  const std::size_t length = (header & kZero) != 0 ? 1 : kPageBytes;
  if (bytes.size() < at + length) return 0u;
  block_ = block;
  Status taken;
  if (length == kPageBytes) taken = sink_.page(block, page, bytes.substr(at, kPageBytes));
  else if (bytes[at] == 0) taken = sink_.zero_page(block, page);
  else taken = sink_.page(block, page, std::string(kPageBytes, bytes[at]));
  if (!taken) return taken.error();
  return at + length;
}

Result<std::size_t> RamStreamParser::footer(std::string_view bytes) {
  const bool was_start = in_start_;
  if (byte_at(bytes, 0) == kFooter) {
    if (bytes.size() < 5) return 0u;
    if (get_be<std::uint32_t>(bytes.data() + 1) != shape_.section_id) return damaged("the footer of another section");
    shape_.footer = true;
    state_ = State::section;
    in_start_ = false;
    return was_start ? keep(bytes, 5) : 5u;
  }
  state_ = State::section;
  in_start_ = false;
  return section(bytes);
}

void RamStreamWriter::begin(std::string& out) {
  if (!shape_.has_pages) return;
  put_be(out, shape_.section_type);
  put_be(out, shape_.section_id);
  last_block_ = -1;
}

void RamStreamWriter::header(std::string& out, std::uint32_t block, std::uint64_t page, std::uint64_t flag) {
  const bool same = last_block_ == static_cast<std::int64_t>(block);
  put_be(out, page * kPageBytes | flag | (same ? std::uint64_t{kContinue} : 0));
  last_block_ = block;
  if (same) return;
  const std::string& name = blocks_[block].name;
  put_be(out, static_cast<std::uint8_t>(name.size()));
  out += name;
}

void RamStreamWriter::page(std::string& out, std::uint32_t block, std::uint64_t page, std::string_view content) {
  header(out, block, page, kPage);
  out += content;
}

void RamStreamWriter::zero_page(std::string& out, std::uint32_t block, std::uint64_t page) {
  header(out, block, page, kZero);
  out.push_back('\0');
}

void RamStreamWriter::end(std::string& out) {
  if (!shape_.has_pages) return;
  put_be(out, std::uint64_t{kEos});
  if (!shape_.footer) return;
  put_be(out, std::uint8_t{kFooter});
  put_be(out, shape_.section_id);
}

}  // namespace stillpoint::node
