/* test_tool_calls.c — calls are found in what models write, whole or as it streams, and nothing else is taken for one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "serve/tool_calls.h"

static const struct {
    const char *text, *content; /* what is left beside the calls */
    const char *calls[3][2];    /* name, arguments */
} cases[] = {
    {"<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 0.10, \"y\": [1, {\"z\": \"}\"}]}}\n</tool_call>",
     "",
     {{"f", "{\"x\": 0.10, \"y\": [1, {\"z\": \"}\"}]}"}}},
    {"Let me "
     "see.\n\n<tool_call>{\"name\":\"f\",\"arguments\":{}}</"
     "tool_call>\n<tool_call>{\"arguments\":{\"a\":1},\"name\":\"g\"}</"
     "tool_call>",
     "Let me see.",
     {{"f", "{}"}, {"g", "{\"a\":1}"}}},
    {"<tool_call>[{\"name\": \"f\", \"arguments\": {\"a\": 1}}, {\"name\": \"g\", \"arguments\": {\"b\": "
     "\"]\"}}]</tool_call>",
     "",
     {{"f", "{\"a\": 1}"}, {"g", "{\"b\": \"]\"}"}}},
    {"<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}}", "", {{"f", "{\"a\": 1}"}}}, /* cut off behind it */
    {"<tool_call>{\"name\": \"f\", \"arguments\": \"as text\"}</tool_call>", "", {{"f", "as text"}}},
    {"<tool_call>{\"name\": \"f\"}</tool_call>", "", {{"f", "{}"}}},
    {"<tool_call>{\"name\": \"f\", \"argu\\u006dents\": {\"a\": 1}}</tool_call>", "", {{"f", "{\"a\":1}"}}},
    {"{\"name\": \"f\", \"parameters\": {\"a\": \"\\\"}\"}}", "", {{"f", "{\"a\": \"\\\"}\"}"}}},
    {"\n [{\"name\": \"f\", \"arguments\": {\"a\" : 1 } }, {\"name\":\"g\"}]\n",
     "",
     {{"f", "{\"a\" : 1 }"}, {"g", "{}"}}},
    /* none */
    {"", "", {{0}}},
    {"plain text", "plain text", {{0}}},
    {"{\"name\": \"unknown\", \"parameters\": {}}", "{\"name\": \"unknown\", \"parameters\": {}}", {{0}}},
    {"{\"answer\": 7}", "{\"answer\": 7}", {{0}}},
    {"[]", "[]", {{0}}},
    {"[1, 2]", "[1, 2]", {{0}}},
    {"see {\"name\": \"f\", \"parameters\": {}}", "see {\"name\": \"f\", \"parameters\": {}}", {{0}}},
    {"<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": </tool_call>",
     "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": </tool_call>",
     {{0}}},
    {"<tool_call>{\"name\": 7}</tool_call>", "<tool_call>{\"name\": 7}</tool_call>", {{0}}},
    {"a <tool_cal", "a <tool_cal", {{0}}},
    {"<b>bold</b> <", "<b>bold</b> <", {{0}}},
    {"  ", "  ", {{0}}},
};
enum { CASES = sizeof cases / sizeof *cases };

static json_t *tools(void) {
    return json_pack("[{s:s,s:{s:s}},{s:s,s:{s:s}}]", "type", "function", "function", "name", "f", "type", "function",
                     "function", "name", "g");
}

static void check(int i, const json_t *calls, const char *content, size_t n) {
    int want = 0;
    while (want < 3 && cases[i].calls[want][0]) want++;
    if ((int)json_array_size(calls) != want) fail_msg("case %d: %zu calls, not %d", i, json_array_size(calls), want);
    if (n != strlen(cases[i].content) || memcmp(content, cases[i].content, n) != 0)
        fail_msg("case %d: '%.*s' is left, not '%s'", i, (int)n, content, cases[i].content);
    for (int k = 0; k < want; k++) {
        const json_t *f = json_object_get(json_array_get(calls, (size_t)k), "function");
        assert_string_equal(json_string_value(json_object_get(f, "name")), cases[i].calls[k][0]);
        assert_string_equal(json_string_value(json_object_get(f, "arguments")), cases[i].calls[k][1]);
    }
}

static void whole(void **state) {
    json_t *known = tools();
    (void)state;
    for (int i = 0; i < CASES; i++) {
        size_t content;
        json_t *calls = tl__tool_calls(cases[i].text, strlen(cases[i].text), true, known, false, &content);
        check(i, calls, cases[i].text, content);
        json_decref(calls);
        calls = tl__tool_calls(cases[i].text, strlen(cases[i].text), true, known, true, &content);
        assert_true(json_array_size(calls) <= 1);
        json_decref(calls);
    }
    json_decref(known);
}

/* In pieces of 1, 2, … bytes: what is called safe is told at once, and what is told is what was told whole. */
static void streamed(void **state) {
    json_t *known = tools();
    (void)state;
    for (int i = 0; i < CASES; i++)
        for (size_t step = 1; step < 9; step++) {
            const size_t n = strlen(cases[i].text);
            char told[256] = "";
            size_t from = 0, used = 0;
            for (size_t to = 0; to < n;) {
                to = to + step < n ? to + step : n;
                const size_t safe = tl__tool_calls_safe(cases[i].text + from, to - from, from == 0);
                memcpy(told + used, cases[i].text + from, safe);
                used += safe, from += safe;
            }
            size_t rest;
            json_t *calls = tl__tool_calls(cases[i].text + from, n - from, from == 0, known, false, &rest);
            memcpy(told + used, cases[i].text + from, rest);
            check(i, calls, told, used + rest);
            json_decref(calls);
        }
    /* Text that can be no call is not held back. */
    assert_int_equal(tl__tool_calls_safe("hello", 5, true), 5);
    assert_int_equal(tl__tool_calls_safe("{", 1, false), 1);
    json_decref(known);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(whole), cmocka_unit_test(streamed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
