/* test_simd_avx512.c — simd.h as its avx512 kernels see it. The target is set for these functions only, and main runs on any CPU. */
#include <stdint.h>
#include <immintrin.h>
#define TL_ISA avx512
#define TL_ISA_avx512 1
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi,bmi2,f16c,avx512f,avx512bw,avx512cd,avx512dq,avx512vl")
#include "simd_checks.h"
#pragma GCC pop_options

int main(void) { return checks_run("avx512"); }
