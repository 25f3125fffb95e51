/* threads.c — owns the pool of worker threads behind tl__parallel_for.
 *
 * One 64-bit word, `ticket`, is the whole claim: its high half is the loop's number, its low half the tasks not yet
 * claimed. A thread claims by compare-and-swap, so a worker that wakes late can neither take a task of another loop nor
 * hold one up: the caller never waits for a thread that claimed nothing, and finishes alone when nobody comes.
 *
 * Invariants
 *   1. job (task, user, count) is written only while ticket's low half is 0 and left is 0.
 *   2. A successful claim at loop number e therefore read the job of loop e: the swap fails if e is over.
 *   3. left = tasks of this loop not yet finished; only it ends the caller's wait.
 *   4. A sleeper raised `sleepers` before the futex compared `bell`, and the caller rings `bell` before it reads
 *      `sleepers` (all sequentially consistent), so a loop is never slept through. `waiting` and `left`: the same.
 *
 * Where the pool has a CPU for each thread, a worker begins on one of its own, and one that finds the caller on its CPU
 * steps aside. Some systems, virtual machines above all, leave two running threads on one CPU for seconds while another
 * is idle. No thread is bound: any CPU of the process stays allowed. */
#include "base/threads.h"

#include "base/clock.h"

#include <assert.h>
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define SPIN_NS 50000 /* how long a thread spins for work before it sleeps */
#define MAX_THREADS 1024
#define MAX_LOOP ((int64_t)1 << 31)

typedef void task_fn(void *user, int64_t i, int worker);

typedef struct worker {
    struct tl_pool *pool;
    pthread_t thread;
    int number;
} worker;

struct tl_pool {
    int threads;
    bool may_spin;   /* threads ≤ CPUs: else spinning takes the CPU from whoever has the work */
    worker *workers; /* [threads − 1] */
    _Atomic bool busy, stop;
    _Alignas(64) _Atomic uint64_t ticket;
    _Atomic(task_fn *) task;
    _Atomic(void *) user;
    _Atomic int caller_cpu; /* where the loop was begun */
    _Atomic int64_t first;  /* index of this loop's first task */
    _Atomic uint32_t count;
    _Alignas(64) _Atomic uint32_t left;
    _Atomic uint32_t waiting; /* the caller sleeps on left */
    _Alignas(64) _Atomic uint32_t bell;
    _Atomic uint32_t sleepers; /* workers asleep on bell, or about to be */
};

/* ---- the contract's floating-point mode: round to nearest, denormals kept, all exceptions masked ---- */

#if defined(__x86_64__)
static unsigned mode_enter(void) {
    unsigned old = _mm_getcsr();
    if ((old & 0xffc0u) != 0x1f80u) _mm_setcsr(0x1f80u); /* the low six bits are sticky flags, not mode */
    return old;
}
static void mode_leave(unsigned old) {
    if ((old & 0xffc0u) != 0x1f80u) _mm_setcsr(old);
}
static void relax(void) {
    _mm_pause();
}
#elif defined(__aarch64__)
static unsigned mode_enter(void) {
    uint64_t old, none = 0;
    __asm__ volatile("mrs %0, fpcr" : "=r"(old));
    if (old) __asm__ volatile("msr fpcr, %0" ::"r"(none));
    return (unsigned)old;
}
static void mode_leave(unsigned old) {
    uint64_t mode = old;
    if (old) __asm__ volatile("msr fpcr, %0" ::"r"(mode));
}
static void relax(void) {
    __asm__ volatile("yield");
}
#else
static unsigned mode_enter(void) {
    return 0;
}
static void mode_leave(unsigned old) {
    (void)old;
}
static void relax(void) {}
#endif

/* ---- waiting ---- */

static void futex_wait(_Atomic uint32_t *word, uint32_t seen) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int n) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

/* Spin until *word differs from `seen`, or for a while; the value last read. */
static uint32_t spin_while(const tl_pool *pool, _Atomic uint32_t *word, uint32_t seen) {
    uint32_t now = atomic_load_explicit(word, memory_order_acquire);
    if (!pool->may_spin) { /* let whoever waits for this CPU have it once, then sleep */
        if (now == seen) sched_yield();
        return atomic_load_explicit(word, memory_order_acquire);
    }
    for (int64_t end = tl__now_ns() + SPIN_NS; now == seen;) {
        for (int i = 0; i < 16 && now == seen; i++) {
            relax();
            now = atomic_load_explicit(word, memory_order_acquire);
        }
        if (now == seen && tl__now_ns() >= end) break;
    }
    return now;
}

/* ---- running ---- */

