/* progress.c — owns the communication thread: every call of the wire, from its opening to its end.
 *
 * A collective goes through here so: its START goes to every rank, with the data if they are few; when all STARTs of it
 * have come and agree it is summed from them, or cut into pieces. A piece is cut into even slices, one a rank:
 *   sum, reduce  every rank gets its slice of everybody (stage 0), adds them in the tree, and sends its sum to all or
 * to root (stage 1) broadcast    root sends each rank its slice (stage 0), which that rank sends on to the others
 * (stage 1); small ones go straight to all gather       every rank's piece goes straight to all so that no link carries
 * more than its share. TL_MANY_LANES pieces are under way at once. */
#include "comm/many.h"

#include "base/clock.h"

#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define WORD_TAG 0
#define DATA_TAG 1
#define DATA_TAGS (TL_WIRE_TAGS - 2)
#define IDLE_NS 5000000     /* between two looks at the wire when nothing is under way */
#define YIELDS 20           /* looks without rest after something moved */
#define REST_LEAST_NS 20000 /* later it rests a sixteenth of the time for which nothing moved */
#define REST_MOST_NS 1000000
#define TELL_NS 1000000000 /* how long a failure waits for the others to hear of it */

static void fail(many *c, int status, const char *text) {
    pthread_mutex_lock(&c->lock);
    tl__many_fail(c, status, "%s", text);
    pthread_mutex_unlock(&c->lock);
}

static void fail_wire(many *c, int other) {
    char text[512];
    snprintf(text, sizeof text,
             "%s failed on rank %d (%s)%s%s: %s; look at both hosts and the network, then resume from the "
             "last checkpoint.",
             c->wire_ops->name, c->rank, c->peer[c->rank].host, other >= 0 ? " with " : "",
             other >= 0 ? c->peer[other].host : "", c->wire_ops->error());
    fail(c, TL_ECOMM, text);
}

static void count_bytes(many *c, double bytes) {
    pthread_mutex_lock(&c->lock);
    c->bytes += bytes;
    pthread_mutex_unlock(&c->lock);
}

/* ---- words: what ranks say to each other beside data ---- */

static bool all_sent(many *c, tl_wire_request *requests, int n) {
    bool done = false;
    if (c->wire_ops->test_all(c->wire, requests, n, &done)) fail_wire(c, -1);
    return done;
}

static void listen_to(many *c, int r) {
    if (c->wire_ops->receive(c->wire, &c->receiving[r], &c->peer[r].in, sizeof c->peer[r].in, r, WORD_TAG))
        fail_wire(c, r);
}

/* false: the last word to r has not left yet. */
static bool say_to(many *c, int r, int what, const char *text) {
    peer *p = &c->peer[r];
    if (!all_sent(c, &p->sending, 1)) return false;
    pthread_mutex_lock(&c->lock);
    p->out.head = (say){.what = (uint32_t)what,
                        .format = TL_MANY_FORMAT,
                        .sequence = c->started,
                        .step = c->step,
                        .kind = what == TL_SAY_ABORT && c->told_by_another};
    pthread_mutex_unlock(&c->lock);
    int n = text ? snprintf(p->out.text, sizeof p->out.text, "%s", text) : 0;
    if (n >= (int)sizeof p->out.text) n = (int)sizeof p->out.text - 1;
    p->out.head.bytes = n;
    p->saying = what;
    if (c->wire_ops->send(c->wire, &p->sending, &p->out, (int64_t)sizeof(say) + n, r, WORD_TAG)) fail_wire(c, r);
    return true;
}

static void hear(many *c, int r, int64_t bytes) {
    peer *p = &c->peer[r];
    const say *head = &p->in.head;
    int64_t more = bytes - (int64_t)sizeof *head;
    if (more < 0 || head->format != TL_MANY_FORMAT || head->bytes < 0 || head->bytes > more) {
        char text[256];
        snprintf(text, sizeof text,
                 "Rank %d sends what this version of trilith does not know; install the same one on all hosts.", r);
        fail(c, TL_EUNSUPPORTED, text);
        return;
    }
    int n = head->bytes < (int)sizeof p->in.text - 1 ? head->bytes : (int)sizeof p->in.text - 1;
    pthread_mutex_lock(&c->lock);
    p->heard_ns = tl__now_ns();
    p->step = head->step;
    if (head->sequence > p->sequence) p->sequence = head->sequence;
    if (head->what == TL_SAY_HELLO) {
        snprintf(p->host, sizeof p->host, "%.*s", n, p->in.text);
        p->here = true;
    } else if (head->what == TL_SAY_BYE) {
        p->left = true;
    } else if (head->what == TL_SAY_ABORT) {
        p->left = true;
        c->told_by_another |= !c->failed;
        if (head->kind) tl__many_fail(c, TL_ECOMM, "%.*s", n, p->in.text); /* handed on: it says whose word it is */
        else
            tl__many_fail(c, TL_ECOMM, "Rank %d (%s) gave up at collective %llu, step %lld: %.*s", r, p->host,
                          (unsigned long long)head->sequence, (long long)head->step, n, p->in.text);
    } else if (head->what == TL_SAY_START && n <= TL_MANY_SMALL) {
        say_start *at = &p->start[head->sequence % (2 * TL_MANY_OPS)];
        at->head = *head;
        memcpy(at->data, p->in.text, (size_t)n);
    }
    pthread_mutex_unlock(&c->lock);
}

