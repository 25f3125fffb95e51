/* ahead.c — which running sequences are given rows for tokens ahead, how many, and which tokens. Nothing here can
 * change an answer: a token is proposed, and the draw of the row before it decides.
 *
 * A step costs as much as reading the weights and as much again for every FREE_ROWS rows, so that one row more costs,
 * in tokens made otherwise, R / (R + FREE_ROWS). The i-th token ahead is right with the chance `hope`^i; it is proposed
 * where that is more. (In time of one AVX-512 core with VNNI and AMX, SmolLM2: 17 rows in Q8_0, 10 in BF16, 7 in Q4_0.)
 * Counted, not timed: the same requests propose the same tokens. */
#include "infer/batcher_parts.h"

enum { FREE_ROWS = 10, ASK_AGAIN = 32, WEIGHT = 4 };
#define FIRST_GUESS 0.6

static void learn(tl_trust *t, float fades, int kept, int tried) {
    t->kept = fades * t->kept + (float)kept;
    t->tried = fades * t->tried + (float)tried;
}

void tl__learn(tl_batcher *b, tl_sequence *s, int kept, bool wrong) {
    learn(&b->trust[s->source], 0.99f, kept, kept + wrong);
    learn(&s->trust[s->source == TL_FROM_DRAFT], 0.9f, kept, kept + wrong);
}

/* The share kept of those that were tried, with a guess that counts as WEIGHT of them. */
static double share(const tl_trust *t, double guess) {
    return ((double)t->kept + guess * WEIGHT) / ((double)t->tried + WEIGHT);
}

/* How many are worth their rows, and now and then one that is not, for hope may be out of date. What is hoped of s is
 * what was seen of it, and where that is little what was seen of all. */
static int worth(const tl_batcher *b, const tl_sequence *s, int most, double price) {
    const double hope = share(&s->trust[s->source == TL_FROM_DRAFT], share(&b->trust[s->source], FIRST_GUESS));
    int n = b->options.eager ? most : 0;
    for (double chance = hope; n < most && chance > price; chance *= hope) n++;
    return n == 0 && s->n % ASK_AGAIN == 0 ? 1 : n;
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

static int least(int a, int b) {
    return a < b ? a : b;
}

/* A look-up costs nothing; where it finds nothing the draft is asked, a round of which costs its share of a step. */
static void propose(tl_batcher *b, tl_sequence *s, int left, double price) {
    const int to_come = s->copy->most - s->usage.completion_tokens - 1; /* one is made anyway */
    const int most = least(to_come, left), looked_up = least(most, b->options.look_up);
    if (most <= 0) return;
    const int found = looked_up > 0 ? tl__look_up(s->token, s->n, looked_up, &s->source) : 0;
    if (found > 0) {
        s->proposed = with_pages(b, s, before_end(b, s, worth(b, s, found, price)));
    } else if (b->options.draft) {
        s->source = TL_FROM_DRAFT;
        s->drafts = with_pages(b, s, worth(b, s, least(most, b->options.draft_tokens), price + b->draft_share));
    }
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
