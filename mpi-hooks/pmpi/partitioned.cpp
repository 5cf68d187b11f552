// The wrappers that count the parts of partitioned sends (core/partitioned_sends.h): made, started, ready, freed.
#include "mpi-hooks/pmpi/runtime.h"

namespace stillpoint::hooks {
namespace {

constinit PartitionedSends& sends = partitioned_sends;

#define STILLPOINT_CALL(name)                            \
  constexpr Call k##name{"PMPI_" #name, CallKind::gate}; \
  Next<decltype(PMPI_##name)> next_##name

STILLPOINT_CALL(Psend_init);
STILLPOINT_CALL(Start);
STILLPOINT_CALL(Startall);
STILLPOINT_CALL(Pready);
STILLPOINT_CALL(Pready_range);
STILLPOINT_CALL(Pready_list);
STILLPOINT_CALL(Request_free);

// Where there was no memory to remember the request the count would be wrong; the program is told, and has no request.
struct Made {
  MPI_Request* request;
  std::uint32_t parts;
  bool* refused;
  void operator()(int result) const noexcept {
    if (result == MPI_SUCCESS) *refused = !sends.made(*request, parts);
  }
};

struct Started {
  int count;
  const MPI_Request* requests;
  void before() const noexcept {
    for (int i = 0; i < count; i++) sends.started(requests[i]);
  }
  void operator()(int result) const noexcept {
    if (result == MPI_SUCCESS) return;
    for (int i = 0; i < count; i++) sends.not_started(requests[i]);
  }
};

// Before the call: as soon as it is over another thread may be given the same handle.
struct Freed {
  const MPI_Request* request;
  void before() const noexcept { sends.forget(*request); }
  void operator()(int) const noexcept {}
};

struct Ready {
  MPI_Request request;
  int parts;
  void operator()(int result) const noexcept {
    if (result == MPI_SUCCESS && parts > 0) sends.ready(request, static_cast<std::uint32_t>(parts));
  }
};

}  // namespace
}  // namespace stillpoint::hooks

using namespace stillpoint::hooks;

STILLPOINT_EXPORT int PMPI_Psend_init(const void* buf, int partitions, MPI_Count count, MPI_Datatype datatype, int dest,
                                      int tag, MPI_Comm comm, MPI_Info info, MPI_Request* request) {
  bool refused = false;
  const Made note{request, static_cast<std::uint32_t>(partitions), &refused};
  const int result = through(kPsend_init, next_Psend_init, comm, note, buf, partitions, count, datatype, dest, tag,
                             comm, info, request);
  if (!refused) return result;
  resolve("PMPI_Request_free", next_Request_free)(request);
  return MPI_ERR_NO_MEM;
}

STILLPOINT_EXPORT int PMPI_Start(MPI_Request* request) {
  return through(kStart, next_Start, nullptr, Started{1, request}, request);
}

STILLPOINT_EXPORT int PMPI_Startall(int count, MPI_Request array_of_requests[]) {
  return through(kStartall, next_Startall, nullptr, Started{count, array_of_requests}, count, array_of_requests);
}

STILLPOINT_EXPORT int PMPI_Pready(int partition, MPI_Request request) {
  return through(kPready, next_Pready, nullptr, Ready{request, 1}, partition, request);
}

STILLPOINT_EXPORT int PMPI_Pready_range(int low, int high, MPI_Request request) {
  return through(kPready_range, next_Pready_range, nullptr, Ready{request, high - low + 1}, low, high, request);
}

STILLPOINT_EXPORT int PMPI_Pready_list(int length, int partitions[], MPI_Request request) {
  return through(kPready_list, next_Pready_list, nullptr, Ready{request, length}, length, partitions, request);
}

STILLPOINT_EXPORT int PMPI_Request_free(MPI_Request* request) {
  return through(kRequest_free, next_Request_free, nullptr, Freed{request}, request);
}

STILLPOINT_EXPORT int MPI_Psend_init(const void*, int, MPI_Count, MPI_Datatype, int, int, MPI_Comm, MPI_Info,
                                     MPI_Request*) __attribute__((alias("PMPI_Psend_init")));
STILLPOINT_EXPORT int MPI_Start(MPI_Request*) __attribute__((alias("PMPI_Start")));
STILLPOINT_EXPORT int MPI_Startall(int, MPI_Request[]) __attribute__((alias("PMPI_Startall")));
STILLPOINT_EXPORT int MPI_Pready(int, MPI_Request) __attribute__((alias("PMPI_Pready")));
STILLPOINT_EXPORT int MPI_Pready_range(int, int, MPI_Request) __attribute__((alias("PMPI_Pready_range")));
STILLPOINT_EXPORT int MPI_Pready_list(int, int[], MPI_Request) __attribute__((alias("PMPI_Pready_list")));
STILLPOINT_EXPORT int MPI_Request_free(MPI_Request*) __attribute__((alias("PMPI_Request_free")));
