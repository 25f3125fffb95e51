/* pages.h — the pool of pages that keys and values lie in: which are free, which are held and by how many, which are
 * kept although nobody holds them.
 *
 * It counts; the numbers themselves lie in each layer's tl_kv, a page being a block of TL_KV_BLOCK positions there. All
 * is placed once; no call here takes memory. */
#ifndef TL_INFER_PAGES_H
#define TL_INFER_PAGES_H

#include "base/arena.h"
#include "kernels/ops.h"

typedef struct tl_pages {
    int n;
    int free, used, cached; /* together n */
    int32_t *holders;       /* [n] sequences that hold a page */
    bool *kept;             /* [n] a page without a holder stays as it is, until it is given up */
    int32_t *next, *before; /* [n] among the free ones (next alone), or among the cached ones; −1: none */
    int32_t first_free;
    int32_t oldest, newest; /* of the cached ones, by when their last holder let go */
} tl_pages;

void tl__pages_place(tl_pages *pages, tl_arena *arena, int n);
/* A page that was free, held once; −1: none is free. */
int32_t tl__pages_take(tl_pages *pages);
void tl__pages_hold(tl_pages *pages, int32_t page);
/* One holder less. Without holders a page is cached if it is kept, else free. */
void tl__pages_drop(tl_pages *pages, int32_t page);
/* A held page is to stay when it is dropped. */
void tl__pages_keep(tl_pages *pages, int32_t page);
/* The cached page whose last holder let go first becomes free; −1: there is none. */
int32_t tl__pages_give_up(tl_pages *pages);
/* Whether the counts are those of the lists: for tests and asserts, n steps. */
bool tl__pages_sound(const tl_pages *pages);

#endif
