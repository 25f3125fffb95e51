/* many.c — owns the engine's side of the communicator over many ranks: opening and closing it, starting and waiting for
 * collectives, and the sentences that say who is missing. The bytes are the communication thread's (progress.c). */
#include "comm/many.h"

#include "base/clock.h"
#include "base/log.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ENDING_NS 3000000000 /* how long a failure waits for the thread to let go of the buffers */
#define YIELD_NS 700000000   /* a launcher ends all ranks when the first fails: whose failure it was may speak first */
#define SAY_AT_MOST 6        /* ranks named one by one */

const char *tl__many_kind(int kind) {
    static const char *const names[] = {"", "sum", "sum", "reduce", "broadcast", "gather"};
    return kind >= 1 && kind <= 5 ? names[kind] : "collective of another version";
}

void tl__many_describe(char *out, size_t size, int kind, int64_t n, int root) {
    static const char *const units[] = {"elements", "f32", "f64", "f32", "bytes", "bytes"};
    int used = snprintf(out, size, "%s of %lld %s", tl__many_kind(kind), (long long)n,
                        units[kind >= 1 && kind <= 5 ? kind : 0]);
    if (used < 0 || (size_t)used >= size) return;
    if (kind == TL_COLLECTIVE_REDUCE) snprintf(out + used, size - (size_t)used, " to rank %d", root);
    if (kind == TL_COLLECTIVE_BROADCAST) snprintf(out + used, size - (size_t)used, " from rank %d", root);
}

void tl__many_fail(many *c, int status, const char *format, ...) {
    if (c->failed) return;
    va_list args;
    va_start(args, format);
    char text[sizeof c->failure.text];
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    tl__fail(&c->failure, status, "%s", text);
    c->failed = true;
    pthread_cond_broadcast(&c->work);
    pthread_cond_broadcast(&c->news);
}

/* ---- waiting ---- */

static struct timespec at_time(int64_t ns) {
    return (struct timespec){ns / 1000000000, ns % 1000000000};
}

/* Until there is news or the deadline; false after it. Under the lock. */
static bool await_news(many *c, int64_t deadline_ns) {
    struct timespec until = at_time(deadline_ns);
    return pthread_cond_timedwait(&c->news, &c->lock, &until) != ETIMEDOUT;
}

static int64_t deadline_after(int64_t timeout_ns) {
    int64_t now = tl__now_ns();
    return timeout_ns > INT64_MAX - now ? INT64_MAX : now + (timeout_ns > 0 ? timeout_ns : 0);
}

/* The failure as this call's error, after the thread has let go of every buffer (or is stuck in the library). */
static int report_failure(many *c, tl_error *err) {
    int64_t deadline = deadline_after(tl__comm_hurried_ns() ? 0 : ENDING_NS); /* no time for it: closing waits */
    while (!c->ended && await_news(c, deadline)) {
    }
    return tl__fail(err, c->failure.status, "%s", c->failure.text);
}

static bool is_done(const many *c, uint64_t sequence) {
    return sequence <= c->complete || c->op[sequence % TL_MANY_OPS].done;
}

/* ---- who is missing ---- */

static int add(char *text, size_t size, int used, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = used >= 0 && (size_t)used < size ? vsnprintf(text + used, size - (size_t)used, format, args) : 0;
    va_end(args);
    return n > 0 ? used + n : used;
}

