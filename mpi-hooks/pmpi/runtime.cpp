#include "mpi-hooks/pmpi/runtime.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

namespace stillpoint::hooks {

constinit Gate gate;
constinit Communicators communicators;
constinit PartitionedSends partitioned_sends;
constinit Helper helper{gate, communicators, partitioned_sends};
constinit thread_local Thread self;

namespace {

pthread_key_t thread_end;
pthread_once_t thread_end_made = PTHREAD_ONCE_INIT;

// Also where the library was loaded for one module alone, as Python's are. Null: nowhere.
void* find_in(void* scope, const char* name, const char* symbol) noexcept {
  void* found = dlsym(scope, symbol);
  if (found == nullptr) {
    if (void* library = dlopen(name, RTLD_LAZY | RTLD_NOLOAD)) {
      found = dlsym(library, symbol);
      dlclose(library);  // only our reference: RTLD_NOLOAD has not loaded it
    }
  }
  return found;
}

void* find(void* scope, const char* symbol) noexcept {
  void* const found = find_in(scope, "libmpi.so.40", symbol);
  if (found == nullptr) {
    // The program calls a function that its libmpi lacks. Without this library the dynamic linker would have ended it.
    static const char text[] = "stillpoint: libmpi has no symbol ";
    [[maybe_unused]] auto n = write(2, text, sizeof text - 1);
    n = write(2, symbol, strlen(symbol));
    n = write(2, "\n", 1);
    abort();
  }
  return found;
}

}  // namespace

// A thread that ends leaves the gate's list: a key's destructor runs before its TLS block goes away.
bool join_program(Thread& thread) noexcept {
  pthread_once(&thread_end_made,
               [] { pthread_key_create(&thread_end, [](void* ended) { gate.part(*static_cast<Thread*>(ended)); }); });
  pthread_setspecific(thread_end, &thread);
  gate.join(thread);
  return true;
}

void* look_up(const char* symbol) noexcept { return find(RTLD_NEXT, symbol); }
void* look_up_data(const char* symbol) noexcept { return find(RTLD_DEFAULT, symbol); }
void* find_pmix(const char* symbol) noexcept { return find_in(RTLD_NEXT, "libpmix.so.2", symbol); }
bool is_open_mpi() noexcept { return find_in(RTLD_DEFAULT, "libmpi.so.40", "ompi_mpi_comm_world") != nullptr; }

}  // namespace stillpoint::hooks

using namespace stillpoint::hooks;

#include "wrappers.inc"
