/* shard.c — who owns which parameter. */
#include "plan/shard.h"

#include <assert.h>

const char *tl__shard_kind_name(tl_shard shard) {
    static const char *const names[TL_SHARDS] = {"none", "zero1", "zero2", "zero3"};
    assert((unsigned)shard < TL_SHARDS);
    return names[shard];
}

/* The end of the unit that begins at parameter i: before its second matrix. */
static int unit_end(const tl_params *params, int i, int end) {
    for (int matrices = 0; i < end; i++)
        if (params->list[i].dims == 2 && ++matrices == 2) break;
    return i;
}

static int64_t elements(const tl_params *params, int first, int end) {
    int64_t n = 0;
    for (int i = first; i < end; i++) n += params->list[i].count;
    return n;
}

static int least_loaded(const int64_t *load, int ranks) {
    int best = 0;
    for (int r = 1; r < ranks; r++)
        if (load[r] < load[best]) best = r;
    return best;
}

static void deal_block(int *owner, int64_t *load, const tl_params *params, int first, int end, int ranks) {
    for (;;) {
        int unit = -1;
        int64_t most = -1;
        for (int i = first; i < end; i = unit_end(params, i, end)) {
            int64_t n = elements(params, i, unit_end(params, i, end));
            if (owner[i] < 0 && n > most) unit = i, most = n;
        }
        if (unit < 0) return;
        int rank = least_loaded(load, ranks), stop = unit_end(params, unit, end);
        for (int i = unit; i < stop; i++) owner[i] = rank;
        load[rank] += most;
    }
}

void tl__shard_owners(int *owner, const tl_params *params, int L, int ranks) {
    int64_t load[TL_MAX_RANKS] = {0};
    int first, end;
    assert(ranks >= 1 && ranks <= TL_MAX_RANKS);
    for (int i = 0; i < params->n; i++) owner[i] = -1;
    for (int b = 0; b < L + 2; b++) { /* 0, L + 1, 1, 2 … L */
        tl__param_block(&first, &end, params, L, b == 0 ? 0 : b == 1 ? L + 1 : b - 1);
        deal_block(owner, load, params, first, end, ranks);
    }
}
