/* bench_crowd.c — a crowd on one engine without HTTP: clients in a closed loop, each asking anew when it is answered.
 *
 *   build/bench_crowd MODEL [--clients N] [--requests N] [--prompt N] [--output N] [--shared N] [--text FILE]
 *                     [--before TEXT] [--after TEXT] [--temperature T] [--look-up N] [--draft MODEL] [--draft-tokens N]
 *                     [--threads N] [--bf16] [--step-tokens N] [--running N] [--kv-mib N] [--kv F32|F16|BF16|Q8_0] [--show]
 *
 * Prompts are random ids, the first --shared of them alike; with --text so many tokens of it, each request's own,
 * between
 * --before and --after, in which special tokens count. Every answer has exactly --output tokens. Prints tokens a
 * second, latencies, what a step holds, where its time goes, and what became of tokens proposed ahead. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/clock.h"
#include "base/rng.h"
#include "infer/batcher.h"

typedef struct client {
    bool busy;
    int64_t asked_ns, last_ns;
} client;

typedef struct series {
    double *ms;
    int n;
} series;

static struct {
    tl_engine engine, draft;
    series first, gap;
    tl_usage sum; /* over all answers */
    int ended, steps, most_rows;
    int64_t rows, forward_ns, sample_ns, busy_ns;
    uint64_t answers; /* a hash of all ids, whatever order they came in: the same for all that must not matter */
    bool show;
} bench;

static void fail(const char *what, const tl_error *err) {
    fprintf(stderr, "%s: %s\n", what, err->text);
    exit(1);
}

static void hear(void *user, const tl_event *e) {
    client *c = user;
    const int64_t now = tl__now_ns();
    if (e->id >= 0) {
        const bool first = e->usage->completion_tokens == 1;
        series *s = first ? &bench.first : &bench.gap;
        s->ms[s->n++] = (double)(now - (first ? c->asked_ns : c->last_ns)) * 1e-6;
        c->last_ns = now;
        bench.answers += (uint64_t)(e->id + 1) * (uint64_t)(e->usage->completion_tokens + 7919 * (int)e->request);
    }
    if (bench.show && e->text_n) fwrite(e->text, 1, e->text_n, stdout);
    if (!e->finish) return;
    if (bench.show) puts("\n----");
    c->busy = false;
    bench.ended++;
    bench.sum.completion_tokens += e->usage->completion_tokens;
    bench.sum.prompt_tokens += e->usage->prompt_tokens;
    bench.sum.cached_tokens += e->usage->cached_tokens;
    bench.sum.proposed += e->usage->proposed;
    bench.sum.accepted += e->usage->accepted;
    bench.sum.preemptions += e->usage->preemptions;
}

