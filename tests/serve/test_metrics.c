/* test_metrics.c — what GET /metrics says is what happened: requests whose times are made up come out in the buckets
 * they belong to, the text reads back as Prometheus' own parsers read it (tools/interop_serve_metrics.py asks those), a
 * crowd's counts agree with its events, and the ledger's seconds are those of the clock. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>
#include "base/clock.h"
#include "families.h"
#include "heap_calls.h"
#include "serve/metrics.h"

#define S 1000000000LL

static char *written(tl_metrics *m, const tl_batcher_facts *facts) {
    char *text = NULL;
    size_t n = 0;
    tl_error err = {0};
    assert_int_equal(tl__metrics_write(m, facts, &text, &n, &err), 0);
    text = realloc(text, n + 1);
    text[n] = 0;
    assert_int_equal(strlen(text), n);
    return text;
}

/* The value of the line that begins with `name`, label and all; NaN: there is none. Two are an error. */
static double value(const char *text, const char *name) {
    const size_t n = strlen(name);
    double x = NAN;
    for (const char *line = text; line; line = strchr(line, '\n')) {
        if (*line == '\n') line++;
        if (strncmp(line, name, n) != 0 || line[n] != ' ') continue;
        assert_true(isnan(x));
        x = strtod(line + n, NULL);
    }
    return x;
}

#define HAS(text, name, want)                                                                                          \
    do {                                                                                                               \
        const double got = value(text, name);                                                                          \
        if (!(got == (double)(want))) fail_msg("%s is %g, not %g", name, got, (double)(want));                         \
    } while (0)

static void near(double got, double want, double tolerance) {
    if (!(fabs(got - want) <= tolerance)) fail_msg("%.17g is not %.17g", got, want);
}

/* Sum of all samples of a family, whatever their labels. */
static double family(const char *text, const char *name) {
    const size_t n = strlen(name);
    double x = 0;
    for (const char *line = text; line; line = strchr(line, '\n')) {
        if (*line == '\n') line++;
        if (strncmp(line, name, n) == 0 && line[n] == '{') x += strtod(strstr(line, "} ") + 2, NULL);
    }
    return x;
}

/* ---- what is told is what is shown ---- */

static void tell(tl_metrics *m, int64_t *last, const tl_usage *u, int32_t id, tl_finish finish) {
    const tl_event e = {.id = id, .prompt_at = -1, .finish = finish, .usage = u};
    tl__metrics_event(m, &e, last);
}

