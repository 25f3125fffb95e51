/* cmd_serve.c — `trilith serve`: a model behind the OpenAI HTTP API. */
#include "cli/cli.h"
#include "serve/server.h"

typedef struct settings {
    const char *host, *unix_path, *keys, *cors, *name, *template, *draft;
    int64_t port, context, running, waiting, step_tokens, kv_memory, threads, max_body, connections, idle, drain,
        deadline, look_up, draft_tokens;
    bool prefix_cache, mmap, verify;
    int dtype, kv_type, device;
} settings;

static const char *const kv_names[] = {"f32", "f16", "bf16", "q8_0", NULL};
static const tl_type kv_types[] = {TL_F32, TL_F16, TL_BF16, TL_Q8_0};

static const tl_option options[] = {
    {"host", TL_STRING(settings, host), .value = "ADDRESS", .initial = "127.0.0.1",
     .help = "The address to listen on; 0.0.0.0 or :: for all of this machine's."},
    {"port", TL_INT(settings, port), .initial = "8080", .least = 0, .most = 65535,
     .help = "0: a free one, which the first line on standard error says."},
    {"unix", TL_STRING(settings, unix_path), .value = "PATH",
     .help = "Listen on a Unix socket of this name instead, for this user alone."},
    TL_HEADING("Who may ask"),
    {"api-keys", TL_STRING(settings, keys), .value = "FILE",
     .help = "Ask for a key ('Authorization: Bearer KEY'): one a line; # begins a comment. The environment's "
             "TRILITH_API_KEY is one more."},
    {"cors", TL_STRING(settings, cors), .value = "ORIGIN",
     .help = "Pages of this other origin (https://example.org) may call too; * for those of any. Without it a "
             "browser's request from another origin is refused."},
    TL_HEADING("Model"),
    {"name", TL_STRING(settings, name), .help = "What clients call the model; the end of its path unless given."},
    {"template", TL_STRING(settings, template), .value = "FILE", .help = "A chat template in place of the model's."},
    {"dtype", TL_CHOICE(settings, dtype), .initial = "auto", .choices = tl__dtype_names, .help = TL_DTYPE_HELP},
    TL_HEADING("Memory and work"),
    {"context", TL_INT(settings, context), .initial = "0", .least = 0, .most = 1e9,
     .help = "Most tokens of a sequence; 0: the model's positions, or as many as all pages hold."},
    {"kv-memory", TL_INT(settings, kv_memory), .value = "BYTES", .initial = "0", .least = 0, .most = 1e15,
     .help = "For keys and values. 0: room for --running sequences of 2048 tokens, but no more than a quarter of free "
             "memory."},
    {"kv-type", TL_CHOICE(settings, kv_type), .initial = "f32", .choices = kv_names,
     .help = "How keys and values are kept; fewer bits hold more of them, and are a contract of their own."},
    {"running", TL_INT(settings, running), .initial = "64", .least = 1, .most = 65536,
     .help = "Most sequences that are computed at once."},
    {"waiting", TL_INT(settings, waiting), .initial = "1024", .least = 1, .most = 1e6,
     .help = "Most requests that wait; one more is told to come again (429)."},
    {"step-tokens", TL_INT(settings, step_tokens), .initial = "512", .least = 1, .most = 1 << 20,
     .help = "Most rows of a step: a long prompt is read in pieces, so that others go on."},
    {"prefix-cache", TL_FLAG(settings, prefix_cache), .initial = "true",
     .help = "Prompts that begin alike are computed once."},
    {"look-up", TL_INT(settings, look_up), .value = "N", .initial = "0", .least = 0, .most = 64,
     .help = "Most tokens a step that are proposed from what the sequence holds already; no answer changes."},
    {"draft", TL_STRING(settings, draft), .value = "MODEL",
     .help = "A smaller model of the same vocabulary that proposes tokens; no answer changes."},
    {"draft-tokens", TL_INT(settings, draft_tokens), .value = "N", .initial = "0", .least = 0, .most = 64,
     .help = "So many a step; 0: four."},
    {"device", TL_CHOICE(settings, device), .initial = "cpu", .choices = tl__device_names, .help = TL_DEVICE_HELP},
    {"threads", TL_INT(settings, threads), .least = 0, .most = 1024,
     .help = "CPU threads; all that this process may use unless given."},
    TL_MODEL_FILE_OPTIONS(settings),
    TL_HEADING("Limits"),
    {"max-body", TL_INT(settings, max_body), .value = "BYTES", .initial = "4M", .least = 1024, .most = 1e9,
     .help = "Most bytes of a request."},
    {"connections", TL_INT(settings, connections), .initial = "1024", .least = 4, .most = 65536,
     .help = "Most at once."},
    {"idle-seconds", TL_INT(settings, idle), .initial = "120", .least = 1, .most = 86400,
     .help = "A connection is closed after so long without a byte of the client's, or one that it takes."},
    {"deadline-seconds", TL_INT(settings, deadline), .initial = "0", .least = 0, .most = 1e6,
     .help = "An answer that takes longer ends where it is; 0: none does."},
    {"drain-seconds", TL_INT(settings, drain), .initial = "30", .least = 0, .most = 86400,
     .help = "After SIGTERM or Ctrl-C answers have so long to end; a second signal cuts them off."},
    {0}};

