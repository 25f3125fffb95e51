/* runner.c — opening, in the order that lets a mistake show before anything large is read; then steps. */
#include "serve/runner.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include "base/clock.h"
#include "base/log.h"

#define WAIT_NS 1000000000LL /* of a step without work, until the next look whether to end */

/* "models/smollm2.gguf" is "smollm2"; "runs/demo/" is "demo". */
static void name_of(char *out, size_t size, const char *path) {
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    size_t begin = n;
    while (begin > 0 && path[begin - 1] != '/') begin--;
    if (n - begin > 5 && strncmp(path + n - 5, ".gguf", 5) == 0) n -= 5;
    snprintf(out, size, "%.*s", (int)(n - begin), path + begin);
}

/* A model without a template serves all but chats. chat_tools stays empty where one template serves both. */
static int open_templates(tl_runner *r, tl_error *err) {
    const char *model = r->engine.folder, *file = r->options->template;
    const tl_gguf *gguf = tl__source_gguf(r->engine.source);
    tl_error none;
    if (!r->engine.has_tokenizer) return 0;
    if (file) {
        TRY(tl__chat_template_tokens(&r->chat, model, gguf, err));
        return tl__chat_template_file(&r->chat, file, err);
    }
    int status = tl__chat_template_open(&r->chat, model, gguf, false, &none);
    if (status == TL_ENOTFOUND) {
        tl__chat_template_close(&r->chat);
        return tl__chat_template_tokens(&r->chat, model, gguf, err);
    }
    if (status) return tl__fail(err, status, "%s", none.text);
    return gguf ? 0 : tl__chat_template_open(&r->chat_tools, model, NULL, true, err);
}

int tl__runner_open(tl_runner *r, const tl_runner_options *o, tl_error *err) {
    tl_engine *e = &r->engine;
    *r = (tl_runner){.options = o, .begun_ns = tl__now_ns(), .how = o->engine};
    atomic_init(&r->state, TL_RUNNER_LOADING);
    atomic_init(&r->end, false);
    if (o->name) snprintf(r->name, sizeof r->name, "%s", o->name);
    else name_of(r->name, sizeof r->name, o->model);
    TRY(tl__engine_begin(e, o->model, err));
    if (o->draft) TRY(tl__engine_begin(&r->draft, o->draft, err));
    e->stop = r->draft.stop = &r->end;
    TRY(open_templates(r, err));
    TRY(tl__conversation_stops(r->stops, &r->n_stops, e->folder, tl__source_gguf(e->source), e->arch.V, err));
    if (r->how.positions == 0) r->how.positions = e->arch.max_positions;
    if (r->how.positions <= e->arch.max_positions) return 0;
    return tl__fail(err, TL_EINVALID, "--context %d is more than the %d positions of this model", r->how.positions,
                    e->arch.max_positions);
}

static void on_step(void *metrics, const tl_batch_step *step) {
    tl__metrics_step(metrics, step);
}

static int load(tl_runner *r, tl_error *err) {
    tl_engine *e = &r->engine;
    tl_batcher_facts facts;
    TRY(tl__engine_load(e, &r->how, err));
    TRY(tl__metrics_open(&r->metrics, e, r->name, r->how.positions, err));
    tl_batcher_options batcher = r->options->batcher;
    if (r->options->draft) {
        tl_engine_options how = r->how;
        if (how.positions > r->draft.arch.max_positions) how.positions = r->draft.arch.max_positions;
        TRY(tl__engine_load(&r->draft, &how, err));
        batcher.draft = &r->draft;
    }
    batcher.stepped = on_step;
    batcher.user = r->metrics;
    TRY(tl__batcher_open(&r->batcher, e, &batcher, err));
    tl__batcher_describe(r->batcher, &facts);
    r->context = (tl_ask_context){.engine = e,
                                  .chat = &r->chat,
                                  .chat_tools = r->chat_tools.template ? &r->chat_tools : &r->chat,
                                  .stops = r->stops,
                                  .n_stops = r->n_stops,
                                  .name = r->name,
                                  .positions = facts.positions,
                                  .waiting = r->options->batcher.waiting};
    return 0;
}

static void set_state(tl_runner *r, tl_runner_state state) {
    atomic_store(&r->state, (int)state);
    r->changed(r->user);
}

static void *run(void *user) {
    tl_runner *r = user;
    const int status = load(r, &r->err);
    if (status) {
        set_state(r, status == TL_ESTOPPED ? TL_RUNNER_ENDED : TL_RUNNER_FAILED);
        return NULL;
    }
    r->ready_ns = tl__now_ns();
    r->created = time(NULL);
    set_state(r, TL_RUNNER_READY);
    while (!atomic_load(&r->end)) {
        tl_error err;
        const int rows = tl__batcher_step(r->batcher, WAIT_NS, &err);
        if (rows < 0) tl__warn("a step failed: %s", err.text);
        if (rows == 0) tl__metrics_idle(r->metrics);
    }
    atomic_store(&r->state, TL_RUNNER_ENDED);
    return NULL;
}

int tl__runner_start(tl_runner *r, void (*changed)(void *user), void *user, tl_error *err) {
    r->changed = changed;
    r->user = user;
    r->started = pthread_create(&r->thread, NULL, run, r) == 0;
    return r->started ? 0 : tl__fail(err, TL_ENOMEM, "the system has no room for a thread");
}

void tl__runner_end(tl_runner *r) {
    if (!r->started) return;
    atomic_store(&r->end, true);
    if (atomic_load(&r->state) == TL_RUNNER_READY) tl__batcher_wake(r->batcher);
    pthread_join(r->thread, NULL);
    r->started = false;
}

void tl__runner_close(tl_runner *r) {
    tl__batcher_close(r->batcher);
    tl__metrics_close(r->metrics);
    tl__chat_template_close(&r->chat);
    tl__chat_template_close(&r->chat_tools);
    tl__engine_close(&r->draft);
    tl__engine_close(&r->engine);
}
