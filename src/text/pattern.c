/* pattern.c — owns patterns and the translation of expressions; promises Oniguruma's matches for what it accepts. */
#include "text/pattern.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

enum { SOURCE_MOST = 8192, TEXT_MOST = 1 << 20, MATCH_LIMIT = 1 << 20 };

struct tl_pattern {
    enum { LITERAL, SET, REGEX } kind;
    tl_charset set;
    bool ascii[128]; /* in the set */
    pcre2_code *code;
    pcre2_match_context *context;
    char *source;
    size_t n;
    pthread_mutex_t lock; /* over spare */
    pcre2_match_data *spare;
};

static int no_memory(tl_error *err) {
    return tl__fail(err, TL_ENOMEM, "not enough memory for a pattern of the tokenizer; close other programs");
}

static tl_pattern *new_pattern(const char *source, size_t n) {
    tl_pattern *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    pthread_mutex_init(&p->lock, NULL);
    p->source = malloc(n + 1);
    if (!p->source) {
        tl__pattern_free(p);
        return NULL;
    }
    memcpy(p->source, source, n);
    p->source[n] = 0;
    p->n = n;
    return p;
}

void tl__pattern_free(tl_pattern *p) {
    if (!p) return;
    if (p->spare) pcre2_match_data_free(p->spare);
    if (p->code) pcre2_code_free(p->code);
    if (p->context) pcre2_match_context_free(p->context);
    pthread_mutex_destroy(&p->lock);
    free(p->source);
    free(p);
}

int tl__pattern_literal(tl_pattern **out, const char *bytes, size_t n, tl_error *err) {
    *out = new_pattern(bytes, n);
    return *out ? 0 : no_memory(err);
}

int tl__pattern_char(tl_pattern **out, uint32_t c, tl_error *err) {
    char text[4];
    return tl__pattern_literal(out, text, (size_t)tl__utf8_put(text, c), err);
}

int tl__pattern_set(tl_pattern **out, tl_charset set, tl_error *err) {
    *out = new_pattern("", 0);
    if (!*out) return no_memory(err);
    (*out)->kind = SET;
    (*out)->set = set;
    for (uint32_t c = 0; c < 128; c++) (*out)->ascii[c] = tl__char_in(set, c);
    return 0;
}

/* ---- translation ---- */

typedef struct translator {
    const char *s, *where;
    char *out;
    size_t n, room;
    bool failed;
    tl_error *err;
} translator;

static void add(translator *t, const char *text, size_t n) {
    if (t->failed) return;
    if (t->n + n + 1 > t->room) {
        size_t room = 2 * (t->n + n + 1) + 1024;
        char *bigger = room < 8 * TEXT_MOST ? realloc(t->out, room) : NULL;
        if (!bigger) {
            t->failed = true;
            return;
        }
        t->out = bigger;
        t->room = room;
    }
    memcpy(t->out + t->n, text, n);
    t->n += n;
    t->out[t->n] = 0;
}

/* What of a class stands between brackets: its ranges, or, negated, what lies between them. */
static void add_ranges(translator *t, tl_charset set, bool negated) {
    int n;
    const uint32_t(*ranges)[2] = tl__charset_ranges(set, &n);
    char text[64];
    uint32_t next = 0;
    for (int i = 0; i <= n; i++) {
        uint32_t a = i < n ? ranges[i][0] : 0x110000, b = i < n ? ranges[i][1] : 0x110000;
        if (negated) {
            /* Surrogates stand in no text and in no class that PCRE2 takes. */
            if (next < a && next < 0xD800 && a > 0xE000) {
                add(t, text, (size_t)snprintf(text, sizeof text, "\\x{%x}-\\x{d7ff}\\x{e000}-\\x{%x}", next, a - 1));
            } else if (next < a) {
                add(t, text, (size_t)snprintf(text, sizeof text, "\\x{%x}-\\x{%x}", next, a - 1));
            }
            next = b + 1;
        } else if (i < n) {
            add(t, text, (size_t)snprintf(text, sizeof text, a == b ? "\\x{%x}" : "\\x{%x}-\\x{%x}", a, b));
        }
    }
}

