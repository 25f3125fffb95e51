/* template_format.c — Python's two ways to fill a text with values: "%s" % x and "{}".format(x). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "text/template_eval.h"
#include "text/unicode.h"

#define MOST_WIDTH 100000
#define MOST_PRECISION 500

typedef struct spec {
    uint32_t fill;
    char align; /* '<', '>', '^', '=', or 0 */
    char sign;  /* '+', ' ', or 0 for '-' */
    bool alternate, zero;
    int64_t width, precision; /* −1: none */
    char group;               /* ',' or '_' between thousands, or 0 */
    char type;                /* or 0 */
} spec;

void tl__float_fixed(char *out, size_t size, double x, int digits) {
    snprintf(out, size, "%.*f", digits, x);
}

/* digits of a number with `group` between every three (four for the other bases), before the point; zeros in front up
 * to `width` where zero-padded, grouped too. */
static void add_grouped(tl_text *t, const char *digits, size_t whole, char group, int every, int64_t width) {
    const size_t from = t->n;
    int64_t made = 0;
    for (size_t i = 0; i < whole || made < width; i++) { /* from the right */
        if (group && i && i % (size_t)every == 0) {
            tl__text_add(t, &group, 1, NULL);
            made++;
            if (i >= whole && made >= width) made--; /* a separator never leads: one more zero follows it */
        }
        tl__text_add(t, i < whole ? &digits[whole - 1 - i] : "0", 1, NULL);
        made++;
    }
    for (size_t left = from, right = t->n; left + 1 < right; left++) {
        const char c = t->bytes[--right];
        t->bytes[right] = t->bytes[left];
        t->bytes[left] = c;
    }
}

/* sign, prefix and digits aligned in a width. digits[whole] are before the point, the rest is `tail`. */
static void add_number(tl_text *t, const spec *f, bool negative, const char *prefix, const char *digits, size_t whole,
                       const char *tail, int every) {
    char sign[2] = {negative ? '-' : f->sign == '+' || f->sign == ' ' ? f->sign : 0, 0};
    size_t fixed = strlen(sign) + strlen(prefix) + strlen(tail);
    char align = f->align ? f->align : '>';
    int64_t zeros = align == '=' && f->fill == '0' ? f->width - (int64_t)fixed : 0;
    tl_text body = {.m = t->m};
    add_grouped(&body, digits, whole, f->group, every, zeros);
    int64_t more = f->width - (int64_t)(fixed + body.n);
    if (more < 0) more = 0;
    int64_t left = align == '>' ? more : align == '^' ? more / 2 : 0;
    tl__text_fill(t, f->fill, left);
    tl__text_c(t, sign);
    tl__text_c(t, prefix);
    if (align == '=') tl__text_fill(t, f->fill, more);
    tl__text_add(t, body.bytes, body.n, NULL);
    tl__text_c(t, tail);
    if (align != '=') tl__text_fill(t, f->fill, more - left);
}

/* A precision is the fewest digits. */
static void add_int(tl_text *t, const spec *f, int64_t i) {
    int base = f->type == 'b' ? 2 : f->type == 'o' ? 8 : f->type == 'x' || f->type == 'X' ? 16 : 10;
    char digits[MOST_PRECISION + 72], *const end = digits + sizeof digits, *p = end;
    uint64_t u = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
    do *--p = (f->type == 'X' ? "0123456789ABCDEF" : "0123456789abcdef")[u % (unsigned)base];
    while (u /= (unsigned)base);
    while (end - p < f->precision) *--p = '0';
    char prefix[3] = {0};
    if (f->alternate && base != 10) prefix[0] = '0', prefix[1] = f->type;
    add_number(t, f, i < 0, prefix, p, (size_t)(end - p), "", base == 10 ? 3 : 4);
}

/* The exponent of a in scientific form to so many significant digits. */
static int exponent(double a, int digits) {
    char e[MOST_PRECISION + 16];
    snprintf(e, sizeof e, "%.*e", digits - 1, a);
    return (int)strtol(strchr(e, 'e') + 1, NULL, 10);
}

/* "%#.*g", which keeps trailing zeros and the point, but has an exponent from 10^top on; glibc's own loses the zeros of
 * what is rounded up to a power of ten (99999.5 to 5 digits). */
static void general(char *text, size_t size, int precision, int top, bool upper, double a) {
    const int power = exponent(a, precision);
    if (power >= -4 && power < top) snprintf(text, size, "%#.*f", precision - 1 - power, a);
    else snprintf(text, size, upper ? "%#.*E" : "%#.*e", precision - 1, a);
}

