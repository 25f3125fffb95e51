/* device.h — the GPU, where there is one: the module that reaches it, what it is, and memory that both sides see. */
#ifndef TL_KERNELS_DEVICE_H
#define TL_KERNELS_DEVICE_H

#include "kernels/cuda/module.h"

/* Opens a CUDA device, once in a process: this machine's first, of several ranks each the next, or
 * TRILITH_CUDA_DEVICE's; facts may be NULL. TL_EUNSUPPORTED where there is none, with what is missing: the module, the
 * driver, a device, one that is new enough. */
int tl__device_open(const tl_cuda_facts **facts, tl_error *err);
/* Arenas are shared with it from now on. It is open. */
void tl__device_share(void);
/* Its peaks, measured for about so many seconds: multiply-adds of f32 (two FLOPs each) in registers, and bytes read, a
 * second. It is open. */
void tl__device_measure(double seconds, double *f32_flops, double *read_bytes_per_second);
/* Its operators, of tl__ops_select("cuda"). */
int tl__device_ops(const tl_ops **ops, tl_error *err);

#endif
