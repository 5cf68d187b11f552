#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#ifdef __SANITIZE_ADDRESS__
// The hook library's table of partitioned sends lives as long as its process; tests make many.
extern "C" const char* __lsan_default_suppressions() { return "leak:PartitionedSends::made\n"; }
#endif
