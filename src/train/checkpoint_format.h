/* checkpoint_format.h — the names inside a checkpoint folder, shared by its writer (saver.c) and its reader
 * (checkpoint.c). */
#ifndef TL_TRAIN_CHECKPOINT_FORMAT_H
#define TL_TRAIN_CHECKPOINT_FORMAT_H

#include <jansson.h>
#include "io/manifest.h"
#include "train/checkpoint.h"

#define TL_OPTIMIZER_NAME "optimizer.safetensors"
#define TL_AVERAGE_FOLDER "ema"
#define TL_AVERAGE_NAME TL_AVERAGE_FOLDER "/" TL_WEIGHTS_NAME

json_t *tl__train_state_json(const tl_train_state *state);
/* The optimizer's state as tensors that lie in `memory`, in the file's order, under the names that PyTorch gives them:
 * exp_avg.NAME (or momentum_buffer.NAME, Muon's) of each parameter, then exp_avg_sq.NAME of those that AdamW updates.
 * tensors[2n] and names[2n] have room for n parameters; returns how many. */
int tl__optimizer_tensors(tl_tensor_out *tensors, char (*names)[192], const tl_params *params,
                          const tl_train_memory *memory);

/* N of "step-N", or −1. */
int64_t tl__checkpoint_step(const char *name);
/* Steps of the step-N folders, newest first, malloc'd; returns how many. */
int tl__checkpoint_list(const char *folder, int64_t **steps);

#endif
