/* session.c — one sequence and its keys and values: appended to in chunks, scored, rewound.
 *
 * Invariants: 0 ≤ length ≤ capacity ≤ the model's positions; blocks 0 … length−1 of every layer hold the keys and
 * values of the tokens appended since they were last rewound past. A call that fails has checked before it changed
 * anything. All memory, the record itself included, is one arena: appending makes no heap call. */
#include "infer/session.h"

#include <assert.h>
#include <string.h>

#define SESSION_CHUNK 512 /* rows computed at once unless asked otherwise: enough for products to run at speed */

struct tl_session {
    tl_arena arena; /* holds this record too */
    const tl_model *model;
    tl_ctx *ctx;
    int capacity, chunk, length;
    tl_acts acts;
    tl_type kv_type;
    unsigned char *kv; /* [L, 2, blocks, Hkv parts] */
    int32_t *token;    /* [chunk] */
    int32_t *pos;      /* [chunk] */
    int32_t *target;   /* [chunk] */
    float *logp;       /* [chunk] */
    int32_t *block;    /* [blocks] block i holds positions 16i … 16i+15 */
    int32_t *seq_row;  /* [2] all rows are one sequence's */
};

static int chunk_rows(int capacity, int chunk) {
    if (chunk <= 0) chunk = SESSION_CHUNK;
    return chunk < capacity ? chunk : capacity;
}

static int block_count(int capacity) {
    return (capacity + TL_KV_BLOCK - 1) / TL_KV_BLOCK;
}

/* Keys, or values, of one layer. */
static int64_t layer_bytes(const tl_arch *a, int capacity, tl_type kv_type) {
    return (int64_t)block_count(capacity) * a->Hkv * tl_kv_part_bytes(kv_type, a->D);
}

/* The one placing function: over a dry arena it is the size, over a real one the session. */
static tl_session *place(tl_arena *arena, const tl_arch *a, int capacity, int chunk, tl_type kv_type) {
    int blocks = block_count(capacity);
    tl_session unplaced, *real = TL_TAKE(arena, tl_session, 1), *s = real ? real : &unplaced;
    *s = (tl_session){.capacity = capacity, .chunk = chunk, .kv_type = kv_type};
    tl__acts_place(&s->acts, arena, a, chunk, 0, false, TL_RECOMPUTE_NONE);
    s->kv = TL_TAKE(arena, unsigned char, 2 * a->L * layer_bytes(a, capacity, kv_type));
    s->token = TL_TAKE(arena, int32_t, chunk);
    s->pos = TL_TAKE(arena, int32_t, chunk);
    s->target = TL_TAKE(arena, int32_t, chunk);
    s->logp = TL_TAKE(arena, float, chunk);
    s->block = TL_TAKE(arena, int32_t, blocks);
    s->seq_row = TL_TAKE(arena, int32_t, 2);
    return real;
}

size_t tl__session_kv_bytes(const tl_arch *a, int capacity) {
    return 2 * (size_t)a->L * (size_t)layer_bytes(a, capacity, TL_F32);
}

size_t tl__session_scoring_bytes(const tl_arch *a, int capacity, int chunk) {
    tl_arena dry = tl__arena_dry();
    tl_acts acts;
    tl__acts_place(&acts, &dry, a, chunk_rows(capacity, chunk), 0, false, TL_RECOMPUTE_NONE);
    return (size_t)acts.loss_rows * (size_t)a->V * sizeof(float);
}

static size_t all_bytes(const tl_arch *arch, int capacity, int chunk, tl_type kv_type) {
    tl_arena dry = tl__arena_dry();
    place(&dry, arch, capacity, chunk_rows(capacity, chunk), kv_type);
    return dry.used_bytes;
}

size_t tl__session_bytes(const tl_arch *arch, int capacity, int chunk) {
    return all_bytes(arch, capacity, chunk, TL_F32);
}

int tl__session_open(tl_session **session, const tl_model *model, tl_ctx *ctx, int capacity, int chunk, tl_error *err) {
    return tl__session_open_narrow(session, model, ctx, capacity, chunk, TL_F32, err);
}

int tl__session_open_narrow(tl_session **session, const tl_model *model, tl_ctx *ctx, int capacity, int chunk,
                            tl_type kv_type, tl_error *err) {
    assert(tl_kv_can_be(kv_type));
    const tl_arch *a = &model->arch;
    *session = NULL;
    if (capacity < 1 || capacity > model->positions)
        return tl__fail(err, TL_EINVALID,
                        "a session of %d tokens was asked for, but this model has positions for 1 to %d", capacity,
                        model->positions);
    tl_arena arena;
    int status = tl__arena_open(&arena, all_bytes(a, capacity, chunk, kv_type), err);
    if (status) return tl__error_prefix(err, "keys and values of %d tokens", capacity);
    tl_session *s = place(&arena, a, capacity, chunk_rows(capacity, chunk), kv_type);
    s->arena = arena;
    s->model = model;
    s->ctx = ctx;
    const int64_t bytes = layer_bytes(a, capacity, kv_type);
    for (int l = 0; l < a->L; l++)
        s->acts.layer[l].kv = (tl_kv){s->kv + 2 * l * bytes, s->kv + (2 * l + 1) * bytes, kv_type};
    for (int i = 0; i < block_count(capacity); i++) s->block[i] = i;
    *session = s;
    return 0;
}

