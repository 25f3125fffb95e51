/* elementary16_check.h — the body of test_elementary16_avx2.c and …_avx512.c, which name the instruction set: the
 * vector forms of the elementary functions equal the scalar ones to the bit, on floats 1031 apart by bit pattern and
 * every kind of special value among them. Only check_one is compiled for the instruction set, so that main may run
 * anywhere. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>
#include "base/elementary.h"
#include "kernels/ops.h"

#pragma GCC push_options
#if defined(TL_ISA_avx512)
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")
#define ISA_NAME "avx512"
#else
#pragma GCC target("avx2,fma")
#define ISA_NAME "avx2"
#endif
#include "kernels/cpu/elementary16.h"

static void check_one(int which, const float in[16], float out[16]) {
    const v16 x = v16_load(in);
    v16_store(out, which == 0 ? v16_exp(x) : which == 1 ? v16_tanh(x) : which == 2 ? v16_erf(x) : v16_sigmoid(x));
}
#pragma GCC pop_options

static float (*const scalar[4])(float) = {tl__exp, tl__tanh, tl__erf, tl__sigmoid};
static const char *const names[4] = {"exp", "tanh", "erf", "sigmoid"};

static void check_bits(int which, const float in[16]) {
    float out[16];
    check_one(which, in, out);
    for (int j = 0; j < 16; j++) {
        const float want = scalar[which](in[j]);
        if (memcmp(&out[j], &want, sizeof want) && !(isnan(out[j]) && isnan(want)))
            fail_msg("%s(%a) = %a in lane %d, expected %a", names[which], in[j], out[j], j, want);
    }
}

static void test_same_bits(void **state) {
    const tl_ops *ops;
    tl_error err;
    if (tl__ops_select(&ops, ISA_NAME, &err)) skip(); /* this CPU has it not */
    for (int which = 0; which < 4; which++) {
        float in[16];
        for (uint64_t i = 0; i < (uint64_t)1 << 32; i += 1031 * 16) {
            for (uint32_t j = 0; j < 16; j++) {
                const uint32_t bits = (uint32_t)i + 1031 * j;
                memcpy(&in[j], &bits, sizeof bits);
            }
            check_bits(which, in);
        }
        /* Where results underflow, overflow or change branch. */
        const float edges[] = {-87.33f, -103.97f, 88.72f, 9.02f, 0.55f, 0.921875f, 3.92f, 0.0f};
        for (size_t e = 0; e < sizeof edges / sizeof *edges; e++)
            for (int k = -2000; k < 2000; k += 16) {
                for (int j = 0; j < 16; j++) {
                    uint32_t bits;
                    memcpy(&bits, &edges[e], sizeof bits);
                    bits += (uint32_t)(k + j);
                    memcpy(&in[j], &bits, sizeof bits);
                }
                check_bits(which, in);
            }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_same_bits)};
    return cmocka_run_group_tests_name("elementary16 " ISA_NAME, tests, NULL, NULL);
}
