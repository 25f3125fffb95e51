/* sweep_table.c — owns the rows of a sweep: read from run folders, put in order, printed as a Markdown table. */
#include "observe/sweep_table.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/json.h"
#include "io/file.h"

enum { LARGEST_PLAN_BYTES = 4 << 20 };

/* ---- from a run folder ---- */

static json_t *number_or_null(const json_t *from, const char *key) {
    const json_t *v = json_object_get(from, key);
    return json_is_number(v) && isfinite(json_number_value(v)) ? json_copy((json_t *)v) : json_null();
}

json_t *tl__sweep_row(const char *run_folder) {
    static const struct {
        const char *part, *key;
    } columns[] = {{"happened", "bits_per_byte"}, {"happened", "validation_loss"},
                   {"happened", "loss"},          {"happened", "steps"},
                   {"happened", "tokens"},        {"model", "params"},
                   {"happened", "model_flops"},   {"happened", "tokens_per_second"},
                   {"happened", "mfu"},           {"happened", "seconds"},
                   {"happened", "peak_bytes"}};
    char path[4096], *text;
    size_t size;
    json_t *plan = NULL, *row = json_object();
    tl__path_join(path, sizeof path, run_folder, "plan.json");
    if (tl__path_exists(path) && tl__file_slurp(&text, &size, path, LARGEST_PLAN_BYTES, NULL) == 0) {
        plan = tl__json_parse(text, size, path, NULL);
        free(text);
    }
    const char *status = json_string_value(json_object_get(json_object_get(plan, "run"), "status"));
    json_object_set_new(row, "status", json_string(status ? status : "waiting"));
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++)
        json_object_set_new(row, columns[i].key,
                            number_or_null(json_object_get(plan, columns[i].part), columns[i].key));
    json_decref(plan);
    return row;
}

/* ---- order ---- */

size_t tl__sweep_axes(const json_t *axes) {
    enum { MOST_AXES = 32 };
    return json_array_size(axes) < MOST_AXES ? json_array_size(axes) : MOST_AXES;
}

const char *tl__sweep_text(const json_t *row, const char *key) {
    const char *s = json_string_value(json_object_get(row, key));
    return s ? s : "";
}

double tl__sweep_number(const json_t *row, const char *key) {
    const json_t *v = json_object_get(row, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

bool tl__sweep_finished(const json_t *row) {
    return strcmp(tl__sweep_text(row, "status"), "finished") == 0;
}

const char *tl__sweep_measure(const json_t *rows) {
    static const char *const measures[] = {"bits_per_byte", "validation_loss", "loss"};
    for (size_t m = 0; m < 3; m++) {
        bool all = true, any = false;
        for (size_t i = 0; i < json_array_size(rows); i++) {
            const json_t *row = json_array_get(rows, i);
            if (!tl__sweep_finished(row)) continue;
            any = true;
            all = all && isfinite(tl__sweep_number(row, measures[m]));
        }
        if (any && all) return measures[m];
    }
    return "loss";
}

typedef struct place {
    size_t at;
    double value; /* +inf: behind every finished run */
} place;

static int by_value(const void *a, const void *b) {
    const place *x = a, *y = b;
    if (x->value != y->value) return x->value < y->value ? -1 : 1;
    return x->at < y->at ? -1 : x->at > y->at;
}

json_t *tl__sweep_sorted(const json_t *rows) {
    const char *measure = tl__sweep_measure(rows);
    size_t n = json_array_size(rows);
    place *places = calloc(n + 1, sizeof *places);
    json_t *sorted = json_array();
    if (!places) {
        json_decref(sorted);
        return NULL;
    }
    for (size_t i = 0; i < n; i++) {
        const json_t *row = json_array_get(rows, i);
        double value = tl__sweep_number(row, measure);
        places[i] = (place){i, tl__sweep_finished(row) && isfinite(value) ? value : INFINITY};
    }
    qsort(places, n, sizeof *places, by_value);
    for (size_t i = 0; i < n; i++) json_array_append(sorted, json_array_get(rows, places[i].at));
    free(places);
    return sorted;
}

/* ---- the table ---- */

const tl_sweep_column tl__sweep_columns[TL_SWEEP_COLUMNS] = {
    {"bits_per_byte", "bits a byte", TL_FORM_PLAIN},
    {"validation_loss", "validation loss", TL_FORM_PLAIN},
    {"loss", "training loss", TL_FORM_PLAIN},
    {"params", "parameters", TL_FORM_COUNT},
    {"tokens", "tokens", TL_FORM_COUNT},
    {"model_flops", "model FLOPs", TL_FORM_COUNT},
    {"tokens_per_second", "tokens a second", TL_FORM_COUNT},
    {"seconds", "time", TL_FORM_SECONDS},
};

/* Text of anybody's in a cell: what would end it or the line is left out. */
static void put_cell(tl_page *p, const char *text) {
    for (; *text; text++)
        if (*text == '|') tl__page_put(p, "\\|");
        else if ((unsigned char)*text >= 0x20 && *text != 0x7f) tl__page_put(p, "%c", *text);
}

void tl__sweep_markdown(tl_page *p, const json_t *axes, const json_t *rows) {
    char text[32];
    size_t n_axes = tl__sweep_axes(axes);
    tl__page_put(p, "| |");
    for (size_t a = 0; a < n_axes; a++) {
        const char *axis = json_string_value(json_array_get(axes, a));
        tl__page_put(p, " ");
        put_cell(p, axis ? axis : "");
        tl__page_put(p, " |");
    }
    for (int c = 0; c < TL_SWEEP_COLUMNS; c++) tl__page_put(p, " %s |", tl__sweep_columns[c].label);
    tl__page_put(p, " run |\n|---:|");
    for (size_t a = 0; a < n_axes; a++) tl__page_put(p, "---:|");
    for (int c = 0; c < TL_SWEEP_COLUMNS; c++) tl__page_put(p, "---:|");
    tl__page_put(p, "---|\n");
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        if (tl__sweep_finished(row)) tl__page_put(p, "| %zu |", i + 1);
        else tl__page_put(p, "| \u2013 |");
        for (size_t a = 0; a < n_axes; a++) {
            const char *axis = json_string_value(json_array_get(axes, a));
            tl__page_put(p, " ");
            put_cell(p, tl__sweep_text(json_object_get(row, "values"), axis ? axis : ""));
            tl__page_put(p, " |");
        }
        for (int c = 0; c < TL_SWEEP_COLUMNS; c++)
            tl__page_put(p, " %s |",
                         tl__form(text, tl__sweep_columns[c].form, tl__sweep_number(row, tl__sweep_columns[c].key)));
        tl__page_put(p, " ");
        put_cell(p, tl__sweep_text(row, "name"));
        if (!tl__sweep_finished(row)) {
            tl__page_put(p, " (");
            put_cell(p, tl__sweep_text(row, "status"));
            if (*tl__sweep_text(row, "error")) tl__page_put(p, ": "), put_cell(p, tl__sweep_text(row, "error"));
            tl__page_put(p, ")");
        }
        tl__page_put(p, " |\n");
    }
}
