/* test_ledger.c — metrics lines are JSON whatever the numbers, and give back the numbers they were given; a planted
 * sleep appears under its own span; the bottleneck sentence blames what it should and names the right remedy. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <float.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>
#include <jansson.h>
#include "observe/ledger.h"

static void sleep_ms(int ms) {
    struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
    while (nanosleep(&t, &t) != 0) {
    }
}

static json_t *parse_line(const tl_step_metrics *m) {
    char line[4096];
    memset(line, 'x', sizeof line);
    int n = tl__metrics_line(line, sizeof line, m);
    assert_true(n > 0 && n < (int)sizeof line);
    assert_int_equal(line[n], 0);
    assert_int_equal(line[n - 1], '\n');
    assert_ptr_equal(strchr(line, '\n'), line + n - 1); /* one line */
    json_error_t e;
    json_t *o = json_loadb(line, (size_t)n, JSON_REJECT_DUPLICATES, &e);
    if (!o) fail_msg("%s in %s", e.text, line);
    return o;
}

static double real(const json_t *o, const char *key) {
    const json_t *v = json_object_get(o, key);
    assert_true(json_is_number(v));
    return json_number_value(v);
}

static void a_planted_sleep_appears_under_its_span(void **state) {
    (void)state;
    tl_spans *s;
    assert_int_equal(tl__spans_open(&s, 16, NULL), 0);
    tl__span_begin(s, "step", TL_BUCKET_LOG);
    tl__span_begin(s, "linear", TL_BUCKET_MATMUL);
    tl__span_end(s, 1, 1, 1, 1, 1);
    tl__span_begin(s, "next batch", TL_BUCKET_DATA);
    sleep_ms(50);
    tl__span_end(s, 0, 0, 0, 0, 0);
    tl__span_end(s, 0, 0, 0, 0, 0);
    tl_step_metrics m = {.step = 1, .loss = 1, .validation_loss = NAN, .totals = tl__spans_take(s)};
    tl__spans_close(s);

    json_t *o = parse_line(&m), *seconds = json_object_get(o, "seconds");
    assert_true(real(seconds, "data") >= 0.0499995); /* six digits are printed */
    double sum = 0, wall = real(seconds, "wall");
    for (int b = 0; b < TL_BUCKETS; b++) {
        double x = real(seconds, tl__bucket_name(b));
        if (b != TL_BUCKET_DATA) assert_true(x <= wall - 0.0499);
        sum += x;
    }
    /* Each of the 13 buckets and the wall is rounded to six digits: under 5e-7 of its own size, and none exceeds the
     * wall. */
    assert_true(fabs(sum - wall) <= 14 * 5e-7 * wall);
    assert_int_equal(json_object_size(seconds), TL_BUCKETS + 1);
    char text[512];
    tl__ledger_bottleneck(text, sizeof text, &m.totals, NULL, NULL);
    assert_non_null(strstr(text, "waiting for data"));
    json_decref(o);
}

static void a_line_gives_back_its_numbers(void **state) {
    (void)state;
    const double values[] = {0, 1, -1, 0.1, 1.0 / 3, 2.302585092994046, 1e-300, DBL_MAX, 5e-324, 10.375431060791016};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        tl_step_metrics m = {.step = 12,
                             .loss = values[i],
                             .validation_loss = values[i],
                             .grad_norm = values[i],
                             .learning_rate = values[i],
                             .tokens = 4096,
                             .tokens_total = INT64_MAX,
                             .mfu = NAN,
                             .tokens_per_second = 1234.5,
                             .rss_anon_bytes = -1};
        json_t *o = parse_line(&m);
        assert_true(real(o, "loss") == values[i]);
        assert_true(real(o, "validation_loss") == values[i]);
        assert_true(real(o, "grad_norm") == values[i]);
        assert_true(real(o, "learning_rate") == values[i]);
        assert_true(json_integer_value(json_object_get(o, "tokens_total")) == INT64_MAX);
        assert_true(json_is_null(json_object_get(o, "mfu")));
        assert_true(json_is_null(json_object_get(o, "rss_anon_bytes")));
        assert_true(json_is_false(json_object_get(o, "skipped")));
        json_decref(o);
    }
}

static void a_line_tells_of_bf16_where_there_is_some(void **state) {
    (void)state;
    tl_step_metrics m = {.step = 1, .loss = 1, .validation_loss = NAN, .totals = {.wall_seconds = 2, .seconds = {2}}};
    m.totals.flops[0] = 8;
    json_t *o = parse_line(&m);
    assert_null(json_object_get(o, "bf16_flops_per_second"));
    json_decref(o);
    m.totals.bf16_flops[0] = 6;
    o = parse_line(&m);
    assert_true(real(json_object_get(o, "flops_per_second"), "matmul") == 4);
    assert_true(real(json_object_get(o, "bf16_flops_per_second"), "matmul") == 3);
    json_decref(o);
}

