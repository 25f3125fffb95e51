/* template_parse.c — tokens to nodes, by jinja2's grammar. What that grammar has and this one does not (inheritance,
 * includes, imports) is refused by name. */
#include <stdlib.h>
#include <string.h>
#include "text/template_ast.h"

typedef struct parser {
    tl_template *t;
    const tl_jinja_token *k; /* the current token */
    int depth;
    int loops; /* around this statement within its function */
} parser;

static _Noreturn void fail_token(parser *p, const tl_jinja_token *k, const char *format, const char *a, const char *b) {
    tl__template_fail(p->t, k->line, k->column, p->t->memory.err, format, a, b);
    longjmp(*p->t->memory.door, 1);
}

/* What an error calls a token. */
static const char *describe(parser *p, const tl_jinja_token *k) {
    switch (k->kind) {
    case TL_T_END:
        return "the end of the template";
    case TL_T_DATA:
        return "text";
    case TL_T_BLOCK_BEGIN:
        return "'{%'";
    case TL_T_BLOCK_END:
        return "'%}'";
    case TL_T_VARIABLE_BEGIN:
        return "'{{'";
    case TL_T_VARIABLE_END:
        return "'}}'";
    case TL_T_STRING:
        return "a string";
    case TL_T_INT:
    case TL_T_FLOAT:
        return "a number";
    default:
        break;
    }
    const char *text = k->kind == TL_T_NAME ? k->text->bytes : tl__operator_text[k->op];
    size_t n = k->kind == TL_T_NAME ? k->text->n : strlen(text);
    if (n > 40) n = 40;
    char *out = tl__memory_take(&p->t->memory, n + 3);
    out[0] = '\'';
    memcpy(out + 1, text, n);
    out[n + 1] = '\'';
    return out;
}

static bool at_op(parser *p, int op) {
    return p->k->kind == TL_T_OPERATOR && p->k->op == op;
}
static bool name_is(const tl_jinja_token *k, const char *word) {
    return k->kind == TL_T_NAME && tl__string_is(k->text, word);
}
static bool at_name(parser *p, const char *word) {
    return name_is(p->k, word);
}

static bool skip_op(parser *p, int op) {
    bool here = at_op(p, op);
    p->k += here;
    return here;
}
static bool skip_name(parser *p, const char *word) {
    bool here = at_name(p, word);
    p->k += here;
    return here;
}
static void expect_op(parser *p, int op) {
    if (!skip_op(p, op)) fail_token(p, p->k, "'%s' was expected, and not %s", tl__operator_text[op], describe(p, p->k));
}
static void expect(parser *p, tl_token_kind kind, const char *what) {
    if (p->k->kind != kind) fail_token(p, p->k, "%s was expected, and not %s", what, describe(p, p->k));
    p->k++;
}
static const tl_string *expect_name(parser *p) {
    if (p->k->kind != TL_T_NAME) fail_token(p, p->k, "%sa name was expected, and not %s", "", describe(p, p->k));
    return (p->k++)->text;
}

static tl_node *node(parser *p, tl_node_kind kind, const tl_jinja_token *at) {
    tl_node *n = TL_NEW(&p->t->memory, tl_node, 1);
    n->kind = kind, n->line = at->line, n->column = at->column;
    n->loop_slot = n->caller_slot = n->kwargs_slot = n->varargs_slot = n->known = -1;
    return n;
}

void tl__nodes_add(tl_memory *m, tl_nodes *list, tl_node *n) {
    if (list->n == list->room) {
        int room = list->room ? 2 * list->room : 4;
        tl_node **more = TL_NEW(m, tl_node *, room);
        if (list->n) memcpy(more, list->at, (size_t)list->n * sizeof *more);
        list->at = more, list->room = room;
    }
    list->at[list->n++] = n;
}

static void add(parser *p, tl_nodes *list, tl_node *n) {
    tl__nodes_add(&p->t->memory, list, n);
}

static void deeper(parser *p) {
    if (++p->depth > TL_TEMPLATE_DEPTH)
        fail_token(p, p->k, "%s%s", "blocks and expressions are nested too deep here", "");
}

/* ---- expressions ---- */

