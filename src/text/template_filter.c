/* template_filter.c — what may stand after '|'. Filters that give a generator in jinja2 give something here that can be
 * walked through once and does its work when first asked, as a generator does. */
#include <math.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include "text/template_eval.h"
#include "text/unicode.h"

typedef enum filter {
    F_ABS,
    F_ATTR,
    F_BATCH,
    F_CAPITALIZE,
    F_CENTER,
    F_COUNT,
    F_D,
    F_DEFAULT,
    F_DICTSORT,
    F_E,
    F_ESCAPE,
    F_FIRST,
    F_FLOAT,
    F_FORCEESCAPE,
    F_FORMAT,
    F_GROUPBY,
    F_INDENT,
    F_INT,
    F_ITEMS,
    F_JOIN,
    F_LAST,
    F_LENGTH,
    F_LIST,
    F_LOWER,
    F_MAP,
    F_MAX,
    F_MIN,
    F_REJECT,
    F_REJECTATTR,
    F_REPLACE,
    F_REVERSE,
    F_ROUND,
    F_SAFE,
    F_SELECT,
    F_SELECTATTR,
    F_SLICE,
    F_SORT,
    F_STRING,
    F_SUM,
    F_TITLE,
    F_TOJSON,
    F_TRIM,
    F_TRUNCATE,
    F_UNIQUE,
    F_UPPER,
    F_WORDCOUNT,
    F_KNOWN, /* from here on: jinja2 has them, this has not */
    F_FILESIZEFORMAT = F_KNOWN,
    F_PPRINT,
    F_RANDOM,
    F_STRIPTAGS,
    F_URLENCODE,
    F_URLIZE,
    F_WORDWRAP,
    F_XMLATTR,
    FILTERS
} filter;

static const char *const names[FILTERS] = {
    "abs",      "attr",        "batch",     "capitalize", "center",         "count",
    "d",        "default",     "dictsort",  "e",          "escape",         "first",
    "float",    "forceescape", "format",    "groupby",    "indent",         "int",
    "items",    "join",        "last",      "length",     "list",           "lower",
    "map",      "max",         "min",       "reject",     "rejectattr",     "replace",
    "reverse",  "round",       "safe",      "select",     "selectattr",     "slice",
    "sort",     "string",      "sum",       "title",      "tojson",         "trim",
    "truncate", "unique",      "upper",     "wordcount",  "filesizeformat", "pprint",
    "random",   "striptags",   "urlencode", "urlize",     "wordwrap",       "xmlattr"};

int tl__filter_find(const tl_string *name) {
    for (int i = 0; i < FILTERS; i++)
        if (tl__string_is(name, names[i])) return i;
    return -1;
}

/* ---- arguments ---- */

void tl__bind(tl_run *run, const char *what, const tl_args *args, const char *parameters, int needed, tl_value *value) {
    bool by_name = *parameters != '/';
    const char *p = parameters + !by_name;
    int used = 0, n = 0;
    for (int i = 0; *p; i++, n++) {
        size_t length = strcspn(p, " ");
        value[i] = (tl_value){0};
        if (i < args->n) value[i] = args->at[i];
        for (int k = 0; by_name && k < args->names; k++)
            if (args->name[k]->n == length && !memcmp(args->name[k]->bytes, p, length)) {
                if (i < args->n) tl__run_fail(run, "%s: the argument '%.*s' is given twice", what, (int)length, p);
                value[i] = args->named[k];
                used++;
            }
        if (i < needed && value[i].kind == TL_V_MISSING)
            tl__run_fail(run, "%s: the argument '%.*s' is missing", what, (int)length, p);
        p += length + (p[length] == ' ');
    }
    if (args->n > n)
        tl__run_fail(run, "%s takes %d argument%s at most, and was given %d", what, n, n == 1 ? "" : "s", args->n);
    if (used < args->names)
        for (int k = 0; k < args->names; k++) {
            bool known = false;
            for (const char *q = parameters; by_name && *q;) {
                size_t length = strcspn(q, " ");
                known |= args->name[k]->n == length && !memcmp(args->name[k]->bytes, q, length);
                q += length + (q[length] == ' ');
            }
            if (!known)
                tl__run_fail(run, "%s takes no argument called '%.*s'", what,
                             (int)(args->name[k]->n < 100 ? args->name[k]->n : 100), args->name[k]->bytes);
        }
}

int64_t tl__int_or(tl_run *run, const char *what, tl_value v, int64_t otherwise) {
    if (v.kind == TL_V_MISSING || v.kind == TL_V_NONE) return otherwise;
    tl__run_defined(run, v);
    if (!tl__value_whole(v))
        tl__run_fail(run, "%s wants a whole number here, not a value of type %s", what, tl__value_type(v));
    return tl__value_int(v);
}

