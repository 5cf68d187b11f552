// The wrappers that count the parts of partitioned sends (core/partitioned_sends.h): made, started, ready, freed.
#include <stdlib.h>
#include <unistd.h>

#include "mpi-hooks/pmpi/runtime.h"

namespace stillpoint::hooks {
namespace {

constinit PartitionedSends& sends = partitioned_sends;

struct Made {
  MPI_Request* request;
  std::uint32_t parts;
  // Without memory to remember the request its parts would not be counted, and a checkpoint might break it.
  void operator()(int result) const noexcept {
    if (result == MPI_SUCCESS && !sends.made(*request, parts)) give_up();
  }
  [[noreturn]] static void give_up() noexcept {
    static const char text[] = "stillpoint: no memory for a partitioned send\n";
    [[maybe_unused]] const auto n = write(2, text, sizeof text - 1);
    abort();
  }
};

struct Started {
  int count;
  const MPI_Request* requests;
  void before() const noexcept {
    for (int i = 0; requests != nullptr && i < count; i++) sends.started(requests[i]);
  }
  void operator()(int result) const noexcept {
    if (result == MPI_SUCCESS || requests == nullptr) return;
    for (int i = 0; i < count; i++) sends.not_started(requests[i]);
  }
};

// Before the call: as soon as it is over another thread may be given the same handle.
struct Freed {
  const MPI_Request* request;
  void before() const noexcept {
    if (request != nullptr) sends.forget(*request);
  }
  void operator()(int) const noexcept {}
};

struct Ready {
  MPI_Request request;
  int parts;
  void operator()(int result) const noexcept {
    if (result == MPI_SUCCESS && parts > 0) sends.ready(request, static_cast<std::uint32_t>(parts));
  }
};

#define STILLPOINT_PARTITIONED_CALL(name)                    \
  static constexpr Call call{"PMPI_" #name, CallKind::gate}; \
  static inline constinit Next<decltype(PMPI_##name)> next

struct PsendInit {
  STILLPOINT_PARTITIONED_CALL(Psend_init);
  static const void* communicator(const void*, int, MPI_Count, MPI_Datatype, int, int, MPI_Comm comm, MPI_Info,
                                  MPI_Request*) {
    return comm;
  }
  static auto note(const void*, int partitions, MPI_Count, MPI_Datatype, int, int, MPI_Comm, MPI_Info,
                   MPI_Request* request) {
    return Made{request, static_cast<std::uint32_t>(partitions)};
  }
};
struct Start {
  STILLPOINT_PARTITIONED_CALL(Start);
  static const void* communicator(MPI_Request*) { return nullptr; }
  static auto note(MPI_Request* request) { return Started{1, request}; }
};
struct Startall {
  STILLPOINT_PARTITIONED_CALL(Startall);
  static const void* communicator(int, MPI_Request*) { return nullptr; }
  static auto note(int count, MPI_Request* requests) { return Started{count, requests}; }
};
struct Pready {
  STILLPOINT_PARTITIONED_CALL(Pready);
  static const void* communicator(int, MPI_Request) { return nullptr; }
  static auto note(int, MPI_Request request) { return Ready{request, 1}; }
};
struct PreadyRange {
  STILLPOINT_PARTITIONED_CALL(Pready_range);
  static const void* communicator(int, int, MPI_Request) { return nullptr; }
  static auto note(int low, int high, MPI_Request request) { return Ready{request, high - low + 1}; }
};
struct PreadyList {
  STILLPOINT_PARTITIONED_CALL(Pready_list);
  static const void* communicator(int, const int*, MPI_Request) { return nullptr; }
  static auto note(int length, const int*, MPI_Request request) { return Ready{request, length}; }
};
struct RequestFree {
  STILLPOINT_PARTITIONED_CALL(Request_free);
  static const void* communicator(MPI_Request*) { return nullptr; }
  static auto note(MPI_Request* request) { return Freed{request}; }
};

}  // namespace
}  // namespace stillpoint::hooks

using namespace stillpoint::hooks;

STILLPOINT_EXPORT int PMPI_Psend_init(const void* buf, int partitions, MPI_Count count, MPI_Datatype datatype, int dest,
                                      int tag, MPI_Comm comm, MPI_Info info, MPI_Request* request) {
  return through<PsendInit>(buf, partitions, count, datatype, dest, tag, comm, info, request);
}
STILLPOINT_EXPORT int PMPI_Start(MPI_Request* request) { return through<Start>(request); }
STILLPOINT_EXPORT int PMPI_Startall(int count, MPI_Request requests[]) { return through<Startall>(count, requests); }
STILLPOINT_EXPORT int PMPI_Pready(int partition, MPI_Request request) { return through<Pready>(partition, request); }
STILLPOINT_EXPORT int PMPI_Pready_range(int low, int high, MPI_Request request) {
  return through<PreadyRange>(low, high, request);
}
STILLPOINT_EXPORT int PMPI_Pready_list(int length, int partitions[], MPI_Request request) {
  return through<PreadyList>(length, partitions, request);
}
STILLPOINT_EXPORT int PMPI_Request_free(MPI_Request* request) { return through<RequestFree>(request); }

STILLPOINT_EXPORT int MPI_Psend_init(const void*, int, MPI_Count, MPI_Datatype, int, int, MPI_Comm, MPI_Info,
                                     MPI_Request*) __attribute__((alias("PMPI_Psend_init")));
STILLPOINT_EXPORT int MPI_Start(MPI_Request*) __attribute__((alias("PMPI_Start")));
STILLPOINT_EXPORT int MPI_Startall(int, MPI_Request[]) __attribute__((alias("PMPI_Startall")));
STILLPOINT_EXPORT int MPI_Pready(int, MPI_Request) __attribute__((alias("PMPI_Pready")));
STILLPOINT_EXPORT int MPI_Pready_range(int, int, MPI_Request) __attribute__((alias("PMPI_Pready_range")));
STILLPOINT_EXPORT int MPI_Pready_list(int, int[], MPI_Request) __attribute__((alias("PMPI_Pready_list")));
STILLPOINT_EXPORT int MPI_Request_free(MPI_Request*) __attribute__((alias("PMPI_Request_free")));
