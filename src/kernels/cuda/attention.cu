/* attention.cu — storing keys and values, and causal attention over them, in the order of ops.h.
 *
 * Sequences with more than FEW rows go through tiles: a block has 64 items, each a row and a head of a group, so that
 * heads that share keys share their loads, and takes the chunks of keys one after the other: scores, softmax, weighted
 * values, merge. A thread keeps the merged sums of its four items in registers; what 16 threads exchange about a row
 * stays within half a warp. Bound by multiply-adds: 16 floats are read from the block's memory for 16 × 4 … of them.
 * The block's memory: queries 64 × D rounded up to 64, 128 or 256, weights 64 × 64, two stages of 32 × 64: 48, 64 or 96
 * KiB.
 *
 * Sequences with few rows, as in decoding, wait for memory: a warp has a chunk of keys and up to eight heads of one
 * row, so that keys and values are read once for a group. Where rows are too few to fill the device, blocks compute a
 * row's chunks apart into scratch, and one merges them in order; beyond what the scratch holds, and where rows are
 * many, that one computes the chunks too. How many chunks there are is only known on the device: what is launched
 * depends on R, S and the form alone. */
#include "kernels/cuda/attention_tiles.h"

enum {
    FEW = 8,            /* rows of a sequence that are taken one by one */
    WARPS = 4,          /* of a block that does so */
    FOLD = 32,          /* chunks that are merged at a time */
#ifdef TL_CUDA_EMULATED /* so that small shapes go beyond both */
    BLOCKS = 8,
    SCRATCH = 32 << 10,
#else
    BLOCKS = 1024, /* wanted, for a device to be full */
    SCRATCH = 64 << 20,
#endif
};

/* ---- storing ---- */

static __device__ inline void put(tl_type type, unsigned char *part, int i, float x) {
    if (type == TL_F32) ((float *)part)[i] = x;
    else ((uint16_t *)part)[i] = type == TL_F16 ? tl__f16_from_f32(x) : tl__bf16_from_f32(x);
}

/* A group of 32 components of a row by a warp: component d0 + lane goes to part[i]. */
static __device__ inline void put_group(unsigned char *part, int i, const float *x, int d0, int key, int D) {
    const int d = d0 + (int)threadIdx.x % 32;
    const float y = d < D ? x[d] : 0;
    unsigned most =
        __float_as_uint(fabsf(y)); /* magnitudes are in the order of their bits, what is no number above them all */
    for (int half = 16; half; half /= 2) most = max(most, __shfl_xor_sync(0xffffffffu, most, half));
    const bool finite = most < 0x7f800000;
    const float scale = __uint_as_float(most) / 127, inverse = scale != 0 ? 1 / scale : 0, q = roundf(y * inverse);
    if (d < D) ((int8_t *)part)[i] = finite && fabsf(q) <= 127 ? (int8_t)(int)q : 0;
    if (d == d0)
        ((uint16_t *)(part + TL_KV_BLOCK * D))[d0 / TL_KV_GROUP * TL_KV_BLOCK + key] =
            finite ? tl__f16_from_f32(scale) : 0x7e00;
}

