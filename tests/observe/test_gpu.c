/* test_gpu.c — a GPU's counters, as NVML plays them (nvml_played.c): units, what is not told, errors once, a library that is missing, knows no
 * such GPU, or never answers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include "base/clock.h"
#include "observe/gpu.h"

#define PLAYED TL_BUILD_DIR "/tests/libnvidia-ml.so.1"

static tl_gpu *opened(void) {
    tl_gpu *gpu;
    tl_error err = {0};
    if (tl__gpu_open(&gpu, "0000:01:00.0", &err)) fail_msg("%s", err.text);
    return gpu;
}

static tl_gpu_sample sampled(void) {
    tl_gpu_sample s;
    tl_gpu *gpu = opened();
    tl__gpu_last(gpu, &s);
    tl__gpu_close(gpu);
    return s;
}

static const double wanted[TL_GPU_COUNTERS] = {
    [TL_GPU_POWER] = 412.345,     [TL_GPU_POWER_LIMIT] = 700,      [TL_GPU_ENERGY] = 0,
    [TL_GPU_TEMPERATURE] = 61,    [TL_GPU_SM_CLOCK] = 1755e6,      [TL_GPU_SM_CLOCK_MOST] = 1980e6,
    [TL_GPU_MEMORY_CLOCK] = 3201e6, [TL_GPU_BUSY] = 0.97,          [TL_GPU_MEMORY_BUSY] = 0.43,
    [TL_GPU_MEMORY_USED] = 40e9,  [TL_GPU_MEMORY_TOTAL] = 150754820096, [TL_GPU_ECC_CORRECTED] = 5000000007,
    [TL_GPU_ECC_UNCORRECTED] = 3, [TL_GPU_XIDS] = 0,               [TL_GPU_LAST_XID] = 0};

static void a_sample_has_every_counter_in_its_unit(void **state) {
    (void)state;
    const tl_gpu_sample s = sampled();
    for (int i = 0; i < TL_GPU_COUNTERS; i++)
        if (s.value[i] != wanted[i]) fail_msg("%s is %.9g, not %.9g", tl__gpu_counters[i].name, s.value[i], wanted[i]);
    assert_int_equal(s.reasons, 4);
    char text[1024];
    const int n = tl__gpu_print(text, sizeof text, &s);
    assert_int_equal(n, strlen(text));
    json_t *o = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    assert_int_equal(json_object_size(o), TL_GPU_COUNTERS + 1);
    for (int i = 0; i < TL_GPU_COUNTERS; i++) {
        const double x = json_number_value(json_object_get(o, tl__gpu_counters[i].name));
        if (!(fabs(x - wanted[i]) <= 0.05)) fail_msg("%s is printed as %.9g, not %.9g", tl__gpu_counters[i].name, x, wanted[i]);
    }
    const json_t *throttle = json_object_get(o, "throttle");
    assert_int_equal(json_array_size(throttle), 1);
    assert_string_equal(json_string_value(json_array_get(throttle, 0)), "sw_power_cap");
    json_decref(o);
}

/* What one function tells is all that is missing without it. */
static void what_is_not_told_is_left_out(void **state) {
    (void)state;
    static const struct {
        const char *function;
        unsigned missing; /* bits of counters */
    } without[] = {{"nvmlDeviceGetPowerUsage", 1 << TL_GPU_POWER},
                   {"nvmlDeviceGetTotalEnergyConsumption", 1 << TL_GPU_ENERGY},
                   {"nvmlDeviceGetClockInfo", 1 << TL_GPU_SM_CLOCK | 1 << TL_GPU_MEMORY_CLOCK},
                   {"nvmlDeviceGetTotalEccErrors", 1 << TL_GPU_ECC_CORRECTED | 1 << TL_GPU_ECC_UNCORRECTED},
                   {"nvmlDeviceRegisterEvents", 1 << TL_GPU_XIDS | 1 << TL_GPU_LAST_XID},
                   {"nvmlDeviceGetCurrentClocksThrottleReasons", 0}};
    for (size_t k = 0; k < sizeof without / sizeof *without; k++) {
        char text[1024];
        setenv("NVML_PLAYED_WITHOUT", without[k].function, 1);
        const tl_gpu_sample s = sampled();
        unsetenv("NVML_PLAYED_WITHOUT");
        tl__gpu_print(text, sizeof text, &s);
        json_t *o = json_loads(text, 0, NULL);
        assert_non_null(o);
        for (int i = 0; i < TL_GPU_COUNTERS; i++) {
            assert_int_equal(isnan(s.value[i]), without[k].missing >> i & 1);
            assert_int_equal(json_object_get(o, tl__gpu_counters[i].name) == NULL, without[k].missing >> i & 1);
        }
        assert_int_equal(s.reasons, without[k].missing ? 4 : -1);
        assert_int_equal(json_object_get(o, "throttle") != NULL, without[k].missing != 0);
        json_decref(o);
    }
}

