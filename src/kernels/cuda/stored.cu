/* stored.cu — products with quantised weights, and look-ups in stored embeddings.
 *
 * x is quantised first, by 32 of k, into memory of the module's own; its integers then meet the weights' four at a time (dp4a), exactly, and
 * an output's chain of scaled sub-blocks is one thread's, as in the products of floats (product.h).
 *
 *   few rows   bound by the weights' bytes. A block's sixteen outputs are a panel of stored.h: of each line sixteen threads read 64 bytes,
 *              a word each, and a thread has all of its output's 32 of k in registers for up to eight rows.
 *   many rows  bound by integer products and the chain. 256 threads make a square of 64 outputs and 64 rows, 4 by 4 each; a group's
 *              words come unpacked into one of two tiles, [word][outputs + 4], 10 KB in all with scales, the next group's raw words being on their
 *              way meanwhile. Two reads of shared memory serve 64 products of bytes.
 *
 * Both are made anew for each form of weights, in which all that depends on it is constant. */
#include "kernels/cuda/product.h"

#include <assert.h>
#include <pthread.h>

#include "base/half.h"
extern "C" {
#include "kernels/stored.h"
}

/* ---- weights ---- */

/* A tl_form as a type. */
template <int low, int high, int zero, int sub, int d, int o, int looked_up> struct form {
    static constexpr int LOW = low, HIGH = high, SUB = sub, D = d, O = o, HALVES = TL_GROUP / sub;
    static constexpr bool LOOKED_UP = looked_up, OFFSETS = o != TL_O_NONE;
    static constexpr int ZERO = low == 8 || looked_up ? 0 : zero; /* what is still to be taken off unpacked bytes */
    static tl_form plain() { return tl_form{low, high, zero, sub, d, o, looked_up}; }
};

struct weights {
    const uint8_t *data;
    int N, K;
    int64_t quants_bytes, scales_bytes, supers_bytes, panel_bytes; /* of a group, a group, 256 of k, and all of k */
};
TL_POINTS_TO(weights, x.data)
template <class F> static weights weights_make(const tl_stored *w) {
    const tl_form f = F::plain();
    return weights{(const uint8_t *)w->data, w->N, w->K, tl_quants_bytes(&f), tl_scales_bytes(&f), tl_supers_bytes(&f), tl_panel_bytes(&f, w->K)};
}

/* The words of a group that hold word w of an output, and what they hold. */
struct raw_words {
    unsigned low, high;
};
template <class F> static __device__ __forceinline__ raw_words words_of(const weights &w, int n, int group, int word) {
    const unsigned *lines = (const unsigned *)(w.data + n / 16 * w.panel_bytes + group * w.quants_bytes) + n % 16;
    return raw_words{lines[16 * (F::LOW == 8 ? word : F::LOW == 4 ? word % 4 : word % 2)],
                     F::HIGH ? lines[16 * (F::LOW + (F::HIGH == 2 ? word % 2 : 0))] : 0};
}

/* tl__iq4_values of four nibbles, one in each byte: bytes are picked from the lower eight and from the upper eight, by the nibbles side
 * by side. */
static __device__ __forceinline__ unsigned iq4_values(unsigned q) {
    const unsigned pairs = q | q >> 4, pick = (pairs & 0xff) | (pairs >> 8 & 0xff00), upper = (q >> 3 & 0x01010101) * 255;
    const unsigned low = __byte_perm(0xbfad9881, 0xf6eaddcf, pick & 0x7777), high = __byte_perm(0x26190d01, 0x71594535, pick & 0x7777);
    return (low & ~upper) | (high & upper);
}

/* Four q − zero + F::ZERO as signed bytes. */
template <class F> static __device__ __forceinline__ int unpacked(raw_words raw, int word) {
    unsigned q = F::LOW == 8   ? raw.low ^ 0x80808080
                 : F::LOW == 4 ? raw.low >> (word / 4 * 4) & 0x0f0f0f0f
                               : raw.low >> (word / 2 * 2) & 0x03030303;
    if (F::HIGH == 1) q |= (raw.high >> word & 0x01010101) << F::LOW;
    if (F::HIGH == 2) q |= (raw.high >> (word / 2 * 2) & 0x03030303) << F::LOW;
    return (int)(F::LOOKED_UP ? iq4_values(q) : q);
}

