/* cmd_doctor.c — `trilith doctor`: what this machine is, what it can do, what Trilith will use of it, and what will be
 * slow. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <math.h>
#include <pcre2.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>
#include <xxhash.h>
#include <yaml.h>
#include <zlib.h>
#include <zstd.h>
#include "cli/cli.h"
#include "comm/comm.h"
#include "io/file.h"
#include "kernels/device.h"
#include "observe/gpu.h"
#include "observe/machine.h"

typedef struct settings {
    int64_t threads;
    double seconds;
    bool json;
} settings;

static const tl_option options[] = {
    {"threads", TL_INT(settings, threads), .least = 0, .most = 1024,
     .help = "Measure with this many threads; all that this process may use unless given."},
    {"seconds", TL_REAL(settings, seconds), .initial = "1", .least = 0, .most = 60,
     .help = "How long to measure. The best of many short trials counts."},
    {"json", TL_FLAG(settings, json), .not_in_yaml = true, .help = "Print one JSON object and nothing else."},
    {0}};

typedef struct findings {
    tl_machine machine;
    tl_limits limits;
    int cpus;            /* that this process may use */
    double load;         /* of the last minute, before we measured; −1 unknown */
    char huge_pages[16]; /* "always", "madvise", "never"; empty: unknown */
    int64_t total_bytes, available_bytes;
    const tl_cuda_facts *gpu;     /* NULL: none, and why_no_gpu says why */
    tl_gpu_sample gpu_now;        /* what its counters say, unless why_no_counters has a reason */
    tl_error why_no_gpu, why_no_counters;
    char advice[10][400];
    int n_advice;
} findings;

/* ---- the kernel table: who computes each operator ---- */

#define ENTRIES(X)                                                                                                     \
    X(gemm)                                                                                                            \
    X(gemm_bf16)                                                                                                       \
    X(linear_f32) X(linear_f16) X(linear_bf16) X(linear_quantised) X(embed_stored) X(bias_backward) X(embed)           \
        X(embed_backward) X(rmsnorm) X(rmsnorm_backward) X(layernorm) X(layernorm_backward) X(rope) X(kv_store)        \
            X(attention) X(attention_backward) X(gelu) X(gelu_backward) X(swiglu) X(swiglu_backward) X(add)            \
                X(softmax_loss) X(sum_squares) X(adamw) X(blend)

typedef struct entry {
    const char *name, *isa;
} entry;
enum { MOST_ENTRIES = 32 };

/* An entry is named after the least table that has the same function: ref where it is the definition's own, avx512
 * where amx adds nothing. */
static int kernel_table(entry out[MOST_ENTRIES], const tl_ops *ops) {
    static const char *const names[] = {"ref", "avx2", "avx512", "avx512_vnni", "avx512_bf16"};
    int n = 0;
#define ENTRY(field) out[n++] = (entry){#field, ops->isa};
    ENTRIES(ENTRY)
#undef ENTRY
    for (int i = (int)(sizeof names / sizeof *names) - 1; i >= 0; i--) {
        const tl_ops *lesser;
        if (tl__ops_select(&lesser, names[i], NULL)) continue;
        int k = 0;
#define ENTRY(field) out[k].isa = ops->field == lesser->field ? lesser->isa : out[k].isa, k++;
        ENTRIES(ENTRY)
#undef ENTRY
    }
    return n;
}

/* ---- libraries, as they are at run time ---- */

static json_t *library_versions(void) {
    char pcre2[64] = "unknown", unicode[64] = "unknown", xxhash[32];
    (void)pcre2_config(PCRE2_CONFIG_VERSION, pcre2);
    (void)pcre2_config(PCRE2_CONFIG_UNICODE_VERSION, unicode);
    pcre2[strcspn(pcre2, " ")] = 0; /* "10.42 2022-12-11" */
    unsigned x = XXH_versionNumber();
    snprintf(xxhash, sizeof xxhash, "%u.%u.%u", x / 10000, x / 100 % 100, x % 100);
    return json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:s}", "jansson", jansson_version_str(), "libyaml",
                     yaml_get_version_string(), "pcre2", pcre2, "pcre2_unicode", unicode, "utf8proc",
                     utf8proc_version(), "utf8proc_unicode", utf8proc_unicode_version(), "xxhash", xxhash, "zstd",
                     ZSTD_versionString(), "zlib", zlibVersion());
}

