/* test_agree.c — who is wrong when ranks differ. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "train/agree.h"

/* A rank's record in letters: weights, gradient, gradient again ('-': not asked). */
static tl_agree_record record(const char *letters) {
    tl_agree_record r = {0};
    memset(r.weights.hex, letters[0], 32);
    memset(r.gradient.hex, letters[1], 32);
    if (letters[2] != '-') memset(r.again.hex, letters[2], 32);
    return r;
}

static void wrong_ranks_are_found(void **state) {
    static const struct {
        const char *ranks;
        int count;
        const char *wrong;
    } known[] = {
        {"ab-", 0, "0"},
        {"ab- ab-", 0, "00"},
        {"ab- ab- ab- ab-", 0, "0000"},
        {"abb abb xbb", 1, "001"}, /* other weights */
        {"xbb abb abb", 1, "100"},
        {"abb axx abb abb", 1, "0100"},  /* other gradient, twice the same */
        {"abb abb axb abb", 1, "0010"},  /* another gradient once */
        {"abb axb", 1, "01"},            /* two ranks: who contradicts itself */
        {"axb ayb abb", 2, "110"},       /* two of three, by themselves */
        {"ab- cb-", -1, "00"},           /* two ranks with other weights: nobody can tell */
        {"ab- ac-", -1, "00"},           /* nor with other gradients */
        {"ab- ab- cb- cb-", -1, "0000"}, /* half is no majority */
        {"ab- cb- db-", -1, "000"},
        {"ab- ab- ab- cb- db-", 2, "00011"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        tl_agree_record all[8];
        bool wrong[8] = {0};
        int n = ((int)strlen(known[i].ranks) + 1) / 4;
        for (int r = 0; r < n; r++) all[r] = record(known[i].ranks + 4 * r);
        assert_int_equal(tl__agree_judge(wrong, all, n), known[i].count);
        for (int r = 0; known[i].count >= 0 && r < n; r++) assert_int_equal(wrong[r], known[i].wrong[r] == '1');
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(wrong_ranks_are_found)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