const tl_string *tl__string_or(tl_run *run, const char *what, tl_value v, const tl_string *otherwise) {
    if (v.kind == TL_V_MISSING) return otherwise;
    if (v.kind != TL_V_STRING)
        tl__run_fail(run, "%s wants a text here, not a value of type %s", what, tl__value_type(v));
    return v.s;
}

const tl_string *tl__chars_or_space(tl_run *run, const char *what, tl_value v) {
    return v.kind == TL_V_NONE ? NULL : tl__string_or(run, what, v, NULL);
}

static bool flag(tl_run *run, tl_value v) {
    return v.kind != TL_V_MISSING && tl__truth(run, v);
}

/* ---- attributes by path: "a.b.0" ---- */

static tl_value by_path(tl_run *run, tl_value item, tl_value path, tl_value otherwise) {
    if (path.kind == TL_V_MISSING || path.kind == TL_V_NONE) return item;
    if (path.kind != TL_V_STRING) {
        item = tl__item(run, item, path);
        return item.kind == TL_V_UNDEFINED && otherwise.kind != TL_V_MISSING && otherwise.kind != TL_V_NONE ? otherwise
                                                                                                            : item;
    }
    const tl_string *s = path.s;
    for (size_t from = 0; from <= s->n;) {
        size_t to = from;
        while (to < s->n && s->bytes[to] != '.') to++;
        const tl_string *part = tl__string_copy(&run->memory, s->bytes + from, to - from);
        bool digits = part->n > 0 && part->n < 18;
        for (size_t i = 0; i < part->n; i++) digits &= part->bytes[i] >= '0' && part->bytes[i] <= '9';
        item = tl__item(run, item, digits ? tl__int(strtoll(part->bytes, NULL, 10)) : tl__str(part));
        if (item.kind == TL_V_UNDEFINED && otherwise.kind != TL_V_MISSING && otherwise.kind != TL_V_NONE)
            item = otherwise;
        from = to + 1;
    }
    return item;
}

static tl_value key_of(tl_run *run, tl_value item, tl_value path, bool case_sensitive) {
    tl_value key = by_path(run, item, path, (tl_value){0});
    return !case_sensitive && key.kind == TL_V_STRING ? tl__str(tl__cased(run, key.s, TL_CASE_LOWER)) : key;
}

/* sort's attribute may be several parted by commas; a key is then their list. */
static tl_value sort_key(tl_run *run, tl_value item, tl_value path, bool case_sensitive) {
    if (path.kind != TL_V_STRING || !memchr(path.s->bytes, ',', path.s->n))
        return key_of(run, item, path, case_sensitive);
    tl_value keys = tl__list_new(&run->memory, TL_V_LIST, 0);
    for (size_t from = 0; from <= path.s->n;) {
        size_t to = from;
        while (to < path.s->n && path.s->bytes[to] != ',') to++;
        tl__list_add(
            &run->memory, keys.list,
            key_of(run, item, tl__str(tl__string_copy(&run->memory, path.s->bytes + from, to - from)), case_sensitive));
        from = to + 1;
    }
    return keys;
}

/* ---- filters that are walked through ---- */

typedef struct work { /* of a filter that waits until it is asked */
    filter which;
    tl_value v;
    tl_args args;
    const tl_node *at;
} work;

static void make_map(tl_run *run, const work *w, tl_value out) {
    tl_value a[3];
    tl_args rest = w->args;
    int index = -1;
    if (rest.n == 0) {
        tl__bind(run, "map", &rest, "attribute default", 1, a);
    } else {
        const tl_string *name = tl__string_or(run, "map", rest.at[0], NULL);
        index = tl__filter_find(name);
        if (index < 0)
            tl__run_fail(run, "there is no filter called '%.*s'", (int)(name->n < 100 ? name->n : 100), name->bytes);
        rest.at++, rest.n--;
    }
    tl_iterator *it = tl__iterate(run, w->v);
    for (tl_value item; tl__next(run, it, &item);)
        tl__list_add(&run->memory, out.list,
                     index < 0 ? by_path(run, item, a[0], a[1]) : tl__filter_apply(run, index, item, &rest));
}

static void make_select(tl_run *run, const work *w, tl_value out) {
    bool reject = w->which == F_REJECT || w->which == F_REJECTATTR,
         by_attribute = w->which == F_SELECTATTR || w->which == F_REJECTATTR;
    tl_args rest = w->args;
    tl_value path = {0};
    if (by_attribute) {
        if (!rest.n) tl__run_fail(run, "%s: the name of an attribute is missing", names[w->which]);
        path = rest.at[0];
        rest.at++, rest.n--;
    }
    int index = -1;
    if (rest.n) {
        const tl_string *name = tl__string_or(run, names[w->which], rest.at[0], NULL);
        index = tl__test_find(name);
        if (index < 0)
            tl__run_fail(run, "there is no test called '%.*s'", (int)(name->n < 100 ? name->n : 100), name->bytes);
        rest.at++, rest.n--;
    }
    tl_iterator *it = tl__iterate(run, w->v);
    for (tl_value item; tl__next(run, it, &item);) {
        tl_value asked = by_path(run, item, path, (tl_value){0});
        bool yes = index < 0 ? tl__truth(run, asked) : tl__test_apply(run, index, asked, &rest);
        if (yes != reject) tl__list_add(&run->memory, out.list, item);
    }
}

