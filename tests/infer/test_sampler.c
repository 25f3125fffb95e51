/* test_sampler.c — the sampler against a plain one that sorts everything, its order, its cuts and its distribution. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "base/elementary.h"
#include "base/rng.h"
#include "infer/sampler.h"

enum { MAX_V = 2000 };

static tl_ctx ctx;
static int32_t scratch[4 * MAX_V];

/* temperature, top-k, top-p, min-p, seed */
#define SETTINGS(t, k, p, m, n)                                                                                        \
    { .temperature = t, .top_k = k, .top_p = p, .min_p = m, .seed = n }

static int open_context(void **state) {
    return tl__ctx_open(&ctx, 1, "ref", NULL);
}

static int close_context(void **state) {
    tl__ctx_close(&ctx);
    return 0;
}

static int32_t sample(const tl_sampling *s, const float *logits, int V, int64_t position) {
    assert_true(tl__sampler_bytes(V) <= sizeof scratch);
    return tl__sample(&ctx, s, NULL, logits, V, position, scratch, NULL);
}

/* Standard normal logits times `spread`, rounded to multiples of 1/steps: few steps make many ties. */
static void fill_logits(float *z, int V, float spread, float steps, uint64_t seed) {
    tl__normal_fill(z, (size_t)V, 0, spread, seed, 0, 0);
    for (int i = 0; i < V && steps > 0; i++) z[i] = floorf(z[i] * steps) / steps;
}

/* ---- the plain one: every probability, one full sort, each cut in its own pass ---- */

typedef struct candidate {
    int32_t id;
    float p, far;
} candidate;

