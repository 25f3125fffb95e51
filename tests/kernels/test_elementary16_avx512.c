/* test_elementary16_avx512.c — the elementary functions of the avx512 kernels against base/elementary.c: elementary16_check.h. */
#if defined(__x86_64__)
#define TL_ISA avx512
#define TL_ISA_avx512 1
#include "elementary16_check.h"
#else
int main(void) {
    return 0; /* no such kernels here */
}
#endif