/* Collective s is not complete in time: say of every rank that has not come how far it is and whether it lives. */
static void fail_late(many *c, uint64_t s, int64_t timeout_ns, int64_t silent) {
    char text[sizeof c->failure.text], what[96];
    const op *o = &c->op[s % TL_MANY_OPS];
    int64_t now = tl__now_ns(), step = o->step;
    /* A short time-out must still tell a silent rank from a late one. */
    int64_t usual = timeout_ns > 2 * TL_MANY_SILENT_NS ? TL_MANY_SILENT_NS : 2 * TL_MANY_BEAT_NS;
    silent = silent < usual ? silent : usual;
    int missing = 0, mute = 0, named = 0, guilty = -1;
    tl__many_describe(what, sizeof what, o->request.kind, o->request.n, o->request.root);
    int used =
        add(text, sizeof text, 0,
            "Collective %llu (%s, step %lld) is not complete after %.3g s on rank %d (%s): ", (unsigned long long)s,
            what, (long long)step, (double)timeout_ns * 1e-9, c->rank, c->peer[c->rank].host);
    for (int r = 0; r < c->size; r++) {
        const peer *p = &c->peer[r];
        if (r == c->rank) continue;
        double quiet = (double)(now - p->heard_ns) * 1e-9;
        bool is_mute = now - p->heard_ns > silent, is_missing = p->sequence < s;
        missing += is_missing, mute += is_mute;
        if (!is_missing && !is_mute) continue;
        if (guilty < 0) guilty = r;
        if (++named > SAY_AT_MOST) continue;
        used = add(text, sizeof text, used, "rank %d (%s) %s", r, p->host, is_missing ? "has not come" : "has come");
        /* src/cli/supervise.c reads "is silent for": who is lost. */
        if (p->left) used = add(text, sizeof text, used, " and has closed its communicator");
        else if (is_mute)
            used = add(text, sizeof text, used, " and is silent for %.1f s (stopped, dead or cut off)", quiet);
        else used = add(text, sizeof text, used, " and is alive but late");
        used = add(text, sizeof text, used, ", last at collective %llu, step %lld; ", (unsigned long long)p->sequence,
                   (long long)p->step);
    }
    if (named > SAY_AT_MOST) used = add(text, sizeof text, used, "and %d more; ", named - SAY_AT_MOST);
    if (!missing && !mute)
        used = add(text, sizeof text, used,
                   "all ranks have come and live, but the bytes between them do not get through; ");
    else if (missing) {
        int others = c->size - missing;
        used = add(text, sizeof text, used, "the other %d %s come (", others, others == 1 ? "has" : "have");
        int shown = 0;
        for (int r = 0; r < c->size; r++) {
            uint64_t far = r == c->rank ? c->started : c->peer[r].sequence;
            if (far < s || shown > SAY_AT_MOST) continue;
            used = shown == SAY_AT_MOST ? add(text, sizeof text, used, ", …")
                                        : add(text, sizeof text, used, "%srank %d at %llu", shown ? ", " : "", r,
                                              (unsigned long long)far);
            shown++;
        }
        used = add(text, sizeof text, used, "); ");
    }
    if (guilty >= 0)
        add(text, sizeof text, used, "look at %s, then resume from the last checkpoint.", c->peer[guilty].host);
    else add(text, sizeof text, used, "look at the network, then resume from the last checkpoint.");
    tl__many_fail(c, TL_ECOMM, "%s", text);
}

/* How long a rank may be silent; in a hurry hardly at all. */
static int64_t silence_allowed(const many *c) {
    return tl__comm_hurried_ns() && c->silence_ns > TL_MANY_HURRY_NS ? TL_MANY_HURRY_NS : c->silence_ns;
}

/* Some news of collective s, or its failure: the deadline is over, or a rank is lost. Looked at every tenth of a
 * second, since a hurry comes from a signal. Under the lock. */
static void await_or_fail(many *c, uint64_t s, int64_t begun_ns, int64_t timeout_ns) {
    if (timeout_ns < 0) timeout_ns = 0;
    int64_t look = tl__now_ns() + 100000000,
            end = begun_ns > INT64_MAX - timeout_ns ? INT64_MAX : begun_ns + timeout_ns;
    if (await_news(c, look < end ? look : end) || c->failed || is_done(c, s)) return;
    int64_t now = tl__now_ns(), allowed = silence_allowed(c);
    bool lost = false;
    for (int r = 0; r < c->size; r++)
        lost |= r != c->rank && c->peer[r].here && !c->peer[r].left && now - c->peer[r].heard_ns > allowed;
    if (now >= end) fail_late(c, s, timeout_ns, allowed);
    else if (lost) fail_late(c, s, now - begun_ns, allowed);
}

