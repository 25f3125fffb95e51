/* progress.c — the live line of a training run. All of it goes to standard error: results are in the run folder. */
#include "cli/progress.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "cli/cli.h"

struct tl_progress {
    bool quiet, terminal, drawn;
    int64_t last_plain_ns;
    double validation_loss;
    double smooth_loss, smooth_rate, smooth_mfu, shares[TL_BUCKETS];
    char line[512];
};

static const int64_t PLAIN_INTERVAL_NS = INT64_C(5) * 1000000000;

/* ---- numbers for people ---- */

static const char *with_commas(char out[32], int64_t n) {
    char digits[32];
    int length = snprintf(digits, sizeof digits, "%lld", (long long)n), at = 0;
    for (int i = 0; i < length; i++) {
        if (i > 0 && (length - i) % 3 == 0) out[at++] = ',';
        out[at++] = digits[i];
    }
    out[at] = 0;
    return out;
}

static const char *duration(char out[32], double seconds) {
    long s = (long)(seconds + 0.5);
    if (s >= 3600) snprintf(out, 32, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
    else snprintf(out, 32, "%ld:%02ld", s / 60, s % 60);
    return out;
}

static const char *count(char out[32], double n) {
    if (n >= 1e9) snprintf(out, 32, "%.2fB", n * 1e-9);
    else if (n >= 1e6) snprintf(out, 32, "%.1fM", n * 1e-6);
    else if (n >= 1e4) snprintf(out, 32, "%.0fk", n * 1e-3);
    else snprintf(out, 32, "%.0f", n);
    return out;
}

static const char *size(char out[32], double bytes) {
    if (bytes >= 1e9) snprintf(out, 32, "%.2f GB", bytes * 1e-9);
    else snprintf(out, 32, bytes < 1e7 ? "%.1f MB" : "%.0f MB", bytes * 1e-6);
    return out;
}

/* ---- the line ---- */

static int columns(void) {
    struct winsize w;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 20 ? w.ws_col : 100;
}

static void clear_line(void *user) {
    tl_progress *p = user;
    if (p->terminal && p->drawn) fputs("\r\033[K", stderr);
}

static void draw_line(void *user) {
    tl_progress *p = user;
    if (!p->terminal || !p->drawn) return;
    /* Cut to the terminal by characters, so that the line never wraps: multi-byte characters count once. */
    int room = columns() - 1, shown = 0;
    size_t n = 0;
    for (; p->line[n] && shown < room; n++)
        if (((unsigned char)p->line[n + 1] & 0xc0) != 0x80) shown++;
    fprintf(stderr, "\r%.*s\033[K", (int)n, p->line);
    fflush(stderr);
}

static void draw(tl_progress *p, bool plain_too) {
    if (p->terminal) {
        p->drawn = true;
        draw_line(p);
    } else if (plain_too) {
        fprintf(stderr, "%s\n", p->line);
    }
}

/* ---- what the trainer tells ---- */

static void preparing(void *user, int64_t done_bytes, int64_t total_bytes) {
    tl_progress *p = user;
    if (p->quiet || total_bytes <= 0) return;
    snprintf(p->line, sizeof p->line, "tokenising  %3.0f %% of %.1f MB",
             100.0 * (double)done_bytes / (double)total_bytes, (double)total_bytes * 1e-6);
    draw(p, false);
}

/* Two lines of a run of several ranks: what it costs them to be several, and what other ways would take. */
static void ranks(const tl_train_start *s) {
    char a[32];
    fprintf(stderr,
            "ranks    %d on %d host%s, --shard %s: %s to send and receive a step, at the %.3g GB/s measured %.3g s",
            s->shape->ranks, s->hosts, s->hosts == 1 ? "" : "s", tl__shard_kind_name(s->shape->shard),
            size(a, s->traffic->bytes), s->machine->link_bytes_per_second * 1e-9, s->traffic->seconds);
    fprintf(stderr, ", of which %.3g s exposed\n         a rank's memory with --shard", s->traffic->exposed_seconds);
    for (int i = 0; i < TL_SHARDS; i++)
        fprintf(stderr, "%s %s %s", i ? "," : "", tl__shard_kind_name((tl_shard)i),
                size(a, (double)s->memory_by_shard[i]));
    fputs("\n", stderr);
}

static void started(void *user, const tl_train_start *s) {
    tl_progress *p = user;
    char a[32], b[32], c[32], d[32];
    if (p->quiet) return;
    clear_line(p);
    p->drawn = false;
    fprintf(stderr, "model    %s, %s parameters: %d layers, %d wide, %d heads, %d tokens in the vocabulary\n",
            s->arch->family, count(a, (double)s->params), s->arch->L, s->arch->C, s->arch->H, s->arch->V);
    fprintf(stderr, "data     %s tokens of %s (%s), %s training sequences of %d, %s for validation\n",
            count(a, (double)s->data->tokens), size(b, (double)s->data->bytes), s->tokenizer,
            with_commas(c, s->data->train_samples), s->shape->T, with_commas(d, s->data->val_samples));
    fprintf(stderr, "machine  %s, %d thread%s, %s: %.0f GFLOP/s %s and %.0f GB/s measured\n", s->machine->cpu,
            s->machine->threads, s->machine->threads == 1 ? "" : "s", s->machine->isa,
            tl__machine_peak(s->machine, s->contract) * 1e-9, tl__contract_names[s->contract],
            s->machine->read_bytes_per_second * 1e-9);
    fprintf(stderr, "memory   %s at most: weights %s, gradients %s, moments %s", size(a, (double)s->memory->total),
            size(b, (double)s->memory->weights), size(c, (double)s->memory->gradients),
            size(d, (double)s->memory->moments));
    if (s->memory->average) fprintf(stderr, ", average %s", size(a, (double)s->memory->average));
    fprintf(stderr, ", activations %s\n", size(a, (double)s->memory->activations));
    fputs("         with --recompute", stderr);
    for (int i = 0, said = 0; i < TL_RECOMPUTES; i++)
        if (i != (int)s->shape->recompute)
            fprintf(stderr, "%s %s %s", said++ ? "," : "", tl__recompute_name((tl_recompute)i),
                    size(a, (double)s->memory_by_recompute[i]));
    fputs("\n", stderr);
    if (s->shape->ranks > 1) ranks(s);
    const tl_train_config *how = s->config;
    double tokens = (double)s->steps * s->shape->batch * s->shape->T;
    if (how->depth > 0) /* what it stands for: docs/depth.md */
        fprintf(
            stderr,
            "depth    %lld: %d wide, %d heads of %d; batch %lld × %d, learning rate %g, weight decay %g, %.3g tokens "
            "a parameter\n",
            (long long)how->depth, s->arch->C, s->arch->H, s->arch->D, (long long)how->batch, s->shape->T, how->lr,
            how->adamw.weight_decay, tokens / (double)s->params);
    fprintf(stderr, "plan     %s steps of %s tokens, %.2g model FLOPs", with_commas(a, s->steps),
            with_commas(b, (int64_t)s->shape->batch * s->shape->T), s->flops);
    double passes = tokens / ((double)s->data->train_samples * s->shape->T);
    if (passes > 1.05) fprintf(stderr, ", %.3g passes over the data", passes);
    if (s->seconds->wall_seconds > 0)
        fprintf(stderr, "; no step can take less than %.3f s, so the run takes at least %s", s->seconds->wall_seconds,
                duration(c, s->seconds->wall_seconds * (double)(s->steps - s->first_step + 1)));
    fputs("\n", stderr);
}

static double blend(double old, double now) {
    return old > 0 ? 0.9 * old + 0.1 * now : now;
}

static void step(void *user, const tl_step_metrics *m, int64_t steps, double seconds_left) {
    tl_progress *p = user;
    char rate[32], left[32];
    if (p->quiet) return;
    if (!isnan(m->validation_loss)) p->validation_loss = m->validation_loss;
    if (isfinite(m->loss)) p->smooth_loss = blend(p->smooth_loss, m->loss);
    p->smooth_rate = blend(p->smooth_rate, m->tokens_per_second);
    p->smooth_mfu = blend(p->smooth_mfu, m->mfu);
    int order[3] = {-1, -1, -1};
    for (int b = 0; b < TL_BUCKETS; b++) {
        p->shares[b] = 0.9 * p->shares[b] + 0.1 * m->totals.seconds[b] / m->totals.wall_seconds;
        for (int i = 0; i < 3; i++) {
            if (order[i] >= 0 && p->shares[b] <= p->shares[order[i]]) continue;
            for (int j = 2; j > i; j--) order[j] = order[j - 1];
            order[i] = b;
            break;
        }
    }
    double sum = 0;
    for (int b = 0; b < TL_BUCKETS; b++) sum += p->shares[b];
    int n = snprintf(p->line, sizeof p->line, "step %lld/%lld  loss %.3f", (long long)m->step, (long long)steps,
                     p->smooth_loss);
    if (!isnan(p->validation_loss))
        n += snprintf(p->line + n, sizeof p->line - (size_t)n, "  val %.3f", p->validation_loss);
    n += snprintf(p->line + n, sizeof p->line - (size_t)n, "  %s tok/s  MFU %.0f %%  ",
                  with_commas(rate, (int64_t)p->smooth_rate), 100 * p->smooth_mfu);
    for (int i = 0; i < 3; i++)
        n += snprintf(p->line + n, sizeof p->line - (size_t)n, "%s%s %.0f %%", i ? " · " : "",
                      tl__bucket_name((tl_bucket)order[i]), sum > 0 ? 100 * p->shares[order[i]] / sum : 0.0);
    snprintf(p->line + n, sizeof p->line - (size_t)n, "  left %s", duration(left, seconds_left));
    int64_t now = tl__now_ns();
    bool plain = m->step == steps || m->step == 1 || now - p->last_plain_ns >= PLAIN_INTERVAL_NS;
    if (plain) p->last_plain_ns = now;
    draw(p, plain);
}

static void sample(void *user, int64_t at, const char *prompt, const char *text) {
    tl_progress *p = user;
    if (p->quiet) return;
    clear_line(p);
    fprintf(stderr, "%ssample at step %lld: %s", p->terminal ? "\n" : "", (long long)at, p->terminal ? "\033[2m" : "");
    tl__cli_show(stderr, prompt, strlen(prompt), p->terminal);
    if (p->terminal) fputs("\033[0m", stderr);
    tl__cli_show(stderr, text, strlen(text), p->terminal);
    fputs(p->terminal ? "\n\n" : "\n", stderr);
    draw_line(p);
}

/* ---- opening and ending ---- */

tl_progress *tl__progress_open(bool quiet) {
    tl_progress *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    p->quiet = quiet;
    p->terminal = isatty(STDERR_FILENO);
    p->validation_loss = NAN;
    tl__log_hooks(clear_line, draw_line, p);
    return p;
}

void tl__progress_close(tl_progress *p) {
    if (!p) return;
    if (p->terminal && p->drawn) fputs("\n", stderr);
    tl__log_hooks(NULL, NULL, NULL);
    free(p);
}

static void failed(void *user, const tl_error *err) {
    tl_progress *p = user;
    if (p->terminal && p->drawn) fputs("\n", stderr);
    p->drawn = false;
    tl__cli_say("trilith train", err->text);
}

tl_train_observer tl__progress_observer(tl_progress *p) {
    return (tl_train_observer){
        .user = p, .preparing = preparing, .started = started, .step = step, .sample = sample, .failed = failed};
}

void tl__progress_end(tl_progress *p, const tl_train_config *config, const tl_train_outcome *o) {
    if (p->terminal && p->drawn) fputs("\n", stderr);
    p->drawn = false;
    if (o->stopped)
        fprintf(stderr, "stopped after step %lld as asked, with a checkpoint in %s; continue with --resume\n",
                (long long)o->steps, o->checkpoint);
    if (p->quiet || o->stopped) return;
    fprintf(stderr, "done     %lld steps, loss %.4f", (long long)o->steps, o->loss);
    if (!isnan(o->validation_loss))
        fprintf(stderr, ", validation %.4f (%.3f bits a byte)", o->validation_loss, o->bits_per_byte);
    fputs("\n", stderr);
    if (o->bottleneck[0]) fprintf(stderr, "where    %s\n", o->bottleneck);
    if (o->checkpoint[0]) fprintf(stderr, "model    %s\n", o->checkpoint);
    fprintf(stderr, "report   %s/report.html\n", config->out);
}