static tl_node *parse_expression(parser *p);
static tl_node *parse_or(parser *p);
static tl_node *parse_unary(parser *p, bool with_filter);

static tl_node *constant(parser *p, const tl_jinja_token *at, tl_value v) {
    tl_node *n = node(p, TL_N_CONST, at);
    n->value = v;
    return n;
}

static bool tuple_ends(parser *p, const char *word) {
    return p->k->kind == TL_T_VARIABLE_END || p->k->kind == TL_T_BLOCK_END || at_op(p, TL_OP_RPAREN) ||
           (word && at_name(p, word));
}

typedef enum tuple_of { OF_EXPRESSIONS, OF_CONDITIONS, OF_TARGETS, OF_SET_TARGETS } tuple_of;
static tl_node *parse_primary(parser *p, bool set_target);

/* Expressions parted by commas; one alone stands for itself. OF_CONDITIONS: no inline if. */
static tl_node *parse_tuple(parser *p, tuple_of of, const char *end_word, bool parenthesised) {
    const tl_jinja_token *begin = p->k;
    tl_node *tuple = node(p, TL_N_TUPLE, begin);
    bool is_tuple = false;
    for (;;) {
        if (tuple->args.n) expect_op(p, TL_OP_COMMA);
        if (tuple_ends(p, end_word)) break;
        add(p, &tuple->args,
            of == OF_EXPRESSIONS  ? parse_expression(p)
            : of == OF_CONDITIONS ? parse_or(p)
                                  : parse_primary(p, of == OF_SET_TARGETS));
        if (!at_op(p, TL_OP_COMMA)) break;
        is_tuple = true;
    }
    if (is_tuple) return tuple;
    if (tuple->args.n) return tuple->args.at[0];
    if (!parenthesised) fail_token(p, p->k, "%san expression was expected, and not %s", "", describe(p, p->k));
    return tuple;
}

static tl_node *parse_list(parser *p) {
    tl_node *n = node(p, TL_N_LIST, p->k++);
    while (!at_op(p, TL_OP_RBRACKET)) {
        if (n->args.n) expect_op(p, TL_OP_COMMA);
        if (at_op(p, TL_OP_RBRACKET)) break;
        add(p, &n->args, parse_expression(p));
    }
    expect_op(p, TL_OP_RBRACKET);
    return n;
}

static tl_node *parse_dict(parser *p) {
    tl_node *n = node(p, TL_N_DICT, p->k++);
    while (!at_op(p, TL_OP_RBRACE)) {
        if (n->args.n) expect_op(p, TL_OP_COMMA);
        if (at_op(p, TL_OP_RBRACE)) break;
        add(p, &n->args, parse_expression(p));
        expect_op(p, TL_OP_COLON);
        add(p, &n->args, parse_expression(p));
    }
    expect_op(p, TL_OP_RBRACE);
    return n;
}

static tl_node *parse_primary(parser *p, bool set_target) {
    const tl_jinja_token *k = p->k;
    tl_memory *m = &p->t->memory;
    if (k->kind == TL_T_NAME) {
        p->k++;
        if (name_is(k, "true") || name_is(k, "True")) return constant(p, k, tl__bool(true));
        if (name_is(k, "false") || name_is(k, "False")) return constant(p, k, tl__bool(false));
        if (name_is(k, "none") || name_is(k, "None")) return constant(p, k, tl__none());
        if (set_target && skip_op(p, TL_OP_DOT)) {
            tl_node *n = node(p, TL_N_NS_TARGET, k);
            n->text = k->text, n->attr = expect_name(p);
            return n;
        }
        tl_node *n = node(p, TL_N_NAME, k);
        n->text = k->text;
        return n;
    }
    if (k->kind == TL_T_STRING) {
        tl_text joined = {.m = m};
        const tl_string *s = (p->k++)->text;
        if (p->k->kind == TL_T_STRING) {
            tl__text_string(&joined, s);
            while (p->k->kind == TL_T_STRING) tl__text_string(&joined, (p->k++)->text);
            s = tl__text_done(&joined);
        }
        return constant(p, k, tl__str(s));
    }
    if (k->kind == TL_T_INT || k->kind == TL_T_FLOAT) {
        p->k++;
        return constant(p, k, k->kind == TL_T_INT ? tl__int(k->i) : tl__float(k->f));
    }
    deeper(p);
    tl_node *n = NULL;
    if (skip_op(p, TL_OP_LPAREN)) {
        n = parse_tuple(p, OF_EXPRESSIONS, NULL, true);
        expect_op(p, TL_OP_RPAREN);
    } else if (at_op(p, TL_OP_LBRACKET)) {
        n = parse_list(p);
    } else if (at_op(p, TL_OP_LBRACE)) {
        n = parse_dict(p);
    } else {
        fail_token(p, k, "%sunexpected %s", "", describe(p, k));
    }
    p->depth--;
    return n;
}

