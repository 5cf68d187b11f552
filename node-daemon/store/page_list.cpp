#include "node-daemon/store/page_list.h"

#include <algorithm>

#include "node-daemon/store/bytes.h"

namespace stillpoint::node {
namespace {

constexpr std::uint64_t kAbsentRow = 0, kZeroRow = 1, kFirstOrigin = 2;

PageRef in_row(const PageRef& first, std::size_t i) {
  return is_stored(first) ? PageRef{first.origin, first.page + static_cast<std::uint32_t>(i)} : first;
}

// A row: its length, what it is, and of stored pages the first one.
void put_row(std::string& out, std::size_t length, const PageRef& first) {
  put_varint(out, length);
  if (!is_stored(first)) return put_varint(out, first == kZeroPage ? kZeroRow : kAbsentRow);
  put_varint(out, kFirstOrigin + first.origin);
  put_varint(out, first.page);
}

}  // namespace

PageList::PageList(std::size_t size) : chunks_((size + kChunk - 1) / kChunk), size_(size) {}

PageList::PageList(const PageList& other) : size_(other.size_) {
  chunks_.reserve(other.chunks_.size());
  for (const Chunk& chunk : other.chunks_) {
    Chunk& copy = chunks_.emplace_back();
    copy.first = chunk.first;
    if (chunk.rows) copy.rows = std::make_unique<std::string>(*chunk.rows);
    if (chunk.each) copy.each = std::make_unique<Refs>(*chunk.each);
  }
}

void PageList::read(const Chunk& chunk, Refs& refs) {
  if (chunk.each) {
    refs = *chunk.each;
    return;
  }
  if (!chunk.rows) {
    for (std::size_t i = 0; i < kChunk; ++i) refs[i] = in_row(chunk.first, i);
    return;
  }
  ByteReader in(*chunk.rows);
  for (std::size_t at = 0; at < kChunk;) {
    const std::size_t length = in.varint();
    const std::uint64_t what = in.varint();
    PageRef first = what == kZeroRow ? kZeroPage : kAbsentPage;
    if (what >= kFirstOrigin)
      first = {static_cast<std::uint32_t>(what - kFirstOrigin), static_cast<std::uint32_t>(in.varint())};
    for (std::size_t i = 0; i < length; ++i) refs[at + i] = in_row(first, i);
    at += length;
  }
}

void PageList::unpack(Chunk& chunk) {
  auto each = std::make_unique<Refs>();
  read(chunk, *each);
  chunk.each = std::move(each);
  chunk.rows.reset();
}

void PageList::pack(Chunk& chunk) {
  const Refs& refs = *chunk.each;
  std::string rows;
  for (std::size_t at = 0; at < kChunk;) {
    std::size_t length = 1;
    while (at + length < kChunk && refs[at + length] == in_row(refs[at], length)) ++length;
    if (length == kChunk) {
      chunk.first = refs[0];
      chunk.each.reset();
      return;
    }
    put_row(rows, length, refs[at]);
    at += length;
    if (rows.size() > sizeof(Refs) / 2) return;  // not worth the trouble of unpacking
  }
  rows.shrink_to_fit();
  chunk.rows = std::make_unique<std::string>(std::move(rows));
  chunk.each.reset();
}

void PageList::put(std::size_t at, PageRef ref) {
  if (at == size_) {
    ++size_;
    if (at % kChunk == 0) {
      chunks_.emplace_back().first = ref;
      return;
    }
  }
  Chunk& chunk = chunks_[at / kChunk];
  const std::size_t i = at % kChunk;
  if (!chunk.each) {
    if (!chunk.rows && in_row(chunk.first, i) == ref) return;
    unpack(chunk);
  }
  (*chunk.each)[i] = ref;
  if (i + 1 == kChunk) pack(chunk);  // mostly they come in order: all are there
}

void PageList::append_row(std::size_t count, PageRef first) {
  for (std::size_t done = 0; done < count;) {
    const PageRef next = in_row(first, done);
    if (size_ % kChunk != 0) {
      put(size_, next);
      ++done;
      continue;
    }
    chunks_.emplace_back().first = next;
    const std::size_t now = std::min(kChunk, count - done);
    size_ += now;
    done += now;
  }
}

std::size_t PageList::bytes() const {
  std::size_t sum = chunks_.capacity() * sizeof(Chunk);
  for (const Chunk& chunk : chunks_) {
    if (chunk.rows) sum += sizeof(std::string) + chunk.rows->capacity();
    if (chunk.each) sum += sizeof(Refs);
  }
  return sum;
}

}  // namespace stillpoint::node
