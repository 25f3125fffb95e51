/* template_operate.c — operators, comparison and order, as Python's of the same types; integers are of 64 bits and say
 * so where they would not suffice. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "text/template_eval.h"

const tl_string *tl__to_string(tl_run *run, tl_value v) {
    if (v.kind == TL_V_STRING) return v.s;
    tl_text t = {.m = &run->memory};
    tl__add_string(run, &t, v);
    return tl__text_done(&t);
}

void tl__add_string(tl_run *run, tl_text *t, tl_value v) {
    const char *why;
    size_t before = t->n;
    if (!tl__value_str(t, v, 0, &why))
        tl__run_fail(run, "%s has no text that could be printed; Python would show an address", why);
    tl__run_steps(run, (int64_t)(t->n - before) / 64);
}

void tl__add_repr(tl_run *run, tl_text *t, tl_value v) {
    const char *why;
    size_t before = t->n;
    if (!tl__value_repr(t, v, 0, &why))
        tl__run_fail(run, "%s has no text that could be printed; Python would show an address", why);
    tl__run_steps(run, (int64_t)(t->n - before) / 64);
}

void tl__escape(tl_text *t, const tl_string *s) {
    for (size_t i = 0; i < s->n; i++) {
        const char *by = NULL;
        switch (s->bytes[i]) {
        case '&':
            by = "&amp;";
            break;
        case '<':
            by = "&lt;";
            break;
        case '>':
            by = "&gt;";
            break;
        case '"':
            by = "&#34;";
            break;
        case '\'':
            by = "&#39;";
            break;
        default:
            tl__text_add(t, s->bytes + i, 1, s->data ? s->data + i : NULL);
            continue;
        }
        tl__text_add(t, by, strlen(by), s->data && s->data[i] ? (const unsigned char *)"\1\1\1\1\1" : NULL);
    }
}

static const char *op_name(int op) {
    return op < TL_OPERATORS ? tl__operator_text[op] : op == TL_OP_IN ? "in" : "not in";
}

static _Noreturn void wrong_types(tl_run *run, int op, tl_value a, tl_value b) {
    tl__run_defined(run, a);
    tl__run_defined(run, b);
    tl__run_fail(run, "'%s' does not go between values of type %s and %s", op_name(op), tl__value_type(a),
                 tl__value_type(b));
}

static _Noreturn void beyond(tl_run *run) {
    tl__run_fail(run, "an integer beyond 64 bits is not supported");
}

static tl_value whole(tl_run *run, int op, int64_t a, int64_t b) {
    int64_t out = 0;
    switch (op) {
    case TL_OP_ADD:
        if (__builtin_add_overflow(a, b, &out)) beyond(run);
        return tl__int(out);
    case TL_OP_SUB:
        if (__builtin_sub_overflow(a, b, &out)) beyond(run);
        return tl__int(out);
    case TL_OP_MUL:
        if (__builtin_mul_overflow(a, b, &out)) beyond(run);
        return tl__int(out);
    case TL_OP_DIV:
        if (b == 0) tl__run_fail(run, "division by zero");
        return tl__float((double)((long double)a / (long double)b));
    case TL_OP_FLOORDIV:
    case TL_OP_MOD:
        if (b == 0) tl__run_fail(run, "division by zero");
        if (b == -1) {
            if (op == TL_OP_MOD) return tl__int(0);
            if (__builtin_sub_overflow((int64_t)0, a, &out)) beyond(run);
            return tl__int(out);
        }
        out = op == TL_OP_MOD ? a % b : a / b;
        if (a % b != 0 && (a < 0) != (b < 0)) out += op == TL_OP_MOD ? b : -1;
        return tl__int(out);
    default: /* POW */
        if (b < 0) {
            if (a == 0) tl__run_fail(run, "0 cannot be raised to a negative power");
            return tl__float(pow((double)a, (double)b));
        }
        out = 1;
        for (int64_t base = a; b > 0; b >>= 1) {
            if ((b & 1) && __builtin_mul_overflow(out, base, &out)) beyond(run);
            if (b > 1 && __builtin_mul_overflow(base, base, &base)) beyond(run);
        }
        return tl__int(out);
    }
}

