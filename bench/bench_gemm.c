/* bench_gemm.c — the product's speed on the shapes of training and decoding, beside the peak of its type measured in
 * turn with it.
 *
 *   build/bench_gemm [--threads N] [--isa NAME] [--bf16] [--seconds S] [--cpu-time] [filter]
 *
 * For each shape: trials of product and peak in turn, best of each, and the ratio of bests. Few-row shapes also print
 * the bytes of W read a second beside the rate of a plain read of the same memory. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "base/arena.h"
#include "base/clock.h"
#include "kernels/ops.h"
#include "kernels/peak.h"

static int cpu_time_threads; /* 0: wall */
static int64_t time_ns(void) {
    if (!cpu_time_threads) return tl__now_ns();
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (t.tv_sec * 1000000000ll + t.tv_nsec) / cpu_time_threads;
}

typedef struct peak_job {
    const tl_peak *peak;
    bool bf16;
    int64_t rounds;
    const float *memory; /* NULL: FMAs, else a read of it */
    size_t piece_bytes;
    double flops[64];
} peak_job;
static void peak_task(void *user, int64_t i, int worker) {
    peak_job *p = user;
    float sink;
    uint64_t bits;
    (void)worker;
    if (p->memory) p->peak->read((const char *)p->memory + (size_t)i * p->piece_bytes, p->piece_bytes, &bits);
    else if (p->bf16 && p->peak->dot) p->flops[i] = p->peak->dot(p->rounds, &sink);
    else p->flops[i] = p->peak->fma(p->rounds, &sink);
}
/* GFLOP/s of FMAs or dots in registers on all threads, for about half a millisecond. */
static double peak_once(tl_pool *pool, const tl_peak *peak, bool bf16) {
    peak_job p = {.peak = peak, .bf16 = bf16, .rounds = 30000};
    const int threads = tl__pool_threads(pool) < 64 ? tl__pool_threads(pool) : 64;
    const int64_t t = time_ns();
    tl__parallel_for(pool, threads, peak_task, &p);
    const double ns = (double)(time_ns() - t);
    double flops = 0;
    for (int i = 0; i < threads; i++) flops += p.flops[i];
    /* Some CPUs are slower by the instruction than by multiply-adds. */
    const double other = bf16 ? peak_once(pool, peak, false) : 0;
    return flops / ns > other ? flops / ns : other;
}
/* GB/s of reading W once, in pieces. */
static double read_once(tl_pool *pool, const tl_peak *peak, const float *W, size_t bytes) {
    enum { PIECES = 32 };
    peak_job p = {.peak = peak, .memory = W, .piece_bytes = bytes / PIECES / 1024 * 1024};
    const int64_t t = time_ns();
    tl__parallel_for(pool, PIECES, peak_task, &p);
    return (double)p.piece_bytes * PIECES / (double)(time_ns() - t);
}

typedef enum kind { FORWARD, FORWARD_IN_OUT, DX, DW } kind;
static const char *const kind_names[] = {"forward", "conv1d", "dx", "dw"};
static const struct shape {
    kind kind;
    int R, N, K;
} shapes[] = {
    /* rows, outputs, inputs of the layer */
    {FORWARD, 256, 768, 768},
    {FORWARD, 1024, 768, 768},
    {FORWARD, 1024, 2304, 768},
    {FORWARD, 1024, 3072, 768},
    {FORWARD, 1024, 768, 3072},
    {FORWARD, 2048, 384, 384},
    {FORWARD, 2048, 1152, 384},
    {FORWARD, 2048, 1536, 384},
    {FORWARD, 2048, 384, 1536},
    {FORWARD, 256, 50257, 768},
    {FORWARD_IN_OUT, 256, 2304, 768},
    {FORWARD_IN_OUT, 1024, 768, 3072},
    {FORWARD_IN_OUT, 1024, 3072, 768},
    {DX, 1024, 3072, 768},
    {DX, 1024, 768, 3072},
    {DX, 256, 768, 3072},
    {DX, 2048, 1536, 384},
    {DX, 256, 50257, 768},
    {DW, 1024, 3072, 768},
    {DW, 1024, 768, 3072},
    {DW, 256, 768, 768},
    {DW, 2048, 1152, 384},
    {DW, 2048, 384, 384},
    {DW, 256, 50257, 768},
    {FORWARD, 1024, 1024, 1024},
    {FORWARD, 4096, 2048, 2048},
    {FORWARD, 1, 3072, 768},
    {FORWARD, 1, 50257, 768},
    {FORWARD, 2, 50257, 768},
    {FORWARD, 4, 50257, 768},
    {FORWARD, 8, 50257, 768},
    {FORWARD, 16, 50257, 768},
    {FORWARD, 1, 768, 50257},
    {FORWARD_IN_OUT, 1, 50257, 768},
    {FORWARD_IN_OUT, 1, 3072, 768},
    {FORWARD_IN_OUT, 8, 3072, 768},
};