/* A block has sixteen rows of one head. */
__global__ void __launch_bounds__(THREADS) kv_store_rows(tl_kv kv, int64_t part_bytes, const float *k, int64_t ldk,
                                                         const float *v, int64_t ldv, tl_rows rows, int Hkv, int D) {
    __shared__ int64_t part[TL_KV_BLOCK];
    __shared__ int key[TL_KV_BLOCK];
    const int t = (int)threadIdx.x, row0 = (int)blockIdx.x * TL_KV_BLOCK, kh = (int)blockIdx.y,
              n = min(TL_KV_BLOCK, rows.R - row0);
    unsigned char *to_k = (unsigned char *)kv.k, *to_v = (unsigned char *)kv.v;
    if (t < n) {
        const int p = rows.pos[row0 + t], s = sequence_at(rows, row0 + t, 1, 0);
        key[t] = p % TL_KV_BLOCK;
        part[t] = ((int64_t)rows.block[rows.seq_block[s] + p / TL_KV_BLOCK] * Hkv + kh) * part_bytes;
    }
    __syncthreads();
    k += row0 * ldk + (int64_t)kh * D, v += row0 * ldv + (int64_t)kh * D;
    if (kv.type == TL_Q8_0) {
        const int groups = (D + TL_KV_GROUP - 1) / TL_KV_GROUP;
        for (int i = t / 32; i < n * groups; i += THREADS / 32) {
            const int r = i / groups, d0 = i % groups * TL_KV_GROUP, d = d0 + t % 32;
            put_group(to_k + part[r], d * TL_KV_BLOCK + key[r], k + r * ldk, d0, key[r], D);
            put_group(to_v + part[r], key[r] * D + d, v + r * ldv, d0, key[r], D);
        }
        return;
    }
    for (int i = t; i < TL_KV_BLOCK * D; i += THREADS) { /* sixteen keys side by side, as they lie */
        const int r = i % TL_KV_BLOCK, d = i / TL_KV_BLOCK;
        if (r < n) put(kv.type, to_k + part[r], d * TL_KV_BLOCK + key[r], k[r * ldk + d]);
    }
    for (int i = t; i < n * D; i += THREADS) {
        const int r = i / D, d = i % D;
        put(kv.type, to_v + part[r], key[r] * D + d, v[r * ldv + d]);
    }
}

static void cuda_kv_store(tl_ctx *ctx, tl_kv kv, const float *k, int64_t ldk, const float *v, int64_t ldv,
                          const tl_rows *rows, int Hkv, int D) {
    if (rows->R == 0) return;
    TL_LAUNCH(kv_store_rows, dim3(tl__blocks(rows->R, TL_KV_BLOCK), (unsigned)Hkv), THREADS, 0, kv,
              part_bytes_of(kv.type, D), k, ldk, v, ldv, *rows, Hkv, D);
    tl__cuda_wait("kv_store");
}

/* ---- the softmax of a chunk ---- */

/* By sixteen threads, of which this is number x: scores at(key) of the keys begin … end−1 → weights in their place,
 * their maximum m and their sum l, which all of the sixteen get. All of a warp call it. */
template <class At>
static __device__ inline void softmax(At at, int x, int begin, int end, const attended &of, float *m, float *l) {
    float s[SIDE / TL_LANES], most = -INFINITY, sum = 0;
    UNROLL for (int k = 0; k < SIDE / TL_LANES; k++) {
        const int key = x + k * TL_LANES;
        s[k] = at(key) * of.form.scale;
        if (of.form.softcap != 0) s[k] = of.form.softcap * tl__tanh(s[k] * of.inverse_cap);
        if (key >= begin && key < end) most = most > s[k] ? most : s[k];
    }
    for (int half = TL_LANES / 2; half; half /= 2) { /* which of two is which matters where one is no number */
        const float other = __shfl_xor_sync(0xffffffffu, most, half);
        const float low = x & half ? other : most, high = x & half ? most : other;
        most = low > high ? low : high;
    }
    UNROLL for (int k = 0; k < SIDE / TL_LANES; k++) {
        const int key = x + k * TL_LANES;
        if (key < begin || key >= end) continue;
        s[k] = tl__exp(s[k] - most);
        sum += s[k];
        at(key) = s[k];
    }
    *m = most, *l = tl__tree_sum(sum);
}

/* ---- many rows of a sequence ---- */

