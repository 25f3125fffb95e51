/* jsonl.c — owns the reading of one JSON line for one string in it; promises to touch no heap and to end on any bytes.
 */
#include <string.h>

#include "text/text_source.h"
#include "text/unicode.h"

typedef struct cursor {
    const char *at, *end;
} cursor;

static void skip_space(cursor *c) {
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\t' || *c->at == '\r' || *c->at == '\n')) c->at++;
}

static int hex4(const char *s, const char *end) {
    int value = 0;
    if (end - s < 4) return -1;
    for (int i = 0; i < 4; i++) {
        char d = s[i];
        int digit = d >= '0' && d <= '9' ? d - '0' : (d | 32) >= 'a' && (d | 32) <= 'f' ? (d | 32) - 'a' + 10 : -1;
        if (digit < 0) return -1;
        value = value << 4 | digit;
    }
    return value;
}

/* A string whose opening quote is at c; decoded into out unless NULL (never longer than its literal). −1: malformed. */
static int64_t read_string(cursor *c, char *out, int64_t *replaced) {
    int64_t n = 0;
    const char *s = c->at + 1;
    for (;;) {
        const char *from = s;
        while (s < c->end && *s != '"' && *s != '\\' && (unsigned char)*s >= 0x20) s++;
        if (out) memcpy(out + n, from, (size_t)(s - from));
        n += s - from;
        if (s >= c->end || (unsigned char)*s < 0x20) return -1;
        if (*s == '"') break;
        if (++s >= c->end) return -1;
        char plain = 0;
        switch (*s++) {
        case '"':
        case '\\':
        case '/':
            plain = s[-1];
            break;
        case 'b':
            plain = '\b';
            break;
        case 'f':
            plain = '\f';
            break;
        case 'n':
            plain = '\n';
            break;
        case 'r':
            plain = '\r';
            break;
        case 't':
            plain = '\t';
            break;
        case 'u': {
            int unit = hex4(s, c->end);
            if (unit < 0) return -1;
            s += 4;
            uint32_t point = (uint32_t)unit;
            if (unit >= 0xD800 && unit <= 0xDFFF) {
                int low = unit <= 0xDBFF && c->end - s >= 6 && s[0] == '\\' && s[1] == 'u' ? hex4(s + 2, c->end) : -1;
                if (low >= 0xDC00 && low <= 0xDFFF) {
                    point = 0x10000u + ((uint32_t)(unit - 0xD800) << 10) + (uint32_t)(low - 0xDC00);
                    s += 6;
                } else {
                    point = 0xFFFD;
                    if (out) ++*replaced;
                }
            }
            char four[4];
            int width = tl__utf8_put(four, point);
            if (out) memcpy(out + n, four, (size_t)width);
            n += width;
            continue;
        }
        default:
            return -1;
        }
        if (out) out[n] = plain;
        n++;
    }
    c->at = s + 1;
    return n;
}

/* Passes over any value; brackets are counted, not matched by kind. */
static bool skip_value(cursor *c) {
    int64_t depth = 0;
    do {
        skip_space(c);
        if (c->at >= c->end) return false;
        char first = *c->at;
        if (first == '"') {
            if (read_string(c, NULL, NULL) < 0) return false;
        } else if (first == '{' || first == '[') {
            depth++, c->at++;
        } else if (first == '}' || first == ']') {
            if (depth-- == 0) return false;
            c->at++;
        } else if (depth > 0 && (first == ',' || first == ':')) {
            c->at++;
        } else {
            const char *from = c->at;
            while (c->at < c->end && !strchr(",:]}[{\" \t\r\n", *c->at)) c->at++;
            if (c->at == from) return false;
        }
    } while (depth > 0);
    return true;
}

int64_t tl__jsonl_text(const char *line, size_t n, const char *key, char *out, int64_t *replaced) {
    enum { MALFORMED = -2, NO_KEY = -3, NO_STRING = -4 };
    cursor c = {line, line + n};
    size_t key_n = strlen(key);
    int64_t result = NO_KEY, bad = 0;
    skip_space(&c);
    if (c.at == c.end) return -1;
    if (*c.at++ != '{') return MALFORMED;
    skip_space(&c);
    if (c.at < c.end && *c.at == '}') {
        c.at++;
    } else {
        for (;;) {
            skip_space(&c);
            if (c.at >= c.end || *c.at != '"') return MALFORMED;
            const char *name = c.at + 1;
            if (read_string(&c, NULL, NULL) < 0) return MALFORMED;
            bool found = (size_t)(c.at - 1 - name) == key_n && memcmp(name, key, key_n) == 0;
            skip_space(&c);
            if (c.at >= c.end || *c.at++ != ':') return MALFORMED;
            skip_space(&c);
            if (found && c.at < c.end && *c.at == '"') {
                bad = 0;
                result = read_string(&c, out, &bad); /* of keys that stand twice the last counts */
                if (result < 0) return MALFORMED;
            } else {
                if (!skip_value(&c)) return MALFORMED;
                if (found) result = NO_STRING;
            }
            skip_space(&c);
            if (c.at >= c.end) return MALFORMED;
            if (*c.at == '}') {
                c.at++;
                break;
            }
            if (*c.at++ != ',') return MALFORMED;
        }
    }
    skip_space(&c);
    if (c.at != c.end) return MALFORMED;
    if (result >= 0) *replaced += bad;
    return result;
}

int tl__jsonl_fail(int64_t what, const char *path, int64_t line, const char *key, tl_error *err) {
    if (what == -3)
        return tl__fail(err, TL_EFORMAT,
                        "%s, line %lld has no key \"%s\"; name the one that holds the text with --text-key", path,
                        (long long)line, key);
    if (what == -4)
        return tl__fail(err, TL_EFORMAT,
                        "%s, line %lld: \"%s\" is not a string; name the key that holds the text with --text-key", path,
                        (long long)line, key);
    return tl__fail(err, TL_EFORMAT, "%s, line %lld is not a JSON object; a .jsonl file has one on each line", path,
                    (long long)line);
}
