/* schedule.c — which rows a step computes, and who holds which pages.
 *
 * Older goes before younger throughout: in the queue, where pages are short, and among prompts. A sequence that waits
 * for a slot is admitted with pages for all the tokens it has; a running one takes a page when its last is full, from
 * the youngest if need be. So the oldest always computes a row, and with it everything ends.
 *
 * Invariants, asserted by number:
 *   S1  active is ordered by age, and so is the queue.
 *   S2  a sequence has a slot, pages and keys only while it is reading or running.
 *   S3  running: all tokens but the last have keys and values. Reading: at least two have none. Keys at `length` and
 *       behind it, of tokens that were proposed and not kept, are written again before they are read: a row reads no
 *       key behind its own place, and a step writes the keys of all places from `length` to its rows' last.
 *   S4  a row is only ever written to a page that one sequence holds and that is not in the tree; a page goes into the
 *       tree when its last place is before `length`.
 *   S5  a step in which a sequence is active has a row of the oldest.
 *   S6  no row lies behind the last that a sequence can use: each row of a token proposed is before the last token that
 *       may be made. */
#include <assert.h>
#include <string.h>

#include "infer/batcher_parts.h"

/* ---- the queue, oldest first ---- */

void tl__queue_put(tl_batcher *b, tl_sequence *s) {
    tl_sequence *after = b->last_waiting;
    while (after && tl_is_older(s, after)) after = after->before;
    s->state = TL_SEQUENCE_WAITING;
    s->leader = 0;
    s->before = after;
    s->next = after ? after->next : b->first_waiting;
    *(s->next ? &s->next->before : &b->last_waiting) = s;
    *(after ? &after->next : &b->first_waiting) = s;
    b->n_waiting++;
}

static void queue_remove(tl_batcher *b, tl_sequence *s) {
    *(s->next ? &s->next->before : &b->last_waiting) = s->before;
    *(s->before ? &s->before->next : &b->first_waiting) = s->next;
    b->n_waiting--;
}

/* ---- pages ---- */

/* A page, given up by the cache if none is free; −1: all are held. */
static int32_t take_page(tl_batcher *b) {
    int32_t page = tl__pages_take(&b->pages);
    if (page < 0 && tl__prefix_evict(&b->prefix)) page = tl__pages_take(&b->pages);
    return page;
}

void tl__page_more(tl_batcher *b, tl_sequence *s) {
    const int32_t page = take_page(b);
    assert(page >= 0);
    tl_pages_of(b, s)[s->pages++] = page;
}

/* The last first: a page of the tree is let go before the one that it follows. */
static void drop_pages(tl_batcher *b, tl_sequence *s) {
    const int32_t *page = tl_pages_of(b, s);
    while (s->pages > 0) tl__pages_drop(&b->pages, page[--s->pages]);
    s->shared = 0;
}

void tl__share_pages(tl_batcher *b, tl_sequence *s) {
    if (b->options.no_prefix_cache) return;
    const int known = b->options.draft && s->draft_length < s->length ? s->draft_length : s->length;
    int32_t *page = tl_pages_of(b, s);
    for (; (s->shared + 1) * TL_KV_BLOCK <= known; s->shared++) {
        const int i = s->shared;
        const int32_t stands =
            tl__prefix_add(&b->prefix, i > 0 ? page[i - 1] : -1, s->token + (int64_t)i * TL_KV_BLOCK, page[i]);
        if (stands == page[i]) continue;
        tl__pages_hold(&b->pages, stands); /* another computed the same at the same time */
        tl__pages_drop(&b->pages, page[i]);
        page[i] = stands;
    }
}

/* ---- in and out of slots ---- */

static void enter(tl_batcher *b, tl_sequence *s) {
    queue_remove(b, s);
    s->slot = b->free_slot[--b->n_free_slots];
    s->stay = ++b->stays;
    int i = b->n_active++;
    for (; i > 0 && tl_is_older(s, b->active[i - 1]); i--) b->active[i] = b->active[i - 1];
    b->active[i] = s; /* S1 */
}

static void leave_slot(tl_batcher *b, tl_sequence *s) {
    assert(s->slot >= 0); /* S2 */
    drop_pages(b, s);
    b->free_slot[b->n_free_slots++] = s->slot;
    s->slot = -1;
    s->stay = 0;
    s->length = s->draft_length = 0;
    s->rows = s->proposed = s->drafts = 0;
    int i = 0;
    while (b->active[i] != s) i++;
    b->n_active--;
    memmove(b->active + i, b->active + i + 1, (size_t)(b->n_active - i) * sizeof(tl_sequence *));
}

