/* machine.h — what this machine can do, measured: FLOP/s in registers of f32 FMAs and of bf16 dots, memory read
 * bandwidth; and what it is. */
#ifndef TL_OBSERVE_MACHINE_H
#define TL_OBSERVE_MACHINE_H

#include <jansson.h>
#include "comm/comm.h"
#include "kernels/ops.h"

typedef struct tl_machine {
    char cpu[128]; /* model name */
    char features[256];
    int threads;
    int64_t memory_bytes; /* of the machine or the cgroup's limit, the lesser */
    double f32_flops; /* per second, measured with `threads` threads and the table's instruction set; 0: not measured */
    double bf16_flops; /* likewise of products in bf16: f32_flops where there is no instruction; 0: not measured */
    double int8_ops; /* likewise of products of bytes summed in int32, two operations each; 0: not measured, or no instruction */
    double read_bytes_per_second; /* likewise; 0: not measured */
    char isa[16]; /* of the table */
    /* Of the link between ranks, as every rank measured it together with all others (observe/link.c); a process alone has none. */
    int ranks;                    /* that took part; 0: not measured */
    double link_latency_seconds;  /* of one exchange in which each rank sends next to nothing to each other */
    double link_bytes_per_second; /* that a rank sends and receives, both added, while all do and none computes */
    double link_beside_computing; /* how much of that is left while it computes; 0: not known, all of it */
    /* Seconds that a step took for each second that its operators take at the peaks, by bucket, once one has been seen
     * (plan/traffic.h), in backward passes and outside of them: exchanges compete with the former. 0: not seen, as 1. */
    double pace[2][TL_BUCKETS];
} tl_machine;

/* What it is: fast, nothing measured. ctx->ops NULL: the best table this CPU has. */
void tl__machine_describe(tl_machine *m, const tl_ctx *ctx);
/* The peak that a contract's products are measured against. */
static inline double tl__machine_peak(const tl_machine *m, tl_contract contract) {
    return contract == TL_CONTRACT_BF16 ? m->bf16_flops : m->f32_flops;
}
/* Seconds that so many operations, of which so many in bf16 and in int8, take at the measured peaks of their types: int8's is f32's where it was not
 * measured. −1: a peak is not known. */
static inline double tl__machine_seconds(const tl_machine *m, double flops, double bf16_flops, double int8_flops) {
    const double did[] = {flops - bf16_flops - int8_flops, bf16_flops, int8_flops};
    const double peak[] = {m->f32_flops, m->bf16_flops, m->int8_ops > 0 ? m->int8_ops : m->f32_flops};
    double seconds = 0;
    for (int t = 0; t < 3; t++) {
        if (!(did[t] > 0)) continue;
        if (!(peak[t] > 0)) return -1;
        seconds += did[t] / peak[t];
    }
    return seconds;
}
/* Measure peaks for about `seconds` in all, and half as long again for bf16's, which is measured where the context's
 * contract is bf16: best of several short trials. Takes and gives back a buffer several times
 * the last-level cache (64 MiB … 1 GiB, at most an eighth of memory_bytes). */
void tl__machine_measure(tl_machine *m, tl_ctx *ctx, double seconds);
/* The same without a buffer: reads `from` (64-byte aligned), so that what fits in a cache is measured there; less than
 * 1 MiB is not measured. */
void tl__machine_measure_in_place(tl_machine *m, tl_ctx *ctx, const void *from, size_t bytes, double seconds);
/* int8_ops, for about `seconds`. */
void tl__machine_measure_int8(tl_machine *m, tl_ctx *ctx, double seconds);
/* Of the ranks of a run, all together, for about so many seconds: latency and bandwidth between them, the same on every rank. Takes and
 * gives back 4 MiB. Nothing with one rank. */
int tl__machine_measure_link(tl_machine *m, tl_comm *comm, double seconds, tl_error *err);
/* The object "machine" of plan.json and of `trilith doctor --json` (docs/run-folder.md); unmeasured peaks are null. */
json_t *tl__machine_json(const tl_machine *m);
/* RssAnon of this process, from /proc/self/status; −1 unknown. Uses no heap. */
int64_t tl__rss_anon_bytes(void);
/* VmRSS: mapped files' pages too. */
int64_t tl__rss_bytes(void);

/* What the cgroups around this process allow (v2, or v1's memory and cpu controllers); the least over all ancestors. */
typedef struct tl_limits {
    int64_t memory_max_bytes; /* 0: no limit */
    double cpus;              /* quota / period; 0: no limit */
} tl_limits;
tl_limits tl__cgroup_limits(void);
int64_t tl__memory_total_bytes(void);     /* MemTotal; 0 unknown */
int64_t tl__memory_available_bytes(void); /* MemAvailable; 0 unknown */

#endif
