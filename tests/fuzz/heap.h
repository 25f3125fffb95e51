/* heap.h — the largest piece of heap that an input led to, and what the whole came to at its height: what a fuzzer holds a
 * parser to. The sanitizer's hooks see every malloc; PCRE2's code and mapped files are no heap. */
#ifndef TESTS_FUZZ_HEAP_H
#define TESTS_FUZZ_HEAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sanitizer/allocator_interface.h>

static size_t heap_largest;
static bool heap_watched;

static void heap_saw(const volatile void *p, size_t n) {
    (void)p;
    if (heap_watched && n > heap_largest) heap_largest = n;
}

static void heap_lost(const volatile void *p) {
    (void)p;
}

static inline void heap_watch(void) {
    static bool installed;
    if (!installed && !__sanitizer_install_malloc_and_free_hooks(heap_saw, heap_lost)) abort();
    installed = true;
    heap_largest = 0, heap_watched = true;
}

/* Since heap_watch no piece was larger than `usual` and `times` the input's bytes together. */
static inline void heap_check(size_t usual, size_t times, size_t input) {
    static size_t most;
    heap_watched = false;
    if (getenv("TRILITH_FUZZ_SHOW") && heap_largest > usual && (heap_largest - usual) / (input + 1) >= most) {
        most = (heap_largest - usual) / (input + 1) + 1;
        fprintf(stderr, "heap: %zu bytes at once for an input of %zu\n", heap_largest, input);
    }
    if (heap_largest <= usual + times * input) return;
    fprintf(stderr, "%zu bytes of heap were taken at once for an input of %zu bytes; %zu and %zu times the input are the most\n",
            heap_largest, input, usual, times);
    abort();
}

#endif
