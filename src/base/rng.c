/* rng.c — owns every random number: Philox4x32-10, what is made of it, and the keyed permutation of the data order.
 *
 * Nothing here has state. The normals use only +, ×, ÷, √ and integer operations (no fused forms), so that one plain
 * loop gives the same bits in every vector width, and the compiler may choose the width. Built with -O3 for that
 * reason. */
#include "base/rng.h"

#include <assert.h>
#include <math.h>
#include <string.h>

/* ---- Philox4x32-10: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", §4.3 and table 2 ---- */

#define ALWAYS static inline __attribute__((always_inline))
#define PHILOX_M0 0xD2511F53u
#define PHILOX_M1 0xCD9E8D57u
#define PHILOX_W0 0x9E3779B9u
#define PHILOX_W1 0xBB67AE85u

/* One round of the bijection under round key (k0, k1). */
#define PHILOX_ROUND(c0, c1, c2, c3, k0, k1)                                                                           \
    do {                                                                                                               \
        uint64_t p0 = (uint64_t)PHILOX_M0 * (c0), p1 = (uint64_t)PHILOX_M1 * (c2);                                     \
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ (c1) ^ (k0), n2 = (uint32_t)(p0 >> 32) ^ (c3) ^ (k1);                     \
        (c1) = (uint32_t)p1, (c3) = (uint32_t)p0, (c0) = n0, (c2) = n2;                                                \
    } while (0)

tl_u32x4 tl__philox(uint64_t seed, tl_rng_purpose purpose, uint32_t stream, uint64_t position) {
    uint32_t c0 = (uint32_t)position, c1 = (uint32_t)(position >> 32), c2 = stream, c3 = (uint32_t)purpose;
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++, k0 += PHILOX_W0, k1 += PHILOX_W1) PHILOX_ROUND(c0, c1, c2, c3, k0, k1);
    return (tl_u32x4){{c0, c1, c2, c3}};
}

float tl__uniform_f32(uint64_t seed, tl_rng_purpose purpose, uint32_t stream, uint64_t position) {
    return (float)(tl__philox(seed, purpose, stream, position).v[0] >> 8) * 0x1p-24f;
}

/* ---- normals ----
 *
 * A group is 64 numbers from 16 counters: number 64g + 16k + j comes from counter 16g + j; its words 0 and 1 make the
 * pair k = 0 (cosine) and k = 1 (sine), words 2 and 3 the pair k = 2 and k = 3. So a group is four whole vectors of 16
 * and needs no shuffling, and a number depends on its index alone. */

enum { LANES = 16, GROUP = 4 * LANES };

/* Box and Muller 1958: √(−2 ln u)·(cos, sin)(2πv). u = (a + ½)·2⁻³¹ from the 31 high bits of one word, never 0 and
 * rounded to at most 1; |z| ≤ √(2·32·ln 2) = 6.66. v is a whole word, its eighths of a turn cut off exactly. The
 * error of z is at most 4·2⁻²⁴·r + 2⁻²⁴/r (tests/base/test_rng.c, with the reasons). */
ALWAYS void box_muller(float *restrict cosine, float *restrict sine, const uint32_t *restrict word_u,
                       const uint32_t *restrict word_v) {
    for (int j = 0; j < LANES; j++) {
        float u = ((float)(int32_t)(word_u[j] >> 1) + 0.5f) * 0x1p-31f;
        /* ln u = e·ln 2 + ln m, m in [√½, √2): ln m = 2 artanh s = 2s(1 + s²/3 + s⁴/5 + …), s = (m−1)/(m+1), |s| <
         * 0.172; the first term left out, s¹²/13, is 5·10⁻¹¹. */
        uint32_t bits;
        memcpy(&bits, &u, 4);
        int32_t e = (int32_t)(bits - 0x3f3504f3u) >> 23; /* √½ is 0x3f3504f3 */
        bits -= (uint32_t)e << 23;
        float m;
        memcpy(&m, &bits, 4);
        float s = (m - 1.0f) / (m + 1.0f), q = s * s;
        float series = ((((q * (1.0f / 11) + 1.0f / 9) * q + 1.0f / 7) * q + 1.0f / 5) * q + 1.0f / 3) * q;
        float ln_m = 2.0f * s + 2.0f * s * series;
        float ln_u = (float)e * 0.693359375f +
                     ((float)e * -2.12194440e-4f + ln_m); /* ln 2 in two parts: e·hi is exact; never above 0 */
        float r = sqrtf(-2.0f * ln_u);
        /* 2πv = quarter·π/2 + x, |x| ≤ π/4; Taylor to x¹¹ and x¹² (the next terms are below 10⁻¹¹). */
        uint32_t v = word_v[j], quarter = (v + (1u << 29)) >> 30;
        float x = (float)(int32_t)(v - (quarter << 30)) * 1.46291807926715968e-9f; /* 2π/2³² */
        float y = x * x;
        float sx = ((((y * (-1.0f / 39916800) + 1.0f / 362880) * y - 1.0f / 5040) * y + 1.0f / 120) * y - 1.0f / 6) * y;
        sx = x + x * sx;
        float cx =
            (((((y * (1.0f / 479001600) - 1.0f / 3628800) * y + 1.0f / 40320) * y - 1.0f / 720) * y + 1.0f / 24) * y -
             0.5f) *
                y +
            1.0f;
        uint32_t sbits, cbits;
        memcpy(&sbits, &sx, 4);
        memcpy(&cbits, &cx, 4);
        uint32_t odd = 0u - (quarter & 1), swap = (sbits ^ cbits) & odd; /* an odd quarter swaps them */
        cbits ^= swap, sbits ^= swap;
        cbits ^= ((quarter + 1) & 2) << 30; /* cosine is negative in quarters 1 and 2, sine in 2 and 3 */
        sbits ^= (quarter & 2) << 30;
        memcpy(&cx, &cbits, 4);
        memcpy(&sx, &sbits, 4);
        cosine[j] = r * cx, sine[j] = r * sx;
    }
}

