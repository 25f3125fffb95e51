/* template_eval.c — walks a compiled template: statements write to the output, expressions give values. */
#include "text/template_eval.h"

#include <stdio.h>
#include <string.h>

/* ---- leaving ---- */

void tl__run_fail(tl_run *run, const char *format, ...) {
    char text[700];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (run->at) tl__template_fail(run->t, run->at->line, run->at->column, run->memory.err, "%s", text);
    else tl__fail(run->memory.err, TL_EFORMAT, "%s: %s", run->t->name, text);
    longjmp(*run->memory.door, 1);
}

void tl__run_raise(tl_run *run, const tl_string *sentence) {
    if (!sentence->n || !*sentence->bytes) tl__run_fail(run, "raise_exception without a sentence");
    tl__fail(run->memory.err, TL_EFORMAT, "%.*s", (int)(sentence->n < 1000 ? sentence->n : 1000), sentence->bytes);
    longjmp(*run->memory.door, 1);
}

void tl__run_steps(tl_run *run, int64_t n) {
    if ((run->steps -= n) < 0) tl__run_fail(run, "the template takes too many steps; is there a loop that should end?");
}

void tl__run_deeper(tl_run *run) {
    if (++run->depth > TL_TEMPLATE_CALLS)
        tl__run_fail(run, "macros, loops and expressions are nested too deep; does a macro call itself without end?");
}

void tl__run_defined(tl_run *run, tl_value v) {
    if (v.kind == TL_V_UNDEFINED || v.kind == TL_V_MISSING)
        tl__run_fail(run, "%s", v.kind == TL_V_UNDEFINED ? v.why : "a value is undefined");
}

/* ---- names ---- */

typedef tl_activation activation;

static tl_value *slot_of(activation *a, tl_place p) {
    for (int i = 0; i < p.up; i++) a = a->up;
    return &a->slot[p.slot];
}

static activation *activate(tl_run *run, const tl_function *f, activation *up) {
    activation *a = TL_NEW(&run->memory, activation, 1);
    a->slot = TL_NEW(&run->memory, tl_value, f->slots + 1);
    a->up = up;
    return a;
}

static tl_value variable(tl_run *run, const tl_string *name) {
    const tl_value *found = tl__dict_get(run->variables, tl__str(name));
    if (found) return *found;
    int global = tl__global_find(name);
    if (global >= 0) return (tl_value){.kind = TL_V_GLOBAL, .which = global};
    return (tl_value){.kind = TL_V_MISSING};
}

static void enter(tl_run *run, activation *a, const tl_frame *f) {
    for (int i = 0; i < f->n; i++) {
        const tl_load *l = &f->load[i];
        a->slot[l->slot] = l->kind == TL_LOAD_OUTER      ? *slot_of(a, l->outer)
                           : l->kind == TL_LOAD_VARIABLE ? variable(run, l->name)
                                                         : (tl_value){.kind = TL_V_MISSING};
    }
}

static tl_value eval(tl_run *run, activation *a, const tl_node *n);
static void exec_all(tl_run *run, activation *a, const tl_nodes *list);

/* ---- targets ---- */

static void assign(tl_run *run, activation *a, const tl_node *target, tl_value v) {
    if (target->kind == TL_N_NAME) {
        *slot_of(a, target->place) = v;
    } else if (target->kind == TL_N_NS_TARGET) {
        tl_value ns = *slot_of(a, target->place);
        if (target->attr->n && target->attr->bytes[0] == '_')
            tl__run_fail(run, "the attributes of a namespace must not begin with '_'");
        tl__dict_set(&run->memory, ns.dict, tl__str(target->attr), v);
    } else {
        tl__run_defined(run, v.kind == TL_V_UNDEFINED && target->args.n ? v : tl__none());
        if (!tl__iterable(v)) tl__run_fail(run, "a value of type %s cannot be taken apart", tl__value_type(v));
        tl_iterator *it = tl__iterate(run, v);
        tl_value item;
        int n = 0;
        tl_value *parts = TL_NEW(&run->memory, tl_value, target->args.n + 1);
        while (n <= target->args.n && tl__next(run, it, &item)) parts[n++] = item;
        if (n != target->args.n)
            tl__run_fail(run, "%s values to take apart: %d were expected",
                         n > target->args.n ? "too many" : "not enough", target->args.n);
        for (int i = 0; i < n; i++) assign(run, a, target->args.at[i], parts[i]);
    }
}

