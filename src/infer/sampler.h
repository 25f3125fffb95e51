/* sampler.h — from logits to the next token: a function of (settings, logits, ids before it, position) and of nothing
 * else. Keyed by (seed, position): the draw does not depend on what was drawn before, so that a token proposed ahead is
 * drawn as it would have been in its turn.
 *
 * Order: bias, penalties (repetition, then presence and frequency), temperature, top-k, top-p, min-p, typical; then one
 * uniform number over the cumulative sum in (probability descending, id ascending) order — a total order, so ties are
 * always broken the same way. Temperature 0: the largest logit after bias and penalties, smallest id.
 *
 * Each cut sees the distribution that the one before left, its sum made 1 again. Bias and penalties come first
 * everywhere. The rest stands as in transformers (generation/utils.py); vLLM cuts by min-p before top-k and top-p, and
 * llama.cpp takes typical between top-k and top-p and the temperature last. Typical comes last here because it alone
 * drops the likeliest: before a cut that keeps a beginning of the order, that cut would measure from another first
 * token than the model's. */
#ifndef TL_INFER_SAMPLER_H
#define TL_INFER_SAMPLER_H

#include "kernels/ops.h"

typedef struct tl_logit_bias {
    int32_t id;
    float bias; /* added to the logit; −INFINITY: never */
} tl_logit_bias;

/* What changes logits before a draw, beside the settings. Ids are below V. {0}: nothing. */
typedef struct tl_steering {
    const tl_logit_bias *bias; /* [n_bias]; an id that comes twice has both added */
    int n_bias;
    int n_prompt, n_made;         /* of a token proposed ahead: those proposed before it count as made */
    const int32_t *prompt, *made; /* the sequence so far */
} tl_steering;

typedef struct tl_candidate {
    int32_t id;
    float logp; /* under the model's own distribution, after no penalty and no cut */
} tl_candidate;

enum { TL_MOST_ALTERNATIVES = 20 };

/* Ranges of a tl_sampling (trilith.h), by name. */
int tl__sampling_check(const tl_sampling *s, tl_error *err);
/* Whether steering's ids can matter. */
bool tl__sampling_penalises(const tl_sampling *s);

/* Scratch of a draw, 64-byte aligned or not. Several threads may draw at once, each with its own and a context without
 * pool and spans. */
size_t tl__sampler_bytes(int V);
/* What drawing a token costs (law L4), told of with log-probabilities or not. */
tl_cost tl__sample_cost(const tl_sampling *sampling, bool told, int V);
/* logits[V] is left as it is; steering may be NULL. logp (may be NULL): log-probability of the pick under the model's
 * own distribution (temperature 1, nothing changed or cut), by the contract's softmax_loss. A logit that is not a
 * number is never picked, nor one of −INFINITY where there is another. */
int32_t tl__sample(tl_ctx *ctx, const tl_sampling *s, const tl_steering *steering, const float *logits, int V,
                   int64_t position, void *scratch, float *logp);

/* log Z of a row: logits[id] − log Z, in f32, has the bits of logp above for any id. */
float tl__log_z(tl_ctx *ctx, const float *logits, int V);
/* The k ≤ TL_MOST_ALTERNATIVES likeliest in (logit descending, id ascending) order; returns how many there are: fewer
 * where fewer logits are numbers. */
int tl__top_logprobs(tl_candidate *top, int k, const float *logits, int V, float log_z);

#endif
