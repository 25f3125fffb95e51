/* cpu/quantised.c — products with quantised weights, equal to ref/stored.c's to the bit; compiled once for each way
 * that a CPU has of multiplying bytes.
 *
 * Integers are exact in any order, so a group of 32 of k may be summed as the instructions like it; what must be kept
 * is the f32 chain over groups. Outputs lie across lanes (stored.h), rows share what was read of the weights.
 *
 *   x       is quantised once for all products of a call, in groups of up to sixteen rows: [group of k][row][32 bytes],
 *           with each row's s and sums beside them, in the upper halves of the workers' scratch
 *   few     rows (at most FEW) meet panels as they are packed, unpacked in registers: memory's speed
 *   many    a block of panels is unpacked to bytes for 256 of k at a time, in scratch, then meets all rows in tiles
 *
 * Bytes are multiplied by vpdpbusd (AVX512-VNNI), by tiles (AMX: sixteen rows by sixteen outputs by 32 of k; the f32
 * chain costs more than the products), or by vpmaddubsw, whose sums of two saturate at 16 bits: quants of at most six
 * bits cannot reach that (63·127·2), and of those of eight the absolute value is taken and the sign goes to a, which is
 * never −128 (128·127·2 = 32512). */
#include <assert.h>
#include <math.h>
#include <string.h>
#include "kernels/simd.h"
#include "kernels/stored.h"
#include "kernels/table.h"

#if defined(TL_ISA_avx512_vnni) || defined(TL_ISA_amx)
enum { VNNI = 1 };
#else
enum { VNNI = 0 };
#endif
#if defined(TL_ISA_amx)
enum { AMX = 1 };
#else
enum { AMX = 0 };
#endif

#define UNROLL _Pragma("GCC unroll 16")
#define EACH_WORD(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)

#if defined(TL_ISA_avx512)
enum { FEW = 8 }; /* rows at most: sums and chains in registers */
#else
enum { FEW = 4 };
#endif
enum {
    AHEAD = 3072, /* bytes between asking for a panel's memory and using it */
    GROUP_ROWS = 16,
    CUT_GROUPS = TL_KB / TL_GROUP,
    PASS_K = 16384, /* of k quantised at a time */
    TASK_ROWS = 512,
    MOST_PANELS = 4,                             /* that a task unpacks at a time */
    X_BYTES = TL_WORKSPACE_PER_WORKER_BYTES / 2, /* quantised rows in a worker's scratch: its upper half */
};

static inline int least(int x, int y) {
    return x < y ? x : y;
}

/* ---- bytes ---- */

/* s + Σ of four products in each lane, w and a being bytes, w unsigned. */
TL_INLINE i16 dot_unsigned(i16 s, i16 w, i16 a) {
#if defined(TL_ISA_avx512_vnni) || defined(TL_ISA_amx)
    return _mm512_dpbusd_epi32(s, w, a);
#elif defined(TL_ISA_avx512)
    return _mm512_add_epi32(s, _mm512_madd_epi16(_mm512_maddubs_epi16(w, a), _mm512_set1_epi16(1)));
#else
    const __m256i one = _mm256_set1_epi16(1);
    return (i16){_mm256_add_epi32(s.a, _mm256_madd_epi16(_mm256_maddubs_epi16(w.a, a.a), one)),
                 _mm256_add_epi32(s.b, _mm256_madd_epi16(_mm256_maddubs_epi16(w.b, a.b), one))};
#endif
}
/* The same, both signed, a > −128. Not with VNNI. */
TL_INLINE i16 dot_signed(i16 s, i16 w, i16 a) {
#if defined(TL_ISA_avx512)
    const __m512i turned = _mm512_mask_sub_epi8(a, _mm512_movepi8_mask(w), _mm512_setzero_si512(), a);
    return dot_unsigned(s, _mm512_abs_epi8(w), turned);
#else
    return dot_unsigned(s, (i16){_mm256_abs_epi8(w.a), _mm256_abs_epi8(w.b)},
                        (i16){_mm256_sign_epi8(a.a, w.a), _mm256_sign_epi8(a.b, w.b)});
#endif
}
TL_INLINE i16 bytes_load(const void *p) {
    return i16_load(p);
}
TL_INLINE i16 bytes_lookup(const int8_t table[16], i16 x) {
    const __m128i t = _mm_loadu_si128((const __m128i *)table);
#if defined(TL_ISA_avx512)
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(t), x);
#else
    const __m256i u = _mm256_broadcastsi128_si256(t);
    return (i16){_mm256_shuffle_epi8(u, x.a), _mm256_shuffle_epi8(u, x.b)};
#endif
}
TL_INLINE v16 halves_load(const void *p) {
#if defined(TL_ISA_avx512)
    return _mm512_cvtph_ps(_mm256_loadu_si256(p));
#else
    const __m128i *q = p;
    return (v16){_mm256_cvtph_ps(_mm_loadu_si128(q)), _mm256_cvtph_ps(_mm_loadu_si128(q + 1))};
#endif
}
/* Sixteen bytes, widened with their sign. */
TL_INLINE i16 int8_load(__m128i x) {
#if defined(TL_ISA_avx512)
    return _mm512_cvtepi8_epi32(x);
#else
    return (i16){_mm256_cvtepi8_epi32(x), _mm256_cvtepi8_epi32(_mm_unpackhi_epi64(x, x))};
#endif
}
TL_INLINE i16 bytes_set1(uint32_t x) {
    return i16_set1((int32_t)x);
}
TL_INLINE i16 bytes_minus(i16 x, const int zero) {
#if defined(TL_ISA_avx512)
    return _mm512_sub_epi8(x, _mm512_set1_epi8((char)zero));
#else
    const __m256i z = _mm256_set1_epi8((char)zero);
    return (i16){_mm256_sub_epi8(x.a, z), _mm256_sub_epi8(x.b, z)};
#endif
}
TL_INLINE i16 four_bytes(const int8_t *p) { /* of k, to every lane */
    int32_t x;
    memcpy(&x, p, 4);
    return i16_set1(x);
}

