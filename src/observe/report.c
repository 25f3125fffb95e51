/* report.c — owns the page report.html: what stands on it and in which order. Reading is run.c's, drawing chart.c's,
 * the look report_style.h's.
 *
 * Promises: one file, no script, nothing fetched (its own Content-Security-Policy forbids it); every string of the
 * folder is escaped; what is missing is left out, never made up. */
#include "observe/report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "io/file.h"
#include "observe/chart.h"
#include "observe/ledger.h"
#include "observe/page.h"
#include "observe/report_style.h"
#include "observe/run.h"

/* --- what the folder knows ------------------------------------------------------------------------------------------
 */

static const json_t *part(const tl_run *run, const char *name) {
    return json_object_get(run->plan, name);
}

static double number(const json_t *o, const char *key) {
    const json_t *v = json_object_get(o, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

static const char *string(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    return s && *s ? s : NULL;
}

static double last(const tl_run *run, tl_column c) {
    for (int i = run->n; i-- > 0;)
        if (isfinite(run->column[c][i])) return run->column[c][i];
    return NAN;
}

static double most(const tl_run *run, tl_column c) {
    double m = NAN;
    for (int i = 0; i < run->n; i++)
        if (isfinite(run->column[c][i]) && !(m >= run->column[c][i])) m = run->column[c][i];
    return m;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(const tl_run *run, tl_column c) {
    double *all = malloc(sizeof *all * ((size_t)run->n + 1)), m = NAN;
    int n = 0;
    if (!all) return NAN;
    for (int i = 0; i < run->n; i++)
        if (isfinite(run->column[c][i])) all[n++] = run->column[c][i];
    qsort(all, (size_t)n, sizeof *all, by_value);
    if (n > 0) m = (all[n / 2] + all[(n - 1) / 2]) / 2;
    free(all);
    return m;
}

/* The plan's word where it has one, else what the lines say. */
static double told_or(const tl_run *run, const char *key, double otherwise) {
    double x = number(part(run, "happened"), key);
    return isfinite(x) ? x : otherwise;
}

static void put_text(tl_page *p, const char *text) {
    tl__page_text(p, text, strlen(text));
}

/* --- the top --------------------------------------------------------------------------------------------------------
 */

void tl__report_head(tl_page *p, const char *name) {
    tl__page_put(
        p,
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content=\"width=device-width,initial-scale=1\">"
        "<meta name=color-scheme content=\"light dark\">"
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\"><title>");
    put_text(p, name);
    tl__page_put(p, " \u00b7 trilith</title><style>%s</style></head><body><main>\n", tl__report_style);
}

/* "Llama · 10.8 M parameters · 6 layers × 384 · …": whatever of it is known. */
static void put_byline(tl_page *p, const tl_run *run) {
    char text[32];
    const json_t *model = part(run, "model"), *machine = part(run, "machine"), *about = part(run, "run");
    const char *dot = "";
    tl__page_put(p, "<p class=byline>");
    const char *family = string(model, "family");
    if (family) {
        bool llama = strcmp(family, "llama") == 0, gpt2 = strcmp(family, "gpt2") == 0;
        if (llama || gpt2) put_text(p, llama ? "Llama" : "GPT-2");
        else put_text(p, family);
        dot = " \u00b7 ";
    }
    if (isfinite(number(model, "params"))) {
        tl__page_put(p, "%s%s parameters", dot, tl__form(text, TL_FORM_COUNT, number(model, "params")));
        dot = " \u00b7 ";
    }
    if (string(about, "dtype")) {
        tl__page_put(p, "%s", dot);
        put_text(p, string(about, "dtype"));
        dot = " \u00b7 ";
    }
    if (isfinite(number(model, "layers")) && isfinite(number(model, "width"))) {
        tl__page_put(p, "%s%.0f layers \u00d7 %.0f wide", dot, number(model, "layers"), number(model, "width"));
        dot = " \u00b7 ";
    }
    if (string(machine, "cpu")) {
        tl__page_put(p, "%s", dot);
        if (isfinite(number(machine, "threads")))
            tl__page_put(p, "%.0f thread%s of ", number(machine, "threads"),
                         number(machine, "threads") == 1 ? "" : "s");
        put_text(p, string(machine, "cpu"));
        dot = " \u00b7 ";
    }
    if (number(about, "ranks") > 1) {
        tl__page_put(p, "%s%.0f ranks", dot, number(about, "ranks"));
        dot = " \u00b7 ";
    }
    if (string(about, "started")) {
        tl__page_put(p, "%s", dot);
        tl__page_text(p, string(about, "started"), strnlen(string(about, "started"), 10));
    }
    tl__page_put(p, "</p>");
}

static void put_figure(tl_page *p, const char *label, tl_form form, double x, const char *detail_label,
                       tl_form detail_form, double detail) {
    char text[32];
    if (!isfinite(x)) return;
    tl__page_put(p, "<div><dt>%s</dt><dd>%s</dd>", label, tl__form(text, form, x));
    if (isfinite(detail)) tl__page_put(p, "<p>%s %s</p>", detail_label, tl__form(text, detail_form, detail));
    tl__page_put(p, "</div>");
}

static void put_key_figures(tl_page *p, const tl_run *run) {
    const json_t *predicted = part(run, "predicted"), *happened = part(run, "happened");
    double validation = told_or(run, "validation_loss", last(run, TL_COLUMN_VALIDATION_LOSS));
    double loss = told_or(run, "loss", last(run, TL_COLUMN_LOSS));
    double steps = run->n ? run->column[TL_COLUMN_STEP][run->n - 1] : number(happened, "steps");
    double rate = told_or(run, "tokens_per_second", median(run, TL_COLUMN_TOKENS_PER_SECOND));
    double peak = told_or(run, "peak_bytes", most(run, TL_COLUMN_RSS));
    tl__page_put(p, "<dl class=figures>");
    put_figure(p, "Validation loss", TL_FORM_PLAIN, validation, "perplexity", TL_FORM_COUNT, exp(validation));
    put_figure(p, "Training loss", TL_FORM_PLAIN, loss, "at first", TL_FORM_PLAIN,
               run->n > 1 ? run->column[TL_COLUMN_LOSS][0] : NAN);
    put_figure(p, "Bits per byte", TL_FORM_PLAIN, number(happened, "bits_per_byte"), "", TL_FORM_PLAIN, NAN);
    put_figure(p, "Tokens", TL_FORM_COUNT, last(run, TL_COLUMN_TOKENS_TOTAL), "steps", TL_FORM_COUNT, steps);
    put_figure(p, "Time", TL_FORM_SECONDS, told_or(run, "seconds", run->n ? run->totals.wall_seconds : NAN),
               "predicted", TL_FORM_SECONDS, number(predicted, "seconds"));
    put_figure(p, "Tokens a second", TL_FORM_COUNT, rate, "predicted", TL_FORM_COUNT,
               number(predicted, "tokens_per_second"));
    put_figure(p, "MFU", TL_FORM_PERCENT, told_or(run, "mfu", median(run, TL_COLUMN_MFU)), "predicted", TL_FORM_PERCENT,
               number(predicted, "mfu"));
    put_figure(p, "Peak memory", TL_FORM_BYTES, peak, "predicted", TL_FORM_BYTES, number(predicted, "peak_bytes"));
    tl__page_put(p, "</dl>\n");
}

/* What a bucket is measured against, as the run's folder says it. */
static tl_machine read_machine(const tl_run *run) {
    const json_t *machine = part(run, "machine"), *link = json_object_get(machine, "link");
    const char *features = string(machine, "features");
    tl_machine m = {.f32_flops = fmax(0, number(machine, "f32_flops")),
                    .bf16_flops = fmax(0, number(machine, "bf16_flops")),
                    .int8_ops = fmax(0, number(machine, "int8_ops")),
                    .read_bytes_per_second = fmax(0, number(machine, "read_bytes_per_second"))};
    snprintf(m.features, sizeof m.features, "%s", features ? features : "");
    const double ranks = number(link, "ranks"), rate = number(link, "gb_per_second") * 1e9;
    if (ranks > 1 && ranks < 1e6 && rate > 0) m.ranks = (int)ranks, m.link_bytes_per_second = rate;
    return m;
}

static void put_top(tl_page *p, const tl_run *run, const char *name) {
    const json_t *about = part(run, "run");
    const char *status = string(about, "status");
    tl__page_put(
        p,
        "<header><svg class=mark viewBox=\"0 0 32 32\" aria-hidden=true><path d=\"M3 7.5 4 4h24l1 3.5-1 3H4zM6 12h6l.5 "
        "17h-7.500zM20 12h6l1 17h-7.500z\"/></svg><div><h1>");
    put_text(p, name);
    if (status) {
        tl__page_put(p, "<span class=\"status%s\">", strcmp(status, "failed") == 0 ? " bad" : "");
        put_text(p, status);
        tl__page_put(p, "</span>");
    }
    tl__page_put(p, "</h1>");
    put_byline(p, run);
    tl__page_put(p, "</div></header>\n");

    const char *sentence = string(part(run, "happened"), "bottleneck");
    char made[1024];
    if (!sentence && run->totals.wall_seconds > 0) {
        const tl_machine m = read_machine(run);
        tl__ledger_bottleneck(made, sizeof made, &run->totals, &run->traffic, &m);
        sentence = made;
    }
    if (sentence) {
        tl__page_put(p, "<p class=lead>");
        put_text(p, sentence);
        tl__page_put(p, "</p>\n");
    }
    put_key_figures(p, run);
    double skipped = 0;
    char text[32];
    for (int i = 0; i < run->n; i++) skipped += run->column[TL_COLUMN_SKIPPED][i];
    if (skipped > 0)
        tl__page_put(p,
                     "<p class=warning>%.0f of %s steps %s skipped: the loss or gradient was not finite, and the "
                     "weights stayed as "
                     "they were.</p>\n",
                     skipped, tl__form(text, TL_FORM_COUNT, run->n), skipped == 1 ? "was" : "were");
    if (run->n == 0) tl__page_put(p, "<p class=empty>No step has been recorded yet.</p>\n");
}

/* --- the plots ------------------------------------------------------------------------------------------------------
 */

static void put_loss(tl_page *p, const tl_run *run) {
    double *smooth = malloc(sizeof *smooth * ((size_t)run->n + 1));
    if (!smooth) {
        p->failed = true;
        return;
    }
    int reach = run->n / 60 < 400 ? run->n / 60 : 400;
    tl__smooth(smooth, run->column[TL_COLUMN_LOSS], run->n, reach);
    tl_chart chart = {
        .title = "Loss",
        .note = "nats a token",
        .n = run->n,
        .step = run->column[TL_COLUMN_STEP],
        .series = {{NULL, "blue", run->column[TL_COLUMN_LOSS], TL_LINE_RAW},
                   {"training", "blue", smooth, TL_LINE_SMOOTH},
                   {"validation", "orange", run->column[TL_COLUMN_VALIDATION_LOSS], TL_LINE_SPARSE},
                   {"validation of the average", "teal", run->column[TL_COLUMN_EMA_VALIDATION_LOSS], TL_LINE_SPARSE}},
        .n_series = isfinite(last(run, TL_COLUMN_EMA_VALIDATION_LOSS)) ? 4
                    : isfinite(last(run, TL_COLUMN_VALIDATION_LOSS))   ? 3
                                                                       : 2,
        .form = TL_FORM_PLAIN,
        .level = NAN,
        .legend = true,
        .marked = run->column[TL_COLUMN_SKIPPED]};
    /* Once for a wide window and once for a telephone: a picture's letters shrink with it. */
    chart.extra_class = "wide", chart.width = 1080, chart.height = 380;
    tl__chart_lines(p, &chart);
    chart.extra_class = "narrow", chart.width = 520, chart.height = 340;
    tl__chart_lines(p, &chart);
    free(smooth);
}

static void put_line(tl_page *p, const tl_run *run, const char *title, const char *note, tl_column column,
                     const char *colour, tl_form form, double level, const char *level_label) {
    double *smooth = malloc(sizeof *smooth * ((size_t)run->n + 1));
    if (!smooth) {
        p->failed = true;
        return;
    }
    bool exact = column == TL_COLUMN_LEARNING_RATE || column == TL_COLUMN_RSS; /* nothing to smooth */
    /* Throughput is noise about a level; a gradient norm's spikes are the news. */
    int part_of_run = column == TL_COLUMN_GRAD_NORM ? 500 : 80;
    int reach = run->n / part_of_run < 400 ? run->n / part_of_run : 400;
    tl__smooth(smooth, run->column[column], run->n, exact ? 0 : reach);
    tl_chart chart = {
        .title = title,
        .note = note,
        .width = 520,
        .height = 250,
        .n = run->n,
        .step = run->column[TL_COLUMN_STEP],
        .series = {{NULL, colour, run->column[column], TL_LINE_RAW}, {title, colour, smooth, TL_LINE_SMOOTH}},
        .n_series = 2,
        .form = form,
        .from_zero = true,
        .level = level,
        .level_label = level_label};
    if (exact) chart.series[0] = chart.series[1], chart.n_series = 1;
    chart.legend = level_label != NULL; /* one line alone is named by the title */
    tl__chart_lines(p, &chart);
    free(smooth);
}

static const char *bucket_words(int b) {
    static const char *const words[TL_BUCKETS] = {
        "matrix products", "attention",     "norms",            "elementwise", "embedding",  "loss",    "drawing tokens",
        "optimizer",       "communication", "waiting for data", "validation",  "checkpoint", "logging", "unattributed"};
    return words[b];
}

static void put_ledger(tl_page *p, const tl_run *run) {
    const tl_totals *t = &run->totals;
    if (!(t->wall_seconds > 0)) return;
    const tl_machine machine = read_machine(run);
    const double read = machine.read_bytes_per_second;
    int order[TL_BUCKETS];
    for (int b = 0; b < TL_BUCKETS; b++) { /* insertion by seconds, greatest first */
        int at = b;
        while (at > 0 && t->seconds[order[at - 1]] < t->seconds[b]) order[at] = order[at - 1], at--;
        order[at] = b;
    }
    char text[32];
    tl__page_put(p,
                 "<h2>Where the time goes</h2><div class=pair><figure class=card><figcaption><b>By bucket</b>"
                 "<span class=note>mean of a step, %s</span></figcaption><table class=ledger><thead><tr><th>"
                 "<th>time<th>share<th title=\"achieved, and its part of the measured peak of its type\">FLOP/s"
                 "<th title=\"moved, and its part of the measured read bandwidth\">B/s</thead>",
                 tl__form(text, TL_FORM_SECONDS, t->wall_seconds / run->n));
    const double LEAST_SHARE = 0.003;
    double longest = t->seconds[order[0]] > 0 ? t->seconds[order[0]] : 1, small = 0;
    for (int k = 0; k < TL_BUCKETS; k++) {
        int b = order[k];
        double s = t->seconds[b];
        if (b != TL_BUCKET_OTHER && !(s / t->wall_seconds >= LEAST_SHARE)) { /* what no span claims is always shown */
            small += s > 0 ? s : 0;
            continue;
        }
        tl__page_put(p, "<tr><th><span class=bar style=\"width:%.1f%%;background:var(--b%d)\"></span>%s",
                     100 * s / longest, b, bucket_words(b));
        tl__page_put(p, "<td>%s", tl__form(text, TL_FORM_SECONDS, s / run->n));
        tl__page_put(p, "<td>%s<td>", tl__form(text, TL_FORM_PERCENT, s / t->wall_seconds));
        if (t->flops[b] > 0) {
            tl__page_put(p, "%s", tl__form(text, TL_FORM_COUNT, t->flops[b] / s));
            const double at_peak = tl__machine_seconds(&machine, t->flops[b], t->bf16_flops[b], t->int8_flops[b]);
            if (at_peak > 0) tl__page_put(p, " <small>%.0f\u00a0%%</small>", 100 * at_peak / s);
        }
        tl__page_put(p, "<td>");
        if (t->bytes[b] > 0) {
            tl__page_put(p, "%s", tl__form(text, TL_FORM_COUNT, t->bytes[b] / s));
            if (read > 0) tl__page_put(p, " <small>%.0f\u00a0%%</small>", 100 * t->bytes[b] / s / read);
        }
        tl__page_put(p, "</tr>");
    }
    if (small > 0) {
        tl__page_put(p, "<tr><th class=soft>all others<td>%s", tl__form(text, TL_FORM_SECONDS, small / run->n));
        tl__page_put(p, "<td>%s<td><td></tr>", tl__form(text, TL_FORM_PERCENT, small / t->wall_seconds));
    }
    tl__page_put(p, "</table></figure>\n");
    const char *names[TL_BUCKETS];
    for (int b = 0; b < TL_BUCKETS; b++) names[b] = bucket_words(b);
    tl__chart_shares(p, "Over the run", 520, 400, run->n, run->column[TL_COLUMN_STEP], TL_BUCKETS,
                     &run->column[TL_COLUMN_SECONDS], names);
    tl__page_put(p, "</div>\n");
}

/* --- communication: of runs of several ranks -------------------------------------------------------------------------
 */

static void put_row(tl_page *p, const char *label, tl_form form, double x, const char *after) {
    char text[32];
    if (!isfinite(x)) return;
    tl__page_put(p, "<tr><th>%s<td>%s%s</tr>", label, tl__form(text, form, x), after);
}

/* "a × 2, b × 2": how many ranks each host has, in order of appearance. */
static void put_hosts(tl_page *p, const json_t *hosts) {
    enum { MOST_SHOWN = 16 };
    int shown = 0;
    size_t n = json_array_size(hosts);
    for (size_t i = 0; i < n; i++) {
        const char *name = json_string_value(json_array_get(hosts, i));
        size_t first = 0, ranks = 0;
        if (!name) continue;
        for (size_t k = 0; k < n && n <= 4096; k++) {
            const char *other = json_string_value(json_array_get(hosts, k));
            if (!other || strcmp(other, name) != 0) continue;
            if (ranks++ == 0) first = k;
        }
        if (first != i || shown == MOST_SHOWN) continue;
        if (shown++) tl__page_put(p, ", ");
        put_text(p, name);
        if (ranks > 1) tl__page_put(p, "\u00a0\u00d7\u00a0%zu", ranks);
    }
}

static void put_communication(tl_page *p, const tl_run *run) {
    const json_t *about = part(run, "run"), *link = json_object_get(part(run, "machine"), "link");
    const json_t *predicted = json_object_get(part(run, "predicted"), "comm");
    double exposed = median(run, TL_COLUMN_COMM_EXPOSED), hidden = median(run, TL_COLUMN_COMM_HIDDEN);
    double rate = run->traffic.bytes / run->traffic.seconds * 1e-9, measured = number(link, "gb_per_second");
    char text[64];
    if (!isfinite(exposed)) return;
    tl__page_put(p, "<h2>Between ranks</h2><div class=pair><figure class=card><figcaption><b>Communication</b>"
                    "<span class=note>of rank 0, median of a step</span></figcaption><table class=ledger>");
    put_row(p, "ranks", TL_FORM_COUNT, number(about, "ranks"), "");
    if (json_array_size(json_object_get(about, "hosts")) > 0) {
        tl__page_put(p, "<tr><th>hosts<td>");
        put_hosts(p, json_object_get(about, "hosts"));
        tl__page_put(p, "</tr>");
    }
    if (string(about, "shard")) {
        tl__page_put(p, "<tr><th>shard<td>");
        put_text(p, string(about, "shard"));
        tl__page_put(p, "</tr>");
    }
    double step = median(run, TL_COLUMN_WALL);
    snprintf(text, sizeof text, " <small>%.0f\u00a0%% of the step</small>", 100 * fmin(exposed / step, 9.99));
    put_row(p, "exposed", TL_FORM_SECONDS, exposed, isfinite(exposed / step) ? text : "");
    put_row(p, "exposed, predicted", TL_FORM_SECONDS, number(predicted, "exposed_seconds"), "");
    put_row(p, "hidden behind computation", TL_FORM_SECONDS, hidden, "");
    put_row(p, "hidden, predicted", TL_FORM_SECONDS, number(predicted, "hidden_seconds"), "");
    put_row(p, "sent and received", TL_FORM_BYTES, median(run, TL_COLUMN_COMM_BYTES), "");
    put_row(p, "sent and received, predicted", TL_FORM_BYTES, number(predicted, "bytes"), "");
    snprintf(text, sizeof text, "/s <small>%.0f\u00a0%% of the link</small>", 100 * fmin(rate / measured, 99));
    put_row(p, "while under way", TL_FORM_BYTES, rate * 1e9, isfinite(rate / measured) ? text : "/s");
    put_row(p, "the link, measured before the first step", TL_FORM_BYTES, measured * 1e9, "/s");
    put_row(p, "one exchange at least", TL_FORM_SECONDS, number(link, "latency_seconds"), "");
    tl__page_put(p, "</table></figure>\n");

    double *smooth = malloc(sizeof *smooth * 2 * ((size_t)run->n + 1));
    if (!smooth) {
        p->failed = true;
        return;
    }
    int reach = run->n / 80 < 400 ? run->n / 80 : 400;
    tl__smooth(smooth, run->column[TL_COLUMN_COMM_EXPOSED], run->n, reach);
    tl__smooth(smooth + run->n, run->column[TL_COLUMN_COMM_HIDDEN], run->n, reach);
    tl_chart chart = {
        .title = "Seconds of a step in which ranks exchange",
        .width = 520,
        .height = 250,
        .n = run->n,
        .step = run->column[TL_COLUMN_STEP],
        .series = {{"exposed", "orange", smooth, TL_LINE_SMOOTH}, {"hidden", "teal", smooth + run->n, TL_LINE_SMOOTH}},
        .n_series = 2,
        .form = TL_FORM_SECONDS,
        .from_zero = true,
        .level = NAN,
        .legend = true};
    tl__chart_lines(p, &chart);
    free(smooth);
    tl__page_put(p, "</div>\n");
}

/* What the predicted memory is made of, largest first. */
static void put_memory_parts(tl_page *p, const json_t *memory, double peak) {
    enum { MOST = 24 };
    struct {
        const char *name;
        double bytes;
    } parts[MOST];
    int n = 0;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)memory, key, value) {
        double bytes = json_is_number(value) ? json_number_value(value) : 0;
        if (!(bytes > 0) || n == MOST) continue;
        int at = n++;
        while (at > 0 && parts[at - 1].bytes < bytes) parts[at] = parts[at - 1], at--;
        parts[at].name = key, parts[at].bytes = bytes;
    }
    if (n == 0) return;
    char text[32];
    tl__page_put(
        p, "<figure class=card><figcaption><b>What memory is for</b><span class=note>as predicted</span></figcaption>"
           "<table class=ledger>");
    for (int i = 0; i < n; i++) {
        tl__page_put(p, "<tr><th><span class=bar style=\"width:%.1f%%;background:var(--violet)\"></span>",
                     100 * parts[i].bytes / parts[0].bytes);
        put_text(p, parts[i].name);
        tl__page_put(p, "<td>%s", tl__form(text, TL_FORM_BYTES, parts[i].bytes));
        tl__page_put(p, "<td>%s</tr>", peak > 0 ? tl__form(text, TL_FORM_PERCENT, parts[i].bytes / peak) : "");
    }
    tl__page_put(p, "</table></figure>\n");
}

/* "power", and in how many steps it was held back. */
static void put_gpu_line(tl_page *p, const tl_run *run) {
    char note[128] = "";
    int told = 0, held = 0;
    if (!isfinite(last(run, TL_COLUMN_GPU_POWER))) return;
    for (int i = 0; i < run->n; i++) {
        told += isfinite(run->column[TL_COLUMN_GPU_HELD][i]);
        held += run->column[TL_COLUMN_GPU_HELD][i] > 0;
    }
    if (held > 0) snprintf(note, sizeof note, "held back (power, heat) in %d of %d steps", held, told);
    put_line(p, run, "Power of the GPU, watts", *note ? note : NULL, TL_COLUMN_GPU_POWER, "orange", TL_FORM_PLAIN, NAN, NULL);
}

static void put_plots(tl_page *p, const tl_run *run) {
    if (run->n == 0) return;
    put_loss(p, run);
    tl__page_put(p, "<div class=pair>");
    double predicted = number(part(run, "predicted"), "tokens_per_second");
    put_line(p, run, "Tokens a second", NULL, TL_COLUMN_TOKENS_PER_SECOND, "teal", TL_FORM_COUNT, predicted,
             isfinite(predicted) ? "predicted" : NULL);
    const char *dtype = string(part(run, "run"), "dtype");
    bool bf16 = dtype && strcmp(dtype, "bf16") == 0;
    put_line(p, run, "MFU", bf16 ? "of the measured bf16 peak" : "of the measured f32 peak", TL_COLUMN_MFU, "teal",
             TL_FORM_PERCENT, NAN, NULL);
    put_line(p, run, "Learning rate", NULL, TL_COLUMN_LEARNING_RATE, "violet", TL_FORM_PLAIN, NAN, NULL);
    put_line(p, run, "Gradient norm", "before clipping", TL_COLUMN_GRAD_NORM, "violet", TL_FORM_PLAIN, NAN, NULL);
    put_line(p, run, "Load of the busiest expert", "over the mean load, in the layer that is worst",
             TL_COLUMN_EXPERT_LOAD, "orange", TL_FORM_PLAIN, NAN, NULL);
    put_gpu_line(p, run);
    tl__page_put(p, "</div>\n");
    put_ledger(p, run);
    put_communication(p, run);
    double bytes = number(part(run, "predicted"), "peak_bytes");
    const json_t *memory = json_object_get(part(run, "predicted"), "memory");
    if (isfinite(last(run, TL_COLUMN_RSS)) || json_object_size(memory) > 0) {
        tl__page_put(p, "<h2>Memory</h2><div class=pair>");
        put_line(p, run, "Anonymous memory", NULL, TL_COLUMN_RSS, "blue", TL_FORM_BYTES, bytes,
                 isfinite(bytes) ? "predicted peak" : NULL);
        put_memory_parts(p, memory, bytes);
        tl__page_put(p, "</div>\n");
    }
}

/* --- predicted beside happened, samples, settings -------------------------------------------------------------------
 */

static void put_predicted(tl_page *p, const tl_run *run) {
    static const struct {
        const char *key, *label;
        tl_form form;
    } rows[] = {{"steps", "steps", TL_FORM_COUNT},
                {"seconds", "time", TL_FORM_SECONDS},
                {"step_seconds", "a step", TL_FORM_SECONDS},
                {"tokens_per_second", "tokens a second", TL_FORM_COUNT},
                {"mfu", "MFU", TL_FORM_PERCENT},
                {"peak_bytes", "peak memory", TL_FORM_BYTES}};
    const json_t *predicted = part(run, "predicted"), *happened = part(run, "happened");
    if (!json_is_object(predicted)) return;
    const double measured[] = {run->n ? run->column[TL_COLUMN_STEP][run->n - 1] : NAN,
                               run->n ? run->totals.wall_seconds : NAN,
                               median(run, TL_COLUMN_WALL),
                               median(run, TL_COLUMN_TOKENS_PER_SECOND),
                               median(run, TL_COLUMN_MFU),
                               most(run, TL_COLUMN_RSS)};
    char text[32];
    tl__page_put(
        p, "<h2>Predicted and happened</h2><div class=\"card scroll\"><table class=plain><thead><tr><th><th>predicted"
           "<th>happened<th>difference</thead>");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        double before = number(predicted, rows[i].key), after = number(happened, rows[i].key);
        if (!isfinite(after)) after = measured[i];
        if (!isfinite(before) && !isfinite(after)) continue;
        tl__page_put(p, "<tr><th>%s<td>%s", rows[i].label, tl__form(text, rows[i].form, before));
        tl__page_put(p, "<td>%s<td>", tl__form(text, rows[i].form, after));
        if (isfinite(before) && isfinite(after) && before > 0)
            tl__page_put(p, "%s%.1f\u00a0%%", after < before ? "\u2212" : "+", 100 * fabs(after / before - 1));
        tl__page_put(p, "</tr>");
    }
    tl__page_put(p, "</table>");
    if (string(predicted, "bottleneck")) {
        tl__page_put(p, "<p class=quiet>Predicted bottleneck: ");
        put_text(p, string(predicted, "bottleneck"));
        tl__page_put(p, "</p>");
    }
    tl__page_put(p, "</div>\n");
}

