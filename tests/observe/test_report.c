/* test_report.c — the report of runs that are empty, one step long, long, cut short, hostile, or not finite: always one
 * whole page, escaped, bounded in size, with the numbers that went in. Traces and numbers as words too. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include "base/json.h"
#include "io/file.h"
#include "observe/chart.h"
#include "observe/ledger.h"
#include "observe/report.h"
#include "observe/run.h"
#include "observe/trace.h"

static char folder[64];

static int set_up(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/trilith-report-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    return tl__folder_remove(folder, NULL);
}

static void put_file(const char *name, const char *bytes, size_t n) {
    char path[256];
    tl__path_join(path, sizeof path, folder, name);
    assert_int_equal(tl__file_publish(path, bytes, n, NULL), 0);
}

static char *make_report(size_t *size) {
    char path[256], *page;
    tl_error err = {0};
    if (tl__report_write(folder, &err) != 0) fail_msg("%s", err.text);
    tl__path_join(path, sizeof path, folder, "report.html");
    assert_int_equal(tl__file_slurp(&page, size, path, 64 << 20, NULL), 0);
    assert_non_null(strstr(page, "</html>"));
    assert_null(strstr(page, "nan"));
    assert_null(strstr(page, "http://"));
    assert_null(strstr(page, "https://"));
    assert_null(strstr(page, "<script"));
    return page;
}

static void has(const char *page, const char *part) {
    if (!strstr(page, part)) fail_msg("\"%s\" is not on the page", part);
}

/* n steps as the trainer would write them; odd[i] replaces the loss of step i+1. */
static void put_metrics(int n, const double *odd, int n_odd) {
    char *all = malloc((size_t)n * 2048 + 1);
    size_t used = 0;
    for (int i = 0; i < n; i++) {
        tl_step_metrics m = {.step = i + 1,
                             .loss = i < n_odd ? odd[i] : 3 + 7 * exp(-i / 50.0),
                             .validation_loss = i % 10 == 9 ? 3.5 : NAN,
                             .grad_norm = 1,
                             .learning_rate = 1e-3,
                             .tokens = 1024,
                             .tokens_total = 1024 * (i + 1),
                             .tokens_per_second = 5000,
                             .mfu = 0.6,
                             .rss_anon_bytes = 1000000};
        m.totals.wall_seconds = 0.2;
        m.totals.seconds[TL_BUCKET_MATMUL] = 0.16;
        m.totals.flops[TL_BUCKET_MATMUL] = 16e9;
        m.totals.seconds[TL_BUCKET_OTHER] = 0.04;
        used += (size_t)tl__metrics_line(all + used, 2048, &m);
    }
    put_file("metrics.jsonl", all, used);
    free(all);
}

static void runs_of_every_length(void **state) {
    (void)state;
    size_t size;
    char *page = make_report(&size);
    has(page, "No step has been recorded yet");
    free(page);
    const int lengths[] = {1, 2, 3, 10, 359, 360, 361, 1000, 20000};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        put_metrics(lengths[i], NULL, 0);
        page = make_report(&size);
        has(page, "80 % of the step is matrix products");
        has(page, "Loss");
        has(page, "80.0\u00a0%");
        assert_true(size < 600000);
        free(page);
    }
}