/* jinja2 looks at the namespaces of a `set` before it evaluates what they are to hold. */
static void check_namespaces(tl_run *run, activation *a, const tl_node *target) {
    if (target->kind == TL_N_TUPLE)
        for (int i = 0; i < target->args.n; i++) check_namespaces(run, a, target->args.at[i]);
    else if (target->kind == TL_N_NS_TARGET && slot_of(a, target->place)->kind != TL_V_NAMESPACE)
        tl__run_fail(run, "'%.*s' is not a namespace, so that its attributes cannot be set",
                     (int)(target->text->n < 100 ? target->text->n : 100), target->text->bytes);
}

/* ---- calls ---- */

static void spread(tl_run *run, tl_args *args, tl_value v) {
    tl_value all = tl__list_of(run, v, TL_V_LIST);
    tl_value *more = TL_NEW(&run->memory, tl_value, args->n + (int)all.list->n + 1);
    if (args->n) memcpy(more, args->at, (size_t)args->n * sizeof *more);
    if (all.list->n) memcpy(more + args->n, all.list->at, all.list->n * sizeof *more);
    args->at = more;
    args->n += (int)all.list->n;
}

static void add_named(tl_run *run, tl_args *args, const tl_string *name, tl_value v, int *room) {
    for (int i = 0; i < args->names; i++)
        if (args->name[i]->n == name->n && !memcmp(args->name[i]->bytes, name->bytes, name->n))
            tl__run_fail(run, "the argument '%.*s' is given twice", (int)(name->n < 100 ? name->n : 100), name->bytes);
    if (args->names == *room) {
        *room = *room ? 2 * *room : 4;
        const tl_string **names = TL_NEW(&run->memory, const tl_string *, *room);
        tl_value *values = TL_NEW(&run->memory, tl_value, *room);
        if (args->names) memcpy(names, args->name, (size_t)args->names * sizeof *names);
        if (args->names) memcpy(values, args->named, (size_t)args->names * sizeof *values);
        args->name = names, args->named = values;
    }
    args->name[args->names] = name;
    args->named[args->names++] = v;
}

static tl_args arguments(tl_run *run, activation *a, const tl_node *n) {
    tl_args args = {.at = TL_NEW(&run->memory, tl_value, n->args.n + 1)};
    int room = 0;
    for (int i = 0; i < n->args.n; i++) {
        tl_value v = eval(run, a, n->args.at[i]);
        const tl_string *name = n->names[i];
        if (!name) args.at[args.n++] = v;
        else if (tl__string_is(name, "*")) spread(run, &args, v);
        else if (!tl__string_is(name, "**")) add_named(run, &args, name, v, &room);
        else {
            tl__run_defined(run, v);
            if (v.kind != TL_V_DICT)
                tl__run_fail(run, "'**' goes before a mapping, not a value of type %s", tl__value_type(v));
            for (size_t k = 0; k < v.dict->n; k++) {
                if (v.dict->at[k].key.kind != TL_V_STRING) tl__run_fail(run, "'**' wants names as keys");
                add_named(run, &args, v.dict->at[k].key.s, v.dict->at[k].value, &room);
            }
        }
    }
    return args;
}

static const tl_string *captured(tl_run *run, activation *a, const tl_nodes *body) {
    tl_text text = {.m = &run->memory}, *outer = run->out;
    run->out = &text;
    exec_all(run, a, body);
    run->out = outer;
    return tl__text_done(&text);
}

static tl_value missing_parameter(tl_run *run, const tl_string *name) {
    return tl__undefined(run, "parameter '%.*s' was not provided", (int)(name->n < 100 ? name->n : 100), name->bytes);
}

static int named(const tl_args *args, const tl_string *name) {
    for (int i = 0; i < args->names; i++)
        if (args->name[i]->n == name->n && !memcmp(args->name[i]->bytes, name->bytes, name->n)) return i;
    return -1;
}

