/* size.h — the memory of a training run: one function that places every buffer, run dry to predict and in earnest to allocate
 * (law L4). What the planner promises is therefore what the trainer takes. */
#ifndef TL_PLAN_SIZE_H
#define TL_PLAN_SIZE_H

#include "comm/comm.h"
#include "model/model.h"
#include "observe/machine.h"
#include "plan/shard.h"

/* What updates the layers' matrices; embeddings, head, norms and biases are always AdamW's. */
typedef enum tl_optimizer { TL_OPTIMIZER_ADAMW, TL_OPTIMIZER_MUON, TL_OPTIMIZERS } tl_optimizer;

typedef struct tl_train_shape {
    int batch;         /* B, sequences a step */
    int T;             /* tokens a sequence */
    int positions;     /* rows of the RoPE tables: the longest sequence trained or sampled; 0: all that the model has */
    int micro_batch;   /* sequences computed at once */
    int leaves;        /* of the gradient's tree; divides batch */
    int max_documents; /* most documents in one sequence: 1 without document masks */
    int threads;
    tl_contract contract; /* of the products */
    tl_recompute recompute;
    tl_optimizer optimizer;
    bool average;      /* an exponential average of the weights is kept */
    double z_coef;     /* of the z-loss; 0: none */
    int ranks, rank;   /* that share the step's leaves, and whose buffers these are; ranks 0: one */
    tl_shard shard;
} tl_train_shape;

/* Gradients go to their owners block by block, leaf by leaf, and nobody keeps them whole: shard zero2 and zero3 with leaves of one
 * micro-batch and a power of two of ranks. Else a rank first adds up its own leaves. */
bool tl__train_streams(const tl_train_shape *shape);
/* How many leaves are this rank's, and the number in the whole tree of its i-th. They are neighbours; where gradients stream, every
 * ranks-th is the rank's, so that each round of leaves is a subtree. */
int tl__train_leaves(const tl_train_shape *shape);
int tl__train_leaf(const tl_train_shape *shape, int i);

/* Micro-batch for a shape: `wanted` if it keeps the bits (its rows a multiple of TL_KB, or the whole leaf), else TL_EINVALID
 * naming the nearest that does. wanted 0: the smallest with about 2,048 rows — enough for the products, and activations
 * stay small. A model with experts takes the whole leaf: their load-balance statistics are a leaf's. */
int tl__micro_batch(int *micro_batch, const tl_arch *arch, int wanted, int batch, int leaves, int T, tl_error *err);

/* Where blocks pass through, each of these has room for one: block 0, block L + 1, and layers by turns. */
enum { TL_SLOTS = 4 };
int tl__block_slot(int block, int L);

/* Weights on their way from the parameter's owner to all. */
typedef struct tl_spread {
    tl_ticket ticket;
    int block;
} tl_spread;

/* Columns of leaf_sums: nats, log²Z, the experts' two losses, then each layer with experts' largest load over mean. */
enum { TL_LEAF_LOSS, TL_LEAF_Z, TL_LEAF_BALANCE, TL_LEAF_ROUTER_Z, TL_LEAF_LOAD };

typedef struct tl_train_memory {
    int *owner;                    /* [params.n] the rank that updates a parameter, or with shard none its share of what all can do */
    float *exp_avg;                /* [avg_count] AdamW's first moment, or Muon's momentum, of the parameters kept here, in params order */
    int64_t *avg_offset;           /* [params.n] where a parameter's lies in exp_avg; −1: at its owner only */
    int64_t avg_count;
    float *exp_avg_sq;             /* [sq_count] AdamW's second moment of those that it updates */
    int64_t *sq_offset;            /* [params.n] where it lies; −1: Muon's, which has none, or at its owner only */
    int64_t sq_count;
    tl_muon_scratch muon;
    int64_t muon_bytes;            /* of that scratch */
    float *average;                /* [weight_count] of the weights; NULL: not kept */
    float **grad;                  /* [grads] buffers of [grad_count]: the stack of the leaves' tree; the sum ends in grad[0] */
    int grads;
    int64_t *grad_at;              /* [params.n] where a parameter's lies; −1: where gradients stream, at its owner only */
    int64_t grad_count;
    float *block_grad[TL_SLOTS];   /* where gradients stream: of the blocks that are being added up or are on their way */
    float *block_weight[TL_SLOTS]; /* zero3: weights of the blocks that are in use or on their way, but for those that lie here */
    int64_t block_grad_floats, block_weight_floats; /* of all */
    int64_t weight_count;          /* of those here: all of them but in zero3 */
    double *leaf_sums;             /* [leaves, leaf_columns] of the whole step: what is reported, leaf by leaf */
    int leaf_columns;
    double *norms;                 /* [params.n] sums of squares */
    tl_ticket *ticket;             /* [tickets] of a step's collectives, most under way at once */
    int tickets, slot_tickets;     /* of these, of one block's */
    tl_spread *spread;             /* [tickets] zero1, zero2: what the last update sent, in the blocks' order */
    int spread_n, spread_arrived;  /* of these: sent, and waited for; both 0 when all are here */
    float *embed_grad;             /* [slots, C] tied embeddings: look-up gradients of a leaf; NULL untied */
    int32_t *slot;                 /* [V] row of embed_grad */
    int slots;
    tl_acts acts;                  /* of one micro-batch */
    int kv_blocks;                 /* a layer, of one micro-batch */
    int32_t *input, *target, *pos; /* [sequences of the rank's leaves, T] the step's batch */
    float *logp;                   /* likewise */
    float *expert_load;            /* [L] layers with experts in order: largest load over mean, averaged over leaves */
    int32_t *seq_row, *seq_block;  /* [micro-batch·max_documents + 1] */
    int32_t *block;                /* [kv_blocks] */
} tl_train_memory;

/* Place everything but the model's own buffer in an arena, dry or real. */
void tl__train_place(tl_train_memory *memory, tl_arena *arena, const tl_arch *arch, const tl_train_shape *shape);

typedef struct tl_train_bytes { /* predicted RssAnon of the process, by part */
    int64_t weights, gradients, moments, average, activations, scratch, sampling, program;
    int64_t total;
} tl_train_bytes;
/* sampling_bytes: what a session for the samples takes (0: none). */
void tl__train_bytes(tl_train_bytes *bytes, const tl_arch *arch, const tl_train_shape *shape, int64_t sampling_bytes);
/* The total for each way of recomputing, everything else as it is. */
void tl__train_bytes_by_recompute(int64_t bytes[TL_RECOMPUTES], const tl_arch *arch, const tl_train_shape *shape, int64_t sampling_bytes);

/* The same for each way of sharding. */
void tl__train_bytes_by_shard(int64_t bytes[TL_SHARDS], const tl_arch *arch, const tl_train_shape *shape, int64_t sampling_bytes);

/* ---- rows of a micro-batch ---- */

/* Describe n sequences of T rows (input and pos as the dataset gives them: pos 0 begins a document) with their KV blocks. */
void tl__train_rows(tl_rows *rows, tl_train_memory *memory, const int32_t *input, const int32_t *pos, int n, int T);

/* ---- time ---- */

/* One step by the roofline, in the form of the ledger (wall_seconds: the sum of its buckets): each operator the larger of FLOPs ÷ the peak of their type and bytes ÷ bandwidth,
 * as measured on a machine, from the very operators the model would call, run against a table that only counts. */
int tl__train_predict(tl_totals *out, const tl_arch *arch, const tl_train_shape *shape, const tl_machine *machine,
                      tl_error *err);

#endif
