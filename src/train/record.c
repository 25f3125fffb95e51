/* record.c — what a run writes down about itself: the settings that determine its bits, its plan and what became of it,
 * samples. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "infer/sampler.h"
#include "observe/report.h"
#include "observe/trace.h"
#include "train/run.h"

static const char *const schedule_names[] = {"cosine", "linear", "wsd", "constant"};

static json_t *real_or_null(double x) {
    return isfinite(x) ? json_real(x) : json_null();
}

/* ---- settings ---- */

/* Not here because they change no bit: threads, micro-batch, recomputation, instruction set, checkpoint and validation
 * intervals. */
json_t *tl__run_settings(const tl_run *run) {
    const tl_train_config *c = run->config;
    char tokenizer[33];
    tl__tokenizer_hash(run->tokenizer, tokenizer);
    char *arch_text = tl__arch_config_json(&run->model.arch);
    json_t *arch = arch_text ? tl__json_parse(arch_text, strlen(arch_text), "config.json", NULL) : NULL;
    free(arch_text);
    if (!arch) return NULL;
    json_t *s = json_object();
    json_object_set_new(s, "contract", json_string(tl__contract_names[c->contract]));
    json_object_set_new(s, "kb", json_integer(TL_KB));
    json_object_set_new(s, "tokenizer_name", json_string(run->tokenizer_name));
    json_object_set_new(s, "tokenizer", json_string(tokenizer));
    json_object_set_new(s, "initial_weights", json_string(c->model));
    json_object_set_new(s, "model", arch);
    json_object_set_new(s, "batch", json_integer(c->batch));
    json_object_set_new(s, "seq", json_integer(c->seq));
    json_object_set_new(s, "leaves", json_integer(c->leaves));
    json_object_set_new(s, "steps", json_integer(run->schedule.steps));
    json_object_set_new(s, "schedule", json_string(schedule_names[c->schedule]));
    json_object_set_new(s, "lr", json_real(c->lr));
    json_object_set_new(s, "min_lr_ratio", json_real(c->min_lr_ratio));
    json_object_set_new(s, "warmup_steps", json_integer(run->schedule.warmup_steps));
    json_object_set_new(s, "decay_fraction", json_real(c->decay_fraction));
    bool muon = c->optimizer == TL_OPTIMIZER_MUON;
    json_object_set_new(s, "optimizer", json_string(muon ? "muon" : "adamw"));
    if (muon) {
        json_object_set_new(s, "muon_lr", json_real(c->muon_lr > 0 ? c->muon_lr : c->lr));
        json_object_set_new(s, "muon_momentum", json_real(c->muon_momentum));
    }
    if (c->z_loss > 0) json_object_set_new(s, "z_loss", json_real(c->z_loss));
    if (c->ema > 0) json_object_set_new(s, "ema", json_real(c->ema));
    json_object_set_new(s, "beta1", json_real(c->adamw.beta1));
    json_object_set_new(s, "beta2", json_real(c->adamw.beta2));
    json_object_set_new(s, "eps", json_real(c->adamw.eps));
    json_object_set_new(s, "weight_decay", json_real(c->adamw.weight_decay));
    json_object_set_new(s, "clip", json_real(c->adamw.clip));
    if (run->model.arch.E > 0) { /* router_aux_loss_coef is in the model's own record */
        json_object_set_new(s, "router_aux", json_real(run->model.arch.router_aux_coef));
        json_object_set_new(s, "router_z", json_real(run->model.arch.router_z_coef));
    }
    json_object_set_new(s, "seed", json_integer((json_int_t)c->seed));
    json_object_set_new(s, "document_mask", json_boolean(c->document_mask));
    json_object_set_new(s, "val_fraction", json_real(c->val_fraction));
    /* Last, since it follows from others too: the first difference is the one that is named. */
    json_object_set_new(s, "data", json_string(tl__dataset_facts(run->data)->hash));
    return s;
}

/* ---- plan.json ---- */

/* Of all ranks, taken as alike. */
static double peak(const tl_run *run) {
    return tl__machine_peak(&run->machine, run->ctx.contract) * run->ranks;
}