/* Standard normals 64·first … 64·(first + groups) − 1 of a stream, scaled. */
ALWAYS void fill_groups(float *out, uint64_t first, size_t groups, float mean, float std, uint64_t seed,
                        uint32_t stream) {
    for (size_t g = 0; g < groups; g++, out += GROUP) {
        uint32_t w[4][LANES];
        float z[GROUP];
        uint64_t counter = (first + g) * LANES; /* its low 4 bits are 0: lanes never carry */
        for (int j = 0; j < LANES; j++) {
            uint32_t c0 = (uint32_t)counter + (uint32_t)j, c1 = (uint32_t)(counter >> 32), c2 = stream,
                     c3 = TL_RNG_INIT;
            uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
#pragma GCC unroll 10
            for (int round = 0; round < 10; round++, k0 += PHILOX_W0, k1 += PHILOX_W1)
                PHILOX_ROUND(c0, c1, c2, c3, k0, k1);
            w[0][j] = c0, w[1][j] = c1, w[2][j] = c2, w[3][j] = c3;
        }
        box_muller(z, z + LANES, w[0], w[1]);
        box_muller(z + 2 * LANES, z + 3 * LANES, w[2], w[3]);
        for (int i = 0; i < GROUP; i++) out[i] = mean + std * z[i];
    }
}

static void fill_plain(float *out, uint64_t first, size_t groups, float mean, float std, uint64_t seed,
                       uint32_t stream) {
    fill_groups(out, first, groups, mean, std, seed, stream);
}

#if defined(__x86_64__)
/* The same loop in eight lanes. AVX2 without FMA: there is nothing to contract. */
__attribute__((target("avx2"))) static void fill_avx2(float *out, uint64_t first, size_t groups, float mean, float std,
                                                      uint64_t seed, uint32_t stream) {
    fill_groups(out, first, groups, mean, std, seed, stream);
}
#endif

void tl__normal_fill(float *out, size_t n, float mean, float std, uint64_t seed, uint32_t stream, uint64_t offset) {
    void (*fill)(float *, uint64_t, size_t, float, float, uint64_t, uint32_t) = fill_plain;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) fill = fill_avx2;
#endif
    while (n) {
        uint64_t group = offset / GROUP;
        size_t skip = offset % GROUP, k;
        if (skip || n < GROUP) { /* a ragged end is cut from a whole group */
            float whole[GROUP];
            fill(whole, group, 1, mean, std, seed, stream);
            k = n < GROUP - skip ? n : GROUP - skip;
            memcpy(out, whole + skip, k * sizeof *out);
        } else {
            k = n / GROUP * GROUP;
            fill(out, group, n / GROUP, mean, std, seed, stream);
        }
        out += k, n -= k, offset += k;
    }
}

/* ---- the data order ---- */

/* Eight Feistel rounds (Luby and Rackoff 1988: four suffice for a strong pseudorandom permutation) over 2·half bits,
 * walked until the value falls below n (Black and Rogaway 2002): at most four steps on average, since 4^half < 4n. */
uint64_t tl__permute(uint64_t index, uint64_t n, uint64_t seed, uint32_t epoch) {
    assert(index < n);
    int half = 1;
    while (half < 32 && (uint64_t)1 << 2 * half < n) half++;
    uint64_t mask = ((uint64_t)1 << half) - 1;
    do {
        uint64_t left = index >> half, right = index & mask;
        for (uint64_t round = 0; round < 8; round++) {
            uint64_t next = left ^ (tl__philox(seed, TL_RNG_SHUFFLE, epoch, right | round << 32).v[0] & mask);
            left = right, right = next;
        }
        index = left << half | right;
    } while (index >= n);
    return index;
}
