/* metrics.c — owns the counts and histograms of a server, and their text.
 *
 * Promises: a writer adds to a few numbers under a lock that nobody holds for longer than a copy; a reader prints from
 * such a copy, so that the buckets, the count and the sum of a histogram always belong together. All seconds between
 * two steps are accounted for: operators by class, the rest of steps as "other", and idle between them.
 *
 * Invariants, asserted by number:
 *   M1  a histogram's edges rise, and there is one count more than edges: the last is of what lies beyond.
 *   M2  ledger.seconds sum to the time inside steps; with idle_seconds, to the time since opening, as of the last step.
 */
#include "serve/metrics.h"

#include <assert.h>
#include <dirent.h>
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "base/clock.h"
#include "observe/gpu.h"
#include "text/textbuf.h"

enum { MOST_EDGES = 32, STATUSES = 600 };

typedef struct histogram {
    const double *edge; /* [n] */
    int n;
    uint64_t count[MOST_EDGES + 1]; /* ≤ edge, and > the one before */
    double sum;
} histogram;

enum {
    FIRST_TOKEN,
    INTER_TOKEN,
    WHOLE,
    QUEUE,
    INFERENCE,
    PREFILL,
    DECODE,
    STEP_ROWS,
    REQUEST_PROMPT,
    REQUEST_MADE,
    HISTOGRAMS
};

typedef struct numbers {
    histogram histogram[HISTOGRAMS];
    uint64_t finished[TL_FINISHES], prompt_tokens, answers[STATUSES];
    tl_totals ledger; /* backward_seconds aside */
    double idle_seconds;
    tl_totals before, mark; /* the ledger as it was: rates are those since `before` */
    bool read, measured;    /* somebody has; the peaks are, or will be in a moment */
    tl_machine machine;     /* its peaks */
} numbers;

struct tl_metrics {
    pthread_mutex_t lock;
    numbers now; /* under the lock */
    tl_engine *engine;
    tl_gpu *gpu; /* NULL: none, or without counters */
    tl_spans *spans;
    char *label; /* model_name="…" */
    double token_edge[MOST_EDGES];
};

/* ---- histograms ---- */

static const double latency_edge[] = {0.3, 0.5, 0.8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                      30,  40,  50,  60, 120, 240, 480, 960, 1920, 7680};
static const double first_edge[] = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
                                    1,     2.5,   5,    7.5,  10,   20,   40,   80,  160,  640, 2560};
static const double inter_edge[] = {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5,
                                    0.75, 1,     2.5,  5,     7.5, 10,   20,  40,  80};
static const double rows_edge[] = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
#define COUNT(a) ((int)(sizeof(a) / sizeof *(a)))

static const struct {
    const char *name, *help;
    const double *edge; /* NULL: numbers of tokens, 1, 2, 5, 10 … */
    int n;
} histograms[HISTOGRAMS] = {
    [FIRST_TOKEN] = {"time_to_first_token_seconds", "From a request's arrival to its first token.", first_edge,
                     COUNT(first_edge)},
    [INTER_TOKEN] = {"inter_token_latency_seconds", "From one token to the next of the same answer.", inter_edge,
                     COUNT(inter_edge)},
    [WHOLE] = {"e2e_request_latency_seconds", "From a request's arrival to its end.", latency_edge,
               COUNT(latency_edge)},
    [QUEUE] = {"request_queue_time_seconds", "From a request's arrival until it was first computed.", latency_edge,
               COUNT(latency_edge)},
    [INFERENCE] = {"request_inference_time_seconds", "From when a request was first computed to its end.", latency_edge,
                   COUNT(latency_edge)},
    [PREFILL] = {"request_prefill_time_seconds", "From when a request was first computed to its first token.",
                 latency_edge, COUNT(latency_edge)},
    [DECODE] = {"request_decode_time_seconds", "From a request's first token to its last.", latency_edge,
                COUNT(latency_edge)},
    [STEP_ROWS] = {"iteration_tokens_total", "Tokens, of prompts and answers, that a step computed.", rows_edge,
                   COUNT(rows_edge)},
    [REQUEST_PROMPT] = {"request_prompt_tokens", "Tokens of a request's prompt.", NULL, 0},
    [REQUEST_MADE] = {"request_generation_tokens", "Tokens that a request was answered with.", NULL, 0},
};

