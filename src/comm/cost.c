/* cost.c — owns how a collective is cut, and what follows from it: bytes. */
#include "comm/cost.h"

#include <assert.h>

#include "comm/many.h"

int64_t tl__comm_element_bytes(int kind) {
    return kind == TL_COLLECTIVE_SUM_F64 ? 8 : kind == TL_COLLECTIVE_SUM || kind == TL_COLLECTIVE_REDUCE ? 4 : 1;
}

int64_t tl__comm_slice_bytes(int size) {
    int64_t s = (8 << 20) / size;
    return s > 1 << 20 ? 1 << 20 : s < 1 << 16 ? 1 << 16 : s & ~(int64_t)4095;
}

int64_t tl__comm_piece(int kind, int size) {
    return tl__comm_slice_bytes(size) / tl__comm_element_bytes(kind) * (kind == TL_COLLECTIVE_GATHER ? 1 : size);
}

int64_t tl__comm_cut(int64_t n, int size, int r) {
    return r == size ? n : n / 16 * r / size * 16;
}

/* Of one piece of n elements, as begin_sum, begin_broadcast and begin_gather of progress.c post it. */
static tl_comm_cost piece_cost(tl_collective kind, int64_t n, int size, int rank, int root) {
    double e = (double)tl__comm_element_bytes(kind), all = (double)n * e, others = size - 1;
    double mine = (double)(tl__comm_cut(n, size, rank + 1) - tl__comm_cut(n, size, rank)) * e;
    switch (kind) {
    case TL_COLLECTIVE_SUM:
    case TL_COLLECTIVE_SUM_F64: /* everybody's slices to who adds them; sums to all */
        return (tl_comm_cost){all - mine + others * mine, others * mine + all - mine};
    case TL_COLLECTIVE_REDUCE:
        return (tl_comm_cost){all - mine + (rank == root ? 0 : mine), others * mine + (rank == root ? all - mine : 0)};
    case TL_COLLECTIVE_BROADCAST:
        if (size == 2 || n <= TL_COMM_FLAT_BYTES)
            return rank == root ? (tl_comm_cost){others * all, 0} : (tl_comm_cost){0, all};
        if (rank == root) return (tl_comm_cost){all - mine + others * mine, 0};
        return (tl_comm_cost){(others - 1) * mine, all};
    case TL_COLLECTIVE_GATHER:
        return (tl_comm_cost){others * all, others * all};
    }
    return (tl_comm_cost){0};
}

tl_comm_cost tl__comm_cost(tl_collective kind, int64_t n, int size, int rank, int root) {
    assert(n >= 0 && rank >= 0 && rank < size && root >= 0 && root < size);
    if (size < 2) return (tl_comm_cost){0};
    double word = (double)sizeof(say), bytes = (double)(n * tl__comm_element_bytes(kind)), others = size - 1;
    bool small = bytes <= TL_COMM_SMALL_BYTES, spreads = kind == TL_COLLECTIVE_BROADCAST;
    tl_comm_cost cost = {others * word, others * word};
    if (small) { /* the data of everybody, or of root alone */
        if (!spreads || rank == root) cost.sent_bytes += others * bytes;
        if (!spreads) cost.received_bytes += others * bytes;
        else if (rank != root) cost.received_bytes += bytes;
        return cost;
    }
    int64_t piece = tl__comm_piece(kind, size), whole = n / piece, rest = n % piece;
    tl_comm_cost one = piece_cost(kind, piece, size, rank, root), last = piece_cost(kind, rest, size, rank, root);
    cost.sent_bytes += (double)whole * one.sent_bytes + last.sent_bytes;
    cost.received_bytes += (double)whole * one.received_bytes + last.received_bytes;
    return cost;
}