static json_t *record_model(const tl_run *run) {
    const tl_arch *a = &run->model.arch;
    return json_pack("{s:s,s:I,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:s}", "family", a->family, "params",
                     (json_int_t)run->model.params.count, "layers", a->L, "width", a->C, "heads", a->H, "kv_heads",
                     a->Hkv, "feed_forward", a->F, "vocabulary", a->V, "sequence", run->shape.T, "tokenizer",
                     run->tokenizer_name);
}

/* What ranks exchange in a step. */
static json_t *record_traffic(double exposed, double hidden, double bytes) {
    return json_pack("{s:o,s:o,s:o}", "exposed_seconds", real_or_null(exposed), "hidden_seconds", real_or_null(hidden),
                     "bytes", real_or_null(bytes));
}

static json_t *record_predicted(const tl_run *run) {
    const tl_train_bytes *b = &run->bytes;
    double seconds = run->seconds.wall_seconds;
    double tokens = (double)run->shape.batch * run->shape.T;
    double model_flops = tl__arch_model_flops_per_token(&run->model.arch, run->shape.T);
    char bottleneck[512];
    const tl_train_traffic *t = &run->expected_traffic;
    tl_comm_traffic traffic = {.bytes = t->bytes, .seconds = t->seconds};
    tl__ledger_bottleneck(bottleneck, sizeof bottleneck, &run->seconds, &traffic, &run->machine);
    json_t *memory = json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "weights", (json_int_t)b->weights, "gradients",
                               (json_int_t)b->gradients, "moments", (json_int_t)b->moments, "activations",
                               (json_int_t)b->activations, "scratch", (json_int_t)b->scratch, "sampling",
                               (json_int_t)b->sampling, "program", (json_int_t)b->program);
    if (b->average > 0) json_object_set_new(memory, "average", json_integer(b->average));
    json_t *modes = json_object();
    for (int i = 0; i < TL_RECOMPUTES; i++)
        json_object_set_new(modes, tl__recompute_name((tl_recompute)i), json_integer(run->bytes_by_recompute[i]));
    json_t *predicted =
        json_pack("{s:I,s:f,s:I,s:o,s:s,s:o,s:o,s:o,s:o,s:o,s:s}", "steps", (json_int_t)run->schedule.steps,
                  "model_flops", model_flops * tokens * (double)run->schedule.steps, "peak_bytes", (json_int_t)b->total,
                  "memory", memory, "recompute", tl__recompute_name(run->shape.recompute), "peak_bytes_by_recompute",
                  modes, "step_seconds", real_or_null(seconds), "tokens_per_second", real_or_null(tokens / seconds),
                  "mfu", real_or_null(model_flops * tokens / seconds / peak(run)), "seconds",
                  real_or_null(seconds * (double)run->schedule.steps), "bottleneck", bottleneck);
    if (run->ranks > 1) {
        json_t *shards = json_object(),
               *comm = record_traffic(t->exposed_seconds, fmax(0, t->seconds - t->exposed_seconds), t->bytes);
        for (int i = 0; i < TL_SHARDS; i++)
            json_object_set_new(shards, tl__shard_kind_name((tl_shard)i), json_integer(run->bytes_by_shard[i]));
        json_object_set_new(comm, "exchanges", json_integer(t->exchanges));
        json_object_set_new(predicted, "peak_bytes_by_shard", shards);
        json_object_set_new(predicted, "comm", comm);
    }
    return predicted;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median_of(double *values, int64_t n) {
    qsort(values, (size_t)n, sizeof *values, by_value);
    return n > 0 ? values[n / 2] : NAN;
}

/* What the warm steps took, each part the middle one of all: what disturbed one of them, and no two alike, is left out.
 */
static void middle_step(const tl_run *run, tl_totals *seen, tl_comm_traffic *traffic) {
    double ahead[TL_WARM_STEPS], back[TL_WARM_STEPS], under_way[TL_WARM_STEPS];
    int n = run->warm_n;
    *seen = (tl_totals){0};
    for (int b = 0; b < TL_BUCKETS; b++) {
        for (int i = 0; i < n; i++) {
            const tl_totals *t = &run->warm[i].totals;
            back[i] = t->backward_seconds[b], ahead[i] = t->seconds[b] - back[i];
        }
        seen->backward_seconds[b] = median_of(back, n);
        seen->seconds[b] = median_of(ahead, n) + seen->backward_seconds[b];
    }
    for (int i = 0; i < n; i++) under_way[i] = run->warm[i].traffic.seconds;
    *traffic = (tl_comm_traffic){.bytes = run->warm[0].traffic.bytes, .seconds = median_of(under_way, n)};
}