void tl__leave(tl_batcher *b, tl_sequence *s) {
    if (s->slot >= 0) leave_slot(b, s);
    else if (s->state == TL_SEQUENCE_WAITING) queue_remove(b, s);
}

static void preempt(tl_batcher *b, tl_sequence *s) {
    leave_slot(b, s);
    tl__queue_put(b, s);
    s->usage.preemptions++;
    b->step.preempted++;
}

/* ---- admission ---- */

/* Pages of tokens that are at hand need not be computed, except that the last token's row must be, for its logits, and
 * the rows whose logits score the prompt. */
static int most_found(const tl_batcher *b, const tl_sequence *s) {
    if (b->options.no_prefix_cache) return 0;
    const bool scored = s->copy->asked.prompt_logprobs && s->choice == 0 && s->told < s->usage.prompt_tokens;
    const int first = scored ? s->told - 1 : s->n - 1; /* to be computed */
    return first > 0 ? first / TL_KV_BLOCK : 0;
}

static bool leader_is_reading(const tl_batcher *b, const tl_sequence *s) {
    for (int i = 0; i < b->n_active; i++) {
        const tl_sequence *l = b->active[i];
        if (l->stay == s->leader) return l->state == TL_SEQUENCE_READING && l->shared < s->leader_pages;
    }
    return false;
}

/* Whether a sequence that is reading will soon have computed more of what s begins with than the `found` pages that
 * there are: then s waits for it. */
static bool find_leader(tl_batcher *b, tl_sequence *s, int found, int most) {
    s->leader = 0;
    s->leader_pages = found;
    for (int i = 0; i < b->n_active; i++) {
        const tl_sequence *l = b->active[i];
        if (l->state != TL_SEQUENCE_READING) continue;
        int alike = found;
        while (alike < most && (alike + 1) * TL_KV_BLOCK <= l->n &&
               !memcmp(l->token + (int64_t)alike * TL_KV_BLOCK, s->token + (int64_t)alike * TL_KV_BLOCK,
                       TL_KV_BLOCK * sizeof *s->token))
            alike++;
        if (alike <= s->leader_pages) continue;
        /* Of tokens before `found` nothing was compared: they are alike if the leader has the same pages. */
        if (found > 0 && (l->shared < found || tl_pages_of(b, l)[found - 1] != b->found[found - 1])) continue;
        s->leader = l->stay;
        s->leader_pages = alike;
    }
    return s->leader != 0;
}

typedef enum admission { ADMITTED, HELD_BACK, NO_PAGES } admission;

static admission admit(tl_batcher *b, tl_sequence *s) {
    if (s->leader && leader_is_reading(b, s)) return HELD_BACK;
    const int most = most_found(b, s), found = tl__prefix_find(&b->prefix, b->found, s->token, most);
    if (find_leader(b, s, found, most)) return HELD_BACK;
    /* Each that is running may want a page before long: to admit and at once preempt would be work for nothing. */
    const int needed = tl_pages_for(s->n), reserve = b->n_active;
    int there = b->pages.free + b->pages.cached;
    for (int i = 0; i < found; i++) there -= b->pages.holders[b->found[i]] == 0;
    if (needed - found + reserve > there) {
        assert(b->n_active > 0); /* alone, any sequence fits: positions are no more than the pages hold */
        return NO_PAGES;
    }
    enter(b, s);
    int32_t *page = tl_pages_of(b, s);
    for (int i = 0; i < found; i++) tl__pages_hold(&b->pages, page[i] = b->found[i]);
    for (int i = found; i < needed; i++) page[i] = take_page(b);
    s->pages = needed;
    s->shared = found;
    s->length = s->draft_length = found * TL_KV_BLOCK;
    s->state = s->length < s->n - 1 ? TL_SEQUENCE_READING : TL_SEQUENCE_RUNNING; /* S3 */
    if (s->begun) return ADMITTED;
    s->begun = true;
    s->usage.scheduled_ns = b->step.begin_ns;
    s->usage.cached_tokens = s->length;
    b->tally.prefix_queries += s->n;
    b->tally.prefix_hits += s->length;
    return ADMITTED;
}

static void admit_waiting(tl_batcher *b) {
    enum { MOST_HELD_BACK = 256 }; /* looked at in one step */
    int held_back = 0;
    for (tl_sequence *s = b->first_waiting, *next; s && b->n_free_slots > 0 && held_back < MOST_HELD_BACK; s = next) {
        next = s->next;
        const admission a = admit(b, s);
        if (a == NO_PAGES) return; /* nobody passes an older one */
        held_back += a == HELD_BACK;
    }
}

