/* job.h — what the engine has told about the prompts of one HTTP request, kept until it is written out.
 *
 * The engine's thread writes, one thread of the server reads; all memory is there before the first token, so that the
 * engine's thread neither waits for a reader, however slow, nor calls the heap. Of a token are kept its id, its numbers
 * and how many bytes of text are certain after it: the text itself is spelled again by whoever reads (spelling.h). */
#ifndef TL_SERVE_JOB_H
#define TL_SERVE_JOB_H

#include <pthread.h>
#include "serve/metrics.h"

typedef struct tl_told { /* of one token */
    int32_t id;
    float logp;
    uint32_t text_end; /* bytes of the choice's text that are certain after it */
    uint8_t n_top;
    bool thinking;
} tl_told;

typedef struct tl_reply { /* of one choice */
    tl_told *told;        /* [most] */
    tl_candidate *top;    /* [most, alternatives] */
    int n;                /* written; what lies before it changes no more */
    tl_finish finish;     /* NONE: goes on */
    bool by_text;         /* STOP: by a stop text, not by an id */
    uint32_t text_bytes;  /* at the end */
    tl_usage usage;
    int64_t last_ns; /* the metrics' word */
    char error[256]; /* with FAILED */
} tl_reply;

typedef struct tl_part { /* one prompt of a job */
    struct tl_job *job;
    uint64_t request; /* the batcher's number; 0: not submitted */
    const int32_t *prompt;
    int n_prompt, most; /* tokens; those that a choice may make */
    tl_reply *reply;    /* [choices] */
    tl_told *read;      /* [n_prompt] where the prompt's log-probabilities are asked for */
    tl_candidate *read_top;
    int n_read;
    float *embedding; /* [C] where asked for */
} tl_part;

typedef struct tl_job_yard { /* where jobs wait that the engine's thread was the last to hold */
    pthread_mutex_t lock;
    struct tl_job *done;
} tl_job_yard;

typedef struct tl_job {
    pthread_mutex_t lock;
    tl_job_yard *yard;
    tl_metrics *metrics;    /* what each event is counted in; NULL: nothing */
    int holders;            /* parts that have not ended, and the reader */
    int open;               /* choices that have not ended */
    bool asleep;            /* the reader waits … */
    bool whole;             /* … for the end, not for the next token */
    void (*wake)(void *of); /* the reader's, called under the lock; NULL: it has gone */
    void *of;
    int choices, alternatives, C;
    struct tl_job *next; /* in the yard */
    int n_parts;
    tl_part part[];
} tl_job;

typedef struct tl_prompt {
    int32_t *ids; /* [n] */
    int n;
} tl_prompt;

/* A job for n prompts, which all ask for the same; positions: most tokens of a sequence. */
int tl__job_open(tl_job **job, const tl_prompt *prompt, int n, const tl_request *asked, int positions, int C,
                 tl_job_yard *yard, tl_error *err);
/* Hands every prompt to the batcher; NULL: there is none any more. After a failure those that went in are cancelled,
 * and the job ends by itself. */
int tl__job_submit(tl_job *job, tl_batcher *batcher, const tl_request *asked, tl_error *err);
/* The reader sleeps until more is told than `seen` tokens and ends, or with `whole` until all has ended. true: `sleep`
 * has been called, under the lock, and `wake` will be. */
bool tl__job_sleep(tl_job *job, bool whole, int seen, void (*sleep)(void *of));
/* What may be read of a choice now; *finish is not NONE once no more will come. */
int tl__job_look(tl_job *job, const tl_reply *reply, tl_finish *finish);
/* The reader goes; what still runs is cancelled. */
void tl__job_leave(tl_job *job, tl_batcher *batcher);
/* Frees the jobs in the yard. */
void tl__job_yard_sweep(tl_job_yard *yard);

#endif
