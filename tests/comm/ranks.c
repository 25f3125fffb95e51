/* ranks.c — one rank of tests/comm/check_mpi.sh, started by mpirun: `comm_ranks CASE`. Prints "rank R ok" or what is
 * wrong.
 *
 * Data are functions of (rank, index), so that every rank can compute the whole tree over ranks for itself and compare
 * bits. */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include "base/clock.h"
#include "comm/comm.h"
#include "comm/cost.h"

#define TIMEOUT_NS 60000000000

static tl_comm *comm;
static int rank, size;
static tl_error err;

static void must(int rc, const char *what) {
    if (rc == 0) return;
    printf("rank %d: %s: %s\n", rank, what, err.text);
    fflush(stdout);
    tl__comm_close(comm);
    exit(1);
}

#define MUST(call) must(call, #call)

static uint32_t mix(uint64_t x) {
    x = (x ^ (x >> 31)) * 0x9e3779b97f4a7c15u, x = (x ^ (x >> 29)) * 0xbf58476d1ce4e5b9u;
    return (uint32_t)(x >> 32);
}

/* Any bits at all now and then: −0, denormals, infinities, NaN with payload (not two in one sum). */
static float value(int r, int64_t i) {
    uint32_t bits = mix((uint64_t)i * 64 + (uint64_t)r + 1);
    if (i % 11 == 0) bits = 0x80000000u;
    else if (i % 13 == 0) bits &= 0x807fffffu;
    else if (i % 17 == 0) bits = i % 3 == r % 3 && r < 3 ? 0x7fc00000u | (bits & 0xfff) : 0x3f800000u;
    else bits = (bits & 0x81ffffffu) | 0x3c000000u;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* The definition: the sum over ranks [r, r + n) of the tree whose leaves are theirs, by halves of the leaves. */
static float tree(int64_t i, int leaves, int first_leaf) {
    for (int r = 0; r < size; r++) {
        int first, count;
        tl__comm_leaves(64, size, r, &first, &count);
        if (first == first_leaf && count == leaves) return value(r, i);
    }
    return tree(i, leaves / 2, first_leaf) + tree(i, leaves / 2, first_leaf + leaves / 2);
}

static double tree_f64(int64_t i, int leaves, int first_leaf) {
    for (int r = 0; r < size; r++) {
        int first, count;
        tl__comm_leaves(64, size, r, &first, &count);
        if (first == first_leaf && count == leaves) return (double)value(r, i) * 1.000000000001;
    }
    return tree_f64(i, leaves / 2, first_leaf) + tree_f64(i, leaves / 2, first_leaf + leaves / 2);
}

static void bad(const char *what, int64_t n, int64_t i) {
    printf("rank %d: %s of %lld: element %lld differs\n", rank, what, (long long)n, (long long)i);
    fflush(stdout);
    _exit(1);
}

static void check_f32(const char *what, const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float want = tree(i, 64, 0);
        if (memcmp(&want, &x[i], sizeof want)) bad(what, n, i);
    }
}

static void wait_for(tl_ticket t) {
    MUST(tl__comm_wait(comm, t, TIMEOUT_NS, &err));
}

static void sums(void) {
    static const int64_t sizes[] = {0, 1, 3, 100, 128, 129, 1000, 70001, 1 << 20, 3000017};
    for (int s = 0; s < 10; s++) {
        int64_t n = sizes[s];
        float *x = malloc((size_t)n * sizeof *x + 1);
        double *d = malloc((size_t)n * sizeof *d + 1);
        tl_ticket t, u;
        for (int64_t i = 0; i < n; i++) x[i] = value(rank, i), d[i] = (double)value(rank, i) * 1.000000000001;
        MUST(tl__comm_sum_start(comm, TL_AXIS_DP, x, n, &t, &err));
        MUST(tl__comm_sum_f64_start(comm, TL_AXIS_DP, d, n, &u, &err));
        wait_for(u);
        wait_for(t);
        check_f32("sum", x, n);
        for (int64_t i = 0; i < n; i++) {
            double want = tree_f64(i, 64, 0);
            if (memcmp(&want, &d[i], sizeof want)) bad("f64 sum", n, i);
        }
        for (int root = 0; root < size; root++) {
            for (int64_t i = 0; i < n; i++) x[i] = value(rank, i);
            MUST(tl__comm_reduce_start(comm, TL_AXIS_DP, x, n, root, &t, &err));
            wait_for(t);
            if (rank == root) check_f32("reduce", x, n);
        }
        free(x), free(d);
    }
}

