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
#include "cli/hosts.c"
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

static void a_host_that_cannot_be_reached_is_heard_of(void **state) {
    static const char rule[] = "--------------------------------------------------------------------------";
    tl_job_news news = fresh();
    assert_true(tl__job_hear(&news, "trilith train: this is no notice: Remote daemons, target node: n1 on node n2"));
    assert_int_equal(news.gones, 0);
    news.spoke = false;
    const char *const notice[] = {rule,
                                  "ORTE has lost communication with a remote daemon.",
                                  "",
                                  "  HNP daemon   : [[27231,0],0] on node n1",
                                  "  Remote daemon: [[27231,0],2] on node n3.cluster",
                                  "",
                                  "This is usually due to either a failure of the TCP network",
                                  rule,
                                  rule,
                                  "  my node:   n1",
                                  "  target node:  n4",
                                  rule,
                                  "ssh: connect to host n5 port 22: No route to host",
                                  "ssh: connect to host n5 port 22: Connection timed out",
                                  "ssh: Could not resolve hostname n6: Name or service not known"};
    for (size_t i = 0; i < sizeof notice / sizeof *notice; i++) assert_false(tl__job_hear(&news, notice[i]));
    const char *const names[] = {"n3.cluster", "n4", "n5", "n6"};
    assert_int_equal(news.gones, 4);
    for (int i = 0; i < 4; i++) assert_string_equal(news.gone[i], names[i]);
    assert_false(news.spoke);
}

static void one_host_has_several_names(void **state) {
    assert_true(tl__host_is("node7", "node7"));
    assert_true(tl__host_is("node7", "Node7.cluster.local"));
    assert_true(tl__host_is("node7.cluster", "node7"));
    assert_false(tl__host_is("node7", "node71"));
    assert_false(tl__host_is("node7.a", "node7.b"));
    assert_false(tl__host_is("10.0", "10.0.0.1"));
    assert_true(tl__host_is("10.0.0.1", "10.0.0.1"));
    assert_false(tl__host_is("", "node7"));
    assert_false(tl__host_is("", ".node7"));
}

/* What is left of a list of either form when n2 and n4 are gone, and of how many slots. */
static void expect_kept(void (*way)(tl_hosts *, char *), const char *list, const char *want, int64_t slots,
                        int64_t left, bool none) {
    char names[2][8] = {"n2", "n4"}, *gone[] = {names[0], names[1]}, copy[400];
    tl_hosts h = {.gone = {.list = gone, .n = 2}};
    snprintf(copy, sizeof copy, "%s", list);
    way(&h, copy);
    assert_string_equal(copy, want);
    assert_int_equal(h.slots, slots);
    assert_int_equal(h.left, left);
    assert_int_equal(h.none, none);
}

static void lists_lose_hosts_that_are_gone(void **state) {
    expect_kept(tl__hosts_keep_lines,
                "# ours\nn1 slots=8\nn2 slots=8 # old\n\tme@n4.cluster  slots = 4 max_slots=8\nn3",
                "# ours\nn1 slots=8\nn3", 21, 9, false);
    expect_kept(tl__hosts_keep_lines, "n2\nn2\r\nn4 slots=0", "", 3, 0, true);
    expect_kept(tl__hosts_keep_lines, "n1 # n2 slots=3\n\n", "n1 # n2 slots=3\n\n", 1, 1, false);
    expect_kept(tl__hosts_keep_lines, "# n2\n", "# n2\n", 0, 0, false);
    expect_kept(tl__hosts_keep_lines, "", "", 0, 0, false);
    expect_kept(tl__hosts_keep_lines, "n1 max_slots=3\n", "n1 max_slots=3\n", 1, 1, false);
    expect_kept(tl__hosts_keep_names, "n1,n2:4,n3:2,n3,n4", "n1,n3:2,n3", 9, 4, false);
    expect_kept(tl__hosts_keep_names, "n2:16", "", 16, 0, true);
    expect_kept(tl__hosts_keep_names, "fe80::7,n21", "fe80::7,n21", 2, 2, false);
    expect_kept(tl__hosts_keep_names, ",,n2,", ",", 3, 2, false); /* what mpirun will complain of stays */
}

/* The words of a launcher, joined again. */
static const char *words(tl_hosts *h, const char *launcher) {
    static char text[400];
    tl_arguments a = {0};
    size_t n = 0;
    assert_int_equal(tl__hosts_launcher(&a, h, launcher, NULL), 0);
    text[0] = 0;
    for (int i = 0; i < a.n; i++) n += (size_t)snprintf(text + n, sizeof text - n, "%s ", a.list[i]);
    tl__arguments_free(&a);
    return text;
}

