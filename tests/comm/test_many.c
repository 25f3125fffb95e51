/* test_many.c — many ranks over a wire of this test's own: each rank is a thread of this process, so that
 * ThreadSanitizer sees both sides, and a rank can be stopped, cut off or given a wire that fails.
 *
 * Sums over ranks are compared with the tree that one process builds over the same leaves with tl__add, to the bit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/clock.h"
#include "comm/backend.h"
#include "kernels/ops.h"

#define MOST 8
#define SECOND 1000000000ll

/* ---- the wire: a list of messages for each rank ---- */

typedef struct message {
    struct message *next;
    int from, tag;
    int64_t n;
    char bytes[];
} message;

typedef struct hope hope;

typedef struct hub {
    pthread_mutex_t lock;
    int size;
    hope *hopes;
    message *first[MOST], **last[MOST];
    atomic_bool stopped[MOST]; /* as by SIGSTOP: the rank's thread stays in its next call */
    atomic_bool broken[MOST];  /* the rank's wire fails */
    atomic_bool mute[MOST];    /* what the rank sends is lost */
    atomic_int closed;
} hub;

struct tl_wire {
    hub *hub;
    int rank;
};

/* A receive: where its message should go. Kept until the hub goes. */
struct hope {
    struct hope *next;
    void *bytes;
    int64_t n;
    int from, tag;
};

static void nap(void) {
    nanosleep(&(struct timespec){0, 1000000}, NULL);
}

static int enter(tl_wire *w) {
    while (w->hub->stopped[w->rank]) nap();
    return w->hub->broken[w->rank] ? -1 : 0;
}

static void test_describe(char *out, size_t size) {
    snprintf(out, size, "threads");
}

static int test_open(tl_wire **wire, void *where, int *rank, int *size) {
    tl_wire *w = where;
    *wire = w, *rank = w->rank, *size = w->hub->size;
    return enter(w);
}

static int test_send(tl_wire *w, tl_wire_request *request, const void *bytes, int64_t n, int to, int tag) {
    *request = (tl_wire_request){0};
    if (enter(w)) return -1;
    if (w->hub->mute[w->rank]) return 0;
    message *m = malloc(sizeof *m + (size_t)n);
    *m = (message){.from = w->rank, .tag = tag, .n = n};
    memcpy(m->bytes, bytes, (size_t)n);
    pthread_mutex_lock(&w->hub->lock);
    *w->hub->last[to] = m, w->hub->last[to] = &m->next;
    pthread_mutex_unlock(&w->hub->lock);
    return 0;
}

static int test_receive(tl_wire *w, tl_wire_request *request, void *bytes, int64_t n, int from, int tag) {
    hope *h = malloc(sizeof *h);
    pthread_mutex_lock(&w->hub->lock);
    *h = (hope){w->hub->hopes, bytes, n, from, tag};
    w->hub->hopes = h;
    pthread_mutex_unlock(&w->hub->lock);
    *request = (tl_wire_request){{h, h}};
    return enter(w);
}

/* The first message that fits; −1: none. */
static int64_t take(tl_wire *w, tl_wire_request *request) {
    hope *h = request->word[0];
    int64_t n = -1;
    pthread_mutex_lock(&w->hub->lock);
    for (message **at = &w->hub->first[w->rank]; *at; at = &(*at)->next) {
        message *m = *at;
        if (m->from != h->from || m->tag != h->tag) continue;
        assert_true(m->n <= h->n);
        n = m->n;
        memcpy(h->bytes, m->bytes, (size_t)n);
        if (!(*at = m->next)) w->hub->last[w->rank] = at;
        free(m);
        break;
    }
    pthread_mutex_unlock(&w->hub->lock);
    if (n >= 0) *request = (tl_wire_request){0};
    return n;
}

static int test_test_all(tl_wire *w, tl_wire_request *requests, int n, bool *done) {
    if (enter(w)) return -1;
    *done = true;
    for (int i = 0; i < n; i++)
        if (requests[i].word[0] && take(w, &requests[i]) < 0) *done = false;
    return 0;
}

static int test_test_any(tl_wire *w, tl_wire_request *requests, int n, int *which, int64_t *bytes) {
    *which = -1;
    if (enter(w)) return -1;
    for (int i = 0; i < n && *which < 0; i++)
        if (requests[i].word[0] && (*bytes = take(w, &requests[i])) >= 0) *which = i;
    return 0;
}

static void test_close(tl_wire *w, bool orderly) {
    if (orderly) w->hub->closed++;
}

static const char *test_error(void) {
    return "the cable is cut";
}

