/* test_gemm_bf16.c — the bf16 product: ref, the emulations and the instructions equal to the bit (product_check.h), ref
 * against TDPBF16PS itself for any bits, a step of a chain against vdpbf16ps itself, rounding against a definition of
 * its own. The comparison has teeth: what the contract rules out is shown to be told apart. */
#define ENTRY gemm_bf16
#define ISA_NAMES "avx2", "avx512", "avx512_bf16", "amx", "cuda"
#include "product_check.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

static uint32_t bits_of(float x) {
    uint32_t b;
    memcpy(&b, &x, 4);
    return b;
}
static float of_bits(uint32_t b) {
    float x;
    memcpy(&x, &b, 4);
    return x;
}
static uint32_t random_bits(void) {
    return (uint32_t)(uniform() * 0x1p16f) << 16 | (uint32_t)(uniform() * 0x1p16f);
}
/* Equal bits, or both a NaN: which one is not said. */
static bool same(float a, float b) {
    return isnan(a) ? isnan(b) : bits_of(a) == bits_of(b);
}

/* ---- rounding, by its meaning: the nearer of the two bf16 around x, the even one of a tie ---- */

static float nearest(float x) {
    const uint32_t b = bits_of(x), down = b & 0xffff0000, up = down + 0x10000;
    if (isnan(x)) return NAN;
    if (fabsf(x) < 0x1p-126f) return copysignf(0, x);
    if (isinf(x)) return x;
    /* Doubles: beyond the largest bf16 lies 2^128, which stands for infinity here. */
    const double low = fabs((double)of_bits(down)), high = isinf(of_bits(up)) ? 0x1p128 : fabs((double)of_bits(up));
    const double to_low = fabs((double)x) - low, to_high = high - fabs((double)x);
    const bool take_low = to_low < to_high || (to_low == to_high && !(down >> 16 & 1));
    return of_bits(take_low ? down : up);
}

static void test_operands_are_rounded_to_the_nearest_even(void **unused) {
    (void)unused;
    enum { N = 4096 };
    static float x[N], c[17 * N];
    float one[17];
    for (int m = 0; m < 17; m++) one[m] = 1;
    const uint32_t edges[] = {0x00000000, 0x80000000, 0x00000001, 0x007fffff, 0x00800000, 0x807fffff, 0x00807fff,
                              0x00808000, 0x00808001, 0x3f808000, 0x3f818000, 0x3f808001, 0x3f817fff, 0x7f7f7fff,
                              0x7f7f8000, 0x7f7fffff, 0x7f800000, 0xff800000, 0x7f800001, 0x7fc00000, 0xffbfffff,
                              0x7fff8000, 0xffffffff, 0x0000ffff, 0x00ffffff, 0xff7f7fff, 0xff7f8000};
    for (int n = 0; n < N; n++) {
        const uint32_t r = random_bits();
        x[n] = of_bits(n < (int)(sizeof edges / sizeof *edges) ? edges[n]
                       : n % 4 == 0                            ? (r & 0xffff0000) | (0x7fff + r % 3)
                                                               : r);
    }
    for (int i = 0; i <= ISAS; i++) {
        if (i < ISAS && !has[i]) continue;
        tl_ctx *ctx = &contexts[i][0];
        for (int way = 0; way < 3; way++) {
            if (way < 2) ctx->ops->gemm_bf16(ctx, c, N, way ? 17 : 1, N, 1, one, 1, 1, x, N, 1, NULL, false); /* as B */
            else ctx->ops->gemm_bf16(ctx, c, 1, N, 1, 1, x, 1, 1, one, 1, 1, NULL, false);                    /* as A */
            for (int n = 0; n < N; n++) {
                const float want = nearest(x[n]) + 0.0f; /* the chain begins at +0: −0 comes out as +0 */
                if (!same(c[n], want))
                    fail_msg("%s, way %d: %08x became %08x, not %08x", i < ISAS ? isas[i] : "ref", way, bits_of(x[n]),
                             bits_of(c[n]), bits_of(want));
            }
        }
    }
}

/* ---- any bits at all ---- */

