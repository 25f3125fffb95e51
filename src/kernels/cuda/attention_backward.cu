/* attention_backward.cu — gradients of causal attention, in the order of ops.h and without atomics.
 *
 * The unit of work is a pair of 64 queries of one head and 64 keys: their weights p and gradients ds are made by two
 * products, a thread holding four by four of each. A chunk of queries meets its chunks of keys in order for dq; a chunk
 * of keys meets, head of its group after head, the chunks of queries for dk and dv. These are separate kernels, so that
 * every sum is one thread's: p and ds are made twice, seven products for the five that are needed, and nothing is left
 * in memory between them but δ.
 *
 * Bound by multiply-adds. Both operands are staged, for the block's memory to be the same at every D: two stages of 64
 * × 32 and of 32 × 64, 32 KiB, and 64 × 64 of ds (and of p for dv), 16 KiB each. The sums of dq, or of dk and dv, stay
 * in registers. */
#include "kernels/cuda/attention_tiles.h"

/* What both kernels read. Rows of queries and of dout, of D by head. */
struct reads {
    const float *q, *dout, *max_sum, *delta;
    int64_t ldq, ldo;
    bool q_quads, dout_quads;
    attended of;
};
#ifdef TL_CUDA_EMULATED
static inline void check_argument(const reads &in) {
    for (const float *at : {in.q, in.dout, in.max_sum, in.delta}) emulated::check_memory(at);
    check_argument(in.of);
}
#endif

/* δ[r, h] = Σ_d dout·out, sixteen threads each. */
__global__ void __launch_bounds__(THREADS)
    attention_delta(float *delta, const float *dout, const float *out, int64_t ldo, int64_t n, int H, int D) {
    const int64_t wanted = (int64_t)blockIdx.x * (THREADS / TL_LANES) + threadIdx.x / TL_LANES,
                  i = wanted < n ? wanted : n - 1;
    const int64_t at = i / H * ldo + i % H * D;
    float lane = 0;
    for (int d = (int)threadIdx.x % TL_LANES; d < D; d += TL_LANES) lane = fmaf(dout[at + d], out[at + d], lane);
    lane = tl__tree_sum(lane);
    if (wanted < n && threadIdx.x % TL_LANES == 0) delta[i] = lane;
}

/* ---- stages beside those of attention_tiles.h ---- */

/* to[row][d], a left operand: terms d0 … of the first n rows of x. */
static __device__ inline void stage_left(float *to, const float *x, int64_t ld, int n, int d0, int D, bool quads) {
    UNROLL_1 for (int u = 0; u < LEFT / 4 / THREADS; u++) {
        const int i = (int)threadIdx.x + u * THREADS, row = i / (STEP / 4), d = i % (STEP / 4) * 4;
        const float4 y = row < n ? four(x + row * ld, d0 + d, D, quads, -0.0f) : make_float4(0, 0, 0, 0);
        *(float4 *)(to + row * STEP + (d ^ mixing(row))) = y;
    }
}

/* to[row][column], a right operand: columns c0 … of rows row0 … of the first n of x. */
static __device__ inline void stage_rows(float *to, const float *x, int64_t ld, int n, int row0, int c0, int D,
                                         bool quads) {
    UNROLL_1 for (int u = 0; u < RIGHT / 4 / THREADS; u++) {
        const int i = (int)threadIdx.x + u * THREADS, row = row0 + i / 16, c = i % 16 * 4;
        const float4 y = row < n ? four(x + row * ld, c0 + c, D, quads, 0) : make_float4(0, 0, 0, 0);
        *(float4 *)(to + i / 16 * SIDE + c) = y;
    }
}

/* to[d][key]: components d0 … of the values of the chunk's first n keys. A warp's threads are on as many keys, so that
 * they write side by side. */
