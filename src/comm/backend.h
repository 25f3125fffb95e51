/* backend.h — what stands behind comm.h: one table of calls a kind of communicator (self.c, many.c). Only this room includes it. */
#ifndef TL_COMM_BACKEND_H
#define TL_COMM_BACKEND_H

#include "comm/comm.h"
#include "comm/cost.h"
#include "comm/wire.h"

/* One collective as its caller asked for it: n elements (broadcast, gather: bytes; gather reads `in`). */
typedef struct tl_comm_request {
    tl_collective kind;
    tl_axis axis;
    void *buffer;
    const void *in;
    int64_t n;
    int root;
} tl_comm_request;

typedef struct tl_comm_ops {
    void (*close)(tl_comm *comm);
    int (*rank)(const tl_comm *comm, tl_axis axis);
    int (*size)(const tl_comm *comm, tl_axis axis);
    const char *(*host)(const tl_comm *comm, int rank);
    uint64_t (*sequence)(const tl_comm *comm);
    void (*set_step)(tl_comm *comm, int64_t step);
    void (*reserve)(tl_comm *comm);
    int (*start)(tl_comm *comm, const tl_comm_request *request, tl_ticket *ticket, tl_error *err);
    int (*wait)(tl_comm *comm, tl_ticket ticket, int64_t timeout_ns, tl_error *err);
    void (*set_silence)(tl_comm *comm, int64_t silence_ns);
    void (*abort)(tl_comm *comm, const char *reason);
    bool (*told)(tl_comm *comm);
    tl_comm_traffic (*take_traffic)(tl_comm *comm);
} tl_comm_ops;

/* The first member of every communicator. */
struct tl_comm {
    const tl_comm_ops *ops;
    int64_t patience_ns;
};
#define TL_COMM_PATIENCE_NS 600000000000 /* at first */

/* When tl__comm_hurry was called; 0: it was not. */
int64_t tl__comm_hurried_ns(void);

/* Many ranks over a wire, which `wire->open` finds in its environment with `where` (the wire's own). It waits timeout_ns for all
 * to have come. */
int tl__comm_open_many(tl_comm **comm, const tl_wire_ops *wire, void *where, int64_t timeout_ns, tl_error *err);
int64_t tl__comm_many_bytes(int size);

/* out[n] = the sum over `size` ranks of part[rank][n], in the tree of tl__comm_leaves, lower + higher. out may be any of the
 * parts, which are scratch afterwards. */
void tl__comm_add_f32(float *out, float *const *part, int size, int64_t n);
void tl__comm_add_f64(double *out, double *const *part, int size, int64_t n);
/* Round to nearest, denormals kept, for the calling thread. */
void tl__comm_number_mode(void);

#endif