static void make_unique(tl_run *run, const work *w, tl_value out) {
    tl_value a[2], seen = tl__dict_new(&run->memory, TL_V_DICT);
    tl__bind(run, "unique", &w->args, "case_sensitive attribute", 0, a);
    tl_iterator *it = tl__iterate(run, w->v);
    for (tl_value item; tl__next(run, it, &item);) {
        tl_value key = key_of(run, item, a[1], flag(run, a[0]));
        if (!tl__value_hashable(key))
            tl__run_fail(run, "unique: a value of type %s cannot be compared this way", tl__value_type(key));
        if (tl__dict_get(seen.dict, key)) continue;
        tl__dict_set(&run->memory, seen.dict, key, tl__none());
        tl__list_add(&run->memory, out.list, item);
    }
}

static void make_batch(tl_run *run, const work *w, tl_value out) {
    tl_value a[2], part = {0};
    tl__bind(run, "batch", &w->args, "linecount fill_with", 1, a);
    int64_t size = tl__int_or(run, "batch", a[0], 0);
    tl_iterator *it = tl__iterate(run, w->v);
    for (tl_value item; tl__next(run, it, &item);) {
        if (part.kind == TL_V_MISSING || (int64_t)part.list->n == size) {
            if (part.kind != TL_V_MISSING) tl__list_add(&run->memory, out.list, part);
            part = tl__list_new(&run->memory, TL_V_LIST, 0);
        }
        tl__list_add(&run->memory, part.list, item);
    }
    if (part.kind == TL_V_MISSING) return;
    if (a[1].kind != TL_V_MISSING && a[1].kind != TL_V_NONE)
        for (; (int64_t)part.list->n < size; tl__run_steps(run, 1)) tl__list_add(&run->memory, part.list, a[1]);
    tl__list_add(&run->memory, out.list, part);
}

static void make_slice(tl_run *run, const work *w, tl_value out) {
    tl_value a[2], all = tl__list_of(run, w->v, TL_V_LIST);
    tl__bind(run, "slice", &w->args, "slices fill_with", 1, a);
    int64_t slices = tl__int_or(run, "slice", a[0], 0), n = (int64_t)all.list->n, at = 0;
    if (slices == 0) tl__run_fail(run, "slice: division by zero");
    for (int64_t i = 0; i < slices; i++) {
        tl__run_steps(run, 1);
        tl_value part = tl__list_new(&run->memory, TL_V_LIST, 0);
        int64_t size = n / slices + (i < n % slices);
        for (int64_t k = 0; k < size; k++) tl__list_add(&run->memory, part.list, all.list->at[at++]);
        if (a[1].kind != TL_V_MISSING && a[1].kind != TL_V_NONE && i >= n % slices)
            tl__list_add(&run->memory, part.list, a[1]);
        tl__list_add(&run->memory, out.list, part);
    }
}

static void make(tl_run *run, tl_iterator *it) {
    const work *w = it->more;
    const tl_node *at = run->at;
    run->at = w->at;
    tl_value out = it->source;
    switch (w->which) {
    case F_MAP:
        if (tl__truth(run, w->v)) make_map(run, w, out);
        break;
    case F_SELECT:
    case F_REJECT:
    case F_SELECTATTR:
    case F_REJECTATTR:
        if (tl__truth(run, w->v)) make_select(run, w, out);
        break;
    case F_UNIQUE:
        make_unique(run, w, out);
        break;
    case F_BATCH:
        make_batch(run, w, out);
        break;
    case F_SLICE:
        make_slice(run, w, out);
        break;
    default: /* ITEMS */
        if (w->v.kind == TL_V_UNDEFINED) break;
        if (w->v.kind != TL_V_DICT)
            tl__run_fail(run, "items wants a mapping, not a value of type %s", tl__value_type(w->v));
        it->source = tl__iterate(run, (tl_value){.kind = TL_V_VIEW, .which = 2, .dict = w->v.dict})->source;
        break;
    }
    run->at = at;
}

static tl_value later(tl_run *run, filter which, tl_value v, const tl_args *args) {
    work *w = TL_NEW(&run->memory, work, 1);
    *w = (work){which, v, *args, run->at};
    return tl__iterator_new(run, make, w, NULL);
}

/* ---- filters of text ---- */