/* A group's d and o of its halves, as they are stored and as numbers. */
struct raw_scales {
    uint16_t d, o;        /* halves: the numbers, or what they are multiples of */
    uint8_t times[2], by; /* of d, of o */
};
template <class F> static __device__ __forceinline__ raw_scales scales_of(const weights &w, int n, int group) {
    const int groups = w.K / TL_GROUP;
    const uint8_t *scales = w.data + n / 16 * w.panel_bytes + groups * w.quants_bytes, *supers = scales + groups * w.scales_bytes;
    scales += group * w.scales_bytes, supers += group / (TL_SUPER / TL_GROUP) * w.supers_bytes;
    const uint16_t *halves = (const uint16_t *)(F::D == TL_D_HALF ? scales : supers) + n % 16;
    raw_scales raw = {};
    raw.d = halves[0];
    if (F::OFFSETS) raw.o = halves[16];
    if (F::D != TL_D_HALF)
        UNROLL for (int h = 0; h < F::HALVES; h++) raw.times[h] = scales[16 * h + n % 16];
    if (F::O == TL_O_BYTE) raw.by = scales[16 * F::HALVES + n % 16];
    return raw;
}
template <class F> static __device__ __forceinline__ void scales_unpacked(float d[2], float o[2], raw_scales raw) {
    const float unit = tl__f16_to_f32(raw.d), offset_unit = F::OFFSETS ? tl__f16_to_f32(raw.o) : 0;
    UNROLL for (int h = 0; h < F::HALVES; h++) {
        d[h] = F::D == TL_D_HALF ? unit : F::D == TL_D_INT8 ? unit * (float)(int8_t)raw.times[h] : unit * (float)(raw.times[h] & 15);
        o[h] = F::O == TL_O_NONE   ? 0
               : F::O == TL_O_HALF ? offset_unit
               : F::O == TL_O_BYTE ? -(offset_unit * (float)raw.by)
                                   : -(offset_unit * (float)(raw.times[h] >> 4));
    }
}

/* ---- x in eight bits ---- */

/* Of 32 of x: s, and the sums of its halves of a. */
struct group_scale {
    float s;
    int16_t sum[2];
};
enum { SCRATCH_BYTES = 32 << 20 };
/* Rows of a[K], one after the other, then as many of group_scale[K/32]. */
static __device__ __align__(256) uint8_t scratch[SCRATCH_BYTES];
static pthread_mutex_t scratch_lock = PTHREAD_MUTEX_INITIALIZER; /* from x until its last product is made */

static __device__ __forceinline__ group_scale *scales_of_rows(int rows, int K) {
    return (group_scale *)(scratch + (int64_t)rows * K);
}

/* Eight threads a group, four elements each. The bits of magnitudes are in the numbers' order, with those that are not finite on top. */
__global__ void quantise_rows(const float *x, int64_t ldx, int rows, int K, bool fours) {
    const int64_t t = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, group = t / 8;
    const int part = (int)(t % 8), groups = K / TL_GROUP;
    const bool is = group < (int64_t)rows * groups; /* the others come along to the exchanges */
    const float *from = x + group / groups * ldx + group % groups * TL_GROUP + 4 * part;
    const four<float> v = take4(from, is ? 4 : 0, fours);
    unsigned most = 0;
    UNROLL for (int i = 0; i < 4; i++) most = max(most, tl__f32_to_bits(v.at[i]) & 0x7fffffff);
    for (int by = 1; by < 8; by *= 2) most = max(most, __shfl_xor_sync(0xffffffffu, most, by));
    const float largest = tl__f32_from_bits(most);
    const bool finite = most < 0x7f800000, some = finite && largest >= TL_LEAST_AMAX;
    const float s = some ? largest / 127 : finite ? 0 : NAN, inverse = some ? 1 / s : 0;
    unsigned word = 0;
    int sum = 0;
    UNROLL for (int i = 0; i < 4; i++) {
        const int a = some ? (int)rintf(v.at[i] * inverse) : 0;
        word |= (unsigned)(a & 255) << 8 * i, sum += a;
    }
    for (int by = 1; by < 4; by *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, by);
    if (!is) return;
    *(unsigned *)(scratch + group * TL_GROUP + 4 * part) = word;
    group_scale *scale = scales_of_rows(rows, K) + group;
    if (part == 0) scale->s = s;
    if (part % 4 == 0) scale->sum[part / 4] = (int16_t)sum;
}

