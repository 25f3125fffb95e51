/* prepare.c — from settings to a run that can take its first step: folder, tokenizer, data, model, memory, checkpoint.
 *
 * Everything that can be wrong with the input is found here, before anything is computed, and said in one sentence. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "io/manifest.h"
#include "plan/depth.h"
#include "infer/sampler.h"
#include "train/ranks.h"
#include "train/run.h"

enum { PATH_BYTES = 4096, SPAN_CAPACITY = 1 << 15, DEFAULT_PROMPT_TOKENS = 8, SAMPLE_CHUNK = 64 };
static const double MEASURE_SECONDS = 0.04, MEASURE_LINK_SECONDS = 0.05;
static const double ROUTER_Z = 0.001; /* Zoph et al. 2022 §3.3; OLMoE too */

/* A failure here is every rank's. */
static int agree(tl_run *run, int status, tl_error *err) {
    status = tl__ranks_agree(run->comm, status, err);
    run->told = status != 0;
    return status;
}

/* ---- settings ---- */

/* Left to themselves the leaves are as few as the ranks need: a power of two. */
static int check_leaves(tl_train_config *c, int ranks, tl_error *err) {
    int64_t least = 1;
    while (least < ranks) least *= 2;
    if (ranks > TL_MAX_RANKS)
        return tl__fail(err, TL_EUNSUPPORTED, "%d ranks are more than the %d that can share a step; start fewer", ranks,
                        TL_MAX_RANKS);
    if (c->leaves == 0) c->leaves = least;
    if (c->leaves >= ranks) return 0;
    if (c->resume)
        return tl__fail(err, TL_EINVALID,
                        "--leaves %lld, with which this run began, cannot feed %d ranks; resume it on at most %lld",
                        (long long)c->leaves, ranks, (long long)c->leaves);
    return tl__fail(err, TL_EINVALID, "--leaves %lld cannot feed %d ranks; use --leaves %lld", (long long)c->leaves,
                    ranks, (long long)least);
}

static int check(const tl_train_config *c, tl_error *err) {
    if (c->n_data < 1) return tl__fail(err, TL_EINVALID, "--data: name at least one text file to train on");
    if (c->leaves < 1 || (c->leaves & (c->leaves - 1)))
        return tl__fail(err, TL_EINVALID, "--leaves %lld: the gradient's tree needs a power of two",
                        (long long)c->leaves);
    if (c->batch % c->leaves)
        return tl__fail(err, TL_EINVALID, "--batch %lld cannot be divided into %lld leaves; make it a multiple",
                        (long long)c->batch, (long long)c->leaves);
    if (c->batch * c->seq > INT32_MAX / 4)
        return tl__fail(err, TL_EINVALID, "--batch %lld of --seq %lld tokens is more than a step can hold",
                        (long long)c->batch, (long long)c->seq);
    int lengths = (c->steps > 0) + (c->tokens > 0) + (c->minutes > 0) + (c->flops > 0) + (c->tokens_per_param > 0);
    if (lengths > 1)
        return tl__fail(err, TL_EINVALID,
                        "give one of --steps, --tokens, --minutes, --flops and --tokens-per-param, not %d of them",
                        lengths);
    return 0;
}

/* ---- tokenizer ---- */

static int train_tokenizer(tl_run *run, const char *number, tl_error *err) {
    static const char *const special[] = {"<|endoftext|>"};
    const tl_train_config *c = run->config;
    char *end;
    long vocab = strtol(number, &end, 10);
    if (*end == 'k' && !end[1]) vocab *= 1024, end++;
    if (end == number || *end || vocab < 257 || vocab > 1 << 20)
        return tl__fail(err, TL_EINVALID, "--tokenizer bpe:%s: expected bpe:N with N from 257 to 1048576", number);
    tl_bpe_options options = {
        .vocab = (int)vocab, .special = special, .n_special = 1, .text_key = c->text_key, .pool = run->ctx.pool};
    return tl__tokenizer_train(&run->tokenizer, c->data, c->n_data, &options, err);
}

/* A folder or GGUF file whose weights (and tokenizer) the run begins with. */
static bool begins_with_weights(const tl_train_config *c) {
    return c->depth == 0 && !tl__arch_is_preset(c->model) && (tl__path_is_folder(c->model) || tl__gguf_is(c->model));
}