/* The prediction again, at the pace of the warm steps. */
static json_t *record_learnt(const tl_run *run) {
    tl_machine machine = run->machine;
    tl_totals seen, seconds;
    tl_comm_traffic traffic;
    tl_train_traffic t;
    double tokens = (double)run->shape.batch * run->shape.T;
    if (run->warm_n == 0) return NULL;
    middle_step(run, &seen, &traffic);
    if (tl__machine_learn(&machine, &run->model.arch, &run->shape, &run->seconds, &run->expected_traffic, &seen,
                          &traffic, NULL))
        return NULL;
    if (tl__train_predict_ranks(&seconds, &t, &run->model.arch, &run->shape, &machine, NULL)) return NULL;
    json_t *learnt =
        json_pack("{s:i,s:o,s:o}", "learnt_from_steps", run->warm_n, "step_seconds", real_or_null(seconds.wall_seconds),
                  "tokens_per_second", real_or_null(tokens / seconds.wall_seconds));
    if (run->ranks > 1)
        json_object_set_new(learnt, "comm",
                            record_traffic(t.exposed_seconds, fmax(0, t.seconds - t.exposed_seconds), t.bytes));
    return learnt;
}

static json_t *record_happened(const tl_run *run, const tl_train_outcome *o) {
    double tokens = (double)run->shape.batch * run->shape.T;
    double median = median_of(run->step_seconds, run->step_seconds_n);
    double model_flops = tl__arch_model_flops_per_token(&run->model.arch, run->shape.T);
    json_t *h = json_pack("{s:I,s:I,s:I,s:s}", "steps", (json_int_t)o->steps, "peak_bytes", (json_int_t)o->peak_bytes,
                          "skipped_steps", (json_int_t)o->skipped, "bottleneck", o->bottleneck);
    json_object_set_new(h, "model_flops", json_real(model_flops * tokens * (double)o->steps));
    json_object_set_new(h, "tokens", json_integer(run->state.tokens));
    json_object_set_new(h, "step_seconds", real_or_null(median));
    json_object_set_new(h, "tokens_per_second", real_or_null(tokens / median));
    json_object_set_new(h, "mfu", real_or_null(model_flops * tokens / median / peak(run)));
    json_object_set_new(h, "seconds", real_or_null(run->state.train_seconds));
    json_object_set_new(h, "loss", real_or_null(o->loss));
    json_object_set_new(h, "validation_loss", real_or_null(o->validation_loss));
    json_object_set_new(h, "bits_per_byte", real_or_null(o->bits_per_byte));
    if (run->ranks > 1) {
        int64_t n = run->step_seconds_n, steps = run->schedule.steps;
        double *comm = run->step_comm;
        json_object_set_new(
            h, "comm", record_traffic(median_of(comm, n), median_of(comm + steps, n), median_of(comm + 2 * steps, n)));
    }
    tl_saver_work work = tl__saver_work(run->saver);
    if (work.saves > 0)
        json_object_set_new(h, "checkpoints",
                            json_pack("{s:I,s:f,s:f,s:f}", "saves", (json_int_t)work.saves, "bytes", work.bytes,
                                      "write_seconds", work.seconds, "stalled_seconds", run->stalled_seconds));
    return h;
}

/* Who computed it, by rank; nothing of a process alone. */
static void record_ranks(const tl_run *run, json_t *about) {
    int ranks = tl__comm_size(run->comm, TL_AXIS_DP);
    if (ranks < 2) return;
    json_t *hosts = json_array();
    for (int r = 0; r < ranks; r++) json_array_append_new(hosts, json_string(tl__comm_host(run->comm, r)));
    json_object_set_new(about, "ranks", json_integer(ranks));
    json_object_set_new(about, "hosts", hosts);
    json_object_set_new(about, "shard", json_string(tl__shard_kind_name(run->shape.shard)));
}