static void add_float(tl_run *run, tl_text *t, const spec *f, double x) {
    char text[1000];
    double a = fabs(x);
    bool negative = signbit(x) && !isnan(x);
    int precision = f->precision < 0 ? 6 : (int)f->precision;
    char type = f->type == '%' ? 'f' : f->type == 'n' ? 'g' : f->type;
    spec how = *f;
    if (precision == 0 && (!type || type == 'g' || type == 'G')) precision = 1;
    if (f->type == '%') a *= 100;
    if (!isfinite(a)) {
        how.group = 0;
        strcpy(text, isnan(a) ? "nan" : "inf");
        if (f->type == 'F' || f->type == 'E' || f->type == 'G')
            for (char *c = text; *c; c++) *c = (char)(*c - 32);
    } else if (type == 0 && f->precision < 0) {
        tl__float_text(text, a);
        size_t mark = strcspn(text, ".e");
        if (f->alternate && text[mark] != '.') { /* "1e+22" */
            memmove(text + mark + 1, text + mark, strlen(text + mark) + 1);
            text[mark] = '.';
        }
    } else if (f->alternate && (type == 0 || type == 'g' || type == 'G')) {
        general(text, sizeof text, precision, type ? precision : precision - 1, type == 'G', a);
    } else if (type == 0) { /* as g, with a digit after the point, and an exponent one place earlier */
        const int power = exponent(a, precision);
        if (power >= -4 && power < precision - 1) {
            snprintf(text, sizeof text, "%.*g", precision, a);
            if (!strpbrk(text, ".e")) strcat(text, ".0");
        } else if (power >= -4 && power < precision) {
            snprintf(text, sizeof text, "%.*e", precision - 1, a);
            char *mark = strchr(text, 'e');
            char *end = mark;
            while (strchr(text, '.') && end > text && end[-1] == '0') end--;
            if (end > text && end[-1] == '.') end--;
            memmove(end, mark, strlen(mark) + 1);
        } else {
            snprintf(text, sizeof text, "%.*g", precision, a);
        }
    } else {
        char pattern[8] = "%.*f";
        if (f->alternate) strcpy(pattern, "%#.*f");
        pattern[strlen(pattern) - 1] = type;
        if (!strchr("eEfFgG", type)) tl__run_fail(run, "the format '%c' does not go with a number", type);
        snprintf(text, sizeof text, pattern, precision, a);
    }
    size_t whole = strspn(text, "0123456789");
    if (!isfinite(a)) whole = strlen(text);
    char tail[1002];
    snprintf(tail, sizeof tail, "%s%s", text + whole, f->type == '%' ? "%" : "");
    add_number(t, &how, negative, "", text, whole, tail, 3);
}

static void add_text(tl_run *run, tl_text *t, const spec *f, const tl_string *s) {
    if (f->precision >= 0 && (size_t)f->precision < s->chars)
        s = tl__string_part(&run->memory, s, 0, tl__offset(s, (size_t)f->precision));
    int64_t more = f->width - (int64_t)s->chars;
    if (more < 0) more = 0;
    int64_t left = f->align == '>' ? more : f->align == '^' ? more / 2 : 0;
    tl__text_fill(t, f->fill, left);
    tl__text_string(t, s);
    tl__text_fill(t, f->fill, more - left);
}

static void check_size(tl_run *run, const spec *f) {
    if (f->width > MOST_WIDTH) tl__run_fail(run, "a width above %d is not supported", MOST_WIDTH);
    if (f->precision > MOST_PRECISION) tl__run_fail(run, "a precision above %d is not supported", MOST_PRECISION);
    tl__run_steps(run, 1 + f->width / 16);
}

/* ---- "%s" % x ---- */

typedef struct percent {
    tl_value values; /* a tuple's items in turn; a dict by name; else the one value */
    size_t used;
} percent;

static tl_value percent_next(tl_run *run, percent *p) {
    if (p->values.kind == TL_V_TUPLE) {
        if (p->used >= p->values.list->n) tl__run_fail(run, "the format wants more values than there are");
        return p->values.list->at[p->used++];
    }
    if (p->used++) tl__run_fail(run, "the format wants more values than there are");
    return p->values;
}

