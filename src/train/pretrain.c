/* pretrain.c — the loop: a batch, its gradient, the update, and everything that may interrupt them.
 *
 * The order within a step is what makes kill -9 harmless: the update waits until the checkpoint writer has read the
 * state before it; a metrics line is written before the checkpoint that counts it; the checkpoint exists when its
 * manifest does. */
#include "train/pretrain.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "io/file.h"
#include "train/checkpoint_format.h"
#include "train/run.h"

static volatile sig_atomic_t stop_requested;

void tl__pretrain_request_stop(void) {
    stop_requested = 1;
}

/* ---- validation ---- */

/* Mean loss over the first val_samples validation windows, each computed by one rank and added in their order. Its
 * operators are not in the ledger one by one: the whole is "eval". */
static int evaluate(tl_run *run, const tl_model *model, double *loss, tl_error *err) {
    int64_t samples = tl__dataset_facts(run->data)->val_samples;
    if (samples > run->config->val_samples) samples = run->config->val_samples;
    tl_spans *spans = run->ctx.spans;
    int64_t at_once = run->shape.micro_batch, stride = at_once * run->ranks;
    double sum = 0, counted = 0, *sums = run->validation;
    int status = 0;
    tl__spans_set(spans, -1, -1);
    tl__span_begin(spans, "evaluate", TL_BUCKET_EVAL);
    run->ctx.spans = NULL;
    memset(sums, 0, sizeof *sums * 2 * (size_t)samples);
    tl_exchange exchange;
    tl__exchange_open(&exchange, &run->ctx, run->comm, model, &run->memory, &run->shape);
    run->memory.acts.blocks = &exchange.blocks;
    bool gathers = run->shape.shard == TL_SHARD_ZERO3; /* which needs all ranks in step */
    for (int64_t at = 0; !status && at < samples; at += stride) {
        int64_t i = at + at_once * run->rank;
        bool idle = i >= samples; /* then one more window */
        double unused[2];
        if (idle && !gathers) break;
        int n = idle ? 1 : (int)(samples - i < at_once ? samples - i : at_once);
        status = tl__run_load_validation(run, idle ? 0 : i, n, err);
        if (!status) tl__step_evaluate(&run->ctx, model, &run->memory, n, run->shape.T, idle ? unused : sums + 2 * i);
    }
    run->memory.acts.blocks = NULL;
    if (!status) status = tl__exchange_close(&exchange, err);
    if (!status) status = tl__exchange_sum(&exchange, sums, 2 * samples, err);
    for (int64_t i = 0; i < samples; i++) sum += sums[2 * i], counted += sums[2 * i + 1];
    run->ctx.spans = spans;
    tl__span_end(spans, 0, 0, samples, run->shape.T, 0);
    *loss = counted > 0 ? sum / counted : NAN;
    return status;
}

static int take_sample(tl_run *run, tl_error *err) {
    tl_spans *spans = run->ctx.spans;
    tl__span_begin(spans, "sample", TL_BUCKET_EVAL);
    run->ctx.spans = NULL;
    int status = tl__run_sample(run, err);
    run->ctx.spans = spans;
    tl__span_end(spans, 0, 0, 0, 0, 0);
    return status;
}

/* ---- checkpoints ---- */

static bool is_lost(int status) {
    return status == TL_ECOMM || status == TL_ESTOPPED || status == TL_EDIVERGED;
}

/* A save that failed has been undone (saver.c, V4): say so, once, and go on; the next one may find room again. Not so
 * where ranks have lost each other. */
static int outlive(tl_run *run, int status, const tl_error *failure, tl_error *err) {
    if (is_lost(status)) {
        if (err) *err = *failure;
        return status;
    }
    if (status && run->rank == 0)
        tl__warn("a checkpoint failed and was undone: %s; earlier ones are intact, the run goes on", failure->text);
    return 0;
}

