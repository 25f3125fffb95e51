/* template_method.c — the methods of str, list, tuple and dict that templates call. Those that would change a list or
 * dict are refused, as transformers' sandbox refuses them. */
#include <string.h>
#include "text/template_eval.h"
#include "text/unicode.h"

/* ---- text ---- */

size_t tl__find(const tl_string *s, size_t from, size_t to, const tl_string *what) {
    if (from > to || to - from < what->n) return SIZE_MAX;
    const char *found = memmem(s->bytes + from, to - from, what->bytes, what->n);
    return found ? (size_t)(found - s->bytes) : SIZE_MAX;
}

static size_t find_last(const tl_string *s, size_t from, size_t to, const tl_string *what) {
    if (from > to || to - from < what->n) return SIZE_MAX;
    for (size_t at = to - what->n + 1; at-- > from;)
        if (memcmp(s->bytes + at, what->bytes, what->n) == 0) return at;
    return SIZE_MAX;
}

static bool has_char(const tl_string *chars, const char *c, size_t width) {
    for (size_t i = 0; i + width <= chars->n; i++)
        if (memcmp(chars->bytes + i, c, width) == 0) return true;
    return false;
}

/* Width of the character that ends at `to`. */
static size_t width_before(const tl_string *s, size_t to) {
    size_t at = to - 1;
    while (at > 0 && (s->bytes[at] & 0xC0) == 0x80) at--;
    return to - at;
}

static bool strips(const tl_string *chars, const char *c, size_t width) {
    if (chars) return has_char(chars, c, width);
    uint32_t code;
    tl__utf8_at((const uint8_t *)c, &code);
    return tl__char_space(code);
}

const tl_string *tl__strip(tl_run *run, const tl_string *s, const tl_string *chars, bool left, bool right) {
    size_t from = 0, to = s->n;
    tl__run_steps(run, (int64_t)s->n / 64);
    while (left && from < to) {
        uint32_t c;
        size_t width = (size_t)tl__utf8_at((const uint8_t *)s->bytes + from, &c);
        if (!strips(chars, s->bytes + from, width)) break;
        from += width;
    }
    while (right && to > from) {
        size_t width = width_before(s, to);
        if (!strips(chars, s->bytes + to - width, width)) break;
        to -= width;
    }
    return tl__string_part(&run->memory, s, from, to - from);
}

const tl_string *tl__replace(tl_run *run, const tl_string *s, const tl_string *old, const tl_string *by,
                             int64_t count) {
    tl_text t = {.m = &run->memory};
    size_t at = 0;
    tl__run_steps(run, (int64_t)s->n / 64);
    while (count != 0) {
        size_t found = old->n ? tl__find(s, at, s->n, old) : at;
        if (found == SIZE_MAX) break;
        tl__text_add(&t, s->bytes + at, found - at, s->data ? s->data + at : NULL);
        tl__text_string(&t, by);
        tl__run_steps(run, 1 + (int64_t)by->n / 64);
        count -= count > 0;
        at = found + old->n;
        if (old->n == 0) { /* between all characters, and at the end */
            if (at >= s->n) break;
            uint32_t c;
            size_t width = (size_t)tl__utf8_at((const uint8_t *)s->bytes + at, &c);
            tl__text_add(&t, s->bytes + at, width, s->data ? s->data + at : NULL);
            at += width;
        }
    }
    if (at < s->n) tl__text_add(&t, s->bytes + at, s->n - at, s->data ? s->data + at : NULL);
    return tl__text_done(&t);
}

static void add_part(tl_run *run, tl_value list, const tl_string *s, size_t from, size_t to) {
    tl__run_steps(run, 1);
    tl__list_add(&run->memory, list.list, tl__str(tl__string_part(&run->memory, s, from, to - from)));
}

static void reverse(tl_value list) {
    for (size_t i = 0, k = list.list->n; i + 1 < k; i++) {
        tl_value v = list.list->at[i];
        list.list->at[i] = list.list->at[--k];
        list.list->at[k] = v;
    }
}

