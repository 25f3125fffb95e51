/* bench_attention.c — attention forward, backward and K/V storage on shapes of training, prefill and decoding, beside
 * the machine's FMA peak and read rate measured in turn with them.
 *
 *   build/bench_attention [--threads N] [--isa NAME] [--seconds S a shape] [filter]
 *
 * Best of trials, and ratios of bests. FLOPs are those of the products over the causal pairs alone (4·D a pair and head
 * forward, 10·D backward): exponentials and masked work count as loss. A window counts the pairs within it. Decoding
 * is measured with K and V in each type, in turn, and prints the bytes of them that were read a second. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/arena.h"
#include "base/clock.h"
#include "kernels/ops.h"
#include "kernels/peak.h"

typedef struct shape {
    int S, past, fresh, H, Hkv, D, window;
    float softcap;
} shape;

static const shape shapes[] = {
    {16, 0, 64, 6, 6, 64, 0, 0},       {4, 0, 256, 6, 6, 64, 0, 0},    {4, 0, 256, 12, 12, 64, 0, 0},
    {2, 0, 1024, 6, 6, 64, 0, 0},      {1, 0, 1024, 12, 12, 64, 0, 0}, {1, 0, 1024, 1, 1, 64, 0, 0},
    {2, 0, 1024, 9, 3, 64, 0, 0},      {2, 0, 512, 8, 2, 128, 0, 0},   {2, 0, 512, 8, 8, 80, 0, 0},
    {2, 0, 512, 8, 8, 96, 0, 0},       {64, 0, 20, 6, 6, 64, 0, 0},    {300, 0, 7, 6, 6, 64, 0, 0},
    {1, 2048, 64, 12, 12, 64, 0, 0},   {1, 8191, 1, 12, 12, 64, 0, 0}, {1, 8191, 1, 8, 2, 128, 0, 0},
    {16, 1023, 1, 12, 12, 64, 0, 0},   {2, 0, 1024, 6, 6, 64, 256, 0}, {2, 0, 1024, 6, 6, 64, 64, 0},
    {1, 8191, 1, 12, 12, 64, 1024, 0}, {2, 0, 1024, 6, 6, 64, 0, 50},
    {1, 127, 1, 9, 3, 64, 0, 0},       {1, 1023, 1, 9, 3, 64, 0, 0},   {1, 8191, 1, 9, 3, 64, 0, 0},
    {1, 127, 1, 4, 1, 256, 0, 0},      {1, 1023, 1, 4, 1, 256, 0, 0},  {1, 8191, 1, 4, 1, 256, 0, 0},
    {64, 255, 1, 9, 3, 64, 0, 0},      {32, 511, 1, 4, 1, 256, 0, 0},
};

static const tl_type kv_types[] = {TL_F32, TL_F16, TL_BF16, TL_Q8_0};
enum { TYPES = sizeof kv_types / sizeof *kv_types };

typedef struct probe {
    const tl_peak *peak;
    const unsigned char *memory;
    size_t bytes;
    int64_t rounds;
} probe;

static void probe_fma(void *user, int64_t i, int worker) {
    const probe *p = user;
    float sink;
    p->peak->fma(p->rounds, &sink);
}

static void probe_read(void *user, int64_t i, int worker) {
    const probe *p = user;
    uint64_t sink;
    p->peak->read(p->memory + (size_t)i * p->bytes, p->bytes, &sink);
}

int main(int argc, char **argv) {
    int threads = 0;
    double seconds = 0.3;
    const char *isa = NULL, *filter = NULL;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--threads") && i + 1 < argc) threads = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--isa") && i + 1 < argc) isa = argv[++i];
        else if (!strcmp(argv[i], "--seconds") && i + 1 < argc) seconds = atof(argv[++i]);
        else filter = argv[i];
    }
    tl_error err = {0};
    tl_ctx ctx;
    tl_arena arena;
    if (tl__ctx_open(&ctx, threads, isa, &err) || tl__arena_open(&arena, (size_t)1 << 30, &err)) {
        fprintf(stderr, "bench_attention: %s\n", err.text);
        return 2;
    }
    threads = tl__pool_threads(ctx.pool);
    probe p = {tl__peak_select(ctx.ops->isa), NULL, (size_t)(64 << 20) / (size_t)threads / 1024 * 1024, 20000};
    unsigned char *memory = tl__arena_take(&arena, (size_t)64 << 20, 1);
    memset(memory, 1, (size_t)64 << 20); /* untouched pages are all one page of zeros */
    p.memory = memory;
    printf("%s, %d threads; best of trials in turn with the peak\n", ctx.ops->isa, threads);
    printf("%-10s %4s %6s %6s %3s %4s %4s %6s %4s %5s %9s %8s %8s %7s\n", "operator", "seqs", "past", "rows", "H", "Hkv",
           "D", "window", "cap", "K,V", "ms", "GFLOP/s", "peak", "ratio");
    const size_t mark = arena.used_bytes;
    for (size_t c = 0; c < sizeof shapes / sizeof *shapes; c++) {
        const shape *s = &shapes[c];
        char name[96];
        snprintf(name, sizeof name, "%d-%d-%d-%d-%d-%d-%d-%g", s->S, s->past, s->fresh, s->H, s->Hkv, s->D, s->window,
                 (double)s->softcap);
        if (filter && !strstr(name, filter)) continue;
        arena.used_bytes = mark;
        const int R = s->S * s->fresh, D = s->D, per = (s->past + s->fresh + TL_KV_BLOCK - 1) / TL_KV_BLOCK;
        const int64_t C = (int64_t)s->H * D, Ckv = (int64_t)s->Hkv * D, ld = C + 2 * Ckv;
        int32_t *pos = TL_TAKE(&arena, int32_t, R), *seq_row = TL_TAKE(&arena, int32_t, s->S + 1);
        int32_t *seq_block = TL_TAKE(&arena, int32_t, s->S), *block = TL_TAKE(&arena, int32_t, s->S * per);
        for (int i = 0; i <= s->S; i++) seq_row[i] = i * s->fresh;
        for (int i = 0; i < s->S; i++) seq_block[i] = i * per;
        for (int i = 0; i < R; i++) pos[i] = s->past + i % s->fresh;
        for (int i = 0; i < s->S * per; i++) block[i] = s->S * per - 1 - i;
        const tl_attention_form form = {s->H, s->Hkv, D, 1 / sqrtf((float)D), s->softcap, s->window};
        const tl_rows rows = {R, s->S, NULL, pos, seq_row, seq_block, block};
        const int types = s->fresh == 1 ? TYPES : 1;
        tl_kv kv[TYPES];
        for (int t = 0; t < types; t++) {
            const int64_t bytes = (int64_t)s->S * per * s->Hkv * tl_kv_part_bytes(kv_types[t], D);
            kv[t] = (tl_kv){TL_TAKE(&arena, unsigned char, bytes), TL_TAKE(&arena, unsigned char, bytes), kv_types[t]};
        }
        float *qkv = TL_TAKE(&arena, float, R *ld), *grad = TL_TAKE(&arena, float, R *ld);
        float *out = TL_TAKE(&arena, float, R *C), *dout = TL_TAKE(&arena, float, R *C);
        float *max_sum = TL_TAKE(&arena, float, (int64_t)R * s->H * 2);
        uint32_t x = 1;
#define FILL(to, n)                                                                                                    \
    for (size_t i = 0; i < (size_t)(n); i++) (to)[i] = (float)(int32_t)(x = x * 1664525u + 1013904223u) * 0x1p-31f
        FILL(dout, R * C);
        for (int at = 0, room = per * TL_KV_BLOCK - s->fresh; at <= room; at += s->fresh) { /* no place is empty */
            FILL(qkv, R * ld);
            for (int i = 0; i < R; i++) pos[i] = at + i % s->fresh;
            for (int t = 0; t < types; t++)
                ctx.ops->kv_store(&ctx, kv[t], qkv + C, ld, qkv + C + Ckv, ld, &rows, s->Hkv, D);
        }
        for (int i = 0; i < R; i++) pos[i] = s->past + i % s->fresh;
        const double pairs = (double)tl__attention_pairs(&rows, s->window) * s->H;
        static const char *const names[] = {"kv_store", "forward", "backward"};
        for (int op = 0; op < 3; op++) {
            if (op == 2 && s->past) continue;
            double best[TYPES] = {1e30, 1e30, 1e30, 1e30}, peak = 0, read = 0;
            const int64_t start = tl__now_ns();
            for (int trial = 0; trial < 3 || (double)(tl__now_ns() - start) < seconds * 1e9; trial++) {
                int64_t t = tl__now_ns();
                tl__parallel_for(ctx.pool, threads, op ? probe_fma : probe_read, &p);
                double ns = (double)(tl__now_ns() - t);
                float sink;
                static double flops;
                if (flops == 0) flops = p.peak->fma(1, &sink);
                if (flops * (double)p.rounds * threads / ns > peak) peak = flops * (double)p.rounds * threads / ns;
                if (s->fresh == 1 || op == 0) {
                    t = tl__now_ns();
                    tl__parallel_for(ctx.pool, threads, probe_read, &p);
                    ns = (double)(tl__now_ns() - t);
                    if ((double)p.bytes * threads / ns > read) read = (double)p.bytes * threads / ns;
                }
                for (int k = 0; k < types; k++) {
                    t = tl__now_ns();
                    if (op == 0) ctx.ops->kv_store(&ctx, kv[k], qkv + C, ld, qkv + C + Ckv, ld, &rows, s->Hkv, D);
                    if (op == 1) ctx.ops->attention(&ctx, out, C, max_sum, qkv, ld, kv[k], &rows, &form);
                    if (op == 2)
                        ctx.ops->attention_backward(&ctx, grad, grad + C, grad + C + Ckv, ld, dout, out, C, max_sum,
                                                    qkv, ld, kv[k], &rows, &form);
                    ns = (double)(tl__now_ns() - t);
                    if (ns < best[k]) best[k] = ns;
                }
            }
            for (int k = 0; k < types; k++) {
                printf("%-10s %4d %6d %6d %3d %4d %4d %6d %4g %5s %9.3f", names[op], s->S, s->past, s->fresh, s->H,
                       s->Hkv, D, s->window, (double)s->softcap, tl__type_name(kv_types[k]), best[k] / 1e6);
                const double bytes = tl__op_cost(TL_OP_KV_STORE, R, Ckv, kv_types[k]).bytes;
                if (op == 0) printf("  %.1f GB/s moved, plain read %.1f", bytes / best[k], read);
                else {
                    const double flops = pairs * D * (op == 1 ? 4 : 10);
                    printf(" %8.1f %8.1f %6.1f%%", flops / best[k], peak, 100 * flops / best[k] / peak);
                    if (s->fresh == 1)
                        printf("  K and V at %.1f GB/s, plain read %.1f; %.2f of F32's time",
                               2 * pairs / s->H * s->Hkv * (double)tl_kv_part_bytes(kv_types[k], D) / TL_KV_BLOCK /
                                   best[k],
                               read, best[k] / best[0]);
                }
                printf("\n");
            }
            fflush(stdout);
        }
    }
    tl__arena_close(&arena);
    tl__ctx_close(&ctx);
    return 0;
}