static int begin_checkpoint(tl_run *run, tl_error *err) {
    tl_error failure = {0};
    tl__span_begin(run->ctx.spans, "checkpoint", TL_BUCKET_CHECKPOINT);
    int status = outlive(run, tl__saver_wait_published(run->saver, &failure), &failure, err);
    run->state.metrics_bytes = run->folder.metrics_bytes;
    run->state.texts_bytes = run->folder.samples_bytes;
    if (!status) tl__saver_start(run->saver, &run->state);
    tl__faults_act(&run->faults, TL_AT_CHECKPOINT, run->state.step, NULL, 0);
    tl__span_end(run->ctx.spans, 0, 0, run->state.step, 0, 0);
    return status;
}

/* The last one: here a failure is the run's. */
static int final_checkpoint(tl_run *run, bool begun, tl_error *err) {
    if (!begun) TRY(begin_checkpoint(run, err));
    int status = tl__saver_wait_published(run->saver, err);
    if (!status || is_lost(status)) return status;
    run->told = true; /* all ranks hear of it, and rank 0 says it */
    if (run->rank == 0) tl__error_prefix(err, "the last checkpoint failed and was undone; earlier ones are intact");
    else if (err) err->text[0] = 0;
    return status;
}

/* ---- one step ---- */

/* What an update has sent is here, for whoever reads weights as they lie. */
static int settle_weights(tl_run *run, tl_error *err) {
    return tl__exchange_settle(&run->ctx, run->comm, &run->model, &run->memory, &run->shape, err);
}

/* Of the last step's weights, which the next update overwrites: until then the ranks' exchange of them may last. */
static void note_weights(tl_run *run) {
    tl__agree_note(&run->agree, &run->ctx, &run->model, run->state.step);
}

static int step_once(tl_run *run, tl_step_metrics *m, tl_error *err) {
    const tl_train_config *c = run->config;
    tl_step_result result;
    int64_t step = run->state.step + 1;
    tl__spans_set(run->ctx.spans, (int)step, -1);
    tl__faults_act(&run->faults, TL_AT_BEGIN, step, NULL, 0);

    tl__span_begin(run->ctx.spans, "load_batch", TL_BUCKET_DATA);
    int status = tl__run_load_batch(run, run->state.samples, err);
    tl__span_end(run->ctx.spans, 0, 0, run->shape.batch, run->shape.T, 0);
    if (!status) status = tl__step_gradient(&run->ctx, run->comm, &run->model, &run->memory, &run->shape, &result, err);
    if (status) return status;
    tl__faults_act(&run->faults, TL_AT_GRADIENT, step, run->memory.grad[0], run->memory.grad_count);

    tl_error save_error = {0};
    tl__span_begin(run->ctx.spans, "wait_for_checkpoint", TL_BUCKET_CHECKPOINT);
    status = outlive(run, tl__saver_wait_read(run->saver, &save_error), &save_error, err);
    tl__span_end(run->ctx.spans, 0, 0, 0, 0, 0);
    if (status) return status;

    note_weights(run);
    double rate = tl__schedule_rate(&run->schedule, step);
    bool finite = isfinite(result.loss) && isfinite(result.grad_norm);
    if (finite) {
        run->state.updates++;
        run->state.skipped_in_a_row = 0;
        tl_muon_settings muon = {.momentum = c->muon_momentum,
                                 .rate_ratio = c->muon_lr > 0 && c->lr > 0 ? c->muon_lr / c->lr : 1};
        TRY(tl__step_update(&run->ctx, run->comm, &run->model, &run->memory, &run->shape, &c->adamw, &muon, rate,
                            result.grad_norm, run->state.updates, err));
        if (run->memory.average || run->faults.n > 0) TRY(settle_weights(run, err));
        if (run->memory.average) tl__step_average(&run->ctx, &run->model, &run->memory, c->ema, run->state.updates);
        run->last_loss = result.loss;
    } else {
        run->state.skipped++;
        run->state.skipped_in_a_row++;
        if (run->rank == 0)
            tl__warn("step %lld: the %s is not finite; the update is skipped (%lld in a row)", (long long)step,
                     isfinite(result.loss) ? "gradient" : "loss", (long long)run->state.skipped_in_a_row);
    }
    tl__faults_act(&run->faults, TL_AT_UPDATE, step, NULL, 0);
    tl__faults_act(&run->faults, TL_AT_WEIGHTS, step, run->model.flat, run->model.flat_count);
    run->state.step = step;
    run->state.samples += run->shape.batch;
    run->state.tokens += result.tokens;
    *m = (tl_step_metrics){.step = step,
                           .loss = result.loss,
                           .z_loss = result.z_loss,
                           .validation_loss = NAN,
                           .grad_norm = result.grad_norm,
                           .learning_rate = rate,
                           .tokens = result.tokens,
                           .tokens_total = run->state.tokens,
                           .expert_load = run->memory.expert_load,
                           .expert_layers = tl__moe_layers(&run->model.arch),
                           .balance_loss = result.balance_loss,
                           .router_z_loss = result.router_z_loss,
                           .skipped = !finite};
    return 0;
}