/* A resumed run uses the tokenizer that it wrote down when it began. */
static int open_tokenizer(tl_run *run, tl_error *err) {
    const tl_train_config *c = run->config;
    char own[PATH_BYTES], file[PATH_BYTES], beside_model[PATH_BYTES];
    tl__run_folder_path(&run->folder, own, sizeof own, "tokenizer");
    tl__path_join(file, sizeof file, own, "tokenizer.json");
    bool written = tl__path_exists(file);
    if (run->rank > 0 && !written)
        return tl__fail(err, TL_ENOTFOUND,
                        "rank %d on %s does not see %s, which rank 0 on %s has written; --out must lie where all hosts "
                        "of a run can read and write",
                        run->rank, tl__comm_host(run->comm, run->rank), file, tl__comm_host(run->comm, 0));
    const char *spec = c->tokenizer;
    if (!spec) {
        tl__path_join(beside_model, sizeof beside_model, c->model, "tokenizer.json");
        bool brings = begins_with_weights(c) && (tl__gguf_is(c->model) || tl__path_exists(beside_model));
        spec = brings ? c->model : "bpe:4096";
    }
    snprintf(run->tokenizer_name, sizeof run->tokenizer_name, "%s", spec);
    if ((c->resume || run->rank > 0) && written) return tl__tokenizer_open(&run->tokenizer, own, err);
    if (strncmp(spec, "bpe:", 4) == 0) TRY(train_tokenizer(run, spec + 4, err));
    else TRY(tl__tokenizer_open(&run->tokenizer, spec, err));
    TRY(tl__folder_make(own, err));
    return tl__tokenizer_save(run->tokenizer, own, err);
}

/* ---- data ---- */

static int open_data(tl_run *run, tl_error *err) {
    const tl_train_config *c = run->config;
    char cache[PATH_BYTES];
    tl__run_folder_path(&run->folder, cache, sizeof cache, "data");
    tl_dataset_options options = {.paths = c->data,
                                  .n_paths = c->n_data,
                                  .text_key = c->text_key,
                                  .cache_folder = c->cache ? c->cache : cache,
                                  .tokenizer = run->tokenizer,
                                  .pool = run->ctx.pool,
                                  .T = (int)c->seq,
                                  .val_fraction = c->val_fraction,
                                  .progress = run->observer->preparing,
                                  .user = run->observer->user};
    TRY(tl__dataset_open(&run->data, &options, err));
    const tl_dataset_facts *facts = tl__dataset_facts(run->data);
    if (facts->invalid_utf8 && run->rank == 0)
        tl__warn("the data holds %lld invalid UTF-8 sequence%s, each read as U+FFFD", (long long)facts->invalid_utf8,
                 facts->invalid_utf8 == 1 ? "" : "s");
    if (facts->train_samples < 1)
        return tl__fail(err, TL_EINVALID,
                        "the data holds %lld tokens: too few for one training sequence of %lld and validation; give "
                        "more text or a smaller --seq",
                        (long long)facts->tokens, (long long)c->seq);
    return 0;
}

/* Sequence i of the rank's leaves is which of the batch. */
static int64_t sequence_of(const tl_train_shape *shape, int i) {
    int leaf = shape->batch / shape->leaves;
    return (int64_t)tl__train_leaf(shape, i / leaf) * leaf + i % leaf;
}

int tl__run_load_batch(tl_run *run, int64_t first, tl_error *err) {
    tl_train_memory *m = &run->memory;
    const tl_train_shape *shape = &run->shape;
    int n = tl__train_leaves(shape) * (shape->batch / shape->leaves);
    for (int i = 0; i < n; i++) {
        int64_t at = (int64_t)i * shape->T;
        TRY(tl__dataset_train_sample(run->data, run->config->seed, first + sequence_of(shape, i),
                                     run->config->document_mask, m->input + at, m->target + at, m->pos + at, err));
    }
    for (int i = 0; i < n; i++) /* what the next step reads comes from the disk during this one */
        tl__dataset_will_need(run->data, run->config->seed, first + shape->batch + sequence_of(shape, i));
    return 0;
}

int tl__run_load_validation(tl_run *run, int64_t first, int n, tl_error *err) {
    tl_train_memory *m = &run->memory;
    for (int i = 0; i < n; i++) {
        int64_t at = (int64_t)i * run->shape.T;
        TRY(tl__dataset_val_sample(run->data, first + i, run->config->document_mask, m->input + at, m->target + at,
                                   m->pos + at, err));
    }
    return 0;
}

/* ---- model ---- */

static int read_arch(const tl_run *run, tl_arch *arch, tl_error *err) {
    const tl_train_config *c = run->config;
    return c->depth > 0 ? tl__depth_arch(arch, c->depth, c->aspect, c->seq, err) : tl__arch_open(arch, c->model, err);
}

