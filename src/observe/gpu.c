/* gpu.c — owns NVML: its functions, declared here as NVIDIA documents them, the thread that asks, the newest answers. */
#include "observe/gpu.h"

#include <dlfcn.h>
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "base/log.h"
#include "kernels/device.h"

const struct tl_gpu_counter_words tl__gpu_counters[TL_GPU_COUNTERS] = {
    [TL_GPU_POWER] = {"power_watts", "Power that the GPU draws.", 1, false},
    [TL_GPU_POWER_LIMIT] = {"power_limit_watts", "Power that it may draw.", 1, false},
    [TL_GPU_ENERGY] = {"energy_joules_total", "Energy that it has used since this process watches it.", 1, true},
    [TL_GPU_TEMPERATURE] = {"temperature_celsius", "Temperature of the GPU.", 0, false},
    [TL_GPU_SM_CLOCK] = {"sm_clock_hertz", "Clock of its processors.", 0, false},
    [TL_GPU_SM_CLOCK_MOST] = {"sm_clock_max_hertz", "Highest clock of its processors.", 0, false},
    [TL_GPU_MEMORY_CLOCK] = {"memory_clock_hertz", "Clock of its memory.", 0, false},
    [TL_GPU_BUSY] = {"busy_ratio", "Share of the last moment in which a kernel ran, however little of the GPU it used.", 2,
                     false},
    [TL_GPU_MEMORY_BUSY] = {"memory_busy_ratio", "Share of the last moment in which memory was read or written.", 2, false},
    [TL_GPU_MEMORY_USED] = {"memory_used_bytes", "Memory of the GPU in use, by all processes.", 0, false},
    [TL_GPU_MEMORY_TOTAL] = {"memory_total_bytes", "Memory of the GPU.", 0, false},
    [TL_GPU_ECC_CORRECTED] = {"ecc_corrected_errors_total", "Memory errors corrected since the driver was loaded.", 0, true},
    [TL_GPU_ECC_UNCORRECTED] = {"ecc_uncorrected_errors_total", "Memory errors not corrected since the driver was loaded.", 0,
                                true},
    [TL_GPU_XIDS] = {"xid_errors_total", "Errors (Xid) that the driver has told since this process watches it.", 0, true},
    [TL_GPU_LAST_XID] = {"xid_last", "Number of the last of these; 0: none.", 0, false},
};

const char *const tl__gpu_reasons[TL_GPU_REASONS] = {
    "gpu_idle",
    "applications_clocks_setting",
    "sw_power_cap",
    "hw_slowdown",
    "sync_boost",
    "sw_thermal_slowdown",
    "hw_thermal_slowdown",
    "hw_power_brake_slowdown",
    "display_clock_setting",
};

/* ---- NVML: nvml.h's types and numbers, as its reference gives them ---- */

enum { SUCCESS = 0, GPU_TEMPERATURE = 0, SM_CLOCK = 1, MEMORY_CLOCK = 2, CORRECTED = 0, UNCORRECTED = 1, SINCE_LOADED = 0 };
#define XID_EVENTS 8ULL
typedef void *device_t;
typedef void *events_t;
typedef struct memory_t {
    unsigned long long total, free, used;
} memory_t;
typedef struct utilization_t {
    unsigned gpu, memory; /* percent */
} utilization_t;
typedef struct event_t {
    device_t device;
    unsigned long long type, data;
    unsigned gpu_instance, compute_instance;
} event_t;

/* (member, NVML's name, parameters); a driver may lack any but the first four. */
#define FUNCTIONS(X)                                                                                                   \
    X(init, "nvmlInit_v2", (void))                                                                                     \
    X(shutdown, "nvmlShutdown", (void))                                                                                \
    X(find, "nvmlDeviceGetHandleByPciBusId_v2", (const char *, device_t *))                                            \
    X(power, "nvmlDeviceGetPowerUsage", (device_t, unsigned *milliwatts))                                              \
    X(power_limit, "nvmlDeviceGetEnforcedPowerLimit", (device_t, unsigned *milliwatts))                                \
    X(energy, "nvmlDeviceGetTotalEnergyConsumption", (device_t, unsigned long long *millijoules))                      \
    X(temperature, "nvmlDeviceGetTemperature", (device_t, int sensor, unsigned *celsius))                              \
    X(clock, "nvmlDeviceGetClockInfo", (device_t, int which, unsigned *megahertz))                                     \
    X(most_clock, "nvmlDeviceGetMaxClockInfo", (device_t, int which, unsigned *megahertz))                             \
    X(reasons, "nvmlDeviceGetCurrentClocksThrottleReasons", (device_t, unsigned long long *bits))                      \
    X(utilization, "nvmlDeviceGetUtilizationRates", (device_t, utilization_t *))                                       \
    X(memory, "nvmlDeviceGetMemoryInfo", (device_t, memory_t *))                                                       \
    X(ecc, "nvmlDeviceGetTotalEccErrors", (device_t, int type, int since, unsigned long long *count))                  \
    X(events_open, "nvmlEventSetCreate", (events_t *))                                                                 \
    X(events_of, "nvmlDeviceRegisterEvents", (device_t, unsigned long long types, events_t))                           \
    X(events_next, "nvmlEventSetWait_v2", (events_t, event_t *, unsigned milliseconds))                                \
    X(events_close, "nvmlEventSetFree", (events_t))