void tl__many_notice_lost(many *c) {
    char text[sizeof c->failure.text];
    int64_t now = tl__now_ns();
    int lost = 0, used = 0;
    pthread_mutex_lock(&c->lock);
    for (int r = 0; r < c->size && !c->waiting && !c->failed && c->open; r++) {
        const peer *p = &c->peer[r];
        if (r == c->rank || !p->here || p->left || now - p->heard_ns <= TL_MANY_HURRY_NS) continue;
        if (++lost > SAY_AT_MOST) continue;
        used = add(text, sizeof text, used,
                   "rank %d (%s) is silent for %.1f s (stopped, dead or cut off), last at collective %llu, step %lld; ",
                   r, p->host, (double)(now - p->heard_ns) * 1e-9, (unsigned long long)p->sequence, (long long)p->step);
    }
    bool first = lost > 0; /* of those that live: one speaks */
    for (int r = 0; r < c->rank; r++) first &= now - c->peer[r].heard_ns > TL_MANY_HURRY_NS;
    for (int r = 0, shown = 0; first && r < c->size && shown <= SAY_AT_MOST; r++) {
        bool mine = r == c->rank;
        if (!mine && now - c->peer[r].heard_ns > TL_MANY_HURRY_NS) continue;
        used = shown++ == SAY_AT_MOST ? add(text, sizeof text, used, ", …")
                                      : add(text, sizeof text, used, "%srank %d (%s) is at collective %llu, step %lld",
                                            shown > 1 ? ", " : "", r, c->peer[r].host,
                                            (unsigned long long)(mine ? c->started : c->peer[r].sequence),
                                            (long long)(mine ? c->step : c->peer[r].step));
    }
    if (first) {
        add(text, sizeof text, used, "; resume from the last checkpoint.");
        tl__many_fail(c, TL_ECOMM, "%s", text);
    }
    pthread_mutex_unlock(&c->lock);
    if (first) tl__warn("%s", text);
}

/* ---- the table's calls ---- */

static int many_rank(const tl_comm *comm, tl_axis axis) {
    return axis == TL_AXIS_DP ? ((const many *)comm)->rank : 0;
}

static int many_size(const tl_comm *comm, tl_axis axis) {
    return axis == TL_AXIS_DP ? ((const many *)comm)->size : 1;
}

static const char *many_host(const tl_comm *comm, int rank) {
    const many *c = (const many *)comm;
    assert(rank >= 0 && rank < c->size);
    return c->peer[rank].host;
}

static uint64_t many_sequence(const tl_comm *comm) {
    return ((const many *)comm)->started; /* only the engine's thread writes it */
}

static void many_set_step(tl_comm *comm, int64_t step) {
    many *c = (many *)comm;
    pthread_mutex_lock(&c->lock);
    c->step = step;
    pthread_mutex_unlock(&c->lock);
}

/* Everything was taken when it was opened; here its pages are made real, so that no step pays for it. */
static void many_reserve(tl_comm *comm) {
    many *c = (many *)comm;
    pthread_mutex_lock(&c->lock);
    bool idle = c->busy == 0;
    pthread_mutex_unlock(&c->lock);
    for (int l = 0; idle && l < TL_MANY_LANES; l++)
        memset(c->lane[l].scratch, 0, (size_t)((c->size - 1) * c->slice_bytes));
}

static int many_start(tl_comm *comm, const tl_comm_request *request, tl_ticket *ticket, tl_error *err) {
    many *c = (many *)comm;
    int rc = 0;
    pthread_mutex_lock(&c->lock);
    uint64_t s = c->started + 1;
    int64_t begun_ns = tl__now_ns();
    c->waiting = true;
    while (!c->failed && s > c->complete + TL_MANY_OPS) await_or_fail(c, c->complete + 1, begun_ns, c->timeout_ns);
    c->waiting = false;
    if (c->failed) {
        rc = report_failure(c, err);
    } else {
        op *o = &c->op[s % TL_MANY_OPS];
        tl_wire_request *sending = o->sending;
        *o = (op){.request = *request, .sequence = s, .step = c->step, .sending = sending};
        if (c->busy++ == 0) c->busy_since_ns = tl__now_ns();
        ticket->sequence = c->started = s;
        pthread_cond_signal(&c->work);
    }
    pthread_mutex_unlock(&c->lock);
    return rc;
}