template <int SLICES>
__global__ void __launch_bounds__(THREADS, SLICES < 4 ? 2 : 1)
    attention_tiles(float *out, int64_t ldo, bool out_quads, float *max_sum, const float *q, int64_t ldq, bool q_quads,
                    attended of) {
    enum { LDQ = SLICES * SLICE };
    const int D = of.form.D, G = of.form.H / of.form.Hkv, most_heads = min(G, (int)SIDE);
    const int kh = (int)blockIdx.y, window = of.form.window;
    run rows_of;
    if (!find_run(&rows_of, of.rows, (int)(gridDim.x - 1 - blockIdx.x), SIDE / most_heads) || rows_of.all <= FEW)
        return; /* long ones first */
    const int head0 = kh * G + (int)blockIdx.z * SIDE, heads = min(most_heads, G - (int)blockIdx.z * SIDE),
              items = rows_of.n * heads;
    const int pos0 = of.rows.pos[rows_of.row], last = pos0 + rows_of.n - 1, lowest = first_key(pos0, window);
    const keys from = keys_of(of, rows_of.s, kh);
    const int t = (int)threadIdx.x, y = t / 16, x = t % 16, mix = mixing(4 * y);

    TL_BLOCK_MEMORY(float, memory);
    float *const queries = memory, *const weights = queries + SIDE * LDQ, *const buffer = weights + SIDE * SIDE;
    for (int i = t; i < SIDE * LDQ / 4; i += THREADS) {
        const int item = i / (LDQ / 4), d = i % (LDQ / 4) * 4;
        const float *row = q + (rows_of.row + item / heads) * ldq + (int64_t)(head0 + item % heads) * D;
        *(float4 *)(queries + item * LDQ + (d ^ mixing(item))) =
            item < items ? four(row, d, D, q_quads, -0.0f) : make_float4(0, 0, 0, 0);
    }

    const int key_stages = (D + STEP - 1) / STEP, stages = key_stages + (D + SLICE - 1) / SLICE * (SIDE / STEP);
    int turn = 0;
    /* Stage i of the chunk from key `first` on into the buffer that is not in use. */
    auto fetch = [&](int i, int first) {
        float *const to = buffer + (turn ^ 1) * RIGHT;
        if (i == stages) i = 0, first += SIDE;
        if (first > last) return;
        const int begin = max(lowest - first, 0), end = min(last + 1 - first, (int)SIDE), j = i - key_stages;
        if (j < 0) stage_keys(to, of.kv.type, from, first, begin, end, i * STEP);
        else stage_values(to, of.kv.type, from, first, begin, end, j % 2 * STEP, j / 2 * SLICE);
    };
    /* The fetched buffer is in use, and the next is fetched. */
    auto advance = [&](int next, int first) {
        __syncthreads();
        turn ^= 1;
        fetch(next, first);
    };

    int pos[4]; /* of an item; where there is none, before every key */
    UNROLL for (int r = 0; r < 4; r++) pos[r] = 4 * y + r < items ? pos0 + (4 * y + r) / heads : -1;
    float M[4] = {0, 0, 0, 0}, L[4] = {0, 0, 0, 0}, O[SLICES][4][4];
    UNROLL for (int s = 0; s < SLICES; s++) clear(O[s]);
    fetch(0, lowest / SIDE * SIDE);
    for (int first = lowest / SIDE * SIDE; first <= last; first += SIDE) {
        float sum[4][4];
        clear(sum);
        for (int i = 0; i < key_stages; i++) {
            advance(i + 1, first);
            multiply_all(sum, queries + 4 * y * LDQ + i * STEP, LDQ, mix, buffer + turn * RIGHT + 4 * x);
        }
        UNROLL for (int r = 0; r < 4; r++)
            write_four(weights + (4 * y + r) * SIDE + (4 * x ^ mix), sum[r][0], sum[r][1], sum[r][2], sum[r][3]);
        __syncwarp();

        float alpha[4], beta[4];
        enum { NONE, FIRST, NEXT } how[4]; /* the chunk is the row's: not at all, its first, a later one */
        UNROLL for (int r = 0; r < 4; r++) {
            const int start = first_key(pos[r], window), begin = max(start - first, 0);
            const int end = min(pos[r] + 1 - first, (int)SIDE);
            float m, l, *const row = weights + (4 * y + r) * SIDE;
            softmax([&](int key) -> float & { return row[key ^ mix]; }, x, begin, end, of, &m, &l);
            how[r] = begin >= end ? NONE : first <= start ? FIRST : NEXT, alpha[r] = beta[r] = 0;
            if (how[r] == FIRST) M[r] = m, L[r] = l;
            if (how[r] == NEXT) {
                const float top = M[r] > m ? M[r] : m;
                alpha[r] = tl__exp(M[r] - top), beta[r] = tl__exp(m - top);
                M[r] = top, L[r] = fmaf(L[r], alpha[r], l * beta[r]);
            }
        }
        __syncwarp();

        const bool all_see_all = first_key(last, window) <= first && pos0 + 1 - first >= SIDE;
        for (int s = 0; s * SLICE < D; s++) {
            clear(sum);
            for (int half = 0; half < SIDE / STEP; half++) {
                advance(key_stages + 2 * s + half + 1, first);
                const float *const left = weights + 4 * y * SIDE + half * STEP;
                const float *const right = buffer + turn * RIGHT + 4 * x;
                if (all_see_all) multiply_all(sum, left, SIDE, mix, right);
                else {
                    const int key = first + half * STEP,
                              behind[4] = {pos[0] - key, pos[1] - key, pos[2] - key, pos[3] - key};
                    multiply<KEYS>(sum, left, SIDE, mix, right, behind, reach_of(window), STEP);
                }
            }
            UNROLL for (int to = 0; to < SLICES; to++) { /* registers are chosen by constants alone */
                if (to != s) continue;
                UNROLL for (int r = 0; r < 4; r++) UNROLL for (int c = 0; c < 4; c++) {
                    if (how[r] == FIRST) O[to][r][c] = sum[r][c];
                    if (how[r] == NEXT) O[to][r][c] = fmaf(O[to][r][c], alpha[r], sum[r][c] * beta[r]);
                }
            }
        }
    }

    UNROLL for (int r = 0; r < 4; r++) {
        const int item = 4 * y + r, h = head0 + item % heads;
        const int64_t row = rows_of.row + item / heads;
        if (item >= items) continue;
        const float inverse = 1 / L[r];
        UNROLL for (int s = 0; s < SLICES; s++) {
            UNROLL for (int c = 0; c < 4; c++) O[s][r][c] *= inverse;
            put_four(out + row * ldo + (int64_t)h * D, s * SLICE + 4 * x, D, out_quads, O[s][r]);
        }
        if (max_sum && x == 0) max_sum[(row * of.form.H + h) * 2] = M[r], max_sum[(row * of.form.H + h) * 2 + 1] = L[r];
    }
}