static tl_value title(tl_run *run, const tl_string *s) {
    tl_text t = {.m = &run->memory};
    bool begins = true;
    size_t word = 0;
    /* Words begin after '-', white space and opening brackets; a word's rest is lowered as one text. */
    for (size_t i = 0; i <= s->n;) {
        uint32_t c = 0;
        size_t width = i < s->n ? (size_t)tl__utf8_at((const uint8_t *)s->bytes + i, &c) : 1;
        bool parts = i == s->n || (c < 0x80 && c && strchr("-({[<", (int)c)) || tl__char_space(c);
        if (parts) {
            tl_string rest = {.bytes = s->bytes + word, .n = i - word, .data = s->data ? s->data + word : NULL};
            if (!begins) tl__text_case(&t, &rest, 0, rest.n, TL_CASE_LOWER);
            if (i < s->n) tl__text_add(&t, s->bytes + i, width, s->data ? s->data + i : NULL);
            begins = true;
        } else if (begins) {
            tl__text_case(&t, s, i, i + width, TL_CASE_UPPER);
            begins = false;
            word = i + width;
        }
        i += width;
    }
    return tl__str(tl__text_done(&t));
}

static tl_value indent(tl_run *run, tl_value v, const tl_args *args) {
    tl_value a[3];
    tl__bind(run, "indent", args, "width first blank", 0, a);
    if (v.kind != TL_V_STRING) {
        tl__run_defined(run, v);
        tl__run_fail(run, "indent wants a text, not a value of type %s", tl__value_type(v));
    }
    tl_memory *m = &run->memory;
    tl_text t = {.m = m}, space = {.m = m}, longer = {.m = m};
    const tl_string *by = a[0].kind == TL_V_STRING ? a[0].s : NULL;
    if (!by) {
        int64_t width = a[0].kind == TL_V_MISSING ? 4 : tl__int_or(run, "indent", a[0], 4);
        if (width > 100000) tl__run_fail(run, "indent: a width above 100000 is not supported");
        tl__text_fill(&space, ' ', width);
        by = tl__text_done(&space);
    }
    tl__text_string(&longer, v.s);
    tl__text_c(&longer, "\n");
    tl_value lines = tl__split_lines(run, tl__text_done(&longer), false);
    bool blank = flag(run, a[2]);
    if (flag(run, a[1])) tl__text_string(&t, by);
    for (size_t i = 0; i < lines.list->n; i++) {
        const tl_string *line = lines.list->at[i].s;
        if (i) tl__text_c(&t, "\n");
        if (i && (blank || line->n)) tl__text_string(&t, by), tl__run_steps(run, (int64_t)by->n / 64);
        tl__text_string(&t, line);
    }
    return tl__str(tl__text_done(&t));
}

static tl_value truncate_text(tl_run *run, tl_value v, const tl_args *args) {
    tl_value a[4];
    tl__bind(run, "truncate", args, "length killwords end leeway", 0, a);
    const tl_string *dots = tl__string(&run->memory, "...", 3, NULL), *end = tl__string_or(run, "truncate", a[2], dots);
    int64_t length = tl__int_or(run, "truncate", a[0], 255), leeway = tl__int_or(run, "truncate", a[3], 5);
    if (length < (int64_t)end->chars || leeway < 0)
        tl__run_fail(run, "truncate: the length is less than that of its end, or the leeway below 0");
    int64_t n = tl__length(run, v); /* what is short enough stays as it is, a list too */
    if (n <= length || n - length <= leeway) return v;
    if (v.kind != TL_V_STRING) tl__run_fail(run, "truncate wants a text, not a value of type %s", tl__value_type(v));
    const tl_string *cut =
        tl__string_part(&run->memory, v.s, 0, tl__offset(v.s, (size_t)(length - (int64_t)end->chars)));
    if (!flag(run, a[1]))
        for (size_t i = cut->n; i-- > 0;)
            if (cut->bytes[i] == ' ') {
                cut = tl__string_part(&run->memory, cut, 0, i);
                break;
            }
    tl_text t = {.m = &run->memory};
    tl__text_string(&t, cut);
    tl__text_string(&t, end);
    return tl__str(tl__text_done(&t));
}

static int64_t word_count(const tl_string *s) {
    int64_t words = 0;
    bool inside = false;
    for (size_t i = 0; i < s->n;) {
        uint32_t c;
        i += (size_t)tl__utf8_at((const uint8_t *)s->bytes + i, &c);
        bool word = tl__char_is(c, TL_IS_WORD);
        words += word && !inside;
        inside = word;
    }
    return words;
}

static tl_value safe(tl_run *run, const tl_string *s, bool escape) {
    tl_text t = {.m = &run->memory};
    if (s->safe) return tl__str(s);
    if (escape) tl__escape(&t, s);
    else tl__text_string(&t, s);
    tl_string *out = (tl_string *)tl__text_done(&t);
    out->safe = true;
    return tl__str(out);
}

/* ---- numbers ---- */