static void a_line_tells_of_communication_between_ranks_alone(void **state) {
    (void)state;
    tl_step_metrics m = {.step = 1, .loss = 1, .validation_loss = NAN, .totals = {.wall_seconds = 2}};
    m.totals.seconds[TL_BUCKET_COMM] = 0.5;
    m.traffic = (tl_comm_traffic){.bytes = 3e9 + 1, .seconds = 1.5};
    for (m.ranks = 0; m.ranks < 2; m.ranks++) {
        json_t *o = parse_line(&m);
        assert_null(json_object_get(o, "comm"));
        json_decref(o);
    }
    m.ranks = 4;
    json_t *o = parse_line(&m), *comm = json_object_get(o, "comm");
    assert_int_equal(json_object_size(comm), 5);
    assert_int_equal(json_integer_value(json_object_get(comm, "ranks")), 4);
    assert_true(real(comm, "exposed_seconds") == 0.5);
    assert_true(real(comm, "hidden_seconds") == 1);
    assert_true(real(comm, "bytes") == 3e9 + 1); /* every digit */
    assert_true(real(comm, "gb_per_second") == 2);
    json_decref(o);
    m.traffic.seconds = 0.25; /* waited for a rank that had not come: nothing was hidden */
    o = parse_line(&m), comm = json_object_get(o, "comm");
    assert_true(real(comm, "hidden_seconds") == 0);
    json_decref(o);
    m.traffic = (tl_comm_traffic){0};
    o = parse_line(&m), comm = json_object_get(o, "comm");
    assert_true(json_is_null(json_object_get(comm, "gb_per_second")));
    json_decref(o);
}

static void no_number_breaks_the_line(void **state) {
    (void)state;
    const double bad[] = {NAN, INFINITY, -INFINITY, -DBL_MAX, -DBL_MIN / 3};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        tl_step_metrics m = {.step = INT64_MIN,
                             .loss = bad[i],
                             .validation_loss = bad[i],
                             .grad_norm = bad[i],
                             .learning_rate = bad[i],
                             .tokens = INT64_MIN,
                             .tokens_total = INT64_MIN,
                             .tokens_per_second = bad[i],
                             .mfu = bad[i],
                             .rss_anon_bytes = INT64_MAX,
                             .ranks = INT32_MAX,
                             .traffic = {bad[i], bad[i]}};
        m.totals.wall_seconds = bad[i];
        for (int b = 0; b < TL_BUCKETS; b++) {
            m.totals.seconds[b] = b & 1 ? bad[i] : DBL_MIN / 3;
            m.totals.flops[b] = b & 2 ? bad[i] : DBL_MAX; /* with the seconds above, rates overflow */
            m.totals.bytes[b] = DBL_MAX;
        }
        json_t *o = parse_line(&m);
        if (!isfinite(bad[i])) {
            assert_true(json_is_null(json_object_get(o, "loss")));
            assert_true(json_is_true(json_object_get(o, "skipped")));
            assert_null(json_object_get(o, "validation_loss"));
        }
        json_decref(o);
    }
    tl_step_metrics full = {.validation_loss = 1, .ranks = INT32_MAX, .traffic = {DBL_MAX, DBL_MIN}}; /* every key */
    for (int b = 0; b < TL_BUCKETS; b++)
        full.totals.seconds[b] = -DBL_MIN, full.totals.flops[b] = full.totals.bytes[b] = DBL_MAX,
        full.totals.bf16_flops[b] = DBL_MAX;
    json_decref(parse_line(&full));
}

/* A step of one second, of which `share` in bucket b at these rates. */
static void sentence(char out[512], tl_bucket b, double share, double flops_per_second, double bytes_per_second) {
    tl_machine machine = {.f32_flops = 400e9, .read_bytes_per_second = 40e9, .features = "avx2 avx512_bf16"};
    tl_totals t = {.wall_seconds = 1};
    t.seconds[b] = share;
    t.flops[b] = flops_per_second * share;
    t.bytes[b] = bytes_per_second * share;
    if (b != TL_BUCKET_OTHER) {
        t.seconds[TL_BUCKET_NORM] += (1 - share) * 0.9;
        t.seconds[TL_BUCKET_OTHER] += (1 - share) * 0.1;
    }
    tl__ledger_bottleneck(out, 512, &t, NULL, &machine);
}

static void has(const char *text, const char *part) {
    if (!strstr(text, part)) fail_msg("\"%s\" is not in: %s", part, text);
}

