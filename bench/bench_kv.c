/* bench_kv.c — what keeping keys and values in fewer bits costs a model: bytes a token, and the perplexity of a text.
 *
 *   build/bench_kv [--threads N] [--tokens N] [--window N] MODEL TEXT
 *
 * The first N tokens (4096) of the text are scored in windows (1024), as trilith score does, with keys and values in
 * each type. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "infer/engine.h"
#include "infer/session.h"

static const tl_type types[] = {TL_F32, TL_F16, TL_BF16, TL_Q8_0};
enum { TYPES = sizeof types / sizeof *types };

static int fail(const tl_error *err) {
    fprintf(stderr, "bench_kv: %s\n", err->text);
    return 2;
}

static char *read_all(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    enum { MOST = 64 << 20 };
    char *text = malloc(MOST);
    *n = f && text ? fread(text, 1, MOST, f) : 0;
    if (f) fclose(f);
    return text;
}

int main(int argc, char **argv) {
    tl_engine_options options = {0};
    int64_t tokens = 4096;
    int window = 1024;
    const char *given[2] = {NULL, NULL};
    for (int i = 1, n = 0; i < argc; i++) {
        if (!strcmp(argv[i], "--threads") && i + 1 < argc) options.threads = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--tokens") && i + 1 < argc) tokens = atoll(argv[++i]);
        else if (!strcmp(argv[i], "--window") && i + 1 < argc) window = atoi(argv[++i]);
        else if (n < 2) given[n++] = argv[i];
    }
    if (!given[1]) {
        fprintf(stderr, "bench_kv: name a model and a text\n");
        return 2;
    }
    tl_error err = {0};
    tl_engine e;
    int32_t *ids = NULL;
    size_t bytes;
    char *text = read_all(given[1], &bytes);
    if (tl__engine_open(&e, given[0], true, &err) || tl__engine_load(&e, &options, &err)) return fail(&err);
    const int64_t n = tl__engine_encode(&e, &ids, text, bytes, false, given[1], &err);
    if (n < 0) return fail(&err);
    if (tokens > n) tokens = n;
    float *logp[2];
    for (int i = 0; i < 2; i++) logp[i] = malloc((size_t)tokens * sizeof(float));
    printf("%s, %lld tokens in windows of %d\n", e.ctx.ops->isa, (long long)tokens, window);
    printf("%-5s %14s %12s %24s %22s\n", "K, V", "bytes a token", "perplexity", "mean log p − F32's", "largest");
    for (int t = 0; t < TYPES; t++) {
        tl_session *s;
        float *to = logp[t > 0];
        if (tl__session_open_narrow(&s, &e.model, &e.ctx, window, 0, types[t], &err) ||
            tl__session_score_whole(s, ids, tokens, to, NULL, &err))
            return fail(&err);
        tl__session_close(s);
        double sum = 0, gap = 0, most = 0;
        for (int64_t i = 0; i < tokens - 1; i++) {
            const double d = (double)to[i] - (double)logp[0][i];
            sum += (double)to[i], gap += d, most = fmax(most, fabs(d));
        }
        const double mean = sum / (double)(tokens - 1);
        printf("%-5s %14.0f %12.5f %24.2e %22.2e\n", tl__type_name(types[t]),
               2.0 * e.arch.L * e.arch.Hkv * (double)tl_kv_part_bytes(types[t], e.arch.D) / TL_KV_BLOCK, exp(-mean),
               gap / (double)(tokens - 1), most);
        fflush(stdout);
    }
    free(ids), free(text), free(logp[0]), free(logp[1]);
    tl__engine_close(&e);
    return 0;
}
