/* stored.h — quantised weights as the products read them: what a weight is made of, and how panels lie in memory.
 *
 * Every quantised type is one form: w = d·(q − zero) + o, with q of so many bits, unsigned; d and o belong to `sub`
 * elements of k (16 or 32). A table of sixteen values (IQ4) stands for q − zero instead.
 *
 *   panel   sixteen outputs over all of k; panels follow one another, each rounded up to 64 bytes
 *     quants    for each 32 of k, a group: 64 bytes for every bit of q, 64-byte aligned. A word is the 64 bytes of four k:
 *               output n's byte for k = 4·word + b is 4n + b, the order of vpdpbusd; a group has words 0 … 7.
 *                 8 bits   words 0 … 7 as they are
 *                 4 bits   four lines; line i holds word i in its low nibbles, word i + 4 in its high ones
 *                 2 bits   two lines; line i holds words i, i + 2, i + 4, i + 6 in its bit pairs, low first
 *               then, of types whose q has more bits than that, its high ones:
 *                 1 bit    one line, bit w for word w
 *                 2 bits   two lines as above
 *     scales    for each group, sixteen outputs side by side: d of the first half, of the second (sub = 16), then o
 *     supers    K-quants, for each 256 of k: what d and o are multiples of, f16
 *
 * So a product of one row reads a panel as two streams that only go forward, and sixteen outputs come from one
 * register without a sum across lanes. */
#ifndef TL_KERNELS_STORED_H
#define TL_KERNELS_STORED_H

#include "kernels/ops.h"

/* How d is written: f16; int8 times the super's f16; the low nibble of a byte times it. */
enum { TL_D_HALF, TL_D_INT8, TL_D_NIBBLE };
/* How o is: not at all (+0); f16; minus a byte times the super's second f16; minus the high nibble of d's byte times it. */
enum { TL_O_NONE, TL_O_HALF, TL_O_BYTE, TL_O_NIBBLE };

/* type, bits of q kept low, bits kept high, zero, sub, d, o, whether q − zero is looked up. */
#define TL_FORMS(X)                                                                                                    \
    X(Q8_0, 8, 0, 128, 32, TL_D_HALF, TL_O_NONE, 0)                                                                    \
    X(Q4_0, 4, 0, 8, 32, TL_D_HALF, TL_O_NONE, 0)                                                                      \
    X(Q4_1, 4, 0, 0, 32, TL_D_HALF, TL_O_HALF, 0)                                                                      \
    X(Q5_0, 4, 1, 16, 32, TL_D_HALF, TL_O_NONE, 0)                                                                     \
    X(Q5_1, 4, 1, 0, 32, TL_D_HALF, TL_O_HALF, 0)                                                                      \
    X(IQ4_NL, 4, 0, 128, 32, TL_D_HALF, TL_O_NONE, 1)                                                                  \
    X(Q2_K, 2, 0, 0, 16, TL_D_NIBBLE, TL_O_NIBBLE, 0)                                                                  \
    X(Q3_K, 2, 1, 4, 16, TL_D_INT8, TL_O_NONE, 0)                                                                      \
    X(Q4_K, 4, 0, 0, 32, TL_D_INT8, TL_O_BYTE, 0)                                                                      \
    X(Q5_K, 4, 1, 0, 32, TL_D_INT8, TL_O_BYTE, 0)                                                                      \
    X(Q6_K, 4, 2, 32, 16, TL_D_INT8, TL_O_NONE, 0)                                                                     \
    X(IQ4_XS, 4, 0, 128, 32, TL_D_INT8, TL_O_NONE, 1)

typedef struct tl_form {
    int low, high, zero, sub, d, o, looked_up;
} tl_form;
extern const tl_form tl__forms[TL_TYPES]; /* low = 0: not a quantised type */

/* IQ4's sixteen values of q − zero. */
extern const int8_t tl__iq4_values[16];

enum { TL_GROUP = 32, TL_SUPER = 256 };

/* ---- where things are in a panel ---- */

static inline int64_t tl_quants_bytes(const tl_form *f) { /* of a group */
    return 64 * (f->low + f->high);
}
static inline int64_t tl_scales_bytes(const tl_form *f) { /* of a group */
    return (f->d == TL_D_HALF ? 32 : 16 * TL_GROUP / f->sub) + (f->o == TL_O_HALF ? 32 : f->o == TL_O_BYTE ? 16 : 0);
}
static inline int64_t tl_supers_bytes(const tl_form *f) { /* of 256 of k */
    return f->d == TL_D_HALF ? 0 : f->o == TL_O_NONE ? 32 : 64;
}
static inline int64_t tl_panel_bytes(const tl_form *f, int K) {
    const int64_t groups = K / TL_GROUP;
    const int64_t bytes = groups * (tl_quants_bytes(f) + tl_scales_bytes(f)) + K / TL_SUPER * tl_supers_bytes(f);
    return (bytes + 63) / 64 * 64;
}

/* Group `group` of output n, in plain C: q − zero, and d and o of its halves (equal where sub is 32). */
void tl__unpack_group(int16_t q[TL_GROUP], float d[2], float o[2], const tl_stored *w, int n, int group);

/* A row of an embedding: x[C] = E[n]·scale, or fmaf(E[n], scale, p) if p. */
void tl__embed_row(float *x, const tl_stored *E, int n, const float *p, float scale);

#endif