static tl_value call_macro(tl_run *run, const tl_macro *macro, const tl_args *args) {
    const tl_node *n = macro->node;
    activation *a = activate(run, n->function, macro->around);
    int parameters = n->args.n;
    bool *used = TL_NEW(&run->memory, bool, args->names + 1), caller_seen = false;
    enter(run, a, &n->frame);
    for (int i = 0; i < parameters; i++) {
        const tl_string *name = n->args.at[i]->text;
        tl_value v = {.kind = TL_V_MISSING};
        caller_seen |= tl__string_is(name, "caller") && i >= args->n;
        if (i < args->n) v = args->at[i];
        else if (named(args, name) >= 0) v = args->named[named(args, name)], used[named(args, name)] = true;
        a->slot[n->args.at[i]->place.slot] = v;
    }
    for (int i = 0; i < args->names; i++) {
        if (used[i]) continue;
        if (tl__string_is(args->name[i], "caller") && n->caller_slot >= 0 && !caller_seen) {
            a->slot[n->caller_slot] = args->named[i];
            used[i] = true;
        } else if (n->kwargs_slot < 0) {
            tl__run_fail(run, "the macro takes no argument called '%.*s'",
                         (int)(args->name[i]->n < 100 ? args->name[i]->n : 100), args->name[i]->bytes);
        }
    }
    if (n->caller_slot >= 0 && a->slot[n->caller_slot].kind == TL_V_MISSING)
        a->slot[n->caller_slot] = tl__undefined(run, "No caller defined");
    if (n->caller_slot >= 0 && a->slot[n->caller_slot].kind == TL_V_NONE)
        a->slot[n->caller_slot] = tl__undefined(run, "No caller defined");
    if (n->kwargs_slot >= 0) {
        tl_value rest = tl__dict_new(&run->memory, TL_V_DICT);
        for (int i = 0; i < args->names; i++)
            if (!used[i]) tl__dict_set(&run->memory, rest.dict, tl__str(args->name[i]), args->named[i]);
        a->slot[n->kwargs_slot] = rest;
    }
    if (n->varargs_slot >= 0) {
        tl_value rest = tl__list_new(&run->memory, TL_V_TUPLE, 0);
        for (int i = parameters; i < args->n; i++) tl__list_add(&run->memory, rest.list, args->at[i]);
        a->slot[n->varargs_slot] = rest;
    } else if (args->n > parameters) {
        tl__run_fail(run, "the macro takes no more than %d argument%s", parameters, parameters == 1 ? "" : "s");
    }
    for (int i = 0; i < parameters; i++) {
        tl_value *slot = &a->slot[n->args.at[i]->place.slot];
        int from_end = i - (parameters - n->defaults.n);
        if (slot->kind != TL_V_MISSING) continue;
        *slot = from_end >= 0 ? eval(run, a, n->defaults.at[from_end]) : missing_parameter(run, n->args.at[i]->text);
    }
    int pending = run->pending;
    run->pending = 0;
    const tl_string *text = captured(run, a, &n->body);
    run->pending = pending;
    return tl__str(text);
}

tl_value tl__call(tl_run *run, tl_value callee, const tl_args *args) {
    tl__run_defined(run, callee);
    tl__run_deeper(run);
    const tl_node *at = run->at;
    tl_value out;
    switch (callee.kind) {
    case TL_V_MACRO:
        out = call_macro(run, callee.macro, args);
        break;
    case TL_V_GLOBAL:
        out = tl__global_call(run, callee.which, args);
        break;
    case TL_V_METHOD:
        out = tl__method_call(run, callee.which, callee.bound->self, args);
        break;
    case TL_V_JOINER:
        tl__bind(run, "joiner", args, "", 0, NULL);
        out = callee.cycler->at++ ? callee.cycler->items.at[0] : tl__str(tl__string(&run->memory, "", 0, NULL));
        break;
    case TL_V_LOOP:
        if (!callee.loop->node) tl__run_fail(run, "'loop' can be called in a recursive for alone");
        if (args->n != 1 || args->names) tl__run_fail(run, "'loop' takes one argument: what to go through");
        out = tl__str(tl__loop_again(run, callee.loop, args->at[0]));
        break;
    default:
        tl__run_fail(run, "a value of type %s cannot be called", tl__value_type(callee));
    }
    run->at = at;
    run->depth--;
    return out;
}

/* ---- expressions ---- */

