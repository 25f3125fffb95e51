/* engine.c — opening a model, in the order that lets a mistake show before anything large is read. */
#include "infer/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/log.h"
#include "infer/sampler.h"
#include "infer/session.h"
#include "io/manifest.h"
#include "observe/machine.h"

/* "…/latest" → "…/step-N": while a run goes on the link moves, and every file must come from one checkpoint. */
static void follow_link(char *path, size_t size) {
    char target[256];
    ssize_t n = readlink(path, target, sizeof target - 1);
    char *slash = strrchr(path, '/');
    if (n <= 0 || !slash) return;
    target[n] = 0;
    if (strchr(target, '/') || (size_t)(slash + 1 - path) + (size_t)n + 1 > size)
        return; /* not one of ours: opened as given */
    memcpy(slash + 1, target, (size_t)n + 1);
}

int tl__model_folder(char *out, size_t size, const char *given, tl_error *err) {
    if (strlen(given) + 64 > size)
        return tl__fail(err, TL_EINVALID, "the path of the model is longer than %zu bytes", size - 64);
    if (!tl__path_exists(given))
        return tl__fail(err, TL_ENOTFOUND,
                        "there is no model '%s'; name a checkpoint, a run, a Hugging Face model folder or a GGUF file",
                        given);
    TRY(tl__source_gguf_path(out, size, given, err));
    if (*out) return 0;
    if (!tl__path_is_folder(given))
        return tl__fail(err, TL_EINVALID,
                        "'%s' is a file, but no GGUF file; a model is that, or the folder that holds config.json and "
                        "model.safetensors",
                        given);
    static const char *const places[] = {"", "checkpoints/latest", "latest"};
    for (int i = 0; i < 3; i++) {
        char config[4096 + 64];
        if (i == 0) snprintf(out, size, "%s", given);
        else tl__path_join(out, size, given, places[i]);
        tl__path_join(config, sizeof config, out, "config.json");
        if (!tl__path_exists(config)) continue;
        follow_link(out, size);
        return 0;
    }
    char checkpoints[4096];
    tl__path_join(checkpoints, sizeof checkpoints, given, "checkpoints");
    if (tl__path_exists(checkpoints))
        return tl__fail(err, TL_ENOTFOUND, "the run '%s' has no finished checkpoint yet", given);
    return tl__fail(
        err, TL_ENOTFOUND,
        "'%s' holds no config.json; a model is a folder with config.json and model.safetensors, or a GGUF file", given);
}

static bool has_tokenizer(const tl_engine *e) {
    const tl_gguf *gguf = tl__source_gguf(e->source);
    char path[4096 + 64];
    if (gguf) return tl__gguf_find(gguf, "tokenizer.ggml.model") != NULL;
    tl__path_join(path, sizeof path, e->folder, "tokenizer.json");
    return tl__path_exists(path);
}

static int open_tokenizer(tl_engine *e, const tl_weight_source *source, tl_error *err) {
    const tl_gguf *gguf = tl__source_gguf(source);
    TRY(gguf ? tl__tokenizer_from_gguf(&e->tokenizer, gguf, err) : tl__tokenizer_open(&e->tokenizer, e->folder, err));
    if (tl__tokenizer_vocab(e->tokenizer) > e->arch.V)
        return tl__fail(err, TL_EFORMAT, "%s: %s has ids up to %d, but %s %d; the two do not belong together",
                        e->folder, gguf ? "the tokenizer" : "tokenizer.json", tl__tokenizer_vocab(e->tokenizer) - 1,
                        gguf ? "the rows of 'token_embd.weight' are" : "config.json's vocab_size is", e->arch.V);
    return 0;
}

int tl__engine_begin(tl_engine *e, const char *given, tl_error *err) {
    *e = (tl_engine){0};
    TRY(tl__model_folder(e->folder, sizeof e->folder, given, err));
    TRY(tl__source_open(&e->source, e->folder, err));
    TRY(tl__source_arch(&e->arch, e->source, err));
    e->has_tokenizer = has_tokenizer(e);
    return 0;
}

int tl__engine_open(tl_engine *e, const char *given, bool needs_tokenizer, tl_error *err) {
    TRY(tl__engine_begin(e, given, err));
    return needs_tokenizer || e->has_tokenizer ? open_tokenizer(e, e->source, err) : 0;
}

/* manifest.json records a hash of every tensor: reading them all costs what reading the file costs, and is asked for.
 */
static int verify(const tl_engine *e, tl_error *err) {
    json_t *manifest;
    if (tl__source_gguf(e->source))
        return tl__fail(err, TL_ENOTFOUND, "%s: a GGUF file holds no hashes to verify its weights against", e->folder);
    int status = tl__manifest_read(&manifest, e->folder, err);
    if (status == TL_ENOTFOUND) return tl__error_prefix(err, "there is nothing to verify the weights against");
    enum { PARTS = 16 }; /* between which it can be told to stop */
    for (int i = 0; !status && i < PARTS; i++)
        status = e->stop && atomic_load(e->stop)
                     ? tl__fail(err, TL_ESTOPPED, "%s was no longer wanted while it was verified", e->folder)
                     : tl__manifest_verify_part(manifest, e->folder, TL_WEIGHTS_NAME, i, PARTS, err);
    json_decref(manifest);
    return status;
}

