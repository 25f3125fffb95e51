/* exchange.h — what the ranks of a step exchange: gradients on their way to those who update, and weights on their way back.
 *
 * Everything is started in the same order on every rank and waited for together; between, the engine computes. Nothing here calls the
 * heap. */
#ifndef TL_TRAIN_EXCHANGE_H
#define TL_TRAIN_EXCHANGE_H

#include "comm/comm.h"
#include "plan/size.h"

/* How long a rank waits for the others before it says who is missing. */
extern int64_t tl__exchange_timeout_ns;

typedef struct tl_exchange {
    tl_ctx *ctx;
    tl_comm *comm;
    const tl_model *model;
    tl_train_memory *memory;
    const tl_train_shape *shape;
    int tickets; /* started and not waited for */
    int status;  /* of the first that failed; nothing is started after it */
    tl_error error;
} tl_exchange;

/* Start summing block b's gradient in grad[0] over the ranks: to its owners, or to all with shard none. */
void tl__exchange_gradient(tl_exchange *x, int block);
/* Start spreading parameters [first, end), which have one owner, from it to all. */
void tl__exchange_weights(tl_exchange *x, int first, int end);
/* Wait for all that was started; 0 or the first failure. */
int tl__exchange_wait(tl_exchange *x, const char *span, tl_error *err);

/* values[n] becomes the sum over ranks, waited for; zeros on all ranks but one keep that one's bits. */
int tl__exchange_sum(tl_exchange *x, double *values, int64_t n, tl_error *err);

/* The end of the neighbours of parameter i, before `end`, that have its owner. */
int tl__exchange_run(const tl_train_memory *memory, int i, int end);

#endif
