/* A run's YAML: what is read, in order and with lines, and what is refused by line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/yaml.h"

static void reads(void **state) {
    (void)state;
    const char *text =
        "# a run\nsteps: 100\nlr: 3e-4\ndata:\n  - a.txt\n  - 'b c.txt'\nmodel:\n  preset: nano\n  moe: {experts: 8}\n"
        "empty:\nquoted: \"x: # y\"\nnone: []\nlong: |\n  one\n  two\n";
    static const struct {
        const char *key;
        int line, n;
        const char *first, *last;
    } want[] = {
        {"steps", 2, 1, "100", "100"},
        {"lr", 3, 1, "3e-4", "3e-4"},
        {"data", 4, 2, "a.txt", "b c.txt"},
        {"model.preset", 8, 1, "nano", "nano"},
        {"model.moe.experts", 9, 1, "8", "8"},
        {"empty", 10, 1, "", ""},
        {"quoted", 11, 1, "x: # y", "x: # y"},
        {"none", 12, 0, NULL, NULL},
        {"long", 13, 1, "one\ntwo\n", "one\ntwo\n"},
    };
    tl_yaml y;
    tl_error err = {0};
    assert_int_equal(tl__yaml_parse(&y, text, strlen(text), "run.yaml", &err), 0);
    assert_int_equal(y.n, sizeof want / sizeof *want);
    for (int i = 0; i < y.n; i++) {
        assert_string_equal(y.entries[i].key, want[i].key);
        assert_int_equal(y.entries[i].line, want[i].line);
        assert_int_equal(y.entries[i].n, want[i].n);
        if (!want[i].n) continue;
        assert_string_equal(y.entries[i].values[0], want[i].first);
        assert_string_equal(y.entries[i].values[want[i].n - 1], want[i].last);
    }
    tl__yaml_free(&y);
    assert_int_equal(y.n, 0);
    const char *nothing[] = {"", "# only a comment\n", "---\n", "{}"};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(tl__yaml_parse(&y, nothing[i], strlen(nothing[i]), "run.yaml", &err), 0);
        assert_int_equal(y.n, 0);
        tl__yaml_free(&y);
    }
}

static void many_keys_and_values(void **state) {
    (void)state;
    char *text = malloc(1 << 20);
    tl_yaml y;
    tl_error err;
    for (int keys = 4096; keys <= 4097; keys++) {
        size_t n = 0;
        for (int i = 0; i < keys; i++) n += (size_t)sprintf(text + n, "k%d: [%d, 1, 2, 3, 4]\n", i, i);
        int rc = tl__yaml_parse(&y, text, n, "run.yaml", &err);
        assert_int_equal(rc, keys == 4096 ? 0 : TL_EFORMAT);
        for (int i = 0; i < y.n; i++)
            assert_true(atoi(y.entries[i].key + 1) == i && atoi(y.entries[i].values[0]) == i && y.entries[i].n == 5);
        tl__yaml_free(&y);
    }
    free(text);
}

static void refuses(void **state) {
    (void)state;
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"a: 1\na: 2\n", "line 2: \"a\" is given again (first on line 1)"},
        {"a.b: 1\na:\n  b: 2\n", "\"a.b\" is given again"},
        {"a: &x 1\n", "line 1: an anchor"},
        {"a: 1\nb: *x\n", "line 2: an alias"},
        {"a: !!int 1\n", "a tag"},
        {"!x {a: 1}\n", "a tag"},
        {"a: !x [1]\n", "a tag"},
        {"&r {a: 1}\n", "an anchor"},
        {"a: [[1]]\n", "plain values only"},
        {"a:\n  - b: 1\n", "line 2: a list may hold"},
        {"- 1\n", "a mapping was expected"},
        {"word", "a mapping was expected"},
        {"a: 1\n---\nb: 2\n", "a second document"},
        {"? [a]\n: 1\n", "a key must"},
        {"\"\": 1\n", "a key must"},
        {"a: \"x\\0y\"\n", "NUL"},
        {"a: {b: {c: {d: {e: {f: {g: {h: {i: 1}}}}}}}}\n", "deeper than 8"},
        {"a: 1\n  b: 2\n", "line 2"},
        {"a: [1, 2\n", "correct the YAML"},
        {"a: \"\xff\"\n", "correct the YAML"},
        {"\tx: 1\n", "correct the YAML"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        tl_yaml y;
        tl_error err = {0};
        int rc = tl__yaml_parse(&y, bad[i].text, strlen(bad[i].text), "run.yaml", &err);
        if (rc != TL_EFORMAT || !strstr(err.text, bad[i].says) || !strstr(err.text, "run.yaml"))
            fail_msg("case %zu: %d, %s", i, rc, err.text);
        assert_null(y.memory);
        assert_int_equal(tl__yaml_parse(&y, bad[i].text, strlen(bad[i].text), "run.yaml", NULL), TL_EFORMAT);
    }
    tl_yaml y;
    tl_error err;
    char *large = malloc((1 << 20) + 1);
    memset(large, '#', (1 << 20) + 1);
    assert_int_equal(tl__yaml_parse(&y, large, (1 << 20) + 1, "run.yaml", &err), TL_EFORMAT);
    memset(large, '[', 1 << 20); /* nesting is refused at the second level, not after a million */
    assert_int_equal(tl__yaml_parse(&y, large, 1 << 20, "run.yaml", &err), TL_EFORMAT);
    memset(large, 'k', 300);
    assert_int_equal(tl__yaml_parse(&y, large, 302 + (size_t)sprintf(large + 300, ": 1\n") - 2, "run.yaml", &err),
                     TL_EFORMAT);
    free(large);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(reads), cmocka_unit_test(many_keys_and_values),
                                       cmocka_unit_test(refuses)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
