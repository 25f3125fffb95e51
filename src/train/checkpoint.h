/* checkpoint.h — step-N/ folders: a Hugging Face model folder plus optimizer state, and a manifest that makes it exist.
 *
 *   config.json generation_config.json tokenizer.json tokenizer_config.json model.safetensors
 *   optimizer.safetensors   exp_avg.NAME and exp_avg_sq.NAME for each parameter; momentum_buffer.NAME for Muon's
 *   ema/                    the averaged weights as a model folder of their own, where they are kept
 *   manifest.json           written last: trainer state, settings that determine bits, XXH3-128 of every tensor
 *
 * Where several ranks train, each writes the tensors whose owner it is (plan/shard.h) into files of its own:
 * model-00001-of-00004.safetensors, optimizer-00001-of-00004.safetensors and so on, each set with the index that Hugging
 * Face has beside it (model.safetensors.index.json). Any number of ranks reads what any other wrote, by tensor name.
 *
 * Written into a folder checkpoints/.step-N….partial by a background thread of each rank that reads the state in place;
 * the trainer must hold back its next update until tl__saver_wait_read returns. When all is on disk, fsynced, rank 0
 * writes the manifest, renames the folder to step-N and moves checkpoints/latest (a symbolic link). A checkpoint without
 * a readable, matching manifest does not exist: reading skips it, says which tensor is damaged, and takes the one
 * before. All ranks work on one shared file system. */
#ifndef TL_TRAIN_CHECKPOINT_H
#define TL_TRAIN_CHECKPOINT_H

#include "comm/comm.h"
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
 * 0 = all). memory: the optimizer's state and the average.
 *
 * With a communicator of several ranks the calls marked "all ranks" are collective: every rank makes them at the same
 * point of its program, from the thread that owns the communicator. */
typedef struct tl_saver tl_saver;
typedef struct tl_saver_options {
    const char *folder;
    const tl_model *model; /* trainer's form */
    const tl_train_memory *memory;
    tl_optimizer optimizer;
    const tl_tokenizer *tokenizer;
    const char *settings_json;
    int keep;
    tl_comm *comm; /* NULL: alone, or the caller carries the parts (below) */
    int64_t timeout_ns;
    int rank, ranks; /* without a communicator; ranks 0: one */
    uint64_t run_id; /* of several ranks: the same on all, and no other job's */
} tl_saver_options;
int tl__saver_open(tl_saver **saver, const tl_saver_options *options, tl_error *err);
/* All ranks: begin writing the present state; returns at once. One at a time: the one before has been waited for. */
void tl__saver_start(tl_saver *saver, const tl_train_state *state);
/* Wait until this rank's tensors have been read: the update may go on. */
int tl__saver_wait_read(tl_saver *saver, tl_error *err);
/* Several ranks: whether this one's part is on disk and the others have not been told. When that is so on all, and all
 * know it, tl__saver_settle (all ranks) lets rank 0 publish; else tl__saver_wait_published does. */
bool tl__saver_written(tl_saver *saver);
int tl__saver_settle(tl_saver *saver, tl_error *err);
/* All ranks: wait until all is published. Here, in wait_read or in settle the error of a failed save, whichever rank's,
 * comes back once: the earlier checkpoints are intact and the partial folder is gone. The communicator's own failures
 * come back too: then nobody knows what became of the save, and the run cannot go on. */
int tl__saver_wait_published(tl_saver *saver, tl_error *err);
/* Of this rank's parts of all saves so far: what was written, and the seconds from each start until it was on the disk. */
typedef struct tl_saver_work {
    int64_t saves;
    double bytes, seconds;
} tl_saver_work;
tl_saver_work tl__saver_work(tl_saver *saver);
/* Waits for its own thread only; a save that not all ranks have finished is given up. */
void tl__saver_close(tl_saver *saver);

/* What tl__saver_settle does over the communicator, for a caller without one: once this rank's part is on disk, what it
 * has to say of it (the same size on all ranks), and then what all ranks said, in rank order. */
const void *tl__saver_part(tl_saver *saver, size_t *part_bytes);
int tl__saver_join(tl_saver *saver, const void *parts, tl_error *err);

/* All ranks: the newest intact checkpoint in RUN/checkpoints, the same for all: fills path, state and (malloc'd)
 * settings JSON. Each rank verifies its share. Damaged ones are warned about, by rank 0 and tensor name, and passed
 * over. TL_ENOTFOUND when there is none. Tensors are not read into place yet. comm NULL: alone. */
int tl__checkpoint_find(const char *folder, tl_comm *comm, int64_t timeout_ns, char *path, size_t path_size,
                        tl_train_state *state, char **settings_json, tl_error *err);
/* All ranks: read what this rank keeps of weights, optimizer's state and average into place, verifying the hash of each
 * tensor as it was read. Fails on all ranks if on one. */
int tl__checkpoint_load(const char *path, tl_comm *comm, int64_t timeout_ns, tl_model *model, tl_train_memory *memory,
                        tl_optimizer optimizer, tl_error *err);
/* Remove partial folders that a killed run left. Rank 0 alone, before any rank begins to save. */
void tl__checkpoint_sweep(const char *folder);

#endif
