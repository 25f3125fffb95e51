/* model.h — one decoder: weights, activations, the forward and, below it, its backward.
 *
 * The forward is the same function for training, scoring and generation (law L2): it reads rows, writes K and V into blocks, and
 * reads them back as stored. In training each layer keeps its own activations; elsewhere all layers share one set. */
#ifndef TL_MODEL_MODEL_H
#define TL_MODEL_MODEL_H

#include <stdatomic.h>
#include "base/arena.h"
#include "model/arch.h"
#include "model/moe.h"
#include "model/source.h"

typedef struct tl_model {
    tl_arch arch;           /* its layout is that of `weight`; `stored` is [out, in] always */
    tl_params params;
    const float **weight;   /* [params.n]: in the flat buffer, mapped from the file, or widened from it; NULL where stored */
    tl_stored *stored;      /* [params.n] matrices in their file's type; .data NULL: in weight. NULL in a trainer's model */
    float *flat;            /* [flat_count] a trainer's; else NULL */
    int64_t flat_count;     /* params.count, or of the parameters that this rank owns */
    int64_t *at;            /* [params.n] where a parameter lies in flat; −1: elsewhere; NULL without flat */
    float *cos_sin;         /* RoPE table [positions][D], or NULL */
    float *cos_sin_local;   /* of sliding layers, where they have their own theta; else NULL */
    int *turned;            /* [1] rows of each that are filled in: those that a forward has reached */
    int positions;
    tl_weight_source *source;      /* kept open while mapped */
    tl_arena arena;         /* owns flat, the tables, and what is not mapped */
} tl_model;

/* What one thread does while the others load; its failure ends loading. */
typedef struct tl_beside {
    int (*run)(void *user, tl_error *err);
    void *user;
} tl_beside;
/* For use, not training: of a source, which it takes over, whatever comes of it. arch is the source's. Weights stay in their file's type and
 * are mapped where nothing has to be done to them (dtype: trilith.h). positions 0: all that the model has. pool (may be NULL) packs, and does
 * what is beside (may be NULL). stop (may be NULL): once set, from any thread, what is left is not read, and the status is TL_ESTOPPED. */
int tl__model_open(tl_model *model, tl_weight_source *source, const tl_arch *arch, int positions, tl_dtype dtype, tl_pool *pool,
                   const tl_beside *beside, const atomic_bool *stop, tl_error *err);
/* What that will take, from headers alone. */
typedef struct tl_model_size {
    int64_t mapped_bytes;  /* of the file, used where they lie */
    int64_t packed_bytes;  /* quantised matrices, packed */
    int64_t copied_bytes;  /* 16-bit matrices that had to be put in order */
    int64_t widened_bytes; /* f32 */
    int64_t table_bytes;   /* of positions, and alignment */
    int64_t total_bytes;
} tl_model_size;
int tl__model_size(tl_model_size *size, tl_weight_source *source, const tl_arch *arch, int positions, tl_dtype dtype, tl_error *err);
/* Whether a folder or file holds every tensor that the architecture calls for, in its shape, and no other. Reads no weights. */
int tl__model_fits(const tl_arch *arch, const char *path, tl_error *err);
/* Weights in a flat, writable buffer: from a folder or a GGUF file, or random. Trainer's form. */
int tl__model_create(tl_model *model, const tl_arch *arch, int positions, tl_error *err); /* flat all zero */
/* The same with room only for parameters whose owner[] is `rank`: the others' weights are NULL until somebody lends them. */
int tl__model_create_owned(tl_model *model, const tl_arch *arch, int positions, const int *owner, int rank, tl_error *err);
int tl__model_load_into(tl_model *model, const char *path, tl_error *err);
void tl__model_init(tl_model *model, uint64_t seed, tl_pool *pool);
void tl__model_close(tl_model *model);

/* What a layer's activations give up between forward and backward, to be computed again from its input (Chen et al. 2016). The same
 * operators on the same operands: no bit changes. */
typedef enum tl_recompute {
    TL_RECOMPUTE_NONE,
    TL_RECOMPUTE_ATTENTION, /* attention's: qkv, att, max_sum, K and V lie in one set for all layers */
    TL_RECOMPUTE_FULL,      /* all but the input x do */
    TL_RECOMPUTES
} tl_recompute;
const char *tl__recompute_name(tl_recompute recompute); /* "none", "attention", "full" */

/* Rows whose logits exist at a time: a multiple of TL_KB, at which sums over rows are cut anyway. The head's weights are read, and
 * their gradient is read and written, once for each. */
enum { TL_LOSS_ROWS = 2 * TL_KB };