/* Claim and run tasks of the current loop until none is left to claim. */
static void run_tasks(tl_pool *pool, int number) {
    uint32_t done = 0;
    uint64_t ticket = atomic_load_explicit(&pool->ticket, memory_order_acquire);
    while ((uint32_t)ticket) {
        task_fn *task = atomic_load_explicit(&pool->task, memory_order_relaxed);
        void *user = atomic_load_explicit(&pool->user, memory_order_relaxed);
        int64_t first = atomic_load_explicit(&pool->first, memory_order_relaxed);
        uint32_t count = atomic_load_explicit(&pool->count, memory_order_relaxed);
        if (!atomic_compare_exchange_weak_explicit(&pool->ticket, &ticket, ticket - 1, memory_order_acq_rel,
                                                   memory_order_acquire))
            continue;
        task(user, first + (count - (uint32_t)ticket), number);
        done++;
        ticket = atomic_load_explicit(&pool->ticket, memory_order_acquire);
    }
    if (done && atomic_fetch_sub(&pool->left, done) == done && atomic_load(&pool->waiting)) futex_wake(&pool->left, 1);
}

/* Move this thread to the CPU that is `steps` after the caller's among those it may use, if there is another. */
static void step_aside(const tl_pool *pool, int steps) {
    cpu_set_t mine, there;
    if (!pool->may_spin || sched_getaffinity(0, sizeof mine, &mine)) return; /* over 1,024 CPUs: as the system will */
    const int from = atomic_load_explicit(&pool->caller_cpu, memory_order_relaxed), cpus = CPU_COUNT(&mine);
    if (from < 0 || from >= CPU_SETSIZE || cpus < 2) return;
    int to = from;
    for (steps = 1 + (steps - 1) % (cpus - 1); steps > 0;)
        if (CPU_ISSET(to = (to + 1) % CPU_SETSIZE, &mine) && to != from) steps--;
    CPU_ZERO(&there);
    CPU_SET(to, &there);
    if (!sched_setaffinity(0, sizeof there, &there)) sched_setaffinity(0, sizeof mine, &mine);
}

static void *worker_main(void *arg) {
    worker *me = arg;
    tl_pool *pool = me->pool;
    step_aside(pool, me->number);
    char name[16];
    snprintf(name, sizeof name, "trilith-%d", me->number); /* what top -H and perf show */
    pthread_setname_np(pthread_self(), name);
    mode_enter();
    uint32_t seen = 0;
    for (;;) {
        seen = atomic_load_explicit(&pool->bell, memory_order_acquire);
        if (atomic_load_explicit(&pool->stop, memory_order_acquire)) return NULL;
        if (sched_getcpu() == atomic_load_explicit(&pool->caller_cpu, memory_order_relaxed))
            step_aside(pool, me->number);
        run_tasks(pool, me->number);
        if (spin_while(pool, &pool->bell, seen) != seen) continue;
        atomic_fetch_add(&pool->sleepers, 1);
        futex_wait(&pool->bell, seen);
        atomic_fetch_sub(&pool->sleepers, 1);
    }
}

/* One loop of at most MAX_LOOP tasks, shared with the workers. */
static void run_loop(tl_pool *pool, int64_t first, uint32_t count, task_fn *task, void *user) {
    uint64_t ticket = atomic_load_explicit(&pool->ticket, memory_order_relaxed);
    assert((uint32_t)ticket == 0 && atomic_load_explicit(&pool->left, memory_order_relaxed) == 0); /* invariant 1 */
    atomic_store_explicit(&pool->task, task, memory_order_relaxed);
    atomic_store_explicit(&pool->user, user, memory_order_relaxed);
    atomic_store_explicit(&pool->caller_cpu, sched_getcpu(), memory_order_relaxed);
    atomic_store_explicit(&pool->first, first, memory_order_relaxed);
    atomic_store_explicit(&pool->count, count, memory_order_relaxed);
    atomic_store_explicit(&pool->left, count, memory_order_relaxed);
    atomic_store_explicit(&pool->ticket, ((ticket >> 32) + 1) << 32 | count, memory_order_release);
    atomic_fetch_add(&pool->bell, 1);
    uint32_t sleepers = atomic_load(&pool->sleepers);
    if (sleepers) futex_wake(&pool->bell, (int)(count - 1 < sleepers ? count - 1 : sleepers));
    run_tasks(pool, 0);
    for (uint32_t left; (left = atomic_load_explicit(&pool->left, memory_order_acquire)) != 0;) {
        if (spin_while(pool, &pool->left, left) != left) continue;
        atomic_store(&pool->waiting, 1);
        futex_wait(&pool->left, left);
        atomic_store(&pool->waiting, 0);
    }
}

void tl__parallel_for(tl_pool *pool, int64_t count, void (*task)(void *user, int64_t i, int worker), void *user) {
    if (count <= 0) return;
    unsigned mode = mode_enter();
    if (!pool) {
        for (int64_t i = 0; i < count; i++) task(user, i, 0);
        mode_leave(mode);
        return;
    }
    bool was_busy = atomic_exchange_explicit(&pool->busy, true, memory_order_acquire);
    assert(!was_busy && "tl__parallel_for is not reentrant");
    if (pool->threads == 1 || count == 1)
        for (int64_t i = 0; i < count; i++) task(user, i, 0);
    else
        for (int64_t first = 0; first < count; first += MAX_LOOP)
            run_loop(pool, first, (uint32_t)(count - first < MAX_LOOP ? count - first : MAX_LOOP), task, user);
    atomic_store_explicit(&pool->busy, false, memory_order_release);
    mode_leave(mode);
}