static void parse_arguments(parser *p, tl_node *call) {
    const tl_jinja_token *begin = p->k;
    tl_memory *m = &p->t->memory;
    int room = 0;
    bool star = false, stars = false, named = false, comma = false;
    expect_op(p, TL_OP_LPAREN);
    while (!at_op(p, TL_OP_RPAREN)) {
        if (comma) {
            expect_op(p, TL_OP_COMMA);
            if (at_op(p, TL_OP_RPAREN)) break;
        }
        const tl_string *name = NULL;
        bool fine = true;
        if (skip_op(p, TL_OP_MUL)) {
            fine = !star && !stars, star = true;
            name = tl__string(m, "*", 1, NULL);
        } else if (skip_op(p, TL_OP_POW)) {
            fine = !stars, stars = true;
            name = tl__string(m, "**", 2, NULL);
        } else if (p->k->kind == TL_T_NAME && p->k[1].kind == TL_T_OPERATOR && p->k[1].op == TL_OP_ASSIGN) {
            fine = !stars, named = true;
            name = p->k->text;
            for (int i = 0; i < call->args.n; i++)
                if (call->names[i] && call->names[i]->n == name->n &&
                    !memcmp(call->names[i]->bytes, name->bytes, name->n))
                    fail_token(p, p->k, "%sthe argument %s is given twice", "", describe(p, p->k));
            p->k += 2;
        } else {
            fine = !star && !stars && !named;
        }
        if (!fine) fail_token(p, begin, "%s%s", "the arguments of this call stand in an order that is not allowed", "");
        tl_node *value = parse_expression(p);
        if (call->args.n == room) {
            room = room ? 2 * room : 4;
            const tl_string **more = TL_NEW(m, const tl_string *, room);
            if (call->args.n) memcpy(more, call->names, (size_t)call->args.n * sizeof *more);
            call->names = more;
        }
        call->names[call->args.n] = name;
        add(p, &call->args, value);
        comma = true;
    }
    expect_op(p, TL_OP_RPAREN);
}

/* One bracket's content: an index, or a slice. */
static tl_node *parse_subscript(parser *p, tl_node *of, const tl_jinja_token *at) {
    tl_node *n = node(p, TL_N_SLICE, at);
    n->a = of;
    if (!skip_op(p, TL_OP_COLON)) {
        n->b = parse_expression(p);
        if (!skip_op(p, TL_OP_COLON)) {
            n->kind = TL_N_ITEM;
            return n;
        }
    }
    if (!at_op(p, TL_OP_COLON) && !at_op(p, TL_OP_RBRACKET) && !at_op(p, TL_OP_COMMA)) n->c = parse_expression(p);
    if (skip_op(p, TL_OP_COLON) && !at_op(p, TL_OP_RBRACKET) && !at_op(p, TL_OP_COMMA)) n->d = parse_expression(p);
    return n;
}

