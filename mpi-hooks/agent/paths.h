// Paths that come over the wire. Pure; any thread.
#pragma once

#include <string_view>

namespace stillpoint::agent {

// Whether path names something inside the directory it is taken relative to: not empty, not absolute, no empty, "." or
// ".." component, no NUL, no component or path longer than Linux takes. Symbolic links are the opener's matter
// (RESOLVE_BENEATH).
bool is_plain_relative_path(std::string_view path);

}  // namespace stillpoint::agent