static int many_wait(tl_comm *comm, tl_ticket ticket, int64_t timeout_ns, tl_error *err) {
    many *c = (many *)comm;
    int rc = 0;
    pthread_mutex_lock(&c->lock);
    c->timeout_ns = timeout_ns;
    if (ticket.sequence == 0 || ticket.sequence > c->started) {
        rc =
            tl__fail(err, TL_EINVALID,
                     "Waiting for collective %llu, but only 1 to %llu were started; wait only for tickets from a start "
                     "that succeeded.",
                     (unsigned long long)ticket.sequence, (unsigned long long)c->started);
    } else {
        int64_t begun_ns = tl__now_ns();
        c->waiting = true;
        while (!c->failed && !is_done(c, ticket.sequence)) await_or_fail(c, ticket.sequence, begun_ns, timeout_ns);
        c->waiting = false;
        if (c->failed) rc = report_failure(c, err);
    }
    pthread_mutex_unlock(&c->lock);
    return rc;
}

static void many_set_silence(tl_comm *comm, int64_t silence_ns) {
    many *c = (many *)comm;
    pthread_mutex_lock(&c->lock);
    c->silence_ns = silence_ns;
    pthread_mutex_unlock(&c->lock);
}

static void many_abort(tl_comm *comm, const char *reason) {
    many *c = (many *)comm;
    pthread_mutex_lock(&c->lock);
    tl__many_fail(c, TL_ESTOPPED, "Communication was aborted after collective %llu: %s", (unsigned long long)c->started,
                  reason);
    pthread_mutex_unlock(&c->lock);
}

static tl_comm_traffic many_take_traffic(tl_comm *comm) {
    many *c = (many *)comm;
    pthread_mutex_lock(&c->lock);
    int64_t now = tl__now_ns();
    if (c->busy > 0) c->busy_ns += now - c->busy_since_ns, c->busy_since_ns = now;
    tl_comm_traffic t = {c->bytes, (double)c->busy_ns * 1e-9};
    c->bytes = 0, c->busy_ns = 0;
    pthread_mutex_unlock(&c->lock);
    return t;
}

/* ---- opening and closing ---- */

int64_t tl__comm_many_bytes(int size) {
    int64_t lanes =
        TL_MANY_LANES * ((size - 1) * tl__comm_slice_bytes(size) + 3 * size * (int64_t)sizeof(tl_wire_request));
    return (int64_t)sizeof(many) + lanes + size * (int64_t)(sizeof(peer) + sizeof(void *) + sizeof(tl_wire_request)) +
           size * 2 * TL_MANY_OPS * (int64_t)sizeof(say_start) + size * TL_MANY_OPS * (int64_t)sizeof(tl_wire_request);
}

static void free_all(many *c) {
    for (int l = 0; l < TL_MANY_LANES; l++) free(c->lane[l].scratch), free(c->lane[l].request);
    for (int i = 0; i < TL_MANY_OPS; i++) free(c->op[i].sending);
    for (int r = 0; c->peer && r < c->size; r++) free(c->peer[r].start);
    free(c->peer), free(c->receiving), free(c->part);
    pthread_mutex_destroy(&c->lock), pthread_cond_destroy(&c->work), pthread_cond_destroy(&c->news);
    free(c);
}

/* The thread calls it, when the wire has said how many there are. */
int tl__many_allocate(many *c) {
    size_t n = (size_t)c->size;
    c->slice_bytes = tl__comm_slice_bytes(c->size);
    c->peer = calloc(n, sizeof *c->peer);
    c->receiving = calloc(n, sizeof *c->receiving);
    c->part = calloc(n, sizeof *c->part);
    bool ok = c->peer && c->receiving && c->part;
    for (size_t r = 0; ok && r < n; r++) ok = (c->peer[r].start = calloc(2 * TL_MANY_OPS, sizeof(say_start))) != NULL;
    for (int i = 0; ok && i < TL_MANY_OPS; i++) ok = (c->op[i].sending = calloc(n, sizeof(tl_wire_request))) != NULL;
    for (int l = 0; ok && l < TL_MANY_LANES; l++) {
        c->lane[l].request = calloc(3 * n, sizeof(tl_wire_request));
        c->lane[l].scratch = n > 1 ? aligned_alloc(4096, (n - 1) * (size_t)c->slice_bytes) : malloc(1);
        ok = c->lane[l].request && c->lane[l].scratch;
    }
    return ok ? 0 : -1;
}

