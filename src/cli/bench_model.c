/* bench_model.c — how fast a model reads a prompt and writes an answer, through the public API: what a caller of the
 * library would see, sampling included.
 *
 * One repetition is a session begun anew: `prefill` tokens at once, then `decode` tokens one by one, each the likeliest
 * after the one before. The first repetition touches everything for the first time and is left out, but for the time to
 * its first token. */
#include "cli/bench_model.h"

#include <stdlib.h>
#include <string.h>
#include "base/clock.h"

enum { MOST_REPEATS = 1000 };

typedef struct figures {
    double open_seconds;  /* of the engine and its session */
    double first_seconds; /* from there to the first token of the first repetition */
    int n;
    double prefill[MOST_REPEATS], decode[MOST_REPEATS]; /* tokens a second */
} figures;

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(const double *sorted, int n) {
    return n % 2 ? sorted[n / 2] : 0.5 * (sorted[n / 2 - 1] + sorted[n / 2]);
}

/* Ids that any vocabulary has, in no order. */
static void make_prompt(int32_t *ids, int n, int vocabulary) {
    for (int i = 0; i < n; i++) ids[i] = (int32_t)((uint32_t)(i + 1) * 2654435761u % (uint32_t)vocabulary);
}

static int repeat_once(const tl_bench_model *w, tl_engine *e, tl_session *s, const int32_t *prompt, float *logits,
                       double seconds[2], double *first, tl_error *err) {
    static const tl_sampling likeliest = {0};
    int32_t id = 0;
    int64_t begin = tl__now_ns();
    int status = tl_session_rewind(s, 0, err);
    if (!status) status = tl_session_append(s, prompt, (size_t)w->prefill, logits, err);
    int64_t read = tl__now_ns();
    for (int i = 0; !status && i < w->decode; i++) {
        status = tl_engine_sample(e, &likeliest, logits, w->prefill + i, &id, NULL, err);
        if (i == 0) *first = (double)(tl__now_ns() - begin) * 1e-9;
        if (!status) status = tl_session_append(s, &id, 1, logits, err);
    }
    seconds[0] = (double)(read - begin) * 1e-9;
    seconds[1] = (double)(tl__now_ns() - read) * 1e-9;
    return status;
}

static int measure(const tl_bench_model *w, figures *f, tl_engine_facts *facts, tl_error *err) {
    tl_engine *e = NULL;
    tl_session *s = NULL;
    tl_engine_options how = {
        .threads = w->threads, .positions = w->prefill + w->decode, .dtype = w->dtype, .device = w->device};
    int64_t begin = tl__now_ns();
    int status = tl_engine_open(&e, w->model, &how, err);
    if (!status) status = tl_engine_describe(e, facts, err);
    if (!status && facts->positions < w->prefill + w->decode)
        status = tl__fail(err, TL_EINVALID, "--prefill and --decode ask for %d positions, but this model has %d",
                          w->prefill + w->decode, facts->positions);
    if (!status) status = tl_session_open(&s, e, w->prefill + w->decode, err);
    f->open_seconds = (double)(tl__now_ns() - begin) * 1e-9;
    int32_t *prompt = status ? NULL : malloc((size_t)w->prefill * sizeof *prompt);
    float *logits = status ? NULL : malloc((size_t)facts->vocabulary * sizeof *logits);
    if (!status && (!prompt || !logits)) status = tl__fail(err, TL_ENOMEM, "no memory for %d tokens", w->prefill);
    if (!status) make_prompt(prompt, w->prefill, facts->vocabulary);
    for (int i = 0; !status && i <= w->repeat; i++) {
        double seconds[2], first = 0;
        status = repeat_once(w, e, s, prompt, logits, seconds, &first, err);
        if (i == 0) f->first_seconds = first;
        else f->prefill[f->n] = w->prefill / seconds[0], f->decode[f->n++] = w->decode / seconds[1];
    }
    free(prompt);
    free(logits);
    tl_session_close(s);
    tl_engine_close(e);
    qsort(f->prefill, (size_t)f->n, sizeof *f->prefill, ascending);
    qsort(f->decode, (size_t)f->n, sizeof *f->decode, ascending);
    return status;
}

static json_t *speed(const double *sorted, int n, int tokens) {
    return json_pack("{s:i, s:f, s:f, s:f}", "tokens", tokens, "tokens_per_second", median(sorted, n), "slowest",
                     sorted[0], "fastest", sorted[n - 1]);
}

int tl__bench_model(tl_cli *cli, const tl_bench_model *w) {
    tl_error err = {0};
    tl_engine_facts facts;
    figures *f = calloc(1, sizeof *f);
    if (!f || w->repeat > MOST_REPEATS) return free(f), tl__cli_bad(cli, "--repeat is at most %d", MOST_REPEATS);
    int code = TL_EXIT_DONE;
    if (measure(w, f, &facts, &err)) code = tl__cli_fail(cli, &err);
    else if (w->json)
        code = tl__cli_print_json(
            cli, json_pack("{s:s, s:s, s:I, s:i, s:i, s:f, s:f, s:o, s:o}", "version", tl_version(), "model", w->model,
                           "parameters", (json_int_t)facts.parameters, "threads", w->threads, "repeat", w->repeat,
                           "open_seconds", f->open_seconds, "first_token_seconds", f->first_seconds, "prefill",
                           speed(f->prefill, f->n, w->prefill), "decode", speed(f->decode, f->n, w->decode)));
    else {
        printf("%s, %.1fM parameters; open in %.0f ms, first token of a prompt of %d after %.0f ms\n\n", w->model,
               (double)facts.parameters * 1e-6, f->open_seconds * 1e3, w->prefill, f->first_seconds * 1e3);
        printf("%-8s %8s  %10s  %9s  %9s\n", "", "tokens", "tokens/s", "slowest", "fastest");
        printf("%-8s %8d  %10.1f  %9.1f  %9.1f\n", "prefill", w->prefill, median(f->prefill, f->n), f->prefill[0],
               f->prefill[f->n - 1]);
        printf("%-8s %8d  %10.1f  %9.1f  %9.1f\n", "decode", w->decode, median(f->decode, f->n), f->decode[0],
               f->decode[f->n - 1]);
    }
    free(f);
    return code;
}
