/* cmd_bench.c — `trilith bench`: every operator of a training step at the shapes of a model, against what this machine
 * can do; or, with --model, a model (bench_model.c).
 *
 * An operator's roof is the lower of the peak of its type and what memory can feed it (Williams et al. 2009). The peaks
 * are measured before and after, and the better counts; of an operator's trials the fastest counts, as for the peaks.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/arena.h"
#include "base/clock.h"
#include "base/rng.h"
#include "cli/bench_model.h"
#include "observe/machine.h"

typedef struct settings {
    int64_t batch, seq, width, heads, kv_heads, feed_forward, vocabulary, threads;
    double seconds;
    int dtype, device;
    tl_list only;
    const char *model;
    int64_t prefill, decode, repeat;
    bool json;
} settings;

static const tl_option options[] = {
    TL_HEADING("A model"),
    {"model", TL_STRING(settings, model),
     .help = "Measure this model instead: reading a prompt at once, then writing token by token."},
    {"prefill", TL_INT(settings, prefill), .initial = "512", .least = 1, .most = 1 << 20,
     .help = "Tokens of the prompt."},
    {"decode", TL_INT(settings, decode), .initial = "128", .least = 1, .most = 1 << 20, .help = "Tokens to write."},
    {"repeat", TL_INT(settings, repeat), .initial = "5", .least = 1, .most = 1000,
     .help = "How often; the median counts. Once more is done before, and not counted."},
    TL_HEADING("Operators"),
    {"batch", TL_INT(settings, batch), .initial = "4", .least = 1, .most = 65536, .help = "Sequences."},
    {"seq", TL_INT(settings, seq), .initial = "256", .least = 1, .most = 1 << 20, .help = "Tokens of a sequence."},
    {"width", TL_INT(settings, width), .initial = "768", .least = 16, .most = 65536,
     .help = "Model width; GPT-2 124M's unless given."},
    {"heads", TL_INT(settings, heads), .initial = "12", .least = 1, .most = 1024,
     .help = "Query heads; must divide the width."},
    {"kv-heads", TL_INT(settings, kv_heads), .least = 0, .most = 1024,
     .help = "Key and value heads; as many as --heads unless given."},
    {"feed-forward", TL_INT(settings, feed_forward), .least = 0, .most = 1 << 20,
     .help = "Feed-forward width; four times the width unless given."},
    {"vocabulary", TL_INT(settings, vocabulary), .initial = "50257", .least = 2, .most = 1 << 21,
     .help = "Vocabulary."},
    {"seconds", TL_REAL(settings, seconds), .initial = "0.3", .least = 0, .most = 60,
     .help = "How long to try each operator."},
    {"only", TL_LIST(settings, only), .value = "NAME",
     .help = "Only operators whose name contains one of these words."},
    TL_HEADING("Both"),
    {"dtype", TL_CHOICE(settings, dtype), .initial = "auto", .choices = tl__dtype_names,
     .help = "Of the products' factors."},
    {"device", TL_CHOICE(settings, device), .initial = "cpu", .choices = tl__device_names, .help = TL_DEVICE_HELP},
    {"threads", TL_INT(settings, threads), .least = 0, .most = 1024,
     .help = "CPU threads; all that this process may use unless given."},
    {"json", TL_FLAG(settings, json), .not_in_yaml = true, .help = "Print one JSON object and nothing else."},
    {0}};

/* R rows, C width, H heads, Hkv key heads, D head width, F feed-forward, V vocabulary, Rv rows of a vocabulary product:
 * logits are never held for all rows at once. */
typedef struct bench {
    tl_ctx ctx;
    int B, T, R, Rv, C, H, Hkv, D, F, V;
    float *x, *y, *z;      /* [R, max(3C, 2F)] */
    float *w, *dw, *m, *v; /* [max(V·C, F·C, 3C·C)] */
    float *logits;         /* [Rv, V] */
    float *one_c;          /* [C] about 1 */
    float *row_c, *stat;   /* [max(3C, 2F)], [2R] */
    float *max_sum;        /* [R, H, 2] */
    float *cos_sin;        /* [T, D] */
    tl_kv kv;
    int32_t *token, *pos, *seq_row, *seq_block, *block;
    tl_rows rows;
} bench;

