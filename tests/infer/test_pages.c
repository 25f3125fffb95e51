/* test_pages.c — the pool and the tree beside a slow model of both: random sequences come, share, finish pages and go,
 * and after every move the counts, the lists and what is found are as they should be. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "base/rng.h"
#include "infer/prefix.h"

enum { PAGES = 24, SEQUENCES = 6, MOST = 6, MOVES = 20000, B = TL_KV_BLOCK };

typedef struct sequence {
    int32_t token[MOST * B], page[MOST];
    int n, shared; /* pages, and of them in the tree */
} sequence;

static tl_arena arena;
static tl_pages pages;
static tl_prefix prefix;
static sequence sequences[SEQUENCES];
static uint64_t draws;

static uint32_t draw(uint32_t n) {
    return tl__philox(11, TL_RNG_TEST, 2, draws++).v[0] % n;
}

static void place(tl_arena *a, uint64_t seed) {
    tl__pages_place(&pages, a, PAGES);
    tl__prefix_place(&prefix, a, &pages, seed);
}

static int open_pool(void **state) {
    tl_arena dry = tl__arena_dry();
    place(&dry, 0);
    if (tl__arena_open(&arena, dry.used_bytes, NULL)) return -1;
    place(&arena, 99);
    memset(sequences, 0, sizeof sequences);
    draws = 0;
    return 0;
}

static int close_pool(void **state) {
    tl__arena_close(&arena);
    return 0;
}

/* What a page stands for: all tokens from the beginning to its end, as the test last had it put in the tree. */
static int32_t path[PAGES][MOST * B];
static int depth[PAGES]; /* pages of the path; 0: not in the tree */

static void check(void) {
    assert_true(tl__pages_sound(&pages));
    int holders[PAGES] = {0}, children[PAGES] = {0};
    for (int i = 0; i < SEQUENCES; i++)
        for (int k = 0; k < sequences[i].n; k++) holders[sequences[i].page[k]]++;
    for (int p = 0; p < PAGES; p++) {
        assert_int_equal(pages.holders[p], holders[p]);
        assert_int_equal(pages.kept[p], depth[p] > 0);
        if (depth[p] == 0 || prefix.parent[p] < 0) continue;
        const int parent = prefix.parent[p];
        children[parent]++;
        assert_int_equal(depth[parent], depth[p] - 1); /* no path is cut */
        assert_memory_equal(path[parent], path[p], (size_t)depth[parent] * B * sizeof(int32_t));
    }
    for (int p = 0; p < PAGES; p++) {
        if (depth[p] == 0) continue;
        assert_int_equal(prefix.children[p], children[p]);
        int32_t found[MOST]; /* each node is found by its tokens, and is the only one */
        assert_int_equal(tl__prefix_find(&prefix, found, path[p], depth[p]), depth[p]);
        assert_int_equal(found[depth[p] - 1], p);
    }
}

static int32_t take(void) {
    int32_t page = tl__pages_take(&pages);
    if (page >= 0) return page;
    const int32_t oldest = pages.oldest;
    if (!tl__prefix_evict(&prefix)) return -1;
    assert_true(oldest >= 0 && depth[oldest] > 0);
    depth[oldest] = 0;
    page = tl__pages_take(&pages);
    assert_int_equal(page, oldest);
    return page;
}

/* How many pages of these tokens a node stands for, by looking at all. */
static int find_slowly(const int32_t *token, int most) {
    int best = 0;
    for (int p = 0; p < PAGES; p++)
        if (depth[p] > best && depth[p] <= most && !memcmp(path[p], token, (size_t)depth[p] * B * sizeof *token))
            best = depth[p];
    return best;
}

static void begin(sequence *s) {
    for (int i = 0; i < MOST * B; i++) s->token[i] = i % B ? 7 : (int32_t)draw(2); /* few beginnings: many meet */
    const int want = 1 + (int)draw(MOST), found = tl__prefix_find(&prefix, s->page, s->token, want);
    assert_int_equal(found, find_slowly(s->token, want));
    for (int i = 0; i < found; i++) tl__pages_hold(&pages, s->page[i]);
    s->n = s->shared = found;
}