int main(int argc, char **argv) {
    int threads = 0;
    double seconds = 0.3;
    bool bf16 = false;
    const char *isa = NULL, *filter = NULL;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--threads") && i + 1 < argc) threads = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--isa") && i + 1 < argc) isa = argv[++i];
        else if (!strcmp(argv[i], "--seconds") && i + 1 < argc) seconds = atof(argv[++i]);
        else if (!strcmp(argv[i], "--bf16")) bf16 = true;
        else if (!strcmp(argv[i], "--cpu-time")) cpu_time_threads = 1;
        else filter = argv[i];
    }
    tl_error err = {0};
    tl_ctx ctx = {0};
    tl_arena arena;
    const size_t floats = (size_t)50304 * 768 * 3 + (4u << 20);
    if (tl__ops_select(&ctx.ops, isa, &err) || tl__pool_open(&ctx.pool, threads, &err) ||
        tl__arena_open(&arena, floats * 4 + tl__ops_workspace_bytes(64) + 4096, &err)) {
        fprintf(stderr, "bench_gemm: %s\n", err.text);
        return 2;
    }
    tl_ops ops = *ctx.ops;
    ctx.ops = &ops;
    threads = tl__pool_threads(ctx.pool);
    if (cpu_time_threads) cpu_time_threads = threads;
    ctx.workspace_bytes = tl__ops_workspace_bytes(threads);
    ctx.workspace = tl__arena_take(&arena, ctx.workspace_bytes, 1);
    float *memory = TL_TAKE(&arena, float, floats);
    for (size_t i = 0; i < floats; i++) memory[i] = (float)(int)((i * 2654435761u >> 20) % 2048 - 1024) / 1024.f;
    if (bf16) ops.gemm = ops.gemm_bf16;
    const tl_peak *loops = tl__peak_select(ctx.ops->isa);
    printf("%s, %s, %d threads, %s; best of trials in turn with the peak\n", bf16 ? "bf16" : "f32", ctx.ops->isa,
           threads, cpu_time_threads ? "CPU time" : "wall");
    printf("%-8s %6s %6s %6s %10s %8s %8s %7s\n", "product", "rows", "out", "in", "ms", "GFLOP/s", "peak", "ratio");
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const struct shape *s = &shapes[i];
        const int R = s->R, N = s->N, K = s->K;
        char name[96];
        snprintf(name, sizeof name, "%s-%d-%d-%d", kind_names[s->kind], R, N, K);
        if (filter && !strstr(name, filter)) continue;
        float *W = memory, *x = W + (size_t)N * K, *y = x + (size_t)R * K + 64;
        const double flops = 2.0 * R * N * K;
        double best = 1e30, peak = 0, read = 0;
        const int64_t start = tl__now_ns();
        for (int trial = 0; trial < 3 || (double)(tl__now_ns() - start) < seconds * 1e9; trial++) {
            const double p = peak_once(ctx.pool, loops, bf16);
            if (p > peak) peak = p;
            if (R <= 16) {
                const double rate = read_once(ctx.pool, loops, W, sizeof(float) * N * K);
                if (rate > read) read = rate;
            }
            const int64_t t = time_ns();
            switch (s->kind) {
            case FORWARD:
                ctx.ops->gemm(&ctx, y, N, R, N, K, x, K, 1, W, 1, K, NULL, false);
                break;
            case FORWARD_IN_OUT:
                ctx.ops->gemm(&ctx, y, N, R, N, K, x, K, 1, W, N, 1, NULL, false);
                break;
            case DX:
                ctx.ops->gemm(&ctx, x, K, R, K, N, y, N, 1, W, K, 1, NULL, false);
                break;
            case DW:
                ctx.ops->gemm(&ctx, W, K, N, K, R, y, 1, N, x, K, 1, NULL, true);
                break;
            }
            const double ns = (double)(time_ns() - t);
            if (ns < best) best = ns;
        }
        printf("%-8s %6d %6d %6d %10.3f %8.1f %8.1f %6.1f%%", kind_names[s->kind], R, N, K, best / 1e6, flops / best,
               peak, 100 * flops / best / peak);
        if (R <= 16) printf("  W at %.1f GB/s, plain read %.1f", 4.0 * N * K / best, read);
        printf("\n");
        fflush(stdout);
    }
    tl__pool_close(ctx.pool);
    tl__arena_close(&arena);
    return 0;
}
