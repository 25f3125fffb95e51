/* cmd_chat.c — `trilith chat`: a conversation over one session, whose keys and values are kept from turn to turn. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "cli/answer.h"
#include "cli/conversation.h"
#include "io/file.h"
#include "text/chat_template.h"

typedef struct settings {
    const char *model, *template, *system, *messages, *tools;
    tl_list set;
    tl_sampling_options sampling;
    int64_t context, threads;
    int dtype, device;
    bool mmap, verify, json;
} settings;

static const tl_option options[] = {
    {"model", TL_STRING(settings, model), .value = "MODEL", .required = true, .help = TL_MODEL_HELP},
    TL_HEADING("Conversation"),
    {"system", TL_STRING(settings, system), .value = "TEXT", .help = "What the model is told before everything else."},
    {"messages", TL_STRING(settings, messages), .value = "FILE",
     .help = "Answer this conversation once and end: a JSON list of messages, or an object with \"messages\"."},
    {"tools", TL_STRING(settings, tools), .value = "FILE", .help = "A JSON list of tools, as JSON schemas."},
    {"template", TL_STRING(settings, template), .value = "FILE", .help = "A chat template in place of the model's."},
    {"set", TL_LIST(settings, set), .value = "KEY=JSON",
     .help = "More variables of the template, as enable_thinking=false; may be repeated."},
    {"context", TL_INT(settings, context), .initial = "0", .least = 0, .most = 1e9,
     .help = "Most tokens of the conversation, whose memory is taken at the start; 0: the model's positions, 8192 at "
             "most."},
    TL_HEADING("Sampling"),
    TL_SAMPLING_OPTIONS(settings, "2048"),
    TL_HEADING("Running"),
    {"dtype", TL_CHOICE(settings, dtype), .initial = "auto", .choices = tl__dtype_names, .help = TL_DTYPE_HELP},
    {"device", TL_CHOICE(settings, device), .initial = "cpu", .choices = tl__device_names, .help = TL_DEVICE_HELP},
    {"threads", TL_INT(settings, threads), .least = 0, .most = 1024,
     .help = "CPU threads; all that this process may use unless given."},
    TL_MODEL_FILE_OPTIONS(settings),
    {"json", TL_FLAG(settings, json), .not_in_yaml = true,
     .help =
         "With --messages: print one JSON object (text, ids, logprobs, stop, prompt_tokens, prompt_seconds, seconds, "
         "tokens_per_second) and nothing else."},
    {0}};

enum { USUAL_CONTEXT = 8192 };

typedef struct chat {
    const settings *o;
    tl_engine engine;
    tl_chat_template template;
    json_t *conversation; /* "messages", "tools", "documents" */
    json_t *variables;    /* of the template beside them */
    tl_session *session;
    int32_t *held; /* [length of session] the ids in it */
    tl_answer answer;
    int32_t stops[TL_CHAT_STOPS];
    int prompt_n, kept; /* of the last turn: tokens in all, and of them those that lay in the session */
} chat;

/* Ctrl-C while an answer is made stops it; at the prompt it only begins a new line. A second one that finds the first
 * not yet heeded (a long prompt is being read) ends the program. */
static volatile sig_atomic_t interrupted, answering;
static int interrupts[2] = {-1,
                            -1}; /* a pipe: a prompt waits for a line or for a Ctrl-C, whichever moment it comes at */
static void on_interrupt(int number) {
    int code = errno;
    (void)!write(interrupts[1], "", 1);
    errno = code;
    if (answering && interrupted) {
        signal(number, SIG_DFL);
        raise(number);
    }
    interrupted = 1;
}

/* ---- the conversation ---- */

static json_t *messages(chat *c) {
    return json_object_get(c->conversation, "messages");
}

static void say(chat *c, const char *role, const char *text, size_t n) {
    json_array_append_new(messages(c), json_pack("{s:s, s:s%}", "role", role, "content", text, n));
}

static int open_conversation(chat *c, tl_error *err) {
    const settings *o = c->o;
    if (o->messages) return tl__conversation_read(&c->conversation, o->messages, o->tools, err);
    TRY(tl__conversation_make(&c->conversation, json_array(), err));
    if (o->tools) TRY(tl__conversation_tools(c->conversation, o->tools, err));
    if (o->system) say(c, "system", o->system, strlen(o->system));
    return 0;
}

