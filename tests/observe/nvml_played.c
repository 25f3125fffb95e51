/* nvml_played.c — libnvidia-ml.so.1 for where there is no GPU: the functions that src/observe/gpu.c asks, with numbers too large for a narrower
 * type than nvml.h's and no two alike, so that a wrong type, order or unit shows. NVIDIA's own binding for Python reads it too (tools/interop.py).
 *
 * NVML_PLAYED_WITHOUT=NAME: that function says that it is not supported. NVML_PLAYED_LATE=NAME: its second call takes for ever. NVML_PLAYED_XIDS=N: so many
 * errors are told, once. NVML_PLAYED_REASONS=BITS: what holds clocks back. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct memory_t {
    unsigned long long total, free, used;
} memory_t;
typedef struct utilization_t {
    unsigned gpu, memory;
} utilization_t;
typedef struct event_t {
    void *device;
    unsigned long long type, data;
    unsigned gpu_instance, compute_instance;
} event_t;

enum { SUCCESS, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TIMEOUT = 10 };
#define EXPORTED __attribute__((visibility("default")))
static int device, events, opened, asked_late;

static long from_environment(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? strtol(text, NULL, 0) : otherwise;
}

/* What every function but the first few does before all else. */
static int begin(const char *name, const void *of) {
    const char *without = getenv("NVML_PLAYED_WITHOUT"), *late = getenv("NVML_PLAYED_LATE");
    if (!opened) return 1; /* NVML_ERROR_UNINITIALIZED */
    if (without && strcmp(without, name) == 0) return NOT_SUPPORTED;
    if (late && strcmp(late, name) == 0 && asked_late++) pause();
    return of == &device ? SUCCESS : INVALID;
}
#define BEGIN(of)                                                                                                      \
    const int status = begin(__func__, of);                                                                            \
    if (status) return status

EXPORTED int nvmlInit_v2(void);
EXPORTED int nvmlInitWithFlags(unsigned flags);
EXPORTED int nvmlShutdown(void);
EXPORTED const char *nvmlErrorString(int code);
EXPORTED int nvmlDeviceGetHandleByPciBusId_v2(const char *pci, void **of);
EXPORTED int nvmlDeviceGetPowerUsage(void *of, unsigned *milliwatts);
EXPORTED int nvmlDeviceGetEnforcedPowerLimit(void *of, unsigned *milliwatts);
EXPORTED int nvmlDeviceGetTotalEnergyConsumption(void *of, unsigned long long *millijoules);
EXPORTED int nvmlDeviceGetTemperature(void *of, int sensor, unsigned *celsius);
EXPORTED int nvmlDeviceGetClockInfo(void *of, int which, unsigned *megahertz);
EXPORTED int nvmlDeviceGetMaxClockInfo(void *of, int which, unsigned *megahertz);
EXPORTED int nvmlDeviceGetCurrentClocksThrottleReasons(void *of, unsigned long long *bits);
EXPORTED int nvmlDeviceGetUtilizationRates(void *of, utilization_t *busy);
EXPORTED int nvmlDeviceGetMemoryInfo(void *of, memory_t *memory);
EXPORTED int nvmlDeviceGetTotalEccErrors(void *of, int type, int since, unsigned long long *count);
EXPORTED int nvmlEventSetCreate(void **set);
EXPORTED int nvmlDeviceRegisterEvents(void *of, unsigned long long types, void *set);
EXPORTED int nvmlEventSetWait_v2(void *set, event_t *event, unsigned milliseconds);
EXPORTED int nvmlEventSetFree(void *set);

int nvmlInit_v2(void) {
    opened++;
    return SUCCESS;
}
int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    return nvmlInit_v2();
}
int nvmlShutdown(void) {
    opened--;
    return SUCCESS;
}
const char *nvmlErrorString(int code) {
    return code == NOT_FOUND ? "Not Found" : code == NOT_SUPPORTED ? "Not Supported" : "Another Error";
}
int nvmlDeviceGetHandleByPciBusId_v2(const char *pci, void **of) {
    if (strcmp(pci, "0000:01:00.0") != 0) return NOT_FOUND;
    *of = &device;
    return SUCCESS;
}
int nvmlDeviceGetPowerUsage(void *of, unsigned *milliwatts) {
    BEGIN(of);
    *milliwatts = 412345;
    return SUCCESS;
}
int nvmlDeviceGetEnforcedPowerLimit(void *of, unsigned *milliwatts) {
    BEGIN(of);
    *milliwatts = 700000;
    return SUCCESS;
}
/* 2 kJ from one call to the next. */
int nvmlDeviceGetTotalEnergyConsumption(void *of, unsigned long long *millijoules) {
    static unsigned long long used = 5000000000000ULL;
    BEGIN(of);
    *millijoules = used;
    used += 2000000;
    return SUCCESS;
}
int nvmlDeviceGetTemperature(void *of, int sensor, unsigned *celsius) {
    BEGIN(of);
    *celsius = 61;
    return sensor == 0 ? SUCCESS : INVALID;
}
int nvmlDeviceGetClockInfo(void *of, int which, unsigned *megahertz) {
    BEGIN(of);
    if (which != 1 && which != 2) return INVALID;
    *megahertz = which == 1 ? 1755 : 3201;
    return SUCCESS;
}
int nvmlDeviceGetMaxClockInfo(void *of, int which, unsigned *megahertz) {
    BEGIN(of);
    if (which != 1) return INVALID;
    *megahertz = 1980;
    return SUCCESS;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(void *of, unsigned long long *bits) {
    BEGIN(of);
    *bits = (unsigned long long)from_environment("NVML_PLAYED_REASONS", 4);
    return SUCCESS;
}
int nvmlDeviceGetUtilizationRates(void *of, utilization_t *busy) {
    BEGIN(of);
    *busy = (utilization_t){97, 43};
    return SUCCESS;
}
int nvmlDeviceGetMemoryInfo(void *of, memory_t *memory) {
    BEGIN(of);
    *memory = (memory_t){.total = 150754820096ULL, .free = 110754820096ULL, .used = 40000000000ULL};
    return SUCCESS;
}
int nvmlDeviceGetTotalEccErrors(void *of, int type, int since, unsigned long long *count) {
    BEGIN(of);
    if ((type != 0 && type != 1) || since != 0) return INVALID;
    *count = type == 0 ? 5000000007ULL : 3;
    return SUCCESS;
}
int nvmlEventSetCreate(void **set) {
    *set = &events;
    return SUCCESS;
}
int nvmlDeviceRegisterEvents(void *of, unsigned long long types, void *set) {
    BEGIN(of);
    return types == 8 && set == &events ? SUCCESS : INVALID;
}
int nvmlEventSetWait_v2(void *set, event_t *event, unsigned milliseconds) {
    static long told;
    if (set != &events || milliseconds != 0) return INVALID;
    if (told >= from_environment("NVML_PLAYED_XIDS", 0)) return TIMEOUT;
    *event = (event_t){.device = &device, .type = 8, .data = 79 + (unsigned long long)told++, .gpu_instance = ~0U, .compute_instance = ~0U};
    return SUCCESS;
}
int nvmlEventSetFree(void *set) {
    return set == &events ? SUCCESS : INVALID;
}