/* The longest that can be printed fits in what the header promises, and is cut to what there is. */
static void a_sample_of_large_numbers_fits(void **state) {
    (void)state;
    tl_gpu_sample s = {.reasons = (1 << TL_GPU_REASONS) - 1};
    for (int i = 0; i < TL_GPU_COUNTERS; i++) s.value[i] = -1.8e19; /* 2^64 */
    char text[1024];
    const int n = tl__gpu_print(text, sizeof text, &s);
    assert_true(n < (int)sizeof text - 1 && text[n - 1] == '}');
    for (size_t size = 1; size < 200; size++) {
        memset(text, '#', sizeof text);
        assert_int_equal(tl__gpu_print(text, size, &s), size - 1);
        assert_true(text[size - 1] == 0 && text[size] == '#');
    }
}

static void the_watch_goes_on_and_counts_errors_once(void **state) {
    (void)state;
    tl_gpu_sample s;
    setenv("NVML_PLAYED_XIDS", "3", 1);
    tl_gpu *gpu = opened();
    const int64_t begin_ns = tl__now_ns();
    do {
        usleep(20000);
        tl__gpu_last(gpu, &s);
    } while (s.value[TL_GPU_ENERGY] < 4000 && tl__now_ns() - begin_ns < 60 * (int64_t)1000000000);
    assert_true(s.value[TL_GPU_ENERGY] >= 4000); /* two further samples */
    assert_true(s.value[TL_GPU_XIDS] == 3 && s.value[TL_GPU_LAST_XID] == 81);
    tl__gpu_close(gpu);
    unsetenv("NVML_PLAYED_XIDS");
}

static void what_cannot_be_watched_is_said(void **state) {
    (void)state;
    tl_gpu *gpu;
    tl_error err = {0};
    assert_int_equal(tl__gpu_open(&gpu, "0000:02:00.0", &err), TL_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "0000:02:00.0: Not Found"));
    assert_null(gpu);
    static const char *const libraries[] = {"/nowhere/libnvidia-ml.so.1", TL_BUILD_DIR "/tests/observe_test_gpu", "libm.so.6"};
    for (int i = 0; i < 3; i++) { /* missing; no library; of something else */
        err = (tl_error){0};
        setenv("TRILITH_NVML", libraries[i], 1);
        assert_int_equal(tl__gpu_open(&gpu, "0000:01:00.0", &err), TL_EUNSUPPORTED);
        if (!strstr(err.text, "NVML") || (i == 0 && !strstr(err.text, libraries[0]))) fail_msg("%s", err.text);
    }
    setenv("TRILITH_NVML", PLAYED, 1);
    const tl_ctx on_cpu = {0};
    assert_null(tl__gpu_watch(&on_cpu));
    tl__gpu_close(NULL);
}

/* A GPU that has fallen off its bus may keep NVML for ever: closing does not wait for it. The last test: the thread stays. */
static void an_answer_that_never_comes_keeps_nobody(void **state) {
    (void)state;
    tl_gpu_sample s;
    setenv("NVML_PLAYED_LATE", "nvmlDeviceGetPowerUsage", 1);
    tl_gpu *gpu = opened();
    usleep(1300000);
    tl__gpu_last(gpu, &s);
    assert_true(s.value[TL_GPU_POWER] == 412.345);
    const int64_t begin_ns = tl__now_ns();
    tl__gpu_close(gpu);
    assert_true(tl__now_ns() - begin_ns >= (int64_t)1000000000); /* it did wait, and came back */
}

int main(void) {
    setenv("TRILITH_NVML", PLAYED, 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sample_has_every_counter_in_its_unit),
        cmocka_unit_test(what_is_not_told_is_left_out),
        cmocka_unit_test(a_sample_of_large_numbers_fits),
        cmocka_unit_test(the_watch_goes_on_and_counts_errors_once),
        cmocka_unit_test(what_cannot_be_watched_is_said),
        cmocka_unit_test(an_answer_that_never_comes_keeps_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