/* 20 steps of two hosts' ranks, of which communication is most; the numbers stand on the page. */
static void communication_between_ranks_is_shown(void **state) {
    (void)state;
    char all[20 * 1024];
    size_t used = 0, size;
    put_metrics(20, NULL, 0);
    char *page = make_report(&size);
    assert_null(strstr(page, "Between ranks")); /* one process alone */
    free(page);
    for (int i = 0; i < 20; i++) {
        tl_step_metrics m = {.step = i + 1, .loss = 3, .validation_loss = NAN, .ranks = 4};
        m.totals.wall_seconds = 0.5;
        m.totals.seconds[TL_BUCKET_COMM] = 0.3;
        m.totals.seconds[TL_BUCKET_MATMUL] = 0.2;
        m.traffic = (tl_comm_traffic){.bytes = 40e6, .seconds = 0.4};
        used += (size_t)tl__metrics_line(all + used, sizeof all - used, &m);
    }
    put_file("metrics.jsonl", all, used);
    const char *plan = "{\"run\":{\"ranks\":4,\"hosts\":[\"a<b\",\"a<b\",\"c\",7],\"shard\":\"zero<2\"},"
                       "\"machine\":{\"link\":{\"ranks\":4,\"latency_seconds\":0.0002,\"gb_per_second\":0.125}},"
                       "\"predicted\":{\"comm\":{\"exposed_seconds\":0.25,\"hidden_seconds\":0.1,\"bytes\":4e7}}}";
    put_file("plan.json", plan, strlen(plan));
    page = make_report(&size);
    has(page, "Between ranks");
    has(page, "a&lt;b\u00a0\u00d7\u00a02, c");
    has(page, "zero&lt;2");
    has(page, "<th>exposed<td>300\u00a0ms <small>60\u00a0% of the step");
    has(page, "<th>exposed, predicted<td>250\u00a0ms");
    has(page, "<th>hidden behind computation<td>100\u00a0ms");
    has(page, "<th>sent and received<td>40.0\u00a0MB");
    has(page, "<th>while under way<td>100\u00a0MB/s <small>80\u00a0% of the link");
    has(page, "60 % of the step is exposed communication at 100 MB/s, 80 % of the 125 MB/s");
    free(page);
    const char *odd = "{\"step\":1,\"loss\":1,\"comm\":{\"ranks\":2,\"exposed_seconds\":null,\"bytes\":-1e38}}\n"
                      "{\"step\":2,\"loss\":1,\"comm\":{\"exposed_seconds\":1e38,\"hidden_seconds\":-1,"
                      "\"gb_per_second\":1e-300,\"bytes\":1e38}}\n";
    put_file("metrics.jsonl", odd, strlen(odd));
    free(make_report(&size));
}

static void steps_that_are_not_finite(void **state) {
    (void)state;
    const double odd[] = {NAN, INFINITY, 1e308, -1e308, 5, NAN, 0};
    size_t size;
    for (int n = 1; n <= 7; n++) {
        put_metrics(n, odd, n);
        char *page = make_report(&size);
        has(page, "skipped");
        free(page);
    }
    put_metrics(60, odd, 7);
    char *page = make_report(&size);
    has(page, "3 of 60 steps were skipped");
    free(page);
}

static void hostile_bytes_stay_text(void **state) {
    (void)state;
    size_t size;
    const char *config = "name: \"</pre><script>alert(1)</script>\"\nq: '&\"\x01\xff\xc0\xaf\xe2\x80\xae evil\n";
    put_file("config.yaml", config, strlen(config));
    const char *plan = "{\"run\":{\"name\":\"<img src=x "
                       "onerror=alert(1)>\",\"started\":\"<b>\",\"status\":\"<i>\",\"data\":[\"<u>\",3]},"
                       "\"model\":{\"family\":\"<s>\",\"params\":1e400e,\"<k>\":1}}";
    put_file("plan.json", plan, strlen(plan)); /* not JSON: left out */
    const char *samples =
        "{\"step\":1,\"prompt\":\"<script>\",\"text\":\"</p>\\u202e<iframe>\"}\n[]\n{\"text\":1}\nnot json\n";
    put_file("samples.jsonl", samples, strlen(samples));
    const char *metrics =
        "{\"step\":1,\"loss\":2,\"seconds\":[]}\n\n{\"step\":\"2\"}\n{\"step\":1e99,\"loss\":1}\n{\"step\":3,\"lo";
    put_file("metrics.jsonl", metrics, strlen(metrics));
    char *page = make_report(&size);
    has(page, "&lt;/pre&gt;&lt;script&gt;alert(1)");
    has(page, "&lt;iframe&gt;");
    has(page, "\xef\xbf\xbd");
    has(page, "6 lines of metrics.jsonl or samples.jsonl could not be read");
    assert_null(strstr(page, "<iframe"));
    assert_null(strstr(page, "\xe2\x80\xae"));
    assert_null(memchr(page, 1, size));
    free(page);

    const char *hostile = "{\"run\":{\"name\":\"<img src=x "
                          "onerror=alert(1)>\",\"started\":\"<b><b>\",\"status\":\"<i>\",\"data\":[\"<u>\",3]},"
                          "\"model\":{\"family\":\"<s>\",\"params\":\"<s>\",\"<k>\":{\"a\":1},\"layers\":-1e308,"
                          "\"width\":1e308},\"machine\":[],"
                          "\"predicted\":{\"memory\":{\"<m>\":5,\"x\":-1},\"peak_bytes\":-5,\"bottleneck\":\"<b>\"},"
                          "\"happened\":{\"bottleneck\":\"<b>\",\"seconds\":-1e308,\"loss\":1e308}}";
    put_file("plan.json", hostile, strlen(hostile));
    page = make_report(&size);
    const char *tags[] = {"<img", "<iframe", "<u>", "<s>", "<k>", "<m>", "<i>"};
    for (size_t i = 0; i < sizeof tags / sizeof *tags; i++) assert_null(strstr(page, tags[i]));
    has(page, "&lt;img src=x");
    free(page);
}

