/* test_sweep_report.c — rows from run folders, their order, and the table and page of a sweep: with what went in,
 * whatever is missing or hostile. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include "io/file.h"
#include "observe/chart.h"
#include "observe/sweep_table.h"

static char folder[64];

static int set_up(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/trilith-sweep-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    return tl__folder_remove(folder, NULL);
}

static void put_file(const char *name, const char *text) {
    char path[256];
    tl__path_join(path, sizeof path, folder, name);
    assert_int_equal(tl__file_publish(path, text, strlen(text), NULL), 0);
}

static char *get_file(const char *name) {
    char path[256], *text;
    size_t size;
    tl__path_join(path, sizeof path, folder, name);
    assert_int_equal(tl__file_slurp(&text, &size, path, 64 << 20, NULL), 0);
    return text;
}

static void has(const char *text, const char *part) {
    if (!strstr(text, part)) fail_msg("\"%s\" is not in it", part);
}

static json_t *row(const char *name, const char *status, double bits, double loss) {
    json_t *r = json_pack("{s:s,s:s,s:{s:s}}", "name", name, "status", status, "values", "lr", name);
    if (isfinite(bits)) json_object_set_new(r, "bits_per_byte", json_real(bits));
    if (isfinite(loss)) json_object_set_new(r, "loss", json_real(loss));
    return r;
}

static void order_is(json_t *rows, const char *names) {
    json_t *sorted = tl__sweep_sorted(rows);
    char got[64] = "";
    for (size_t i = 0; i < json_array_size(sorted); i++) strcat(got, tl__sweep_text(json_array_get(sorted, i), "name"));
    assert_string_equal(got, names);
    json_decref(sorted);
    json_decref(rows);
}

static void the_best_comes_first(void **state) {
    (void)state;
    order_is(json_pack("[o,o,o,o,o]", row("a", "finished", 2, 9), row("b", "failed", 1, 1),
                       row("c", "finished", 1.5, 3), row("d", "waiting", NAN, NAN), row("e", "finished", 2, 1)),
             "caebd"); /* ties and what did not finish: as they came */
    order_is(json_pack("[o,o]", row("a", "finished", 1, 9), row("b", "finished", NAN, 3)), "ba"); /* what all have */
    order_is(json_array(), "");
    order_is(json_object(), "");
}

static void a_row_is_what_the_plan_says(void **state) {
    (void)state;
    json_t *r = tl__sweep_row("/nonexistent/run");
    assert_string_equal(tl__sweep_text(r, "status"), "waiting");
    assert_true(isnan(tl__sweep_number(r, "loss")));
    json_decref(r);
    put_file("plan.json", "{\"run\":{\"status\":\"finished\"},\"model\":{\"params\":1000},"
                          "\"happened\":{\"loss\":2.5,\"bits_per_byte\":null,\"tokens\":\"many\"}}");
    r = tl__sweep_row(folder);
    assert_true(tl__sweep_finished(r));
    assert_true(tl__sweep_number(r, "loss") == 2.5 && tl__sweep_number(r, "params") == 1000);
    assert_true(isnan(tl__sweep_number(r, "bits_per_byte")) && isnan(tl__sweep_number(r, "tokens")));
    json_decref(r);
    put_file("plan.json", "{\"run\":");
    r = tl__sweep_row(folder);
    assert_string_equal(tl__sweep_text(r, "status"), "waiting");
    json_decref(r);
}

static void a_sweep_on_one_page(void **state) {
    (void)state;
    char line[256], path[256];
    tl_error err = {0};
    for (int run = 0; run < 2; run++) {
        char metrics[8192] = "";
        snprintf(path, sizeof path, "%s/lr=%d", folder, run);
        assert_int_equal(tl__folder_make(path, NULL), 0);
        for (int i = 1; i <= 20; i++) {
            snprintf(line, sizeof line, "{\"step\":%d,\"loss\":%g,\"tokens_total\":%d}\n", i, 5.0 / i + run, 64 * i);
            strcat(metrics, line);
        }
        snprintf(path, sizeof path, "lr=%d/metrics.jsonl", run);
        put_file(path, metrics);
    }
    put_file(
        "sweep.json",
        "{\"axes\":[\"lr\"],\"runs\":["
        "{\"name\":\"lr=1\",\"values\":{\"lr\":\"1\"},\"status\":\"finished\",\"bits_per_byte\":2.25,\"params\":12345},"
        "{\"name\":\"lr=0\",\"values\":{\"lr\":\"0\"},\"status\":\"finished\",\"bits_per_byte\":1.25,\"params\":12345},"
        "{\"name\":\"lr=9\",\"values\":{\"lr\":\"9\"},\"status\":\"failed\",\"error\":\"it |fell| over\"}]}");
    if (tl__sweep_report_write(folder, &err)) fail_msg("%s", err.text);
    char *page = get_file("report.html"), *table = get_file("sweep.md");
    has(page, "The best of 2 finished: lr=0, 1.250 bits a byte.");
    has(page, "some failed");
    has(page, "lr=9: it |fell| over");
    has(page, "12,345");
    has(page, "s-k0");
    has(page, "s-k1"); /* two curves */
    has(page, "<title>lr=1: 2.250</title>");
    assert_null(strstr(page, "<script"));
    assert_null(strstr(page, "nan"));
    assert_null(strstr(page, "http://"));
    has(table, "| 1 | 0 | 1.250 |");
    has(table, "| 2 | 1 | 2.250 |");
    has(table, "lr=9 (failed: it \\|fell\\| over) |");
    free(page), free(table);
}

