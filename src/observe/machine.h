/* machine.h — what this machine can do, measured: f32 FLOP/s of FMA in registers, memory read bandwidth; and what it is. */
#ifndef TL_OBSERVE_MACHINE_H
#define TL_OBSERVE_MACHINE_H

#include "kernels/ops.h"

typedef struct tl_machine {
    char cpu[128];             /* model name */
    char features[256];
    int threads;
    int64_t memory_bytes;      /* of the machine or the cgroup's limit, the lesser */
    double f32_flops;          /* measured with `threads` threads; 0: not measured */
    double read_bytes_per_second;
    char isa[16];
} tl_machine;

/* What it is: fast, nothing measured. */
void tl__machine_describe(tl_machine *m, const tl_ctx *ctx);
/* Measure peaks for about `seconds` in all: best of several short trials. */
void tl__machine_measure(tl_machine *m, tl_ctx *ctx, double seconds);
/* RssAnon of this process, from /proc/self/status; −1 unknown. Uses no heap. */
int64_t tl__rss_anon_bytes(void);

#endif