static int open_arch(tl_run *run, tl_arch *arch, bool *weights, tl_error *err) {
    const tl_train_config *c = run->config;
    TRY(read_arch(run, arch, err));
    *weights = begins_with_weights(c);
    int vocab = tl__tokenizer_vocab(run->tokenizer);
    if (arch->V == 1) arch->V = vocab; /* a preset without a vocabulary of its own */
    if (arch->V < vocab)
        return tl__fail(err, TL_EINVALID,
                        "the tokenizer has %d tokens, but model %s only %d; use a smaller vocabulary or a larger model",
                        vocab, c->model, arch->V);
    if (c->seq > arch->max_positions)
        return tl__fail(err, TL_EINVALID, "--seq %lld is beyond the model's %d positions; use at most that",
                        (long long)c->seq, arch->max_positions);
    if (arch->E == 0 && (c->router_aux > 0 || c->router_z > 0))
        return tl__fail(err, TL_EINVALID, "%s is for models with experts, and %s has none; leave it out",
                        c->router_aux > 0 ? "--router-aux" : "--router-z", c->model);
    if (arch->E > 0) {
        if (c->router_aux >= 0) arch->router_aux_coef = c->router_aux;
        arch->router_z_coef = c->router_z >= 0 ? c->router_z : ROUTER_Z;
    }
    if (arch->eos < 0 || arch->eos >= arch->V) arch->eos = tl__tokenizer_eos(run->tokenizer);
    if (arch->bos < 0 || arch->bos >= arch->V) arch->bos = arch->eos;
    return 0;
}

/* --depth: choose what was left to it, now that the vocabulary is known. Of --minutes nobody knows the tokens yet: then
 * the rules take the horizon that the depth would have. */
static int turn_dial(tl_run *run, const tl_arch *arch, tl_error *err) {
    tl_train_config *c = &run->resolved;
    tl_params params;
    if (c->depth == 0) return 0;
    TRY(tl__params_make(&params, arch, err));
    double params_n = (double)params.count;
    tl_depth_plan plan = {.batch = c->dialled & TL_DIAL_BATCH ? 0 : c->batch,
                          .lr = c->dialled & TL_DIAL_LR ? -1 : c->lr,
                          .weight_decay = c->dialled & TL_DIAL_WEIGHT_DECAY ? -1 : c->adamw.weight_decay,
                          .tokens = c->tokens > 0  ? (double)c->tokens
                                    : c->flops > 0 ? c->flops / tl__arch_model_flops_per_token(arch, (int)c->seq)
                                                   : c->tokens_per_param * params_n,
                          .steps = c->steps};
    tl__depth_plan(&plan, arch, params.count, c->seq, c->leaves);
    tl__params_free(&params);
    c->batch = plan.batch;
    c->lr = plan.lr;
    c->adamw.weight_decay = plan.weight_decay;
    if (!(c->steps > 0 || c->minutes > 0 || c->flops > 0 || c->tokens_per_param > 0)) c->tokens = (int64_t)plan.tokens;
    return check(c, err);
}

/* Rank 0 writes the samples; the others take part where it has not all the weights. */
static bool samples_here(const tl_run *run) {
    return run->config->sample_tokens > 0 && (run->rank == 0 || run->config->shard == TL_SHARD_ZERO3);
}

static int sample_capacity(const tl_run *run, const tl_arch *arch) {
    int64_t want = run->config->sample_tokens + 4096;
    return (int)(want < arch->max_positions ? want : arch->max_positions);
}

/* Rows of the RoPE tables: a model may have positions for a hundred times the sequences that it is trained on. */
static int positions_needed(const tl_run *run, const tl_arch *arch) {
    int sampled = samples_here(run) ? sample_capacity(run, arch) : 0;
    return sampled > (int)run->config->seq ? sampled : (int)run->config->seq;
}

/* The first way to shard, and to recompute, that would fit where the chosen one does not; "" where there is none. */
static const char *less_memory(const tl_run *run, char out[256]) {
    const int64_t *shards = run->bytes_by_shard, *modes = run->bytes_by_recompute;
    const int64_t room = run->machine.memory_bytes / run->ranks_here;
    size_t n = 0;
    out[0] = 0;
    for (int i = run->shape.shard + 1; run->ranks > 1 && i < TL_SHARDS && !n; i++)
        if (shards[i] <= room)
            n += (size_t)snprintf(out, 256, "--shard %s would take %.2f GB and fit; or ",
                                  tl__shard_kind_name((tl_shard)i), (double)shards[i] * 1e-9);
    size_t before = n;
    for (int i = run->shape.recompute + 1; i < TL_RECOMPUTES && n == before; i++)
        if (modes[i] <= room)
            n += (size_t)snprintf(out + n, 256 - n, "--recompute %s would take %.2f GB and fit; or ",
                                  tl__recompute_name((tl_recompute)i), (double)modes[i] * 1e-9);
    return out;
}

