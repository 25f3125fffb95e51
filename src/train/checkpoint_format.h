/* checkpoint_format.h — the names inside a checkpoint folder and the tensors behind them, shared by its writer (saver.c)
 * and its reader (checkpoint.c). */
#ifndef TL_TRAIN_CHECKPOINT_FORMAT_H
#define TL_TRAIN_CHECKPOINT_FORMAT_H

#include <jansson.h>
#include "io/manifest.h"
#include "train/checkpoint.h"

#define TL_OPTIMIZER_NAME "optimizer.safetensors"
#define TL_AVERAGE_FOLDER "ema"
#define TL_AVERAGE_NAME TL_AVERAGE_FOLDER "/" TL_WEIGHTS_NAME

json_t *tl__train_state_json(const tl_train_state *state);

/* A checkpoint's tensors are three sets, each a file, or shards of it where several ranks wrote. */
typedef enum tl_set { TL_SET_WEIGHTS, TL_SET_OPTIMIZER, TL_SET_AVERAGE, TL_SETS } tl_set;

typedef struct tl_tensor_set {
    const char *file;       /* TL_WEIGHTS_NAME, … */
    int n;                  /* 0: not kept */
    tl_tensor_out *tensors; /* [n] in the file's order; data NULL where this rank does not keep it */
    int *writer;            /* [n] the rank that writes it */
} tl_tensor_set;

/* Every tensor of a run's state where it lies in memory. The optimizer's have the names that PyTorch gives them:
 * exp_avg.NAME (or momentum_buffer.NAME, Muon's) of each parameter, then exp_avg_sq.NAME of those that AdamW updates.
 * The same list on every rank. */
typedef struct tl_tensor_sets {
    tl_tensor_set set[TL_SETS];
    char (*names)[192];
} tl_tensor_sets;
int tl__tensor_sets_open(tl_tensor_sets *sets, const tl_model *model, const tl_train_memory *memory,
                         tl_optimizer optimizer, tl_error *err);
void tl__tensor_sets_close(tl_tensor_sets *sets);
int64_t tl__tensor_bytes(const tl_tensor_out *tensor);

/* N of "step-N", or −1. */
int64_t tl__checkpoint_step(const char *name);
/* Steps of the step-N folders, newest first, malloc'd; returns how many. */
int tl__checkpoint_list(const char *folder, int64_t **steps);

#endif
