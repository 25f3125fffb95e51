/* dispatch.c — which operator table this machine gets: asks CPUID and XGETBV what the CPU has and the system saves,
 * fills each table once with ref/, then overwrites with the compiled kernels; TRILITH_ISA or the caller may name a
 * lesser one. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include "base/clock.h"
#include "kernels/device.h"
#include "kernels/peak.h"
#include "kernels/table.h"

enum { ISA_REF, ISA_AVX2, ISA_AVX512, ISA_AVX512_VNNI, ISA_AVX512_BF16, ISA_AMX, ISAS };

static const char *const isa_names[ISAS] = {"ref", "avx2", "avx512", "avx512_vnni", "avx512_bf16", "amx"};
static tl_ops tables[ISAS];
static int best_isa; /* what an unasked caller gets */
static pthread_once_t tables_once = PTHREAD_ONCE_INIT;

/* What the CPU offers and the operating system saves at a switch. */
typedef struct cpu_facts {
    bool avx, avx2, fma, bmi, f16c, movbe;                /* with ymm state enabled */
    bool avx512f, avx512bw, avx512cd, avx512dq, avx512vl; /* with zmm state enabled */
    bool avx512_vnni, avx512_bf16, avx_vnni;
    bool amx_int8, amx_bf16; /* with tile state enabled */
} cpu_facts;

static cpu_facts cpu_look(void) {
    cpu_facts f = {0};
#if defined(__x86_64__)
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return f;
    const bool has_avx = c & bit_AVX, has_fma = c & bit_FMA, has_f16c = c & bit_F16C, has_movbe = c & bit_MOVBE;
    unsigned xcr0, xcr0_high;
    __asm__("xgetbv" : "=a"(xcr0), "=d"(xcr0_high) : "c"(0));
    const bool ymm = (xcr0 & 0x6) == 0x6;          /* SSE and AVX state */
    const bool zmm = ymm && (xcr0 & 0xe0) == 0xe0; /* opmask, zmm 0–15 upper halves, zmm 16–31 */
    const bool tile = (xcr0 & 0x60000) == 0x60000;
    f.avx = ymm && has_avx, f.fma = ymm && has_fma, f.f16c = ymm && has_f16c, f.movbe = has_movbe;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return f;
    f.avx2 = ymm && (b & bit_AVX2);
    f.bmi = (b & bit_BMI) && (b & bit_BMI2);
    f.avx512f = zmm && (b & bit_AVX512F);
    f.avx512bw = zmm && (b & bit_AVX512BW);
    f.avx512cd = zmm && (b & bit_AVX512CD);
    f.avx512dq = zmm && (b & bit_AVX512DQ);
    f.avx512vl = zmm && (b & bit_AVX512VL);
    f.avx512_vnni = zmm && (c & (1u << 11));
    f.amx_bf16 = tile && (d & (1u << 22));
    f.amx_int8 = tile && (d & (1u << 24)) && (d & (1u << 25)); /* AMX-TILE, AMX-INT8 */
    if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) {
        f.avx_vnni = ymm && (a & (1u << 4));
        f.avx512_bf16 = zmm && (a & (1u << 5));
    }
    if (__get_cpuid(0x80000001u, &a, &b, &c, &d)) f.bmi = f.bmi && (c & (1u << 5)); /* LZCNT belongs to x86-64-v3 */
#endif
    return f;
}

/* Linux keeps tiles' 8 KB for a process that asked for them (Linux 5.16, Documentation/arch/x86/xstate.rst). */
static bool tiles_granted(void) {
#if defined(__x86_64__) && defined(__linux__)
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
    return false;
#endif
}

/* The objects are compiled for x86-64-v3 and v4: every feature that the compiler may use there must be present. */
static bool cpu_runs(int isa) {
    const cpu_facts f = cpu_look();
    const bool v3 = f.avx && f.avx2 && f.fma && f.bmi && f.f16c && f.movbe;
    const bool v4 = v3 && f.avx512f && f.avx512bw && f.avx512cd && f.avx512dq && f.avx512vl;
    switch (isa) {
    case ISA_REF:
        return true;
#if TL_HAVE_X86_KERNELS
    case ISA_AVX2:
        return v3;
    case ISA_AVX512:
        return v4;
    case ISA_AVX512_VNNI:
        return v4 && f.avx512_vnni;
    case ISA_AVX512_BF16: /* no CPU has BF16 without VNNI */
        return v4 && f.avx512_vnni && f.avx512_bf16;
    case ISA_AMX:
        return v4 && f.avx512_vnni && f.avx512_bf16 && f.amx_int8 && f.amx_bf16 && tiles_granted();
#endif
    default:
        return false;
    }
}