static bool listen_to_all(many *c) {
    bool moved = false;
    for (;;) {
        int which = -1;
        int64_t bytes = 0;
        if (c->wire_ops->test_any(c->wire, c->receiving, c->size, &which, &bytes)) {
            fail_wire(c, -1);
            return moved;
        }
        if (which < 0) return moved;
        moved = true;
        hear(c, which, bytes);
        listen_to(c, which);
    }
}

/* ---- a collective begins: START to all ---- */

static bool is_alone(const op *o) {
    return o->request.axis != TL_AXIS_DP;
}

static void tell(many *c, op *o) {
    const tl_comm_request *q = &o->request;
    int64_t bytes = q->n * tl__comm_element_bytes(q->kind);
    o->small = bytes <= TL_MANY_SMALL;
    if (is_alone(o)) return;
    bool sends = o->small && (q->kind != TL_COLLECTIVE_BROADCAST || q->root == c->rank);
    o->message.head = (say){.what = TL_SAY_START,
                            .format = TL_MANY_FORMAT,
                            .sequence = o->sequence,
                            .step = o->step,
                            .n = q->n,
                            .kind = q->kind,
                            .root = q->root,
                            .axis = q->axis,
                            .bytes = sends ? (int32_t)bytes : 0};
    if (sends && bytes) memcpy(o->message.data, q->kind == TL_COLLECTIVE_GATHER ? q->in : q->buffer, (size_t)bytes);
    int64_t length = (int64_t)sizeof(say) + o->message.head.bytes;
    for (int r = 0; r < c->size; r++)
        if (r != c->rank && c->wire_ops->send(c->wire, &o->sending[r], &o->message, length, r, WORD_TAG))
            fail_wire(c, r);
    count_bytes(c, (double)length * (c->size - 1));
}

static bool take_started(many *c) {
    pthread_mutex_lock(&c->lock);
    uint64_t started = c->started;
    pthread_mutex_unlock(&c->lock);
    bool moved = c->taken < started;
    while (c->taken < started) tell(c, &c->op[++c->taken % TL_MANY_OPS]);
    return moved;
}

/* ---- agreement ---- */

static const say_start *start_of(const many *c, int r, const op *o) {
    return r == c->rank ? &o->message : &c->peer[r].start[o->sequence % (2 * TL_MANY_OPS)];
}

static bool same(const say *a, const say *b) {
    return a->kind == b->kind && a->n == b->n && a->root == b->root && a->axis == b->axis && a->step == b->step;
}

/* Every rank has come to o, and not all with the same arguments: name those who differ from the most. */
static void fail_different(many *c, const op *o) {
    char text[900], what[96];
    int most = 0, best = 0, named = 0;
    for (int r = 0; r < c->size; r++) {
        int n = 0;
        for (int k = 0; k < c->size; k++) n += same(&start_of(c, r, o)->head, &start_of(c, k, o)->head);
        if (n > most) most = n, best = r;
    }
    const say *norm = &start_of(c, best, o)->head;
    tl__many_describe(what, sizeof what, norm->kind, norm->n, norm->root);
    int used = snprintf(text, sizeof text,
                        "Collective %llu is not the same on all ranks: %s %d (%s)%s started a %s in step %lld",
                        (unsigned long long)o->sequence, most > 1 ? "most, with rank" : "rank", best,
                        c->peer[best].host, most > 1 ? " among them," : "", what, (long long)norm->step);
    for (int r = 0; r < c->size && used < 700; r++) {
        const say *h = &start_of(c, r, o)->head;
        if (same(h, norm) || ++named > 4) continue;
        tl__many_describe(what, sizeof what, h->kind, h->n, h->root);
        used += snprintf(text + used, sizeof text - (size_t)used, ", but rank %d (%s) a %s in step %lld", r,
                         c->peer[r].host, what, (long long)h->step);
    }
    snprintf(text + used, sizeof text - (size_t)used, ". Start all ranks with the same program, settings and data.");
    fail(c, TL_ECOMM, text);
}

