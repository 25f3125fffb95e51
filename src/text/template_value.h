/* template_value.h — what a template computes with: Python's values as far as templates see them, in memory that is
 * given back all at once.
 *
 * Values are small and copied; what they point to lies in a tl_memory and never changes once others can see it (lists
 * and dicts are immutable in transformers' sandbox), but for namespaces and what is iterated. A failure leaves by
 * longjmp to whoever opened the memory: nothing in between holds anything to give back. */
#ifndef TL_TEXT_TEMPLATE_VALUE_H
#define TL_TEXT_TEMPLATE_VALUE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/error.h"

/* ---- memory ---- */

typedef struct tl_memory {
    struct tl_chunk *first;
    size_t used, limit; /* bytes */
    jmp_buf *door;
    tl_error *err;
    const char *what; /* "the template", "the rendering": what errors say is too large */
} tl_memory;

void *tl__memory_take(tl_memory *m, size_t bytes); /* zeroed, aligned to 16 */
void tl__memory_free(tl_memory *m);
#define TL_NEW(m, type, n) ((type *)tl__memory_take((m), sizeof(type) * (size_t)(n)))

/* ---- values ---- */

typedef enum tl_value_kind {
    TL_V_MISSING, /* a slot that was not set; never a value */
    TL_V_UNDEFINED,
    TL_V_NONE,
    TL_V_BOOL,
    TL_V_INT,
    TL_V_FLOAT,
    TL_V_STRING,
    TL_V_LIST,
    TL_V_TUPLE,
    TL_V_DICT,
    TL_V_VIEW, /* keys, values or items of a dict */
    TL_V_RANGE,
    TL_V_ITERATOR,
    TL_V_NAMESPACE,
    TL_V_LOOP,
    TL_V_MACRO,
    TL_V_GLOBAL, /* a function that every template sees */
    TL_V_METHOD, /* of a value */
    TL_V_CYCLER,
    TL_V_JOINER
} tl_value_kind;

typedef struct tl_string {
    const char *bytes; /* UTF-8 */
    size_t n, chars;
    const unsigned char *data; /* [n] 1: from the conversation; NULL: none */
    bool safe;                 /* markupsafe's Markup, which `escape` and `safe` make */
} tl_string;

typedef struct tl_value {
    tl_value_kind kind;
    int which; /* VIEW: 0 keys, 1 values, 2 items; GLOBAL, METHOD: index in its table */
    union {
        bool b;
        int64_t i;
        double f;
        const tl_string *s;
        struct tl_list *list; /* LIST, TUPLE */
        struct tl_dict *dict; /* DICT, VIEW, NAMESPACE */
        struct tl_range *range;
        struct tl_iterator *iterator;
        struct tl_loop *loop;
        struct tl_macro *macro;
        struct tl_bound *bound; /* METHOD */
        struct tl_cycler *cycler;
        const char *why; /* UNDEFINED: "'x' is undefined" */
    };
} tl_value;

typedef struct tl_list {
    tl_value *at;
    size_t n, room;
} tl_list_value;

typedef struct tl_pair {
    tl_value key, value;
} tl_pair;
typedef struct tl_dict {
    tl_pair *at; /* in the order of insertion */
    size_t n, room;
    uint32_t *index; /* [indexed] of hashes: 1 + place in at; NULL while small */
    size_t indexed;
} tl_dict;

typedef struct tl_range {
    int64_t start, stop, step, n;
} tl_range;

typedef struct tl_bound {
    tl_value self;
} tl_bound;

typedef struct tl_cycler { /* and JOINER: items[0] is the separator */
    tl_list_value items;
    size_t at;
} tl_cycler;

typedef struct tl_run tl_run; /* one rendering: template_eval.h */

/* What is walked through once: a snapshot, or something that makes its items when first asked. */
typedef struct tl_iterator {
    tl_value source; /* LIST, TUPLE, STRING, RANGE, or an ITERATOR where `keep` is set */
    size_t at;       /* items (bytes of a STRING) already given */
    void (*make)(tl_run *run, struct tl_iterator *it); /* sets source and at; once */
    bool (*keep)(tl_run *run, struct tl_iterator *it, tl_value item);
    void *more;        /* of make and keep */
    const char *label; /* Python's name of its type */
} tl_iterator;

static inline tl_value tl__none(void) {
    return (tl_value){.kind = TL_V_NONE};
}
static inline tl_value tl__bool(bool b) {
    return (tl_value){.kind = TL_V_BOOL, .b = b};
}
static inline tl_value tl__int(int64_t i) {
    return (tl_value){.kind = TL_V_INT, .i = i};
}
static inline tl_value tl__float(double f) {
    return (tl_value){.kind = TL_V_FLOAT, .f = f};
}
static inline tl_value tl__str(const tl_string *s) {
    return (tl_value){.kind = TL_V_STRING, .s = s};
}

