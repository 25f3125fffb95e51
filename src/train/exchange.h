/* exchange.h — what the ranks of a step exchange: gradients on their way to those who update, and weights on their way back.
 *
 * Everything is started in the same order on every rank; between, the engine computes. Gradients are waited for together, weights block by
 * block, where a pass needs them (tl_blocks): under zero3 they are gathered one block ahead, under zero1 and zero2 the last update has
 * sent them, and whoever reads them outside a pass settles first. Nothing here calls the heap. */
#ifndef TL_TRAIN_EXCHANGE_H
#define TL_TRAIN_EXCHANGE_H

#include "comm/comm.h"
#include "plan/size.h"

/* A block on its way to its owners (gradient) or from them (weights). */
typedef struct tl_slot {
    int block;   /* −1: none */
    int round;   /* of leaves */
    int tickets; /* started and not waited for */
} tl_slot;

typedef struct tl_exchange {
    tl_ctx *ctx;
    tl_comm *comm;
    tl_model *model; /* whose weights are gathered: under zero3 its records change from block to block */
    tl_train_memory *memory;
    const tl_train_shape *shape;
    int tickets; /* started and not waited for, outside slots */
    int status;  /* of the first that failed; nothing is started after it */
    tl_error error;
    double tokens;        /* of the step, on all ranks, once counted */
    tl_ticket counting;   /* sequence 0: they are */
    int round; /* which of the rank's leaves is being computed */
    tl_slot gradient[TL_SLOTS], weight[TL_SLOTS];
    tl_blocks blocks; /* for the model's passes */
} tl_exchange;

/* Ready for passes: blocks.need is set with a shard, blocks.gradient where gradients stream. */
void tl__exchange_open(tl_exchange *x, tl_ctx *ctx, tl_comm *comm, const tl_model *model, tl_train_memory *memory,
                       const tl_train_shape *shape);
/* After the last pass: wait for what is still under way. 0 or the first failure of all. */
int tl__exchange_close(tl_exchange *x, tl_error *err);

/* Start summing block b's gradient over the ranks: to its owners, or to all with shard none. */
void tl__exchange_gradient(tl_exchange *x, int block);
/* Start spreading parameters [first, end) of block b, which have one owner, from it to all: blocks in their order. */
void tl__exchange_weights(tl_exchange *x, int block, int first, int end);
/* Wait until all weights that an update has spread are here: before they are read, or written, outside a pass. 0 or the first failure. */
int tl__exchange_settle(tl_ctx *ctx, tl_comm *comm, const tl_model *model, tl_train_memory *memory, const tl_train_shape *shape,
                        tl_error *err);

/* The step's tokens: started with this rank's, and waited for where first asked. */
void tl__exchange_count(tl_exchange *x, double tokens);
double tl__exchange_tokens(tl_exchange *x);

/* values[n] becomes the sum over ranks, waited for; zeros on all ranks but one keep that one's bits. */
int tl__exchange_sum(tl_exchange *x, double *values, int64_t n, tl_error *err);

/* The end of the neighbours of parameter i, before `end`, that have its owner. */
int tl__exchange_run(const tl_train_memory *memory, int i, int end);

#endif
