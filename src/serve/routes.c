/* routes.c — which path does what. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "serve/page.h"
#include "serve/server_parts.h"
#include "serve/tokens.h"

/* ---- what is made by the model ---- */

static int make(tl_exchange *x, tl_ask_kind kind, tl_refusal *r) {
    TRY(tl__ask_read(&x->ask, kind, x->body.bytes ? x->body.bytes : "", x->body.n, &x->server->runner.context, r));
    TRY(tl__exchange_begin(x, r));
    return x->ask.stream ? tl__stream_begin(x, r) : 0;
}

static int completions(tl_exchange *x, tl_refusal *r) {
    return make(x, TL_ASK_COMPLETION, r);
}
static int chat(tl_exchange *x, tl_refusal *r) {
    return make(x, TL_ASK_CHAT, r);
}
static int embeddings(tl_exchange *x, tl_refusal *r) {
    return make(x, TL_ASK_EMBEDDING, r);
}
static int score(tl_exchange *x, tl_refusal *r) {
    return make(x, TL_ASK_SCORE, r);
}

/* ---- what is there ---- */

static json_t *model_object(const tl_runner *r) {
    return json_pack("{s:s, s:s, s:I, s:s, s:i}", "id", r->name, "object", "model", "created", (json_int_t)r->created,
                     "owned_by", "trilith", "max_model_len", r->context.positions);
}

static int models(tl_exchange *x, tl_refusal *r) {
    (void)r;
    tl__exchange_send(x, 200, json_pack("{s:s, s:[o]}", "object", "list", "data", model_object(&x->server->runner)));
    return 0;
}

static int one_model(tl_exchange *x, tl_refusal *r) {
    const char *name = x->path + strlen("/v1/models/");
    if (strcmp(name, x->server->runner.name) != 0)
        return tl__refuse_as(r, 404, "model_not_found", "model",
                             "there is no model '%.100s' here; this server has '%s'", name, x->server->runner.name);
    tl__exchange_send(x, 200, model_object(&x->server->runner));
    return 0;
}

static int health(tl_exchange *x, tl_refusal *r) {
    (void)r;
    tl__exchange_send(x, 200, json_pack("{s:s}", "status", "ok"));
    return 0;
}

static int ready(tl_exchange *x, tl_refusal *r) {
    (void)r;
    const bool up = atomic_load(&x->server->runner.state) == TL_RUNNER_READY, ends = atomic_load(&x->server->draining);
    tl__exchange_send(x, up && !ends ? 200 : 503,
                      json_pack("{s:s}", "status",
                                ends ? "draining"
                                : up ? "ready"
                                     : "loading"));
    return 0;
}

static int metrics(tl_exchange *x, tl_refusal *r) {
    const tl_runner *runner = &x->server->runner;
    tl_batcher_facts facts;
    tl_error err;
    char *text;
    size_t n;
    if (atomic_load(&runner->state) != TL_RUNNER_READY)
        return tl__refuse_as(r, 503, "loading", NULL, "the model is being loaded; come again in a moment");
    tl__batcher_describe(runner->batcher, &facts);
    if (tl__metrics_write(runner->metrics, &facts, &text, &n, &err)) return tl__refuse_error(r, NULL, &err);
    tl__exchange_send_text(x, 200, TL_METRICS_CONTENT_TYPE, text, n);
    free(text);
    return 0;
}

static int page(tl_exchange *x, tl_refusal *r) {
    (void)r;
    size_t n;
    const char *html = tl__page(&n);
    tl__exchange_send_text(x, 200, "text/html; charset=utf-8", html, n);
    return 0;
}

/* ---- tokens ---- */

static int send_made(tl_exchange *x, json_t *made) {
    if (!made) return TL_EINVALID;
    tl__exchange_send(x, 200, made);
    return 0;
}

static int tokenize(tl_exchange *x, tl_refusal *r) {
    return send_made(x,
                     tl__tokens_encode(x->body.bytes ? x->body.bytes : "", x->body.n, &x->server->runner.context, r));
}
static int detokenize(tl_exchange *x, tl_refusal *r) {
    return send_made(x,
                     tl__tokens_decode(x->body.bytes ? x->body.bytes : "", x->body.n, &x->server->runner.context, r));
}
static int tokenizer_info(tl_exchange *x, tl_refusal *r) {
    return send_made(x, tl__tokens_info(&x->server->runner.context, r));
}

/* ---- the table ---- */

static const tl_route routes[] = {
    {"POST", "/v1/chat/completions", .model = true, .run = chat},
    {"POST", "/v1/completions", .model = true, .run = completions},
    {"POST", "/v1/embeddings", .model = true, .run = embeddings},
    {"GET", "/v1/models", .model = true, .run = models},
    {"GET", "/v1/models/*", .model = true, .run = one_model},
    {"POST", "/score", .model = true, .run = score},
    {"POST", "/tokenize", .model = true, .run = tokenize},
    {"POST", "/detokenize", .model = true, .run = detokenize},
    {"GET", "/tokenizer_info", .model = true, .run = tokenizer_info},
    {"GET", "/metrics", .run = metrics},
    {"GET", "/", .free = true, .run = page},
    {"GET", "/health", .free = true, .run = health},
    {"GET", "/ready", .free = true, .run = ready},
};

const tl_route *tl__route_find(const char *method, const char *path, bool *known) {
    *known = false;
    if (strcmp(method, "HEAD") == 0) method = "GET"; /* libmicrohttpd leaves the body out */
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        const size_t n = strlen(routes[i].path);
        const bool beginning = routes[i].path[n - 1] == '*';
        if (beginning ? strncmp(path, routes[i].path, n - 1) != 0 : strcmp(path, routes[i].path) != 0) continue;
        *known = true;
        if (strcmp(method, routes[i].method) == 0) return &routes[i];
    }
    return NULL;
}
