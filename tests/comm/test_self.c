/* test_self.c — one rank alone keeps the rules of many: numbered collectives, honest tickets, abort for good. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>
#include "comm/comm.h"

static void a_sum_over_one_rank_changes_nothing(void **state) {
    (void)state;
    tl_comm *c;
    assert_int_equal(tl__comm_open_self(&c, NULL), 0);
    for (int axis = 0; axis < TL_AXES; axis++) {
        assert_int_equal(tl__comm_rank(c, axis), 0);
        assert_int_equal(tl__comm_size(c, axis), 1);
    }
    /* Bits, not values: −0, a denormal and NaN's payload must come back as they went in. */
    uint32_t before[5] = {0x80000000u, 1u, 0x7fc12345u, 0x3f800000u, 0xff800000u};
    float f[5];
    double d[2] = {-0.0, 1e-310}, d_before[2] = {-0.0, 1e-310};
    memcpy(f, before, sizeof f);
    tl_ticket t1, t2, t3;
    assert_int_equal(tl__comm_sum_start(c, TL_AXIS_DP, f, 5, &t1, NULL), 0);
    assert_int_equal(tl__comm_sum_f64_start(c, TL_AXIS_TP, d, 2, &t2, NULL), 0);
    assert_int_equal(tl__comm_sum_start(c, TL_AXIS_DP, NULL, 0, &t3, NULL), 0);
    assert_int_equal(t1.sequence, 1);
    assert_int_equal(t2.sequence, 2);
    assert_int_equal(tl__comm_sequence(c), 3);
    assert_int_equal(tl__comm_wait(c, t2, 0, NULL), 0); /* in any order */
    assert_int_equal(tl__comm_wait(c, t1, 0, NULL), 0);
    assert_memory_equal(f, before, sizeof f);
    assert_memory_equal(d, d_before, sizeof d);
    tl__comm_close(c);
}

static void only_started_tickets_can_be_waited_for(void **state) {
    (void)state;
    tl_comm *c;
    tl_error err;
    assert_int_equal(tl__comm_open_self(&c, NULL), 0);
    assert_int_equal(tl__comm_wait(c, (tl_ticket){0}, 0, &err), TL_EINVALID);
    assert_int_equal(tl__comm_wait(c, (tl_ticket){1}, 0, &err), TL_EINVALID);
    tl__comm_close(c);
}

static void abort_is_for_good_and_the_first_reason_wins(void **state) {
    (void)state;
    tl_comm *c;
    tl_error err = {0};
    tl_ticket pending, later;
    float x = 1;
    assert_int_equal(tl__comm_open_self(&c, NULL), 0);
    assert_int_equal(tl__comm_sum_start(c, TL_AXIS_DP, &x, 1, &pending, NULL), 0);
    tl__comm_abort(c, "rank 3 is out of memory");
    tl__comm_abort(c, "another reason");
    assert_true(tl__comm_wait(c, pending, 0, &err) < 0);
    assert_non_null(strstr(err.text, "rank 3 is out of memory"));
    assert_true(tl__comm_sum_start(c, TL_AXIS_DP, &x, 1, &later, NULL) < 0);
    assert_int_equal(later.sequence, 0);
    assert_int_equal(tl__comm_sequence(c), 1);
    tl__comm_close(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sum_over_one_rank_changes_nothing),
        cmocka_unit_test(only_started_tickets_can_be_waited_for),
        cmocka_unit_test(abort_is_for_good_and_the_first_reason_wins),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