/* ---- a sub-block's step of the chain ---- */

/* Exact for less than 2^22, and quicker than a conversion: the sum's last bit is 1. */
static __device__ __forceinline__ float small_to_f32(int x) {
    return tl__f32_from_bits(0x4b400000u + (unsigned)x) - 0x1.8p23f;
}
/* dot = Σ (q − zero + F::ZERO)·a, sum = Σ a; d is NaN where it is not finite; times is s·sum. */
template <class F> static __device__ __forceinline__ float step(float acc, float d, float o, int dot, float s, int sum, float times) {
    acc = fmaf(d * small_to_f32(dot - F::ZERO * sum), s, acc);
    return F::OFFSETS ? fmaf(o, times, acc) : acc;
}
static __device__ __forceinline__ float finite_or_nan(float d) {
    return isfinite(d) ? d : NAN;
}

/* ---- few rows ---- */

template <class F, int ROWS>
__global__ void __launch_bounds__(OUTS *SLOTS, ROWS == 1 ? 8 : 4) few_rows(weights w, output y, int row0, int rows_of_scratch) {
    enum { GROUPS = TL_KB / TL_GROUP, WORDS = TL_GROUP / 4, WORDS_OF_HALF = WORDS / F::HALVES };
    __shared__ few_sums<ROWS> sums;
    const int row_groups = (y.M + ROWS - 1) / ROWS, m0 = (int)blockIdx.x % row_groups * ROWS, n0 = (int)blockIdx.x / row_groups * OUTS;
    const int rows = min(ROWS, y.M - m0), groups = w.K / TL_GROUP, blocks = (groups + GROUPS - 1) / GROUPS, slots = (int)blockDim.x / OUTS;
    const int slot = (int)threadIdx.x / OUTS, out = (int)threadIdx.x % OUTS, n = n0 + out; /* a panel has all sixteen */
    const int8_t *a = (const int8_t *)scratch + (int64_t)(row0 + m0) * w.K;
    const group_scale *scales = scales_of_rows(rows_of_scratch, w.K) + (int64_t)(row0 + m0) * groups;
    few_begin(sums, y, m0, n0);
    for (int first = 0; first < blocks; first += slots) {
        const int begin = (first + slot) * GROUPS, end = min(groups, begin + GROUPS);
        float acc[ROWS];
        UNROLL for (int r = 0; r < ROWS; r++) acc[r] = 0;
        for (int g = begin; g < end; g++) {
            int q[WORDS];
            float d[2], o[2];
            UNROLL for (int i = 0; i < WORDS; i++) q[i] = unpacked<F>(words_of<F>(w, n, g, i), i);
            scales_unpacked<F>(d, o, scales_of<F>(w, n, g));
            UNROLL for (int h = 0; h < F::HALVES; h++) d[h] = finite_or_nan(d[h]);
            UNROLL for (int r = 0; r < ROWS; r++)
                if (r < rows) {
                    const int4 *at = (const int4 *)(a + (int64_t)r * w.K + g * TL_GROUP);
                    const int4 x0 = at[0], x1 = at[1];
                    const int x[WORDS] = {x0.x, x0.y, x0.z, x0.w, x1.x, x1.y, x1.z, x1.w};
                    const group_scale scale = scales[(int64_t)r * groups + g];
                    UNROLL for (int h = 0; h < F::HALVES; h++) {
                        int dot = 0;
                        UNROLL for (int i = 0; i < WORDS_OF_HALF; i++) dot = __dp4a(q[h * WORDS_OF_HALF + i], x[h * WORDS_OF_HALF + i], dot);
                        const int sum = F::HALVES == 2 ? scale.sum[h] : scale.sum[0] + scale.sum[1];
                        acc[r] = step<F>(acc[r], d[h], o[h], dot, scale.s, sum, scale.s * small_to_f32(sum));
                    }
                }
        }
        UNROLL for (int r = 0; r < ROWS; r++) sums.block[slot][r][out] = acc[r];
        few_add(sums, y, first, blocks);
    }
    few_end(sums, y, m0, n0);
}