/* Python's int(text) in a base: white space around, a sign, single underscores, a prefix of the base. */
static bool int_of_text(tl_run *run, const tl_string *s, int64_t base, int64_t *out) {
    const tl_string *t = tl__strip(run, s, NULL, true, true);
    size_t i = 0;
    bool minus = t->n && t->bytes[0] == '-';
    if (t->n && (t->bytes[0] == '-' || t->bytes[0] == '+')) i++;
    char mark = i + 1 < t->n && t->bytes[i] == '0' ? (char)(t->bytes[i + 1] | 0x20) : 0;
    int64_t prefix = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;
    bool zero_only = base == 0 && !prefix;
    if (prefix && (base == prefix || base == 0)) base = prefix, i += 2 + (i + 2 < t->n && t->bytes[i + 2] == '_');
    if (zero_only) base = 10;
    size_t first = i;
    bool digit_before = false, nonzero = false, over = false;
    int64_t value = 0;
    while (i < t->n) {
        uint32_t c;
        int width = tl__utf8_at((const uint8_t *)t->bytes + i, &c);
        if (c == '_' && digit_before) {
            digit_before = false;
            i++;
            continue;
        }
        int digit = tl__char_digit(c), low = (int)(c | 0x20);
        if (digit < 0 && c < 0x80 && low >= 'a' && low <= 'z') digit = low - 'a' + 10;
        if (digit < 0 || digit >= base) return false;
        nonzero |= digit > 0;
        over |= __builtin_mul_overflow(value, base, &value) || __builtin_add_overflow(value, (int64_t)digit, &value);
        digit_before = true;
        i += (size_t)width;
    }
    if (i == first || !digit_before || (zero_only && nonzero && t->bytes[first] == '0')) return false;
    if (over) tl__run_fail(run, "an integer beyond 64 bits is not supported");
    *out = minus ? -value : value;
    return true;
}

/* Python's float(text). */
static bool float_of_text(tl_run *run, const tl_string *s, double *out) {
    const tl_string *t = tl__strip(run, s, NULL, true, true);
    char *text = tl__memory_take(&run->memory, t->n + 1);
    size_t n = 0;
    for (size_t i = 0; i < t->n;) {
        uint32_t c;
        i += (size_t)tl__utf8_at((const uint8_t *)t->bytes + i, &c);
        int digit = tl__char_digit(c);
        if (digit >= 0) text[n++] = (char)('0' + digit);
        else if (c == '_') {
            bool between =
                n && text[n - 1] >= '0' && text[n - 1] <= '9' && i < t->n && t->bytes[i] >= '0' && t->bytes[i] <= '9';
            if (!between) return false;
        } else if (c < 0x80 && c != 'x' && c != 'X' && c != 'p' && c != 'P' && c != '(') text[n++] = (char)c;
        else return false;
    }
    char *end;
    *out = strtod(text, &end);
    return n > 0 && end == text + n;
}

static tl_value to_int(tl_run *run, tl_value v, const tl_args *args) {
    tl_value a[2];
    tl__bind(run, "int", args, "default base", 0, a);
    tl_value otherwise = a[0].kind == TL_V_MISSING ? tl__int(0) : a[0];
    int64_t i;
    double f;
    tl__run_defined(run, v);
    if (v.kind == TL_V_STRING) {
        int64_t base = tl__int_or(run, "int", a[1], 10);
        if (base != 0 && (base < 2 || base > 36)) base = -1;
        if (base >= 0 && int_of_text(run, v.s, base, &i)) return tl__int(i);
        if (!float_of_text(run, v.s, &f)) return otherwise;
    } else if (tl__value_whole(v)) {
        return tl__int(tl__value_int(v));
    } else if (v.kind == TL_V_FLOAT) {
        f = v.f;
        if (isinf(f))
            tl__run_fail(run, "an infinite number has no integer"); /* OverflowError, which jinja2 does not catch */
    } else {
        return otherwise;
    }
    if (!isfinite(f)) return otherwise;
    if (!(fabs(f) < 0x1p63)) tl__run_fail(run, "an integer beyond 64 bits is not supported");
    return tl__int((int64_t)f);
}

static tl_value to_float(tl_run *run, tl_value v, const tl_args *args) {
    tl_value a[1];
    double f;
    tl__bind(run, "float", args, "default", 0, a);
    tl__run_defined(run, v);
    if (tl__value_number(v)) return tl__float(tl__value_real(v));
    if (v.kind == TL_V_STRING && float_of_text(run, v.s, &f)) return tl__float(f);
    return a[0].kind == TL_V_MISSING ? tl__float(0) : a[0];
}