static void a_request_is_counted_where_it_belongs(void **state) {
    (void)state;
    tl_metrics *m;
    tl_error err = {0};
    assert_int_equal(tl__metrics_open(&m, NULL, "tiny", 300, &err), 0);
    /* It waited 0.4 s, read its prompt for 0.2 s (an edge of no histogram: 0.6 s to the first token), and then gave a
     * token after 0.01 s (an edge: the bucket that it closes), two at once after 0.5 s, and an end without a token. */
    const int64_t came = tl__now_ns() - 2 * S;
    int64_t last = 0;
    tl_usage u = {.prompt_tokens = 7, .submitted_ns = came, .scheduled_ns = came + 400000000};
    const tl_event prompt = {.id = 3, .prompt_at = 2, .usage = &u};
    tl__metrics_event(m, &prompt, &last); /* of the prompt: no token made */
    u.completion_tokens = 1;
    u.first_ns = u.last_ns = came + 600000000;
    tell(m, &last, &u, 5, TL_FINISH_NONE);
    u.completion_tokens = 2, u.last_ns += 10000000;
    tell(m, &last, &u, 5, TL_FINISH_NONE);
    u.completion_tokens = 3, u.last_ns += 500000000;
    tell(m, &last, &u, 5, TL_FINISH_NONE);
    u.completion_tokens = 4;
    tell(m, &last, &u, 5, TL_FINISH_NONE);
    tell(m, &last, &u, -1, TL_FINISH_CANCELLED);
    /* Another was too late before it began, a third read a prompt alone, a fourth is a choice that never was. */
    int64_t none = 0;
    const tl_usage late = {.prompt_tokens = 9, .submitted_ns = tl__now_ns() - 3 * S};
    tell(m, &none, &late, -1, TL_FINISH_DEADLINE);
    const tl_usage read = {.prompt_tokens = 250, .submitted_ns = came, .scheduled_ns = came + S};
    tell(m, &none, &read, -1, TL_FINISH_LENGTH);
    const tl_usage unborn = {.prompt_tokens = 250};
    tell(m, &none, &unborn, -1, TL_FINISH_CANCELLED);
    const tl_batch_step step = {.rows = 17, .begin_ns = tl__now_ns()};
    tl__metrics_step(m, &step);
    tl__metrics_answer(m, 200);
    tl__metrics_answer(m, 429);
    tl__metrics_answer(m, 429);
    tl__metrics_answer(m, 99);
    tl__metrics_answer(m, 600);
    const tl_batcher_facts facts = {.running = 3,
                                    .waiting = 4,
                                    .pages = 8,
                                    .used_pages = 2,
                                    .cached_pages = 5,
                                    .page_bytes = 1024,
                                    .prefix_queries = 11,
                                    .prefix_hits = 6,
                                    .preemptions = 2,
                                    .steps = 1,
                                    .prompt_tokens = 260,
                                    .generated_tokens = 4,
                                    .proposed = 10,
                                    .accepted = 9};
    char *text = written(m, &facts);

#define L "{model_name=\"tiny\"}"
#define LE(x) "{model_name=\"tiny\",le=\"" x "\"}"
    HAS(text, "trilith:num_requests_running" L, 3);
    HAS(text, "trilith:num_requests_waiting" L, 4);
    HAS(text, "trilith:kv_cache_usage_perc" L, 0.25);
    HAS(text, "trilith:kv_used_pages" L, 2);
    HAS(text, "trilith:kv_cached_pages" L, 5);
    HAS(text, "trilith:prefix_cache_queries_total" L, 11);
    HAS(text, "trilith:prefix_cache_hits_total" L, 6);
    HAS(text, "trilith:num_preemptions_total" L, 2);
    HAS(text, "trilith:prompt_tokens_total" L, 7 + 250); /* the late one's was not read */
    HAS(text, "trilith:prompt_tokens_computed_total" L, 260);
    HAS(text, "trilith:generation_tokens_total" L, 4);
    HAS(text, "trilith:spec_decode_num_draft_tokens_total" L, 10);
    HAS(text, "trilith:spec_decode_num_accepted_tokens_total" L, 9);
    HAS(text, "trilith:request_success_total{model_name=\"tiny\",finished_reason=\"abort\"}", 2);
    HAS(text, "trilith:request_success_total{model_name=\"tiny\",finished_reason=\"deadline\"}", 1);
    HAS(text, "trilith:request_success_total{model_name=\"tiny\",finished_reason=\"length\"}", 1);
    HAS(text, "trilith:request_success_total{model_name=\"tiny\",finished_reason=\"stop\"}", 0);
    HAS(text, "trilith:request_success_total{model_name=\"tiny\",finished_reason=\"error\"}", 0);
    HAS(text, "trilith:http_responses_total{model_name=\"tiny\",status=\"200\"}", 1);
    HAS(text, "trilith:http_responses_total{model_name=\"tiny\",status=\"429\"}", 2);
    near(family(text, "trilith:http_responses_total"), 3, 0);

    HAS(text, "trilith:time_to_first_token_seconds_bucket" LE("0.5"), 0);
    HAS(text, "trilith:time_to_first_token_seconds_bucket" LE("0.75"), 1);
    HAS(text, "trilith:time_to_first_token_seconds_bucket" LE("+Inf"), 1);
    HAS(text, "trilith:time_to_first_token_seconds_sum" L, 0.6);
    HAS(text, "trilith:inter_token_latency_seconds_bucket" LE("0.01"), 1);
    HAS(text, "trilith:inter_token_latency_seconds_bucket" LE("0.4"), 1);
    HAS(text, "trilith:inter_token_latency_seconds_bucket" LE("0.5"), 2); /* both of the step at once */
    HAS(text, "trilith:inter_token_latency_seconds_count" L, 2);
    near(value(text, "trilith:inter_token_latency_seconds_sum" L), 0.51, 1e-12);
    HAS(text, "trilith:e2e_request_latency_seconds_count" L, 3); /* not the one that never was */
    HAS(text, "trilith:e2e_request_latency_seconds_bucket" LE("1.5"), 0);
    HAS(text, "trilith:request_queue_time_seconds_bucket" LE("0.3"), 0);
    HAS(text, "trilith:request_queue_time_seconds_bucket" LE("0.5"), 1); /* 0.4, 1, and the late one's three */
    HAS(text, "trilith:request_queue_time_seconds_bucket" LE("1"), 2);
    HAS(text, "trilith:request_queue_time_seconds_bucket" LE("2.5"), 2);
    HAS(text, "trilith:request_queue_time_seconds_count" L, 3);
    HAS(text, "trilith:request_prefill_time_seconds_bucket" LE("0.3"), 2); /* 0.2; 1 s and more, to the end; 0 */
    HAS(text, "trilith:request_prefill_time_seconds_bucket" LE("0.8"), 2);
    HAS(text, "trilith:request_decode_time_seconds_bucket" LE("0.5"), 2);
    HAS(text, "trilith:request_decode_time_seconds_bucket" LE("0.8"), 3);
    near(value(text, "trilith:request_decode_time_seconds_sum" L), 0.51, 1e-12);
    HAS(text, "trilith:request_prompt_tokens_bucket" LE("5"), 0);
    HAS(text, "trilith:request_prompt_tokens_bucket" LE("10"), 2);
    HAS(text, "trilith:request_prompt_tokens_bucket" LE("200"), 2);
    HAS(text, "trilith:request_prompt_tokens_bucket" LE("+Inf"), 3);
    HAS(text, "trilith:request_generation_tokens_sum" L, 4);
    assert_true(isnan(value(text, "trilith:request_prompt_tokens_bucket" LE("500")))); /* beyond all positions */
    HAS(text, "trilith:iteration_tokens_total_bucket" LE("16"), 0);
    HAS(text, "trilith:iteration_tokens_total_bucket" LE("32"), 1);
    HAS(text, "trilith:iteration_tokens_total_sum" L, 17);
    assert_true(value(text, "process_resident_memory_bytes") > 1e6);
    assert_true(value(text, "process_open_fds") >= 3);
    assert_null(strstr(text, "operator_seconds")); /* there is no engine */
    free(text);
    tl__metrics_close(m);
}