/* ---- many rows ---- */

enum { SIDE = 64 }; /* outputs and rows of a square */

/* A group of a square's weights, and of its rows. */
template <int HALVES> struct __align__(16) group_tile {
    int q[TL_GROUP / 4][SIDE + 4], a[TL_GROUP / 4][SIDE + 4];
    float d[HALVES][SIDE], o[HALVES][SIDE], s[SIDE];
    int sum[HALVES][SIDE];
};

/* What a thread brings of it: two words of an output; and a quarter of the threads an output's scales, another a row's scale, and half of
 * them half of a row's words. */
struct group_part {
    raw_words low, high;
    raw_scales scales;
    group_scale scale;
    int4 x;
};
enum { BRING_SCALES, BRING_SUMS, BRING_ROWS }; /* and 3: the other half of the rows */

template <class F> static __device__ __forceinline__ void bring(group_part &p, const weights &w, const int8_t *a, const group_scale *scales, int rows, int n0, int group) {
    const int t = (int)threadIdx.x, part = t / SIDE, at = t % SIDE, n = n0 + at, groups = w.K / TL_GROUP;
    p = group_part{};
    if (n < w.N) {
        p.low = words_of<F>(w, n, group, part), p.high = words_of<F>(w, n, group, part + 4);
        if (part == BRING_SCALES) p.scales = scales_of<F>(w, n, group);
    }
    if (part == BRING_SUMS && at < rows) p.scale = scales[(int64_t)at * groups + group];
    const int row = (t - BRING_ROWS * SIDE) / 2;
    if (part >= BRING_ROWS && row < rows) p.x = *(const int4 *)(a + (int64_t)row * w.K + group * TL_GROUP + t % 2 * 16);
}
template <class F> static __device__ __forceinline__ void put(group_tile<F::HALVES> &tile, const group_part &p) {
    const int t = (int)threadIdx.x, part = t / SIDE, at = t % SIDE;
    tile.q[part][at] = unpacked<F>(p.low, part), tile.q[part + 4][at] = unpacked<F>(p.high, part + 4);
    if (part == BRING_SCALES) {
        float d[2], o[2];
        scales_unpacked<F>(d, o, p.scales);
        UNROLL for (int h = 0; h < F::HALVES; h++) tile.d[h][at] = finite_or_nan(d[h]), tile.o[h][at] = o[h];
    } else if (part == BRING_SUMS) {
        tile.s[at] = p.scale.s;
        UNROLL for (int h = 0; h < F::HALVES; h++) tile.sum[h][at] = F::HALVES == 2 ? p.scale.sum[h] : p.scale.sum[0] + p.scale.sum[1];
    } else {
        const int row = (t - BRING_ROWS * SIDE) / 2, word = t % 2 * 4;
        tile.a[word][row] = p.x.x, tile.a[word + 1][row] = p.x.y, tile.a[word + 2][row] = p.x.z, tile.a[word + 3][row] = p.x.w;
    }
}

static __device__ __forceinline__ void dot4(int dot[4], int4 q, int x) {
    dot[0] = __dp4a(q.x, x, dot[0]), dot[1] = __dp4a(q.y, x, dot[1]), dot[2] = __dp4a(q.z, x, dot[2]), dot[3] = __dp4a(q.w, x, dot[3]);
}