static void the_sentence_blames_what_it_should(void **state) {
    (void)state;
    char s[512];
    sentence(s, TL_BUCKET_MATMUL, 0.8, 352e9, 5e9);
    has(s, "80 % of the step is matrix products at 352 GFLOP/s, 88 % of the measured f32 peak: compute-bound");
    has(s, "more cores or bf16 would help, more memory bandwidth would not");
    assert_null(strstr(s, "Another")); /* 2 % unattributed is within the bar */
    sentence(s, TL_BUCKET_MATMUL, 0.8, 100e9, 5e9);
    has(s, "25 % of the measured f32 peak");
    has(s, "too small or ragged");
    sentence(s, TL_BUCKET_OPTIMIZER, 0.6, 8e9, 36e9);
    has(s, "60 % of the step is the optimizer at 36.0 GB/s, 90 % of the measured read bandwidth: memory-bound");
    has(s, "Another 4 % is in no span");
    sentence(s, TL_BUCKET_OPTIMIZER, 0.6, 8e9, 80e9);
    has(s, "stays in the caches");
    sentence(s, TL_BUCKET_NORM, 0.9, 1e9, 4e9);
    has(s, "near neither roof");
    sentence(s, TL_BUCKET_MATMUL, 0.9, 480e9, 5e9);
    has(s, "120 % of the measured f32 peak");
    for (int b = TL_BUCKET_COMM; b < TL_BUCKETS; b++) {
        sentence(s, b, 0.7, 0, 0);
        has(s, "70 % of the step is ");
    }
    /* bf16 is measured against its own peak, whatever f32 work is in the same bucket. */
    tl_machine machine = {
        .f32_flops = 400e9, .bf16_flops = 800e9, .read_bytes_per_second = 40e9, .features = "avx512_bf16"};
    tl_totals mixed = {.wall_seconds = 1, .seconds = {1}, .flops = {640e9}, .bf16_flops = {600e9}, .bytes = {1e9}};
    tl__ledger_bottleneck(s, sizeof s, &mixed, NULL, &machine);
    has(s, "640 GFLOP/s, 85 % of the measured bf16 peak: compute-bound; more cores would help");
    /* And products of bytes against theirs, which may not have been measured. */
    tl_totals bytes = {.wall_seconds = 1, .seconds = {1}, .flops = {1640e9}, .int8_flops = {1600e9}, .bytes = {1e9}};
    machine.int8_ops = 3200e9;
    tl__ledger_bottleneck(s, sizeof s, &bytes, NULL, &machine);
    has(s, "60 % of the measured int8 peak");
    assert_null(strstr(s, "or bf16"));
    machine.int8_ops = 0;
    tl__ledger_bottleneck(s, sizeof s, &bytes, NULL, &machine);
    has(s, "410 % of the measured");
    machine.bf16_flops = 0;
    tl__ledger_bottleneck(s, sizeof s, &mixed, NULL, &machine);
    has(s, "not measured");
    /* Communication is held against the link, where that was measured. */
    tl_totals waiting = {.wall_seconds = 1};
    waiting.seconds[TL_BUCKET_COMM] = 0.6, waiting.seconds[TL_BUCKET_MATMUL] = 0.4;
    tl_comm_traffic traffic = {.bytes = 80e6, .seconds = 0.8};
    tl__ledger_bottleneck(s, sizeof s, &waiting, &traffic, &machine);
    has(s, "60 % of the step is exposed communication at 100 MB/s: fewer ranks");
    machine.ranks = 4, machine.link_bytes_per_second = 125e6;
    tl__ledger_bottleneck(s, sizeof s, &waiting, &traffic, &machine);
    has(s, "at 100 MB/s, 80 % of the 125 MB/s measured of the link between 4 ranks: fewer ranks on a link, a larger "
           "--batch");
    has(s, "another --shard");
    traffic.bytes = 8e6;
    tl__ledger_bottleneck(s, sizeof s, &waiting, &traffic, &machine);
    has(s, "8 % of the 125 MB/s measured of the link between 4 ranks: ranks wait for the slowest");
    assert_null(strstr(s, "--shard"));
    tl_totals none = {0};
    tl__ledger_bottleneck(s, sizeof s, &none, NULL, NULL);
    has(s, "No step");
    tl_totals unmeasured = {.wall_seconds = 1, .seconds = {1}, .flops = {1e9}, .bytes = {1e6}};
    tl__ledger_bottleneck(s, sizeof s, &unmeasured, NULL, NULL);
    has(s, "not measured");
    char tiny[8];
    tl__ledger_bottleneck(tiny, sizeof tiny, &unmeasured, NULL, NULL); /* cut short, never overrun */
    assert_true(strlen(tiny) < sizeof tiny);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_planted_sleep_appears_under_its_span),
        cmocka_unit_test(a_line_gives_back_its_numbers),
        cmocka_unit_test(a_line_tells_of_bf16_where_there_is_some),
        cmocka_unit_test(a_line_tells_of_communication_between_ranks_alone),
        cmocka_unit_test(no_number_breaks_the_line),
        cmocka_unit_test(the_sentence_blames_what_it_should),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