template <int SLICES>
static void launch_tiles(float *out, int64_t ldo, float *max_sum, const float *q, int64_t ldq, const attended &of) {
    const int G = of.form.H / of.form.Hkv, D = of.form.D;
    const size_t bytes = sizeof(float) * (SIDE * SLICES * SLICE + SIDE * SIDE + 2 * RIGHT);
    const dim3 grid(run_numbers(&of.rows, SIDE / (G < SIDE ? G : SIDE)), (unsigned)of.form.Hkv, tl__blocks(G, SIDE));
    allow_memory(attention_tiles<SLICES>, bytes);
    TL_LAUNCH(attention_tiles<SLICES>, grid, THREADS, bytes, out, ldo, in_quads(out, ldo, D), max_sum, q, ldq,
              in_quads(q, ldq, D), of);
}

/* ---- few rows of a sequence ---- */

/* What the chunks of a row, and up to HEADS of its heads that share keys, leave: of each chunk [HEADS][D + 2], a head's
 * sums, then l, then m. */
static __device__ inline int part_floats(int heads, int D) {
    return heads * (D + 2);
}

/* A row among few: of sequence s the i-th, and its place in the scratch. */
struct few_row {
    int s, row, place, start, pos;
};
static __device__ inline bool find_few(few_row *f, const tl_rows &rows, int number, int few, int window) {
    f->s = number / few;
    const int begin = rows.seq_row[f->s], all = rows.seq_row[f->s + 1] - begin;
    f->row = begin + number % few, f->place = rows.R <= rows.S * few ? f->row : number;
    if (number % few >= all || all > FEW) return false;
    f->pos = rows.pos[f->row], f->start = first_key(f->pos, window);
    return true;
}

