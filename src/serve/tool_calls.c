/* tool_calls.c — arguments are handed on as the bytes that the model wrote: a number keeps its digits. */
#include "serve/tool_calls.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include "base/json.h"

static const char begin_mark[] = "<tool_call>", end_mark[] = "</tool_call>";
#define BEGIN_BYTES (sizeof begin_mark - 1)
#define END_BYTES (sizeof end_mark - 1)

static size_t blanks(const char *text, size_t n) {
    size_t i = 0;
    while (i < n && (text[i] == ' ' || text[i] == '\n' || text[i] == '\t' || text[i] == '\r')) i++;
    return i;
}

/* ---- where the bytes of a member lie, in a text that is valid JSON ---- */

static size_t skip_string(const char *text, size_t at) {
    for (at++; text[at] != '"'; at++)
        if (text[at] == '\\') at++;
    return at + 1;
}

/* Past the value at `at`. */
static size_t skip_value(const char *text, size_t n, size_t at) {
    int depth = 0;
    if (text[at] == '"') return skip_string(text, at);
    while (at < n) {
        const char c = text[at];
        if (c == '"') {
            at = skip_string(text, at);
            continue;
        }
        if (depth == 0 && (c == ',' || c == '}' || c == ']')) return at; /* a number or a word ends here */
        if (c == '{' || c == '[') depth++;
        at++;
        if ((c == '}' || c == ']') && --depth == 0) return at;
    }
    return at;
}

/* The value of a member of the object that begins at `at`; [*begin, *end). */
static bool find_member(const char *text, size_t n, size_t at, const char *key, size_t *begin, size_t *end) {
    const size_t key_n = strlen(key);
    at++;
    for (;;) {
        at += blanks(text + at, n - at);
        if (at >= n || text[at] != '"') return false;
        const size_t name = at + 1;
        at = skip_string(text, at);
        const bool found = at - 1 - name == key_n && memcmp(text + name, key, key_n) == 0;
        at += blanks(text + at, n - at) + 1; /* the colon */
        at += blanks(text + at, n - at);
        *begin = at;
        *end = at = skip_value(text, n, at);
        while (*end > *begin && blanks(text + *end - 1, 1)) --*end;
        if (found) return true;
        at += blanks(text + at, n - at);
        if (at >= n || text[at] != ',') return false;
        at++;
    }
}

/* ---- calls ---- */

static bool is_known(const json_t *tools, const char *name) {
    for (size_t i = 0; i < json_array_size(tools); i++) {
        const char *known =
            json_string_value(json_object_get(json_object_get(json_array_get(tools, i), "function"), "name"));
        if (known && strcmp(known, name) == 0) return true;
    }
    return false;
}

static json_t *arguments_of(const char *text, size_t n, size_t at, const json_t *call) {
    static const char *const names[] = {"arguments", "parameters"};
    size_t begin, end;
    for (int i = 0; i < 2; i++) {
        const json_t *value = json_object_get(call, names[i]);
        if (json_is_string(value)) return json_incref((json_t *)(uintptr_t)value);
        if (!json_is_object(value)) continue;
        if (find_member(text, n, at, names[i], &begin, &end)) return json_stringn(text + begin, end - begin);
        char *anew = json_dumps(value, JSON_COMPACT); /* its name is spelled with escapes */
        json_t *arguments = anew ? json_string(anew) : NULL;
        free(anew);
        return arguments;
    }
    return json_string("{}");
}

static bool add_call(json_t *calls, const char *text, size_t n, size_t at, const json_t *call, const json_t *only) {
    const char *name = json_string_value(json_object_get(call, "name"));
    unsigned long long number[2];
    char id[40];
    if (!name || !*name || (only && !is_known(only, name))) return false;
    if (getrandom(number, sizeof number, 0) != (ssize_t)sizeof number) return false;
    snprintf(id, sizeof id, "call_%016llx%08llx", number[0], number[1] & 0xffffffff);
    json_array_append_new(calls, json_pack("{s:s, s:s, s:{s:s, s:o}}", "id", id, "type", "function", "function", "name",
                                           name, "arguments", arguments_of(text, n, at, call)));
    return true;
}

/* One value in JSON that holds a call or a list of calls, and nothing besides. */
static bool add_calls(json_t *calls, const char *text, size_t n, const json_t *only) {
    json_t *value = tl__json_parse_exact(text, n, "a call", NULL);
    bool good = json_is_object(value) || (json_is_array(value) && json_array_size(value) > 0);
    size_t at = blanks(text, n);
    if (json_is_object(value)) good = add_call(calls, text, n, at, value, only);
    at++;
    for (size_t i = 0; i < json_array_size(value) && good; i++) {
        at += blanks(text + at, n - at);
        good = json_is_object(json_array_get(value, i)) && add_call(calls, text, n, at, json_array_get(value, i), only);
        if (!good) break;
        at = skip_value(text, n, at);
        at += blanks(text + at, n - at) + 1; /* the comma */
    }
    json_decref(value);
    return good;
}

json_t *tl__tool_calls(const char *text, size_t n, bool whole, const json_t *tools, bool one, size_t *content) {
    json_t *calls = json_array();
    const char *begin = memmem(text, n, begin_mark, BEGIN_BYTES);
    bool good = true;
    *content = n;
    if (!begin) {
        good = whole && add_calls(calls, text, n, tools);
        *content = 0;
    } else {
        size_t before = (size_t)(begin - text);
        *content = before;
        while (*content > 0 && blanks(text + *content - 1, 1)) --*content;
    }
    while (begin && good) {
        const char *inner = begin + BEGIN_BYTES;
        const size_t left = n - (size_t)(inner - text);
        const char *end = memmem(inner, left, end_mark, END_BYTES);
        good = add_calls(calls, inner, end ? (size_t)(end - inner) : left, NULL);
        begin = end ? memmem(end, n - (size_t)(end - text), begin_mark, BEGIN_BYTES) : NULL;
    }
    if (!good || json_array_size(calls) == 0) {
        json_decref(calls);
        *content = n;
        return NULL;
    }
    while (one && json_array_size(calls) > 1) json_array_remove(calls, json_array_size(calls) - 1);
    return calls;
}

size_t tl__tool_calls_safe(const char *text, size_t n, bool whole) {
    const size_t lead = blanks(text, n);
    if (lead == n || (whole && (text[lead] == '{' || text[lead] == '['))) return 0;
    const char *begin = memmem(text, n, begin_mark, BEGIN_BYTES);
    size_t safe = begin ? (size_t)(begin - text) : n;
    for (size_t k = BEGIN_BYTES - 1; k > 0 && !begin; k--) /* the mark may have begun */
        if (k <= n && memcmp(text + n - k, begin_mark, k) == 0) {
            safe = n - k;
            break;
        }
    while (safe > 0 && blanks(text + safe - 1, 1)) safe--; /* blanks before a call go with it */
    return safe;
}