/* ---- many processes ---- */

/* NULL: one process only, and `why` says what it takes to have more. */
static const char *mpi_library(char out[128], tl_error *why) {
    return tl__comm_library(out, 128, why) ? NULL : out;
}

/* ---- what is odd ---- */

__attribute__((format(printf, 2, 3))) static void advise(findings *f, const char *format, ...) {
    if (f->n_advice == (int)(sizeof f->advice / sizeof *f->advice)) return;
    va_list args;
    va_start(args, format);
    vsnprintf(f->advice[f->n_advice++], sizeof *f->advice, format, args);
    va_end(args);
}

static void read_huge_pages(char out[16]) {
    FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "r"); /* "always [madvise] never" */
    char line[128] = "";
    out[0] = 0;
    if (!file) return;
    if (fgets(line, sizeof line, file)) {
        char *from = strchr(line, '['), *to = from ? strchr(from, ']') : NULL;
        if (to) snprintf(out, 16, "%.*s", (int)(to - from - 1 < 15 ? to - from - 1 : 15), from + 1);
    }
    fclose(file);
}

static void look_for_trouble(findings *f, const tl_ops *ops) {
    const tl_machine *m = &f->machine;
    const tl_ops *best = NULL;
    const char *forced = getenv("TRILITH_ISA");
    unsetenv("TRILITH_ISA");
    (void)tl__ops_select(&best, NULL, NULL);
    if (forced) setenv("TRILITH_ISA", forced, 1);
    if (best && strcmp(best->isa, "ref") == 0)
        advise(f, "This CPU has no AVX2 with FMA, so every operator runs as plain C, some hundred times slower than on "
                  "one that has; "
                  "results are the same.");
    else if (best && strcmp(best->isa, ops->isa) != 0)
        advise(f, "TRILITH_ISA=%s is set; without it %s would be used.", ops->isa, best->isa);
    if (f->load > 0.5)
        advise(f,
               "Other work is running (load average %.1f on %d CPU%s): the bandwidth measured now may be below what "
               "this machine "
               "can do, and steps will take longer than they could.",
               f->load, f->cpus, f->cpus == 1 ? "" : "s");
    if (strcmp(f->huge_pages, "never") == 0)
        advise(f, "Transparent huge pages are off, so large matrices cost more address translation; 'echo madvise > "
                  "/sys/kernel/mm/transparent_hugepage/enabled' as root turns them on.");
    if (f->limits.cpus > 0 && f->limits.cpus < m->threads)
        advise(f,
               "The container may use %.1f CPUs but %d threads run, so they will be stopped part of the time; use "
               "--threads %d.",
               f->limits.cpus, m->threads, f->limits.cpus < 1 ? 1 : (int)f->limits.cpus);
    else if (m->threads > f->cpus)
        advise(f, "%d threads share %d CPU%s; more threads than CPUs only wait for each other.", m->threads, f->cpus,
               f->cpus == 1 ? "" : "s");
    if (f->available_bytes > 0 && f->available_bytes < (int64_t)1 << 30)
        advise(f, "Only %lld MB of memory are available; a run that needs more will be killed or swap.",
               (long long)(f->available_bytes / 1000000));
    if (m->read_bytes_per_second > 0 && m->f32_flops / m->read_bytes_per_second > 40)
        advise(f,
               "Arithmetic is fast beside memory here (%.0f FLOPs for each byte read): the optimizer and generating "
               "one token at a "
               "time will be bound by memory.",
               m->f32_flops / m->read_bytes_per_second);
}