static void finish(many *c, op *o) {
    pthread_mutex_lock(&c->lock);
    o->done = true;
    if (--c->busy == 0) c->busy_ns += tl__now_ns() - c->busy_since_ns;
    pthread_cond_broadcast(&c->news);
    pthread_mutex_unlock(&c->lock);
}

static void finish_small(many *c, op *o) {
    const tl_comm_request *q = &o->request;
    int64_t bytes = q->n * tl__comm_element_bytes(q->kind);
    if (q->kind == TL_COLLECTIVE_BROADCAST) {
        if (q->root != c->rank && bytes) memcpy(q->buffer, start_of(c, q->root, o)->data, (size_t)bytes);
    } else if (q->kind == TL_COLLECTIVE_GATHER) {
        for (int r = 0; r < c->size && bytes; r++)
            memcpy((char *)q->buffer + r * bytes, start_of(c, r, o)->data, (size_t)bytes);
    } else if (bytes) {
        for (int r = 0; r < c->size; r++)
            c->part[r] = r == c->rank ? q->buffer : c->peer[r].start[o->sequence % (2 * TL_MANY_OPS)].data;
        if (q->kind == TL_COLLECTIVE_SUM_F64) tl__comm_add_f64(q->buffer, (double *const *)c->part, c->size, q->n);
        else tl__comm_add_f32(q->buffer, (float *const *)c->part, c->size, q->n);
    }
    finish(c, o);
}

/* The next collective in order, if everybody has come to it. */
static bool agree(many *c, op *o) {
    const tl_comm_request *q = &o->request;
    if (is_alone(o)) {
        if (q->kind == TL_COLLECTIVE_GATHER && q->n) memmove(q->buffer, q->in, (size_t)q->n);
        o->agreed = true;
        finish(c, o);
        return true;
    }
    bool all_same = true;
    for (int r = 0; r < c->size; r++) {
        const say *h = &start_of(c, r, o)->head;
        if (h->sequence == o->sequence) {
            all_same &= same(h, &o->message.head);
            continue;
        }
        if (c->peer[r].left) {
            char text[512], what[96];
            tl__many_describe(what, sizeof what, q->kind, q->n, q->root);
            snprintf(text, sizeof text,
                     "Rank %d (%s) has closed its communicator after collective %llu, step %lld, and will not come to "
                     "collective "
                     "%llu (%s, step %lld); what it said before tells why.",
                     r, c->peer[r].host, (unsigned long long)c->peer[r].sequence, (long long)c->peer[r].step,
                     (unsigned long long)o->sequence, what, (long long)o->step);
            fail(c, TL_ECOMM, text);
        }
        return false;
    }
    if (!all_same) {
        fail_different(c, o);
        return false;
    }
    double came = 0;
    for (int r = 0; r < c->size; r++)
        came += r == c->rank ? 0 : (double)(sizeof(say) + (size_t)start_of(c, r, o)->head.bytes);
    count_bytes(c, came);
    o->agreed = true;
    if (o->small) {
        finish_small(c, o);
        return true;
    }
    int64_t piece = tl__comm_piece(q->kind, c->size);
    o->piece_elements = piece;
    o->pieces = (q->n + piece - 1) / piece;
    o->first_piece = c->pieces_numbered;
    c->pieces_numbered += (uint64_t)o->pieces;
    return true;
}

/* ---- pieces ---- */

static void lane_send(many *c, lane *l, const void *bytes, int64_t n, int to, int stage) {
    if (n == 0) return;
    int tag = DATA_TAG + (l->tag + stage) % DATA_TAGS;
    if (c->wire_ops->send(c->wire, &l->request[l->requests++], bytes, n, to, tag)) fail_wire(c, to);
    l->bytes += (double)n;
}

static void lane_receive(many *c, lane *l, void *bytes, int64_t n, int from, int stage) {
    if (n == 0) return;
    int tag = DATA_TAG + (l->tag + stage) % DATA_TAGS;
    if (c->wire_ops->receive(c->wire, &l->request[l->requests++], bytes, n, from, tag)) fail_wire(c, from);
    l->bytes += (double)n;
}