static tl_value round_number(tl_run *run, tl_value v, const tl_args *args) {
    tl_value a[2];
    tl__bind(run, "round", args, "precision method", 0, a);
    const tl_string *method = a[1].kind == TL_V_STRING ? a[1].s : NULL;
    bool ceiling = method && tl__string_is(method, "ceil"), down = method && tl__string_is(method, "floor");
    if (a[1].kind != TL_V_MISSING && !ceiling && !down && !(method && tl__string_is(method, "common")))
        tl__run_fail(run, "round: the method is common, ceil or floor");
    int64_t digits = a[0].kind == TL_V_MISSING ? 0
                     : a[0].kind == TL_V_NONE  ? INT64_MIN
                                               : tl__int_or(run, "round", a[0], 0);
    double x = tl__to_real(run, v);
    if (ceiling || down) {
        if (digits < 0 || digits > 300)
            tl__run_fail(run, "round: this precision is not supported with %s", method->bytes);
        double scale = digits <= 18 ? 1 : pow(10, (double)digits);
        for (int64_t i = 0; digits <= 18 && i < digits; i++) scale *= 10;
        double scaled = x * scale, whole = ceiling ? ceil(scaled) : floor(scaled);
        if (!isfinite(scaled)) tl__run_fail(run, "round: the number is not finite");
        return tl__float((whole == 0 ? 0 : whole) / scale);
    }
    if (tl__value_whole(v)) {
        int64_t i = tl__value_int(v), unit = 1;
        if (digits == INT64_MIN || digits >= 0) return tl__int(i);
        for (int64_t k = digits; k < 0; k++)
            if (__builtin_mul_overflow(unit, (int64_t)10, &unit)) return tl__int(0);
        int64_t rest = i % unit, base = i - rest;
        int64_t size = rest < 0 ? -rest : rest;
        bool odd = (base / unit) % 2 != 0;
        if (size > unit - size || (size == unit - size && odd))
            if (__builtin_add_overflow(base, rest < 0 ? -unit : unit, &base))
                tl__run_fail(run, "an integer beyond 64 bits is not supported");
        return tl__int(base);
    }
    if (digits == INT64_MIN) { /* round(x, None) is a whole number */
        if (!(fabs(x) < 0x1p63)) tl__run_fail(run, "round: the number has no integer of 64 bits");
        return tl__int((int64_t)nearbyint(x));
    }
    if (!isfinite(x) || digits > 323) return tl__float(x);
    if (digits < -308) return tl__float(x < 0 ? -0.0 : 0.0);
    char text[800];
    if (digits >= 0) {
        tl__float_fixed(text, sizeof text, x, (int)digits);
        return tl__float(strtod(text, NULL));
    }
    double unit = pow(10, (double)-digits);
    return tl__float(nearbyint(x / unit) * unit);
}

/* ---- filters that go through everything ---- */

static tl_value join(tl_run *run, tl_value v, const tl_args *args) {
    tl_value a[2];
    tl__bind(run, "join", args, "d attribute", 0, a);
    const tl_string *by = a[0].kind == TL_V_MISSING ? tl__string(&run->memory, "", 0, NULL) : tl__to_string(run, a[0]);
    tl_text t = {.m = &run->memory};
    tl_iterator *it = tl__iterate(run, v);
    bool first = true;
    for (tl_value item; tl__next(run, it, &item); first = false) {
        if (!first) tl__text_string(&t, by), tl__run_steps(run, (int64_t)by->n / 64);
        tl__add_string(run, &t, by_path(run, item, a[1], (tl_value){0}));
    }
    return tl__str(tl__text_done(&t));
}

static tl_value sort(tl_run *run, tl_value v, const tl_args *args) {
    tl_value a[3];
    tl__bind(run, "sort", args, "reverse case_sensitive attribute", 0, a);
    tl_value all = tl__list_of(run, v, TL_V_LIST);
    tl_value *key = TL_NEW(&run->memory, tl_value, all.list->n + 1);
    for (size_t i = 0; i < all.list->n; i++) key[i] = sort_key(run, all.list->at[i], a[2], flag(run, a[1]));
    tl__sort(run, key, all.list->at, all.list->n, flag(run, a[0]));
    return all;
}

static tl_value dictsort(tl_run *run, tl_value v, const tl_args *args) {
    tl_value a[3];
    tl__bind(run, "dictsort", args, "case_sensitive by reverse", 0, a);
    bool by_value = a[1].kind == TL_V_STRING && tl__string_is(a[1].s, "value");
    if (a[1].kind != TL_V_MISSING && !by_value && !(a[1].kind == TL_V_STRING && tl__string_is(a[1].s, "key")))
        tl__run_fail(run, "dictsort sorts by \"key\" or \"value\"");
    tl__run_defined(run, v);
    if (v.kind != TL_V_DICT) tl__run_fail(run, "dictsort wants a mapping, not a value of type %s", tl__value_type(v));
    tl_value all = tl__list_of(run, (tl_value){.kind = TL_V_VIEW, .which = 2, .dict = v.dict}, TL_V_LIST);
    tl_value *key = TL_NEW(&run->memory, tl_value, all.list->n + 1);
    for (size_t i = 0; i < all.list->n; i++)
        key[i] = key_of(run, all.list->at[i].list->at[by_value], (tl_value){0}, flag(run, a[0]));
    tl__sort(run, key, all.list->at, all.list->n, flag(run, a[2]));
    return all;
}

