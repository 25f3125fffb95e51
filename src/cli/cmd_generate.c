/* cmd_generate.c — `trilith generate`: continue a text, shown as it is made. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/log.h"
#include "cli/answer.h"

typedef struct settings {
    const char *model, *prompt, *prompt_file;
    bool special, stop_at_eos, mmap, verify, json;
    tl_sampling_options sampling;
    int64_t threads;
    int dtype, device;
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
    TL_SAMPLING_OPTIONS(settings, "256"),
    {"stop-at-eos", TL_FLAG(settings, stop_at_eos), .initial = "true", .help = "Stop when the model ends its text."},
    TL_HEADING("Running"),
    {"dtype", TL_CHOICE(settings, dtype), .initial = "auto", .choices = tl__dtype_names, .help = TL_DTYPE_HELP},
    {"device", TL_CHOICE(settings, device), .initial = "cpu", .choices = tl__device_names, .help = TL_DEVICE_HELP},
    {"threads", TL_INT(settings, threads), .least = 0, .most = 1024,
     .help = "CPU threads; all that this process may use unless given."},
    TL_MODEL_FILE_OPTIONS(settings),
    {"json", TL_FLAG(settings, json), .not_in_yaml = true,
     .help = "Print one JSON object at the end (text, ids, logprobs, prompt_tokens, seconds, tokens_per_second) and "
             "nothing else."},
    {0}};

/* ---- one generation ---- */

typedef struct generation {
    int32_t *prompt; /* [prompt_n] */
    int prompt_n;
    tl_answer answer;
} generation;

static void free_generation(generation *g) {
    free(g->prompt);
    tl__answer_close(&g->answer);
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
    int64_t most = o->sampling.max_tokens;
    g->answer.max = most < positions - n ? (int)most : positions - (int)n;
    g->answer.all = g->answer.max < most ? "positions" : "length";
    g->answer.show = !o->json;
    g->answer.stop_at_eos = o->stop_at_eos;
    return 0;
}

static void show_prompt(const settings *o) {
    if (!isatty(STDOUT_FILENO) || !o->prompt) return; /* in a pipe: what was generated, alone */
    bool bold = !getenv("NO_COLOR");
    if (bold) fputs("\033[1m", stdout);
    tl__cli_show(stdout, o->prompt, strlen(o->prompt), true);
    if (bold) fputs("\033[0m", stdout);
    fflush(stdout);
}

static int generate(const settings *o, tl_engine *e, generation *g, tl_session **session, tl_error *err) {
    int status = tl__engine_open(e, o->model, true, err);
    if (!status) status = read_prompt(o, e, g, err);
    if (!status) status = tl__answer_open(&g->answer, e, g->answer.max, err);
    tl_engine_options how = {.threads = (int)o->threads,
                             .positions = g->prompt_n + g->answer.max,
                             .dtype = (tl_dtype)o->dtype,
                             .device = (tl_device)o->device,
                             .verify = o->verify};
    if (!status) status = tl__engine_load(e, &how, err);
    if (!status) status = tl__session_open(session, &e->model, &e->ctx, g->prompt_n + g->answer.max, 0, err);
    if (status) return status;
    if (!o->json) show_prompt(o);
    tl_answer *a = &g->answer;
    status = tl__answer_run(a, &o->sampling, e, *session, g->prompt, g->prompt_n, 0, err);
    if (status) return status;
    if (o->json) return 0;
    putchar('\n');
    fflush(stdout);
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\n%d tokens%s, %.*f tokens/s; prompt of %d tokens in %.2f s\n", a->n,
                !strcmp(a->stop, "eos")         ? " to the end of the text"
                : !strcmp(a->stop, "positions") ? ", all the positions this model has"
                                                : "",
                tl__answer_speed(a) < 100, tl__answer_speed(a), g->prompt_n, a->prompt_seconds);
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
    else if (o->json) code = tl__cli_print_json(cli, tl__answer_json(&g.answer, &engine, g.prompt_n));
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
