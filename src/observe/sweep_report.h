/* sweep_report.h — a folder of runs told as one: sweep.md, a table with the best run first, and report.html, the same with the
 * runs' losses as curves and against each setting that differs.
 *
 * Made from the folder alone: sweep.json (what the runs are, docs/run-folder.md) and each run's metrics.jsonl. */
#ifndef TL_OBSERVE_SWEEP_REPORT_H
#define TL_OBSERVE_SWEEP_REPORT_H

#include <jansson.h>
#include "base/error.h"

/* A run's line for sweep.json: what its plan.json says happened (null: not known). run_folder need not exist: then
 * "status" is "waiting". The caller adds "name", "values" and, of a failure, "error"; json_decref() it. */
json_t *tl__sweep_row(const char *run_folder);
/* The lines' order, best first: finished runs by bits per byte (else validation loss, else loss), then the others in the order
 * that they are in. Returns a new array. */
json_t *tl__sweep_sorted(const json_t *rows);
/* Read folder/sweep.json; write folder/sweep.md and folder/report.html. */
int tl__sweep_report_write(const char *folder, tl_error *err);

#endif