/* Say before anything is taken what the run will take, and refuse what the machine has not. */
static int size_run(tl_run *run, const tl_arch *arch, tl_error *err) {
    const tl_train_config *c = run->config;
    int micro;
    TRY(tl__micro_batch(&micro, arch, (int)c->micro_batch, (int)c->batch, (int)c->leaves, (int)c->seq, err));
    run->shape =
        (tl_train_shape){.batch = (int)c->batch,
                         .T = (int)c->seq,
                         .positions = positions_needed(run, arch),
                         .micro_batch = micro,
                         .leaves = (int)c->leaves,
                         .max_documents = c->document_mask ? tl__dataset_facts(run->data)->max_documents_per_sample : 1,
                         .threads = tl__pool_threads(run->ctx.pool),
                         .contract = c->contract,
                         .recompute = c->recompute,
                         .optimizer = c->optimizer,
                         .average = c->ema > 0,
                         .z_coef = c->z_loss,
                         .ranks = run->ranks,
                         .rank = run->rank,
                         .shard = c->shard};
    int64_t sampling =
        samples_here(run) ? (int64_t)tl__session_bytes(arch, sample_capacity(run, arch), SAMPLE_CHUNK) : 0;
    tl__train_bytes(&run->bytes, arch, &run->shape, sampling);
    tl__train_bytes_by_recompute(run->bytes_by_recompute, arch, &run->shape, sampling);
    tl__train_bytes_by_shard(run->bytes_by_shard, arch, &run->shape, sampling);
    char advice[256];
    TRY(tl__train_predict_ranks(&run->seconds, &run->expected_traffic, arch, &run->shape, &run->machine, err));
    if (run->machine.memory_bytes > 0 && run->bytes.total * run->ranks_here > run->machine.memory_bytes)
        return tl__fail(err, TL_ENOMEM,
                        "%s %.2f GB (weights %.2f, gradients %.2f, moments %.2f, activations %.2f) and this machine "
                        "has %.2f GB for %d; %suse a smaller --micro-batch, --leaves or --model",
                        run->ranks > 1 ? "each rank of the run needs" : "the run needs",
                        (double)run->bytes.total * 1e-9, (double)run->bytes.weights * 1e-9,
                        (double)run->bytes.gradients * 1e-9, (double)run->bytes.moments * 1e-9,
                        (double)run->bytes.activations * 1e-9, (double)run->machine.memory_bytes * 1e-9,
                        run->ranks_here, less_memory(run, advice));
    return 0;
}

/* A checkpoint's weights are held against its manifest: a run that begins on damaged ones would never show why it is
 * bad. */
static int load_weights(tl_run *run, tl_error *err) {
    const char *folder = run->config->model;
    json_t *manifest;
    if (!tl__path_is_folder(folder)) return tl__model_load_into(&run->model, folder, err);
    int status = tl__manifest_read(&manifest, folder, err);
    if (!status) status = tl__manifest_verify(manifest, folder, TL_WEIGHTS_NAME, err);
    json_decref(manifest);
    if (status && status != TL_ENOTFOUND) return status;
    return tl__model_load_into(&run->model, folder, err);
}

static int begin_weights(tl_run *run, tl_error *err) {
    if (begins_with_weights(run->config)) TRY(load_weights(run, err));
    else tl__model_init(&run->model, run->config->seed, run->ctx.pool);
    if (run->memory.average) /* what a checkpoint before the first update holds */
        memcpy(run->memory.average, run->model.flat, sizeof(float) * (size_t)run->model.flat_count);
    return 0;
}

static int open_memory(tl_run *run, const tl_arch *arch, tl_error *err) {
    tl_arena dry = tl__arena_dry();
    tl__train_place(&run->memory, &dry, arch, &run->shape);
    TRY(tl__arena_open(&run->arena, dry.used_bytes, err));
    tl__train_place(&run->memory, &run->arena, arch, &run->shape);
    TRY(tl__model_create_owned(&run->model, arch, run->shape.positions,
                               run->shape.shard == TL_SHARD_ZERO3 ? run->memory.owner : NULL, run->rank, err));
    tl__comm_reserve(run->comm);
    if (!run->memory.average) return 0;
    run->averaged = run->model;
    run->averaged.flat = run->memory.average;
    run->averaged.weight = calloc((size_t)run->model.params.n, sizeof *run->averaged.weight);
    if (!run->averaged.weight) return tl__fail(err, TL_ENOMEM, "no memory for the average's records");
    for (int i = 0; i < run->model.params.n; i++)
        if (run->model.at[i] >= 0) run->averaged.weight[i] = run->memory.average + run->model.at[i];
    return 0;
}

/* ---- samples ---- */

