/* cuda_emulated.h — a CUDA device played by one thread, so that kernels are compiled by a C++ compiler, run where there
 * is no GPU, and are compared with ref to the bit like any other instruction set.
 *
 * Blocks run one after the other; a block's threads are run on fibers and change places where they wait: at
 * __syncthreads, or at a warp's exchange, which all 32 lanes must reach. A thread that never waits costs no fiber of its own. Blocks and
 * threads begin in an order that is another for every launch, so that a barrier that is missing shows as a wrong result. What would hang
 * or be undefined on a device ends the program and says which kernel: threads of a block at different barriers, a lane missing from an
 * exchange, too much memory for a block.
 *
 * Not played: atomics, streams, textures, tensor cores: the operators here use none. */
#ifndef TL_TESTS_CUDA_EMULATED_H
#define TL_TESTS_CUDA_EMULATED_H

#include <functional>
#include <initializer_list>
#include <math.h>
#include <mutex>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <vector>

#define __global__ static
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ static
#define __constant__ static
#define __managed__

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }

namespace emulated {

enum { WARP = 32, MOST_THREADS = 1024, MOST_BLOCK_BYTES = 227 << 10, STACK_BYTES = 256 << 10 };

/* Where threads wait for one another: a block, or a warp. */
struct meeting {
    int expected, come;
    unsigned generation;
    const char *what;
};

struct thread {
    dim3 index;
    int number;
    bool ended;
    meeting *at; /* where it waits; NULL: it does not */
    unsigned generation;
};

struct fiber {
    void *stack; /* its top, while another runs */
    thread *runs;
};

struct device {
    dim3 grid, block, block_index;
    const char *kernel;
    const std::function<void()> *body;
    thread threads[MOST_THREADS];
    int count, begun, ended;
    unsigned order; /* odd multiplier of the order in which threads begin */
    meeting whole, warp[MOST_THREADS / WARP];
    uint64_t slot[MOST_THREADS / WARP][2][WARP];
    std::vector<fiber *> fibers, idle;
    void *scheduler; /* the top of its stack, while a fiber runs */
    fiber *now;
    unsigned launches;
    alignas(256) unsigned char memory[MOST_BLOCK_BYTES];
};

/* One for all files that a module is made of. */
inline device &the_device() {
    static device *const d = [] {
        device *fresh = new device();
        const char *first = getenv("TRILITH_CUDA_ORDER"); /* of ten orders that launches have in turn */
        fresh->launches = first ? (unsigned)atoi(first) : 0;
        return fresh;
    }();
    return *d;
}

[[noreturn]] static inline void refuse(const char *what) {
    device &d = the_device();
    fprintf(stderr, "emulated device, kernel %s, block %u %u %u: %s\n", d.kernel, d.block_index.x, d.block_index.y, d.block_index.z, what);
    abort();
}

static inline thread *current() { return the_device().now->runs; }

/* Goes on on another stack, and here when something goes on on this one: what a function must keep is pushed, what it need not is no one's.
 * (ucontext's enters the kernel each time.) noipa: a caller may not count on what this touches. */
__attribute__((naked, noipa)) static void change(void **from, void *to) {
    __asm__("push %rbp\n\tpush %rbx\n\tpush %r12\n\tpush %r13\n\tpush %r14\n\tpush %r15\n\t"
            "mov %rsp, (%rdi)\n\tmov %rsi, %rsp\n\t"
            "pop %r15\n\tpop %r14\n\tpop %r13\n\tpop %r12\n\tpop %rbx\n\tpop %rbp\n\tret");
}

/* All who are expected have come: the next meeting may begin. */
static inline bool arrive(meeting *m) {
    if (++m->come < m->expected) return false;
    m->come = 0, m->generation++;
    return true;
}

static inline void wait_at(meeting *m) {
    device &d = the_device();
    thread *t = current();
    const unsigned generation = m->generation;
    if (arrive(m)) return;
    t->at = m, t->generation = generation;
    change(&d.now->stack, d.scheduler);
    t->at = NULL;
}

static inline void run_threads() {
    device &d = the_device();
    for (;;) {
        while (d.begun < d.count) {
            thread *t = &d.threads[(unsigned)d.begun++ * d.order % (unsigned)d.count];
            d.now->runs = t;
            (*d.body)();
            t->ended = true, d.ended++;
        }
        d.now->runs = NULL;
        d.idle.push_back(d.now);
        change(&d.now->stack, d.scheduler);
    }
}

static inline fiber *take_fiber() {
    device &d = the_device();
    if (d.idle.empty()) {
        fiber *f = new fiber();
        void *stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (stack == MAP_FAILED) refuse("no memory for a thread's stack");
        void **top = (void **)((char *)stack + STACK_BYTES) - 8; /* six registers, where to begin, and no one to return to */
        top[6] = (void *)run_threads;
        f->stack = top;
        d.fibers.push_back(f), d.idle.push_back(f);
    }
    fiber *f = d.idle.back();
    d.idle.pop_back();
    return f;
}

static inline void go_on_with(fiber *f) {
    device &d = the_device();
    d.now = f;
    change(&d.scheduler, f->stack);
    d.now = NULL;
}

static inline void run_block() {
    device &d = the_device();
    d.begun = d.ended = 0;
    for (int i = 0; i < d.count; i++) {
        const unsigned n = (unsigned)i;
        d.threads[i] = thread{dim3(n % d.block.x, n / d.block.x % d.block.y, n / d.block.x / d.block.y), i, false, NULL, 0};
    }
    d.whole = meeting{d.count, 0, 0, "__syncthreads"};
    for (int w = 0; w * WARP < d.count; w++)
        d.warp[w] = meeting{d.count - w * WARP < WARP ? d.count - w * WARP : WARP, 0, 0, "a warp's exchange"};
    while (d.ended < d.count) {
        bool moved = false;
        if (d.begun < d.count) go_on_with(take_fiber()), moved = true;
        for (size_t i = 0; i < d.fibers.size(); i++) {
            thread *t = d.fibers[i]->runs;
            if (!t || !t->at || t->at->generation == t->generation) continue;
            go_on_with(d.fibers[i]), moved = true;
        }
        if (!moved) refuse("threads wait for others that have ended or wait elsewhere");
    }
}

/* Memory that a device would see. With TRILITH_CUDA_STRICT kernels are given no other, as one that does not see the heap would have it. */
struct piece {
    const unsigned char *begin;
    size_t bytes;
};
inline std::vector<piece> &pieces() {
    static std::vector<piece> *all = new std::vector<piece>();
    return *all;
}
static inline void check_memory(const void *at) {
    static const bool strict = getenv("TRILITH_CUDA_STRICT") != NULL;
    if (!strict || !at) return;
    for (const piece &p : pieces())
        if ((const unsigned char *)at >= p.begin && (const unsigned char *)at < p.begin + p.bytes) return;
    refuse("a kernel was given memory that is not the device's");
}
template <class T> static inline void check_argument(const T &) {}
template <class T> static inline void check_argument(T *const &at) { check_memory(at); }
template <class... T> static inline void check_arguments(const char *kernel, const T &...argument) {
    the_device().kernel = kernel;
    (check_argument(argument), ...);
}

template <class F> static inline void launch(const char *kernel, dim3 grid, dim3 block, size_t bytes, F body) {
    static std::mutex *one_at_a_time = new std::mutex(); /* whichever thread launches */
    const std::lock_guard<std::mutex> lock(*one_at_a_time);
    device &d = the_device();
    d.kernel = kernel, d.grid = grid, d.block = block, d.block_index = dim3(0, 0, 0);
    const uint64_t count = (uint64_t)block.x * block.y * block.z, blocks = (uint64_t)grid.x * grid.y * grid.z;
    if (count == 0 || count > MOST_THREADS) refuse("a block has 1 to 1024 threads");
    if (blocks == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) refuse("a grid has 1 to 2^31 - 1 by 65,535 by 65,535 blocks");
    if (bytes > MOST_BLOCK_BYTES) refuse("a block has at most 227 KiB of memory");
    d.count = (int)count;
    const std::function<void()> f = body;
    d.body = &f;
    static const unsigned orders[] = {1, 31, 5, 127, 17};
    d.order = orders[d.launches % 5];
    while (d.count > 1 && d.count % d.order == 0 && d.order > 1) d.order += 2;
    const bool backward = d.launches++ % 2;
    for (uint64_t i = 0; i < blocks; i++) {
        const uint64_t b = backward ? blocks - 1 - i : i;
        d.block_index = dim3((unsigned)(b % grid.x), (unsigned)(b / grid.x % grid.y), (unsigned)(b / grid.x / grid.y));
        memset(d.memory, 0xff, bytes); /* no numbers */
        run_block();
    }
#ifdef __AVX__
    __builtin_ia32_vzeroupper(); /* threads that changed places left registers' upper halves: code without AVX would be slow on them */
#endif
}

/* A lane's value to another lane; `from` says whose each takes. */
template <class T> static inline T exchange(T value, int from, int width) {
    static_assert(sizeof(T) <= 8, "a register or two");
    device &d = the_device();
    thread *t = current();
    const int w = t->number / WARP, lane = t->number % WARP;
    meeting *m = &d.warp[w];
    uint64_t *slots = d.slot[w][m->generation & 1];
    memcpy(&slots[lane], &value, sizeof value);
    wait_at(m);
    if (from / width != lane / width || from < 0) return value; /* outside its part of the warp: its own */
    T got;
    memcpy(&got, &slots[from], sizeof got);
    return got;
}

static inline int lane() { return current()->number % WARP; }

} // namespace emulated