/* ---- a group of a panel, as stored ---- */

TL_INLINE bool is_small(const tl_form f) { /* at most six bits, unsigned */
    return f.low + f.high <= 6 && !f.looked_up;
}
/* Whether quants are multiplied as unsigned bytes, their zero being taken off where dots begin. Tiles take signed ones.
 */
TL_INLINE bool keeps_zero(const tl_form f) {
    return f.zero != 0 && (VNNI || is_small(f));
}

/* Word j: q. Looked-up values come with 128 added. */
TL_INLINE i16 word(const tl_form f, const uint8_t *lines, const int j) {
    i16 q;
    if (f.low == 8) q = bytes_load(lines + 64 * j);
    else if (f.low == 4) {
        const i16 x = bytes_load(lines + 64 * (j % 4));
        q = i16_and(j < 4 ? x : i16_shr(x, 4), bytes_set1(0x0f0f0f0f));
    } else {
        const i16 x = bytes_load(lines + 64 * (j % 2));
        q = i16_and(j < 2 ? x : i16_shr(x, j / 2 * 2), bytes_set1(0x03030303));
    }
    if (f.high) {
        const i16 x = bytes_load(lines + 64 * (f.low + (f.high == 2 ? j % 2 : 0)));
        const int from = f.high == 2 ? j / 2 * 2 : j, right = from - f.low;
        const i16 moved = right > 0 ? i16_shr(x, right < 0 ? 0 : right) : i16_shl(x, right > 0 ? 0 : -right);
        const uint32_t mask = (f.high == 2 ? 3u : 1u) << f.low;
        q = i16_or(q, i16_and(moved, bytes_set1(mask * 0x01010101u)));
    }
    return q;
}

/* Where a panel's parts are; of a task's product. */
typedef struct view {
    const uint8_t *quants, *scales, *supers;
} view;
TL_INLINE view view_of(const tl_form f, const tl_stored *w, int64_t panel) {
    const int groups = w->K / TL_GROUP;
    const uint8_t *p = (const uint8_t *)w->data + panel * tl_panel_bytes(&f, w->K);
    const uint8_t *s = p + groups * tl_quants_bytes(&f);
    return (view){p, s, s + groups * tl_scales_bytes(&f)};
}
/* d and o of half h of group i. */
TL_INLINE v16 scale_d(const tl_form f, const view *v, int i, const int h) {
    const uint8_t *at = v->scales + i * tl_scales_bytes(&f);
    if (f.d == TL_D_HALF) return halves_load(at);
    const v16 super = halves_load(v->supers + i / CUT_GROUPS * tl_supers_bytes(&f));
    __m128i x = _mm_loadu_si128((const __m128i *)(at + 16 * h));
    if (f.d == TL_D_NIBBLE) x = _mm_and_si128(x, _mm_set1_epi8(15));
    return v16_mul(super, i16_to_float(int8_load(x)));
}
TL_INLINE v16 scale_o(const tl_form f, const view *v, int i, const int h) {
    const uint8_t *at = v->scales + i * tl_scales_bytes(&f);
    if (f.o == TL_O_HALF) return halves_load(at + 32);
    const v16 super = halves_load(v->supers + i / CUT_GROUPS * tl_supers_bytes(&f) + 32);
    __m128i x = _mm_loadu_si128((const __m128i *)(at + (f.o == TL_O_BYTE ? 16 * (TL_GROUP / f.sub) : 16 * h)));
    if (f.o == TL_O_NIBBLE) x = _mm_and_si128(_mm_srli_epi16(x, 4), _mm_set1_epi8(15));
    return v16_neg(v16_mul(super, i16_to_float(int8_load(x))));
}

/* ---- x, quantised ---- */

/* A group of rows of x: mr of them, a multiple of four; rows that are not there are zeros. */
typedef struct rows {
    const int8_t *a;   /* [group][mr][32] */
    const float *meta; /* [group][PLANES][mr]: s; Σa of the first half, the second, both; s·Σa likewise */
    int mr;
} rows;
enum { PLANES = 7, S = 0, SUM = 1, SCALED = 4 };
/* The plane of half h of a sub-block of `halves` in a group, from its first. */
TL_INLINE int plane(int first, const int halves, int h) {
    return first + (halves == 2 ? h : 2);
}

typedef struct job {
    tl_ctx *ctx;
    const tl_product *products;
    const float *x;
    int64_t ldx;
    int count, R, k0, kc; /* of this pass: rows, the k that it begins with, how much of it */
    bool first, last;     /* of the passes over k */
    bool sums;            /* of a are wanted */
    int group_rows;       /* 16, or R rounded up to a multiple of 4 */
    int groups_per_slice; /* groups of rows in a worker's scratch */
    int nb;               /* panels a task */
    int row_blocks;       /* tasks that share a block of panels */
    int first_task[TL_MAX_PRODUCTS + 1];
} job;

static inline size_t row_group_bytes(int mr, int kc) {
    return (size_t)mr * (size_t)kc / TL_GROUP * (TL_GROUP + 4 * PLANES);
}
static rows rows_of(const job *j, int group) {
    int8_t *at = (int8_t *)tl__workspace(j->ctx, group / j->groups_per_slice) + X_BYTES +
                 (size_t)(group % j->groups_per_slice) * row_group_bytes(j->group_rows, j->kc);
    return (rows){at, (const float *)(at + (size_t)j->group_rows * (size_t)j->kc), j->group_rows};
}