template <class F> static __device__ __forceinline__ void multiply_group(float acc[4][4], const group_tile<F::HALVES> &tile, spot at) {
    const float4 s4 = *(const float4 *)&tile.s[at.row];
    const float s[4] = {s4.x, s4.y, s4.z, s4.w};
    UNROLL for (int h = 0; h < F::HALVES; h++) {
        int dot[4][4] = {};
        UNROLL for (int i = 0; i < F::SUB / 4; i++) {
            const int4 q = *(const int4 *)&tile.q[h * F::SUB / 4 + i][at.col], x = *(const int4 *)&tile.a[h * F::SUB / 4 + i][at.row];
            dot4(dot[0], q, x.x), dot4(dot[1], q, x.y), dot4(dot[2], q, x.z), dot4(dot[3], q, x.w);
        }
        const float4 d4 = *(const float4 *)&tile.d[h][at.col], o4 = *(const float4 *)&tile.o[h][at.col];
        const int4 sum4 = *(const int4 *)&tile.sum[h][at.row];
        const float d[4] = {d4.x, d4.y, d4.z, d4.w}, o[4] = {o4.x, o4.y, o4.z, o4.w};
        const int sum[4] = {sum4.x, sum4.y, sum4.z, sum4.w};
        UNROLL for (int r = 0; r < 4; r++) {
            const float times = s[r] * small_to_f32(sum[r]);
            UNROLL for (int j = 0; j < 4; j++) acc[r][j] = step<F>(acc[r][j], d[j], o[j], dot[r][j], s[r], sum[r], times);
        }
    }
}

template <class F> __global__ void __launch_bounds__(SQUARE_THREADS, 2) many_rows(weights w, output y, int row0, int rows_of_scratch) {
    enum { GROUPS = TL_KB / TL_GROUP };
    __shared__ group_tile<F::HALVES> tiles[2];
    const int squares = (y.M + SIDE - 1) / SIDE, m0 = (int)blockIdx.x % squares * SIDE, n0 = (int)blockIdx.x / squares * SIDE;
    const int groups = w.K / TL_GROUP, rows = min((int)SIDE, y.M - m0);
    const int8_t *a = (const int8_t *)scratch + (int64_t)(row0 + m0) * w.K;
    const group_scale *scales = scales_of_rows(rows_of_scratch, w.K) + (int64_t)(row0 + m0) * groups;
    const spot at = spot_of_thread<1>();
    float acc[4][4] = {};
    group_part next;
    bring<F>(next, w, a, scales, rows, n0, 0);
    for (int g = 0; g < groups; g++) {
        put<F>(tiles[g % 2], next);
        __syncthreads(); /* who writes this tile again has passed the next one: all have used it then */
        if (g + 1 < groups) bring<F>(next, w, a, scales, rows, n0, g + 1);
        multiply_group<F>(acc, tiles[g % 2], at);
        if ((g + 1) % GROUPS && g + 1 < groups) continue;
        UNROLL for (int r = 0; r < 4; r++) {
            settle(y, m0 + at.row + r, n0 + at.col, acc[r], g >= GROUPS, g + 1 == groups);
            UNROLL for (int j = 0; j < 4; j++) acc[r][j] = 0;
        }
    }
}

/* ---- the products ---- */

/* y's rows, whose first is row0 of the `rows` in scratch. */
template <class F> static void multiply(const tl_stored *stored, output y, int row0, int rows) {
    const weights w = weights_make<F>(stored);
    const unsigned threads = (unsigned)(OUTS * slots_for(w.K));
    if (y.M <= 0 || y.N <= 0) return;
    if (y.M == 1) TL_LAUNCH((few_rows<F, 1>), few_grid(y.M, y.N, 1), threads, 0, w, y, row0, rows);
    else if (y.M <= FEW_ROWS || w.K == 0) TL_LAUNCH((few_rows<F, 8>), few_grid(y.M, y.N, 8), threads, 0, w, y, row0, rows);
    else TL_LAUNCH((many_rows<F>), tl__blocks(y.M, SIDE) * tl__blocks(y.N, SIDE), SQUARE_THREADS, 0, w, y, row0, rows);
}

static void multiply_any(const tl_stored *w, output y, int rows) {
    switch (w->type) {
#define CASE(type, ...)                                                                                                \
    case TL_##type:                                                                                                    \
        multiply<form<__VA_ARGS__>>(w, y, 0, rows);                                                                    \
        return;
        TL_FORMS(CASE)
#undef CASE
    default:
        assert(!"a quantised type");
    }
}

