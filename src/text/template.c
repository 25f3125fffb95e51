/* template.c — the door to chat templates: compile, render, give back. Every failure inside leaves by the one longjmp
 * set here, with its sentence in the tl_error. */
#include "text/template.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "text/template_ast.h"
#include "text/template_eval.h"
#include "text/unicode.h"

const tl_template_limits tl__template_limits = {.steps = 20000000, .memory_bytes = (size_t)256 << 20};

int tl__template_fail(const tl_template *t, int line, int column, tl_error *err, const char *format, ...) {
    char text[800];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return tl__fail(err, TL_EFORMAT, "%s, line %d, column %d: %s", t->name, line, column, text);
}

/* ---- filters and tests by name ---- */

/* jinja2 refuses an unknown one when it compiles, except directly inside an if: there it waits until it is reached, so
 * that a template may ask for what not every version has. */
static void find_names(tl_template *t, tl_node *n, bool soft);

static void find_names_all(tl_template *t, const tl_nodes *list, bool soft) {
    for (int i = 0; i < list->n; i++) find_names(t, list->at[i], soft);
}

static void find_names(tl_template *t, tl_node *n, bool soft) {
    if (!n) return;
    bool inner = soft;
    switch (n->kind) {
    case TL_N_FILTER:
    case TL_N_TEST:
        n->known = n->kind == TL_N_FILTER ? tl__filter_find(n->attr) : tl__test_find(n->attr);
        if (n->known < 0 && !soft) {
            tl__template_fail(t, n->line, n->column, t->memory.err, "there is no %s called '%.*s'",
                              n->kind == TL_N_FILTER ? "filter" : "test", (int)(n->attr->n < 100 ? n->attr->n : 100),
                              n->attr->bytes);
            longjmp(*t->memory.door, 1);
        }
        break;
    case TL_N_IF:
    case TL_N_CHOOSE:
        soft = inner = true;
        break;
    case TL_N_FOR:
    case TL_N_MACRO:
    case TL_N_CALL_BLOCK:
    case TL_N_FILTER_BLOCK:
    case TL_N_WITH:
    case TL_N_SET_BLOCK:
    case TL_N_GENERATION:
        inner = false;
        break;
    default:
        break;
    }
    find_names(t, n->a, n->kind != TL_N_FILTER_BLOCK && soft);
    find_names(t, n->b, n->kind != TL_N_SET_BLOCK && soft);
    find_names(t, n->c, n->kind != TL_N_FOR && soft);
    if (n->kind != TL_N_FOR) find_names(t, n->d, soft);
    find_names_all(t, &n->args, soft);
    find_names_all(t, &n->defaults, n->kind == TL_N_WITH ? soft : inner);
    find_names_all(t, &n->body, inner);
    find_names_all(t, &n->other, inner);
}

static void compile(tl_template *t, const char *source, size_t n) {
    const tl_jinja_token *tokens;
    tl__template_lex(t, source, n, &tokens);
    tl__template_parse(t, tokens);
    find_names_all(t, &t->body, false);
    tl__template_resolve(t);
}

int tl__template_compile(tl_template **template, const char *source, size_t n, const char *name, tl_error *err) {
    *template = NULL;
    tl_error own = {0};
    if (n > TL_TEMPLATE_SOURCE_BYTES)
        return tl__fail(err, TL_EFORMAT, "%s: a template of %zu bytes, over the limit of %zu", name, n,
                        TL_TEMPLATE_SOURCE_BYTES);
    if (tl__utf8_valid((const uint8_t *)source, n) < n)
        return tl__fail(err, TL_EFORMAT, "%s: the template is not valid UTF-8", name);
    if (memchr(source, 0, n))
        return tl__fail(err, TL_EFORMAT, "%s: the template holds a zero byte; is it the right file?", name);
    tl_template *t = calloc(1, sizeof *t);
    if (!t) return tl__fail(err, TL_ENOMEM, "%s: not enough memory to compile it", name);
    jmp_buf door;
    snprintf(t->name, sizeof t->name, "%s", name);
    t->memory = (tl_memory){.limit = (size_t)512 << 20, .door = &door, .err = &own, .what = t->name};
    *template = t;
    if (setjmp(door) == 0) {
        compile(t, source, n);
        t->memory.door = NULL, t->memory.err = NULL;
        return 0;
    }
    tl__template_free(*template);
    *template = NULL;
    return tl__fail(err, own.status, "%s", own.text);
}

void tl__template_free(tl_template *template) {
    if (!template) return;
    tl__memory_free(&template->memory);
    free(template);
}

/* Everything between the two stands in the run's memory, so that a jump loses nothing. */
static int run_guarded(tl_run *run, const json_t *conversation, const json_t *settings) {
    jmp_buf door;
    run->memory.door = &door;
    if (setjmp(door)) return run->memory.err->status;
    tl__template_run(run, conversation, settings);
    return 0;
}

int tl__template_render(const tl_template *template, const json_t *conversation, const json_t *settings,
                        const tl_template_limits *limits, tl_rendering *out, tl_error *err) {
    *out = (tl_rendering){0};
    tl_error own = {0};
    tl_run run = {.t = template, .steps = (limits ? limits : &tl__template_limits)->steps};
    run.memory = (tl_memory){
        .limit = (limits ? limits : &tl__template_limits)->memory_bytes, .err = &own, .what = "the rendering"};
    tl_text text = {.m = &run.memory};
    run.out = &text;
    int status = run_guarded(&run, conversation, settings);
    if (!status) {
        out->text = malloc(text.n + 1);
        out->data = text.data ? malloc(text.n) : NULL;
        out->n = text.n;
        if (!out->text || (text.data && !out->data))
            status = tl__fail(&own, TL_ENOMEM, "not enough memory for the rendering");
    }
    if (!status) {
        if (text.n) memcpy(out->text, text.bytes, text.n);
        out->text[text.n] = 0;
        if (text.data) memcpy(out->data, text.data, text.n);
    } else {
        tl__rendering_free(out);
        tl__fail(err, own.status, "%s", own.text);
    }
    tl__memory_free(&run.memory);
    return status;
}

void tl__rendering_free(tl_rendering *r) {
    free(r->text);
    free(r->data);
    *r = (tl_rendering){0};
}
