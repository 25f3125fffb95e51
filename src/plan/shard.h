/* shard.h — what of a training run each rank keeps: leaves of the gradient's tree, and parameters as whole tensors.
 *
 * Ownership goes by whole parameters because three others do: Muon updates matrices, checkpoint files hold tensors that can be read by
 * name on any number of ranks, and the gradient's norm is a sum over parameters. It is a pure function of the model and the number of
 * ranks, so nobody needs to be told. */
#ifndef TL_PLAN_SHARD_H
#define TL_PLAN_SHARD_H

#include "model/arch.h"

enum { TL_MAX_RANKS = 4096 };

typedef enum tl_shard {
    TL_SHARD_NONE,  /* every rank keeps and updates everything */
    TL_SHARD_ZERO1, /* the optimizer's state is its owner's alone (Rajbhandari et al. 2020) */
    TL_SHARD_ZERO2, /* gradients too */
    TL_SHARD_ZERO3, /* weights too */
    TL_SHARDS
} tl_shard;
const char *tl__shard_kind_name(tl_shard shard); /* "none", "zero1", … */

/* owner[params.n] among `ranks`. Units (a matrix with the vectors beside it) of the blocks outside the layers first, then layer by layer, in
 * each the largest first, go to the rank that has least so far, ties to the lowest: no two ranks differ by more than the largest unit. */
void tl__shard_owners(int *owner, const tl_params *params, int L, int ranks);

#endif
