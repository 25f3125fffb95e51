/* The JSON door: limits, typed members with errors that name file and key, and string literals without the heap. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include "base/json.h"

static json_t *parse(const char *text, tl_error *err) {
    return tl__json_parse(text, strlen(text), "config.json", err);
}

static void members(void **state) {
    (void)state;
    tl_error err = {0};
    json_t *o = parse(
        "{\"i\":7,\"neg\":-3,\"r\":1e4,\"f\":0.5,\"s\":\"text\",\"b\":true,\"n\":null,\"o\":{},\"e\":\"\"}", &err);
    assert_non_null(o);
    int64_t i;
    double x;
    bool b;
    const char *s;
    assert_int_equal(tl__json_int(o, "i", 0, 7, &i, "c", &err), 0);
    assert_int_equal(i, 7);
    assert_int_equal(tl__json_int(o, "r", 0, 10000, &i, "c", &err), 0);
    assert_int_equal(i, 10000);
    assert_int_equal(tl__json_int(o, "i", 0, 6, &i, "config.json", &err), TL_EFORMAT);
    assert_string_equal(err.text, "config.json: \"i\" is 7; an integer from 0 to 6 was expected");
    assert_int_equal(tl__json_int(o, "neg", 0, 6, &i, "c", &err), TL_EFORMAT);
    assert_int_equal(tl__json_int(o, "f", 0, 6, &i, "c", &err), TL_EFORMAT);
    assert_int_equal(tl__json_int(o, "s", 0, 6, &i, "c", &err), TL_EFORMAT);
    assert_non_null(strstr(err.text, "\"s\" is a string"));
    assert_int_equal(tl__json_int(o, "n", 0, 6, &i, "c", &err), TL_EFORMAT); /* null counts as missing */
    assert_non_null(strstr(err.text, "is missing"));
    assert_int_equal(tl__json_int_or(o, "n", 0, 6, 99, &i, "c", &err), 0);
    assert_int_equal(i, 99);
    assert_int_equal(tl__json_int_or(o, "i", 0, 6, 99, &i, "c", &err), TL_EFORMAT);
    assert_int_equal(tl__json_int_or(o, "i", 0, 9, 99, &i, "c", &err), 0);
    assert_int_equal(i, 7);
    assert_int_equal(tl__json_real_or(o, "f", 0, 1, 9, &x, "c", &err), 0);
    assert_true(x == 0.5);
    assert_int_equal(tl__json_real_or(o, "i", 0, 10, 9, &x, "c", &err), 0);
    assert_true(x == 7);
    assert_int_equal(tl__json_real_or(o, "none", 0, 1, 9, &x, "c", &err), 0);
    assert_true(x == 9);
    assert_int_equal(tl__json_real_or(o, "i", 0, 1, 9, &x, "c", &err), TL_EFORMAT);
    assert_int_equal(tl__json_real_or(o, "s", 0, 1, 9, &x, "c", &err), TL_EFORMAT);
    assert_int_equal(tl__json_bool_or(o, "b", false, &b, "c", &err), 0);
    assert_true(b);
    assert_int_equal(tl__json_bool_or(o, "n", true, &b, "c", &err), 0);
    assert_true(b);
    assert_int_equal(tl__json_bool_or(o, "i", true, &b, "c", &err), TL_EFORMAT);
    assert_int_equal(tl__json_string_or(o, "s", "no", &s, "c", &err), 0);
    assert_string_equal(s, "text");
    assert_int_equal(tl__json_string_or(o, "n", NULL, &s, "c", &err), 0);
    assert_null(s);
    assert_int_equal(tl__json_string_or(o, "o", "no", &s, "c", &err), TL_EFORMAT);
    assert_non_null(strstr(err.text, "an object"));
    json_t *none = json_array(); /* not an object: everything is missing */
    assert_int_equal(tl__json_int(none, "i", 0, 1, &i, "c", &err), TL_EFORMAT);
    json_decref(none);
    json_decref(o);
}

