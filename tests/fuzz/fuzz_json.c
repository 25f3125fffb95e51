/* Any bytes through the JSON door: an error with a sentence or a tree, whose members can be asked for; and any bytes
 * quoted must parse back. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "base/json.h"
#include "heap.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    tl_error err = {0};
    heap_watch();
    json_t *root = tl__json_parse((const char *)data, size, "input", &err);
    heap_check(4096, 8, size); /* a list's pointers, eight bytes for "0,", at most doubled */
    if (!root && (err.status >= 0 || !err.text[0])) abort();
    if (json_is_object(root)) {
        const char *key, *text;
        json_t *value;
        json_object_foreach(root, key, value) {
            int64_t n = 0;
            double x = 0;
            bool yes;
            if (!tl__json_int(root, key, -5, 1000, &n, "input", &err) && (n < -5 || n > 1000)) abort();
            if (tl__json_int_or(root, key, INT64_MIN, INT64_MAX, 3, &n, "input", &err) > 0) abort();
            if (!tl__json_real_or(root, key, 0, 1, 0.5, &x, "input", &err) && !(x >= 0 && x <= 1)) abort();
            tl__json_bool_or(root, key, true, &yes, "input", &err);
            if (!tl__json_string_or(root, key, "none", &text, "input", &err) && strlen(text) > size) abort();
        }
    }
    json_decref(root);

    size_t room = 6 * size + 3;
    char *quoted = malloc(room);
    int n = tl__json_quote(quoted, room, (const char *)data, size);
    if (n < 2 || strlen(quoted) != (size_t)n) abort();
    if (!memchr(data, 0, size)) { /* jansson has no NUL in strings */
        json_t *back = json_loadb(quoted, (size_t)n, JSON_DECODE_ANY, NULL);
        if (!json_is_string(back)) abort();
        json_decref(back);
    }
    char *tight = malloc((size_t)n); /* exactly enough, then one too few: no byte beyond */
    if (tl__json_quote(tight, (size_t)n, (const char *)data, size) != n) abort();
    if (tl__json_quote(tight, (size_t)n - 1, (const char *)data, size) != -1) abort();
    free(tight);
    free(quoted);
    return 0;
}