/* vLLM's edges, as vllm/v1/metrics/buckets.py has them. */
static void the_edges_are_vllms(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int n;
        double edge[24];
    } families_of[] = {
        {"time_to_first_token_seconds", 22, {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,  0.25,  0.5,   0.75,
                                             1.0,   2.5,   5.0,  7.5,  10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0}},
        {"inter_token_latency_seconds",
         19,
         {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0}},
        {"e2e_request_latency_seconds", 21, {0.3,  0.5,  0.8,  1.0,  1.5,   2.0,   2.5,   5.0,   10.0,   15.0,  20.0,
                                             30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0}},
        {"request_queue_time_seconds", 21, {0.3,  0.5,  0.8,  1.0,  1.5,   2.0,   2.5,   5.0,   10.0,   15.0,  20.0,
                                            30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0}},
        {"iteration_tokens_total", 13, {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384}},
        {"request_prompt_tokens", 9, {1, 2, 5, 10, 20, 50, 100, 200, 500}},
    };
    tl_metrics *m;
    tl_error err = {0};
    const tl_batcher_facts facts = {0};
    assert_int_equal(tl__metrics_open(&m, NULL, "x", 999, &err), 0);
    char *text = written(m, &facts), line[128];
    for (size_t f = 0; f < sizeof families_of / sizeof *families_of; f++) {
        snprintf(line, sizeof line, "\ntrilith:%s_bucket{", families_of[f].name);
        const char *at = strstr(text, line);
        for (int i = 0; i <= families_of[f].n; i++, at = strstr(at + 1, line)) {
            assert_non_null(at);
            const double edge = strtod(strstr(at, "le=\"") + 4, NULL);
            assert_true(i < families_of[f].n ? edge == families_of[f].edge[i] : isinf(edge));
        }
        assert_null(at);
    }
    free(text);
    tl__metrics_close(m);
}

static void a_name_may_hold_anything(void **state) {
    (void)state;
    tl_metrics *m;
    tl_error err = {0};
    const tl_batcher_facts facts = {0};
    assert_int_equal(tl__metrics_open(&m, NULL, "a\"b\\c\nd\xff ü", 16, &err), 0);
    char *text = written(m, &facts);
    HAS(text, "trilith:num_requests_running{model_name=\"a\\\"b\\\\c\\nd\xef\xbf\xbd ü\"}", 0);
    free(text);
    tl__metrics_close(m);
}

/* ---- of a crowd ---- */

enum { REQUESTS = 12, ASKED = 9 };

typedef struct crowd {
    tl_metrics *metrics;
    tl_batcher *batcher;
    int made, gaps; /* tokens; and those that came in a step of their own, after another */
    int ended, steps, rows;
    double busy; /* seconds in steps, by the test's own clock */
    atomic_bool over;
} crowd;

typedef struct asker {
    crowd *crowd;
    int64_t last_ns; /* the metrics' own */
    int64_t seen_ns;
} asker;