template <int HEADS> static __device__ inline void take_heads(float (&x)[HEADS], const float *from) {
    if constexpr (HEADS % 4 == 0) UNROLL for (int h = 0; h < HEADS; h += 4) {
            const float4 y = *(const float4 *)(from + h);
            x[h] = y.x, x[h + 1] = y.y, x[h + 2] = y.z, x[h + 3] = y.w;
        }
    else if constexpr (HEADS == 2) {
        const float2 y = *(const float2 *)from;
        x[0] = y.x, x[1] = y.y;
    } else x[0] = *from;
}

/* A block's memory for it, in floats: the row's queries [D][HEADS], each warp's weights [64][HEADS], each warp's
 * chunk's sums. */
static int few_floats(int heads, int D) {
    return heads * D + WARPS * heads * SIDE + WARPS * heads * (D + 2);
}

template <int HEADS> static __device__ inline void take_queries(float *queries, const float *q, int heads, int D) {
    for (int i = (int)threadIdx.x; i < HEADS * D; i += WARPS * 32) {
        const int h = i / D, d = i % D;
        queries[d * HEADS + h] = h < heads ? q[i] : 0;
    }
    __syncthreads();
}

/* One warp: what the chunk from key `first` on leaves, of which the row sees the keys begin … end−1. */
template <tl_type TYPE, int HEADS>
static __device__ inline void attend_chunk(float *sums, float *weights, const float *queries, const keys &from,
                                           int first, int begin, int end, const attended &of) {
    const int lane = (int)threadIdx.x % 32, D = from.D;
    const unsigned char *part[2];
    int key[2]; /* lane and lane + 32; of one that is not seen the nearest that is, for nothing */
    float s[2][HEADS] = {};
    UNROLL for (int b = 0; b < 2; b++) {
        const int seen = min(max(lane + 32 * b, begin), end - 1);
        part[b] = part_at(from, from.kv.k, first + seen), key[b] = seen % TL_KV_BLOCK;
    }
    for (int d0 = 0; d0 < D; d0 += TL_KV_GROUP) {
        const float scale[2] = {TYPE == TL_Q8_0 ? scale_at(part[0], d0, key[0], D) : 1,
                                TYPE == TL_Q8_0 ? scale_at(part[1], d0, key[1], D) : 1};
        const int stop = min(D, d0 + TL_KV_GROUP);
        UNROLL_8 for (int d = d0; d < stop; d++) {
            float x[HEADS];
            take_heads(x, queries + d * HEADS);
            UNROLL for (int b = 0; b < 2; b++) {
                float y = number(TYPE, part[b], d * TL_KV_BLOCK + key[b]);
                if (TYPE == TL_Q8_0) y *= scale[b];
                UNROLL for (int h = 0; h < HEADS; h++) s[b][h] = fmaf(x[h], y, s[b][h]);
            }
        }
    }
    UNROLL for (int b = 0; b < 2; b++) UNROLL for (int h = 0; h < HEADS; h++) weights[(lane + 32 * b) * HEADS + h] =
        s[b][h];
    __syncwarp();
    for (int h0 = 0; h0 < HEADS; h0 += 2) { /* half a warp a head; of one head both do the same */
        const int h = min(h0 + lane / 16, HEADS - 1);
        float m, l;
        softmax([&](int j) -> float & { return weights[j * HEADS + h]; }, lane % 16, begin, end, of, &m, &l);
        if (lane % 16 == 0) sums[h * (D + 2) + D] = l, sums[h * (D + 2) + D + 1] = m;
    }
    __syncwarp();
    for (int c0 = 0; c0 < D; c0 += SLICE) { /* columns c0 + lane and 32 further */
        float o[2][HEADS] = {};
        for (int b0 = begin / TL_KV_BLOCK * TL_KV_BLOCK; b0 < end; b0 += TL_KV_BLOCK) {
            const unsigned char *const value = part_at(from, from.kv.v, first + b0);
            const int stop = min(end - b0, (int)TL_KV_BLOCK);
            UNROLL_8 for (int j = max(begin - b0, 0); j < stop; j++) {
                float x[HEADS];
                take_heads(x, weights + (b0 + j) * HEADS);
                UNROLL for (int b = 0; b < 2; b++) {
                    const int c = c0 + 32 * b + lane;
                    float y = c < D ? number(TYPE, value, j * D + c) : 0;
                    if (TYPE == TL_Q8_0 && c < D) y *= scale_at(value, c, j, D);
                    UNROLL for (int h = 0; h < HEADS; h++) o[b][h] = fmaf(x[h], y, o[b][h]);
                }
            }
        }
        UNROLL for (int b = 0; b < 2; b++) UNROLL for (int h = 0; h < HEADS; h++) if (c0 + 32 * b + lane < D)
            sums[h * (D + 2) + c0 + 32 * b + lane] = o[b][h];
    }
    __syncwarp(); /* the weights are used again */
}