typedef struct result {
    const char *name;
    int64_t shape[3];
    tl_cost cost;
    tl_contract type; /* of its FLOPs */
    double best_seconds, median_seconds;
    int trials;
} result;

typedef struct trial_case {
    const char *name;
    tl_op op;
    void (*run)(bench *b, const int64_t *d);
    int64_t d[3]; /* as tl__op_cost takes them */
} trial_case;

/* ---- the operators. A product's d is (rows, outputs, inputs). ---- */

static void run_forward(bench *b, const int64_t *d) {
    tl__linear(&b->ctx, b->y, d[1], b->x, d[2], b->w, TL_OUT_IN, NULL, (int)d[0], (int)d[1], (int)d[2]);
}
static void run_dx(bench *b, const int64_t *d) { /* cost's (M, N, K) = (rows, inputs, outputs) */
    tl__linear_dx(&b->ctx, b->x, d[1], b->y, d[2], b->w, TL_OUT_IN, (int)d[0], (int)d[2], (int)d[1], false);
}
static void run_dw(bench *b, const int64_t *d) { /* cost's (M, N, K) = (outputs, inputs, rows) */
    tl__linear_dw(&b->ctx, b->dw, NULL, b->y, d[0], b->x, d[1], TL_OUT_IN, (int)d[2], (int)d[0], (int)d[1], true);
}
static void run_logits(bench *b, const int64_t *d) {
    tl__linear(&b->ctx, b->logits, d[1], b->x, d[2], b->w, TL_OUT_IN, NULL, (int)d[0], (int)d[1], (int)d[2]);
}
static void run_logits_dx(bench *b, const int64_t *d) {
    tl__linear_dx(&b->ctx, b->x, d[1], b->logits, d[2], b->w, TL_OUT_IN, (int)d[0], (int)d[2], (int)d[1], false);
}
static void run_logits_dw(bench *b, const int64_t *d) {
    tl__linear_dw(&b->ctx, b->dw, NULL, b->logits, d[0], b->x, d[1], TL_OUT_IN, (int)d[2], (int)d[0], (int)d[1], true);
}
static tl_attention_form form_of(const bench *b) {
    return (tl_attention_form){.H = b->H, .Hkv = b->Hkv, .D = b->D, .scale = 1 / sqrtf((float)b->D)};
}
static void run_attention(bench *b, const int64_t *d) {
    const tl_attention_form form = form_of(b);
    tl__attention(&b->ctx, b->y, b->C, b->max_sum, b->x, b->C, b->kv, &b->rows, &form);
}
static void run_attention_backward(bench *b, const int64_t *d) {
    int64_t ld = (b->H + 2 * b->Hkv) * (int64_t)b->D;
    float *dq = b->z, *dk = dq + (int64_t)b->H * b->D, *dv = dk + (int64_t)b->Hkv * b->D;
    const tl_attention_form form = form_of(b);
    tl__attention_backward(&b->ctx, dq, dk, dv, ld, b->x, b->y, b->C, b->max_sum, b->x, b->C, b->kv, &b->rows, &form);
}
static void run_kv_store(bench *b, const int64_t *d) {
    int64_t ld = (int64_t)b->Hkv * b->D;
    tl__kv_store(&b->ctx, b->kv, b->x, ld, b->x, ld, &b->rows, b->Hkv, b->D);
}
static void run_rope(bench *b, const int64_t *d) {
    tl__rope(&b->ctx, b->y, b->C, b->cos_sin, b->pos, 1, b->R, b->H, b->D);
}
static void run_rmsnorm(bench *b, const int64_t *d) {
    tl__rmsnorm(&b->ctx, b->y, b->z, b->stat, b->x, b->x, b->one_c, 0, 1e-5f, b->R, b->C);
}
static void run_rmsnorm_backward(bench *b, const int64_t *d) {
    tl__rmsnorm_backward(&b->ctx, b->z, b->row_c, b->x, b->y, b->stat, b->one_c, 0, b->R, b->C);
}
static void run_layernorm(bench *b, const int64_t *d) {
    tl__layernorm(&b->ctx, b->y, b->z, b->stat + b->R, b->stat, b->x, b->x, b->one_c, b->row_c, 1e-5f, b->R, b->C);
}
static void run_gelu(bench *b, const int64_t *d) {
    tl__gelu(&b->ctx, b->y, b->x, d[0]);
}
static void run_head_norm(bench *b, const int64_t *d) {
    tl__head_norm(&b->ctx, b->y, b->C, NULL, b->x, b->C, b->one_c, 0, 1e-6f, b->R, b->H, b->D);
}
static void run_geglu(bench *b, const int64_t *d) {
    tl__geglu(&b->ctx, b->y, b->x, b->R, b->F);
}
static void run_swiglu(bench *b, const int64_t *d) {
    tl__swiglu(&b->ctx, b->y, b->x, b->R, b->F);
}
static void run_swiglu_backward(bench *b, const int64_t *d) {
    tl__swiglu_backward(&b->ctx, b->z, b->y, b->x, b->R, b->F);
}
static void run_add(bench *b, const int64_t *d) {
    tl__add(&b->ctx, b->y, b->x, b->z, d[0]);
}
static void run_embed(bench *b, const int64_t *d) {
    tl__embed(&b->ctx, b->y, b->w, NULL, b->token, b->pos, 1, b->R, b->C);
}
static void run_softmax_loss(bench *b, const int64_t *d) {
    const tl_loss_form form = {.grad_scale = 1};
    tl__softmax_loss(&b->ctx, b->stat, NULL, b->logits, b->token, &form, b->Rv, b->V);
}
static void run_sum_squares(bench *b, const int64_t *d) {
    (void)tl__sum_squares(&b->ctx, b->dw, d[0]);
}
static void run_adamw(bench *b, const int64_t *d) {
    const tl_adamw hyper = {.lr = 1e-6f,
                            .beta1 = 0.9f,
                            .beta2 = 0.95f,
                            .eps = 1e-8f,
                            .weight_decay = 0.1f,
                            .grad_scale = 1e-3f,
                            .step_size = 1e-6f,
                            .inv_sqrt_correction2 = 1};
    tl__adamw(&b->ctx, b->w, b->m, b->v, b->dw, d[0], &hyper);
}