typedef struct nvml {
#define MEMBER(member, name, parameters) int(*member) parameters;
    FUNCTIONS(MEMBER)
#undef MEMBER
    const char *(*error)(int code);
} nvml;

struct tl_gpu {
    nvml nvml;
    device_t device;
    events_t events; /* NULL: none */
    double joules_at_first;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool ending;          /* under the lock, as is what follows */
    tl_gpu_sample newest;
};

static int load(nvml *n, tl_error *err) {
    const char *named = getenv("TRILITH_NVML"), *path = named && *named ? named : "libnvidia-ml.so.1";
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL); /* never unloaded: a thread may be in it for ever */
    if (!library) return tl__fail(err, TL_EUNSUPPORTED, "the GPU's counters need NVML, of NVIDIA's driver: %.300s", dlerror());
#define FIND(member, name, parameters) *(void **)&n->member = dlsym(library, name);
    FUNCTIONS(FIND)
#undef FIND
    *(void **)&n->error = dlsym(library, "nvmlErrorString");
    if (n->init && n->shutdown && n->find && n->error) return 0;
    return tl__fail(err, TL_EUNSUPPORTED, "the GPU's counters need NVML, and %.200s has not even nvmlInit_v2", path);
}

/* ---- a sample ---- */

static void take(tl_gpu *g, tl_gpu_sample *s) {
    const nvml *n = &g->nvml;
    double *x = s->value;
    const double xids = x[TL_GPU_XIDS], xid = x[TL_GPU_LAST_XID];
    unsigned u;
    unsigned long long l;
    memory_t memory;
    utilization_t busy;
    event_t event;
    for (int i = 0; i < TL_GPU_COUNTERS; i++) x[i] = NAN;
    s->reasons = -1;
#define TOLD(member, ...) (n->member && n->member(g->device, __VA_ARGS__) == SUCCESS)
    if (TOLD(power, &u)) x[TL_GPU_POWER] = u / 1e3;
    if (TOLD(power_limit, &u)) x[TL_GPU_POWER_LIMIT] = u / 1e3;
    if (TOLD(energy, &l)) {
        if (isnan(g->joules_at_first)) g->joules_at_first = (double)l / 1e3;
        x[TL_GPU_ENERGY] = (double)l / 1e3 - g->joules_at_first;
    }
    if (TOLD(temperature, GPU_TEMPERATURE, &u)) x[TL_GPU_TEMPERATURE] = u;
    if (TOLD(clock, SM_CLOCK, &u)) x[TL_GPU_SM_CLOCK] = u * 1e6;
    if (TOLD(most_clock, SM_CLOCK, &u)) x[TL_GPU_SM_CLOCK_MOST] = u * 1e6;
    if (TOLD(clock, MEMORY_CLOCK, &u)) x[TL_GPU_MEMORY_CLOCK] = u * 1e6;
    if (TOLD(utilization, &busy)) x[TL_GPU_BUSY] = busy.gpu / 100.0, x[TL_GPU_MEMORY_BUSY] = busy.memory / 100.0;
    if (TOLD(memory, &memory)) x[TL_GPU_MEMORY_USED] = (double)memory.used, x[TL_GPU_MEMORY_TOTAL] = (double)memory.total;
    if (TOLD(ecc, CORRECTED, SINCE_LOADED, &l)) x[TL_GPU_ECC_CORRECTED] = (double)l;
    if (TOLD(ecc, UNCORRECTED, SINCE_LOADED, &l)) x[TL_GPU_ECC_UNCORRECTED] = (double)l;
    if (TOLD(reasons, &l)) s->reasons = (int)(l & ((1 << TL_GPU_REASONS) - 1));
#undef TOLD
    if (!g->events) return;
    x[TL_GPU_XIDS] = xids, x[TL_GPU_LAST_XID] = xid;
    for (int most = 100; most && n->events_next(g->events, &event, 0) == SUCCESS; most--)
        if (event.type & XID_EVENTS) x[TL_GPU_XIDS]++, x[TL_GPU_LAST_XID] = (double)event.data;
}

static void *watch(void *user) {
    tl_gpu *g = user;
    struct timespec until;
    tl_gpu_sample sample = g->newest;
    clock_gettime(CLOCK_MONOTONIC, &until);
    pthread_mutex_lock(&g->lock);
    while (!g->ending) {
        until.tv_sec++;
        while (!g->ending && pthread_cond_timedwait(&g->changed, &g->lock, &until) != ETIMEDOUT);
        if (g->ending) break;
        pthread_mutex_unlock(&g->lock);
        take(g, &sample);
        pthread_mutex_lock(&g->lock);
        g->newest = sample;
    }
    pthread_mutex_unlock(&g->lock);
    return NULL;
}

