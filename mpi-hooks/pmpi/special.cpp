// The wrappers that do more than pass the gate: how MPI begins and ends in a rank, and what happens when a peer dies.
#include <dlfcn.h>
#include <pmix.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mpi-hooks/core/futex.h"
#include "mpi-hooks/pmpi/runtime.h"

namespace stillpoint::hooks {
namespace {

constexpr Call kInit{"PMPI_Init", CallKind::defer};
constexpr Call kInitThread{"PMPI_Init_thread", CallKind::defer};
constexpr Call kFinalize{"PMPI_Finalize", CallKind::defer};
constexpr Call kSessionInit{"PMPI_Session_init", CallKind::defer};
constexpr Call kSessionFinalize{"PMPI_Session_finalize", CallKind::defer};
Next<decltype(PMPI_Session_init)> next_session_init;
Next<decltype(PMPI_Session_finalize)> next_session_finalize;
Next<decltype(PMPI_Init)> next_init;
Next<decltype(PMPI_Init_thread)> next_init_thread;
Next<decltype(PMPI_Finalize)> next_finalize;
Next<decltype(PMPI_Query_thread)> next_query_thread;
Next<decltype(PMPI_Iprobe)> next_iprobe;

// What the program asked for and was told, when the library raised it; -1: it did not.
std::atomic<int> told_level{-1};
// MPI is up while there is the world or a session.
std::atomic<bool> world_up{false};
std::atomic<int> sessions_up{0};
std::atomic<bool> session_multiple{false};
// The helper's own communicator: nothing of the program can match on it, and it has no member that could die.
MPI_Comm pump_comm;

template <typename Function>
Function* libmpi(const char* symbol, Function*) noexcept {
  return reinterpret_cast<Function*>(look_up(symbol));
}
#define STILLPOINT_LIBMPI(function) libmpi(#function, &function)

// The predefined objects of libmpi are data. This library must also load where there is no libmpi (a shell that starts
// the program), so it may not refer to them.
MPI_Comm world() noexcept { return static_cast<MPI_Comm>(look_up_data("ompi_mpi_comm_world")); }
MPI_Comm nobody() noexcept { return static_cast<MPI_Comm>(look_up_data("ompi_mpi_comm_null")); }
MPI_Comm alone() noexcept { return static_cast<MPI_Comm>(look_up_data("ompi_mpi_comm_self")); }

constexpr Call kProgress{"PMPI_Iprobe", CallKind::gate};
// Runs on the helper thread, which is none of the program's: what libmpi or a callback calls in here must not park.
void progress() noexcept {
  self.call.store(&kProgress, std::memory_order_relaxed);
  int arrived;
  resolve("PMPI_Iprobe", next_iprobe)(MPI_ANY_SOURCE, 0, pump_comm, &arrived, MPI_STATUS_IGNORE);
}

// The name of the point-to-point layer that libmpi chose. Not part of MPI: the variable is libmpi's own, a
// mca_base_component_t of Open MPI 5, whose layout is checked by the type's name that stands in it.
const char* transport() noexcept {
  constexpr std::size_t kTypeName = 40, kName = 84;
  const auto* component = static_cast<const char*>(dlsym(RTLD_DEFAULT, "mca_pml_base_selected_component"));
  return component != nullptr && strcmp(component + kTypeName, "pml") == 0 ? component + kName : "";
}

// The rank in MPI_COMM_WORLD of a process that is known to have failed, -1 when none is.
int failed_rank() noexcept {
  MPI_Group failed, everybody;
  if (STILLPOINT_LIBMPI(PMPIX_Comm_get_failed)(world(), &failed) != MPI_SUCCESS) return -1;
  int count = 0, first = 0, rank = -1;
  STILLPOINT_LIBMPI(PMPI_Group_size)(failed, &count);
  if (count > 0 && STILLPOINT_LIBMPI(PMPI_Comm_group)(world(), &everybody) == MPI_SUCCESS) {
    STILLPOINT_LIBMPI(PMPI_Group_translate_ranks)(failed, 1, &first, everybody, &rank);
    STILLPOINT_LIBMPI(PMPI_Group_free)(&everybody);
  }
  STILLPOINT_LIBMPI(PMPI_Group_free)(&failed);
  return rank < 0 ? -1 : rank;
}

[[noreturn]] void park_for_good() noexcept {
  std::atomic<std::uint32_t> for_ever{0};
  for (;;) futex_wait(for_ever, 0);
}

// The error handler of MPI_COMM_WORLD and MPI_COMM_SELF, and so of what is made from them, until the program sets its
// own. A dead peer: say so and stop here, for the whole job is going to be rolled back and nothing that this rank
// would still write may stand beside what its successor writes. Anything else: what MPI_ERRORS_ARE_FATAL does.
void on_error(MPI_Comm* comm, int* code, ...) {
  int error_class = MPI_ERR_UNKNOWN;
  STILLPOINT_LIBMPI(PMPI_Error_class)(*code, &error_class);
  if (error_class == MPIX_ERR_PROC_FAILED || error_class == MPIX_ERR_PROC_FAILED_PENDING ||
      error_class == MPIX_ERR_REVOKED) {
    gate.lock_for_good();
    helper.peer_failed(failed_rank());
    park_for_good();
  }
  // Open MPI passes the name of the function that failed; its own handler prints it. It does not come back.
  va_list more;
  va_start(more, code);
  const char* where = va_arg(more, const char*);
  va_end(more);
  if (void* fatal = dlsym(RTLD_DEFAULT, "ompi_mpi_errors_are_fatal_comm_handler"))
    reinterpret_cast<void (*)(MPI_Comm*, int*, ...)>(fatal)(comm, code, where, nullptr);
  STILLPOINT_LIBMPI(PMPI_Abort)(*comm, *code);
}

// mpirun's namespace of this rank's MPI_COMM_WORLD, whose ranks it numbers alike.
char own_namespace[PMIX_MAX_NSLEN + 1];

// A process of the job was ended by a signal: its guest's daemon noticed, and all ranks are told, on a thread of PMIx,
// whatever their own threads do, so also those that compute outside MPI. A process that ends by itself, and MPI_Abort,
// are no such event: mpirun ends the job then, with an exit code. Open MPI's own handlers, which come after this one,
// wake the calls that wait for the dead process.
void on_process_died(std::size_t, pmix_status_t, const pmix_proc_t* source, pmix_info_t* info, std::size_t count,
                     pmix_info_t*, std::size_t, pmix_event_notification_cbfunc_fn_t done, void* context) noexcept {
  const pmix_proc_t* died = source;
  for (std::size_t i = 0; i < count; i++)
    if (info[i].value.type == PMIX_PROC && strncmp(info[i].key, PMIX_EVENT_AFFECTED_PROC, PMIX_MAX_KEYLEN) == 0)
      died = info[i].value.data.proc;
  const bool ours = died != nullptr && strncmp(died->nspace, own_namespace, PMIX_MAX_NSLEN) == 0;
  gate.lock_for_good();
  helper.peer_killed(ours ? static_cast<int>(died->rank) : -1);
  if (done != nullptr) done(PMIX_EVENT_NO_ACTION_TAKEN, nullptr, 0, nullptr, nullptr, context);
}

// When MPI is up. On a thread of the program, inside its call.
void watch_processes() noexcept {
  auto* const watch =
      reinterpret_cast<decltype(&PMIx_Register_event_handler)>(find_pmix("PMIx_Register_event_handler"));
  if (watch == nullptr) return;             // then only calls that meet the dead process tell
  static std::atomic<bool> watched{false};  // MPI may begin more than once
  if (watched.exchange(true)) return;
  if (const char* name = getenv("PMIX_NAMESPACE")) strncpy(own_namespace, name, PMIX_MAX_NSLEN);
  pmix_status_t wanted[] = {PMIX_ERR_PROC_ABORTED_BY_SIG};
  watch(wanted, 1, nullptr, 0, &on_process_died, nullptr, nullptr);
}

// Where there is no world there is no communicator that the helper could own without being a party to the program's
// sessions, and so keeping MPI up behind its back. libmpi's engine itself will do; it is what every call turns.
Next<void()> next_opal_progress;
void session_progress() noexcept {
  self.call.store(&kProgress, std::memory_order_relaxed);
  next_opal_progress.function.load(std::memory_order_relaxed)();
}

int number_from(const char* variable, int otherwise) noexcept {
  const char* text = getenv(variable);
  return text != nullptr ? atoi(text) : otherwise;
}

// After the first session of a program without a world: mpirun says which rank this is.
void sessions_began() noexcept {
  resolve("opal_progress", next_opal_progress);
  watch_processes();
  helper.initialized({.rank = number_from("OMPI_COMM_WORLD_RANK", 0),
                      .size = number_from("OMPI_COMM_WORLD_SIZE", 1),
                      .multiple = session_multiple.load(),
                      .transport = transport(),
                      .progress = &session_progress});
}

void after_init(int told, int provided) noexcept {
  told_level.store(told, std::memory_order_relaxed);
  world_up.store(true);

  int rank = -1, size = 0;
  STILLPOINT_LIBMPI(PMPI_Comm_rank)(world(), &rank);
  STILLPOINT_LIBMPI(PMPI_Comm_size)(world(), &size);

  bool can_pump =
      provided >= MPI_THREAD_SERIALIZED && STILLPOINT_LIBMPI(PMPI_Comm_dup)(alone(), &pump_comm) == MPI_SUCCESS;
  if (can_pump) {
    const auto quiet = static_cast<MPI_Errhandler>(look_up_data("ompi_mpi_errors_return"));
    STILLPOINT_LIBMPI(PMPI_Comm_set_errhandler)(pump_comm, quiet);
    STILLPOINT_LIBMPI(PMPI_Comm_set_name)(pump_comm, "stillpoint");
    resolve("PMPI_Iprobe", next_iprobe);
  }

  MPI_Errhandler handler;
  if (STILLPOINT_LIBMPI(PMPI_Comm_create_errhandler)(&on_error, &handler) == MPI_SUCCESS) {
    STILLPOINT_LIBMPI(PMPI_Comm_set_errhandler)(world(), handler);
    STILLPOINT_LIBMPI(PMPI_Comm_set_errhandler)(alone(), handler);
    STILLPOINT_LIBMPI(PMPI_Errhandler_free)(&handler);  // the communicators hold it
  }
  MPI_Comm parent = nobody();
  STILLPOINT_LIBMPI(PMPI_Comm_get_parent)(&parent);
  Remember::note(world());
  Remember::note(alone());
  Remember::note(parent);
  watch_processes();
  helper.initialized({.rank = rank,
                      .size = size,
                      .multiple = provided == MPI_THREAD_MULTIPLE,
                      .spawned = parent != nobody(),
                      .transport = transport(),
                      .progress = can_pump ? &progress : nullptr});
}

// The child of a fork is not the rank: it gets no gate and no helper, and takes neither with it.
void in_forked_child() noexcept {
  helper.forget_after_fork();
  gate.forget_after_fork(self);
  communicators.forget_after_fork();
  partitioned_sends.forget_after_fork();
}

std::atomic<pid_t> rank_process{0};

// Whether a process of the job is dead, as MPI itself knows, which may be before the word of it comes. Then what this
// rank does about it is no end of the program's own. On a thread that may call MPI.
bool peer_is_dead() noexcept {
  if (gate.is_locked_for_good()) return true;
  const int rank = world_up.load() ? failed_rank() : -1;
  if (rank >= 0) helper.peer_failed(rank);
  return rank >= 0;
}

// exit() before MPI_Finalize. mpirun --with-ft ulfm takes that for the failure of one process, which others may live
// through; here it is the program's own end, as it is without ULFM. Zero is told as well: MPI was not finalized.
constexpr Call kExit{"Pexit", CallKind::defer};
void at_exit(int status, void*) noexcept {
  if (getpid() != rank_process.load() || (!world_up.load() && sessions_up.load() == 0)) return;
  Thread& thread = self;
  if (thread.joined == nullptr) return;    // PMIx's own thread, say, when mpirun's daemon is gone
  const bool may_ask = outermost(thread);  // not from inside MPI
  if (may_ask) {
    gate.announce(thread, kExit);
    helper.keep_out();
  }
  const bool consequence = may_ask ? peer_is_dead() : gate.is_locked_for_good();
  if (may_ask) gate.leave(thread);
  if (!consequence) helper.own_end(status & 0xff);
}

bool start_helper() noexcept {
  const char* path = getenv("STILLPOINT_AGENT_SOCKET");
  if (helper.started()) return true;
  if (!is_open_mpi())
    return false;  // the agent says what is wrong with that; the program does what it would without us
  if (!helper.start(path != nullptr ? path : kAgentSocket)) return false;
  pthread_atfork(nullptr, nullptr, &in_forked_child);
  if (rank_process.exchange(getpid()) == 0) on_exit(&at_exit, nullptr);
  return true;
}

// Not parked at a shut gate: this rank has said hello but not closed, and those already inside MPI_Init wait for it.
template <typename Start>
int begin(const Call& call, int asked, int* provided, Start&& start) {
  Thread& thread = self;
  if (!outermost(thread)) return start(asked);
  gate.announce(thread, call);
  helper.keep_out();  // it may be pumping already, for a session
  // The helper needs SERIALIZED; MULTIPLE would be given too, but costs locks in every call.
  const int result = start(asked < MPI_THREAD_SERIALIZED ? MPI_THREAD_SERIALIZED : asked);
  if (result == MPI_SUCCESS) {
    const int told = asked < MPI_THREAD_SERIALIZED ? asked : *provided;
    after_init(told, *provided);
    *provided = told;
  }
  gate.leave(thread);
  return result;
}

}  // namespace

// On a thread of the program, inside the call that made or named it: the questions are its own calls'.
void Remember::note(MPI_Comm communicator) noexcept {
  if (!helper.started() || communicator == nobody()) return;
  int between_two = 0, peers = 0, length = 0;
  char name[MPI_MAX_OBJECT_NAME] = "";
  STILLPOINT_LIBMPI(PMPI_Comm_test_inter)(communicator, &between_two);
  if (between_two != 0) STILLPOINT_LIBMPI(PMPI_Comm_remote_size)(communicator, &peers);
  else STILLPOINT_LIBMPI(PMPI_Comm_size)(communicator, &peers);
  STILLPOINT_LIBMPI(PMPI_Comm_get_name)(communicator, name, &length);
  communicators.remember(communicator, static_cast<std::uint32_t>(peers), name);
}

}  // namespace stillpoint::hooks

