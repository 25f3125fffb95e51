/* batcher.c — opening, the door for other threads, and one step from end to end.
 *
 * Invariants, asserted by number:
 *   B1  a copy is in `live` from submit until its last choice has ended, then in `dead` until the next submit or close
 *       frees it: the owner's thread calls the heap in open and close alone.
 *   B2  n_unbegun counts the live copies of which no sequence has had a slot.
 *   B3  at close, when all have ended, no page is held. */
#include "infer/batcher.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include "base/clock.h"
#include "infer/batcher_parts.h"
#include "observe/machine.h"

enum { RUNNING = 64, WAITING = 1024, STEP_TOKENS = 512 };
enum { MOST_RUNNING = 1 << 16, MOST_STEP_TOKENS = 1 << 20 };
#define USUAL_POSITIONS 2048 /* of a sequence: so many of each have room unless kv_bytes says otherwise */

/* ---- opening ---- */

/* A page holds keys and values of both, where there is a draft. */
static int64_t page_bytes(const tl_engine *e, const tl_batcher_options *o) {
    return tl_page_bytes(&e->model.arch, o->kv_type) +
           (o->draft ? tl_page_bytes(&o->draft->model.arch, o->kv_type) : 0);
}

static int check_number(const char *what, int n, int most, tl_error *err) {
    if (n >= 0 && n <= most) return 0;
    return tl__fail(err, TL_EINVALID, "%s is %d; it is from 1 to %d, or 0 for the default", what, n, most);
}

/* What 0 stands for is put in; *pages: of the pool. */
static int settle_options(tl_batcher_options *o, int *pages, const tl_engine *e, tl_error *err) {
    const tl_model *m = &e->model;
    if (!tl_kv_can_be(o->kv_type))
        return tl__fail(err, TL_EUNSUPPORTED, "keys and values cannot be kept as %s; kv_type is F32, F16, BF16 or Q8_0",
                        (unsigned)o->kv_type < TL_TYPES ? tl__type_name(o->kv_type) : "that");
    TRY(check_number("running", o->running, MOST_RUNNING, err));
    TRY(check_number("waiting", o->waiting, INT32_MAX, err));
    TRY(check_number("step_tokens", o->step_tokens, MOST_STEP_TOKENS, err));
    TRY(check_number("positions", o->positions, m->positions, err));
    if (o->look_up < 0 || o->look_up > TL_MOST_AHEAD)
        return tl__fail(err, TL_EINVALID, "look_up is %d; it is from 1 to %d tokens, or 0 for none", o->look_up,
                        TL_MOST_AHEAD);
    if (o->running == 0) o->running = RUNNING;
    if (o->waiting == 0) o->waiting = WAITING;
    if (o->step_tokens == 0) o->step_tokens = STEP_TOKENS;
    if (o->positions == 0) o->positions = m->positions;
    TRY(tl__draft_check(o, e, err));
    const int64_t bytes = page_bytes(e, o);
    if (o->running > o->step_tokens) o->running = o->step_tokens; /* each computes a row a step */
    if (o->kv_bytes == 0) {
        const int usual = o->positions < USUAL_POSITIONS ? o->positions : USUAL_POSITIONS;
        const int64_t quarter = tl__memory_available_bytes() / 4;
        o->kv_bytes = (int64_t)o->running * tl_pages_for(usual) * bytes;
        if (quarter > 0 && o->kv_bytes > quarter) o->kv_bytes = quarter > bytes ? quarter : bytes;
    }
    if (o->kv_bytes < bytes)
        return tl__fail(err, TL_EINVALID,
                        "kv_bytes is %lld, but keys and values of %d tokens, the least there can be, take %lld",
                        (long long)o->kv_bytes, TL_KV_BLOCK, (long long)bytes);
    const int64_t most = INT32_MAX / TL_KV_BLOCK, n = o->kv_bytes / bytes;
    *pages = (int)(n < most ? n : most);
    if (o->positions > *pages * TL_KV_BLOCK) o->positions = *pages * TL_KV_BLOCK;
    return 0;
}

