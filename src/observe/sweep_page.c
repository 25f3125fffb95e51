/* sweep_page.c — owns a sweep's report.html: the table, the runs' losses as curves, and the result against each setting
 * that differs. Rows come from sweep_table.c, curves from the run folders, pictures from chart.c.
 *
 * Promises as report.c's: one file, no script, nothing fetched, every string of the folder escaped, nothing made up. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "base/json.h"
#include "io/file.h"
#include "observe/chart.h"
#include "observe/report.h"
#include "observe/run.h"
#include "observe/sweep_table.h"

enum { LARGEST_SWEEP_BYTES = 64 << 20, CURVE_POINTS = 240, MOST_PLACES = 512 };

static void put_text(tl_page *p, const char *text) {
    tl__page_text(p, text, strlen(text));
}

/* Foreign text made safe for what takes markup; the page holds it. */
static const char *escaped(tl_page *p, const char *text) {
    put_text(p, text);
    return p->bytes ? p->bytes : "";
}

/* ---- the top and the table ---- */

static void put_top(tl_page *p, const json_t *sweep, const json_t *rows, const char *name) {
    size_t n = json_array_size(rows), finished = 0, failed = 0;
    for (size_t i = 0; i < n; i++) {
        const json_t *row = json_array_get(rows, i);
        finished += tl__sweep_finished(row);
        failed += strcmp(tl__sweep_text(row, "status"), "failed") == 0;
    }
    tl__page_put(
        p, "<header><svg class=mark viewBox=\"0 0 32 32\" aria-hidden=true><path d=\"M3 7.5 4 4h24l1 3.5-1 3H4zM6 "
           "12h6l.5 17h-7.500zM20 12h6l1 17h-7.500z\"/></svg><div><h1>");
    put_text(p, name);
    tl__page_put(p, "<span class=\"status%s\">%s</span></h1><p class=byline>%zu run%s: every combination of ",
                 failed ? " bad" : "",
                 failed          ? "some failed"
                 : finished == n ? "finished"
                                 : "not finished",
                 n, n == 1 ? "" : "s");
    const json_t *axes = json_object_get(sweep, "axes");
    for (size_t a = 0; a < tl__sweep_axes(axes); a++) {
        const char *axis = json_string_value(json_array_get(axes, a));
        tl__page_put(p, "%s", a ? " \u00b7 " : "");
        put_text(p, axis ? axis : "");
    }
    tl__page_put(p, "</p></div></header>\n");
    if (finished == 0) {
        tl__page_put(p, "<p class=lead>No run has finished yet.</p>");
        return;
    }
    char text[32];
    const json_t *best = json_array_get(rows, 0);
    const char *measure = tl__sweep_measure(rows);
    tl__page_put(p, "<p class=lead>The best of %zu finished: ", finished);
    put_text(p, tl__sweep_text(best, "name"));
    tl__page_put(p, ", ");
    for (int c = 0; c < TL_SWEEP_COLUMNS; c++)
        if (strcmp(tl__sweep_columns[c].key, measure) == 0)
            tl__page_put(p, strcmp(measure, "bits_per_byte") == 0 ? "%s %s.</p>\n" : "%s of %s.</p>\n",
                         tl__form(text, tl__sweep_columns[c].form, tl__sweep_number(best, measure)),
                         tl__sweep_columns[c].label);
}

static void put_table(tl_page *p, const json_t *axes, const json_t *rows) {
    char text[32];
    tl__page_put(p, "<h2>The runs, best first</h2><div class=\"card scroll\"><table class=plain><thead><tr><th>run");
    for (size_t a = 0; a < tl__sweep_axes(axes); a++) {
        const char *axis = json_string_value(json_array_get(axes, a));
        tl__page_put(p, "<th>");
        put_text(p, axis ? axis : "");
    }
    for (int c = 0; c < TL_SWEEP_COLUMNS; c++) tl__page_put(p, "<th>%s", tl__sweep_columns[c].label);
    tl__page_put(p, "</thead>");
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        const char *name = tl__sweep_text(row, "name");
        bool finished = tl__sweep_finished(row);
        tl__page_put(p, "<tr><th>");
        if (finished) { /* a page of its own lies in its folder */
            tl__page_put(p, "<a href=\"./");
            put_text(p, name);
            tl__page_put(p, "/report.html\">");
        }
        put_text(p, name);
        tl__page_put(p, finished ? "</a>" : " <small>");
        if (!finished) {
            put_text(p, tl__sweep_text(row, "status"));
            tl__page_put(p, "</small>");
        }
        for (size_t a = 0; a < tl__sweep_axes(axes); a++) {
            const char *axis = json_string_value(json_array_get(axes, a));
            tl__page_put(p, "<td>");
            put_text(p, tl__sweep_text(json_object_get(row, "values"), axis ? axis : ""));
        }
        for (int c = 0; c < TL_SWEEP_COLUMNS; c++)
            tl__page_put(p, "<td>%s",
                         tl__form(text, tl__sweep_columns[c].form, tl__sweep_number(row, tl__sweep_columns[c].key)));
        tl__page_put(p, "</tr>\n");
    }
    tl__page_put(p, "</table></div>\n");
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        if (!*tl__sweep_text(row, "error")) continue;
        tl__page_put(p, "<p class=warning>");
        put_text(p, tl__sweep_text(row, "name"));
        tl__page_put(p, ": ");
        put_text(p, tl__sweep_text(row, "error"));
        tl__page_put(p, "</p>\n");
    }
}