/* Stage `l->stage` of the piece: post what it sends and receives. false: there is no such stage, the piece is finished.
 */
static bool begin_sum(many *c, lane *l) {
    const tl_comm_request *q = &l->op->request;
    int64_t e = tl__comm_element_bytes(q->kind), first = tl__comm_cut(l->n, c->size, c->rank),
            mine = (tl__comm_cut(l->n, c->size, c->rank + 1) - first) * e;
    char *buffer = (char *)q->buffer + l->at * e, *own = buffer + first * e, *scratch = l->scratch;
    bool reduce = q->kind == TL_COLLECTIVE_REDUCE;
    if (l->stage == 0) {
        for (int r = 0; r < c->size; r++)
            if (r != c->rank) lane_receive(c, l, scratch, mine, r, 0), scratch += mine;
    } else if (l->stage == 1) {
        for (int r = 0; r < c->size; r++) {
            c->part[r] = r == c->rank ? own : scratch;
            if (r != c->rank) scratch += mine;
        }
        if (q->kind == TL_COLLECTIVE_SUM_F64)
            tl__comm_add_f64((double *)own, (double *const *)c->part, c->size, mine / 8);
        else tl__comm_add_f32((float *)own, (float *const *)c->part, c->size, mine / 4);
    } else {
        return false;
    }
    /* Beginning behind oneself, so that not everybody sends to rank 0 first. */
    for (int i = 1; i < c->size; i++) {
        int r = (c->rank + i) % c->size;
        int64_t at = tl__comm_cut(l->n, c->size, r), theirs = (tl__comm_cut(l->n, c->size, r + 1) - at) * e;
        if (l->stage == 0) {
            lane_send(c, l, buffer + at * e, theirs, r, 0);
        } else {
            if (!reduce || q->root == c->rank) lane_receive(c, l, buffer + at * e, theirs, r, 1);
            if (!reduce || q->root == r) lane_send(c, l, own, mine, r, 1);
        }
    }
    return true;
}

static bool begin_broadcast(many *c, lane *l) {
    const tl_comm_request *q = &l->op->request;
    char *buffer = (char *)q->buffer + l->at;
    bool flat = c->size == 2 || l->n <= TL_COMM_FLAT_BYTES, root = q->root == c->rank;
    int64_t first = tl__comm_cut(l->n, c->size, c->rank), mine = tl__comm_cut(l->n, c->size, c->rank + 1) - first;
    if (l->stage == 0 && flat) {
        if (!root) lane_receive(c, l, buffer, l->n, q->root, 0);
        for (int r = 0; root && r < c->size; r++)
            if (r != c->rank) lane_send(c, l, buffer, l->n, r, 0);
    } else if (l->stage == 0 && root) {
        for (int r = 0; r < c->size; r++) {
            int64_t at = tl__comm_cut(l->n, c->size, r);
            if (r == c->rank) continue;
            lane_send(c, l, buffer + at, tl__comm_cut(l->n, c->size, r + 1) - at, r, 0);
            lane_send(c, l, buffer + first, mine, r, 1);
        }
    } else if (l->stage == 0) {
        lane_receive(c, l, buffer + first, mine, q->root, 0);
    } else if (l->stage == 1 && !flat && !root) {
        for (int i = 1; i < c->size; i++) {
            int r = (c->rank + i) % c->size;
            int64_t at = tl__comm_cut(l->n, c->size, r);
            lane_receive(c, l, buffer + at, tl__comm_cut(l->n, c->size, r + 1) - at, r, 1);
            if (r != q->root) lane_send(c, l, buffer + first, mine, r, 1);
        }
    } else {
        return false;
    }
    return true;
}

static bool begin_gather(many *c, lane *l) {
    const tl_comm_request *q = &l->op->request;
    if (l->stage > 0) return false;
    const char *in = (const char *)q->in + l->at;
    char *out = (char *)q->buffer + l->at;
    memmove(out + c->rank * q->n, in, (size_t)l->n);
    for (int i = 1; i < c->size; i++) {
        int r = (c->rank + i) % c->size;
        lane_receive(c, l, out + r * q->n, l->n, r, 0);
        lane_send(c, l, in, l->n, r, 0);
    }
    return true;
}

static bool begin_stage(many *c, lane *l) {
    l->requests = 0, l->bytes = 0;
    switch (l->op->request.kind) {
    case TL_COLLECTIVE_BROADCAST:
        return begin_broadcast(c, l);
    case TL_COLLECTIVE_GATHER:
        return begin_gather(c, l);
    default:
        return begin_sum(c, l);
    }
}