static tl_value compare(tl_run *run, activation *a, const tl_node *n) {
    tl_value left = eval(run, a, n->a);
    for (int i = 0; i < n->args.n; i++) {
        tl_value right = eval(run, a, n->args.at[i]);
        run->at = n;
        if (!tl__compare(run, n->ops[i], left, right)) return tl__bool(false);
        left = right;
    }
    return tl__bool(true);
}

static _Noreturn void unknown_name(tl_run *run, const tl_node *n) {
    tl__run_fail(run, "there is no %s called '%.*s'", n->kind == TL_N_FILTER ? "filter" : "test",
                 (int)(n->attr->n < 100 ? n->attr->n : 100), n->attr->bytes);
}

/* The value that a filter block's innermost filter takes comes from outside. */
static tl_value eval_filter(tl_run *run, activation *a, const tl_node *n, const tl_value *inner) {
    tl_value v = n->a ? (n->a->kind == TL_N_FILTER ? eval_filter(run, a, n->a, inner) : eval(run, a, n->a)) : *inner;
    tl_args args = arguments(run, a, n);
    run->at = n;
    if (n->known < 0) unknown_name(run, n);
    return tl__filter_apply(run, n->known, v, &args);
}

static tl_value make_dict(tl_run *run, activation *a, const tl_node *n) {
    tl_value out = tl__dict_new(&run->memory, TL_V_DICT);
    for (int i = 0; i < n->args.n; i += 2) {
        tl_value key = eval(run, a, n->args.at[i]), value = eval(run, a, n->args.at[i + 1]);
        run->at = n;
        if (!tl__value_hashable(key)) tl__run_fail(run, "a value of type %s cannot be a key", tl__value_type(key));
        if (key.kind == TL_V_STRING) tl__run_steps(run, (int64_t)key.s->n / 64);
        tl__dict_set(&run->memory, out.dict, key, value);
    }
    return out;
}

static tl_value make_list(tl_run *run, activation *a, const tl_node *n) {
    tl_value out = tl__list_new(&run->memory, n->kind == TL_N_LIST ? TL_V_LIST : TL_V_TUPLE, (size_t)n->args.n);
    for (int i = 0; i < n->args.n; i++) tl__list_add(&run->memory, out.list, eval(run, a, n->args.at[i]));
    return out;
}

static tl_value eval_name(tl_run *run, activation *a, const tl_node *n) {
    tl_value v = *slot_of(a, n->place);
    if (v.kind != TL_V_MISSING) return v;
    return tl__undefined(run, "'%.*s' is undefined", (int)(n->text->n < 100 ? n->text->n : 100), n->text->bytes);
}

static tl_value eval_other(tl_run *run, activation *a, const tl_node *n) {
    tl_value v, w;
    switch (n->kind) {
    case TL_N_TUPLE:
    case TL_N_LIST:
        return make_list(run, a, n);
    case TL_N_DICT:
        return make_dict(run, a, n);
    case TL_N_ATTR:
        v = eval(run, a, n->a);
        run->at = n;
        return tl__attribute(run, v, n->attr);
    case TL_N_ITEM:
        v = eval(run, a, n->a);
        w = eval(run, a, n->b);
        run->at = n;
        return tl__item(run, v, w);
    case TL_N_SLICE: {
        v = eval(run, a, n->a);
        tl_value bound[3] = {n->b ? eval(run, a, n->b) : tl__none(), n->c ? eval(run, a, n->c) : tl__none(),
                             n->d ? eval(run, a, n->d) : tl__none()};
        run->at = n;
        return tl__slice(run, v, bound);
    }
    case TL_N_CALL: {
        v = eval(run, a, n->a);
        tl_args args = arguments(run, a, n);
        run->at = n;
        return tl__call(run, v, &args);
    }
    case TL_N_FILTER:
        return eval_filter(run, a, n, NULL);
    case TL_N_TEST: {
        v = eval(run, a, n->a);
        tl_args args = arguments(run, a, n);
        run->at = n;
        if (n->known < 0) unknown_name(run, n);
        return tl__bool(tl__test_apply(run, n->known, v, &args));
    }
    case TL_N_NOT:
        return tl__bool(!tl__truth(run, eval(run, a, n->a)));
    case TL_N_AND:
        v = eval(run, a, n->a);
        return tl__truth(run, v) ? eval(run, a, n->b) : v;
    case TL_N_OR:
        v = eval(run, a, n->a);
        return tl__truth(run, v) ? v : eval(run, a, n->b);
    case TL_N_NEGATE:
    case TL_N_PLUS:
        v = eval(run, a, n->a);
        run->at = n;
        return tl__negate(run, v, n->kind == TL_N_NEGATE);
    case TL_N_BINARY:
        v = eval(run, a, n->a);
        w = eval(run, a, n->b);
        run->at = n;
        return tl__operate(run, n->op, v, w);
    case TL_N_CONCAT: {
        tl_text t = {.m = &run->memory};
        for (int i = 0; i < n->args.n; i++) {
            v = eval(run, a, n->args.at[i]);
            run->at = n;
            tl__add_string(run, &t, v);
        }
        return tl__str(tl__text_done(&t));
    }
    case TL_N_COMPARE:
        return compare(run, a, n);
    default: /* CHOOSE */
        if (tl__truth(run, eval(run, a, n->b))) return eval(run, a, n->a);
        if (n->c) return eval(run, a, n->c);
        return tl__undefined(
            run, "the inline if-expression on line %d evaluated to false and no else section was defined.", n->line);
    }
}

