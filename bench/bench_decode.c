/* bench_decode.c — where a decoding step's time goes: the same weights only read, only multiplied, and a whole step.
 *
 *   build/bench_decode [--threads N] [--rows R] [--at POSITION] [--steps N] MODEL…
 *
 * One row unless asked otherwise, keys of POSITION tokens (64) before it. Of each, N steps (30) in turn, a turn of all
 * after the other, the middle one: milliseconds, and the weights' bytes a second. Reading is by the loop that peaks are
 * measured with, on the same threads over the same memory in the same order. Then the whole step's operators, by their
 * spans. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "infer/engine.h"
#include "infer/session.h"
#include "kernels/peak.h"

enum { MOST_STEPS = 1000, SLICE_BYTES = 256 << 10, MOST_NAMES = 32 };

/* The products of a step, in order. */
typedef struct call {
    tl_stored w[TL_MAX_PRODUCTS];
    int n;
} call;

static int fail(const tl_error *err) {
    fprintf(stderr, "bench_decode: %s\n", err->text);
    return 2;
}

static bool add(call *c, const tl_model *m, int layer, tl_role role) {
    const int i = tl__params_find(&m->params, &m->arch, layer, role);
    if (i < 0) return false;
    const tl_param *p = &m->params.list[i];
    c->w[c->n++] =
        m->stored[i].data ? m->stored[i] : (tl_stored){TL_F32, (int)p->shape[0], (int)p->shape[1], m->weight[i]};
    return true;
}

static int list_calls(call *calls, const tl_model *m) {
    int n = 0;
    for (int l = 0; l < m->arch.L; l++) {
        static const tl_role groups[4][4] = {{TL_ROLE_Q, TL_ROLE_K, TL_ROLE_V, TL_ROLES},
                                             {TL_ROLE_O, TL_ROLES},
                                             {TL_ROLE_GATE, TL_ROLE_UP, TL_ROLES},
                                             {TL_ROLE_DOWN, TL_ROLES}};
        for (int g = 0; g < 4; g++) {
            call *c = &calls[n++];
            for (const tl_role *r = groups[g]; *r != TL_ROLES; r++) add(c, m, l, *r);
        }
    }
    add(&calls[n++], m, -1, m->arch.tied ? TL_ROLE_EMBED : TL_ROLE_HEAD);
    return n;
}

static int64_t bytes_of(const tl_stored *w) {
    const int64_t packed = (int64_t)tl__packed_bytes(w->type, w->N, w->K);
    return packed ? packed : tl__type_size(w->type, (int64_t)w->N * w->K);
}

typedef struct reading {
    const tl_peak *peak;
    const unsigned char *at;
    int64_t bytes;
} reading;

static void read_slice(void *user, int64_t i, int worker) {
    const reading *r = user;
    const int64_t first = i * SLICE_BYTES, n = r->bytes - first < SLICE_BYTES ? r->bytes - first : SLICE_BYTES;
    uint64_t sink;
    (void)worker;
    r->peak->read(r->at + first, (size_t)(n / 1024 * 1024), &sink);
    __asm__ volatile("" : : "m"(sink));
}

static void read_all(tl_ctx *ctx, const tl_peak *peak, const call *calls, int n) {
    for (const call *c = calls; c < calls + n; c++)
        for (int i = 0; i < c->n; i++) {
            const uintptr_t at = ((uintptr_t)c->w[i].data + 63) / 64 * 64;
            reading r = {peak, (const unsigned char *)at, bytes_of(&c->w[i]) - 64};
            tl__parallel_for(ctx->pool, (r.bytes + SLICE_BYTES - 1) / SLICE_BYTES, read_slice, &r);
        }
}