static tl_value split_on_space(tl_run *run, const tl_string *s, int64_t most, bool from_right) {
    tl_value out = tl__list_new(&run->memory, TL_V_LIST, 0);
    size_t low = 0, high = s->n;
    for (;;) {
        const tl_string *rest = tl__string_part(&run->memory, s, low, high - low);
        const tl_string *trimmed = tl__strip(run, rest, NULL, true, true);
        if (!trimmed->n) break;
        size_t from = (size_t)(trimmed->bytes - s->bytes), to = from + trimmed->n;
        if (most == 0) { /* what is left keeps the space on its far side */
            if (from_right) add_part(run, out, s, low, to);
            else add_part(run, out, s, from, high);
            break;
        }
        most--;
        size_t at = from_right ? to : from;
        while (from_right ? at > from : at < to) {
            uint32_t c;
            size_t width = from_right ? width_before(s, at) : (size_t)tl__utf8_at((const uint8_t *)s->bytes + at, &c);
            if (from_right) tl__utf8_at((const uint8_t *)s->bytes + at - width, &c);
            if (tl__char_space(c)) break;
            at = from_right ? at - width : at + width;
        }
        if (from_right) add_part(run, out, s, at, to), high = at;
        else add_part(run, out, s, from, at), low = at;
    }
    if (from_right) reverse(out);
    return out;
}

static tl_value split(tl_run *run, const tl_string *s, tl_value by, int64_t most, bool from_right) {
    if (by.kind == TL_V_MISSING || by.kind == TL_V_NONE) return split_on_space(run, s, most, from_right);
    const tl_string *sep = tl__string_or(run, "split", by, NULL);
    if (sep->n == 0) tl__run_fail(run, "a text cannot be split by an empty one");
    tl_value out = tl__list_new(&run->memory, TL_V_LIST, 0);
    tl__run_steps(run, (int64_t)s->n / 64);
    size_t low = 0, high = s->n;
    while (most != 0) {
        size_t found = from_right ? find_last(s, low, high, sep) : tl__find(s, low, high, sep);
        if (found == SIZE_MAX) break;
        if (from_right) add_part(run, out, s, found + sep->n, high), high = found;
        else add_part(run, out, s, low, found), low = found + sep->n;
        most -= most > 0;
    }
    add_part(run, out, s, low, high);
    if (from_right) reverse(out);
    return out;
}