static tl_value real(tl_run *run, int op, double a, double b) {
    switch (op) {
    case TL_OP_ADD:
        return tl__float(a + b);
    case TL_OP_SUB:
        return tl__float(a - b);
    case TL_OP_MUL:
        return tl__float(a * b);
    case TL_OP_DIV:
        if (b == 0) tl__run_fail(run, "division by zero");
        return tl__float(a / b);
    case TL_OP_MOD:
    case TL_OP_FLOORDIV: {
        if (b == 0) tl__run_fail(run, "division by zero");
        double rest = fmod(a, b), quotient = (a - rest) / b;
        if (rest != 0) {
            if ((b < 0) != (rest < 0)) rest += b, quotient -= 1;
        } else {
            rest = copysign(0, b);
        }
        if (op == TL_OP_MOD) return tl__float(rest);
        if (quotient == 0) return tl__float(copysign(0, a / b));
        double down = floor(quotient);
        return tl__float(quotient - down > 0.5 ? down + 1 : down);
    }
    default: {
        if (a == 0 && b < 0) tl__run_fail(run, "0.0 cannot be raised to a negative power");
        if (a < 0 && isfinite(a) && isfinite(b) && b != floor(b))
            tl__run_fail(run, "a negative number cannot be raised to a fraction");
        double out = pow(a, b);
        if (isinf(out) && isfinite(a) && isfinite(b)) tl__run_fail(run, "the result of ** is too large");
        return tl__float(out);
    }
    }
}

static tl_value repeat(tl_run *run, tl_value v, int64_t times) {
    if (times < 0) times = 0;
    if (v.kind == TL_V_STRING) {
        tl_text t = {.m = &run->memory};
        if (v.s->n && times > (int64_t)(run->memory.limit / v.s->n))
            tl__run_fail(run, "a text of this many repetitions is too long");
        tl__run_steps(run, times / 8 + (int64_t)v.s->n * times / 64);
        for (int64_t i = 0; i < times && v.s->n; i++) tl__text_string(&t, v.s);
        tl_string *s = (tl_string *)tl__text_done(&t);
        s->safe = v.s->safe;
        return tl__str(s);
    }
    if (v.list->n && times > (int64_t)(run->memory.limit / (v.list->n * sizeof(tl_value))))
        tl__run_fail(run, "a list of this many repetitions is too long");
    tl__run_steps(run, (int64_t)v.list->n * times / 4);
    tl_value out = tl__list_new(&run->memory, v.kind, v.list->n * (size_t)times);
    for (int64_t i = 0; i < times && v.list->n; i++)
        for (size_t k = 0; k < v.list->n; k++) tl__list_add(&run->memory, out.list, v.list->at[k]);
    return out;
}

static bool is_list(tl_value v) {
    return v.kind == TL_V_LIST || v.kind == TL_V_TUPLE;
}

tl_value tl__operate(tl_run *run, int op, tl_value a, tl_value b) {
    tl_memory *m = &run->memory;
    if (tl__value_number(a) && tl__value_number(b)) {
        if (a.kind != TL_V_FLOAT && b.kind != TL_V_FLOAT) return whole(run, op, tl__value_int(a), tl__value_int(b));
        return real(run, op, tl__value_real(a), tl__value_real(b));
    }
    tl__run_defined(run, a);
    if (op == TL_OP_MOD && a.kind == TL_V_STRING) {
        if (a.s->safe) tl__run_fail(run, "'%%' on a text that was marked safe is not supported");
        return tl__str(tl__format_percent(run, a.s, b));
    }
    tl__run_defined(run, b);
    if (op == TL_OP_ADD && a.kind == TL_V_STRING && b.kind == TL_V_STRING) {
        tl_text t = {.m = m};
        bool safe = a.s->safe || b.s->safe;
        /* markupsafe escapes what is added to a safe text */
        if (safe && !a.s->safe) tl__escape(&t, a.s);
        else tl__text_string(&t, a.s);
        if (safe && !b.s->safe) tl__escape(&t, b.s);
        else tl__text_string(&t, b.s);
        tl__run_steps(run, (int64_t)t.n / 64);
        tl_string *s = (tl_string *)tl__text_done(&t);
        s->safe = safe;
        return tl__str(s);
    }
    if (op == TL_OP_ADD && is_list(a) && b.kind == a.kind) {
        tl_value out = tl__list_new(m, a.kind, a.list->n + b.list->n);
        tl__run_steps(run, (int64_t)(a.list->n + b.list->n) / 8);
        for (size_t i = 0; i < a.list->n; i++) tl__list_add(m, out.list, a.list->at[i]);
        for (size_t i = 0; i < b.list->n; i++) tl__list_add(m, out.list, b.list->at[i]);
        return out;
    }
    if (op == TL_OP_MUL && (is_list(a) || a.kind == TL_V_STRING) && tl__value_whole(b))
        return repeat(run, a, tl__value_int(b));
    if (op == TL_OP_MUL && (is_list(b) || b.kind == TL_V_STRING) && tl__value_whole(a))
        return repeat(run, b, tl__value_int(a));
    wrong_types(run, op, a, b);
}

tl_value tl__negate(tl_run *run, tl_value v, bool minus) {
    tl__run_defined(run, v);
    if (!tl__value_number(v)) tl__run_fail(run, "a sign does not go before a value of type %s", tl__value_type(v));
    if (v.kind == TL_V_FLOAT) return tl__float(minus ? -v.f : v.f);
    return minus ? whole(run, TL_OP_SUB, 0, tl__value_int(v)) : tl__int(tl__value_int(v));
}

