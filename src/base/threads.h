/* threads.h — the one door to threads for operators: a small pool with one entry, tl__parallel_for.
 *
 * Work is cut into `count` tasks by shape alone, never by the number of threads, and each output is computed wholly
 * inside one task: who runs a task cannot change a bit. Workers set MXCSR/FPCR to the contract's mode themselves (round
 * to nearest, denormals kept). They spin briefly (tens of microseconds) after work, then sleep on a futex or condition
 * variable. */
#ifndef TL_BASE_THREADS_H
#define TL_BASE_THREADS_H

#include "base/error.h"

typedef struct tl_pool tl_pool;

/* threads ≥ 1, the caller counted. 0 = the CPUs this process may run on (sched_getaffinity and cgroup quota). */
int tl__pool_open(tl_pool **pool, int threads, tl_error *err);
void tl__pool_close(tl_pool *pool);
int tl__pool_threads(const tl_pool *pool); /* NULL pool: 1 */
int tl__cpus_available(void);

/* Call task(user, i, worker) once for each i in [0, count), worker in [0, threads) naming the thread (for scratch).
 * Returns when all are done. Tasks are claimed in increasing order. Not reentrant; NULL pool runs inline. */
void tl__parallel_for(tl_pool *pool, int64_t count, void (*task)(void *user, int64_t i, int worker), void *user);

#endif
