/* run_folder.h — the files of a run beside its checkpoints: run.json, plan.json, metrics.jsonl, samples.jsonl, and the
 * lock that keeps a second writer out. */
#ifndef TL_TRAIN_RUN_FOLDER_H
#define TL_TRAIN_RUN_FOLDER_H

#include <jansson.h>
#include <stdbool.h>
#include "base/error.h"

typedef struct tl_run_folder {
    char path[3072];
    int lock;
    int metrics, samples; /* file descriptors, or −1 */
    int64_t metrics_bytes, samples_bytes;
    bool warned; /* a write failed and was said */
} tl_run_folder;

/* Make or enter the folder and lock it. Not resuming into a folder with a run in it is TL_EEXISTS; a folder that
 * another process writes to is refused either way. */
int tl__run_folder_open(tl_run_folder *run, const char *path, bool resume, tl_error *err);
void tl__run_folder_close(tl_run_folder *run);
void tl__run_folder_path(const tl_run_folder *run, char *out, size_t size, const char *name);

/* Publish a JSON value under a name. */
int tl__run_folder_put(const tl_run_folder *run, const char *name, const json_t *value, tl_error *err);
/* NULL without an error when it is not there. */
int tl__run_folder_get(const tl_run_folder *run, const char *name, json_t **value, tl_error *err);

/* Open metrics.jsonl and samples.jsonl, cut back to these lengths (which must not be beyond their ends). */
int tl__run_folder_logs(tl_run_folder *run, int64_t metrics_bytes, int64_t samples_bytes, tl_error *err);
/* Append whole lines. A full disk is said once; the line is taken back and the run goes on. No heap call. */
void tl__run_folder_metrics(tl_run_folder *run, const char *line, size_t n);
void tl__run_folder_sample(tl_run_folder *run, const char *line, size_t n);

/* The first member in which two objects of settings differ: "'lr' was 0.001 and is 0.002 now". False when they agree.
 */
bool tl__settings_differ(const json_t *was, const json_t *is, char *out, size_t size);

#endif