static void a_step_told_twice_counts_as_its_last_telling(void **state) {
    (void)state;
    const char *metrics =
        "{\"step\":1,\"loss\":5}\n{\"step\":2,\"loss\":4}\n{\"step\":3,\"loss\":3}\n{\"step\":2,\"loss\":2.5}\n";
    put_file("metrics.jsonl", metrics, strlen(metrics));
    tl_run run;
    assert_int_equal(tl__run_read(&run, folder, NULL), 0);
    assert_int_equal(run.n, 2);
    assert_true(run.column[TL_COLUMN_LOSS][0] == 5 && run.column[TL_COLUMN_LOSS][1] == 2.5);
    assert_true(isnan(run.column[TL_COLUMN_MFU][1]));
    tl__run_free(&run);
    /* A line longer than any honest one is passed over, and what follows it is read. */
    size_t n = (size_t)3 << 20;
    char *big = malloc(n + 64);
    memset(big, 'x', n);
    n += (size_t)sprintf(big + n, "\n{\"step\":9,\"loss\":1}");
    put_file("metrics.jsonl", big, n);
    free(big);
    assert_int_equal(tl__run_read(&run, folder, NULL), 0);
    assert_int_equal(run.n, 1);
    assert_int_equal(run.unreadable_lines, 1);
    tl__run_free(&run);
}

static void no_folder_is_one_sentence(void **state) {
    (void)state;
    tl_error err = {0};
    assert_int_equal(tl__report_write("/nonexistent/run", &err), TL_ENOTFOUND);
    assert_non_null(strstr(err.text, "/nonexistent/run"));
}

static void smoothing_keeps_the_beginning_and_the_gaps(void **state) {
    (void)state;
    double y[100], out[100];
    for (int i = 0; i < 100; i++) y[i] = i == 40 ? NAN : i == 50 ? 1e300 : 100 - i;
    tl__smooth(out, y, 100, 5);
    assert_true(out[0] == 100);  /* a mean of one */
    assert_true(out[99] == 3.5); /* of 6 … 1: nothing lies ahead */
    assert_true(out[20] == 80);  /* a straight line stays one */
    assert_true(isnan(out[40]) && isfinite(out[41]));
    assert_true(out[60] == 40); /* what is huge does not outlive its reach */
}

static void numbers_read_well(void **state) {
    (void)state;
    static const struct {
        tl_form form;
        double x;
        const char *text;
    } cases[] = {
        {TL_FORM_COUNT, 0, "0"},
        {TL_FORM_COUNT, 812, "812"},
        {TL_FORM_COUNT, 8731.4, "8,731"},
        {TL_FORM_COUNT, 12045, "12,045"},
        {TL_FORM_COUNT, 999.6, "1,000"},
        {TL_FORM_COUNT, 983040, "983,040"},
        {TL_FORM_COUNT, 10791936, "10.8\u00a0M"},
        {TL_FORM_BYTES, 1262485504, "1.26\u00a0GB"},
        {TL_FORM_BYTES, 12, "12\u00a0B"},
        {TL_FORM_SECONDS, 0.0032, "3.20\u00a0ms"},
        {TL_FORM_SECONDS, 312, "5\u00a0min 12\u00a0s"},
        {TL_FORM_SECONDS, 7380, "2\u00a0h 03\u00a0min"},
        {TL_FORM_SECONDS, 59.96, "1\u00a0min 0\u00a0s"},
        {TL_FORM_PERCENT, 0.6123, "61.2\u00a0%"},
        {TL_FORM_PLAIN, 3.0281, "3.028"},
        {TL_FORM_PLAIN, 0.0006, "0.00060"},
        {TL_FORM_PLAIN, NAN, "\u2013"},
        {TL_FORM_BYTES, INFINITY, "\u2013"},
    };
    char out[32];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_string_equal(tl__form(out, cases[i].form, cases[i].x), cases[i].text);
    const double extremes[] = {1e308, -1e308, 5e-324, -0.0};
    for (int form = TL_FORM_PLAIN; form <= TL_FORM_SECONDS; form++)
        for (int i = 0; i < 4; i++) assert_true(strlen(tl__form(out, form, extremes[i])) < sizeof out);
}