/* In an order in which each finds what it needs: logits before the loss, attention before its backward. */
static int list_cases(const bench *b, trial_case out[40]) {
    int64_t R = b->R, C = b->C, F = b->F, V = b->V, Rv = b->Rv, Q = (int64_t)(b->H + 2 * b->Hkv) * b->D;
    int64_t pairs = tl__attention_pairs(&b->rows, 0);
    const tl_op gemm = b->ctx.contract == TL_CONTRACT_BF16 ? TL_OP_GEMM_BF16 : TL_OP_GEMM;
    const trial_case all[] = {
        {"qkv", gemm, run_forward, {R, Q, C}},
        {"attention out", gemm, run_forward, {R, C, C}},
        {"mlp up", gemm, run_forward, {R, F, C}},
        {"mlp down", gemm, run_forward, {R, C, F}},
        {"mlp up dx", gemm, run_dx, {R, C, F}},
        {"mlp up dW", gemm, run_dw, {F, C, R}},
        {"mlp down dx", gemm, run_dx, {R, F, C}},
        {"mlp down dW", gemm, run_dw, {C, F, R}},
        {"logits", gemm, run_logits, {Rv, V, C}},
        {"logits dx", gemm, run_logits_dx, {Rv, C, V}},
        {"logits dW", gemm, run_logits_dw, {V, C, Rv}},
        {"one row, mlp up", gemm, run_forward, {1, F, C}},
        {"16 rows, mlp up", gemm, run_forward, {R < 16 ? R : 16, F, C}},
        {"kv store", TL_OP_KV_STORE, run_kv_store, {R, (int64_t)b->Hkv * b->D, 0}},
        {"attention", TL_OP_ATTENTION, run_attention, {pairs, b->H, b->D}},
        {"attention backward", TL_OP_ATTENTION_BACKWARD, run_attention_backward, {pairs, b->H, b->D}},
        {"rope", TL_OP_ROPE, run_rope, {R, C, 0}},
        {"rmsnorm", TL_OP_NORM, run_rmsnorm, {R, C, 0}},
        {"rmsnorm backward", TL_OP_NORM_BACKWARD, run_rmsnorm_backward, {R, C, 0}},
        {"head norm", TL_OP_HEAD_NORM, run_head_norm, {R, C, 0}},
        {"layernorm", TL_OP_NORM, run_layernorm, {R, C, 0}},
        {"gelu", TL_OP_ACT, run_gelu, {R * F, 0, 0}},
        {"swiglu", TL_OP_ACT, run_swiglu, {R * F, 0, 0}},
        {"geglu", TL_OP_ACT, run_geglu, {R * F, 0, 0}},
        {"swiglu backward", TL_OP_ACT_BACKWARD, run_swiglu_backward, {R * F, 0, 0}},
        {"add", TL_OP_ADD, run_add, {R * C, 0, 0}},
        {"embed", TL_OP_EMBED, run_embed, {R, C, 0}},
        {"softmax loss", TL_OP_SOFTMAX_LOSS, run_softmax_loss, {Rv, V, 0}},
        {"sum of squares", TL_OP_SUM_SQUARES, run_sum_squares, {V * C, 0, 0}},
        {"adamw", TL_OP_ADAMW, run_adamw, {V * C, 0, 0}},
    };
    memcpy(out, all, sizeof all);
    return sizeof all / sizeof *all;
}

