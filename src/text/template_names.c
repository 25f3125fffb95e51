/* template_names.c — decides, before anything runs, where every name lives.
 *
 * jinja2 does the same at compile time, and templates depend on how: a name that is set anywhere in a block belongs to
 * that block from its beginning; a loop's body starts each time from the outer value; a macro sees the names around its
 * definition as they are when it is called. The rules are those of jinja2's idtracking: a frame is analysed once, its
 * branches on copies that are then joined. */
#include <string.h>
#include "text/template_ast.h"

/* A scope is what its copies have in common: the slots of its names. */
typedef struct scope {
    tl_function *function;
    struct symbols *parent;
} scope;

typedef struct entry {
    const tl_string *name;
    bool known, stored; /* known: has a slot in this frame */
    tl_load load;       /* outer and function: of an alias */
    tl_function *outer_function;
} entry;

typedef struct symbols {
    scope *of;
    entry *at;
    int n, room;
} symbols;

typedef struct resolver {
    tl_template *t;
    symbols *now; /* where a frame's statements put their names */
    int fors;     /* around this statement, at any distance */
} resolver;

static tl_memory *memory(resolver *r) {
    return &r->t->memory;
}

static bool same(const tl_string *a, const tl_string *b) {
    return a->n == b->n && !memcmp(a->bytes, b->bytes, a->n);
}

static entry *find_here(symbols *s, const tl_string *name) {
    for (int i = 0; i < s->n; i++)
        if (same(s->at[i].name, name)) return &s->at[i];
    return NULL;
}

static entry *entry_of(resolver *r, symbols *s, const tl_string *name) {
    entry *e = find_here(s, name);
    if (e) return e;
    if (s->n == s->room) {
        int room = s->room ? 2 * s->room : 8;
        entry *more = TL_NEW(memory(r), entry, room);
        if (s->n) memcpy(more, s->at, (size_t)s->n * sizeof *more);
        s->at = more, s->room = room;
    }
    s->at[s->n] = (entry){.name = name};
    return &s->at[s->n++];
}

/* The nearest frame that knows the name, from s outward. */
static entry *find_known(symbols *s, const tl_string *name, tl_function **function) {
    for (; s; s = s->of->parent) {
        entry *e = find_here(s, name);
        if (e && e->known) {
            *function = s->of->function;
            return e;
        }
    }
    return NULL;
}

static symbols *frame_new(resolver *r, symbols *parent, tl_function *function) {
    symbols *s = TL_NEW(memory(r), symbols, 1);
    s->of = TL_NEW(memory(r), scope, 1);
    *s->of = (scope){function, parent};
    return s;
}

static tl_function *function_new(resolver *r, tl_function *up) {
    tl_function *f = TL_NEW(memory(r), tl_function, 1);
    f->up = up;
    return f;
}

static int hops(const tl_function *from, const tl_function *to) {
    int up = 0;
    for (; from != to; from = from->up) up++;
    return up;
}

static void define(symbols *s, entry *e, tl_load_kind kind) {
    if (!e->known) e->load.slot = s->of->function->slots++;
    e->known = true;
    e->load.kind = kind;
    e->load.name = e->name;
}

/* The load of an outer value, if an outer frame knows the name; else `otherwise`. */
static void define_from_outside(symbols *s, entry *e, tl_load_kind otherwise) {
    tl_function *function = NULL;
    entry *outer = find_known(s->of->parent, e->name, &function);
    define(s, e, outer ? TL_LOAD_OUTER : otherwise);
    if (outer) e->load.outer = (tl_place){hops(s->of->function, function), outer->load.slot};
}

static void store(resolver *r, const tl_string *name) {
    entry *e = entry_of(r, r->now, name);
    e->stored = true;
    if (!e->known) define_from_outside(r->now, e, TL_LOAD_MISSING);
}

static int declare(resolver *r, symbols *s, const tl_string *name) {
    entry *e = entry_of(r, s, name);
    e->stored = true;
    define(s, e, TL_LOAD_NOTHING);
    return e->load.slot;
}

static void load(resolver *r, const tl_string *name) {
    tl_function *function;
    if (!find_known(r->now, name, &function)) define(r->now, entry_of(r, r->now, name), TL_LOAD_VARIABLE);
}

/* ---- the first look at a frame: which names it knows ---- */