static int by_distance(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    if (x->far != y->far) return x->far < y->far ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static int by_order(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    if (x->p != y->p) return x->p > y->p ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static double sum_of(const candidate *c, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += (double)c[i].p;
    return sum;
}

static int plain_candidates(candidate *c, double *total, const tl_sampling *s, const float *z, int V) {
    float max = z[0];
    for (int i = 1; i < V; i++) max = z[i] > max ? z[i] : max;
    for (int i = 0; i < V; i++) c[i] = (candidate){.id = i, .p = tl__exp((z[i] - max) / s->temperature)};
    *total = sum_of(c, V);
    qsort(c, (size_t)V, sizeof *c, by_order);
    int n = V;
    if (s->top_k > 0 && s->top_k < n) n = s->top_k, *total = sum_of(c, n);
    if (s->top_p < 1) {
        int kept = 0;
        double sum = 0;
        while (kept < n && sum < (double)s->top_p * *total) sum += (double)c[kept++].p;
        n = kept, *total = sum;
    }
    if (s->min_p > 0) {
        while (n > 1 && c[n - 1].p < s->min_p * c[0].p) n--;
        *total = sum_of(c, n);
    }
    if (s->typical_p > 0 && s->typical_p < 1) {
        double sum = sum_of(c, n), mean = 0;
        for (int i = 0; i < n; i++) mean += c[i].p > 0 ? (double)c[i].p * (double)tl__log(c[i].p) : 0;
        mean /= sum;
        while (n > 0 && c[n - 1].p == 0) n--;
        for (int i = 0; i < n; i++) c[i].far = (float)fabs((double)tl__log(c[i].p) - mean);
        qsort(c, (size_t)n, sizeof *c, by_distance);
        int kept = 0;
        for (*total = 0; kept < n && *total < (double)s->typical_p * sum; kept++) *total += (double)c[kept].p;
        n = kept;
        qsort(c, (size_t)n, sizeof *c, by_order);
    }
    return n;
}

static int32_t plain(const tl_sampling *s, const float *z, int V, int64_t position) {
    static candidate c[MAX_V];
    double total;
    int n = plain_candidates(c, &total, s, z, V);
    double mark = (double)tl__uniform_f32(s->seed, TL_RNG_SAMPLE, 0, (uint64_t)position) * total, sum = 0;
    for (int i = 0; i < n; i++)
        if ((sum += (double)c[i].p) > mark) return c[i].id;
    return c[n - 1].id;
}

static void equals_the_plain_one(void **state) {
    static const int Vs[] = {1, 2, 3, 17, 257, MAX_V};
    static const float temperatures[] = {0.05f, 0.7f, 1.0f, 3.0f}, top_ps[] = {1.0f, 0.9f, 0.3f, 1e-6f},
                       min_ps[] = {0.0f, 0.05f, 1.0f}, typical_ps[] = {0.0f, 0.9f, 0.2f};
    static const int top_ks[] = {0, 1, 5, 300};
    static float z[MAX_V];
    int64_t position = 0;
    for (size_t v = 0; v < sizeof Vs / sizeof *Vs; v++)
        for (int ties = 0; ties < 2; ties++) {
            fill_logits(z, Vs[v], 2.0f, ties ? 2.0f : 0.0f, 100 + v);
            for (int t = 0; t < 4; t++)
                for (int k = 0; k < 4; k++)
                    for (int p = 0; p < 4; p++)
                        for (int m = 0; m < 3; m++)
                            for (int again = 0; again < 3; again++) {
                                tl_sampling s = SETTINGS(temperatures[t], top_ks[k], top_ps[p], min_ps[m], 42);
                                s.typical_p = typical_ps[again];
                                position++;
                                assert_int_equal(sample(&s, z, Vs[v], position), plain(&s, z, Vs[v], position));
                            }
        }
}

/* Candidates are gathered in bands whose edges are powers of 2^−8 below 2: one that weighs an edge to the bit is in one
 * band, once. */
static void an_edge_of_a_band_belongs_to_one(void **state) {
    enum { V = 40 };
    float z[V], edge = -4.8520303f; /* −7·ln 2 */
    for (int i = 0; tl__exp(edge) != 0x1p-7f; i++) {
        assert_in_range(i, 0, 20);
        edge = nextafterf(edge, tl__exp(edge) < 0x1p-7f ? 0 : -9);
    }
    for (int i = 0; i < V; i++) z[i] = i == 31 ? 0 : i % 3 ? edge : edge - (float)i;
    for (int64_t position = 0; position < 3000; position++) {
        const tl_sampling s = SETTINGS(1, position % 2 ? 30 : 0, 1, 0, 12);
        assert_int_equal(sample(&s, z, V, position), plain(&s, z, V, position));
    }
}

/* ---- bias and penalties: the definition, id by id ---- */

static void plain_steer(float *z, int V, const tl_sampling *s, const tl_steering *t) {
    for (int i = 0; i < t->n_bias; i++) z[t->bias[i].id] += t->bias[i].bias;
    for (int id = 0; id < V; id++) {
        int asked = 0, made = 0;
        for (int i = 0; i < t->n_prompt; i++) asked += t->prompt[i] == id;
        for (int i = 0; i < t->n_made; i++) made += t->made[i] == id;
        const float r = s->repetition_penalty;
        if (r != 0 && asked + made) z[id] = z[id] > 0 ? z[id] / r : z[id] * r;
        if (made) z[id] -= s->presence_penalty + (float)made * s->frequency_penalty;
    }
}

static void penalties_are_those_of_each_id(void **state) {
    enum { V = 300, IDS = 90 };
    static float z[V], before[V], steered[V];
    int32_t ids[IDS], changed = 0;
    for (uint64_t trial = 0; trial < 600; trial++) {
        fill_logits(z, V, 1.5f, trial % 2 ? 4.0f : 0.0f, 900 + trial);
        memcpy(before, z, sizeof z);
        for (int i = 0; i < IDS; i++) ids[i] = (int32_t)(tl__uniform_f32(trial, 5, 0, (uint64_t)i) * 40);
        const tl_logit_bias bias[] = {{ids[0], -INFINITY}, {7, 2.5f}, {(int32_t)trial % V, -1}, {7, 0.25f}};
        const tl_steering t = {bias, trial % 3 ? 0 : 4, (int)trial % 60, (int)trial % 30, ids, ids + trial % 60};
        tl_sampling s = {.temperature = trial % 4 ? 0.8f : 0,
                         .repetition_penalty = (float[]){0, 1, 1.3f, 0.7f}[trial / 2 % 4],
                         .presence_penalty = (float[]){0, 1.5f, -0.5f}[trial % 3],
                         .frequency_penalty = (float[]){0, 0.3f, -0.2f, 2}[trial / 3 % 4],
                         .seed = trial};
        memcpy(steered, z, sizeof z);
        plain_steer(steered, V, &s, &t);
        float logp, own;
        const int32_t got = tl__sample(&ctx, &s, &t, z, V, 5, scratch, &logp);
        assert_int_equal(got, tl__sample(&ctx, &s, NULL, steered, V, 5, scratch, NULL));
        changed += got != tl__sample(&ctx, &s, NULL, z, V, 5, scratch, NULL);
        /* What is told of it is the model's own. */
        assert_memory_equal(z, before, sizeof z);
        tl__softmax_loss(&ctx, &own, NULL, z, &got, &(tl_loss_form){0}, 1, V);
        assert_memory_equal(&logp, &own, sizeof own);
    }
    assert_in_range(changed, 60, 540); /* they do something, and not always */
}

/* ---- the likeliest, beside the one that is chosen ---- */

static void alternatives_have_the_bits_of_the_chosen(void **state) {
    static float z[MAX_V];
    static const int Vs[] = {1, 5, 20, 1023, 1025, MAX_V};
    for (size_t v = 0; v < sizeof Vs / sizeof *Vs; v++)
        for (int ties = 0; ties < 2; ties++) {
            const int V = Vs[v];
            fill_logits(z, V, 3.0f, ties ? 2.0f : 0, 60 + v);
            if (V > 100) z[17] = NAN, z[V - 1] = -INFINITY;
            if (V == MAX_V) z[17] = -1; /* one without */
            const float log_z = tl__log_z(&ctx, z, V);
            tl_candidate top[TL_MOST_ALTERNATIVES];
            const int n = tl__top_logprobs(top, TL_MOST_ALTERNATIVES, z, V, log_z);
            assert_int_equal(n, V < 20 ? V : 20);
            assert_int_equal(top[0].id, sample(&(tl_sampling){0}, z, V, 0));
            int better = 0;
            for (int i = 0; i < V; i++)
                better += z[i] > z[top[n - 1].id] || (z[i] == z[top[n - 1].id] && i < top[n - 1].id);
            assert_int_equal(better, n - 1); /* none is left out */
            for (int i = 0; i < n; i++) {
                if (i)
                    assert_true(z[top[i - 1].id] > z[top[i].id] ||
                                (z[top[i - 1].id] == z[top[i].id] && top[i - 1].id < top[i].id));
                float chosen; /* as it is told of a token that a request chose */
                tl__softmax_loss(&ctx, &chosen, NULL, z, &top[i].id, &(tl_loss_form){0}, 1, V);
                assert_memory_equal(&chosen, &top[i].logp, sizeof chosen);
            }
            assert_int_equal(tl__top_logprobs(top, 0, z, V, log_z), 0);
        }
    const float none[] = {NAN, 1, NAN, 0};
    tl_candidate top[4];
    assert_int_equal(tl__top_logprobs(top, 4, none, 4, 0), 2);
    assert_int_equal(top[0].id, 1);
}

/* ---- what transformers keeps (tests/vectors/sampler.txt, by tools/make_sampler_vectors.py) ---- */

/* Each case: settings; ids of the prompt and the answer; logits; which ids are left. All that are left come within
 * DRAWS draws: the tool lets none in that is left with less than 1 in 200, so that one stays away with e^−20. */
static void cuts_keep_what_transformers_keeps(void **state) {
    enum { V = 24, MOST = 16, DRAWS = 4000 };
    FILE *f = fopen(TL_SOURCE_DIR "/tests/vectors/sampler.txt", "r");
    assert_non_null(f);
    int cases = 0, n_prompt, n_made;
    tl_sampling s = {.seed = 8};
    while (fscanf(f, "%f %d %f %f %f %f %f %f %d %d", &s.temperature, &s.top_k, &s.top_p, &s.min_p, &s.typical_p,
                  &s.repetition_penalty, &s.presence_penalty, &s.frequency_penalty, &n_prompt, &n_made) == 10) {
        int32_t ids[2 * MOST];
        float z[V];
        bool left[V], seen[V] = {0};
        assert_true(n_prompt <= MOST && n_made <= MOST);
        for (int i = 0; i < n_prompt + n_made; i++) assert_int_equal(fscanf(f, "%d", &ids[i]), 1);
        for (int i = 0; i < V; i++) assert_int_equal(fscanf(f, "%f", &z[i]), 1);
        for (int i = 0, bit; i < V; i++) assert_int_equal(fscanf(f, "%d", &bit), 1), left[i] = bit;
        const tl_steering t = {NULL, 0, n_prompt, n_made, ids, ids + n_prompt};
        for (int64_t position = 0; position < DRAWS; position++)
            seen[tl__sample(&ctx, &s, &t, z, V, position, scratch, NULL)] = true;
        for (int i = 0; i < V; i++)
            if (seen[i] != left[i]) fail_msg("case %d: id %d %s", cases, i, left[i] ? "is dropped" : "is kept");
        cases++;
    }
    assert_true(feof(f));
    fclose(f);
    assert_int_equal(cases, 160);
}

/* ---- promises, one by one ---- */

static void greedy_takes_the_smallest_id_of_the_largest(void **state) {
    float z[] = {0.5f, 2.0f, -1.0f, 2.0f, 2.0f};
    tl_sampling s = {.temperature = 0, .top_p = 1};
    for (int64_t position = 0; position < 20; position++) assert_int_equal(sample(&s, z, 5, position), 1);
    /* A low temperature comes to the same, when nothing ties. */
    z[1] = 2.1f;
    s.temperature = 1e-6f;
    for (int64_t position = 0; position < 20; position++) assert_int_equal(sample(&s, z, 5, position), 1);
}

static void depends_on_seed_and_position_alone(void **state) {
    static float z[500], before[500];
    fill_logits(z, 500, 1.0f, 0, 7);
    memcpy(before, z, sizeof z);
    tl_sampling s = {.temperature = 1, .top_p = 1, .seed = 1}, other = s;
    other.seed = 2;
    int32_t first[64], differ_by_seed = 0, differ_by_position = 0;
    for (int i = 0; i < 64; i++) first[i] = sample(&s, z, 500, i);
    for (int i = 63; i >= 0; i--) { /* in another order, with other draws between */
        differ_by_seed += sample(&other, z, 500, i) != first[i];
        assert_int_equal(sample(&s, z, 500, i), first[i]);
        differ_by_position += i > 0 && first[i] != first[0];
    }
    assert_true(differ_by_seed > 32 && differ_by_position > 32);
    assert_memory_equal(z, before, sizeof z);
}

static void cuts_keep_what_they_say(void **state) {
    /* p = 0.4 0.3 0.2 0.1 at ids 3 1 0 2 */
    float z[] = {logf(0.2f), logf(0.3f), logf(0.1f), logf(0.4f)};
    static const struct {
        tl_sampling s;
        int mask; /* bit i: id i may come, and does within 500 draws */
    } cases[] = {
        {SETTINGS(1, 0, 1, 0, 5), 0xF},        {SETTINGS(1, 1, 1, 0, 5), 0x8},    {SETTINGS(1, 2, 1, 0, 5), 0xA},
        {SETTINGS(1, 4, 1, 0, 5), 0xF},        {SETTINGS(1, 9, 1, 0, 5), 0xF},    {SETTINGS(1, 0, 0.39f, 0, 5), 0x8},
        {SETTINGS(1, 0, 0.5f, 0, 5), 0xA},     {SETTINGS(1, 0, 0.8f, 0, 5), 0xB}, {SETTINGS(1, 0, 1, 0.6f, 5), 0xA},
        {SETTINGS(1, 0, 1, 1, 5), 0x8},        {SETTINGS(1, 3, 0.7f, 0, 5), 0xA}, /* 0.4 + 0.3 is 0.78 of 0.9 */
        {SETTINGS(1, 0, 0.95f, 0.4f, 5), 0xB},
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        int seen = 0;
        for (int64_t position = 0; position < 500; position++) seen |= 1 << sample(&cases[c].s, z, 4, position);
        assert_int_equal(seen, cases[c].mask);
    }
}

/* χ² of N draws against softmax(z/T). With 19 degrees of freedom its mean is 19 and its deviation √38 = 6.2; the draws
 * are a function of the seed, so the bound at six deviations never fails by chance from run to run. That the test has
 * teeth: draws at a temperature 5 % off go over the same bound. */
static double chi_square(float drawn_at, float expected_at) {
    enum { V = 20, N = 200000 };
    float z[V];
    fill_logits(z, V, 1.0f, 0, 11);
    static int64_t count[V];
    memset(count, 0, sizeof count);
    tl_sampling s = {.temperature = drawn_at, .top_p = 1, .seed = 99};
    for (int64_t i = 0; i < N; i++) count[sample(&s, z, V, i)]++;
    double p[V], total = 0, chi = 0;
    for (int i = 0; i < V; i++) total += p[i] = exp((double)z[i] / (double)expected_at);
    for (int i = 0; i < V; i++) {
        double expected = N * p[i] / total, d = (double)count[i] - expected;
        chi += d * d / expected;
    }
    return chi;
}

static void draws_follow_the_distribution(void **state) {
    const double bound = 19 + 6 * 6.2;
    assert_true(chi_square(1.0f, 1.0f) < bound);
    assert_true(chi_square(0.7f, 0.7f) < bound);
    assert_true(chi_square(1.05f, 1.0f) > bound);
}

/* |Δ| ≤ 4 ulp of the largest term: one exp and one log of a few ulp and a sum of 50 terms in 16 lanes. */
static void logp_is_the_models_own(void **state) {
    float z[50], logp;
    fill_logits(z, 50, 3.0f, 0, 21);
    double sum = 0;
    for (int i = 0; i < 50; i++) sum += exp((double)z[i]);
    for (int64_t position = 0; position < 100; position++) {
        tl_sampling s = {.temperature = 2.5f, .top_k = 10, .top_p = 0.9f, .seed = 3}; /* cuts do not show in it */
        int32_t pick = tl__sample(&ctx, &s, NULL, z, 50, position, scratch, &logp);
        double exact = (double)z[pick] - log(sum);
        assert_true(fabs((double)logp - exact) <= 4 * 0x1p-23 * fmax(fabs(exact), log(sum)) + 0x1p-22);
    }
}

static void hostile_logits_still_give_an_id(void **state) {
    float rows[][4] = {
        {NAN, NAN, NAN, NAN},         {-INFINITY, -INFINITY, -INFINITY, -INFINITY}, {NAN, 1, 0, NAN},
        {INFINITY, 0, INFINITY, NAN}, {0, -INFINITY, -INFINITY, -INFINITY},         {3e38f, -3e38f, 0, 1}};
    static const int allowed[] = {0xF, 0xF, 0x6, 0x5, 0x1, 0x1};
    for (int r = 0; r < 6; r++)
        for (int greedy = 0; greedy < 2; greedy++)
            for (int64_t position = 0; position < 50; position++) {
                tl_sampling s = {.temperature = greedy ? 0 : 1,
                                 .top_k = (int)position % 3,
                                 .top_p = position % 2 ? 0.5f : 1.0f,
                                 .seed = 1};
                int32_t id = sample(&s, rows[r], 4, position);
                assert_in_range(id, 0, 3);
                assert_true(allowed[r] >> id & 1);
            }
}

static void settings_out_of_range_are_named(void **state) {
    static const struct {
        tl_sampling s;
        const char *word;
    } bad[] = {{SETTINGS(-1, 0, 1, 0, 0), "temperature"},  {SETTINGS(NAN, 0, 1, 0, 0), "temperature"},
               {SETTINGS(1, -1, 1, 0, 0), "top-k"},        {SETTINGS(1, 0, -0.1f, 0, 0), "top-p"},
               {SETTINGS(1, 0, 1.5f, 0, 0), "top-p"},      {SETTINGS(1, 0, NAN, 0, 0), "top-p"},
               {SETTINGS(1, 0, 1, -0.1f, 0), "min-p"},     {SETTINGS(1, 0, 1, 2, 0), "min-p"},
               {{.typical_p = 1.5f}, "typical-p"},         {{.typical_p = NAN}, "typical-p"},
               {{.repetition_penalty = -1}, "repetition"}, {{.repetition_penalty = INFINITY}, "repetition"},
               {{.presence_penalty = 2.1f}, "presence"},   {{.frequency_penalty = NAN}, "frequency"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        tl_error err = {0};
        assert_int_equal(tl__sampling_check(&bad[i].s, &err), TL_EINVALID);
        assert_non_null(strstr(err.text, bad[i].word));
    }
    tl_sampling good = SETTINGS(0.8f, 40, 0.95f, 0.05f, 1);
    assert_int_equal(tl__sampling_check(&good, NULL), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_the_plain_one),
        cmocka_unit_test(an_edge_of_a_band_belongs_to_one),
        cmocka_unit_test(penalties_are_those_of_each_id),
        cmocka_unit_test(alternatives_have_the_bits_of_the_chosen),
        cmocka_unit_test(cuts_keep_what_transformers_keeps),
        cmocka_unit_test(greedy_takes_the_smallest_id_of_the_largest),
        cmocka_unit_test(depends_on_seed_and_position_alone),
        cmocka_unit_test(cuts_keep_what_they_say),
        cmocka_unit_test(draws_follow_the_distribution),
        cmocka_unit_test(logp_is_the_models_own),
        cmocka_unit_test(hostile_logits_still_give_an_id),
        cmocka_unit_test(settings_out_of_range_are_named),
    };
    return cmocka_run_group_tests(tests, open_context, close_context);
}