/* Close the step's ledger and write its line. */
static void record_step(tl_run *run, tl_step_metrics *m, double model_flops) {
    static char line[16384]; /* one engine thread, one run at a time */
    m->totals = tl__spans_take(run->ctx.spans);
    tl__span_begin(run->ctx.spans, "record", TL_BUCKET_LOG);
    m->tokens_per_second = (double)m->tokens / m->totals.wall_seconds;
    double peak = tl__machine_peak(&run->machine, run->ctx.contract) * run->ranks;
    m->mfu = peak > 0 ? m->tokens_per_second * model_flops / peak : NAN;
    m->ranks = run->ranks;
    m->traffic = tl__comm_take_traffic(run->comm);
    run->traffic.bytes += m->traffic.bytes, run->traffic.seconds += m->traffic.seconds;
    m->rss_anon_bytes = tl__rss_anon_bytes();
    if (m->rss_anon_bytes > run->peak_bytes) run->peak_bytes = m->rss_anon_bytes;
    if (run->gpu) tl__gpu_last(run->gpu, &run->gpu_sample), m->gpu = &run->gpu_sample;
    run->state.train_seconds += m->totals.wall_seconds;
    if (run->ranks > 1) {
        double *comm = run->step_comm + run->step_seconds_n;
        comm[0] = m->totals.seconds[TL_BUCKET_COMM];
        comm[run->schedule.steps] = tl__ledger_hidden_seconds(&m->totals, &m->traffic);
        comm[2 * run->schedule.steps] = m->traffic.bytes;
    }
    run->step_seconds[run->step_seconds_n++] = m->totals.wall_seconds;
    run->stalled_seconds += m->totals.seconds[TL_BUCKET_CHECKPOINT];
    if (run->step_seconds_n >= 2 && run->warm_n < TL_WARM_STEPS) run->warm[run->warm_n++] = *m;
    if (run->rank == 0) {
        int n = tl__metrics_line(line, sizeof line, m);
        tl__run_folder_metrics(&run->folder, line, (size_t)n);
    }
    tl__span_end(run->ctx.spans, 0, 0, 0, 0, 0);
}

/* A request to stop comes to ranks at different times, as does the end of writing a checkpoint's part: they stop, and
 * publish, together, after the step that begins with one rank, and with all, knowing. The sums travel beside the step's
 * work. */
static int ask_others(tl_run *run, tl_error *err) {
    run->stop[0] = stop_requested;
    run->stop[1] = tl__saver_written(run->saver);
    tl__comm_set_step(run->comm, run->state.step + 1);
    return tl__comm_sum_f64_start(run->comm, TL_AXIS_DP, run->stop, 2, &run->stop_ticket, err);
}

static int hear_others(tl_run *run, bool *asked, tl_error *err) {
    tl_error failure = {0};
    tl__span_begin(run->ctx.spans, "stop", TL_BUCKET_COMM);
    int status = tl__comm_wait(run->comm, run->stop_ticket, tl__comm_patience(run->comm), err);
    tl__span_end(run->ctx.spans, 0, 0, 0, 0, 0);
    *asked = run->stop[0] > 0 || (run->ranks == 1 && stop_requested);
    if (status || run->stop[1] < run->ranks) return status;
    tl__span_begin(run->ctx.spans, "settle_checkpoint", TL_BUCKET_CHECKPOINT);
    status = outlive(run, tl__saver_settle(run->saver, &failure), &failure, err);
    tl__span_end(run->ctx.spans, 0, 0, 0, 0, 0);
    return status;
}

