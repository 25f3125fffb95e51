/* bench_stored.c — products with stored weights on the shapes of inference, beside the machine's peaks measured in turn
 * with them: operations a second of many rows against the byte peak, bytes of weights a second of few rows against a
 * plain read.
 *
 *   build/bench_stored [--threads N] [--isa NAME] [--seconds S] [--shape NAME] [--warm] [TYPE …]
 *
 * Weights are copied so often that a pass over the copies leaves the last cache behind; --warm uses one copy. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "base/clock.h"
#include "kernels/peak.h"
#include "kernels/stored.h"

typedef struct peak_job {
    const tl_peak *peak;
    int64_t rounds;
    const char *memory; /* NULL: products of bytes, else a read of it */
    size_t piece_bytes;
    double done[64];
} peak_job;
static void peak_task(void *user, int64_t i, int worker) {
    peak_job *p = user;
    float sink;
    uint64_t bits;
    (void)worker;
    if (p->memory) p->peak->read(p->memory + (size_t)i * p->piece_bytes, p->piece_bytes, &bits);
    else p->done[i] = (p->peak->int8 ? p->peak->int8 : p->peak->fma)(p->rounds, &sink);
}
static double peak_once(tl_pool *pool, const tl_peak *peak) {
    peak_job p = {.peak = peak, .rounds = 3000};
    const int threads = tl__pool_threads(pool) < 64 ? tl__pool_threads(pool) : 64;
    const int64_t t = tl__now_ns();
    tl__parallel_for(pool, threads, peak_task, &p);
    double done = 0;
    for (int i = 0; i < threads; i++) done += p.done[i];
    return done / (double)(tl__now_ns() - t);
}
static double read_once(tl_pool *pool, const tl_peak *peak, const void *from, size_t bytes) {
    enum { PIECES = 64 };
    peak_job p = {.peak = peak, .memory = from, .piece_bytes = bytes / PIECES / 1024 * 1024};
    const int64_t t = tl__now_ns();
    tl__parallel_for(pool, PIECES, peak_task, &p);
    return (double)p.piece_bytes * PIECES / (double)(tl__now_ns() - t);
}

/* Products that share x, as a layer has them. */
static const struct shape {
    const char *name;
    int K, N[TL_MAX_PRODUCTS];
} shapes[] = {
    {"smol qkv", 576, {576, 192, 192}},  {"smol o", 576, {576}},
    {"smol gate+up", 576, {1536, 1536}}, {"smol down", 1536, {576}},
    {"smol vocabulary", 576, {49152}},   {"gemma gate+up", 640, {2048, 2048}},
    {"gemma down", 2048, {640}},         {"gemma vocabulary", 640, {262144}},
};
static const int rows[] = {1, 2, 4, 8, 16, 512};

