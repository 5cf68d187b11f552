// Reading an image out of a store. Not for use outside.
#pragma once

#include "node-daemon/store/store_state.h"

namespace stillpoint::node {

Result<std::unique_ptr<ImageSource>> open_image_source(StoreState& state, const std::string& name);

}  // namespace stillpoint::node
