/* cmd_score.c — `trilith score`: how likely a model finds a text, token by token. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "base/json.h"
#include "cli/cli.h"
#include "infer/engine.h"
#include "infer/session.h"

#define TEXT_LIMIT_BYTES ((size_t)1 << 30)

typedef struct settings {
    const char *model, *text, *tokens;
    bool special, mmap, verify, json;
    int64_t window, chunk, threads;
    int dtype, device;
} settings;

static const tl_option options[] = {
    {"model", TL_STRING(settings, model), .value = "MODEL", .required = true, .help = TL_MODEL_HELP},
    {"text", TL_STRING(settings, text), .value = "FILE",
     .help = "The text to score, exactly as it stands in the file."},
    {"tokens", TL_STRING(settings, tokens), .value = "FILE",
     .help = "Score these token ids instead: a JSON array, or numbers parted by white space."},
    {"special", TL_FLAG(settings, special),
     .help =
         "Names of special tokens in the text, such as <|endoftext|>, mean the tokens; else they are ordinary text."},
    {"window", TL_INT(settings, window), .least = 2, .most = 1e9,
     .help = "Most tokens seen at once; as many as the model has positions unless given. A longer text is scored in "
             "windows "
             "that overlap by half, each token with the most context that a window leaves it."},
    {"chunk", TL_INT(settings, chunk), .initial = "256", .least = 1, .most = 65536,
     .help = "Rows computed at once: memory against speed; the result is the same to the bit."},
    {"dtype", TL_CHOICE(settings, dtype), .initial = "auto", .choices = tl__dtype_names, .help = TL_DTYPE_HELP},
    {"device", TL_CHOICE(settings, device), .initial = "cpu", .choices = tl__device_names, .help = TL_DEVICE_HELP},
    {"threads", TL_INT(settings, threads), .least = 0, .most = 1024,
     .help = "CPU threads; all that this process may use unless given."},
    TL_MODEL_FILE_OPTIONS(settings),
    {"json", TL_FLAG(settings, json), .not_in_yaml = true,
     .help = "Print one JSON object (logprobs, one for each token after the first; bits_per_byte; tokens; …) and "
             "nothing else."},
    {0}};

typedef struct scoring {
    int32_t *ids; /* [n] */
    int64_t n;
    float *logp; /* [n−1] of ids[1 …] */
    int window;
    int64_t windows;
    double seconds;
    double nats;   /* −Σ logp */
    int64_t bytes; /* of the scored tokens; −1: not known */
} scoring;

/* ---- reading what is to be scored ---- */

static int ids_from_json(scoring *s, const char *bytes, size_t size, const char *path, tl_error *err) {
    json_t *array = tl__json_parse(bytes, size, path, err);
    if (!array) return err->status;
    int status = 0;
    if (!json_is_array(array)) status = tl__fail(err, TL_EFORMAT, "%s: a JSON array of token ids was expected", path);
    s->n = (int64_t)json_array_size(array);
    if (!status && !(s->ids = malloc(((size_t)s->n + 1) * sizeof *s->ids)))
        status = tl__fail(err, TL_ENOMEM, "not enough memory for %lld token ids", (long long)s->n);
    for (int64_t i = 0; !status && i < s->n; i++) {
        const json_t *item = json_array_get(array, (size_t)i);
        json_int_t id = json_integer_value(item);
        if (!json_is_integer(item) || id < 0 || id > INT32_MAX)
            status = tl__fail(err, TL_EFORMAT, "%s: item %lld of the array is not a token id", path, (long long)i);
        else s->ids[i] = (int32_t)id;
    }
    json_decref(array);
    return status;
}

static int ids_from_words(scoring *s, const char *bytes, size_t size, const char *path, tl_error *err) {
    s->ids = malloc((size / 2 + 2) * sizeof *s->ids); /* a digit and a blank each, at least */
    if (!s->ids) return tl__fail(err, TL_ENOMEM, "not enough memory for the token ids of %s", path);
    int64_t line = 1;
    for (size_t at = 0; at < size;) {
        char c = bytes[at];
        if (c == ' ' || c == '\n' || c == '\t' || c == '\r') {
            line += c == '\n';
            at++;
            continue;
        }
        int64_t id = 0;
        size_t first = at;
        while (at < size && bytes[at] >= '0' && bytes[at] <= '9' && id <= INT32_MAX) id = id * 10 + (bytes[at++] - '0');
        bool ended = at == size || (bytes[at] && strchr(" \n\t\r", bytes[at]));
        if (at == first || !ended || id > INT32_MAX)
            return tl__fail(err, TL_EFORMAT,
                            "%s line %lld: token ids are whole numbers parted by white space, or a JSON array", path,
                            (long long)line);
        s->ids[s->n++] = (int32_t)id;
    }
    return 0;
}

static int read_input(const settings *o, const tl_engine *e, scoring *s, tl_error *err) {
    char *bytes;
    size_t size;
    const char *path = o->text ? o->text : o->tokens;
    int status = tl__file_slurp(&bytes, &size, path, TEXT_LIMIT_BYTES, err);
    if (status) return status;
    if (o->text) {
        s->n = tl__engine_encode(e, &s->ids, bytes, size, o->special, path, err);
        if (s->n < 0) status = (int)s->n;
    } else {
        size_t blank = strspn(bytes, " \t\r\n");
        status =
            bytes[blank] == '[' ? ids_from_json(s, bytes, size, path, err) : ids_from_words(s, bytes, size, path, err);
    }
    free(bytes);
    if (status) return status;
    if (s->n < 2)
        return tl__fail(err, TL_EINVALID,
                        "%s has %lld token%s; scoring needs at least two, since the first has nothing before it", path,
                        (long long)s->n, s->n == 1 ? "" : "s");
    for (int64_t i = 0; i < s->n; i++)
        if (s->ids[i] >= e->arch.V)
            return tl__fail(
                err, TL_EINVALID,
                "%s: token %lld is id %d, but the model's ids are 0 to %d; was it encoded with this model's tokenizer?",
                path, (long long)i, (int)s->ids[i], e->arch.V - 1);
    return 0;
}