/* The ranks' weights differ, and there are too few to tell whose are wrong: all go back to the newest checkpoint, which
 * was compared before it was written, and come here again. A fault that does not come again shows who had it. The steps
 * are those that resuming will take anyway. TL_EDIVERGED, in err who is wrong where that is known now; else ranks have
 * lost each other, which leaves err as it was. */
static int replay(tl_run *run, tl_error *err) {
    int64_t step = run->state.step;
    tl_error failure = {0};
    tl_step_metrics unused;
    int status = tl__run_rewind(run, &failure);
    int64_t from = run->state.step;
    run->agree.replaying = true;
    if (!status && run->rank == 0)
        tl__info("ranks differ at step %lld: all take the steps from %lld again, to see whose weights were wrong",
                 (long long)step, (long long)from);
    while (!status && run->state.step < step) {
        tl__comm_set_step(run->comm, run->state.step + 1);
        status = step_once(run, &unused, &failure);
    }
    if (!status) status = settle_weights(run, &failure);
    if (!status) note_weights(run);
    return status ? status : tl__agree_replayed(&run->agree, run->comm, from, step, err);
}

/* All ranks compare what they have and compute. A difference is known to all at once, and told of by one. */
static int compare_ranks(tl_run *run, tl_error *err) {
    tl_train_memory *m = &run->memory;
    const tl_train_config *c = run->config;
    tl__span_begin(run->ctx.spans, "compare_ranks", TL_BUCKET_EVAL);
    int status = tl__dataset_train_sample(run->data, c->seed, 0, c->document_mask, m->input, m->target, m->pos, err);
    if (!status) status = settle_weights(run, err);
    if (!status) {
        note_weights(run);
        status = tl__agree(&run->agree, &run->ctx, run->comm, &run->model, m, &run->shape, run->state.step, err);
    }
    tl__span_end(run->ctx.spans, 0, 0, run->ranks, 0, 0);
    if (status != TL_EDIVERGED) return status;
    /* What is being written is from before: once it is there it can be named, and gone back to. */
    tl_error ignored = {0};
    bool together = tl__saver_wait_published(run->saver, &ignored) != TL_ECOMM;
    if (together && run->agree.undecided) together = replay(run, err) == TL_EDIVERGED;
    run->told = together;
    return TL_EDIVERGED;
}

static bool due(int64_t step, int64_t every, int64_t last) {
    return step == last || (every > 0 && step % every == 0);
}

/* Twenty validations in the run, unless they would cost more than a twentieth of its time: a forward is a third of a
 * step. */
static int64_t validation_interval(const tl_train_config *c, int64_t steps) {
    int64_t samples = c->ema > 0 ? 2 * c->val_samples : c->val_samples; /* the average is validated too */
    int64_t twentieth = (steps + 19) / 20, affordable = (20 * samples + 3 * c->batch - 1) / (3 * c->batch);
    return twentieth > affordable ? twentieth : affordable;
}

/* plan.json tells of the rank that took the most. */
static int share_peaks(tl_run *run, tl_error *err) {
    tl_ticket ticket;
    TRY(tl__comm_gather_start(run->comm, TL_AXIS_DP, run->peaks, &run->peak_bytes, sizeof *run->peaks, &ticket, err));
    TRY(tl__comm_wait(run->comm, ticket, tl__comm_patience(run->comm), err));
    for (int r = 0; r < run->ranks; r++)
        if (run->peaks[r] > run->peak_bytes) run->peak_bytes = run->peaks[r];
    return 0;
}

