/* wire.h — what carries bytes between ranks: the table that a module (trilith-mpi.so, src/comm/mpi) exports under the name
 * "tl_wire_module". It needs nothing from the program, so that the program alone links no MPI.
 *
 * All calls come from one thread. None blocks but open and close. Each returns 0, or −1 with a text that error() gives. Messages
 * between two ranks with the same tag arrive in the order in which they were sent; tags are 0 … TL_WIRE_TAGS − 1, lengths at most
 * 1 GiB. */
#ifndef TL_COMM_WIRE_H
#define TL_COMM_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TL_WIRE_VERSION 2
#define TL_WIRE_TAGS 32768 /* the least that MPI promises */
#define TL_WIRE_SYMBOL "tl_wire_module"

typedef struct tl_wire tl_wire;
typedef struct tl_wire_request {
    void *word[2]; /* all zero: none, which is done */
} tl_wire_request;

typedef struct tl_wire_ops {
    int version;
    const char *name; /* "Open MPI" */
    void (*describe)(char *out, size_t size); /* with its version; may be called before open */
    int (*open)(tl_wire **wire, void *where, int *rank, int *size);
    int (*send)(tl_wire *wire, tl_wire_request *request, const void *bytes, int64_t n, int to, int tag);
    int (*receive)(tl_wire *wire, tl_wire_request *request, void *bytes, int64_t n, int from, int tag);
    /* All of them done? Done ones need no further call. */
    int (*test_all)(tl_wire *wire, tl_wire_request *requests, int n, bool *done);
    /* Any of them done? Then *which and, for a receive, its *bytes; else *which is −1. */
    int (*test_any)(tl_wire *wire, tl_wire_request *requests, int n, int *which, int64_t *bytes);
    /* orderly: all ranks come here, and nothing is under way. Else leave everything as it is: other ranks may be gone. */
    void (*close)(tl_wire *wire, bool orderly);
    const char *(*error)(void);
} tl_wire_ops;

#endif