static void multiply_all(tl_ctx *ctx, const call *calls, int n, const float *x, float *y, int R) {
    for (const call *c = calls; c < calls + n; c++) {
        tl_product p[TL_MAX_PRODUCTS];
        int64_t at = 0;
        for (int i = 0; i < c->n; i++) {
            p[i] = (tl_product){&c->w[i], y + at, c->w[i].N, NULL};
            at += (int64_t)R * c->w[i].N;
        }
        tl__linear_stored(ctx, p, c->n, x, c->w[0].K, R);
    }
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
static double middle(double *x, int n) {
    qsort(x, (size_t)n, sizeof *x, ascending);
    return x[n / 2];
}

static void print_spans(tl_spans *spans, int steps) {
    struct {
        const char *name;
        int64_t n, ns;
    } of[MOST_NAMES];
    int names = 0;
    const tl_span *list;
    const int n = tl__spans_list(spans, &list);
    for (int i = 0; i < n; i++) {
        int k = 0;
        while (k < names && strcmp(of[k].name, list[i].name)) k++;
        if (k == names && names < MOST_NAMES) of[names].name = list[i].name, of[names].n = of[names].ns = 0, names++;
        if (k < MOST_NAMES) of[k].n++, of[k].ns += list[i].duration_ns;
    }
    for (int k = 0; k < names; k++)
        printf("    %-18s %4.0f calls %9.3f ms\n", of[k].name, (double)of[k].n / steps,
               (double)of[k].ns * 1e-6 / steps);
}

static int measure(const char *model, int threads, int R, int at, int steps, tl_error *err) {
    static double took[3][MOST_STEPS];
    tl_engine e;
    tl_session *s;
    const tl_engine_options options = {.threads = threads};
    int status = tl__engine_open(&e, model, false, err);
    if (!status) status = tl__engine_load(&e, &options, err);
    if (!status) status = tl__session_open(&s, &e.model, &e.ctx, at + R, at > R ? at : R, err);
    if (status) return status;
    const tl_arch *a = &e.arch;
    call *calls = calloc((size_t)a->L * 4 + 1, sizeof *calls);
    const int n = list_calls(calls, &e.model);
    int64_t bytes = 0, widest = a->V, deepest = a->F > a->C ? a->F : a->C;
    for (int c = 0; c < n; c++)
        for (int i = 0; i < calls[c].n; i++) bytes += bytes_of(&calls[c].w[i]);
    if (widest < 2 * (int64_t)a->F) widest = 2 * (int64_t)a->F;
    float *y = calloc((size_t)(R * widest), sizeof *y), *x = calloc((size_t)(R * deepest), sizeof *x);
    int32_t *ids = calloc((size_t)(at + R), sizeof *ids);
    float *logits = calloc((size_t)a->V, sizeof *logits);
    for (int i = 0; i < at + R; i++) ids[i] = (int32_t)((uint32_t)(i + 1) * 2654435761u % (uint32_t)a->V);
    for (int64_t i = 0; i < R * deepest; i++) x[i] = (float)(i % 17 - 8) * 0.1f;
    const tl_peak *peak = tl__peak_select(e.ctx.ops->isa);
    tl_spans *spans;
    status = tl__spans_open(&spans, 1 << 18, err);
    if (!status && at > 0) status = tl__session_append(s, ids, at, NULL, err);
    for (int i = -1; !status && i < steps; i++) {
        double *const to[3] = {&took[0][i < 0 ? 0 : i], &took[1][i < 0 ? 0 : i], &took[2][i < 0 ? 0 : i]};
        int64_t t = tl__now_ns();
        read_all(&e.ctx, peak, calls, n);
        *to[0] = (double)(tl__now_ns() - t), t = tl__now_ns();
        multiply_all(&e.ctx, calls, n, x, y, R);
        *to[1] = (double)(tl__now_ns() - t);
        tl__session_rewind(s, at);
        e.ctx.spans = i < 0 ? NULL : spans;
        if (i >= 0) tl__spans_keep(spans, true);
        t = tl__now_ns();
        status = tl__session_append(s, ids + at, R, logits, err);
        *to[2] = (double)(tl__now_ns() - t);
        e.ctx.spans = NULL;
    }
    if (!status) {
        static const char *const what[] = {"read", "multiplied", "whole step"};
        printf("%s, %s, %d row%s, %.1f MB\n", model, e.ctx.ops->isa, R, R == 1 ? "" : "s", (double)bytes * 1e-6);
        const double read = middle(took[0], steps);
        for (int k = 0; k < 3; k++) {
            const double ns = k ? middle(took[k], steps) : read;
            printf("  %-12s %8.3f ms  %6.2f GB/s  %5.1f %%\n", what[k], ns * 1e-6, (double)bytes / ns, 100 * read / ns);
        }
        print_spans(spans, steps);
    }
    tl__spans_close(spans);
    tl__session_close(s);
    free(calls), free(x), free(y), free(ids), free(logits);
    tl__engine_close(&e);
    return status;
}

int main(int argc, char **argv) {
    int threads = 0, R = 1, at = 64, steps = 30;
    tl_error err = {0};
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--threads") && i + 1 < argc) threads = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--rows") && i + 1 < argc) R = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--at") && i + 1 < argc) at = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--steps") && i + 1 < argc) steps = atoi(argv[++i]);
        else if (R < 1 || at < 0 || steps < 1 || steps > MOST_STEPS) break;
        else if (measure(argv[i], threads, R, at, steps, &err)) return fail(&err);
    }
    return 0;
}