static void put_sample(tl_page *p, const json_t *sample) {
    char text[32];
    const json_t *prompt = json_object_get(sample, "prompt"), *body = json_object_get(sample, "text");
    tl__page_put(p, "<article class=card>");
    if (isfinite(number(sample, "step")))
        tl__page_put(p, "<h3>step %s</h3>", tl__form(text, TL_FORM_COUNT, number(sample, "step")));
    tl__page_put(p, "<p class=sample>");
    if (json_is_string(prompt)) {
        tl__page_put(p, "<b>");
        tl__page_text(p, json_string_value(prompt), json_string_length(prompt));
        tl__page_put(p, "</b>");
    }
    size_t n = json_string_length(body), shown = n < 6000 ? n : 6000;
    while (shown < n && shown > 0 && ((unsigned char)json_string_value(body)[shown] & 0xc0) == 0x80) shown--;
    tl__page_text(p, json_string_value(body), shown);
    tl__page_put(p, "%s</p></article>\n", shown < n ? " \u2026" : "");
}

/* The newest first, and where it began; the rest behind a fold. */
static void put_samples(tl_page *p, const tl_run *run) {
    if (run->n_samples == 0) return;
    enum { NEWEST = 3 };
    int n = run->n_samples;
    tl__page_put(p, "<h2>What it writes</h2><div class=samples>");
    for (int i = n - 1; i >= 0 && i >= n - NEWEST; i--) put_sample(p, run->samples[i]);
    if (n > NEWEST) put_sample(p, run->samples[0]);
    tl__page_put(p, "</div>");
    if (n > NEWEST + 1) {
        tl__page_put(p, "<details><summary>%d more</summary><div class=samples>", n - NEWEST - 1);
        for (int i = n - NEWEST - 1; i >= 1; i--) put_sample(p, run->samples[i]);
        tl__page_put(p, "</div></details>");
    }
    tl__page_put(p, "\n");
}

