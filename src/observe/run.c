/* run.c — owns the reading back of a run folder.
 *
 * Promises: the folder's bytes are from outside: any of them may be missing, cut short or wrong, and what is right is
 * still read. metrics.jsonl is streamed, so memory grows by a few numbers a step, not by its text. A step that stands
 * twice (a run that was resumed before it was cut back) counts as its last telling. */
#include "observe/run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/json.h"
#include "io/file.h"
#include "observe/gpu.h"

#define LONGEST_LINE_BYTES ((size_t)1 << 20)
#define LARGEST_FILE_BYTES ((size_t)4 << 20)
#define MOST_SAMPLES 64
#define MOST_STEPS (1 << 22)

typedef struct reader {
    tl_run *run;
    int capacity;
} reader;

/* Call line(user, bytes, n) for each line of a file; too long lines are counted, not delivered. Missing file: nothing.
 */
static int each_line(const char *folder, const char *name, int (*line)(void *, const char *, size_t, tl_error *),
                     void *user, int64_t *unreadable, tl_error *err) {
    char path[4096];
    tl__path_join(path, sizeof path, folder, name);
    tl_stream *stream;
    if (!tl__path_exists(path) || tl__stream_open(&stream, path, NULL) != 0) return 0;
    char *buffer = malloc(LONGEST_LINE_BYTES);
    int rc = buffer ? 0 : tl__fail(err, TL_ENOMEM, "No memory to read %s; free some and try again.", path);
    size_t held = 0, got = 1;
    bool too_long = false;
    while (rc == 0 && got > 0) {
        if (tl__stream_read(stream, buffer + held, LONGEST_LINE_BYTES - held, &got, NULL) != 0) {
            ++*unreadable;
            break;
        }
        size_t end = held + got, start = 0;
        for (size_t i = held; i < end && rc == 0; i++) {
            if (buffer[i] != '\n') continue;
            if (!too_long && i > start) rc = line(user, buffer + start, i - start, err);
            too_long = false;
            start = i + 1;
        }
        held = end - start;
        memmove(buffer, buffer + start, held);
        if (held == LONGEST_LINE_BYTES) {
            if (!too_long) ++*unreadable;
            too_long = true;
            held = 0;
        }
    }
    if (rc == 0 && held > 0 && !too_long) rc = line(user, buffer, held, err); /* whole, or counted by `line` */
    free(buffer);
    tl__stream_close(stream);
    return rc;
}

/* What no step can have reached (f32 ends at 3e38) counts as absent, so that sums of what is read stay finite. */
static double number(const json_t *o, const char *key) {
    const json_t *v = json_object_get(o, key);
    double x = json_is_number(v) ? json_number_value(v) : NAN;
    return fabs(x) < 1e39 ? x : NAN;
}

/* NaN of none. */
static double greatest(const json_t *array) {
    double most = NAN;
    for (size_t i = 0; i < json_array_size(array); i++) {
        const json_t *v = json_array_get(array, i);
        double x = json_is_number(v) ? json_number_value(v) : NAN;
        if (fabs(x) < 1e39) most = fmax(most, x);
    }
    return most;
}

/* Whether its clocks were kept down: NaN where that is not told. */
static double held_back(const json_t *gpu) {
    const json_t *reasons = json_object_get(gpu, "throttle");
    if (!json_is_array(reasons)) return NAN;
    for (size_t i = 0; i < json_array_size(reasons); i++) {
        const char *name = json_string_value(json_array_get(reasons, i));
        for (int k = 0; name && k < TL_GPU_REASONS; k++)
            if (TL_GPU_HELD_BACK >> k & 1 && strcmp(name, tl__gpu_reasons[k]) == 0) return 1;
    }
    return 0;
}