static int refuse(translator *t, const char *what, size_t n) {
    return tl__fail(t->err, TL_EUNSUPPORTED,
                    "%s: the expression \"%.80s\" has \"%.*s\", which is not supported here; literals, classes, groups, "
                    "look-around and quantifiers are",
                    t->where, t->s, (int)n, what);
}

static const struct {
    const char *name;
    tl_charset set;
} properties[] = {{"L", TL_SET_LETTER},       {"N", TL_SET_NUMBER},   {"Lu", TL_SET_UPPER},       {"Ll", TL_SET_LOWER},
                  {"Lt", TL_SET_TITLE},       {"Lm", TL_SET_MODIFIER}, {"Lo", TL_SET_OTHER_LETTER}, {"M", TL_SET_MARK},
                  {"P", TL_SET_PUNCTUATION},  {"S", TL_SET_SYMBOL},    {"Han", TL_SET_HAN},         {"Nd", TL_SET_DIGIT},
                  {"Letter", TL_SET_LETTER}, {"Number", TL_SET_NUMBER}};

/* A class escape at s (behind the backslash): its set; the number of bytes read, 0: it is none. */
static size_t class_escape(const char *s, tl_charset *set, bool *negated) {
    static const char letters[] = "sdw";
    static const tl_charset of[] = {TL_SET_SPACE, TL_SET_DIGIT, TL_SET_WORD};
    const char *at = *s ? strchr(letters, *s | 0x20) : NULL;
    if (at && ((*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z'))) {
        *set = of[at - letters];
        *negated = *s < 'a';
        return 1;
    }
    if (*s != 'p' && *s != 'P') return 0;
    *negated = *s == 'P';
    size_t n = 1;
    const char *name = s + 1;
    size_t length = 1;
    if (*name == '{') {
        name++;
        if (*name == '^') *negated = !*negated, name++;
        length = strcspn(name, "}");
        if (!name[length]) return 0;
        n = (size_t)(name - s) + length + 1;
    } else {
        return 0; /* Oniguruma knows no \pL */
    }
    for (size_t i = 0; i < sizeof properties / sizeof properties[0]; i++) {
        if (strlen(properties[i].name) == length && memcmp(properties[i].name, name, length) == 0) {
            *set = properties[i].set;
            return n;
        }
    }
    return 0;
}

/* Escapes that stand for one character in both: written as they are, or as a code point. Returns bytes read behind the
 * backslash, 0: not one. */
static size_t char_escape(translator *t, const char *s) {
    char text[32];
    if (*s == 'u') { /* \uXXXX */
        unsigned c = 0;
        for (int i = 1; i <= 4; i++) {
            char digit = s[i];
            if (!digit || !strchr("0123456789abcdefABCDEF", digit)) return 0;
            c = c * 16 + (unsigned)(digit <= '9' ? digit - '0' : (digit | 0x20) - 'a' + 10);
        }
        if (c >= 0xD800 && c < 0xE000) return 0;
        add(t, text, (size_t)snprintf(text, sizeof text, "\\x{%x}", c));
        return 5;
    }
    if (*s == 'x') { /* \x{…}, \xHH below 0x80 (above it Oniguruma reads a byte) */
        if (s[1] == '{') {
            size_t n = strspn(s + 2, "0123456789abcdefABCDEF");
            if (n == 0 || n > 6 || s[2 + n] != '}') return 0;
            add(t, "\\", 1);
            add(t, s, n + 3);
            return n + 3;
        }
        if (s[1] >= '0' && s[1] <= '7' && s[2] && strchr("0123456789abcdefABCDEF", s[2])) {
            add(t, "\\", 1);
            add(t, s, 3);
            return 3;
        }
        return 0;
    }
    if (strchr("rntfa", *s) || (*s > 0 && strchr("\\/.-+*?()[]{}|^$<>=!:;,'\"#&%@_`~ ", *s))) {
        add(t, "\\", 1);
        add(t, s, 1);
        return 1;
    }
    if (*s == 'v') return add(t, "\\x{b}", 5), 1;
    return 0;
}

/* A bracketed class at s; returns the bytes read, 0 and an error otherwise. */
static size_t translate_class(translator *t, const char *s, int *status) {
    size_t at = 1;
    add(t, "[", 1);
    if (s[at] == '^') add(t, s + at++, 1);
    bool any = false;
    while (s[at] && !(s[at] == ']' && any)) {
        any = true;
        if (s[at] == '[' || (s[at] == '&' && s[at + 1] == '&')) { /* a class within, [:name:], an intersection */
            *status = refuse(t, s + at, 2);
            return 0;
        }
        if (s[at] == ']') {
            *status = refuse(t, "an empty class", 14);
            return 0;
        }
        if (s[at] == '\\') {
            tl_charset set;
            bool negated;
            size_t n = class_escape(s + at + 1, &set, &negated);
            if (n) {
                add_ranges(t, set, negated);
            } else if (!(n = char_escape(t, s + at + 1))) {
                *status = refuse(t, s + at, 2 + (s[at + 1] == 'p') * strcspn(s + at + 1, "}"));
                return 0;
            }
            at += 1 + n;
        } else {
            add(t, s + at++, 1);
        }
    }
    if (!s[at]) {
        *status = refuse(t, "a class without its end", 23);
        return 0;
    }
    add(t, "]", 1);
    return at + 1;
}

static int translate(translator *t) {
    const char *s = t->s;
    for (size_t at = 0; s[at];) {
        int status = 0;
        if (s[at] == '[') {
            size_t n = translate_class(t, s + at, &status);
            if (status) return status;
            at += n;
        } else if (s[at] == '\\') {
            tl_charset set;
            bool negated;
            size_t n = class_escape(s + at + 1, &set, &negated);
            if (n) {
                static const char more[] = "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}";
                add(t, "[^", negated ? 2 : 1);
                add_ranges(t, set, false);
                /* ² ³ ¹ ¼ ½ ¾ are words to Oniguruma, but not between brackets. */
                if (set == TL_SET_WORD) add(t, more, sizeof more - 1);
                add(t, "]", 1);
            } else if (s[at + 1] == 'z' || s[at + 1] == 'A') { /* ends of the text */
                add(t, s + at, 2);
                n = 1;
            } else if (!(n = s[at + 1] ? char_escape(t, s + at + 1) : 0)) {
                return refuse(t, s + at, 2 + (s[at + 1] == 'p' || s[at + 1] == 'P') * strcspn(s + at + 1, "}"));
            }
            at += 1 + n;
        } else if (s[at] == '(' && s[at + 1] == '?') {
            static const char *const known[] = {"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"};
            size_t n = 0;
            for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
                if (strncmp(s + at, known[i], strlen(known[i])) == 0) n = strlen(known[i]);
            if (n == 0) return refuse(t, s + at, 4);
            add(t, s + at, n);
            at += n;
        } else if (s[at] == '^' || s[at] == '$') {
            add(t, s[at] == '^' ? "(?m:^)" : "(?m:$)", 6); /* lines' ends always, as in Ruby */
            at++;
        } else if (s[at] == '{' && at > 0) {
            /* {n}, {n,}, {n,m}; possessive only by ?+ ++ *+, which {n,m}+ is not in Ruby. */
            size_t n = 1 + strspn(s + at + 1, "0123456789,");
            if (n == 1 || s[at + n] != '}' || s[at + 1] == ',' || s[at + n + 1] == '+') return refuse(t, s + at, n + 1);
            add(t, s + at, n + 1);
            at += n + 1;
        } else {
            add(t, s + at++, 1);
        }
    }
    return 0;
}

int tl__pattern_regex(tl_pattern **out, const char *expression, const char *where, tl_error *err) {
    *out = NULL;
    size_t n = strlen(expression);
    if (n > SOURCE_MOST)
        return tl__fail(err, TL_EUNSUPPORTED, "%s: an expression has %zu bytes; at most %d are read", where, n,
                        SOURCE_MOST);
    translator t = {.s = expression, .where = where, .err = err};
    add(&t, "", 0);
    int status = translate(&t);
    tl_pattern *p = NULL;
    if (!status) {
        p = t.failed ? NULL : new_pattern(expression, n);
        if (!p) status = no_memory(err);
    }
    if (!status) {
        int code;
        PCRE2_SIZE at;
        p->kind = REGEX;
        p->code = pcre2_compile((PCRE2_SPTR)t.out, t.n, PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code, &at, NULL);
        p->context = p->code ? pcre2_match_context_create(NULL) : NULL;
        if (!p->code) {
            PCRE2_UCHAR said[128] = "";
            pcre2_get_error_message(code, said, sizeof said);
            status = tl__fail(err, TL_EFORMAT, "%s: the expression \"%.80s\" is malformed (%s); check the file", where,
                              expression, (char *)said);
        } else if (!p->context) {
            status = no_memory(err);
        } else {
            pcre2_set_match_limit(p->context, MATCH_LIMIT);
            pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE); /* without it, slower */
        }
    }
    free(t.out);
    if (status) tl__pattern_free(p);
    else *out = p;
    return status;
}

/* ---- matching ---- */

static bool find_regex(const tl_pattern *p, const uint8_t *s, size_t n, size_t at, size_t *from, size_t *to) {
    tl_pattern *mine = (tl_pattern *)p;
    pthread_mutex_lock(&mine->lock);
    pcre2_match_data *match = mine->spare;
    mine->spare = NULL;
    pthread_mutex_unlock(&mine->lock);
    if (!match) match = pcre2_match_data_create(1, NULL);
    if (!match) return false;
    bool found = pcre2_match(p->code, s, n, at, PCRE2_NO_UTF_CHECK, match, p->context) >= 0;
    if (found) {
        const PCRE2_SIZE *place = pcre2_get_ovector_pointer(match);
        *from = place[0];
        *to = place[1];
        found = *from <= *to;
    }
    pthread_mutex_lock(&mine->lock);
    if (!mine->spare) mine->spare = match, match = NULL;
    pthread_mutex_unlock(&mine->lock);
    if (match) pcre2_match_data_free(match);
    return found;
}

bool tl__pattern_find(const tl_pattern *p, const uint8_t *s, size_t n, size_t at, size_t *from, size_t *to) {
    if (at > n) return false;
    if (p->kind == REGEX) return find_regex(p, s, n, at, from, to);
    if (p->kind == LITERAL) {
        if (p->n == 0) return false;
        const uint8_t *found = memmem(s + at, n - at, p->source, p->n);
        if (!found) return false;
        *from = (size_t)(found - s);
        *to = *from + p->n;
        return true;
    }
    while (at < n) {
        uint32_t c;
        int width = tl__utf8_at(s + at, &c);
        if (c < 128 ? p->ascii[c] : tl__char_in(p->set, c)) {
            *from = at;
            *to = at + (size_t)width;
            return true;
        }
        at += (size_t)width;
    }
    return false;
}

bool tl__pattern_next(const tl_pattern *p, const uint8_t *s, size_t n, size_t *at, size_t *last_end, size_t *from,
                      size_t *to) {
    while (tl__pattern_find(p, s, n, *at, from, to)) {
        bool counts = *from < *to || *from != *last_end;
        *at = *to;
        if (*from == *to) { /* on by a character */
            uint32_t c;
            *at += *at < n ? (size_t)tl__utf8_at(s + *at, &c) : 1;
        }
        if (!counts) continue;
        *last_end = *to;
        return true;
    }
    return false;
}

const char *tl__pattern_source(const tl_pattern *p, size_t *n, bool *regex) {
    *n = p->n;
    *regex = p->kind == REGEX;
    return p->source;
}
