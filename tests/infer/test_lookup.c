/* test_lookup.c — tokens looked up in the past, beside the definition: every earlier place, and how much is alike. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "base/rng.h"
#include "infer/lookup.h"

enum { CASES = 20000, MOST = 60, AHEAD = 9 };

static uint32_t draw(uint64_t seed, uint64_t i, uint32_t n) {
    return tl__philox(seed, TL_RNG_TEST, 5, i).v[0] % n;
}

static int alike(const int32_t *token, int end, int n) {
    int k = 0;
    while (k < 8 && k < end && token[end - 1 - k] == token[n - 1 - k]) k++;
    return k;
}

static void the_longest_and_the_last_is_taken(void **state) {
    int found = 0;
    for (uint64_t seed = 0; seed < CASES; seed++) {
        int32_t token[MOST + AHEAD], before[MOST];
        const int n = 1 + (int)draw(seed, 0, MOST), kinds = 2 + (int)draw(seed, 1, 5);
        const int most = (int)draw(seed, 2, AHEAD + 1);
        for (int i = 0; i < n; i++) token[i] = (int32_t)draw(seed, 10 + (uint64_t)i, (uint32_t)kinds);
        memcpy(before, token, sizeof before);
        int found_alike = 0;
        const int got = tl__look_up(token, n, most, &found_alike);
        assert_memory_equal(token, before, (size_t)n * sizeof *token);
        int best = 0;
        for (int end = 1; end < n; end++)
            if (alike(token, end, n) >= 2 && (!best || alike(token, end, n) >= alike(token, best, n))) best = end;
        assert_int_equal(got, best ? most : 0);
        if (best) assert_int_equal(found_alike, alike(token, best, n));
        for (int i = 0; i < got; i++) assert_int_equal(token[n + i], token[best + i]);
        found += best > 0 && best + most > n; /* into what was proposed itself */
    }
    assert_true(found > CASES / 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_longest_and_the_last_is_taken)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
