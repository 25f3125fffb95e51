/* crowd.h — a crowd on one batcher, shuffled: requests in some order, at some times, under some setting, each of which
 * must be told what a plain session answers it (law L1), to the bit; and what happened meanwhile.
 *
 * TRILITH_TEST_SHUFFLES=N: so many shuffles (24); TRILITH_TEST_FIRST=K: from the one of that number on, so that many
 * may be made in pieces. */
#ifndef TL_TESTS_CROWD_H
#define TL_TESTS_CROWD_H

#include <stdatomic.h>
#include "heap_calls.h"
#include "infer/alone.h"

enum { FIRST_KEY = 77 };

static int number_of(const char *name, int usual) {
    char full[64];
    snprintf(full, sizeof full, "TRILITH_TEST_%s", name);
    const char *n = getenv(full);
    return n ? atoi(n) : usual;
}

static int pages_for(int tokens) {
    return (tokens + TL_KV_BLOCK - 1) / TL_KV_BLOCK;
}

static int64_t page_bytes(const tl_engine *e, tl_type kv_type) {
    return 2 * e->arch.L * e->arch.Hkv * tl_kv_part_bytes(kv_type, e->arch.D);
}

/* ---- what a batcher tells ---- */

static atomic_int n_ended;

static void note(void *user, const tl_event *e) {
    item *it = user;
    answer *a = &it->got[e->choice];
    if (e->choice >= CHOICES || a->finish) it->wrong = true; /* nothing after the end */
    if (e->prompt_at >= 0) {
        if (e->prompt_at != it->told || e->id != it->prompt[it->told] || a->n > 0) it->wrong = true;
        it->got_prompt_logp[it->told++] = e->logp;
    } else if (e->id >= 0) {
        if (a->n >= MOST_MADE) it->wrong = true;
        else a->id[a->n] = e->id, a->thinks[a->n] = e->thinking, a->logp[a->n++] = e->logp;
    }
    a->thinking_tokens = e->usage->thinking_tokens;
    a->finish = e->finish;
    if (a->n_text + e->text_n > MOST_TEXT) it->wrong = true;
    else if (e->text_n) memcpy(a->text + a->n_text, e->text, e->text_n), a->n_text += e->text_n;
    if (e->stop) snprintf(a->stop, sizeof a->stop, "%s", e->stop);
    if (e->choice == 0 && e->id >= 0 && e->n_top == 4) memcpy(it->top[a->n - 1], e->top, sizeof it->top[0]);
    it->usage[e->choice] = *e->usage;
    if (e->embedding) memcpy(it->embedding, e->embedding, sizeof it->embedding), it->embedded = true;
    n_ended += e->finish != TL_FINISH_NONE;
}

static void check_item(const item *it, bool may_be_cut, uint64_t seed, int i) {
    const tl_request *r = &it->asked;
    assert_false(it->wrong);
    for (int c = 0; c < choices_of(it); c++) {
        const answer *a = &it->got[c], *x = &it->expected[c];
        const bool cut = may_be_cut && a->finish == TL_FINISH_CANCELLED;
        if (a->finish != x->finish && !cut)
            fail_msg("seed %llu, request %d, choice %d: finish %d, expected %d", (unsigned long long)seed, i, c,
                     a->finish, x->finish);
        if (cut ? a->n > x->n : a->n != x->n)
            fail_msg("seed %llu, request %d: %d tokens, expected %d", (unsigned long long)seed, i, a->n, x->n);
        for (int t = 0; t < a->n; t++)
            if (a->id[t] != x->id[t] || memcmp(&a->logp[t], &x->logp[t], sizeof(float)))
                fail_msg("seed %llu, request %d, choice %d, token %d: id %d at %.9g, expected %d at %.9g",
                         (unsigned long long)seed, i, c, t, (int)a->id[t], (double)a->logp[t], (int)x->id[t],
                         (double)x->logp[t]);
        assert_memory_equal(a->thinks, x->thinks, (size_t)a->n * sizeof(bool));
        if (cut) continue;
        assert_int_equal(a->thinking_tokens, x->thinking_tokens);
        assert_string_equal(a->stop, x->stop);
        assert_int_equal(a->n_text, x->n_text);
        assert_memory_equal(a->text, x->text, x->n_text);
    }
    if (!r->prompt_logprobs) {
        assert_int_equal(it->told, 0);
        return;
    }
    if (!(may_be_cut && it->got[0].finish == TL_FINISH_CANCELLED)) assert_int_equal(it->told, r->n_prompt);
    for (int t = 1; t < it->told; t++)
        if (memcmp(&it->got_prompt_logp[t], &it->prompt_logp[t], sizeof(float)))
            fail_msg("seed %llu, request %d: the prompt's token %d has %.9g, expected %.9g", (unsigned long long)seed,
                     i, t, (double)it->got_prompt_logp[t], (double)it->prompt_logp[t]);
}