static void look_at_gpu(findings *f) {
    tl_gpu *counters;
    if (tl__device_open(&f->gpu, &f->why_no_gpu)) return;
    if (tl__gpu_open(&counters, f->gpu->pci, &f->why_no_counters)) return;
    tl__gpu_last(counters, &f->gpu_now);
    tl__gpu_close(counters);
    const double errors = f->gpu_now.value[TL_GPU_ECC_UNCORRECTED];
    for (int i = 0; i < TL_GPU_REASONS; i++)
        if (f->gpu_now.reasons > 0 && f->gpu_now.reasons & TL_GPU_HELD_BACK & 1 << i)
            advise(f, "The GPU is held back (%s): see to its power limit and its cooling.", tl__gpu_reasons[i]);
    if (errors > 0)
        advise(f, "The GPU had %.0f memory errors that it could not correct since the driver was loaded: results may have been lost; reset or replace it.",
               errors);
}

static int examine(findings *f, const settings *o, tl_ctx *ctx, tl_error *err) {
    double load;
    *f = (findings){.load = getloadavg(&load, 1) == 1 ? load : -1};
    int status = tl__ctx_open(ctx, (int)o->threads, NULL, err);
    if (status) return status;
    tl__machine_describe(&f->machine, ctx);
    f->cpus = tl__cpus_available();
    f->limits = tl__cgroup_limits();
    f->total_bytes = tl__memory_total_bytes();
    f->available_bytes = tl__memory_available_bytes();
    read_huge_pages(f->huge_pages);
    ctx->contract = TL_CONTRACT_BF16; /* that peak too */
    tl__machine_measure(&f->machine, ctx, o->seconds);
    tl__machine_measure_int8(&f->machine, ctx, o->seconds / 2);
    look_for_trouble(f, ctx->ops);
    look_at_gpu(f);
    return 0;
}

/* ---- telling ---- */

static json_t *integer_or_null(int64_t x) {
    return x > 0 ? json_integer(x) : json_null();
}

static json_t *gpu_json(const findings *f) {
    const tl_cuda_facts *gpu = f->gpu;
    char now[1024];
    if (!gpu) return json_null();
    tl__gpu_print(now, sizeof now, &f->gpu_now);
    return json_pack("{s:s,s:s,s:i,s:i,s:I,s:i,s:o}", "name", gpu->name, "pci", gpu->pci, "sm", gpu->sm, "processors",
                     gpu->processors, "memory_bytes", (json_int_t)gpu->memory_bytes, "driver", gpu->driver, "now",
                     f->why_no_counters.status ? json_null() : json_loads(now, 0, NULL));
}

/* "412 of 700 W, 1.98 of 1.98 GHz, …": what is known of it. */
static void gpu_now_text(char *out, size_t size, const tl_gpu_sample *s) {
    static const struct {
        const char *format;
        tl_gpu_counter what[2];
        double unit;
    } said[] = {{"%.0f of %.0f W", {TL_GPU_POWER, TL_GPU_POWER_LIMIT}, 1},
                {"%.0f °C", {TL_GPU_TEMPERATURE, TL_GPU_TEMPERATURE}, 1},
                {"%.2f of %.2f GHz", {TL_GPU_SM_CLOCK, TL_GPU_SM_CLOCK_MOST}, 1e9},
                {"%.1f of %.1f GB in use", {TL_GPU_MEMORY_USED, TL_GPU_MEMORY_TOTAL}, 1e9}};
    size_t used = 0;
    out[0] = 0;
    for (size_t i = 0; i < sizeof said / sizeof *said; i++) {
        const double x = s->value[said[i].what[0]] / said[i].unit, y = s->value[said[i].what[1]] / said[i].unit;
        if (!isfinite(x + y)) continue;
        used += (size_t)snprintf(out + used, size - used, "%s", used ? ", " : "");
        used += (size_t)snprintf(out + used, size - used, said[i].format, x, y);
    }
}