void tl__cpu_features(char *out, size_t size) {
    const cpu_facts f = cpu_look();
    const struct {
        bool has;
        const char *name;
    } list[] = {
        {f.avx2, "avx2"},
        {f.fma, "fma"},
        {f.f16c, "f16c"},
        {f.avx_vnni, "avx_vnni"},
        {f.avx512f, "avx512f"},
        {f.avx512bw, "avx512bw"},
        {f.avx512cd, "avx512cd"},
        {f.avx512dq, "avx512dq"},
        {f.avx512vl, "avx512vl"},
        {f.avx512_vnni, "avx512_vnni"},
        {f.avx512_bf16, "avx512_bf16"},
        {f.amx_int8, "amx_int8"},
        {f.amx_bf16, "amx_bf16"},
    };
    size_t n = 0;
    if (size) out[0] = 0;
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        const size_t length = strlen(list[i].name);
        if (!list[i].has || n + length + 2 > size) continue;
        if (n) out[n++] = ' ';
        memcpy(out + n, list[i].name, length + 1);
        n += length;
    }
}

void tl__ops_ref(tl_ops *ops) {
    memset(ops, 0, sizeof *ops);
    ops->isa = isa_names[ISA_REF];
    tl__ops_gemm_ref(ops);
    tl__ops_attention_ref(ops);
    tl__ops_rows_ref(ops);
    tl__ops_stored_ref(ops);
}

#if TL_HAVE_X86_KERNELS
/* Does the instruction for pairs of bf16 outrun the two multiply-adds that it stands for? On AMD's Zen 4 and 5 it does
 * twice the work of a multiply-add in its time; Intel's Sapphire and Emerald Rapids take four times as long over it,
 * and the chain by multiply-adds, the same to the bit, is twice as fast. A few microseconds tell. */
static bool dots_pay(void) {
    enum { ROUNDS = 100, TRIES = 5 };
    const tl_peak *loops = tl__peak_select(isa_names[ISA_AVX512_BF16]);
    int64_t best[2] = {INT64_MAX, INT64_MAX};
    float sink;
    for (int i = 0; i < 2 * TRIES; i++) {
        const int64_t t = tl__now_ns();
        (i % 2 ? loops->dot : loops->fma)(ROUNDS, &sink);
        const int64_t took = tl__now_ns() - t;
        if (took < best[i % 2]) best[i % 2] = took;
    }
    return best[1] < 2 * best[0]; /* a round of either has as many steps */
}
#endif

static void tables_fill(void) {
    for (int isa = 0; isa < ISAS; isa++) tl__ops_ref(&tables[isa]), tables[isa].isa = isa_names[isa];
#if TL_HAVE_X86_KERNELS
    tl__ops_gemm_avx2(&tables[ISA_AVX2]);
    tl__ops_gemm_bf16_avx2(&tables[ISA_AVX2]);
    tl__ops_attention_avx2(&tables[ISA_AVX2]);
    tl__ops_rows_avx2(&tables[ISA_AVX2]);
    tl__ops_stored_avx2(&tables[ISA_AVX2]);
    for (int isa = ISA_AVX512; isa < ISAS; isa++) {
        tl__ops_gemm_avx512(&tables[isa]);
        tl__ops_gemm_bf16_avx512(&tables[isa]);
        tl__ops_attention_avx512(&tables[isa]);
        tl__ops_rows_avx512(&tables[isa]);
        tl__ops_stored_avx512(&tables[isa]);
    }
    for (int isa = ISA_AVX512_VNNI; isa < ISAS; isa++) tl__ops_stored_avx512_vnni(&tables[isa]);
    /* Who asks for avx512_bf16 by name gets the instruction; who asks for the best, what is faster. */
    const bool dots = cpu_runs(ISA_AVX512_BF16) && dots_pay();
    tl__ops_gemm_bf16_avx512_bf16(&tables[ISA_AVX512_BF16]);
    tl__ops_gemm_bf16_amx(&tables[ISA_AMX]);
    tl__ops_stored_amx(&tables[ISA_AMX]);
#endif
    for (int isa = 0; isa < ISAS; isa++)
        if (cpu_runs(isa)) best_isa = isa;
#if TL_HAVE_X86_KERNELS
    if (best_isa == ISA_AVX512_BF16 && !dots) best_isa = ISA_AVX512_VNNI;
#endif
}

int tl__ops_select(const tl_ops **ops, const char *want, tl_error *err) {
    const char *source = "asked for";
    if (!want || !*want) want = getenv("TRILITH_ISA"), source = "TRILITH_ISA";
    pthread_once(&tables_once, tables_fill);
    const int best = best_isa;
    int chosen = best;
    if (want && !strcmp(want, "cuda")) return tl__device_ops(ops, err);
    if (want && *want) {
        chosen = -1;
        for (int isa = 0; isa < ISAS; isa++)
            if (!strcmp(want, isa_names[isa])) chosen = isa;
        if (chosen < 0)
            return tl__fail(
                err, TL_EINVALID,
                "instruction set '%.32s' (%s) is not one of ref, avx2, avx512, avx512_vnni, avx512_bf16, amx; "
                "leave it unset to get the best, '%s'",
                want, source, isa_names[best]);
        if (!cpu_runs(chosen)) {
            char has[256];
            tl__cpu_features(has, sizeof has);
            return tl__fail(err, TL_EUNSUPPORTED,
                            "instruction set '%s' (%s) cannot run here: the CPU and the operating "
                            "system offer %s; use '%s' or leave it unset",
                            isa_names[chosen], source, *has ? has : "none of AVX2, FMA, AVX-512", isa_names[best]);
        }
    }
    *ops = &tables[chosen];
    return TL_OK;
}
