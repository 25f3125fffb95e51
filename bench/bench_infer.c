/* bench_infer.c — a model's speed in use: tokens a second of a prompt and of decoding, and where the time goes.
 *
 *   build/bench_infer MODEL [--threads N] [--prompt N] [--tokens N] [--trials N] [--bf16] [--spans]
 *
 * MODEL is what trilith generate takes. The ids are arbitrary and the same each time; each trial is a session begun
 * anew, and the median of the trials is printed. Last comes the first token's time as a user meets it: opening, loading,
 * a short prompt. tools/bench_llama.py measures llama.cpp the same way. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "infer/engine.h"
#include "infer/sampler.h"
#include "infer/session.h"

static int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_spans(tl_spans *spans, const char *what, int steps) {
    const tl_totals t = tl__spans_take(spans);
    printf("%s, ms a step:", what);
    for (int b = 0; b < TL_BUCKETS; b++)
        if (t.seconds[b] > 0) printf("  %s %.3f", tl__bucket_name((tl_bucket)b), t.seconds[b] * 1e3 / steps);
    printf("  (%.1f GB/s, %.1f GFLOP/s of products)\n", t.bytes[TL_BUCKET_MATMUL] / t.seconds[TL_BUCKET_MATMUL] / 1e9,
           t.flops[TL_BUCKET_MATMUL] / t.seconds[TL_BUCKET_MATMUL] / 1e9);
}

int main(int argc, char **argv) {
    const char *name = NULL;
    int prompt = 512, tokens = 128, trials = 5;
    bool with_spans = false;
    tl_engine_options o = {0};
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--threads") && i + 1 < argc) o.threads = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--prompt") && i + 1 < argc) prompt = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--tokens") && i + 1 < argc) tokens = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--trials") && i + 1 < argc) trials = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--bf16")) o.dtype = TL_DTYPE_BF16;
        else if (!strcmp(argv[i], "--spans")) with_spans = true;
        else name = argv[i];
    }
    enum { MOST = 64 };
    if (!name || prompt < 1 || tokens < 1 || trials < 1 || trials > MOST) {
        fprintf(stderr, "bench_infer: name a model; prompt and tokens from 1 on, 1 to %d trials\n", MOST);
        return 2;
    }
    tl_error err = {0};
    tl_engine e;
    tl_session *session = NULL;
    const int64_t start = tl__now_ns();
    int status = tl__engine_open(&e, name, false, &err);
    o.positions = prompt + tokens;
    if (!status) status = tl__engine_load(&e, &o, &err);
    if (!status) status = tl__session_open(&session, &e.model, &e.ctx, prompt + tokens, 0, &err);
    float *logits = status ? NULL : malloc((size_t)e.arch.V * sizeof *logits);
    int32_t *ids = status ? NULL : malloc((size_t)prompt * sizeof *ids), id = 0;
    if (!status && (!logits || !ids)) status = tl__fail(&err, TL_ENOMEM, "no memory for ids and logits");
    for (int i = 0; !status && i < prompt; i++) ids[i] = (int32_t)((uint32_t)i * 7919u % (uint32_t)e.arch.V);
    const tl_sampling greedy = {0};
    if (!status) status = tl__session_append(session, ids, prompt < 5 ? prompt : 5, logits, &err);
    const double first = (double)(tl__now_ns() - start) * 1e-9;

    double prefill[MOST], decode[MOST];
    if (with_spans && !status) status = tl__spans_open(&e.ctx.spans, 1024, &err);
    tl_spans *spans = e.ctx.spans;
    for (int t = 0; t < trials && !status; t++) {
        tl__session_rewind(session, 0);
        const int64_t t0 = tl__now_ns();
        status = tl__session_append(session, ids, prompt, logits, &err);
        const int64_t t1 = tl__now_ns();
        if (spans && t == trials - 1) print_spans(spans, "prefill", 1);
        else if (spans) tl__spans_take(spans);
        const int64_t t2 = tl__now_ns();
        for (int n = 0; n < tokens && !status; n++) {
            float logp;
            id = tl__sample(&e.ctx, &greedy, logits, e.arch.V, tl__session_length(session), e.scratch, &logp);
            if (n + 1 < tokens) status = tl__session_append(session, &id, 1, logits, &err);
        }
        const int64_t t3 = tl__now_ns();
        if (spans && t == trials - 1) print_spans(spans, "decode", tokens);
        else if (spans) tl__spans_take(spans);
        prefill[t] = prompt / ((double)(t1 - t0) * 1e-9);
        decode[t] = (tokens - 1) / ((double)(t3 - t2) * 1e-9);
    }
    if (!status) {
        qsort(prefill, (size_t)trials, sizeof *prefill, by_size);
        qsort(decode, (size_t)trials, sizeof *decode, by_size);
        printf("%s %s: prefill of %d %.0f (%.0f to %.0f), decode of %d %.1f (%.1f to %.1f) tokens/s, first token %.3f s\n",
               name, e.ctx.ops->isa, prompt, prefill[trials / 2], prefill[0], prefill[trials - 1], tokens,
               decode[trials / 2], decode[0], decode[trials - 1], first);
    } else {
        fprintf(stderr, "bench_infer: %s\n", err.text);
    }
    free(logits), free(ids);
    tl__session_close(session);
    e.ctx.spans = NULL;
    tl__spans_close(spans);
    tl__engine_close(&e);
    return status ? 2 : 0;
}