TL_INLINE int32_t int_sum(i16 x) {
#if defined(TL_ISA_avx512)
    return _mm512_reduce_add_epi32(x);
#else
    __m256i h = _mm256_add_epi32(x.a, x.b);
    __m128i q = _mm_add_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
    q = _mm_add_epi32(q, _mm_shuffle_epi32(q, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(q, _mm_shuffle_epi32(q, 0xb1)));
#endif
}
TL_INLINE void bytes_narrow(int8_t *to, i16 x) { /* lanes within int8 */
#if defined(TL_ISA_avx512)
    _mm_store_si128((__m128i *)to, _mm512_cvtepi32_epi8(x));
#else
    const __m256i w = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8);
    _mm_store_si128((__m128i *)to, _mm_packs_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1)));
#endif
}

/* One group of rows. */
static void quantise_task(void *user, int64_t index, int worker) {
    const job *j = user;
    const rows to = rows_of(j, (int)index);
    (void)worker;
    for (int r = 0; r < to.mr; r++) {
        const int row = (int)index * j->group_rows + r;
        const float *x = j->x + row * j->ldx + j->k0;
        int8_t *a = (int8_t *)to.a + r * TL_GROUP;
        float *meta = (float *)to.meta + r;
        for (int g = 0; g < j->kc / TL_GROUP; g++, x += TL_GROUP, a += to.mr * TL_GROUP, meta += PLANES * to.mr) {
            float s = 0, low = 0, high = 0;
            i16 q0 = i16_set1(0), q1 = q0;
            if (row < j->R) {
                const v16 x0 = v16_load(x), x1 = v16_load(x + TL_LANES);
                const float amax = v16_max_reduce(v16_max(v16_abs(x0), v16_abs(x1)));
                const bool strange = m16_any(
                    m16_not(m16_and(v16_lt(v16_abs(x0), v16_set1(INFINITY)), v16_lt(v16_abs(x1), v16_set1(INFINITY)))));
                if (strange) s = NAN;
                else if (amax >= TL_LEAST_AMAX) {
                    s = amax / 127;
                    const v16 inverse = v16_set1(1 / s);
                    q0 = v16_to_int(v16_mul(x0, inverse)), q1 = v16_to_int(v16_mul(x1, inverse));
                    if (j->sums) low = (float)int_sum(q0), high = (float)int_sum(q1);
                }
            }
            bytes_narrow(a, q0), bytes_narrow(a + TL_LANES, q1);
            const float values[PLANES] = {s, low, high, low + high, s * low, s * high, s * (low + high)};
            for (int i = 0; i < (j->sums ? PLANES : 1); i++) meta[i * to.mr] = values[i];
        }
    }
}

/* ---- the chain ---- */

/* Dots begin at this integer. It is the bits of 1.5·2^23 in f32, where a step of one is a step of 1: with |D| < 2^22
 * the lane, read as f32, is 1.5·2^23 + D, and fma(lane, d, −1.5·2^23·d) is d·D rounded once: d has at most 18 bits (an
 * f16 by a byte), so what is added is exact. No conversion is needed. */
#define MAGIC 0x4b400000
#define MAGIC_FLOAT 0x1.8p23f

/* One sub-block into the chain: D with MAGIC, m = −MAGIC_FLOAT·d. */
TL_INLINE v16 chained(v16 acc, i16 D, v16 d, v16 m, const bool offset, v16 o, const float *s, const float *sum) {
    acc = v16_fma(v16_fma(i16_as_float(D), d, m), v16_set1(*s), acc);
    return offset ? v16_fma(o, v16_set1(*sum), acc) : acc;
}

/* A cut's sums to y's row: `add` to what is there, bias last. */
TL_INLINE void put(float *y, v16 acc, int n, bool add, const float *bias) {
    if (n == TL_LANES) {
        if (add) acc = v16_add(v16_load(y), acc);
        if (bias) acc = v16_add(acc, v16_load(bias));
        v16_store(y, acc);
    } else {
        if (add) acc = v16_add(v16_load_n(y, n), acc);
        if (bias) acc = v16_add(acc, v16_load_n(bias, n));
        v16_store_n(y, acc, n);
    }
}

/* ---- few rows ---- */