/* What one layer keeps for its backward; sizes in floats a row. */
typedef struct tl_layer_acts {
    float *x;        /* [R,C] the layer's input (residual stream) */
    float *norm1_mean, *norm1_rstd; /* [R] */
    float *qk;       /* [R,(H+Hkv)·D] q and k before their norm; NULL without one, and outside training */
    float *qk_rstd;  /* [R·norms of q], [R·norms of k] */
    float *qkv;      /* [R,(H+2Hkv)·D], q and k after RoPE */
    float *att;      /* [R,H·D] attention's output before the projection */
    float *attended; /* [R,C] sandwich: the attention branch before its own norm; else NULL */
    float *post1_rstd;
    float *max_sum;  /* [R,H,2] */
    float *x_mid;    /* [R,C] after attention's residual */
    float *norm2_mean, *norm2_rstd;
    float *up;       /* [R,2F] (gate, up) or [R,F]; with experts [R·k,2·expert_F], in the list's order */
    tl_layer_experts experts;
    float *fed;      /* [R,C] sandwich: the feed-forward branch before its own norm; else NULL */
    float *post2_rstd;
    tl_kv kv;        /* training: this layer's blocks; inference: the session's pool */
} tl_layer_acts;

/* Who brings and takes the blocks of parameters (tl__param_block) where they do not simply lie there. Any member may be NULL. */
typedef struct tl_blocks {
    void *user;
    /* The block's weights are about to be read, and after it most likely next's (−1: nobody knows): model->weight of its parameters
     * holds them on return. A layer's stay until two others were needed, the rest while the pass lasts. */
    void (*need)(void *user, int block, int next);
    /* Where the flat buffer would begin in which the block's gradient is to be added up, from a leaf's first call on cleared
     * (tl__model_clear_gradient); it need only be there for the block. */
    float *(*gradient)(void *user, int block);
    /* A backward has completed its part of the gradient of L + 1, L, … 1, but not of 0, which the caller may add to. */
    void (*finished)(void *user, int block);
} tl_blocks;

typedef struct tl_acts {
    int R;                 /* rows there is room for */
    bool training;
    tl_recompute recompute; /* training: which of layer[] lie in one set */
    tl_layer_acts *layer;  /* [L] */
    float *x_out;          /* [R,C] after the last layer (before the final norm) */
    float *final_mean, *final_rstd;
    float *hidden;         /* [R,C] after the final norm: what the head reads */
    float *normed, *act, *branch; /* scratch [R,C], [R,F] or [R·k,expert_F], [R,C] */
    float *d_x, *d_normed, *d_qkv, *d_att, *d_up, *d_act; /* training only */
    tl_experts experts;    /* where the model has them */
    float *logits;         /* [loss_rows, V] */
    int loss_rows;         /* TL_LOSS_ROWS, or fewer when R is; outside training also where the vocabulary is large */
    float z_coef;          /* of the z-loss, in training; 0: none */
    float *logz;           /* [R] with a z-loss: log Z of each row that has a target, else 0 */
    bool first;            /* a leaf's first micro-batch: products write their weight's gradient instead of adding to it */
    const struct tl_blocks *blocks; /* NULL: weights and gradients simply lie there */
} tl_acts;

/* Place activations for R rows in an arena (dry or real): the one sizing function of law L4. kv_blocks: blocks a layer (training).
 * Without training all layers share one set, and recompute is of no account. */
void tl__acts_place(tl_acts *acts, tl_arena *arena, const tl_arch *arch, int R, int kv_blocks, bool training, tl_recompute recompute);

/* Fill hidden[R,C] (and all kept activations) for rows. acts->layer[l].kv must be set. */
void tl__model_forward(tl_ctx *ctx, const tl_model *model, tl_acts *acts, const tl_rows *rows);
/* logits[n,V] of n hidden rows, soft-capped where the model does: what is sampled and scored. */
void tl__model_logits(tl_ctx *ctx, const tl_model *model, float *logits, const float *hidden, int n);
/* Head and loss together, loss_rows at a time, never all logits: logp[R] of target (−1 ignored). With grad (flat gradient buffer): also
 * d_hidden into acts->d_normed, and the head's gradient. grad_scale: 1 / the step's token count. With a z-loss its gradient too, and logz filled. */
void tl__model_loss(tl_ctx *ctx, const tl_model *model, tl_acts *acts, const int32_t *target, int R, float *logp, float *grad, float grad_scale);
/* Before a leaf: zero the parts of the gradient of parameters [first, end) that its first micro-batch adds to. The others need not be
 * cleared: one pass over them less. */
void tl__model_clear_gradient(tl_ctx *ctx, const tl_model *model, float *grad, int first, int end);
/* Everything below the loss: adds each parameter's gradient into grad (flat, params order). The token embedding's look-up gradient goes to
 * embed_grad[slots,C] by slot[V] when the embedding is tied (it must be added after the leaf's last micro-batch: the head's part comes
 * first), else straight into grad. */
void tl__model_backward(tl_ctx *ctx, const tl_model *model, tl_acts *acts, const tl_rows *rows, float *grad, float *embed_grad, const int32_t *slot);
/* The needs of a forward, its loss and its backward in their order, and nothing else: keeps a rank that has no rows in step. */
void tl__model_idle_pass(const tl_model *model, const tl_acts *acts);

#endif