static tl_node *parse_postfix(parser *p, tl_node *n) {
    for (int links = 0;; links++) {
        const tl_jinja_token *k = p->k;
        if (links > TL_TEMPLATE_DEPTH)
            fail_token(p, k, "%s%s", "too many attributes and calls follow each other here", "");
        if (skip_op(p, TL_OP_DOT)) {
            tl_node *of = n;
            if (p->k->kind == TL_T_NAME) {
                n = node(p, TL_N_ATTR, k);
                n->attr = (p->k++)->text;
            } else if (p->k->kind == TL_T_INT) {
                n = node(p, TL_N_ITEM, k);
                n->b = constant(p, p->k, tl__int(p->k->i));
                p->k++;
            } else {
                fail_token(p, p->k, "%sa name or a number was expected after '.', and not %s", "", describe(p, p->k));
            }
            n->a = of;
        } else if (skip_op(p, TL_OP_LBRACKET)) {
            if (at_op(p, TL_OP_RBRACKET)) { /* jinja2 reads x[] as x[()] */
                tl_node *item = node(p, TL_N_ITEM, k);
                item->a = n, item->b = node(p, TL_N_TUPLE, k);
                n = item;
            } else {
                tl_node *item = parse_subscript(p, n, k);
                if (at_op(p, TL_OP_COMMA)) {
                    tl_node *tuple = node(p, TL_N_TUPLE, k);
                    if (item->kind == TL_N_SLICE)
                        fail_token(p, k, "%s%s", "a slice among several subscripts is not supported", "");
                    add(p, &tuple->args, item->b);
                    while (skip_op(p, TL_OP_COMMA)) {
                        tl_node *next = parse_subscript(p, NULL, k);
                        if (next->kind == TL_N_SLICE)
                            fail_token(p, k, "%s%s", "a slice among several subscripts is not supported", "");
                        add(p, &tuple->args, next->b);
                    }
                    item->b = tuple;
                }
                n = item;
            }
            expect_op(p, TL_OP_RBRACKET);
        } else if (at_op(p, TL_OP_LPAREN)) {
            tl_node *call = node(p, TL_N_CALL, k);
            call->a = n;
            parse_arguments(p, call);
            n = call;
        } else {
            return n;
        }
    }
}

static const tl_string *dotted_name(parser *p) {
    const tl_string *name = expect_name(p);
    while (skip_op(p, TL_OP_DOT)) {
        tl_text t = {.m = &p->t->memory};
        tl__text_string(&t, name);
        tl__text_c(&t, ".");
        tl__text_string(&t, expect_name(p));
        name = tl__text_done(&t);
    }
    return name;
}

/* What follows a '|' or the word `filter`. of may be NULL: the text of a block. */
static tl_node *parse_filter(parser *p, tl_node *of) {
    tl_node *n = node(p, TL_N_FILTER, p->k);
    n->attr = dotted_name(p);
    n->a = of;
    if (at_op(p, TL_OP_LPAREN)) parse_arguments(p, n);
    return n;
}

static tl_node *parse_filters(parser *p, tl_node *of) {
    for (int links = 0; skip_op(p, TL_OP_PIPE); links++) {
        if (links > TL_TEMPLATE_DEPTH) fail_token(p, p->k, "%s%s", "too many filters follow each other here", "");
        of = parse_filter(p, of);
    }
    return of;
}

static tl_node *parse_test(parser *p, tl_node *of) {
    const tl_jinja_token *begin = p->k++; /* is */
    bool negated = skip_name(p, "not");
    tl_node *n = node(p, TL_N_TEST, begin);
    n->a = of;
    n->attr = dotted_name(p);
    const tl_jinja_token *k = p->k;
    if (at_op(p, TL_OP_LPAREN)) {
        parse_arguments(p, n);
    } else if ((k->kind == TL_T_NAME || k->kind == TL_T_STRING || k->kind == TL_T_INT || k->kind == TL_T_FLOAT ||
                at_op(p, TL_OP_LBRACKET) || at_op(p, TL_OP_LBRACE)) &&
               !name_is(k, "else") && !name_is(k, "or") && !name_is(k, "and")) {
        if (name_is(k, "is")) fail_token(p, k, "%s%s", "tests cannot be chained with 'is'", "");
        tl_node *argument = parse_postfix(p, parse_primary(p, false));
        n->names = TL_NEW(&p->t->memory, const tl_string *, 1);
        add(p, &n->args, argument);
    }
    if (!negated) return n;
    tl_node *not = node(p, TL_N_NOT, begin);
    not ->a = n;
    return not ;
}

