/* The pool: each task once, in claims of increasing order, whatever the number of threads; no nested calls; the
 * contract's floating-point mode on every thread; cheap tiny loops even with more threads than CPUs. Run it under the
 * tsan preset. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/threads.h"

typedef struct counts {
    int threads;
    unsigned char *hit;
    _Atomic int64_t bad, sum;
} counts;

static void count_task(void *user, int64_t i, int worker) {
    counts *c = user;
    if (worker < 0 || worker >= c->threads) atomic_fetch_add(&c->bad, 1);
    c->hit[i]++; /* plain: a task claimed twice is a data race, which tsan sees too */
    atomic_fetch_add(&c->sum, i);
}

static void each_task_runs_once(void **state) {
    (void)state;
    for (int threads = 0; threads <= 4; threads++) { /* 0 stands for the NULL pool */
        tl_pool *pool = NULL;
        if (threads) assert_int_equal(tl__pool_open(&pool, threads, NULL), 0);
        assert_int_equal(tl__pool_threads(pool), threads ? threads : 1);
        for (int64_t n = 0; n < 3000; n = n * 3 + 1) {
            counts c = {.threads = threads ? threads : 1, .hit = calloc((size_t)n + 1, 1)};
            for (int again = 0; again < 3; again++) tl__parallel_for(pool, n, count_task, &c);
            for (int64_t i = 0; i < n; i++) assert_int_equal(c.hit[i], 3);
            assert_int_equal(c.bad, 0);
            assert_int_equal(c.sum, 3 * n * (n - 1) / 2);
            free(c.hit);
        }
        tl__parallel_for(pool, -5, count_task, NULL);
        tl__pool_close(pool);
    }
}

static void add_task(void *user, int64_t i, int worker) {
    int64_t *lane = user; /* 16 plain counters, one a task: visible to the caller when the loop returns */
    lane[i] += i + 1;
}

static void tiny_loops(void **state) {
    (void)state;
    enum { LOOPS = 100000, TASKS = 16 };
    for (int threads = 1; threads <= 4; threads++) { /* more than the CPUs on a small machine */
        tl_pool *pool;
        int64_t lane[TASKS] = {0};
        assert_int_equal(tl__pool_open(&pool, threads, NULL), 0);
        alarm(240); /* bounded: a lost wake-up or livelock ends the test instead of hanging it */
        for (int loop = 0; loop < LOOPS; loop++) tl__parallel_for(pool, 2 + loop % (TASKS - 1), add_task, lane);
        alarm(0);
        int64_t want[TASKS] = {0};
        for (int loop = 0; loop < LOOPS; loop++)
            for (int i = 0; i < 2 + loop % (TASKS - 1); i++) want[i] += i + 1;
        assert_memory_equal(lane, want, sizeof want);
        tl__pool_close(pool);
    }
}

static void slow_then_quiet(void *user, int64_t i, int worker) {
    usleep(i == 0 ? 2000 : 200);
    atomic_fetch_add((_Atomic int *)user, 1);
}

static void meet(void *user, int64_t i, int worker) {
    _Atomic int *there = user; /* nobody leaves before both have come: that takes two threads */
    atomic_fetch_add(there, 1);
    while (atomic_load(there) < 2) sched_yield();
}

static void a_sleeping_worker_comes(void **state) {
    (void)state;
    tl_pool *pool;
    assert_int_equal(tl__pool_open(&pool, 2, NULL), 0);
    alarm(60);
    for (int loop = 0; loop < 50; loop++) {
        _Atomic int there = 0;
        tl__parallel_for(pool, 2, meet, &there);
        usleep(loop % 2 ? 1000 : 0);
    }
    alarm(0);
    tl__pool_close(pool);
}

/* Both sides sleep: workers between loops, and the caller while a worker holds the last task. */
static void sleepers_are_woken(void **state) {
    (void)state;
    tl_pool *pool;
    _Atomic int done = 0;
    assert_int_equal(tl__pool_open(&pool, 3, NULL), 0);
    alarm(120);
    for (int loop = 0; loop < 30; loop++) {
        tl__parallel_for(pool, 4, slow_then_quiet, &done);
        assert_int_equal(done, 4 * (loop + 1));
        usleep(300);
    }
    alarm(0);
    tl__pool_close(pool);
}

