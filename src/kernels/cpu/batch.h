/* cpu/batch.h — products that are done together: their tasks follow one another in one loop.
 *
 * The includer defines, before this file: job (with c, ldc, bias, accumulate and K), rows_of(j) and columns_of(j) of its C,
 * tasks_of(j), which cuts it and counts its tasks, and do_task(j, index, worker). */
#ifndef TL_KERNELS_CPU_BATCH_H
#define TL_KERNELS_CPU_BATCH_H

#include "kernels/table.h"

typedef struct batch {
    job j[TL_MAX_PRODUCTS];
    int64_t first[TL_MAX_PRODUCTS + 1]; /* task of each */
    int n;
} batch;

/* K = 0: +0 or C, plus the bias. */
static void product_empty(const job *j) {
    for (int m = 0; m < rows_of(j); m++)
        for (int n = 0; n < columns_of(j); n++) {
            const float x = j->accumulate ? j->c[m * j->ldc + n] : 0;
            j->c[m * j->ldc + n] = j->bias ? x + j->bias[n] : x;
        }
}

static void batch_task(void *user, int64_t index, int worker) {
    const batch *b = user;
    int i = 0;
    while (index >= b->first[i + 1]) i++;
    do_task(&b->j[i], index - b->first[i], worker);
}

static void batch_add(batch *b, const job *j) {
    if (!rows_of(j) || !columns_of(j)) return;
    if (!j->K) {
        product_empty(j);
        return;
    }
    b->j[b->n] = *j;
    b->first[b->n + 1] = b->first[b->n] + tasks_of(&b->j[b->n]);
    b->n++;
}

#endif