static void put_value(tl_page *p, const char *key, const json_t *v) {
    char text[32];
    size_t n = strlen(key);
    bool bytes = n > 6 && strcmp(key + n - 6, "_bytes") == 0, rate = strcmp(key, "read_bytes_per_second") == 0;
    if (json_is_string(v)) tl__page_text(p, json_string_value(v), json_string_length(v));
    else if (json_is_number(v) && (bytes || rate))
        tl__page_put(p, "%s%s", tl__form(text, TL_FORM_BYTES, json_number_value(v)), rate ? "/s" : "");
    else if (json_is_number(v) && (strcmp(key, "f32_flops") == 0 || strcmp(key, "bf16_flops") == 0))
        tl__page_put(p, "%.0f\u00a0GFLOP/s", json_number_value(v) / 1e9);
    else if (json_is_number(v)) tl__page_put(p, "%s", tl__form(text, TL_FORM_COUNT, json_number_value(v)));
    else if (json_is_array(v))
        for (size_t i = 0; i < json_array_size(v) && i < 100; i++) {
            if (i) tl__page_put(p, ", ");
            const json_t *e = json_array_get(v, i);
            if (json_is_string(e)) tl__page_text(p, json_string_value(e), json_string_length(e));
        }
    else if (json_is_boolean(v)) tl__page_put(p, json_is_true(v) ? "yes" : "no");
    else tl__page_put(p, "\u2013");
}

