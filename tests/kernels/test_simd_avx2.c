/* test_simd_avx2.c — simd.h as its avx2 kernels see it. The target is set for these functions only, and main runs on any CPU. */
#include <stdint.h>
#include <immintrin.h>
#define TL_ISA avx2
#define TL_ISA_avx2 1
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi,bmi2,f16c")
#include "simd_checks.h"
#pragma GCC pop_options

int main(void) { return checks_run("avx2"); }