static void moves(void) {
    static const int64_t sizes[] = {0, 1, 511, 513, 70000, 5000011, 9000001};
    for (int s = 0; s < 7; s++) {
        int64_t n = sizes[s];
        unsigned char *in = malloc((size_t)n + 1), *out = malloc((size_t)(n * size) + 1);
        tl_ticket t;
        for (int root = 0; root < size; root++) {
            for (int64_t i = 0; i < n; i++) in[i] = (unsigned char)(rank == root ? mix((uint64_t)(i + root)) : 0);
            MUST(tl__comm_broadcast_start(comm, TL_AXIS_DP, in, n, root, &t, &err));
            wait_for(t);
            for (int64_t i = 0; i < n; i++)
                if (in[i] != (unsigned char)mix((uint64_t)(i + root))) bad("broadcast", n, i);
        }
        for (int64_t i = 0; i < n; i++) in[i] = (unsigned char)mix((uint64_t)(i * 64 + rank));
        MUST(tl__comm_gather_start(comm, TL_AXIS_DP, out, in, n, &t, &err));
        wait_for(t);
        for (int r = 0; r < size; r++)
            for (int64_t i = 0; i < n; i++)
                if (out[r * n + i] != (unsigned char)mix((uint64_t)(i * 64 + r))) bad("gather", n, i);
        free(in), free(out);
    }
}

/* More at once than there are places, large and small, waited for from the last to the first. */
static void pending(void) {
    enum { N = 60, COUNT = 30001 };
    static float x[N][COUNT];
    tl_ticket t[N];
    for (int round = 0; round < 3; round++) {
        for (int k = 0; k < N; k++) {
            int64_t n = k % 3 ? COUNT : 40;
            for (int64_t i = 0; i < n; i++) x[k][i] = value(rank, i);
            MUST(tl__comm_sum_start(comm, TL_AXIS_DP, x[k], n, &t[k], &err));
        }
        for (int k = N - 1; k >= 0; k--) wait_for(t[k]);
        for (int k = 0; k < N; k++) check_f32("one of many sums", x[k], k % 3 ? COUNT : 40);
    }
    /* Without waiting, the queue fills and start waits. */
    for (int k = 0; k < 500; k++) MUST(tl__comm_sum_start(comm, TL_AXIS_DP, x[k % N], 10, &t[0], &err));
    wait_for(t[0]);
    /* Other axes have one rank. */
    MUST(tl__comm_sum_start(comm, TL_AXIS_TP, x[0], COUNT, &t[0], &err));
    wait_for(t[0]);
}

/* What the thread counted is what the cost function says, to the byte, of every kind and size on every rank. */
static void traffic(void) {
    static const int64_t sizes[] = {0, 1, 64, 65, 128, 129, 515, 70001, 262144, 2097152, 9000001};
    double *x = calloc(9000001, sizeof *x), *out = calloc((size_t)size, 9000001);
    for (int s = 0; s < 11; s++) {
        for (int kind = TL_COLLECTIVE_SUM; kind <= TL_COLLECTIVE_GATHER; kind++) {
            int64_t n = sizes[s];
            int root = (s + kind) % size, rc = 0;
            tl_ticket t;
            tl__comm_take_traffic(comm);
            if (kind == TL_COLLECTIVE_SUM) rc = tl__comm_sum_start(comm, TL_AXIS_DP, (float *)x, n, &t, &err);
            if (kind == TL_COLLECTIVE_SUM_F64) rc = tl__comm_sum_f64_start(comm, TL_AXIS_DP, x, n, &t, &err);
            if (kind == TL_COLLECTIVE_REDUCE)
                rc = tl__comm_reduce_start(comm, TL_AXIS_DP, (float *)x, n, root, &t, &err);
            if (kind == TL_COLLECTIVE_BROADCAST) rc = tl__comm_broadcast_start(comm, TL_AXIS_DP, x, n, root, &t, &err);
            if (kind == TL_COLLECTIVE_GATHER) rc = tl__comm_gather_start(comm, TL_AXIS_DP, out, x, n, &t, &err);
            MUST(rc);
            wait_for(t);
            double counted = tl__comm_take_traffic(comm).bytes;
            tl_comm_cost cost = tl__comm_cost((tl_collective)kind, n, size, rank, root);
            if (counted == cost.sent_bytes + cost.received_bytes) continue;
            printf("rank %d: collective of kind %d, %lld elements, root %d: %.0f bytes counted, %.0f + %.0f expected\n",
                   rank, kind, (long long)n, root, counted, cost.sent_bytes, cost.received_bytes);
            fflush(stdout);
            _exit(1);
        }
    }
    free(x), free(out);
}

static void expect(int rc, const char *part, const char *what) {
    if (rc == TL_ECOMM && strstr(err.text, part)) return;
    printf("rank %d: %s: status %d, '%s' does not say '%s'\n", rank, what, rc, err.text, part);
    fflush(stdout);
    _exit(1);
}