static void put_object(tl_page *p, const char *title, const json_t *o) {
    if (json_object_size(o) == 0) return;
    tl__page_put(p, "<div class=\"card scroll\"><h3>%s</h3><table class=plain>", title);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)o, key, value) {
        tl__page_put(p, "<tr><th>");
        for (const char *k = key; *k; k++) tl__page_text(p, *k == '_' ? " " : k, 1);
        tl__page_put(p, "<td>");
        put_value(p, key, value);
        tl__page_put(p, "</tr>");
    }
    tl__page_put(p, "</table></div>\n");
}

static void put_settings(tl_page *p, const tl_run *run) {
    tl__page_put(p, "<h2>Settings and surroundings</h2><div class=pair>");
    if (run->config) {
        size_t shown = run->config_bytes < 100000 ? run->config_bytes : 100000;
        tl__page_put(p, "<div class=\"card scroll tall\"><h3>config.yaml</h3><pre>");
        tl__page_text(p, run->config, shown);
        tl__page_put(p, "%s</pre></div>\n", shown < run->config_bytes ? "\n\u2026" : "");
    }
    tl__page_put(p, "<div>");
    put_object(p, "Model", part(run, "model"));
    put_object(p, "Machine", part(run, "machine"));
    put_object(p, "Run", part(run, "run"));
    tl__page_put(p, "</div></div>\n");
}