static void a_trace_is_json_with_every_span(void **state) {
    (void)state;
    const tl_span spans[] = {
        {"linear", 1234567, 89012, TL_BUCKET_MATMUL, 1, 7, 3, {64, 384, 128}, 6291456, 1e6, true, false, false},
        {"step", 5, 0, TL_BUCKET_LOG, 0, 7, -1, {0, 0, 0}, 0, 0, false, false, false},
        {"odd",
         INT64_MAX,
         INT64_MAX,
         TL_BUCKET_EVAL,
         15,
         INT32_MAX,
         INT32_MAX,
         {INT64_MIN, INT64_MIN, INT64_MIN},
         INFINITY,
         NAN,
         false,
         false,
         true},
    };
    char path[256], *bytes;
    size_t size;
    tl__path_join(path, sizeof path, folder, "trace.json");
    assert_int_equal(tl__trace_write(path, spans, 3, 2, "a \"run\" </x> \xff", NULL), 0);
    assert_int_equal(tl__file_slurp(&bytes, &size, path, 1 << 20, NULL), 0);
    tl_error err = {0};
    json_t *o = tl__json_parse(bytes, size, path, &err);
    if (!o) fail_msg("%s", err.text);
    const json_t *events = json_object_get(o, "traceEvents"), *e = json_array_get(events, 2);
    assert_int_equal(json_array_size(events), 5);
    assert_string_equal(json_string_value(json_object_get(e, "name")), "linear");
    assert_string_equal(json_string_value(json_object_get(e, "cat")), "matmul");
    assert_true(fabs(json_number_value(json_object_get(e, "ts")) - 1234.567) < 1e-9);
    assert_true(fabs(json_number_value(json_object_get(e, "dur")) - 89.012) < 1e-9);
    assert_int_equal(json_integer_value(json_object_get(e, "pid")), 2);
    const json_t *args = json_object_get(e, "args");
    assert_int_equal(json_integer_value(json_array_get(json_object_get(args, "shape"), 2)), 128);
    assert_int_equal(json_integer_value(json_object_get(args, "layer")), 3);
    assert_string_equal(json_string_value(json_object_get(args, "dtype")), "bf16");
    assert_null(json_object_get(json_object_get(json_array_get(events, 3), "args"), "dtype"));
    assert_null(json_object_get(json_object_get(json_array_get(events, 3), "args"), "layer"));
    json_decref(o);
    free(bytes);
    assert_int_equal(tl__trace_write(path, NULL, 0, 0, NULL, NULL), 0); /* an empty trace is one too */
    assert_true(tl__trace_write("/nonexistent/trace.json", spans, 3, 0, "x", &err) < 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(runs_of_every_length, set_up, tear_down),
        cmocka_unit_test_setup_teardown(communication_between_ranks_is_shown, set_up, tear_down),
        cmocka_unit_test_setup_teardown(steps_that_are_not_finite, set_up, tear_down),
        cmocka_unit_test_setup_teardown(hostile_bytes_stay_text, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_step_told_twice_counts_as_its_last_telling, set_up, tear_down),
        cmocka_unit_test(no_folder_is_one_sentence),
        cmocka_unit_test(smoothing_keeps_the_beginning_and_the_gaps),
        cmocka_unit_test(numbers_read_well),
        cmocka_unit_test_setup_teardown(a_trace_is_json_with_every_span, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
