/* api.c — the public calls (trilith.h): what comes from outside is checked here, then the work is done where it is done
 * for the program. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "infer/engine.h"
#include "infer/sampler.h"
#include "infer/session.h"

static int no_handle(tl_error *err, const char *what) {
    return tl__fail(err, TL_EINVALID, "%s is NULL; pass one that was opened", what);
}

static int no_room(tl_error *err, const char *what) {
    return tl__fail(err, TL_EINVALID, "%s is NULL; pass where it is to be found or written", what);
}

/* ---- a model ---- */

int tl_engine_open(tl_engine **engine, const char *model, const tl_engine_options *options, tl_error *err) {
    if (!engine) return no_room(err, "engine");
    *engine = NULL;
    if (!model) return no_room(err, "model");
    tl_engine_options o = options ? *options : (tl_engine_options){0};
    if (o.positions < 0)
        return tl__fail(err, TL_EINVALID, "options.positions is %d; give the most tokens of a session, or 0 for all",
                        o.positions);
    if (o.dtype != TL_DTYPE_AUTO && o.dtype != TL_DTYPE_BF16 && o.dtype != TL_DTYPE_F32)
        return tl__fail(err, TL_EINVALID, "options.dtype is %d; it is TL_DTYPE_AUTO, TL_DTYPE_BF16 or TL_DTYPE_F32",
                        (int)o.dtype);
    tl_engine *e = calloc(1, sizeof *e);
    if (!e) return tl__fail(err, TL_ENOMEM, "not enough memory to open %s", model);
    int status = tl__engine_begin(e, model, err);
    if (!status) status = tl__engine_load(e, &o, err);
    if (status) tl_engine_close(e);
    else *engine = e;
    return status;
}

void tl_engine_close(tl_engine *engine) {
    if (!engine) return;
    tl__engine_close(engine);
    free(engine);
}

int tl_engine_describe(const tl_engine *engine, tl_engine_facts *facts, tl_error *err) {
    if (!engine) return no_handle(err, "engine");
    if (!facts) return no_room(err, "facts");
    *facts = (tl_engine_facts){.vocabulary = engine->model.arch.V,
                               .positions = engine->model.positions,
                               .tokenizer_ids = engine->tokenizer ? tl__tokenizer_vocab(engine->tokenizer) : 0,
                               .begin_id = tl__engine_begin_id(engine),
                               .begins_texts = engine->tokenizer && tl__tokenizer_adds_bos(engine->tokenizer),
                               .parameters = engine->model.params.count};
    return 0;
}

int tl_engine_ends_text(const tl_engine *engine, int32_t id) {
    return engine ? tl__engine_ends_text(engine, id) : TL_EINVALID;
}

/* ---- text ---- */

static int check_tokenizer(const tl_engine *engine, tl_error *err) {
    if (!engine) return no_handle(err, "engine");
    if (engine->tokenizer) return 0;
    return tl__fail(err, TL_ENOTFOUND, "%s holds no tokenizer; use token ids, or put the model's tokenizer.json there",
                    engine->folder);
}

int tl_engine_encode(const tl_engine *engine, const char *text, size_t text_bytes, bool special, int32_t *ids,
                     size_t room, size_t *count, tl_error *err) {
    int status = check_tokenizer(engine, err);
    if (status) return status;
    if (!text && text_bytes) return no_room(err, "text");
    if (!ids && room) return no_room(err, "ids");
    if (!count) return no_room(err, "count");
    int64_t n = tl__tokenizer_encode(engine->tokenizer, text ? text : "", text_bytes, special, ids, room, NULL);
    if (n < 0) return tl__fail(err, (int)n, "a text of %zu bytes could not be encoded; give it in parts", text_bytes);
    *count = (size_t)n;
    return 0;
}

static int check_ids(const tl_engine *engine, const int32_t *ids, size_t n, tl_error *err) {
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= engine->arch.V)
            return tl__fail(err, TL_EINVALID, "token %zu is id %d, but the model's ids are 0 to %d", i, (int)ids[i],
                            engine->arch.V - 1);
    return 0;
}

/* As much of a piece as fits; counted whole. */
static size_t put(char *text, size_t room, size_t used, const char *piece, size_t n) {
    size_t fits = used >= room ? 0 : n < room - used ? n : room - used;
    if (fits) memcpy(text + used, piece, fits);
    return used + n;
}