/* The one placing function: over a dry arena it is the size, over a real one the batcher. */
static tl_batcher *place(tl_arena *arena, const tl_engine *e, const tl_batcher_options *o, int pages, uint64_t seed) {
    const tl_arch *a = &e->model.arch;
    tl_batcher unplaced, *real = TL_TAKE(arena, tl_batcher, 1), *b = real ? real : &unplaced;
    *b = (tl_batcher){.options = *o, .row_pages = tl_pages_for(o->positions), .page_bytes = page_bytes(e, o)};
    const int running = o->running, rows = o->step_tokens;
    tl__pages_place(&b->pages, arena, pages);
    tl__prefix_place(&b->prefix, arena, &b->pages, seed);
    /* What is written when it opens comes first, so that it is in as few huge pages as can be. */
    b->active = TL_TAKE(arena, tl_sequence *, running);
    b->free_slot = TL_TAKE(arena, int, running);
    b->token = TL_TAKE(arena, int32_t, rows);
    b->pos = TL_TAKE(arena, int32_t, rows);
    b->seq_row = TL_TAKE(arena, int32_t, running + 1);
    b->seq_block = TL_TAKE(arena, int32_t, running);
    b->block = TL_TAKE(arena, int32_t, (int64_t)running * b->row_pages);
    b->found = TL_TAKE(arena, int32_t, b->row_pages);
    b->piece = TL_TAKE(arena, tl_piece, running);
    b->pick = TL_TAKE(arena, tl_pick, rows);
    tl__acts_place(&b->acts, arena, a, rows, 0, false, TL_RECOMPUTE_NONE);
    b->kv = TL_TAKE(arena, unsigned char, pages *tl_page_bytes(a, o->kv_type));
    tl__draft_place(b, arena, pages);
    b->gathered = TL_TAKE(arena, float, (int64_t)b->acts.loss_rows * a->C);
    b->scratch = TL_TAKE(arena, unsigned char, tl__pool_threads(e->ctx.pool) * (int64_t)tl__sampler_bytes(a->V));
    b->text_room =
        e->tokenizer ? 2 * tl__tokenizer_decode_room(e->tokenizer) : 0; /* a token's, and what was held back */
    b->text = TL_TAKE(arena, char, b->text_room);
    return real;
}

/* Options with nothing left open, and what is taken for them. */
static int measure(tl_batcher_options *settled, int *pages, size_t *bytes, const tl_engine *e,
                   const tl_batcher_options *o, tl_error *err) {
    if (!e->model.weight) return tl__fail(err, TL_EINVALID, "the engine has not been loaded; load it first");
    *settled = o ? *o : (tl_batcher_options){0};
    TRY(settle_options(settled, pages, e, err));
    tl_arena dry = tl__arena_dry();
    place(&dry, e, settled, *pages, 0);
    *bytes = dry.used_bytes;
    return 0;
}

int tl__batcher_size(int64_t *kv, int64_t *other, const tl_engine *e, const tl_batcher_options *o, tl_error *err) {
    tl_batcher_options settled;
    int pages = 0;
    size_t bytes = 0;
    TRY(measure(&settled, &pages, &bytes, e, o, err));
    *kv = pages * page_bytes(e, &settled);
    *other = (int64_t)bytes - *kv;
    return 0;
}

static int open_door(tl_batcher *b, tl_error *err) {
    pthread_condattr_t attr;
    if (pthread_condattr_init(&attr)) return tl__fail(err, TL_ENOMEM, "the system has no room for a condition");
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    int failed = pthread_cond_init(&b->changed, &attr);
    pthread_condattr_destroy(&attr);
    if (failed) return tl__fail(err, TL_ENOMEM, "the system has no room for a condition");
    if (!pthread_mutex_init(&b->lock, NULL)) return 0;
    pthread_cond_destroy(&b->changed);
    return tl__fail(err, TL_ENOMEM, "the system has no room for a lock");
}