/* Numbers of every kind, so that products overflow, vanish, cancel and meet infinities. */
static float wild(int kind) {
    const uint32_t r = random_bits(), sign = r & 0x80000000;
    switch (kind) {
    case 0: /* any bits */
        return of_bits(r);
    case 1: /* products about 2^−126: flushed, or only just not */
        return of_bits(sign | ((63 + r % 3) << 23) | (r & 0x007fffff));
    case 2: /* few values, so that sums cancel exactly */
        return of_bits(sign | (127 + r % 2) << 23 | (r >> 8 & 3) << 21);
    case 3: /* the same about the least normal number */
        return of_bits(sign | (63 + r % 2) << 23 | (r >> 8 & 3) << 21);
    default: /* some specials among ordinary numbers */
        return r % 61 == 0 ? INFINITY : r % 67 == 0 ? of_bits(sign | (r & 0x7fffff)) : uniform() - 0.5f;
    }
}

static void test_any_bits_give_ref_its_bits_everywhere(void **unused) {
    (void)unused;
    enum { M = 13, N = 65, K = 35 };
    for (int round = 0; round < 60; round++) {
        const int kind = round % 5, rows = round % 2 ? M : 1 + round % 12,
                  depth = kind == 0 ? 1 + round % 7 : K - round % 9;
        matrix a = matrix_make(rows, depth, round & 1, 0), b = matrix_make(depth, N, round >> 1 & 1, 0);
        for (size_t i = 0; i < a.g.n; i++) a.g.p[i] = wild(kind);
        for (size_t i = 0; i < b.g.n; i++) b.g.p[i] = wild(kind);
        float want[M * N], got[M * N];
        product(&contexts[ISAS][0], want, N, rows, N, depth, &a, &b, NULL, false);
        for (int i = 0; i < ISAS; i++) {
            if (!has[i]) continue;
            product(&contexts[i][0], got, N, rows, N, depth, &a, &b, NULL, false);
            for (int n = 0; n < rows * N; n++)
                if (!same(got[n], want[n]))
                    fail_msg("%s, kind %d, %d × %d × %d: C[%d] is %a, not %a", isas[i], kind, rows, N, depth, n, got[n],
                             want[n]);
        }
        guarded_give(&a.g), guarded_give(&b.g);
    }
}

/* Sums of 2⁻¹²⁶ − ε: fmaf rounds both to 2⁻¹²⁶, whose bits below are 2⁻¹⁴⁹ apart; with 24 bits and no bound of the exponent,
 * 2⁻¹⁵⁰ apart, ε = 1.13·2⁻¹⁵¹ rounds to less, which is flushed, and ε = 0.81·2⁻¹⁵¹ does not. 145·226 is 2¹⁵·(1 + 2⁻¹⁴), and the
 * second products are 2¹⁵·(1 + 18·2⁻¹⁵) and 2¹⁵·(1 + 13·2⁻¹⁵). */
static void test_what_is_flushed_is_decided_before_it_is_a_denormal(void **unused) {
    (void)unused;
    enum { M = 40, N = 17, K = 3 };
    float a[M * K], b[K * N], c[M * N];
    for (int flushed = 0; flushed < 2; flushed++) {
        for (int m = 0; m < M; m++) a[m * K] = 145 * 0x1p-70f, a[m * K + 1] = 0, a[m * K + 2] = (flushed ? -194 : -223) * 0x1p-77f;
        for (int n = 0; n < N; n++) b[n] = 226 * 0x1p-71f, b[N + n] = 0, b[2 * N + n] = (flushed ? 169 : 147) * 0x1p-78f;
        for (int i = 0; i <= ISAS; i++)
            for (int rows = 1; rows <= M; rows += M - 1) {
                if (i < ISAS && !has[i]) continue;
                contexts[i][0].ops->gemm_bf16(&contexts[i][0], c, N, rows, N, K, a, K, 1, b, N, 1, NULL, false);
                for (int n = 0; n < rows * N; n++)
                    if (c[n] != (flushed ? 0 : 0x1p-126f)) fail_msg("%s, %d rows: %a", i < ISAS ? isas[i] : "ref", rows, c[n]);
            }
    }
}

/* ---- the instructions themselves ---- */

