/* tree.c — owns the order in which ranks are added: the binary tree over all leaves, of which each rank brings one
 * complete subtree (comm.h). Every addition is one f32 (or f64) addition, lower rank + higher rank (where two
 * NaN meet, whose payload stays is the processor's affair; no update is made from such a sum). */
#include "comm/backend.h"

#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define BLOCK 2048 /* elements at a time, so that a node is read back from the cache */

void tl__comm_number_mode(void) {
#if defined(__x86_64__)
    _mm_setcsr(0x1f80u);
#elif defined(__aarch64__)
    uint64_t none = 0;
    __asm__ volatile("msr fpcr, %0" ::"r"(none));
#endif
}

/* Nodes of the tree are kept in the memory of their lowest rank: first the pairs that share a subtree of the first cut,
 * then level by level. Node i of the first cut begins at rank i, behind the uncut ones at every second. */
#define ADD(name, real)                                                                                                \
    __attribute__((optimize("O3"))) static void name##_two(real *out, const real *x, const real *y, int64_t n) {       \
        _Pragma("GCC ivdep") for (int64_t i = 0; i < n; i++) out[i] = x[i] + y[i];                                     \
    }                                                                                                                  \
    void name(real *out, real *const *part, int size, int64_t n) {                                                     \
        if (size == 1 && n && out != part[0]) memcpy(out, part[0], (size_t)n * sizeof *out);                           \
        if (size == 1) return;                                                                                         \
        int whole = 2;                                                                                                 \
        while (2 * whole <= size) whole *= 2;                                                                          \
        int uncut = 2 * whole - size;                                                                                  \
        for (int64_t at = 0; at < n; at += BLOCK) {                                                                    \
            int64_t m = n - at < BLOCK ? n - at : BLOCK;                                                               \
            for (int r = uncut; r < size; r += 2) name##_two(part[r] + at, part[r] + at, part[r + 1] + at, m);         \
            for (int step = 1; step < whole; step *= 2)                                                                \
                for (int i = 0; i + step < whole; i += 2 * step) {                                                     \
                    int j = i + step;                                                                                  \
                    real *x = part[i < uncut ? i : 2 * i - uncut] + at, *y = part[j < uncut ? j : 2 * j - uncut] + at; \
                    name##_two(2 * step == whole ? out + at : x, x, y, m);                                             \
                }                                                                                                      \
        }                                                                                                              \
    }

ADD(tl__comm_add_f32, float)
ADD(tl__comm_add_f64, double)