int tl__batcher_open(tl_batcher **batcher, tl_engine *e, const tl_batcher_options *o, tl_error *err) {
    tl_batcher_options settled;
    tl_arena arena;
    int pages = 0;
    size_t bytes = 0;
    *batcher = NULL;
    TRY(measure(&settled, &pages, &bytes, e, o, err));
    if (tl__arena_open(&arena, bytes, err)) return tl__error_prefix(err, "a pool of %d pages", pages);
    uint64_t seed = 0;
    if (getrandom(&seed, sizeof seed, 0) != (ssize_t)sizeof seed) seed = (uint64_t)tl__now_ns();
    tl_batcher *b = place(&arena, e, &settled, pages, seed);
    b->arena = arena;
    b->engine = e;
    b->model = &e->model;
    b->ctx = &e->ctx;
    int status = open_door(b, err);
    if (status) {
        tl__arena_close(&arena);
        return status;
    }
    tl_lay_pages(&b->acts, &b->model->arch, b->kv, pages, b->options.kv_type);
    tl__draft_open(b, pages);
    b->n_free_slots = b->options.running;
    for (int i = 0; i < b->n_free_slots; i++) b->free_slot[i] = b->n_free_slots - 1 - i;
    b->tally.positions = b->options.positions;
    b->tally.pages = pages;
    b->tally.page_bytes = b->page_bytes;
    b->described = b->tally;
    *batcher = b;
    return 0;
}

static void free_copies(tl_copy *c) {
    while (c) {
        tl_copy *next = c->next;
        free(c);
        c = next;
    }
}

void tl__batcher_close(tl_batcher *b) {
    if (!b) return;
    while (b->live) {
        tl_copy *c = b->live;
        for (int i = 0, n = c->asked.choices; i < n; i++) /* the copy outlives its end: it is freed below */
            if (c->choice[i].state != TL_SEQUENCE_ENDED) tl__end(b, &c->choice[i], TL_FINISH_CANCELLED);
        assert(b->live != c); /* B1 */
    }
    assert(b->pages.used == 0 && tl__pages_sound(&b->pages)); /* B3 */
    assert(b->n_unbegun == 0);                                /* B2 */
    free_copies(b->dead);
    pthread_cond_destroy(&b->changed);
    pthread_mutex_destroy(&b->lock);
    tl_arena arena = b->arena;
    tl__arena_close(&arena);
}

/* ---- the door ---- */

int tl__batcher_submit(tl_batcher *b, const tl_request *request, uint64_t *id, tl_error *err) {
    tl_copy *c, *dead;
    TRY(tl__copy_request(&c, b, request, err));
    pthread_mutex_lock(&b->lock);
    dead = b->dead;
    b->dead = NULL;
    const bool full = b->n_unbegun >= b->options.waiting;
    if (!full) {
        *id = c->id = ++b->last_id;
        c->next = b->live;
        if (b->live) b->live->before = c;
        b->live = c;
        *(b->last_new ? &b->last_new->next_new : &b->first_new) = c;
        b->last_new = c;
        b->n_unbegun++;
        pthread_cond_signal(&b->changed);
    }
    pthread_mutex_unlock(&b->lock);
    free_copies(dead);
    if (!full) return 0;
    free(c);
    return tl__fail(err, TL_EBUSY, "%d requests wait, the most that may; come again later", b->options.waiting);
}

void tl__batcher_cancel(tl_batcher *b, uint64_t request) {
    pthread_mutex_lock(&b->lock);
    for (tl_copy *c = b->live; c; c = c->next)
        if (c->id == request) atomic_store(&c->cancelled, true);
    pthread_mutex_unlock(&b->lock);
}

void tl__batcher_wake(tl_batcher *b) {
    pthread_mutex_lock(&b->lock);
    b->woken = true;
    pthread_cond_signal(&b->changed);
    pthread_mutex_unlock(&b->lock);
}

