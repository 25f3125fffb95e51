/* embed.cu — token and position embeddings and their gradient: ref/embed.c to the bit.
 *
 * The gradient is a sum for each row of the table, one by one in row order, and nothing is known of which rows meet. So
 * rows are sorted by (where they go, row), a chunk in a block's memory, and the first of each run in a chunk's list adds
 * its run: the rows are then known, and read ahead. Chunks follow one another; their sums go on where the last ended. */
#include "kernels/cuda/rows.h"

__global__ void embed_rows(float *x, const float *E, const float *P, const int32_t *token, const int32_t *pos, float scale, int R, int C) {
    TL_SWEEP_ROWS(r, R) {
        const float *e = E + (int64_t)token[r] * C, *p = P ? P + (int64_t)pos[r] * C : NULL;
        float *to = x + r * C;
        const int64_t fours = tl__fours(C, to, e, p);
        TL_SWEEP(i, 0, fours) {
            const float4 a = tl__four(e, i);
            float4 b;
            if (p) {
                b = tl__four(p, i);
                b = make_float4(fmaf(a.x, scale, b.x), fmaf(a.y, scale, b.y), fmaf(a.z, scale, b.z), fmaf(a.w, scale, b.w));
            } else {
                b = make_float4(a.x * scale, a.y * scale, a.z * scale, a.w * scale);
            }
            tl__put_four(to, i, b);
        }
        TL_SWEEP(i, 4 * fours, C) to[i] = p ? fmaf(e[i], scale, p[i]) : e[i] * scale;
    }
}
static void cuda_embed(tl_ctx *ctx, float *x, const float *E, const float *P, const int32_t *token, const int32_t *pos, float scale, int R, int C) {
    if (R <= 0 || C <= 0) return;
    TL_LAUNCH(embed_rows, tl__sweep_grid(R, C), TL_ROW_THREADS, 0, x, E, P, token, pos, scale, R, C);
    tl__cuda_wait("embed");
}

/* ---- backward ---- */

enum {
    CHUNK = TL_PIECE(4096, 512),        /* rows that a block sorts: 32 KiB */
    SORTERS = CHUNK / 4,                /* its threads */
    MOST_ROWS = TL_PIECE(1 << 16, 1024) /* in the list, a multiple of CHUNK */
};

/* destination·2³² + row, each chunk in ascending order */
static __device__ uint64_t sorted[MOST_ROWS];
static std::mutex sorted_taken;

/* Rows row0 … row0 + count − 1, CHUNK of them a block, by a bitonic sort (Batcher 1968) of the next power of two, filled up with numbers
 * that come last. */
__global__ void sort_rows(const int32_t *slot, const int32_t *id, int64_t row0, int count) {
    TL_BLOCK_MEMORY(uint64_t, key);
    const int first = (int)blockIdx.x * CHUNK, n = count - first < CHUNK ? count - first : CHUNK;
    int size = 1;
    while (size < n) size *= 2;
    for (int i = (int)threadIdx.x; i < size; i += (int)blockDim.x) {
        const int64_t r = row0 + first + i;
        key[i] = ~(uint64_t)0;
        if (i < n) key[i] = (uint64_t)(uint32_t)(slot ? slot[id[r]] : id[r]) << 32 | (uint32_t)r;
    }
    for (int run = 2; run <= size; run *= 2)
        for (int apart = run / 2; apart; apart /= 2) {
            __syncthreads();
            for (int i = (int)threadIdx.x; i < size / 2; i += (int)blockDim.x) {
                const int low = 2 * i - (i & (apart - 1)), high = low + apart;
                const uint64_t a = key[low], b = key[high];
                if ((a > b) == ((low & run) == 0)) key[low] = b, key[high] = a; /* every other run descends */
            }
        }
    __syncthreads();
    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x) sorted[first + i] = key[i];
}

static __device__ inline uint32_t goes_to(uint64_t entry) {
    return (uint32_t)(entry >> 32);
}

/* Of a chunk's list: thread (x, y) of a block has entry blockIdx.x·8 + y, if a run begins there, and the columns x, x + 32, x + 64, x + 96
 * of a strip of 128. */
__global__ void add_runs(float *dE, const float *dx, float scale, int first, int n, int C) {
    enum { WIDE = 4, ROWS_AHEAD = 4 };
    const uint64_t *list = sorted + first;
    const int begin = (int)(blockIdx.x * blockDim.y + threadIdx.y), c = (int)(blockIdx.y * WIDE * 32 + threadIdx.x);
    if (begin >= n) return;
    const uint32_t to = goes_to(list[begin]);
    if (begin && goes_to(list[begin - 1]) == to) return;
    float *at = dE + (int64_t)to * C + c, sum[WIDE];
    for (int j = 0; j < WIDE; j++) sum[j] = c + 32 * j < C ? at[32 * j] : 0.0f;
    for (int i = begin; i < n && goes_to(list[i]) == to; i += ROWS_AHEAD) {
        float v[ROWS_AHEAD][WIDE];
        bool is[ROWS_AHEAD];
        for (int k = 0; k < ROWS_AHEAD; k++) {
            is[k] = i + k < n && goes_to(list[i + k]) == to;
            const float *from = dx + (is[k] ? (int64_t)(uint32_t)list[i + k] * C : 0) + c;
            for (int j = 0; j < WIDE; j++) v[k][j] = is[k] && c + 32 * j < C ? from[32 * j] : 0.0f;
        }
        for (int k = 0; k < ROWS_AHEAD; k++)
            for (int j = 0; j < WIDE; j++)
                if (is[k]) sum[j] = fmaf(v[k][j], scale, sum[j]);
    }
    for (int j = 0; j < WIDE; j++)
        if (c + 32 * j < C) at[32 * j] = sum[j];
}

static void cuda_embed_backward(tl_ctx *ctx, float *dE, const int32_t *slot, const int32_t *id, const float *dx, float scale, int R, int C) {
    if (R <= 0 || C <= 0) return;
    const tl_alone alone(sorted_taken);
    for (int row0 = 0; row0 < R; row0 += MOST_ROWS) {
        const int count = R - row0 < MOST_ROWS ? R - row0 : MOST_ROWS;
        const int threads = count < 64 ? 32 : count < 2 * SORTERS ? (count + 63) / 64 * 32 : SORTERS;
        TL_LAUNCH(sort_rows, tl__blocks(count, CHUNK), threads, sizeof(uint64_t) * CHUNK, slot, id, row0, count);
        for (int first = 0; first < count; first += CHUNK) {
            const int n = count - first < CHUNK ? count - first : CHUNK;
            TL_LAUNCH(add_runs, dim3(tl__blocks(n, 8), tl__blocks(C, 128)), dim3(32, 8), 0, dE, dx, scale, first, n, C);
        }
    }
    tl__cuda_wait("embed_backward");
}

void tl__cuda_embed(tl_ops *ops) {
    ops->embed = cuda_embed;
    ops->embed_backward = cuda_embed_backward;
}