using namespace stillpoint::hooks;

// What MPI_Abort, every fatal error handler and libmpi itself end a program by. With --with-ft ulfm it does not end the
// other processes (docs/quiesce.md), so the agent is told before. Where a peer is dead this rank gives up because of
// that: it parks instead, for the whole job is going to be rolled back.
STILLPOINT_EXPORT pmix_status_t PMIx_Abort(int status, const char message[], pmix_proc_t processes[], size_t count) {
  // PMIx's own thread calls it too, when mpirun's daemon is gone: that is no end of the program's own.
  const Call* inside = self.call.load(std::memory_order_relaxed);
  const bool by_program = inside != nullptr && inside != &kStranger && inside != &kProgress;
  if (by_program && helper.started() && getpid() == rank_process.load()) {
    if (peer_is_dead()) park_for_good();
    helper.own_end((status & 0xff) == 0 ? 1 : status & 0xff);
  }
  auto* const function = reinterpret_cast<decltype(&PMIx_Abort)>(find_pmix("PMIx_Abort"));
  return function != nullptr ? function(status, message, processes, count) : PMIX_ERR_NOT_SUPPORTED;
}

STILLPOINT_EXPORT int PMPI_Init_thread(int* argc, char*** argv, int required, int* provided) {
  auto* const function = resolve("PMPI_Init_thread", next_init_thread);
  if (!start_helper()) return function(argc, argv, required, provided);
  return begin(kInitThread, required, provided, [&](int level) { return function(argc, argv, level, provided); });
}