static void observe(histogram *h, double x) {
    int i = 0;
    while (i < h->n && !(x <= h->edge[i])) i++;
    h->count[i]++;
    h->sum += x;
}

/* 1, 2, 5, 10, … up to `most`; their number. */
static int token_edges(double *edge, int most) {
    static const double mantissa[] = {1, 2, 5};
    int n = 0;
    for (double power = 1;; power *= 10)
        for (int i = 0; i < 3; i++) {
            if (mantissa[i] * power > most || n == MOST_EDGES) return n;
            edge[n++] = mantissa[i] * power;
        }
}

/* ---- opening ---- */

/* model_name="…": quotes, backslashes and line ends escaped; what is not UTF-8, which readers refuse, is U+FFFD. */
static char *make_label(const char *model_name) {
    const size_t n = strlen(model_name);
    tl_textbuf t = {0};
    int64_t replaced;
    char *repaired = malloc(3 * n + 1);
    const size_t m = repaired ? tl__utf8_repair(repaired, (const uint8_t *)model_name, n, &replaced) : 0;
    tl__textbuf_add_text(&t, "model_name=\"");
    for (size_t i = 0; i < m; i++) {
        const char c = repaired[i];
        if (c == '"' || c == '\\' || c == '\n') tl__textbuf_add_text(&t, "\\");
        tl__textbuf_add(&t, c == '\n' ? "n" : &c, 1);
    }
    tl__textbuf_add(&t, "\"", 2); /* with its end */
    const bool failed = !repaired || t.failed;
    free(repaired);
    if (!failed) return t.bytes;
    free(t.bytes);
    return NULL;
}

int tl__metrics_open(tl_metrics **metrics, tl_engine *engine, const char *model_name, int positions, tl_error *err) {
    *metrics = NULL;
    tl_metrics *m = calloc(1, sizeof *m);
    char *label = m ? make_label(model_name) : NULL;
    if (!label || pthread_mutex_init(&m->lock, NULL)) {
        free(label);
        free(m);
        return tl__fail(err, TL_ENOMEM, "the system has no room for a server's counts");
    }
    m->label = label;
    const int n = token_edges(m->token_edge, positions);
    for (int i = 0; i < HISTOGRAMS; i++) {
        histogram *h = &m->now.histogram[i];
        h->edge = histograms[i].edge ? histograms[i].edge : m->token_edge;
        h->n = histograms[i].edge ? histograms[i].n : n;
        assert(h->n <= MOST_EDGES); /* M1 */
        for (int e = 1; e < h->n; e++) assert(h->edge[e] > h->edge[e - 1]);
    }
    if (engine) {
        const int status = tl__spans_open(&m->spans, 1, err); /* totals alone: no span is kept */
        if (status) {
            tl__metrics_close(m);
            return status;
        }
        m->engine = engine;
        engine->ctx.spans = m->spans;
        m->gpu = tl__gpu_watch(&engine->ctx);
    }
    *metrics = m;
    return 0;
}

void tl__metrics_close(tl_metrics *m) {
    if (!m) return;
    if (m->engine) m->engine->ctx.spans = NULL;
    tl__gpu_close(m->gpu);
    tl__spans_close(m->spans);
    pthread_mutex_destroy(&m->lock);
    free(m->label);
    free(m);
}

/* ---- what is written down ---- */

static double seconds(int64_t from_ns, int64_t to_ns) {
    return to_ns > from_ns ? (double)(to_ns - from_ns) / 1e9 : 0; /* an exact quotient: a tenth is 0.1 */
}

/* Rates are told of the last RECENT to 2·RECENT seconds of steps: long enough to be steady, short enough to follow. */
#define RECENT_SECONDS 10.0

/* wall_seconds counts steps alone. */
static void add_step(numbers *x, tl_totals *t, double busy) {
    double known = 0;
    for (int b = 0; b < TL_BUCKET_OTHER; b++) known += t->seconds[b];
    if (busy < known) busy = known;
    const double idle = t->wall_seconds - busy;
    x->idle_seconds += idle > 0 ? idle : 0;
    t->seconds[TL_BUCKET_OTHER] = busy - known; /* M2 */
    t->wall_seconds = busy;
    tl__totals_add(&x->ledger, t);
    if (x->ledger.wall_seconds - x->mark.wall_seconds < RECENT_SECONDS) return;
    x->before = x->mark;
    x->mark = x->ledger;
}