static const tl_wire_ops test_wire = {
    .version = TL_WIRE_VERSION,
    .name = "test wire",
    .describe = test_describe,
    .open = test_open,
    .send = test_send,
    .receive = test_receive,
    .test_all = test_test_all,
    .test_any = test_test_any,
    .close = test_close,
    .error = test_error,
};

/* ---- ranks as threads ---- */

typedef struct rank_thread {
    tl_wire wire;
    pthread_t thread;
    void (*body)(struct rank_thread *me);
    tl_comm *comm;
    int rank, size, status;
    tl_error err;
    char wrong[1400]; /* cmocka's asserts are the main thread's */
} rank_thread;

static rank_thread ranks[MOST];
static hub the_hub;

static void note_wrong(rank_thread *me, int line, const char *what) {
    snprintf(me->wrong, sizeof me->wrong, "rank %d, line %d: %s: %s", me->rank, line, what, me->err.text);
}

#define CHECK(me, what)                                                                                                \
    do {                                                                                                               \
        if (!(what) && !(me)->wrong[0]) note_wrong(me, __LINE__, #what);                                               \
    } while (0)

static void *run_rank(void *user) {
    rank_thread *me = user;
    me->status = tl__comm_open_many(&me->comm, &test_wire, &me->wire, 20 * SECOND, &me->err);
    CHECK(me, me->status == 0);
    if (me->status == 0) me->body(me);
    tl__comm_close(me->comm);
    return NULL;
}

static void run(int size, void (*body)(rank_thread *me)) {
    memset(&the_hub, 0, sizeof the_hub);
    pthread_mutex_init(&the_hub.lock, NULL);
    the_hub.size = size;
    for (int r = 0; r < size; r++) {
        the_hub.last[r] = &the_hub.first[r];
        ranks[r] = (rank_thread){.wire = {&the_hub, r}, .body = body, .rank = r, .size = size};
    }
    for (int r = 0; r < size; r++) assert_int_equal(pthread_create(&ranks[r].thread, NULL, run_rank, &ranks[r]), 0);
    for (int r = 0; r < size; r++) pthread_join(ranks[r].thread, NULL);
    for (int r = 0; r < size; r++)
        for (message *m = the_hub.first[r], *next; m; m = next) next = m->next, free(m);
    for (hope *h = the_hub.hopes, *next; h; h = next) next = h->next, free(h);
    for (int r = 0; r < size; r++)
        if (ranks[r].wrong[0]) fail_msg("%s", ranks[r].wrong);
}

/* ---- the tree ---- */

static uint64_t random_state = 1;
static uint32_t random_bits(void) {
    uint64_t z = (random_state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)(z >> 32);
}

/* Numbers of like size, and −0 and denormals among them. Where two NaN meet, which of them stays is not defined (and no
 * update is made from it), so element 5 has one NaN in all leaves together, and only element 6 infinities. */
static float random_float(int leaf, int leaves, int k) {
    uint32_t kind = random_bits() % 16, bits = random_bits();
    if (k == 5 && leaf == leaves / 2) bits = 0xffc00000u | (bits & 0x3fffff);
    else if (k == 6 && kind < 4) bits = 0xff800000u;
    else if (kind == 0) bits = 0x80000000u;
    else if (kind == 1 || k == 7) bits &= 0x807fffffu;
    else if (k == 8) bits = 0x80000000u;
    else bits = (bits & 0x83ffffffu) | 0x3c000000u;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

enum { N = 77 };

/* As the step does it: a stack of partial sums, one addition for each trailing one bit of the leaf's number. */
static void one_process(tl_ctx *ctx, float *out, float (*leaf)[N], int count) {
    static float stack[8][N];
    int depth = 0;
    for (int i = 0; i < count; i++) {
        memcpy(stack[depth++], leaf[i], sizeof *leaf);
        for (int ones = i; ones & 1; ones >>= 1, depth--)
            tl__add(ctx, stack[depth - 2], stack[depth - 2], stack[depth - 1], N);
    }
    assert_int_equal(depth, 1);
    memcpy(out, stack[0], sizeof *leaf);
}

static void leaves_are_a_partition_into_complete_subtrees_and_sum_as_one_tree(void **state) {
    (void)state;
    tl_ctx ctx;
    tl_error err;
    static float leaf[64][N], part[64][N], whole[N], got[N];
    static double part_f64[64][N], want_f64[N];
    assert_int_equal(tl__ctx_open(&ctx, 1, NULL, &err), 0);
    for (int leaves = 1; leaves <= 64; leaves *= 2)
        for (int size = 1; size <= leaves; size++) {
            int next = 0;
            float *parts[64];
            double *parts_f64[64];
            for (int i = 0; i < leaves; i++)
                for (int k = 0; k < N; k++) leaf[i][k] = random_float(i, leaves, k);
            for (int r = 0; r < size; r++) {
                int first, count;
                tl__comm_leaves(leaves, size, r, &first, &count);
                assert_int_equal(first, next);
                assert_true(count > 0 && (count & (count - 1)) == 0 && first % count == 0);
                next += count;
                one_process(&ctx, part[r], leaf + first, count);
                parts[r] = part[r], parts_f64[r] = part_f64[r];
                for (int k = 0; k < N; k++) part_f64[r][k] = (double)part[r][k];
            }
            assert_int_equal(next, leaves);
            one_process(&ctx, whole, leaf, leaves);
            int own = (int)(random_bits() % (unsigned)size); /* into one of the parts, as a rank does */
            tl__comm_add_f32(own % 2 ? got : part[own], parts, size, N);
            assert_memory_equal(own % 2 ? got : part[own], whole, sizeof whole);
            /* f64: the same order, seen through numbers whose f64 sums are not exact. */
            for (int r = 0; r < size; r++)
                for (int k = 0; k < N; k++)
                    part_f64[r][k] = part_f64[r][k] == 0 ? -0.0 : 1.0 / (double)(random_bits() | 1);
            static double level[64][N];
            int node[64], nodes = 0, cut = 1;
            while (2 * cut <= size) cut *= 2;
            memcpy(level, part_f64, sizeof level);
            for (int r = 0; r < size; r++, nodes++) {
                node[nodes] = r;
                if (r < 2 * cut - size) continue;
                for (int k = 0; k < N; k++) level[r][k] += level[r + 1][k];
                r++;
            }
            for (; nodes > 1; nodes /= 2)
                for (int i = 0; i < nodes / 2; i++) {
                    for (int k = 0; k < N; k++) level[node[2 * i]][k] += level[node[2 * i + 1]][k];
                    node[i] = node[2 * i];
                }
            memcpy(want_f64, level[0], sizeof want_f64);
            tl__comm_add_f64(part_f64[0], parts_f64, size, N);
            assert_memory_equal(part_f64[0], want_f64, sizeof want_f64);
        }
    tl__ctx_close(&ctx);
}

/* ---- collectives ---- */

static float *input(int r, int64_t n) {
    float *x = malloc((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)(i * 8 + r) * 2654435761u;
        bits = i % 9 == 0 ? 0x80000000u : i % 13 == 0 ? bits & 0x807fffffu : (bits & 0x83ffffffu) | 0x3c000000u;
        memcpy(&x[i], &bits, sizeof *x);
    }
    return x;
}

static float *expected(int size, int64_t n) {
    float *part[MOST] = {0}, *sum = malloc((size_t)n * sizeof *sum);
    for (int r = 0; r < size; r++) part[r] = input(r, n);
    tl__comm_add_f32(sum, part, size, n);
    for (int r = 0; r < size; r++) free(part[r]);
    return sum;
}

/* Below and above what goes with START, above a piece; all under way at once. */
static void exchange(rank_thread *me) {
    static const int64_t sizes[] = {5, 200, 30000, 2100001};
    tl_ticket sum[4], reduce[4], broadcast[4], gather[4];
    float *x[4], *y[4], *z[4], *all[4];
    tl_comm *c = me->comm;
    for (int i = 0; i < 4; i++) {
        int64_t n = sizes[i];
        int root = i % me->size;
        x[i] = input(me->rank, n), y[i] = input(me->rank, n), z[i] = input(me->rank, n);
        all[i] = malloc((size_t)(n * me->size) * sizeof *all[i]);
        CHECK(me, tl__comm_sum_start(c, TL_AXIS_DP, x[i], n, &sum[i], &me->err) == 0);
        CHECK(me, tl__comm_reduce_start(c, TL_AXIS_DP, y[i], n, root, &reduce[i], &me->err) == 0);
        CHECK(me, tl__comm_broadcast_start(c, TL_AXIS_DP, z[i], n * 4, root, &broadcast[i], &me->err) == 0);
        CHECK(me, tl__comm_wait(c, broadcast[i], 60 * SECOND, &me->err) == 0);
        CHECK(me, tl__comm_gather_start(c, TL_AXIS_DP, all[i], z[i], n * 4, &gather[i], &me->err) == 0);
    }
    for (int i = 0; i < 4; i++) {
        int64_t n = sizes[i];
        int root = i % me->size;
        float *want = expected(me->size, n), *roots = input(root, n);
        CHECK(me, tl__comm_wait(c, gather[i], 60 * SECOND, &me->err) == 0);
        CHECK(me, tl__comm_wait(c, reduce[i], 60 * SECOND, &me->err) == 0);
        CHECK(me, tl__comm_wait(c, sum[i], 60 * SECOND, &me->err) == 0);
        CHECK(me, memcmp(x[i], want, (size_t)n * 4) == 0);
        CHECK(me, me->rank != root || memcmp(y[i], want, (size_t)n * 4) == 0);
        CHECK(me, memcmp(z[i], roots, (size_t)n * 4) == 0);
        for (int r = 0; r < me->size; r++) CHECK(me, memcmp(all[i] + r * n, roots, (size_t)n * 4) == 0);
        free(want), free(roots), free(x[i]), free(y[i]), free(z[i]), free(all[i]);
    }
    CHECK(me, tl__comm_sequence(c) == 16);
}

static void any_number_of_ranks_exchanges_any_sizes(void **state) {
    (void)state;
    for (int size = 1; size <= 5; size++) {
        run(size, exchange);
        assert_int_equal(the_hub.closed, size); /* in order, since nothing failed */
    }
}

static void count_traffic(rank_thread *me) {
    int64_t n = 1 << 20;
    float *x = input(me->rank, n);
    tl_ticket t;
    tl__comm_take_traffic(me->comm);
    CHECK(me, tl__comm_sum_start(me->comm, TL_AXIS_DP, x, n, &t, &me->err) == 0);
    CHECK(me, tl__comm_wait(me->comm, t, 60 * SECOND, &me->err) == 0);
    tl_comm_traffic traffic = tl__comm_take_traffic(me->comm);
    /* 2 (P − 1) / P of the buffer goes out and as much comes in; STARTs are small. */
    double data = 4.0 * (me->size - 1) / me->size * (double)n * 4;
    CHECK(me, traffic.bytes >= data && traffic.bytes < data * 1.001);
    CHECK(me, traffic.seconds > 0 && traffic.seconds < 60);
    CHECK(me, tl__comm_take_traffic(me->comm).bytes == 0);
    free(x);
}

static void traffic_is_what_went_over_the_wire(void **state) {
    (void)state;
    run(2, count_traffic);
    run(4, count_traffic);
}

/* Nobody waits, and it is done all the same: once nothing is under way, a wait that may take no time succeeds. */
static void look_away(rank_thread *me) {
    int64_t n = 3000000, end = tl__now_ns() + 60 * SECOND;
    float *x = input(me->rank, n), *want = expected(me->size, n);
    tl_ticket t;
    CHECK(me, tl__comm_sum_start(me->comm, TL_AXIS_DP, x, n, &t, &me->err) == 0);
    while (tl__comm_take_traffic(me->comm).seconds > 0 && tl__now_ns() < end) nap();
    CHECK(me, tl__comm_wait(me->comm, t, 0, &me->err) == 0);
    CHECK(me, memcmp(x, want, (size_t)n * 4) == 0);
    free(x), free(want);
}

static void collectives_go_on_while_the_engine_computes(void **state) {
    (void)state;
    run(3, look_away);
}

static void all_meet(rank_thread *me) {
    float x = 1;
    tl_ticket t;
    tl__comm_set_step(me->comm, 12);
    CHECK(me, tl__comm_sum_start(me->comm, TL_AXIS_DP, &x, 1, &t, &me->err) == 0);
    CHECK(me, tl__comm_wait(me->comm, t, 60 * SECOND, &me->err) == 0);
}

static void the_last_stops(rank_thread *me) {
    float x[300] = {0};
    tl_ticket t;
    all_meet(me);
    if (me->rank == me->size - 1) {
        the_hub.stopped[me->rank] = true;
        while (the_hub.stopped[me->rank]) nap();
        return;
    }
    CHECK(me, tl__comm_sum_start(me->comm, TL_AXIS_DP, x, 300, &t, &me->err) == 0);
    CHECK(me, tl__comm_wait(me->comm, t, 3 * SECOND, &me->err) == TL_ECOMM);
    CHECK(me, strstr(me->err.text, "rank 2 (") && strstr(me->err.text, "has not come and is silent for"));
    CHECK(me, strstr(me->err.text, "last at collective 1, step 12"));
    CHECK(me, strstr(me->err.text, "Collective 2 (sum of 300 f32, step 12)"));
    CHECK(me, tl__comm_sum_start(me->comm, TL_AXIS_DP, x, 300, &t, &me->err) == TL_ECOMM); /* for good */
    the_hub.stopped[me->size - 1] = false;
}

static void a_stopped_rank_is_called_silent(void **state) {
    (void)state;
    run(3, the_last_stops);
    assert_int_equal(the_hub.closed, 0); /* nothing is closed in order that might wait for it */
}

static void a_cable_is_cut(rank_thread *me) {
    float x[300] = {0};
    tl_ticket t;
    all_meet(me);
    if (me->rank == 1) the_hub.broken[1] = true;
    int rc = tl__comm_sum_start(me->comm, TL_AXIS_DP, x, 300, &t, &me->err);
    if (!rc) rc = tl__comm_wait(me->comm, t, 3 * SECOND, &me->err);
    CHECK(me, rc == TL_ECOMM);
    CHECK(me, strstr(me->err.text, "the cable is cut") || me->rank != 1);
}

static void a_failing_wire_is_an_error_that_says_so(void **state) {
    (void)state;
    run(3, a_cable_is_cut);
}

static void nobody_hears_the_first(rank_thread *me) {
    float *x = calloc(1 << 20, sizeof *x);
    tl_ticket t;
    all_meet(me);
    the_hub.mute[0] = true;
    CHECK(me, tl__comm_sum_start(me->comm, TL_AXIS_DP, x, 1 << 20, &t, &me->err) == 0);
    CHECK(me, tl__comm_wait(me->comm, t, (me->rank ? 2 : 4) * SECOND, &me->err) == TL_ECOMM);
    if (me->rank == 1) CHECK(me, strstr(me->err.text, "rank 0 (") && strstr(me->err.text, "silent"));
    free(x);
}

static void a_rank_that_cannot_be_heard_is_called_silent(void **state) {
    (void)state;
    run(2, nobody_hears_the_first);
}

static void different_arguments(rank_thread *me) {
    float x[1000] = {0};
    tl_ticket t;
    all_meet(me);
    int rc = me->rank == 2 ? tl__comm_broadcast_start(me->comm, TL_AXIS_DP, x, 3000, 1, &t, &me->err)
                           : tl__comm_reduce_start(me->comm, TL_AXIS_DP, x, 900, 1, &t, &me->err);
    CHECK(me, rc == 0);
    CHECK(me, tl__comm_wait(me->comm, t, 20 * SECOND, &me->err) == TL_ECOMM);
    CHECK(me, strstr(me->err.text, "but rank 2 (") &&
                  strstr(me->err.text, "a broadcast of 3000 bytes from rank 1 in step 12"));
    CHECK(me, strstr(me->err.text, "started a reduce of 900 f32 to rank 1"));
}

static void different_arguments_are_told_apart_by_the_majority(void **state) {
    (void)state;
    run(4, different_arguments);
}

static void close_in_the_middle(rank_thread *me) {
    float x[1000] = {0};
    tl_ticket t;
    all_meet(me);
    CHECK(me, tl__comm_sum_start(me->comm, TL_AXIS_DP, x, 1000, &t, &me->err) == 0);
    if (me->rank == 0) {
        int rc = tl__comm_reduce_start(me->comm, TL_AXIS_DP, x, 10, 0, &t, &me->err); /* nobody else does */
        CHECK(me, rc == 0);
        CHECK(me, tl__comm_wait(me->comm, t, 20 * SECOND, &me->err) == TL_ECOMM);
        CHECK(me, strstr(me->err.text, "has closed its communicator"));
        return;
    }
    CHECK(me, tl__comm_wait(me->comm, t, 20 * SECOND, &me->err) == 0);
}

static void waiting_for_one_that_has_left_ends_at_once(void **state) {
    (void)state;
    run(2, close_in_the_middle);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(leaves_are_a_partition_into_complete_subtrees_and_sum_as_one_tree),
        cmocka_unit_test(any_number_of_ranks_exchanges_any_sizes),
        cmocka_unit_test(traffic_is_what_went_over_the_wire),
        cmocka_unit_test(collectives_go_on_while_the_engine_computes),
        cmocka_unit_test(a_stopped_rank_is_called_silent),
        cmocka_unit_test(a_failing_wire_is_an_error_that_says_so),
        cmocka_unit_test(a_rank_that_cannot_be_heard_is_called_silent),
        cmocka_unit_test(different_arguments_are_told_apart_by_the_majority),
        cmocka_unit_test(waiting_for_one_that_has_left_ends_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