/* ---- opening and closing ---- */

int tl__pool_open(tl_pool **out, int threads, tl_error *err) {
    *out = NULL;
    int cpus = tl__cpus_available();
    if (threads == 0) threads = cpus < MAX_THREADS ? cpus : MAX_THREADS;
    if (threads < 0 || threads > MAX_THREADS)
        return tl__fail(err, TL_EINVALID, "%d threads were asked for; give 1 to %d, or 0 for all %d CPUs", threads,
                        MAX_THREADS, cpus);
    tl_pool *pool = aligned_alloc(64, sizeof *pool);
    worker *workers = calloc((size_t)threads, sizeof *workers);
    if (!pool || !workers) {
        free(pool), free(workers);
        return tl__fail(err, TL_ENOMEM, "no memory for a pool of %d threads; free memory or ask for fewer", threads);
    }
    memset(pool, 0, sizeof *pool);
    pool->threads = 1, pool->workers = workers, pool->may_spin = threads <= cpus;
    atomic_store(&pool->caller_cpu, sched_getcpu());
    /* Signals are the main thread's business: workers are born with all of them blocked. */
    sigset_t all, old;
    sigfillset(&all);
    sigdelset(&all, SIGBUS); /* but a fault is raised in the thread that made it, and has its handler */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int failed = 0;
    for (int i = 1; i < threads && !failed; i++) {
        workers[i - 1] = (worker){.pool = pool, .number = i};
        failed = pthread_create(&workers[i - 1].thread, NULL, worker_main, &workers[i - 1]);
        if (!failed) pool->threads++;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (failed) {
        int had = pool->threads;
        tl__pool_close(pool);
        return tl__fail(err, TL_ENOMEM, "the system refused thread %d of %d (%s); ask for fewer with --threads",
                        had + 1, threads, strerror(failed));
    }
    *out = pool;
    return 0;
}

void tl__pool_close(tl_pool *pool) {
    if (!pool) return;
    assert(!atomic_load(&pool->busy) && "a pool is closed while it works");
    atomic_store(&pool->stop, true);
    atomic_fetch_add(&pool->bell, 1);
    futex_wake(&pool->bell, MAX_THREADS);
    for (int i = 0; i < pool->threads - 1; i++) pthread_join(pool->workers[i].thread, NULL);
    free(pool->workers);
    free(pool);
}

int tl__pool_threads(const tl_pool *pool) {
    return pool ? pool->threads : 1;
}

/* ---- how many CPUs ---- */

static int cpus_by_affinity(void) {
    for (size_t cpus = 1024; cpus <= 65536; cpus *= 4) { /* the kernel says EINVAL while the set is too small */
        cpu_set_t *set = CPU_ALLOC(cpus);
        if (!set) break;
        int got = sched_getaffinity(0, CPU_ALLOC_SIZE(cpus), set);
        int n = got == 0 ? CPU_COUNT_S(CPU_ALLOC_SIZE(cpus), set) : 0;
        CPU_FREE(set);
        if (n > 0) return n;
        if (errno != EINVAL) break;
    }
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 && n < 65536 ? (int)n : 1;
}

/* Whole CPUs of the "quota period" in a cpu.max file; 0 for no limit or no such file. Rounded down: a pool that
 * overdraws its quota is stopped all at once, in the middle of a loop. */
static int cpus_by_quota(const char *file) {
    FILE *f = fopen(file, "re");
    if (!f) return 0;
    long long quota = 0, period = 0;
    int got = fscanf(f, "%lld %lld", &quota, &period); /* "max 100000" reads nothing */
    fclose(f);
    if (got != 2 || quota <= 0 || period <= 0) return 0;
    long long n = quota / period;
    return n < 1 ? 1 : n < 65536 ? (int)n : 0;
}

int tl__cpus_available(void) {
    int cpus = cpus_by_affinity();
    /* cgroup v2: "0::/a/b" in /proc/self/cgroup; each level from there to the root may set a limit. */
    char line[2048], folder[2048] = "", file[2200];
    FILE *f = fopen("/proc/self/cgroup", "re");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, "0::/", 4)) {
            line[strcspn(line, "\n")] = 0;
            snprintf(folder, sizeof folder, "%s", line + 3);
        }
    if (f) fclose(f);
    for (;;) {
        snprintf(file, sizeof file, "/sys/fs/cgroup%s/cpu.max", strcmp(folder, "/") ? folder : "");
        int n = cpus_by_quota(file);
        if (n && n < cpus) cpus = n;
        char *slash = strrchr(folder, '/');
        if (!slash) break;
        *slash = 0;
    }
    return cpus;
}
