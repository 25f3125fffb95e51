/* request.c — a request as the batcher keeps it: everything that could be wrong is found before anything is copied. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "infer/batcher_parts.h"
#include "text/unicode.h"

static int check_ids(const char *what, const int32_t *id, int n, int V, tl_error *err) {
    for (int i = 0; i < n; i++)
        if (id[i] < 0 || id[i] >= V)
            return tl__fail(err, TL_EINVALID, "%s %d is id %d, but the model's ids are 0 to %d", what, i, (int)id[i],
                            V - 1);
    return 0;
}

static int check_count(const char *what, int n, int least, int most, tl_error *err) {
    if (n >= least && n <= most) return 0;
    return tl__fail(err, TL_EINVALID, "%s is %d; it is from %d to %d", what, n, least, most);
}

static int check_pointer(const char *what, const void *pointer, int n, tl_error *err) {
    if (n == 0 || pointer) return 0;
    return tl__fail(err, TL_EINVALID, "%s is NULL, but there are said to be %d", what, n);
}

static int check_thinking(const tl_thinking *t, int V, tl_error *err) {
    enum { MOST = 64 };
    TRY(check_count("thinking.n_open", t->n_open, 0, MOST, err));
    TRY(check_count("thinking.n_close", t->n_close, 0, MOST, err));
    TRY(check_pointer("thinking.open", t->open, t->n_open, err));
    TRY(check_pointer("thinking.close", t->close, t->n_close, err));
    TRY(check_ids("thinking.open", t->open, t->n_open, V, err));
    TRY(check_ids("thinking.close", t->close, t->n_close, V, err));
    TRY(check_count("thinking.least", t->least, 0, INT32_MAX, err));
    TRY(check_count("thinking.most", t->most, -1, INT32_MAX, err));
    const int most = t->most > 0 ? t->most : 0;
    if (t->most != 0 && t->least > most)
        return tl__fail(err, TL_EINVALID, "thinking.least is %d, but at most %d tokens may be thought", t->least, most);
    if ((t->least || t->most) && (t->n_close == 0 || (t->n_open == 0 && !t->begun)))
        return tl__fail(err, TL_EINVALID,
                        "thinking.%s is empty, so there are no bounds to what lies between it and thinking.%s; give "
                        "both, or leave least and most at 0",
                        t->n_close ? "open" : "close", t->n_close ? "close" : "open");
    return 0;
}

static int check_stop(const char *text, int i, tl_error *err) {
    enum { MOST_BYTES = 4096 };
    const size_t n = text ? strnlen(text, MOST_BYTES + 1) : 0;
    if (n == 0) return tl__fail(err, TL_EINVALID, "stop text %d is empty; leave it out", i);
    if (n > MOST_BYTES)
        return tl__fail(err, TL_EINVALID, "stop text %d is longer than %d bytes; shorten it", i, MOST_BYTES);
    if (tl__utf8_valid((const uint8_t *)text, n) < n)
        return tl__fail(err, TL_EINVALID, "stop text %d is not UTF-8, as all text that is made is; it could never come",
                        i);
    return 0;
}

static int check(const tl_batcher *b, const tl_request *r, tl_error *err) {
    const int V = b->model->arch.V, positions = b->options.positions;
    if (!r->event) return tl__fail(err, TL_EINVALID, "event is NULL: nobody would be told");
    if (r->n_prompt < 1) return tl__fail(err, TL_EINVALID, "the prompt has no token; give it at least one");
    TRY(check_pointer("prompt", r->prompt, r->n_prompt, err));
    if (r->max_tokens < 0)
        return tl__fail(err, TL_EINVALID, "max_tokens is %d; it is 0 (only read the prompt) or more", r->max_tokens);
    if (r->n_prompt > positions)
        return tl__fail(err, TL_EINVALID,
                        "the prompt is %d tokens long, %d more than the %d that a sequence may have; shorten it",
                        r->n_prompt, r->n_prompt - positions, positions);
    if (r->n_prompt == positions && r->max_tokens > 0)
        return tl__fail(err, TL_EINVALID,
                        "the prompt is %d tokens long, all that a sequence may have, and one more is needed to answer; "
                        "shorten it",
                        r->n_prompt);
    TRY(check_ids("prompt token", r->prompt, r->n_prompt, V, err));
    TRY(check_count("choices", r->choices, 0, TL_MOST_CHOICES, err));
    TRY(check_count("min_tokens", r->min_tokens, 0, r->max_tokens, err));
    TRY(tl__sampling_check(&r->sampling, err));
    TRY(check_count("n_bias", r->n_bias, 0, V, err));
    TRY(check_pointer("bias", r->bias, r->n_bias, err));
    for (int i = 0; i < r->n_bias; i++) {
        TRY(check_ids("bias", &r->bias[i].id, 1, V, err));
        if (isnan(r->bias[i].bias) || r->bias[i].bias == INFINITY)
            return tl__fail(err, TL_EINVALID, "the bias of id %d is %g; it is a number, or −inf for never",
                            (int)r->bias[i].id, (double)r->bias[i].bias);
    }
    TRY(check_count("n_stop", r->n_stop, 0, TL_MOST_STOPS, err));
    TRY(check_pointer("stop", r->stop, r->n_stop, err));
    for (int i = 0; i < r->n_stop; i++) TRY(check_stop(r->stop[i], i, err));
    if (r->n_stop && !b->engine->tokenizer)
        return tl__fail(err, TL_EINVALID, "the model has no tokenizer, so no text can stop an answer; use stop_id");
    TRY(check_count("n_stop_id", r->n_stop_id, 0, V, err));
    TRY(check_pointer("stop_id", r->stop_id, r->n_stop_id, err));
    TRY(check_ids("stop_id", r->stop_id, r->n_stop_id, V, err));
    TRY(check_count("alternatives", r->alternatives, 0, TL_MOST_ALTERNATIVES, err));
    return check_thinking(&r->thinking, V, err);
}

/* ---- the copy ---- */