void tl__metrics_step(tl_metrics *m, const tl_batch_step *step) {
    const double busy = seconds(step->begin_ns, tl__now_ns()); /* before the take, so that no moment counts twice */
    tl_totals t = tl__spans_take(m->spans);
    pthread_mutex_lock(&m->lock);
    observe(&m->now.histogram[STEP_ROWS], step->rows);
    if (m->spans) add_step(&m->now, &t, busy);
    pthread_mutex_unlock(&m->lock);
}

/* A phase that did not end, in a request that did, took until then. */
static void add_end(numbers *x, const tl_event *e, int64_t now_ns) {
    const tl_usage *u = e->usage;
    histogram *h = x->histogram;
    x->finished[e->finish]++;
    if (u->submitted_ns == 0) return; /* a further choice of a request that ended before it began */
    const int64_t begun_ns = u->scheduled_ns ? u->scheduled_ns : now_ns, first_ns = u->first_ns ? u->first_ns : now_ns;
    observe(&h[WHOLE], seconds(u->submitted_ns, now_ns));
    observe(&h[QUEUE], seconds(u->submitted_ns, begun_ns));
    observe(&h[INFERENCE], seconds(begun_ns, now_ns));
    observe(&h[PREFILL], seconds(begun_ns, first_ns));
    observe(&h[DECODE], seconds(first_ns, u->last_ns));
    observe(&h[REQUEST_PROMPT], u->prompt_tokens);
    observe(&h[REQUEST_MADE], u->completion_tokens);
}

void tl__metrics_event(tl_metrics *m, const tl_event *e, int64_t *last_ns) {
    const tl_usage *u = e->usage;
    const bool token = e->id >= 0 && e->prompt_at < 0, first = token && *last_ns == 0;
    if (!token && !e->finish) return;
    const int64_t now_ns = e->finish ? tl__now_ns() : 0;
    pthread_mutex_lock(&m->lock);
    if (first) observe(&m->now.histogram[FIRST_TOKEN], seconds(u->submitted_ns, u->first_ns));
    else if (token && u->last_ns > *last_ns) observe(&m->now.histogram[INTER_TOKEN], seconds(*last_ns, u->last_ns));
    /* The prompt has been read: at the first token, or at the end where none was asked for. */
    if (first || (e->finish && u->completion_tokens == 0 && u->scheduled_ns))
        m->now.prompt_tokens += (uint64_t)u->prompt_tokens;
    if (token) *last_ns = u->last_ns;
    if (e->finish) add_end(&m->now, e, now_ns);
    pthread_mutex_unlock(&m->lock);
}

void tl__metrics_idle(tl_metrics *m) {
    pthread_mutex_lock(&m->lock);
    const bool wanted = m->engine && m->now.read && !m->now.measured;
    m->now.measured |= wanted;
    pthread_mutex_unlock(&m->lock);
    if (!wanted) return;
    tl_machine machine = {0};
    tl_ctx ctx = m->engine->ctx;
    ctx.contract = TL_CONTRACT_BF16; /* all three peaks: weights of several types may lie in one model */
    tl__machine_describe(&machine, &ctx);
    const tl_arena *weights = &m->engine->model.arena;
    tl__machine_measure_in_place(&machine, &ctx, weights->base, weights->used_bytes, 0.1);
    tl__machine_measure_int8(&machine, &ctx, 0.05);
    pthread_mutex_lock(&m->lock);
    m->now.machine = machine;
    pthread_mutex_unlock(&m->lock);
}

void tl__metrics_answer(tl_metrics *m, int status) {
    if (status < 100 || status >= STATUSES) return;
    pthread_mutex_lock(&m->lock);
    m->now.answers[status]++;
    pthread_mutex_unlock(&m->lock);
}

/* ---- the text ---- */

typedef struct page {
    tl_textbuf text;
    const char *label;
    const char *prefix, *name; /* of the family that is being written */
} page;

__attribute__((format(printf, 2, 3))) static void put(page *p, const char *format, ...) {
    char line[512]; /* what has no bound (the label, a help text) is not put through here */
    va_list args;
    va_start(args, format);
    const int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    assert(n >= 0 && (size_t)n < sizeof line);
    tl__textbuf_add(&p->text, line, (size_t)n);
}

