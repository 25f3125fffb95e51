/* link.c — owns the measurement of the link between ranks.
 *
 * Promises: takes its budget, and five times that where the link is slow (less than 2 Gbit/s); every rank takes the
 * same decisions (rank 0's clock, shared by the very exchanges that are measured) and ends with the same two figures.
 * They are of sums over all ranks at once, adding included: what a training step does, not what a cable could. */
#include <math.h>
#include <stdlib.h>
#include "base/clock.h"
#include "comm/comm.h"
#include "comm/cost.h"
#include "observe/machine.h"

enum { SMALL_TRIALS = 6, MOST_TRIALS = 200 };
static const int64_t FIRST_N = (int64_t)16 << 10, LARGEST_N = (int64_t)1 << 20; /* f32 of a sum */
static const double SLOW_BYTES_PER_SECOND = 250e6, SLOW_BUDGETS = 5;
static const int64_t TIMEOUT_NS = INT64_C(60) * 1000000000;

/* value becomes rank 0's on every rank; *seconds: what that took here. */
static int share(tl_comm *comm, double *value, double *seconds, tl_error *err) {
    tl_ticket ticket;
    if (tl__comm_rank(comm, TL_AXIS_DP) != 0) *value = 0;
    int64_t begin_ns = tl__now_ns();
    int rc = tl__comm_sum_f64_start(comm, TL_AXIS_DP, value, 1, &ticket, err);
    if (!rc) rc = tl__comm_wait(comm, ticket, TIMEOUT_NS, err);
    *seconds = (double)(tl__now_ns() - begin_ns) * 1e-9;
    return rc;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sums, each twice as long as the one before while there is time. *rate: of those in the second half of it, since a
 * shaped link lets the first few hundred kilobytes go by unshaped; a link that is slow enough to be shaped gets more
 * time. */
static int measure_rate(tl_comm *comm, float *buffer, double latency, double budget, double *rate, tl_error *err) {
    const int64_t begin_ns = tl__now_ns();
    double began = 0, moved = 0, took, rates[MOST_TRIALS];
    int counted = 0;
    int rc = 0;
    int64_t n = FIRST_N;
    for (int i = 0; !rc && i < MOST_TRIALS; i++) {
        tl_ticket ticket;
        int64_t start_ns = tl__now_ns();
        rc = tl__comm_sum_start(comm, TL_AXIS_DP, buffer, n, &ticket, err);
        if (!rc) rc = tl__comm_wait(comm, ticket, TIMEOUT_NS, err);
        double seconds = (double)(tl__now_ns() - start_ns) * 1e-9, elapsed = (double)(tl__now_ns() - begin_ns) * 1e-9;
        if (!rc) rc = share(comm, &seconds, &took, err);
        if (!rc) rc = share(comm, &elapsed, &took, err);
        if (rc) break;
        tl_comm_cost cost = tl__comm_cost(TL_COLLECTIVE_SUM, n, tl__comm_size(comm, TL_AXIS_DP), 0, 0);
        moved += cost.sent_bytes;
        double time = moved < SLOW_BYTES_PER_SECOND * elapsed ? SLOW_BUDGETS * budget : budget;
        if (began < time / 2) counted = 0; /* it began too early */
        rates[counted++] = (cost.sent_bytes + cost.received_bytes) / fmax(seconds - latency, 1e-9);
        began = elapsed;
        if (elapsed >= time) break;
        if (n < LARGEST_N && elapsed + 4 * seconds < time) n *= 2;
    }
    qsort(rates, (size_t)counted, sizeof *rates, by_value); /* the middle one: now and then a rank is late */
    *rate = counted ? rates[counted / 2] : 0;
    return rc;
}

static int measure(tl_machine *m, tl_comm *comm, float *buffer, double budget, tl_error *err) {
    double took, latency = INFINITY, rate = 0, nothing = 0;
    int rc = 0;
    for (int i = 0; !rc && i < SMALL_TRIALS; i++) {
        rc = share(comm, &nothing, &took, err);
        if (i > 0) latency = fmin(latency, took); /* the first waits for whoever comes last */
    }
    if (!rc) rc = share(comm, &latency, &took, err);
    if (!rc) rc = measure_rate(comm, buffer, latency, budget, &rate, err);
    if (rc) return rc;
    m->ranks = tl__comm_size(comm, TL_AXIS_DP);
    m->link_latency_seconds = latency;
    m->link_bytes_per_second = rate;
    return 0;
}

int tl__machine_measure_link(tl_machine *m, tl_comm *comm, double seconds, tl_error *err) {
    if (tl__comm_size(comm, TL_AXIS_DP) < 2) return 0;
    float *buffer = calloc((size_t)LARGEST_N, sizeof *buffer);
    if (!buffer) return tl__fail(err, TL_ENOMEM, "No memory to measure the link between ranks; free some.");
    int rc = measure(m, comm, buffer, seconds, err);
    free(buffer);
    return rc;
}
