/* module.cu — owns the device: opening it, memory that it shares with the CPU, launches that failed. */
#include "kernels/cuda/module.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "kernels/cuda/cuda.h"

static char device_name[256];

/* What runs on a device cannot be taken back, and its memory is gone: resuming from the last checkpoint is all that is left. */
static void end(const char *what, const char *why, const char *code) {
    fprintf(stderr,
            "trilith: %s failed in %s: %s (%s). What was written so far is intact: look at the device (nvidia-smi, and the system's "
            "log for Xid), then resume from the last checkpoint\n",
            device_name, what, why, code);
    fflush(NULL);
    _exit(TL_CUDA_LOST_EXIT);
}

static int choose(int *device, int number, bool wraps, int count, char *why, size_t why_bytes) {
    *device = wraps ? number % count : number;
    if (*device < count) return 0;
    return snprintf(why, why_bytes, "there are %d GPUs, 0 to %d, and %d was asked for", count, count - 1, number), TL_EINVALID;
}

#ifdef TL_CUDA_EMULATED

/* The first of two. */
static int open_device(tl_cuda_facts *facts, int number, bool wraps, char *why, size_t why_bytes) {
    int device;
    memset(facts, 0, sizeof *facts);
    if (choose(&device, number, wraps, 2, why, why_bytes)) return TL_EINVALID;
    snprintf(facts->name, sizeof facts->name, "emulated device %d", device);
    snprintf(facts->pci, sizeof facts->pci, "0000:%02x:00.0", (unsigned char)(device + 1));
    snprintf(device_name, sizeof device_name, "%s", facts->name);
    facts->sees_heap = true;
    facts->memory_bytes = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    return 0;
}
void *tl__cuda_take(size_t bytes) {
    const size_t rounded = (bytes + 255) / 256 * 256;
    void *memory = aligned_alloc(256, rounded ? rounded : 256);
    if (!memory) return NULL;
    emulated::pieces().push_back({(const unsigned char *)memory, bytes});
    return memset(memory, 0, bytes);
}
void tl__cuda_give(void *memory) {
    std::vector<emulated::piece> &all = emulated::pieces();
    for (size_t i = 0; i < all.size(); i++)
        if (all[i].begin == memory) all.erase(all.begin() + (long)i--);
    free(memory);
}
void *tl__cuda_scratch(size_t bytes) {
    static void *memory;
    static size_t size;
    if (size < bytes) tl__cuda_give(memory), memory = tl__cuda_take(size = bytes);
    if (!memory) emulated::refuse("there is no memory for scratch");
    return memset(memory, 0xff, bytes); /* no numbers */
}
/* TRILITH_CUDA_LOST=N: the device is lost in the Nth operator. */
void tl__cuda_wait(const char *what) {
    static const char *const lost = getenv("TRILITH_CUDA_LOST");
    static int waits;
    if (lost && ++waits == atoi(lost)) end(what, "it is gone", "TRILITH_CUDA_LOST");
}

#else

cudaStream_t tl__cuda_stream;

static void end(const char *what, cudaError_t code) {
    end(what, cudaGetErrorString(code), cudaGetErrorName(code));
}

void tl__cuda_launched(const char *kernel) {
    const cudaError_t code = cudaGetLastError();
    if (code != cudaSuccess) end(kernel, code);
}
void tl__cuda_wait(const char *what) {
    const cudaError_t code = cudaStreamSynchronize(tl__cuda_stream);
    if (code != cudaSuccess) end(what, code);
}

static int refuse(char *why, size_t why_bytes, const char *what, cudaError_t code) {
    snprintf(why, why_bytes, "%s: %s (%s)", what, cudaGetErrorString(code), cudaGetErrorName(code));
    return TL_EUNSUPPORTED;
}

