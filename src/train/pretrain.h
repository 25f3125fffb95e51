/* pretrain.h — a whole pre-training run: from text files and settings to a run folder, in one call that can be killed
 * at any instant.
 *
 * What a run folder holds is documented in docs/run-folder.md. */
#ifndef TL_TRAIN_PRETRAIN_H
#define TL_TRAIN_PRETRAIN_H

#include "observe/ledger.h"
#include "plan/traffic.h"
#include "text/dataset.h"
#include "train/schedule.h"
#include "train/step.h"

enum { TL_DIAL_BATCH = 1, TL_DIAL_LR = 2, TL_DIAL_WEIGHT_DECAY = 4 };

typedef struct tl_train_config {
    const char *const *data; /* files */
    int n_data;
    const char *out;       /* the run folder */
    const char *model;     /* preset, config.json, or checkpoint folder (its weights); not read where depth is set */
    int64_t depth, aspect; /* depth > 0: the model of that depth, and `dialled` settings from it (plan/depth.h) */
    unsigned dialled;      /* TL_DIAL_…: what the depth chooses, whatever it is here */
    const char *tokenizer; /* "bytes", "bpe:N", file, folder; NULL: the model folder's, else bpe:4096 */
    const char *text_key;
    const char *cache;     /* prepared data; NULL: OUT/data */
    /* config.yaml: the settings as text, malloc'd, asked for once all of them are known. NULL: none is kept. */
    char *(*yaml)(void *user, const struct tl_train_config *resolved);
    void *yaml_user;
    /* Length of the run, one of these. All 0: with a depth tl__depth_tokens_per_param, else one pass over the data. */
    int64_t steps, tokens;
    double minutes;
    double flops; /* of the model (tl__arch_model_flops_per_token), never more than this */
    double tokens_per_param;
    int64_t stop_after; /* stop, with a checkpoint, after this step; 0: never */
    int64_t batch, seq, micro_batch, threads;
    int64_t leaves; /* 0: as few as the ranks need */
    double comm_timeout; /* seconds to wait for other ranks; 0: 600 */
    int64_t check_every; /* steps between comparisons of the ranks; 0: none */
    tl_shard shard;
    double lr, min_lr_ratio, warmup, decay_fraction; /* warmup < 1: a fraction of the steps */
    tl_schedule_kind schedule;
    tl_optimizer optimizer;
    tl_adamw_settings adamw;
    double muon_lr, muon_momentum; /* of Muon's matrices; muon_lr 0: lr */
    double z_loss;                 /* coefficient of log²Z (PaLM §5); 0: none */
    double ema;                    /* decay of the average of the weights; 0: none is kept */
    tl_recompute recompute;
    double router_aux, router_z; /* coefficients of the experts' two losses; < 0: the model's, 0.001 */
    uint64_t seed;
    bool document_mask;
    double val_fraction;
    int64_t val_every, val_samples;      /* val_every 0: up to twenty times in the run */
    int64_t checkpoint_every, keep;      /* checkpoint_every 0: at the end only */
    int64_t max_skipped;                 /* steps in a row that are not finite before the run gives up */
    int64_t sample_every, sample_tokens; /* 0: at the end only; 0: none */
    const char *sample_prompt;           /* NULL: the beginning of the validation text */
    tl_contract contract; /* of the products; weights, gradients and moments are f32 */
    tl_device device; /* which computes; never changes a bit */
    bool resume;
} tl_train_config;

typedef struct tl_train_start tl_train_start;

/* What a front end is told. All pointers may be NULL. */
typedef struct tl_train_observer {
    void *user;
    void (*preparing)(void *user, int64_t done_bytes, int64_t total_bytes); /* tokenising */
    void (*started)(void *user, const tl_train_start *start);
    void (*step)(void *user, const tl_step_metrics *metrics, int64_t steps, double seconds_left);
    void (*sample)(void *user, int64_t step, const char *prompt, const char *text);
    /* Why the run ends, on each rank that has a sentence of its own, before the ranks part: a launcher ends the rest when the first is
     * gone. The error that comes back then has no text. */
    void (*failed)(void *user, const tl_error *err);
} tl_train_observer;

struct tl_train_start {
    const tl_train_config *config; /* resolved: what a depth chose stands in it */
    const tl_arch *arch;
    const tl_dataset_facts *data;
    const tl_machine *machine;
    tl_contract contract;
    const tl_train_shape *shape;
    const tl_train_bytes *memory;
    const int64_t *memory_by_recompute; /* [TL_RECOMPUTES] totals */
    const int64_t *memory_by_shard; /* [TL_SHARDS] totals of a rank, where there are several */
    const tl_train_traffic *traffic; /* predicted, of a step */
    int hosts; /* that the ranks are on */
    const tl_totals *seconds; /* predicted, of a step */
    int64_t params, steps, first_step;
    double flops; /* of the model, over the whole run */
    const char *tokenizer;
};

typedef struct tl_train_outcome {
    int rank;                                    /* of this process: rank 0 tells of the run */
    int64_t steps;                               /* done in all */
    bool stopped;                                /* before the last one, as asked */
    double loss, validation_loss, bits_per_byte; /* NaN: not known */
    int64_t skipped;
    int64_t peak_bytes;
    char checkpoint[4096]; /* the last one, or "" */
    char bottleneck[512];
} tl_train_outcome;

/* 0 when the run reached its last step or stopped as asked. */
int tl__pretrain(const tl_train_config *config, const tl_train_observer *observer, tl_train_outcome *outcome,
                 tl_error *err);

/* Safe in a signal handler: the run writes a checkpoint after the present step and returns. */
void tl__pretrain_request_stop(void);

#endif
