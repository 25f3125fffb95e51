/* cut.h — how operators over rows and elements are cut into tasks: by shape alone, into pieces of about 64 KiB an
 * operand, large against waking a thread and small against a core's L2. */
#ifndef TL_KERNELS_CPU_CUT_H
#define TL_KERNELS_CPU_CUT_H

#include <stdint.h>
#include "kernels/table.h"

#define TL_PIECE 16384 /* elements of a task; a multiple of 4096 */

static inline int64_t tl_pieces(int64_t n, int64_t piece) {
    return (n + piece - 1) / piece;
}
static inline int64_t tl_least(int64_t a, int64_t b) {
    return a < b ? a : b;
}
/* Rows of C elements in a task. */
static inline int64_t tl_piece_rows(int64_t C) {
    return C < TL_PIECE ? TL_PIECE / (C < 1 ? 1 : C) : 1;
}

#endif
