/* supervise.h — trilith train --supervise: the job of several ranks as a child of this process, started again with those that are
 * left when one is lost. */
#ifndef TL_CLI_SUPERVISE_H
#define TL_CLI_SUPERVISE_H

#include "cli/cli.h"

typedef struct tl_supervise_options {
    const char *out;      /* the run folder */
    const char *launcher; /* "mpirun --hostfile hosts": words before -n */
    int64_t ranks, max_restarts;
    bool resume;
} tl_supervise_options;

/* The command's given settings, less those of supervision, go to the job. Returns the exit status of its last start, 2 where there
 * is nothing to start it with. */
int tl__supervise_run(tl_cli *cli, const tl_supervise_options *options);

/* ---- what the job's standard error tells, line by line; for tests ---- */

enum { TL_JOB_GONE = 16, TL_JOB_HOST = 128 };

typedef struct tl_job_news {
    int ranks;
    bool *lost;          /* [ranks]: named as dead, silent or missing */
    bool spoke;          /* the program itself has said something */
    bool noise;          /* inside one of the launcher's notices */
    char how[160];       /* of the first one lost: "killed by signal 9 on node7" */
    char gone[TL_JOB_GONE][TL_JOB_HOST]; /* hosts that the launcher cannot reach, as it calls them */
    int gones;
    char notice[4096];   /* what the launcher said, for when it did not start */
    size_t notice_bytes;
} tl_job_news;
/* Whether the line is for the user. */
bool tl__job_hear(tl_job_news *news, const char *line);

typedef enum tl_verdict { TL_JOB_DONE, TL_JOB_AGAIN, TL_JOB_GIVE_UP } tl_verdict;
/* What to do after a job whose launcher ended with `status` (as waitpid gives it); *code is the exit status that says it. */
tl_verdict tl__job_verdict(int status, int *code);

#endif
