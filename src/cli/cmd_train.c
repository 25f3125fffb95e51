/* cmd_train.c — trilith train: settings from flags and YAML into a pre-training run. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "cli/cli.h"
#include "cli/keeper.h"
#include "cli/progress.h"
#include "cli/supervise.h"
#include "cli/sweep.h"
#include "comm/comm.h"
#include "infer/engine.h"
#include "plan/depth.h"

typedef struct values {
    tl_list data;
    const char *out, *config, *sweep, *launcher, *model, *tokenizer, *text_key, *cache, *sample_prompt;
    int64_t check_every, depth, aspect, seeds, ranks, max_restarts;
    double flops, tokens_per_param;
    int64_t steps, tokens, stop_after, batch, seq, micro_batch, leaves, threads, seed, val_every, val_samples,
        checkpoint_every, keep, max_skipped, sample_every, sample_tokens;
    double minutes, lr, min_lr_ratio, warmup, decay_fraction, beta1, beta2, eps, weight_decay, clip, val_fraction,
        comm_timeout, muon_lr, muon_momentum, z_loss, ema, router_aux, router_z;
    int schedule, optimizer, recompute, dtype, device, shard;
    bool document_mask, mmap, resume, supervise, quiet;
} values;

static const char *const schedules[] = {"cosine", "linear", "wsd", "constant", NULL}; /* as tl_schedule_kind */
static const char *const optimizers[] = {"adamw", "muon", NULL};                      /* as tl_optimizer */
static const char *const recomputes[] = {"none", "attention", "full", NULL};          /* as tl_recompute */

static const char *const shards[] = {"none", "zero1", "zero2", "zero3", NULL}; /* as tl_shard */

#define OPTION(name_, field_, value_, initial_, help_)                                                                 \
    .name = name_, field_, .value = value_, .initial = initial_, .help = help_

