/* device.c — finds trilith-cuda.so (TRILITH_CUDA_MODULE names another) and opens the device behind it, once in a
 * process. */
#include "kernels/device.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/module.h"
#include "kernels/table.h"

static pthread_once_t once = PTHREAD_ONCE_INIT;
static const tl_cuda_module *module;
static tl_cuda_facts device_facts;
static tl_ops ops_of_device;
static tl_error failure; /* status 0: it is open */

static bool find(char *path, size_t size) {
    const char *named = getenv("TRILITH_CUDA_MODULE");
    return named && *named ? snprintf(path, size, "%s", named) < (int)size
                           : tl__module_path(path, size, "trilith-cuda.so");
}

/* Which device: TRILITH_CUDA_DEVICE's, or, of several ranks on this machine, each the next one (wraps). */
static int wanted_device(int *number, bool *wraps) {
    static const char *const places[] = {"TRILITH_CUDA_DEVICE", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID"};
    *number = 0;
    for (int i = 0; i < 3; i++) {
        const char *text = getenv(places[i]);
        if (!text || !*text) continue;
        char *end;
        const long n = strtol(text, &end, 10);
        *wraps = i > 0;
        if (*end || n < 0 || n > 1 << 20)
            return tl__fail(&failure, TL_EINVALID, "%s is \"%.40s\", and a device's number is expected, 0 or more",
                            places[i], text);
        *number = (int)n;
        return 0;
    }
    return 0;
}

static void open_once(void) {
    char path[4096 + 64], why[512] = "";
    if (!find(path, sizeof path)) {
        tl__fail(&failure, TL_EUNSUPPORTED,
                 "no CUDA device: this trilith was built without CUDA (there is no trilith-cuda.so beside it); build "
                 "it where nvcc is "
                 "(docs/cuda.md), or compute on the CPU");
        return;
    }
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL); /* never unloaded */
    if (!library) {
        tl__fail(&failure, TL_EUNSUPPORTED, "no CUDA device: %.200s cannot be loaded (%.300s)", path, dlerror());
        return;
    }
    module = dlsym(library, TL_CUDA_SYMBOL);
    if (!module || module->version != TL_CUDA_VERSION) {
        tl__fail(&failure, TL_EUNSUPPORTED,
                 "no CUDA device: %.300s is of another version of trilith; build or install both together", path);
        return;
    }
    int number;
    bool wraps = false;
    if (wanted_device(&number, &wraps)) return;
    const int status = module->open(&device_facts, number, wraps, why, sizeof why);
    if (status) {
        tl__fail(&failure, status, "no CUDA device: %s", why);
        return;
    }
    tl__ops_ref(&ops_of_device);
    module->fill(&ops_of_device);
}

int tl__device_open(const tl_cuda_facts **facts, tl_error *err) {
    pthread_once(&once, open_once);
    if (failure.status) return tl__fail(err, failure.status, "%s", failure.text);
    if (facts) *facts = &device_facts;
    return 0;
}

void tl__device_share(void) {
    tl__arena_share(module->take, module->give);
}

void tl__device_measure(double seconds, double *f32_flops, double *read_bytes_per_second) {
    module->measure(seconds, f32_flops, read_bytes_per_second);
}

int tl__device_ops(const tl_ops **ops, tl_error *err) {
    TRY(tl__device_open(NULL, err));
    *ops = &ops_of_device;
    return 0;
}