static const void *keep(tl_arena *m, const void *from, size_t count, size_t bytes) {
    void *p = tl__arena_take(m, count, bytes);
    if (p && count) memcpy(p, from, count * bytes);
    return p;
}

static void lay_out_stops(tl_copy *c, tl_arena *m, const tl_batcher *b, const tl_request *r) {
    const char **text = TL_TAKE(m, const char *, r->n_stop);
    tl_stop *stop = TL_TAKE(m, tl_stop, r->n_stop);
    size_t longest = 0;
    for (int i = 0; i < r->n_stop; i++) {
        const size_t n = strlen(r->stop[i]);
        const char *copied = keep(m, r->stop[i], n + 1, 1);
        int32_t *border = TL_TAKE(m, int32_t, n + 1);
        if (n > longest) longest = n;
        if (m->dry) continue;
        tl__stop_borders(border, copied, (int)n);
        stop[i] = (tl_stop){copied, (int)n, border};
        text[i] = copied;
    }
    c->asked.stop = text;
    c->stop = stop;
    c->text = r->n_stop ? TL_TAKE(m, char, b->text_room + longest) : NULL;
}

/* The one placing function: over a dry arena it is the size, over a real one the copy, zero but for what is copied. */
static tl_copy *place(tl_arena *m, const tl_batcher *b, const tl_request *r, int choices, int most) {
    const size_t head = sizeof(tl_copy) + (size_t)choices * sizeof(tl_sequence);
    tl_copy unplaced, *real = tl__arena_take(m, 1, head), *c = real ? real : &unplaced;
    tl_request *a = &c->asked;
    if (real) memset(real, 0, head);
    *a = *r;
    a->bias = keep(m, r->bias, (size_t)r->n_bias, sizeof *r->bias);
    a->stop_id = keep(m, r->stop_id, (size_t)r->n_stop_id, sizeof *r->stop_id);
    a->thinking.open = keep(m, r->thinking.open, (size_t)r->thinking.n_open, sizeof *r->thinking.open);
    a->thinking.close = keep(m, r->thinking.close, (size_t)r->thinking.n_close, sizeof *r->thinking.close);
    lay_out_stops(c, m, b, r);
    c->embedding = r->embed ? TL_TAKE(m, float, b->model->arch.C) : NULL;
    for (int i = 0; i < choices; i++) {
        int32_t *token = TL_TAKE(m, int32_t, r->n_prompt + most + tl_ahead(b));
        int32_t *matched = TL_TAKE(m, int32_t, r->n_stop);
        if (m->dry) continue;
        c->choice[i].token = token; /* the later ones copy the prompt when they are born */
        c->choice[i].matched = memset(matched, 0, (size_t)r->n_stop * sizeof *matched);
    }
    return real;
}

int tl__copy_request(tl_copy **out, const tl_batcher *b, const tl_request *r, tl_error *err) {
    TRY(check(b, r, err));
    const int choices = r->choices > 1 ? r->choices : 1, left = b->options.positions - r->n_prompt;
    const int most = r->max_tokens < left ? r->max_tokens : left;
    tl_arena m = tl__arena_dry();
    place(&m, b, r, choices, most);
    const size_t bytes = m.used_bytes;
    void *memory = aligned_alloc(TL_ARENA_ALIGN_BYTES, bytes);
    if (!memory) return tl__fail(err, TL_ENOMEM, "not enough memory for a request of %zu bytes", bytes);
    m = tl__arena_over(memory, bytes);
    tl_copy *c = place(&m, b, r, choices, most);
    c->asked.choices = choices;
    atomic_init(&c->cancelled, false);
    c->open = choices;
    c->most = most;
    for (int i = 0; i < choices; i++) {
        tl_sequence *s = &c->choice[i];
        s->copy = c;
        s->choice = i;
        s->slot = -1;
        s->sampling = r->sampling;
        s->sampling.seed += (uint64_t)i;
        s->thought = tl__thinking_begin(&c->asked.thinking);
        s->n = r->n_prompt;
        s->usage.prompt_tokens = r->n_prompt;
    }
    c->choice[0].usage.submitted_ns = tl__now_ns();
    memcpy(c->choice[0].token, r->prompt, (size_t)r->n_prompt * sizeof *r->prompt);
    c->asked.prompt = c->choice[0].token;
    *out = c;
    return 0;
}

void tl__tell(tl_sequence *s, tl_event *e) {
    tl_copy *c = s->copy;
    e->request = c->id;
    e->choice = s->choice;
    e->usage = &s->usage;
    c->asked.event(c->asked.user, e);
}