static json_t *as_json(const findings *f, const tl_ops *ops) {
    entry table[MOST_ENTRIES];
    int n = kernel_table(table, ops);
    json_t *kernels = json_object(), *advice = json_array();
    for (int i = 0; i < n; i++) json_object_set_new(kernels, table[i].name, json_string(table[i].isa));
    for (int i = 0; i < f->n_advice; i++) json_array_append_new(advice, json_string(f->advice[i]));
    json_t *limits =
        json_pack("{s:i,s:o,s:o,s:o,s:o}", "cpus", f->cpus, "cgroup_cpus",
                  f->limits.cpus > 0 ? json_real(f->limits.cpus) : json_null(), "cgroup_memory_bytes",
                  integer_or_null(f->limits.memory_max_bytes), "memory_total_bytes", integer_or_null(f->total_bytes),
                  "memory_available_bytes", integer_or_null(f->available_bytes));
    char mpi[128];
    return json_pack("{s:s,s:o,s:o,s:o,s:s*,s:o,s:o,s:s?,s:o,s:o}", "version", tl_version(), "machine",
                     tl__machine_json(&f->machine), "kernels", kernels, "limits", limits, "huge_pages",
                     f->huge_pages[0] ? f->huge_pages : NULL, "load_average",
                     f->load >= 0 ? json_real(f->load) : json_null(), "libraries", library_versions(), "mpi",
                     mpi_library(mpi, NULL), "gpu", gpu_json(f), "advice", advice);
}

static void print_wrapped(const char *label, const char *words) {
    printf("%-19s ", label);
    for (int column = 20; *words;) {
        int n = (int)strcspn(words, " ");
        if (column + n > 100) printf("\n%20s", ""), column = 20;
        column += printf("%.*s ", n, words);
        words += n + (words[n] == ' ');
    }
    printf("\n");
}

/* Which instructions multiply bytes, by the table's name. */
static const char *int8_how(const char *isa) {
    return strcmp(isa, "amx") == 0                                              ? "tiles by AMX-INT8"
           : strcmp(isa, "avx512_vnni") == 0 || strcmp(isa, "avx512_bf16") == 0 ? "fours by AVX512-VNNI"
                                                                                : "pairs by vpmaddubsw";
}

