/* json.c — owns the door for JSON from outside: size, depth, count and duplicates are limited before jansson builds
 * anything, and members are asked for by type so that an error names file, key and what was expected. */
#include "base/json.h"

#include <inttypes.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <utf8proc.h>

#define MAX_BYTES ((size_t)256 << 20)
#define MAX_DEPTH 128
/* Values cost jansson up to ~100 bytes each, so a hostile "[0,0,0…" would cost fifty times its size. The largest honest
 * files, tokenizers of 30 MB, hold about two million. */
#define MAX_VALUES ((size_t)16 << 20)

/* Nesting and number of values, by a look at the structural bytes outside strings. */
static int measure(const char *bytes, size_t size, const char *where, tl_error *err) {
    size_t values = 0;
    int depth = 0;
    bool quoted = false;
    for (size_t i = 0; i < size; i++) {
        char c = bytes[i];
        if (quoted) {
            if (c == '\\') i++;
            else if (c == '"') quoted = false;
        } else if (c == '"') {
            quoted = true;
        } else if (c == '[' || c == '{') {
            values++;
            if (++depth > MAX_DEPTH)
                return tl__fail(err, TL_EFORMAT, "%s: JSON nested deeper than %d levels; is it the right file?", where,
                                MAX_DEPTH);
        } else if (c == ']' || c == '}') {
            depth--;
        } else if (c == ',') {
            values++;
        }
    }
    if (values > MAX_VALUES)
        return tl__fail(err, TL_EFORMAT, "%s: JSON with more than %zu values; is it the right file?", where,
                        MAX_VALUES);
    return 0;
}

static json_t *parse(const char *bytes, size_t size, bool exact, const char *where, tl_error *err) {
    if (size > MAX_BYTES) {
        tl__fail(err, TL_EFORMAT, "%s: JSON of %zu bytes, over the limit of %zu; is it the right file?", where, size,
                 MAX_BYTES);
        return NULL;
    }
    if (measure(bytes, size, where, err)) return NULL;
    json_error_t why;
    json_t *root = json_loadb(bytes, size, JSON_REJECT_DUPLICATES, &why);
    /* Real files carry integers beyond 64 bits (model_max_length: 10^30 in many tokenizer_config.json). */
    if (!root && !exact && json_error_code(&why) == json_error_numeric_overflow)
        root = json_loadb(bytes, size, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, &why);
    if (!root)
        tl__fail(err, TL_EFORMAT, "%s: not valid JSON at line %d, column %d (%s); correct it or fetch the file again",
                 where, why.line, why.column, why.text);
    return root;
}

json_t *tl__json_parse(const char *bytes, size_t size, const char *where, tl_error *err) {
    return parse(bytes, size, false, where, err);
}

json_t *tl__json_parse_exact(const char *bytes, size_t size, const char *where, tl_error *err) {
    return parse(bytes, size, true, where, err);
}

static const char *type_of(const json_t *v) {
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a real number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    default:
        return "null";
    }
}

static const json_t *member(const json_t *obj, const char *key) {
    const json_t *v = json_object_get(obj, key);
    return v && !json_is_null(v) ? v : NULL;
}

static int read_int(const json_t *v, const char *key, int64_t least, int64_t most, int64_t *out, const char *where,
                    tl_error *err) {
    int64_t n;
    if (json_is_integer(v)) {
        n = json_integer_value(v);
    } else if (json_is_real(v) && json_real_value(v) == floor(json_real_value(v)) &&
               fabs(json_real_value(v)) <= 0x1p53) {
        n = (int64_t)json_real_value(v); /* 1e4, or any integer of a file that holds one beyond 64 bits */
    } else {
        return tl__fail(err, TL_EFORMAT, "%s: \"%s\" is %s; an integer from %" PRId64 " to %" PRId64 " was expected",
                        where, key, type_of(v), least, most);
    }
    if (n < least || n > most)
        return tl__fail(err, TL_EFORMAT,
                        "%s: \"%s\" is %" PRId64 "; an integer from %" PRId64 " to %" PRId64 " was expected", where,
                        key, n, least, most);
    *out = n;
    return 0;
}