/* ---- rows ---- */

/* Every running sequence's next row has a page, the oldest's first. */
static void give_pages(tl_batcher *b) {
    for (int i = 0; i < b->n_active; i++) {
        tl_sequence *s = b->active[i];
        if (s->state != TL_SEQUENCE_RUNNING || s->pages >= tl_pages_for(s->n)) continue;
        while (b->pages.free + b->pages.cached == 0) {
            tl_sequence *youngest = b->active[b->n_active - 1];
            preempt(b, youngest);
            if (youngest == s) break;
        }
        if (s->slot >= 0) tl__page_more(b, s);
    }
}

/* Prompts share what the running leave, the oldest first. One that would take it all leaves half to the others, so that
 * a short one does not wait until a long one has been read. */
static int give_prompts(tl_batcher *b, int left) {
    int reading = 0;
    for (int i = 0; i < b->n_active; i++) reading += b->active[i]->state == TL_SEQUENCE_READING;
    for (int i = 0; i < b->n_active && left > 0; i++) {
        tl_sequence *s = b->active[i];
        if (s->state != TL_SEQUENCE_READING) continue;
        const int rest = s->n - s->length, most = --reading > 0 ? (left + 1) / 2 : left;
        s->rows = rest <= left && rest <= most ? rest : most;
        if (rest > most && rest <= left && rest <= b->options.step_tokens / 2) s->rows = rest;
        left -= s->rows;
        b->step.prompt_rows += s->rows;
    }
    return left;
}

static void add_pick(tl_batcher *b, tl_sequence *s, int row, int place, int32_t target) {
    b->pick[b->n_picks++] = (tl_pick){.sequence = s, .row = row, .place = place, .target = target};
}

/* The rows of s: which tokens, where, and which of them matter. */
static void add_piece(tl_batcher *b, tl_sequence *s) {
    const int p = b->n_pieces++, first = b->R, prompt = s->usage.prompt_tokens;
    const tl_request *asked = &s->copy->asked;
    assert(!s->proposed || s->n + s->proposed < prompt + s->copy->most); /* S6 */
    b->piece[p] = (tl_piece){.sequence = s, .first = first, .pick = b->n_picks};
    b->seq_row[p] = first;
    b->seq_block[p] = s->slot * b->row_pages;
    for (int i = 0; i < s->rows; i++) {
        const int at = s->length + i;
        const int32_t page = tl_pages_of(b, s)[at / TL_KV_BLOCK];
        assert(b->pages.holders[page] == 1 && !b->pages.kept[page]); /* S4 */
        b->token[b->R] = s->token[at];
        b->pos[b->R] = at;
        if (at + 1 < prompt) {
            if (asked->prompt_logprobs && s->choice == 0 && at + 1 >= s->told)
                add_pick(b, s, b->R, at + 1, s->token[at + 1]);
        } else if (at + 1 >= s->n && s->copy->most > 0) {
            add_pick(b, s, b->R, at + 1, -1);
        }
        b->R++;
    }
    b->piece[p].picks = b->n_picks - b->piece[p].pick;
    b->seq_row[p + 1] = b->R;
}

void tl__lay_out(tl_batcher *b) {
    b->n_pieces = b->n_picks = b->R = 0;
    for (int i = 0; i < b->n_active; i++)
        if (b->active[i]->rows > 0) add_piece(b, b->active[i]);
    assert(b->R <= b->options.step_tokens);
    b->step.rows = b->R;
}

void tl__schedule(tl_batcher *b) {
    for (int i = 0; i < b->n_active; i++) b->active[i]->rows = b->active[i]->proposed = b->active[i]->drafts = 0;
    give_pages(b);
    admit_waiting(b);
    int left = b->options.step_tokens;
    for (int i = 0; i < b->n_active; i++) {
        tl_sequence *s = b->active[i];
        assert(i == 0 || tl_is_older(b->active[i - 1], s));                  /* S1 */
        assert((s->n - s->length > 1) == (s->state == TL_SEQUENCE_READING)); /* S3 */
        if (s->state == TL_SEQUENCE_RUNNING) s->rows = 1, left--;
    }
    tl__look_ahead(b, give_prompts(b, left));
    assert(b->n_active == 0 || b->active[0]->rows > 0); /* S5 */
    b->step.running = b->n_active;
    b->step.waiting = b->n_waiting;
}