/* ---- set-up ---- */

static int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static void place(bench *b, tl_arena *a) {
    int64_t wide = larger(larger(3 * (int64_t)b->C, 2 * (int64_t)b->F), (int64_t)(b->H + 2 * b->Hkv) * b->D);
    int64_t weights = larger((int64_t)b->V * b->C, larger(3 * (int64_t)b->C, b->F) * b->C);
    int64_t blocks = (int64_t)b->B * ((b->T + TL_KV_BLOCK - 1) / TL_KV_BLOCK);
    int64_t kv = blocks * TL_KV_BLOCK * b->Hkv * b->D;
    b->x = TL_TAKE(a, float, b->R *wide);
    b->y = TL_TAKE(a, float, b->R *wide);
    b->z = TL_TAKE(a, float, b->R *wide);
    b->w = TL_TAKE(a, float, weights);
    b->dw = TL_TAKE(a, float, weights);
    b->m = TL_TAKE(a, float, weights);
    b->v = TL_TAKE(a, float, weights);
    b->logits = TL_TAKE(a, float, (int64_t)b->Rv * b->V);
    b->one_c = TL_TAKE(a, float, wide);
    b->row_c = TL_TAKE(a, float, wide);
    b->stat = TL_TAKE(a, float, 2 * (int64_t)b->R);
    b->max_sum = TL_TAKE(a, float, 2 * (int64_t)b->R * b->H);
    b->cos_sin = TL_TAKE(a, float, (int64_t)b->T * b->D);
    b->kv = (tl_kv){TL_TAKE(a, float, kv), TL_TAKE(a, float, kv), TL_F32};
    b->token = TL_TAKE(a, int32_t, b->R);
    b->pos = TL_TAKE(a, int32_t, b->R);
    b->seq_row = TL_TAKE(a, int32_t, b->B + 1);
    b->seq_block = TL_TAKE(a, int32_t, b->B);
    b->block = TL_TAKE(a, int32_t, blocks);
    if (a->dry) return;

    tl__normal_fill(b->x, (size_t)(b->R * wide), 0, 1, 1, 0, 0);
    tl__normal_fill(b->y, (size_t)(b->R * wide), 0, 1, 1, 1, 0);
    tl__normal_fill(b->z, (size_t)(b->R * wide), 0, 1, 1, 2, 0);
    for (int64_t i = 0; i < weights; i++) { /* any numbers of an ordinary size: a table of normals over and over */
        b->w[i] = 0.02f * b->x[i % (b->R * wide)];
        b->dw[i] = 0.001f * b->y[i % (b->R * wide)];
        b->v[i] = 1e-6f;
    }
    for (int64_t i = 0; i < wide; i++) b->one_c[i] = 1;
    for (int64_t i = 0; i < (int64_t)b->T * b->D; i++) b->cos_sin[i] = i % b->D < b->D / 2 ? 0.8f : 0.6f;
    for (int64_t i = 0; i < (int64_t)b->Rv * b->V; i++) b->logits[i] = b->x[i % (b->R * wide)];
    for (int r = 0; r < b->R; r++) {
        b->token[r] = (int32_t)tl__permute((uint64_t)(r % b->V), (uint64_t)b->V, 1, 0);
        b->pos[r] = r % b->T;
        b->stat[r] = 1;
    }
    for (int s = 0; s <= b->B; s++) b->seq_row[s] = s * b->T;
    for (int s = 0; s < b->B; s++) b->seq_block[s] = (int32_t)(blocks / b->B * s);
    for (int64_t i = 0; i < blocks; i++) b->block[i] = (int32_t)i;
    b->rows = (tl_rows){b->R, b->B, b->token, b->pos, b->seq_row, b->seq_block, b->block};
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static result try_case(bench *b, const trial_case *c, double seconds) {
    enum { MOST_TRIALS = 1000, LEAST_TRIALS = 3 };
    static double took[MOST_TRIALS];
    result r = {.name = c->name,
                .shape = {c->d[0], c->d[1], c->d[2]},
                .cost = tl__op_cost(c->op, c->d[0], c->d[1], c->d[2]),
                .type = tl__op_type(c->op)};
    c->run(b, c->d); /* pages touched, caches as they will be */
    int64_t end_ns = tl__now_ns() + (int64_t)(seconds * 1e9);
    while (r.trials < LEAST_TRIALS || (r.trials < MOST_TRIALS && tl__now_ns() < end_ns)) {
        int64_t start_ns = tl__now_ns();
        c->run(b, c->d);
        took[r.trials++] = (double)(tl__now_ns() - start_ns) * 1e-9;
    }
    qsort(took, (size_t)r.trials, sizeof *took, by_value);
    r.best_seconds = took[0];
    r.median_seconds = took[r.trials / 2];
    return r;
}

/* ---- telling ---- */

static bool memory_bound(const result *r, const tl_machine *m) {
    return r->cost.flops * m->read_bytes_per_second < r->cost.bytes * tl__machine_peak(m, r->type);
}

/* Seconds that the roofline allows over seconds taken. */
static double part_of_roof(const result *r, const tl_machine *m) {
    return fmax(r->cost.flops / tl__machine_peak(m, r->type), r->cost.bytes / m->read_bytes_per_second) /
           r->best_seconds;
}

static void shape_text(char out[48], const int64_t *d) {
    int used = snprintf(out, 48, "%lld", (long long)d[0]);
    for (int i = 1; i < 3 && d[i]; i++) used += snprintf(out + used, 48 - (size_t)used, " × %lld", (long long)d[i]);
}

static void print_heading(const tl_machine *m) {
    printf("%s, %s, %d thread%s: %.1f GFLOP/s, ", m->cpu, m->isa, m->threads, m->threads == 1 ? "" : "s",
           m->f32_flops / 1e9);
    if (m->bf16_flops > 0) printf("%.1f in bf16, ", m->bf16_flops / 1e9);
    printf("reads %.1f GB/s\n\n", m->read_bytes_per_second / 1e9);
    printf("%-20s %-22s %10s %9s %8s  %-7s %s\n", "operator", "shape", "best", "GFLOP/s", "GB/s", "bound",
           "of the roof");
}

static void print_result(const result *r, const tl_machine *m) {
    char shape[48], best[32];
    shape_text(shape, r->shape);
    int extra = 0; /* bytes of "×" beyond its one column */
    for (const char *s = shape; *s; s++) extra += (*s & 0xc0) == 0x80;
    if (r->best_seconds < 1e-3) snprintf(best, sizeof best, "%.1f us", r->best_seconds * 1e6);
    else snprintf(best, sizeof best, "%.2f ms", r->best_seconds * 1e3);
    double roof = part_of_roof(r, m);
    printf("%-20s %-*s %10s %9.1f %8.1f  %-7s %5.0f %%%s\n", r->name, 22 + extra, shape, best,
           r->cost.flops / r->best_seconds / 1e9, r->cost.bytes / r->best_seconds / 1e9,
           memory_bound(r, m) ? "memory" : "compute", 100 * roof,
           roof > 1.05 && memory_bound(r, m) ? " (from cache)" : "");
}

static json_t *as_json(const tl_machine *m, double load, const result *r, int n) {
    json_t *list = json_array();
    for (int i = 0; i < n; i++) {
        json_t *shape = json_array();
        for (int k = 0; k < 3 && (k == 0 || r[i].shape[k]); k++)
            json_array_append_new(shape, json_integer(r[i].shape[k]));
        json_array_append_new(
            list, json_pack("{s:s,s:o,s:f,s:f,s:i,s:f,s:f,s:s,s:f}", "name", r[i].name, "shape", shape, "best_seconds",
                            r[i].best_seconds, "median_seconds", r[i].median_seconds, "trials", r[i].trials,
                            "flops_per_second", r[i].cost.flops / r[i].best_seconds, "bytes_per_second",
                            r[i].cost.bytes / r[i].best_seconds, "bound", memory_bound(&r[i], m) ? "memory" : "compute",
                            "roofline", part_of_roof(&r[i], m)));
    }
    return json_pack("{s:s,s:o,s:o,s:o}", "version", tl_version(), "machine", tl__machine_json(m), "load_average",
                     load >= 0 ? json_real(load) : json_null(), "operators", list);
}

static bool wanted(const settings *o, const char *name) {
    for (int i = 0; i < o->only.n; i++)
        if (strstr(name, o->only.values[i])) return true;
    return o->only.n == 0;
}

static int run(tl_cli *cli) {
    settings o = *(const settings *)cli->values;
    if (o.model)
        return tl__bench_model(cli, &(tl_bench_model){.model = o.model,
                                                      .threads = (int)o.threads,
                                                      .prefill = (int)o.prefill,
                                                      .decode = (int)o.decode,
                                                      .repeat = (int)o.repeat,
                                                      .dtype = (tl_dtype)o.dtype,
                                                      .device = (tl_device)o.device,
                                                      .json = o.json});
    if (!o.kv_heads) o.kv_heads = o.heads;
    if (!o.feed_forward) o.feed_forward = 4 * o.width;
    if (o.width % o.heads)
        return tl__cli_bad(cli, "--heads %lld does not divide --width %lld", (long long)o.heads, (long long)o.width);
    if (o.kv_heads > o.heads || o.heads % o.kv_heads)
        return tl__cli_bad(cli, "--kv-heads %lld does not divide --heads %lld", (long long)o.kv_heads,
                           (long long)o.heads);
    if (o.width / o.heads > TL_MAX_HEAD_DIM || o.width / o.heads % 2)
        return tl__cli_bad(cli, "a head is %lld wide; even and at most %d were expected: change --heads",
                           (long long)(o.width / o.heads), TL_MAX_HEAD_DIM);
    if (o.batch * o.seq > 1 << 20)
        return tl__cli_bad(cli, "--batch times --seq is more than 1,048,576 rows; use fewer");

    tl_error err = {0};
    bench b = {.B = (int)o.batch,
               .T = (int)o.seq,
               .R = (int)(o.batch * o.seq),
               .C = (int)o.width,
               .H = (int)o.heads,
               .Hkv = (int)o.kv_heads,
               .D = (int)(o.width / o.heads),
               .F = (int)o.feed_forward,
               .V = (int)o.vocabulary};
    b.Rv = b.R < 256 ? b.R : 256;
    tl_arena arena = tl__arena_dry();
    place(&b, &arena);
    size_t need = arena.used_bytes;
    if (tl__memory_available_bytes() > 0 && need > (size_t)tl__memory_available_bytes())
        return tl__cli_bad(cli, "these shapes take %.1f GB but %.1f GB of memory are available; choose smaller ones",
                           (double)need / 1e9, (double)tl__memory_available_bytes() / 1e9);
    int status = tl__ctx_open(&b.ctx, (int)o.threads, tl__device_isa((tl_device)o.device), &err);
    if (!status) status = tl__arena_open(&arena, need, &err);
    if (status) {
        tl__ctx_close(&b.ctx);
        return tl__cli_fail(cli, &err);
    }
    place(&b, &arena);
    b.ctx.contract = o.dtype == TL_DTYPE_BF16 ? TL_CONTRACT_BF16 : TL_CONTRACT_F32;

    double load;
    if (getloadavg(&load, 1) != 1) load = -1;
    tl_machine machine, after;
    tl__machine_describe(&machine, &b.ctx);
    after = machine;
    tl__machine_measure(&machine, &b.ctx, 0.5);
    trial_case cases[40];
    result results[40];
    int n = 0, n_cases = list_cases(&b, cases);
    for (int i = 0; i < n_cases; i++)
        if (wanted(&o, cases[i].name)) results[n++] = try_case(&b, &cases[i], o.seconds);
    tl__machine_measure(&after, &b.ctx, 0.5);
    machine.f32_flops = fmax(machine.f32_flops, after.f32_flops);
    machine.bf16_flops = fmax(machine.bf16_flops, after.bf16_flops);
    machine.read_bytes_per_second = fmax(machine.read_bytes_per_second, after.read_bytes_per_second);

    int code = TL_EXIT_DONE;
    if (n == 0) code = tl__cli_bad(cli, "no operator's name contains what --only asks for");
    else if (o.json) code = tl__cli_print_json(cli, as_json(&machine, load, results, n));
    else {
        print_heading(&machine);
        for (int i = 0; i < n; i++) print_result(&results[i], &machine);
        if (load > 0.5)
            printf("\nOther work was running when this began (load average %.1f on %d CPU%s): operators of many "
                   "milliseconds never "
                   "had\nevery thread at once, and are faster than shown.\n",
                   load, tl__cpus_available(), tl__cpus_available() == 1 ? "" : "s");
    }
    tl__ctx_close(&b.ctx);
    tl__arena_close(&arena);
    return code;
}

const tl_command tl__cmd_bench = {
    .name = "bench",
    .summary = "measure a model, or every operator against what the machine can do",
    .usage = "[--model DIR] [options]",
    .about = "Runs each operator of a training step at the shapes of a model (GPT-2 124M unless told otherwise) and "
             "prints how near it "
             "comes to its roof: the measured peak of its type, or what the measured memory bandwidth can feed it, "
             "whichever "
             "is lower.\n\n"
             "An operator over 100 % of a memory roof found its data in the caches. Shapes: a product's are the "
             "operator table's M × N "
             "× K; attention's are pairs of query and key × heads × head width.\n\n"
             "With --model it reads a prompt and writes an answer instead, and prints tokens a second.",
    .examples = "  trilith bench\n"
                "      the table at GPT-2's shapes, 4 sequences of 256\n"
                "  trilith bench --only mlp logits --batch 64 --width 384 --heads 6\n"
                "      some products of a smaller model\n"
                "  trilith bench --model runs/demo --prefill 512 --decode 128\n"
                "      how fast a model reads and writes",
    .options = options,
    .values_bytes = sizeof(settings),
    .run = run,
};
