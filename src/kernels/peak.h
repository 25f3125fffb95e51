/* peak.h — the loops that find out what a machine can do: fused multiply-adds, bf16 dots and byte dots that never leave the
 * registers, and a read that never hits a cache. Results are thrown away; what counts is how long they take (observe/machine.c holds the
 * clock). */
#ifndef TL_KERNELS_PEAK_H
#define TL_KERNELS_PEAK_H

#include <stddef.h>
#include <stdint.h>

typedef struct tl_peak {
    const char *isa;
    /* `rounds` rounds of independent f32 FMAs, enough of them in flight to hide the latency of two units; returns the
     * FLOPs done. *sink takes the result so that no compiler drops the work. */
    double (*fma)(int64_t rounds, float *sink);
    /* The same of pairs of bf16; NULL: there is no instruction for it, and a product in bf16 is made of f32 FMAs. */
    double (*dot)(int64_t rounds, float *sink);
    /* Products of bytes summed in int32; each counts two operations. NULL: there is no instruction for it. */
    double (*int8)(int64_t rounds, float *sink);
    /* Read bytes (a multiple of 1024, 64-byte aligned) once, front to back, with the widest plain loads. */
    void (*read)(const void *from, size_t bytes, uint64_t *sink);
} tl_peak;

/* The loops for an operator table's name ("ref", "avx2", "avx512", …); NULL for a name this build does not know. The CPU
 * must have the instruction set: ask with the name of a table that tl__ops_select gave out. */
const tl_peak *tl__peak_select(const char *isa);

double tl__fma_peak_ref(int64_t rounds, float *sink);
double tl__fma_peak_avx2(int64_t rounds, float *sink);
double tl__fma_peak_avx512(int64_t rounds, float *sink);
double tl__dot_peak_avx512_bf16(int64_t rounds, float *sink);
double tl__dot_peak_amx(int64_t rounds, float *sink);
double tl__int8_peak_avx2(int64_t rounds, float *sink);
double tl__int8_peak_avx512(int64_t rounds, float *sink);
double tl__int8_peak_avx512_vnni(int64_t rounds, float *sink);
double tl__int8_peak_amx(int64_t rounds, float *sink);
void tl__read_peak_ref(const void *from, size_t bytes, uint64_t *sink);
void tl__read_peak_avx2(const void *from, size_t bytes, uint64_t *sink);
void tl__read_peak_avx512(const void *from, size_t bytes, uint64_t *sink);

#endif