static int64_t percent_number(tl_run *run, percent *p, const tl_string *s, size_t *i) {
    if (*i < s->n && s->bytes[*i] == '*') {
        ++*i;
        return tl__int_or(run, "*", percent_next(run, p), 0);
    }
    int64_t n = 0;
    for (; *i < s->n && s->bytes[*i] >= '0' && s->bytes[*i] <= '9'; ++*i)
        if ((n = 10 * n + (s->bytes[*i] - '0')) > MOST_WIDTH)
            tl__run_fail(run, "a width above %d is not supported", MOST_WIDTH);
    return n;
}

static void percent_one(tl_run *run, tl_text *t, const spec *f, char type, tl_value v) {
    spec g = *f;
    g.type = type;
    switch (type) {
    case 's':
        add_text(run, t, &g, tl__to_string(run, v));
        return;
    case 'r':
    case 'a': {
        tl_text repr = {.m = &run->memory};
        tl__add_repr(run, &repr, v);
        const tl_string *s = tl__text_done(&repr);
        if (type == 'a' && s->chars != s->n) tl__run_fail(run, "%%a of letters beyond ASCII is not supported");
        add_text(run, t, &g, s);
        return;
    }
    case 'c': {
        tl_text one = {.m = &run->memory};
        if (v.kind == TL_V_STRING && v.s->chars == 1) tl__text_string(&one, v.s);
        else if (tl__value_whole(v) && tl__value_int(v) >= 0 && tl__value_int(v) < 0xD800)
            tl__text_char(&one, (uint32_t)tl__value_int(v), false);
        else tl__run_fail(run, "%%c wants a character");
        add_text(run, t, &g, tl__text_done(&one));
        return;
    }
    case 'd':
    case 'i':
    case 'u':
    case 'o':
    case 'x':
    case 'X': {
        bool decimal = strchr("diu", type) != NULL;
        if (!tl__value_number(v) || (v.kind == TL_V_FLOAT && (!decimal || !(fabs(v.f) < 0x1p63))))
            tl__run_fail(run, "%%%c wants a whole number, not a value of type %s", type, tl__value_type(v));
        if (decimal) g.type = 'd';
        add_int(t, &g, v.kind == TL_V_FLOAT ? (int64_t)v.f : tl__value_int(v));
        return;
    }
    case 'e':
    case 'E':
    case 'f':
    case 'F':
    case 'g':
    case 'G':
        add_float(run, t, &g, tl__to_real(run, v));
        return;
    default:
        tl__run_fail(run, "the format '%%%c' is not known", type);
    }
}

const tl_string *tl__format_percent(tl_run *run, const tl_string *s, tl_value values) {
    tl_text t = {.m = &run->memory};
    percent p = {.values = values};
    bool mapped = false;
    for (size_t i = 0; i < s->n;) {
        size_t run_end = i;
        while (run_end < s->n && s->bytes[run_end] != '%') run_end++;
        tl__text_add(&t, s->bytes + i, run_end - i, s->data ? s->data + i : NULL);
        if ((i = run_end) >= s->n) break;
        i++;
        spec f = {.fill = ' ', .align = '>', .precision = -1};
        tl_value named = {0};
        if (i < s->n && s->bytes[i] == '(') {
            size_t from = ++i;
            while (i < s->n && s->bytes[i] != ')') i++;
            if (i >= s->n || values.kind != TL_V_DICT) tl__run_fail(run, "a format with names wants a dict");
            const tl_value *found =
                tl__dict_get(values.dict, tl__str(tl__string_part(&run->memory, s, from, i - from)));
            if (!found)
                tl__run_fail(run, "the format names '%.*s', which the dict lacks",
                             (int)(i - from < 100 ? i - from : 100), s->bytes + from);
            named = *found;
            mapped = true;
            i++;
        }
        bool left = false;
        for (; i < s->n && strchr("-+ #0", s->bytes[i]) && s->bytes[i]; i++) {
            if (s->bytes[i] == '-') left = true;
            if (s->bytes[i] == '+') f.sign = '+';
            if (s->bytes[i] == ' ' && !f.sign) f.sign = ' ';
            if (s->bytes[i] == '#') f.alternate = true;
            if (s->bytes[i] == '0') f.zero = true;
        }
        f.width = percent_number(run, &p, s, &i);
        if (f.width < 0) left = true, f.width = -f.width;
        if (i < s->n && s->bytes[i] == '.') i++, f.precision = percent_number(run, &p, s, &i);
        check_size(run, &f);
        while (i < s->n && strchr("hlL", s->bytes[i]) && s->bytes[i]) i++;
        if (i >= s->n) tl__run_fail(run, "the format ends in the middle of a %%");
        char type = s->bytes[i++];
        if (type == '%') {
            tl__text_c(&t, "%");
            continue;
        }
        if (f.zero && strchr("diuoxXeEfFgG", type)) f.align = '=', f.fill = '0';
        if (left) f.align = '<', f.fill = ' ';
        percent_one(run, &t, &f, type, named.kind != TL_V_MISSING ? named : percent_next(run, &p));
    }
    bool all = values.kind == TL_V_TUPLE ? p.used == values.list->n
                                         : p.used || mapped || values.kind == TL_V_DICT || values.kind == TL_V_LIST;
    if (!all) tl__run_fail(run, "not all values were used by the format");
    return tl__text_done(&t);
}

