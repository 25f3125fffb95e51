/* test_cuda_emulated.cc — the played device itself: it runs what is right, and ends the program, saying which kernel
 * and why, where a device would hang, or read what it has not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
extern "C" {
#include <cmocka.h>
}
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
#include "kernels/cuda_emulated.h"

/* out[i] = the sum of the block's numbers before and at i, through block memory. */
__global__ void sums_up_to(int *out, const int *x) {
    TL_BLOCK_MEMORY(int, at);
    const int i = (int)threadIdx.x;
    at[i] = x[i];
    for (int step = 1; step < (int)blockDim.x; step *= 2) {
        __syncthreads();
        const int before = i >= step ? at[i - step] : 0;
        __syncthreads();
        at[i] += before;
    }
    out[i] = at[i];
}
/* Lane i takes that of lane 31 − i, and all the lowest bits of all. */
__global__ void turned(int *out, unsigned *bits) {
    const int i = (int)threadIdx.x;
    out[i] = __shfl_sync(0xffffffffu, 3 * i, 31 - i);
    bits[i] = __ballot_sync(0xffffffffu, i & 1);
}

static void test_it_computes(void **state) {
    enum { N = 100 };
    static int x[N], out[N], sum;
    static unsigned bits[32];
    for (int i = 0; i < N; i++) x[i] = i * i - 7;
    for (int again = 0; again < 12; again++) { /* every order of threads */
        TL_LAUNCH(sums_up_to, 1, N, sizeof x, out, x);
        sum = 0;
        for (int i = 0; i < N; i++) assert_int_equal(out[i], sum += x[i]);
        TL_LAUNCH(turned, 1, 32, 0, out, bits);
        for (int i = 0; i < 32; i++) assert_true(out[i] == 3 * (31 - i) && bits[i] == 0xaaaaaaaau);
    }
}

__global__ void misses_a_barrier(int *out) {
    if (threadIdx.x != 3) __syncthreads();
    out[threadIdx.x] = 1;
}
__global__ void at_two_barriers(int *out) {
    if (threadIdx.x < 32) __syncwarp();
    else __syncthreads();
    __syncthreads();
    out[threadIdx.x] = 1;
}
__global__ void misses_an_exchange(int *out) {
    if (threadIdx.x != 5) out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1, 1);
}
__global__ void harmless(int *out) {
    out[threadIdx.x] = 1;
}

static int numbers[1024], *const memory = numbers;
static void (*const wrongs[])(void) = {
    [] { TL_LAUNCH(misses_a_barrier, 1, 64, 0, memory); },
    [] { TL_LAUNCH(at_two_barriers, 1, 64, 0, memory); },
    [] { TL_LAUNCH(misses_an_exchange, 1, 64, 0, memory); },
    [] { TL_LAUNCH(harmless, 1, 64, (227 << 10) + 1, memory); },
    [] { TL_LAUNCH(harmless, 1, 1025, 0, memory); },
    [] { TL_LAUNCH(harmless, 0, 64, 0, memory); },
    [] { TL_LAUNCH(harmless, dim3(1, 65536), 64, 0, memory); },
    [] {
        setenv("TRILITH_CUDA_STRICT", "1", 1);
        TL_LAUNCH(harmless, 1, 64, 0, memory);
    },
    [] { TL_LAUNCH(harmless, 1, 1024, 227 << 10, memory); }, /* right */
};
static const char *const whys[] = {
    "kernel misses_a_barrier, block 0 0 0: threads wait for others",
    "kernel at_two_barriers, block 0 0 0: threads wait for others",
    "kernel misses_an_exchange, block 0 0 0: threads wait for others",
    "a block has at most 227 KiB of memory",
    "a block has 1 to 1024 threads",
    "a grid has 1 to 2^31 - 1 by",
    "a grid has 1 to 2^31 - 1 by",
    "a kernel was given memory that is not the device's",
    NULL,
};

static void test_it_refuses(void **state) {
    for (size_t i = 0; i < sizeof wrongs / sizeof *wrongs; i++) {
        int both[2], status;
        char said[512];
        assert_int_equal(pipe(both), 0);
        const pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            signal(SIGABRT, SIG_DFL);
            dup2(both[1], STDERR_FILENO);
            wrongs[i]();
            _exit(0);
        }
        close(both[1]);
        const ssize_t n = read(both[0], said, sizeof said - 1); /* one write of a few words, or the end */
        said[n > 0 ? n : 0] = 0;
        close(both[0]);
        assert_true(waitpid(child, &status, 0) == child);
        if (!whys[i] && (!WIFEXITED(status) || WEXITSTATUS(status))) fail_msg("%d is right, but: %s", (int)i, said);
        if (whys[i] && (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT || !strstr(said, whys[i])))
            fail_msg("%d went on, or said '%s', not '%s'", (int)i, said, whys[i]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_it_refuses), /* first: whether it is strict is asked for at the first launch */
        cmocka_unit_test(test_it_computes),
    };
    return cmocka_run_group_tests_name("cuda_emulated", tests, NULL, NULL);
}
