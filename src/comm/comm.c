/* comm.c — what holds for every communicator: which one a process gets, and which leaves of the gradient's tree are a
 * rank's. */
#include "comm/comm.h"

#include <assert.h>

int tl__comm_open(tl_comm **comm, tl_error *err) {
    return tl__comm_open_self(comm, err);
}

void tl__comm_leaves(int leaves, int size, int rank, int *first, int *count) {
    assert(leaves > 0 && (leaves & (leaves - 1)) == 0);
    assert(size >= 1 && size <= leaves && rank >= 0 && rank < size);
    int whole = 1; /* subtrees of the first cut */
    while (2 * whole <= size) whole *= 2;
    int n = leaves / whole, uncut = 2 * whole - size;
    *count = rank < uncut ? n : n / 2;
    *first = rank < uncut ? rank * n : uncut * n + (rank - uncut) * (n / 2);
}

int64_t tl__comm_reserve_bytes(int size, int64_t most_bytes, int pending) {
    return size > 1 ? most_bytes * pending : 0;
}