static __device__ inline void stage_values_by_component(float *to, const keys &from, int first, int n, int d0) {
    UNROLL_1 for (int u = 0; u < RIGHT / 4 / THREADS; u++) {
        const int i = (int)threadIdx.x + u * THREADS, key = i % SIDE, d = i / SIDE * 4;
        float4 x = make_float4(0, 0, 0, 0);
        if (key < n) x = values4(TL_F32, part_at(from, from.kv.v, first + key), key % TL_KV_BLOCK, d0 + d, from.D);
        to[d * SIDE + key] = x.x, to[(d + 1) * SIDE + key] = x.y, to[(d + 2) * SIDE + key] = x.z,
                      to[(d + 3) * SIDE + key] = x.w;
    }
}

/* to[key][column]: components c0 … of the keys key0 … of the chunk's first n; likewise. */
static __device__ inline void stage_keys_by_key(float *to, const keys &from, int first, int n, int key0, int c0) {
    UNROLL_1 for (int u = 0; u < RIGHT / 4 / THREADS; u++) {
        const int i = (int)threadIdx.x + u * THREADS, c = i % SIDE, k = i / SIDE * 4, key = key0 + k;
        float4 x = make_float4(0, 0, 0, 0);
        if (some_seen(key, 0, n) && c0 + c < from.D)
            x = keys4(TL_F32, part_at(from, from.kv.k, first + key), c0 + c, key % TL_KV_BLOCK, from.D);
        to[k * SIDE + c] = x.x, to[(k + 1) * SIDE + c] = x.y, to[(k + 2) * SIDE + c] = x.z,
                      to[(k + 3) * SIDE + c] = x.w;
    }
}

/* ---- a pair ---- */

/* Of one head, queries i0 … i0+ni−1 of a sequence and keys j0 … j0+nj−1. */
struct pair {
    int h, i0, ni, j0, nj;
};

/* Stage i of 2·stages: queries and keys, then dout and values; row0 is the sequence's first. */
static __device__ inline void stage_pair(float *left, float *right, const reads &in, const keys &from, int row0,
                                         const pair &of, int i, int stages) {
    const int D = from.D, d0 = (i < stages ? i : i - stages) * STEP;
    const int64_t row = row0 + of.i0, column = (int64_t)of.h * D;
    if (i < stages) {
        stage_left(left, in.q + row * in.ldq + column, in.ldq, of.ni, d0, D, in.q_quads);
        stage_keys(right, TL_F32, from, of.j0, 0, of.nj, d0);
    } else {
        stage_left(left, in.dout + row * in.ldo + column, in.ldo, of.ni, d0, D, in.dout_quads);
        stage_values_by_component(right, from, of.j0, of.nj, d0);
    }
}

/* s, the products of q and k, and dp → p and ds, in their place. Of a query that is not there M, L and δ are the last
 * one's. */
static __device__ inline void finish_pair(float (&s)[4][4], float (&dp)[4][4], const reads &in, int row0,
                                          const pair &of) {
    const int y = (int)threadIdx.x / 16;
    UNROLL for (int r = 0; r < 4; r++) {
        const int64_t at = (int64_t)(row0 + of.i0 + min(4 * y + r, of.ni - 1)) * in.of.form.H + of.h;
        const float M = in.max_sum[at * 2], inverse = 1 / in.max_sum[at * 2 + 1], delta = in.delta[at];
        UNROLL for (int c = 0; c < 4; c++) {
            float z = s[r][c] * in.of.form.scale, slope = 1;
            if (in.of.form.softcap != 0) {
                const float t = tl__tanh(z * in.of.inverse_cap);
                slope = fmaf(-t, t, 1.0f), z = in.of.form.softcap * t;
            }
            s[r][c] = tl__exp(z - M) * inverse;
            dp[r][c] = s[r][c] * (dp[r][c] - delta) * slope * in.of.form.scale;
        }
    }
}

/* Two buffers of stages, one in use. */
struct buffers {
    float *left, *right;
    int turn;
};
static __device__ inline float *left_of(const buffers &b, int turn) {
    return b.left + turn * LEFT;
}
static __device__ inline float *right_of(const buffers &b, int turn) {
    return b.right + turn * RIGHT;
}

