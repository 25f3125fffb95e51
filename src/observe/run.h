/* run.h — a run folder read back: the columns of metrics.jsonl and the text beside it, for reports and later for
 * comparisons. */
#ifndef TL_OBSERVE_RUN_H
#define TL_OBSERVE_RUN_H

#include <jansson.h>
#include "base/span.h"
#include "comm/comm.h"

typedef enum tl_column {
    TL_COLUMN_STEP,
    TL_COLUMN_LOSS,
    TL_COLUMN_VALIDATION_LOSS,
    TL_COLUMN_EMA_VALIDATION_LOSS,
    TL_COLUMN_GRAD_NORM,
    TL_COLUMN_LEARNING_RATE,
    TL_COLUMN_TOKENS,
    TL_COLUMN_TOKENS_TOTAL,
    TL_COLUMN_TOKENS_PER_SECOND,
    TL_COLUMN_MFU,
    TL_COLUMN_RSS,
    TL_COLUMN_SKIPPED,     /* 0 or 1 */
    TL_COLUMN_EXPERT_LOAD, /* of the layer that is worst */
    TL_COLUMN_WALL,
    TL_COLUMN_COMM_EXPOSED, /* seconds; these three of runs of more than one rank */
    TL_COLUMN_COMM_HIDDEN,
    TL_COLUMN_COMM_BYTES,
    TL_COLUMN_GPU_POWER,  /* watts; these two of runs on a GPU */
    TL_COLUMN_GPU_HELD,   /* 1: it was held back; 0 */
    TL_COLUMN_SECONDS, /* and TL_BUCKETS − 1 more */
    TL_COLUMNS = TL_COLUMN_SECONDS + TL_BUCKETS
} tl_column;

typedef struct tl_run {
    int n;                      /* lines that held a step */
    double *column[TL_COLUMNS]; /* [n]; NaN where a line lacks the value */
    tl_totals totals;           /* over all lines, a step told twice counted twice: for rates and shares */
    tl_comm_traffic traffic;    /* over all lines that tell of it */
    int64_t unreadable_lines;   /* of metrics.jsonl and samples.jsonl; a last line cut short by a kill is one */
    json_t *plan;               /* plan.json, or NULL */
    char *config;               /* config.yaml, or NULL */
    size_t config_bytes;
    json_t **samples; /* objects of samples.jsonl, the newest MOST_SAMPLES */
    int n_samples;
} tl_run;

/* Missing or damaged files leave their part empty; only a folder that is none, or no memory, is an error. */
int tl__run_read(tl_run *run, const char *folder, tl_error *err);
void tl__run_free(tl_run *run);

#endif
