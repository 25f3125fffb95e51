/* moe.cu — mixtures of experts: routing, the lists of rows, and what stands around the experts' products: ref/moe.c to
 * the bit. Rows of logits are sixteen threads' each, whatever E (at most 1,024); all but the lists is bound by memory. */
#include "kernels/cuda/rows.h"

/* ---- routing ---- */

/* In blocks of 16 × 16 threads. Expert e is thread e % 16's, bit e / 16 of `taken`. */
__global__ void route_rows(int32_t *choice, float *weight, float *logz, float *prob, int R, int E, int k, bool renormalise) {
    __shared__ tl_row_memory<float, float> memory;
    const int64_t r = tl__row();
    const int n = r < R ? E : 0, j = (int)threadIdx.x;
    float *p = prob + r * E, top = -INFINITY; /* no NaN: it shows in the sum */
    tl__row_each(n, [&](int64_t e) { return p[e]; }, [&](int64_t, float z) { top = z > top ? z : top; });
    top = tl__row_max(NULL, top);
    const float sum = tl__row_sum(
        memory, n, [&](int64_t e) { return tl__exp(p[e] - top); }, [&](int64_t e, float v) { p[e] = v; },
        [](float lane, float v) { return lane + v; });
    if (n && j == 0 && logz) logz[r] = top + tl__log(sum);
    tl__row_each(n, [&](int64_t e) { return p[e] / sum; }, [&](int64_t e, float v) { p[e] = v; });

    uint64_t taken = 0;
    for (int i = 0; i < k; i++) { /* the largest that is left; of equals (NaN is equal to all) the first */
        int best = -1;
        float most = 0;
        for (int e = j; e < n; e += TL_LANES)
            if (!(taken >> e / TL_LANES & 1) && (best < 0 || p[e] > most)) best = e, most = p[e];
        for (int half = TL_LANES / 2; half; half /= 2) {
            const int id = __shfl_xor_sync(0xffffffffu, best, half);
            const float other = __shfl_xor_sync(0xffffffffu, most, half);
            if (id >= 0 && (best < 0 || other > most || (!(most > other) && id < best))) best = id, most = other;
        }
        if (best >= 0 && best % TL_LANES == j) taken |= (uint64_t)1 << best / TL_LANES;
    }
    /* In ascending order: sixteen experts at a time, of which the row's half of the warp votes. */
    int32_t *c = choice + r * k;
    for (int e0 = 0, before = 0; e0 < E; e0 += TL_LANES) {
        const bool mine = taken >> e0 / TL_LANES & 1;
        const unsigned votes = __ballot_sync(0xffffffffu, mine) >> threadIdx.y % 2 * TL_LANES & 0xffffu;
        if (mine) c[before + __popc(votes & ((1u << j) - 1))] = e0 + j;
        before += __popc(votes);
    }
    __syncwarp(); /* the row's choice and probabilities are everyone's */
    if (!n) return;
    float total = 0;
    for (int i = 0; i < k; i++) total += p[c[i]];
    for (int i = j; i < k; i += TL_LANES) weight[r * k + i] = renormalise ? p[c[i]] / total : p[c[i]];
}
static void cuda_route(tl_ctx *ctx, int32_t *choice, float *weight, float *logz, float *prob, int R, int E, int k, bool renormalise) {
    if (R <= 0) return;
    TL_LAUNCH(route_rows, tl__row_grid(R, TL_LANES), tl__row_block(TL_LANES), 0, choice, weight, logz, prob, R, E, k, renormalise);
    tl__cuda_wait("route");
}

