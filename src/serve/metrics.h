/* metrics.h — the numbers behind GET /metrics: what a server has done and is doing, as Prometheus' text format 0.0.4.
 *
 * Names, meanings and bucket edges are vLLM's where there is one to match, under the prefix trilith: for vllm:
 * (docs.vllm.ai, "Production Metrics"; the edges are vllm/v1/metrics/buckets.py's), so that its dashboards need one
 * word changed. Beside them stands the engine's ledger: seconds, FLOPs and bytes of each class of operators, the rates
 * of late, and the peaks of this machine. */
#ifndef TL_SERVE_METRICS_H
#define TL_SERVE_METRICS_H

#include "infer/batcher.h"
#include "observe/machine.h"

typedef struct tl_metrics tl_metrics;

/* The engine is loaded and outlives the metrics; from here on all that it computes is computed by the batcher's owner,
 * and its context records spans. NULL: there is no ledger. positions: most tokens of a sequence. */
int tl__metrics_open(tl_metrics **metrics, tl_engine *engine, const char *model_name, int positions, tl_error *err);
/* After the batcher's close. */
void tl__metrics_close(tl_metrics *metrics);

/* ---- by the batcher's owner ---- */

/* After each step: no heap, and no wait longer than a copy of a few kilobytes (tl_batcher_options.stepped). */
void tl__metrics_step(tl_metrics *metrics, const tl_batch_step *step);
/* Each event of a request, likewise. *last_ns: a word that the caller keeps for each choice, 0 at first. Tokens of one
 * choice that one step made reach the client at once, and are one latency. */
void tl__metrics_event(tl_metrics *metrics, const tl_event *event, int64_t *last_ns);

/* When there was nothing to do: measures the machine's peaks, for a quarter of a second, once, if anybody has read the
 * metrics: FLOP/s, and bytes/s of the weights as they lie, where they are not a file's pages. */
void tl__metrics_idle(tl_metrics *metrics);

/* ---- by any thread ---- */

/* An HTTP answer was given, 100 … 599. */
void tl__metrics_answer(tl_metrics *metrics, int status);
/* *text [*n] is malloc'd. */
int tl__metrics_write(tl_metrics *metrics, const tl_batcher_facts *facts, char **text, size_t *n, tl_error *err);
#define TL_METRICS_CONTENT_TYPE "text/plain; version=0.0.4; charset=utf-8"

#endif