static int open_sampling(tl_run *run, tl_error *err) {
    const tl_train_config *c = run->config;
    const tl_arch *a = &run->model.arch;
    if (!samples_here(run)) return 0;
    int capacity = sample_capacity(run, a);
    int most_prompt = capacity - (int)c->sample_tokens;
    if (most_prompt < 1) most_prompt = capacity / 2 > 0 ? capacity / 2 : 1;
    size_t prompt_text = c->sample_prompt ? strlen(c->sample_prompt) : 0;
    size_t room = tl__tokenizer_decode_room(run->tokenizer);
    run->text_bytes = room * (size_t)(capacity + 1);
    run->line_bytes = 6 * run->text_bytes + 6 * prompt_text + 256; /* \u00XX is the longest escape */
    run->prompt = calloc((size_t)most_prompt + prompt_text + 2, sizeof *run->prompt);
    run->logits = calloc((size_t)a->V, sizeof *run->logits);
    run->sampler_scratch = calloc(1, tl__sampler_bytes(a->V));
    run->text = malloc(run->text_bytes);
    run->line = malloc(run->line_bytes);
    if (!run->prompt || !run->logits || !run->sampler_scratch || !run->text || !run->line)
        return tl__fail(err, TL_ENOMEM, "no memory for samples; use --sample-tokens 0");
    if (c->sample_prompt) {
        int64_t n = tl__tokenizer_encode(run->tokenizer, c->sample_prompt, prompt_text, true, run->prompt,
                                         (size_t)most_prompt + prompt_text + 2, NULL);
        if (n < 0) return tl__fail(err, TL_EINVALID, "--sample-prompt cannot be encoded");
        run->prompt_n = (int)(n < most_prompt ? n : most_prompt);
    } else if (tl__dataset_facts(run->data)->val_samples > 0) { /* the beginning of the validation text */
        TRY(tl__run_load_validation(run, 0, 1, err));
        int n = run->shape.T < DEFAULT_PROMPT_TOKENS ? run->shape.T : DEFAULT_PROMPT_TOKENS;
        run->prompt_n = n < most_prompt ? n : most_prompt;
        memcpy(run->prompt, run->memory.input, sizeof *run->prompt * (size_t)run->prompt_n);
    }
    if (run->prompt_n == 0) run->prompt[run->prompt_n++] = a->bos >= 0 ? a->bos : 0;
    return tl__session_open(&run->session, &run->model, &run->ctx, capacity, SAMPLE_CHUNK, err);
}

/* ---- length of the run ---- */

/* Seconds of one gradient, measured on the first batch; the weights are not touched. */
static int measure_step(tl_run *run, double *seconds, tl_error *err) {
    tl_step_result result;
    TRY(tl__run_load_batch(run, 0, err));
    TRY(tl__step_gradient(&run->ctx, run->comm, &run->model, &run->memory, &run->shape, &result,
                          err)); /* warm: pages, caches */
    int64_t begin = tl__now_ns();
    TRY(tl__step_gradient(&run->ctx, run->comm, &run->model, &run->memory, &run->shape, &result, err));
    *seconds = (double)(tl__now_ns() - begin) * 1e-9;
    return 0;
}

/* As many steps as the FLOPs pay for: a budget is not overrun. */
static int steps_of_flops(double flops, double flops_per_step, int64_t *steps, tl_error *err) {
    double n = floor(flops / flops_per_step);
    if (n < 1)
        return tl__fail(err, TL_EINVALID,
                        "--flops %g is less than one step takes, %.3g model FLOPs; give more, or a smaller --batch, "
                        "--seq or model",
                        flops, flops_per_step);
    *steps = n < 1e15 ? (int64_t)n : (int64_t)1e15;
    return 0;
}

/* --minutes is turned into steps once, and written down: a resumed run does not measure again (law L3). */
static int resolve_steps(tl_run *run, int64_t begun_ns, int64_t *steps, tl_error *err) {
    const tl_train_config *c = run->config;
    int64_t per_step = c->batch * c->seq;
    if (c->steps > 0) *steps = c->steps;
    else if (c->tokens > 0) *steps = (c->tokens + per_step - 1) / per_step;
    else if (c->flops > 0) {
        double per_token = tl__arch_model_flops_per_token(&run->model.arch, run->shape.T);
        TRY(steps_of_flops(c->flops, per_token * (double)per_step, steps, err));
    } else if (c->tokens_per_param > 0) {
        double n = ceil(c->tokens_per_param * (double)run->model.params.count / (double)per_step);
        *steps = n < 1e15 ? (int64_t)n : (int64_t)1e15;
    } else if (c->minutes > 0) {
        double seconds;
        TRY(measure_step(run, &seconds, err));
        double left = c->minutes * 60.0 - (double)(tl__now_ns() - begun_ns) * 1e-9;
        double overhead = 1.06; /* the update, twenty validations, samples, checkpoints */
        *steps = (int64_t)(left / (seconds * overhead));
    } else *steps = tl__dataset_facts(run->data)->train_samples / c->batch;
    if (*steps < 1) *steps = 1;
    return 0;
}

/* ---- resuming ---- */