__global__ void route_backward_rows(float *dlogits, const float *dweight, const int32_t *choice, const float *weight, const float *logz,
                                    const float *prob, const float *balance, float z_scale, int R, int E, int k, bool renormalise) {
    __shared__ tl_row_memory<float2, float> memory;
    const int64_t r = tl__row();
    const int n = r < R ? E : 0, chosen = n ? k : 0;
    const int32_t *c = choice + r * k;
    const float *p = prob + r * E, *w = weight + r * k, *dw = dweight + r * k;
    float total = 0, mean = 0;
    for (int i = 0; i < chosen; i++) {
        total += p[c[i]];
        mean = fmaf(dw[i], w[i], mean);
    }
    const auto dp_and_p = [&](int64_t e) {
        float dp = balance ? balance[e] : 0;
        for (int i = 0; i < chosen; i++)
            if (c[i] == e) dp += renormalise ? (dw[i] - mean) / total : dw[i];
        return make_float2(dp, p[e]);
    };
    const float inner = tl__row_sum(
        memory, n, dp_and_p, [](int64_t, float2) {}, [](float lane, float2 v) { return fmaf(v.x, v.y, lane); });
    if (!n) return;
    const float from_z = z_scale * logz[r];
    tl__row_each(n, dp_and_p, [&](int64_t e, float2 v) { dlogits[r * E + e] = v.y * ((v.x - inner) + from_z); });
}
static void cuda_route_backward(tl_ctx *ctx, float *dlogits, const float *dweight, const int32_t *choice, const float *weight,
                                const float *logz, const float *prob, const float *balance, float z_scale, int R, int E, int k,
                                bool renormalise) {
    if (R <= 0) return;
    TL_LAUNCH(route_backward_rows, tl__row_grid(R, TL_LANES), tl__row_block(TL_LANES), 0, dlogits, dweight, choice, weight, logz, prob, balance,
              z_scale, R, E, k, renormalise);
    tl__cuda_wait("route_backward");
}

/* ---- the lists: a stable counting sort ---- */

/* A block has a chunk of the list and a thread an expert, which goes through all of the chunk in order: nothing is counted by two, and
 * what is placed is placed in order. Chunks are so long that their counts fit. */
enum { LIST_TILE = TL_PIECE(1024, 128), MOST_COUNTS = TL_PIECE(1 << 18, TL_MAX_EXPERTS) };
static __device__ int32_t counts[MOST_COUNTS]; /* [chunks][E]: how many, then where the first goes */
static std::mutex counts_taken;

/* visit(i) for each i of the block's chunk, in order, whose choice is this thread's expert. */
template <class Visit> static __device__ inline void go_through(const int32_t *choice, int n, int chunk, Visit visit) {
    __shared__ int4 tile[LIST_TILE / 4];
    int32_t *place = (int32_t *)tile;
    const int begin = (int)blockIdx.x * chunk, end = n - begin < chunk ? n : begin + chunk, e = (int)threadIdx.x;
    for (int first = begin; first < end; first += LIST_TILE) {
        const int count = end - first < LIST_TILE ? end - first : LIST_TILE;
        for (int i = (int)threadIdx.x; i < LIST_TILE; i += (int)blockDim.x) place[i] = i < count ? choice[first + i] : -1;
        __syncthreads();
        for (int i = 0; 4 * i < count; i++) {
            const int4 four = tile[i];
            if (four.x == e) visit(first + 4 * i);
            if (four.y == e) visit(first + 4 * i + 1);
            if (four.z == e) visit(first + 4 * i + 2);
            if (four.w == e) visit(first + 4 * i + 3);
        }
        __syncthreads();
    }
}

__global__ void count_choices(const int32_t *choice, int n, int chunk, int E) {
    int count = 0;
    go_through(choice, n, chunk, [&](int) { count++; });
    if ((int)threadIdx.x < E) counts[(int)blockIdx.x * E + (int)threadIdx.x] = count;
}

