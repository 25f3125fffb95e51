/* template_eval.h — one rendering under way, and what its parts ask of each other. */
#ifndef TL_TEXT_TEMPLATE_EVAL_H
#define TL_TEXT_TEMPLATE_EVAL_H

#include "text/template_ast.h"

typedef struct tl_activation { /* of a tl_function */
    tl_value *slot;
    struct tl_activation *up;
} tl_activation;

struct tl_run {
    const tl_template *t;
    tl_memory memory;
    int64_t steps; /* left */
    int depth;
    const tl_node *at; /* what errors point at */
    tl_text *out;
    tl_dict *variables;
    int pending; /* a break or continue on its way to its loop: 0, TL_N_BREAK, TL_N_CONTINUE */
};

typedef struct tl_macro {
    const tl_node *node;
    tl_activation *around; /* where it was defined */
} tl_macro;

typedef struct tl_loop {
    tl_iterator *it;
    int64_t index0, depth0;
    bool has_after, ended, has_length, has_changed;
    tl_value current, before, after;
    int64_t length;
    tl_value changed;    /* what `changed` was last asked with */
    const tl_node *node; /* a recursive loop, and where it stands; else NULL */
    tl_activation *around;
} tl_loop;

typedef struct tl_args {
    tl_value *at; /* [n] by position */
    int n;
    const tl_string **name; /* [names] by name */
    tl_value *named;
    int names;
} tl_args;

/* Ends the rendering: "NAME, line L, column C: …". */
_Noreturn void tl__run_fail(tl_run *run, const char *format, ...) __attribute__((format(printf, 2, 3)));
_Noreturn void tl__run_raise(tl_run *run, const tl_string *sentence); /* raise_exception: the sentence alone */
void tl__run_steps(tl_run *run, int64_t n);
void tl__run_deeper(tl_run *run); /* and run->depth-- after */
/* Fails if v is undefined, with its reason. */
void tl__run_defined(tl_run *run, tl_value v);

/* template_object.c: truth, length, attributes, items, iteration */
bool tl__truth(tl_run *run, tl_value v);
int64_t tl__length(tl_run *run, tl_value v);
bool tl__has_length(tl_value v);
tl_value tl__attribute(tl_run *run, tl_value of, const tl_string *name);
tl_value tl__item(tl_run *run, tl_value of, tl_value key);
tl_value tl__slice(tl_run *run, tl_value of, const tl_value bound[3]); /* NONE: left out */
tl_iterator *tl__iterate(tl_run *run, tl_value v);
bool tl__iterable(tl_value v);
bool tl__next(tl_run *run, tl_iterator *it, tl_value *item);
/* All that is left of an iterable, as a new list. */
tl_value tl__list_of(tl_run *run, tl_value v, tl_value_kind kind);
tl_value tl__undefined(tl_run *run, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A text's byte offset of character i. */
size_t tl__offset(const tl_string *s, size_t i);
/* Something iterable whose items `make` sets when first asked. */
tl_value tl__iterator_new(tl_run *run, void (*make)(tl_run *, tl_iterator *), void *more, const char *label);

/* template_operate.c */
tl_value tl__operate(tl_run *run, int op, tl_value a, tl_value b);
tl_value tl__negate(tl_run *run, tl_value v, bool minus);
bool tl__compare(tl_run *run, int op, tl_value a, tl_value b); /* EQ … LE, IN, NOT_IN */
bool tl__equal(tl_run *run, tl_value a, tl_value b);
bool tl__contains(tl_run *run, tl_value in, tl_value what);
/* −1, 0, 1 as sorting asks; fails where Python's < would. */
int tl__order(tl_run *run, tl_value a, tl_value b);
void tl__sort(tl_run *run, tl_value *key, tl_value *item, size_t n, bool reverse); /* stable */
const tl_string *tl__to_string(tl_run *run, tl_value v);
void tl__add_string(tl_run *run, tl_text *t, tl_value v); /* str(v) */
void tl__add_repr(tl_run *run, tl_text *t, tl_value v);
double tl__to_real(tl_run *run, tl_value v);
void tl__escape(tl_text *t, const tl_string *s);

/* Arguments by position or name into value[]; `names` are parameters parted by spaces, the first `needed` required.
 * Those not given are MISSING. */
void tl__bind(tl_run *run, const char *what, const tl_args *args, const char *names, int needed, tl_value *value);
int64_t tl__int_or(tl_run *run, const char *what, tl_value v, int64_t otherwise); /* MISSING or NONE: otherwise */
const tl_string *tl__string_or(tl_run *run, const char *what, tl_value v, const tl_string *otherwise); /* MISSING */
const tl_string *tl__chars_or_space(tl_run *run, const char *what, tl_value v); /* what strip takes off; NULL: space */

/* Tables */
int tl__filter_find(const tl_string *name);
tl_value tl__filter_apply(tl_run *run, int index, tl_value v, const tl_args *args);
int tl__test_find(const tl_string *name);
bool tl__test_apply(tl_run *run, int index, tl_value v, const tl_args *args);
int tl__global_find(const tl_string *name);
tl_value tl__global_call(tl_run *run, int index, const tl_args *args);
/* Methods of a value by name: an index; −1: its type has none; −2: Python's type has one that is not supported. */
int tl__method_find(tl_value of, const tl_string *name);
tl_value tl__method_call(tl_run *run, int index, tl_value self, const tl_args *args);

tl_value tl__call(tl_run *run, tl_value callee, const tl_args *args);
const tl_string *tl__loop_again(tl_run *run, const tl_loop *loop, tl_value items); /* loop(items) of a recursive one */
/* All of it, into run->out. */
void tl__template_run(tl_run *run, const json_t *conversation, const json_t *settings);

/* template_format.c */
const tl_string *tl__format_percent(tl_run *run, const tl_string *format, tl_value values);
const tl_string *tl__format_braces(tl_run *run, const tl_string *format, const tl_args *args);
void tl__float_fixed(char *out, size_t size, double x, int digits);

/* template_json.c */
tl_value tl__from_json(tl_run *run, const json_t *j, bool data);
const tl_string *tl__to_json(tl_run *run, const tl_args *args);

/* template_method.c, used by filters too */
const tl_string *tl__strip(tl_run *run, const tl_string *s, const tl_string *chars, bool left, bool right);
const tl_string *tl__replace(tl_run *run, const tl_string *s, const tl_string *old, const tl_string *by, int64_t count);
tl_value tl__split_lines(tl_run *run, const tl_string *s, bool keep);
const tl_string *tl__cased(tl_run *run, const tl_string *s, tl_case to);
const tl_string *tl__capitalize(tl_run *run, const tl_string *s);
const tl_string *tl__center(tl_run *run, const tl_string *s, int64_t width, uint32_t fill, int side);
bool tl__is_cased(const tl_string *s, bool upper);                                  /* islower, isupper */
size_t tl__find(const tl_string *s, size_t from, size_t to, const tl_string *what); /* SIZE_MAX: nowhere */

#endif
