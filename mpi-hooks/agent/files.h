// The job's files: pieces written into the work directory, pieces read back. Nothing outside of it is reachable, not
// even through symbolic links. Blocking on the guest's disk; not to be called while the file system is frozen.
#pragma once

#include <string>

#include "guest.pb.h"
#include "mpi-hooks/agent/outcome.h"

namespace stillpoint::agent {

inline constexpr std::size_t kMaxFilePiece = 256u << 10;

// Writes one piece. The file grows under a temporary name beside its own; the last piece renames it. A piece that was
// written before is written again; pieces with a gap before them are refused. A repeated last piece is done already.
Done put_file(const std::string& workdir, const wire::PutFile& piece);

Outcome<wire::FileData> read_file_piece(const std::string& workdir, const wire::ReadFile& request);

}  // namespace stillpoint::agent