bool tl__equal(tl_run *run, tl_value a, tl_value b) {
    bool same = tl__value_equal(a, b, &run->steps);
    tl__run_steps(run, 0);
    return same;
}

bool tl__contains(tl_run *run, tl_value in, tl_value what) {
    if (in.kind == TL_V_STRING) {
        if (what.kind != TL_V_STRING) {
            tl__run_fail(run, "'in' a text asks for a text, not a value of type %s", tl__value_type(what));
        }
        tl__run_steps(run, (int64_t)in.s->n / 64);
        return tl__find(in.s, 0, in.s->n, what.s) != SIZE_MAX;
    }
    if (in.kind == TL_V_DICT || (in.kind == TL_V_VIEW && in.which == 0)) {
        if (!tl__value_hashable(what)) tl__run_fail(run, "a value of type %s cannot be a key", tl__value_type(what));
        if (what.kind == TL_V_STRING) tl__run_steps(run, (int64_t)what.s->n / 64);
        return tl__dict_get(in.dict, what) != NULL;
    }
    if (!tl__iterable(in)) {
        tl__run_fail(run, "'in' does not go before a value of type %s", tl__value_type(in));
    }
    tl_iterator *it = tl__iterate(run, in);
    for (tl_value item; tl__next(run, it, &item);)
        if (tl__equal(run, item, what)) return true;
    return false;
}

/* −1, 0, 1, or 2 for what is never less nor more (NaN); fails on types that have no order. */
static int order(tl_run *run, int op, tl_value a, tl_value b, int depth) {
    if (tl__value_number(a) && tl__value_number(b)) return tl__number_compare(a, b);
    if (a.kind == TL_V_STRING && b.kind == TL_V_STRING) {
        tl__run_steps(run, (int64_t)(a.s->n < b.s->n ? a.s->n : b.s->n) / 64);
        return tl__string_compare(a.s, b.s);
    }
    if (!is_list(a) || a.kind != b.kind) wrong_types(run, op, a, b);
    if (depth > TL_TEMPLATE_DEPTH) tl__run_fail(run, "values nested too deep cannot be compared");
    size_t n = a.list->n < b.list->n ? a.list->n : b.list->n;
    for (size_t i = 0; i < n; i++)
        if (!tl__equal(run, a.list->at[i], b.list->at[i]))
            return order(run, op, a.list->at[i], b.list->at[i], depth + 1);
    return (a.list->n > b.list->n) - (a.list->n < b.list->n);
}

bool tl__compare(tl_run *run, int op, tl_value a, tl_value b) {
    if (op == TL_OP_EQ) return tl__equal(run, a, b);
    if (op == TL_OP_NE) return !tl__equal(run, a, b);
    if (op == TL_OP_IN) return tl__contains(run, b, a);
    if (op == TL_OP_NOT_IN) return !tl__contains(run, b, a);
    int c = order(run, op, a, b, 0);
    if (c == 2) return false;
    return op == TL_OP_LT ? c < 0 : op == TL_OP_LE ? c <= 0 : op == TL_OP_GT ? c > 0 : c >= 0;
}

int tl__order(tl_run *run, tl_value a, tl_value b) {
    int c = order(run, TL_OP_LT, a, b, 0);
    return c == 2 ? 0 : c;
}

/* Merge sort: stable, n log n comparisons whatever the data. */
static void sort_range(tl_run *run, tl_pair *at, tl_pair *room, size_t n, bool reverse) {
    if (n < 2) return;
    size_t half = n / 2, i = 0, k = half, o = 0;
    sort_range(run, at, room, half, reverse);
    sort_range(run, at + half, room, n - half, reverse);
    while (i < half && k < n) {
        tl__run_steps(run, 1);
        int c = tl__order(run, at[k].key, at[i].key);
        room[o++] = (reverse ? c > 0 : c < 0) ? at[k++] : at[i++];
    }
    while (i < half) room[o++] = at[i++];
    while (k < n) room[o++] = at[k++];
    memcpy(at, room, n * sizeof *at);
}

void tl__sort(tl_run *run, tl_value *key, tl_value *item, size_t n, bool reverse) {
    tl_pair *at = TL_NEW(&run->memory, tl_pair, n + 1), *room = TL_NEW(&run->memory, tl_pair, n + 1);
    for (size_t i = 0; i < n; i++) at[i] = (tl_pair){key[i], item[i]};
    sort_range(run, at, room, n, reverse);
    for (size_t i = 0; i < n; i++) key[i] = at[i].key, item[i] = at[i].value;
}

double tl__to_real(tl_run *run, tl_value v) {
    tl__run_defined(run, v);
    if (!tl__value_number(v)) tl__run_fail(run, "a number was expected, and not a value of type %s", tl__value_type(v));
    return tl__value_real(v);
}
