/* test_stops.c — stop texts, beside the plain definition: look at every end in the whole text, and at every stop text
 * there. However the text is cut into pieces, no more and no less is told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "base/rng.h"
#include "infer/stops.h"

enum { CASES = 30000, MOST_TEXT = 60, MOST_STOP = 7, STOPS = 4 };

static uint32_t draw(uint64_t seed, uint64_t i, uint32_t n) {
    return tl__philox(seed, TL_RNG_TEST, 3, i).v[0] % n;
}

/* Of few letters, so that they overlap in every way; "é" and "è" begin with the same byte. */
static size_t draw_text(char *out, uint64_t seed, uint64_t at, int letters, int kinds) {
    static const char *const letter[] = {"a", "b", "é", "è"};
    size_t n = 0;
    for (int i = 0; i < letters; i++) {
        const char *s = letter[draw(seed, at + (uint64_t)i, (uint32_t)kinds)];
        memcpy(out + n, s, strlen(s));
        n += strlen(s);
    }
    out[n] = 0;
    return n;
}

typedef struct looked_for {
    char text[STOPS][2 * MOST_STOP + 1];
    int32_t border[STOPS][2 * MOST_STOP + 1];
    tl_stop stop[STOPS];
    int n;
} looked_for;

/* The definition. Ends within text[0, blind) do not count. */
static int find(const looked_for *l, const char *text, size_t n, size_t blind, size_t *begin) {
    for (size_t end = blind + 1; end <= n; end++) {
        int best = -1;
        for (int i = 0; i < l->n; i++) {
            const size_t size = strlen(l->text[i]);
            if (size > end || memcmp(text + end - size, l->text[i], size)) continue;
            if (best < 0 || size > strlen(l->text[best])) best = i;
        }
        if (best < 0) continue;
        *begin = end - strlen(l->text[best]);
        return best;
    }
    return -1;
}

/* How much of text[n] could yet become a stop text. */
static size_t undecided(const looked_for *l, const char *text, size_t n) {
    size_t most = 0;
    for (int i = 0; i < l->n; i++)
        for (size_t k = 1; k < strlen(l->text[i]) && k <= n; k++)
            if (!memcmp(text + n - k, l->text[i], k) && k > most) most = k;
    return most;
}

static void stops_are_found_as_in_the_whole_text(void **state) {
    int found = 0, blinded = 0;
    for (uint64_t seed = 0; seed < CASES; seed++) {
        looked_for l = {.n = 1 + (int)draw(seed, 0, STOPS)};
        const int kinds = 2 + (int)draw(seed, 1, 3), letters = (int)draw(seed, 2, MOST_TEXT / 2);
        char text[MOST_TEXT + 1], told[2 * MOST_TEXT], buffer[2 * MOST_TEXT];
        const size_t n = draw_text(text, seed, 1000, letters, kinds);
        for (int i = 0; i < l.n; i++) {
            draw_text(l.text[i], seed, 2000 + 100 * (uint64_t)i, 1 + (int)draw(seed, 3 + (uint64_t)i, MOST_STOP),
                      kinds);
            l.stop[i] = (tl_stop){l.text[i], (int)strlen(l.text[i]), l.border[i]};
            tl__stop_borders(l.border[i], l.text[i], l.stop[i].n);
        }
        /* Cut anywhere, within characters too: what is read need not know of them. */
        int32_t matched[STOPS] = {0};
        size_t at = 0, n_told = 0, blind = 0, begin = 0;
        int ended = -1;
        for (uint64_t piece = 0; at < n && ended < 0; piece++) {
            size_t size = draw(seed, 10 + piece, 6), certain;
            if (size > n - at) size = n - at;
            const bool is_blind = piece < seed % 3;
            if (is_blind) blind = at + size;
            const size_t held = tl__stops_held(l.stop, l.n, matched, buffer);
            assert_int_equal(held, at - n_told); /* neither lost nor told twice */
            assert_memory_equal(buffer, text + n_told, held);
            memcpy(buffer + held, text + at, size);
            ended = tl__stops_read(l.stop, l.n, matched, buffer, held, held + size, is_blind, &certain);
            memcpy(told + n_told, buffer, certain);
            n_told += certain;
            at += size;
            if (ended < 0) assert_int_equal(at - n_told, undecided(&l, text, at));
        }
        const int expected = find(&l, text, n, blind, &begin);
        assert_true((expected < 0) == (ended < 0));
        if (expected < 0) continue;
        assert_string_equal(l.text[ended], l.text[expected]);
        assert_int_equal(n_told, begin);
        assert_memory_equal(told, text, n_told);
        size_t unused;
        blinded += find(&l, text, blind, 0, &unused) >= 0;
        found++;
    }
    assert_true(found > CASES / 10 && blinded > CASES / 100); /* what was to be tried took place */
}

static void what_cannot_be_held_back_is_told_at_once(void **state) {
    size_t certain;
    int32_t matched[1] = {0};
    char buffer[32];
    assert_int_equal(tl__stops_read(NULL, 0, matched, "ab", 0, 2, false, &certain), -1);
    assert_int_equal(certain, 2);
    assert_int_equal(tl__stops_held(NULL, 0, matched, buffer), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stops_are_found_as_in_the_whole_text),
        cmocka_unit_test(what_cannot_be_held_back_is_told_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
