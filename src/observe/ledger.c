/* ledger.c — owns how a step is told: one line of JSON for programs (metrics.jsonl) and one sentence for people.
 *
 * Promises: no heap, whatever the numbers; the line is valid JSON even when a loss is not finite (null); the sentence
 * claims only what was measured and says so when a peak was not. */
#include "observe/ledger.h"

#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- metrics.jsonl -------------------------------------------------------------------------------------------------
 */

typedef struct text {
    char *out;
    size_t size, used;
} text;

__attribute__((format(printf, 2, 3))) static void put(text *t, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = vsnprintf(t->out + t->used, t->size - t->used, format, args);
    va_end(args);
    assert(n >= 0 &&
           (size_t)n < t->size - t->used); /* size ≥ 16384 always suffices: every field has a largest length */
    t->used += (size_t)n;
}

/* A number to `digits` significant digits, or with 0 the fewest that read back as the same double. Rounding must not
 * carry it past the largest double, which readers refuse: null, as for what is not finite. */
static void put_real(text *t, double x, int digits) {
    if (!isfinite(x) || (digits > 0 && fabs(x) > 1e308)) {
        put(t, "null");
        return;
    }
    if (digits > 0) {
        put(t, "%.*g", digits, x);
        return;
    }
    char shortest[40];
    for (int d = 6; d <= 17; d++) {
        snprintf(shortest, sizeof shortest, "%.*g", d, x);
        if (strtod(shortest, NULL) == x) break;
    }
    put(t, "%s", shortest);
}

static void put_rates(text *t, const char *key, const double *amount, const double *seconds) {
    put(t, ",\"%s\":{", key);
    const char *comma = "";
    for (int b = 0; b < TL_BUCKETS; b++) {
        if (!(amount[b] > 0) || !(seconds[b] > 0)) continue;
        put(t, "%s\"%s\":", comma, tl__bucket_name(b));
        put_real(t, amount[b] / seconds[b], 4);
        comma = ",";
    }
    put(t, "}");
}

int tl__metrics_line(char *out, size_t size, const tl_step_metrics *m) {
    text t = {out, size, 0};
    const tl_totals *s = &m->totals;
    put(&t, "{\"step\":%lld,\"loss\":", (long long)m->step);
    put_real(&t, m->loss, 0);
    if (isfinite(m->z_loss) && m->z_loss > 0) {
        put(&t, ",\"z_loss\":");
        put_real(&t, m->z_loss, 0);
    }
    if (isfinite(m->validation_loss)) {
        put(&t, ",\"validation_loss\":");
        put_real(&t, m->validation_loss, 0);
    }
    if (isfinite(m->ema_validation_loss) && m->ema_validation_loss > 0) {
        put(&t, ",\"ema_validation_loss\":");
        put_real(&t, m->ema_validation_loss, 0);
    }
    put(&t, ",\"grad_norm\":");
    put_real(&t, m->grad_norm, 0);
    put(&t, ",\"learning_rate\":");
    put_real(&t, m->learning_rate, 0);
    put(&t, ",\"tokens\":%lld,\"tokens_total\":%lld,\"tokens_per_second\":", (long long)m->tokens,
        (long long)m->tokens_total);
    put_real(&t, m->tokens_per_second, 6);
    put(&t, ",\"mfu\":");
    put_real(&t, m->mfu, 4);
    if (m->expert_load) {
        put(&t, ",\"load_balance_loss\":");
        put_real(&t, m->balance_loss, 6);
        put(&t, ",\"router_z_loss\":");
        put_real(&t, m->router_z_loss, 6);
        put(&t, ",\"expert_load\":[");
        for (int i = 0; i < m->expert_layers; i++) {
            if (i) put(&t, ",");
            put_real(&t, (double)m->expert_load[i], 4);
        }
        put(&t, "]");
    }
    put(&t, ",\"skipped\":%s", m->skipped || !isfinite(m->loss) ? "true" : "false");
    put(&t, ",\"seconds\":{\"wall\":");
    put_real(&t, s->wall_seconds, 6);
    for (int b = 0; b < TL_BUCKETS; b++) {
        put(&t, ",\"%s\":", tl__bucket_name(b));
        put_real(&t, s->seconds[b], 6);
    }
    put(&t, "}");
    put_rates(&t, "flops_per_second", s->flops, s->seconds);
    bool bf16 = false;
    for (int b = 0; b < TL_BUCKETS; b++) bf16 = bf16 || s->bf16_flops[b] > 0;
    if (bf16) put_rates(&t, "bf16_flops_per_second", s->bf16_flops, s->seconds);
    put_rates(&t, "bytes_per_second", s->bytes, s->seconds);
    if (m->ranks > 1) {
        put(&t, ",\"comm\":{\"ranks\":%d,\"exposed_seconds\":", m->ranks);
        put_real(&t, s->seconds[TL_BUCKET_COMM], 6);
        put(&t, ",\"hidden_seconds\":");
        put_real(&t, tl__ledger_hidden_seconds(s, &m->traffic), 6);
        put(&t, ",\"bytes\":");
        put_real(&t, m->traffic.bytes, 0);
        put(&t, ",\"gb_per_second\":");
        put_real(&t, m->traffic.seconds > 0 ? m->traffic.bytes / m->traffic.seconds * 1e-9 : NAN, 4);
        put(&t, "}");
    }
    if (m->rss_anon_bytes >= 0) put(&t, ",\"rss_anon_bytes\":%lld", (long long)m->rss_anon_bytes);
    else put(&t, ",\"rss_anon_bytes\":null");
    if (m->gpu) {
        put(&t, ",\"gpu\":");
        t.used += (size_t)tl__gpu_print(t.out + t.used, t.size - t.used, m->gpu);
    }
    put(&t, "}\n");
    return (int)t.used;
}