static void a_launcher_is_told_of_the_hosts_that_are_left(void **state) {
    char path[] = "/tmp/trilith-hosts-XXXXXX", launcher[100], text[100] = {0};
    static const char lines[] = "n1 slots=2\nn2 slots=2\n";
    int fd = mkstemp(path);
    tl_hosts h = {0};
    assert_true(fd >= 0 && write(fd, lines, sizeof lines - 1) == (ssize_t)sizeof lines - 1);
    assert_string_equal(words(&h, "mpirun  -H n1,n2 --bind-to none"), "mpirun -H n1,n2 --bind-to none ");
    assert_false(tl__hosts_drop(&h, "mpirun --hostfile /nowhere/hosts", "n2"));
    assert_false(tl__hosts_drop(&h, "mpirun", "n3"));
    assert_string_equal(words(&h, "mpirun -H n1,n2,n3"), "mpirun -H n1 ");
    tl__hosts_close(&h);

    snprintf(launcher, sizeof launcher, "mpirun --hostfile %s", path);
    assert_non_null(strstr(words(&h, launcher), path)); /* whole: the user's own */
    assert_true(tl__hosts_drop(&h, launcher, "n2"));
    assert_false(tl__hosts_drop(&h, launcher, "n2"));
    const char *left = strstr(words(&h, launcher), "/proc/self/fd/");
    assert_non_null(left);
    snprintf(launcher, sizeof launcher, "%.*s", (int)strcspn(left, " "), left);
    for (int times = 0; times < 2; times++) { /* as often as a launcher opens it */
        FILE *file = fopen(launcher, "r");
        assert_non_null(file);
        assert_int_equal(fread(text, 1, sizeof text - 1, file), 11);
        assert_string_equal(text, "n1 slots=2\n");
        fclose(file);
    }
    assert_true(h.slots == 4 && h.left == 2 && !h.none);
    tl__hosts_close(&h);
    close(fd), unlink(path);
}

static void fewer_hosts_take_fewer_ranks(void **state) {
    tl_job_news news = fresh();
    assert_int_equal(ranks_left(&news, 0, 0), 4);
    assert_int_equal(ranks_left(&news, 24, 16), 4);
    assert_int_equal(ranks_left(&news, 4, 3), 3);
    assert_int_equal(ranks_left(&news, 2, 1), 2); /* two a slot before and after */
    assert_int_equal(ranks_left(&news, 1, 0), 1);
    lost[1] = lost[2] = true;
    assert_int_equal(ranks_left(&news, 4, 4), 2);
    assert_int_equal(ranks_left(&news, 8, 4), 2);
    assert_int_equal(ranks_left(&news, 4, 1), 1);
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
        "srun: error: : task x: Killed",
        "  Remote daemon: on node ",
        " on node x Remote daemon:",
        "ssh: connect to host  port ",
        "ssh: connect to host a b port 22",
        "ssh: connect to host x",
        "ssh: Could not resolve hostname : "};
    tl_job_news news = fresh();
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) tl__job_hear(&news, lines[i]);
    assert_int_equal(lost_ranks(), 0);
    char line[3000];
    memset(line, 'x', sizeof line - 1), line[sizeof line - 1] = 0;
    memcpy(line, "mpirun", 6);
    for (int i = 0; i < 5; i++) assert_false(tl__job_hear(&news, line));
    assert_int_equal(news.gones, 1);
    for (int i = 0; i < 3 * TL_JOB_GONE; i++) {
        snprintf(line, sizeof line, "ssh: connect to host %0*d port 22: No route to host", i, i);
        tl__job_hear(&news, line);
    }
    assert_int_equal(news.gones, TL_JOB_GONE);
    memset(line, 'x', sizeof line - 1), memcpy(line, "Remote daemon: on node ", 23);
    tl__job_hear(&(tl_job_news){.ranks = 4, .lost = lost}, line);
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
        cmocka_unit_test(the_launcher_names_who_was_killed),
        cmocka_unit_test(a_rank_names_who_is_lost),
        cmocka_unit_test(a_keeper_names_who_was_killed),
        cmocka_unit_test(hostile_lines_do_no_harm),
        cmocka_unit_test(a_host_that_cannot_be_reached_is_heard_of),
        cmocka_unit_test(one_host_has_several_names),
        cmocka_unit_test(lists_lose_hosts_that_are_gone),
        cmocka_unit_test(a_launcher_is_told_of_the_hosts_that_are_left),
        cmocka_unit_test(fewer_hosts_take_fewer_ranks),
        cmocka_unit_test(only_a_loss_is_tried_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
