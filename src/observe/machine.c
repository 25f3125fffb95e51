/* machine.c — owns what is known of the machine: its description from /proc and the cgroups, and its measured
 * peaks.
 *
 * Promises: reading /proc takes no heap; a figure that cannot be had is 0, never a guess. Peaks are the best of several
 * short trials with all threads at once, because a neighbour on the machine can only ever make a trial slower. */
#include "observe/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include "base/clock.h"
#include "kernels/device.h"
#include "kernels/peak.h"

/* --- /proc and the cgroups -----------------------------------------------------------------------------------------
 */

/* The beginning of a small kernel file, NUL-terminated; its length, or −1. */
static int read_text(char *out, size_t size, const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    size_t n = 0;
    while (n < size - 1) {
        ssize_t got = read(fd, out + n, size - 1 - n);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        n += (size_t)got;
    }
    close(fd);
    out[n] = 0;
    return (int)n;
}

/* The number of kB after "key:" in a file of the form of /proc/meminfo, in bytes; −1 if it is not there. */
static int64_t read_kib(const char *path, const char *key) {
    char text[8192];
    if (read_text(text, sizeof text, path) < 0) return -1;
    size_t n = strlen(key);
    for (const char *line = text; line; line = strchr(line, '\n')) {
        if (*line == '\n') line++;
        if (strncmp(line, key, n) == 0 && line[n] == ':') return strtoll(line + n + 1, NULL, 10) * 1024;
    }
    return -1;
}

int64_t tl__rss_anon_bytes(void) {
    return read_kib("/proc/self/status", "RssAnon");
}

int64_t tl__rss_bytes(void) {
    return read_kib("/proc/self/status", "VmRSS");
}

int64_t tl__memory_total_bytes(void) {
    int64_t n = read_kib("/proc/meminfo", "MemTotal");
    return n > 0 ? n : 0;
}

int64_t tl__memory_available_bytes(void) {
    int64_t n = read_kib("/proc/meminfo", "MemAvailable");
    return n > 0 ? n : 0;
}

static void limit_memory(tl_limits *l, const char *file) {
    char text[64];
    if (read_text(text, sizeof text, file) <= 0) return;
    char *end;
    long long n = strtoll(text, &end, 10);
    /* "max" has no digits; v1 writes a huge page-aligned number instead. */
    if (end == text || n <= 0 || n >= (1LL << 60)) return;
    if (l->memory_max_bytes == 0 || n < l->memory_max_bytes) l->memory_max_bytes = n;
}

static void limit_cpus(tl_limits *l, double quota, double period) {
    if (!(quota > 0) || !(period > 0)) return;
    if (l->cpus == 0 || quota / period < l->cpus) l->cpus = quota / period;
}

static double read_number(const char *file) {
    char text[64];
    return read_text(text, sizeof text, file) > 0 ? strtod(text, NULL) : 0;
}

/* One cgroup folder and its ancestors up to the mount. */
static void limit_along(tl_limits *l, const char *mount, const char *group, bool v2) {
    char path[512], file[600];
    for (size_t n = strnlen(group, sizeof path - 1);;) {
        int len = snprintf(path, sizeof path, "%s%.*s", mount, (int)n, group);
        if (len < 0 || (size_t)len >= sizeof path) return;
        if (v2) {
            snprintf(file, sizeof file, "%s/memory.max", path);
            limit_memory(l, file);
            snprintf(file, sizeof file, "%s/cpu.max", path);
            char text[64], *end;
            if (read_text(text, sizeof text, file) > 0) {
                double quota = strtod(text, &end);
                if (end != text) limit_cpus(l, quota, strtod(end, NULL));
            }
        } else {
            snprintf(file, sizeof file, "%s/memory.limit_in_bytes", path);
            limit_memory(l, file);
            snprintf(file, sizeof file, "%s/cpu.cfs_quota_us", path);
            double quota = read_number(file);
            snprintf(file, sizeof file, "%s/cpu.cfs_period_us", path);
            limit_cpus(l, quota, read_number(file));
        }
        if (n == 0) return;
        while (n > 0 && group[n - 1] != '/') n--; /* drop the last name … */
        while (n > 0 && group[n - 1] == '/') n--; /* … and its slash */
    }
}

/* Whether a comma-separated list holds a name. */
static bool lists(const char *list, size_t n, const char *name) {
    size_t len = strlen(name);
    for (size_t i = 0; i + len <= n; i++)
        if (memcmp(list + i, name, len) == 0 && (i == 0 || list[i - 1] == ',') &&
            (i + len == n || list[i + len] == ','))
            return true;
    return false;
}

