/* checkpoint.h — step-N/ folders: a Hugging Face model folder plus optimizer state, and a manifest that makes it exist.
 *
 *   config.json generation_config.json tokenizer.json tokenizer_config.json model.safetensors
 *   optimizer.safetensors   exp_avg.NAME and exp_avg_sq.NAME for each parameter; momentum_buffer.NAME for Muon's
 *   ema/                    the averaged weights as a model folder of their own, where they are kept
 *   manifest.json           written last: trainer state, settings that determine bits, XXH3-128 of every tensor
 *
 * Written into checkpoints/.step-N.partial by a background thread that reads the state in place; the trainer must hold
 * back its next update until tl__saver_wait returns. When all is on disk and fsynced the folder is renamed to step-N
 * and checkpoints/latest (a symbolic link) is moved. A checkpoint without a readable, matching manifest does not exist:
 * reading skips it, says which tensor is damaged, and takes the one before. */
#ifndef TL_TRAIN_CHECKPOINT_H
#define TL_TRAIN_CHECKPOINT_H

#include "plan/size.h"
#include "text/tokenizer.h"

typedef struct tl_train_state { /* all that a run is, beside its tensors */
    int64_t step;               /* updates done, skipped steps counted */
    int64_t updates;            /* optimizer updates really made (AdamW's t) */
    int64_t samples;            /* position in the data order */
    int64_t tokens;
    int64_t skipped; /* steps that were not finite */
    int64_t skipped_in_a_row;
    int64_t metrics_bytes; /* length of metrics.jsonl at this step: cut back to it on resume */
    int64_t texts_bytes;   /* length of samples.jsonl, likewise */
    double train_seconds;  /* compute time so far */
} tl_train_state;

/* Open a saver: one background thread, memory taken now. folder: RUN/checkpoints. settings_json: the resolved settings
 * that determine bits (kept in the manifest, compared on resume). keep: how many finished checkpoints stay (oldest go;
 * 0 = all). memory: the optimizer's state and the average. */
typedef struct tl_saver tl_saver;
typedef struct tl_saver_options {
    const char *folder;
    const tl_model *model; /* flat form */
    const tl_train_memory *memory;
    const tl_tokenizer *tokenizer;
    const char *settings_json;
    int keep;
} tl_saver_options;
int tl__saver_open(tl_saver **saver, const tl_saver_options *options, tl_error *err);
/* Begin writing the present state; returns at once. Only one at a time: waits for the one before. */
int tl__saver_start(tl_saver *saver, const tl_train_state *state, tl_error *err);
/* Wait until the tensors have been read (the update may go on), or until all is published. The error of a failed save
 * comes back here once: the earlier checkpoints are intact and the partial folder is gone. */
int tl__saver_wait_read(tl_saver *saver, tl_error *err);
int tl__saver_wait_published(tl_saver *saver, tl_error *err);
void tl__saver_close(tl_saver *saver); /* waits */

/* The newest intact checkpoint in RUN/checkpoints: fills path, state and (malloc'd) settings JSON. Damaged ones are
 * warned about by tensor name and passed over. TL_ENOTFOUND when there is none. Tensors are not read into place yet. */
int tl__checkpoint_find(const char *folder, char *path, size_t path_size, tl_train_state *state, char **settings_json,
                        tl_error *err);
/* Read weights, the optimizer's state and the average into place, verifying every hash. */
int tl__checkpoint_load(const char *path, tl_model *model, tl_train_memory *memory, tl_error *err);
/* Remove partial folders that a killed run left. */
void tl__checkpoint_sweep(const char *folder);

#endif