/* Panels [first, end) of a product, for R ≤ mr rows. */
TL_INLINE void few_panels(const tl_form f, const int mr, const job *j, const tl_product *p, int first, int end,
                          const int32_t *zeros) {
    const rows x = rows_of(j, 0);
    const int halves = TL_GROUP / f.sub, first_group = j->k0 / TL_GROUP, groups = j->kc / TL_GROUP;
    const bool flip = !VNNI && f.low == 8, lookup_signed = !VNNI;
    const int share =
        (int)(tl_quants_bytes(&f) + tl_scales_bytes(&f) + tl_supers_bytes(&f) / CUT_GROUPS); /* a group's */
    int8_t table[16];
    for (int i = 0; i < 16; i++)
        table[i] = lookup_signed ? tl__iq4_values[i] : (int8_t)(uint8_t)(tl__iq4_values[i] + 128);
    for (int panel = first; panel < end; panel++) {
        const view v = view_of(f, p->w, panel);
        const int width = least(p->w->N - panel * TL_LANES, TL_LANES);
        for (int g0 = 0; g0 < groups; g0 += CUT_GROUPS) {
            const int g_end = least(groups, g0 + CUT_GROUPS);
            v16 acc[FEW];
            UNROLL for (int r = 0; r < mr; r++) acc[r] = v16_zero();
            for (int g = g0; g < g_end; g++) {
                const int i = first_group + g;
                const uint8_t *lines = v.quants + i * tl_quants_bytes(&f);
                for (int l = 0; l < share; l += 64) tl_prefetch(v.quants + i * share + AHEAD + l);
                const int8_t *a = x.a + g * x.mr * TL_GROUP;
                const float *meta = x.meta + g * PLANES * x.mr;
                i16 D[2][FEW];
                UNROLL for (int h = 0; h < halves; h++) UNROLL for (int r = 0; r < mr; r++) D[h][r] =
                    i16_set1(keeps_zero(f) ? zeros[(g * halves + h) * x.mr + r] : MAGIC);
#define WORD(n)                                                                                                        \
    {                                                                                                                  \
        i16 q = word(f, lines, n);                                                                                     \
        if (f.looked_up) q = bytes_lookup(table, q);                                                                   \
        if (flip) q = i16_xor(q, bytes_set1(0x80808080u));                                                             \
        UNROLL for (int r = 0; r < mr; r++) {                                                                          \
            i16 *s = &D[(n) / 4 * (halves - 1)][r];                                                                    \
            const i16 b = four_bytes(a + r * TL_GROUP + 4 * (n));                                                      \
            *s = VNNI || is_small(f) ? dot_unsigned(*s, q, b) : dot_signed(*s, q, b);                                  \
        }                                                                                                              \
    }
                EACH_WORD(WORD)
#undef WORD
                UNROLL for (int h = 0; h < halves; h++) {
                    const v16 d = scale_d(f, &v, i, h), m = v16_mul(d, v16_set1(-MAGIC_FLOAT));
                    const v16 o = f.o != TL_O_NONE ? scale_o(f, &v, i, h) : v16_zero();
                    UNROLL for (int r = 0; r < mr; r++) acc[r] =
                        chained(acc[r], D[h][r], d, m, f.o != TL_O_NONE, o, meta + r,
                                meta + plane(SCALED, halves, h) * x.mr + r);
                }
            }
            const bool last = j->last && g_end == groups;
            for (int r = 0; r < least(mr, j->R); r++)
                put(p->y + r * p->ldy + panel * TL_LANES, acc[r], width, g0 > 0 || !j->first,
                    last && p->bias ? p->bias + panel * TL_LANES : NULL);
        }
    }
}

/* MAGIC − zero·Σa of each sub-block and row, where dots begin. */
static void zeros_of(int32_t *zeros, const rows *x, int groups, int halves, int zero) {
    for (int g = 0; g < groups; g++)
        for (int h = 0; h < halves; h++)
            for (int r = 0; r < x->mr; r++)
                zeros[(g * halves + h) * x->mr + r] =
                    MAGIC - zero * (int32_t)x->meta[(g * PLANES + plane(SUM, halves, h)) * x->mr + r];
}

typedef void few_fn(const job *j, const tl_product *p, int first, int end, const int32_t *zeros);
#define FEW_ROWS(mr, type, ...)                                                                                        \
    static void few_##type##_##mr(const job *j, const tl_product *p, int first, int end, const int32_t *zeros) {       \
        few_panels((tl_form){__VA_ARGS__}, mr, j, p, first, end, zeros);                                               \
    }
#define FEW_1(...) FEW_ROWS(1, __VA_ARGS__)
#define FEW_2(...) FEW_ROWS(2, __VA_ARGS__)
#define FEW_4(...) FEW_ROWS(4, __VA_ARGS__)
TL_FORMS(FEW_1)
TL_FORMS(FEW_2)
TL_FORMS(FEW_4)
#if defined(TL_ISA_avx512)
#define FEW_8(...) FEW_ROWS(8, __VA_ARGS__)
TL_FORMS(FEW_8)
#define FEW_ENTRY(type, ...) [TL_##type] = {few_##type##_1, few_##type##_2, few_##type##_4, few_##type##_8},
#else
#define FEW_ENTRY(type, ...) [TL_##type] = {few_##type##_1, few_##type##_2, few_##type##_4},
#endif
static few_fn *const few[TL_TYPES][4] = {TL_FORMS(FEW_ENTRY)};

/* Which product a task belongs to; *index becomes its number within. */
static const tl_product *product_of(const job *j, int64_t *index) {
    int i = 0;
    while (*index >= j->first_task[i + 1]) i++;
    *index -= j->first_task[i];
    return &j->products[i];
}

static void few_task(void *user, int64_t index, int worker) {
    const job *j = user;
    const tl_product *p = product_of(j, &index);
    const tl_form *f = &tl__forms[p->w->type];
    const int panels = (p->w->N + TL_LANES - 1) / TL_LANES, first = (int)index * j->nb;
    int32_t *zeros = tl__workspace(j->ctx, worker);
    const rows x = rows_of(j, 0);
    if (keeps_zero(*f)) zeros_of(zeros, &x, j->kc / TL_GROUP, TL_GROUP / f->sub, f->zero);
    few[p->w->type][j->R > 4 ? 3 : j->R > 2 ? 2 : j->R - 1](j, p, first, least(panels, first + j->nb), zeros);
}

/* ---- many rows: panels unpacked ---- */

/* 256 of k of a panel, as bytes: signed for AMX and, of types of more than six bits, without VNNI; else unsigned. */
typedef struct unpacked {
    _Alignas(64) int8_t q[CUT_GROUPS][8][64];
    float d[2 * CUT_GROUPS][TL_LANES], m[2 * CUT_GROUPS][TL_LANES], o[2 * CUT_GROUPS][TL_LANES]; /* by sub-block */
} unpacked;

