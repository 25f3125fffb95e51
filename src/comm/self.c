/* self.c — owns the communicator of one rank alone: every axis has size 1, and a sum over it leaves the buffer as it
 * is.
 *
 * Promises: the same rules as for many ranks, so that a caller that works here works there: collectives are numbered
 * from 1 in the order they are started, only a ticket that was given out can be waited for, and after an abort every
 * call fails with the reason. Abort may come from another thread. */
#include "comm/backend.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct self {
    tl_comm base;
    uint64_t sequence;
    atomic_int abort_state; /* 0: none; 1: the reason is being written; 2: it can be read */
    char reason[512];
} self;

static void self_close(tl_comm *comm) {
    free(comm);
}

static int self_rank(const tl_comm *comm, tl_axis axis) {
    (void)comm, (void)axis;
    return 0;
}

static int self_size(const tl_comm *comm, tl_axis axis) {
    (void)comm, (void)axis;
    return 1;
}

static const char *self_host(const tl_comm *comm, int rank) {
    (void)comm;
    assert(rank == 0);
    return "localhost";
}

static uint64_t self_sequence(const tl_comm *comm) {
    return ((const self *)comm)->sequence;
}

static int check_alive(self *c, tl_error *err) {
    if (atomic_load_explicit(&c->abort_state, memory_order_acquire) == 0) return 0;
    /* Whoever is writing the reason is a few instructions from done. */
    while (atomic_load_explicit(&c->abort_state, memory_order_acquire) != 2) {
    }
    return tl__fail(err, TL_ESTOPPED, "Communication was aborted after collective %llu: %s",
                    (unsigned long long)c->sequence, c->reason);
}

static int self_start(tl_comm *comm, const tl_comm_request *request, tl_ticket *ticket, tl_error *err) {
    self *c = (self *)comm;
    int rc = check_alive(c, err);
    if (rc) return rc;
    ticket->sequence = ++c->sequence;
    if (request->kind == TL_COLLECTIVE_GATHER && request->n > 0)
        memmove(request->buffer, request->in, (size_t)request->n);
    return 0;
}

static int self_wait(tl_comm *comm, tl_ticket ticket, int64_t timeout_ns, tl_error *err) {
    (void)timeout_ns; /* complete when started */
    self *c = (self *)comm;
    int rc = check_alive(c, err);
    if (rc) return rc;
    if (ticket.sequence == 0 || ticket.sequence > c->sequence)
        return tl__fail(
            err, TL_EINVALID,
            "Waiting for collective %llu, but only 1 to %llu were started; wait only for tickets from a start "
            "that succeeded.",
            (unsigned long long)ticket.sequence, (unsigned long long)c->sequence);
    return 0;
}

static void self_set_silence(tl_comm *comm, int64_t silence_ns) {
    (void)comm, (void)silence_ns;
}

static void self_abort(tl_comm *comm, const char *reason) {
    self *c = (self *)comm;
    int none = 0;
    if (!atomic_compare_exchange_strong(&c->abort_state, &none, 1)) return; /* the first reason wins */
    snprintf(c->reason, sizeof c->reason, "%s", reason);
    atomic_store_explicit(&c->abort_state, 2, memory_order_release);
}

static void self_set_step(tl_comm *comm, int64_t step) {
    (void)comm, (void)step;
}

static void self_reserve(tl_comm *comm) {
    (void)comm;
}

static tl_comm_traffic self_take_traffic(tl_comm *comm) {
    (void)comm;
    return (tl_comm_traffic){0};
}

static bool self_told(tl_comm *comm) {
    (void)comm;
    return false;
}

static const tl_comm_ops self_ops = {
    .close = self_close,
    .rank = self_rank,
    .size = self_size,
    .host = self_host,
    .sequence = self_sequence,
    .set_step = self_set_step,
    .reserve = self_reserve,
    .start = self_start,
    .wait = self_wait,
    .set_silence = self_set_silence,
    .abort = self_abort,
    .told = self_told,
    .take_traffic = self_take_traffic,
};

int tl__comm_open_self(tl_comm **comm, tl_error *err) {
    self *c = calloc(1, sizeof *c);
    *comm = c ? &c->base : NULL;
    if (!c) return tl__fail(err, TL_ENOMEM, "No memory for a communicator; free some and try again.");
    c->base = (tl_comm){&self_ops, TL_COMM_PATIENCE_NS};
    return 0;
}