tl_limits tl__cgroup_limits(void) {
    tl_limits l = {0};
    char text[4096];
    if (read_text(text, sizeof text, "/proc/self/cgroup") <= 0) return l;
    for (char *line = text, *next; line && *line; line = next) { /* "hierarchy:controllers:/path" */
        next = strchr(line, '\n');
        if (next) *next++ = 0;
        char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group) continue;
        size_t n = (size_t)(group - controllers - 1);
        controllers++, group++;
        if (n == 0) limit_along(&l, "/sys/fs/cgroup", group, true);
        else if (lists(controllers, n, "memory")) limit_along(&l, "/sys/fs/cgroup/memory", group, false);
        else if (lists(controllers, n, "cpu")) limit_along(&l, "/sys/fs/cgroup/cpu", group, false);
    }
    return l;
}

static void read_cpu_name(char *out, size_t size) {
    char text[4096];
    snprintf(out, size, "unknown CPU");
    if (read_text(text, sizeof text, "/proc/cpuinfo") <= 0) return;
    const char *at = strstr(text, "model name");
    at = at ? strchr(at, ':') : NULL;
    if (!at) return;
    for (at++; *at == ' ' || *at == '\t';) at++;
    size_t n = strcspn(at, "\n");
    while (n > 0 && at[n - 1] == ' ') n--;
    if (n > 0) snprintf(out, size, "%.*s", (int)n, at);
}

void tl__machine_describe(tl_machine *m, const tl_ctx *ctx) {
    *m = (tl_machine){0};
    read_cpu_name(m->cpu, sizeof m->cpu);
    tl__cpu_features(m->features, sizeof m->features);
    m->threads = tl__pool_threads(ctx->pool);
    m->memory_bytes = tl__memory_total_bytes();
    tl_limits limits = tl__cgroup_limits();
    if (limits.memory_max_bytes > 0 && (m->memory_bytes == 0 || limits.memory_max_bytes < m->memory_bytes))
        m->memory_bytes = limits.memory_max_bytes;
    const tl_ops *ops = ctx->ops;
    if (!ops && tl__ops_select(&ops, NULL, NULL) != 0) ops = NULL;
    snprintf(m->isa, sizeof m->isa, "%s", ops ? ops->isa : "ref");
    const tl_cuda_facts *gpu;
    if (!ctx->device || tl__device_open(&gpu, NULL)) return;
    snprintf(m->cpu, sizeof m->cpu, "%s", gpu->name);
    snprintf(m->features, sizeof m->features, "sm_%d, %d processors", gpu->sm, gpu->processors);
    if (gpu->memory_bytes < m->memory_bytes) m->memory_bytes = gpu->memory_bytes;
}

json_t *tl__machine_json(const tl_machine *m) {
    json_t *o = json_object();
    json_object_set_new(o, "cpu", json_string(m->cpu));
    json_object_set_new(o, "features", json_string(m->features));
    json_object_set_new(o, "isa", json_string(m->isa));
    json_object_set_new(o, "threads", json_integer(m->threads));
    json_object_set_new(o, "memory_bytes", m->memory_bytes > 0 ? json_integer(m->memory_bytes) : json_null());
    json_object_set_new(o, "f32_flops", m->f32_flops > 0 ? json_real(m->f32_flops) : json_null());
    json_object_set_new(o, "bf16_flops", m->bf16_flops > 0 ? json_real(m->bf16_flops) : json_null());
    json_object_set_new(o, "int8_ops", m->int8_ops > 0 ? json_real(m->int8_ops) : json_null());
    json_object_set_new(o, "read_bytes_per_second",
                        m->read_bytes_per_second > 0 ? json_real(m->read_bytes_per_second) : json_null());
    if (m->ranks > 1)
        json_object_set_new(o, "link",
                            json_pack("{s:i,s:f,s:f}", "ranks", m->ranks, "latency_seconds", m->link_latency_seconds,
                                      "gb_per_second", m->link_bytes_per_second * 1e-9));
    return o;
}

/* --- measured peaks ------------------------------------------------------------------------------------------------
 */

#define MAX_TASKS 1024
#define SLICE_BYTES ((size_t)1 << 20) /* of the read buffer: one task; small enough that a late thread costs little */

typedef struct trial {
    const tl_peak *peak;
    double (*flops_loop)(int64_t rounds, float *sink); /* of peak */
    int64_t rounds;
    double flops[MAX_TASKS], cpu_seconds[MAX_TASKS]; /* each task its own */
    unsigned char *buffer;
} trial;