TL_INLINE void unpack(const tl_form f, unpacked *to, const view *v, int first_group, int groups) {
    const int halves = TL_GROUP / f.sub;
    const bool is_signed = AMX || (!VNNI && !is_small(f));
    int8_t table[16];
    for (int i = 0; i < 16; i++) table[i] = is_signed ? tl__iq4_values[i] : (int8_t)(uint8_t)(tl__iq4_values[i] + 128);
    for (int g = 0; g < groups; g++) {
        const int i = first_group + g;
        const uint8_t *lines = v->quants + i * tl_quants_bytes(&f);
#define WORD(n)                                                                                                        \
    {                                                                                                                  \
        i16 q = word(f, lines, n);                                                                                     \
        if (f.looked_up) q = bytes_lookup(table, q);                                                                   \
        else if (is_signed && f.zero) q = bytes_minus(q, f.zero);                                                      \
        i16_store((int32_t *)to->q[g][n], q);                                                                          \
    }
        EACH_WORD(WORD)
#undef WORD
        UNROLL for (int h = 0; h < halves; h++) {
            const v16 d = scale_d(f, v, i, h);
            v16_store_aligned(to->d[g * halves + h], d);
            v16_store_aligned(to->m[g * halves + h], v16_mul(d, v16_set1(-MAGIC_FLOAT)));
            if (f.o != TL_O_NONE) v16_store_aligned(to->o[g * halves + h], scale_o(f, v, i, h));
        }
    }
}

typedef void unpack_fn(unpacked *to, const tl_stored *w, int64_t panel, int first_group, int groups);
#define UNPACK_FORM(type, low, high, zero, sub, d, o, looked_up)                                                       \
    static void unpack_##type(unpacked *to, const tl_stored *w, int64_t panel, int first_group, int groups) {          \
        const tl_form f = {low, high, zero, sub, d, o, looked_up};                                                     \
        const view v = view_of(f, w, panel);                                                                           \
        unpack(f, to, &v, first_group, groups);                                                                        \
    }
TL_FORMS(UNPACK_FORM)
static unpack_fn *const unpacks[TL_TYPES] = {
#define UNPACK_ENTRY(type, low, high, zero, sub, d, o, looked_up) [TL_##type] = unpack_##type,
    TL_FORMS(UNPACK_ENTRY)
#undef UNPACK_ENTRY
};

/* ---- many rows: tiles ---- */

/* What a tile reads: rows of x, panels unpacked, and where dots begin. */
typedef struct operands {
    const int8_t *a;
    const float *meta;
    const int32_t *zeros;
    const unpacked *w; /* [panel][cut] */
    int mr, groups;    /* rows there are room for; groups of k */
    int cuts;          /* of k, in w */
} operands;

#if defined(TL_ISA_amx)
enum { TILE_PANELS = 1, TILE_MOST = GROUP_ROWS };
#elif defined(TL_ISA_avx512)
enum { TILE_PANELS = 2, TILE_ROWS = 4, TILE_MOST = TILE_ROWS };
#else
enum { TILE_PANELS = 1, TILE_ROWS = 2, TILE_MOST = TILE_ROWS };
#endif

/* What a tile has so far, cut by cut: y is read and written once, at the ends, since its rows may be pages apart. */
typedef struct sums {
    _Alignas(64) float at[TILE_MOST][TL_LANES];
} sums;
TL_INLINE void sums_add(float *at, v16 acc, bool first) {
    v16_store_aligned(at, first ? acc : v16_add(v16_load_aligned(at), acc));
}

#if defined(TL_ISA_amx)

#include "kernels/cpu/amx.h"

/* Tiles 0 and 1 hold dots, which begin as MAGIC; 2 and 3 a of sixteen rows, 4 and 5 a group's words. Those of a half
 * group hold half. */
#define EIGHT(x) x, x, x, x, x, x, x, x
#define LINE                                                                                                           \
    { EIGHT(MAGIC), EIGHT(MAGIC) }
_Alignas(64) static const int32_t magic[GROUP_ROWS][TL_LANES] = {EIGHT(LINE), EIGHT(LINE)};

static void tiles_open(int rows_, int sub) {
    tile_config config = {.palette = 1};
    for (int t = 0; t < 6; t++) {
        config.row_bytes[t] = (uint16_t)(t / 2 == 1 ? sub : 64);
        config.rows[t] = (uint8_t)(t / 2 == 2 ? sub / 4 : rows_);
    }
    tiles_configure(&config);
}
/* Products of one sub-block into tile c, and what is in it to memory: a tile is put down while the next is computed. */
#define TILE_DOTS(c, x, y, a, b)                                                                                       \
    __asm__ volatile("tileloadd (%2,%4,1), %%" #c "\n\ttileloadd (%0,%3,1), %%" #x "\n\t"                              \
                     "tileloadd (%1,%4,1), %%" #y "\n\ttdpbssd %%" #y ", %%" #x ", %%" #c ::"r"(a),                    \
                     "r"(b), "r"(magic), "r"((int64_t)TL_GROUP), "r"((int64_t)64)                                      \
                     : "memory")
#define TILE_STORE(c, to) __asm__ volatile("tilestored %%" #c ", (%0,%1,1)" ::"r"(to), "r"((int64_t)64) : "memory")

