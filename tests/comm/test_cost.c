/* test_cost.c — what one rank sends another receives, whatever the collective, its size, and the number of ranks; sums
 * and reduces carry no more than twice the buffer, evenly. That the communicator moves just this is tests/comm/ranks.c,
 * case traffic. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "comm/cost.h"

static void what_is_sent_is_received(void **state) {
    (void)state;
    static const int64_t sizes[] = {0, 1, 64, 127, 128, 129, 513, 65537, 524288, 8388608, 38597376};
    for (int size = 1; size <= 9; size++)
        for (int kind = TL_COLLECTIVE_SUM; kind <= TL_COLLECTIVE_GATHER; kind++)
            for (int s = 0; s < 11; s++)
                for (int root = 0; root < size; root += 3) {
                    double sent = 0, received = 0;
                    for (int r = 0; r < size; r++) {
                        tl_comm_cost cost = tl__comm_cost((tl_collective)kind, sizes[s], size, r, root);
                        sent += cost.sent_bytes, received += cost.received_bytes;
                    }
                    assert_true(sent == received);
                    assert_true(size == 1 ? sent == 0 : sent > 0);
                }
}

static void a_sum_is_two_even_passes(void **state) {
    (void)state;
    const int64_t n = 10000000;
    for (int size = 2; size <= 8; size++)
        for (int r = 0; r < size; r++) {
            tl_comm_cost cost = tl__comm_cost(TL_COLLECTIVE_SUM, n, size, r, 0);
            double each_way = 2.0 * (size - 1) / size * 4.0 * (double)n;
            assert_true(fabs(cost.sent_bytes / each_way - 1) < 1e-3);
            assert_true(fabs(cost.received_bytes / each_way - 1) < 1e-3);
            cost = tl__comm_cost(TL_COLLECTIVE_REDUCE, n, size, r, 1);
            assert_true(fabs(cost.received_bytes / (each_way * (r == 1 ? 1 : 0.5)) - 1) < 1e-3);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_sent_is_received),
        cmocka_unit_test(a_sum_is_two_even_passes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
