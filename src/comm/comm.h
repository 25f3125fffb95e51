/* comm.h — groups of ranks and what they exchange. The training step calls it even when it is alone ("self").
 *
 * Non-blocking: start returns a ticket, wait completes it. Every collective carries a sequence number, the same on all
 * ranks, for messages that say who is late. Sums are never the library's: ranks exchange and add in the fixed tree (law
 * L3). */
#ifndef TL_COMM_COMM_H
#define TL_COMM_COMM_H

#include <stdbool.h>
#include "base/error.h"

typedef struct tl_comm tl_comm;
typedef enum tl_axis { TL_AXIS_DP, TL_AXIS_TP, TL_AXIS_PP, TL_AXIS_CP, TL_AXIS_EP, TL_AXES } tl_axis;

int tl__comm_open_self(tl_comm **comm, tl_error *err);
void tl__comm_close(tl_comm *comm);
int tl__comm_rank(const tl_comm *comm, tl_axis axis); /* 0 … size−1 */
int tl__comm_size(const tl_comm *comm, tl_axis axis);
uint64_t tl__comm_sequence(const tl_comm *comm); /* collectives started so far */

typedef struct tl_ticket {
    uint64_t sequence;
} tl_ticket;
/* buffer[n] becomes, on every rank of the axis, the binary tree sum over ranks (self: unchanged). */
int tl__comm_sum_start(tl_comm *comm, tl_axis axis, float *buffer, int64_t n, tl_ticket *ticket, tl_error *err);
int tl__comm_sum_f64_start(tl_comm *comm, tl_axis axis, double *buffer, int64_t n, tl_ticket *ticket, tl_error *err);
int tl__comm_wait(tl_comm *comm, tl_ticket ticket, int64_t timeout_ns, tl_error *err);
/* Make every pending and later call on this communicator fail with this reason. */
void tl__comm_abort(tl_comm *comm, const char *reason);

#endif