/* ---- making them ---- */

/* Text of n bytes, not copied. data may be NULL. */
const tl_string *tl__string(tl_memory *m, const char *bytes, size_t n, const unsigned char *data);
const tl_string *tl__string_copy(tl_memory *m, const char *bytes, size_t n);
/* Bytes [from, from + n) of s; its letters are s's own. */
const tl_string *tl__string_part(tl_memory *m, const tl_string *s, size_t from, size_t n);
bool tl__string_is(const tl_string *s, const char *text);

/* Text that grows. */
typedef struct tl_text {
    tl_memory *m;
    char *bytes;
    unsigned char *data; /* NULL until a byte of the conversation comes */
    size_t n, room;
} tl_text;
void tl__text_add(tl_text *t, const char *bytes, size_t n, const unsigned char *data);
void tl__text_string(tl_text *t, const tl_string *s);
void tl__text_c(tl_text *t, const char *literal);
void tl__text_char(tl_text *t, uint32_t c, bool data);
void tl__text_fill(tl_text *t, uint32_t c, int64_t count);
const tl_string *tl__text_done(tl_text *t);

tl_value tl__list_new(tl_memory *m, tl_value_kind kind, size_t room);
void tl__list_add(tl_memory *m, tl_list_value *list, tl_value item);
tl_value tl__dict_new(tl_memory *m, tl_value_kind kind);
/* Hashable keys only (tl__value_hashable). */
void tl__dict_set(tl_memory *m, tl_dict *d, tl_value key, tl_value value);
const tl_value *tl__dict_get(const tl_dict *d, tl_value key);
const tl_value *tl__dict_get_c(const tl_dict *d, const char *key);

/* ---- asking them ---- */

const char *tl__value_type(tl_value v); /* Python's name: "str", "NoneType" */
/* Whether it can be a key: no list or dict, and no tuple of more than 10,000 parts in all. */
bool tl__value_hashable(tl_value v);
/* Python's ==. Every pair of parts takes one of *left, and below 0 the answer is false and means nothing: shared parts
 * can make a small value endless. NULL: for keys, which are bounded. */
bool tl__value_equal(tl_value a, tl_value b, int64_t *left);
bool tl__value_number(tl_value v); /* bool, int, float */
static inline bool tl__value_whole(tl_value v) {
    return v.kind == TL_V_INT || v.kind == TL_V_BOOL;
}
static inline int64_t tl__value_int(tl_value v) {
    return v.kind == TL_V_BOOL ? v.b : v.i;
}
static inline double tl__value_real(tl_value v) {
    return v.kind == TL_V_FLOAT ? v.f : (double)tl__value_int(v);
}
int tl__number_compare(tl_value a, tl_value b); /* −1, 0, 1; 2: not comparable (NaN) */
int tl__string_compare(const tl_string *a, const tl_string *b);

/* ---- text of them ---- */

/* Python's repr of a float. out[40] */
void tl__float_text(char *out, double x);
/* str() and repr(). false: the value has no text that could be reproduced; *why says so. */
bool tl__value_str(tl_text *t, tl_value v, int depth, const char **why);
bool tl__value_repr(tl_text *t, tl_value v, int depth, const char **why);

/* ---- characters, as Python's str sees them (template_unicode.c) ---- */

bool tl__char_space(uint32_t c);
bool tl__char_printable(uint32_t c);
typedef enum tl_char_is {
    TL_IS_ALPHA,
    TL_IS_DECIMAL,
    TL_IS_DIGIT,
    TL_IS_NUMERIC,
    TL_IS_UPPER,
    TL_IS_LOWER,
    TL_IS_TITLE,
    TL_IS_WORD,
    TL_IS_NAME_START,
    TL_IS_NAME
} tl_char_is;
bool tl__char_is(uint32_t c, tl_char_is what);
int tl__char_digit(uint32_t c); /* value of a decimal digit, or −1 */
typedef enum tl_case { TL_CASE_UPPER, TL_CASE_LOWER, TL_CASE_TITLE } tl_case;
/* Full case mapping of c: up to 3 code points. */
int tl__char_case(uint32_t c, tl_case to, uint32_t out[3]);
/* Of a whole string, the final sigma included. */
void tl__text_case(tl_text *t, const tl_string *s, size_t from, size_t to, tl_case to_case);

/* Writes c as UTF-8; bytes written. The character at s and its width. */
#endif