static void put_foot(tl_page *p, const tl_run *run) {
    char now[32];
    tl__utc_iso8601(now, sizeof now);
    tl__page_put(
        p, "<footer>Made by trilith %s on %s from the run folder alone; <code>trilith report</code> makes it again.",
        tl_version(), now);
    if (run->unreadable_lines > 0)
        tl__page_put(p, " %lld line%s of metrics.jsonl or samples.jsonl could not be read and %s left out.",
                     (long long)run->unreadable_lines, run->unreadable_lines == 1 ? "" : "s",
                     run->unreadable_lines == 1 ? "was" : "were");
    tl__page_put(p, "</footer></main></body></html>\n");
}

int tl__report_write(const char *run_folder, tl_error *err) {
    tl_run run;
    int rc = tl__run_read(&run, run_folder, err);
    if (rc) return rc;

    const char *name = string(part(&run, "run"), "name");
    char from_path[256];
    if (!name) { /* the folder's own */
        size_t n = strlen(run_folder), start;
        while (n > 1 && run_folder[n - 1] == '/') n--;
        for (start = n; start > 0 && run_folder[start - 1] != '/';) start--;
        snprintf(from_path, sizeof from_path, "%.*s", (int)(n - start < 200 ? n - start : 200), run_folder + start);
        name = from_path[0] && strcmp(from_path, ".") != 0 ? from_path : "A run";
    }
    tl_page page = {0};
    tl__report_head(&page, name);
    put_top(&page, &run, name);
    put_plots(&page, &run);
    put_samples(&page, &run);
    put_predicted(&page, &run);
    put_settings(&page, &run);
    put_foot(&page, &run);

    char path[4096];
    tl__path_join(path, sizeof path, run_folder, "report.html");
    if (page.failed)
        rc = tl__fail(err, TL_ENOMEM, "No memory to make %s; free some and run 'trilith report' again.", path);
    else rc = tl__file_publish(path, page.bytes, page.used, err);
    tl__page_free(&page);
    tl__run_free(&run);
    return rc;
}
