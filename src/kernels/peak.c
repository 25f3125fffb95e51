/* peak.c — owns the portable form of the measuring loops, and the choice among the forms. */
#include "kernels/peak.h"

#include <math.h>
#include <string.h>

enum { CHAINS = 8, UNROLL = 4 };

double tl__fma_peak_ref(int64_t rounds, float *sink) {
    /* Towards a/(1 − m) = 1: neither denormal nor infinite, however long it runs. Read through volatile so that no
     * value is known. */
    volatile float seed = 0.5f;
    float m = seed, a = seed, x[CHAINS];
    for (int i = 0; i < CHAINS; i++) x[i] = seed + (float)i;
    for (int64_t r = 0; r < rounds; r++)
        for (int u = 0; u < UNROLL; u++)
            for (int i = 0; i < CHAINS; i++) x[i] = fmaf(x[i], m, a);
    float sum = 0;
    for (int i = 0; i < CHAINS; i++) sum += x[i];
    *sink = sum;
    return 2.0 * CHAINS * UNROLL * (double)rounds;
}

void tl__read_peak_ref(const void *from, size_t bytes, uint64_t *sink) {
    const uint64_t *p = from;
    uint64_t x0 = 0, x1 = 0, x2 = 0, x3 = 0;
    for (size_t i = 0; i < bytes / 8; i += 8) {
        x0 ^= p[i] ^ p[i + 4];
        x1 ^= p[i + 1] ^ p[i + 5];
        x2 ^= p[i + 2] ^ p[i + 6];
        x3 ^= p[i + 3] ^ p[i + 7];
    }
    *sink = x0 ^ x1 ^ x2 ^ x3;
}

const tl_peak *tl__peak_select(const char *isa) {
    static const tl_peak forms[] = {
        {"ref", tl__fma_peak_ref, NULL, NULL, tl__read_peak_ref},
#ifdef TL_HAVE_X86_KERNELS
        {"avx2", tl__fma_peak_avx2, NULL, tl__int8_peak_avx2, tl__read_peak_avx2},
        {"avx512", tl__fma_peak_avx512, NULL, tl__int8_peak_avx512, tl__read_peak_avx512},
        {"avx512_vnni", tl__fma_peak_avx512, NULL, tl__int8_peak_avx512_vnni, tl__read_peak_avx512},
        {"avx512_bf16", tl__fma_peak_avx512, tl__dot_peak_avx512_bf16, tl__int8_peak_avx512_vnni, tl__read_peak_avx512},
        {"amx", tl__fma_peak_avx512, tl__dot_peak_amx, tl__int8_peak_amx, tl__read_peak_avx512},
#endif
    };
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        if (strcmp(isa, forms[i].isa) == 0) return &forms[i];
    return NULL;
}