static int metrics_line(void *user, const char *bytes, size_t n, tl_error *err) {
    reader *r = user;
    tl_run *run = r->run;
    json_t *o = tl__json_parse(bytes, n, "metrics.jsonl", NULL);
    double step = number(o, "step");
    if (!(step >= 0 && step < 1e15) || run->n >= MOST_STEPS) {
        run->unreadable_lines++;
        json_decref(o);
        return 0;
    }
    while (run->n > 0 && run->column[TL_COLUMN_STEP][run->n - 1] >= step) run->n--;
    if (run->n == r->capacity) {
        int capacity = r->capacity ? r->capacity * 2 : 1024;
        for (int c = 0; c < TL_COLUMNS; c++) {
            double *grown = realloc(run->column[c], sizeof *grown * (size_t)capacity);
            if (!grown) {
                json_decref(o);
                return tl__fail(err, TL_ENOMEM,
                                "No memory for the columns of %d steps of metrics.jsonl; free some and try again.",
                                capacity);
            }
            run->column[c] = grown;
        }
        r->capacity = capacity;
    }
    static const char *const keys[] = {"step",          "loss",   "validation_loss", "ema_validation_loss", "grad_norm",
                                       "learning_rate", "tokens", "tokens_total",    "tokens_per_second",   "mfu",
                                       "rss_anon_bytes"};
    int i = run->n++;
    for (int c = TL_COLUMN_STEP; c <= TL_COLUMN_RSS; c++) run->column[c][i] = number(o, keys[c]);
    run->column[TL_COLUMN_SKIPPED][i] = json_is_true(json_object_get(o, "skipped"));
    run->column[TL_COLUMN_EXPERT_LOAD][i] = greatest(json_object_get(o, "expert_load"));
    const json_t *seconds = json_object_get(o, "seconds"), *flops = json_object_get(o, "flops_per_second"),
                 *moved = json_object_get(o, "bytes_per_second"), *bf16 = json_object_get(o, "bf16_flops_per_second");
    double wall = number(seconds, "wall");
    run->column[TL_COLUMN_WALL][i] = wall;
    if (isfinite(wall)) run->totals.wall_seconds += wall;
    const json_t *comm = json_object_get(o, "comm");
    double exposed = number(comm, "exposed_seconds"), hidden = number(comm, "hidden_seconds"),
           moved_by_ranks = number(comm, "bytes");
    run->column[TL_COLUMN_COMM_EXPOSED][i] = exposed;
    run->column[TL_COLUMN_COMM_HIDDEN][i] = hidden;
    run->column[TL_COLUMN_COMM_BYTES][i] = moved_by_ranks;
    if (isfinite(exposed + hidden + moved_by_ranks)) {
        /* The seconds under way: bytes by the rate, since waiting may have gone on while nothing was. */
        double rate = number(comm, "gb_per_second") * 1e9;
        run->traffic.seconds += rate > 0 ? moved_by_ranks / rate : exposed + hidden;
        run->traffic.bytes += moved_by_ranks;
    }
    const json_t *gpu = json_object_get(o, "gpu");
    run->column[TL_COLUMN_GPU_POWER][i] = number(gpu, "power_watts");
    run->column[TL_COLUMN_GPU_HELD][i] = held_back(gpu);
    for (int b = 0; b < TL_BUCKETS; b++) {
        double s = number(seconds, tl__bucket_name(b));
        run->column[TL_COLUMN_SECONDS + b][i] = s;
        double f = number(flops, tl__bucket_name(b)) * s, m = number(moved, tl__bucket_name(b)) * s;
        double f16 = number(bf16, tl__bucket_name(b)) * s;
        if (isfinite(s)) run->totals.seconds[b] += s;
        if (isfinite(f)) run->totals.flops[b] += f;
        if (isfinite(f16)) run->totals.bf16_flops[b] += f16;
        if (isfinite(m)) run->totals.bytes[b] += m;
    }
    json_decref(o);
    return 0;
}

static int sample_line(void *user, const char *bytes, size_t n, tl_error *err) {
    tl_run *run = user;
    json_t *o = tl__json_parse(bytes, n, "samples.jsonl", NULL);
    if (!json_is_object(o) || !json_is_string(json_object_get(o, "text"))) {
        run->unreadable_lines++;
        json_decref(o);
        return 0;
    }
    if (run->n_samples == MOST_SAMPLES) { /* keep the first, which shows where it began, and the newest */
        json_decref(run->samples[1]);
        memmove(run->samples + 1, run->samples + 2, sizeof *run->samples * (MOST_SAMPLES - 2));
        run->n_samples--;
    }
    run->samples[run->n_samples++] = o;
    return 0;
}

int tl__run_read(tl_run *run, const char *folder, tl_error *err) {
    *run = (tl_run){0};
    if (!tl__path_is_folder(folder))
        return tl__fail(err, TL_ENOTFOUND, "%s is not a folder; name the folder that 'trilith train --out' wrote.",
                        folder);
    run->samples = calloc(MOST_SAMPLES, sizeof *run->samples);
    if (!run->samples) return tl__fail(err, TL_ENOMEM, "No memory to read the run in %s.", folder);

    char path[4096], *text;
    size_t size;
    tl__path_join(path, sizeof path, folder, "plan.json");
    if (tl__path_exists(path) && tl__file_slurp(&text, &size, path, LARGEST_FILE_BYTES, NULL) == 0) {
        run->plan = tl__json_parse(text, size, path, NULL);
        free(text);
        if (!json_is_object(run->plan)) {
            json_decref(run->plan);
            run->plan = NULL;
        }
    }
    tl__path_join(path, sizeof path, folder, "config.yaml");
    if (tl__path_exists(path) && tl__file_slurp(&run->config, &run->config_bytes, path, LARGEST_FILE_BYTES, NULL) != 0)
        run->config = NULL;

    reader r = {.run = run};
    int rc = each_line(folder, "metrics.jsonl", metrics_line, &r, &run->unreadable_lines, err);
    if (rc == 0) rc = each_line(folder, "samples.jsonl", sample_line, run, &run->unreadable_lines, err);
    if (rc) {
        tl__run_free(run);
        return rc;
    }
    return 0;
}

void tl__run_free(tl_run *run) {
    for (int c = 0; c < TL_COLUMNS; c++) free(run->column[c]);
    for (int i = 0; i < run->n_samples; i++) json_decref(run->samples[i]);
    free(run->samples);
    free(run->config);
    json_decref(run->plan);
    *run = (tl_run){0};
}