/* mr rows by one panel. */
TL_INLINE void tile(const int mr, const int halves, const bool offset, const operands *t, float *y, int64_t ldy,
                    int width, int rows_, bool add, const float *bias) {
    _Alignas(64) int32_t dots[2][GROUP_ROWS][TL_LANES];
    sums total;
    const int sub = TL_GROUP / halves;
    for (int r = 0; r < rows_; r++) tl_prefetch(y + r * ldy);
    for (int cut = 0; cut * CUT_GROUPS < t->groups; cut++) {
        const int units = least(t->groups - cut * CUT_GROUPS, CUT_GROUPS) * halves;
        const unpacked *w = t->w + cut;
        const int8_t *a_cut = t->a + cut * CUT_GROUPS * mr * TL_GROUP;
        const float *meta_cut = t->meta + cut * CUT_GROUPS * PLANES * mr;
        v16 acc[GROUP_ROWS];
        UNROLL for (int r = 0; r < mr; r++) acc[r] = v16_zero();
        for (int u = 0; u <= units; u++) { /* dots of u, then the chain of u − 1 */
            const int8_t *a = a_cut + u / halves * mr * TL_GROUP + u % halves * sub;
            const int8_t *b = w->q[0][0] + u * sub * TL_LANES;
            if (u == units) {
                if (u % 2) TILE_STORE(tmm0, dots[0]);
                else TILE_STORE(tmm1, dots[1]);
            } else if (u % 2 == 0) {
                TILE_DOTS(tmm0, tmm2, tmm4, a, b);
                if (u) TILE_STORE(tmm1, dots[1]);
            } else {
                TILE_DOTS(tmm1, tmm3, tmm5, a, b);
                TILE_STORE(tmm0, dots[0]);
            }
            if (!u) continue;
            const int last = u - 1;
            const v16 d = v16_load_aligned(w->d[last]), m = v16_load_aligned(w->m[last]);
            const v16 o = offset ? v16_load_aligned(w->o[last]) : v16_zero();
            const float *meta = meta_cut + last / halves * PLANES * mr;
            const float *sum = meta + plane(SCALED, halves, last % halves) * mr;
            UNROLL for (int r = 0; r < mr; r++) acc[r] =
                chained(acc[r], i16_load(dots[last % 2][r]), d, m, offset, o, meta + r, sum + r);
        }
        if (cut == 0 && add)
            for (int r = 0; r < rows_; r++) v16_store_aligned(total.at[r], v16_load_n(y + r * ldy, width));
        UNROLL for (int r = 0; r < mr; r++) sums_add(total.at[r], acc[r], cut == 0 && !add);
    }
    for (int r = 0; r < rows_; r++) put(y + r * ldy, v16_load_aligned(total.at[r]), width, false, bias);
}

#else

static void tiles_open(int rows_, int sub) {
    (void)rows_, (void)sub;
}
static void tiles_close(void) {}

/* TILE_ROWS rows by np panels side by side. */
TL_INLINE void tile(const int mr, const int np, const int halves, const bool offset, const bool small,
                    const operands *t, float *y, int64_t ldy, const int *width, int rows_, bool add,
                    const float *bias) {
    sums total[TILE_PANELS];
    rows_ = least(rows_, TILE_ROWS);
    for (int cut = 0; cut * CUT_GROUPS < t->groups; cut++) {
        const int g_first = cut * CUT_GROUPS, g_end = least(t->groups, g_first + CUT_GROUPS);
        v16 acc[TILE_ROWS][TILE_PANELS];
        UNROLL for (int r = 0; r < TILE_ROWS; r++) UNROLL for (int p = 0; p < np; p++) acc[r][p] = v16_zero();
        for (int g = g_first; g < g_end; g++) UNROLL for (int h = 0; h < halves; h++) {
                const int u = (g - g_first) * halves + h, words = 8 / halves;
                i16 D[TILE_ROWS][TILE_PANELS];
                UNROLL for (int r = 0; r < TILE_ROWS; r++) UNROLL for (int p = 0; p < np; p++) D[r][p] =
                    i16_set1(t->zeros ? t->zeros[(g * halves + h) * mr + r] : MAGIC);
                UNROLL for (int j = 0; j < words; j++) {
                    i16 q[TILE_PANELS];
                    UNROLL for (int p = 0; p < np; p++) q[p] =
                        bytes_load(t->w[p * t->cuts + cut].q[g - g_first][h * words + j]);
                    UNROLL for (int r = 0; r < TILE_ROWS; r++) {
                        const i16 a = four_bytes(t->a + (g * mr + r) * TL_GROUP + 4 * (h * words + j));
                        UNROLL for (int p = 0; p < np; p++) D[r][p] =
                            VNNI || small ? dot_unsigned(D[r][p], q[p], a) : dot_signed(D[r][p], q[p], a);
                    }
                }
                const float *meta = t->meta + g * PLANES * mr, *sum = meta + plane(SCALED, halves, h) * mr;
                UNROLL for (int p = 0; p < np; p++) {
                    const unpacked *w = &t->w[p * t->cuts + cut];
                    const v16 d = v16_load_aligned(w->d[u]), m = v16_load_aligned(w->m[u]);
                    const v16 o = offset ? v16_load_aligned(w->o[u]) : v16_zero();
                    UNROLL for (int r = 0; r < TILE_ROWS; r++) acc[r][p] =
                        chained(acc[r][p], D[r][p], d, m, offset, o, meta + r, sum + r);
                }
            }
        UNROLL for (int p = 0; p < np; p++) {
            if (cut == 0 && add)
                for (int r = 0; r < rows_; r++)
                    v16_store_aligned(total[p].at[r], v16_load_n(y + r * ldy + p * TL_LANES, width[p]));
            UNROLL for (int r = 0; r < TILE_ROWS; r++) sums_add(total[p].at[r], acc[r][p], cut == 0 && !add);
        }
    }
    for (int p = 0; p < np; p++)
        for (int r = 0; r < rows_; r++)
            put(y + r * ldy + p * TL_LANES, v16_load_aligned(total[p].at[r]), width[p], false,
                bias ? bias + p * TL_LANES : NULL);
}

