/* heap_calls.h — how often the C library's heap was called, by this thread and by all: its own entry points are taken over, except under a
 * sanitizer, which has its own. For one source file of a test program. */
#ifndef TL_TESTS_HEAP_CALLS_H
#define TL_TESTS_HEAP_CALLS_H

#include <stdatomic.h>
#include <stdlib.h>

static atomic_long heap_calls __attribute__((unused));
static _Thread_local long own_heap_calls __attribute__((unused));

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && defined(__GLIBC__)
enum { COUNTS_HEAP = 1 };
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t), __libc_free(void *);
static void count_heap_call(void) {
    atomic_fetch_add_explicit(&heap_calls, 1, memory_order_relaxed);
    own_heap_calls++;
}
void *malloc(size_t n) {
    count_heap_call();
    return __libc_malloc(n);
}
void *calloc(size_t n, size_t size) {
    count_heap_call();
    return __libc_calloc(n, size);
}
void *realloc(void *p, size_t n) {
    count_heap_call();
    return __libc_realloc(p, n);
}
void free(void *p) {
    count_heap_call();
    __libc_free(p);
}
#else
enum { COUNTS_HEAP = 0 };
#endif

#endif