/* Adds the products of stages first … first + n − 1, of which the first was fetched; `fetch` fetches a stage. */
template <class Fetch>
static __device__ inline void add_stages(float (&sum)[4][4], buffers *b, int first, int n, Fetch fetch) {
    const int y = (int)threadIdx.x / 16, x = (int)threadIdx.x % 16;
    for (int i = 0; i < n; i++) {
        __syncthreads();
        b->turn ^= 1;
        fetch(first + i + 1);
        multiply_all(sum, left_of(*b, b->turn) + 4 * y * STEP, STEP, mixing(4 * y), right_of(*b, b->turn) + 4 * x);
    }
}

/* p and ds of a pair. */
template <class Fetch>
static __device__ inline void make_pair(float (&p)[4][4], float (&ds)[4][4], buffers *b, int stages, const reads &in,
                                        int row0, const pair &of, Fetch fetch) {
    clear(p);
    add_stages(p, b, 0, stages, fetch);
    clear(ds);
    add_stages(ds, b, stages, stages, fetch);
    finish_pair(p, ds, in, row0, of);
}

/* Slice s of `to` is the pair's sum, or the sum is added to it. Registers are chosen by constants alone. */
template <int SLICES>
static __device__ inline void join(float (&to)[SLICES][4][4], int s, const float (&sum)[4][4], bool first) {
    UNROLL for (int i = 0; i < SLICES; i++) {
        if (i != s) continue;
        UNROLL for (int r = 0; r < 4; r++) UNROLL for (int c = 0; c < 4; c++) to[i][r][c] =
            first ? sum[r][c] : to[i][r][c] + sum[r][c];
    }
}

/* ---- the queries' gradients ---- */

template <int SLICES>
__global__ void __launch_bounds__(THREADS, SLICES < 4 ? 2 : 1)
    attention_backward_queries(float *dq, int64_t ld, bool dq_quads, reads in) {
    const int D = in.of.form.D, G = in.of.form.H / in.of.form.Hkv, h = (int)blockIdx.y, window = in.of.form.window;
    run at;
    if (!find_run(&at, in.of.rows, (int)(gridDim.x - 1 - blockIdx.x), SIDE)) return; /* long ones first */
    const int row0 = at.row - at.from, i0 = at.from, last = i0 + at.n - 1, t = (int)threadIdx.x, y = t / 16, x = t % 16,
              mix = mixing(4 * y);
    const keys from = keys_of(in.of, at.s, h / G);
    const int stages = (D + STEP - 1) / STEP, all = 2 * stages + (D + SLICE - 1) / SLICE * (SIDE / STEP);
    const int lowest = first_key(i0, window) / SIDE * SIDE;

    TL_BLOCK_MEMORY(float, memory);
    buffers b = {memory, memory + 2 * LEFT, 0};
    float *const tile = memory + 2 * LEFT + 2 * RIGHT; /* ds by query */
    pair now = {h, i0, at.n, lowest, 0};
    auto fetch = [&](int i) {
        float *const right = right_of(b, b.turn ^ 1);
        if (i == all) i = 0, now.j0 += SIDE; /* by then the pair's numbers are not needed any more */
        if (now.j0 > last) return;
        now.nj = min(at.all - now.j0, (int)SIDE);
        const int j = i - 2 * stages;
        if (j < 0) stage_pair(left_of(b, b.turn ^ 1), right, in, from, row0, now, i, stages);
        else stage_keys_by_key(right, from, now.j0, now.nj, j % 2 * STEP, j / 2 * SLICE);
    };

    float sums[SLICES][4][4];
    fetch(0);
    for (int j0 = lowest; j0 <= i0; j0 += SIDE) {
        float p[4][4], ds[4][4], sum[4][4];
        make_pair(p, ds, &b, stages, in, row0, now, fetch);
        UNROLL for (int r = 0; r < 4; r++)
            write_four(tile + (4 * y + r) * SIDE + (4 * x ^ mix), ds[r][0], ds[r][1], ds[r][2], ds[r][3]);
        __syncwarp(); /* a row stays within half a warp */
        const bool all_see_all = j0 < i0 && first_key(last, window) <= j0;
        for (int s = 0; s * SLICE < D; s++) {
            clear(sum);
            for (int half = 0; half < SIDE / STEP; half++) {
                __syncthreads();
                b.turn ^= 1;
                fetch(2 * stages + 2 * s + half + 1);
                const float *const right = right_of(b, b.turn) + 4 * x, *const left = tile + 4 * y * SIDE + half * STEP;
                if (all_see_all) multiply_all(sum, left, SIDE, mix, right);
                else {
                    const int apart = i0 + 4 * y - j0 - half * STEP,
                              behind[4] = {apart, apart + 1, apart + 2, apart + 3};
                    multiply<KEYS>(sum, left, SIDE, mix, right, behind, reach_of(window), STEP);
                }
            }
            join<SLICES>(sums, s, sum, j0 == lowest);
        }
    }
    UNROLL for (int r = 0; r < 4; r++) {
        float *const to = dq + (int64_t)(at.row + 4 * y + r) * ld + (int64_t)h * D;
        if (4 * y + r >= at.n) continue;
        UNROLL for (int s = 0; s < SLICES; s++) put_four(to, s * SLICE + 4 * x, D, dq_quads, sums[s][r]);
    }
}