static int open_device(tl_cuda_facts *facts, int number, bool wraps, char *why, size_t why_bytes) {
    int count = 0, can = 0, device;
    memset(facts, 0, sizeof *facts);
    cudaError_t code = cudaGetDeviceCount(&count);
    cudaDriverGetVersion(&facts->driver), cudaRuntimeGetVersion(&facts->runtime);
    if (code == cudaErrorInsufficientDriver && facts->driver == 0) return snprintf(why, why_bytes, "there is no NVIDIA driver"), TL_EUNSUPPORTED;
    if (code == cudaErrorInsufficientDriver)
        return snprintf(why, why_bytes, "the driver is for CUDA %d.%d, and %d.%d is needed: install a newer driver", facts->driver / 1000,
                        facts->driver % 1000 / 10, facts->runtime / 1000, facts->runtime % 1000 / 10),
               TL_EUNSUPPORTED;
    if (code != cudaSuccess && code != cudaErrorNoDevice) return refuse(why, why_bytes, "the driver does not start", code);
    if (count == 0) return snprintf(why, why_bytes, "the driver finds no GPU"), TL_EUNSUPPORTED;
    if (choose(&device, number, wraps, count, why, why_bytes)) return TL_EINVALID;
    cudaDeviceProp p;
    if ((code = cudaGetDeviceProperties(&p, device)) != cudaSuccess || (code = cudaDeviceGetPCIBusId(facts->pci, sizeof facts->pci, device)) != cudaSuccess)
        return refuse(why, why_bytes, "the GPU does not say what it is", code);
    snprintf(facts->name, sizeof facts->name, "%s", p.name);
    snprintf(device_name, sizeof device_name, "CUDA device %d (%s)", device, p.name);
    facts->sm = 10 * p.major + p.minor, facts->processors = p.multiProcessorCount, facts->memory_bytes = (int64_t)p.totalGlobalMem;
    if (facts->sm < 80)
        return snprintf(why, why_bytes, "%s has compute capability %d.%d, and 8.0 is needed (Ampere or newer)", p.name, p.major, p.minor), TL_EUNSUPPORTED;
    if (cudaDeviceGetAttribute(&can, cudaDevAttrConcurrentManagedAccess, device) != cudaSuccess || !can)
        return snprintf(why, why_bytes, "%s cannot share memory with the CPU while it computes, as on Linux it can", p.name), TL_EUNSUPPORTED;
    if (cudaDeviceGetAttribute(&can, cudaDevAttrPageableMemoryAccess, device) == cudaSuccess) facts->sees_heap = can;
    if ((code = cudaSetDevice(device)) != cudaSuccess || (code = cudaStreamCreateWithFlags(&tl__cuda_stream, cudaStreamNonBlocking)) != cudaSuccess)
        return refuse(why, why_bytes, "the GPU cannot be used", code);
    return 0;
}

/* On the device from the beginning: the CPU fetches what it looks at. */
void *tl__cuda_take(size_t bytes) {
    void *memory;
    if (cudaMallocManaged(&memory, bytes ? bytes : 1, cudaMemAttachGlobal) != cudaSuccess) {
        cudaGetLastError();
        return NULL;
    }
    const cudaError_t code = cudaMemsetAsync(memory, 0, bytes, tl__cuda_stream);
    if (code != cudaSuccess) end("memory", code);
    tl__cuda_wait("memory");
    return memory;
}
void tl__cuda_give(void *memory) {
    cudaFree(memory);
}
void *tl__cuda_scratch(size_t bytes) {
    static void *memory;
    static size_t size;
    if (size < bytes) {
        cudaFree(memory); /* nobody uses it: every operator waits for its kernels */
        const cudaError_t code = cudaMalloc(&memory, size = bytes);
        if (code != cudaSuccess) end("taking scratch memory", code);
    }
    return memory;
}

#endif

static void fill(tl_ops *ops) {
    ops->isa = "cuda";
    tl__cuda_gemm(ops);
    tl__cuda_stored(ops);
    tl__cuda_attention(ops);
    tl__cuda_attention_backward(ops);
    tl__cuda_norm(ops);
    tl__cuda_elements(ops);
    tl__cuda_embed(ops);
    tl__cuda_loss(ops);
    tl__cuda_optimizer(ops);
    tl__cuda_moe(ops);
}

extern "C" {
extern const tl_cuda_module tl_cuda_module_table __asm__(TL_CUDA_SYMBOL) __attribute__((visibility("default")));
const tl_cuda_module tl_cuda_module_table = {TL_CUDA_VERSION, open_device, tl__cuda_take, tl__cuda_give, tl__cuda_measure, fill};
}