/* Chunks of a row into the scratch, as many as it has places for, by the blocks along z. */
template <tl_type TYPE, int HEADS>
__global__ void __launch_bounds__(WARPS * 32)
    attention_apart(float *scratch, int places, const float *q, int64_t ldq, attended of, int few) {
    few_row row;
    if (!find_few(&row, of.rows, (int)blockIdx.x, few, of.form.window)) return;
    const int D = of.form.D, G = of.form.H / of.form.Hkv, parts = (G + HEADS - 1) / HEADS;
    const int kh = (int)blockIdx.y / parts, h0 = (int)blockIdx.y % parts * HEADS;
    const keys from = keys_of(of, row.s, kh);
    const int warp = (int)threadIdx.x / 32, chunk0 = row.start / SIDE,
              chunks = min(row.pos / SIDE - chunk0 + 1, places);
    TL_BLOCK_MEMORY(float, memory);
    float *const queries = memory, *const weights = queries + HEADS * D + warp * HEADS * SIDE;
    take_queries<HEADS>(queries, q + row.row * ldq + (int64_t)(kh * G + h0) * D, min(G - h0, HEADS), D);
    scratch += ((int64_t)row.place * gridDim.y + blockIdx.y) * places * part_floats(HEADS, D);
    for (int c = (int)(blockIdx.z + gridDim.z * warp); c < chunks; c += (int)gridDim.z * WARPS) {
        const int first = (chunk0 + c) * SIDE;
        attend_chunk<TYPE, HEADS>(scratch + (int64_t)c * part_floats(HEADS, D), weights, queries, from, first,
                                  max(row.start - first, 0), min(row.pos + 1 - first, (int)SIDE), of);
    }
}

/* Elements t, t + 128, … of [HEADS][D + 2], what a row's chunks have been merged to; the maxima are kept apart. */
template <int HEADS> struct merged {
    enum {
        MOST = HEADS <= 4 ? HEADS * (TL_MAX_HEAD_DIM + 2) : 1024 + HEADS * 2,
        EACH = (MOST + WARPS * 32 - 1) / (WARPS * 32)
    };
    float sum[EACH];
    bool any;
};