static int loop(tl_run *run, tl_train_outcome *outcome, tl_error *err) {
    const tl_train_config *c = run->config;
    int64_t steps = run->schedule.steps, val_every = c->val_every ? c->val_every : validation_interval(c, steps);
    double model_flops = tl__arch_model_flops_per_token(&run->model.arch, run->shape.T), smooth_seconds = 0;
    bool validate = tl__dataset_facts(run->data)->val_samples > 0 && c->val_samples > 0, saved = run->state.step > 0;
    tl_totals all = {0};
    tl__spans_take(run->ctx.spans); /* what came before is not the first step's */
    tl__comm_take_traffic(run->comm);
    outcome->stopped = c->stop_after > 0 && run->state.step >= c->stop_after && run->state.step < steps; /* already */
    while (run->state.step < steps && !outcome->stopped) {
        tl_step_metrics m;
        bool asked;
        TRY(ask_others(run, err));
        TRY(step_once(run, &m, err));
        TRY(hear_others(run, &asked, err));
        int status;
        int64_t step = run->state.step;
        bool stop = asked || (c->stop_after > 0 && step >= c->stop_after);
        if (validate && due(step, val_every, steps)) {
            status = evaluate(run, &run->model, &m.validation_loss, err);
            if (!status && run->memory.average) status = evaluate(run, &run->averaged, &m.ema_validation_loss, err);
            if (status) return status;
            run->last_validation_loss = m.validation_loss;
        }
        if (due(step, c->sample_every, steps)) TRY(take_sample(run, err));
        if (stop || step == steps) TRY(settle_weights(run, err)); /* no pass comes that would */
        record_step(run, &m, model_flops);
        tl__totals_add(&all, &m.totals);

        tl__span_begin(run->ctx.spans, "progress", TL_BUCKET_LOG);
        smooth_seconds =
            smooth_seconds > 0 ? 0.9 * smooth_seconds + 0.1 * m.totals.wall_seconds : m.totals.wall_seconds;
        if (run->observer->step)
            run->observer->step(run->observer->user, &m, steps, smooth_seconds * (double)(steps - step));
        tl__span_end(run->ctx.spans, 0, 0, 0, 0, 0);

        saved = due(step, c->checkpoint_every, steps) || stop;
        /* Before a checkpoint too: nothing wrong is kept. */
        if (run->ranks > 1 && c->check_every > 0 && (saved || step % c->check_every == 0)) TRY(compare_ranks(run, err));
        if (saved) TRY(begin_checkpoint(run, err));
        if (run->state.skipped_in_a_row >= c->max_skipped) {
            tl__saver_wait_published(run->saver, NULL); /* while all ranks are here */
            tl__ledger_bottleneck(outcome->bottleneck, sizeof outcome->bottleneck, &all, &run->traffic, &run->machine);
            return tl__fail(err, TL_ENONFINITE, "%lld steps in a row were not finite: the run stops at step %lld",
                            (long long)c->max_skipped, (long long)step);
        }
        outcome->stopped = stop && step < steps;
    }
    tl__ledger_bottleneck(outcome->bottleneck, sizeof outcome->bottleneck, &all, &run->traffic, &run->machine);
    TRY(final_checkpoint(run, saved, err));
    return share_peaks(run, err);
}

/* ---- the whole ---- */

static void tell_start(tl_run *run) {
    double tokens = (double)run->schedule.steps * run->shape.batch * run->shape.T;
    int hosts = 0;
    for (int r = 0, k; r < run->ranks; r++) {
        for (k = 0; strcmp(tl__comm_host(run->comm, k), tl__comm_host(run->comm, r)) != 0;) k++;
        hosts += k == r; /* the first of its host */
    }
    tl_train_start start = {.config = run->config,
                            .arch = &run->model.arch,
                            .data = tl__dataset_facts(run->data),
                            .machine = &run->machine,
                            .contract = run->ctx.contract,
                            .shape = &run->shape,
                            .memory = &run->bytes,
                            .memory_by_recompute = run->bytes_by_recompute,
                            .memory_by_shard = run->bytes_by_shard,
                            .traffic = &run->expected_traffic,
                            .hosts = hosts,
                            .seconds = &run->seconds,
                            .params = run->model.params.count,
                            .steps = run->schedule.steps,
                            .first_step = run->state.step + 1,
                            .flops = tokens * tl__arch_model_flops_per_token(&run->model.arch, run->shape.T),
                            .tokenizer = run->tokenizer_name};
    if (run->observer->started) run->observer->started(run->observer->user, &start);
}