#if defined(__x86_64__)
/* sum[16][16] += a[16][32]·b, b in pairs of k: [16 pairs][16]. */
static void tile_instruction(float *sum, const uint16_t *a, const uint16_t *b) {
    _Alignas(64) struct {
        uint8_t palette, start, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    for (int t = 0; t < 3; t++) config.row_bytes[t] = 64, config.rows[t] = 16;
    __asm__ volatile("ldtilecfg %0\n\ttileloadd (%1,%4,1), %%tmm0\n\ttileloadd (%2,%4,1), %%tmm1\n\t"
                     "tileloadd (%3,%4,1), %%tmm2\n\ttdpbf16ps %%tmm2, %%tmm1, %%tmm0\n\t"
                     "tilestored %%tmm0, (%1,%4,1)\n\ttilerelease" ::"m"(config),
                     "r"(sum), "r"(a), "r"(b), "r"((int64_t)64)
                     : "memory");
}
#endif

/* The contract within TL_KB is what the instruction does, whatever MXCSR says. */
static void test_the_contract_is_tdpbf16ps(void **unused) {
    (void)unused;
    if (!has[3]) skip(); /* this CPU has it not */
#if defined(__x86_64__)
    enum { TILES = 3, K = TILES * 32 };
    for (int round = 0; round < 1000; round++) {
        static uint16_t a[TILES][16][32], b[TILES][16][32];
        static float wide_a[16][K], wide_b[16][K], want[16][16], got[16][16];
        const int kind = round % 5, depth = kind == 0 && round % 2 ? 32 : K;
        for (int i = 0; i < 16; i++)
            for (int k = 0; k < depth; k++) {
                const uint32_t x = bits_of(wild(kind)) >> 16, y = bits_of(wild(kind)) >> 16;
                a[k / 32][i][k % 32] = (uint16_t)x, wide_a[i][k] = of_bits(x << 16);
                b[k / 32][k % 32 / 2][2 * i + k % 2] = (uint16_t)y, wide_b[i][k] = of_bits(y << 16);
            }
        tl_ctx *ref = &contexts[ISAS][0];
        ref->ops->gemm_bf16(ref, want[0], 16, 16, 16, depth, wide_a[0], K, 1, wide_b[0], 1, K, NULL, false);
        memset(got, 0, sizeof got);
        const unsigned mode = _mm_getcsr();
        if (round % 7 == 0) _mm_setcsr(mode | 0x8040); /* consulted by nothing */
        if (round % 7 == 1) _mm_setcsr(mode | 0x6000);
        for (int t = 0; t < depth / 32; t++) tile_instruction(got[0], a[t][0], b[t][0]);
        _mm_setcsr(mode);
        for (int i = 0; i < 256; i++)
            if (!same(got[i / 16][i % 16], want[i / 16][i % 16]))
                fail_msg("kind %d, %d of k: %a, not %a", kind, depth, want[i / 16][i % 16], got[i / 16][i % 16]);
    }
#endif
}

/* One step as ref takes it, and for any bits: a chain never holds a sum or a factor that is a denormal. */
static float step(float a, float b, float sum) {
    const float zero_a = fabsf(a) < 0x1p-126f ? copysignf(0, a) : a,
                zero_b = fabsf(b) < 0x1p-126f ? copysignf(0, b) : b;
    const float zero_sum = fabsf(sum) < 0x1p-126f ? copysignf(0, sum) : sum;
    const float x = fmaf(zero_a, zero_b, zero_sum);
    if (fabsf(x) < 0x1p-126f) return copysignf(0, x);
    if (fabsf(x) == 0x1p-126f && fabs((double)zero_a * zero_b + zero_sum) < 0x1p-126 - 0x1p-151) return copysignf(0, x);
    return x;
}

#if defined(__x86_64__)
__attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16"))) static void
instruction(float *out, const float *sum, const uint32_t *x, const uint32_t *y) {
    const __m512i xs = _mm512_loadu_si512(x), ys = _mm512_loadu_si512(y);
    _mm512_storeu_ps(out, _mm512_dpbf16_ps(_mm512_loadu_ps(sum), (__m512bh)xs, (__m512bh)ys));
}
#endif

/* Two steps of a chain are what this instruction does: odd element first, each rounded and flushed. */
static void test_the_step_is_vdpbf16ps(void **unused) {
    (void)unused;
    if (!has[2]) skip(); /* this CPU has it not */
#if defined(__x86_64__)
    int flushed = 0, least = 0;
    for (int round = 0; round < 40000; round++) {
        const int kind = round % 5;
        uint32_t x[16], y[16];
        float sum[16], out[16];
        for (int i = 0; i < 16; i++) {
            x[i] = (bits_of(wild(kind)) & 0xffff0000) | bits_of(wild(kind)) >> 16;
            y[i] = (bits_of(wild(kind)) & 0xffff0000) | bits_of(wild(kind)) >> 16;
            sum[i] = kind == 0 ? of_bits(random_bits())
                               : of_bits((random_bits() & 0x80ffffff) | (kind == 4 ? 0x3f000000 : 0x00800000));
            if (round % 3 == 0) sum[i] = 0;
            if (kind == 3 && round % 2) sum[i] = of_bits(0x00800000 | (random_bits() & 0x80000007));
        }
        const unsigned mode = _mm_getcsr();
        if (round % 7 == 0) _mm_setcsr(mode | 0x8040); /* consulted by nothing */
        if (round % 7 == 1) _mm_setcsr(mode | 0x6000);
        instruction(out, sum, x, y);
        _mm_setcsr(mode);
        for (int i = 0; i < 16; i++) {
            const float first = step(of_bits(x[i] & 0xffff0000), of_bits(y[i] & 0xffff0000), sum[i]);
            const float want = step(of_bits(x[i] << 16), of_bits(y[i] << 16), first);
            if (!same(out[i], want))
                fail_msg("kind %d: %a + %a·%a + %a·%a is %a (%08x), not %a (%08x)", kind, sum[i],
                         of_bits(x[i] & 0xffff0000), of_bits(y[i] & 0xffff0000), of_bits(x[i] << 16),
                         of_bits(y[i] << 16), out[i], bits_of(out[i]), want, bits_of(want));
            flushed += want == 0 && (x[i] << 1) && (y[i] << 1);
            least += fabsf(want) == 0x1p-126f;
        }
    }
    assert_true(flushed > 1000 && least > 10); /* the edge was met */
#endif
}

/* ---- the teeth: on these numbers what the contract rules out gives other bits ---- */

static float cut_off(float x) {
    return of_bits(bits_of(x) & 0xffff0000);
}

static float ruled_out(const float *a, const float *b, int K, int how) {
    float chain[2] = {0, 0}, sum = 0, total = 0;
    for (int k = 0; k < K; k++) {
        const int c = how == 0 ? 0 : k % 2; /* 0: one chain, not two */
        const float x = how == 1 ? cut_off(a[k]) : nearest(a[k]), y = how == 1 ? cut_off(b[k]) : nearest(b[k]);
        chain[c] = how == 2 ? fmaf(a[k], b[k], chain[c]) : step(x, y, chain[c]); /* 1: cut off; 2: not rounded at all */
        const bool block = k + 1 == K || k % TL_KB == TL_KB - 1;
        if (block || (how != 3 && k % TL_BF16_K == TL_BF16_K - 1)) { /* 3: not cut at TL_BF16_K */
            sum += chain[0] + chain[1];
            chain[0] = chain[1] = 0;
        }
        if (block && how != 4) total += sum, sum = 0; /* 4: not cut at TL_KB */
    }
    return total + sum;
}

static void test_what_is_ruled_out_is_told_apart(void **unused) {
    (void)unused;
    enum { N = 64, K = 600 };
    matrix a = matrix_make(1, K, false, 0), b = matrix_make(K, N, true, 0);
    for (int i = 0; i <= ISAS; i++) {
        if (i < ISAS && !has[i]) continue;
        float c[N];
        product(&contexts[i][0], c, N, 1, N, K, &a, &b, NULL, false);
        for (int how = 0; how < 5; how++) {
            int differ = 0;
            for (int n = 0; n < N; n++) differ += ruled_out(a.g.p, b.g.p + n * b.col, K, how) != c[n];
            assert_true(differ > N / 4);
        }
    }
    guarded_give(&a.g), guarded_give(&b.g);
}

/* Within 2·2⁻⁸ of each product's size, K of them: two factors rounded to eight bits, and f32 sums that add little. */
static void test_it_is_the_product(void **unused) {
    (void)unused;
    enum { M = 20, N = 33, K = 301 };
    matrix a = matrix_make(M, K, false, 0), b = matrix_make(K, N, true, 0);
    float c[M * N];
    product(&contexts[ISAS][0], c, N, M, N, K, &a, &b, NULL, false);
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) {
            double want = 0, size = 0;
            for (int k = 0; k < K; k++) {
                const double p = (double)a.g.p[m * a.row + k] * b.g.p[k + n * b.col];
                want += p, size += fabs(p);
            }
            assert_true(fabs(c[m * N + n] - want) <= size * (2 * 0x1p-8 + K * 0x1p-24));
        }
    guarded_give(&a.g), guarded_give(&b.g);
}

