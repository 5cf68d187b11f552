// An image put right from a copy of it in another place: packs that are damaged or gone, and the image's file.
//
// What is fetched is checked block by block before it takes a name. A pack that had a damaged block goes when all that
// is whole in it has been written anew.
//
// Threads: blocking; any.
#pragma once

#include <stop_token>

#include "node-daemon/store/chunk_store.h"

namespace stillpoint::node {

// bad: blocks of the image that are of no use in `here`. An error of kind damaged: some of them the copy has not got
// either; the others were put right.
Status mend_blocks(ChunkStore& here, ChunkStore& there, const std::vector<BlockSlots>& bad,
                   const std::stop_token& stop);

// The image's file, which is damaged or gone, with what it lists and is not here. The copy's file must be the one that
// the catalog recorded.
Status mend_list(ChunkStore& here, ChunkStore& there, const std::string& image, const std::stop_token& stop);

}  // namespace stillpoint::node