/* Merges the next n chunks, of which sums[n][HEADS][D + 2] is left, in their order. */
template <int HEADS> static __device__ inline void fold(merged<HEADS> &to, float *M, const float *sums, int n, int D) {
    __shared__ float alpha[FOLD * HEADS], beta[FOLD * HEADS], top[HEADS];
    const int t = (int)threadIdx.x, size = part_floats(HEADS, D);
    for (int i = t; i < n * HEADS; i += WARPS * 32) {
        const int c = i / HEADS, h = i % HEADS;
        float before = M[h], m = 0, after = before;
        for (int j = 0; j <= c; j++) {
            m = sums[j * size + h * (D + 2) + D + 1];
            before = after, after = !to.any && j == 0 ? m : before > m ? before : m;
        }
        alpha[i] = tl__exp(before - after), beta[i] = tl__exp(m - after);
        if (c == n - 1) top[h] = after;
    }
    __syncthreads();
    if (t < HEADS) M[t] = top[t];
    UNROLL for (int e = 0; e < merged<HEADS>::EACH; e++) {
        const int i = t + e * WARPS * 32, h = i / (D + 2);
        if (i >= size) continue;
        for (int c = 0; c < n; c++) {
            const float x = sums[c * size + i];
            to.sum[e] = !to.any && c == 0 ? x : fmaf(to.sum[e], alpha[c * HEADS + h], x * beta[c * HEADS + h]);
        }
    }
    to.any = true;
    __syncthreads();
}

/* A row's chunks merged: the first from the scratch, the others computed here, a warp each. */
template <tl_type TYPE, int HEADS>
__global__ void __launch_bounds__(WARPS * 32)
    attention_few(float *out, int64_t ldo, float *max_sum, const float *scratch, int places, const float *q,
                  int64_t ldq, attended of, int few) {
    few_row row;
    if (!find_few(&row, of.rows, (int)blockIdx.x, few, of.form.window)) return;
    const int D = of.form.D, G = of.form.H / of.form.Hkv, parts = (G + HEADS - 1) / HEADS;
    const int kh = (int)blockIdx.y / parts, h0 = (int)blockIdx.y % parts * HEADS;
    const int heads = min(G - h0, HEADS), size = part_floats(HEADS, D), t = (int)threadIdx.x, warp = t / 32;
    const int chunk0 = row.start / SIDE, chunks = row.pos / SIDE - chunk0 + 1;
    const keys from = keys_of(of, row.s, kh);
    __shared__ float M[HEADS], inverse[HEADS];
    TL_BLOCK_MEMORY(float, memory);
    float *const queries = memory, *const weights = queries + HEADS * D, *const sums = weights + WARPS * HEADS * SIDE;
    merged<HEADS> all = {};
    take_queries<HEADS>(queries, q + row.row * ldq + (int64_t)(kh * G + h0) * D, heads, D);
    scratch += ((int64_t)row.place * gridDim.y + blockIdx.y) * places * size;
    for (int c = 0, n; c < chunks; c += n) {
        if (c < places) {
            n = min(min(chunks, places) - c, (int)FOLD);
            fold<HEADS>(all, M, scratch + (int64_t)c * size, n, D);
            continue;
        }
        n = min(chunks - c, (int)WARPS);
        const int first = (chunk0 + c + warp) * SIDE;
        if (warp < n)
            attend_chunk<TYPE, HEADS>(sums + warp * size, weights + warp * HEADS * SIDE, queries, from, first,
                                      max(row.start - first, 0), min(row.pos + 1 - first, (int)SIDE), of);
        __syncthreads();
        fold<HEADS>(all, M, sums, n, D);
    }
    UNROLL for (int e = 0; e < merged<HEADS>::EACH; e++) {
        const int i = t + e * WARPS * 32, h = i / (D + 2);
        if (i >= heads * (D + 2) || i % (D + 2) != D) continue;
        inverse[h] = 1 / all.sum[e];
        float *const to = max_sum ? max_sum + ((int64_t)row.row * of.form.H + kh * G + h0 + h) * 2 : NULL;
        if (to) to[0] = M[h], to[1] = all.sum[e];
    }
    __syncthreads();
    UNROLL for (int e = 0; e < merged<HEADS>::EACH; e++) {
        const int i = t + e * WARPS * 32, h = i / (D + 2), d = i % (D + 2);
        if (i < heads * (D + 2) && d < D)
            out[row.row * ldo + (int64_t)(kh * G + h0 + h) * D + d] = all.sum[e] * inverse[h];
    }
}

