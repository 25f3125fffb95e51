/* ledger.h — a step's seconds by bucket, beside what the machine could have done; and metrics.jsonl, one line a step.
 *
 * Lines are printed into a fixed buffer (no heap between steps). Field names are documented in docs/run-folder.md. */
#ifndef TL_OBSERVE_LEDGER_H
#define TL_OBSERVE_LEDGER_H

#include "base/span.h"
#include "comm/comm.h"
#include "observe/gpu.h"
#include "observe/machine.h"

typedef struct tl_step_metrics {
    int64_t step;              /* 1-based: after this step */
    double loss;               /* nats a token; NaN prints as null with "skipped": true */
    double z_loss;             /* beside the loss, not in it; 0 or NaN: none, key absent */
    double validation_loss;    /* NaN: not evaluated at this step, key absent */
    double ema_validation_loss; /* of the averaged weights; 0 or NaN: not evaluated, key absent */
    double grad_norm, learning_rate;
    int64_t tokens;            /* of this step */
    int64_t tokens_total;
    double tokens_per_second, mfu; /* mfu NaN: peak not known, null */
    bool skipped;
    const float *expert_load;  /* [expert_layers] a layer's largest load over the mean; NULL without experts, and no key of the three */
    int expert_layers;
    double balance_loss, router_z_loss; /* without their coefficients */
    tl_totals totals;          /* seconds, flops, bytes by bucket; wall */
    int ranks;                 /* more than one: the line tells of communication */
    tl_comm_traffic traffic;   /* of this rank in this step */
    int64_t rss_anon_bytes;
    const tl_gpu_sample *gpu;  /* NULL: no GPU, or no counters, and no key */
} tl_step_metrics;

/* One JSON line (with newline) into out; returns its length. size ≥ 16384 always suffices. */
int tl__metrics_line(char *out, size_t size, const tl_step_metrics *m);

/* What of the traffic's seconds computation hid: those beyond the ones that the engine waited (bucket comm). */
double tl__ledger_hidden_seconds(const tl_totals *totals, const tl_comm_traffic *traffic);

/* Where a step's time went and why, as one sentence: the largest bucket, its achieved FLOP/s and bytes/s against the measured
 * peaks, compute- or memory-bound, and what would help. traffic: of the same steps; NULL where there is one rank. */
void tl__ledger_bottleneck(char *out, size_t size, const tl_totals *totals, const tl_comm_traffic *traffic,
                           const tl_machine *machine);

#endif