static const tl_option options[] = {
    TL_HEADING("What is trained"),
    {OPTION("data", TL_LIST(values, data), "FILE…", NULL,
            "Text to train on: plain text, or JSON lines (.jsonl); gzip and zstd are read as they are.")},
    {OPTION("out", TL_STRING(values, out), "DIR", NULL, "The run folder; must not hold a run already unless --resume."),
     .required = true},
    {OPTION("model", TL_STRING(values, model), "NAME|FILE|DIR", NULL,
            "A preset (demo, tiny, nano, gpt2-124m, smollm2-135m, qwen3-0.6b, llama-3.2-1b, gemma3-270m, moe-50m), a "
            "config.json (random weights), or a model folder or GGUF file (its weights). Default: demo.")},
    {OPTION("depth", TL_INT(values, depth), "N", NULL,
            "Instead of --model: a Llama-style model of N layers; width, heads, batch, learning rate, weight decay and "
            "length follow, each unless it is given (docs/depth.md)."),
     .least = 1, .most = TL_MOST_DEPTH},
    {OPTION("aspect", TL_INT(values, aspect), "N", NULL,
            "With --depth: how many times as wide as deep the model is; 0 or nothing: 64."),
     .least = 0, .most = TL_MOST_ASPECT},
    {OPTION("tokenizer", TL_STRING(values, tokenizer), "SPEC", NULL,
            "bytes; bpe:N, trained on the data; a tokenizer.json or a folder with one. Default: the model folder's, "
            "else bpe:4096.")},
    {OPTION("text-key", TL_STRING(values, text_key), "KEY", "text",
            "The member of each JSON line that holds the text.")},
    {OPTION("document-mask", TL_FLAG(values, document_mask), NULL, "true",
            "No attention across documents packed into one sequence.")},
    {OPTION("cache", TL_STRING(values, cache), "DIR", NULL,
            "Where tokenised data is kept for other runs; default: the run folder.")},
    {OPTION("mmap", TL_FLAG(values, mmap), NULL, "true",
            "Use tokenised data where it lies in its files; --no-mmap reads each sample instead, which survives files "
            "that are cut short.")},
    {OPTION("val-fraction", TL_REAL(values, val_fraction), NULL, "0.02",
            "The last part of the text, kept for validation."),
     .least = 0, .most = 0.5},
    TL_HEADING("For how long (one of; default: one pass over the data, with --depth 20 tokens a parameter)"),
    {OPTION("steps", TL_INT(values, steps), NULL, NULL, "Optimizer steps."), .least = 0, .most = 1e15},
    {OPTION("tokens", TL_INT(values, tokens), NULL, NULL, "Training tokens, such as 10M."), .least = 0, .most = 1e15},
    {OPTION("minutes", TL_REAL(values, minutes), NULL, NULL,
            "Wall-clock minutes: turned into steps once, by a measurement at the start."),
     .least = 0, .most = 1e7},
    {OPTION("flops", TL_REAL(values, flops), NULL, NULL,
            "Model FLOPs, such as 1e15: 6 a parameter and token, and 12·layers·width·seq a token for attention."),
     .least = 0, .most = 1e30},
    {OPTION("tokens-per-param", TL_REAL(values, tokens_per_param), NULL, NULL,
            "Training tokens as a multiple of the model's parameters; near 20 is compute-optimal."),
     .least = 0, .most = 1e9},
    {OPTION("stop-after", TL_INT(values, stop_after), NULL, NULL,
            "Stop with a checkpoint after this step, to be resumed; the schedule is that of the whole run."),
     .least = 0, .most = 1e15},
    TL_HEADING("The step"),
    {OPTION("batch", TL_INT(values, batch), NULL, "16", "Sequences a step."), .least = 1, .most = 1 << 24},
    {OPTION("seq", TL_INT(values, seq), NULL, "256", "Tokens a sequence."), .least = 1, .most = 1 << 24},
    {OPTION("micro-batch", TL_INT(values, micro_batch), NULL, "0",
            "Sequences computed at once; 0: about 2,048 tokens. Changes memory and speed, never a bit."),
     .least = 0, .most = 1 << 24},
    {OPTION("recompute", TL_CHOICE(values, recompute), NULL, "none",
            "Activations given up and computed again in the backward: none, attention (its own only) or full (all but "
            "each layer's input). Less memory, more time, never another bit."),
     .choices = recomputes},
    {OPTION(
         "leaves", TL_INT(values, leaves), NULL, "0",
         "Leaves of the gradient's sum, a power of two: the most ranks that can share a step and give the same bits. "
         "0: as few as the ranks that begin the run need, one for one process."),
     .least = 0, .most = 1 << 20},
    {OPTION("comm-timeout", TL_REAL(values, comm_timeout), "SECONDS", "600",
            "On several ranks: how long to wait for the others before the run ends with status 75 and says who is "
            "missing. More than the slowest validation or checkpoint of one rank takes."),
     .least = 0.1, .most = 1e6},
    {OPTION("check-every", TL_INT(values, check_every), NULL, "100",
            "On several ranks: steps between comparisons of the ranks, each by a hash of its weights and of one "
            "sequence's gradient, and before each checkpoint; a rank that computes wrongly is named. 0: never."),
     .least = 0, .most = 1e15},
    {OPTION("shard", TL_CHOICE(values, shard), NULL, "none",
            "What each of many ranks keeps for all: none (each keeps everything), zero1 (its part of the optimizer's "
            "state), zero2 (gradients too) or zero3 (weights too). Changes memory and traffic, never a bit."),
     .choices = shards},
    {OPTION("lr", TL_REAL(values, lr), NULL, "1e-3", "Largest learning rate."), .least = 0, .most = 100},
    {OPTION("schedule", TL_CHOICE(values, schedule), NULL, "cosine",
            "After the warm-up: cosine, linear, wsd (constant, then linear) or constant."),
     .choices = schedules},
    {OPTION("warmup", TL_REAL(values, warmup), NULL, "0.05", "Warm-up steps; below 1: a fraction of the steps."),
     .least = 0, .most = 1e9},
    {OPTION("min-lr-ratio", TL_REAL(values, min_lr_ratio), NULL, "0.1", "Learning rate at the end, as a part of --lr."),
     .least = 0, .most = 1},
    {OPTION("decay-fraction", TL_REAL(values, decay_fraction), NULL, "0.2",
            "wsd: the last part of the steps, in which the rate falls."),
     .least = 0, .most = 1},
    {OPTION("optimizer", TL_CHOICE(values, optimizer), NULL, "adamw",
            "adamw (Loshchilov & Hutter 2019), or muon (Jordan et al. 2024): the layers' matrices by momentum and "
            "Newton-Schulz, embeddings, head, norms and biases by AdamW."),
     .choices = optimizers},
    {OPTION("muon-lr", TL_REAL(values, muon_lr), NULL, "0",
            "Largest learning rate of Muon's matrices, before the factor 0.2 sqrt(max(rows, columns)) that gives its "
            "updates AdamW's size (Liu et al. 2025); 0: as --lr."),
     .least = 0, .most = 100},
    {OPTION("muon-momentum", TL_REAL(values, muon_momentum), NULL, "0.95", "Muon's, in Nesterov's form."), .least = 0,
     .most = 0.999999},
    {OPTION("beta1", TL_REAL(values, beta1), NULL, "0.9", "Decay of the mean of gradients."), .least = 0,
     .most = 0.999999},
    {OPTION("beta2", TL_REAL(values, beta2), NULL, "0.95", "Decay of the mean of squared gradients."), .least = 0,
     .most = 0.999999},
    {OPTION("eps", TL_REAL(values, eps), NULL, "1e-8", "Added to the root of the second moment."), .least = 0,
     .most = 1},
    {OPTION("weight-decay", TL_REAL(values, weight_decay), NULL, "0.1", "On matrices and embeddings."), .least = 0,
     .most = 100},
    {OPTION("clip", TL_REAL(values, clip), NULL, "1.0", "Largest norm of the gradient; 0: no clipping."), .least = 0,
     .most = 1e9},
    {OPTION("z-loss", TL_REAL(values, z_loss), NULL, "0",
            "Add this times the mean of log^2 Z to what is minimised, such as 1e-4, so that logits stay near 0 "
            "(Chowdhery et al. 2022); 0: nothing."),
     .least = 0, .most = 100},
    {OPTION("ema", TL_REAL(values, ema), NULL, "0",
            "Keep an exponential average of the weights with this decay, such as 0.999, in each checkpoint's ema/; 0: "
            "none."),
     .least = 0, .most = 0.9999999},
    {OPTION("router-aux", TL_REAL(values, router_aux), NULL, "-1",
            "Coefficient of the load-balance loss of a model with experts; -1: the model's router_aux_loss_coef."),
     .least = -1, .most = 100},
    {OPTION("router-z", TL_REAL(values, router_z), NULL, "-1",
            "Coefficient of the router's z-loss, which keeps its logits small; -1: 0.001."),
     .least = -1, .most = 100},
    {OPTION("max-skipped", TL_INT(values, max_skipped), NULL, "10",
            "Steps in a row whose loss or gradient is not finite before the run gives up."),
     .least = 1, .most = 1e9},
    {OPTION("dtype", TL_CHOICE(values, dtype), NULL, "f32",
            "Of the products' factors. bf16 rounds them on the way in and sums in f32: about twice the speed on a CPU "
            "with "
            "AVX512-BF16, none elsewhere. Weights, gradients and checkpoints stay f32."),
     .choices = tl__contract_names},
    {OPTION("seed", TL_INT(values, seed), NULL, "1", "Of the weights, the order of the data and the samples."),
     .least = 0, .most = 9e18},
    {OPTION("device", TL_CHOICE(values, device), NULL, "cpu", TL_DEVICE_HELP), .choices = tl__device_names},
    {OPTION("threads", TL_INT(values, threads), NULL, "0", "0: every CPU this process may use. Never changes a bit."),
     .least = 0, .most = 4096, .not_in_yaml = false},
    TL_HEADING("What is kept"),
    {OPTION("checkpoint-every", TL_INT(values, checkpoint_every), NULL, "0",
            "Steps between checkpoints; 0: at the end only."),
     .least = 0, .most = 1e15},
    {OPTION("keep", TL_INT(values, keep), NULL, "3", "Checkpoints kept, the newest; 0: all."), .least = 0, .most = 1e9},
    {OPTION("val-every", TL_INT(values, val_every), NULL, "0",
            "Steps between validations; 0: up to twenty in the run, in at most a twentieth of its time."),
     .least = 0, .most = 1e15},
    {OPTION("val-samples", TL_INT(values, val_samples), NULL, "64", "Sequences of a validation."), .least = 0,
     .most = 1e9},
    {OPTION("sample-every", TL_INT(values, sample_every), NULL, "0",
            "Steps between samples of the model's writing; 0: at the end only."),
     .least = 0, .most = 1e15},
    {OPTION("sample-tokens", TL_INT(values, sample_tokens), NULL, "120", "Length of a sample; 0: none."), .least = 0,
     .most = 1e6},
    {OPTION("sample-prompt", TL_STRING(values, sample_prompt), "TEXT", NULL,
            "What samples begin with; default: the validation text's first words.")},
    TL_HEADING("This invocation"),
    {OPTION("config", TL_CONFIG(values, config), "FILE", NULL,
            "Settings from a YAML file, each under its flag's name; flags win over it.")},
    {OPTION(
         "sweep", TL_STRING(values, sweep), "FILE", NULL,
         "Many runs into --out: a YAML file like --config's in which any setting may be a list; every combination is "
         "a run. Finished runs are kept when it is started again."),
     .not_in_yaml = true},
    {OPTION("seeds", TL_INT(values, seeds), "N", NULL, "With --sweep: each combination with N seeds, from --seed on."),
     .least = 1, .most = 1000, .not_in_yaml = true},
    {OPTION("resume", TL_FLAG(values, resume), NULL, NULL,
            "Continue the run in --out from its newest intact checkpoint, with its settings."),
     .not_in_yaml = true},
    {OPTION("supervise", TL_FLAG(values, supervise), NULL, NULL,
            "Start the run on --ranks ranks, and when one is lost start it again from its newest checkpoint with those "
            "that are left."),
     .not_in_yaml = true},
    {OPTION("ranks", TL_INT(values, ranks), "N", NULL, "With --supervise: how many ranks to begin with."), .least = 1,
     .most = 1 << 16, .not_in_yaml = true},
    {OPTION("max-restarts", TL_INT(values, max_restarts), "N", "3",
            "With --supervise: how often to start again without a new checkpoint in between."),
     .least = 0, .most = 1e6, .not_in_yaml = true},
    {OPTION("launcher", TL_STRING(values, launcher), "WORDS", "mpirun",
            "With --supervise: the program that starts ranks, and its options before -n, apart by blanks."),
     .not_in_yaml = true},
    {OPTION("quiet", TL_FLAG(values, quiet), NULL, NULL, "No progress; warnings only."), .not_in_yaml = true},
    {0},
};

