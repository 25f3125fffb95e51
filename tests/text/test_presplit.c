/* test_presplit.c — the hand-written scanners against the regular expressions that they stand for, run by PCRE2, on
 * random Unicode; and the pinned character classes against PCRE2's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/rng.h"
#include "text/presplit.h"

static pcre2_code *compiled(const char *pattern) {
    int code;
    PCRE2_SIZE at;
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
    if (!re) fail_msg("%s: error %d at %zu", pattern, code, at);
    pcre2_jit_compile(re, PCRE2_JIT_COMPLETE);
    return re;
}

static uint8_t *differs; /* [0x110000]: PCRE2 does not know this character yet */

/* Where the classes differ, the character was unassigned to the older Unicode: the list is theirs, not a matter of
 * taste. */
static void test_classes(void **state) {
    (void)state;
    tl__unicode_init();
    static const char *const classes[] = {"\\A\\p{L}", "\\A\\p{N}", "\\A\\s"};
    static const tl_char_class ours[] = {TL_CHAR_LETTER, TL_CHAR_NUMBER, TL_CHAR_SPACE};
    char version[32] = "";
    pcre2_config(PCRE2_CONFIG_UNICODE_VERSION, version);
    bool older = atoi(version) < 16;
    int n = 0, letters = 0;
    pcre2_code *unknown = compiled("\\A\\p{Cn}");
    for (int k = 0; k < 3; k++) {
        pcre2_code *re = compiled(classes[k]);
        pcre2_match_data *match = pcre2_match_data_create(1, NULL);
        for (uint32_t c = 0; c < 0x110000; c++) {
            if (c >= 0xD800 && c < 0xE000) continue;
            char text[4];
            int width = tl__utf8_put(text, c);
            bool theirs = pcre2_match(re, (PCRE2_SPTR)text, (size_t)width, 0, PCRE2_NO_UTF_CHECK, match, NULL) > 0;
            tl_char_class class = tl__char_class(c) == TL_CHAR_NEWLINE ? TL_CHAR_SPACE : tl__char_class(c);
            letters += k == 0 && class == TL_CHAR_LETTER;
            if (theirs == (class == ours[k])) continue;
            differs[c] = 1;
            if (c == 0x180E) continue; /* white space to PCRE2 for the sake of old Unicode; not to Unicode since 6.3 */
            n++;
            if (older && pcre2_match(unknown, (PCRE2_SPTR)text, (size_t)width, 0, PCRE2_NO_UTF_CHECK, match, NULL) <= 0)
                fail_msg("U+%04X: class %d, PCRE2 %s says %d for %s, and knows the character", c, class, version,
                         theirs, classes[k]);
        }
        pcre2_match_data_free(match);
        pcre2_code_free(re);
    }
    pcre2_code_free(unknown);
    assert_int_equal(letters, 141028); /* \p{L} of Unicode 16 */
    print_message("[          ] %d characters are newer than PCRE2's Unicode %s\n", n, version);
}

static uint32_t random_char(uint64_t position, uint32_t stream) {
    static const char *const pools[] = {"abcXYZ", "sStTdDmMlLrReEvV", "'''",        "   ",
                                        "\n\r",   "\t\v\f",           "0123456789", "!?.,;:-_#"};
    static const uint32_t others[] = {0x17F,   0x212A,  0xA0,    0x3000,  0x2028,   0x85,   0x1C,   0x200B,
                                      0x301,   0x308,   0xFEFF,  0x663,   0xB2,     0x2160, 0x65E5, 0xAC00,
                                      0x1F600, 0x1D7D8, 0x10437, 0xE0100, 0x10FFFF, 0xFFFD};
    tl_u32x4 r = tl__philox(21, TL_RNG_TEST, stream, position);
    uint32_t kind = r.v[0] % 11;
    if (kind < 8) return (uint8_t)pools[kind][r.v[1] % strlen(pools[kind])];
    if (kind == 8) return others[r.v[1] % (sizeof others / sizeof others[0])];
    for (uint32_t c = kind == 9 ? r.v[1] % 0x3000 : r.v[1] % 0x110000;; c = (c + 1) % 0x110000)
        if ((c < 0xD800 || c > 0xDFFF) && !differs[c]) return c;
}