/* ---- the keys' and the values' gradients ---- */

template <int SLICES>
__global__ void __launch_bounds__(THREADS, SLICES < 4 ? 2 : 1)
    attention_backward_keys(float *dk, float *dv, int64_t ld, bool quads, reads in) {
    const int D = in.of.form.D, G = in.of.form.H / in.of.form.Hkv, kh = (int)blockIdx.y, window = in.of.form.window;
    run at;
    if (!find_run(&at, in.of.rows, (int)blockIdx.x, SIDE)) return;
    const int row0 = at.row - at.from, j0 = at.from, T = at.all, t = (int)threadIdx.x, y = t / 16, x = t % 16,
              mix = mixing(4 * y);
    const keys from = keys_of(in.of, at.s, kh);
    const int stages = (D + STEP - 1) / STEP, slices = (D + SLICE - 1) / SLICE, mixed = slices * (SIDE / STEP),
              all = 2 * stages + 2 * mixed;

    TL_BLOCK_MEMORY(float, memory);
    buffers b = {memory, memory + 2 * LEFT, 0};
    float *const p_tile = memory + 2 * LEFT + 2 * RIGHT, *const ds_tile = p_tile + SIDE * SIDE; /* by key */

    /* The pairs of head h: the chunks of queries from the keys' own on, while their first sees a chunk no later. */
    pair now = {kh * G, j0, min(T - j0, (int)SIDE), j0, at.n};
    auto go_on = [&] {
        now.i0 += SIDE;
        if (now.i0 >= T || first_key(now.i0, window) / SIDE * SIDE > j0) now.h++, now.i0 = j0;
        now.ni = min(T - now.i0, (int)SIDE);
    };
    auto fetch = [&](int i) {
        float *const right = right_of(b, b.turn ^ 1);
        if (i == all) i = 0, go_on();
        if (now.h == (kh + 1) * G) return;
        const int j = i - 2 * stages, k = j % mixed, D0 = k / 2 * SLICE, first = k % 2 * STEP;
        const int64_t row = row0 + now.i0, column = (int64_t)now.h * D;
        if (j < 0) stage_pair(left_of(b, b.turn ^ 1), right, in, from, row0, now, i, stages);
        else if (j < mixed)
            stage_rows(right, in.dout + row * in.ldo + column, in.ldo, now.ni, first, D0, D, in.dout_quads);
        else stage_rows(right, in.q + row * in.ldq + column, in.ldq, now.ni, first, D0, D, in.q_quads);
    };

    float dks[SLICES][4][4], dvs[SLICES][4][4];
    fetch(0);
    for (bool first = true; now.h < (kh + 1) * G; first = false) {
        float p[4][4], ds[4][4];
        const int i0 = now.i0, ni = now.ni; /* the last fetch goes on to the next pair */
        make_pair(p, ds, &b, stages, in, row0, now, fetch);
        UNROLL for (int c = 0; c < 4; c++) {
            const int to = (4 * x + c) * SIDE + (4 * y ^ mixing(4 * x));
            write_four(p_tile + to, p[0][c], p[1][c], p[2][c], p[3][c]);
            write_four(ds_tile + to, ds[0][c], ds[1][c], ds[2][c], ds[3][c]);
        }
        const bool all_see_all = i0 > j0 && ni == SIDE && first_key(i0 + SIDE - 1, window) <= j0;
        for (int s = 0; s < 2 * slices; s++) { /* of dv, then of dk */
            float sum[4][4];
            clear(sum);
            for (int half = 0; half < SIDE / STEP; half++) {
                __syncthreads(); /* the first is the tiles' too */
                b.turn ^= 1;
                fetch(2 * stages + 2 * s + half + 1);
                const float *const right = right_of(b, b.turn) + 4 * x;
                const float *const left = (s < slices ? p_tile : ds_tile) + 4 * y * SIDE + half * STEP;
                if (all_see_all) multiply_all(sum, left, SIDE, mix, right);
                else {
                    const int apart = i0 + half * STEP - j0 - 4 * y,
                              behind[4] = {apart, apart - 1, apart - 2, apart - 3};
                    multiply<QUERIES>(sum, left, SIDE, mix, right, behind, reach_of(window), ni - half * STEP);
                }
            }
            if (s < slices) join<SLICES>(dvs, s, sum, first);
            else join<SLICES>(dks, s - slices, sum, first);
        }
    }
    UNROLL for (int r = 0; r < 4; r++) {
        const int64_t to = (int64_t)(at.row + 4 * y + r) * ld + (int64_t)kh * D;
        if (4 * y + r >= at.n) continue;
        UNROLL for (int s = 0; s < SLICES; s++) {
            put_four(dk + to, s * SLICE + 4 * x, D, quads, dks[s][r]);
            put_four(dv + to, s * SLICE + 4 * x, D, quads, dvs[s][r]);
        }
    }
}