/* ---- opening and closing ---- */

static void watch_events(tl_gpu *g) {
    const nvml *n = &g->nvml;
    if (!n->events_open || !n->events_of || !n->events_next || !n->events_close || n->events_open(&g->events) != SUCCESS) {
        g->events = NULL;
        return;
    }
    if (n->events_of(g->device, XID_EVENTS, g->events) == SUCCESS) return;
    n->events_close(g->events);
    g->events = NULL;
}

static void release(tl_gpu *g) {
    if (g->events) g->nvml.events_close(g->events);
    g->nvml.shutdown();
    free(g);
}

int tl__gpu_open(tl_gpu **gpu, const char *pci, tl_error *err) {
    *gpu = NULL;
    tl_gpu *g = calloc(1, sizeof *g);
    if (!g) return tl__fail(err, TL_ENOMEM, "the system has no room for a GPU's counters");
    g->joules_at_first = NAN;
    int status = load(&g->nvml, err), code;
    if (status) {
        free(g);
        return status;
    }
    if ((code = g->nvml.init()) != SUCCESS) {
        status = tl__fail(err, TL_EUNSUPPORTED, "NVML, which has the GPU's counters, does not start: %.200s", g->nvml.error(code));
        free(g);
        return status;
    }
    if ((code = g->nvml.find(pci, &g->device)) != SUCCESS) {
        status = tl__fail(err, TL_EUNSUPPORTED, "NVML has no counters of the GPU at %.40s: %.200s", pci, g->nvml.error(code));
        release(g);
        return status;
    }
    watch_events(g);
    take(g, &g->newest);
    pthread_condattr_t how;
    pthread_condattr_init(&how);
    pthread_condattr_setclock(&how, CLOCK_MONOTONIC);
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->changed, &how);
    pthread_condattr_destroy(&how);
    if ((code = pthread_create(&g->thread, NULL, watch, g))) {
        status = tl__fail(err, TL_ENOMEM, "no thread can be had for a GPU's counters (error %d)", code);
        release(g);
        return status;
    }
    *gpu = g;
    return 0;
}

tl_gpu *tl__gpu_watch(const tl_ctx *ctx) {
    const tl_cuda_facts *facts;
    tl_gpu *g = NULL;
    tl_error why = {0};
    if (!ctx->device || tl__device_open(&facts, NULL)) return NULL;
    if (tl__gpu_open(&g, facts->pci, &why)) tl__info("%s; going on without them", why.text);
    return g;
}

void tl__gpu_close(tl_gpu *g) {
    if (!g) return;
    struct timespec until;
    pthread_mutex_lock(&g->lock);
    g->ending = true;
    pthread_cond_signal(&g->changed);
    pthread_mutex_unlock(&g->lock);
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 500000000;
    until.tv_sec += 1 + until.tv_nsec / 1000000000, until.tv_nsec %= 1000000000;
    if (pthread_timedjoin_np(g->thread, NULL, &until)) return; /* NVML does not answer: the thread keeps what it has */
    pthread_cond_destroy(&g->changed);
    pthread_mutex_destroy(&g->lock);
    release(g);
}

void tl__gpu_last(tl_gpu *g, tl_gpu_sample *sample) {
    pthread_mutex_lock(&g->lock);
    *sample = g->newest;
    pthread_mutex_unlock(&g->lock);
}

/* ---- JSON ---- */

__attribute__((format(printf, 4, 5))) static void put(char *out, size_t size, size_t *used, const char *format, ...) {
    va_list args;
    va_start(args, format);
    const int n = vsnprintf(out + *used, size - *used, format, args);
    va_end(args);
    if (n > 0) *used += (size_t)n < size - *used ? (size_t)n : size - *used - 1;
}

int tl__gpu_print(char *out, size_t size, const tl_gpu_sample *s) {
    size_t used = 0;
    const char *comma = "";
    put(out, size, &used, "{");
    for (int i = 0; i < TL_GPU_COUNTERS; i++) {
        if (!isfinite(s->value[i])) continue;
        put(out, size, &used, "%s\"%s\":%.*f", comma, tl__gpu_counters[i].name, tl__gpu_counters[i].decimals, s->value[i]);
        comma = ",";
    }
    if (s->reasons >= 0) {
        put(out, size, &used, "%s\"throttle\":[", comma);
        comma = "";
        for (int i = 0; i < TL_GPU_REASONS; i++) {
            if (!(s->reasons >> i & 1)) continue;
            put(out, size, &used, "%s\"%s\"", comma, tl__gpu_reasons[i]);
            comma = ",";
        }
        put(out, size, &used, "]");
    }
    put(out, size, &used, "}");
    return (int)used;
}
