/* muon.c — Muon's update of one matrix, made of the table's operators: momentum, Newton–Schulz, a decayed step.
 *
 * Products are the f32 contract's, so no thread or batch changes a bit. The polynomial is that of K. Jordan et al.
 * 2024, "Muon: an optimizer for hidden layers in neural networks"; the rate's factor that of Liu et al. 2025, "Muon is
 * scalable for LLM training", eq. 4. */
#include <math.h>

#include "kernels/ops.h"

enum { PANEL = 256, TILE = 16 };
static const double A = 3.4445, B = -4.7750, C = 2.0315, LEAST_NORM = 1e-7;

typedef struct mirror_job {
    float *c;
    int64_t side;
} mirror_job;

/* Rows of a panel, right of its diagonal block, from below the diagonal. By tiles: lines are used whole. */
static void mirror_panel(void *user, int64_t panel, int worker) {
    const mirror_job *job = user;
    const int64_t n = job->side, first = panel * PANEL, end = first + PANEL;
    (void)worker;
    for (int64_t i0 = first; i0 < end; i0 += TILE)
        for (int64_t j0 = end; j0 < n; j0 += TILE)
            for (int64_t i = i0; i < i0 + TILE; i++)
                for (int64_t j = j0; j < j0 + TILE && j < n; j++) job->c[i * n + j] = job->c[j * n + i];
}

static void product(tl_ctx *ctx, tl_cost *cost, float *c, int64_t ldc, int M, int N, int K, const float *a,
                    int64_t a_row, int64_t a_col, const float *b, int64_t b_row, int64_t b_col) {
    ctx->ops->gemm(ctx, c, ldc, M, N, K, a, a_row, a_col, b, b_row, b_col, NULL, false);
    const tl_cost one = tl__op_cost(TL_OP_GEMM, M, N, K);
    cost->flops += one.flops, cost->bytes += one.bytes;
}

/* c[n,n] = x·xᵀ, x(i,k) = x[i·row + k·col]. Only blocks on and below the diagonal are computed: a product of two
 * numbers does not see their order, so the others are the same bits. */
static void gram(tl_ctx *ctx, tl_cost *cost, float *c, int n, int K, const float *x, int64_t row, int64_t col) {
    for (int i = 0; i < n; i += PANEL) {
        const int rows = n - i < PANEL ? n - i : PANEL;
        if (c) product(ctx, cost, c + (int64_t)i * n, n, rows, i + rows, K, x + i * row, row, col, x, col, row);
        else product(ctx, cost, NULL, n, rows, i + rows, K, NULL, row, col, NULL, col, row); /* the planner counts */
    }
    mirror_job job = {c, n};
    if (c && n > PANEL) tl__parallel_for(ctx->pool, (n - 1) / PANEL, mirror_panel, &job);
}

static void blend(tl_ctx *ctx, tl_cost *cost, float *y, int64_t ldy, double t, const float *x, int64_t ldx, double s,
                  int64_t rows, int64_t cols) {
    ctx->ops->blend(ctx, y, ldy, (float)t, x, ldx, (float)s, rows, cols);
    const tl_cost one = tl__op_cost(TL_OP_BLEND, rows * cols, 0, 0);
    cost->flops += one.flops, cost->bytes += one.bytes;
}

void tl__muon(tl_ctx *ctx, float *w, float *m, const float *g, int rows, int cols, int64_t ld,
              const tl_muon_scratch *scratch, const tl_muon *h) {
    const bool wide = rows <= cols;
    const int side = wide ? rows : cols, other = wide ? cols : rows;
    const double fresh = (1.0 - h->momentum) * h->grad_scale;
    float *x = scratch->update, *next = scratch->next, *square = scratch->square;
    tl_cost cost = {0, 0};
    tl__span_begin(ctx->spans, "muon", TL_BUCKET_OPTIMIZER);

    blend(ctx, &cost, m, ld, h->momentum, g, ld, fresh, rows, cols);
    blend(ctx, &cost, x, cols, 0, m, ld, h->momentum, rows, cols);
    blend(ctx, &cost, x, cols, 1, g, ld, fresh, rows, cols);
    const double norm = sqrt(ctx->ops->sum_squares(ctx, x, (int64_t)rows * cols));
    blend(ctx, &cost, x, cols, 0, x, cols, 1.0 / fmax(norm, LEAST_NORM), rows, cols);

    for (int step = 0; step < TL_MUON_STEPS; step++) {
        /* square = a·I + b·A + c·A²: what is symmetric needs no side. */
        gram(ctx, &cost, scratch->gram, side, other, x, wide ? cols : 1, wide ? 1 : cols);
        gram(ctx, &cost, square, side, side, scratch->gram, side, 1);
        blend(ctx, &cost, square, side, C, scratch->gram, side, B, side, side);
        for (int64_t i = 0; square && i < side; i++) square[i * side + i] += (float)A;
        if (wide) product(ctx, &cost, next, cols, rows, cols, side, square, side, 1, x, cols, 1);
        else product(ctx, &cost, next, cols, rows, cols, side, x, cols, 1, square, side, 1);
        float *swap = x;
        x = next, next = swap;
    }
    const double rate = 0.2 * h->lr * sqrt((double)other);
    blend(ctx, &cost, w, ld, 1.0 - (double)h->lr * h->weight_decay, x, cols, -rate, rows, cols);
    tl__span_end(ctx->spans, cost.flops, cost.bytes, rows, cols, TL_MUON_STEPS);
}
