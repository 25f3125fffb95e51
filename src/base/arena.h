/* arena.h — memory that is taken once, before work starts, and handed out by bumping a pointer.
 *
 * Stepping never calls the heap (law L4): what a step needs was placed in an arena sized by the same function that told
 * the user how much memory the run would take. Pages come from mmap, zeroed, with huge pages asked for. */
#ifndef TL_BASE_ARENA_H
#define TL_BASE_ARENA_H

#include <stdbool.h>
#include "base/error.h"

typedef struct tl_arena {
    unsigned char *base;
    size_t size_bytes, used_bytes;
    bool dry;    /* base is NULL: only adds up what would be taken. Alloc returns NULL. */
    bool shared; /* with a device */
} tl_arena;

#define TL_ARENA_ALIGN_BYTES 64

/* A dry arena: run the same placing code over it to learn used_bytes. */
tl_arena tl__arena_dry(void);
int tl__arena_open(tl_arena *arena, size_t size_bytes, tl_error *err);
/* From now on arenas are of memory that a device shares with the CPU: take gives zeroed bytes, aligned to 64, or NULL. What
 * operators read and write lies in arenas alone. Once in a process, before any that is to be shared is opened. */
void tl__arena_share(void *(*take)(size_t bytes), void (*give)(void *memory));
bool tl__arena_is_shared(void); /* whether arenas are */
void tl__arena_close(tl_arena *arena);
/* Over memory of the caller's, aligned to 64 bytes: it is not closed, and what is taken is as zero as it was. */
tl_arena tl__arena_over(void *memory, size_t size_bytes);
/* Aligned to 64 bytes, zero. Never fails: asking for more than was sized is our own bug and asserts. Sizes are checked
 * for overflow (count*elem_bytes). */
void *tl__arena_take(tl_arena *arena, size_t count, size_t elem_bytes);
#define TL_TAKE(arena, type, count) ((type *)tl__arena_take((arena), (size_t)(count), sizeof(type)))

/* Memory for a large table, in huge pages where they fit, since a fault for every 4 KiB may cost more than what fills
 * them. realloc() and free() as any other; NULL: there is none. */
void *tl__table_alloc(size_t size_bytes);

#endif