/* ---- scoring ---- */

/* Bytes of the scored tokens; −1 where there is no tokenizer. */
static int64_t count_bytes(const tl_engine *e, const scoring *s) {
    if (!e->tokenizer) return -1;
    int64_t total = 0;
    for (int64_t i = 1; i < s->n; i++) {
        size_t n;
        tl__tokenizer_bytes(e->tokenizer, s->ids[i], &n);
        total += (int64_t)n;
    }
    return total;
}

static int score(const settings *o, tl_engine *e, scoring *s, tl_error *err) {
    int status = tl__engine_open(e, o->model, o->text != NULL, err);
    if (!status) status = read_input(o, e, s, err);
    if (status) return status;
    int positions = e->arch.max_positions;
    if (o->window > positions)
        return tl__fail(err, TL_EINVALID, "--window %lld is more than the %d positions of this model",
                        (long long)o->window, positions);
    if (positions < 2) return tl__fail(err, TL_EINVALID, "this model has one position; nothing can be scored with it");
    s->window = o->window ? (int)o->window : positions;
    if (s->window > s->n) s->window = (int)s->n;
    s->logp = malloc((size_t)s->n * sizeof *s->logp);
    tl_session *session = NULL;
    if (!s->logp) status = tl__fail(err, TL_ENOMEM, "not enough memory for %lld log-probabilities", (long long)s->n);
    tl_engine_options how = {.threads = (int)o->threads,
                             .positions = s->window,
                             .dtype = (tl_dtype)o->dtype,
                             .device = (tl_device)o->device,
                             .verify = o->verify};
    if (!status) status = tl__engine_load(e, &how, err);
    if (!status) status = tl__session_open(&session, &e->model, &e->ctx, s->window, (int)o->chunk, err);
    int64_t begin = tl__now_ns();
    if (!status) status = tl__session_score_whole(session, s->ids, s->n, s->logp, &s->windows, err);
    s->seconds = (double)(tl__now_ns() - begin) * 1e-9;
    for (int64_t i = 0; !status && i < s->n - 1; i++) s->nats -= (double)s->logp[i];
    s->bytes = count_bytes(e, s);
    tl__session_close(session);
    return status;
}

/* ---- saying it ---- */

static double bits_per_byte(const scoring *s) {
    return s->nats / log(2.0) / (double)s->bytes;
}

static json_t *real_or_null(double x, bool known) {
    return known && isfinite(x) ? json_real(x) : json_null();
}

static json_t *as_json(const scoring *s) {
    json_t *logp = json_array();
    for (int64_t i = 0; i < s->n - 1; i++)
        json_array_append_new(logp, isfinite(s->logp[i]) ? json_real((double)s->logp[i]) : json_null());
    return json_pack("{s:o, s:o, s:o, s:I, s:o, s:i, s:I, s:f, s:f}", "logprobs", logp, "bits_per_byte",
                     real_or_null(bits_per_byte(s), s->bytes > 0), "loss",
                     real_or_null(s->nats / (double)(s->n - 1), true), "tokens", (json_int_t)s->n, "bytes",
                     s->bytes >= 0 ? json_integer(s->bytes) : json_null(), "window", s->window, "windows",
                     (json_int_t)s->windows, "seconds", s->seconds, "tokens_per_second",
                     s->seconds > 0 ? (double)(s->n - 1) / s->seconds : 0.0);
}

static void print_text(const scoring *s) {
    double loss = s->nats / (double)(s->n - 1);
    printf("tokens            %lld (%lld scored", (long long)s->n, (long long)s->n - 1);
    if (s->windows > 1) printf(", in %lld windows of %d that overlap by half", (long long)s->windows, s->window);
    printf(")\nloss              %.4f nats a token\nperplexity        %.4g\n", loss, exp(loss));
    if (s->bytes > 0) printf("bits per byte     %.4f over %lld bytes\n", bits_per_byte(s), (long long)s->bytes);
    printf("speed             %.0f tokens/s\n", s->seconds > 0 ? (double)(s->n - 1) / s->seconds : 0.0);
}

static int run(tl_cli *cli) {
    const settings *o = cli->values;
    if (!o->text == !o->tokens) return tl__cli_bad(cli, "give one of --text FILE and --tokens FILE");
    tl__cli_mmap(o->mmap);
    tl_engine engine = {0};
    scoring s = {0};
    tl_error err = {0};
    int code = TL_EXIT_DONE;
    if (score(o, &engine, &s, &err) < 0) code = tl__cli_fail(cli, &err);
    else if (o->json) code = tl__cli_print_json(cli, as_json(&s));
    else print_text(&s);
    free(s.ids);
    free(s.logp);
    tl__engine_close(&engine);
    return code;
}

const tl_command tl__cmd_score = {
    .name = "score",
    .summary = "say how likely a model finds a text",
    .usage = "--model MODEL (--text FILE | --tokens FILE) [options]",
    .about = "Gives each token's log-probability after all that stands before it, and their mean as loss, perplexity "
             "and bits per byte. The numbers "
             "are the trainer's own, to the bit: the same operators compute both.",
    .examples = "  trilith score --model runs/demo --text chapter.txt\n"
                "      loss, perplexity and bits per byte\n"
                "  trilith score --model runs/demo --tokens ids.json --json\n"
                "      a log-probability for each token after the first",
    .options = options,
    .values_bytes = sizeof(settings),
    .run = run,
};
