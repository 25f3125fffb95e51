/* test_fault.c — planned faults: what is read, what is refused, and that a flip changes one bit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "train/fault.h"

static void faults_are_read(void **state) {
    tl_faults f;
    tl_error err = {0};
    (void)state;
    assert_int_equal(tl__faults_parse(&f, NULL, 0, &err), 0);
    assert_int_equal(f.n, 0);
    assert_int_equal(tl__faults_parse(&f, "", 0, &err), 0);
    assert_int_equal(f.n, 0);
    assert_int_equal(tl__faults_parse(&f,
                                      "kill:rank=1,step=5;sleep:rank=0,step=2,seconds=0.5,at=update;"
                                      "flip:rank=2,step=9;flip:rank=2,step=9,at=weights;exit:rank=3,step=1,status=7;"
                                      "stop:rank=1,step=6,restart=1",
                                      0, &err),
                     0);
    assert_int_equal(f.n, 5);
    assert_true(f.list[0].kind == TL_FAULT_KILL && f.list[0].rank == 1 && f.list[0].step == 5 &&
                f.list[0].at == TL_AT_BEGIN);
    assert_true(f.list[1].kind == TL_FAULT_SLEEP && f.list[1].seconds == 0.5 && f.list[1].at == TL_AT_UPDATE);
    assert_true(f.list[2].kind == TL_FAULT_FLIP && f.list[2].at == TL_AT_GRADIENT);
    assert_true(f.list[3].kind == TL_FAULT_FLIP && f.list[3].at == TL_AT_WEIGHTS);
    assert_true(f.list[4].kind == TL_FAULT_EXIT && f.list[4].status == 7);
    assert_int_equal(tl__faults_parse(&f, "kill:rank=1,step=5;stop:rank=1,step=6,restart=1", 1, &err), 0);
    assert_true(f.n == 1 && f.list[0].kind == TL_FAULT_STOP);
}

static void anything_else_is_refused(void **state) {
    static const char *const wrong[] = {"kill",
                                        "kill:",
                                        "kill:rank=1",
                                        "kill:step=1",
                                        "kill:rank=1,step=0",
                                        "kill:rank=-1,step=1",
                                        "kill:rank=1,step=1,",
                                        "kill:rank=1,step=1;;",
                                        ";",
                                        "kill:rank=1,rank=1,step=1",
                                        "kill:rank=1,step=1e3",
                                        "kill:rank=1,step=99999999999999999999999999999",
                                        "kill:rank=1,step=1,at=noon",
                                        "kill:rank=1,step=1,at=weights",
                                        "kill:rank=1,step=1,seconds=1",
                                        "kill:rank=1,step=1,status=1",
                                        "exit:rank=1,step=1,status=256",
                                        "sleep:rank=1,step=1",
                                        "sleep:rank=1,step=1,seconds=1.2.3",
                                        "sleep:rank=1,step=1,seconds=nan",
                                        "flip:rank=1,step=1,at=begin",
                                        "flop:rank=1,step=1",
                                        "kill:rank=0x1,step=1",
                                        " kill:rank=1,step=1",
                                        "kill:rank=1 ,step=1"};
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        tl_faults f;
        tl_error err = {0};
        assert_int_equal(tl__faults_parse(&f, wrong[i], 0, &err), TL_EINVALID);
        assert_non_null(strstr(err.text, "TRILITH_FAULT"));
    }
    char many[800] = "";
    for (int i = 0; i <= TL_MOST_FAULTS; i++) strcat(many, "kill:rank=1,step=1;");
    tl_faults f;
    assert_int_equal(tl__faults_parse(&f, many, 0, NULL), TL_EINVALID);
}

static void one_bit_is_flipped_where_it_is_planned(void **state) {
    tl_faults f;
    float before[8] = {1, 2, 3, 4, 0, 0, 0.5f, 8}, x[8];
    (void)state;
    memcpy(x, before, sizeof x);
    assert_int_equal(tl__faults_parse(&f, "flip:rank=0,step=3", 0, NULL), 0);
    tl__faults_act(&f, TL_AT_GRADIENT, 2, x, 8);
    tl__faults_act(&f, TL_AT_WEIGHTS, 3, x, 8);
    tl__faults_act(&f, TL_AT_GRADIENT, 3, NULL, 0);
    assert_memory_equal(x, before, sizeof x);
    tl__faults_act(&f, TL_AT_GRADIENT, 3, x, 8);
    int bits = 0;
    for (size_t i = 0; i < sizeof x; i++)
        bits += __builtin_popcount((unsigned)(((unsigned char *)x)[i] ^ ((unsigned char *)before)[i]));
    assert_int_equal(bits, 1);
    assert_true(x[6] != before[6]);
}

static void the_environment_is_read_for_one_rank(void **state) {
    tl_faults f;
    (void)state;
    setenv("TRILITH_LOG", "error", 1);
    setenv("TRILITH_FAULT", "kill:rank=1,step=5;flip:rank=0,step=5,restart=2", 1);
    assert_int_equal(tl__faults_open(&f, 0, NULL), 0);
    assert_int_equal(f.n, 0);
    setenv("TRILITH_RESTART", "2", 1);
    assert_int_equal(tl__faults_open(&f, 0, NULL), 0);
    assert_int_equal(f.n, 1);
    setenv("TRILITH_RESTART", "two", 1);
    assert_int_equal(tl__faults_open(&f, 0, NULL), TL_EINVALID);
    unsetenv("TRILITH_RESTART");
    unsetenv("TRILITH_FAULT");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(faults_are_read),
        cmocka_unit_test(anything_else_is_refused),
        cmocka_unit_test(one_bit_is_flipped_where_it_is_planned),
        cmocka_unit_test(the_environment_is_read_for_one_rank),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
