/* test_thinking.c — what lies between delimiters, token by token, beside the definition over all tokens: delimiters of
 * few ids, so that they overlap with themselves and with each other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>
#include "base/rng.h"
#include "infer/thinking_definition.h"

enum { CASES = 20000, TOKENS = 40 };

static uint32_t draw(uint64_t seed, uint64_t i, uint32_t n) {
    return tl__philox(seed, TL_RNG_TEST, 4, i).v[0] % n;
}

static void thoughts_are_judged_as_from_the_first_token(void **state) {
    int forced = 0, barred = 0, opened = 0;
    for (uint64_t seed = 0; seed < CASES; seed++) {
        int32_t open[3], close[5], made[TOKENS];
        for (uint64_t i = 0; i < 3; i++) open[i] = (int32_t)draw(seed, i, 2);
        for (uint64_t i = 0; i < 5; i++) close[i] = (int32_t)draw(seed, 3 + i, 2);
        tl_thinking t = {.open = open, .n_open = (int)draw(seed, 8, 4), .close = close, .begun = draw(seed, 10, 2)};
        t.n_close = 1 + (int)draw(seed, 9, 5);
        t.most = (int)draw(seed, 11, 14) - 1;
        t.least = t.most > 0 ? (int)draw(seed, 12, (uint32_t)t.most + 1) : t.most == 0 ? (int)draw(seed, 12, 9) : 0;
        tl_thought so_far = tl__thinking_begin(&t);
        bool thinks[TOKENS];
        int tokens;
        for (int n = 0; n < TOKENS; n++) {
            const next x = think(&t, made, n, thinks, &tokens);
            assert_int_equal(so_far.tokens, tokens);
            assert_int_equal(tl__thinking_forced(&t, &so_far), x.forced);
            if (x.forced < 0) assert_int_equal(tl__thinking_barred(&t, &so_far), x.barred);
            assert_int_equal(tl__thinking_goes_on(&t, &so_far), x.goes_on);
            made[n] = x.forced >= 0 ? x.forced : (int32_t)draw(seed, 100 + (uint64_t)n, 2);
            if (made[n] == x.barred) made[n] = 1 - made[n];
            const bool inside = tl__thinking_read(&t, &so_far, made[n]);
            think(&t, made, n + 1, thinks, &tokens);
            assert_int_equal(inside, thinks[n]);
            forced += x.forced >= 0;
            barred += x.barred >= 0;
            opened += !t.begun && inside;
        }
        if (t.most) assert_true(so_far.tokens <= (t.most > 0 ? t.most : 0));
    }
    assert_true(forced > CASES / 10 && barred > CASES / 10 && opened > CASES / 10); /* it took place */
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(thoughts_are_judged_as_from_the_first_token)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