static int open_chat(chat *c, tl_error *err) {
    const settings *o = c->o;
    tl_engine *e = &c->engine;
    TRY(open_conversation(c, err));
    TRY(tl__engine_open(e, o->model, true, err));
    const tl_gguf *gguf = tl__source_gguf(e->source);
    if (o->template) {
        TRY(tl__chat_template_tokens(&c->template, e->folder, gguf, err));
        TRY(tl__chat_template_file(&c->template, o->template, err));
    } else {
        TRY(tl__chat_template_open(&c->template, e->folder, gguf,
                                   json_array_size(json_object_get(c->conversation, "tools")) > 0, err));
    }
    c->variables = json_pack("{s:b}", "add_generation_prompt", 1);
    json_object_update_missing(c->variables, c->template.tokens);
    TRY(tl__settings_add(c->variables, &o->set, err));
    TRY(tl__conversation_stops(c->stops, &c->answer.n_stops, e->folder, gguf, e->arch.V, err));
    c->answer.stops = c->stops;
    c->answer.stop_at_eos = true;
    int positions = e->arch.max_positions, usual = positions < USUAL_CONTEXT ? positions : USUAL_CONTEXT;
    if (o->context > positions)
        return tl__fail(err, TL_EINVALID, "--context %lld is more than the %d positions of this model",
                        (long long)o->context, positions);
    int capacity = o->context ? (int)o->context : usual;
    tl_engine_options how = {.threads = (int)o->threads,
                             .positions = capacity,
                             .dtype = (tl_dtype)o->dtype,
                             .device = (tl_device)o->device,
                             .verify = o->verify};
    TRY(tl__engine_load(e, &how, err));
    TRY(tl__session_open(&c->session, &e->model, &e->ctx, capacity, 0, err));
    c->held = malloc((size_t)capacity * sizeof *c->held);
    if (!c->held) return tl__fail(err, TL_ENOMEM, "not enough memory for %d tokens", capacity);
    return tl__answer_open(&c->answer, e, capacity, err);
}

static void close_chat(chat *c) {
    tl__session_close(c->session);
    tl__answer_close(&c->answer);
    tl__chat_template_close(&c->template);
    tl__engine_close(&c->engine);
    json_decref(c->conversation);
    json_decref(c->variables);
    free(c->held);
}

/* ---- one turn ---- */

/* Renders and encodes the conversation; ids that the session holds already are kept, and the rest is answered. */
static int answer(chat *c, tl_error *err) {
    tl_rendering text;
    int32_t *ids = NULL;
    int status = tl__template_render(c->template.template, c->conversation, c->variables, NULL, &text, err);
    if (status) return status;
    int64_t n = tl__chat_encode(c->engine.tokenizer, &text, &ids, err);
    tl__rendering_free(&text);
    if (n < 0) return (int)n;
    int capacity = tl__session_capacity(c->session);
    if (n == 0) status = tl__fail(err, TL_EINVALID, "the template makes nothing of this conversation");
    if (n >= capacity)
        status = tl__fail(err, TL_EINVALID,
                          "the conversation is %lld tokens long, and there is room for %d with an answer; begin anew "
                          "with /reset, or give more by --context",
                          (long long)n, capacity);
    int kept = 0, length = tl__session_length(c->session);
    while (!status && kept < n - 1 && kept < length && c->held[kept] == ids[kept])
        kept++; /* one is read for its logits */
    if (!status) {
        tl__session_rewind(c->session, kept);
        int64_t most = c->o->sampling.max_tokens;
        tl_answer *a = &c->answer;
        a->max = most < capacity - n ? (int)most : capacity - (int)n;
        a->all = a->max < most ? "positions" : "length";
        a->show = !c->o->json;
        a->interrupted = &interrupted;
        c->prompt_n = (int)n, c->kept = kept;
        memcpy(c->held, ids, (size_t)n * sizeof *ids);
        status = tl__answer_run(a, &c->o->sampling, &c->engine, c->session, ids, (int)n, kept, err);
        for (int i = 0; i < a->n && n + i < capacity; i++) c->held[n + i] = a->ids[i];
    }
    free(ids);
    return status;
}

static int keep_answer(chat *c, tl_error *err) {
    json_t *said = tl__answer_json(&c->answer, &c->engine, c->prompt_n), *text = json_object_get(said, "text");
    if (!text) {
        json_decref(said);
        return tl__fail(err, TL_ENOMEM, "not enough memory to keep the answer");
    }
    say(c, "assistant", json_string_value(text), json_string_length(text));
    json_decref(said);
    return 0;
}

static void show_speed(const chat *c) {
    const tl_answer *a = &c->answer;
    if (!isatty(STDERR_FILENO)) return;
    fprintf(stderr, "[%d tokens%s, %.*f tokens/s; %d read anew of %d]\n", a->n,
            !strcmp(a->stop, "eos")           ? ""
            : !strcmp(a->stop, "interrupted") ? ", stopped"
            : !strcmp(a->stop, "positions")   ? ", and the context is full"
                                              : ", cut by --max-tokens",
            tl__answer_speed(a) < 100, tl__answer_speed(a), c->prompt_n - c->kept, c->prompt_n);
}

/* Ctrl-C means this answer from when its line was typed. */
static int answer_now(chat *c, tl_error *err) {
    answering = 1;
    int status = answer(c, err);
    answering = 0;
    return status;
}

/* ---- the terminal ---- */

static void reset(chat *c, const char *system) {
    json_array_clear(messages(c));
    if (system && *system) say(c, "system", system, strlen(system));
}