static void look_all(resolver *r, const tl_nodes *list);

static symbols *copy(resolver *r, const symbols *s) {
    symbols *c = TL_NEW(memory(r), symbols, 1);
    *c = *s;
    c->at = TL_NEW(memory(r), entry, s->room ? s->room : 1);
    if (s->n) memcpy(c->at, s->at, (size_t)s->n * sizeof *c->at);
    return c;
}

/* What branches know is known after them; what only some stored may still be the outer value. A slot that a branch gave
 * a name is kept by the frame, so that the next branch that stores the name uses the same. */
static void join(resolver *r, symbols *s, symbols *const *branch, int n) {
    symbols *before = copy(r, s);
    for (int b = 0; b < n; b++)
        for (int i = 0; i < branch[b]->n; i++) {
            entry *e = entry_of(r, s, branch[b]->at[i].name);
            if (branch[b]->at[i].known) e->known = true, e->load = branch[b]->at[i].load;
            e->stored |= branch[b]->at[i].stored;
        }
    for (int i = 0; i < s->n; i++) {
        entry *e = &s->at[i], *old = find_here(before, e->name);
        if (e->stored && !(old && old->stored) && e->known) define_from_outside(s, e, TL_LOAD_VARIABLE);
    }
}

static void look_if(resolver *r, tl_node *n);

static void look_target(resolver *r, const tl_node *n) {
    if (n->kind == TL_N_TUPLE)
        for (int i = 0; i < n->args.n; i++) look_target(r, n->args.at[i]);
    else if (n->kind == TL_N_NAME) store(r, n->text);
    else load(r, n->text);
}

static void look(resolver *r, tl_node *n) {
    if (!n) return;
    switch (n->kind) {
    case TL_N_NAME:
    case TL_N_NS_TARGET:
        load(r, n->text);
        return;
    case TL_N_IF:
        look_if(r, n);
        return;
    case TL_N_MACRO:
        store(r, n->text);
        return;
    case TL_N_FOR:
        look(r, n->b);
        return;
    case TL_N_CALL_BLOCK:
    case TL_N_FILTER_BLOCK:
        look(r, n->a);
        return;
    case TL_N_WITH:
        look_all(r, &n->defaults);
        return;
    case TL_N_GENERATION:
        return;
    case TL_N_SET_BLOCK:
    case TL_N_SET:
        if (n->kind == TL_N_SET) look(r, n->b);
        look_target(r, n->a);
        return;
    default:
        look(r, n->a);
        look(r, n->b);
        look(r, n->c);
        look(r, n->d);
        look_all(r, &n->args);
    }
}

static void look_all(resolver *r, const tl_nodes *list) {
    for (int i = 0; i < list->n; i++) look(r, list->at[i]);
}

static const tl_node *next_elif(const tl_node *n) {
    return n->other.n == 1 && n->other.at[0]->kind == TL_N_IF && n->other.at[0]->flag ? n->other.at[0] : NULL;
}

static void look_if(resolver *r, tl_node *n) {
    look(r, n->a);
    symbols *outer = r->now, *branch[3];
    /* All elifs are one branch, as in jinja2; each is an if without an else there. */
    branch[0] = r->now = copy(r, outer);
    look_all(r, &n->body);
    branch[1] = r->now = copy(r, outer);
    const tl_node *last = n;
    for (const tl_node *e = next_elif(n); e; e = next_elif(e)) {
        tl_node alone = *e;
        alone.other = (tl_nodes){0};
        look_if(r, &alone);
        last = e;
    }
    branch[2] = r->now = copy(r, outer);
    look_all(r, &last->other);
    r->now = outer;
    join(r, outer, branch, 3);
}

/* ---- the second look: places, with every frame known ---- */

static void walk_all(resolver *r, const tl_nodes *list);
static void walk(resolver *r, tl_node *n);

static void place_name(resolver *r, tl_node *n, symbols *s) {
    tl_function *function = NULL;
    entry *e = find_known(s, n->text, &function);
    n->place = (tl_place){hops(s->of->function, function), e->load.slot};
}

static void place_target(resolver *r, tl_node *n, symbols *s) {
    if (n->kind == TL_N_TUPLE) {
        for (int i = 0; i < n->args.n; i++) place_target(r, n->args.at[i], s);
        return;
    }
    place_name(r, n, s);
}