/* --- the bottleneck ------------------------------------------------------------------------------------------------
 */

/* What a bucket is called in a sentence, with its verb: "80 % of the step is …". */
static const char *const is_what[TL_BUCKETS] = {
    [TL_BUCKET_MATMUL] = "matrix products",
    [TL_BUCKET_ATTENTION] = "attention",
    [TL_BUCKET_NORM] = "normalisation",
    [TL_BUCKET_ELEMENTWISE] = "elementwise work (activations, positions, residual sums)",
    [TL_BUCKET_EMBED] = "embedding look-ups",
    [TL_BUCKET_LOSS] = "softmax and cross-entropy",
    [TL_BUCKET_SAMPLE] = "drawing tokens",
    [TL_BUCKET_OPTIMIZER] = "the optimizer",
    [TL_BUCKET_COMM] = "exposed communication",
    [TL_BUCKET_DATA] = "waiting for data",
    [TL_BUCKET_EVAL] = "validation",
    [TL_BUCKET_CHECKPOINT] = "waiting for the checkpoint writer",
    [TL_BUCKET_LOG] = "writing metrics",
    [TL_BUCKET_OTHER] = "in no span",
};

/* What would help where no operator is at fault. */
static const char *const waiting_remedy[TL_BUCKETS] = {
    [TL_BUCKET_COMM] = "fewer ranks on a link, a larger --batch or another --shard would help, more cores would not",
    [TL_BUCKET_DATA] = "faster storage would help, more cores would not",
    [TL_BUCKET_EVAL] = "validating less often or on fewer tokens would help",
    [TL_BUCKET_CHECKPOINT] = "faster storage or rarer checkpoints would help, more cores would not",
    [TL_BUCKET_LOG] = "faster storage for the run folder would help, more cores would not",
    [TL_BUCKET_OTHER] =
        "the engine does not know what this time goes to; the system may be taking the CPU away (look for "
        "other work on this machine)",
};

static int percent(double part, double whole) {
    double x = 100 * part / whole + 0.5;
    return x > 0 ? (int)fmin(x, 1e6) : 0; /* a report may be made of anybody's numbers */
}

/* "412 GFLOP/s", "38.1 GB/s": three digits. */
static void rate_text(char *out, size_t size, double rate, const char *unit) {
    static const char prefixes[] = {0, 'k', 'M', 'G', 'T', 'P', 'E'};
    int p = 0;
    while (rate >= 999.5 && p < (int)sizeof prefixes - 1) rate /= 1000, p++;
    int decimals = rate < 9.995 ? 2 : rate < 99.95 ? 1 : 0;
    char prefix[2] = {prefixes[p], 0};
    snprintf(out, size, "%.*f %s%s", decimals, rate, prefix, unit);
}

double tl__ledger_hidden_seconds(const tl_totals *totals, const tl_comm_traffic *traffic) {
    double hidden = traffic->seconds - totals->seconds[TL_BUCKET_COMM];
    return hidden < 0 ? 0 : hidden;
}

/* Exposed communication: is it the link, or do ranks wait for one another? */
static void blame_link(char *out, size_t size, int share, const tl_comm_traffic *traffic, const tl_machine *machine) {
    double rate = traffic->bytes / traffic->seconds, link = machine ? machine->link_bytes_per_second : 0;
    char r[32], l[32];
    rate_text(r, sizeof r, rate, "B/s");
    rate_text(l, sizeof l, link, "B/s");
    if (!(link > 0))
        snprintf(out, size, "%d %% of the step is exposed communication at %s: %s.", share, r,
                 waiting_remedy[TL_BUCKET_COMM]);
    else if (rate / link >= 0.6)
        snprintf(out, size,
                 "%d %% of the step is exposed communication at %s, %d %% of the %s measured of the link between %d "
                 "ranks: fewer ranks on a link, a larger --batch (more work between exchanges) or another --shard "
                 "would help, more cores would not.",
                 share, r, percent(rate, link), l, machine->ranks);
    else
        snprintf(out, size,
                 "%d %% of the step is exposed communication at %s, %d %% of the %s measured of the link between %d "
                 "ranks: ranks wait for the slowest of them more than for the link; the same cores for each, "
                 "and no other work beside them, would help.",
                 share, r, percent(rate, link), l, machine->ranks);
}