static void print_text(const findings *f, const tl_ops *ops) {
    const tl_machine *m = &f->machine;
    printf("trilith             %s\nCPU                 %s\n", tl_version(), m->cpu);
    print_wrapped("features", m->features);
    printf("threads             %d of %d CPU%s%s\n", m->threads, f->cpus, f->cpus == 1 ? "" : "s",
           f->limits.cpus > 0 ? ", limited by the cgroup" : "");
    if (f->limits.cpus > 0) printf("cgroup CPU limit    %.2f\n", f->limits.cpus);
    printf("memory              %.1f GB, %.1f GB available\n", (double)f->total_bytes / 1e9,
           (double)f->available_bytes / 1e9);
    if (f->limits.memory_max_bytes > 0)
        printf("cgroup memory limit %.1f GB\n", (double)f->limits.memory_max_bytes / 1e9);
    printf("huge pages          %s\n", f->huge_pages[0] ? f->huge_pages : "unknown");
    printf("f32 peak            %.1f GFLOP/s measured, %s, all threads\n", m->f32_flops / 1e9, m->isa);
    printf("bf16 peak           %.1f GFLOP/s measured%s\n", m->bf16_flops / 1e9,
           m->bf16_flops == m->f32_flops ? " as f32: by multiply-adds, no slower here than AVX512-BF16 or without it"
           : strcmp(m->isa, "amx") == 0      ? ", tiles by AMX-BF16"
                                             : ", pairs by AVX512-BF16");
    if (m->int8_ops > 0) printf("int8 peak           %.1f GOP/s measured, %s\n", m->int8_ops / 1e9, int8_how(m->isa));
    printf("memory read         %.1f GB/s measured, all threads\n", m->read_bytes_per_second / 1e9);

    entry table[MOST_ENTRIES];
    int n = kernel_table(table, ops);
    char words[1024];
    size_t used = 0;
    static const char *const isas[] = {"amx", "avx512_bf16", "avx512_vnni", "avx512", "avx2", "ref"};
    for (size_t k = 0; k < sizeof isas / sizeof *isas; k++) {
        used = 0;
        words[0] = 0;
        for (int i = 0; i < n; i++) {
            if (strcmp(table[i].isa, isas[k])) continue;
            int put = snprintf(words + used, sizeof words - used, "%s%s", used ? " " : "", table[i].name);
            if (put > 0 && (size_t)put < sizeof words - used) used += (size_t)put;
        }
        char label[32];
        snprintf(label, sizeof label, "kernels, %s", isas[k]);
        if (used) print_wrapped(label, words);
    }

    json_t *libraries = library_versions();
    const char *key;
    json_t *value;
    used = 0;
    json_object_foreach(libraries, key, value) {
        if (strstr(key, "_unicode")) continue;
        int put = snprintf(words + used, sizeof words - used, "%s%s\u00a0%s", used ? ", " : "", key,
                           json_string_value(value));
        if (put > 0 && (size_t)put < sizeof words - used) used += (size_t)put;
    }
    print_wrapped("libraries", words);
    printf("Unicode             pcre2 %s, utf8proc %s\n",
           json_string_value(json_object_get(libraries, "pcre2_unicode")),
           json_string_value(json_object_get(libraries, "utf8proc_unicode")));
    json_decref(libraries);
    tl_error why;
    char mpi[128], sentence[sizeof why.text + 32];
    if (mpi_library(mpi, &why)) snprintf(sentence, sizeof sentence, "%s", mpi);
    else snprintf(sentence, sizeof sentence, "one only: %s", why.text);
    print_wrapped("processes", sentence);
    const tl_cuda_facts *gpu = f->gpu;
    if (!gpu) snprintf(sentence, sizeof sentence, "%s", f->why_no_gpu.text);
    else
        snprintf(sentence, sizeof sentence, "%s, sm_%d, %d processors, %.1f GB, driver for CUDA %d.%d", gpu->name,
                 gpu->sm, gpu->processors, (double)gpu->memory_bytes / 1e9, gpu->driver / 1000, gpu->driver % 1000 / 10);
    print_wrapped("GPU", sentence);
    if (gpu && f->why_no_counters.status) snprintf(sentence, sizeof sentence, "%s", f->why_no_counters.text);
    else if (gpu) gpu_now_text(sentence, sizeof sentence, &f->gpu_now);
    if (gpu) print_wrapped("GPU now", sentence);
    printf("\n");
    for (int i = 0; i < f->n_advice; i++) print_wrapped(i ? "" : "note", f->advice[i]);
    if (f->n_advice == 0) printf("Nothing here will be slower than the machine itself.\n");
}

static int run(tl_cli *cli) {
    const settings *o = cli->values;
    static findings f;
    tl_ctx ctx = {0};
    tl_error err = {0};
    if (examine(&f, o, &ctx, &err) < 0) return tl__cli_fail(cli, &err);
    int code = TL_EXIT_DONE;
    if (o->json) code = tl__cli_print_json(cli, as_json(&f, ctx.ops));
    else print_text(&f, ctx.ops);
    tl__ctx_close(&ctx);
    return code;
}

const tl_command tl__cmd_doctor = {
    .name = "doctor",
    .summary = "say what this machine can do and what will be slow on it",
    .usage = "[options]",
    .about =
        "Shows the CPU and its features, the instruction set that each operator runs with, what containers and the "
        "system allow, "
        "library versions, and the measured figures that every percentage in Trilith divides by: FLOP/s in registers "
        "of f32 "
        "multiply-adds, of bf16 pairs and of bytes, and bytes a second read from memory, with all threads at once.",
    .examples = "  trilith doctor\n"
                "      a page for people\n"
                "  TRILITH_ISA=avx2 trilith doctor --json\n"
                "      as if the CPU had no AVX-512, for programs",
    .options = options,
    .values_bytes = sizeof(settings),
    .run = run,
};