static volatile sig_atomic_t under_mpirun;

/* mpirun ends ranks a second after SIGTERM, which it sends when another rank has died. */
static void on_signal(int signal) {
    tl__pretrain_request_stop();
    if (signal == SIGTERM && under_mpirun) tl__comm_hurry();
}

static void catch_signals(void) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    under_mpirun = getenv("OMPI_COMM_WORLD_SIZE") != NULL;
    signal(SIGPIPE, SIG_IGN); /* a reader of the progress that goes away must not end the run */
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
    action.sa_flags |= SA_RESETHAND; /* a second Ctrl-C ends it at once */
    sigaction(SIGINT, &action, NULL);
}

/* What a depth chose becomes a setting like any other, so that a resumed run keeps it. */
static char *settings_text(void *user, const tl_train_config *resolved) {
    tl_cli *cli = user;
    values *v = cli->values;
    v->batch = resolved->batch;
    v->leaves = resolved->leaves;
    v->lr = resolved->lr;
    v->weight_decay = resolved->adamw.weight_decay;
    v->tokens = resolved->tokens;
    return tl__cli_yaml_text(cli);
}

static tl_train_config config_of(tl_cli *cli) {
    const values *v = cli->values;
    unsigned dialled = 0;
    if (v->depth > 0) {
        if (!tl__cli_given(cli, "batch")) dialled |= TL_DIAL_BATCH;
        if (!tl__cli_given(cli, "lr")) dialled |= TL_DIAL_LR;
        if (!tl__cli_given(cli, "weight-decay")) dialled |= TL_DIAL_WEIGHT_DECAY;
    }
    return (tl_train_config){
        .data = v->data.values,
        .n_data = v->data.n,
        .out = v->out,
        .model = v->model ? v->model : "demo",
        .depth = v->depth,
        .aspect = v->aspect,
        .dialled = dialled,
        .tokenizer = v->tokenizer,
        .text_key = v->text_key,
        .cache = v->cache,
        .yaml = settings_text,
        .yaml_user = cli,
        .steps = v->steps,
        .tokens = v->tokens,
        .minutes = v->minutes,
        .flops = v->flops,
        .tokens_per_param = v->tokens_per_param,
        .stop_after = v->stop_after,
        .batch = v->batch,
        .seq = v->seq,
        .micro_batch = v->micro_batch,
        .leaves = v->leaves,
        .shard = (tl_shard)v->shard,
        .check_every = v->check_every,
        .comm_timeout = v->comm_timeout,
        .threads = v->threads,
        .lr = v->lr,
        .min_lr_ratio = v->min_lr_ratio,
        .warmup = v->warmup,
        .decay_fraction = v->decay_fraction,
        .schedule = (tl_schedule_kind)v->schedule,
        .optimizer = (tl_optimizer)v->optimizer,
        .muon_lr = v->muon_lr,
        .muon_momentum = v->muon_momentum,
        .z_loss = v->z_loss,
        .ema = v->ema,
        .recompute = (tl_recompute)v->recompute,
        .adamw =
            {.beta1 = v->beta1, .beta2 = v->beta2, .eps = v->eps, .weight_decay = v->weight_decay, .clip = v->clip},
        .router_aux = v->router_aux,
        .router_z = v->router_z,
        .seed = (uint64_t)v->seed,
        .document_mask = v->document_mask,
        .val_fraction = v->val_fraction,
        .val_every = v->val_every,
        .val_samples = v->val_samples,
        .checkpoint_every = v->checkpoint_every,
        .keep = v->keep,
        .max_skipped = v->max_skipped,
        .sample_every = v->sample_every,
        .sample_tokens = v->sample_tokens,
        .sample_prompt = v->sample_prompt,
        .contract = (tl_contract)v->dtype,
        .device = (tl_device)v->device,
        .resume = v->resume,
    };
}

