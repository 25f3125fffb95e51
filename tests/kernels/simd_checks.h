/* simd_checks.h — the operations of simd.h against the scalar code beside their names; included once per instruction set by
 * test_simd_*.c, which set the target and TL_ISA first. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>
#include "kernels/ops.h"
#include "kernels/simd.h"

static float a[16], b[16], c[16], out[16];
static int32_t ia[16], ib[16], iout[16];

/* Ordinary numbers, zeros of both signs, denormals, infinities, NaN, ties. */
static void fill(int round) {
    const float odd[] = {0.f, -0.f, 1e-40f, -1e-40f, INFINITY, -INFINITY, NAN, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, 3e9f, 16777217.f, 1e-30f, 7.f};
    for (int i = 0; i < 16; i++) {
        const unsigned h = (unsigned)(round * 16 + i) * 2654435761u;
        a[i] = ((float)(h >> 8) - 8388608.f) * 1e-4f, b[i] = ((float)(h * 40503u >> 8) - 8388608.f) * 1e-3f;
        c[i] = a[i] * 3 + b[i];
        if (round % 3 == 1) a[i] = odd[(i + round) % 16];
        if (round % 3 == 2) a[i] = odd[i], b[i] = odd[(i + round / 3) % 16];
        ia[i] = (int32_t)h, ib[i] = (int32_t)(h * 40503u);
    }
}
#define SAME(want)                                                                                                     \
    for (int i = 0; i < 16; i++) {                                                                                     \
        const float w = (want);                                                                                        \
        if (!(isnan(w) && isnan(out[i]))) assert_memory_equal(&out[i], &w, 4);                                         \
    }
#define SAME_INT(want)                                                                                                 \
    for (int i = 0; i < 16; i++) assert_int_equal(iout[i], (int32_t)(want))
#define F(expression) v16_store(out, (expression))
#define I(expression) i16_store(iout, (expression))

static void test_lanes(void **state) {
    (void)state;
    for (int round = 0; round < 300; round++) {
        fill(round);
        const v16 x = v16_load(a), y = v16_load(b), z = v16_load(c);
        F(v16_add(x, y)); SAME(a[i] + b[i]);
        F(v16_sub(x, y)); SAME(a[i] - b[i]);
        F(v16_mul(x, y)); SAME(a[i] * b[i]);
        F(v16_div(x, y)); SAME(a[i] / b[i]);
        F(v16_sqrt(x)); SAME(sqrtf(a[i]));
        F(v16_fma(x, y, z)); SAME(fmaf(a[i], b[i], c[i]));
        F(v16_fnma(x, y, z)); SAME(fmaf(-a[i], b[i], c[i]));
        F(v16_fms(x, y, z)); SAME(fmaf(a[i], b[i], -c[i]));
        F(v16_min(x, y)); SAME(a[i] < b[i] ? a[i] : b[i]);
        F(v16_max(x, y)); SAME(a[i] > b[i] ? a[i] : b[i]);
        F(v16_floor(x)); SAME(floorf(a[i]));
        F(v16_round(x)); SAME(rintf(a[i]));
        F(v16_abs(x)); SAME(fabsf(a[i]));
        F(v16_neg(x)); SAME(-a[i]);
        F(v16_keep(v16_lt(x, y), z)); SAME(a[i] < b[i] ? c[i] : 0.f);
        F(v16_select(v16_le(x, y), x, z)); SAME(a[i] <= b[i] ? a[i] : c[i]);
        F(v16_select(v16_gt(x, y), x, z)); SAME(a[i] > b[i] ? a[i] : c[i]);
        F(v16_select(v16_ge(x, y), x, z)); SAME(a[i] >= b[i] ? a[i] : c[i]);
        F(v16_select(v16_eq(x, y), x, z)); SAME(a[i] == b[i] ? a[i] : c[i]);
        F(v16_select(v16_isnan(x), y, z)); SAME(isnan(a[i]) ? b[i] : c[i]);
        F(v16_set1(a[3])); SAME(a[3]);
        if (round % 3 == 0) {
            I(v16_to_int(x)); SAME_INT(lrintf(a[i]));
            I(v16_trunc_to_int(x)); SAME_INT(a[i]);
        }
        unsigned bits = 0;
        for (int i = 0; i < 16; i++) bits |= (unsigned)(a[i] < b[i]) << i;
        assert_int_equal(m16_bits(v16_lt(x, y)), bits);
        assert_int_equal(m16_any(v16_lt(x, y)), bits != 0);
        assert_int_equal(m16_all(m16_or(v16_lt(x, y), m16_not(v16_lt(x, y)))), true);
        assert_int_equal(m16_any(m16_and(v16_lt(x, y), m16_not(v16_lt(x, y)))), false);
    }
}

