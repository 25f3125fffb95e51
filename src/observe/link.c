/* link.c — owns the measurement of the link between ranks.
 *
 * Promises: bounded by its budget within a factor of two or so, whatever the link; every rank takes the same decisions
 * (rank 0's clock, shared by the very exchanges that are measured) and ends with the same two figures. They are of sums
 * over all ranks at once, adding included: what a training step does, not what a cable could. */
#include <math.h>
#include <stdlib.h>
#include "base/clock.h"
#include "comm/comm.h"
#include "comm/cost.h"
#include "observe/machine.h"

enum { SMALL_TRIALS = 6, MOST_LARGE_TRIALS = 64 };
static const int64_t FIRST_N = (int64_t)16 << 10, LARGEST_N = (int64_t)1 << 20; /* f32 of a large sum */
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

static int measure(tl_machine *m, tl_comm *comm, float *buffer, double budget, tl_error *err) {
    const int64_t begin_ns = tl__now_ns();
    const int ranks = tl__comm_size(comm, TL_AXIS_DP);
    double took, latency = INFINITY, elapsed = 0;
    int rc = 0;
    for (int i = 0; !rc && i < SMALL_TRIALS; i++) {
        rc = share(comm, &elapsed, &took, err);
        if (i > 0) latency = fmin(latency, took); /* the first waits for whoever comes last */
    }
    int64_t n = FIRST_N, length = 0;
    double bytes = 0, waited = 1;
    for (int i = 0; !rc && i < MOST_LARGE_TRIALS; i++) {
        tl_ticket ticket;
        int64_t start_ns = tl__now_ns();
        rc = tl__comm_sum_start(comm, TL_AXIS_DP, buffer, n, &ticket, err);
        if (!rc) rc = tl__comm_wait(comm, ticket, TIMEOUT_NS, err);
        if (rc) break;
        double seconds = (double)(tl__now_ns() - start_ns) * 1e-9;
        tl_comm_cost cost = tl__comm_cost(TL_COLLECTIVE_SUM, n, ranks, 0, 0);
        if (n > length) bytes = waited = 0, length = n; /* a longer sum is the better judge */
        bytes += cost.sent_bytes + cost.received_bytes;
        waited += fmax(seconds - latency, 1e-9);
        double rank0[2] = {(double)(tl__now_ns() - begin_ns) * 1e-9, seconds};
        for (int k = 0; !rc && k < 2; k++) rc = share(comm, &rank0[k], &took, err);
        bool longer = n < LARGEST_N && rank0[0] + 2 * rank0[1] < budget;
        if (longer) n *= 2;
        else if (rank0[0] + rank0[1] >= budget) break;
    }
    double rate = bytes / waited;
    if (!rc) rc = share(comm, &latency, &took, err);
    if (!rc) rc = share(comm, &rate, &took, err);
    if (rc) return rc;
    m->ranks = ranks;
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
