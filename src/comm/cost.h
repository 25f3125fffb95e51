/* cost.h — what a collective over many ranks sends and receives: the geometry that the communication thread follows (progress.c), as
 * functions of its arguments. What a planner predicts by it is what tl__comm_take_traffic then counts, to the byte (law L4). */
#ifndef TL_COMM_COST_H
#define TL_COMM_COST_H

#include <stdint.h>

typedef enum tl_collective {
    TL_COLLECTIVE_SUM = 1,
    TL_COLLECTIVE_SUM_F64,
    TL_COLLECTIVE_REDUCE,
    TL_COLLECTIVE_BROADCAST,
    TL_COLLECTIVE_GATHER,
} tl_collective;

typedef struct tl_comm_cost {
    double sent_bytes, received_bytes; /* by this rank, the words that announce the collective included */
} tl_comm_cost;
/* n elements: f32 of a sum or reduce, f64 of a sum_f64, else bytes. Nothing with one rank. */
tl_comm_cost tl__comm_cost(tl_collective kind, int64_t n, int size, int rank, int root);

/* ---- geometry, for this room ---- */

enum {
    TL_COMM_SMALL_BYTES = 512,  /* up to so many travel with the announcement itself, straight to all */
    TL_COMM_FLAT_BYTES = 65536, /* a broadcast's piece of up to so many goes straight to all */
};
int64_t tl__comm_element_bytes(int kind);
/* Elements of a piece: what one lane carries at once. */
int64_t tl__comm_piece(int kind, int size);
/* First element of rank r's slice of a piece of n, on a multiple of 16; r = size: its end. */
int64_t tl__comm_cut(int64_t n, int size, int r);
int64_t tl__comm_slice_bytes(int size);

#endif