static tl_node *parse_unary(parser *p, bool with_filter) {
    const tl_jinja_token *k = p->k;
    tl_node *n;
    if (at_op(p, TL_OP_SUB) || at_op(p, TL_OP_ADD)) {
        n = node(p, at_op(p, TL_OP_SUB) ? TL_N_NEGATE : TL_N_PLUS, k);
        p->k++;
        deeper(p);
        n->a = parse_unary(p, false);
        p->depth--;
    } else {
        n = parse_primary(p, false);
    }
    n = parse_postfix(p, n);
    for (int links = 0; with_filter; links++) {
        if (links > TL_TEMPLATE_DEPTH)
            fail_token(p, p->k, "%s%s", "too many filters and tests follow each other here", "");
        if (at_op(p, TL_OP_PIPE)) n = parse_filters(p, n);
        else if (at_name(p, "is")) n = parse_test(p, n);
        else if (at_op(p, TL_OP_LPAREN)) n = parse_postfix(p, n);
        else break;
    }
    return n;
}

/* A chain of operators of one rank leans to the left; its length is bounded as nesting is. */
static tl_node *binary(parser *p, tl_node_kind kind, int op, tl_node *a, tl_node *b, const tl_jinja_token *at,
                       int *links) {
    if (++*links > TL_TEMPLATE_DEPTH)
        fail_token(p, at, "%s%s", "too many operators follow each other here; use parentheses", "");
    tl_node *n = node(p, kind, at);
    n->op = op, n->a = a, n->b = b;
    return n;
}

static tl_node *parse_pow(parser *p) {
    const tl_jinja_token *k = p->k;
    int links = 0;
    tl_node *n = parse_unary(p, true);
    while (skip_op(p, TL_OP_POW)) n = binary(p, TL_N_BINARY, TL_OP_POW, n, parse_unary(p, true), k, &links);
    return n;
}

static tl_node *parse_product(parser *p) {
    const tl_jinja_token *k = p->k;
    int links = 0;
    tl_node *n = parse_pow(p);
    while (at_op(p, TL_OP_MUL) || at_op(p, TL_OP_DIV) || at_op(p, TL_OP_FLOORDIV) || at_op(p, TL_OP_MOD)) {
        int op = (p->k++)->op;
        n = binary(p, TL_N_BINARY, op, n, parse_pow(p), k, &links);
    }
    return n;
}

static tl_node *parse_concat(parser *p) {
    const tl_jinja_token *k = p->k;
    tl_node *n = parse_product(p);
    if (!at_op(p, TL_OP_TILDE)) return n;
    tl_node *concat = node(p, TL_N_CONCAT, k);
    add(p, &concat->args, n);
    while (skip_op(p, TL_OP_TILDE)) add(p, &concat->args, parse_product(p));
    return concat;
}

static tl_node *parse_sum(parser *p) {
    const tl_jinja_token *k = p->k;
    int links = 0;
    tl_node *n = parse_concat(p);
    while (at_op(p, TL_OP_ADD) || at_op(p, TL_OP_SUB)) {
        int op = (p->k++)->op;
        n = binary(p, TL_N_BINARY, op, n, parse_concat(p), k, &links);
    }
    return n;
}

static tl_node *parse_compare(parser *p) {
    tl_node *n = node(p, TL_N_COMPARE, p->k);
    int room = 0;
    n->a = parse_sum(p);
    for (;;) {
        int op = -1;
        if (p->k->kind == TL_T_OPERATOR && (p->k->op == TL_OP_EQ || p->k->op == TL_OP_NE || p->k->op == TL_OP_LT ||
                                            p->k->op == TL_OP_LE || p->k->op == TL_OP_GT || p->k->op == TL_OP_GE))
            op = (p->k++)->op;
        else if (skip_name(p, "in")) op = TL_OP_IN;
        else if (at_name(p, "not") && name_is(p->k + 1, "in")) op = TL_OP_NOT_IN, p->k += 2;
        else break;
        if (n->args.n == room) {
            room = room ? 2 * room : 2;
            int *more = TL_NEW(&p->t->memory, int, room);
            if (n->args.n) memcpy(more, n->ops, (size_t)n->args.n * sizeof *more);
            n->ops = more;
        }
        n->ops[n->args.n] = op;
        add(p, &n->args, parse_sum(p));
    }
    return n->args.n ? n : n->a;
}

