/* depth.h — one dial: from a depth to a Llama-style model near compute-optimal, and to how it is trained.
 *
 * Pure arithmetic on shapes: the same on every machine. Each rule stands in depth.c beside its source; docs/depth.md
 * tells them in a row and says how far each was checked. */
#ifndef TL_PLAN_DEPTH_H
#define TL_PLAN_DEPTH_H

#include "model/arch.h"

enum { TL_MOST_DEPTH = 128, TL_MOST_ASPECT = 512 };

/* Tokens a parameter of a run that says nothing else. */
extern const double tl__depth_tokens_per_param;

/* The model of a depth, `aspect` times as wide as deep (0: as the rule has it), with a vocabulary still to be set
 * (V = 1, as presets have it) and at least T positions. TL_EINVALID: out of range, by name and value. */
int tl__depth_arch(tl_arch *arch, int64_t depth, int64_t aspect, int64_t T, tl_error *err);

typedef struct tl_depth_plan { /* in: what is settled already; out: everything */
    int64_t batch;       /* B, sequences of T tokens a step; 0: to be chosen, a multiple of `leaves` */
    double lr;           /* < 0: to be chosen */
    double weight_decay; /* < 0: to be chosen */
    double tokens;       /* D, the horizon; 0: `steps`, else tl__depth_tokens_per_param times the parameters */
    int64_t steps;       /* of the horizon, where it is told in steps; else 0 */
} tl_depth_plan;

/* Choose what is not settled. params: N, all of them, tied ones once. */
void tl__depth_plan(tl_depth_plan *plan, const tl_arch *arch, int64_t params, int64_t T, int64_t leaves);

#endif
