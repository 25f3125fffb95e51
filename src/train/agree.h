/* agree.h — whether all ranks hold the same weights and compute the same from them.
 *
 * Laws L1–L3 make every rank's bits equal, so a hash tells a rank that computed wrongly, or whose memory failed: every so many steps each
 * rank hashes the weights that all should have, computes one and the same sequence's gradient twice and hashes both, and the ranks
 * compare. What is compared is what all should have: what is its owner's alone (the optimizer's state with a shard) nobody else can tell. */
#ifndef TL_TRAIN_AGREE_H
#define TL_TRAIN_AGREE_H

#include "train/step.h"
#include "io/hash.h"

typedef struct tl_agree_record { /* of one rank */
    tl_hash weights, probe, again;
} tl_agree_record;

typedef struct tl_agree { /* taken before the first step */
    tl_agree_record mine, *all; /* [ranks] */
    tl_hash *parameter;         /* [params.n] */
    bool *wrong;                /* [ranks] */
    int64_t agreed_step;        /* the last at which all were equal; 0: none yet */
} tl_agree;

int tl__agree_open(tl_agree *agree, int ranks, const tl_params *params, tl_error *err);
void tl__agree_close(tl_agree *agree);

/* Fill `mine`. whole: all weights are here and may be computed with, where memory->input/target/pos begin with a sequence that is the same
 * on all ranks; else only an empty hash. It writes grad[0]. */
void tl__agree_look(tl_agree *agree, tl_ctx *ctx, const tl_model *model, tl_train_memory *memory, const tl_train_shape *shape, bool whole);

/* Which of `all`[ranks] are wrong. 0: none; > 0: so many, marked in wrong[ranks]; −1: they differ and nobody can tell who is wrong. A rank
 * that contradicts itself is wrong; else those who differ from more than half of all. */
int tl__agree_judge(bool *wrong, const tl_agree_record *all, int ranks);

/* Compare with all ranks at the end of `step`. TL_EDIVERGED names who is wrong, and since when; TL_ECOMM as any collective. */
int tl__agree_compare(tl_agree *agree, tl_comm *comm, int64_t step, int64_t timeout_ns, tl_error *err);

#endif
