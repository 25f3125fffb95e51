/* template_value.c — makes values, compares them, and writes them as Python's str() and repr() would. */
#include "text/template_value.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "text/template.h"
#include "text/unicode.h"

/* ---- memory ---- */

#define CHUNK_BYTES ((size_t)16 << 10)

typedef struct tl_chunk {
    struct tl_chunk *next;
    size_t used, room;
    _Alignas(16) char bytes[];
} tl_chunk;

static _Noreturn void too_large(tl_memory *m) {
    tl__fail(m->err, TL_ENOMEM, "%s needs more than %zu MiB of memory; is it the right template?", m->what,
             m->limit >> 20);
    longjmp(*m->door, 1);
}

void *tl__memory_take(tl_memory *m, size_t bytes) {
    if (bytes > m->limit) too_large(m);
    bytes = (bytes + 15) & ~(size_t)15;
    tl_chunk *c = m->first;
    if (!c || c->room - c->used < bytes) {
        /* Chunks grow with what was taken, so that a large rendering takes few. */
        size_t room = m->used / 4 > CHUNK_BYTES ? m->used / 4 : CHUNK_BYTES;
        if (room > ((size_t)1 << 20)) room = (size_t)1 << 20;
        if (room < bytes) room = bytes;
        if (m->used + room > m->limit) room = bytes;
        if (m->used + room > m->limit) too_large(m);
        c = malloc(sizeof *c + room);
        if (!c) too_large(m);
        c->used = 0, c->room = room;
        c->next = m->first;
        m->first = c;
        m->used += room;
    }
    void *p = c->bytes + c->used;
    c->used += bytes;
    return memset(p, 0, bytes);
}

void tl__memory_free(tl_memory *m) {
    for (tl_chunk *c = m->first, *next; c; c = next) next = c->next, free(c);
    m->first = NULL, m->used = 0;
}

/* Room for at least `need` of size `each`, doubled; what was there is copied. */
static void *grow(tl_memory *m, void *old, size_t n, size_t *room, size_t need, size_t each) {
    size_t more = *room < 8 ? 8 : *room;
    while (more < need) more = more > SIZE_MAX / 4 ? need : 2 * more;
    if (more > m->limit / each) too_large(m);
    void *bytes = tl__memory_take(m, more * each);
    if (n) memcpy(bytes, old, n * each);
    *room = more;
    return bytes;
}

/* ---- strings ---- */

static size_t count_chars(const char *bytes, size_t n) {
    size_t chars = 0;
    for (size_t i = 0; i < n; i++) chars += (bytes[i] & 0xC0) != 0x80;
    return chars;
}

const tl_string *tl__string(tl_memory *m, const char *bytes, size_t n, const unsigned char *data) {
    tl_string *s = TL_NEW(m, tl_string, 1);
    *s = (tl_string){.bytes = bytes, .n = n, .chars = count_chars(bytes, n), .data = data};
    return s;
}

const tl_string *tl__string_copy(tl_memory *m, const char *bytes, size_t n) {
    char *copy = tl__memory_take(m, n + 1);
    memcpy(copy, bytes, n);
    return tl__string(m, copy, n, NULL);
}

const tl_string *tl__string_part(tl_memory *m, const tl_string *s, size_t from, size_t n) {
    if (n == s->n) return s;
    tl_string *part = TL_NEW(m, tl_string, 1);
    *part = (tl_string){.bytes = s->bytes + from,
                        .n = n,
                        .chars = s->chars == s->n ? n : count_chars(s->bytes + from, n),
                        .data = s->data ? s->data + from : NULL,
                        .safe = s->safe};
    return part;
}

bool tl__string_is(const tl_string *s, const char *text) {
    return s->n == strlen(text) && memcmp(s->bytes, text, s->n) == 0;
}

int tl__string_compare(const tl_string *a, const tl_string *b) {
    int c = memcmp(a->bytes, b->bytes, a->n < b->n ? a->n : b->n); /* UTF-8 sorts as its code points do */
    return c ? (c > 0) - (c < 0) : (a->n > b->n) - (a->n < b->n);
}

/* ---- text that grows ---- */