template <tl_type TYPE, int HEADS>
static void launch_few(float *out, int64_t ldo, float *max_sum, const float *q, int64_t ldq, const attended &of) {
    const int few = of.rows.R < FEW ? of.rows.R : FEW, D = of.form.D;
    const int64_t numbers = (int64_t)of.rows.S * few, most = of.rows.R < numbers ? of.rows.R : numbers; /* rows */
    const unsigned parts = (unsigned)of.form.Hkv * tl__blocks(of.form.H / of.form.Hkv, HEADS);
    const unsigned apart = tl__blocks(BLOCKS, most * parts);
    const int64_t places = apart > 1 ? SCRATCH / (most * parts * HEADS * (D + 2) * (int64_t)sizeof(float)) : 0;
    const size_t bytes = sizeof(float) * (size_t)few_floats(HEADS, D);
    const dim3 one((unsigned)numbers, parts), grid((unsigned)numbers, parts, apart);
    float *const scratch = places ? (float *)tl__cuda_scratch(SCRATCH) : NULL;
    if (places)
        TL_LAUNCH((attention_apart<TYPE, HEADS>), grid, WARPS * 32, bytes, scratch, (int)places, q, ldq, of, few);
    TL_LAUNCH((attention_few<TYPE, HEADS>), one, WARPS * 32, bytes, out, ldo, max_sum, scratch, (int)places, q, ldq, of,
              few);
}

/* As many heads together as a group has, and as a thread has registers for. */
template <tl_type TYPE>
static void launch_few_as(float *out, int64_t ldo, float *max_sum, const float *q, int64_t ldq, const attended &of) {
    const int G = of.form.H / of.form.Hkv;
    if (G == 1) launch_few<TYPE, 1>(out, ldo, max_sum, q, ldq, of);
    else if (G == 2) launch_few<TYPE, 2>(out, ldo, max_sum, q, ldq, of);
    else if (G <= 4 || of.form.D > 128) launch_few<TYPE, 4>(out, ldo, max_sum, q, ldq, of);
    else launch_few<TYPE, 8>(out, ldo, max_sum, q, ldq, of);
}

static void cuda_attention(tl_ctx *ctx, float *out, int64_t ldo, float *max_sum, const float *q, int64_t ldq, tl_kv kv,
                           const tl_rows *rows, const tl_attention_form *form) {
    const attended of = attended_of(kv, rows, form);
    if (rows->R == 0) return;
    if (rows->R > FEW) { /* else no sequence has more */
        if (form->D <= SLICE) launch_tiles<1>(out, ldo, max_sum, q, ldq, of);
        else if (form->D <= 2 * SLICE) launch_tiles<2>(out, ldo, max_sum, q, ldq, of);
        else launch_tiles<4>(out, ldo, max_sum, q, ldq, of);
    }
    if (rows->R <= FEW || rows->S > 1) {
        if (kv.type == TL_F32) launch_few_as<TL_F32>(out, ldo, max_sum, q, ldq, of);
        else if (kv.type == TL_F16) launch_few_as<TL_F16>(out, ldo, max_sum, q, ldq, of);
        else if (kv.type == TL_BF16) launch_few_as<TL_BF16>(out, ldo, max_sum, q, ldq, of);
        else launch_few_as<TL_Q8_0>(out, ldo, max_sum, q, ldq, of);
    }
    tl__cuda_wait("attention");
}

void tl__cuda_attention(tl_ops *ops) {
    ops->kv_store = cuda_kv_store;
    ops->attention = cuda_attention;
}