#define threadIdx (emulated::current()->index)
#define blockIdx (emulated::the_device().block_index)
#define blockDim (emulated::the_device().block)
#define gridDim (emulated::the_device().grid)
#define warpSize 32

static inline void __syncthreads() { emulated::wait_at(&emulated::the_device().whole); }
static inline void __syncwarp(unsigned mask = 0xffffffffu) {
    emulated::wait_at(&emulated::the_device().warp[emulated::current()->number / emulated::WARP]);
}
/* Masks name the whole warp, always. */
template <class T> static inline T __shfl_sync(unsigned mask, T x, int from, int width = 32) {
    const int lane = emulated::lane();
    return emulated::exchange(x, lane / width * width + from % width, width);
}
template <class T> static inline T __shfl_xor_sync(unsigned mask, T x, int bits, int width = 32) {
    return emulated::exchange(x, emulated::lane() ^ bits, width);
}
template <class T> static inline T __shfl_down_sync(unsigned mask, T x, unsigned by, int width = 32) {
    return emulated::exchange(x, emulated::lane() + (int)by, width);
}
template <class T> static inline T __shfl_up_sync(unsigned mask, T x, unsigned by, int width = 32) {
    return emulated::exchange(x, emulated::lane() - (int)by, width);
}
static inline unsigned __ballot_sync(unsigned mask, int set) {
    unsigned all = 0;
    for (int i = 0; i < 32; i++) all |= (unsigned)(emulated::exchange(set, i, 32) != 0) << i;
    return all;
}
static inline int __any_sync(unsigned mask, int set) { return __ballot_sync(mask, set) != 0; }
static inline int __all_sync(unsigned mask, int set) { return __ballot_sync(mask, set) == 0xffffffffu; }