void tl__text_add(tl_text *t, const char *bytes, size_t n, const unsigned char *data) {
    if (n == 0) return;
    size_t room = t->room;
    if (t->room - t->n < n) {
        t->bytes = grow(t->m, t->bytes, t->n, &room, t->n + n, 1);
        if (t->data) {
            unsigned char *more = tl__memory_take(t->m, room);
            memcpy(more, t->data, t->n);
            t->data = more;
        }
        t->room = room;
    }
    if (data && !t->data) t->data = tl__memory_take(t->m, t->room);
    memcpy(t->bytes + t->n, bytes, n);
    if (data) memcpy(t->data + t->n, data, n);
    t->n += n;
}

void tl__text_string(tl_text *t, const tl_string *s) {
    tl__text_add(t, s->bytes, s->n, s->data);
}

void tl__text_c(tl_text *t, const char *literal) {
    tl__text_add(t, literal, strlen(literal), NULL);
}

void tl__text_char(tl_text *t, uint32_t c, bool data) {
    char form[4];
    tl__text_add(t, form, (size_t)tl__utf8_put(form, c), data ? (const unsigned char *)"\1\1\1\1" : NULL);
}

void tl__text_fill(tl_text *t, uint32_t c, int64_t count) {
    for (int64_t i = 0; i < count; i++) tl__text_char(t, c, false);
}

const tl_string *tl__text_done(tl_text *t) {
    return tl__string(t->m, t->bytes ? t->bytes : "", t->n, t->data);
}

/* ---- containers ---- */

tl_value tl__list_new(tl_memory *m, tl_value_kind kind, size_t room) {
    if (room > m->limit / sizeof(tl_value)) too_large(m);
    tl_list_value *list = TL_NEW(m, tl_list_value, 1);
    if (room) list->at = TL_NEW(m, tl_value, room), list->room = room;
    return (tl_value){.kind = kind, .list = list};
}

void tl__list_add(tl_memory *m, tl_list_value *list, tl_value item) {
    if (list->n == list->room) list->at = grow(m, list->at, list->n, &list->room, list->n + 1, sizeof *list->at);
    list->at[list->n++] = item;
}

tl_value tl__dict_new(tl_memory *m, tl_value_kind kind) {
    return (tl_value){.kind = kind, .dict = TL_NEW(m, tl_dict, 1)};
}

static bool hashable(tl_value v, int *left) {
    if (--*left < 0) return false;
    if (v.kind == TL_V_TUPLE) {
        for (size_t i = 0; i < v.list->n; i++)
            if (!hashable(v.list->at[i], left)) return false;
        return true;
    }
    return v.kind != TL_V_LIST && v.kind != TL_V_DICT && v.kind != TL_V_VIEW;
}

bool tl__value_hashable(tl_value v) {
    int left = 10000;
    return hashable(v, &left);
}

/* Equal values have equal hashes: 1, 1.0 and true too. */
static uint64_t hash_of(tl_value v) {
    uint64_t h = 0xcbf29ce484222325u;
    switch (v.kind) {
    case TL_V_STRING:
        for (size_t i = 0; i < v.s->n; i++) h = (h ^ (unsigned char)v.s->bytes[i]) * 0x100000001b3u;
        break;
    case TL_V_BOOL:
    case TL_V_INT:
        h ^= (uint64_t)tl__value_int(v) * 0x9E3779B97F4A7C15u;
        break;
    case TL_V_FLOAT:
        if (v.f == floor(v.f) && fabs(v.f) < 0x1p62) h ^= (uint64_t)(int64_t)v.f * 0x9E3779B97F4A7C15u;
        else memcpy(&h, &v.f, sizeof h);
        break;
    case TL_V_TUPLE:
        for (size_t i = 0; i < v.list->n; i++) h = (h ^ hash_of(v.list->at[i])) * 0x100000001b3u;
        break;
    default:
        h ^= (uint64_t)v.kind;
    }
    return h ^ h >> 29;
}

#define SMALL 8

static size_t find(const tl_dict *d, tl_value key) {
    if (!d->index) {
        for (size_t i = 0; i < d->n; i++)
            if (tl__value_equal(d->at[i].key, key, NULL)) return i;
        return SIZE_MAX;
    }
    for (size_t h = hash_of(key);; h++) {
        uint32_t at = d->index[h & (d->indexed - 1)];
        if (!at) return SIZE_MAX;
        if (tl__value_equal(d->at[at - 1].key, key, NULL)) return at - 1;
    }
}

