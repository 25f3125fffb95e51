/* test_machine.c — the description is sane, both peaks are measured whatever the thread count and budget, the loops do
 * the FLOPs they say. How fast they are is printed, never asserted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>
#include "kernels/peak.h"
#include "observe/machine.h"

static void rss_follows_what_is_touched(void **state) {
    (void)state;
    const int64_t size = 32 << 20;
    int64_t before = tl__rss_anon_bytes();
    assert_true(before > 0);
    char *p = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(p != MAP_FAILED);
    memset(p, 1, (size_t)size);
    int64_t grown = tl__rss_anon_bytes() - before;
    munmap(p, (size_t)size);
    /* Other pages of this process come and go, 1 MiB of them, and Linux counts a process's pages in batches of 32, or
     * of two for each CPU if that is more, on each CPU (lib/percpu_counter.c). */
    int64_t cpus = sysconf(_SC_NPROCESSORS_CONF), batch = 2 * cpus > 32 ? 2 * cpus : 32;
    assert_true(llabs((long long)(grown - size)) < (1 << 20) + cpus * batch * sysconf(_SC_PAGESIZE));
}

static void a_machine_is_described_and_measured(void **state) {
    (void)state;
    for (int threads = 1; threads <= 3; threads++) {
        tl_pool *pool;
        assert_int_equal(tl__pool_open(&pool, threads, NULL), 0);
        tl_ctx ctx = {.pool = pool};
        tl_machine m;
        tl__machine_describe(&m, &ctx);
        assert_true(m.cpu[0] && m.isa[0]);
        assert_int_equal(m.threads, threads);
        assert_true(m.memory_bytes > 64 << 20 && m.memory_bytes <= tl__memory_total_bytes());
        assert_true(m.f32_flops == 0 && m.read_bytes_per_second == 0);
        assert_non_null(tl__peak_select(m.isa));
        tl__machine_measure(&m, &ctx, threads == 1 ? 0 : 0.02);
        assert_true(m.f32_flops > 1e6 && m.read_bytes_per_second > 1e6);
        json_t *o = tl__machine_json(&m);
        assert_true(json_real_value(json_object_get(o, "f32_flops")) == m.f32_flops);
        assert_true(json_is_null(json_object_get(o, "bf16_flops"))); /* an f32 run does not wait for it */
        json_decref(o);
        ctx.contract = TL_CONTRACT_BF16;
        tl__machine_measure(&m, &ctx, threads == 1 ? 0 : 0.02);
        assert_true(m.bf16_flops > 1e6 && tl__machine_peak(&m, TL_CONTRACT_BF16) == m.bf16_flops);
        assert_true(tl__peak_select(m.isa)->dot || m.bf16_flops == m.f32_flops);
        tl__machine_measure_int8(&m, &ctx, 0.01);
        assert_true((m.int8_ops > 1e6) == (tl__peak_select(m.isa)->int8 != NULL));
        printf("bf16 %.0f GFLOP/s, ", m.bf16_flops / 1e9);
        printf("%s, %d threads, %s: %.0f GFLOP/s, %.1f GB/s\n", m.cpu, threads, m.isa, m.f32_flops / 1e9,
               m.read_bytes_per_second / 1e9);
        tl__pool_close(pool);
    }
}

static void loops_do_what_they_say(void **state) {
    (void)state;
    static _Alignas(64) uint64_t words[1024];
    const char *all[] = {"ref", "avx2", "avx512", "avx512_vnni", "avx512_bf16", "amx"};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const tl_ops *ops;
        if (tl__ops_select(&ops, all[i], NULL) != 0) continue; /* not on this CPU */
        const tl_peak *p = tl__peak_select(all[i]);
        assert_non_null(p);
        float x = 0;
        assert_true(p->fma(200, &x) == 200 * p->fma(1, &x));
        (void)p->fma(200, &x);
        /* Every chain has converged to 1. The AVX forms add 12 of them as 1 + 11·(1·0.5) in two lanes; ref adds 8. */
        assert_true(x == (i == 0 ? 8.0f : 13.0f));
        if (p->dot) {
            assert_true(p->dot(200, &x) == 200 * p->dot(1, &x));
            const bool tiles = strcmp(all[i], "amx") == 0; /* whose sums nobody reads */
            assert_true(x == (tiles ? 0 : 144.0f)); /* 0.5 … 11.5, untouched, in two lanes */
        }
        assert_true((p->int8 != NULL) == (i > 0));
        if (p->int8) assert_true(p->int8(200, &x) == 200 * p->int8(1, &x) && p->int8(1, &x) > 0);
        memset(words, 0, sizeof words);
        uint64_t before, after;
        p->read(words, sizeof words, &before);
        /* Lane 0 is what the sink shows; word 0 is in it and every word of its residue class too: flip one far in. */
        words[1024 - 64] ^= 0x5a5a;
        p->read(words, sizeof words, &after);
        assert_true(before == 0 && after == 0x5a5a);
    }
    assert_null(tl__peak_select("sse9"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rss_follows_what_is_touched),
        cmocka_unit_test(a_machine_is_described_and_measured),
        cmocka_unit_test(loops_do_what_they_say),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