/* run.json of an earlier process: its settings must be ours. */
static int compare_settings(tl_run *run, const json_t *was, const char *where, tl_error *err) {
    char difference[512];
    if (tl__settings_differ(was, run->settings, difference, sizeof difference))
        return tl__fail(err, TL_EINVALID,
                        "cannot resume %s: %s; give the earlier value, or start a new run with another --out", where,
                        difference);
    return 0;
}

/* Every rank takes the same one: they look together. TL_ENOTFOUND: there is none. */
static int load_checkpoint(tl_run *run, const char *folder, char from[PATH_BYTES], tl_error *err) {
    char path[PATH_BYTES];
    char *text = NULL;
    tl_train_state state = {0};
    if (run->rank == 0) tl__checkpoint_sweep(folder);
    int status =
        tl__checkpoint_find(folder, run->comm, tl__comm_patience(run->comm), path, sizeof path, &state, &text, err);
    if (status) return status;
    json_t *settings = tl__json_parse(text, strlen(text), path, err);
    free(text);
    status = settings ? compare_settings(run, settings, path, err) : TL_EFORMAT;
    json_decref(settings);
    TRY(agree(run, status, err));
    TRY(tl__checkpoint_load(path, run->comm, tl__comm_patience(run->comm), &run->model, &run->memory,
                            run->shape.optimizer, err));
    run->state = state;
    snprintf(from, PATH_BYTES, "%s", path);
    return 0;
}

int tl__run_rewind(tl_run *run, tl_error *err) {
    char folder[PATH_BYTES], from[PATH_BYTES];
    tl_train_memory *m = &run->memory;
    tl__run_folder_path(&run->folder, folder, sizeof folder, "checkpoints");
    int status = load_checkpoint(run, folder, from, err);
    if (status != TL_ENOTFOUND) return status;
    run->state = (tl_train_state){0};
    memset(m->exp_avg, 0, sizeof *m->exp_avg * (size_t)m->avg_count);
    memset(m->exp_avg_sq, 0, sizeof *m->exp_avg_sq * (size_t)m->sq_count);
    return agree(run, begin_weights(run, err), err);
}

static int resume(tl_run *run, const char *folder, tl_error *err) {
    char from[PATH_BYTES];
    int status = load_checkpoint(run, folder, from, err);
    if (!status && run->rank == 0) tl__info("resumed from %s", from);
    if (status != TL_ENOTFOUND) return status;
    if (run->rank == 0) tl__info("no checkpoint yet in %s: starting from the first step", run->folder.path);
    if (err) *err = (tl_error){0};
    return 0;
}

/* ---- the whole ---- */

/* Tokenizer and data are made by rank 0 and found made by the others. */
static int open_text(tl_run *run, tl_error *err) {
    tl_arch arch;
    if (run->rank == 0) TRY(tl__run_folder_open(&run->folder, run->config->out, run->config->resume, err));
    else snprintf(run->folder.path, sizeof run->folder.path, "%s", run->config->out);
    TRY(read_arch(run, &arch, err)); /* a wrong name shows before gigabytes are tokenised for it */
    TRY(open_tokenizer(run, err));
    return open_data(run, err);
}

/* All ranks come to this together: those of one host share it while they measure, as they will while they train. */
static int open_machine(tl_run *run, tl_error *err) {
    run->gpu = tl__gpu_watch(&run->ctx);
    tl__machine_describe(&run->machine, &run->ctx);
    tl__machine_measure(&run->machine, &run->ctx, MEASURE_SECONDS);
    return tl__machine_measure_link(&run->machine, run->comm, MEASURE_LINK_SECONDS, err);
}

static int open_model(tl_run *run, tl_error *err) {
    tl_arch arch;
    bool weights;
    TRY(open_arch(run, &arch, &weights, err));
    TRY(turn_dial(run, &arch, err));
    TRY(size_run(run, &arch, err));
    TRY(open_memory(run, &arch, err));
    TRY(begin_weights(run, err));
    TRY(tl__spans_open(&run->ctx.spans, SPAN_CAPACITY, err));
    tl__spans_keep(run->ctx.spans, true);
    return 0;
}

/* The schedule, and with it all settings that determine bits: of a resumed run the earlier ones. */
static int open_settings(tl_run *run, int64_t begun_ns, tl_error *err) {
    const tl_train_config *c = run->config;
    json_t *earlier;
    int64_t steps = 0;
    TRY(tl__run_folder_get(&run->folder, "run.json", &earlier, err));
    const json_t *was = c->resume ? json_object_get(earlier, "settings") : NULL;
    int status = was && c->minutes > 0 ? tl__json_int(was, "steps", 1, INT64_MAX / 4, &steps, "run.json", err)
                                       : resolve_steps(run, begun_ns, &steps, err);
    if (!status) status = tl__ranks_share(run->comm, &steps, sizeof steps, err);
    double warmup = c->warmup < 1 ? c->warmup * (double)steps : c->warmup;
    run->schedule = (tl_schedule){.kind = c->schedule,
                                  .peak = c->lr,
                                  .least_ratio = c->min_lr_ratio,
                                  .warmup_steps = (int64_t)warmup,
                                  .decay_fraction = c->decay_fraction,
                                  .steps = steps};
    if (!status) {
        run->settings = tl__run_settings(run);
        status = run->settings ? 0 : tl__fail(err, TL_ENOMEM, "no memory for the settings");
    }
    if (!status && was) status = compare_settings(run, was, run->folder.path, err);
    json_decref(earlier);
    return status;
}