static void index_all(tl_memory *m, tl_dict *d) {
    d->indexed = d->indexed ? 4 * d->indexed : 64;
    d->index = TL_NEW(m, uint32_t, d->indexed);
    for (size_t i = 0; i < d->n; i++) {
        size_t h = hash_of(d->at[i].key);
        while (d->index[h & (d->indexed - 1)]) h++;
        d->index[h & (d->indexed - 1)] = (uint32_t)i + 1;
    }
}

void tl__dict_set(tl_memory *m, tl_dict *d, tl_value key, tl_value value) {
    size_t at = find(d, key);
    if (at != SIZE_MAX) {
        d->at[at].value = value;
        return;
    }
    if (d->n == d->room) d->at = grow(m, d->at, d->n, &d->room, d->n + 1, sizeof *d->at);
    d->at[d->n++] = (tl_pair){key, value};
    if (d->n > SMALL && (!d->index || 2 * d->n > d->indexed)) {
        index_all(m, d);
    } else if (d->index) {
        size_t h = hash_of(key);
        while (d->index[h & (d->indexed - 1)]) h++;
        d->index[h & (d->indexed - 1)] = (uint32_t)d->n;
    }
}

const tl_value *tl__dict_get(const tl_dict *d, tl_value key) {
    size_t at = find(d, key);
    return at == SIZE_MAX ? NULL : &d->at[at].value;
}

const tl_value *tl__dict_get_c(const tl_dict *d, const char *key) {
    tl_string s = {.bytes = key, .n = strlen(key)};
    return tl__dict_get(d, tl__str(&s));
}

/* ---- comparing ---- */

bool tl__value_number(tl_value v) {
    return v.kind == TL_V_BOOL || v.kind == TL_V_INT || v.kind == TL_V_FLOAT;
}

int tl__number_compare(tl_value a, tl_value b) {
    /* 64 bits of mantissa hold every int64 and every double. */
    long double x = a.kind == TL_V_FLOAT ? (long double)a.f : (long double)tl__value_int(a);
    long double y = b.kind == TL_V_FLOAT ? (long double)b.f : (long double)tl__value_int(b);
    return x < y ? -1 : x > y ? 1 : x == y ? 0 : 2;
}

static bool list_equal(const tl_list_value *a, const tl_list_value *b, int64_t *left);

static bool equal(tl_value a, tl_value b, int64_t *left) {
    if (--*left < 0) return false;
    if (tl__value_number(a) && tl__value_number(b)) return tl__number_compare(a, b) == 0;
    if (a.kind != b.kind) return false;
    switch (a.kind) {
    case TL_V_UNDEFINED:
    case TL_V_NONE:
        return true;
    case TL_V_STRING:
        *left -= (int64_t)(a.s->n / 64);
        return a.s->n == b.s->n && memcmp(a.s->bytes, b.s->bytes, a.s->n) == 0;
    case TL_V_LIST:
    case TL_V_TUPLE:
        return list_equal(a.list, b.list, left);
    case TL_V_DICT:
        if (a.dict->n != b.dict->n) return false;
        for (size_t i = 0; i < a.dict->n && a.dict != b.dict; i++) {
            const tl_value *other = tl__dict_get(b.dict, a.dict->at[i].key);
            if (!other || !equal(a.dict->at[i].value, *other, left)) return false;
        }
        return true;
    case TL_V_RANGE:
        return a.range->n == b.range->n && (a.range->n == 0 || (a.range->start == b.range->start &&
                                                                (a.range->n == 1 || a.range->step == b.range->step)));
    case TL_V_METHOD:
        return a.which == b.which && a.bound == b.bound;
    case TL_V_GLOBAL:
        return a.which == b.which;
    default:
        return a.dict == b.dict; /* the same object */
    }
}

static bool list_equal(const tl_list_value *a, const tl_list_value *b, int64_t *left) {
    if (a == b) return true;
    if (a->n != b->n) return false;
    for (size_t i = 0; i < a->n; i++)
        if (!equal(a->at[i], b->at[i], left)) return false;
    return true;
}

bool tl__value_equal(tl_value a, tl_value b, int64_t *left) {
    int64_t of_keys = INT64_MAX;
    return equal(a, b, left ? left : &of_keys);
}