/* One block. */
__global__ void place_experts(int32_t *first, int chunks, int E) {
    __shared__ int32_t sums[TL_MAX_EXPERTS];
    const int e = (int)threadIdx.x;
    int32_t total = 0;
    if (e < E)
        for (int i = 0; i < chunks; i++) total += counts[i * E + e];
    sums[e] = total;
    for (int step = 1; step < (int)blockDim.x; step *= 2) { /* sums up to each expert (Hillis & Steele 1986) */
        __syncthreads();
        const int32_t before = e >= step ? sums[e - step] : 0;
        __syncthreads();
        sums[e] += before;
    }
    int32_t next = sums[e] - total;
    if (e >= E) return;
    first[e] = next;
    if (e == E - 1) first[E] = sums[e];
    for (int i = 0; i < chunks; i++) {
        const int32_t count = counts[i * E + e];
        counts[i * E + e] = next;
        next += count;
    }
}

__global__ void place_choices(int32_t *slot, int32_t *at, const int32_t *choice, int n, int chunk, int E) {
    int32_t next = (int)threadIdx.x < E ? counts[(int)blockIdx.x * E + (int)threadIdx.x] : 0;
    go_through(choice, n, chunk, [&](int i) {
        at[i] = next;
        slot[next++] = i;
    });
}

static void cuda_dispatch(tl_ctx *ctx, int32_t *first, int32_t *slot, int32_t *at, const int32_t *choice, int R, int E, int k) {
    const int64_t n = (int64_t)R * k, tiles = (n + LIST_TILE - 1) / LIST_TILE, most = MOST_COUNTS / E;
    const int chunk = (int)((tiles + most - 1) / most) * LIST_TILE, threads = E <= 256 ? 256 : (E + 31) / 32 * 32;
    const unsigned chunks = chunk ? tl__blocks(n, chunk) : 0;
    const tl_alone alone(counts_taken);
    if (chunks) TL_LAUNCH(count_choices, chunks, threads, 0, choice, (int)n, chunk, E);
    TL_LAUNCH(place_experts, 1, threads, 0, first, (int)chunks, E);
    if (chunks) TL_LAUNCH(place_choices, chunks, threads, 0, slot, at, choice, (int)n, chunk, E);
    tl__cuda_wait("dispatch");
}

/* ---- rows to their experts and back ---- */

__global__ void gather_rows(float *out, const float *x, const int32_t *slot, int n, int k, int C) {
    TL_SWEEP_ROWS(r, n) {
        const float *from = x + (int64_t)(slot[r] / k) * C;
        float *to = out + r * C;
        const int64_t fours = tl__fours(C, to, from);
        TL_SWEEP(i, 0, fours) tl__put_four(to, i, tl__four(from, i));
        TL_SWEEP(i, 4 * fours, C) to[i] = from[i];
    }
}
static void cuda_gather(tl_ctx *ctx, float *out, const float *x, const int32_t *slot, int n, int k, int C) {
    if (n <= 0 || C <= 0) return;
    TL_LAUNCH(gather_rows, tl__sweep_grid(n, C), TL_ROW_THREADS, 0, out, x, slot, n, k, C);
    tl__cuda_wait("gather");
}

__global__ void combine_rows(float *out, const float *x, const int32_t *at, int R, int k, int C) {
    TL_SWEEP_ROWS(r, R) {
        const int32_t *place = at + r * k;
        float *to = out + r * C;
        const int64_t fours = C % 4 == 0 ? tl__fours(C, to, x) : 0;
        TL_SWEEP(i, 0, fours) {
            float4 s = tl__four(x + (int64_t)place[0] * C, i);
            for (int j = 1; j < k; j++) {
                const float4 more = tl__four(x + (int64_t)place[j] * C, i);
                s = make_float4(s.x + more.x, s.y + more.y, s.z + more.z, s.w + more.w);
            }
            tl__put_four(to, i, s);
        }
        TL_SWEEP(i, 4 * fours, C) {
            float s = x[(int64_t)place[0] * C + i];
            for (int j = 1; j < k; j++) s += x[(int64_t)place[j] * C + i];
            to[i] = s;
        }
    }
}
static void cuda_combine(tl_ctx *ctx, float *out, const float *x, const int32_t *at, int R, int k, int C) {
    if (R <= 0 || C <= 0) return;
    TL_LAUNCH(combine_rows, tl__sweep_grid(R, C), TL_ROW_THREADS, 0, out, x, at, R, k, C);
    tl__cuda_wait("combine");
}

