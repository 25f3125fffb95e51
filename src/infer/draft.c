/* draft.c — tokens proposed by a smaller model, a round for all sequences at once: it draws each as the model would, at
 * the same settings, seed and position, from its own logits, so that it is right where the two agree.
 *
 * Its keys lie in pages of the same numbers. It reads prompts in step with the model; behind that it may lag where it
 * has nothing to propose, and reads a page's worth of tokens at once, which costs little more than one.
 *
 * Invariants, asserted by number:
 *   D1  reading: it has keys of as many tokens as the model. Running: of no more tokens than the model.
 *   D2  a row is only ever written to a page that one sequence holds and that is not in the tree: a page goes there
 * when both models have written it. */
#include <assert.h>
#include <string.h>

#include "infer/batcher_parts.h"

enum { DRAFT_TOKENS = 4 };

int tl__draft_check(tl_batcher_options *o, const tl_engine *e, tl_error *err) {
    const tl_engine *d = o->draft;
    if (!d && o->draft_tokens)
        return tl__fail(err, TL_EINVALID, "draft_tokens is %d, but there is no draft; name one", o->draft_tokens);
    if (!d) return 0;
    if (o->draft_tokens < 0 || o->draft_tokens > TL_MOST_AHEAD)
        return tl__fail(err, TL_EINVALID, "draft_tokens is %d; it is from 1 to %d, or 0 for the default",
                        o->draft_tokens, TL_MOST_AHEAD);
    if (o->draft_tokens == 0) o->draft_tokens = DRAFT_TOKENS;
    if (!d->model.weight) return tl__fail(err, TL_EINVALID, "the draft has not been loaded; load it first");
    if (d->arch.V != e->arch.V)
        return tl__fail(err, TL_EINVALID, "the draft has %d ids, the model %d; a draft is of the same vocabulary",
                        d->arch.V, e->arch.V);
    if (d->model.positions < o->positions)
        return tl__fail(
            err, TL_EINVALID,
            "the draft has %d positions, but a sequence may have %d tokens; set positions to as many at most",
            d->model.positions, o->positions);
    char own[33], its[33];
    if (!d->tokenizer || !e->tokenizer) return 0;
    tl__tokenizer_hash(e->tokenizer, own);
    tl__tokenizer_hash(d->tokenizer, its);
    if (!strcmp(own, its)) return 0;
    return tl__fail(err, TL_EINVALID,
                    "the draft's tokenizer is another than the model's; a draft is of the same vocabulary");
}

void tl__draft_place(tl_batcher *b, tl_arena *arena, int pages) {
    const tl_engine *d = b->options.draft;
    if (!d) return;
    const tl_arch *a = &d->model.arch;
    b->draft_kv = TL_TAKE(arena, unsigned char, (int64_t)pages *tl_page_bytes(a, b->options.kv_type));
    tl__acts_place(&b->draft_acts, arena, a, b->options.step_tokens, 0, false, TL_RECOMPUTE_NONE);
    b->draft_gathered = TL_TAKE(arena, float, (int64_t)b->draft_acts.loss_rows * a->C);
}

/* Bytes of weights that a step reads, whatever its few rows. */
static double weight_bytes(const tl_model *m) {
    double bytes = 0;
    for (int i = 0; i < m->params.n; i++)
        bytes += m->stored && m->stored[i].data ? tl__stored_cost(&(tl_product){.w = &m->stored[i]}, 1, 1).bytes
                                                : (double)m->params.list[i].count * sizeof(float);
    return bytes;
}

/* Sums in another contract than the model's would be right too; here they are the draft's own. */
void tl__draft_open(tl_batcher *b, int pages) {
    const tl_engine *d = b->options.draft;
    if (!d) return;
    tl_lay_pages(&b->draft_acts, &d->model.arch, b->draft_kv, pages, b->options.kv_type);
    b->draft_ctx = *b->ctx;
    b->draft_ctx.contract = d->ctx.contract;
    b->draft_share = weight_bytes(&d->model) / weight_bytes(b->model);
}

/* The rows of s up to `end`; draws: its last one's logits propose. */
static void read_to(tl_batcher *b, tl_sequence *s, int end, bool draws) {
    const int p = b->n_pieces++;
    b->seq_row[p] = b->R;
    b->seq_block[p] = s->slot * b->row_pages;
    for (; s->draft_length < end; s->draft_length++) {
        const int32_t page = tl_pages_of(b, s)[s->draft_length / TL_KV_BLOCK];
        assert(b->pages.holders[page] == 1 && !b->pages.kept[page]); /* D2 */
        b->token[b->R] = s->token[s->draft_length];
        b->pos[b->R++] = s->draft_length;
    }
    b->seq_row[p + 1] = b->R;
    if (draws) b->pick[b->n_picks++] = (tl_pick){.sequence = s, .row = b->R - 1, .place = end, .target = -1};
}

static void compute(tl_batcher *b) {
    const tl_rows rows = {b->R, b->n_pieces, b->token, b->pos, b->seq_row, b->seq_block, b->block};
    const tl_model *m = &b->options.draft->model;
    tl__model_forward(&b->draft_ctx, m, &b->draft_acts, &rows);
    tl__pick(b, &(tl_head){&b->draft_ctx, m, &b->draft_acts, b->draft_gathered}, true);
}

/* The prompts that are being read, then those that something is to be proposed to, then those that lag behind. */
static void read_first(tl_batcher *b) {
    int left = b->options.step_tokens;
    for (int i = 0; i < b->n_active; i++) {
        tl_sequence *s = b->active[i];
        if (s->state != TL_SEQUENCE_READING || s->rows == 0) continue;
        assert(s->draft_length == s->length); /* D1 */
        read_to(b, s, s->length + s->rows, false);
        left -= s->rows;
    }
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < b->n_active; i++) {
            tl_sequence *s = b->active[i];
            if (s->state != TL_SEQUENCE_RUNNING || (s->drafts > 0) != (pass == 0)) continue;
            const int lag = s->length - s->draft_length, rows = lag + (pass == 0);
            assert(lag >= 0); /* D1 */
            if (pass == 1 && lag < TL_KV_BLOCK) continue;
            if (rows <= left) {
                read_to(b, s, s->draft_length + rows, pass == 0);
                left -= rows;
            } else if (pass == 0) {
                s->drafts = 0;
            } else {
                if (left > 0) read_to(b, s, s->draft_length + left, false);
                return;
            }
        }
}

/* Takes the tokens drawn; those sequences that go on have a row each in the next round. */
static void take_drawn(tl_batcher *b) {
    const int n = b->n_picks;
    b->n_pieces = b->n_picks = b->R = 0;
    for (int i = 0; i < n; i++) {
        const tl_pick p = b->pick[i];
        tl_sequence *s = p.sequence;
        if (tl__ends(b, &s->copy->asked, p.id)) continue; /* after which nothing would follow */
        s->token[p.place] = p.id;
        if (++s->proposed < s->drafts) read_to(b, s, p.place + 1, true);
    }
}

void tl__draft(tl_batcher *b) {
    if (!b->options.draft) return;
    b->n_pieces = b->n_picks = b->R = 0;
    for (read_first(b); b->R > 0; take_drawn(b)) compute(b);
    for (int i = 0; i < b->n_active; i++)
        if (b->active[i]->state == TL_SEQUENCE_RUNNING) b->active[i]->rows = 1 + b->active[i]->proposed;
}
