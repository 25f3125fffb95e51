/* test_shard.c — who owns which parameter: evenly, the same on every call, and in runs that a step can send. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "plan/shard.h"

static const char *const models[] = {"tiny", "gpt2-124m", "smollm2-135m", "qwen3-0.6b", "moe-50m"};

static void open_params(tl_arch *arch, tl_params *params, const char *name) {
    assert_int_equal(tl__arch_open(arch, name, NULL), 0);
    if (arch->V == 1) arch->V = 300;
    assert_int_equal(tl__params_make(params, arch, NULL), 0);
}

/* Blocks are all the parameters, in order, each layer's its own. */
static void test_blocks(void **state) {
    (void)state;
    for (size_t m = 0; m < sizeof models / sizeof *models; m++) {
        tl_arch arch;
        tl_params params;
        int at = 0, first, end;
        open_params(&arch, &params, models[m]);
        for (int b = 0; b < arch.L + 2; b++) {
            tl__param_block(&first, &end, &params, arch.L, b);
            assert_int_equal(first, at);
            assert_true(end > first);
            for (int i = first; i < end; i++)
                assert_int_equal(params.list[i].layer, b >= 1 && b <= arch.L ? b - 1 : -1);
            at = end;
        }
        assert_int_equal(at, params.n);
        tl__params_free(&params);
    }
}

static void test_owners_are_balanced(void **state) {
    (void)state;
    for (size_t m = 0; m < sizeof models / sizeof *models; m++)
        for (int ranks = 1; ranks <= 9; ranks++) {
            tl_arch arch;
            tl_params params;
            int64_t load[9] = {0}, least = INT64_MAX, most = 0, largest = 0, unit = 0;
            open_params(&arch, &params, models[m]);
            int *owner = calloc((size_t)params.n, sizeof *owner), *again = calloc((size_t)params.n, sizeof *again);
            tl__shard_owners(owner, &params, arch.L, ranks);
            memset(again, 0x55, sizeof *again * (size_t)params.n);
            tl__shard_owners(again, &params, arch.L, ranks);
            assert_memory_equal(owner, again, sizeof *owner * (size_t)params.n);
            for (int i = 0; i < params.n; i++) {
                assert_in_range(owner[i], 0, ranks - 1);
                load[owner[i]] += params.list[i].count;
                if (params.list[i].dims == 2) unit = 0; /* a unit is at most a matrix and the vectors about it */
                unit += params.list[i].count;
                if (unit > largest) largest = unit;
                if (params.list[i].dims == 1 && i > 0 && params.list[i].layer == params.list[i - 1].layer &&
                    params.list[i - 1].dims == 2)
                    assert_int_equal(owner[i], owner[i - 1]);
            }
            for (int r = 0; r < ranks; r++) {
                least = load[r] < least ? load[r] : least;
                most = load[r] > most ? load[r] : most;
            }
            assert_true(most - least <= largest + 8 * arch.C); /* vectors before a layer's first matrix */
            free(owner), free(again);
            tl__params_free(&params);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_blocks), cmocka_unit_test(test_owners_are_balanced)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