/* The context's contract chooses the product of a layer and its backward, and costs say whose peak they count against.
 */
static void test_linear_follows_the_contract(void **unused) {
    (void)unused;
    enum { R = 19, N = 35, K = 41 };
    for (int i = 0; i <= ISAS; i++) {
        if (i < ISAS && !has[i]) continue;
        tl_ctx ctx = contexts[i][0];
        for (int layout = TL_OUT_IN; layout <= TL_IN_OUT; layout++) {
            const bool out_in = layout == TL_OUT_IN;
            matrix x = matrix_make(R, K, false, 0), dy = matrix_make(R, N, false, 0), w = matrix_make(N, K, !out_in, 0);
            matrix bias = matrix_make(1, N, false, 0);
            float got[R * N + R * K + N * K] = {0}, want[R * N + R * K + N * K] = {0};
            float *y = want, *dx = y + R * N, *dw = dx + R * K;
            ctx.ops->gemm_bf16(&ctx, y, N, R, N, K, x.g.p, K, 1, w.g.p, w.col, w.row, bias.g.p, false);
            ctx.ops->gemm_bf16(&ctx, dx, K, R, K, N, dy.g.p, N, 1, w.g.p, w.row, w.col, NULL, false);
            if (out_in) ctx.ops->gemm_bf16(&ctx, dw, K, N, K, R, dy.g.p, 1, N, x.g.p, K, 1, NULL, true);
            else ctx.ops->gemm_bf16(&ctx, dw, N, K, N, R, x.g.p, 1, K, dy.g.p, N, 1, NULL, true);
            assert_int_equal(tl__spans_open(&ctx.spans, 16, NULL), 0);
            for (int contract = TL_CONTRACT_F32; contract <= TL_CONTRACT_BF16; contract++) {
                ctx.contract = (tl_contract)contract;
                memset(got, 0, sizeof got);
                tl__linear(&ctx, got, N, x.g.p, K, w.g.p, (tl_layout)layout, bias.g.p, R, N, K);
                tl__linear_dx(&ctx, got + R * N, K, dy.g.p, N, w.g.p, (tl_layout)layout, R, N, K, false);
                tl__linear_dw(&ctx, got + R * N + R * K, NULL, dy.g.p, N, x.g.p, K, (tl_layout)layout, R, N, K, true);
                const tl_totals t = tl__spans_take(ctx.spans);
                assert_true(t.flops[TL_BUCKET_MATMUL] == 3 * 2.0 * R * N * K);
                assert_true(t.bf16_flops[TL_BUCKET_MATMUL] == (contract == TL_CONTRACT_BF16 ? 3 * 2.0 * R * N * K : 0));
                if (contract == TL_CONTRACT_BF16) assert_memory_equal(got, want, sizeof got);
                else assert_memory_not_equal(got, want, sizeof got);
            }
            tl__spans_close(ctx.spans);
            guarded_give(&x.g), guarded_give(&dy.g), guarded_give(&w.g), guarded_give(&bias.g);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        PRODUCT_CHECKS,
        cmocka_unit_test(test_operands_are_rounded_to_the_nearest_even),
        cmocka_unit_test(test_any_bits_give_ref_its_bits_everywhere),
        cmocka_unit_test(test_what_is_flushed_is_decided_before_it_is_a_denormal),
        cmocka_unit_test(test_the_contract_is_tdpbf16ps),
        cmocka_unit_test(test_the_step_is_vdpbf16ps),
        cmocka_unit_test(test_what_is_ruled_out_is_told_apart),
        cmocka_unit_test(test_it_is_the_product),
        cmocka_unit_test(test_linear_follows_the_contract),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