/* The newest finished checkpoint: a step-N folder has its manifest (saver.c, V3). */
static void name_checkpoint(const tl_run *run, tl_train_outcome *outcome) {
    char folder[4096], name[64];
    int64_t *steps;
    tl__run_folder_path(&run->folder, folder, sizeof folder, "checkpoints");
    int n = tl__checkpoint_list(folder, &steps);
    if (n > 0) {
        snprintf(name, sizeof name, "step-%lld", (long long)steps[0]);
        tl__path_join(outcome->checkpoint, sizeof outcome->checkpoint, folder, name);
    }
    free(steps);
}

/* At once, since there may be little time; and then the ranks that do not know yet. */
static void tell_failure(tl_run *run, const tl_train_observer *observer, tl_error *err) {
    char reason[sizeof err->text];
    snprintf(reason, sizeof reason, "%s", err && err->text[0] ? err->text : "the run failed");
    if (observer->failed && err && err->text[0]) {
        observer->failed(observer->user, err);
        err->text[0] = 0;
    }
    if (run->comm && !run->told) tl__comm_abort(run->comm, reason);
}

/* A loop that failed: with the checkpoint that is left. What all ranks know is said by one. */
static void tell_end(tl_run *run, int status, tl_train_outcome *outcome, tl_error *err) {
    bool common = status == TL_ENONFINITE || status == TL_EDIVERGED;
    name_checkpoint(run, outcome);
    if (!err) return;
    size_t n = strlen(err->text);
    if (common && outcome->checkpoint[0])
        snprintf(err->text + n, sizeof err->text - n, "; the last good checkpoint is %s", outcome->checkpoint);
    else if (common)
        snprintf(err->text + n, sizeof err->text - n, "; there is no good checkpoint%s",
                 status == TL_ENONFINITE ? ": try a lower --lr" : "");
    if (common && run->ranks > 1) {
        run->told = status == TL_ENONFINITE || run->told;
        if (run->rank != (status == TL_EDIVERGED ? run->agree.speaker : 0)) err->text[0] = 0;
    }
    /* A lost rank is named by whoever found it, and by rank 0, for who reads its output alone. */
    if (status == TL_ECOMM && run->rank != 0 && tl__comm_told(run->comm)) err->text[0] = 0;
}

int tl__pretrain(const tl_train_config *config, const tl_train_observer *observer, tl_train_outcome *outcome,
                 tl_error *err) {
    tl_run run;
    *outcome = (tl_train_outcome){.loss = NAN, .validation_loss = NAN, .bits_per_byte = NAN};
    stop_requested = 0;
    int status = tl__run_open(&run, config, observer, err);
    if (!status) {
        outcome->rank = run.rank;
        tell_start(&run);
        status = loop(&run, outcome, err);
        outcome->steps = run.state.step;
        outcome->loss = run.last_loss;
        outcome->validation_loss = run.last_validation_loss;
        /* nats a token → bits a byte: 1/ln 2 bits a nat */
        outcome->bits_per_byte =
            run.last_validation_loss * 1.4426950408889634 / tl__dataset_facts(run.data)->bytes_per_token;
        outcome->skipped = run.state.skipped;
        outcome->peak_bytes = run.peak_bytes;
        if (status) tell_end(&run, status, outcome, err), tell_failure(&run, observer, err);
        else name_checkpoint(&run, outcome);
        tl_error ignored = {0};
        const char *how = status ? "failed" : outcome->stopped ? "stopped" : "finished";
        if (run.rank == 0) {
            if (tl__run_put_plan(&run, how, outcome, &ignored)) tl__warn("%s", ignored.text);
            tl__run_put_report(&run);
        }
    } else tell_failure(&run, observer, err);
    tl__run_close(&run);
    return status;
}