/* ---- curves ---- */

/* Mean training loss around each of CURVE_POINTS places from 0 to `most` tokens; NaN where the run has none. */
static void read_curve(double *y, const tl_run *run, double most) {
    int count[CURVE_POINTS] = {0};
    for (int g = 0; g < CURVE_POINTS; g++) y[g] = NAN;
    for (int i = 0; i < run->n; i++) {
        double tokens = run->column[TL_COLUMN_TOKENS_TOTAL][i], loss = run->column[TL_COLUMN_LOSS][i];
        if (!isfinite(tokens) || !isfinite(loss) || tokens < 0 || tokens > most) continue;
        int g = (int)(tokens / most * (CURVE_POINTS - 1) + 0.5);
        y[g] = count[g]++ ? y[g] + (loss - y[g]) / count[g] : loss;
    }
}

static double last_tokens(const tl_run *run) {
    for (int i = run->n; i-- > 0;)
        if (run->column[TL_COLUMN_TOKENS_TOTAL][i] > 0) return run->column[TL_COLUMN_TOKENS_TOTAL][i];
    return 0;
}

/* The best runs' losses together, over tokens: what is common to runs of different batches and models. */
static void put_curves(tl_page *p, const char *folder, const json_t *rows) {
    static const char *const colours[TL_MOST_SERIES] = {"k0", "k1", "k2", "k3", "k4",  "k5",
                                                        "k6", "k7", "k8", "k9", "k10", "k11"};
    static double y[TL_MOST_SERIES][CURVE_POINTS], step[CURVE_POINTS];
    static tl_run runs[TL_MOST_SERIES];
    tl_page labels[TL_MOST_SERIES] = {0};
    int n = 0;
    double most = 0;
    for (size_t i = 0; i < json_array_size(rows) && n < TL_MOST_SERIES; i++) {
        const char *name = tl__sweep_text(json_array_get(rows, i), "name");
        char path[4096];
        tl__path_join(path, sizeof path, folder, name);
        if (!*name || strchr(name, '/') || tl__run_read(&runs[n], path, NULL)) continue;
        double tokens = last_tokens(&runs[n]);
        if (tokens <= 0) {
            tl__run_free(&runs[n]);
            continue;
        }
        most = fmax(most, tokens);
        escaped(&labels[n++], name);
    }
    tl_chart chart = {.title = "Training loss",
                      .note = "nats a token, over tokens",
                      .width = 1080,
                      .height = 420,
                      .n = CURVE_POINTS,
                      .step = step,
                      .step_word = "tokens",
                      .n_series = n,
                      .form = TL_FORM_PLAIN,
                      .legend = true,
                      .level = NAN};
    for (int g = 0; g < CURVE_POINTS; g++) step[g] = most * g / (CURVE_POINTS - 1);
    for (int s = 0; s < n; s++) {
        read_curve(y[s], &runs[s], most);
        chart.series[s] = (tl_series){labels[s].bytes, colours[s], y[s], TL_LINE_SPARSE};
    }
    if (n > 0) {
        tl__page_put(p, "<h2>Together</h2>");
        if (json_array_size(rows) > TL_MOST_SERIES)
            tl__page_put(p, "<p class=quiet>The %d best of %zu.</p>", n, json_array_size(rows));
        tl__chart_lines(p, &chart);
    }
    for (int s = 0; s < n; s++) tl__run_free(&runs[s]), tl__page_free(&labels[s]);
}

/* ---- against each setting ---- */

typedef struct places {
    const char *name[MOST_PLACES];
    int n;
} places;

static int by_number(const void *a, const void *b) {
    double x = strtod(*(const char *const *)a, NULL), y = strtod(*(const char *const *)b, NULL);
    return (x > y) - (x < y);
}

/* The values that an axis takes: ascending where all are numbers, else in the order of the runs. */
static void find_places(places *at, const json_t *rows, const char *axis) {
    bool numbers = true;
    at->n = 0;
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const char *value = tl__sweep_text(json_object_get(json_array_get(rows, i), "values"), axis);
        int k = 0;
        while (k < at->n && strcmp(at->name[k], value) != 0) k++;
        if (k < at->n || at->n == MOST_PLACES) continue;
        char *end;
        strtod(value, &end);
        numbers = numbers && *value && !*end;
        at->name[at->n++] = value;
    }
    if (numbers) qsort(at->name, (size_t)at->n, sizeof *at->name, by_number);
}