/* A line that begins with '/': true when it was a command. */
static bool command(chat *c, const char *line, const char **system, char **own, bool *end) {
    if (line[0] != '/' || line[1] == '/') return false;
    if (!strcmp(line, "/exit")) {
        *end = true;
    } else if (!strcmp(line, "/reset")) {
        reset(c, *system);
    } else if (!strncmp(line, "/system", 7) && (line[7] == ' ' || !line[7])) {
        free(*own);
        *own = strdup(line[7] ? line + 8 : "");
        *system = *own;
        reset(c, *system);
    } else {
        fprintf(stderr,
                "%s is no command; there are /reset, /system TEXT and /exit. Begin with // to say a line that begins "
                "with /.\n",
                line);
    }
    return true;
}

/* A line, as getline() has it; −1 with EINTR: Ctrl-C gave it up. */
static ssize_t read_line(char **line, size_t *room, bool terminal) {
    char old[64];
    struct pollfd either[2] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.fd = interrupts[0], .events = POLLIN}};
    interrupted = 0;
    if (terminal) {
        while (read(interrupts[0], old, sizeof old) > 0) {
        } /* what an answer has heeded */
        fputs("> ", stdout), fflush(stdout);
        while (poll(either, 2, -1) < 0 && errno == EINTR) {
        }
        if (either[1].revents) return errno = EINTR, -1;
    }
    errno = 0;
    return getline(line, room, stdin);
}

static int converse(chat *c, tl_error *err) {
    bool terminal = isatty(STDIN_FILENO), end = false;
    char *line = NULL, *own = NULL;
    const char *system = c->o->system;
    size_t room = 0;
    int status = 0;
    if (terminal)
        fprintf(stderr, "Ctrl-C stops an answer; /reset begins anew, /system TEXT too, with other instructions; Ctrl-D "
                        "or /exit ends.\n");
    while (!end && !status) {
        ssize_t n = read_line(&line, &room, terminal);
        if (n < 0) {
            if (errno != EINTR) break;
            clearerr(stdin);
            putchar('\n');
            continue;
        }
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r')) line[--n] = 0;
        if (n == 0 || command(c, line, &system, &own, &end)) continue;
        size_t skip = line[0] == '/';
        size_t before = json_array_size(messages(c));
        say(c, "user", line + skip, (size_t)n - skip);
        if (json_array_size(messages(c)) == before) {
            fprintf(stderr, "this line is not valid UTF-8; say it again\n");
            continue;
        }
        tl_error turn = {0};
        if (answer_now(c, &turn)) { /* the conversation goes on without this line */
            json_array_remove(messages(c), json_array_size(messages(c)) - 1);
            if (!terminal) status = tl__fail(err, turn.status, "%s", turn.text);
            else fprintf(stderr, "%s\n", turn.text);
            continue;
        }
        putchar('\n');
        fflush(stdout);
        show_speed(c);
        status = keep_answer(c, err);
        if (ferror(stdout)) break;
    }
    if (terminal && !end) putchar('\n');
    free(line);
    free(own);
    return status;
}

static int run(tl_cli *cli) {
    chat c = {.o = cli->values};
    const settings *o = c.o;
    if (o->json && !o->messages) return tl__cli_bad(cli, "--json goes with --messages, which is answered once");
    if (o->system && o->messages)
        return tl__cli_bad(cli, "--system and --messages were both given; put the system message into the file");
    tl__cli_mmap(o->mmap);
    struct sigaction on = {.sa_handler = on_interrupt}, before;
    tl_error err = {0};
    int status = open_chat(&c, &err), code = TL_EXIT_DONE;
    if (!status && pipe2(interrupts, O_CLOEXEC | O_NONBLOCK)) status = tl__fail_errno(&err, "cannot make a pipe");
    sigaction(SIGINT, &on, &before);
    if (!status) status = o->messages ? answer_now(&c, &err) : converse(&c, &err);
    sigaction(SIGINT, &before, NULL);
    if (interrupts[0] >= 0) close(interrupts[0]), close(interrupts[1]);
    if (status) code = tl__cli_fail(cli, &err);
    else if (o->json) code = tl__cli_print_json(cli, tl__answer_json(&c.answer, &c.engine, c.prompt_n));
    else if (o->messages) putchar('\n');
    close_chat(&c);
    return code;
}

const tl_command tl__cmd_chat = {
    .name = "chat",
    .summary = "talk with a model",
    .usage = "--model MODEL [--system TEXT | --messages FILE] [options]",
    .about =
        "Writes each line as a user's message by the model's chat template, and the answer as it is made. What was "
        "read stays in memory: a turn costs its own tokens alone.\n\n"
        "Special tokens are those that the template writes; one that is typed, as <|im_end|>, stays text. An answer "
        "ends at the ids that config.json, generation_config.json or the tokenizer name.",
    .examples = "  trilith chat --model models/smollm2 --system 'Answer briefly.'\n"
                "      in a terminal\n"
                "  trilith chat --model models/smollm2.gguf --messages chat.json --temperature 0\n"
                "      one answer, the likeliest\n",
    .options = options,
    .values_bytes = sizeof(settings),
    .run = run,
};
