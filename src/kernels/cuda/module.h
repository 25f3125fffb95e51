/* module.h — what trilith-cuda.so gives the engine: a device, memory that the CPU sees too, and the operators on it.
 *
 * Nothing else is linked with CUDA's runtime, so that the program runs, and is built, without it; the runtime in the
 * module finds the driver when a device is opened. C on both sides, and nothing of the engine is called. */
#ifndef TL_KERNELS_CUDA_MODULE_H
#define TL_KERNELS_CUDA_MODULE_H

#include "kernels/ops.h"

#define TL_CUDA_SYMBOL "tl_cuda_module"
enum { TL_CUDA_VERSION = 3 };
#define TL_CUDA_LOST_EXIT 75 /* sysexits.h, EX_TEMPFAIL: elsewhere, or later, it may go on */

typedef struct tl_cuda_facts {
    char name[128];      /* "NVIDIA H200" */
    char pci[16];        /* "0000:19:00.0" */
    int sm;              /* 90: compute capability 9.0 */
    int processors;      /* streaming multiprocessors */
    int64_t memory_bytes;
    int driver, runtime; /* 12040: CUDA 12.4 */
    bool sees_heap;      /* the device reads any memory of the process, not only what the module gave */
} tl_cuda_facts;

typedef struct tl_cuda_module {
    int version;
    /* Opens a device, once in a process: that of this number, or (wraps) of what remains of it by how many there are. 0; or a
     * tl_status, and why has the reason as a clause. */
    int (*open)(tl_cuda_facts *facts, int number, bool wraps, char *why, size_t why_bytes);
    /* Zeroed, of 256 bytes' alignment at least; NULL: there is no more. */
    void *(*take)(size_t bytes);
    void (*give)(void *memory);
    /* Peaks, for about so many seconds: FLOP/s of f32 multiply-adds in registers, bytes read a second; 0: no memory to try. */
    void (*measure)(double seconds, double *f32_flops, double *read_bytes_per_second);
    /* Every entry of a table. An entry returns when its work is done. */
    void (*fill)(tl_ops *ops);
} tl_cuda_module;

#endif