/* Time that this thread has been running: neighbours who take the CPU away do not count. */
static double cpu_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void flops_task(void *user, int64_t i, int worker) {
    (void)worker;
    trial *t = user;
    float sink;
    double start = cpu_seconds();
    t->flops[i] = t->flops_loop(t->rounds, &sink);
    t->cpu_seconds[i] = cpu_seconds() - start;
    __asm__ volatile("" : : "m"(sink)); /* the result is used, as far as any compiler knows */
}

static void touch_task(void *user, int64_t i, int worker) {
    (void)worker;
    trial *t = user;
    /* Written, not only read: pages that were never written all map to one page of zeros, which stays in the cache. */
    for (size_t at = 0; at < SLICE_BYTES; at += 4096) t->buffer[(size_t)i * SLICE_BYTES + at] = (unsigned char)i | 1;
}

static void read_task(void *user, int64_t i, int worker) {
    (void)worker;
    trial *t = user;
    uint64_t sink;
    t->peak->read(t->buffer + (size_t)i * SLICE_BYTES, SLICE_BYTES, &sink);
    __asm__ volatile("" : : "m"(sink));
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* FLOP/s, two ways, of which the greater counts. By the clock on the wall: the best trial, each one task a thread; long
 * enough that handing out work (a microsecond or two) is well under a per cent of it. On a busy machine the threads
 * rarely all run at once, so also by their CPU time: the sum of what each did while it ran; there the middle trial,
 * because threads that share a core do more while the other is late. `share` is the part of the threads that the system
 * lets run at once. */
static double measure_flops(trial *t, tl_pool *pool, int tasks, double share, int64_t budget_ns) {
    enum { MOST_TRIALS = 512 };
    static double running[MOST_TRIALS];
    const int64_t trial_ns = 500000, end_ns = tl__now_ns() + budget_ns;
    double best = 0;
    t->rounds = 1000;
    int trials = 0;
    while (trials < 3 || tl__now_ns() < end_ns) {
        int64_t start_ns = tl__now_ns();
        tl__parallel_for(pool, tasks, flops_task, t);
        double took = (double)(tl__now_ns() - start_ns) + 1, flops = 0, rate = 0, longest = 0;
        for (int i = 0; i < tasks; i++) {
            flops += t->flops[i];
            rate += t->flops[i] / fmax(t->cpu_seconds[i], 1e-9);
            longest = fmax(longest, t->cpu_seconds[i] * 1e9);
        }
        if (longest > (double)trial_ns / 2) {
            best = fmax(best, flops / took * 1e9);
            running[trials++ % MOST_TRIALS] = rate * share;
        } /* else too short to count: grow */
        double grow = (double)trial_ns / fmax(longest, 1);
        if (grow >= 2 || grow < 0.25) t->rounds = (int64_t)((double)t->rounds * fmin(fmax(grow, 0.1), 16)) + 1;
    }
    int held = trials < MOST_TRIALS ? trials : MOST_TRIALS;
    qsort(running, (size_t)held, sizeof *running, by_value);
    return fmax(best, running[held / 2]);
}

static double read_rate(trial *t, tl_pool *pool, const void *at, size_t bytes, int64_t end_ns) {
    const int64_t slices = (int64_t)(bytes / SLICE_BYTES);
    /* Round and round in thirds, each a trial: by the time a third comes again the other two have pushed it out of the
     * cache. */
    const int64_t third = slices / 3 > 0 ? slices / 3 : 1;
    double best = 0;
    for (int n = 0; n < 6 || tl__now_ns() < end_ns; n++) {
        t->buffer = (unsigned char *)(uintptr_t)at + (slices >= 3 ? (size_t)(n % 3 * third) * SLICE_BYTES : 0);
        int64_t start_ns = tl__now_ns();
        tl__parallel_for(pool, third, read_task, t);
        int64_t took_ns = tl__now_ns() - start_ns;
        if (took_ns > 0) best = fmax(best, (double)third * (double)SLICE_BYTES / (double)took_ns * 1e9);
    }
    return best;
}

static double measure_read(trial *t, tl_pool *pool, size_t bytes, int64_t budget_ns) {
    const int64_t end_ns = tl__now_ns() + budget_ns;
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) return 0;
    (void)madvise(at, bytes, MADV_HUGEPAGE);
    t->buffer = at;
    tl__parallel_for(pool, (int64_t)(bytes / SLICE_BYTES), touch_task, t);
    const double rate = read_rate(t, pool, at, bytes, end_ns);
    munmap(at, bytes);
    return rate;
}

/* Bytes of the level-3 cache that CPU 0 sees, or −1. The kernel's word first: sysconf adds up every cache of the
 * package (320 MB where the CPUs at hand share 32), and a buffer sized by that takes longer to touch than a small
 * model's first step. */
