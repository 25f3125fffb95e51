/* template_json.c — JSON in, as values, and values out as Python's json.dumps writes them. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "text/template_eval.h"
#include "text/unicode.h"

/* A role is a word that templates build tokens from ('<|' + role + '|>'): a plain one counts as the template's. */
static bool plain_word(const char *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!((s[i] >= 'a' && s[i] <= 'z') || (s[i] >= 'A' && s[i] <= 'Z') || (s[i] >= '0' && s[i] <= '9') ||
              s[i] == '_' || s[i] == '-'))
            return false;
    return n <= 32;
}

static const tl_string *text_of(tl_run *run, const char *bytes, size_t n, bool data) {
    char *copy = tl__memory_take(&run->memory, n + 1);
    memcpy(copy, bytes, n);
    unsigned char *mark = NULL;
    if (data && n) mark = memset(tl__memory_take(&run->memory, n), 1, n);
    return tl__string(&run->memory, copy, n, mark);
}

tl_value tl__from_json(tl_run *run, const json_t *j, bool data) {
    tl__run_steps(run, 1);
    switch (json_typeof(j)) {
    case JSON_OBJECT: {
        tl_value v = tl__dict_new(&run->memory, TL_V_DICT);
        const char *key;
        size_t key_bytes;
        json_t *item;
        json_object_keylen_foreach((json_t *)j, key, key_bytes, item) {
            bool role = !strcmp(key, "role") && json_is_string(item) &&
                        plain_word(json_string_value(item), json_string_length(item));
            tl__dict_set(&run->memory, v.dict, tl__str(text_of(run, key, key_bytes, data)),
                         tl__from_json(run, item, data && !role));
        }
        return v;
    }
    case JSON_ARRAY: {
        tl_value v = tl__list_new(&run->memory, TL_V_LIST, json_array_size(j));
        for (size_t i = 0; i < json_array_size(j); i++)
            tl__list_add(&run->memory, v.list, tl__from_json(run, json_array_get(j, i), data));
        return v;
    }
    case JSON_STRING:
        return tl__str(text_of(run, json_string_value(j), json_string_length(j), data));
    case JSON_INTEGER:
        return tl__int(json_integer_value(j));
    case JSON_REAL:
        return tl__float(json_real_value(j));
    case JSON_TRUE:
        return tl__bool(true);
    case JSON_FALSE:
        return tl__bool(false);
    default:
        return tl__none();
    }
}

/* ---- json.dumps ---- */

typedef struct dumper {
    tl_run *run;
    tl_text *t;
    bool ascii, sort;
    const tl_string *indent; /* of one level; NULL: all on one line */
    const tl_string *comma, *colon;
} dumper;