static void sleep_ms(int ms) {
    struct timespec t = {0, ms * 1000000L};
    while (nanosleep(&t, &t) != 0) {
    }
}

static void heard(void *user, const tl_event *e) {
    asker *a = user;
    if (e->id >= 0 && e->prompt_at < 0) {
        a->crowd->made++;
        a->crowd->gaps += a->seen_ns != 0;
        a->seen_ns = e->usage->last_ns;
    }
    a->crowd->ended += e->finish != TL_FINISH_NONE;
    if (a->crowd->ended == 1 && e->finish) sleep_ms(20); /* planted, inside a step */
    const long calls = own_heap_calls;
    tl__metrics_event(a->crowd->metrics, e, &a->last_ns);
    assert_int_equal(own_heap_calls, calls);
}

/* Where a grammar would be asked: planted, while tokens are drawn. */
static void linger(void *user, const int32_t *made, int n, float *logits) {
    (void)user, (void)made, (void)logits;
    if (n == 3) sleep_ms(20);
}

static void stepped(void *user, const tl_batch_step *s) {
    crowd *c = user;
    c->steps++;
    c->rows += s->rows;
    const long calls = own_heap_calls;
    tl__metrics_step(c->metrics, s);
    assert_int_equal(own_heap_calls, calls);
}

/* A reader beside the owner: whatever it sees belongs together. */
static void *scrape(void *user) {
    crowd *c = user;
    double before = 0;
    while (!atomic_load(&c->over)) {
        tl_batcher_facts facts;
        tl__batcher_describe(c->batcher, &facts);
        char *text = written(c->metrics, &facts);
        const double n = value(text, "trilith:iteration_tokens_total_count{model_name=\"crowd\"}");
        assert_true(n >= before);
        assert_true(value(text, "trilith:iteration_tokens_total_bucket{model_name=\"crowd\",le=\"+Inf\"}") == n);
        before = n;
        free(text);
    }
    return NULL;
}

static void a_crowd_adds_up(void **state) {
    (void)state;
    tl_error err = {0};
    static tl_engine engine;
    const char *config = test_families[1].config;
    assert_int_equal(tl__ctx_open(&engine.ctx, 2, NULL, &err), 0);
    assert_int_equal(tl__arch_parse(&engine.arch, config, strlen(config), "config", &err), 0);
    assert_int_equal(tl__model_create(&engine.model, &engine.arch, 0, &err), 0);
    tl__model_init(&engine.model, 5, engine.ctx.pool);
    crowd c = {0};
    asker who[REQUESTS];
    const tl_batcher_options options = {
        .running = 4, .step_tokens = 16, .positions = 64, .stepped = stepped, .user = &c};
    const int64_t began_ns = tl__now_ns();
    assert_int_equal(tl__metrics_open(&c.metrics, &engine, "crowd", 64, &err), 0);
    assert_int_equal(tl__batcher_open(&c.batcher, &engine, &options, &err), 0);
    static const int32_t prompt[20] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20};
    pthread_t reader;
    assert_int_equal(pthread_create(&reader, NULL, scrape, &c), 0);
    for (int i = 0; i < REQUESTS; i++) {
        who[i] = (asker){.crowd = &c};
        const tl_request r = {.prompt = prompt,
                              .n_prompt = 20,
                              .max_tokens = ASKED,
                              .ignore_eos = true,
                              .constrain = i ? NULL : linger,
                              .event = heard,
                              .user = &who[i]};
        uint64_t id;
        assert_int_equal(tl__batcher_submit(c.batcher, &r, &id, &err), 0);
    }
    while (c.ended < REQUESTS) {
        if (c.steps == 3) sleep_ms(30); /* planted, between two */
        const int64_t t = tl__now_ns();
        assert_true(tl__batcher_step(c.batcher, S, &err) >= 0);
        c.busy += (double)(tl__now_ns() - t) * 1e-9;
    }
    const double whole = (double)(tl__now_ns() - began_ns) * 1e-9;
    atomic_store(&c.over, true);
    pthread_join(reader, NULL);
    tl__metrics_idle(c.metrics); /* the text has been read */
    tl_batcher_facts facts;
    tl__batcher_describe(c.batcher, &facts);
    char *text = written(c.metrics, &facts);