#endif

/* A group of up to sixteen rows by np panels. */
typedef void tiles_fn(const operands *t, float *y, int64_t ldy, const int *width, int rows_, bool add,
                      const float *bias);
#if defined(TL_ISA_amx)
#define TILES(mr, halves, offset, small)                                                                               \
    static void tiles_##mr##_##halves##_##offset(const operands *t, float *y, int64_t ldy, const int *width,           \
                                                 int rows_, bool add, const float *bias) {                             \
        tile(mr, halves, offset, t, y, ldy, *width, rows_, add, bias);                                                 \
    }
#define TILES_OF(mr) TILES(mr, 1, 0, 0) TILES(mr, 1, 1, 0) TILES(mr, 2, 0, 0) TILES(mr, 2, 1, 0)
TILES_OF(4)
TILES_OF(8) TILES_OF(12) TILES_OF(16) static tiles_fn *tiles_for(int mr, int np, int sub, bool offset, bool small) {
#define ENTRIES_OF(mr)                                                                                                 \
    {                                                                                                                  \
        {tiles_##mr##_1_0, tiles_##mr##_1_1}, {                                                                        \
            tiles_##mr##_2_0, tiles_##mr##_2_1                                                                         \
        }                                                                                                              \
    }
    static tiles_fn *const all[4][2][2] = {ENTRIES_OF(4), ENTRIES_OF(8), ENTRIES_OF(12), ENTRIES_OF(16)};
    (void)np, (void)small;
    return all[mr / 4 - 1][sub == 16][offset];
}
#else
#define TILES(np, halves, offset, small)                                                                               \
    static void tiles_##np##_##halves##_##offset##_##small(const operands *t, float *y, int64_t ldy, const int *width, \
                                                           int rows_, bool add, const float *bias) {                   \
        for (int r = 0; r < rows_; r += TILE_ROWS) {                                                                   \
            const operands at = {t->a + r * TL_GROUP, t->meta + r, t->zeros ? t->zeros + r : NULL, t->w, t->mr,        \
                                 t->groups,           t->cuts};                                                        \
            tile(t->mr, np, halves, offset, small, &at, y + r * ldy, ldy, width, rows_ - r, add, bias);                \
        }                                                                                                              \
    }
#define TILES_OF(np, small) TILES(np, 1, 0, small) TILES(np, 1, 1, small) TILES(np, 2, 0, small) TILES(np, 2, 1, small)
TILES_OF(1, 0)
TILES_OF(1, 1)
#if defined(TL_ISA_avx512)
    TILES_OF(2, 0) TILES_OF(2, 1)
#endif
        static tiles_fn *tiles_for(int mr, int np, int sub, bool offset, bool small) {
#define ENTRIES_OF(np, small)                                                                                          \
    {                                                                                                                  \
        {tiles_##np##_1_0_##small, tiles_##np##_1_1_##small}, {                                                        \
            tiles_##np##_2_0_##small, tiles_##np##_2_1_##small                                                         \
        }                                                                                                              \
    }
    static tiles_fn *const all[TILE_PANELS][2][2][2] = {
        {ENTRIES_OF(1, 0), ENTRIES_OF(1, 1)},
#if defined(TL_ISA_avx512)
        {ENTRIES_OF(2, 0), ENTRIES_OF(2, 1)},
#endif
    };
    (void)mr;
    return all[np - 1][small][sub == 16][offset];
}
#endif

enum {
    PASS_CUTS = PASS_K / TL_KB,
    UNPACKED = 3 << 19, /* bytes of a worker's scratch for panels unpacked; what is left of its half is for zeros */
    ZEROS = X_BYTES - UNPACKED,
};
_Static_assert(PASS_CUTS *TILE_PANELS * sizeof(unpacked) <= UNPACKED, "a tile's panels fit");
_Static_assert(PASS_K / 16 * GROUP_ROWS * sizeof(int32_t) <= ZEROS, "sixteen rows' zeros fit");
_Static_assert((size_t)PASS_K *GROUP_ROWS / TL_GROUP * (TL_GROUP + 4 * PLANES) <= X_BYTES, "sixteen rows fit");

/* A block of panels by a block of rows. */
static void many_task(void *user, int64_t index, int worker) {
    const job *j = user;
    const tl_product *p = product_of(j, &index);
    const tl_form f = tl__forms[p->w->type];
    const int N = p->w->N, panels = (N + TL_LANES - 1) / TL_LANES, halves = TL_GROUP / f.sub;
    const int first = (int)(index / j->row_blocks) * j->nb, count = least(panels - first, j->nb);
    const int row_first = (int)(index % j->row_blocks) * TASK_ROWS, row_end = least(j->R, row_first + TASK_ROWS);
    const int per = j->group_rows, groups = j->kc / TL_GROUP, cuts = (groups + CUT_GROUPS - 1) / CUT_GROUPS;
    unpacked *w = tl__workspace(j->ctx, worker);
    int32_t *zeros = (int32_t *)((char *)w + UNPACKED);
    const bool keeps = !AMX && keeps_zero(f);

    for (int i = 0; i < count; i++)
        for (int cut = 0; cut < cuts; cut++)
            unpacks[p->w->type](w + i * cuts + cut, p->w, first + i, j->k0 / TL_GROUP + cut * CUT_GROUPS,
                                least(groups - cut * CUT_GROUPS, CUT_GROUPS));
    tiles_open(per, f.sub);
    for (int row = row_first; row < row_end; row += per) {
        const rows x = rows_of(j, row / per);
        if (keeps) zeros_of(zeros, &x, groups, halves, f.zero);
        for (int i = 0; i < count; i += TILE_PANELS) {
            const operands t = {x.a, x.meta, keeps ? zeros : NULL, w + i * cuts, x.mr, groups, cuts};
            const int n = (first + i) * TL_LANES, np = least(count - i, TILE_PANELS);
            const int width[2] = {least(N - n, TL_LANES), least(N - n - TL_LANES, TL_LANES)};
            tiles_for(x.mr, np, f.sub, f.o != TL_O_NONE, is_small(f))(&t, p->y + row * p->ldy + n, p->ldy, width,
                                                                      least(row_end - row, per), !j->first,
                                                                      j->last && p->bias ? p->bias + n : NULL);
        }
    }
    tiles_close();
}