/* ---- the experts' activation ---- */

static __device__ inline float expert_of(float g, float u, float w) {
    return g * tl__sigmoid(g) * u * w;
}

__global__ void expert_rows(float *y, const float *gu, const float *weight, const int32_t *slot, int n, int width) {
    TL_SWEEP_ROWS(r, n) {
        const float *g = gu + r * 2 * width, *u = g + width, w = weight[slot[r]];
        float *to = y + r * width;
        const int64_t fours = tl__fours(width, to, g, u);
        TL_SWEEP(i, 0, fours) {
            const float4 a = tl__four(g, i), b = tl__four(u, i);
            tl__put_four(to, i, make_float4(expert_of(a.x, b.x, w), expert_of(a.y, b.y, w), expert_of(a.z, b.z, w), expert_of(a.w, b.w, w)));
        }
        TL_SWEEP(i, 4 * fours, width) to[i] = expert_of(g[i], u[i], w);
    }
}
static void cuda_expert_swiglu(tl_ctx *ctx, float *y, const float *gu, const float *weight, const int32_t *slot, int n, int F) {
    if (n <= 0 || F <= 0) return;
    TL_LAUNCH(expert_rows, tl__sweep_grid(n, F), TL_ROW_THREADS, 0, y, gu, weight, slot, n, F);
    tl__cuda_wait("expert_swiglu");
}

/* The weight's gradient is a row's sum; then dgu, from the same numbers read again: they lie in a cache. */
__global__ void expert_backward_rows(float *dgu, float *dweight, const float *dy, const float *gu, const float *weight, const int32_t *slot,
                                     int n, int width) {
    __shared__ tl_row_memory<float2, float> memory;
    const int64_t r = tl__row();
    const int here = r < n ? width : 0;
    const float w = r < n ? weight[slot[r]] : 0.0f;
    const float *g = gu + r * 2 * width, *u = g + width, *d = dy + r * width;
    float *dg = dgu + r * 2 * width, *du = dg + width;
    const float sum = tl__row_sum(
        memory, here, [&](int64_t f) { return make_float2(d[f], g[f] * tl__sigmoid(g[f]) * u[f]); }, [](int64_t, float2) {},
        [](float lane, float2 v) { return fmaf(v.x, v.y, lane); });
    if (r >= n) return;
    if (threadIdx.x == 0) dweight[slot[r]] = sum;
    struct element {
        float dh, g, u;
    };
    tl__row_each(
        here, [&](int64_t f) { return element{d[f] * w, g[f], u[f]}; },
        [&](int64_t f, element e) {
            const float s = tl__sigmoid(e.g), silu = e.g * s;
            dg[f] = e.dh * e.u * fmaf(silu, 1.0f - s, s);
            du[f] = e.dh * silu;
        });
}
static void cuda_expert_swiglu_backward(tl_ctx *ctx, float *dgu, float *dweight, const float *dy, const float *gu, const float *weight,
                                        const int32_t *slot, int n, int F) {
    if (n <= 0) return;
    TL_LAUNCH(expert_backward_rows, tl__row_grid(n, F), tl__row_block(F), 0, dgu, dweight, dy, gu, weight, slot, n, F);
    tl__cuda_wait("expert_swiglu_backward");
}

void tl__cuda_moe(tl_ops *ops) {
    ops->route = cuda_route;
    ops->route_backward = cuda_route_backward;
    ops->dispatch = cuda_dispatch;
    ops->gather = cuda_gather;
    ops->combine = cuda_combine;
    ops->expert_swiglu = cuda_expert_swiglu;
    ops->expert_swiglu_backward = cuda_expert_swiglu_backward;
}