/* A run or its `latest` means the newest checkpoint there is now: that one is written down, so that a resumed run means
 * it too. */
static int name_model(tl_cli *cli, values *v, tl_error *err) {
    char folder[4096];
    if (!v->model || tl__arch_is_preset(v->model) || !tl__path_is_folder(v->model)) return 0;
    int status = tl__model_folder(folder, sizeof folder, v->model, err);
    if (!status) v->model = tl__cli_keep(cli, folder);
    return status;
}

static int run(tl_cli *cli) {
    values *v = cli->values;
    tl_error err = {0};
    char saved[4096];
    for (int i = 0; !v->supervise && i < 3; i++) {
        static const char *const of_supervision[] = {"ranks", "max-restarts", "launcher"};
        if (tl__cli_given(cli, of_supervision[i]))
            return tl__cli_bad(cli,
                               "--%s needs --supervise; a launcher of your own is told itself how many ranks to start",
                               of_supervision[i]);
    }
    if (v->supervise && v->sweep)
        return tl__cli_bad(cli, "--supervise is for one run and --sweep for many; give one of them");
    if ((v->supervise || v->sweep) && tl__comm_launcher())
        return tl__cli_bad(cli, "--%s starts processes itself, and %s has started several of it; leave %s out",
                           v->supervise ? "supervise" : "sweep", tl__comm_launcher(), tl__comm_launcher());
    if (v->supervise && !v->ranks) return tl__cli_bad(cli, "--supervise needs --ranks N: how many to start");
    if (v->supervise) {
        tl_supervise_options supervise = {.out = v->out,
                                          .launcher = v->launcher,
                                          .ranks = v->ranks,
                                          .max_restarts = v->max_restarts,
                                          .resume = v->resume};
        return tl__supervise_run(cli, &supervise);
    }
    if (v->sweep) return tl__sweep_run(cli, v->sweep, v->out, v->seeds);
    if (v->seeds) return tl__cli_bad(cli, "--seeds needs --sweep FILE; one run has one --seed");
    tl__path_join(saved, sizeof saved, v->out, "config.yaml");
    int64_t stop_after = v->stop_after; /* this invocation's: the one before has stopped where it was told to */
    if (v->resume && tl__path_exists(saved) && tl__cli_read_yaml(cli, saved, &err)) return tl__cli_fail(cli, &err);
    v->stop_after = stop_after;
    if (v->data.n == 0 && v->resume)
        return tl__cli_bad(cli, "%s holds no run to continue; name the run's folder, or begin one with --data", v->out);
    if (v->data.n == 0) return tl__cli_bad(cli, "--data is missing: name the text to train on");
    if (v->depth > 0 && v->model)
        return tl__cli_bad(cli,
                           "--depth %lld makes the model itself, so --model %.200s has no place beside it; give one of "
                           "them",
                           (long long)v->depth, v->model);
    if (v->depth == 0 && v->aspect > 0)
        return tl__cli_bad(cli, "--aspect is the width of a --depth N model; give --depth, or leave --aspect out");
    if (name_model(cli, v, &err)) return tl__cli_fail(cli, &err);
    tl__keeper_open(cli->name);
    tl__cli_mmap(v->mmap);
    tl_train_config config = config_of(cli);
    tl_progress *progress = tl__progress_open(v->quiet);
    if (!progress) return TL_EXIT_FAILED;
    tl_train_observer observer = tl__progress_observer(progress);
    tl_train_outcome outcome;
    catch_signals();
    int status = tl__pretrain(&config, &observer, &outcome, &err);
    if (!status && outcome.rank == 0) tl__progress_end(progress, &config, &outcome);
    tl__progress_close(progress);
    return status ? tl__cli_fail(cli, &err) : TL_EXIT_DONE;
}