static void hold_against(tl_split split, const char *pattern, uint32_t stream) {
    enum { CHARS = 40, TRIALS = 15000 };
    pcre2_code *re = compiled(pattern);
    pcre2_match_data *match = pcre2_match_data_create(1, NULL);
    for (uint64_t trial = 0; trial < TRIALS; trial++) {
        char text[4 * CHARS];
        size_t n = 0;
        uint32_t length = 1 + tl__philox(22, TL_RNG_TEST, stream, trial).v[0] % CHARS;
        for (uint32_t i = 0; i < length; i++)
            n += (size_t)tl__utf8_put(text + n, random_char(trial * CHARS + i, stream));
        for (size_t at = 0; at < n;) {
            size_t end = tl__split_next(split, (uint8_t *)text, n, at);
            assert_true(pcre2_match(re, (PCRE2_SPTR)text, n, at, PCRE2_NO_UTF_CHECK, match, NULL) > 0);
            const PCRE2_SIZE *found = pcre2_get_ovector_pointer(match);
            if (found[0] != at || found[1] != end) {
                fprintf(stderr, "text:");
                for (size_t i = 0; i < n; i++) fprintf(stderr, "%s%02x", i == at ? " | " : " ", (uint8_t)text[i]);
                fail_msg("\nkind %d: from %zu to %zu, PCRE2 from %zu to %zu", split, at, end, found[0], found[1]);
            }
            at = end;
        }
    }
    pcre2_match_data_free(match);
    pcre2_code_free(re);
}

static void test_scanners_equal_their_expressions(void **state) {
    (void)state;
    for (int split = 0; split < TL_SPLITS; split++) {
        const char *pattern = tl__split_pattern((tl_split)split);
        assert_int_equal(tl__split_find(pattern), split);
        hold_against((tl_split)split, pattern, (uint32_t)split);
    }
    /* Llama 3's spelling is the same language. */
    const char *llama3 =
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
        "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    assert_int_equal(tl__split_find(llama3), TL_SPLIT_GPT4);
    hold_against(TL_SPLIT_GPT4, llama3, 9);
    assert_int_equal(tl__split_find("\\w+"), -1);
}

/* The claim of tl__split_always, on random text: what precedes and follows does not matter. */
static void test_cuts_that_always_hold(void **state) {
    (void)state;
    int held = 0;
    for (uint64_t trial = 0; trial < 20000; trial++) {
        char text[160];
        size_t n = 0, places[25];
        tl_char_class class[25];
        for (int i = 0; i < 24; i++) {
            uint32_t c = random_char(trial * 24 + (uint64_t)i, 30);
            places[i] = n;
            class[i] = tl__char_class(c);
            n += (size_t)tl__utf8_put(text + n, c);
        }
        for (int split = 0; split < TL_SPLITS; split++) {
            for (int i = 1; i < 24; i += 5) {
                if (!tl__split_always((tl_split)split, class[i - 1], class[i])) continue;
                /* The text up to there on its own, the whole, and the text from there: the same cuts. */
                size_t a = 0, b = 0;
                while (b < places[i]) {
                    a = tl__split_next((tl_split)split, (uint8_t *)text, places[i], a);
                    b = tl__split_next((tl_split)split, (uint8_t *)text, n, b);
                    assert_int_equal(a, b);
                }
                assert_int_equal(b, places[i]);
                held++;
            }
        }
    }
    assert_true(held > 50000);
}

int main(void) {
    differs = calloc(0x110000, 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_classes),
        cmocka_unit_test(test_scanners_equal_their_expressions),
        cmocka_unit_test(test_cuts_that_always_hold),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(differs);
    return failed;
}
