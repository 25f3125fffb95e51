/* sampler.h — from logits to the next token. Keyed by (seed, position): the draw does not depend on what was drawn
 * before.
 *
 * Order, as in the field: temperature, top-k, top-p, min-p; then one uniform number over the cumulative sum in
 * (probability descending, id ascending) order — a total order, so ties are always broken the same way. temperature 0:
 * the largest logit, smallest id. */
#ifndef TL_INFER_SAMPLER_H
#define TL_INFER_SAMPLER_H

#include "kernels/ops.h"

/* Ranges of a tl_sampling (trilith.h), by name. */
int tl__sampling_check(const tl_sampling *s, tl_error *err);
/* logits[V] is left as it is; scratch holds 2·V int32-sized words. logp (may be NULL): log-probability of the pick
 * under the model's own distribution (temperature 1, nothing cut), by the contract's softmax_loss. A logit that is not
 * a number is never picked. */
int32_t tl__sample(tl_ctx *ctx, const tl_sampling *s, const float *logits, int V, int64_t position, void *scratch,
                   float *logp);

#endif