static tl_node *parse_not(parser *p) {
    if (!at_name(p, "not")) return parse_compare(p);
    tl_node *n = node(p, TL_N_NOT, p->k++);
    deeper(p);
    n->a = parse_not(p);
    p->depth--;
    return n;
}

static tl_node *parse_and(parser *p) {
    const tl_jinja_token *k = p->k;
    int links = 0;
    tl_node *n = parse_not(p);
    while (skip_name(p, "and")) n = binary(p, TL_N_AND, 0, n, parse_not(p), k, &links);
    return n;
}

static tl_node *parse_or(parser *p) {
    const tl_jinja_token *k = p->k;
    int links = 0;
    deeper(p);
    tl_node *n = parse_and(p);
    while (skip_name(p, "or")) n = binary(p, TL_N_OR, 0, n, parse_and(p), k, &links);
    p->depth--;
    return n;
}

static tl_node *parse_expression(parser *p) {
    deeper(p);
    const tl_jinja_token *k = p->k;
    int links = 0;
    tl_node *n = parse_or(p);
    while (skip_name(p, "if")) {
        tl_node *test = parse_or(p);
        n = binary(p, TL_N_CHOOSE, 0, n, test, k, &links);
        if (skip_name(p, "else")) n->c = parse_expression(p);
    }
    p->depth--;
    return n;
}

/* ---- targets ---- */

static void check_target(parser *p, const tl_node *n, const tl_jinja_token *at) {
    if (n->kind == TL_N_TUPLE)
        for (int i = 0; i < n->args.n; i++) check_target(p, n->args.at[i], at);
    else if (n->kind != TL_N_NAME && n->kind != TL_N_NS_TARGET)
        fail_token(p, at, "%s%s", "this cannot be assigned to; a name was expected", "");
}

static tl_node *parse_target(parser *p, tuple_of of, const char *end_word) {
    const tl_jinja_token *k = p->k;
    tl_node *n = parse_tuple(p, of, end_word, false);
    check_target(p, n, k);
    return n;
}

static tl_node *parse_name_target(parser *p) {
    const tl_jinja_token *k = p->k;
    tl_node *n = node(p, TL_N_NAME, k);
    n->text = expect_name(p);
    static const char *const words[] = {"true", "false", "none", "True", "False", "None"};
    for (int i = 0; i < 6; i++)
        if (name_is(k, words[i])) fail_token(p, k, "%s%s cannot be assigned to", "", describe(p, k));
    return n;
}

/* ---- statements ---- */

static void parse_body(parser *p, tl_nodes *body, const char *const *ends, const tl_jinja_token *opener);

/* Statements after a block's opening tag up to one of `ends` (a NULL-terminated list), whose name is then current. */
static void parse_block(parser *p, tl_nodes *body, const char *const *ends, const tl_jinja_token *opener) {
    skip_op(p, TL_OP_COLON);
    expect(p, TL_T_BLOCK_END, "'%}'");
    parse_body(p, body, ends, opener);
}

static void parse_function_block(parser *p, tl_nodes *body, const char *const *ends, const tl_jinja_token *opener) {
    int loops = p->loops;
    p->loops = 0;
    parse_block(p, body, ends, opener);
    p->loops = loops;
    p->k++;
}

#define ENDS(...) ((const char *const[]){__VA_ARGS__, NULL})

static bool assigns_loop(const tl_node *n) {
    if (n->kind == TL_N_TUPLE)
        for (int i = 0; i < n->args.n; i++)
            if (assigns_loop(n->args.at[i])) return true;
    return n->kind == TL_N_NAME && tl__string_is(n->text, "loop");
}