static bool advance_lane(many *c, lane *l) {
    bool done = false;
    if (c->wire_ops->test_all(c->wire, l->request, l->requests, &done)) fail_wire(c, -1);
    if (!done || c->failed) return false;
    count_bytes(c, l->bytes);
    l->stage++;
    if (begin_stage(c, l)) return true;
    op *o = l->op;
    l->op = NULL;
    if (++o->finished == o->pieces) finish(c, o);
    return true;
}

/* A free lane takes the next piece of the first collective that has one. */
static bool feed_lane(many *c, lane *l) {
    while (c->feeding <= c->agreed) {
        op *o = &c->op[c->feeding % TL_MANY_OPS];
        if (o->next_piece == o->pieces) {
            c->feeding++;
            continue;
        }
        uint64_t number = o->first_piece + (uint64_t)o->next_piece;
        l->op = o;
        l->at = o->next_piece++ * o->piece_elements;
        l->n = o->request.n - l->at < o->piece_elements ? o->request.n - l->at : o->piece_elements;
        l->stage = 0, l->tag = (int)(2 * number % DATA_TAGS);
        begin_stage(c, l);
        return true;
    }
    return false;
}

static bool advance(many *c) {
    bool moved = false;
    while (!c->failed && c->agreed < c->taken && agree(c, &c->op[(c->agreed + 1) % TL_MANY_OPS]))
        c->agreed++, moved = true;
    for (int i = 0; i < TL_MANY_LANES && !c->failed; i++) {
        lane *l = &c->lane[i];
        if (l->op) moved |= advance_lane(c, l);
        if (!l->op && !c->failed) moved |= feed_lane(c, l);
    }
    /* Places become free in order. */
    while (!c->failed && c->freed < c->feeding - 1) {
        op *o = &c->op[(c->freed + 1) % TL_MANY_OPS];
        if (!o->done || !all_sent(c, o->sending, c->size)) break;
        c->freed++;
        pthread_mutex_lock(&c->lock);
        c->complete = c->freed;
        pthread_cond_broadcast(&c->news);
        pthread_mutex_unlock(&c->lock);
    }
    return moved;
}

/* ---- the thread ---- */

static bool meet(many *c) {
    char name[TL_MANY_HOST] = "";
    gethostname(name, sizeof name - 1);
    pthread_mutex_lock(&c->lock);
    snprintf(c->peer[c->rank].host, sizeof c->peer[c->rank].host, "%s", name);
    c->peer[c->rank].here = true;
    for (int r = 0; r < c->size; r++) c->peer[r].heard_ns = tl__now_ns();
    pthread_mutex_unlock(&c->lock);
    for (int r = 0; r < c->size && !c->failed; r++) {
        if (r == c->rank) continue;
        listen_to(c, r);
        say_to(c, r, TL_SAY_HELLO, name);
    }
    for (int here = 0; here < c->size && !c->failed;) {
        if (!listen_to_all(c)) nanosleep(&(struct timespec){0, 200000}, NULL);
        here = 0;
        for (int r = 0; r < c->size; r++) here += c->peer[r].here;
    }
    pthread_mutex_lock(&c->lock);
    c->open = !c->failed;
    pthread_cond_broadcast(&c->news);
    pthread_mutex_unlock(&c->lock);
    return !c->failed;
}

static void rest(many *c, bool moved, int *still, int64_t *moved_ns) {
    if (moved) {
        *still = 0;
        return;
    }
    bool busy = c->freed < c->taken;
    if (++*still == 1) *moved_ns = tl__now_ns();
    if (busy && *still <= YIELDS) {
        sched_yield();
        return;
    }
    int64_t now = tl__now_ns(), ns = (now - *moved_ns) / 16;
    if (ns < REST_LEAST_NS) ns = REST_LEAST_NS;
    if (ns > REST_MOST_NS) ns = REST_MOST_NS;
    if (!busy) ns = IDLE_NS;
    struct timespec until = {(now + ns) / 1000000000, (now + ns) % 1000000000};
    pthread_mutex_lock(&c->lock);
    if (c->started == c->taken && !c->failed && !(c->closing && !c->leaving))
        pthread_cond_timedwait(&c->work, &c->lock, &until);
    pthread_mutex_unlock(&c->lock);
}