/* tokenizer_config.json of many models says model_max_length: 10^30. */
static void integers_beyond_64_bits(void **state) {
    (void)state;
    tl_error err = {0};
    int64_t i;
    json_t *o = parse("{\"model_max_length\": 1000000000000000019884624838656, \"i\": 7, \"f\": 0.5}", &err);
    assert_non_null(o);
    assert_int_equal(tl__json_int(o, "i", 0, 9, &i, "c", &err), 0);
    assert_int_equal(i, 7);
    assert_int_equal(tl__json_int(o, "f", 0, 9, &i, "c", &err), TL_EFORMAT);
    assert_int_equal(tl__json_int(o, "model_max_length", 0, INT64_MAX, &i, "c", &err), TL_EFORMAT);
    json_decref(o);
}

static void refuses(void **state) {
    (void)state;
    static const char *const bad[] = {
        "", "{", "{\"a\":1,\"a\":2}", "{\"a\":1}x", "\"text\"", "[1e999]", "{\"a\\u0000\":1}", "[\"\xff\"]", "nul"};
    tl_error err;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        err = (tl_error){0};
        assert_null(parse(bad[i], &err));
        assert_int_equal(err.status, TL_EFORMAT);
        assert_non_null(strstr(err.text, "config.json: "));
        assert_null(parse(bad[i], NULL));
    }
    size_t n = 40 << 20;
    char *large = malloc(n);
    memset(large, '[', n);
    assert_null(tl__json_parse(large, n, "c", &err));
    assert_non_null(strstr(err.text, "deeper"));
    for (size_t i = 1; i < n; i++) large[i] = i % 2 ? '0' : ',';
    assert_null(tl__json_parse(large, n, "c", &err)); /* would cost gigabytes */
    assert_non_null(strstr(err.text, "more than"));
    assert_null(tl__json_parse(large, ((size_t)256 << 20) + 1, "c", &err)); /* refused before it is read */
    free(large);
    char deep[400];
    for (int depth = 128; depth <= 129; depth++) {
        memset(deep, '[', (size_t)depth);
        memset(deep + depth, ']', (size_t)depth);
        json_t *o = tl__json_parse(deep, 2 * (size_t)depth, "c", &err);
        assert_int_equal(o != NULL, depth == 128);
        json_decref(o);
    }
    json_t *o = parse("[\"[[[[,,,,\\\"[[[[\"]", &err); /* structure inside strings does not count */
    assert_non_null(o);
    json_decref(o);
}

static void quoting(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t n;
        const char *literal;
    } cases[] = {
        {"", 0, "\"\""},
        {"plain é€😀", 15, "\"plain é€😀\""},
        {"a\"b\\c/", 6, "\"a\\\"b\\\\c/\""},
        {"\b\t\n\f\r", 5, "\"\\b\\t\\n\\f\\r\""},
        {"\0\1\x1f\x7f", 4, "\"\\u0000\\u0001\\u001f\\u007f\""},
        {"\xff\xc3", 2, "\"\uFFFD\uFFFD\""},           /* never valid; cut short */
        {"\xed\xa0\x80", 3, "\"\uFFFD\uFFFD\uFFFD\""}, /* a surrogate */
        {"\xc0\xaf", 2, "\"\uFFFD\uFFFD\""},           /* overlong */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char out[100];
        int want = (int)strlen(cases[i].literal);
        assert_int_equal(tl__json_quote(out, sizeof out, cases[i].text, cases[i].n), want);
        assert_string_equal(out, cases[i].literal);
        for (int size = 0; size <= want; size++) {
            memset(out, '#', sizeof out);
            assert_int_equal(tl__json_quote(out, (size_t)size, cases[i].text, cases[i].n), size < want ? -1 : want);
            assert_int_equal(out[size], '#');
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(members), cmocka_unit_test(integers_beyond_64_bits),
                                       cmocka_unit_test(refuses), cmocka_unit_test(quoting)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
