/* self.c — owns the communicator of one rank alone: every axis has size 1, and a sum over it leaves the buffer as it
 * is.
 *
 * Promises: the same rules as for many ranks, so that a caller that works here works there: collectives are numbered
 * from 1 in the order they are started, only a ticket that was given out can be waited for, and after an abort every
 * call fails with the reason. Abort may come from another thread. */
#include "comm/comm.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct tl_comm {
    uint64_t sequence;
    atomic_int abort_state; /* 0: none; 1: the reason is being written; 2: it can be read */
    char reason[512];
};

int tl__comm_open_self(tl_comm **comm, tl_error *err) {
    *comm = calloc(1, sizeof **comm);
    if (!*comm) return tl__fail(err, TL_ENOMEM, "No memory for a communicator; free some and try again.");
    return 0;
}

void tl__comm_close(tl_comm *comm) {
    free(comm);
}

int tl__comm_rank(const tl_comm *comm, tl_axis axis) {
    (void)comm;
    assert(axis >= 0 && axis < TL_AXES);
    return 0;
}

int tl__comm_size(const tl_comm *comm, tl_axis axis) {
    (void)comm;
    assert(axis >= 0 && axis < TL_AXES);
    return 1;
}

const char *tl__comm_host(const tl_comm *comm, int rank) {
    (void)comm;
    assert(rank == 0);
    return "localhost";
}

uint64_t tl__comm_sequence(const tl_comm *comm) {
    return comm->sequence;
}

static int check_alive(tl_comm *comm, tl_error *err) {
    if (atomic_load_explicit(&comm->abort_state, memory_order_acquire) == 0) return 0;
    /* Whoever is writing the reason is a few instructions from done. */
    while (atomic_load_explicit(&comm->abort_state, memory_order_acquire) != 2) {
    }
    return tl__fail(err, TL_ESTOPPED, "Communication was aborted after collective %llu: %s",
                    (unsigned long long)comm->sequence, comm->reason);
}

static int start(tl_comm *comm, tl_axis axis, const void *buffer, int64_t n, tl_ticket *ticket, tl_error *err) {
    assert(axis >= 0 && axis < TL_AXES);
    assert(n >= 0 && (buffer || n == 0));
    *ticket = (tl_ticket){0};
    int rc = check_alive(comm, err);
    if (rc) return rc;
    ticket->sequence = ++comm->sequence;
    return 0;
}

int tl__comm_sum_start(tl_comm *comm, tl_axis axis, float *buffer, int64_t n, tl_ticket *ticket, tl_error *err) {
    return start(comm, axis, buffer, n, ticket, err);
}

int tl__comm_sum_f64_start(tl_comm *comm, tl_axis axis, double *buffer, int64_t n, tl_ticket *ticket, tl_error *err) {
    return start(comm, axis, buffer, n, ticket, err);
}

int tl__comm_reduce_start(tl_comm *comm, tl_axis axis, float *buffer, int64_t n, int root, tl_ticket *ticket,
                          tl_error *err) {
    assert(root == 0);
    return start(comm, axis, buffer, n, ticket, err);
}

int tl__comm_broadcast_start(tl_comm *comm, tl_axis axis, void *buffer, int64_t bytes, int root, tl_ticket *ticket,
                             tl_error *err) {
    assert(root == 0);
    return start(comm, axis, buffer, bytes, ticket, err);
}

int tl__comm_gather_start(tl_comm *comm, tl_axis axis, void *out, const void *in, int64_t bytes, tl_ticket *ticket,
                          tl_error *err) {
    int rc = start(comm, axis, in, bytes, ticket, err);
    if (!rc && bytes > 0) memmove(out, in, (size_t)bytes);
    return rc;
}

int tl__comm_wait(tl_comm *comm, tl_ticket ticket, int64_t timeout_ns, tl_error *err) {
    (void)timeout_ns; /* complete when started */
    int rc = check_alive(comm, err);
    if (rc) return rc;
    if (ticket.sequence == 0 || ticket.sequence > comm->sequence)
        return tl__fail(
            err, TL_EINVALID,
            "Waiting for collective %llu, but only 1 to %llu were started; wait only for tickets from a start "
            "that succeeded.",
            (unsigned long long)ticket.sequence, (unsigned long long)comm->sequence);
    return 0;
}

void tl__comm_abort(tl_comm *comm, const char *reason) {
    int none = 0;
    if (!atomic_compare_exchange_strong(&comm->abort_state, &none, 1)) return; /* the first reason wins */
    snprintf(comm->reason, sizeof comm->reason, "%s", reason ? reason : "no reason was given");
    atomic_store_explicit(&comm->abort_state, 2, memory_order_release);
}

void tl__comm_set_step(tl_comm *comm, int64_t step) {
    (void)comm, (void)step;
}

int tl__comm_reserve(tl_comm *comm, int64_t most_bytes, int pending, tl_error *err) {
    (void)comm, (void)most_bytes, (void)pending, (void)err;
    return 0;
}

tl_comm_traffic tl__comm_take_traffic(tl_comm *comm) {
    (void)comm;
    return (tl_comm_traffic){0};
}