/* Tell everybody who can hear it that this rank gives up, and wait a moment for them to have heard it. */
static void give_up(many *c) {
    char text[sizeof c->failure.text];
    pthread_mutex_lock(&c->lock);
    snprintf(text, sizeof text, "%s", c->failure.text);
    pthread_mutex_unlock(&c->lock);
    int64_t end = tl__now_ns() + TELL_NS, patience = tl__comm_hurried_ns() ? TL_MANY_HURRY_NS : TL_MANY_SILENT_NS;
    for (int r = 0; r < c->size; r++) c->peer[r].saying = c->peer[r].saying == TL_SAY_BYE ? TL_SAY_BYE : 0;
    for (bool done = false; !done && tl__now_ns() < end;) {
        done = true;
        for (int r = 0; r < c->size; r++) {
            peer *p = &c->peer[r];
            if (r == c->rank || !p->here) continue;
            if (p->saying != TL_SAY_ABORT && p->saying != TL_SAY_BYE) say_to(c, r, TL_SAY_ABORT, text);
            if (p->saying != TL_SAY_ABORT && p->saying != TL_SAY_BYE) done = false;
            else done &= all_sent(c, &p->sending, 1) && (p->left || tl__now_ns() - p->heard_ns > patience);
        }
        listen_to_all(c);
        nanosleep(&(struct timespec){0, 200000}, NULL);
    }
}

/* All ranks part together, so that the wire can be closed in order. A rank that is lost meanwhile: false. */
static bool part_company(many *c) {
    int64_t last = tl__now_ns();
    for (bool done = false; !done && !c->failed;) {
        done = true;
        int64_t now = tl__now_ns();
        for (int r = 0; r < c->size; r++) {
            peer *p = &c->peer[r];
            if (r == c->rank) continue;
            if (p->saying != TL_SAY_BYE) say_to(c, r, TL_SAY_BYE, NULL);
            done &= p->saying == TL_SAY_BYE && p->left && all_sent(c, &p->sending, 1);
            if (!p->left && now - p->heard_ns > 3 * TL_MANY_SILENT_NS && now - last > 3 * TL_MANY_SILENT_NS)
                return false;
        }
        if (!listen_to_all(c)) nanosleep(&(struct timespec){0, 500000}, NULL);
    }
    return !c->failed;
}

static void beat(many *c, int64_t *next) {
    int64_t now = tl__now_ns();
    if (now < *next) return;
    *next = now + TL_MANY_BEAT_NS;
    for (int r = 0; r < c->size; r++)
        if (r != c->rank) say_to(c, r, TL_SAY_BEAT, NULL);
}

static void end(many *c) {
    pthread_mutex_lock(&c->lock);
    c->ended = true;
    pthread_cond_broadcast(&c->news);
    pthread_mutex_unlock(&c->lock);
}

void *tl__many_progress(void *comm) {
    many *c = comm;
    int still = 0;
    int64_t moved_ns = 0, next_beat = 0;
    tl__comm_number_mode();
    prctl(PR_SET_NAME, "communication");
    prctl(PR_SET_TIMERSLACK, 5000);
    int rank = 0, size = 0;
    if (c->wire_ops->open(&c->wire, c->where, &rank, &size)) {
        char text[512];
        snprintf(text, sizeof text, "%s cannot start: %s.", c->wire_ops->name, c->wire_ops->error());
        fail(c, TL_ECOMM, text);
        end(c);
        return NULL;
    }
    pthread_mutex_lock(&c->lock);
    c->rank = rank, c->size = size;
    if (tl__many_allocate(c))
        tl__many_fail(c, TL_ENOMEM, "No memory for communication with %d ranks; free some.", size);
    pthread_mutex_unlock(&c->lock);
    c->feeding = 1;
    if (!c->failed) meet(c);
    bool orderly = false;
    while (!c->failed) {
        bool moved = take_started(c);
        moved |= listen_to_all(c);
        moved |= advance(c);
        beat(c, &next_beat);
        if (tl__comm_hurried_ns()) tl__many_notice_lost(c);
        pthread_mutex_lock(&c->lock);
        c->leaving = c->closing && c->freed == c->started;
        pthread_mutex_unlock(&c->lock);
        if (c->leaving && !c->failed) {
            orderly = part_company(c);
            break;
        }
        rest(c, moved, &still, &moved_ns);
    }
    if (c->failed && c->peer && c->peer[c->size - 1].start) give_up(c);
    if (!c->failed) c->wire_ops->close(c->wire, orderly);
    end(c);
    return NULL;
}
