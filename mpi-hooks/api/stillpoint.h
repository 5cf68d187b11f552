/* Stillpoint's interface for programs: optional. A program that uses it needs no library at link time and runs as well
 * where there is no Stillpoint: every call then answers at once that nothing is there.
 *
 * Include it, build as usual (position-independent, as Debian's compilers do by default; with -no-pie add
 * -Wl,-z,dynamic-undefined-weak). Fortran: stillpoint.f90 and stillpoint_fortran.c beside this file.
 *
 * Between MPI_Init and MPI_Finalize, from any thread, unless a call says otherwise. Nothing here is collective: what
 * one rank asks for holds for the whole job. */
#ifndef STILLPOINT_H
#define STILLPOINT_H

#ifdef __cplusplus
extern "C" {
#endif

/* The hook library's own entries; programs call the functions below. */
#define STILLPOINT_WEAK __attribute__((weak, visibility("default")))
STILLPOINT_WEAK int stillpoint_hook_present(void);
STILLPOINT_WEAK void stillpoint_hook_wish(int kind);
STILLPOINT_WEAK int stillpoint_hook_wanted(void);
STILLPOINT_WEAK void stillpoint_hook_forbid(unsigned deadline_ms);
STILLPOINT_WEAK void stillpoint_hook_allow(void);
STILLPOINT_WEAK int stillpoint_hook_callbacks(void (*before)(void*), void (*after)(void*), void (*restarted)(void*),
                                              void* context);
STILLPOINT_WEAK unsigned long long stillpoint_hook_epoch(void);
STILLPOINT_WEAK unsigned stillpoint_hook_restarts(void);

/* 1: this process runs under Stillpoint. */
static inline int stillpoint_present(void) { return stillpoint_hook_present ? stillpoint_hook_present() : 0; }

/* Asks for a checkpoint of the job, as `stillpoint checkpoint` does, and returns at once. Dropped while one is under
 * way; several ranks' requests make one checkpoint. 0: asked; -1: no Stillpoint. */
static inline int stillpoint_request_checkpoint(void) {
  if (!stillpoint_present()) return -1;
  stillpoint_hook_wish(0);
  return 0;
}

/* A hint: now is a good moment (between two phases, with little memory in use). A periodic checkpoint that is due
 * within a quarter of its interval is then taken now. 0 or -1 as above. */
static inline int stillpoint_good_moment(void) {
  if (!stillpoint_present()) return -1;
  stillpoint_hook_wish(1);
  return 0;
}

/* A critical section: from the return of stillpoint_forbid on no checkpoint is taken before stillpoint_allow, or before
 * deadline_ms have passed. Waits for a checkpoint that is under way. Sections nest; each needs its allow. A checkpoint
 * that meets one is put off and gives up after its own deadline (10 s), so keep them short. */
static inline void stillpoint_forbid(unsigned deadline_ms) {
  if (stillpoint_present()) stillpoint_hook_forbid(deadline_ms);
}
static inline void stillpoint_allow(void) {
  if (stillpoint_present()) stillpoint_hook_allow();
}

/* 1: a checkpoint was put off because of this process's critical section, and none has been taken since. */
static inline int stillpoint_checkpoint_wanted(void) { return stillpoint_present() ? stillpoint_hook_wanted() : 0; }

/* Has functions called around each standstill of this process: before its gate shuts; after it has opened again,
 * whether or not the checkpoint came about; and, in a process that was brought back from a checkpoint, `restarted`
 * instead of `after`. Null where there is nothing to do. They run on a thread of Stillpoint's while the program's own
 * threads may be computing; they must be short and must not call MPI. One thread at a time may register; at most 16
 * times. 0: registered; -1: no Stillpoint, or too many. */
static inline int stillpoint_on_checkpoint(void (*before)(void*), void (*after)(void*), void (*restarted)(void*),
                                           void* context) {
  return stillpoint_present() ? stillpoint_hook_callbacks(before, after, restarted, context) : -1;
}

/* The number of the last checkpoint attempt that this process stood still for; 0: none yet. */
static inline unsigned long long stillpoint_epoch(void) { return stillpoint_present() ? stillpoint_hook_epoch() : 0; }
/* How often this process was brought back from a checkpoint. */
static inline unsigned stillpoint_restarts(void) { return stillpoint_present() ? stillpoint_hook_restarts() : 0; }

#ifdef __cplusplus
}
#endif

#endif
