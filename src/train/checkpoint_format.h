/* checkpoint_format.h — the names inside a checkpoint folder, shared by its writer (saver.c) and its reader
 * (checkpoint.c). */
#ifndef TL_TRAIN_CHECKPOINT_FORMAT_H
#define TL_TRAIN_CHECKPOINT_FORMAT_H

#include <jansson.h>
#include "io/manifest.h"
#include "train/checkpoint.h"

#define TL_OPTIMIZER_NAME "optimizer.safetensors"
#define TL_EXP_AVG "exp_avg."
#define TL_EXP_AVG_SQ "exp_avg_sq."

json_t *tl__train_state_json(const tl_train_state *state);
/* N of "step-N", or −1. */
int64_t tl__checkpoint_step(const char *name);
/* Steps of the step-N folders, newest first, malloc'd; returns how many. */
int tl__checkpoint_list(const char *folder, int64_t **steps);

#endif
