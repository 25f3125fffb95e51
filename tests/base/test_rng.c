/* Random numbers: Philox against the published known answers; normals against double precision, in distribution, and
 * the same bits however a range is cut; the permutation a bijection for every small n. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/rng.h"

/* Random123's kat_vectors for philox4x32 with 10 rounds: counter, key, answer. Counter words are (position low,
 * position high, stream, purpose), key words (seed low, seed high). */
static void known_answers(void **state) {
    (void)state;
    static const uint32_t kat[3][10] = {
        {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
        {~0u, ~0u, ~0u, ~0u, ~0u, ~0u, 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
        {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09, 0x94fdcceb, 0x5001e420,
         0x24126ea1},
    };
    for (int i = 0; i < 3; i++) {
        const uint32_t *k = kat[i];
        tl_u32x4 got = tl__philox((uint64_t)k[5] << 32 | k[4], (tl_rng_purpose)k[3], k[2], (uint64_t)k[1] << 32 | k[0]);
        assert_memory_equal(got.v, k + 6, sizeof got.v);
    }
}

static void uniforms(void **state) {
    (void)state;
    double sum = 0;
    enum { N = 100000 };
    for (int i = 0; i < N; i++) {
        float u = tl__uniform_f32(7, TL_RNG_SAMPLE, 3, (uint64_t)i);
        assert_true(u >= 0 && u < 1);
        assert_true(u * 0x1p24f == floorf(u * 0x1p24f));
        sum += u;
    }
    assert_true(fabs(sum / N - 0.5) < 5 * sqrt(1.0 / 12 / N)); /* five standard errors */
}

/* Number i from its definition, in double (the group of 64, its counter and its words), and its radius. */
static double normal_in_double(uint64_t seed, uint32_t stream, uint64_t i, double *radius) {
    uint64_t k = i / 16 % 4;
    tl_u32x4 w = tl__philox(seed, TL_RNG_INIT, stream, i / 64 * 16 + i % 16);
    double u = ((w.v[k & 2] >> 1) + 0.5) * 0x1p-31, angle = 2 * M_PI * (w.v[(k & 2) + 1] * 0x1p-32);
    *radius = sqrt(-2 * log(u));
    return *radius * (k & 1 ? sin(angle) : cos(angle));
}

/* z = r·trig, r = √(−2 ln u). Rounding u to a float changes ln u by at most 2⁻²⁴, so r by 2⁻²⁴/r. Then, in units of
 * 2⁻²⁴·r: half of what ln is off (2), the root (1), the cosine (2, its angle's rounding included), the product (1);
 * they do not all point one way, and 4 is allowed (3.3 was the largest of four million). */
static void normals_are_right(void **state) {
    (void)state;
    enum { N = 1 << 18 };
    float *z = malloc(N * sizeof *z);
    tl__normal_fill(z, N, 0, 1, 0x123456789abcdef, 42, 0);
    double sum = 0, square = 0, cube = 0, fourth = 0, largest = 0;
    for (int i = 0; i < N; i++) {
        double r, want = normal_in_double(0x123456789abcdef, 42, (uint64_t)i, &r);
        double allowed = 4 * 0x1p-24 * r + 0x1p-24 / r;
        if (!(fabs(z[i] - want) <= allowed)) fail_msg("number %d is %.9g, not %.9g", i, z[i], want);
        double x = z[i];
        sum += x, square += x * x, cube += x * x * x, fourth += x * x * x * x;
        if (fabs(x) > largest) largest = fabs(x);
    }
    /* moments of N(0, 1): 0, 1, 0, 3 with variances 1, 2, 15, 96; five standard errors each */
    double e = 5 / sqrt((double)N);
    assert_true(fabs(sum / N) < e && fabs(square / N - 1) < e * sqrt(2));
    assert_true(fabs(cube / N) < e * sqrt(15) && fabs(fourth / N - 3) < e * sqrt(96));
    assert_true(largest > 4 && largest <= 6.67);
    free(z);
}

static void any_split_is_the_same(void **state) {
    (void)state;
    enum { N = 1000 };
    float whole[N + 200], cut[N];
    const uint64_t starts[] = {0, 1, 63, 64, 65, 1000003, ((uint64_t)1 << 36) - 70, ((uint64_t)1 << 40) + 5};
    for (size_t s = 0; s < sizeof starts / sizeof *starts; s++) {
        tl__normal_fill(whole, N + 200, 0.5f, 0.02f, 99, 7, starts[s]);
        for (size_t piece = 1; piece < N; piece = piece * 2 + 1) {
            for (size_t at = 0; at < N; at += piece)
                tl__normal_fill(cut + at, piece < N - at ? piece : N - at, 0.5f, 0.02f, 99, 7, starts[s] + at);
            assert_memory_equal(whole, cut, sizeof cut);
        }
    }
    float other[64], same[64];
    tl__normal_fill(same, 64, 0, 1, 99, 7, 0);
    tl__normal_fill(other, 64, 0, 1, 99, 8, 0);
    assert_memory_not_equal(same, other, sizeof same);
    tl__normal_fill(other, 64, 0, 1, 100, 7, 0);
    assert_memory_not_equal(same, other, sizeof same);
    tl__normal_fill(other, 64, 0, 1, 99 + ((uint64_t)1 << 32), 7, 0);
    assert_memory_not_equal(same, other, sizeof same);
    tl__normal_fill(NULL, 0, 0, 1, 99, 7, 3);
}

/* The bits are part of the recorded format: a run resumed with another build must start from the same weights. */
static void bits_are_fixed(void **state) {
    (void)state;
    float z[64];
    uint32_t bits[64], mix = 0;
    tl__normal_fill(z, 64, 0, 0.02f, 1, 0, 0);
    memcpy(bits, z, sizeof z);
    for (int i = 0; i < 64; i++) mix = (mix << 5 | mix >> 27) ^ bits[i];
    assert_int_equal(mix, 0x89aaf278);
}

static void bijections(void **state) {
    (void)state;
    static unsigned char seen[5000];
    for (uint64_t n = 1; n < 5000; n = n < 300 ? n + 1 : n * 2 - 7) {
        memset(seen, 0, sizeof seen);
        for (uint64_t i = 0; i < n; i++) {
            uint64_t p = tl__permute(i, n, 5, 1);
            assert_true(p < n && !seen[p]);
            seen[p] = 1;
        }
    }
    const uint64_t large[] = {((uint64_t)1 << 32) + 1, ((uint64_t)1 << 62) + 3, UINT64_MAX};
    for (int k = 0; k < 3; k++)
        for (uint64_t i = 0; i < 100; i++) assert_true(tl__permute(large[k] - 1 - i, large[k], 5, 1) < large[k]);
}

/* Shuffled: no more fixed points, kept neighbours or agreement between epochs than chance gives. */
static void orders_differ(void **state) {
    (void)state;
    enum { N = 10000 };
    int fixed = 0, neighbours = 0, epochs = 0, seeds = 0;
    double correlation = 0;
    for (uint64_t i = 0; i < N; i++) {
        uint64_t p = tl__permute(i, N, 11, 0);
        fixed += p == i;
        epochs += p == tl__permute(i, N, 11, 1);
        seeds += p == tl__permute(i, N, 12, 0);
        neighbours += i + 1 < N && tl__permute(i + 1, N, 11, 0) == p + 1;
        correlation += ((double)i - (N - 1) / 2.0) * ((double)p - (N - 1) / 2.0);
    }
    correlation /= ((double)N * N - 1) / 12 * N;
    /* each count is Poisson with mean 1: 10 or more has probability 1e-7; correlation has deviation 1/√N */
    assert_true(fixed < 10 && neighbours < 10 && epochs < 10 && seeds < 10);
    assert_true(fabs(correlation) < 5 / sqrt((double)N));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_answers),         cmocka_unit_test(uniforms),       cmocka_unit_test(normals_are_right),
        cmocka_unit_test(any_split_is_the_same), cmocka_unit_test(bits_are_fixed), cmocka_unit_test(bijections),
        cmocka_unit_test(orders_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