static int run(tl_cli *cli) {
    const settings *o = cli->values;
    tl__cli_mmap(o->mmap);
    if (o->draft_tokens && !o->draft) return tl__cli_bad(cli, "--draft-tokens goes with --draft MODEL");
    if (o->unix_path && (tl__cli_given(cli, "host") || tl__cli_given(cli, "port")))
        return tl__cli_bad(cli, "--unix and a TCP address were both given; use one");
    const tl_serve_options serve = {
        .runner = {.model = cli->operands.values[0],
                   .template = o->template,
                   .name = o->name,
                   .draft = o->draft,
                   .engine = {.threads = (int)o->threads,
                              .positions = (int)o->context,
                              .dtype = (tl_dtype)o->dtype,
                              .device = (tl_device)o->device,
                              .verify = o->verify},
                   .batcher = {.kv_bytes = o->kv_memory,
                               .kv_type = kv_types[o->kv_type],
                               .look_up = (int)o->look_up,
                               .draft_tokens = o->draft ? (int)o->draft_tokens : 0,
                               .running = (int)o->running,
                               .waiting = (int)o->waiting,
                               .step_tokens = (int)o->step_tokens,
                               .no_prefix_cache = !o->prefix_cache}},
        .host = o->host,
        .port = (int)o->port,
        .unix_path = o->unix_path,
        .keys = o->keys,
        .cors = o->cors,
        .body_bytes = o->max_body,
        .connections = (int)o->connections,
        .idle_seconds = (int)o->idle,
        .drain_seconds = (int)o->drain,
        .deadline_seconds = (int)o->deadline,
    };
    tl_error err = {0};
    return tl__serve(&serve, &err) ? tl__cli_fail(cli, &err) : TL_EXIT_DONE;
}

const tl_command tl__cmd_serve = {
    .name = "serve",
    .summary = "answer a crowd over the OpenAI HTTP API",
    .usage = "MODEL [--port N] [options]",
    .about =
        "Serves /v1/chat/completions, /v1/completions, /v1/embeddings and /v1/models as OpenAI's API has them, with "
        "streams and tools; /tokenize, /detokenize, /tokenizer_info and /score; /health and /ready.\n\n"
        "All requests are computed together, and each gets the bits that it would get alone. It listens on this "
        "machine's own address unless told otherwise. SIGTERM and Ctrl-C end it in order: what was begun is answered.",
    .examples =
        "  trilith serve models/smollm2.gguf\n"
        "      on http://127.0.0.1:8080\n"
        "  curl http://127.0.0.1:8080/v1/completions -d '{\"prompt\": \"In the beginning\", \"max_tokens\": 20}'\n"
        "      what a client sends\n",
    .options = options,
    .values_bytes = sizeof(settings),
    .operand = "MODEL",
    .least_operands = 1,
    .most_operands = 1,
    .run = run,
};
