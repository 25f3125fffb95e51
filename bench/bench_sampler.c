/* bench_sampler.c — microseconds that a token costs after its logits are there: greedy, sampled, with cuts and
 * penalties, its log-probability, and the twenty likeliest. `bench_sampler [threads]`. */
#include <stdio.h>
#include <stdlib.h>
#include "base/clock.h"
#include "base/rng.h"
#include "infer/sampler.h"

enum { REPEATS = 9, SEEN = 2000 };

static float *logits, log_z;
static int32_t seen[SEEN];
static void *scratch;

typedef struct how {
    const char *name;
    tl_sampling sampling;
    int kind; /* 0: a draw, 1: log Z, 2: the likeliest */
} how;

static double once(tl_ctx *ctx, const how *h, int V, int n) {
    const tl_steering so_far = {.prompt = seen, .n_prompt = SEEN / 2, .made = seen + SEEN / 2, .n_made = SEEN / 2};
    tl_candidate top[TL_MOST_ALTERNATIVES];
    const int64_t begin = tl__now_ns();
    for (int i = 0; i < n; i++) {
        if (h->kind == 0) tl__sample(ctx, &h->sampling, &so_far, logits, V, i, scratch, NULL);
        if (h->kind == 1) log_z = tl__log_z(ctx, logits, V);
        if (h->kind == 2) tl__top_logprobs(top, TL_MOST_ALTERNATIVES, logits, V, log_z);
    }
    return (double)(tl__now_ns() - begin) * 1e-3 / n;
}

int main(int argc, char **argv) {
    static const how ways[] = {
        {"greedy", {.temperature = 0}, 0},
        {"sampled", {.temperature = 0.8f}, 0},
        {"top-p 0.95", {.temperature = 0.8f, .top_p = 0.95f}, 0},
        {"top-k 40, top-p 0.95, min-p 0.05", {.temperature = 0.8f, .top_k = 40, .top_p = 0.95f, .min_p = 0.05f}, 0},
        {"top-k 40, typical 0.9", {.temperature = 0.8f, .top_k = 40, .typical_p = 0.9f}, 0},
        {"typical 0.9", {.temperature = 0.8f, .typical_p = 0.9f}, 0},
        {"sampled, penalties over 2,000 ids",
         {.temperature = 0.8f, .repetition_penalty = 1.1f, .presence_penalty = 0.5f},
         0},
        {"log Z", {.temperature = 0}, 1},
        {"the 20 likeliest", {.temperature = 0}, 2},
    };
    static const int sizes[] = {49152, 262144};
    tl_ctx ctx;
    tl_error err = {0};
    if (tl__ctx_open(&ctx, argc > 1 ? atoi(argv[1]) : 1, NULL, &err)) return fprintf(stderr, "%s\n", err.text), 1;
    logits = malloc((size_t)sizes[1] * sizeof *logits), scratch = malloc(tl__sampler_bytes(sizes[1]));
    if (!logits || !scratch) return 1;
    printf("%-36s", "microseconds, best of 9");
    for (int v = 0; v < 2; v++) printf("%10d", sizes[v]);
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        printf("\n%-36s", ways[w].name);
        for (int v = 0; v < 2; v++) {
            tl__normal_fill(logits, (size_t)sizes[v], 0, 3, 1, 0, 0);
            for (int i = 0; i < SEEN; i++) seen[i] = (int32_t)(tl__uniform_f32(2, 0, 0, (uint64_t)i) * (float)sizes[v]);
            double best = 1e30;
            for (int i = 0; i < REPEATS; i++) {
                const double t = once(&ctx, &ways[w], sizes[v], 30);
                best = t < best ? t : best;
            }
            printf("%10.1f", best);
        }
    }
    putchar('\n');
    tl__ctx_close(&ctx);
    free(logits), free(scratch);
    return 0;
}