const char *tl__value_type(tl_value v) {
    switch (v.kind) {
    case TL_V_MISSING:
    case TL_V_UNDEFINED:
        return "Undefined";
    case TL_V_NONE:
        return "NoneType";
    case TL_V_BOOL:
        return "bool";
    case TL_V_INT:
        return "int";
    case TL_V_FLOAT:
        return "float";
    case TL_V_STRING:
        return "str";
    case TL_V_LIST:
        return "list";
    case TL_V_TUPLE:
        return "tuple";
    case TL_V_DICT:
        return "dict";
    case TL_V_VIEW:
        return v.which == 0 ? "dict_keys" : v.which == 1 ? "dict_values" : "dict_items";
    case TL_V_RANGE:
        return "range";
    case TL_V_ITERATOR:
        return v.iterator->label ? v.iterator->label : "generator";
    case TL_V_NAMESPACE:
        return "Namespace";
    case TL_V_LOOP:
        return "LoopContext";
    case TL_V_MACRO:
        return "Macro";
    case TL_V_GLOBAL:
        return "function";
    case TL_V_METHOD:
        return "builtin_function_or_method";
    case TL_V_CYCLER:
        return "Cycler";
    case TL_V_JOINER:
        return "Joiner";
    }
    return "object";
}

/* ---- text ---- */

void tl__float_text(char *out, double x) {
    if (isnan(x) || isinf(x)) {
        strcpy(out, isnan(x) ? "nan" : x > 0 ? "inf" : "-inf");
        return;
    }
    /* The fewest digits that read back as x; of those the nearest, as Python's shortest form is. */
    char e[40];
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(e, sizeof e, "%.*e", digits - 1, x);
        if (strtod(e, NULL) == x) break;
    }
    char digit[24];
    int n = 0;
    char *mark = strchr(e, 'e');
    for (char *p = e; p < mark; p++)
        if (*p >= '0' && *p <= '9') digit[n++] = *p;
    int power = (int)strtol(mark + 1, NULL, 10);
    char *o = out;
    if (e[0] == '-') *o++ = '-';
    if (power < -4 || power >= 16) {
        *o++ = digit[0];
        if (n > 1) {
            *o++ = '.';
            memcpy(o, digit + 1, (size_t)n - 1);
            o += n - 1;
        }
        sprintf(o, "e%c%02d", power < 0 ? '-' : '+', power < 0 ? -power : power);
        return;
    }
    if (power < 0) {
        *o++ = '0', *o++ = '.';
        for (int i = -1; i > power; i--) *o++ = '0';
        memcpy(o, digit, (size_t)n);
        o += n;
    } else {
        for (int i = 0; i <= power; i++) *o++ = i < n ? digit[i] : '0';
        *o++ = '.';
        if (n > power + 1) {
            memcpy(o, digit + power + 1, (size_t)(n - power - 1));
            o += n - power - 1;
        } else {
            *o++ = '0';
        }
    }
    *o = 0;
}

static void string_repr(tl_text *t, const tl_string *s) {
    bool single = memchr(s->bytes, '\'', s->n) != NULL, twice = memchr(s->bytes, '"', s->n) != NULL;
    char quote = single && !twice ? '"' : '\'';
    tl__text_add(t, &quote, 1, NULL);
    for (size_t i = 0; i < s->n;) {
        uint32_t c;
        int width = tl__utf8_at((const uint8_t *)s->bytes + i, &c);
        char form[12];
        int n = 0;
        if (c == (unsigned char)quote || c == '\\') n = sprintf(form, "\\%c", (char)c);
        else if (c == '\n') n = sprintf(form, "\\n");
        else if (c == '\r') n = sprintf(form, "\\r");
        else if (c == '\t') n = sprintf(form, "\\t");
        else if (tl__char_printable(c)) n = 0;
        else if (c < 0x100) n = sprintf(form, "\\x%02x", c);
        else if (c < 0x10000) n = sprintf(form, "\\u%04x", c);
        else n = sprintf(form, "\\U%08x", c);
        static const unsigned char all[12] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
        const unsigned char *data = s->data ? s->data + i : NULL;
        if (n) tl__text_add(t, form, (size_t)n, data && *data ? all : NULL);
        else tl__text_add(t, s->bytes + i, (size_t)width, data);
        i += (size_t)width;
    }
    tl__text_add(t, &quote, 1, NULL);
}