static tl_value eval(tl_run *run, activation *a, const tl_node *n) {
    run->at = n;
    tl__run_steps(run, 1);
    if (n->kind == TL_N_CONST) return n->value;
    if (n->kind == TL_N_NAME) return eval_name(run, a, n);
    tl__run_deeper(run);
    tl_value v = eval_other(run, a, n);
    run->depth--;
    return v;
}

/* ---- loops ---- */

typedef struct loop_test { /* `for x in y if test`: asked item by item, while the loop runs */
    const tl_node *node;
    activation *a;
} loop_test;

static bool passes(tl_run *run, tl_iterator *it, tl_value item) {
    const loop_test *t = it->more;
    assign(run, t->a, t->node->d, item);
    return tl__truth(run, eval(run, t->a, t->node->c));
}

static void run_loop(tl_run *run, activation *a, const tl_node *n, tl_value items, int64_t depth0, activation *around) {
    run->at = n;
    tl_iterator *it = tl__iterate(run, items);
    if (n->c) {
        loop_test *test = TL_NEW(&run->memory, loop_test, 1);
        *test = (loop_test){n, a};
        enter(run, a, &n->test_frame);
        tl_iterator *kept = TL_NEW(&run->memory, tl_iterator, 1);
        *kept = (tl_iterator){
            .source = {.kind = TL_V_ITERATOR, .iterator = it}, .keep = passes, .more = test, .label = "generator"};
        it = kept;
    }
    tl_loop *loop = TL_NEW(&run->memory, tl_loop, 1);
    *loop = (tl_loop){.it = it, .index0 = -1, .depth0 = depth0, .node = n->flag ? n : NULL, .around = around};
    bool none = true;
    for (;;) {
        tl_value item;
        if (loop->has_after) item = loop->after, loop->has_after = false;
        else if (loop->ended || !tl__next(run, loop->it, &item)) break;
        loop->index0++;
        loop->before = loop->current;
        loop->current = item;
        assign(run, a, n->a, item);
        if (n->loop_slot >= 0) a->slot[n->loop_slot] = (tl_value){.kind = TL_V_LOOP, .loop = loop};
        enter(run, a, &n->frame);
        exec_all(run, a, &n->body);
        int pending = run->pending;
        run->pending = 0;
        if (!pending) none = false; /* as in jinja2: an iteration that breaks off does not count for `else` */
        if (pending == TL_N_BREAK) break;
    }
    if (none && n->other.n) {
        enter(run, a, &n->else_frame);
        exec_all(run, a, &n->other);
    }
}

const tl_string *tl__loop_again(tl_run *run, const tl_loop *loop, tl_value items) {
    tl_text text = {.m = &run->memory}, *outer = run->out;
    int pending = run->pending;
    run->out = &text;
    run->pending = 0;
    run_loop(run, activate(run, loop->node->function, loop->around), loop->node, items, loop->depth0 + 1, loop->around);
    run->out = outer;
    run->pending = pending;
    return tl__text_done(&text);
}

/* ---- statements ---- */

