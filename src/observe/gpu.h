/* gpu.h — a GPU's own counters, read once a second while it works: power, clocks, temperature, memory, errors, and what holds it back.
 *
 * They come from NVML, the library of NVIDIA's driver (docs.nvidia.com/deploy/nvml-api), which is loaded when it is asked for:
 * nothing is linked with it. A thread of its own reads, since a GPU in trouble may answer late or never. */
#ifndef TL_OBSERVE_GPU_H
#define TL_OBSERVE_GPU_H

#include <stdbool.h>
#include "base/error.h"
#include "kernels/ops.h"

typedef enum tl_gpu_counter {
    TL_GPU_POWER,
    TL_GPU_POWER_LIMIT,
    TL_GPU_ENERGY, /* since the watch began */
    TL_GPU_TEMPERATURE,
    TL_GPU_SM_CLOCK,
    TL_GPU_SM_CLOCK_MOST,
    TL_GPU_MEMORY_CLOCK,
    TL_GPU_BUSY,
    TL_GPU_MEMORY_BUSY,
    TL_GPU_MEMORY_USED, /* by all processes */
    TL_GPU_MEMORY_TOTAL,
    TL_GPU_ECC_CORRECTED, /* these two since the driver was loaded */
    TL_GPU_ECC_UNCORRECTED,
    TL_GPU_XIDS, /* since the watch began */
    TL_GPU_LAST_XID,
    TL_GPU_COUNTERS
} tl_gpu_counter;

/* What each is called in JSON and, after "trilith:gpu_", by Prometheus: units are in the name; counter: it only rises. */
extern const struct tl_gpu_counter_words {
    const char *name, *help;
    int decimals; /* in JSON */
    bool counter;
} tl__gpu_counters[TL_GPU_COUNTERS];

/* Why clocks are not the highest: bit i is NVML's reason i, by its name there. The rest are an idle GPU's, or chosen by somebody. */
enum { TL_GPU_REASONS = 9, TL_GPU_HELD_BACK = 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7 };
extern const char *const tl__gpu_reasons[TL_GPU_REASONS];

typedef struct tl_gpu_sample {
    double value[TL_GPU_COUNTERS]; /* NaN: this GPU does not tell */
    int reasons;                   /* bits; −1: it does not tell */
} tl_gpu_sample;

typedef struct tl_gpu tl_gpu;

/* The GPU of this PCI address ("0000:19:00.0"), sampled once before this returns. TL_EUNSUPPORTED: no library
 * (TRILITH_NVML names another), or it does not know the GPU. */
int tl__gpu_open(tl_gpu **gpu, const char *pci, tl_error *err);
/* The GPU that a context computes on; NULL: none, or its counters cannot be had, which the log says once. */
tl_gpu *tl__gpu_watch(const tl_ctx *ctx);
/* Waits for a second and a half at most; NULL is closed already. */
void tl__gpu_close(tl_gpu *gpu);
/* The newest sample: a copy, no waiting. */
void tl__gpu_last(tl_gpu *gpu, tl_gpu_sample *sample);

/* An object without what is not known, into out (no heap): {"power_watts":412.3, …, "throttle":["sw_power_cap"]}. Its length; size ≥ 1024
 * suffices. */
int tl__gpu_print(char *out, size_t size, const tl_gpu_sample *sample);

#endif