/* After a failure the wire is left as it is: finishing in order would wait for ranks that may be gone. */
static void many_close(tl_comm *comm) {
    many *c = (many *)comm;
    pthread_mutex_lock(&c->lock);
    if (c->complete < c->started && c->busy > 0)
        tl__many_fail(c, TL_ECOMM, "The communicator was closed while collective %llu was under way.",
                      (unsigned long long)(c->complete + 1));
    c->closing = true;
    pthread_cond_signal(&c->work);
    int64_t deadline = deadline_after(c->timeout_ns);
    while (!c->ended && !c->failed && await_news(c, deadline)) {
    }
    deadline = deadline_after(ENDING_NS);
    while (!c->ended && await_news(c, deadline)) {
    }
    bool ended = c->ended, told = c->told_by_another;
    pthread_mutex_unlock(&c->lock);
    if (told) nanosleep(&(struct timespec){0, YIELD_NS}, NULL);
    if (!ended) { /* stuck inside the library: its memory must stay */
        pthread_detach(c->thread);
        return;
    }
    pthread_join(c->thread, NULL);
    free_all(c);
}

static bool many_told(tl_comm *comm) {
    many *c = (many *)comm;
    pthread_mutex_lock(&c->lock);
    bool told = c->told_by_another;
    pthread_mutex_unlock(&c->lock);
    return told;
}

static const tl_comm_ops many_ops = {
    .close = many_close,
    .rank = many_rank,
    .size = many_size,
    .host = many_host,
    .sequence = many_sequence,
    .set_step = many_set_step,
    .reserve = many_reserve,
    .start = many_start,
    .wait = many_wait,
    .set_silence = many_set_silence,
    .abort = many_abort,
    .told = many_told,
    .take_traffic = many_take_traffic,
};

static void fail_meeting(many *c, int64_t timeout_ns) {
    char who[400] = "";
    int used = 0, missing = 0;
    for (int r = 0; c->peer && r < c->size; r++)
        if (r != c->rank && !c->peer[r].here && ++missing <= 16)
            used = add(who, sizeof who, used, "%s%d", used ? ", " : "", r);
    if (c->peer)
        tl__many_fail(c, TL_ECOMM, "After %.3g s rank %d of %d (%s) still waits for rank%s %s; look whether they run.",
                      (double)timeout_ns * 1e-9, c->rank, c->size, c->peer[c->rank].host, missing > 1 ? "s" : "", who);
    else
        tl__many_fail(c, TL_ECOMM, "%s has not started within %.3g s; look whether all ranks run.", c->wire_ops->name,
                      (double)timeout_ns * 1e-9);
}

int tl__comm_open_many(tl_comm **comm, const tl_wire_ops *wire, void *where, int64_t timeout_ns, tl_error *err) {
    *comm = NULL;
    many *c = calloc(1, sizeof *c);
    if (!c) return tl__fail(err, TL_ENOMEM, "No memory for a communicator; free some and try again.");
    c->base = (tl_comm){&many_ops, TL_COMM_PATIENCE_NS};
    c->wire_ops = wire, c->where = where;
    c->timeout_ns = timeout_ns;
    c->silence_ns = TL_COMM_PATIENCE_NS;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&c->work, &monotonic), pthread_cond_init(&c->news, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&c->lock, NULL);

    /* Signals are the engine's, in this thread and in those which the library starts from it. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = pthread_create(&c->thread, NULL, tl__many_progress, c);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (code) {
        free_all(c);
        return tl__fail(err, TL_ENOMEM, "No thread for communication (%s); allow more threads or free memory.",
                        strerror(code));
    }
    pthread_mutex_lock(&c->lock);
    int64_t deadline = deadline_after(timeout_ns);
    while (!c->open && !c->failed)
        if (!await_news(c, deadline) && !c->open) fail_meeting(c, timeout_ns);
    int rc = c->failed ? report_failure(c, err) : 0;
    c->timeout_ns = TL_COMM_PATIENCE_NS;
    pthread_mutex_unlock(&c->lock);
    if (rc) many_close(&c->base);
    else *comm = &c->base;
    return rc;
}
