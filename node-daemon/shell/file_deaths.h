// Kills the process it is linked into at a chosen system call that changes a file: it takes the place of the C
// library's functions. Tests only; the daemon's code is not changed for it.
#pragma once

#include <string>

namespace stillpoint::node::test {

struct FileDeath {
  std::string step;  // "fsync images/hosts/h1/packs/ID.pack.tmp"; empty: none
  int occurrence = 1;
  enum class When { before, half_way, after } when = When::before;  // half way: of a write
};

// Files below `directory` count. record: a file to which every step is appended, a line each; or empty. Once, before
// any other thread runs. Random ids in names are written ID, random ends of temporary names TMP.
void watch_files(const std::string& directory, const std::string& record, const FileDeath& death);

}  // namespace stillpoint::node::test