static void begin(page *p, const char *prefix, const char *name, const char *type, const char *help) {
    p->prefix = prefix;
    p->name = name;
    put(p, "# HELP %s%s ", prefix, name);
    tl__textbuf_add_text(&p->text, help);
    put(p, "\n# TYPE %s%s %s\n", prefix, name, type);
}

/* The fewest digits that read back as the same number. */
static void number_text(char out[32], double x) {
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(out, 32, "%.*g", digits, x);
        if (strtod(out, NULL) == x) return;
    }
}

/* One line of the family: key NULL: no label but the model's. */
static void sample(page *p, const char *suffix, const char *key, const char *value, double x) {
    char number[32];
    number_text(number, x);
    put(p, "%s%s%s", p->prefix, p->name, suffix);
    if (*p->prefix || key) tl__textbuf_add_text(&p->text, "{");
    if (*p->prefix) tl__textbuf_add_text(&p->text, p->label);
    if (key) put(p, "%s%s=\"%s\"", *p->prefix ? "," : "", key, value);
    if (*p->prefix || key) tl__textbuf_add_text(&p->text, "}");
    put(p, " %s\n", number);
}

#define OURS "trilith:"

static void one(page *p, const char *name, const char *type, double x, const char *help) {
    begin(p, OURS, name, type, help);
    sample(p, "", NULL, NULL, x);
}

static void put_histogram(page *p, int which, const histogram *h) {
    char edge[32];
    uint64_t total = 0;
    begin(p, OURS, histograms[which].name, "histogram", histograms[which].help);
    for (int i = 0; i < h->n; i++) {
        number_text(edge, h->edge[i]);
        total += h->count[i];
        sample(p, "_bucket", "le", edge, (double)total);
    }
    total += h->count[h->n];
    sample(p, "_bucket", "le", "+Inf", (double)total);
    sample(p, "_sum", NULL, NULL, h->sum);
    sample(p, "_count", NULL, NULL, (double)total);
}

static void put_requests(page *p, const numbers *x, const tl_batcher_facts *f) {
    static const char *const reason[TL_FINISHES] = {
        [TL_FINISH_STOP] = "stop",         [TL_FINISH_LENGTH] = "length", [TL_FINISH_CANCELLED] = "abort",
        [TL_FINISH_DEADLINE] = "deadline", [TL_FINISH_FAILED] = "error",
    };
    one(p, "num_requests_running", "gauge", f->running, "Sequences in the steps of now.");
    one(p, "num_requests_waiting", "gauge", f->waiting, "Requests of which nothing has been computed.");
    one(p, "kv_cache_usage_perc", "gauge", f->pages > 0 ? (double)f->used_pages / (double)f->pages : 0,
        "Of the pages for keys and values, those that running sequences hold. 1 is all.");
    one(p, "prefix_cache_queries_total", "counter", (double)f->prefix_queries,
        "Tokens of prompts that were looked for among computed ones.");
    one(p, "prefix_cache_hits_total", "counter", (double)f->prefix_hits, "Of these, tokens found computed.");
    one(p, "num_preemptions_total", "counter", (double)f->preemptions,
        "Times that a sequence gave its pages back and was computed again later.");
    one(p, "prompt_tokens_total", "counter", (double)x->prompt_tokens,
        "Tokens of prompts that have been read, computed or found.");
    one(p, "prompt_tokens_computed_total", "counter", (double)f->prompt_tokens,
        "Rows of steps that computed tokens of prompts, again after a preemption.");
    one(p, "generation_tokens_total", "counter", (double)f->generated_tokens, "Tokens made.");
    one(p, "spec_decode_num_draft_tokens_total", "counter", (double)f->proposed, "Tokens proposed ahead.");
    one(p, "spec_decode_num_accepted_tokens_total", "counter", (double)f->accepted, "Of these, tokens kept.");
    begin(p, OURS, "request_success_total", "counter", "Answers that have ended, by reason.");
    for (int i = TL_FINISH_STOP; i < TL_FINISHES; i++)
        sample(p, "", "finished_reason", reason[i], (double)x->finished[i]);
    for (int i = 0; i < HISTOGRAMS; i++) put_histogram(p, i, &x->histogram[i]);
}