static void declare_target(resolver *r, const tl_node *n, symbols *s) {
    if (n->kind == TL_N_TUPLE)
        for (int i = 0; i < n->args.n; i++) declare_target(r, n->args.at[i], s);
    else declare(r, s, n->text);
}

static tl_node *copy_target(resolver *r, const tl_node *n) {
    tl_node *c = TL_NEW(memory(r), tl_node, 1);
    *c = *n;
    c->args = (tl_nodes){0};
    for (int i = 0; i < n->args.n; i++) tl__nodes_add(memory(r), &c->args, copy_target(r, n->args.at[i]));
    return c;
}

static tl_frame frame_of(resolver *r, const symbols *s) {
    tl_frame f = {.load = TL_NEW(memory(r), tl_load, s->n ? s->n : 1)};
    for (int i = 0; i < s->n; i++)
        if (s->at[i].known && s->at[i].load.kind != TL_LOAD_NOTHING) f.load[f.n++] = s->at[i].load;
    return f;
}

/* Whether `name` is read in these statements before it is set in them: jinja2's find_undeclared. */
typedef enum tl_use { UNSEEN, READ, SET } tl_use;
static void find_use_all(const tl_nodes *list, const char *name, tl_use *use);

static void find_use(const tl_node *n, const char *name, tl_use *use) {
    if (!n || *use != UNSEEN) return;
    if (n->kind == TL_N_NAME) {
        if (tl__string_is(n->text, name)) *use = READ;
        return;
    }
    if (n->kind == TL_N_NS_TARGET) return;
    bool targets = n->kind == TL_N_FOR || n->kind == TL_N_SET || n->kind == TL_N_SET_BLOCK;
    tl_use in_target = UNSEEN;
    if (targets) find_use(n->a, name, &in_target);
    if (in_target == READ) {
        *use = SET;
        return;
    }
    if (!targets) find_use(n->a, name, use);
    if (n->kind == TL_N_MACRO || n->kind == TL_N_CALL_BLOCK || n->kind == TL_N_WITH) {
        tl_use parameters = UNSEEN;
        find_use_all(&n->args, name, &parameters);
        if (*use == UNSEEN && parameters == READ) *use = SET;
    } else {
        find_use(n->b, name, use);
        find_use(n->c, name, use);
        find_use(n->d, name, use);
        find_use_all(&n->args, name, use);
    }
    find_use_all(&n->defaults, name, use);
    find_use_all(&n->body, name, use);
    find_use_all(&n->other, name, use);
}

static void find_use_all(const tl_nodes *list, const char *name, tl_use *use) {
    for (int i = 0; i < list->n; i++) find_use(list->at[i], name, use);
}

static bool reads(const tl_nodes *body, const char *name) {
    tl_use use = UNSEEN;
    find_use_all(body, name, &use);
    return use == READ;
}

static const tl_string *word(resolver *r, const char *text) {
    return tl__string(memory(r), text, strlen(text), NULL);
}

static bool has_parameter(const tl_node *n, const char *name) {
    for (int i = 0; i < n->args.n; i++)
        if (tl__string_is(n->args.at[i]->text, name)) return true;
    return false;
}

static void walk_function(resolver *r, tl_node *n) {
    symbols *outer = r->now;
    n->function = function_new(r, outer->of->function);
    symbols *s = r->now = frame_new(r, outer, n->function);
    for (int i = 0; i < n->args.n; i++) declare(r, s, n->args.at[i]->text);
    look_all(r, &n->defaults);
    look_all(r, &n->body);
    if (reads(&n->body, "caller")) {
        if (!has_parameter(n, "caller")) n->caller_slot = declare(r, s, word(r, "caller"));
        else if (!tl__string_is(n->args.at[n->args.n - 1]->text, "caller") || !n->defaults.n) {
            tl__template_fail(r->t, n->line, n->column, r->t->memory.err,
                              "the special parameter 'caller' must be left out or have a default");
            longjmp(*r->t->memory.door, 1);
        }
    }
    if (reads(&n->body, "kwargs") && !has_parameter(n, "kwargs")) n->kwargs_slot = declare(r, s, word(r, "kwargs"));
    if (reads(&n->body, "varargs") && !has_parameter(n, "varargs")) n->varargs_slot = declare(r, s, word(r, "varargs"));
    for (int i = 0; i < n->args.n; i++) place_name(r, n->args.at[i], s);
    n->frame = frame_of(r, s);
    walk_all(r, &n->defaults);
    walk_all(r, &n->body);
    r->now = outer;
}

