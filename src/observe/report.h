/* report.h — report.html: a run on one self-contained page (no network, no script needed to read it), made from the run folder alone, so
 * that it can be made again at any time, during or after the run.
 *
 * Reads RUN/config.yaml, metrics.jsonl, plan.json (what was predicted), samples.jsonl. Plots are inline SVG: training and validation
 * loss, learning rate and gradient norm, tokens/s and MFU, seconds by bucket (stacked), memory predicted beside measured; then the
 * bottleneck sentence, samples, settings and environment. Light and dark by prefers-color-scheme. */
#ifndef TL_OBSERVE_REPORT_H
#define TL_OBSERVE_REPORT_H

#include "base/error.h"
#include "observe/page.h"

int tl__report_write(const char *run_folder, tl_error *err);

/* The beginning of a page in this look, up to and with <main>; `name` is anybody's text. */
void tl__report_head(tl_page *page, const char *name);

#endif