static void exec_if(tl_run *run, activation *a, const tl_node *n) {
    for (;;) {
        if (tl__truth(run, eval(run, a, n->a))) {
            exec_all(run, a, &n->body);
            return;
        }
        if (n->other.n == 1 && n->other.at[0]->kind == TL_N_IF) n = n->other.at[0];
        else break;
    }
    exec_all(run, a, &n->other);
}

static tl_value macro_of(tl_run *run, activation *a, const tl_node *n) {
    tl_macro *m = TL_NEW(&run->memory, tl_macro, 1);
    *m = (tl_macro){n, a};
    return (tl_value){.kind = TL_V_MACRO, .macro = m};
}

static void exec_call_block(tl_run *run, activation *a, const tl_node *n) {
    static const tl_string caller = {.bytes = "caller", .n = 6, .chars = 6};
    tl_value callee = eval(run, a, n->a->a);
    tl_args args = arguments(run, a, n->a);
    run->at = n;
    int room = args.names;
    add_named(run, &args, &caller, macro_of(run, a, n), &room);
    tl__add_string(run, run->out, tl__call(run, callee, &args));
}

static void exec(tl_run *run, activation *a, const tl_node *n) {
    run->at = n;
    tl__run_steps(run, 1);
    switch (n->kind) {
    case TL_N_DATA:
        tl__text_string(run->out, n->text);
        tl__run_steps(run, (int64_t)n->text->n / 64);
        return;
    case TL_N_PRINT: {
        tl_value v = eval(run, a, n->a);
        run->at = n;
        tl__add_string(run, run->out, v);
        return;
    }
    case TL_N_IF:
        exec_if(run, a, n);
        return;
    case TL_N_FOR: {
        tl_value items = eval(run, a, n->b);
        run_loop(run, n->flag ? activate(run, n->function, a) : a, n, items, 0, a);
        return;
    }
    case TL_N_SET:
        check_namespaces(run, a, n->a);
        assign(run, a, n->a, eval(run, a, n->b));
        return;
    case TL_N_SET_BLOCK: {
        enter(run, a, &n->frame);
        tl_value text = tl__str(captured(run, a, &n->body));
        if (run->pending) return;
        if (n->b) text = eval_filter(run, a, n->b, &text);
        run->at = n;
        check_namespaces(run, a, n->a);
        assign(run, a, n->a, text);
        return;
    }
    case TL_N_MACRO:
        *slot_of(a, n->place) = macro_of(run, a, n);
        return;
    case TL_N_CALL_BLOCK:
        exec_call_block(run, a, n);
        return;
    case TL_N_FILTER_BLOCK: {
        enter(run, a, &n->frame);
        tl_value text = tl__str(captured(run, a, &n->body));
        if (run->pending) return; /* a break took the block along, and its text */
        text = eval_filter(run, a, n->a, &text);
        tl__add_string(run, run->out, text);
        return;
    }
    case TL_N_WITH:
        enter(run, a, &n->frame);
        for (int i = 0; i < n->args.n; i++) assign(run, a, n->args.at[i], eval(run, a, n->defaults.at[i]));
        exec_all(run, a, &n->body);
        return;
    case TL_N_GENERATION: {
        tl_args none = {0};
        tl__add_string(run, run->out, tl__call(run, macro_of(run, a, n), &none));
        return;
    }
    default: /* BREAK, CONTINUE */
        run->pending = (int)n->kind;
    }
}

static void exec_all(tl_run *run, activation *a, const tl_nodes *list) {
    tl__run_deeper(run);
    for (int i = 0; i < list->n && !run->pending; i++) exec(run, a, list->at[i]);
    run->depth--;
}

/* ---- a whole rendering ---- */

static void add_variables(tl_run *run, const json_t *object, bool data) {
    const char *key;
    json_t *item;
    json_object_foreach((json_t *)object, key, item)
        tl__dict_set(&run->memory, run->variables, tl__str(tl__string_copy(&run->memory, key, strlen(key))),
                     tl__from_json(run, item, data));
}

void tl__template_run(tl_run *run, const json_t *conversation, const json_t *settings) {
    run->variables = tl__dict_new(&run->memory, TL_V_DICT).dict;
    add_variables(run, conversation, true);
    add_variables(run, settings, false);
    activation *a = activate(run, run->t->function, NULL);
    enter(run, a, &run->t->frame);
    exec_all(run, a, &run->t->body);
}