static void walk_for(resolver *r, tl_node *n) {
    symbols *outer = r->now;
    walk(r, n->b);
    tl_function *function = n->flag ? function_new(r, outer->of->function) : outer->of->function;
    n->function = n->flag ? function : NULL;
    symbols *body = frame_new(r, outer, function), *test = frame_new(r, outer, function),
            *other = frame_new(r, outer, function);
    if (n->flag || reads(&n->body, "loop")) n->loop_slot = declare(r, body, word(r, "loop"));
    declare_target(r, n->a, body);
    r->now = body;
    look_all(r, &n->body);
    if (n->c) {
        /* The test's variables live beside the body's: the target is written twice. */
        declare_target(r, n->a, test);
        r->now = test;
        look(r, n->c);
        n->d = copy_target(r, n->a);
        place_target(r, n->d, test);
        n->test_frame = frame_of(r, test);
        walk(r, n->c);
    }
    place_target(r, n->a, body);
    r->now = body;
    n->frame = frame_of(r, body);
    r->fors++;
    walk_all(r, &n->body);
    r->now = other;
    look_all(r, &n->other);
    n->else_frame = frame_of(r, other);
    walk_all(r, &n->other);
    r->fors--;
    r->now = outer;
}

static void walk_set_target(resolver *r, tl_node *n) {
    if (n->kind == TL_N_TUPLE) {
        for (int i = 0; i < n->args.n; i++) walk_set_target(r, n->args.at[i]);
        return;
    }
    if (r->fors && n->kind == TL_N_NAME && tl__string_is(n->text, "loop")) {
        tl__template_fail(r->t, n->line, n->column, r->t->memory.err, "'loop' cannot be set inside a for");
        longjmp(*r->t->memory.door, 1);
    }
    place_name(r, n, r->now);
}

static void walk(resolver *r, tl_node *n) {
    if (!n) return;
    symbols *outer = r->now;
    switch (n->kind) {
    case TL_N_NAME:
        place_name(r, n, r->now);
        return;
    case TL_N_FOR:
        walk_for(r, n);
        return;
    case TL_N_MACRO:
        place_name(r, n, r->now);
        walk_function(r, n);
        return;
    case TL_N_CALL_BLOCK:
        walk(r, n->a);
        walk_function(r, n);
        return;
    case TL_N_GENERATION:
        walk_function(r, n);
        return;
    case TL_N_WITH:
        walk_all(r, &n->defaults);
        r->now = frame_new(r, outer, outer->of->function);
        for (int i = 0; i < n->args.n; i++) declare_target(r, n->args.at[i], r->now);
        look_all(r, &n->body);
        for (int i = 0; i < n->args.n; i++) place_target(r, n->args.at[i], r->now);
        break;
    case TL_N_FILTER_BLOCK:
        r->now = frame_new(r, outer, outer->of->function);
        look_all(r, &n->body);
        look(r, n->a);
        walk(r, n->a);
        break;
    case TL_N_SET_BLOCK:
        walk_set_target(r, n->a);
        r->now = frame_new(r, outer, outer->of->function);
        look_all(r, &n->body);
        if (n->b) look(r, n->b);
        if (n->b) walk(r, n->b);
        break;
    case TL_N_SET:
        walk(r, n->b);
        walk_set_target(r, n->a);
        return;
    default:
        walk(r, n->a);
        walk(r, n->b);
        walk(r, n->c);
        walk(r, n->d);
        walk_all(r, &n->args);
        walk_all(r, &n->body);
        walk_all(r, &n->other);
        return;
    }
    n->frame = frame_of(r, r->now);
    walk_all(r, &n->body);
    r->now = outer;
}

static void walk_all(resolver *r, const tl_nodes *list) {
    for (int i = 0; i < list->n; i++) walk(r, list->at[i]);
}

void tl__template_resolve(tl_template *t) {
    resolver r = {.t = t};
    t->function = function_new(&r, NULL);
    r.now = frame_new(&r, NULL, t->function);
    look_all(&r, &t->body);
    t->frame = frame_of(&r, r.now);
    walk_all(&r, &t->body);
}