static void put_pages(page *p, const tl_batcher_facts *f) {
    one(p, "kv_pages", "gauge", (double)f->pages, "Pages for keys and values.");
    one(p, "kv_used_pages", "gauge", (double)f->used_pages, "Of these, pages that running sequences hold.");
    one(p, "kv_cached_pages", "gauge", (double)f->cached_pages, "Of these, pages kept for prompts to come.");
    one(p, "kv_page_bytes", "gauge", (double)f->page_bytes, "Bytes of a page.");
    one(p, "steps_total", "counter", (double)f->steps, "Steps that computed something.");
}

/* ---- the ledger ---- */

static bool is_shown(const tl_totals *ledger, int bucket) {
    return bucket <= TL_BUCKET_EMBED || bucket == TL_BUCKET_SAMPLE || bucket == TL_BUCKET_OTHER ||
           ledger->seconds[bucket] > 0;
}

static void put_by_bucket(page *p, const tl_totals *ledger, const double *x) {
    for (int b = 0; b < TL_BUCKETS; b++)
        if (is_shown(ledger, b)) sample(p, "", "operator", tl__bucket_name((tl_bucket)b), x[b]);
}

static void put_rates(page *p, const numbers *x, const double *now, const double *before) {
    for (int b = 0; b < TL_BUCKET_OTHER; b++) {
        if (!is_shown(&x->ledger, b)) continue;
        const double took = x->ledger.seconds[b] - x->before.seconds[b];
        sample(p, "", "operator", tl__bucket_name((tl_bucket)b), took > 0 ? (now[b] - before[b]) / took : 0);
    }
}

typedef struct typed { /* operations of all classes */
    double f32, bf16, int8;
} typed;

static typed by_type(const tl_totals *ledger) {
    typed sum = {0};
    for (int b = 0; b < TL_BUCKETS; b++) {
        sum.bf16 += ledger->bf16_flops[b];
        sum.int8 += ledger->int8_flops[b];
        sum.f32 += ledger->flops[b] - ledger->bf16_flops[b] - ledger->int8_flops[b];
    }
    return sum;
}

/* Seconds that the operations would take at the peak of their types, of those that they took; −1: a peak is not known.
 */
static double share_of_peaks(const numbers *x) {
    const typed now = by_type(&x->ledger), before = by_type(&x->before);
    const double bf16 = now.bf16 - before.bf16, int8 = now.int8 - before.int8;
    const double at_peak = tl__machine_seconds(&x->machine, now.f32 - before.f32 + bf16 + int8, bf16, int8);
    const double took = x->ledger.wall_seconds - x->before.wall_seconds;
    return at_peak < 0 ? -1 : took > 0 ? at_peak / took : 0;
}

static void put_ledger(page *p, const numbers *x) {
    const tl_totals *l = &x->ledger;
    begin(p, OURS, "operator_seconds_total", "counter",
          "Seconds inside steps by class of operators; other is all that none claims.");
    put_by_bucket(p, l, l->seconds);
    one(p, "step_seconds_total", "counter", l->wall_seconds, "Seconds inside steps.");
    one(p, "idle_seconds_total", "counter", x->idle_seconds, "Seconds between steps.");
    begin(p, OURS, "operator_flops_total", "counter", "Operations as executed, of whatever type.");
    put_by_bucket(p, l, l->flops);
    const typed flops = by_type(l);
    begin(p, OURS, "flops_total", "counter", "Operations as executed, by type.");
    sample(p, "", "type", "f32", flops.f32);
    sample(p, "", "type", "bf16", flops.bf16);
    sample(p, "", "type", "int8", flops.int8);
    begin(p, OURS, "operator_bytes_total", "counter", "Bytes read and written by operators.");
    put_by_bucket(p, l, l->bytes);
    begin(p, OURS, "operator_flops_per_second", "gauge", "Achieved in the last 10 to 20 seconds of steps.");
    put_rates(p, x, l->flops, x->before.flops);
    begin(p, OURS, "operator_bytes_per_second", "gauge", "Achieved in the last 10 to 20 seconds of steps.");
    put_rates(p, x, l->bytes, x->before.bytes);
    if (!(x->machine.f32_flops > 0)) return;
    begin(p, OURS, "peak_flops_per_second", "gauge", "What this machine was measured to do in registers, by type.");
    sample(p, "", "type", "f32", x->machine.f32_flops);
    if (x->machine.bf16_flops > 0) sample(p, "", "type", "bf16", x->machine.bf16_flops);
    if (x->machine.int8_ops > 0) sample(p, "", "type", "int8", x->machine.int8_ops);
    const double share = share_of_peaks(x);
    if (share >= 0)
        one(p, "peak_flops_share", "gauge", share,
            "Of the last 10 to 20 seconds of steps, what their operations take at the peak of their types.");
    if (x->machine.read_bytes_per_second > 0)
        one(p, "peak_bytes_per_second", "gauge", x->machine.read_bytes_per_second,
            "What this machine was measured to read of the weights as they lie.");
}