int tl__json_int(const json_t *obj, const char *key, int64_t least, int64_t most, int64_t *out, const char *where,
                 tl_error *err) {
    const json_t *v = member(obj, key);
    if (!v)
        return tl__fail(err, TL_EFORMAT,
                        "%s: \"%s\" is missing; an integer from %" PRId64 " to %" PRId64 " was expected", where, key,
                        least, most);
    return read_int(v, key, least, most, out, where, err);
}

int tl__json_int_or(const json_t *obj, const char *key, int64_t least, int64_t most, int64_t fallback, int64_t *out,
                    const char *where, tl_error *err) {
    const json_t *v = member(obj, key);
    if (v) return read_int(v, key, least, most, out, where, err);
    *out = fallback;
    return 0;
}

int tl__json_real_or(const json_t *obj, const char *key, double least, double most, double fallback, double *out,
                     const char *where, tl_error *err) {
    const json_t *v = member(obj, key);
    *out = fallback;
    if (!v) return 0;
    if (!json_is_number(v))
        return tl__fail(err, TL_EFORMAT, "%s: \"%s\" is %s; a number from %g to %g was expected", where, key,
                        type_of(v), least, most);
    double x = json_number_value(v);
    if (!(x >= least && x <= most))
        return tl__fail(err, TL_EFORMAT, "%s: \"%s\" is %g; a number from %g to %g was expected", where, key, x, least,
                        most);
    *out = x;
    return 0;
}

int tl__json_bool_or(const json_t *obj, const char *key, bool fallback, bool *out, const char *where, tl_error *err) {
    const json_t *v = member(obj, key);
    *out = fallback;
    if (!v) return 0;
    if (!json_is_boolean(v))
        return tl__fail(err, TL_EFORMAT, "%s: \"%s\" is %s; true or false was expected", where, key, type_of(v));
    *out = json_is_true(v);
    return 0;
}

int tl__json_string_or(const json_t *obj, const char *key, const char *fallback, const char **out, const char *where,
                       tl_error *err) {
    const json_t *v = member(obj, key);
    *out = fallback;
    if (!v) return 0;
    if (!json_is_string(v))
        return tl__fail(err, TL_EFORMAT, "%s: \"%s\" is %s; a string was expected", where, key, type_of(v));
    *out = json_string_value(v);
    return 0;
}

int tl__json_quote(char *out, size_t size, const char *text, size_t text_bytes) {
    static const char digit[] = "0123456789abcdef";
    size_t used = 0;
    if (size > INT32_MAX) size = INT32_MAX;
    if (size < 2) return -1;
    out[used++] = '"';
    for (size_t i = 0; i < text_bytes;) {
        unsigned char c = (unsigned char)text[i];
        char form[8];
        size_t n = 0, step = 1;
        if (c >= 0x80) {
            utf8proc_int32_t point;
            size_t rest = text_bytes - i < 4 ? text_bytes - i : 4;
            utf8proc_ssize_t k = utf8proc_iterate((const utf8proc_uint8_t *)text + i, (utf8proc_ssize_t)rest, &point);
            if (k > 0) memcpy(form, text + i, n = step = (size_t)k);
            else memcpy(form, "\xef\xbf\xbd", n = 3);
        } else if (c < 0x20 || c == 0x7f) {
            const char *brief = strchr("\bb\tt\nn\ff\rr", c); /* pairs: the byte, its letter */
            form[n++] = '\\';
            if (c && c < 0x20 && brief) form[n++] = brief[1];
            else memcpy(form + 1, (char[]){'u', '0', '0', digit[c >> 4], digit[c & 15]}, 5), n = 6;
        } else {
            if (c == '"' || c == '\\') form[n++] = '\\';
            form[n++] = (char)c;
        }
        if (size - used < n + 1) return -1; /* and the closing quote */
        memcpy(out + used, form, n);
        used += n, i += step;
    }
    out[used++] = '"';
    if (used < size) out[used] = 0;
    return (int)used;
}