static tl_value groupby(tl_run *run, tl_value v, const tl_args *args) {
    tl_value a[3], all = tl__list_of(run, v, TL_V_LIST), out = tl__list_new(&run->memory, TL_V_LIST, 0), group = {0};
    tl__bind(run, "groupby", args, "attribute default case_sensitive", 1, a);
    size_t n = all.list->n;
    tl_value *key = TL_NEW(&run->memory, tl_value, n + 1);
    for (size_t i = 0; i < n; i++) {
        key[i] = by_path(run, all.list->at[i], a[0], a[1]);
        if (!flag(run, a[2]) && key[i].kind == TL_V_STRING) key[i] = tl__str(tl__cased(run, key[i].s, TL_CASE_LOWER));
    }
    tl__sort(run, key, all.list->at, n, false);
    for (size_t i = 0; i < n; i++) {
        if (i == 0 || !tl__equal(run, key[i], key[i - 1])) {
            tl_value pair = tl__list_new(&run->memory, TL_V_TUPLE, 2);
            group = tl__list_new(&run->memory, TL_V_LIST, 0);
            tl__list_add(&run->memory, pair.list, by_path(run, all.list->at[i], a[0], a[1]));
            tl__list_add(&run->memory, pair.list, group);
            tl__list_add(&run->memory, out.list, pair);
        }
        tl__list_add(&run->memory, group.list, all.list->at[i]);
    }
    return out;
}

static tl_value extreme(tl_run *run, tl_value v, const tl_args *args, bool most) {
    tl_value a[2], best = {0}, best_key = {0};
    tl__bind(run, most ? "max" : "min", args, "case_sensitive attribute", 0, a);
    tl_iterator *it = tl__iterate(run, v);
    for (tl_value item; tl__next(run, it, &item);) {
        tl_value key = key_of(run, item, a[1], flag(run, a[0]));
        bool better = best.kind == TL_V_MISSING;
        if (!better) better = tl__compare(run, most ? TL_OP_GT : TL_OP_LT, key, best_key);
        if (better) best = item, best_key = key;
    }
    return best.kind == TL_V_MISSING ? tl__undefined(run, "No aggregated item, sequence was empty.") : best;
}

static tl_value sum(tl_run *run, tl_value v, const tl_args *args) {
    tl_value a[2];
    tl__bind(run, "sum", args, "attribute start", 0, a);
    tl_value total = a[1].kind == TL_V_MISSING ? tl__int(0) : a[1];
    if (total.kind == TL_V_STRING) tl__run_fail(run, "sum does not add texts; use join");
    tl_iterator *it = tl__iterate(run, v);
    for (tl_value item; tl__next(run, it, &item);)
        total = tl__operate(run, TL_OP_ADD, total, by_path(run, item, a[0], (tl_value){0}));
    return total;
}

static tl_value first(tl_run *run, tl_value v) {
    tl_value item;
    return tl__next(run, tl__iterate(run, v), &item) ? item : tl__undefined(run, "No first item, sequence was empty.");
}

static tl_value last(tl_run *run, tl_value v) {
    if (!tl__iterable(v) || v.kind == TL_V_ITERATOR || v.kind == TL_V_LOOP)
        tl__run_fail(run, "a value of type %s has no last item; make it a list first", tl__value_type(v));
    tl_value src = tl__iterate(run, v)->source;
    if (tl__length(run, src) == 0) return tl__undefined(run, "No last item, sequence was empty.");
    return tl__item(run, src, tl__int(-1));
}

static tl_value reverse(tl_run *run, tl_value v) {
    static const tl_value whole[2] = {{.kind = TL_V_NONE}, {.kind = TL_V_NONE}};
    tl_value bound[3] = {whole[0], whole[1], tl__int(-1)};
    if (v.kind == TL_V_STRING) return tl__slice(run, v, bound);
    bool generator = v.kind == TL_V_ITERATOR; /* which Python cannot reverse, so that jinja2 makes a list of it */
    tl_value all = tl__slice(run, tl__list_of(run, v, TL_V_LIST), bound);
    if (generator) return all;
    tl_iterator *it = TL_NEW(&run->memory, tl_iterator, 1);
    *it = (tl_iterator){.source = all, .label = "list_reverseiterator"};
    return (tl_value){.kind = TL_V_ITERATOR, .iterator = it};
}