static void grow(sequence *s) {
    if (s->n == MOST) return;
    const int32_t page = take();
    if (page >= 0) s->page[s->n++] = page;
    else assert_int_equal(pages.used, PAGES);
}

static void finish_page(sequence *s) {
    if (s->shared == s->n) return;
    const int i = s->shared++;
    const int there = find_slowly(s->token, i + 1) == i + 1;
    const int32_t stands = tl__prefix_add(&prefix, i > 0 ? s->page[i - 1] : -1, s->token + i * B, s->page[i]);
    assert_int_equal(stands != s->page[i], there);
    if (there) {
        tl__pages_hold(&pages, stands);
        tl__pages_drop(&pages, s->page[i]);
        s->page[i] = stands;
        return;
    }
    depth[stands] = i + 1;
    memcpy(path[stands], s->token, (size_t)(i + 1) * B * sizeof(int32_t));
}

static void leave(sequence *s) {
    while (s->n > 0) tl__pages_drop(&pages, s->page[--s->n]);
    s->shared = 0;
}

static void random_moves_keep_the_invariants(void **state) {
    int evicted = 0, met = 0;
    memset(depth, 0, sizeof depth);
    for (int move = 0; move < MOVES; move++) {
        sequence *s = &sequences[draw(SEQUENCES)];
        const int cached = pages.cached, shared = s->shared;
        switch (draw(8)) {
        case 0:
            leave(s);
            break;
        case 1:
            leave(s);
            begin(s);
            met += s->shared > 0;
            break;
        case 2:
        case 3:
            finish_page(s);
            break;
        default:
            grow(s);
        }
        evicted += pages.cached < cached && s->shared == shared;
        check();
    }
    assert_true(evicted > 100 && met > 100);
    for (int i = 0; i < SEQUENCES; i++) leave(&sequences[i]);
    check();
    assert_int_equal(pages.used, 0);
    while (pages.cached > 0) {
        depth[pages.oldest] = 0;
        assert_true(tl__prefix_evict(&prefix));
        check();
    }
    assert_int_equal(pages.free, PAGES);
    assert_false(tl__prefix_evict(&prefix));
}

static void a_full_pool_says_so(void **state) {
    for (int i = 0; i < PAGES; i++) assert_true(tl__pages_take(&pages) >= 0);
    assert_int_equal(tl__pages_take(&pages), -1);
    assert_int_equal(tl__pages_give_up(&pages), -1);
    tl__pages_hold(&pages, 3);
    tl__pages_drop(&pages, 3);
    assert_int_equal(tl__pages_take(&pages), -1); /* another holds it still */
    tl__pages_drop(&pages, 3);
    assert_int_equal(tl__pages_take(&pages), 3);
}

/* The least recently let go goes first, and a held page never. */
static void the_oldest_is_forgotten_first(void **state) {
    int32_t token[3][B], page[3], found[1];
    for (int i = 0; i < 3; i++) {
        for (int k = 0; k < B; k++) token[i][k] = i;
        page[i] = tl__pages_take(&pages);
        assert_int_equal(tl__prefix_add(&prefix, -1, token[i], page[i]), page[i]);
    }
    tl__pages_drop(&pages, page[1]);
    tl__pages_drop(&pages, page[0]);
    tl__pages_hold(&pages, page[1]); /* used again: now the younger */
    tl__pages_drop(&pages, page[1]);
    assert_true(tl__prefix_evict(&prefix));
    assert_int_equal(tl__prefix_find(&prefix, found, token[0], 1), 0);
    assert_int_equal(tl__prefix_find(&prefix, found, token[1], 1), 1);
    assert_true(tl__prefix_evict(&prefix));
    assert_int_equal(tl__prefix_find(&prefix, found, token[1], 1), 0);
    assert_false(tl__prefix_evict(&prefix));
    assert_int_equal(tl__prefix_find(&prefix, found, token[2], 1), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(random_moves_keep_the_invariants, open_pool, close_pool),
        cmocka_unit_test_setup_teardown(a_full_pool_says_so, open_pool, close_pool),
        cmocka_unit_test_setup_teardown(the_oldest_is_forgotten_first, open_pool, close_pool),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
