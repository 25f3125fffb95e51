/* settle.c — what a step's tokens mean for their sequences: keys that are now there, tokens accepted, text, ends. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "infer/batcher_parts.h"

/* ---- ends ---- */

/* After its last event. The copy may be freed by another thread from then on. */
static void leave(tl_batcher *b, tl_sequence *s) {
    tl_copy *c = s->copy;
    tl__leave(b, s);
    s->state = TL_SEQUENCE_ENDED;
    if (--c->open == 0) tl__retire(b, c);
}

static void add_embedding(const tl_sequence *s, tl_event *e) {
    const bool read = s->copy->choice[0].embedded;
    if (s->copy->asked.embed && read) e->embedding = s->copy->embedding;
}

/* The bytes that are certain with one more token (−1: none); last: no other comes. Returns the stop text that ends the
 * answer, with which no other comes either; NULL: none. */
static const char *add_text(tl_batcher *b, tl_sequence *s, tl_event *e, int32_t id, bool last) {
    const tl_copy *c = s->copy;
    const tl_request *r = &c->asked;
    char *text = c->text ? c->text : b->text;
    e->text = text;
    if (!b->engine->tokenizer) return NULL;
    const size_t held = tl__stops_held(c->stop, r->n_stop, s->matched, text);
    size_t n = held, certain;
    if (id >= 0) n += tl__decoder_push(b->engine->tokenizer, &s->decoder, id, !r->special, text + n);
    if (last) n += tl__decoder_finish(&s->decoder, text + n);
    assert(n - held <= b->text_room);
    const bool blind = s->usage.completion_tokens <= r->min_tokens;
    const int stop = tl__stops_read(c->stop, r->n_stop, s->matched, text, held, n, blind, &certain);
    e->text_n = stop < 0 && last ? n : certain;
    if (stop >= 0 && r->include_stop) e->text_n += (size_t)c->stop[stop].n;
    return stop < 0 ? NULL : r->stop[stop];
}

void tl__end(tl_batcher *b, tl_sequence *s, tl_finish finish) {
    tl_event e = {.id = -1, .prompt_at = -1, .finish = finish};
    add_text(b, s, &e, -1, true);
    add_embedding(s, &e);
    tl__tell(s, &e);
    leave(b, s);
}

static bool is_late(const tl_sequence *s, int64_t now_ns, tl_finish *finish) {
    tl_copy *c = s->copy;
    const bool cancelled = atomic_load(&c->cancelled);
    *finish = cancelled ? TL_FINISH_CANCELLED : TL_FINISH_DEADLINE;
    return cancelled || (c->asked.deadline_ns > 0 && now_ns >= c->asked.deadline_ns);
}

/* Those of its choices that are not born wait for the first, and end with it. */
static void end_with_unborn(tl_batcher *b, tl_sequence *s, tl_finish finish) {
    tl_copy *c = s->copy;
    for (int i = c->asked.choices - 1; i > 0; i--)
        if (c->choice[i].state == TL_SEQUENCE_UNBORN) tl__end(b, &c->choice[i], finish);
    tl__end(b, s, finish);
}

void tl__end_late(tl_batcher *b, int64_t now_ns) {
    tl_finish finish;
    for (int i = b->n_active; i-- > 0;)
        if (is_late(b->active[i], now_ns, &finish)) end_with_unborn(b, b->active[i], finish);
    for (tl_sequence *s = b->first_waiting, *next; s; s = next) {
        next = s->next;
        if (is_late(s, now_ns, &finish)) end_with_unborn(b, s, finish);
    }
}

/* ---- the prompt ---- */

/* The final hidden row of the prompt's last token, of unit length. */
static void keep_embedding(tl_batcher *b, tl_sequence *s, int row) {
    const int C = b->model->arch.C;
    const float *hidden = b->acts.hidden + (int64_t)row * C;
    float *out = s->copy->embedding;
    double sum = 0;
    for (int i = 0; i < C; i++) sum += (double)hidden[i] * (double)hidden[i];
    const double scale = sum > 0 ? 1 / sqrt(sum) : 0;
    for (int i = 0; i < C; i++) out[i] = (float)((double)hidden[i] * scale);
    s->embedded = true;
}

