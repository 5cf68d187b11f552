// Who the catalog belongs to, kept beside it as well: `coordinator-id` in the state directory. Hosts take orders of no
// other coordinator, so a catalog that is made again must go by the same id; and where the id is and the catalog is
// not, that is a loss and no first start. Blocking; any thread.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "common/result.h"

namespace stillpoint::coordinator {

// Nothing where there is none; damaged if it is no id.
Result<std::optional<std::string>> read_identity(const std::filesystem::path& state_directory);
// Durable when it returns; does nothing where it says that already.
Status keep_identity(const std::filesystem::path& state_directory, const std::string& id);

}  // namespace stillpoint::coordinator