int tl__engine_size(tl_engine_size *out, const tl_engine *e, const tl_engine_options *o, int capacity, int chunk,
                    tl_error *err) {
    const tl_arch *a = &e->arch;
    const int threads = o->threads > 0 ? o->threads : tl__cpus_available();
    *out = (tl_engine_size){0};
    TRY(tl__model_size(&out->weights, e->source, a, o->positions, o->dtype, err));
    out->kv = (int64_t)tl__session_kv_bytes(a, capacity);
    out->scoring = (int64_t)tl__session_scoring_bytes(a, capacity, chunk);
    out->activations = (int64_t)tl__session_bytes(a, capacity, chunk) - out->kv - out->scoring;
    out->workspace =
        (int64_t)(tl__ops_workspace_bytes(threads) + tl__sampler_bytes(a->V) + (size_t)a->V * sizeof(float));
    out->program = tl__rss_bytes();
    out->generating = out->weights.total_bytes + out->kv + out->activations + out->workspace + out->program;
    return 0;
}

typedef struct opening {
    tl_engine *engine;
    const tl_weight_source *source;
} opening;

static int open_beside(void *user, tl_error *err) {
    const opening *o = user;
    return open_tokenizer(o->engine, o->source, err);
}

int tl__engine_load(tl_engine *e, const tl_engine_options *o, tl_error *err) {
    if (o->verify) TRY(verify(e, err));
    TRY(tl__ctx_open(&e->ctx, o->threads, tl__device_isa(o->device), err));
    tl_weight_source *source = e->source;
    e->source = NULL;
    opening tokenizer = {e, source};
    const tl_beside beside = {open_beside, &tokenizer};
    TRY(tl__model_open(&e->model, source, &e->arch, o->positions, o->dtype, e->ctx.pool,
                       e->has_tokenizer && !e->tokenizer ? &beside : NULL, e->stop, err));
    e->ctx.contract = o->dtype == TL_DTYPE_BF16 ? TL_CONTRACT_BF16 : TL_CONTRACT_F32;
    e->scratch = malloc(tl__sampler_bytes(e->arch.V));
    return e->scratch ? 0 : tl__fail(err, TL_ENOMEM, "not enough memory to sample among %d ids", e->arch.V);
}

void tl__engine_close(tl_engine *e) {
    if (e->model.weight) tl__model_close(&e->model);
    tl__source_close(e->source);
    tl__ctx_close(&e->ctx);
    if (e->tokenizer) tl__tokenizer_close(e->tokenizer);
    free(e->scratch);
    *e = (tl_engine){0};
}

int tl__engine_ends(const tl_engine *e, int32_t id[2]) {
    const int32_t named[2] = {e->arch.eos, e->tokenizer ? tl__tokenizer_eos(e->tokenizer) : -1};
    int n = 0;
    for (int i = 0; i < 2; i++)
        if (named[i] >= 0 && named[i] < e->arch.V) id[n++] = named[i];
    return n;
}

bool tl__engine_ends_text(const tl_engine *e, int32_t id) {
    int32_t end[2];
    for (int i = tl__engine_ends(e, end); i-- > 0;)
        if (end[i] == id) return true;
    return false;
}

int tl__engine_begin_id(const tl_engine *e) {
    return e->arch.bos >= 0 ? e->arch.bos : e->tokenizer ? tl__tokenizer_eos(e->tokenizer) : -1;
}

int64_t tl__engine_encode(const tl_engine *e, int32_t **ids, const char *text, size_t n, bool special, const char *what,
                          tl_error *err) {
    const int first = tl__tokenizer_adds_bos(e->tokenizer) ? tl__engine_begin_id(e) : -1, more = first >= 0;
    *ids = malloc((n + 1) * sizeof **ids);
    if (!*ids) return tl__fail(err, TL_ENOMEM, "not enough memory for the tokens of %zu bytes", n);
    int64_t replaced = 0,
            count = tl__tokenizer_encode(e->tokenizer, text, n, special, *ids + more, n + 1 - (size_t)more, &replaced);
    if (count > (int64_t)n + 1 - more) { /* each invalid byte can become the three of U+FFFD */
        free(*ids);
        *ids = malloc(((size_t)count + 1) * sizeof **ids);
        if (!*ids) return tl__fail(err, TL_ENOMEM, "not enough memory for the tokens of %zu bytes", n);
        count = tl__tokenizer_encode(e->tokenizer, text, n, special, *ids + more, (size_t)count, &replaced);
    }
    if (count < 0) return tl__fail(err, (int)count, "%s could not be encoded by the model's tokenizer", what);
    if (replaced > 0)
        tl__warn("%s: %lld invalid UTF-8 sequence%s read as U+FFFD", what, (long long)replaced,
                 replaced == 1 ? "" : "s");
    if (more) (*ids)[0] = first;
    return count + more;
}