void tl__batcher_describe(const tl_batcher *batcher, tl_batcher_facts *facts) {
    tl_batcher *b = (tl_batcher *)(uintptr_t)batcher; /* the lock alone is touched */
    pthread_mutex_lock(&b->lock);
    *facts = b->described;
    pthread_mutex_unlock(&b->lock);
}

void tl__retire(tl_batcher *b, tl_copy *c) {
    pthread_mutex_lock(&b->lock);
    if (c->before) c->before->next = c->next;
    else b->live = c->next;
    if (c->next) c->next->before = c->before;
    b->n_unbegun -= !c->begun;
    c->next = b->dead;
    b->dead = c;
    pthread_mutex_unlock(&b->lock);
}

/* ---- a step ---- */

/* Waits for something to do; the new requests go into the queue. */
static void let_in(tl_batcher *b, int64_t wait_ns) {
    const int64_t until = tl__now_ns() + (wait_ns > 0 ? wait_ns : 0);
    const struct timespec at = {.tv_sec = until / 1000000000, .tv_nsec = until % 1000000000};
    const bool busy = b->n_active > 0 || b->n_waiting > 0;
    pthread_mutex_lock(&b->lock);
    while (!busy && wait_ns > 0 && !b->first_new && !b->woken)
        if (pthread_cond_timedwait(&b->changed, &b->lock, &at)) break; /* ETIMEDOUT */
    b->woken = false;
    tl_copy *c = b->first_new;
    b->first_new = b->last_new = NULL;
    pthread_mutex_unlock(&b->lock);
    for (; c; c = c->next_new) tl__queue_put(b, &c->choice[0]);
}

static void note_begun(tl_batcher *b) {
    pthread_mutex_lock(&b->lock);
    for (int i = 0; i < b->n_active; i++) {
        tl_copy *c = b->active[i]->copy;
        b->n_unbegun -= !c->begun;
        c->begun = true;
    }
    pthread_mutex_unlock(&b->lock);
}

static void publish(tl_batcher *b) {
    tl_batcher_facts *t = &b->tally;
    t->running = b->n_active;
    t->used_pages = b->pages.used;
    t->cached_pages = b->pages.cached;
    t->preemptions += b->step.preempted;
    t->prompt_tokens += b->step.prompt_rows;
    t->steps += b->step.rows > 0;
    t->proposed += b->step.proposed;
    t->accepted += b->step.accepted;
    pthread_mutex_lock(&b->lock);
    t->waiting = b->n_unbegun;
    b->described = *t;
    pthread_mutex_unlock(&b->lock);
}

int tl__batcher_step(tl_batcher *b, int64_t wait_ns, tl_error *err) {
    (void)err; /* nothing that a step does can fail yet */
    const int64_t asked_ns = tl__now_ns();
    let_in(b, wait_ns);
    b->step = (tl_batch_step){.begin_ns = tl__now_ns()};
    b->step.wait_ns = b->step.begin_ns - asked_ns;
    tl__end_late(b, b->step.begin_ns);
    tl__schedule(b);
    note_begun(b);
    const int64_t begin = tl__now_ns();
    tl__draft(b);
    tl__lay_out(b);
    if (b->R > 0) {
        const tl_rows rows = {b->R, b->n_pieces, b->token, b->pos, b->seq_row, b->seq_block, b->block};
        tl__model_forward(b->ctx, b->model, &b->acts, &rows);
        const int64_t sampling = tl__now_ns();
        tl__pick(b, &(tl_head){b->ctx, b->model, &b->acts, b->gathered}, false);
        b->step.forward_ns = sampling - begin;
        b->step.sample_ns = tl__now_ns() - sampling;
        tl__settle(b);
    }
    publish(b);
    if (b->options.stepped && b->R > 0) b->options.stepped(b->options.user, &b->step);
    return b->R;
}