/* ---- the GPU ---- */

static void put_gpu(page *p, tl_gpu *gpu) {
    tl_gpu_sample s;
    char name[64];
    tl__gpu_last(gpu, &s);
    for (int i = 0; i < TL_GPU_COUNTERS; i++) {
        const struct tl_gpu_counter_words *words = &tl__gpu_counters[i];
        if (!isfinite(s.value[i])) continue;
        snprintf(name, sizeof name, "gpu_%s", words->name);
        one(p, name, words->counter ? "counter" : "gauge", s.value[i], words->help);
    }
    if (s.reasons < 0) return;
    begin(p, OURS, "gpu_throttle", "gauge", "1: clocks are not the highest, for this reason of NVML's.");
    for (int i = 0; i < TL_GPU_REASONS; i++) sample(p, "", "reason", tl__gpu_reasons[i], s.reasons >> i & 1);
}

/* ---- the process, under the names that every Prometheus client gives it ---- */

static double clock_seconds(clockid_t id) {
    struct timespec t = {0};
    clock_gettime(id, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Since the epoch; 0: not known. proc(5): starttime is field 22, in ticks after boot; the name before it may hold
 * anything but ends in the last parenthesis. */
static double start_seconds(void) {
    char text[1024];
    FILE *f = fopen("/proc/self/stat", "re");
    const size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
    if (f) fclose(f);
    text[n] = 0;
    const char *at = strrchr(text, ')');
    for (int field = 2; at && field < 22; field++) at = strchr(at + 1, ' ');
    if (!at) return 0;
    return clock_seconds(CLOCK_REALTIME) - clock_seconds(CLOCK_BOOTTIME) +
           strtod(at, NULL) / (double)sysconf(_SC_CLK_TCK);
}

static int open_files(void) {
    DIR *d = opendir("/proc/self/fd");
    int n = -3; /* . and .. and the folder's own */
    if (!d) return 0;
    while (readdir(d)) n++;
    closedir(d);
    return n;
}

static void plain(page *p, const char *name, const char *type, double x, const char *help) {
    begin(p, "", name, type, help);
    sample(p, "", NULL, NULL, x);
}

static void put_process(page *p, const numbers *x) {
    plain(p, "process_resident_memory_bytes", "gauge", (double)tl__rss_bytes(), "Resident memory, mapped files too.");
    plain(p, "process_cpu_seconds_total", "counter", clock_seconds(CLOCK_PROCESS_CPUTIME_ID),
          "CPU time of all threads.");
    plain(p, "process_start_time_seconds", "gauge", start_seconds(), "When the process began, since the epoch.");
    plain(p, "process_open_fds", "gauge", open_files(), "Open file descriptors.");
    one(p, "process_anonymous_memory_bytes", "gauge", (double)tl__rss_anon_bytes(),
        "Resident memory that is of no file.");
    begin(p, OURS, "http_responses_total", "counter", "Answers by HTTP status.");
    char status[8];
    for (int i = 100; i < STATUSES; i++) {
        if (!x->answers[i] && i != 200) continue;
        snprintf(status, sizeof status, "%d", i);
        sample(p, "", "status", status, (double)x->answers[i]);
    }
}

int tl__metrics_write(tl_metrics *m, const tl_batcher_facts *facts, char **text, size_t *n, tl_error *err) {
    page p = {.label = m->label};
    pthread_mutex_lock(&m->lock);
    m->now.read = true;
    const numbers now = m->now;
    pthread_mutex_unlock(&m->lock);
    put_requests(&p, &now, facts);
    put_pages(&p, facts);
    if (m->spans) put_ledger(&p, &now);
    if (m->gpu) put_gpu(&p, m->gpu);
    put_process(&p, &now);
    *text = p.text.failed ? NULL : p.text.bytes;
    *n = p.text.n;
    if (*text) return 0;
    free(p.text.bytes);
    return tl__fail(err, TL_ENOMEM, "the system has no room for the text of the metrics");
}
