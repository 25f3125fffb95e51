/* cmd_generate.c — `trilith generate`: continue a text, shown as it is made. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/log.h"
#include "cli/cli.h"
#include "infer/engine.h"
#include "infer/sampler.h"
#include "infer/session.h"

typedef struct settings {
    const char *model, *prompt, *prompt_file;
    bool special, stop_at_eos, mmap, verify, json;
    int64_t max_tokens, top_k, seed, threads;
    double temperature, top_p, min_p;
    int dtype;
} settings;

static const tl_option options[] = {
    {"model", TL_STRING(settings, model), .value = "MODEL", .required = true, .help = TL_MODEL_HELP},
    TL_HEADING("Prompt"),
    {"prompt", TL_STRING(settings, prompt),
     .help = "The text to continue. Without a prompt the model begins a document of its own."},
    {"prompt-file", TL_STRING(settings, prompt_file), .value = "FILE",
     .help = "Read the prompt from a file, exactly as it stands."},
    {"special", TL_FLAG(settings, special),
     .help =
         "Names of special tokens in the prompt, such as <|endoftext|>, mean the tokens; else they are ordinary text."},
    TL_HEADING("Sampling"),
    {"max-tokens", TL_INT(settings, max_tokens), .initial = "256", .least = 1, .most = 1e9,
     .help = "Most tokens to generate."},
    {"temperature", TL_REAL(settings, temperature), .initial = "0.8", .least = 0, .most = 1000,
     .help = "0 takes the likeliest token each time; 1 samples from the model as it is; above 1 flattens."},
    {"top-k", TL_INT(settings, top_k), .value = "K", .initial = "0", .least = 0, .most = 2147483647,
     .help = "Sample among the K likeliest tokens; 0 is off."},
    {"top-p", TL_REAL(settings, top_p), .initial = "1", .least = 1e-9, .most = 1,
     .help = "Sample among the fewest tokens that hold this share of the probability; 1 is off."},
    {"min-p", TL_REAL(settings, min_p), .initial = "0", .least = 0, .most = 1,
     .help = "Drop tokens less likely than this share of the likeliest; 0 is off."},
    {"seed", TL_INT(settings, seed), .initial = "0", .least = 0, .most = 9.2e18,
     .help = "The same seed, prompt and settings give the same text, on any number of threads."},
    {"stop-at-eos", TL_FLAG(settings, stop_at_eos), .initial = "true", .help = "Stop when the model ends its text."},
    TL_HEADING("Running"),
    {"dtype", TL_CHOICE(settings, dtype), .initial = "auto", .choices = tl__dtype_names, .help = TL_DTYPE_HELP},
    {"threads", TL_INT(settings, threads), .least = 0, .most = 1024,
     .help = "CPU threads; all that this process may use unless given."},
    TL_MODEL_FILE_OPTIONS(settings),
    {"json", TL_FLAG(settings, json), .not_in_yaml = true,
     .help = "Print one JSON object at the end (text, ids, logprobs, prompt_tokens, seconds, tokens_per_second) and "
             "nothing else."},
    {0}};

/* ---- showing text ---- */

static void show(const char *text, size_t n, bool terminal) {
    tl__cli_show(stdout, text, n, terminal);
}

/* ---- one generation ---- */

typedef struct generation {
    int32_t *prompt; /* [prompt_n] */
    int prompt_n, max;
    int32_t *ids; /* [n] generated, a final end-of-text token included */
    float *logp;  /* [n] */
    int n;
    const char *stop; /* "eos", "length", "positions" */
    double prompt_seconds, seconds;
    float *logits; /* [V] */
    char *piece;   /* decoded bytes of one token */
} generation;

static void free_generation(generation *g) {
    free(g->prompt);
    free(g->ids);
    free(g->logp);
    free(g->logits);
    free(g->piece);
}