#define C "{model_name=\"crowd\"}"
    assert_int_equal(c.made, REQUESTS * ASKED);
    HAS(text, "trilith:generation_tokens_total" C, REQUESTS * ASKED);
    HAS(text, "trilith:prompt_tokens_total" C, REQUESTS * 20);
    HAS(text, "trilith:num_requests_running" C, 0);
    HAS(text, "trilith:num_requests_waiting" C, 0);
    HAS(text, "trilith:kv_cache_usage_perc" C, 0);
    HAS(text, "trilith:request_success_total{model_name=\"crowd\",finished_reason=\"length\"}", REQUESTS);
    HAS(text, "trilith:time_to_first_token_seconds_count" C, REQUESTS);
    HAS(text, "trilith:inter_token_latency_seconds_count" C, c.gaps);
    HAS(text, "trilith:iteration_tokens_total_count" C, c.steps);
    HAS(text, "trilith:iteration_tokens_total_sum" C, c.rows);
    /* Of a request, queue, prefill and decode are the whole but for what passed between its last token and its end. */
    const double parts = value(text, "trilith:request_queue_time_seconds_sum" C) +
                         value(text, "trilith:request_prefill_time_seconds_sum" C) +
                         value(text, "trilith:request_decode_time_seconds_sum" C);
    assert_true(parts <= value(text, "trilith:e2e_request_latency_seconds_sum" C) * (1 + 1e-9));
    assert_true(parts > 0);

    /* The ledger: no more seconds than the clock saw, all of them in a class or in "other", and FLOPs by the formula.
     */
    const double in_steps = value(text, "trilith:step_seconds_total" C),
                 idle = value(text, "trilith:idle_seconds_total" C);
    if (!(in_steps > 0 && in_steps <= c.busy && in_steps + idle <= whole))
        fail_msg("%.9f seconds in steps of %.9f, %.9f idle, of %.9f", in_steps, c.busy, idle, whole);
    near(family(text, "trilith:operator_seconds_total"), in_steps, 1e-9 * (1 + in_steps));
    assert_true(idle >= 0.03);
    assert_true(value(text, "trilith:operator_seconds_total{model_name=\"crowd\",operator=\"other\"}") >= 0.02);
    assert_true(value(text, "trilith:operator_seconds_total{model_name=\"crowd\",operator=\"sample\"}") >= 0.02);
    /* A token is looked for among as many logits as there are ids: so many comparisons, four bytes each. */
    const double drawn = (double)REQUESTS * ASKED * engine.arch.V;
    HAS(text, "trilith:operator_flops_total{model_name=\"crowd\",operator=\"sample\"}", drawn);
    HAS(text, "trilith:operator_bytes_total{model_name=\"crowd\",operator=\"sample\"}", 4 * drawn);
    assert_true(value(text, "trilith:operator_bytes_total{model_name=\"crowd\",operator=\"attention\"}") > 0);
    const char *matmul = "trilith:operator_flops_total{model_name=\"crowd\",operator=\"matmul\"}";
    const double seconds = value(text, "trilith:operator_seconds_total{model_name=\"crowd\",operator=\"matmul\"}");
    assert_true(value(text, matmul) > 0 && seconds > 0);
    double typed = 0;
    for (int t = 0; t < 3; t++) {
        static const char *const types[] = {"f32", "bf16", "int8"};
        char key[128];
        snprintf(key, sizeof key, "trilith:flops_total{model_name=\"crowd\",type=\"%s\"}", types[t]);
        typed += value(text, key);
        if (t > 0) HAS(text, key, 0); /* a model in f32 */
    }
    const double all = family(text, "trilith:operator_flops_total");
    near(typed, all, 1e-9 * all);
    const double share = value(text, "trilith:peak_flops_share" C);
    assert_true(share > 0 && share < 1.5); /* the peak may have been measured while others computed */
    near(share * in_steps * value(text, "trilith:peak_flops_per_second{model_name=\"crowd\",type=\"f32\"}"), all,
         1e-6 * all);
    const double rate = value(text, "trilith:operator_flops_per_second{model_name=\"crowd\",operator=\"matmul\"}");
    near(rate, value(text, matmul) / seconds, 1e-9 * rate);
    assert_true(value(text, "trilith:peak_flops_per_second{model_name=\"crowd\",type=\"f32\"}") > 1e8);
    assert_null(strstr(text, "peak_bytes")); /* these weights are too few to tell */
    free(text);
    tl__batcher_close(c.batcher);
    tl__metrics_close(c.metrics);
    assert_null(engine.ctx.spans);
    tl__model_close(&engine.model);
    tl__ctx_close(&engine.ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_is_counted_where_it_belongs),
        cmocka_unit_test(the_edges_are_vllms),
        cmocka_unit_test(a_name_may_hold_anything),
        cmocka_unit_test(a_crowd_adds_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
