/* alone.h — requests of every kind, and what a plain session answers each of them alone: what it must be told in any
 * crowd. Stop texts and thinking go by their definitions here, not by the engine's way of finding them. */
#ifndef TL_TESTS_ALONE_H
#define TL_TESTS_ALONE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <math.h>
#include "base/rng.h"
#include "infer/batcher.h"
#include "infer/session.h"
#include "infer/thinking_definition.h"

enum { REQUESTS = 64, CHOICES = 3, MOST_MADE = 64, MOST_PROMPT = 120 };
enum { FIRST_THAT_GROWS = 9 };
enum { MOST_TEXT = 32 * MOST_MADE, STOPS = 3, MOST_STOP = 24 };

/* A model that is asked, and for how much. */
typedef struct subject {
    tl_engine *engine;
    tl_engine *draft[3]; /* what proposes to it: nothing, another of its vocabulary, itself */
    const int32_t *text; /* [n_text] tokens that prompts are pieces of; NULL: they are drawn */
    int n_text;
    int requests, prompt, made; /* at most */
    int alike;                  /* tokens; prompts begin alike by a multiple of so many */
    int positions;              /* of a sequence, at most */
    bool brief;                 /* most are much shorter: each step of it takes long */
} subject;

typedef struct answer {
    int32_t id[MOST_MADE];
    float logp[MOST_MADE];
    int n;
    tl_finish finish;
    char text[MOST_TEXT];
    bool thinks[MOST_MADE];
    int thinking_tokens;
    size_t n_text;
    size_t text_after[MOST_MADE]; /* expected: bytes that the first so many tokens and one more make certain */
    char stop[MOST_STOP];         /* that ended it; "": none did */
} answer;

typedef struct item {
    tl_request asked;
    int32_t prompt[MOST_PROMPT];
    int32_t stop_id[2];
    tl_logit_bias bias[2];
    char stop_text[STOPS][MOST_STOP];
    const char *stop[STOPS];
    int32_t open[2], close[3];
    float prompt_logp[MOST_PROMPT]; /* expected */
    answer expected[CHOICES];
    /* what came */
    uint64_t id;
    answer got[CHOICES];
    float got_prompt_logp[MOST_PROMPT];
    int told;
    bool wrong;
    tl_usage usage[CHOICES];
    tl_candidate top[MOST_MADE][4]; /* of the first choice's tokens */
    float embedding[64];
    bool embedded;
    bool answered; /* expected is there */
} item;

static item items[REQUESTS];

static uint32_t draw(uint64_t seed, uint64_t i, uint32_t n) {
    return tl__philox(seed, TL_RNG_TEST, 1, i).v[0] % n;
}

static int choices_of(const item *it) {
    return it->asked.choices > 1 ? it->asked.choices : 1;
}

/* ---- what is asked ---- */

/* Token t of the text that `from` names: drawn, or from some place in the subject's. */
static int32_t text_token(const subject *s, uint64_t from, int t) {
    if (!s->text) return (int32_t)draw(from, 100 + (uint64_t)t, (uint32_t)s->engine->arch.V);
    return s->text[(draw(from, 100, (uint32_t)s->n_text) + (uint32_t)t) % (uint32_t)s->n_text];
}

static int prompt_length(const subject *s, uint64_t key, int alike) {
    const int room = s->positions - 30, most = room < s->prompt ? room : s->prompt;
    int n = 1 + (int)draw(key, 0, (uint32_t)most);
    for (uint64_t i = 9; s->brief && i < 11; i++) {
        const int other = 1 + (int)draw(key, i, (uint32_t)most);
        if (other < n) n = other;
    }
    if (s->brief && alike == 2 * s->alike && n < alike) n = alike + 2; /* some share a page, short as most are */
    return n;
}