static bool is_line_end(uint32_t c) {
    return (c >= 10 && c <= 13) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

tl_value tl__split_lines(tl_run *run, const tl_string *s, bool keep) {
    tl_value out = tl__list_new(&run->memory, TL_V_LIST, 0);
    for (size_t from = 0; from < s->n;) {
        size_t at = from;
        uint32_t c = 0;
        int width = 0;
        while (at < s->n) {
            width = tl__utf8_at((const uint8_t *)s->bytes + at, &c);
            if (is_line_end(c)) break;
            at += (size_t)width;
        }
        size_t next = at < s->n ? at + (size_t)width : at;
        if (at < s->n && c == '\r' && next < s->n && s->bytes[next] == '\n') next++;
        add_part(run, out, s, from, keep ? next : at);
        tl__run_steps(run, (int64_t)(next - from) / 64);
        from = next;
    }
    return out;
}

const tl_string *tl__cased(tl_run *run, const tl_string *s, tl_case to) {
    tl_text t = {.m = &run->memory};
    tl__run_steps(run, (int64_t)s->n / 16);
    tl__text_case(&t, s, 0, s->n, to);
    return tl__text_done(&t);
}

const tl_string *tl__capitalize(tl_run *run, const tl_string *s) {
    tl_text t = {.m = &run->memory};
    if (s->n == 0) return s;
    uint32_t c;
    size_t width = (size_t)tl__utf8_at((const uint8_t *)s->bytes, &c);
    tl__run_steps(run, (int64_t)s->n / 16);
    tl__text_case(&t, s, 0, width, TL_CASE_TITLE);
    tl__text_case(&t, s, width, s->n, TL_CASE_LOWER);
    return tl__text_done(&t);
}

static bool cased(uint32_t c) {
    return tl__char_is(c, TL_IS_UPPER) || tl__char_is(c, TL_IS_LOWER) || tl__char_is(c, TL_IS_TITLE);
}

static const tl_string *title(tl_run *run, const tl_string *s, bool swap) {
    tl_text t = {.m = &run->memory};
    bool inside = false;
    tl__run_steps(run, (int64_t)s->n / 16);
    for (size_t i = 0; i < s->n;) {
        uint32_t c;
        size_t width = (size_t)tl__utf8_at((const uint8_t *)s->bytes + i, &c);
        tl_case to = swap     ? (tl__char_is(c, TL_IS_UPPER) ? TL_CASE_LOWER : TL_CASE_UPPER)
                     : inside ? TL_CASE_LOWER
                              : TL_CASE_TITLE;
        if (swap && !tl__char_is(c, TL_IS_UPPER) && !tl__char_is(c, TL_IS_LOWER))
            tl__text_add(&t, s->bytes + i, width, s->data ? s->data + i : NULL);
        else tl__text_case(&t, s, i, i + width, to);
        inside = cased(c);
        i += width;
    }
    return tl__text_done(&t);
}

const tl_string *tl__center(tl_run *run, const tl_string *s, int64_t width, uint32_t fill, int side) {
    int64_t more = width - (int64_t)s->chars;
    if (more <= 0) return s;
    if (more > (int64_t)run->memory.limit) tl__run_fail(run, "a text of this width is too long");
    tl__run_steps(run, more / 16);
    int64_t left = side < 0 ? 0 : side > 0 ? more : more / 2 + (more & width & 1); /* as CPython rounds */
    tl_text t = {.m = &run->memory};
    tl__text_fill(&t, fill, left);
    tl__text_string(&t, s);
    tl__text_fill(&t, fill, more - left);
    return tl__text_done(&t);
}

bool tl__is_cased(const tl_string *s, bool upper) {
    bool any = false;
    for (size_t i = 0; i < s->n;) {
        uint32_t c;
        i += (size_t)tl__utf8_at((const uint8_t *)s->bytes + i, &c);
        if (tl__char_is(c, upper ? TL_IS_LOWER : TL_IS_UPPER) || tl__char_is(c, TL_IS_TITLE)) return false;
        any |= tl__char_is(c, upper ? TL_IS_UPPER : TL_IS_LOWER);
    }
    return any;
}

static bool is_title(const tl_string *s) {
    bool any = false, inside = false;
    for (size_t i = 0; i < s->n;) {
        uint32_t c;
        i += (size_t)tl__utf8_at((const uint8_t *)s->bytes + i, &c);
        bool upper = tl__char_is(c, TL_IS_UPPER) || tl__char_is(c, TL_IS_TITLE), lower = tl__char_is(c, TL_IS_LOWER);
        if ((upper && inside) || (lower && !inside)) return false;
        inside = upper || lower;
        any |= inside;
    }
    return any;
}

static bool all_are(const tl_string *s, tl_char_is what) {
    for (size_t i = 0; i < s->n;) {
        uint32_t c;
        i += (size_t)tl__utf8_at((const uint8_t *)s->bytes + i, &c);
        bool fine =
            what == TL_IS_WORD ? tl__char_is(c, TL_IS_ALPHA) || tl__char_is(c, TL_IS_NUMERIC) : tl__char_is(c, what);
        if (!fine) return false;
    }
    return s->n > 0;
}

/* ---- the table ---- */

typedef enum method {
    M_STRIP,
    M_LSTRIP,
    M_RSTRIP,
    M_SPLIT,
    M_RSPLIT,
    M_STARTSWITH,
    M_ENDSWITH,
    M_REPLACE,
    M_UPPER,
    M_LOWER,
    M_TITLE,
    M_CAPITALIZE,
    M_SWAPCASE,
    M_CASEFOLD,
    M_JOIN,
    M_FIND,
    M_RFIND,
    M_INDEX,
    M_RINDEX,
    M_COUNT,
    M_FORMAT,
    M_REMOVEPREFIX,
    M_REMOVESUFFIX,
    M_SPLITLINES,
    M_PARTITION,
    M_RPARTITION,
    M_ISDIGIT,
    M_ISDECIMAL,
    M_ISNUMERIC,
    M_ISALPHA,
    M_ISALNUM,
    M_ISSPACE,
    M_ISUPPER,
    M_ISLOWER,
    M_ISTITLE,
    M_ISASCII,
    M_CENTER,
    M_LJUST,
    M_RJUST,
    M_ZFILL,
    M_STR_LAST = M_ZFILL,
    M_LIST_INDEX,
    M_LIST_COUNT,
    M_LIST_COPY,
    M_LIST_LAST = M_LIST_COPY,
    M_GET,
    M_ITEMS,
    M_KEYS,
    M_VALUES,
    M_DICT_COPY,
    M_DICT_LAST = M_DICT_COPY,
    M_LOOP_CYCLE,
    M_LOOP_CHANGED,
    M_CYCLER_NEXT,
    M_CYCLER_RESET,
    M_REFUSED, /* changes a list or dict */
    METHODS
} method;

static const char *const names[METHODS] = {"strip",
                                           "lstrip",
                                           "rstrip",
                                           "split",
                                           "rsplit",
                                           "startswith",
                                           "endswith",
                                           "replace",
                                           "upper",
                                           "lower",
                                           "title",
                                           "capitalize",
                                           "swapcase",
                                           "casefold",
                                           "join",
                                           "find",
                                           "rfind",
                                           "index",
                                           "rindex",
                                           "count",
                                           "format",
                                           "removeprefix",
                                           "removesuffix",
                                           "splitlines",
                                           "partition",
                                           "rpartition",
                                           "isdigit",
                                           "isdecimal",
                                           "isnumeric",
                                           "isalpha",
                                           "isalnum",
                                           "isspace",
                                           "isupper",
                                           "islower",
                                           "istitle",
                                           "isascii",
                                           "center",
                                           "ljust",
                                           "rjust",
                                           "zfill",
                                           "index",
                                           "count",
                                           "copy",
                                           "get",
                                           "items",
                                           "keys",
                                           "values",
                                           "copy",
                                           "cycle",
                                           "changed",
                                           "next",
                                           "reset",
                                           "a method that changes it"};

static int find_in(const tl_string *name, int from, int to) {
    for (int i = from; i <= to; i++)
        if (tl__string_is(name, names[i])) return i;
    return -1;
}

static bool among(const tl_string *name, const char *words) { /* parted by spaces */
    for (const char *w = words; *w;) {
        size_t n = strcspn(w, " ");
        if (n == name->n && memcmp(w, name->bytes, n) == 0) return true;
        w += n + (w[n] == ' ');
    }
    return false;
}

int tl__method_find(tl_value of, const tl_string *name) {
    int found = -1;
    const char *others = "";
    switch (of.kind) {
    case TL_V_STRING:
        found = find_in(name, 0, M_STR_LAST);
        others = "encode expandtabs format_map isidentifier isprintable maketrans translate";
        break;
    case TL_V_LIST:
        found = find_in(name, M_LIST_INDEX, M_LIST_LAST);
        if (among(name, "append clear pop reverse insert sort extend remove")) return M_REFUSED;
        break;
    case TL_V_TUPLE:
        found = find_in(name, M_LIST_INDEX, M_LIST_COUNT);
        break;
    case TL_V_RANGE:
        found = find_in(name, M_LIST_INDEX, M_LIST_COUNT);
        others = "start stop step";
        break;
    case TL_V_DICT:
        found = find_in(name, M_GET, M_DICT_LAST);
        if (among(name, "clear pop popitem setdefault update")) return M_REFUSED;
        others = "fromkeys";
        break;
    case TL_V_LOOP:
        found = find_in(name, M_LOOP_CYCLE, M_LOOP_CHANGED);
        break;
    case TL_V_CYCLER:
        found = find_in(name, M_CYCLER_NEXT, M_CYCLER_RESET);
        break;
    case TL_V_INT:
    case TL_V_BOOL:
        others = "real imag numerator denominator conjugate bit_length bit_count to_bytes from_bytes as_integer_ratio";
        break;
    case TL_V_FLOAT:
        others = "real imag conjugate as_integer_ratio is_integer hex fromhex";
        break;
    case TL_V_VIEW:
        others = of.which == 1 ? "mapping" : "mapping isdisjoint";
        break;
    default:
        break;
    }
    if (found < 0 && among(name, others)) return -2;
    return found;
}

/* from and to of s as find, index, count, startswith take them: characters, as slices cut. false: nothing can match. */
static bool range_of(tl_run *run, const tl_string *s, tl_value start, tl_value end, size_t *from, size_t *to) {
    int64_t n = (int64_t)s->chars, low = tl__int_or(run, "start", start, 0), high = tl__int_or(run, "end", end, n);
    if (low < 0) low = low + n < 0 ? 0 : low + n;
    if (high < 0) high = high + n < 0 ? 0 : high + n;
    if (high > n) high = n;
    if (low > n || low > high) return false;
    *from = tl__offset(s, (size_t)low), *to = tl__offset(s, (size_t)high);
    return true;
}

static size_t chars_before(const tl_string *s, size_t at) {
    size_t chars = 0;
    for (size_t i = 0; i < at; i++) chars += (s->bytes[i] & 0xC0) != 0x80;
    return chars;
}

static bool matches(tl_run *run, const tl_string *s, tl_value affix, size_t from, size_t to, bool end) {
    if (affix.kind == TL_V_TUPLE) {
        for (size_t i = 0; i < affix.list->n; i++)
            if (matches(run, s, affix.list->at[i], from, to, end)) return true;
        return false;
    }
    tl__run_steps(run, 1);
    const tl_string *a = tl__string_or(run, end ? "endswith" : "startswith", affix, NULL);
    return to - from >= a->n && memcmp(s->bytes + (end ? to - a->n : from), a->bytes, a->n) == 0;
}

static tl_value partition(tl_run *run, const tl_string *s, const tl_string *sep, bool right) {
    if (sep->n == 0) tl__run_fail(run, "a text cannot be parted by an empty one");
    size_t at = right ? find_last(s, 0, s->n, sep) : tl__find(s, 0, s->n, sep);
    tl_value out = tl__list_new(&run->memory, TL_V_TUPLE, 3);
    size_t from = at == SIZE_MAX ? (right ? 0 : s->n) : at, to = at == SIZE_MAX ? from : at + sep->n;
    add_part(run, out, s, 0, from);
    add_part(run, out, s, from, to);
    add_part(run, out, s, to, s->n);
    return out;
}

static tl_value join(tl_run *run, const tl_string *by, tl_value items) {
    tl_text t = {.m = &run->memory};
    tl_iterator *it = tl__iterate(run, items);
    bool first = true;
    for (tl_value item; tl__next(run, it, &item); first = false) {
        if (item.kind != TL_V_STRING)
            tl__run_fail(run, "join puts texts together, not a value of type %s", tl__value_type(item));
        if (!first) tl__text_string(&t, by);
        tl__text_string(&t, item.s);
        tl__run_steps(run, (int64_t)(item.s->n + by->n) / 64);
    }
    return tl__str(tl__text_done(&t));
}

static uint32_t fill_char(tl_run *run, tl_value v) {
    const tl_string *s = tl__string_or(run, "fillchar", v, NULL);
    uint32_t c = ' ';
    if (s && s->chars != 1) tl__run_fail(run, "the fill character is one character");
    if (s) tl__utf8_at((const uint8_t *)s->bytes, &c);
    return c;
}

static tl_value str_method(tl_run *run, method which, const tl_string *s, const tl_args *args) {
    tl_memory *m = &run->memory;
    tl_value a[3];
    const char *name = names[which];
    tl__run_steps(run, (int64_t)s->n / 64);
    switch (which) {
    case M_STRIP:
    case M_LSTRIP:
    case M_RSTRIP:
        tl__bind(run, name, args, "/chars", 0, a);
        return tl__str(tl__strip(run, s, tl__chars_or_space(run, name, a[0]), which != M_RSTRIP, which != M_LSTRIP));
    case M_SPLIT:
    case M_RSPLIT:
        tl__bind(run, name, args, "sep maxsplit", 0, a);
        return split(run, s, a[0], tl__int_or(run, name, a[1], -1), which == M_RSPLIT);
    case M_STARTSWITH:
    case M_ENDSWITH: {
        tl__bind(run, name, args, "/prefix start end", 1, a);
        size_t from, to;
        return tl__bool(range_of(run, s, a[1], a[2], &from, &to) &&
                        matches(run, s, a[0], from, to, which == M_ENDSWITH));
    }
    case M_REPLACE:
        tl__bind(run, name, args, "/old new count", 2, a);
        return tl__str(tl__replace(run, s, tl__string_or(run, name, a[0], NULL), tl__string_or(run, name, a[1], NULL),
                                   tl__int_or(run, name, a[2], -1)));
    case M_UPPER:
    case M_LOWER:
        tl__bind(run, name, args, "", 0, a);
        return tl__str(tl__cased(run, s, which == M_UPPER ? TL_CASE_UPPER : TL_CASE_LOWER));
    case M_CASEFOLD:
        tl__bind(run, name, args, "", 0, a);
        if (s->chars != s->n) tl__run_fail(run, "casefold of letters beyond ASCII is not supported; use lower");
        return tl__str(tl__cased(run, s, TL_CASE_LOWER));
    case M_TITLE:
    case M_SWAPCASE:
        tl__bind(run, name, args, "", 0, a);
        return tl__str(title(run, s, which == M_SWAPCASE));
    case M_CAPITALIZE:
        tl__bind(run, name, args, "", 0, a);
        return tl__str(tl__capitalize(run, s));
    case M_JOIN:
        tl__bind(run, name, args, "/iterable", 1, a);
        return join(run, s, a[0]);
    case M_FIND:
    case M_RFIND:
    case M_INDEX:
    case M_RINDEX: {
        tl__bind(run, name, args, "/sub start end", 1, a);
        const tl_string *what = tl__string_or(run, name, a[0], NULL);
        size_t from, to, at = SIZE_MAX;
        if (range_of(run, s, a[1], a[2], &from, &to))
            at = which == M_RFIND || which == M_RINDEX ? find_last(s, from, to, what) : tl__find(s, from, to, what);
        if (at == SIZE_MAX && (which == M_INDEX || which == M_RINDEX))
            tl__run_fail(run, "%s: the text is not there", name);
        return tl__int(at == SIZE_MAX ? -1 : (int64_t)chars_before(s, at));
    }
    case M_COUNT: {
        tl__bind(run, name, args, "/sub start end", 1, a);
        const tl_string *what = tl__string_or(run, name, a[0], NULL);
        size_t from, to;
        int64_t count = 0;
        if (!range_of(run, s, a[1], a[2], &from, &to)) return tl__int(0);
        if (what->n == 0) return tl__int((int64_t)chars_before(s, to) - (int64_t)chars_before(s, from) + 1);
        while ((from = tl__find(s, from, to, what)) != SIZE_MAX) count++, from += what->n;
        return tl__int(count);
    }
    case M_FORMAT:
        return tl__str(tl__format_braces(run, s, args));
    case M_REMOVEPREFIX:
    case M_REMOVESUFFIX: {
        tl__bind(run, name, args, "/affix", 1, a);
        const tl_string *affix = tl__string_or(run, name, a[0], NULL);
        if (!matches(run, s, tl__str(affix), 0, s->n, which == M_REMOVESUFFIX)) return tl__str(s);
        return tl__str(tl__string_part(m, s, which == M_REMOVEPREFIX ? affix->n : 0, s->n - affix->n));
    }
    case M_SPLITLINES:
        tl__bind(run, name, args, "keepends", 0, a);
        return tl__split_lines(run, s, a[0].kind != TL_V_MISSING && tl__truth(run, a[0]));
    case M_PARTITION:
    case M_RPARTITION:
        tl__bind(run, name, args, "/sep", 1, a);
        return partition(run, s, tl__string_or(run, name, a[0], NULL), which == M_RPARTITION);
    case M_CENTER:
    case M_LJUST:
    case M_RJUST:
        tl__bind(run, name, args, "/width fillchar", 1, a);
        return tl__str(tl__center(run, s, tl__int_or(run, name, a[0], 0), fill_char(run, a[1]),
                                  which == M_LJUST   ? -1
                                  : which == M_RJUST ? 1
                                                     : 0));
    case M_ZFILL: {
        tl__bind(run, name, args, "/width", 1, a);
        size_t sign = s->n && (s->bytes[0] == '-' || s->bytes[0] == '+');
        const tl_string *rest = tl__string_part(m, s, sign, s->n - sign);
        tl_text t = {.m = m};
        tl__text_add(&t, s->bytes, sign, s->data);
        tl__text_string(&t, tl__center(run, rest, tl__int_or(run, name, a[0], 0) - (int64_t)sign, '0', 1));
        return tl__str(tl__text_done(&t));
    }
    default:
        break;
    }
    tl__bind(run, name, args, "", 0, a);
    switch (which) {
    case M_ISDIGIT:
        return tl__bool(all_are(s, TL_IS_DIGIT));
    case M_ISDECIMAL:
        return tl__bool(all_are(s, TL_IS_DECIMAL));
    case M_ISNUMERIC:
        return tl__bool(all_are(s, TL_IS_NUMERIC));
    case M_ISALPHA:
        return tl__bool(all_are(s, TL_IS_ALPHA));
    case M_ISALNUM:
        return tl__bool(all_are(s, TL_IS_WORD));
    case M_ISUPPER:
        return tl__bool(tl__is_cased(s, true));
    case M_ISLOWER:
        return tl__bool(tl__is_cased(s, false));
    case M_ISTITLE:
        return tl__bool(is_title(s));
    case M_ISASCII:
        return tl__bool(s->chars == s->n);
    default:
        return tl__bool(s->n > 0 && tl__strip(run, s, NULL, true, false)->n == 0); /* ISSPACE */
    }
}

static tl_value list_method(tl_run *run, method which, tl_value self, const tl_args *args) {
    tl_value a[3];
    if (which == M_LIST_COPY) {
        tl__bind(run, "copy", args, "", 0, a);
        return tl__list_of(run, self, TL_V_LIST);
    }
    tl__bind(run, names[which], args, which == M_LIST_INDEX ? "/value start stop" : "/value", 1, a);
    tl_iterator *it = tl__iterate(run, self);
    int64_t n = tl__length(run, self), low = 0, high = n, count = 0, i = 0;
    if (which == M_LIST_INDEX) {
        low = tl__int_or(run, "index", a[1], 0), high = tl__int_or(run, "index", a[2], n);
        if (low < 0) low += n;
        if (high < 0) high += n;
    }
    for (tl_value item; tl__next(run, it, &item); i++) {
        if (i < low || i >= high || !tl__equal(run, item, a[0])) continue;
        if (which == M_LIST_INDEX) return tl__int(i);
        count++;
    }
    if (which == M_LIST_INDEX) tl__run_fail(run, "index: the value is not in the %s", tl__value_type(self));
    return tl__int(count);
}

static tl_value dict_method(tl_run *run, method which, tl_value self, const tl_args *args) {
    tl_value a[2];
    if (which == M_GET) {
        tl__bind(run, "get", args, "/key default", 1, a);
        if (!tl__value_hashable(a[0])) tl__run_fail(run, "a value of type %s cannot be a key", tl__value_type(a[0]));
        if (a[0].kind == TL_V_STRING) tl__run_steps(run, (int64_t)a[0].s->n / 64);
        const tl_value *found = tl__dict_get(self.dict, a[0]);
        return found ? *found : a[1].kind == TL_V_MISSING ? tl__none() : a[1];
    }
    tl__bind(run, names[which], args, "", 0, a);
    if (which == M_DICT_COPY) return self; /* neither can change */
    return (tl_value){.kind = TL_V_VIEW, .which = which == M_KEYS ? 0 : which == M_VALUES ? 1 : 2, .dict = self.dict};
}

static tl_value loop_method(tl_run *run, method which, tl_loop *loop, const tl_args *args) {
    if (args->names) tl__run_fail(run, "loop.%s takes no arguments by name", names[which]);
    if (which == M_LOOP_CYCLE) {
        if (!args->n) tl__run_fail(run, "loop.cycle needs something to cycle through");
        return args->at[loop->index0 % args->n];
    }
    tl_value asked = tl__list_new(&run->memory, TL_V_TUPLE, (size_t)args->n);
    for (int i = 0; i < args->n; i++) tl__list_add(&run->memory, asked.list, args->at[i]);
    bool changed = !loop->has_changed || !tl__equal(run, asked, loop->changed);
    if (changed) loop->changed = asked, loop->has_changed = true;
    return tl__bool(changed);
}

tl_value tl__method_call(tl_run *run, int index, tl_value self, const tl_args *args) {
    method which = (method)index;
    if (which == M_REFUSED)
        tl__run_fail(run, "a template must not change a %s; build a new one, or keep it in a namespace",
                     tl__value_type(self));
    if (which <= M_STR_LAST) {
        if (!self.s->safe) return str_method(run, which, self.s, args);
        if (which == M_JOIN || which == M_REPLACE || which == M_FORMAT || which >= M_CENTER)
            tl__run_fail(run, "%s of a text that was marked safe is not supported", names[which]);
        tl_value out = str_method(run, which, self.s, args);
        if (out.kind != TL_V_STRING) return out;
        tl_string *safe = TL_NEW(&run->memory, tl_string, 1);
        *safe = *out.s;
        safe->safe = true;
        return tl__str(safe);
    }
    if (which <= M_LIST_LAST) return list_method(run, which, self, args);
    if (which <= M_DICT_LAST) return dict_method(run, which, self, args);
    if (which <= M_LOOP_CHANGED) return loop_method(run, which, self.loop, args);
    tl__bind(run, names[which], args, "", 0, NULL);
    tl_cycler *c = self.cycler;
    if (which == M_CYCLER_RESET) {
        c->at = 0;
        return tl__none();
    }
    tl_value now = c->items.at[c->at];
    c->at = (c->at + 1) % c->items.n;
    return now;
}
