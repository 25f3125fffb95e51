/* cpu/embed.c — token and position embeddings, and rotary positions: ref/embed.c to the bit. */
#include "kernels/cpu/cut.h"
#include "kernels/simd.h"

/* A task of embed_backward: the destinations of one class (row of dE modulo CLASSES) in one strip of columns. Rows that
 * meet in a destination meet in a task, which adds them in order. */
#define CLASSES 16
#define STRIP 512

typedef struct embed_job {
    float *x;
    const float *E, *P;
    const int32_t *token, *pos;
    float scale;
    int64_t R, C, rows;
} embed_job;

/* out = fma(a, scale, b), or a·scale where b is NULL. */
TL_INLINE void row_scale(float *out, const float *a, float scale, const float *b, int64_t n) {
    const v16 by = v16_set1(scale);
    int64_t c = 0;
    for (; c + 16 <= n; c += 16) {
        v16 s = v16_load(a + c);
        v16_store(out + c, b ? v16_fma(s, by, v16_load(b + c)) : v16_mul(s, by));
    }
    if (c < n) {
        const int rest = (int)(n - c);
        v16 s = v16_load_n(a + c, rest);
        v16_store_n(out + c, b ? v16_fma(s, by, v16_load_n(b + c, rest)) : v16_mul(s, by), rest);
    }
}

static void embed_rows(void *user, int64_t i, int worker) {
    const embed_job *a = user;
    for (int64_t r = i * a->rows; r < tl_least((i + 1) * a->rows, a->R); r++) {
        const float *e = a->E + a->token[r] * a->C;
        if (a->P) row_scale(a->x + r * a->C, e, a->scale, a->P + a->pos[r] * a->C, a->C);
        else row_scale(a->x + r * a->C, e, a->scale, NULL, a->C);
    }
}

static void embed(tl_ctx *ctx, float *x, const float *E, const float *P, const int32_t *token, const int32_t *pos,
                  float scale, int R, int C) {
    embed_job job = {x, E, P, token, pos, scale, R, C, tl_piece_rows(C)};
    tl__parallel_for(ctx->pool, tl_pieces(R, job.rows), embed_rows, &job);
}

typedef struct embed_backward_job {
    float *dE;
    const int32_t *slot, *id;
    const float *dx;
    float scale;
    int64_t R, C;
} embed_backward_job;

static int64_t destination(const embed_backward_job *a, int64_t r) {
    return a->slot ? a->slot[a->id[r]] : a->id[r];
}
/* The first row from r on that goes to the class; R if none. */
static int64_t next_of_class(const embed_backward_job *a, int64_t r, int64_t class) {
    while (r < a->R && destination(a, r) % CLASSES != class) r++;
    return r;
}

static void embed_backward_class(void *user, int64_t i, int worker) {
    const embed_backward_job *a = user;
    const int64_t class = i % CLASSES, c0 = i / CLASSES * STRIP, n = tl_least(STRIP, a->C - c0);
    for (int64_t r = next_of_class(a, 0, class), next; r < a->R; r = next) {
        next = next_of_class(a, r + 1, class);
        if (next < a->R) /* scattered rows: nothing else foresees them */
            for (int64_t c = 0; c < n; c += 16) {
                tl_prefetch(a->dE + destination(a, next) * a->C + c0 + c);
                tl_prefetch(a->dx + next * a->C + c0 + c);
            }
        float *d = a->dE + destination(a, r) * a->C + c0;
        row_scale(d, a->dx + r * a->C + c0, a->scale, d, n);
    }
}

static void embed_backward(tl_ctx *ctx, float *dE, const int32_t *slot, const int32_t *id, const float *dx, float scale,
                           int R, int C) {
    embed_backward_job job = {dE, slot, id, dx, scale, R, C};
    tl__parallel_for(ctx->pool, CLASSES * tl_pieces(C, STRIP), embed_backward_class, &job);
}

typedef struct rope_job {
    float *x;
    int64_t ld, R, rows;
    const float *cos_sin;
    const int32_t *pos;
    int direction, heads, D;
} rope_job;

static void rope_rows(void *user, int64_t i, int worker) {
    const rope_job *a = user;
    const int half = a->D / 2, tail = half % 16, whole = half - tail;
    const v16 sign = a->direction < 0 ? v16_neg(v16_zero()) : v16_zero();
    for (int64_t r = i * a->rows; r < tl_least((i + 1) * a->rows, a->R); r++) {
        const float *cosine = a->cos_sin + (int64_t)a->pos[r] * a->D, *sine = cosine + half;
        for (int h = 0; h < a->heads; h++) {
            float *x = a->x + r * a->ld + (int64_t)h * a->D, *y = x + half;
            for (int k = 0; k < whole; k += 16) {
                v16 p = v16_load(x + k), q = v16_load(y + k);
                v16 c = v16_load(cosine + k), s = v16_xor(v16_load(sine + k), sign);
                v16_store(x + k, v16_fms(p, c, v16_mul(q, s)));
                v16_store(y + k, v16_fma(q, c, v16_mul(p, s)));
            }
            if (tail) {
                v16 p = v16_load_n(x + whole, tail), q = v16_load_n(y + whole, tail);
                v16 c = v16_load_n(cosine + whole, tail), s = v16_xor(v16_load_n(sine + whole, tail), sign);
                v16_store_n(x + whole, v16_fms(p, c, v16_mul(q, s)), tail);
                v16_store_n(y + whole, v16_fma(q, c, v16_mul(p, s)), tail);
            }
        }
    }
}

static void rope(tl_ctx *ctx, float *x, int64_t ld, const float *cos_sin, const int32_t *pos, int direction, int R,
                 int heads, int D) {
    rope_job job = {x, ld, R, tl_piece_rows((int64_t)heads * D), cos_sin, pos, direction, heads, D};
    tl__parallel_for(ctx->pool, tl_pieces(R, job.rows), rope_rows, &job);
}

void TL_NAME(ops_embed)(tl_ops *ops) {
    ops->embed = embed;
    ops->embed_backward = embed_backward;
    ops->rope = rope;
}