static tl_node *parse_for(parser *p) {
    const tl_jinja_token *k = p->k++;
    tl_node *n = node(p, TL_N_FOR, k);
    n->a = parse_target(p, OF_TARGETS, "in");
    if (!skip_name(p, "in")) fail_token(p, p->k, "'%s' was expected, and not %s", "in", describe(p, p->k));
    n->b = parse_tuple(p, OF_CONDITIONS, "recursive", false);
    if (skip_name(p, "if")) n->c = parse_expression(p);
    n->flag = skip_name(p, "recursive");
    if (assigns_loop(n->a)) fail_token(p, k, "%s%s", "'loop' cannot be the target of a for", "");
    int loops = p->loops;
    p->loops = n->flag ? 1 : loops + 1;
    parse_block(p, &n->body, ENDS("endfor", "else"), k);
    p->loops = n->flag ? 0 : loops;
    bool other = at_name(p, "else");
    p->k++;
    if (other) {
        parse_block(p, &n->other, ENDS("endfor"), k);
        p->k++;
    }
    p->loops = loops;
    return n;
}

static tl_node *parse_if(parser *p) {
    const tl_jinja_token *k = p->k++;
    tl_node *n = node(p, TL_N_IF, k), *last = n;
    n->a = parse_tuple(p, OF_CONDITIONS, NULL, false);
    for (int links = 0;; links++) {
        if (links > TL_TEMPLATE_CALLS) fail_token(p, p->k, "%s%s", "too many elif follow each other here", "");
        parse_block(p, &last->body, ENDS("elif", "else", "endif"), k);
        const tl_jinja_token *word = p->k++;
        if (name_is(word, "elif")) {
            tl_node *next = node(p, TL_N_IF, word);
            next->flag = true;
            next->a = parse_tuple(p, OF_CONDITIONS, NULL, false);
            add(p, &last->other, next);
            last = next;
            continue;
        }
        if (name_is(word, "else")) {
            parse_block(p, &last->other, ENDS("endif"), k);
            p->k++;
        }
        return n;
    }
}

static void parse_signature(parser *p, tl_node *n) {
    expect_op(p, TL_OP_LPAREN);
    while (!at_op(p, TL_OP_RPAREN)) {
        if (n->args.n) expect_op(p, TL_OP_COMMA);
        const tl_jinja_token *k = p->k;
        tl_node *name = parse_name_target(p);
        for (int i = 0; i < n->args.n; i++)
            if (n->args.at[i]->text->n == name->text->n &&
                !memcmp(n->args.at[i]->text->bytes, name->text->bytes, name->text->n))
                fail_token(p, k, "%sthe parameter %s is named twice", "", describe(p, k));
        if (skip_op(p, TL_OP_ASSIGN)) add(p, &n->defaults, parse_expression(p));
        else if (n->defaults.n) fail_token(p, k, "%s%s", "a parameter without a default follows one that has one", "");
        add(p, &n->args, name);
    }
    expect_op(p, TL_OP_RPAREN);
}

static tl_node *parse_macro(parser *p) {
    const tl_jinja_token *k = p->k++;
    tl_node *n = node(p, TL_N_MACRO, k);
    n->text = parse_name_target(p)->text;
    parse_signature(p, n);
    parse_function_block(p, &n->body, ENDS("endmacro"), k);
    return n;
}

static tl_node *parse_call_block(parser *p) {
    const tl_jinja_token *k = p->k++;
    tl_node *n = node(p, TL_N_CALL_BLOCK, k);
    if (at_op(p, TL_OP_LPAREN)) parse_signature(p, n);
    n->a = parse_expression(p);
    if (n->a->kind != TL_N_CALL) fail_token(p, k, "%s%s", "a call was expected after 'call'", "");
    parse_function_block(p, &n->body, ENDS("endcall"), k);
    return n;
}

static tl_node *parse_filter_block(parser *p) {
    const tl_jinja_token *k = p->k++;
    tl_node *n = node(p, TL_N_FILTER_BLOCK, k);
    n->a = parse_filters(p, parse_filter(p, NULL));
    parse_block(p, &n->body, ENDS("endfilter"), k);
    p->k++;
    return n;
}

static tl_node *parse_with(parser *p) {
    const tl_jinja_token *k = p->k++;
    tl_node *n = node(p, TL_N_WITH, k);
    while (p->k->kind != TL_T_BLOCK_END) {
        if (n->args.n) expect_op(p, TL_OP_COMMA);
        add(p, &n->args, parse_target(p, OF_TARGETS, NULL));
        expect_op(p, TL_OP_ASSIGN);
        add(p, &n->defaults, parse_expression(p));
    }
    parse_block(p, &n->body, ENDS("endwith"), k);
    p->k++;
    return n;
}