STILLPOINT_EXPORT int PMPI_Init(int* argc, char*** argv) {
  if (!start_helper()) return resolve("PMPI_Init", next_init)(argc, argv);
  auto* const function = resolve("PMPI_Init_thread", next_init_thread);
  // MPI_Init takes its level from here, in Open MPI.
  const char* level = getenv("OMPI_MPI_THREAD_LEVEL");
  int provided = MPI_THREAD_SINGLE;
  return begin(kInit, level != nullptr ? atoi(level) : MPI_THREAD_SINGLE, &provided,
               [&](int raised) { return function(argc, argv, raised, &provided); });
}

STILLPOINT_EXPORT int PMPI_Query_thread(int* provided) {
  const int result = resolve("PMPI_Query_thread", next_query_thread)(provided);
  if (const int told = told_level.load(std::memory_order_relaxed); result == MPI_SUCCESS && told >= 0) *provided = told;
  return result;
}

STILLPOINT_EXPORT int PMPI_Finalize(void) {
  auto* const function = resolve("PMPI_Finalize", next_finalize);
  Thread& thread = self;
  if (!helper.started() || !outermost(thread)) return function();
  gate.enter(thread, kFinalize);
  helper.finalizing();  // from here on the helper keeps out of MPI
  if (pump_comm != nullptr) STILLPOINT_LIBMPI(PMPI_Comm_free)(&pump_comm);
  const int result = function();
  world_up.store(false);
  if (result == MPI_SUCCESS && sessions_up.load() > 0) sessions_began();  // they go on without it
  else helper.finalized();
  gate.leave(thread);
  return result;
}