int tl__run_put_plan(tl_run *run, const char *status, const tl_train_outcome *outcome, tl_error *err) {
    json_t *files = json_array();
    for (int i = 0; i < run->config->n_data; i++) json_array_append_new(files, json_string(run->config->data[i]));
    json_t *about =
        json_pack("{s:s,s:s,s:s,s:s,s:s,s:o}", "name", run->run_name, "version", tl_version(), "started", run->started,
                  "status", status, "dtype", tl__contract_names[run->ctx.contract], "data", files);
    json_t *plan = json_object();
    record_ranks(run, about);
    if (outcome) {
        char now[32];
        tl__utc_iso8601(now, sizeof now);
        json_object_set_new(about, "finished", json_string(now));
        json_t *learnt = record_learnt(run);
        json_object_set_new(plan, "happened", record_happened(run, outcome));
        if (learnt) json_object_set_new(plan, "predicted_again", learnt);
    }
    json_object_set_new(plan, "run", about);
    json_object_set_new(plan, "model", record_model(run));
    json_object_set_new(plan, "machine", tl__machine_json(&run->machine));
    json_object_set_new(plan, "predicted", record_predicted(run));
    int result = tl__run_folder_put(&run->folder, "plan.json", plan, err);
    json_decref(plan);
    return result;
}

void tl__run_put_report(tl_run *run) {
    char path[4096];
    tl_error err = {0};
    const tl_span *spans;
    int n = tl__spans_list(run->ctx.spans, &spans);
    tl__run_folder_path(&run->folder, path, sizeof path, "trace.json");
    if (tl__trace_write(path, spans, n, tl__comm_rank(run->comm, TL_AXIS_DP), run->run_name, &err))
        tl__warn("no trace: %s", err.text);
    if (tl__report_write(run->folder.path, &err)) tl__warn("no report: %s", err.text);
}

/* ---- samples ---- */

int tl__run_sample(tl_run *run, tl_error *failure) {
    const tl_train_config *c = run->config;
    tl_exchange exchange;
    if (!run->session) return 0;
    tl__exchange_open(&exchange, &run->ctx, run->comm, &run->model, &run->memory, &run->shape);
    tl__session_lend(run->session, &exchange.blocks);
    const tl_arch *a = &run->model.arch;
    tl_sampling how = {.temperature = 0.8f, .top_k = 0, .top_p = 0.95f, .min_p = 0, .seed = c->seed};
    tl_decoder decoder = {0};
    tl_error err = {0};
    size_t n = 0;
    tl__session_rewind(run->session, 0);
    int status = tl__session_append(run->session, run->prompt, run->prompt_n, run->logits, &err);
    for (int64_t i = 0; !status && i < c->sample_tokens; i++) {
        int position = tl__session_length(run->session);
        int32_t id = tl__sample(&run->ctx, &how, NULL, run->logits, a->V, position, run->sampler_scratch, NULL);
        if (id == a->eos) break;
        n += tl__decoder_push(run->tokenizer, &decoder, id, true, run->text + n);
        if (i + 1 < c->sample_tokens)
            status = position < a->max_positions - 1 ? tl__session_append(run->session, &id, 1, run->logits, &err) : 1;
    }
    n += tl__decoder_finish(&decoder, run->text + n);
    run->text[n] = 0;
    tl__session_lend(run->session, NULL);
    TRY(tl__exchange_close(&exchange, failure));
    if (run->rank > 0) return 0;

    /* {"step": …, "prompt": …, "text": …} */
    char prompt[2048];
    size_t prompt_n = 0;
    decoder = (tl_decoder){0};
    for (int i = 0; i < run->prompt_n && prompt_n + tl__tokenizer_decode_room(run->tokenizer) < sizeof prompt; i++)
        prompt_n += tl__decoder_push(run->tokenizer, &decoder, run->prompt[i], true, prompt + prompt_n);
    prompt[prompt_n] = 0;
    int at = snprintf(run->line, run->line_bytes, "{\"step\": %lld, \"prompt\": ", (long long)run->state.step);
    int wrote = tl__json_quote(run->line + at, run->line_bytes - (size_t)at, prompt, prompt_n);
    if (wrote < 0) return 0;
    at += wrote;
    at += snprintf(run->line + at, run->line_bytes - (size_t)at, ", \"text\": ");
    wrote = tl__json_quote(run->line + at, run->line_bytes - (size_t)at, run->text, n);
    if (wrote < 0) return 0;
    at += wrote;
    at += snprintf(run->line + at, run->line_bytes - (size_t)at, "}\n");
    tl__run_folder_sample(&run->folder, run->line, (size_t)at);
    if (run->observer->sample) run->observer->sample(run->observer->user, run->state.step, prompt, run->text);
    return 0;
}