template <class T> static inline T __ldg(const T *p) { return *p; }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __float_as_int(float x) { int i; memcpy(&i, &x, 4); return i; }
static inline unsigned __float_as_uint(float x) { unsigned i; memcpy(&i, &x, 4); return i; }
static inline float __int_as_float(int i) { float x; memcpy(&x, &i, 4); return x; }
static inline float __uint_as_float(unsigned i) { float x; memcpy(&x, &i, 4); return x; }
/* Bytes of y:x by the low three bits of each nibble. */
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned pick) {
    const uint64_t bytes = (uint64_t)y << 32 | x;
    unsigned picked = 0;
    for (int i = 0; i < 4; i++) picked |= (unsigned)(bytes >> 8 * (pick >> 4 * i & 7) & 255) << 8 * i;
    return picked;
}
/* Four products of signed bytes, added to c. */
static inline int __dp4a(int a, int b, int c) {
    for (int i = 0; i < 4; i++) c += (int)(int8_t)(a >> 8 * i) * (int)(int8_t)(b >> 8 * i);
    return c;
}
template <class T> static inline T min(T a, T b) { return a < b ? a : b; }
template <class T> static inline T max(T a, T b) { return a > b ? a : b; }

#define TL_LAUNCH(kernel, grid, block, bytes, ...)                                                                     \
    do {                                                                                                               \
        emulated::check_arguments(#kernel, __VA_ARGS__);                                                               \
        emulated::launch(#kernel, (grid), (block), (bytes), [=] { (kernel)(__VA_ARGS__); });                           \
    } while (0)
#define TL_BLOCK_MEMORY(type, name) type *name = (type *)emulated::the_device().memory

#endif