static bool items_repr(tl_text *t, const tl_value *at, size_t n, int depth, const char **why) {
    for (size_t i = 0; i < n; i++) {
        if (i) tl__text_c(t, ", ");
        if (!tl__value_repr(t, at[i], depth + 1, why)) return false;
    }
    return true;
}

static bool dict_repr(tl_text *t, const tl_dict *d, int depth, const char **why) {
    tl__text_c(t, "{");
    for (size_t i = 0; i < d->n; i++) {
        if (i) tl__text_c(t, ", ");
        if (!tl__value_repr(t, d->at[i].key, depth + 1, why)) return false;
        tl__text_c(t, ": ");
        if (!tl__value_repr(t, d->at[i].value, depth + 1, why)) return false;
    }
    tl__text_c(t, "}");
    return true;
}

static bool view_repr(tl_text *t, tl_value v, int depth, const char **why) {
    tl__text_c(t, tl__value_type(v));
    tl__text_c(t, "([");
    for (size_t i = 0; i < v.dict->n; i++) {
        if (i) tl__text_c(t, ", ");
        if (v.which == 2) tl__text_c(t, "(");
        if (v.which != 1 && !tl__value_repr(t, v.dict->at[i].key, depth + 2, why)) return false;
        if (v.which == 2) tl__text_c(t, ", ");
        if (v.which != 0 && !tl__value_repr(t, v.dict->at[i].value, depth + 2, why)) return false;
        if (v.which == 2) tl__text_c(t, ")");
    }
    tl__text_c(t, "])");
    return true;
}

bool tl__value_repr(tl_text *t, tl_value v, int depth, const char **why) {
    char form[64];
    if (depth > TL_TEMPLATE_DEPTH) {
        *why = "a value nested too deep to be written";
        return false;
    }
    switch (v.kind) {
    case TL_V_MISSING:
    case TL_V_UNDEFINED:
        tl__text_c(t, "Undefined");
        return true;
    case TL_V_NONE:
        tl__text_c(t, "None");
        return true;
    case TL_V_BOOL:
        tl__text_c(t, v.b ? "True" : "False");
        return true;
    case TL_V_INT:
        sprintf(form, "%lld", (long long)v.i);
        tl__text_c(t, form);
        return true;
    case TL_V_FLOAT:
        tl__float_text(form, v.f);
        tl__text_c(t, form);
        return true;
    case TL_V_STRING:
        if (v.s->safe) tl__text_c(t, "Markup(");
        string_repr(t, v.s);
        if (v.s->safe) tl__text_c(t, ")");
        return true;
    case TL_V_LIST:
        tl__text_c(t, "[");
        if (!items_repr(t, v.list->at, v.list->n, depth, why)) return false;
        tl__text_c(t, "]");
        return true;
    case TL_V_TUPLE:
        tl__text_c(t, "(");
        if (!items_repr(t, v.list->at, v.list->n, depth, why)) return false;
        tl__text_c(t, v.list->n == 1 ? ",)" : ")");
        return true;
    case TL_V_DICT:
        return dict_repr(t, v.dict, depth, why);
    case TL_V_VIEW:
        return view_repr(t, v, depth, why);
    case TL_V_RANGE: {
        sprintf(form, "range(%lld, %lld", (long long)v.range->start, (long long)v.range->stop);
        tl__text_c(t, form);
        if (v.range->step != 1) sprintf(form, ", %lld", (long long)v.range->step), tl__text_c(t, form);
        tl__text_c(t, ")");
        return true;
    }
    case TL_V_NAMESPACE:
        tl__text_c(t, "<Namespace ");
        if (!dict_repr(t, v.dict, depth + 1, why)) return false;
        tl__text_c(t, ">");
        return true;
    default:
        *why = tl__value_type(v);
        return false;
    }
}

bool tl__value_str(tl_text *t, tl_value v, int depth, const char **why) {
    if (v.kind == TL_V_STRING) tl__text_string(t, v.s);
    else if (v.kind != TL_V_UNDEFINED && v.kind != TL_V_MISSING) return tl__value_repr(t, v, depth, why);
    return true;
}