/* ---- one shuffle ---- */

typedef struct setting {
    const subject *of;
    uint64_t asked; /* what make_items had */
    int requests;   /* so many of all, whichever … */
    int surely;     /* … but this one, the first to come; −1: any */
    int come;       /* at most so many before a step; 0: all before the first */
    int threads, step_tokens, pages, running;
    bool no_cache, cancels;
    int look_up, draft; /* draft: which of the subject's */
    bool eager;
    tl_type kv_type;
} setting;

static setting draw_setting(const subject *s, uint64_t key, uint64_t asked, tl_type kv_type) {
    static const int steps[] = {1, 3, 17, 40, 64, 512}, running[] = {1, 2, 5, 64}, pages[] = {0, 3, 12, 200};
    return (setting){.of = s,
                     .asked = asked,
                     .requests = s->requests,
                     .surely = -1,
                     .come = draw(key, 98, 4) == 0 ? 0 : 2,
                     .threads = 1 + (int)((key - FIRST_KEY) % 3),
                     .step_tokens = steps[draw(key, 0, 6)],
                     .running = running[draw(key, 1, 4)],
                     .pages = pages_for(s->positions) + pages[draw(key, 2, 4)],
                     .no_cache = draw(key, 3, 3) == 0,
                     .cancels = draw(key, 4, 3) == 0,
                     .look_up = (int[]){0, 3, 8}[draw(key, 5, 3)],
                     .draft = (int)draw(key, 6, 3),
                     .eager = draw(key, 7, 3) > 0,
                     .kv_type = kv_type};
}

/* How often what is to be proved harmless took place. */
typedef struct deeds {
    int64_t steps, answers, hits, preemptions, stops, thought, proposed, accepted;
    int most; /* sequences in a step */
} deeds;

static void note_step(void *user, const tl_batch_step *step) {
    deeds *d = user;
    d->steps++;
    d->preemptions += step->preempted;
    if (step->running > d->most) d->most = step->running;
}

static tl_batcher *open_batcher(tl_engine *e, const tl_batcher_options *o) {
    tl_batcher *b;
    tl_error err = {0};
    if (tl__batcher_open(&b, e, o, &err)) fail_msg("%s", err.text);
    return b;
}

/* A number of requests in an order drawn: expected of each, nothing told to it. */
static void put_in_order(int order[REQUESTS], const setting *how, uint64_t seed) {
    for (int i = 0; i < how->of->requests; i++) {
        const int j = (int)draw(seed, (uint64_t)i, (uint32_t)i + 1);
        order[i] = order[j];
        order[j] = i;
        item *it = &items[i];
        memset(it->got, 0, sizeof it->got);
        it->told = 0;
        it->wrong = false;
    }
    for (int i = 0; i < how->of->requests; i++)
        if (order[i] == how->surely) order[i] = order[0], order[0] = how->surely;
    for (int i = 0; i < how->requests; i++) expect(how->of, order[i], how->asked, how->kv_type);
}

