// QEMU's migration stream taken apart and put together again: pages of guest memory on one side, keyed by (RAM block,
// page number), everything else on the other, byte for byte. Pages thus are the same bytes in every image, whatever
// their order in the stream and whatever the devices had to say before them.
//
// The stream, all numbers big-endian:
//   "QEVM", version 3
//   configuration: 0x07, machine type, subsections
//   0x01 section start, id, "ram", instance, version 4: record MEM_SIZE with all RAM blocks, record EOS   } each with
//   0x02 section part / 0x03 section end, id: records PAGE and ZERO, record EOS                           } a footer
//   0x08 command, length, bytes: may come between two of these
//   whatever else: the devices' state, the end mark, its description in JSON
// A record is a u64 of address and flags; PAGE and ZERO name their RAM block unless CONTINUE says it is the last one.
//
// Only what is understood is taken apart. A stream with something else before the pages (a configuration, a RAM header
// or a live section of a kind not known here) is kept as it is, as bytes; so is all that follows the pages. A record of
// an unknown kind among the pages is an error: pages would be lost.
//
// Threads: an object belongs to one thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace stillpoint::node {

inline constexpr std::size_t kPageBytes = 4096;
// What a stream may claim, before anything is allocated for it.
inline constexpr std::size_t kMaxRamBlocks = 256;
inline constexpr std::uint64_t kMaxRamBytes = std::uint64_t{1} << 40;

struct RamBlock {
  std::string name;
  std::uint64_t bytes = 0;  // a multiple of the page size
  std::uint64_t pages() const { return bytes / kPageBytes; }
  bool operator==(const RamBlock&) const = default;
};

// What must be known besides pages and other bytes to put the stream together again.
struct StreamShape {
  std::uint64_t raw_bytes = 0;       // of the stream that was parsed
  std::uint64_t head_bytes = 0;      // of the other bytes, so many come before the pages
  bool has_pages = false;            // the sections below are in it
  std::uint8_t section_type = 0x02;  // of the section that carries the pages: part, or end if there was one
  std::uint32_t section_id = 0;
  bool footer = false;  // sections end with a footer
  bool operator==(const StreamShape&) const = default;
};

// Takes what the parser finds. An error ends the parsing and is its answer.
class RamStreamSink {
 public:
  virtual ~RamStreamSink() = default;
  // Once, before any page.
  virtual Status ram(const std::vector<RamBlock>& blocks) = 0;
  // The same page may come again: the last one counts. block: index in ram()'s list. content: kPageBytes.
  virtual Status page(std::uint32_t block, std::uint64_t page, std::string_view content) = 0;
  virtual Status zero_page(std::uint32_t block, std::uint64_t page) = 0;
  virtual Status other(std::string_view bytes) = 0;
};

class RamStreamParser {
 public:
  explicit RamStreamParser(RamStreamSink& sink) : sink_(sink) {}
  // Pieces of any size. After an error, the same error again.
  Status push(std::string_view bytes);
  // Once, last.
  Result<StreamShape> finish();

 private:
  enum class State { magic, section, record, footer, rest };
  // Bytes of one step that were understood; 0: more are needed.
  Result<std::size_t> step(std::string_view bytes);
  Result<std::size_t> magic(std::string_view bytes);
  Result<std::size_t> section(std::string_view bytes);
  Result<std::size_t> configuration(std::string_view bytes);
  Result<std::size_t> section_start(std::string_view bytes);
  Result<std::size_t> section_part(std::string_view bytes);
  Result<std::size_t> record(std::string_view bytes);
  Result<std::size_t> ram_header(std::string_view bytes, std::uint64_t total);
  Result<std::size_t> page_record(std::string_view bytes, std::uint64_t header);
  Result<std::size_t> footer(std::string_view bytes);
  Result<std::size_t> command(std::string_view bytes);
  // From here on everything is kept as it is.
  Result<std::size_t> keep_rest(std::string_view bytes);
  Result<std::size_t> keep(std::string_view bytes, std::size_t count);
  Status consume(std::string_view bytes, std::size_t& used);
  Error damaged(std::string cause) const;

  RamStreamSink& sink_;
  State state_ = State::magic;
  bool in_start_ = false;  // in the section that announces the RAM blocks, which is kept
  std::vector<RamBlock> blocks_;
  std::uint32_t block_ = 0;  // of the last page record; blocks_.size() before the first
  StreamShape shape_;
  std::string commands_;  // met among the pages: kept, behind them
  std::string pending_;   // the beginning of a step that is not there whole
  Status failed_;
};

// The other way. Appends to a string that the caller empties as it likes: other bytes up to head_bytes, begin(), the
// pages in any order, end(), the rest of the other bytes.
class RamStreamWriter {
 public:
  RamStreamWriter(const StreamShape& shape, const std::vector<RamBlock>& blocks) : shape_(shape), blocks_(blocks) {}
  void begin(std::string& out);
  void page(std::string& out, std::uint32_t block, std::uint64_t page, std::string_view content);
  void zero_page(std::string& out, std::uint32_t block, std::uint64_t page);
  void end(std::string& out);

 private:
  void header(std::string& out, std::uint32_t block, std::uint64_t page, std::uint64_t flag);

  const StreamShape& shape_;
  const std::vector<RamBlock>& blocks_;
  std::int64_t last_block_ = -1;
};

}  // namespace stillpoint::node