/* ---- a call ---- */

/* Tasks by shape alone: so many panels each, of every product. */
static int64_t cut(job *j, bool is_few) {
    int64_t panels = 0, bytes = 0;
    for (int i = 0; i < j->count; i++) {
        const tl_stored *w = j->products[i].w;
        panels += (w->N + TL_LANES - 1) / TL_LANES;
        bytes += (int64_t)tl__packed_bytes(w->type, w->N, w->K);
    }
    j->row_blocks = is_few ? 1 : (j->R + TASK_ROWS - 1) / TASK_ROWS;
    if (is_few) { /* 32 to 256 KB of weights */
        const int64_t piece = bytes / 64 < 32768 ? 32768 : bytes / 64 > 262144 ? 262144 : bytes / 64;
        j->nb = (int)(piece * panels / (bytes + 1));
        if (j->nb < 1) j->nb = 1;
    } else {
        const int cuts = (j->kc + TL_KB - 1) / TL_KB;
        j->nb = least(MOST_PANELS, UNPACKED / (cuts * (int)sizeof(unpacked)) / TILE_PANELS * TILE_PANELS);
        while (j->nb > TILE_PANELS && panels / j->nb * j->row_blocks < 32)
            j->nb = (j->nb / 2 + TILE_PANELS - 1) / TILE_PANELS * TILE_PANELS;
    }
    j->first_task[0] = 0;
    for (int i = 0; i < j->count; i++) {
        const int n = (j->products[i].w->N + TL_LANES - 1) / TL_LANES;
        j->first_task[i + 1] = j->first_task[i] + (n + j->nb - 1) / j->nb * j->row_blocks;
    }
    return j->first_task[j->count];
}

static void linear_quantised(tl_ctx *ctx, const tl_product *products, int count, const float *x, int64_t ldx, int R) {
    job j = {.ctx = ctx, .products = products, .count = count};
    if (!count || !R) return;
    assert(products->w->K > 0 && products->w->K % TL_GROUP == 0);
    const int K = products->w->K, slices = tl__pool_threads(ctx->pool);
    for (int i = 0; i < count; i++) {
        const tl_form f = tl__forms[products[i].w->type];
        j.sums = j.sums || f.o != TL_O_NONE || (keeps_zero(f) && !(AMX && R > FEW));
    }
    for (int k0 = 0; k0 < K || k0 == 0; k0 += PASS_K) {
        j.k0 = k0, j.kc = least(K - k0, PASS_K), j.first = k0 == 0, j.last = k0 + j.kc == K;
        j.group_rows = R < GROUP_ROWS ? (R + 3) / 4 * 4 : GROUP_ROWS;
        const size_t group_bytes = row_group_bytes(j.group_rows, j.kc);
        j.groups_per_slice = group_bytes ? (int)(X_BYTES / group_bytes < 4096 ? X_BYTES / group_bytes : 4096) : 4096;
        const int64_t pass = (int64_t)j.groups_per_slice * slices * j.group_rows;
        for (int64_t r0 = 0; r0 < R; r0 += pass) {
            tl_product at[TL_MAX_PRODUCTS];
            for (int i = 0; i < count; i++) at[i] = products[i], at[i].y += r0 * at[i].ldy;
            j.products = at, j.x = x + r0 * ldx, j.ldx = ldx, j.R = (int)(R - r0 < pass ? R - r0 : pass);
            tl__parallel_for(ctx->pool, (j.R + j.group_rows - 1) / j.group_rows, quantise_task, &j);
            const bool is_few = R <= FEW;
            const int64_t tasks = cut(&j, is_few);
            tl__parallel_for(ctx->pool, tasks, is_few ? few_task : many_task, &j);
        }
    }
}

/* ---- look-ups ---- */

typedef struct lookup {
    float *x;
    const tl_stored *E;
    const float *P;
    const int32_t *token, *pos;
    float scale;
} lookup;
static void embed_task(void *user, int64_t r, int worker) {
    const lookup *l = user;
    const int C = l->E->K;
    (void)worker;
    tl__embed_row(l->x + r * C, l->E, l->token[r], l->P ? l->P + (int64_t)l->pos[r] * C : NULL, l->scale);
}
static void embed_stored(tl_ctx *ctx, float *x, const tl_stored *E, const float *P, const int32_t *token,
                         const int32_t *pos, float scale, int R) {
    lookup l = {x, E, P, token, pos, scale};
    tl__parallel_for(ctx->pool, R, embed_task, &l);
}

void TL_NAME(ops_stored)(tl_ops *ops) {
    ops->linear_quantised = linear_quantised;
    ops->embed_stored = embed_stored;
}