/* The files that rank 0 writes. */
static int open_record(tl_run *run, tl_error *err) {
    const tl_train_config *c = run->config;
    char yaml[PATH_BYTES];
    if (!c->resume) { /* only a run that never got as far as run.json can have left anything here */
        json_t *record =
            json_pack("{s:s,s:s,s:O}", "version", tl_version(), "started", run->started, "settings", run->settings);
        int status = tl__run_folder_put(&run->folder, "run.json", record, err);
        json_decref(record);
        if (status) return status;
    }
    tl__run_folder_path(&run->folder, yaml, sizeof yaml, "config.yaml");
    if (c->yaml) {
        char *settings = c->yaml(c->yaml_user, c);
        int status = settings ? tl__file_publish(yaml, settings, strlen(settings), err)
                              : tl__fail(err, TL_ENOMEM, "no memory for the settings");
        free(settings);
        if (status) return status;
    }
    return tl__run_folder_logs(&run->folder, run->state.metrics_bytes, run->state.texts_bytes, err);
}

static int open_saver(tl_run *run, const char *folder, tl_error *err) {
    uint64_t run_id = 0;
    if (run->rank == 0 && getrandom(&run_id, sizeof run_id, 0) != (ssize_t)sizeof run_id)
        run_id = (uint64_t)tl__now_ns();
    TRY(tl__ranks_share(run->comm, &run_id, sizeof run_id, err));
    char *text = json_dumps(run->settings, JSON_COMPACT | JSON_SORT_KEYS);
    tl_saver_options saver = {.folder = folder,
                              .model = &run->model,
                              .memory = &run->memory,
                              .optimizer = run->shape.optimizer,
                              .comm = run->comm,
                              .timeout_ns = tl__comm_patience(run->comm),
                              .run_id = run_id,
                              .tokenizer = run->tokenizer,
                              .settings_json = text,
                              .keep = (int)run->config->keep};
    int status =
        text ? tl__saver_open(&run->saver, &saver, err) : tl__fail(err, TL_ENOMEM, "no memory for the settings");
    free(text);
    return status;
}

/* Which of the ranks takes the most memory, and how much: ranks own parts of different sizes. */
static int find_most_loaded(tl_run *run, tl_error *err) {
    typedef struct sizes {
        tl_train_bytes bytes;
        int64_t by_recompute[TL_RECOMPUTES], by_shard[TL_SHARDS];
    } sizes;
    tl_ticket ticket;
    sizes mine = {.bytes = run->bytes}, *all = calloc((size_t)run->ranks, sizeof *all);
    if (!all) return tl__fail(err, TL_ENOMEM, "no memory to hear of %d ranks", run->ranks);
    memcpy(mine.by_recompute, run->bytes_by_recompute, sizeof mine.by_recompute);
    memcpy(mine.by_shard, run->bytes_by_shard, sizeof mine.by_shard);
    int status = tl__comm_gather_start(run->comm, TL_AXIS_DP, all, &mine, sizeof mine, &ticket, err);
    if (!status) status = tl__comm_wait(run->comm, ticket, tl__comm_patience(run->comm), err);
    for (int r = 0; !status && r < run->ranks; r++) {
        if (all[r].bytes.total > run->bytes.total) run->bytes = all[r].bytes;
        for (int i = 0; i < TL_RECOMPUTES; i++)
            if (all[r].by_recompute[i] > run->bytes_by_recompute[i])
                run->bytes_by_recompute[i] = all[r].by_recompute[i];
        for (int i = 0; i < TL_SHARDS; i++)
            if (all[r].by_shard[i] > run->bytes_by_shard[i]) run->bytes_by_shard[i] = all[r].by_shard[i];
    }
    free(all);
    return status;
}