void tl__session_close(tl_session *session) {
    if (!session) return;
    tl_arena arena = session->arena;
    tl__arena_close(&arena);
}

int tl__session_length(const tl_session *session) {
    return session->length;
}

int tl__session_capacity(const tl_session *session) {
    return session->capacity;
}

void tl__session_lend(tl_session *s, const tl_blocks *blocks) {
    s->acts.blocks = blocks;
}

void tl__session_rewind(tl_session *session, int length) {
    assert(length >= 0);
    if (length < session->length) session->length = length;
}

static int check_ids(const tl_session *s, const int32_t *tokens, int64_t n, tl_error *err) {
    int V = s->model->arch.V;
    for (int64_t i = 0; i < n; i++)
        if (tokens[i] < 0 || tokens[i] >= V)
            return tl__fail(
                err, TL_EINVALID,
                "token %lld is id %d, but the model's ids are 0 to %d; was the text encoded with its tokenizer?",
                (long long)i, (int)tokens[i], V - 1);
    return 0;
}

/* Everything that could be wrong with a call, before anything is computed. */
static int check(const tl_session *s, const int32_t *tokens, int n, tl_error *err) {
    if (n < 0 || n > s->capacity - s->length)
        return tl__fail(
            err, TL_EINVALID,
            "%d more tokens do not fit: the session holds %d of at most %d; open it with more capacity or send less", n,
            s->length, s->capacity);
    return check_ids(s, tokens, n, err);
}

/* The next n ≤ chunk tokens of the sequence: hidden rows are left in acts, keys and values in their blocks. */
static void step(tl_session *s, const int32_t *tokens, int n) {
    s->seq_row[0] = 0, s->seq_row[1] = n;
    for (int i = 0; i < n; i++) {
        s->token[i] = tokens[i];
        s->pos[i] = s->length + i;
    }
    tl_rows rows = {.R = n,
                    .S = 1,
                    .token = s->token,
                    .pos = s->pos,
                    .seq_row = s->seq_row,
                    .seq_block = s->seq_row, /* [0] = 0 */
                    .block = s->block};
    tl__model_forward(s->ctx, s->model, &s->acts, &rows);
    s->length += n;
    assert(s->length <= s->capacity);
}

/* Of a row of the last step; a device writes to the session's memory alone. */
static void give_logits(tl_session *s, float *logits, int row) {
    const tl_arch *a = &s->model->arch;
    float *to = s->ctx->device ? s->acts.logits : logits;
    tl__model_logits(s->ctx, s->model, to, s->acts.hidden + (int64_t)row * a->C, 1);
    if (to != logits) memcpy(logits, to, (size_t)a->V * sizeof *logits);
}

int tl__session_append(tl_session *s, const int32_t *tokens, int n, float *logits, tl_error *err) {
    int status = check(s, tokens, n, err);
    if (status) return status;
    for (int done = 0, rows; done < n; done += rows) {
        rows = n - done < s->chunk ? n - done : s->chunk;
        step(s, tokens + done, rows);
        if (logits && done + rows == n) give_logits(s, logits, rows - 1);
    }
    return 0;
}

int tl__session_score(tl_session *s, const int32_t *tokens, int n, int32_t next, float *logp, tl_error *err) {
    int status = check(s, tokens, n, err);
    if (status) return status;
    if (next >= s->model->arch.V)
        return tl__fail(err, TL_EINVALID, "the token to score is id %d, but the model's ids are 0 to %d", (int)next,
                        s->model->arch.V - 1);
    int wanted = next >= 0 ? n : n - 1; /* the last row has no target unless `next` is one */
    for (int done = 0, rows; done < n; done += rows) {
        rows = n - done < s->chunk ? n - done : s->chunk;
        step(s, tokens + done, rows);
        for (int i = 0; i < rows; i++) s->target[i] = done + i + 1 < n ? tokens[done + i + 1] : next >= 0 ? next : -1;
        tl__model_loss(s->ctx, s->model, &s->acts, s->target, rows, s->logp, NULL, 0.0f);
        int given = wanted - done < rows ? wanted - done : rows;
        if (given > 0) memcpy(logp + done, s->logp, (size_t)given * sizeof *logp);
    }
    return 0;
}

int tl__session_score_whole(tl_session *s, const int32_t *tokens, int64_t n, float *logp, int64_t *windows,
                            tl_error *err) {
    int W = s->capacity;
    if (n < 2)
        return tl__fail(err, TL_EINVALID,
                        "%lld token%s cannot be scored: the first has nothing before it, so at least two are needed",
                        (long long)n, n == 1 ? "" : "s");
    if (W < 2) return tl__fail(err, TL_EINVALID, "a session of one token cannot score; open it with more capacity");
    int status = check_ids(s, tokens, n, err);
    if (windows) *windows = 0;
    int64_t start = 0, scored = 1; /* tokens [1, scored) have their log-probability */
    while (!status && scored < n) {
        int64_t end = n - start < W ? n : start + W, known = scored - 1 - start;
        s->length = 0;
        status = tl__session_append(s, tokens + start, (int)known, NULL, err);
        if (!status)
            status = tl__session_score(s, tokens + scored - 1, (int)(end - scored + 1), -1, logp + scored - 1, err);
        scored = end;
        start = scored - W / 2;
        if (windows) ++*windows;
    }
    return status;
}