static void stepped(void *user, const tl_batch_step *s) {
    bench.steps++;
    bench.rows += s->rows;
    bench.forward_ns += s->forward_ns;
    bench.sample_ns += s->sample_ns;
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_series(const char *name, series *s) {
    if (s->n == 0) return;
    qsort(s->ms, (size_t)s->n, sizeof *s->ms, by_value);
    printf("%-22s p50 %8.1f   p95 %8.1f   max %8.1f ms\n", name, s->ms[s->n / 2], s->ms[s->n - 1 - s->n / 20],
           s->ms[s->n - 1]);
}

static void open_engine(tl_engine *e, const char *path, const tl_engine_options *o) {
    tl_error err = {0};
    if (tl__engine_open(e, path, false, &err) || tl__engine_load(e, o, &err)) fail(path, &err);
}

/* The ids of a whole file, or of a text. */
static int encode(int32_t **ids, const char *path, const char *text) {
    static char file[1 << 22];
    tl_error err = {0};
    size_t n = path ? 0 : strlen(text);
    if (path) {
        FILE *f = fopen(path, "rb");
        if (!f) fprintf(stderr, "%s cannot be read\n", path), exit(1);
        n = fread(file, 1, sizeof file, f);
        fclose(f);
        text = file;
    }
    const int64_t got = tl__engine_encode(&bench.engine, ids, text, n, !path, "the text", &err);
    if (got < 0) fail("encoding", &err);
    return (int)got;
}

int main(int argc, char **argv) {
    int clients = 8, requests = 0, prompt = 128, output = 64, shared = 0;
    const char *text = NULL, *before = "", *after = "", *draft = NULL;
    tl_engine_options engine = {0};
    tl_batcher_options o = {.stepped = stepped};
    tl_request r = {.event = hear, .ignore_eos = true};
    tl_error err = {0};
    for (int i = 2; i < argc; i++) {
        const char *name = argv[i];
        if (!strcmp(name, "--bf16") || !strcmp(name, "--show")) {
            if (name[2] == 'b') engine.dtype = TL_DTYPE_BF16;
            else bench.show = true;
            continue;
        }
        const char *value = ++i < argc ? argv[i] : "";
        if (!strcmp(name, "--clients")) clients = atoi(value);
        else if (!strcmp(name, "--requests")) requests = atoi(value);
        else if (!strcmp(name, "--prompt")) prompt = atoi(value);
        else if (!strcmp(name, "--output")) output = atoi(value);
        else if (!strcmp(name, "--shared")) shared = atoi(value);
        else if (!strcmp(name, "--text")) text = value;
        else if (!strcmp(name, "--before")) before = value;
        else if (!strcmp(name, "--after")) after = value;
        else if (!strcmp(name, "--temperature")) r.sampling.temperature = (float)atof(value);
        else if (!strcmp(name, "--look-up")) o.look_up = atoi(value);
        else if (!strcmp(name, "--draft")) draft = value;
        else if (!strcmp(name, "--draft-tokens")) o.draft_tokens = atoi(value);
        else if (!strcmp(name, "--threads")) engine.threads = atoi(value);
        else if (!strcmp(name, "--step-tokens")) o.step_tokens = atoi(value);
        else if (!strcmp(name, "--running")) o.running = atoi(value);
        else if (!strcmp(name, "--kv-mib")) o.kv_bytes = (int64_t)atoi(value) << 20;
        else if (!strcmp(name, "--kv")) o.kv_type = tl__type_named(value);
        else return fprintf(stderr, "'%s' is no option; the first lines of bench_crowd.c name them\n", name), 2;
    }
    if (argc < 2 || clients < 1 || prompt < 1 || output < 1) return fprintf(stderr, "bench_crowd MODEL [options]\n"), 2;
    if (requests == 0) requests = 4 * clients;

    open_engine(&bench.engine, argv[1], &engine);
    if (draft) open_engine(&bench.draft, draft, &engine), o.draft = &bench.draft;
    tl_batcher *b;
    if (tl__batcher_open(&b, &bench.engine, &o, &err)) fail("opening", &err);

    int32_t *head = NULL, *tail = NULL, *body = NULL;
    int n_head = 0, n_tail = 0, n_body = 0;
    if (text)
        n_head = encode(&head, NULL, before), n_tail = encode(&tail, NULL, after), n_body = encode(&body, text, "");
    const int n_prompt = n_head + prompt + n_tail;
    int32_t *ids = malloc((size_t)n_prompt * sizeof *ids);
    client *client_of = calloc((size_t)clients, sizeof *client_of);
    bench.first.ms = malloc((size_t)requests * sizeof(double));
    bench.gap.ms = malloc((size_t)requests * (size_t)output * sizeof(double));
    if (!ids || !client_of || !bench.first.ms || !bench.gap.ms) return fprintf(stderr, "not enough memory\n"), 1;
    if (text && n_body < prompt) return fprintf(stderr, "%s has only %d tokens\n", text, n_body), 1;

    const clock_t processor_begin = clock();
    const int64_t begin = tl__now_ns();
    for (int asked = 0; bench.ended < requests;) {
        for (int c = 0; c < clients && asked < requests; c++) {
            if (client_of[c].busy) continue;
            uint64_t id;
            for (int t = 0; t < prompt; t++) {
                const uint64_t key = t < shared ? 0 : 1 + (uint64_t)asked;
                ids[n_head + t] =
                    text ? body[((int64_t)asked * prompt + t) % n_body]
                         : (int32_t)(tl__philox(9, TL_RNG_TEST, key, (uint64_t)t).v[0] % (uint32_t)bench.engine.arch.V);
            }
            if (n_head) memcpy(ids, head, (size_t)n_head * sizeof *ids);
            if (n_tail) memcpy(ids + n_head + prompt, tail, (size_t)n_tail * sizeof *ids);
            r.prompt = ids;
            r.n_prompt = n_prompt;
            r.max_tokens = output;
            r.sampling.seed = (uint64_t)asked;
            r.user = &client_of[c];
            client_of[c] = (client){true, tl__now_ns(), 0};
            if (tl__batcher_submit(b, &r, &id, &err)) fail("asking", &err);
            asked++;
        }
        if (tl__batcher_step(b, 0, &err) < 0) fail("a step", &err);
    }
    const double seconds = (double)(tl__now_ns() - begin) * 1e-9;
    const double processor = (double)(clock() - processor_begin) / CLOCKS_PER_SEC;

    tl_batcher_facts facts;
    tl__batcher_describe(b, &facts);
    printf("%d clients, %d requests of %d + %d tokens, %.1f s\n", clients, requests, n_prompt, output, seconds);
    printf("%-22s %.1f output tokens/s (%.1f a second of processors), %.1f rows/s, of prompts %.1f\n", "speed",
           bench.sum.completion_tokens / seconds, bench.sum.completion_tokens / processor, (double)bench.rows / seconds,
           (double)facts.prompt_tokens / seconds);
    print_series("first token", &bench.first);
    print_series("between tokens", &bench.gap);
    printf(
        "%-22s %.1f rows, %.1f ms (%.1f of processors), %d steps; forward %.1f %%, picks %.1f %%, the rest %.1f %%\n",
        "a step, mean", (double)bench.rows / bench.steps, 1e3 * seconds / bench.steps, 1e3 * processor / bench.steps,
        bench.steps, 1e-7 * (double)bench.forward_ns / seconds, 1e-7 * (double)bench.sample_ns / seconds,
        100 - 1e-7 * (double)(bench.forward_ns + bench.sample_ns) / seconds);
    printf("%-22s %d of %d prompt tokens; %d preemptions; answers %016llx\n", "found computed", bench.sum.cached_tokens,
           bench.sum.prompt_tokens, bench.sum.preemptions, (unsigned long long)bench.answers);
    if (o.look_up || draft)
        printf("%-22s %d of %d kept (%.0f %%)\n", "proposed ahead", bench.sum.accepted, bench.sum.proposed,
               bench.sum.proposed ? 100.0 * bench.sum.accepted / bench.sum.proposed : 0.0);
    tl__batcher_close(b);
    tl__engine_close(&bench.engine);
    tl__engine_close(&bench.draft);
    free(ids), free(client_of), free(bench.first.ms), free(bench.gap.ms), free(head), free(tail), free(body);
    return 0;
}