/* ---- "{}".format(x) ---- */

static spec read_spec(tl_run *run, const tl_string *s) {
    spec f = {.fill = ' ', .precision = -1};
    size_t i = 0;
    bool filled = false;
    if (s->n) {
        uint32_t c;
        size_t width = (size_t)tl__utf8_at((const uint8_t *)s->bytes, &c);
        if (width < s->n && strchr("<>=^", s->bytes[width])) f.fill = c, f.align = s->bytes[width], i = width + 1, filled = true;
        else if (strchr("<>=^", s->bytes[0])) f.align = s->bytes[0], i = 1;
    }
    if (i < s->n && strchr("+- ", s->bytes[i])) f.sign = s->bytes[i] == '-' ? 0 : s->bytes[i], i++;
    if (i < s->n && s->bytes[i] == '#') f.alternate = true, i++;
    if (i < s->n && s->bytes[i] == '0') {
        f.zero = !f.align, i++;
        if (!filled) f.fill = '0';
        if (f.zero) f.align = '=';
    }
    for (; i < s->n && s->bytes[i] >= '0' && s->bytes[i] <= '9' && f.width <= MOST_WIDTH; i++)
        f.width = 10 * f.width + (s->bytes[i] - '0');
    if (i < s->n && (s->bytes[i] == ',' || s->bytes[i] == '_')) f.group = s->bytes[i++];
    if (i < s->n && s->bytes[i] == '.') {
        f.precision = 0;
        size_t from = ++i;
        for (; i < s->n && s->bytes[i] >= '0' && s->bytes[i] <= '9' && f.precision <= MOST_PRECISION; i++)
            f.precision = 10 * f.precision + (s->bytes[i] - '0');
        if (i == from) tl__run_fail(run, "a format lacks its precision after '.'");
    }
    if (i < s->n) f.type = s->bytes[i++];
    if (i < s->n) tl__run_fail(run, "the format '%.*s' is not valid", (int)(s->n < 100 ? s->n : 100), s->bytes);
    check_size(run, &f);
    return f;
}

static void format_value(tl_run *run, tl_text *t, tl_value v, const tl_string *how) {
    if (how->n == 0) {
        tl__add_string(run, t, v);
        return;
    }
    spec f = read_spec(run, how);
    if (v.kind == TL_V_STRING) {
        if ((f.type && f.type != 's') || f.sign || f.alternate || f.group || (f.align == '=' && !f.zero))
            tl__run_fail(run, "the format '%.*s' does not go with a text", (int)(how->n < 100 ? how->n : 100),
                         how->bytes);
        if (f.align == '=') f.align = '<';
        add_text(run, t, &f, v.s);
    } else if (v.kind == TL_V_FLOAT || (tl__value_whole(v) && f.type && strchr("eEfFgG%", f.type))) {
        if (f.type && !strchr("eEfFgGn%", f.type))
            tl__run_fail(run, "the format '%c' does not go with a float", f.type);
        add_float(run, t, &f, tl__value_real(v));
    } else if (tl__value_whole(v)) {
        if (f.type && !strchr("bdoxXnc", f.type))
            tl__run_fail(run, "the format '%c' does not go with a whole number", f.type);
        if (f.type == 'c') tl__run_fail(run, "the format 'c' is not supported");
        if (f.precision >= 0) tl__run_fail(run, "a precision does not go with a whole number");
        add_int(t, &f, tl__value_int(v));
    } else {
        tl__run_fail(run, "a format does not go with a value of type %s", tl__value_type(v));
    }
}

typedef struct filler {
    const tl_args *args;
    int next; /* of those without a name; −1: numbers were written out */
    bool automatic;
} filler;