// As MPI_Init, not parked at a shut gate.
STILLPOINT_EXPORT int PMPI_Session_init(MPI_Info info, MPI_Errhandler handler, MPI_Session* session) {
  auto* const function = resolve("PMPI_Session_init", next_session_init);
  Thread& thread = self;
  if (!start_helper() || !outermost(thread)) return function(info, handler, session);
  gate.announce(thread, kSessionInit);
  helper.keep_out();  // it may be pumping for another one
  const int result = function(info, handler, session);
  if (result == MPI_SUCCESS) {
    char level[32] = "";
    int given = 0;
    if (info != static_cast<MPI_Info>(look_up_data("ompi_mpi_info_null")))
      STILLPOINT_LIBMPI(PMPI_Info_get)(info, "thread_level", sizeof level - 1, level, &given);
    if (given != 0 && strcmp(level, "MPI_THREAD_MULTIPLE") == 0) session_multiple.store(true);
    if (sessions_up.fetch_add(1) == 0 && !world_up.load()) sessions_began();
  }
  gate.leave(thread);
  return result;
}

STILLPOINT_EXPORT int PMPI_Session_finalize(MPI_Session* session) {
  auto* const function = resolve("PMPI_Session_finalize", next_session_finalize);
  Thread& thread = self;
  if (!helper.started() || !outermost(thread)) return function(session);
  gate.enter(thread, kSessionFinalize);
  const bool last = sessions_up.fetch_sub(1) == 1 && !world_up.load();
  if (last) helper.finalizing();
  const int result = function(session);
  if (last) helper.finalized();
  gate.leave(thread);
  return result;
}

STILLPOINT_EXPORT int MPI_Session_init(MPI_Info, MPI_Errhandler, MPI_Session*)
    __attribute__((alias("PMPI_Session_init")));
STILLPOINT_EXPORT int MPI_Session_finalize(MPI_Session*) __attribute__((alias("PMPI_Session_finalize")));
STILLPOINT_EXPORT int MPI_Init_thread(int*, char***, int, int*) __attribute__((alias("PMPI_Init_thread")));
STILLPOINT_EXPORT int MPI_Init(int*, char***) __attribute__((alias("PMPI_Init")));
STILLPOINT_EXPORT int MPI_Query_thread(int*) __attribute__((alias("PMPI_Query_thread")));
STILLPOINT_EXPORT int MPI_Finalize(void) __attribute__((alias("PMPI_Finalize")));
