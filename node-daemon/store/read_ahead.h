// Reads an image ahead on a thread of its own, behind a bounded buffer: while QEMU takes one piece of it, the next ones
// are fetched, checked and unpacked.
#pragma once

#include "node-daemon/store/image_store.h"

namespace stillpoint::node {

inline constexpr std::size_t kReadAheadBytes = 4u << 20;  // read and not taken yet, but for the piece that fills it up

// Gives what `reader` gives, in order, its error or end last and from then on. Destroyed before the end, it waits for
// the piece that is being read.
// Threads: as ImageReader says; `reader` is used by the thread made here alone.
std::unique_ptr<ImageReader> read_ahead(std::unique_ptr<ImageReader> reader,
                                        std::size_t buffer_bytes = kReadAheadBytes);

}  // namespace stillpoint::node