const tl_command tl__cmd_train = {
    .name = "train",
    .summary = "pre-train a model on text",
    .usage = "--data FILE… --out DIR [options]",
    .about = "Trains a language model on text and writes a run folder: checkpoints that transformers opens as they "
             "are, metrics.jsonl, trace.json, "
             "and report.html.\n\n"
             "The run can be killed at any instant; with --resume it goes on from its newest checkpoint and ends with "
             "the same bits. SIGTERM and SIGUSR1 "
             "write a checkpoint and end the run with status 0.\n\n"
             "Status 75 says that another rank is gone, late or out of step: with --resume the run goes on, here or "
             "elsewhere. Status 76 says that a rank computed other bits than the rest: do not go on with its host.",
    .examples =
        "trilith train --data book.txt --out runs/book --minutes 5\n  five minutes of the demo model on a book\n"
        "trilith train --data *.jsonl.zst --out runs/a --model smollm2-135m --tokens 50M\n  a larger model on many "
        "files\n"
        "trilith train --out runs/a --resume\n  go on after a crash\n"
        "trilith train --data *.jsonl.zst --out runs/d6 --depth 6\n  one dial: a near compute-optimal run six layers "
        "deep\n"
        "trilith train --sweep sweep.yaml --out runs/sweep\n  every combination of the settings that sweep.yaml lists",
    .options = options,
    .values_bytes = sizeof(values),
    .run = run,
};
