/* json.h — reading JSON from outside with jansson, and asking for members so that an error names file, key and type.
 *
 * Depth, size and duplicate keys are limited here once. Writers use jansson too, except in the step (metrics.jsonl),
 * which prints into a fixed buffer. */
#ifndef TL_BASE_JSON_H
#define TL_BASE_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include "base/error.h"

/* Parse `size` bytes; `where` (a path) goes into errors. Rejects duplicate keys; NULL on failure. Caller
 * json_decref()s. */
json_t *tl__json_parse(const char *bytes, size_t size, const char *where, tl_error *err);
/* The same, but an integer beyond 64 bits is refused, where the other reads all integers of such a file as reals. */
json_t *tl__json_parse_exact(const char *bytes, size_t size, const char *where, tl_error *err);

/* Member `key` of object `obj`, typed. Missing: *out = fallback and 0 for the _or forms, TL_EFORMAT otherwise. A
 * present null counts as missing. Integers are range-checked against [least, most]. Strings are borrowed. */
int tl__json_int(const json_t *obj, const char *key, int64_t least, int64_t most, int64_t *out, const char *where,
                 tl_error *err);
int tl__json_int_or(const json_t *obj, const char *key, int64_t least, int64_t most, int64_t fallback, int64_t *out,
                    const char *where, tl_error *err);
int tl__json_real_or(const json_t *obj, const char *key, double least, double most, double fallback, double *out,
                     const char *where, tl_error *err);
int tl__json_bool_or(const json_t *obj, const char *key, bool fallback, bool *out, const char *where, tl_error *err);
int tl__json_string_or(const json_t *obj, const char *key, const char *fallback, const char **out, const char *where,
                       tl_error *err);

/* Append the JSON string literal (with quotes) of a UTF-8 text to out[size]; returns bytes written, or −1 if it does
 * not fit. Invalid UTF-8 becomes U+FFFD. For writers that must not touch the heap. */
int tl__json_quote(char *out, size_t size, const char *text, size_t text_bytes);

#endif