static void hostile_sweeps_stay_text(void **state) {
    (void)state;
    tl_error err = {0};
    put_file(
        "sweep.json",
        "{\"axes\":[\"<b>x\",3,null],\"runs\":[1,null,{},"
        "{\"name\":\"<script>alert(1)</script>\",\"values\":{\"<b>x\":\"<i>\"},\"status\":\"finished\",\"loss\":1e308},"
        "{\"name\":\"../../etc\",\"values\":[],\"status\":\"finished\",\"loss\":-1e308},"
        "{\"name\":\"\\u202egnihton\",\"status\":\"<u>\",\"error\":\"<s>\\n| x\"}]}");
    if (tl__sweep_report_write(folder, &err)) fail_msg("%s", err.text);
    char *page = get_file("report.html"), *table = get_file("sweep.md");
    has(page, "&lt;script&gt;");
    assert_null(strstr(page, "<script"));
    assert_null(strstr(page, "<i>\n"));
    assert_null(strstr(page, "<u>"));
    assert_null(strstr(page, "<s>"));
    assert_null(strstr(page, "\xe2\x80\xae"));
    assert_null(strstr(page, "nan"));
    assert_null(strstr(table, "<s>\n"));
    free(page), free(table);
    static const char *const wrong[] = {"", "[]", "{\"axes\":3}", "{\"runs\":[]}", "{"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        put_file("sweep.json", wrong[i]);
        assert_int_equal(tl__sweep_report_write(folder, &err), TL_EFORMAT);
        has(err.text, "sweep.json");
        err = (tl_error){0};
    }
    put_file("sweep.json", "{\"axes\":[],\"runs\":[]}");
    assert_int_equal(tl__sweep_report_write(folder, &err), 0);
    page = get_file("report.html");
    has(page, "No run has finished yet");
    free(page);
}

static void dots_of_any_values(void **state) {
    (void)state;
    static const char *const place[] = {"a", "b", "c"};
    tl_page page = {0};
    tl_dot dots[] = {{0, NAN, "x"}, {1, INFINITY, "y"}, {7, NAN, "z"}};
    assert_false(tl__chart_dots(&page, "t", NULL, 520, 340, 3, place, 3, dots, TL_FORM_PLAIN));
    assert_false(tl__chart_dots(&page, "t", NULL, 520, 340, 0, place, 0, dots, TL_FORM_PLAIN));
    assert_null(page.bytes);
    tl_dot more[] = {{0, 5, "x"}, {0, 3, "y"}, {7, 4, "z"}, {2, 3, "w"}, {-1, 3, "v"}};
    assert_true(tl__chart_dots(&page, "t", NULL, 520, 340, 3, place, 5, more, TL_FORM_PLAIN));
    has(page.bytes, "<title>y: 3.000</title>");
    assert_null(strstr(page.bytes, "<title>z"));
    assert_null(strstr(page.bytes, "<title>v"));
    tl__page_free(&page);
    tl_dot same[] = {{0, 0, "x"}};
    assert_true(tl__chart_dots(&page, "t", NULL, 520, 340, 1, place, 1, same, TL_FORM_PLAIN));
    tl__page_free(&page);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_best_comes_first),
        cmocka_unit_test_setup_teardown(a_row_is_what_the_plan_says, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_sweep_on_one_page, set_up, tear_down),
        cmocka_unit_test_setup_teardown(hostile_sweeps_stay_text, set_up, tear_down),
        cmocka_unit_test(dots_of_any_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