int tl_engine_decode(const tl_engine *engine, const int32_t *ids, size_t n, bool special, char *text, size_t room,
                     size_t *text_bytes, tl_error *err) {
    int status = check_tokenizer(engine, err);
    if (status) return status;
    if (!ids && n) return no_room(err, "ids");
    if (!text && room) return no_room(err, "text");
    if (!text_bytes) return no_room(err, "text_bytes");
    TRY(check_ids(engine, ids, n, err));
    char *piece = malloc(tl__tokenizer_decode_room(engine->tokenizer));
    if (!piece) return tl__fail(err, TL_ENOMEM, "not enough memory to decode %zu tokens", n);
    tl_decoder decoder = {0};
    size_t used = 0;
    for (size_t i = 0; i < n; i++)
        used = put(text, room, used, piece, tl__decoder_push(engine->tokenizer, &decoder, ids[i], !special, piece));
    used = put(text, room, used, piece, tl__decoder_finish(&decoder, piece));
    if (used < room) text[used] = 0;
    free(piece);
    *text_bytes = used;
    return 0;
}

/* ---- the next token ---- */

static int check_draw(const tl_engine *engine, const tl_sampling *sampling, const float *logits, const int32_t *id,
                      tl_error *err) {
    if (!engine) return no_handle(err, "engine");
    if (!sampling) return no_room(err, "sampling");
    if (!logits) return no_room(err, "logits");
    if (!id) return no_room(err, "id");
    return tl__sampling_check(sampling, err);
}

int tl_engine_sample(tl_engine *engine, const tl_sampling *sampling, const float *logits, int64_t position, int32_t *id,
                     float *logprob, tl_error *err) {
    int status = check_draw(engine, sampling, logits, id, err);
    if (status) return status;
    if (tl__sampling_penalises(sampling))
        return tl__fail(
            err, TL_EINVALID,
            "a penalty needs the ids before the token that is drawn; call tl_engine_sample_after with them");
    if (position < 0)
        return tl__fail(err, TL_EINVALID, "position is %lld; it counts the tokens before the one that is drawn",
                        (long long)position);
    *id = tl__sample(&engine->ctx, sampling, NULL, logits, engine->arch.V, position, engine->scratch, logprob);
    return 0;
}

int tl_engine_sample_after(tl_engine *engine, const tl_sampling *sampling, const float *logits, const int32_t *ids,
                           size_t n, size_t n_prompt, int32_t *id, float *logprob, tl_error *err) {
    int status = check_draw(engine, sampling, logits, id, err);
    if (!status && !ids && n) status = no_room(err, "ids");
    if (!status) status = check_ids(engine, ids, n, err);
    if (status) return status;
    if (n > INT_MAX || n_prompt > n)
        return tl__fail(err, TL_EINVALID, "n is %zu and n_prompt %zu; of n ids (%d at most) the prompt's come first", n,
                        n_prompt, INT_MAX);
    const tl_steering so_far = {
        .prompt = ids, .n_prompt = (int)n_prompt, .made = ids + n_prompt, .n_made = (int)(n - n_prompt)};
    *id = tl__sample(&engine->ctx, sampling, &so_far, logits, engine->arch.V, (int64_t)n, engine->scratch, logprob);
    return 0;
}

/* ---- a sequence ---- */

int tl_session_open(tl_session **session, tl_engine *engine, int capacity, tl_error *err) {
    if (!session) return no_room(err, "session");
    *session = NULL;
    if (!engine) return no_handle(err, "engine");
    return tl__session_open(session, &engine->model, &engine->ctx, capacity ? capacity : engine->model.positions, 0,
                            err);
}

void tl_session_close(tl_session *session) {
    tl__session_close(session);
}

int tl_session_length(const tl_session *session) {
    return session ? tl__session_length(session) : TL_EINVALID;
}

int tl_session_rewind(tl_session *session, int length, tl_error *err) {
    if (!session) return no_handle(err, "session");
    int now = tl__session_length(session);
    if (length < 0 || length > now)
        return tl__fail(err, TL_EINVALID, "a session of %d tokens cannot be rewound to %d; give 0 to %d", now, length,
                        now);
    tl__session_rewind(session, length);
    return 0;
}

int tl_session_append(tl_session *session, const int32_t *ids, size_t n, float *logits, tl_error *err) {
    if (!session) return no_handle(err, "session");
    if (!ids && n) return no_room(err, "ids");
    if (!n && logits) return tl__fail(err, TL_EINVALID, "no id was given, so there are no logits after it; append one");
    return tl__session_append(session, ids, n < INT_MAX ? (int)n : INT_MAX, logits, err);
}

int tl_session_score(tl_session *session, const int32_t *ids, size_t n, float *logprobs, tl_error *err) {
    if (!session) return no_handle(err, "session");
    if (!ids) return no_room(err, "ids");
    if (!logprobs) return no_room(err, "logprobs");
    return tl__session_score_whole(session, ids, (int64_t)n, logprobs, NULL, err);
}
