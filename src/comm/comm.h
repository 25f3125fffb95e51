/* comm.h — groups of ranks and what they exchange. The training step calls it even when it is alone ("self").
 *
 * Non-blocking: start returns a ticket, wait completes it; until then the buffer belongs to the communicator. All ranks start the
 * same collectives in the same order with the same arguments; each carries a sequence number, the same on all ranks, for messages
 * that say who is missing, who is late and whose arguments differ. Calls come from one thread; abort from any.
 *
 * Sums are never the library's: ranks exchange, and whoever needs a sum adds in the fixed tree (law L3). Over P ranks the tree is
 * the one of their leaves: with 2^d the largest power of two not above P, the leaves are cut into 2^d equal subtrees, of which the
 * last P − 2^d are cut once more; rank r has the r-th in leaf order (tl__comm_leaves), and a sum is completed as the binary tree over
 * all leaves would have been. So one process and any number of ranks give the same bits.
 *
 * No heap call between open and close. */
#ifndef TL_COMM_COMM_H
#define TL_COMM_COMM_H

#include <stdbool.h>
#include "base/error.h"

typedef struct tl_comm tl_comm;
typedef enum tl_axis { TL_AXIS_DP, TL_AXIS_TP, TL_AXIS_PP, TL_AXIS_CP, TL_AXIS_EP, TL_AXES } tl_axis;

int tl__comm_open_self(tl_comm **comm, tl_error *err);
/* The ranks that a launcher started (mpirun, srun with PMIx: read from its environment), else self. All of them on TL_AXIS_DP.
 * TL_EUNSUPPORTED, naming the remedy, where a launcher is there and its library is not. */
int tl__comm_open(tl_comm **comm, tl_error *err);
/* The library that would carry many ranks, as "Open MPI v4.1.4"; TL_EUNSUPPORTED, naming the remedy, where there is none. */
int tl__comm_library(char *out, size_t size, tl_error *err);
/* "mpirun", "srun", …: what started several of this process; NULL: nothing. */
const char *tl__comm_launcher(void);
void tl__comm_close(tl_comm *comm);
int tl__comm_rank(const tl_comm *comm, tl_axis axis); /* 0 … size−1 */
int tl__comm_size(const tl_comm *comm, tl_axis axis);
const char *tl__comm_host(const tl_comm *comm, int rank); /* of a rank on TL_AXIS_DP */
uint64_t tl__comm_sequence(const tl_comm *comm);           /* collectives started so far */
void tl__comm_set_step(tl_comm *comm, int64_t step);       /* for messages */

/* Leaves [*first, *first + *count) of `leaves` (a power of two, ≥ size) are rank's: a complete subtree. */
void tl__comm_leaves(int leaves, int size, int rank, int *first, int *count);

/* Make real what collectives need, so that no step pays for it: called before the first. Whatever is under way goes by in pieces, so
 * the bytes that it takes on each of `size` ranks (0 for one) are known before. */
void tl__comm_reserve(tl_comm *comm);
int64_t tl__comm_reserve_bytes(int size);

typedef struct tl_ticket {
    uint64_t sequence;
} tl_ticket;
/* buffer[n] becomes, on every rank of the axis, the tree sum over ranks (self: unchanged). */
int tl__comm_sum_start(tl_comm *comm, tl_axis axis, float *buffer, int64_t n, tl_ticket *ticket, tl_error *err);
int tl__comm_sum_f64_start(tl_comm *comm, tl_axis axis, double *buffer, int64_t n, tl_ticket *ticket, tl_error *err);
/* The tree sum on rank `root` alone; the others' buffer is scratch afterwards. */
int tl__comm_reduce_start(tl_comm *comm, tl_axis axis, float *buffer, int64_t n, int root, tl_ticket *ticket, tl_error *err);
/* root's bytes on every rank. */
int tl__comm_broadcast_start(tl_comm *comm, tl_axis axis, void *buffer, int64_t bytes, int root, tl_ticket *ticket,
                             tl_error *err);
/* out[size · bytes]: every rank's `bytes` of in, in rank order. */
int tl__comm_gather_start(tl_comm *comm, tl_axis axis, void *out, const void *in, int64_t bytes, tl_ticket *ticket,
                          tl_error *err);
/* TL_ECOMM after timeout_ns (and for every later call): the sentence names the collective, its step, and by rank and host who has
 * not come, how far each is, or whose arguments differ. */
int tl__comm_wait(tl_comm *comm, tl_ticket ticket, int64_t timeout_ns, tl_error *err);
/* How long a caller means to wait for other ranks (600 s at first): what it hands to its waits. A rank of which nothing at all is
 * heard for so long is lost, however long a wait may take: TL_ECOMM. */
void tl__comm_set_patience(tl_comm *comm, int64_t patience_ns);
int64_t tl__comm_patience(const tl_comm *comm);
/* Safe in a signal handler: this process is about to be ended, as mpirun does a second after another rank's death. From here on half
 * a second of silence is enough, so that there is time to say who is lost. Ranks that live are waited for as before. */
void tl__comm_hurry(void);
/* Make every pending and later call on this communicator fail with this reason. */
void tl__comm_abort(tl_comm *comm, const char *reason);
/* The failure is another rank's, which told of it: that rank says it, and not every one in turn. */
bool tl__comm_told(tl_comm *comm);

/* What went over the wire since the last take: bytes this rank sent and received, and the seconds in which at least one collective was
 * under way. What of those the engine spent waiting is its spans' (TL_BUCKET_COMM): the rest was hidden. */
typedef struct tl_comm_traffic {
    double bytes, seconds;
} tl_comm_traffic;
tl_comm_traffic tl__comm_take_traffic(tl_comm *comm);

#endif
