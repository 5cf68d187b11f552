// The places of a space's pages, by number. What lies in rows takes next to nothing, whatever the space's size: pages
// that are zeros, that are not there, or that are stored one after the other. Of the rest each row takes some bytes.
//
// Threads: belongs to one at a time; without changes any number may read it.
#pragma once

#include <array>
#include <cstddef>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "node-daemon/store/page_index.h"

namespace stillpoint::node {

class PageList {
 public:
  PageList() = default;
  explicit PageList(std::size_t size);  // none of them is there
  PageList(const PageList& other);
  PageList(PageList&&) noexcept = default;
  PageList& operator=(PageList&&) noexcept = default;
  ~PageList() = default;

  std::size_t size() const { return size_; }
  // at: at most size(), which then grows by one. Best in order.
  void put(std::size_t at, PageRef ref);
  // Of so many further pages: those after `first` as they follow in a row.
  void append_row(std::size_t count, PageRef first);

  // Every place becomes what `change` makes of it.
  template <class F>
  void transform(F change) {
    for (Chunk& chunk : chunks_) {
      if (!chunk.each) unpack(chunk);
      for (PageRef& ref : *chunk.each) ref = change(ref);
      pack(chunk);
    }
  }

 private:
  static constexpr std::size_t kChunk = 512;
  using Refs = std::array<PageRef, kChunk>;

 public:
  // Reads, best in order. Not while the list changes.
  class Cursor {
   public:
    explicit Cursor(const PageList& list) : list_(&list), refs_(std::make_unique<Refs>()) {}
    PageRef operator[](std::size_t at) {
      if (const std::size_t chunk = at / kChunk; chunk != chunk_) {
        list_->read(list_->chunks_[chunk], *refs_);
        chunk_ = chunk;
      }
      return (*refs_)[at % kChunk];
    }

   private:
    const PageList* list_;
    std::unique_ptr<Refs> refs_;
    std::size_t chunk_ = ~std::size_t{0};
  };

  class Iterator {
   public:
    using iterator_category = std::input_iterator_tag;
    using value_type = PageRef;
    using difference_type = std::ptrdiff_t;
    using pointer = const PageRef*;
    using reference = PageRef;
    Iterator() = default;
    explicit Iterator(std::size_t at) : at_(at) {}
    explicit Iterator(const PageList& list) : cursor_(std::make_shared<Cursor>(list)) {}
    PageRef operator*() const { return (*cursor_)[at_]; }
    Iterator& operator++() {
      ++at_;
      return *this;
    }
    Iterator operator++(int) {
      Iterator before = *this;
      ++at_;
      return before;
    }
    bool operator==(const Iterator& other) const { return at_ == other.at_; }

   private:
    std::shared_ptr<Cursor> cursor_;  // shared by copies, as an input iterator's place is
    std::size_t at_ = 0;
  };
  Iterator begin() const { return Iterator(*this); }
  Iterator end() const { return Iterator(size_); }

  std::size_t bytes() const;  // of memory

 private:
  // As one row, as rows, or as it is: the last two have `first` for nothing.
  struct Chunk {
    PageRef first = kAbsentPage;
    std::unique_ptr<std::string> rows;
    std::unique_ptr<Refs> each;
  };
  static void read(const Chunk& chunk, Refs& refs);
  static void unpack(Chunk& chunk);
  static void pack(Chunk& chunk);

  std::vector<Chunk> chunks_;
  std::size_t size_ = 0;
};

}  // namespace stillpoint::node