static void different(void) {
    float x[4000] = {0};
    tl_ticket t;
    tl__comm_set_step(comm, 7);
    MUST(tl__comm_sum_start(comm, TL_AXIS_DP, x, 10, &t, &err));
    wait_for(t);
    MUST(tl__comm_sum_start(comm, TL_AXIS_DP, x, rank == 1 ? 4000 : 3999, &t, &err));
    int rc = tl__comm_wait(comm, t, TIMEOUT_NS, &err);
    expect(rc, size > 2 ? "but rank 1 (" : "rank 1 (", "different arguments");
    expect(rc, "sum of 4000 f32", "different arguments");
    expect(rc, "Collective 2 ", "different arguments");
    expect(rc, "step 7", "different arguments");
    expect(tl__comm_wait(comm, t, TIMEOUT_NS, &err), "4000 f32", "the same again");
    if (tl__comm_sum_start(comm, TL_AXIS_DP, x, 1, &t, &err) != TL_ECOMM) bad("start after a failure", 0, 0);
}

static void aborted(void) {
    float x[10] = {0};
    tl_ticket t;
    if (rank == size - 1) {
        usleep(100000);
        tl__comm_abort(comm, "the disk of this rank is full");
        if (tl__comm_sum_start(comm, TL_AXIS_DP, x, 10, &t, &err) != TL_ESTOPPED) bad("start after abort", 0, 0);
        return;
    }
    MUST(tl__comm_sum_start(comm, TL_AXIS_DP, x, 10, &t, &err));
    expect(tl__comm_wait(comm, t, TIMEOUT_NS, &err), "the disk of this rank is full", "abort");
}

static void late(void) {
    float x[1000] = {0};
    tl_ticket t;
    tl__comm_set_step(comm, 3);
    MUST(tl__comm_sum_start(comm, TL_AXIS_DP, x, 10, &t, &err));
    wait_for(t);
    if (rank == size - 1) {
        sleep(9);
        return;
    }
    MUST(tl__comm_sum_start(comm, TL_AXIS_DP, x, 1000, &t, &err));
    int rc =
        tl__comm_wait(comm, t, 6500000000, &err); /* three seconds of silence on a busy machine are not yet death */
    expect(rc, "alive but late, last at collective 1, step 3", "late");
    if (rank == 0) printf("says: %s\n", err.text);
}

/* Closing early is told to those who wait. */
static void gone(void) {
    float x[1000] = {0};
    tl_ticket t;
    if (rank == size - 1) return;
    MUST(tl__comm_sum_start(comm, TL_AXIS_DP, x, 1000, &t, &err));
    expect(tl__comm_wait(comm, t, TIMEOUT_NS, &err), size > 2 ? "" : "has closed its communicator", "gone");
}

static void speed(void) {
    enum { SMALL = 2000 };
    double d[5] = {0};
    tl_ticket t;
    int64_t n = 32 << 20 >> 2, begin;
    float *x = calloc((size_t)n, sizeof *x);
    for (int round = 0; round < 2; round++) {
        begin = tl__now_ns();
        for (int k = 0; k < SMALL; k++) {
            MUST(tl__comm_sum_f64_start(comm, TL_AXIS_DP, d, 5, &t, &err));
            wait_for(t);
        }
        if (rank == 0 && round) printf("small sum: %.1f us\n", (double)(tl__now_ns() - begin) * 1e-3 / SMALL);
    }
    tl__comm_take_traffic(comm);
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    begin = tl__now_ns();
    for (int k = 0; k < 10; k++) {
        MUST(tl__comm_sum_start(comm, TL_AXIS_DP, x, n, &t, &err));
        wait_for(t);
    }
    double seconds = (double)(tl__now_ns() - begin) * 1e-9;
    tl_comm_traffic traffic = tl__comm_take_traffic(comm);
    getrusage(RUSAGE_SELF, &after);
#define MS(a, b) ((double)((b).tv_sec - (a).tv_sec) * 1e3 + (double)((b).tv_usec - (a).tv_usec) * 1e-3)
    if (rank == 0)
        printf("CPU time of rank 0 a sum: %.1f ms user, %.1f ms system\n", MS(before.ru_utime, after.ru_utime) / 10,
               MS(before.ru_stime, after.ru_stime) / 10);
#undef MS
    if (rank == 0)
        printf("sum of 32 MiB: %.2f ms, %.2f GB/s of gradient, %.1f MB of traffic a sum, %.3f of %.3f s busy\n",
               seconds * 100, (double)n * 4e-8 / seconds * 1e0, traffic.bytes * 1e-7, traffic.seconds, seconds);
    free(x);
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)(void);
    } cases[] = {{"sums", sums},       {"moves", moves},         {"pending", pending},
                 {"traffic", traffic}, {"different", different}, {"aborted", aborted},
                 {"late", late},       {"gone", gone},           {"speed", speed}};
    signal(SIGTERM,
           SIG_IGN); /* of mpirun, when the first rank leaves a job that failed: the others still have a word to say */
    MUST(tl__comm_open(&comm, &err));
    rank = tl__comm_rank(comm, TL_AXIS_DP), size = tl__comm_size(comm, TL_AXIS_DP);
    tl__comm_reserve(comm);
    for (int a = 1; a < argc; a++)
        for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
            if (!strcmp(argv[a], cases[k].name)) cases[k].run();
    tl__comm_close(comm);
    printf("rank %d of %d ok\n", rank, size);
    return 0;
}
