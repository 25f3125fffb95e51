/* rng.h — counter-based random numbers: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2,
 * 3").
 *
 * A number is a function of (seed, purpose, position) and of nothing else: no state to save, none to race on. */
#ifndef TL_BASE_RNG_H
#define TL_BASE_RNG_H

#include <stdint.h>
#include <stddef.h>

typedef enum tl_rng_purpose {                     /* values are part of the recorded format: never renumber */
                              TL_RNG_INIT = 1,    /* weight initialisation; stream = parameter index */
                              TL_RNG_SHUFFLE = 2, /* data order; stream = epoch */
                              TL_RNG_SAMPLE = 3,  /* token sampling; position = token position */
                              TL_RNG_TEST = 4,
} tl_rng_purpose;

typedef struct tl_u32x4 {
    uint32_t v[4];
} tl_u32x4;

/* Four 32-bit words for counter (position, stream, purpose) under key seed. */
tl_u32x4 tl__philox(uint64_t seed, tl_rng_purpose purpose, uint32_t stream, uint64_t position);

/* Uniform in [0, 1), 24 bits. */
float tl__uniform_f32(uint64_t seed, tl_rng_purpose purpose, uint32_t stream, uint64_t position);

/* out[i] = mean + std · z(offset + i), z standard normal by Box–Muller on our own polynomials; element i depends on
 * its index alone, so any split over threads gives the same bits. */
void tl__normal_fill(float *out, size_t n, float mean, float std, uint64_t seed, uint32_t stream, uint64_t offset);

/* A keyed permutation of [0, n): the data order's whole state is the index. Feistel network over the next power of four
 * with cycle walking; a bijection for every n ≥ 1. */
uint64_t tl__permute(uint64_t index, uint64_t n, uint64_t seed, uint32_t epoch);

#endif
