/* template_ast.h — a compiled template from inside: tokens, nodes, and where each name lives. All of it lies in the
 * template's own memory and is read-only once compiled. */
#ifndef TL_TEXT_TEMPLATE_AST_H
#define TL_TEXT_TEMPLATE_AST_H

#include "text/template.h"
#include "text/template_value.h"

/* ---- tokens ---- */

typedef enum tl_token_kind {
    TL_T_END,
    TL_T_DATA,
    TL_T_BLOCK_BEGIN,
    TL_T_BLOCK_END,
    TL_T_VARIABLE_BEGIN,
    TL_T_VARIABLE_END,
    TL_T_NAME,
    TL_T_STRING,
    TL_T_INT,
    TL_T_FLOAT,
    TL_T_OPERATOR
} tl_token_kind;

typedef enum tl_operator { /* the ones of two characters come first, so that the longest is found */
                           TL_OP_FLOORDIV,
                           TL_OP_POW,
                           TL_OP_EQ,
                           TL_OP_NE,
                           TL_OP_GE,
                           TL_OP_LE,
                           TL_OP_ADD,
                           TL_OP_SUB,
                           TL_OP_DIV,
                           TL_OP_MUL,
                           TL_OP_MOD,
                           TL_OP_TILDE,
                           TL_OP_LBRACKET,
                           TL_OP_RBRACKET,
                           TL_OP_LPAREN,
                           TL_OP_RPAREN,
                           TL_OP_LBRACE,
                           TL_OP_RBRACE,
                           TL_OP_GT,
                           TL_OP_LT,
                           TL_OP_ASSIGN,
                           TL_OP_DOT,
                           TL_OP_COLON,
                           TL_OP_PIPE,
                           TL_OP_COMMA,
                           TL_OP_SEMICOLON,
                           TL_OPERATORS,
                           TL_OP_IN, /* of a comparison only */
                           TL_OP_NOT_IN
} tl_operator;
extern const char *const tl__operator_text[TL_OPERATORS];

typedef struct tl_jinja_token {
    tl_token_kind kind;
    int op; /* OPERATOR */
    int line, column;
    const tl_string *text; /* DATA, NAME, STRING */
    int64_t i;
    double f;
} tl_jinja_token;

/* ---- nodes ---- */

typedef enum tl_node_kind {
    /* statements */
    TL_N_DATA,         /* text */
    TL_N_PRINT,        /* a */
    TL_N_FOR,          /* a target, b iterated, c test, body, other; flag: recursive */
    TL_N_IF,           /* a test, body, other (an elif is an IF of its own there) */
    TL_N_MACRO,        /* text name, args parameters, defaults, body */
    TL_N_CALL_BLOCK,   /* a call; args, defaults, body as MACRO */
    TL_N_FILTER_BLOCK, /* a filter whose innermost .a is NULL; body */
    TL_N_WITH,         /* args targets, defaults values, body */
    TL_N_SET,          /* a target, b value */
    TL_N_SET_BLOCK,    /* a target, b filter or NULL, body */
    TL_N_GENERATION,   /* body, a function of its own */
    TL_N_BREAK,
    TL_N_CONTINUE,
    /* expressions */
    TL_N_CONST,     /* value */
    TL_N_NAME,      /* text; read, or written as a target */
    TL_N_NS_TARGET, /* text.name of a `set`; attr */
    TL_N_TUPLE,     /* args; a target too */
    TL_N_LIST,      /* args */
    TL_N_DICT,      /* args keys and values in turn */
    TL_N_ATTR,      /* a.attr */
    TL_N_ITEM,      /* a[b] */
    TL_N_SLICE,     /* a[b:c:d] */
    TL_N_CALL,      /* a(args, names…) */
    TL_N_FILTER,    /* a | attr(args) */
    TL_N_TEST,      /* a is attr(args) */
    TL_N_NOT,
    TL_N_AND,
    TL_N_OR,
    TL_N_NEGATE,
    TL_N_PLUS,
    TL_N_BINARY,  /* a op b */
    TL_N_CONCAT,  /* args */
    TL_N_COMPARE, /* a, then ops[i] args[i] */
    TL_N_CHOOSE   /* a if b else c; c may be NULL */
} tl_node_kind;

typedef struct tl_node tl_node;

typedef struct tl_nodes {
    tl_node **at;
    int n, room;
} tl_nodes;

/* Where a name lives: `up` functions outward, then a slot of that function's activation. */
typedef struct tl_place {
    int up, slot;
} tl_place;

/* What is done to a slot when a frame is entered. */
typedef enum tl_load_kind { TL_LOAD_NOTHING, TL_LOAD_VARIABLE, TL_LOAD_OUTER, TL_LOAD_MISSING } tl_load_kind;
typedef struct tl_load {
    tl_load_kind kind;
    int slot;
    tl_place outer;
    const tl_string *name;
} tl_load;
typedef struct tl_frame {
    tl_load *load;
    int n;
} tl_frame;

/* What runs in an activation of its own: the template, a macro, the body of a call, a recursive loop. */
typedef struct tl_function {
    int slots;
    struct tl_function *up;
} tl_function;

struct tl_node {
    tl_node_kind kind;
    int op;
    int line, column;
    bool flag;
    const tl_string *text, *attr;
    tl_value value;
    tl_node *a, *b, *c, *d;
    tl_nodes args, defaults, body, other;
    const tl_string **names; /* [args.n] keyword of an argument, or NULL; "*" and "**" spread */
    int *ops;
    /* filled by template_names.c */
    tl_place place;
    tl_frame frame, test_frame, else_frame;
    tl_function *function;
    int loop_slot;                              /* FOR: slot of `loop`, or −1 */
    int caller_slot, kwargs_slot, varargs_slot; /* MACRO, CALL_BLOCK: −1 when not used */
    int known; /* FILTER, TEST: index in its table; −1: an error when it is reached */
};

struct tl_template {
    tl_memory memory;
    char name[256];
    tl_nodes body;
    tl_frame frame;
    tl_function *function;
};

/* Lexer: tokens of a source, the last one END. Parser: t->body. Names: every place, frame and function. They fail by
 * the door of t->memory. */
void tl__template_lex(tl_template *t, const char *source, size_t n, const tl_jinja_token **tokens);
void tl__template_parse(tl_template *t, const tl_jinja_token *tokens);
void tl__template_resolve(tl_template *t);

/* "NAME, line L, column C: …" */
int tl__template_fail(const tl_template *t, int line, int column, tl_error *err, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* Memory of a template or of a rendering; the former's limit is generous, as its source is bounded. */
void tl__nodes_add(tl_memory *memory, tl_nodes *list, tl_node *node);

#endif