/* Prompts of all lengths; most begin with one of two long beginnings, some are equal. */
static void make_items(const subject *s, uint64_t seed) {
    const int V = s->engine->arch.V;
    memset(items, 0, sizeof items);
    for (int i = 0; i < s->requests; i++) {
        item *it = &items[i];
        const uint64_t key = seed * 1000 + (uint64_t)i;
        const bool grows = s->brief && i % 32 == FIRST_THAT_GROWS; /* beyond the page that is kept back for it */
        const int alike = (int)draw(key, 1, 4) * s->alike;
        const int n = grows ? TL_KV_BLOCK + (int)draw(key, 11, 2) : prompt_length(s, key, alike);
        const int period = s->brief && i % 8 == 4 ? 5 : n; /* what repeats itself goes on so, and can be looked up */
        for (int t = 0; t < n; t++) {
            const int at = t % period;
            it->prompt[t] = text_token(s, at < alike ? seed * 7 + draw(key, 2, 2) : key, at);
        }
        it->asked = (tl_request){.prompt = it->prompt, .n_prompt = n, .logprobs = true};
        it->asked.max_tokens = i % 7 == 3 ? 0 : 1 + (int)draw(key, 3, (uint32_t)s->made - 1);
        if (grows) it->asked.max_tokens = TL_KV_BLOCK + 4;
        it->asked.choices = grows ? 2 : i % (s->brief ? 10 : 5) == 2 ? CHOICES : 1;
        it->asked.prompt_logprobs = i % 3 == 1;
        if (i % 4) it->asked.sampling = (tl_sampling){.temperature = 0.8f + 0.1f * (float)(i % 4), .seed = key};
        if (i % 4 == 2) it->asked.sampling.top_k = 20;
        if (i % 4 == 3) it->asked.sampling.top_p = 0.9f;
        if (i % 5 == 1) it->asked.sampling.typical_p = 0.8f, it->asked.sampling.min_p = 0.01f;
        if (i % 5 == 2) it->asked.sampling.repetition_penalty = 1.3f;
        if (i % 5 == 3) it->asked.sampling.presence_penalty = 0.7f, it->asked.sampling.frequency_penalty = 0.4f;
        if (i % 5 == 4) {
            it->bias[0] = (tl_logit_bias){(int32_t)draw(key, 6, (uint32_t)V), 2.5f};
            it->bias[1] = (tl_logit_bias){(int32_t)draw(key, 7, (uint32_t)V), -INFINITY};
            it->asked.bias = it->bias;
            it->asked.n_bias = 2;
        }
        if (i % 6 == 5) {
            it->stop_id[0] = (int32_t)draw(key, 4, (uint32_t)V);
            it->stop_id[1] = (int32_t)draw(key, 5, (uint32_t)V);
            it->asked.stop_id = it->stop_id;
            it->asked.n_stop_id = 2;
        }
        if (it->asked.max_tokens > 0 && i % 3 == 0) it->asked.min_tokens = (int)draw(key, 8, 6) % it->asked.max_tokens;
        if (grows) it->asked.min_tokens = TL_KV_BLOCK + 3;
        it->asked.special = i % 4 == 3;
        it->asked.no_look_ahead = i % 8 == 5;
    }
}

static bool ends(const tl_engine *e, const tl_request *r, int32_t id) {
    for (int i = 0; i < r->n_stop_id; i++)
        if (r->stop_id[i] == id) return true;
    return tl__engine_ends_text(e, id);
}

/* ---- stop texts, by their definition: every end in the whole text is looked at ---- */

static void add_text(answer *a, size_t n) {
    a->n_text += n;
    assert_true(a->n_text + 128 < MOST_TEXT);
}

static void decode_whole(const tl_engine *e, const tl_request *r, answer *a) {
    tl_decoder d = {0};
    for (int t = 0; t < a->n && e->tokenizer; t++) {
        const bool ended = a->finish == TL_FINISH_STOP && t == a->n - 1; /* an id that ends has no text */
        if (!ended) add_text(a, tl__decoder_push(e->tokenizer, &d, a->id[t], !r->special, a->text + a->n_text));
        if (t == a->n - 1) add_text(a, tl__decoder_finish(&d, a->text + a->n_text));
        a->text_after[t] = a->n_text;
    }
}

/* Two that do come, and one that begins like one of them and goes on otherwise. */
static void choose_stops(item *it, uint64_t key) {
    const answer *a = &it->expected[draw(key, 20, (uint32_t)choices_of(it))];
    if (a->n_text < 2) return;
    for (int i = 0; i < STOPS; i++) {
        size_t from = draw(key, 21 + (uint64_t)i, (uint32_t)a->n_text), n = 1 + draw(key, 24 + (uint64_t)i, 12);
        if (n > a->n_text - from) n = a->n_text - from;
        while (from > 0 && (a->text[from] & 0xC0) == 0x80) from--, n++;
        while (from + n < a->n_text && (a->text[from + n] & 0xC0) == 0x80) n++;
        memcpy(it->stop_text[i], a->text + from, n);
        n = strnlen(it->stop_text[i], n); /* the model may say a NUL, which no stop text can hold */
        if (i == 2 || n == 0) it->stop_text[i][n] = 'z', n++;
        it->stop_text[i][n] = 0;
        it->stop[i] = it->stop_text[i];
    }
    it->asked.stop = it->stop;
    it->asked.n_stop = STOPS;
    it->asked.include_stop = draw(key, 27, 2);
}

static void cut_at_stop(const tl_request *r, answer *a) {
    const size_t blind =
        r->min_tokens > 0 && a->n > 0 ? a->text_after[(r->min_tokens < a->n ? r->min_tokens : a->n) - 1] : 0;
    for (size_t end = blind + 1; end <= a->n_text; end++) {
        const char *best = NULL;
        for (int i = 0; i < r->n_stop; i++) {
            const size_t n = strlen(r->stop[i]);
            if (n <= end && !memcmp(a->text + end - n, r->stop[i], n) && (!best || n > strlen(best))) best = r->stop[i];
        }
        if (!best) continue;
        int t = 0;
        while (a->text_after[t] < end) t++;
        a->n = t + 1;
        a->thinking_tokens = 0;
        for (int i = 0; i < a->n; i++) a->thinking_tokens += a->thinks[i];
        a->finish = TL_FINISH_STOP;
        a->n_text = r->include_stop ? end : end - strlen(best);
        strcpy(a->stop, best);
        return;
    }
}