/* The first has read the prompt: the others find its pages in the tree. */
static void bear_choices(tl_batcher *b, tl_copy *c) {
    const tl_sequence *first = &c->choice[0];
    for (int i = 1; i < c->asked.choices; i++) {
        tl_sequence *s = &c->choice[i];
        if (s->state != TL_SEQUENCE_UNBORN) continue;
        memcpy(s->token, first->token, (size_t)first->usage.prompt_tokens * sizeof *s->token);
        s->usage.submitted_ns = first->usage.submitted_ns;
        tl__queue_put(b, s);
    }
}

static void tell_prompt(tl_sequence *s, int at, int32_t id, const tl_pick *p) {
    tl_event e = {.id = id, .prompt_at = at};
    if (p) {
        e.logp = p->logp;
        e.top = p->top;
        e.n_top = p->n_top;
    }
    s->told = at + 1;
    tl__tell(s, &e);
}

/* ---- the answer ---- */

/* One more token. false: it was the last, and s is gone. */
static bool accept(tl_batcher *b, tl_sequence *s, const tl_pick *p, int64_t now_ns) {
    const tl_request *asked = &s->copy->asked;
    tl_usage *u = &s->usage;
    assert(p->place == s->n);
    s->token[s->n++] = p->id;
    const int before = u->completion_tokens++;
    if (before == 0) u->first_ns = now_ns;
    u->last_ns = now_ns;
    b->tally.generated_tokens++;

    tl_event e = {.id = p->id, .prompt_at = -1, .logp = p->logp, .top = p->top, .n_top = p->n_top};
    const bool stop = before >= asked->min_tokens && tl__ends(b, asked, p->id);
    e.thinking = !stop && tl__thinking_read(&asked->thinking, &s->thought, p->id);
    u->thinking_tokens = s->thought.tokens;
    e.finish = stop ? TL_FINISH_STOP : u->completion_tokens == s->copy->most ? TL_FINISH_LENGTH : TL_FINISH_NONE;
    e.stop = add_text(b, s, &e, stop ? -1 : p->id, e.finish != TL_FINISH_NONE);
    if (e.stop) e.finish = TL_FINISH_STOP;
    if (e.finish) add_embedding(s, &e);
    tl__tell(s, &e);
    if (e.finish) leave(b, s);
    return !e.finish;
}

/* Tokens proposed to s from the first on that its own draw, in the row before, says otherwise. */
static int count_wrong(const tl_batcher *b, const tl_piece *piece) {
    const tl_sequence *s = piece->sequence;
    int right = 0;
    while (right < s->proposed && b->pick[piece->pick + right].id == s->token[s->n + right]) right++;
    return s->proposed - right;
}

static void settle_piece(tl_batcher *b, const tl_piece *piece, int64_t now_ns) {
    tl_sequence *s = piece->sequence;
    tl_copy *c = s->copy;
    const int from = s->length, prompt = s->usage.prompt_tokens, wrong = count_wrong(b, piece);
    const int kept = s->proposed - wrong, picks = piece->picks - wrong;
    s->length += s->rows - wrong;
    if (s->draft_length > s->length) s->draft_length = s->length; /* D1 */
    tl__share_pages(b, s);
    if (s->proposed) {
        tl__learn(b, s, kept, wrong > 0);
        s->usage.proposed += s->proposed;
        b->step.proposed += s->proposed;
    }
    if (s->choice == 0) {
        if (c->embedding && from < prompt && s->length >= prompt)
            keep_embedding(b, s, piece->first + prompt - 1 - from);
        if (c->asked.prompt_logprobs && s->told == 0) tell_prompt(s, 0, s->token[0], NULL);
        if (s->length >= prompt) bear_choices(b, c);
    }
    for (int i = 0; i < picks; i++) {
        const tl_pick *p = &b->pick[piece->pick + i];
        s->usage.accepted += i < kept;
        b->step.accepted += i < kept;
        if (p->target >= 0) tell_prompt(s, p->place, p->target, p);
        else if (!accept(b, s, p, now_ns)) return;
    }
    assert(s->length <= s->n); /* S3 */
    if (c->most == 0 && s->length == s->n) {
        tl__end(b, s, TL_FINISH_LENGTH);
        return;
    }
    s->state = s->n - s->length > 1 ? TL_SEQUENCE_READING : TL_SEQUENCE_RUNNING;
}

void tl__settle(tl_batcher *b) {
    const int64_t now_ns = tl__now_ns();
    for (int i = 0; i < b->n_pieces; i++) settle_piece(b, &b->piece[i], now_ns);
}
