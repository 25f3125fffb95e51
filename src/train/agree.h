/* agree.h — whether all ranks hold the same weights and compute the same from them.
 *
 * Laws L1–L3 make every rank's bits equal, so a hash tells a rank that computed wrongly, or whose memory failed: every so many steps each
 * rank hashes the weights that all should have and the gradient of one and the same sequence (its log-probabilities, where ranks
 * keep parts of gradients), and the ranks compare. What is compared is what all should have: what is its owner's alone (the optimizer's state with a shard) nobody else can tell. */
#ifndef TL_TRAIN_AGREE_H
#define TL_TRAIN_AGREE_H

#include "io/hash.h"
#include "train/step.h"

typedef struct tl_agree_record { /* of one rank */
    tl_hash weights, gradient, again; /* again: the gradient a second time, once there is a difference */
} tl_agree_record;

typedef struct tl_agree { /* taken before the first step */
    tl_agree_record mine, *all; /* [ranks] */
    tl_hash *parameter;         /* [params.n] */
    bool *wrong;                /* [ranks] */
    int64_t agreed_step;        /* the last at which all were the same */
    tl_hash *note;              /* [notes] of two ranks: this one's weights after each step since; NULL with more, who have a majority */
    int64_t notes;
    bool replaying;             /* steps are taken again: what is noted is compared instead */
    int64_t mine_first, *first; /* [ranks] the first step whose weights a replay did not give again; 0: none */
    int speaker;                /* after a difference: the rank that tells of it */
    bool undecided;             /* two ranks differ in their weights, and nothing tells yet whose are wrong */
} tl_agree;

/* agreed_step: where the run begins or goes on. interval: most steps from one comparison to the next; 0: nothing is noted. */
int tl__agree_open(tl_agree *agree, int ranks, const tl_params *params, int64_t agreed_step, int64_t interval, tl_error *err);
void tl__agree_close(tl_agree *agree);

/* Compare with all ranks after the update of `step`. memory->input/target/pos begin with one sequence that is the same on all ranks;
 * grad[0] is written. TL_EDIVERGED, on all ranks alike, names who is wrong and since when; TL_ECOMM as any collective. */
int tl__agree(tl_agree *agree, tl_ctx *ctx, tl_comm *comm, const tl_model *model, tl_train_memory *memory, const tl_train_shape *shape,
              int64_t step, tl_error *err);

/* After the update of `step` and before the next: remember these weights for a replay (replaying: compare them with what is
 * remembered). Of two ranks; of more it does nothing. One read of the weights, no heap call. */
void tl__agree_note(tl_agree *agree, tl_ctx *ctx, const tl_model *model, int64_t step);
/* After tl__agree left it undecided, and every rank has gone back to the weights of step `from` and come to `step` once more: whose
 * weights first differ from those noted was wrong then; from the next step on its gradients had led the other astray too.
 * TL_EDIVERGED in any case; err is left as it is where that tells nothing. */
int tl__agree_replayed(tl_agree *agree, tl_comm *comm, int64_t from, int64_t step, tl_error *err);

/* Which of `all`[ranks] are wrong. 0: none; > 0: so many, marked in wrong[ranks]; −1: they differ and nobody can tell who is wrong. A rank
 * that contradicts itself is wrong; else those who differ from more than half of all. */
int tl__agree_judge(bool *wrong, const tl_agree_record *all, int ranks);

#endif