static void test_integers(void **state) {
    (void)state;
    for (int round = 0; round < 100; round++) {
        fill(round);
        const i16 x = i16_load(ia), y = i16_load(ib);
        I(i16_add(x, y)); SAME_INT((uint32_t)ia[i] + (uint32_t)ib[i]);
        I(i16_sub(x, y)); SAME_INT((uint32_t)ia[i] - (uint32_t)ib[i]);
        I(i16_mul(x, y)); SAME_INT((uint32_t)ia[i] * (uint32_t)ib[i]);
        I(i16_and(x, y)); SAME_INT(ia[i] & ib[i]);
        I(i16_or(x, y)); SAME_INT(ia[i] | ib[i]);
        I(i16_xor(x, y)); SAME_INT(ia[i] ^ ib[i]);
        I(i16_min(x, y)); SAME_INT(ia[i] < ib[i] ? ia[i] : ib[i]);
        I(i16_max(x, y)); SAME_INT(ia[i] > ib[i] ? ia[i] : ib[i]);
        I(i16_shl(x, 23)); SAME_INT((uint32_t)ia[i] << 23);
        I(i16_shr(x, 7)); SAME_INT((uint32_t)ia[i] >> 7);
        I(i16_sar(x, 7)); SAME_INT(ia[i] >> 7);
        I(i16_select(i16_gt(x, y), x, i16_set1(5))); SAME_INT(ia[i] > ib[i] ? ia[i] : 5);
        I(i16_select(i16_eq(x, y), x, i16_iota())); SAME_INT(ia[i] == ib[i] ? ia[i] : i);
        F(i16_to_float(x)); SAME((float)ia[i]);
    }
}

/* The fixed tree of ops.h, and that another order would be seen. */
static void test_reductions(void **state) {
    (void)state;
    int differ = 0;
    for (int round = 0; round < 300; round += 3) {
        fill(round);
        float l[16], m[16], in_order = 0;
        double d[16];
        for (int i = 0; i < 16; i++) l[i] = m[i] = a[i], d[i] = (double)a[i] * b[i] + c[i], in_order += a[i];
        for (int h = 8; h; h /= 2)
            for (int i = 0; i < h; i++) l[i] += l[i + h], m[i] = m[i] > m[i + h] ? m[i] : m[i + h], d[i] += d[i + h];
        const v16 x = v16_load(a);
        const d16 wide = d16_add(d16_mul(d16_from(x), d16_from(v16_load(b))), d16_from(v16_load(c)));
        assert_true(v16_sum(x) == l[0]);
        assert_true(v16_max_reduce(x) == m[0]);
        assert_true(d16_sum(wide) == d[0]);
        assert_true(d16_sum(d16_fma(d16_from(x), d16_from(v16_set1(1)), d16_zero())) == d16_sum(d16_from(x)));
        differ += in_order != l[0];
    }
    assert_true(differ > 25);
}

static void test_partial_memory_and_turning(void **state) {
    (void)state;
    fill(0);
    for (int n = 0; n <= 16; n++) {
        assert_int_equal(m16_bits(m16_first(n)), (1u << n) - 1);
        F(v16_load_n(a, n)); SAME(i < n ? a[i] : 0.f);
        F(v16_set1(-7));
        v16_store_n(out, v16_load(a), n); SAME(i < n ? a[i] : -7.f);
    }
    float block[256], turned[256];
    v16 r[16];
    for (int i = 0; i < 256; i++) block[i] = (float)i;
    for (int i = 0; i < 16; i++) r[i] = v16_load(block + 16 * i);
    v16_transpose(r);
    for (int i = 0; i < 16; i++) v16_store(turned + 16 * i, r[i]);
    for (int i = 0; i < 16; i++)
        for (int k = 0; k < 16; k++) assert_true(turned[16 * i + k] == block[16 * k + i]);
}

static int checks_run(const char *isa) {
    const tl_ops *ops;
    if (tl__ops_select(&ops, isa, NULL)) return 0; /* not on this CPU */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lanes),
        cmocka_unit_test(test_integers),
        cmocka_unit_test(test_reductions),
        cmocka_unit_test(test_partial_memory_and_turning),
    };
    return cmocka_run_group_tests_name(isa, tests, NULL, NULL);
}