static void dump_string(dumper *d, const tl_string *s) {
    tl__run_steps(d->run, (int64_t)s->n / 64);
    tl__text_c(d->t, "\"");
    size_t plain = 0;
    for (size_t i = 0; i <= s->n;) {
        uint32_t c = 0;
        int width = i < s->n ? tl__utf8_at((const uint8_t *)s->bytes + i, &c) : 1;
        bool special = i < s->n && (c < 0x20 || c == '"' || c == '\\' || (d->ascii && c >= 0x7F));
        if (i == s->n || special) {
            tl__text_add(d->t, s->bytes + plain, i - plain, s->data ? s->data + plain : NULL);
            plain = i + (size_t)width;
        }
        if (special) {
            char form[16];
            const char *brief = strchr("\"\"\\\\\nn\rr\tt\bb\ff", (int)c);
            if (c < 0x80 && c && brief) snprintf(form, sizeof form, "\\%c", brief[1]);
            else if (c < 0x10000) snprintf(form, sizeof form, "\\u%04x", c);
            else
                snprintf(form, sizeof form, "\\u%04x\\u%04x", 0xD800 + ((c - 0x10000) >> 10),
                         0xDC00 + ((c - 0x10000) & 0x3FF));
            static const unsigned char all[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
            tl__text_add(d->t, form, strlen(form), s->data && s->data[i] ? all : NULL);
        }
        i += (size_t)width;
    }
    tl__text_c(d->t, "\"");
}

static void dump(dumper *d, tl_value v, int depth);

static void dump_number(dumper *d, tl_value v) {
    if (v.kind == TL_V_FLOAT && !isfinite(v.f))
        tl__text_c(d->t, isnan(v.f) ? "NaN" : v.f > 0 ? "Infinity" : "-Infinity");
    else tl__add_repr(d->run, d->t, v);
}

static void line_break(dumper *d, int depth) {
    if (!d->indent) return;
    tl__text_c(d->t, "\n");
    for (int i = 0; i < depth; i++) tl__text_string(d->t, d->indent);
}

static void dump_key(dumper *d, tl_value key) {
    if (key.kind == TL_V_STRING) {
        dump_string(d, key.s);
        return;
    }
    if (!tl__value_number(key) && key.kind != TL_V_NONE)
        tl__run_fail(d->run, "tojson: a key is a text, number, boolean or none, not a value of type %s",
                     tl__value_type(key));
    tl__text_c(d->t, "\"");
    if (key.kind == TL_V_BOOL || key.kind == TL_V_NONE) dump(d, key, 0);
    else dump_number(d, key);
    tl__text_c(d->t, "\"");
}

static void dump_dict(dumper *d, const tl_dict *dict, int depth) {
    tl_value *key = TL_NEW(&d->run->memory, tl_value, dict->n + 1),
             *value = TL_NEW(&d->run->memory, tl_value, dict->n + 1);
    for (size_t i = 0; i < dict->n; i++) key[i] = dict->at[i].key, value[i] = dict->at[i].value;
    if (d->sort) tl__sort(d->run, key, value, dict->n, false);
    tl__text_c(d->t, "{");
    for (size_t i = 0; i < dict->n; i++) {
        if (i) tl__text_string(d->t, d->comma);
        line_break(d, depth + 1);
        dump_key(d, key[i]);
        tl__text_string(d->t, d->colon);
        dump(d, value[i], depth + 1);
    }
    if (dict->n) line_break(d, depth);
    tl__text_c(d->t, "}");
}

static void dump(dumper *d, tl_value v, int depth) {
    tl__run_steps(d->run, 1);
    if (depth > TL_TEMPLATE_DEPTH) tl__run_fail(d->run, "tojson: a value nested too deep");
    switch (v.kind) {
    case TL_V_NONE:
        tl__text_c(d->t, "null");
        return;
    case TL_V_BOOL:
        tl__text_c(d->t, v.b ? "true" : "false");
        return;
    case TL_V_INT:
    case TL_V_FLOAT:
        dump_number(d, v);
        return;
    case TL_V_STRING:
        dump_string(d, v.s);
        return;
    case TL_V_DICT:
        dump_dict(d, v.dict, depth);
        return;
    case TL_V_LIST:
    case TL_V_TUPLE:
        tl__text_c(d->t, "[");
        for (size_t i = 0; i < v.list->n; i++) {
            if (i) tl__text_string(d->t, d->comma);
            line_break(d, depth + 1);
            dump(d, v.list->at[i], depth + 1);
        }
        if (v.list->n) line_break(d, depth);
        tl__text_c(d->t, "]");
        return;
    default:
        tl__run_fail(d->run, "tojson: a value of type %s has no form in JSON", tl__value_type(v));
    }
}

const tl_string *tl__to_json(tl_run *run, const tl_args *args) {
    tl_value a[5];
    tl__bind(run, "tojson", args, "x ensure_ascii indent separators sort_keys", 1, a);
    tl_memory *m = &run->memory;
    tl_text t = {.m = m};
    dumper d = {.run = run,
                .t = &t,
                .ascii = a[1].kind != TL_V_MISSING && tl__truth(run, a[1]),
                .sort = a[4].kind != TL_V_MISSING && tl__truth(run, a[4]),
                .colon = tl__string(m, ": ", 2, NULL)};
    bool indented = a[2].kind != TL_V_MISSING && a[2].kind != TL_V_NONE;
    d.comma = tl__string(m, indented ? "," : ", ", indented ? 1 : 2, NULL);
    if (indented && a[2].kind == TL_V_STRING) d.indent = a[2].s;
    else if (indented) {
        int64_t width = tl__int_or(run, "tojson", a[2], 0);
        if (width > 1000) tl__run_fail(run, "tojson: an indent above 1000 is not supported");
        tl_text space = {.m = m};
        tl__text_fill(&space, ' ', width);
        d.indent = tl__text_done(&space);
    }
    if (a[3].kind != TL_V_MISSING && a[3].kind != TL_V_NONE) {
        tl_value pair = tl__list_of(run, a[3], TL_V_TUPLE);
        if (pair.list->n != 2 || pair.list->at[0].kind != TL_V_STRING || pair.list->at[1].kind != TL_V_STRING)
            tl__run_fail(run, "tojson: separators are two texts");
        d.comma = pair.list->at[0].s, d.colon = pair.list->at[1].s;
    }
    dump(&d, a[0], 0);
    return tl__text_done(&t);
}