static tl_value simple(tl_run *run, filter which, tl_value v) {
    switch (which) {
    case F_UPPER:
        return tl__str(tl__cased(run, tl__to_string(run, v), TL_CASE_UPPER));
    case F_LOWER:
        return tl__str(tl__cased(run, tl__to_string(run, v), TL_CASE_LOWER));
    case F_CAPITALIZE:
        return tl__str(tl__capitalize(run, tl__to_string(run, v)));
    case F_TITLE:
        return title(run, tl__to_string(run, v));
    case F_STRING:
        return tl__str(tl__to_string(run, v));
    case F_SAFE:
        return safe(run, tl__to_string(run, v), false);
    case F_E:
    case F_ESCAPE:
        return safe(run, tl__to_string(run, v), true);
    case F_FORCEESCAPE: {
        tl_string plain = *tl__to_string(run, v);
        plain.safe = false;
        return safe(run, &plain, true);
    }
    case F_LENGTH:
    case F_COUNT:
        return tl__int(tl__length(run, v));
    case F_LIST:
        return tl__list_of(run, v, TL_V_LIST);
    case F_FIRST:
        return first(run, v);
    case F_LAST:
        return last(run, v);
    case F_REVERSE:
        return reverse(run, v);
    case F_WORDCOUNT:
        return tl__int(word_count(tl__to_string(run, v)));
    default: /* ABS */
        tl__to_real(run, v);
        if (v.kind == TL_V_FLOAT) return tl__float(fabs(v.f));
        return tl__value_int(v) < 0 ? tl__negate(run, v, true) : tl__int(tl__value_int(v));
    }
}

tl_value tl__filter_apply(tl_run *run, int index, tl_value v, const tl_args *args) {
    filter which = (filter)index;
    tl_value a[4];
    tl__run_steps(run, 1);
    switch (which) {
    case F_D:
    case F_DEFAULT:
        tl__bind(run, "default", args, "default_value boolean", 0, a);
        if (v.kind != TL_V_UNDEFINED && !(flag(run, a[1]) && !tl__truth(run, v))) return v;
        return a[0].kind == TL_V_MISSING ? tl__str(tl__string(&run->memory, "", 0, NULL)) : a[0];
    case F_TRIM:
        tl__bind(run, "trim", args, "chars", 0, a);
        return tl__str(tl__strip(run, tl__to_string(run, v), tl__chars_or_space(run, "trim", a[0]), true, true));
    case F_REPLACE:
        tl__bind(run, "replace", args, "old new count", 2, a);
        return tl__str(tl__replace(run, tl__to_string(run, v), tl__to_string(run, a[0]), tl__to_string(run, a[1]),
                                   tl__int_or(run, "replace", a[2], -1)));
    case F_CENTER:
        tl__bind(run, "center", args, "width", 0, a);
        return tl__str(tl__center(run, tl__to_string(run, v), tl__int_or(run, "center", a[0], 80), ' ', 0));
    case F_ATTR: {
        tl__bind(run, "attr", args, "name", 1, a);
        const tl_string *name = tl__string_or(run, "attr", a[0], NULL);
        if (v.kind != TL_V_NAMESPACE && v.kind != TL_V_LOOP && tl__method_find(v, name) == -1) {
            tl__run_defined(run, v);
            return tl__undefined(run, "'%s object' has no attribute '%.*s'", tl__value_type(v),
                                 (int)(name->n < 100 ? name->n : 100), name->bytes);
        }
        return tl__attribute(run, v, name);
    }
    case F_TOJSON: {
        tl_args all = *args;
        all.at = TL_NEW(&run->memory, tl_value, args->n + 1);
        all.at[0] = v;
        for (int i = 0; i < args->n; i++) all.at[i + 1] = args->at[i];
        all.n++;
        return tl__str(tl__to_json(run, &all));
    }
    case F_FORMAT: {
        if (args->n && args->names) tl__run_fail(run, "format takes values by position or by name, not both");
        tl_value values =
            args->names ? tl__dict_new(&run->memory, TL_V_DICT) : tl__list_new(&run->memory, TL_V_TUPLE, 0);
        for (int i = 0; i < args->n; i++) tl__list_add(&run->memory, values.list, args->at[i]);
        for (int i = 0; i < args->names; i++)
            tl__dict_set(&run->memory, values.dict, tl__str(args->name[i]), args->named[i]);
        return tl__str(tl__format_percent(run, tl__to_string(run, v), values));
    }
    case F_INDENT:
        return indent(run, v, args);
    case F_TRUNCATE:
        return truncate_text(run, v, args);
    case F_INT:
        return to_int(run, v, args);
    case F_FLOAT:
        return to_float(run, v, args);
    case F_ROUND:
        return round_number(run, v, args);
    case F_JOIN:
        return join(run, v, args);
    case F_SORT:
        return sort(run, v, args);
    case F_DICTSORT:
        return dictsort(run, v, args);
    case F_GROUPBY:
        return groupby(run, v, args);
    case F_MIN:
    case F_MAX:
        return extreme(run, v, args, which == F_MAX);
    case F_SUM:
        return sum(run, v, args);
    case F_MAP:
    case F_SELECT:
    case F_REJECT:
    case F_SELECTATTR:
    case F_REJECTATTR:
    case F_UNIQUE:
    case F_BATCH:
    case F_SLICE:
        return later(run, which, v, args);
    default:
        if (which >= F_KNOWN) tl__run_fail(run, "the filter '%s' is not supported", names[which]);
        tl__bind(run, names[which], args, "", 0, NULL);
        return which == F_ITEMS ? later(run, which, v, args) : simple(run, which, v);
    }
}
