/* peak.c — owns the measuring loops of one instruction set; compiled once for each.
 *
 * Promises: the FMA and dot loops touch registers alone. Twelve chains cover the latency of two units (4 cycles × 2 =
 * 8, a dot 6 × 2 = 12), and with the two constants they fit AVX2's sixteen registers. */
#include "kernels/peak.h"

#include "kernels/cpu/amx.h"
#include "kernels/simd.h"

#if defined(TL_ISA_avx512)
typedef __m512 lanes;
typedef __m512i words;
enum { WIDTH = 16 };
#define SPREAD _mm512_set1_ps
#define FMA _mm512_fmadd_ps
#define XOR _mm512_xor_si512
#define LOAD(p) _mm512_load_si512(p)
#else
typedef __m256 lanes;
typedef __m256i words;
enum { WIDTH = 8 };
#define SPREAD _mm256_set1_ps
#define FMA _mm256_fmadd_ps
#define XOR _mm256_xor_si256
#define LOAD(p) _mm256_load_si256((const __m256i *)(p))
#endif

enum { CHAINS = 12, UNROLL = 8, STREAMS = 8 };

#if !defined(TL_ISA_avx512_vnni) && !defined(TL_ISA_avx512_bf16) && !defined(TL_ISA_amx)
double TL_NAME(fma_peak)(int64_t rounds, float *sink) {
    volatile float seed = 0.5f; /* the chains run towards 1; see kernels/peak.c */
    lanes m = SPREAD(seed), a = SPREAD(seed), x[CHAINS];
    for (int i = 0; i < CHAINS; i++) x[i] = SPREAD(seed + (float)i);
    for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 8
        for (int u = 0; u < UNROLL; u++) {
#pragma GCC unroll 12
            for (int i = 0; i < CHAINS; i++) x[i] = FMA(x[i], m, a);
        }
    }
    lanes sum = x[0];
    for (int i = 1; i < CHAINS; i++) sum = FMA(x[i], m, sum);
    *sink = sum[0] + sum[WIDTH - 1];
    return 2.0 * WIDTH * CHAINS * UNROLL * (double)rounds;
}

#endif

#if defined(TL_ISA_avx512_bf16)
double TL_NAME(dot_peak)(int64_t rounds, float *sink) {
    volatile float seed = 0.5f;
    const float s = seed;
    /* Pairs (s, −s) and (s, s): both products cancel, and the chains stay where they are. */
    const __m512 half = SPREAD(s), minus = _mm512_xor_ps(half, SPREAD(-0.0f));
    const __m512bh p = _mm512_cvtne2ps_pbh(half, half);
    const __m512bh m =
        (__m512bh)_mm512_mask_blend_epi16(0xaaaaaaaau, (__m512i)p, (__m512i)_mm512_cvtne2ps_pbh(minus, minus));
    lanes x[CHAINS];
    for (int i = 0; i < CHAINS; i++) x[i] = SPREAD(s + (float)i);
    for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 8
        for (int u = 0; u < UNROLL; u++) {
#pragma GCC unroll 12
            for (int i = 0; i < CHAINS; i++) x[i] = _mm512_dpbf16_ps(x[i], m, p);
        }
    }
    lanes sum = x[0];
    for (int i = 1; i < CHAINS; i++) sum = _mm512_add_ps(sum, x[i]);
    *sink = sum[0] + sum[WIDTH - 1];
    return 4.0 * WIDTH * CHAINS * UNROLL * (double)rounds;
}
#endif

#if defined(TL_ISA_amx)
/* Four products of full tiles, each into a tile of its own, from two tiles of each factor; `k` of them at a time. */
#define TILE_PEAK(name, dot, k)                                                                                        \
    double TL_NAME(name)(int64_t rounds, float *sink) {                                                                \
        tile_config config = {.palette = 1};                                                                           \
        for (int t = 0; t < 8; t++) config.row_bytes[t] = 64, config.rows[t] = 16;                                     \
        tiles_configure(&config);                                                                                      \
        for (int64_t r = 0; r < rounds; r++) {                                                                         \
            _Pragma("GCC unroll 8") for (int u = 0; u < UNROLL; u++)                                                   \
                __asm__ volatile(dot " %tmm4, %tmm6, %tmm0\n\t" dot " %tmm4, %tmm7, %tmm1\n\t" dot                    \
                                     " %tmm5, %tmm6, %tmm2\n\t" dot " %tmm5, %tmm7, %tmm3");                           \
        }                                                                                                              \
        tiles_close();                                                                                                 \
        *sink = 0;                                                                                                     \
        return 2.0 * 16 * 16 * k * 4 * UNROLL * (double)rounds;                                                        \
    }
TILE_PEAK(int8_peak, "tdpbusd", 64)
TILE_PEAK(dot_peak, "tdpbf16ps", 32)
#elif !defined(TL_ISA_avx512_bf16)
double TL_NAME(int8_peak)(int64_t rounds, float *sink) {
    volatile int seed = 0x01010101;
    words x[CHAINS], a, b;
#if defined(TL_ISA_avx512)
    a = b = _mm512_set1_epi32(seed);
#else
    a = b = _mm256_set1_epi32(seed);
#endif
    for (int i = 0; i < CHAINS; i++) x[i] = a;
    for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 8
        for (int u = 0; u < UNROLL; u++) {
#pragma GCC unroll 12
            for (int i = 0; i < CHAINS; i++) {
#if defined(TL_ISA_avx512_vnni)
                x[i] = _mm512_dpbusd_epi32(x[i], a, b);
#elif defined(TL_ISA_avx512)
                __asm__("" : "+v"(a)); /* each product is made anew */
                x[i] = _mm512_add_epi32(x[i], _mm512_madd_epi16(_mm512_maddubs_epi16(a, b), _mm512_set1_epi16(1)));
#else
                __asm__("" : "+x"(a));
                x[i] = _mm256_add_epi32(x[i], _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)));
#endif
            }
        }
    }
    words sum = x[0];
    for (int i = 1; i < CHAINS; i++) sum = XOR(sum, x[i]);
    *sink = (float)sum[0];
    return 2.0 * 4 * WIDTH * CHAINS * UNROLL * (double)rounds;
}
#endif

#if !defined(TL_ISA_avx512_vnni) && !defined(TL_ISA_avx512_bf16) && !defined(TL_ISA_amx)
void TL_NAME(read_peak)(const void *from, size_t bytes, uint64_t *sink) {
    const char *p = from;
    words x[STREAMS] = {0};
    for (size_t at = 0; at < bytes; at += STREAMS * sizeof(words)) {
#pragma GCC unroll 8
        for (int i = 0; i < STREAMS; i++) x[i] = XOR(x[i], LOAD(p + at + (size_t)i * sizeof(words)));
    }
    for (int i = 1; i < STREAMS; i++) x[0] = XOR(x[0], x[i]);
    *sink = (uint64_t)x[0][0];
}
#endif