/* ---- thinking ---- */

/* Delimiters that do come, most often. */
static void choose_thinking(item *it, uint64_t key) {
    const answer *a = &it->expected[0];
    tl_thinking *t = &it->asked.thinking;
    if (a->n < 4) return;
    const int at = (int)draw(key, 30, (uint32_t)a->n / 2), end = at + 1 + (int)draw(key, 31, (uint32_t)(a->n - at - 1));
    t->n_open = 1 + (int)draw(key, 32, 2);
    t->n_close = 1 + (int)draw(key, 33, 3);
    for (int i = 0; i < t->n_open; i++) it->open[i] = a->id[at + i < a->n ? at + i : at];
    for (int i = 0; i < t->n_close; i++) it->close[i] = a->id[end + i < a->n ? end + i : end];
    t->open = it->open;
    t->close = it->close;
    t->begun = draw(key, 34, 3) > 0;
    t->most = (int)draw(key, 35, 12) - 1;
    t->least = t->most == 0 ? (int)draw(key, 36, 25) : t->most < 0 ? 0 : (int)draw(key, 36, (uint32_t)t->most + 1);
}

/* ---- what a session answers ---- */

/* The prompt is read once, and its last token again for each answer. */
static void answer_alone(const subject *s, item *it, tl_type kv_type, int choices) {
    tl_engine *e = s->engine;
    const tl_request *r = &it->asked;
    const int V = e->arch.V, n = r->n_prompt;
    float *logits = malloc(2 * sizeof *logits * (size_t)V), *masked = logits + V;
    void *scratch = malloc(tl__sampler_bytes(V));
    tl_session *session;
    assert_true(logits && scratch);
    assert_int_equal(tl__session_open_narrow(&session, &e->model, &e->ctx, s->positions, 33, kv_type, NULL), 0);
    if (r->prompt_logprobs)
        assert_int_equal(tl__session_score(session, r->prompt, n, -1, it->prompt_logp + 1, NULL), 0);
    else assert_int_equal(tl__session_append(session, r->prompt, n - 1, NULL, NULL), 0);
    for (int c = 0; c < choices; c++) {
        answer *a = &it->expected[c];
        tl_sampling sampling = r->sampling;
        sampling.seed += (uint64_t)c;
        *a = (answer){.finish = TL_FINISH_LENGTH};
        tl__session_rewind(session, n - 1);
        while (a->n < r->max_tokens && n + a->n < s->positions) {
            const int32_t before = a->n ? a->id[a->n - 1] : r->prompt[n - 1];
            assert_int_equal(tl__session_append(session, &before, 1, logits, NULL), 0);
            const tl_steering steering = {r->bias, r->n_bias, n, a->n, r->prompt, a->id};
            const next x = think(&r->thinking, a->id, a->n, a->thinks, &a->thinking_tokens);
            memcpy(masked, logits, (size_t)V * sizeof *masked);
            for (int32_t id = 0; id < V; id++)
                if (id == x.barred || ((a->n < r->min_tokens || x.goes_on) && ends(e, r, id))) masked[id] = -INFINITY;
            int32_t id = tl__sample(&e->ctx, &sampling, &steering, masked, V, n + a->n, scratch, NULL);
            if (x.forced >= 0) id = x.forced;
            a->logp[a->n] = logits[id] - tl__log_z(&e->ctx, logits, V);
            a->id[a->n++] = id;
            if (a->n <= r->min_tokens || !ends(e, r, id)) continue;
            a->finish = TL_FINISH_STOP;
            break;
        }
        think(&r->thinking, a->id, a->finish == TL_FINISH_STOP ? a->n - 1 : a->n, a->thinks, &a->thinking_tokens);
        decode_whole(e, r, a);
    }
    tl__session_close(session);
    free(scratch);
    free(logits);
}

/* What is expected of request i of those that make_items had from the seed. */
static void expect(const subject *s, int i, uint64_t seed, tl_type kv_type) {
    item *it = &items[i];
    const uint64_t key = seed * 1000 + (uint64_t)i;
    if (it->answered) return;
    if (i % 3 == 2) {
        answer_alone(s, it, kv_type, 1);
        choose_thinking(it, key);
    }
    answer_alone(s, it, kv_type, choices_of(it));
    if (i % 2 == 0) choose_stops(it, key);
    for (int c = 0; c < CHOICES; c++) cut_at_stop(&it->asked, &it->expected[c]);
    it->answered = true;
}

#endif