/* The value of "name.attribute[item]". */
static tl_value field(tl_run *run, filler *x, const char *name, size_t n) {
    size_t i = 0;
    while (i < n && name[i] != '.' && name[i] != '[') i++;
    bool number = true;
    int64_t at = 0;
    for (size_t k = 0; k < i; k++) {
        number &= name[k] >= '0' && name[k] <= '9';
        if (number && at < 1000000) at = 10 * at + (name[k] - '0');
    }
    tl_value v = {0};
    if (i == 0) {
        if (x->next < 0) tl__run_fail(run, "a format numbers some of its fields and not others");
        at = x->next++;
        x->automatic = true;
    } else if (number) {
        if (x->automatic) tl__run_fail(run, "a format numbers some of its fields and not others");
        x->next = -1;
    }
    if (number) {
        if (at >= x->args->n) tl__run_fail(run, "the format wants more values than there are");
        v = x->args->at[at];
    } else {
        for (int k = 0; k < x->args->names; k++)
            if (x->args->name[k]->n == i && !memcmp(x->args->name[k]->bytes, name, i)) v = x->args->named[k];
        if (v.kind == TL_V_MISSING)
            tl__run_fail(run, "the format names '%.*s', which was not given", (int)(i < 100 ? i : 100), name);
    }
    while (i < n) {
        bool item = name[i] == '[';
        size_t from = ++i;
        while (i < n && (item ? name[i] != ']' : name[i] != '.' && name[i] != '[')) i++;
        if (i == from || (item && i >= n)) tl__run_fail(run, "a field of the format is not valid");
        const tl_string *key = tl__string_copy(&run->memory, name + from, i - from);
        char *end;
        int64_t whole = strtoll(key->bytes, &end, 10);
        bool digits = key->bytes[0] >= '0' && key->bytes[0] <= '9' && !*end;
        v = !item ? tl__attribute(run, v, key) : tl__item(run, v, digits ? tl__int(whole) : tl__str(key));
        i += item;
    }
    return v;
}

static void format_into(tl_run *run, tl_text *t, const tl_string *s, filler *x, int depth) {
    if (depth > 2) tl__run_fail(run, "a format nested this deep is not valid");
    for (size_t i = 0; i < s->n;) {
        size_t stop = i;
        while (stop < s->n && s->bytes[stop] != '{' && s->bytes[stop] != '}') stop++;
        tl__text_add(t, s->bytes + i, stop - i, s->data ? s->data + i : NULL);
        if ((i = stop) >= s->n) break;
        char c = s->bytes[i++];
        if (i < s->n && s->bytes[i] == c && depth < 2) {
            tl__text_add(t, &c, 1, s->data ? s->data + i : NULL);
            i++;
            continue;
        }
        if (c == '}') tl__run_fail(run, "a format has a single '}'");
        size_t from = i;
        int open = 1;
        size_t name_end = SIZE_MAX;
        bool bracket = false;
        for (; i < s->n; i++) {
            if (s->bytes[i] == '[' && name_end == SIZE_MAX) bracket = true;
            else if (s->bytes[i] == ']') bracket = false;
            else if (bracket) continue;
            else if (s->bytes[i] == '{') open++;
            else if (s->bytes[i] == '}' && --open == 0) break;
            else if ((s->bytes[i] == '!' || s->bytes[i] == ':') && name_end == SIZE_MAX) name_end = i;
        }
        if (i >= s->n) tl__run_fail(run, "a format has a '{' that is not closed");
        size_t end = i++, how = end;
        if (name_end == SIZE_MAX) name_end = end;
        tl_value v = field(run, x, s->bytes + from, name_end - from);
        if (name_end < end && s->bytes[name_end] == '!') {
            char conversion = name_end + 1 < end ? s->bytes[name_end + 1] : 0;
            tl_text converted = {.m = &run->memory};
            if (conversion == 's') tl__add_string(run, &converted, v);
            else if (conversion == 'r') tl__add_repr(run, &converted, v);
            else tl__run_fail(run, "a format converts by !s or !r");
            v = tl__str(tl__text_done(&converted));
            name_end += 2;
            if (name_end < end && s->bytes[name_end] != ':') tl__run_fail(run, "a format has ':' after its conversion");
        }
        if (name_end < end) how = name_end + 1;
        tl_text written = {.m = &run->memory};
        format_into(run, &written, tl__string_part(&run->memory, s, how, end - how), x, depth + 1);
        format_value(run, t, v, tl__text_done(&written));
    }
}

const tl_string *tl__format_braces(tl_run *run, const tl_string *s, const tl_args *args) {
    tl_text t = {.m = &run->memory};
    filler x = {.args = args};
    format_into(run, &t, s, &x, 0);
    return tl__text_done(&t);
}