template <int SLICES> static void launch(float *dq, float *dk, float *dv, int64_t ld, const reads &in) {
    const int D = in.of.form.D;
    const size_t staged = sizeof(float) * (2 * LEFT + 2 * RIGHT), tile = sizeof(float) * SIDE * SIDE;
    const dim3 by_query(run_numbers(&in.of.rows, SIDE), (unsigned)in.of.form.H),
        by_key(by_query.x, (unsigned)in.of.form.Hkv);
    const bool quads = in_quads(dk, ld, D) && in_quads(dv, ld, D);
    allow_memory(attention_backward_queries<SLICES>, staged + tile);
    allow_memory(attention_backward_keys<SLICES>, staged + 2 * tile);
    TL_LAUNCH(attention_backward_queries<SLICES>, by_query, THREADS, staged + tile, dq, ld, in_quads(dq, ld, D), in);
    TL_LAUNCH(attention_backward_keys<SLICES>, by_key, THREADS, staged + 2 * tile, dk, dv, ld, quads, in);
}

static void cuda_attention_backward(tl_ctx *ctx, float *dq, float *dk, float *dv, int64_t ld, const float *dout,
                                    const float *out, int64_t ldo, const float *max_sum, const float *q, int64_t ldq,
                                    tl_kv kv, const tl_rows *rows, const tl_attention_form *form) {
    const int D = form->D, R = rows->R, H = form->H;
    assert(kv.type == TL_F32);
    reads in = {
        q, dout, max_sum, NULL, ldq, ldo, in_quads(q, ldq, D), in_quads(dout, ldo, D), attended_of(kv, rows, form)};
    if (R == 0) return;
    if (form->window >= R) in.of.form.window = 0; /* no row has so many before it */
    const int64_t n = (int64_t)R * H;
    float *const delta = (float *)tl__cuda_scratch((size_t)n * sizeof(float));
    in.delta = delta;
    TL_LAUNCH(attention_delta, tl__blocks(n, THREADS / TL_LANES), THREADS, 0, delta, dout, out, ldo, n, H, D);
    if (D <= SLICE) launch<1>(dq, dk, dv, ld, in);
    else if (D <= 2 * SLICE) launch<2>(dq, dk, dv, ld, in);
    else launch<4>(dq, dk, dv, ld, in);
    tl__cuda_wait("attention_backward");
}

void tl__cuda_attention_backward(tl_ops *ops) {
    ops->attention_backward = cuda_attention_backward;
}