/* The prompt's ids; an empty prompt is the token that precedes every document. */
static int read_prompt(const settings *o, const tl_engine *e, generation *g, tl_error *err) {
    char *bytes = NULL;
    size_t size = o->prompt ? strlen(o->prompt) : 0;
    const char *text = o->prompt ? o->prompt : "";
    if (o->prompt_file) {
        int status = tl__file_slurp(&bytes, &size, o->prompt_file, (size_t)256 << 20, err);
        if (status) return status;
        text = bytes;
    }
    int64_t n =
        tl__engine_encode(e, &g->prompt, text, size, o->special, o->prompt_file ? o->prompt_file : "the prompt", err);
    free(bytes);
    if (n < 0) return (int)n;
    if (n == 0) {
        int first = tl__engine_begin_id(e);
        if (first < 0)
            return tl__fail(err, TL_EINVALID, "this model has no token that begins a text; give it a --prompt");
        g->prompt[n++] = first;
    }
    int positions = e->arch.max_positions;
    if (n >= positions)
        return tl__fail(err, TL_EINVALID,
                        "the prompt is %lld tokens long, but this model has %d positions, and one more is needed to "
                        "answer; shorten it",
                        (long long)n, positions);
    g->prompt_n = (int)n;
    g->max = o->max_tokens < positions - n ? (int)o->max_tokens : positions - (int)n;
    g->stop = g->max < o->max_tokens ? "positions" : "length";
    return 0;
}

static int take_memory(const tl_engine *e, generation *g, tl_error *err) {
    size_t V = (size_t)e->arch.V, max = (size_t)g->max;
    g->ids = malloc(max * sizeof *g->ids);
    g->logp = malloc(max * sizeof *g->logp);
    g->logits = malloc(V * sizeof *g->logits);
    g->piece = malloc(tl__tokenizer_decode_room(e->tokenizer));
    if (g->ids && g->logp && g->logits && g->piece) return 0;
    return tl__fail(err, TL_ENOMEM, "not enough memory to hold %zu generated tokens; lower --max-tokens", max);
}

/* Prefill, then a token at a time. Nothing here allocates. */
static int run_generation(const settings *o, tl_engine *e, tl_session *session, generation *g, tl_error *err) {
    tl_sampling sampling = {(float)o->temperature, (int)o->top_k, (float)o->top_p, (float)o->min_p, (uint64_t)o->seed};
    bool terminal = isatty(STDOUT_FILENO);
    tl_decoder decoder = {0};
    int64_t start = tl__now_ns();
    int status = tl__sampling_check(&sampling, err);
    if (!status) status = tl__session_append(session, g->prompt, g->prompt_n, g->logits, err);
    int64_t decoding = tl__now_ns();
    while (!status && g->n < g->max) {
        int32_t id = tl__sample(&e->ctx, &sampling, g->logits, e->arch.V, tl__session_length(session), e->scratch,
                                &g->logp[g->n]);
        g->ids[g->n++] = id;
        if (o->stop_at_eos && tl__engine_ends_text(e, id)) {
            g->stop = "eos";
            break;
        }
        if (!o->json) {
            show(g->piece, tl__decoder_push(e->tokenizer, &decoder, id, true, g->piece), terminal);
            fflush(stdout);
            if (ferror(stdout)) break; /* nobody reads on */
        }
        if (g->n < g->max) status = tl__session_append(session, &id, 1, g->logits, err);
    }
    if (!o->json) show(g->piece, tl__decoder_finish(&decoder, g->piece), terminal);
    int64_t end = tl__now_ns();
    g->prompt_seconds = (double)(decoding - start) * 1e-9;
    g->seconds = (double)(end - start) * 1e-9;
    return status;
}

static double tokens_per_second(const generation *g) {
    double s = g->seconds - g->prompt_seconds;
    return s > 0 ? g->n / s : 0;
}