static tl_node *parse_set(parser *p) {
    const tl_jinja_token *k = p->k++;
    tl_node *n = node(p, TL_N_SET, k);
    n->a = parse_target(p, OF_SET_TARGETS, NULL);
    if (skip_op(p, TL_OP_ASSIGN)) {
        n->b = parse_tuple(p, OF_EXPRESSIONS, NULL, false);
        return n;
    }
    n->kind = TL_N_SET_BLOCK;
    n->b = parse_filters(p, NULL);
    parse_block(p, &n->body, ENDS("endset"), k);
    p->k++;
    return n;
}

static tl_node *parse_print(parser *p, tl_nodes *body) {
    const tl_jinja_token *k = p->k++;
    tl_node *last = NULL;
    while (p->k->kind != TL_T_BLOCK_END) {
        if (last) add(p, body, last), expect_op(p, TL_OP_COMMA);
        last = node(p, TL_N_PRINT, k);
        last->a = parse_expression(p);
    }
    return last;
}

static tl_node *parse_statement(parser *p, tl_nodes *body) {
    const tl_jinja_token *k = p->k;
    if (k->kind != TL_T_NAME) fail_token(p, k, "%sthe name of a block was expected, and not %s", "", describe(p, k));
    if (name_is(k, "for")) return parse_for(p);
    if (name_is(k, "if")) return parse_if(p);
    if (name_is(k, "set")) return parse_set(p);
    if (name_is(k, "macro")) return parse_macro(p);
    if (name_is(k, "call")) return parse_call_block(p);
    if (name_is(k, "filter")) return parse_filter_block(p);
    if (name_is(k, "with")) return parse_with(p);
    if (name_is(k, "print")) return parse_print(p, body);
    if (name_is(k, "generation")) {
        tl_node *n = node(p, TL_N_GENERATION, p->k++);
        parse_function_block(p, &n->body, ENDS("endgeneration"), k);
        return n;
    }
    if (name_is(k, "break") || name_is(k, "continue")) {
        if (!p->loops) fail_token(p, k, "%s%s stands outside a loop", "", describe(p, k));
        p->k++;
        return node(p, name_is(k, "break") ? TL_N_BREAK : TL_N_CONTINUE, k);
    }
    static const char *const others[] = {"block", "extends", "include", "import", "from", "autoescape"};
    for (int i = 0; i < 6; i++)
        if (name_is(k, others[i]))
            fail_token(p, k, "%sthe block %s is not supported in chat templates", "", describe(p, k));
    fail_token(p, k, "%sthere is no block called %s", "", describe(p, k));
}

static void parse_body(parser *p, tl_nodes *body, const char *const *ends, const tl_jinja_token *opener) {
    deeper(p);
    for (;;) {
        const tl_jinja_token *k = p->k;
        if (k->kind == TL_T_END) {
            if (ends)
                fail_token(p, opener, "the block %s that begins here is not closed by '%s'", describe(p, opener),
                           ends[0]);
            break;
        }
        p->k++;
        if (k->kind == TL_T_DATA) {
            tl_node *n = node(p, TL_N_DATA, k);
            n->text = k->text;
            add(p, body, n);
        } else if (k->kind == TL_T_VARIABLE_BEGIN) {
            tl_node *n = node(p, TL_N_PRINT, k);
            n->a = parse_tuple(p, OF_EXPRESSIONS, NULL, false);
            add(p, body, n);
            expect(p, TL_T_VARIABLE_END, "'}}'");
        } else { /* BLOCK_BEGIN: nothing else stands outside a tag */
            bool ended = false;
            for (int i = 0; ends && ends[i] && !ended; i++) ended = at_name(p, ends[i]);
            if (ended) break;
            tl_node *n = parse_statement(p, body);
            if (n) add(p, body, n);
            expect(p, TL_T_BLOCK_END, "'%}'");
        }
    }
    p->depth--;
}

void tl__template_parse(tl_template *t, const tl_jinja_token *tokens) {
    parser p = {.t = t, .k = tokens};
    parse_body(&p, &t->body, NULL, tokens);
}
