/* test_supervise.c — what a supervisor hears in the words of a job, and what it decides. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "cli/cli.c"
#include "cli/cli_help.c"
#include "cli/cli_yaml.c"
#include "cli/mapped.c"
#include "cli/child.c"
#include "cli/supervise.c"

static bool lost[4];

static tl_job_news fresh(void) {
    memset(lost, 0, sizeof lost);
    return (tl_job_news){.ranks = 4, .lost = lost};
}

static int lost_ranks(void) {
    return lost[0] | lost[1] << 1 | lost[2] << 2 | lost[3] << 3;
}

static void the_launcher_names_who_was_killed(void **state) {
    static const char rule[] = "--------------------------------------------------------------------------";
    tl_job_news news = fresh();
    assert_false(tl__job_hear(&news, rule));
    assert_false(
        tl__job_hear(&news, "mpirun noticed that process rank 2 with PID 0 on node n7 exited on signal 9 (Killed)."));
    assert_false(tl__job_hear(&news, "This may have caused other processes to be terminated."));
    assert_false(tl__job_hear(&news, rule));
    assert_int_equal(lost_ranks(), 4);
    assert_string_equal(news.how, "killed by signal 9 on n7");
    assert_false(news.spoke);
    assert_true(tl__job_hear(&news, "step 1 of 10"));
    assert_true(news.spoke);
    assert_false(tl__job_hear(&news, "[n7:01234] pml_ucx.c:291  Error: no transports"));
    assert_false(tl__job_hear(&news, "srun: error: n3: task 1: Killed"));
    assert_int_equal(lost_ranks(), 6);
    assert_false(tl__job_hear(&news, "srun: error: n3: task 0: Exited with exit code 75"));
    assert_int_equal(lost_ranks(), 6);
    assert_non_null(strstr(news.notice, "terminated"));
}

static void a_rank_names_who_is_lost(void **state) {
    tl_job_news news = fresh();
    assert_true(tl__job_hear(
        &news, "trilith train: Collective 45 (sum of 1 f64, step 5) is not complete after 4 s on rank 0 (n0): "
               "rank 1 (n1) has not come and is silent for 4.0 s (stopped, dead or cut off), last at "
               "collective 43, step 4; rank 3 (n3) has come and is silent for 3.9 s; the other 2 have come "
               "(rank 0 at 45, rank 2 at 45)"));
    assert_int_equal(lost_ranks(), 10);
    assert_string_equal(news.how, "no word from n1");
    assert_true(tl__job_hear(
        &news, "rank 2 (n2) has not come and is alive but late, rank 9 (n1) has not come and is silent for 1 "
               "s; rank -1 (n1) has come and is silent for 1 s; rank 2 (unclosed has come and is silent for"));
    assert_int_equal(lost_ranks(), 10);
}

static void a_keeper_names_who_was_killed(void **state) {
    tl_job_news news = fresh();
    assert_true(tl__job_hear(
        &news, "trilith train: rank 2 (n7) was killed by signal 9 (Killed); resume from the last checkpoint"));
    assert_int_equal(lost_ranks(), 4);
    assert_string_equal(news.how, "killed by signal 9 on n7");
    assert_true(tl__job_hear(
        &news, "warning: rank 1 (n2) is silent for 0.6 s (stopped, dead or cut off), last at collective 45, "
               "step 5; rank 0 (n1) is at collective 47, step 5; resume from the last checkpoint."));
    assert_int_equal(lost_ranks(), 6);
}

static void hostile_lines_do_no_harm(void **state) {
    static const char *const lines[] = {
        "",
        "[",
        "[:",
        "[:]",
        "rank ",
        "rank 99999999999999999999999 (x) has come and is silent for ",
        "mpirun noticed that process rank 99999999999999999999 with on node  exited on signal ",
        "srun: error: : task ",
        "srun: error: : task x: Killed"};
    tl_job_news news = fresh();
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) tl__job_hear(&news, lines[i]);
    assert_int_equal(lost_ranks(), 0);
    char line[3000];
    memset(line, 'x', sizeof line - 1), line[sizeof line - 1] = 0;
    memcpy(line, "mpirun", 6);
    for (int i = 0; i < 5; i++) assert_false(tl__job_hear(&news, line));
    assert_true(news.notice_bytes < sizeof news.notice && strlen(news.notice) < sizeof news.notice);
}

static void only_a_loss_is_tried_again(void **state) {
    static const struct {
        int status, code;
        tl_verdict verdict;
    } known[] = {{0, 0, TL_JOB_DONE},         {1 << 8, 1, TL_JOB_GIVE_UP},   {2 << 8, 2, TL_JOB_GIVE_UP},
                 {75 << 8, 75, TL_JOB_AGAIN}, {76 << 8, 76, TL_JOB_GIVE_UP}, {137 << 8, 137, TL_JOB_AGAIN},
                 {9, 137, TL_JOB_AGAIN}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        int code;
        assert_int_equal(tl__job_verdict(known[i].status, &code), known[i].verdict);
        assert_int_equal(code, known[i].code);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_launcher_names_who_was_killed), cmocka_unit_test(a_rank_names_who_is_lost),
        cmocka_unit_test(a_keeper_names_who_was_killed),     cmocka_unit_test(hostile_lines_do_no_harm),
        cmocka_unit_test(only_a_loss_is_tried_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
