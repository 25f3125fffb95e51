/* step.h — one step of training: the gradient of a batch as a fixed tree of sums, and the update.
 *
 * The step's gradient is the binary tree over its leaves; inside a leaf every sum runs over the leaf's rows in order,
 * so neither the micro-batch nor the number of threads can change a bit (law L3). Nothing here calls the heap. */
#ifndef TL_TRAIN_STEP_H
#define TL_TRAIN_STEP_H

#include "comm/comm.h"
#include "plan/size.h"

typedef struct tl_step_result {
    double loss;      /* nats a token; not finite if any log-probability was not */
    double grad_norm; /* before clipping */
    int64_t tokens;   /* targets that counted */
} tl_step_result;

/* The gradient of the batch in memory->input/target/pos, into memory->grad[0], normalised by the step's count of
 * tokens. */
int tl__step_gradient(tl_ctx *ctx, tl_comm *comm, const tl_model *model, tl_train_memory *memory,
                      const tl_train_shape *shape, tl_step_result *result, tl_error *err);

typedef struct tl_adamw_settings {
    double beta1, beta2, eps, weight_decay;
    double clip; /* largest norm of the gradient; 0: none */
} tl_adamw_settings;

/* AdamW on every parameter with the gradient in grad[0]; update = 1 for the first. */
void tl__step_update(tl_ctx *ctx, tl_model *model, tl_train_memory *memory, const tl_adamw_settings *settings,
                     double rate, double grad_norm, int64_t update);

/* Mean negative log-probability of n sequences of T (in input/target/pos of `memory`, beginning at its start), forward
 * only. */
double tl__step_evaluate(tl_ctx *ctx, const tl_model *model, tl_train_memory *memory, int n, int T, int64_t *tokens);

#endif
