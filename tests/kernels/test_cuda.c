/* test_cuda.c — the device's operator table, here that of the device which one thread plays: no operator of it is
 * ref's. What the operators compute is in the tests of each, which take "cuda" as one more instruction set. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include "kernels/ops.h"

#define ENTRIES(X)                                                                                                     \
    X(gemm)                                                                                                            \
    X(gemm_bf16) X(linear_f32) X(linear_f16) X(linear_bf16) X(linear_quantised) X(bias_backward) X(embed)              \
        X(embed_stored) X(embed_backward) X(rmsnorm) X(rmsnorm_backward) X(layernorm) X(layernorm_backward)            \
            X(head_norm) X(head_norm_backward) X(rope) X(kv_store) X(attention) X(attention_backward) X(gelu)          \
                X(gelu_backward) X(swiglu) X(swiglu_backward) X(geglu) X(geglu_backward) X(add) X(softcap) X(route)    \
                    X(route_backward) X(dispatch) X(gather) X(combine) X(expert_swiglu) X(expert_swiglu_backward)      \
                        X(softmax_loss) X(weigh) X(sum_squares) X(adamw) X(blend)

typedef void entry(void);
#define PLACE(name) {#name, offsetof(tl_ops, name)},
static const struct {
    const char *name;
    size_t offset;
} entries[] = {ENTRIES(PLACE)};
enum { ENTRIES_COUNT = sizeof entries / sizeof *entries };
_Static_assert(sizeof(tl_ops) == sizeof(const char *) + ENTRIES_COUNT * sizeof(entry *),
               "an entry of the table is not listed here");

static void test_no_operator_is_refs(void **state) {
    const tl_ops *cuda, *ref;
    tl_error err;
    char still[1024] = "";
    if (tl__ops_select(&cuda, "cuda", &err)) {
#ifdef TL_CUDA_PLAYED
        fail_msg("%s", err.text);
#endif
        skip(); /* no module, or no device behind it */
    }
    assert_int_equal(tl__ops_select(&ref, "ref", &err), 0);
    for (int i = 0; i < ENTRIES_COUNT; i++) {
        const char *a = (const char *)cuda + entries[i].offset, *b = (const char *)ref + entries[i].offset;
        if (!strcmp(entries[i].name, "weigh"))
            continue; /* tokens are drawn by the CPU */
        if (!memcmp(a, b, sizeof(entry *)))
            snprintf(still + strlen(still), sizeof still - strlen(still), " %s", entries[i].name);
    }
    if (*still) fail_msg("still ref's:%s", still);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_operator_is_refs),
    };
    return cmocka_run_group_tests_name("cuda", tests, NULL, NULL);
}