void tl__ledger_bottleneck(char *out, size_t size, const tl_totals *totals, const tl_comm_traffic *traffic,
                           const tl_machine *machine) {
    double wall = totals->wall_seconds;
    if (!(wall > 0)) {
        snprintf(out, size, "No step has been measured yet.");
        return;
    }
    int b = 0;
    for (int i = 1; i < TL_BUCKETS; i++)
        if (totals->seconds[i] > totals->seconds[b]) b = i;
    double seconds = totals->seconds[b];
    int share = percent(seconds, wall);
    if (b == TL_BUCKET_COMM && traffic && traffic->bytes > 0 && traffic->seconds > 0) {
        blame_link(out, size, share, traffic, machine);
        return;
    }
    if (waiting_remedy[b] || !(seconds > 0)) {
        snprintf(out, size, "%d %% of the step is %s: %s.", share, is_what[b],
                 waiting_remedy[b] ? waiting_remedy[b] : "nothing was recorded");
        return;
    }

    double flops = totals->flops[b] / seconds, bytes = totals->bytes[b] / seconds;
    const double bf16_flops = totals->bf16_flops[b], int8_flops = totals->int8_flops[b];
    double read = machine ? machine->read_bytes_per_second : 0;
    /* The roof (Williams et al. 2009, fig. 1) is the lower of two: which of them this bucket stands under, and how
     * near. */
    const double at_peak = machine ? tl__machine_seconds(machine, totals->flops[b], bf16_flops, int8_flops) : -1;
    char f[32], by[32];
    rate_text(f, sizeof f, flops, "FLOP/s");
    rate_text(by, sizeof by, bytes, "B/s");
    if (at_peak < 0 || !(read > 0)) {
        snprintf(out, size,
                 "%d %% of the step is %s at %s and %s; this machine's peaks were not measured, so how near that is "
                 "to its limit is not known (trilith doctor measures them).",
                 share, is_what[b], f, by);
        return;
    }

    bool compute = at_peak * read >= totals->bytes[b], is_bf16 = bf16_flops > totals->flops[b] / 2,
         is_int8 = int8_flops > totals->flops[b] / 2;
    double near = compute ? at_peak / seconds : bytes / read;
    const char *bf16 =
        b == TL_BUCKET_MATMUL && !is_bf16 && !is_int8 && strstr(machine->features, "bf16") ? " or bf16" : "";
    char head[256];
    snprintf(head, sizeof head, "%d %% of the step is %s at %s, %d %% of the measured %s", share, is_what[b],
             compute ? f : by, percent(near, 1),
             !compute  ? "read bandwidth"
             : is_bf16 ? "bf16 peak"
             : is_int8 ? "int8 peak"
                       : "f32 peak");
    if (near > 1.05 && compute)
        snprintf(out, size,
                 "%s: compute-bound, and the peak was measured while the machine was busier or slower than during "
                 "the step; more cores%s would help, more memory bandwidth would not.",
                 head, bf16);
    else if (compute && near >= 0.6)
        snprintf(out, size, "%s: compute-bound; more cores%s would help, more memory bandwidth would not.", head, bf16);
    else if (compute)
        snprintf(out, size,
                 "%s: its shapes are too small or ragged to fill the cores, or other work shares them; a larger "
                 "micro-batch or wider model would use this machine better before more cores help.",
                 head);
    else if (near > 1.05)
        snprintf(out, size,
                 "%s: most of its data stays in the caches; more cores or larger caches would help, more memory "
                 "bandwidth little.",
                 head);
    else if (near >= 0.5)
        snprintf(out, size, "%s: memory-bound; more memory bandwidth or fewer bytes would help, more cores would not.",
                 head);
    else
        snprintf(out, size,
                 "%s: near neither roof, so small shapes or handing work between threads cost most; larger "
                 "micro-batches would help before more cores or bandwidth.",
                 head);

    double rest = totals->seconds[TL_BUCKET_OTHER] / wall;
    size_t used = strnlen(out, size);
    if (rest > 0.03 && used + 1 < size)
        snprintf(out + used, size - used, " Another %d %% is in no span: time that the ledger cannot explain.",
                 percent(rest, 1));
}
