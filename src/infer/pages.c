/* pages.c — a page is free, used or cached, and moves between them by the count of its holders.
 *
 * Invariants, asserted by number:
 *   P1  free + used + cached = n.
 *   P2  a page is used if and only if holders > 0.
 *   P3  a page without holders is cached if kept, else free; it lies in that list and in no other.
 *   P4  the list of cached pages is ordered by when the last holder let go. */
#include "infer/pages.h"

#include <assert.h>

void tl__pages_place(tl_pages *p, tl_arena *arena, int n) {
    *p = (tl_pages){.n = n, .free = n, .first_free = 0, .oldest = -1, .newest = -1};
    p->holders = TL_TAKE(arena, int32_t, n);
    p->kept = TL_TAKE(arena, bool, n);
    p->next = TL_TAKE(arena, int32_t, n);
    p->before = TL_TAKE(arena, int32_t, n);
    if (arena->dry) return;
    for (int i = 0; i < n; i++) p->next[i] = i + 1 < n ? i + 1 : -1;
}

static void put_free(tl_pages *p, int32_t page) {
    p->next[page] = p->first_free;
    p->first_free = page;
    p->free++;
}

static void put_newest(tl_pages *p, int32_t page) {
    p->next[page] = -1;
    p->before[page] = p->newest;
    if (p->newest >= 0) p->next[p->newest] = page;
    else p->oldest = page;
    p->newest = page;
    p->cached++;
}

static void unlink_cached(tl_pages *p, int32_t page) {
    const int32_t next = p->next[page], before = p->before[page];
    if (before >= 0) p->next[before] = next;
    else p->oldest = next;
    if (next >= 0) p->before[next] = before;
    else p->newest = before;
    p->cached--;
}

int32_t tl__pages_take(tl_pages *p) {
    const int32_t page = p->first_free;
    if (page < 0) return -1;
    assert(p->holders[page] == 0 && !p->kept[page]); /* P3 */
    p->first_free = p->next[page];
    p->free--;
    p->holders[page] = 1;
    p->used++;
    assert(p->free + p->used + p->cached == p->n); /* P1 */
    return page;
}

void tl__pages_hold(tl_pages *p, int32_t page) {
    assert(p->holders[page] > 0 || p->kept[page]); /* P3: a free page is taken, not held */
    if (p->holders[page]++ > 0) return;
    unlink_cached(p, page);
    p->used++;
    assert(p->free + p->used + p->cached == p->n); /* P1 */
}

void tl__pages_drop(tl_pages *p, int32_t page) {
    assert(p->holders[page] > 0); /* P2 */
    if (--p->holders[page] > 0) return;
    p->used--;
    if (p->kept[page]) put_newest(p, page);
    else put_free(p, page);
    assert(p->free + p->used + p->cached == p->n); /* P1 */
}

void tl__pages_keep(tl_pages *p, int32_t page) {
    assert(p->holders[page] > 0); /* P2 */
    p->kept[page] = true;
}

int32_t tl__pages_give_up(tl_pages *p) {
    const int32_t page = p->oldest;
    if (page < 0) return -1;
    assert(p->holders[page] == 0 && p->kept[page]); /* P3 */
    unlink_cached(p, page);
    p->kept[page] = false;
    put_free(p, page);
    return page;
}

bool tl__pages_sound(const tl_pages *p) {
    int free = 0, used = 0, cached = 0;
    for (int32_t i = p->first_free; i >= 0 && free <= p->n; i = p->next[i], free++)
        if (p->holders[i] || p->kept[i]) return false;
    for (int32_t i = p->oldest, before = -1; i >= 0 && cached <= p->n; before = i, i = p->next[i], cached++)
        if (p->holders[i] || !p->kept[i] || p->before[i] != before) return false;
    for (int i = 0; i < p->n; i++) used += p->holders[i] > 0;
    return free == p->free && used == p->used && cached == p->cached && free + used + cached == p->n;
}