static void pools_open_and_close(void **state) {
    (void)state;
    for (int i = 0; i < 200; i++) {
        tl_pool *pool;
        int64_t lane[16] = {0};
        assert_int_equal(tl__pool_open(&pool, 1 + i % 4, NULL), 0);
        if (i % 3) tl__parallel_for(pool, 16, add_task, lane);
        tl__pool_close(pool);
    }
    tl__pool_close(NULL);
}

static tl_pool *outer;
static void nesting_task(void *user, int64_t i, int worker) {
    tl__parallel_for(outer, 2, add_task, user);
}

static void nested_calls_assert(void **state) {
    (void)state;
    pid_t child = fork();
    if (child == 0) {
        struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        int null = open("/dev/null", O_WRONLY);
        dup2(null, STDERR_FILENO);
        signal(SIGABRT, SIG_DFL);
        int64_t lane[16] = {0};
        if (tl__pool_open(&outer, 2, NULL)) _exit(3);
        tl__parallel_for(outer, 1, nesting_task, lane);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

#if defined(__x86_64__)
#include <immintrin.h>
static void mode_task(void *user, int64_t i, int worker) {
    unsigned *mode = user;
    mode[i] = _mm_getcsr() & 0xffc0u;
    usleep(500); /* long enough that every thread gets one */
}

static void mode_is_the_contracts(void **state) {
    (void)state;
    tl_pool *pool;
    unsigned mode[64], old = _mm_getcsr();
    _mm_setcsr(0x9fc0u | 0x6000u); /* flush-to-zero, denormals-are-zero, toward zero: workers are born with it */
    int rc = tl__pool_open(&pool, 4, NULL);
    tl__parallel_for(pool, 64, mode_task, mode);
    unsigned after = _mm_getcsr();
    _mm_setcsr(old);
    assert_int_equal(rc, 0);
    for (int i = 0; i < 64; i++) assert_int_equal(mode[i], 0x1f80u);
    assert_int_equal(after & 0xffc0u, 0xffc0u); /* the caller's own mode is given back */
    tl__pool_close(pool);
}
#endif

static void cpus(void **state) {
    (void)state;
    int n = tl__cpus_available();
    assert_true(n >= 1 && n <= 65536);
    cpu_set_t old, one;
    assert_int_equal(sched_getaffinity(0, sizeof old, &old), 0);
    assert_true(n <= CPU_COUNT(&old));
    CPU_ZERO(&one);
    for (int i = 0; i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, &old)) {
            CPU_SET(i, &one);
            break;
        }
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(tl__cpus_available(), 1);
    tl_pool *pool;
    assert_int_equal(tl__pool_open(&pool, 0, NULL), 0);
    assert_int_equal(tl__pool_threads(pool), 1);
    tl__pool_close(pool);
    assert_int_equal(sched_setaffinity(0, sizeof old, &old), 0);
}

static void bad_counts(void **state) {
    (void)state;
    tl_pool *pool = (tl_pool *)state;
    tl_error err;
    assert_int_equal(tl__pool_open(&pool, -1, &err), TL_EINVALID);
    assert_null(pool);
    assert_int_equal(tl__pool_open(&pool, 1 << 20, &err), TL_EINVALID);
    assert_non_null(strstr(err.text, "1048576 threads"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_task_runs_once),
        cmocka_unit_test(tiny_loops),
        cmocka_unit_test(a_sleeping_worker_comes),
        cmocka_unit_test(sleepers_are_woken),
        cmocka_unit_test(pools_open_and_close),
        cmocka_unit_test(nested_calls_assert),
#if defined(__x86_64__)
        cmocka_unit_test(mode_is_the_contracts),
#endif
        cmocka_unit_test(cpus),
        cmocka_unit_test(bad_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