/* Requests come, some are cancelled, until all have ended. */
static void run(tl_batcher *b, const setting *how, const int *order, uint64_t seed) {
    tl_error err = {0};
    int at = 0, steps = 0;
    for (int rows = 1; at < how->requests || rows > 0; steps++) {
        assert_true(steps < 20000); /* nothing is stuck */
        const int come = how->come ? (int)draw(seed, 100 + (uint64_t)steps, (uint32_t)how->come + 1) : REQUESTS;
        for (int n = come; at < how->requests && n > 0; n--, at++) {
            item *it = &items[order[at]];
            it->asked.event = note;
            it->asked.user = it;
            if (tl__batcher_submit(b, &it->asked, &it->id, &err)) fail_msg("%s", err.text);
        }
        if (how->cancels && steps % 5 == 4 && at > 0)
            tl__batcher_cancel(b, items[order[draw(seed, 50000 + (uint64_t)steps, (uint32_t)at)]].id);
        const long calls = own_heap_calls;
        rows = tl__batcher_step(b, 0, &err);
        assert_int_equal(own_heap_calls, calls);
        assert_true(rows >= 0 && rows <= how->step_tokens);
    }
}

/* Requests through one batcher, in an order and at times drawn from the seed. */
static void shuffle(deeds *d, const setting *how, uint64_t seed) {
    const subject *s = how->of;
    tl_engine engine = *s->engine, *draft = s->draft[how->draft];
    tl_error err = {0};
    int order[REQUESTS];
    put_in_order(order, how, seed);
    assert_int_equal(tl__ctx_open(&engine.ctx, how->threads, NULL, &err), 0);
    const int64_t page = page_bytes(&engine, how->kv_type) + (draft ? page_bytes(draft, how->kv_type) : 0);
    tl_batcher_options o = {.kv_bytes = page * how->pages,
                            .draft = draft,
                            .draft_tokens = draft ? 1 + (int)draw(seed, 99, 6) : 0,
                            .kv_type = how->kv_type,
                            .eager = how->eager,
                            .step_tokens = how->step_tokens,
                            .running = how->running,
                            .positions = s->positions,
                            .no_prefix_cache = how->no_cache,
                            .look_up = how->look_up,
                            .stepped = note_step,
                            .user = d};
    tl_batcher *b = open_batcher(&engine, &o);
    int64_t kv, other;
    assert_int_equal(tl__batcher_size(&kv, &other, &engine, &o, &err), 0);
    assert_int_equal(kv, o.kv_bytes);
    run(b, how, order, seed);
    tl_batcher_facts facts;
    tl__batcher_describe(b, &facts);
    assert_int_equal(facts.page_bytes, page);
    assert_int_equal(facts.running, 0);
    assert_int_equal(facts.waiting, 0);
    assert_int_equal(facts.used_pages, 0); /* no page leaked */
    if (how->no_cache) assert_int_equal(facts.cached_pages, 0);
    tl__batcher_close(b);
    tl__ctx_close(&engine.ctx);
    int64_t proposed = 0, accepted = 0;
    for (int k = 0; k < how->requests; k++) {
        const item *it = &items[order[k]];
        check_item(it, how->cancels, seed, order[k]);
        for (int c = 0; c < choices_of(it); c++) {
            proposed += it->usage[c].proposed;
            accepted += it->usage[c].accepted;
            if (it->asked.no_look_ahead) assert_int_equal(it->usage[c].proposed, 0);
            d->answers++;
            d->stops += it->got[c].stop[0] != 0;
            d->thought += it->got[c].thinking_tokens;
        }
    }
    assert_int_equal(facts.proposed, proposed);
    assert_int_equal(facts.accepted, accepted);
    d->hits += facts.prefix_hits;
    d->proposed += proposed;
    d->accepted += accepted;
}

/* What was to be proved harmless took place: of the frequent at least so much. */
static void expect_deeds(const deeds *d, int least) {
    assert_true(d->hits > 0 && d->preemptions > 0);
    assert_true(d->thought > least && d->accepted > least && d->proposed > d->accepted + least);
}

static const tl_type kv_types[] = {TL_F32, TL_F16, TL_BF16, TL_Q8_0};

#endif