static json_t *as_json(const tl_engine *e, const generation *g) {
    size_t bytes = 0;
    if (tl_engine_decode(e, g->ids, (size_t)g->n, false, NULL, 0, &bytes, NULL)) return NULL;
    char *text = malloc(bytes + 1);
    if (!text || tl_engine_decode(e, g->ids, (size_t)g->n, false, text, bytes + 1, &bytes, NULL)) {
        free(text);
        return NULL;
    }
    json_t *ids = json_array(), *logp = json_array();
    for (int i = 0; i < g->n; i++) {
        json_array_append_new(ids, json_integer(g->ids[i]));
        json_array_append_new(logp, isfinite(g->logp[i]) ? json_real((double)g->logp[i]) : json_null());
    }
    json_t *out = json_pack("{s:s%, s:o, s:o, s:s, s:i, s:f, s:f, s:f}", "text", text, bytes, "ids", ids, "logprobs",
                            logp, "stop", g->stop, "prompt_tokens", g->prompt_n, "prompt_seconds", g->prompt_seconds,
                            "seconds", g->seconds, "tokens_per_second", tokens_per_second(g));
    free(text);
    return out;
}

static void show_prompt(const settings *o) {
    if (!isatty(STDOUT_FILENO) || !o->prompt) return; /* in a pipe: what was generated, alone */
    bool bold = !getenv("NO_COLOR");
    if (bold) fputs("\033[1m", stdout);
    show(o->prompt, strlen(o->prompt), true);
    if (bold) fputs("\033[0m", stdout);
    fflush(stdout);
}

static int generate(const settings *o, tl_engine *e, generation *g, tl_session **session, tl_error *err) {
    int status = tl__engine_open(e, o->model, true, err);
    if (!status) status = read_prompt(o, e, g, err);
    if (!status) status = take_memory(e, g, err);
    tl_engine_options how = {.threads = (int)o->threads,
                             .positions = g->prompt_n + g->max,
                             .dtype = (tl_dtype)o->dtype,
                             .verify = o->verify};
    if (!status) status = tl__engine_load(e, &how, err);
    if (!status) status = tl__session_open(session, &e->model, &e->ctx, g->prompt_n + g->max, 0, err);
    if (status) return status;
    if (!o->json) show_prompt(o);
    status = run_generation(o, e, *session, g, err);
    if (status) return status;
    if (o->json) return 0;
    putchar('\n');
    fflush(stdout);
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\n%d tokens%s, %.*f tokens/s; prompt of %d tokens in %.2f s\n", g->n,
                !strcmp(g->stop, "eos")         ? " to the end of the text"
                : !strcmp(g->stop, "positions") ? ", all the positions this model has"
                                                : "",
                tokens_per_second(g) < 100, tokens_per_second(g), g->prompt_n, g->prompt_seconds);
    return 0;
}

static int run(tl_cli *cli) {
    const settings *o = cli->values;
    if (o->prompt && o->prompt_file) return tl__cli_bad(cli, "--prompt and --prompt-file were both given; use one");
    tl__cli_mmap(o->mmap);
    tl_engine engine = {0};
    generation g = {0};
    tl_session *session = NULL;
    tl_error err = {0};
    int code = TL_EXIT_DONE;
    if (generate(o, &engine, &g, &session, &err) < 0) code = tl__cli_fail(cli, &err);
    else if (o->json) code = tl__cli_print_json(cli, as_json(&engine, &g));
    tl__session_close(session);
    free_generation(&g);
    tl__engine_close(&engine);
    return code;
}

const tl_command tl__cmd_generate = {
    .name = "generate",
    .summary = "continue a text with a model",
    .usage = "--model MODEL [--prompt TEXT | --prompt-file FILE] [options]",
    .about = "Writes what the model makes of a prompt, token by token as it is sampled. Into a pipe goes the "
             "continuation alone; on a terminal "
             "the prompt stands before it.\n\n"
             "Sampling applies temperature, top-k, top-p and min-p in this order. The draw at a position depends on "
             "the seed, the "
             "position and the text before it alone, so a text can be made again.",
    .examples = "  trilith generate --model runs/demo --prompt 'In the beginning'\n"
                "      continue with the newest checkpoint of a run\n"
                "  trilith generate --model runs/demo --prompt 'And' --temperature 0 --max-tokens 20\n"
                "      the likeliest continuation, always the same\n"
                "  trilith generate --model runs/demo --prompt-file chapter.txt --top-p 0.95 --seed 7 --json\n"
                "      ids and log-probabilities for a program",
    .options = options,
    .values_bytes = sizeof(settings),
    .run = run,
};
