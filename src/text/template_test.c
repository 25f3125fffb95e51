/* template_test.c — what may stand after `is`. */
#include <string.h>
#include "text/template_eval.h"

typedef enum test {
    T_DEFINED,
    T_UNDEFINED,
    T_NONE,
    T_BOOLEAN,
    T_TRUE,
    T_FALSE,
    T_INTEGER,
    T_FLOAT,
    T_NUMBER,
    T_STRING,
    T_MAPPING,
    T_SEQUENCE,
    T_ITERABLE,
    T_CALLABLE,
    T_ODD,
    T_EVEN,
    T_DIVISIBLEBY,
    T_LOWER,
    T_UPPER,
    T_SAMEAS,
    T_ESCAPED,
    T_IN,
    T_FILTER,
    T_TEST,
    T_EQ,
    T_EQUALTO,
    T_EQ_SIGN,
    T_NE,
    T_NE_SIGN,
    T_GT,
    T_GREATERTHAN,
    T_GT_SIGN,
    T_GE,
    T_GE_SIGN,
    T_LT,
    T_LESSTHAN,
    T_LT_SIGN,
    T_LE,
    T_LE_SIGN,
    TESTS
} test;

static const char *const names[TESTS] = {
    "defined",     "undefined", "none",     "boolean",  "true", "false",    "integer",     "float", "number", "string",
    "mapping",     "sequence",  "iterable", "callable", "odd",  "even",     "divisibleby", "lower", "upper",  "sameas",
    "escaped",     "in",        "filter",   "test",     "eq",   "equalto",  "==",          "ne",    "!=",     "gt",
    "greaterthan", ">",         "ge",       ">=",       "lt",   "lessthan", "<",           "le",    "<="};

int tl__test_find(const tl_string *name) {
    for (int i = 0; i < TESTS; i++)
        if (tl__string_is(name, names[i])) return i;
    return -1;
}

static bool rest_is(tl_run *run, tl_value v, tl_value by, int64_t wanted) {
    tl_value rest = tl__operate(run, TL_OP_MOD, v, by);
    int64_t left = run->steps;
    return tl__value_equal(rest, tl__int(wanted), &left);
}

static bool callable(tl_value v) {
    return v.kind == TL_V_MACRO || v.kind == TL_V_GLOBAL || v.kind == TL_V_METHOD || v.kind == TL_V_JOINER ||
           v.kind == TL_V_LOOP || v.kind == TL_V_UNDEFINED;
}

static bool same(tl_value a, tl_value b) {
    if (a.kind != b.kind) return false;
    switch (a.kind) {
    case TL_V_NONE:
        return true;
    case TL_V_BOOL:
        return a.b == b.b;
    case TL_V_INT:
        return a.i == b.i && a.i >= -5 && a.i <= 256; /* those that Python keeps one of */
    default:
        return a.dict == b.dict;
    }
}

bool tl__test_apply(tl_run *run, int index, tl_value v, const tl_args *args) {
    static const int operator_of[TESTS] = {
        [T_EQ] = TL_OP_EQ,      [T_EQUALTO] = TL_OP_EQ, [T_EQ_SIGN] = TL_OP_EQ,     [T_NE] = TL_OP_NE,
        [T_NE_SIGN] = TL_OP_NE, [T_GT] = TL_OP_GT,      [T_GREATERTHAN] = TL_OP_GT, [T_GT_SIGN] = TL_OP_GT,
        [T_GE] = TL_OP_GE,      [T_GE_SIGN] = TL_OP_GE, [T_LT] = TL_OP_LT,          [T_LESSTHAN] = TL_OP_LT,
        [T_LT_SIGN] = TL_OP_LT, [T_LE] = TL_OP_LE,      [T_LE_SIGN] = TL_OP_LE};
    test which = (test)index;
    tl_value a[1] = {{0}};
    bool one = which == T_DIVISIBLEBY || which == T_SAMEAS || which == T_IN || which >= T_EQ;
    tl__bind(run, names[index], args,
             which == T_DIVISIBLEBY ? "num"
             : which == T_SAMEAS    ? "other"
             : which == T_IN        ? "seq"
             : one                  ? "/b"
                                    : "",
             one, a);
    switch (which) {
    case T_DEFINED:
        return v.kind != TL_V_UNDEFINED;
    case T_UNDEFINED:
        return v.kind == TL_V_UNDEFINED;
    case T_NONE:
        return v.kind == TL_V_NONE;
    case T_BOOLEAN:
        return v.kind == TL_V_BOOL;
    case T_TRUE:
        return v.kind == TL_V_BOOL && v.b;
    case T_FALSE:
        return v.kind == TL_V_BOOL && !v.b;
    case T_INTEGER:
        return v.kind == TL_V_INT;
    case T_FLOAT:
        return v.kind == TL_V_FLOAT;
    case T_NUMBER:
        return tl__value_number(v);
    case T_STRING:
        return v.kind == TL_V_STRING;
    case T_MAPPING:
        return v.kind == TL_V_DICT;
    case T_SEQUENCE:
        return v.kind == TL_V_STRING || v.kind == TL_V_LIST || v.kind == TL_V_TUPLE || v.kind == TL_V_DICT ||
               v.kind == TL_V_RANGE || v.kind == TL_V_UNDEFINED;
    case T_ITERABLE:
        return tl__iterable(v);
    case T_CALLABLE:
        return callable(v);
    case T_ODD:
        return rest_is(run, v, tl__int(2), 1);
    case T_EVEN:
        return rest_is(run, v, tl__int(2), 0);
    case T_DIVISIBLEBY:
        return rest_is(run, v, a[0], 0);
    case T_LOWER:
        return tl__is_cased(tl__to_string(run, v), false);
    case T_UPPER:
        return tl__is_cased(tl__to_string(run, v), true);
    case T_SAMEAS:
        return same(v, a[0]);
    case T_ESCAPED:
        return v.kind == TL_V_STRING && v.s->safe;
    case T_IN:
        return tl__contains(run, a[0], v);
    case T_FILTER:
        return v.kind == TL_V_STRING && tl__filter_find(v.s) >= 0;
    case T_TEST:
        return v.kind == TL_V_STRING && tl__test_find(v.s) >= 0;
    default:
        return tl__compare(run, operator_of[which], v, a[0]);
    }
}