static int open_rest(tl_run *run, tl_error *err) {
    int64_t samples = tl__dataset_facts(run->data)->val_samples;
    if (samples > run->config->val_samples) samples = run->config->val_samples;
    TRY(open_sampling(run, err));
    const tl_train_config *c = run->config;
    int64_t interval = c->check_every, left = run->schedule.steps - run->state.step; /* checkpoints are compared too */
    if (c->checkpoint_every > 0 && c->checkpoint_every < interval) interval = c->checkpoint_every;
    if (left < interval) interval = left;
    if (run->shape.shard == TL_SHARD_ZERO3) interval = 0; /* of a weight there is only one */
    TRY(tl__agree_open(&run->agree, run->ranks, &run->model.params, run->state.step, interval, err));
    run->validation = calloc((size_t)samples + 1, 2 * sizeof *run->validation);
    run->peaks = calloc((size_t)run->ranks, sizeof *run->peaks);
    run->step_seconds = calloc((size_t)run->schedule.steps, sizeof *run->step_seconds);
    run->step_comm = calloc(run->ranks > 1 ? 3 * (size_t)run->schedule.steps : 1, sizeof *run->step_comm);
    if (!run->step_seconds || !run->step_comm || !run->validation || !run->peaks)
        return tl__fail(err, TL_ENOMEM, "no memory for the times of %lld steps", (long long)run->schedule.steps);
    TRY(find_most_loaded(run, err));
    return run->rank == 0 ? tl__run_put_plan(run, "running", NULL, err) : 0;
}

static int check_all(tl_run *run, tl_error *err) {
    TRY(check_leaves(&run->resolved, run->ranks, err));
    return check(run->config, err);
}

static int open_engine(tl_run *run, tl_error *err) {
    int threads = 0;
    TRY(tl__ranks_threads(run->comm, &run->ranks_here, &threads, err));
    if (run->ranks > 1 && run->config->threads == 0) run->resolved.threads = threads;
    TRY(tl__ctx_open(&run->ctx, (int)run->config->threads, tl__device_isa(run->config->device), err));
    run->ctx.contract = run->config->contract;
    return tl__faults_open(&run->faults, run->rank, err);
}

int tl__run_open(tl_run *run, const tl_train_config *config, const tl_train_observer *observer, tl_error *err) {
    static const tl_train_observer nobody;
    int64_t begun_ns = tl__now_ns();
    char folder[PATH_BYTES];
    *run = (tl_run){.resolved = *config, .observer = observer, .last_loss = NAN, .last_validation_loss = NAN};
    run->config = &run->resolved;
    if (config->depth > 0) {
        snprintf(run->model_name, sizeof run->model_name, "depth %lld", (long long)config->depth);
        run->resolved.model = run->model_name;
    }
    tl__utc_iso8601(run->started, sizeof run->started);
    const char *slash = strrchr(config->out, '/');
    snprintf(run->run_name, sizeof run->run_name, "%s", slash && slash[1] ? slash + 1 : config->out);
    run->folder = (tl_run_folder){.lock = -1, .metrics = -1, .samples = -1};
    TRY(tl__comm_open(&run->comm, err));
    if (config->comm_timeout > 0) tl__comm_set_patience(run->comm, (int64_t)(config->comm_timeout * 1e9));
    run->rank = tl__comm_rank(run->comm, TL_AXIS_DP);
    run->ranks = tl__comm_size(run->comm, TL_AXIS_DP);
    if (run->rank > 0) run->observer = &nobody;
    TRY(agree(run, check_all(run, err), err));
    TRY(agree(run, open_engine(run, err), err));
    TRY(agree(run, run->rank == 0 ? open_text(run, err) : 0, err));
    if (run->ranks > 1) TRY(agree(run, run->rank > 0 ? open_text(run, err) : 0, err));
    TRY(agree(run, open_machine(run, err), err));
    TRY(agree(run, open_model(run, err), err));
    TRY(agree(run, open_settings(run, begun_ns, err), err));
    tl__run_folder_path(&run->folder, folder, sizeof folder, "checkpoints");
    if (config->resume) TRY(agree(run, resume(run, folder, err), err));
    TRY(agree(run, run->rank == 0 ? open_record(run, err) : 0, err));
    TRY(agree(run, open_saver(run, folder, err), err));
    return agree(run, open_rest(run, err), err);
}

void tl__run_close(tl_run *run) {
    tl__gpu_close(run->gpu);
    tl__saver_close(run->saver);
    if (run->comm) tl__comm_close(run->comm); /* whose thread may be reading what follows */
    if (run->session) tl__session_close(run->session);
    free(run->prompt), free(run->logits), free(run->sampler_scratch), free(run->text), free(run->line);
    free(run->step_seconds), free(run->step_comm), free(run->validation), free(run->peaks);
    tl__agree_close(&run->agree);
    tl__arena_close(&run->arena);
    free(run->averaged.weight);
    tl__model_close(&run->model);
    if (run->data) tl__dataset_close(run->data);
    if (run->tokenizer) tl__tokenizer_close(run->tokenizer);
    tl__spans_close(run->ctx.spans);
    tl__ctx_close(&run->ctx);
    json_decref(run->settings);
    tl__run_folder_close(&run->folder);
}