static void put_axes(tl_page *p, const json_t *axes, const json_t *rows) {
    static places at;
    const char *measure = tl__sweep_measure(rows), *word = measure;
    for (int c = 0; c < TL_SWEEP_COLUMNS; c++)
        if (strcmp(tl__sweep_columns[c].key, measure) == 0) word = tl__sweep_columns[c].label;
    size_t n = json_array_size(rows);
    tl_dot *dots = calloc(n + 1, sizeof *dots);
    if (!dots) {
        p->failed = true;
        return;
    }
    tl__page_put(p, "<h2>Against each setting</h2><div class=pair>");
    for (size_t a = 0; a < tl__sweep_axes(axes); a++) {
        const char *axis = json_string_value(json_array_get(axes, a));
        if (!axis) continue;
        find_places(&at, rows, axis);
        int held = 0;
        for (size_t i = 0; i < n; i++) {
            const json_t *row = json_array_get(rows, i);
            const char *value = tl__sweep_text(json_object_get(row, "values"), axis);
            int k = 0;
            while (k < at.n && strcmp(at.name[k], value) != 0) k++;
            if (k < at.n && tl__sweep_finished(row))
                dots[held++] = (tl_dot){k, tl__sweep_number(row, measure), tl__sweep_text(row, "name")};
        }
        tl_page title = {0}, note = {0};
        tl__page_put(&note, "%s; the line: the best of each", word);
        tl__chart_dots(p, escaped(&title, axis), note.bytes, 520, 340, at.n, at.name, held, dots, TL_FORM_PLAIN);
        tl__page_free(&title), tl__page_free(&note);
    }
    tl__page_put(p, "</div>\n");
    free(dots);
}

/* ---- the whole ---- */

static void put_foot(tl_page *p) {
    char now[32];
    tl__utc_iso8601(now, sizeof now);
    tl__page_put(
        p,
        "<footer>Made by trilith %s on %s from the folder alone; <code>trilith report</code> makes it again. A "
        "run's own page is in its folder.</footer></main></body></html>\n",
        tl_version(), now);
}

static int publish(const char *folder, const char *name, tl_page *page, tl_error *err) {
    char path[4096];
    tl__path_join(path, sizeof path, folder, name);
    int status = page->failed ? tl__fail(err, TL_ENOMEM, "No memory to make %s; free some and try again.", path)
                              : tl__file_publish(path, page->bytes ? page->bytes : "", page->used, err);
    tl__page_free(page);
    return status;
}

int tl__sweep_report_write(const char *folder, tl_error *err) {
    char path[4096], *text;
    size_t size;
    tl__path_join(path, sizeof path, folder, "sweep.json");
    int status = tl__file_slurp(&text, &size, path, LARGEST_SWEEP_BYTES, err);
    if (status) return status;
    json_t *sweep = tl__json_parse(text, size, path, err);
    free(text);
    if (!sweep) return TL_EFORMAT;
    const json_t *axes = json_object_get(sweep, "axes");
    json_t *rows = tl__sweep_sorted(json_object_get(sweep, "runs"));
    if (!rows || !json_is_array(axes)) {
        status = !rows ? tl__fail(err, TL_ENOMEM, "No memory for the runs of %s; free some and try again.", path)
                       : tl__fail(err, TL_EFORMAT, "%s has no \"axes\": it is not what 'trilith train --sweep' wrote.",
                                  path);
        json_decref(rows);
        json_decref(sweep);
        return status;
    }
    size_t n = strlen(folder), start;
    while (n > 1 && folder[n - 1] == '/') n--;
    for (start = n; start > 0 && folder[start - 1] != '/';) start--;
    char name[256];
    snprintf(name, sizeof name, "%.*s", (int)(n - start < 200 ? n - start : 200), folder + start);
    tl_page table = {0}, page = {0};
    tl__sweep_markdown(&table, axes, rows);
    tl__report_head(&page, name);
    /* Neighbouring curves in colours that are far apart. */
    static const int colour[TL_MOST_SERIES] = {0, 6, 4, 2, 8, 1, 5, 7, 3, 10, 9, 12};
    tl__page_put(&page, "<style>.legend{flex-wrap:wrap}a{color:inherit}.plain thead th:first-child{text-align:left}");
    for (int k = 0; k < TL_MOST_SERIES; k++)
        tl__page_put(&page, ".s-k%d{stroke:var(--b%d)}.f-k%d,svg .f-k%d{fill:var(--b%d)}.g-k%d{background:var(--b%d)}",
                     k, colour[k], k, k, colour[k], k, colour[k]);
    tl__page_put(&page, "</style>\n");
    put_top(&page, sweep, rows, name);
    put_table(&page, axes, rows);
    put_curves(&page, folder, rows);
    put_axes(&page, axes, rows);
    put_foot(&page);
    status = publish(folder, "sweep.md", &table, err);
    if (status) tl__page_free(&page);
    else status = publish(folder, "report.html", &page, err);
    json_decref(rows);
    json_decref(sweep);
    return status;
}
