/* arena.c — owns one anonymous mapping per arena and promises that its resident size never exceeds size_bytes rounded
 * up to a page, so that the sum of arenas is a true upper bound of what the planner calls RssAnon.
 *
 * Huge pages: from 4 MiB on the base lies on a 2 MiB boundary and MADV_HUGEPAGE is asked for. The end is rounded to
 * 4 KiB only: the kernel gives a huge page where one fits wholly inside the mapping and small pages for the rest, so a
 * huge page costs resident memory only inside what was asked for (an arena that is sized and then not wholly used may
 * become resident up to its size, never beyond). */
#include "base/arena.h"

#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#define PAGE_BYTES ((size_t)4096)
#define HUGE_BYTES ((size_t)2 << 20)
#define HUGE_FROM_BYTES ((size_t)4 << 20)

static void *(*shared_take)(size_t bytes);
static void (*shared_give)(void *memory);

void tl__arena_share(void *(*take)(size_t bytes), void (*give)(void *memory)) {
    shared_take = take, shared_give = give;
}

bool tl__arena_is_shared(void) {
    return shared_take != NULL;
}

tl_arena tl__arena_dry(void) {
    return (tl_arena){.dry = true};
}

tl_arena tl__arena_over(void *memory, size_t size_bytes) {
    assert((uintptr_t)memory % TL_ARENA_ALIGN_BYTES == 0);
    return (tl_arena){.base = memory, .size_bytes = size_bytes};
}

int tl__arena_open(tl_arena *arena, size_t size_bytes, tl_error *err) {
    *arena = (tl_arena){0};
    if (size_bytes > ((size_t)1 << 62))
        return tl__fail(err, TL_ENOMEM,
                        "%zu bytes of memory were asked for, more than any machine has; make the model, "
                        "batch or sequence smaller",
                        size_bytes);
    size_t length = size_bytes ? (size_bytes + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1) : PAGE_BYTES;
    if (shared_take) {
        *arena = (tl_arena){.base = shared_take(length), .size_bytes = length, .shared = true};
        if (arena->base) return 0;
        *arena = (tl_arena){0};
        return tl__fail(
            err, TL_ENOMEM,
            "the device has no %.1f MiB of memory left; make the model, batch or sequence smaller, or free some of it",
            (double)length / (1 << 20));
    }
    size_t slack = length >= HUGE_FROM_BYTES ? HUGE_BYTES : 0;
    unsigned char *base = mmap(NULL, length + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        return tl__fail(err, TL_ENOMEM,
                        "the system refused %.1f MiB of memory (%s); make the model, batch or "
                        "sequence smaller, or free memory",
                        (double)length / (1 << 20), errno == ENOMEM ? "out of memory or over a limit" : "mmap failed");
    if (slack) { /* cut the mapping down to one that starts on a 2 MiB boundary */
        size_t head = (HUGE_BYTES - (uintptr_t)base % HUGE_BYTES) % HUGE_BYTES;
        if (head) munmap(base, head);
        if (slack - head) munmap(base + head + length, slack - head);
        base += head;
        madvise(base, length, MADV_HUGEPAGE); /* only advice: without it all is right and slower */
    }
    arena->base = base, arena->size_bytes = length;
    return 0;
}

void tl__arena_close(tl_arena *arena) {
    if (arena->shared) shared_give(arena->base);
    else if (arena->base) munmap(arena->base, arena->size_bytes);
    *arena = (tl_arena){0};
}

void *tl__arena_take(tl_arena *arena, size_t count, size_t elem_bytes) {
    size_t want, end;
    bool overflow = __builtin_mul_overflow(count, elem_bytes, &want) ||
                    __builtin_add_overflow(want, (size_t)TL_ARENA_ALIGN_BYTES - 1, &want);
    want &= ~((size_t)TL_ARENA_ALIGN_BYTES - 1);
    overflow |= __builtin_add_overflow(arena->used_bytes, want, &end);
    assert(!overflow && "arena: a size overflowed");
    assert((arena->dry || end <= arena->size_bytes) && "arena: more was taken than was sized");
    void *at = arena->dry ? NULL : arena->base + arena->used_bytes;
    arena->used_bytes = end;
    return at;
}

void *tl__table_alloc(size_t size_bytes) {
    void *table;
    if (size_bytes < HUGE_BYTES) return malloc(size_bytes ? size_bytes : 1);
    if (posix_memalign(&table, HUGE_BYTES, size_bytes)) return NULL;
    madvise(table, size_bytes & ~(PAGE_BYTES - 1), MADV_HUGEPAGE);
    return table;
}
