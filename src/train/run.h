/* run.h — one pre-training run as it stands in memory: opened by prepare.c, stepped by pretrain.c, written down by
 * record.c. */
#ifndef TL_TRAIN_RUN_H
#define TL_TRAIN_RUN_H

#include "infer/session.h"
#include "train/agree.h"
#include "train/checkpoint.h"
#include "train/fault.h"
#include "plan/traffic.h"
#include "train/pretrain.h"
#include "train/run_folder.h"

/* The prediction is made again at the pace of so many steps: of each part of a step the middle one. */
enum { TL_WARM_STEPS = 5 };

typedef struct tl_run {
    const tl_train_config *config; /* &resolved */
    tl_train_config resolved;      /* as given, and what a depth chose */
    char model_name[64];           /* "depth 6", where a depth is the model */
    const tl_train_observer *observer;
    tl_run_folder folder;
    tl_ctx ctx;
    tl_comm *comm;
    int rank, ranks;
    int ranks_here; /* on this host */
    bool told;      /* every rank knows that the run failed */
    tl_ticket stop_ticket; /* of the sum over ranks of `stop` */
    double stop[2];        /* ranks that were asked to stop before this step; whose part of a checkpoint was on disk */
    tl_faults faults;      /* planted on purpose */
    tl_agree agree;
    tl_tokenizer *tokenizer;
    char tokenizer_name[256];
    tl_dataset *data;
    tl_train_shape shape;
    tl_machine machine;
    tl_gpu *gpu; /* NULL: none, or without counters */
    tl_gpu_sample gpu_sample;
    tl_model model;
    tl_model averaged; /* the same with the average for weights; .weight NULL: none is kept */
    tl_arena arena;
    tl_train_memory memory;
    tl_train_bytes bytes;     /* predicted, from open_rest on of the most loaded rank */
    int64_t bytes_by_recompute[TL_RECOMPUTES], bytes_by_shard[TL_SHARDS]; /* likewise */
    tl_train_traffic expected_traffic; /* of a step */
    tl_totals seconds; /* predicted */
    tl_schedule schedule;
    tl_saver *saver;
    tl_train_state state;
    json_t *settings; /* those that determine bits */
    char started[32];
    char run_name[256];

    /* For samples: one session, its text, all taken before the first step. */
    tl_session *session;
    int32_t *prompt; /* token ids */
    int prompt_n;
    float *logits;
    void *sampler_scratch;
    char *text, *line; /* the sample's text; its JSON line */
    size_t text_bytes, line_bytes;

    double *validation;   /* [val_samples, 2] nats and targets of each */
    double *step_seconds; /* [steps] wall of each step of this process, for the median */
    int64_t step_seconds_n;
    double *step_comm; /* [3, steps] of several ranks: exposed and hidden seconds, bytes */
    int64_t peak_bytes, *peaks; /* [ranks] at the end */
    tl_comm_traffic traffic; /* of all steps of this process */
    tl_step_metrics warm[TL_WARM_STEPS]; /* of this process, after the first, which touches memory anew */
    int warm_n;
    double stalled_seconds;  /* of all steps, for checkpoints */
    double last_loss, last_validation_loss;
} tl_run;

/* Everything up to the first step. On failure, close what was opened. */
int tl__run_open(tl_run *run, const tl_train_config *config, const tl_train_observer *observer, tl_error *err);
void tl__run_close(tl_run *run);

/* Fill memory->input/target/pos with this rank's part of the B training samples from `first`, or with n validation
 * samples. */
int tl__run_load_batch(tl_run *run, int64_t first, tl_error *err);
int tl__run_load_validation(tl_run *run, int64_t first, int n, tl_error *err);

/* All ranks: back to the newest intact checkpoint, or to where the run began. The writer must be idle. */
int tl__run_rewind(tl_run *run, tl_error *err);

/* The settings that determine bits, for run.json and manifests; the caller json_decref()s. */
json_t *tl__run_settings(const tl_run *run);
/* Write plan.json: status "running", or what happened when outcome is not NULL. */
int tl__run_put_plan(tl_run *run, const char *status, const tl_train_outcome *outcome, tl_error *err);
/* trace.json and report.html. Failures are warned about: they must not cost a run. */
void tl__run_put_report(tl_run *run);

/* Write one sample of what the model would say now. No heap call. */
int tl__run_sample(tl_run *run, tl_error *err);

#endif
