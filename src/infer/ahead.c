/* ahead.c — which running sequences are given rows for tokens ahead, how many, and which tokens. Nothing here can
 * change an answer: a token is proposed, and the draw of the row before it decides.
 *
 * A step costs as much as reading the weights and as much again for every FREE_ROWS rows, so that one row more costs,
 * in tokens made otherwise, R / (R + FREE_ROWS). The i-th token ahead is right with the chance `hope`^i; it is proposed
 * where that is more. Counted, not timed: the same requests propose the same tokens. */
#include "infer/batcher_parts.h"
#include "infer/lookup.h"

enum { FREE_ROWS = 16, ASK_AGAIN = 32 };

/* What is hoped of one more token: of the latest ones that were tried, those kept, and a guess before there are any. */
static double hope(const tl_trust *t) {
    const double guess = 0.6, weight = 2;
    return ((double)t->kept + guess * weight) / ((double)t->tried + weight);
}

void tl__trust_learn(tl_trust *t, int kept, int tried) {
    const float fades = 0.9f;
    t->kept = fades * t->kept + (float)kept;
    t->tried = fades * t->tried + (float)tried;
}

/* How many are worth their rows, and now and then one that is not, for hope may be out of date. */
static int worth(const tl_batcher *b, const tl_sequence *s, const tl_trust *t, int most, double price) {
    const double each = hope(t);
    int n = b->options.eager ? most : 0;
    for (double chance = each; n < most && chance > price; chance *= each) n++;
    return n == 0 && most > 0 && s->n % ASK_AGAIN == 0 ? 1 : n;
}

/* Tokens after which nothing would follow are not proposed. */
static int before_end(const tl_batcher *b, const tl_sequence *s, int n) {
    for (int i = 0; i < n; i++)
        if (tl__ends(b, &s->copy->asked, s->token[s->n + i])) return i;
    return n;
}

/* Pages for n tokens ahead, as far as there are more than the running ones will want next. */
static int with_pages(tl_batcher *b, tl_sequence *s, int n) {
    while (s->pages < tl_pages_for(s->n + n) && b->pages.free + b->pages.cached > b->n_active) tl__page_more(b, s);
    const int room = s->pages * TL_KV_BLOCK - s->n;
    return n < room ? n : room;
}

/* A look-up costs nothing; where it finds nothing the draft is asked. */
static void propose(tl_batcher *b, tl_sequence *s, int left, double price) {
    const tl_batcher_options *o = &b->options;
    const int to_come = s->copy->most - s->usage.completion_tokens - 1; /* one is made anyway */
    const int most = to_come < left ? to_come : left;
    int n = worth(b, s, &s->trust, most < o->look_up ? most : o->look_up, price);
    if (n > 0) n = before_end(b, s, tl__look_up(s->token, s->n, n));
    if (n > 0) s->proposed = with_pages(b, s, n);
    if (n > 0 || !o->draft) return;
    /* A round of the draft costs its share of a step, whatever is drawn. */
    n = worth(b, s, &s->draft_trust, most < o->draft_tokens ? most : o->draft_tokens, price + b->draft_share);
    if (n > 0) s->drafts = with_pages(b, s, n);
}

void tl__look_ahead(tl_batcher *b, int left) {
    if (tl_ahead(b) == 0) return;
    for (int i = 0; i < b->n_active && left > 0; i++) {
        tl_sequence *s = b->active[i];
        if (s->state != TL_SEQUENCE_RUNNING || s->copy->asked.no_look_ahead) continue;
        const int rows = b->options.step_tokens - left;
        propose(b, s, left, (double)rows / (rows + FREE_ROWS));
        s->rows += s->proposed + s->drafts;
        left -= s->proposed + s->drafts;
    }
}
