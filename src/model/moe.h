/* moe.h — the feed-forward block as a mixture of experts: dropless top-k routing, forward and backward, and what keeps
 * the experts evenly loaded.
 *
 * A row goes to k of E experts; each expert is a gated feed-forward of its own, and what they give is added with the
 * router's weights. Nothing is dropped: the lists hold R·k rows whatever the load, so memory is known beforehand. A
 * row's bits depend on that row alone (law L1): the choice is a total order, an expert's product does not see which
 * rows stand beside, a row adds its experts in ascending order.
 *
 * The load-balance loss (Fedus et al. 2021, eqs. 4–6; over all layers' rows together, as transformers has it) and the
 * router's z-loss (Zoph et al. 2022, eq. 5) are means over the rows of one leaf: a leaf is computed in one micro-batch.
 */
#ifndef TL_MODEL_MOE_H
#define TL_MODEL_MOE_H

#include "base/arena.h"
#include "model/arch.h"

struct tl_model;
struct tl_acts;
struct tl_layer_acts;

/* What a layer keeps for its backward. */
typedef struct tl_layer_experts {
    float *prob;     /* [R,E] */
    float *logz;     /* [R] */
    float *weight;   /* [R,k] */
    int32_t *choice; /* [R,k] */
} tl_layer_experts;

/* What all layers share, and the statistics of the last forward. */
typedef struct tl_experts {
    float *rows;        /* [R·k,C] what the experts read; what they give takes its place */
    int32_t *slot, *at; /* [R·k] */
    float *d_logits;    /* [R,E] training only, as all that follows */
    float *d_weight;    /* [R,k] */
    int32_t *load;      /* [L,E] rows that went to each expert */
    float *prob_sum;    /* [L,E] Σ over rows of p */
    double *z_sum;      /* [L] Σ over rows of logz² */
    float *balance;     /* [E] ∂ load-balance loss / ∂p, the same for all rows and layers */
    float z_scale;      /* ∂ z-loss / ∂logits, over logz·p */
    float leaf_part;    /* of the step's losses: 1 / leaves */
} tl_experts;

/* Layers with experts. */
int tl__moe_layers(const tl_arch *arch);

void tl__moe_place(tl_experts *experts, tl_arena *arena, const tl_arch *arch, int R, bool training);
void tl__moe_place_layer(tl_layer_experts *layer, tl_arena *arena, const tl_arch *arch, int R);

/* acts->normed → acts->branch for layer l. again: only what the backward of the layer reads. */
void tl__moe_forward(tl_ctx *ctx, const struct tl_model *model, struct tl_acts *acts, struct tl_layer_acts *layer,
                     int R, int l, bool again);
/* Once before a leaf's backward, when all its layers were routed: what balance and z-loss add to each row's gradient.
 */
void tl__moe_begin_backward(const struct tl_model *model, struct tl_acts *acts, int R);
/* dout (gradient of the branch) → acts->d_normed, written; acts->normed holds the block's input again. */
void tl__moe_backward(tl_ctx *ctx, const struct tl_model *model, struct tl_acts *acts, struct tl_layer_acts *layer,
                      const float *dout, int R, int l, float *grad);

/* Of the last forward, both without their coefficients: the load-balance loss (top_k when the load is even; at most E)
 * and the z-loss. */
void tl__moe_losses(const struct tl_model *model, const struct tl_acts *acts, int R, double *balance, double *z);
/* And layer l's largest load over its mean: 1 when even, at most E. */
double tl__moe_peak_load(const struct tl_model *model, const struct tl_acts *acts, int R, int l);

#endif