int main(int argc, char **argv) {
    int threads = 0;
    double seconds = 0.05;
    bool warm = false;
    const char *isa = NULL, *only = NULL;
    tl_type want[TL_TYPES];
    int count = 0;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--threads") && i + 1 < argc) threads = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--isa") && i + 1 < argc) isa = argv[++i];
        else if (!strcmp(argv[i], "--seconds") && i + 1 < argc) seconds = atof(argv[++i]);
        else if (!strcmp(argv[i], "--shape") && i + 1 < argc) only = argv[++i];
        else if (!strcmp(argv[i], "--warm")) warm = true;
        else if (tl__type_named(argv[i]) < TL_TYPES && tl__forms[tl__type_named(argv[i])].low)
            want[count++] = tl__type_named(argv[i]);
        else {
            fprintf(stderr, "bench_stored: '%s' is no quantised type\n", argv[i]);
            return 2;
        }
    }
    if (!count)
        for (int t = 0; t < TL_TYPES; t++)
            if (tl__forms[t].low) want[count++] = (tl_type)t;
    tl_error err = {0};
    tl_ctx ctx;
    if (tl__ctx_open(&ctx, threads, isa, &err)) {
        fprintf(stderr, "bench_stored: %s\n", err.text);
        return 2;
    }
    const tl_peak *loops = tl__peak_select(ctx.ops->isa);
    const size_t memory_bytes = (size_t)1 << (warm ? 28 : 30);
    unsigned char *memory = mmap(NULL, memory_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return 2;
    madvise(memory, memory_bytes, MADV_HUGEPAGE);
    for (size_t i = 0; i < memory_bytes; i += 4) { /* f16 scales of such bytes are about one */
        const uint32_t x = (uint32_t)(i * 2654435761u >> 7) & 0x3bff3bffu;
        memcpy(memory + i, &x, 4);
    }
    float *x = malloc(512 * 2048 * sizeof *x);
    const size_t y_bytes = (size_t)512 * 49152 * sizeof(float);
    float *y = mmap(NULL, y_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!x || y == MAP_FAILED) return 2;
    madvise(y, y_bytes, MADV_HUGEPAGE); /* as arenas are */
    for (int i = 0; i < 512 * 2048; i++) x[i] = (float)(i * 2654435761u >> 20) / 2048.f - 1;
    printf("%s, %d threads; best of trials in turn with the peaks\n", ctx.ops->isa, tl__pool_threads(ctx.pool));
    printf("%-7s %-17s %5s %9s %9s %9s %7s %8s %8s %7s\n", "type", "products", "rows", "ms", "GOP/s", "peak", "share",
           "GB/s", "read", "share");
    for (int t = 0; t < count; t++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
            const struct shape *sh = &shapes[s];
            if (sh->K % tl__type_block(want[t]) || (only && !strstr(sh->name, only))) continue;
            size_t bytes = 0;
            double weights = 0;
            int n = 0;
            for (; n < TL_MAX_PRODUCTS && sh->N[n]; n++)
                bytes += tl__packed_bytes(want[t], sh->N[n], sh->K), weights += (double)sh->N[n] * sh->K;
            const size_t copies = warm ? 1 : memory_bytes / bytes;
            for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
                const int R = sh->N[0] > 100000 && rows[r] > 16 ? 16 : rows[r];
                if (R != rows[r]) continue;
                double best = 1e30, peak = 0, read = 0;
                size_t copy = 0;
                const int64_t start = tl__now_ns();
                for (int trial = 0; trial < 3 || (double)(tl__now_ns() - start) < seconds * 1e9; trial++) {
                    const double p_now = trial % 8 ? 0 : peak_once(ctx.pool, loops);
                    if (p_now > peak) peak = p_now;
                    if (R <= 16 && trial % 8 == 0) {
                        const size_t piece = warm ? bytes : 64u << 20;
                        const double rate =
                            read_once(ctx.pool, loops, memory + (warm ? 0 : (trial / 8 % 16) * piece), piece);
                        if (rate > read) read = rate;
                    }
                    const unsigned char *at = memory + copy * bytes;
                    copy = (copy + 1) % copies;
                    tl_stored w[TL_MAX_PRODUCTS];
                    tl_product p[TL_MAX_PRODUCTS];
                    float *to = y;
                    for (int i = 0; i < n; i++) {
                        w[i] = (tl_stored){want[t], sh->N[i], sh->K, at};
                        p[i] = (tl_product){&w[i], to, sh->N[i], NULL};
                        to += (size_t)R * sh->N[i], at += tl__packed_bytes(want[t], sh->N[i], sh->K);
                    }
                    const int64_t begin = tl__now_ns();
                    tl__linear_stored(&ctx, p, n, x, sh->K, R);
                    const double ns = (double)(tl__now_ns() - begin);
                    if (ns < best) best = ns;
                }
                const double rate = 2 * weights * R / best, moved = (double)bytes / best;
                printf("%-7s %-17s %5d %9.4f %9.1f %9.1f %6.1f%%", tl__type_name(want[t]), sh->name, R, best / 1e6,
                       rate, peak, 100 * rate / peak);
                if (R <= 16) printf(" %8.2f %8.2f %6.1f%%", moved, read, 100 * moved / read);
                printf("\n");
                fflush(stdout);
            }
        }
    tl__ctx_close(&ctx);
    return 0;
}
