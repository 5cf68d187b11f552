// How many files a process may have open.
#pragma once

namespace stillpoint {

// Raises this process's soft limit, which is a login shell's, to 65,536 or its hard limit if that is less. A wish:
// where it is refused, opening fails later and says so. Before other threads are begun.
void raise_descriptor_limit();

}  // namespace stillpoint