static void cuda_linear_quantised(tl_ctx *ctx, const tl_product *products, int count, const float *x, int64_t ldx, int R) {
    if (count <= 0 || R <= 0) return;
    const int K = products->w->K, groups = K / TL_GROUP;
    const int64_t row_bytes = K + groups * (int64_t)sizeof(group_scale), most = row_bytes ? SCRATCH_BYTES / row_bytes : R;
    assert(most > 0);
    pthread_mutex_lock(&scratch_lock);
    for (int64_t r = 0; r < R; r += most) {
        const int rows = (int)(R - r < most ? R - r : most);
        if (K) TL_LAUNCH(quantise_rows, tl__blocks((int64_t)rows * groups * 8, 256), 256, 0, x + r * ldx, ldx, rows, K, in_fours(x, ldx));
        for (const tl_product *p = products; p < products + count; p++)
            multiply_any(p->w, output_make(p->y + r * p->ldy, p->ldy, rows, p->w->N, p->bias, false), rows);
    }
    tl__cuda_wait("linear_quantised");
    pthread_mutex_unlock(&scratch_lock);
}

/* ---- embeddings ---- */

/* Rows of a float's type, or of a form, and their elements. */
template <int TYPE> struct of_float {
    const void *data;
    int64_t C;
    __device__ __forceinline__ float at(int n, int c) const {
        const int64_t i = n * C + c;
        return TYPE == TL_F32   ? ((const float *)data)[i]
               : TYPE == TL_F16 ? tl__f16_to_f32(((const uint16_t *)data)[i])
                                : tl__bf16_to_f32(((const uint16_t *)data)[i]);
    }
};
template <class F> struct of_form {
    weights E;
    __device__ __forceinline__ float at(int n, int c) const {
        const int group = c / TL_GROUP, word = c % TL_GROUP / 4, half = c % TL_GROUP / F::SUB;
        const int q = (int8_t)(unpacked<F>(words_of<F>(E, n, group, word), word) >> c % 4 * 8) - F::ZERO;
        float d[2], o[2];
        scales_unpacked<F>(d, o, scales_of<F>(E, n, group));
        const float product = (float)q * (half ? d[F::HALVES - 1] : d[0]);
        return F::OFFSETS ? product + (half ? o[F::HALVES - 1] : o[0]) : product;
    }
};

template <class rows> __global__ void embed_rows(float *x, rows E, const float *P, const int32_t *token, const int32_t *pos, float scale, int R, int C) {
    const int64_t n = (int64_t)R * C;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (int64_t)gridDim.x * blockDim.x) {
        const int r = (int)(i / C), c = (int)(i % C);
        const float e = E.at(token[r], c);
        x[i] = P ? fmaf(e, scale, P[(int64_t)pos[r] * C + c]) : e * scale;
    }
}
template <class rows> static void embed(float *x, rows E, const float *P, const int32_t *token, const int32_t *pos, float scale, int R, int C) {
    const unsigned blocks = tl__blocks((int64_t)R * C, 256);
    TL_LAUNCH((embed_rows<rows>), blocks < 65535 ? blocks : 65535, 256, 0, x, E, P, token, pos, scale, R, C);
}

static void cuda_embed_stored(tl_ctx *ctx, float *x, const tl_stored *E, const float *P, const int32_t *token, const int32_t *pos, float scale, int R) {
    const int C = E->K;
    if (R <= 0 || C <= 0) return;
    switch (E->type) {
    case TL_F32:
        embed(x, of_float<TL_F32>{E->data, C}, P, token, pos, scale, R, C);
        break;
    case TL_F16:
        embed(x, of_float<TL_F16>{E->data, C}, P, token, pos, scale, R, C);
        break;
    case TL_BF16:
        embed(x, of_float<TL_BF16>{E->data, C}, P, token, pos, scale, R, C);
        break;
#define CASE(type, ...)                                                                                                \
    case TL_##type:                                                                                                    \
        embed(x, of_form<form<__VA_ARGS__>>{weights_make<form<__VA_ARGS__>>(E)}, P, token, pos, scale, R, C);          \
        break;
        TL_FORMS(CASE)
#undef CASE
    default:
        assert(!"a type that is embedded");
    }
    tl__cuda_wait("embed_stored");
}

void tl__cuda_stored(tl_ops *ops) {
    ops->linear_quantised = cuda_linear_quantised;
    ops->embed_stored = cuda_embed_stored;
}
