/* step.h — one step of training: the gradient of a batch as a fixed tree of sums, and the update.
 *
 * The step's gradient is the binary tree over its leaves; inside a leaf every sum runs over the leaf's rows in order,
 * so neither the micro-batch nor the number of threads can change a bit (law L3). Nothing here calls the heap. */
#ifndef TL_TRAIN_STEP_H
#define TL_TRAIN_STEP_H

#include "train/exchange.h"

typedef struct tl_step_result {
    double loss;      /* nats a token; not finite if any log-probability was not */
    double z_loss;    /* z_coef times the mean of log²Z; the gradient is of the sum of both */
    double grad_norm; /* before clipping */
    int64_t tokens;   /* targets that counted */
    double balance_loss, router_z_loss; /* without their coefficients, averaged over leaves; 0 without experts */
} tl_step_result;

/* The gradient of the batch, of which memory->input/target/pos hold this rank's leaves, normalised by the whole step's
 * count of tokens, into memory->grad[0]: all of it, or with a shard what this rank owns. The result is the same on
 * every rank. */
int tl__step_gradient(tl_ctx *ctx, tl_comm *comm, const tl_model *model, tl_train_memory *memory,
                      const tl_train_shape *shape, tl_step_result *result, tl_error *err);

/* The gradient of the first sequence in memory, by this rank alone, into grad[0]: with the same weights the same bits on any rank. Not
 * where gradients are sharded. */
void tl__step_probe(tl_ctx *ctx, const tl_model *model, tl_train_memory *memory, const tl_train_shape *shape);

typedef struct tl_adamw_settings {
    double beta1, beta2, eps, weight_decay;
    double clip; /* largest norm of the gradient; 0: none */
} tl_adamw_settings;

typedef struct tl_muon_settings {
    double momentum;
    double rate_ratio; /* the matrices' rate as a multiple of the others' */
} tl_muon_settings;

/* Every parameter with the gradient in grad[0], by AdamW or, where memory was placed for Muon, the layers' matrices by
 * it (muon is then not NULL; AdamW's weight decay and clipping hold for both); update = 1 for the first. With a shard
 * each by its owner, who sends the new weights to the others. */
int tl__step_update(tl_ctx *ctx, tl_comm *comm, tl_model *model, tl_train_memory *memory, const tl_train_shape *shape,
                    const tl_adamw_settings *adamw, const tl_muon_settings *muon, double rate, double grad_norm,
                    int64_t update, tl_error *err);

/* memory->average = decay·average + (1 − decay)·weights, after an update; after the first one the weights themselves,
 * as torch.optim.swa_utils.AveragedModel begins. */
void tl__step_average(tl_ctx *ctx, const tl_model *model, tl_train_memory *memory, double decay, int64_t update);

/* Negative log-probability and count of targets of each of n sequences of T (in input/target/pos of `memory`, beginning
 * at its start), forward only: sums[n][2]. */
void tl__step_evaluate(tl_ctx *ctx, const tl_model *model, tl_train_memory *memory, int n, int T, double *sums);

#endif