static int64_t last_level_cache_bytes(void) {
    int64_t kilobytes = -1;
    FILE *f = fopen("/sys/devices/system/cpu/cpu0/cache/index3/size", "r");
    if (f) {
        long long n;
        if (fscanf(f, "%lldK", &n) == 1 && n > 0 && n < (1 << 22)) kilobytes = n;
        fclose(f);
    }
    if (kilobytes > 0) return kilobytes << 10;
#ifdef _SC_LEVEL3_CACHE_SIZE
    return sysconf(_SC_LEVEL3_CACHE_SIZE);
#else
    return -1;
#endif
}

/* Three times that cache (cycling through so much hits it rarely), whole slices, and no more than the machine can
 * spare. */
static size_t read_buffer_bytes(const tl_machine *m) {
    int64_t cache = last_level_cache_bytes();
    size_t bytes = cache > 0 ? (size_t)cache * 3 : (size_t)128 << 20;
    if (bytes < (size_t)64 << 20) bytes = (size_t)64 << 20;
    if (bytes > (size_t)1 << 30) bytes = (size_t)1 << 30;
    if (m->memory_bytes > 0 && bytes > (size_t)m->memory_bytes / 8) bytes = (size_t)m->memory_bytes / 8;
    bytes -= bytes % SLICE_BYTES;
    return bytes ? bytes : SLICE_BYTES;
}

static const tl_peak *peak_of(const tl_machine *m) {
    const tl_peak *peak = tl__peak_select(m->isa);
    return peak ? peak : tl__peak_select("ref");
}

static trial the_trial; /* too large for a stack; measuring is for one thread at a time */

/* What a loop of a peak does in a second, all threads at once. */
static double measure_loop(const tl_machine *m, tl_ctx *ctx, double (*loop)(int64_t, float *), int64_t budget_ns) {
    int tasks = m->threads < 1 ? 1 : m->threads > MAX_TASKS ? MAX_TASKS : m->threads;
    tl_limits limits = tl__cgroup_limits();
    double at_once = fmin(tasks, tl__cpus_available());
    if (limits.cpus > 0) at_once = fmin(at_once, limits.cpus);
    the_trial = (trial){.flops_loop = loop};
    return measure_flops(&the_trial, ctx->pool, tasks, at_once / tasks, budget_ns);
}

static int64_t half_ns(double seconds) {
    return (int64_t)(fmin(fmax(seconds, 0), 60) * 0.5e9);
}

static void measure_products(tl_machine *m, tl_ctx *ctx, double seconds) {
    const tl_peak *peak = peak_of(m);
    m->f32_flops = measure_loop(m, ctx, peak->fma, half_ns(seconds));
    if (ctx->contract == TL_CONTRACT_BF16) /* the chain by multiply-adds is the same, and on some CPUs faster */
        m->bf16_flops = fmax(m->f32_flops, peak->dot ? measure_loop(m, ctx, peak->dot, half_ns(seconds)) : 0);
}

/* A device's: its products of bf16 are as fast as those of f32, since they are the same multiply-adds. */
static void measure_device(tl_machine *m, tl_ctx *ctx, double seconds) {
    tl__device_measure(seconds, &m->f32_flops, &m->read_bytes_per_second);
    if (ctx->contract == TL_CONTRACT_BF16) m->bf16_flops = m->f32_flops;
}

void tl__machine_measure(tl_machine *m, tl_ctx *ctx, double seconds) {
    if (ctx->device) {
        measure_device(m, ctx, seconds);
        return;
    }
    measure_products(m, ctx, seconds);
    the_trial = (trial){.peak = peak_of(m)};
    m->read_bytes_per_second = measure_read(&the_trial, ctx->pool, read_buffer_bytes(m), half_ns(seconds));
}

void tl__machine_measure_in_place(tl_machine *m, tl_ctx *ctx, const void *from, size_t bytes, double seconds) {
    if (ctx->device) {
        measure_device(m, ctx, seconds);
        return;
    }
    measure_products(m, ctx, seconds);
    the_trial = (trial){.peak = peak_of(m)};
    m->read_bytes_per_second =
        bytes < SLICE_BYTES ? 0 : read_rate(&the_trial, ctx->pool, from, bytes, tl__now_ns() + half_ns(seconds));
}

void tl__machine_measure_int8(tl_machine *m, tl_ctx *ctx, double seconds) {
    if (ctx->device) return;
    const tl_peak *peak = peak_of(m);
    m->int8_ops = peak->int8 ? measure_loop(m, ctx, peak->int8, (int64_t)(fmin(fmax(seconds, 0), 60) * 1e9)) : 0;
}
