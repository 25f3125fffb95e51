/* many.h — what the two halves of the communicator over many ranks share: the engine's side (many.c) and the communication thread
 * (progress.c). Only these two include it.
 *
 * Invariants
 *   1. Only the communication thread calls the wire; from its end (`ended`) on nobody does, and no buffer of a caller is touched.
 *   2. op[s % TL_MANY_OPS] belongs to collective s from its start until `done` counts it and its messages have left.
 *   3. No byte of a collective's data moves before every rank's START of it has come and agrees; a START is therefore never more than
 *      2 · TL_MANY_OPS collectives ahead of the last that is complete here, and peer.start has a place for each.
 *   4. Pieces are numbered over the collectives' life in the order of sequence numbers: the same on all ranks, since their arguments are.
 *   5. The first failure stays; whoever finds it fills `failure` under the lock. */
#ifndef TL_COMM_MANY_H
#define TL_COMM_MANY_H

#include "comm/backend.h"

#include <pthread.h>
#include <stdatomic.h>

#define TL_MANY_OPS 64       /* collectives under way at once */
#define TL_MANY_SMALL TL_COMM_SMALL_BYTES    /* up to so many bytes travel with START itself */
#define TL_MANY_LANES 4      /* pieces under way at once */
#define TL_MANY_HOST 64
#define TL_MANY_BEAT_NS 500000000
#define TL_MANY_HURRY_NS 550000000   /* a beat, and what it takes to arrive */
#define TL_MANY_SILENT_NS 3000000000 /* no word for so long: stopped, dead or cut off */

enum { TL_SAY_HELLO = 1, TL_SAY_START, TL_SAY_BEAT, TL_SAY_ABORT, TL_SAY_BYE };

/* Every message but data begins with this. Ranks are of one build (HELLO compares `format`), so it goes as it lies. */
typedef struct say {
    uint32_t what, format;
    uint64_t sequence; /* START: of this collective; else the last one that the engine started */
    int64_t step;
    int64_t n;
    int32_t kind, root, axis, bytes; /* bytes of text or data behind this; kind of ABORT: 1, handed on from another rank */
} say;
#define TL_MANY_FORMAT 0x746c3031u /* "tl01" */

typedef struct say_text {
    say head;
    char text[1024];
} say_text;

typedef struct say_start {
    say head;
    char data[TL_MANY_SMALL];
} say_start;

typedef struct op {
    tl_comm_request request;
    uint64_t sequence; /* 0: never used */
    int64_t step;
    bool small, agreed, done; /* done: under the lock */
    int64_t pieces, next_piece, finished; /* pieces in all, the first not begun, how many are finished */
    int64_t piece_elements;
    uint64_t first_piece; /* number of piece 0 */
    say_start message;
    tl_wire_request *sending; /* [size], of message */
} op;

/* One piece of a collective on its way. */
typedef struct lane {
    op *op; /* NULL: free */
    int64_t at, n; /* elements of the collective's buffer */
    int stage, tag;
    int requests;
    tl_wire_request *request; /* [3 · size] */
    char *scratch;            /* [(size − 1) · slice_bytes] */
    double bytes;             /* sent and received in this stage */
} lane;

typedef struct peer {
    char host[TL_MANY_HOST];
    /* Under the lock: the engine's sentences read them. */
    uint64_t sequence;
    int64_t step, heard_ns;
    bool here, left;
    /* The communication thread's own. */
    say_start *start; /* [2 · TL_MANY_OPS], by sequence */
    say_text in;
    say_text out; /* HELLO, BEAT, BYE, ABORT */
    tl_wire_request sending;
    int saying; /* what `out` says */
} peer;

typedef struct many {
    tl_comm base;
    const tl_wire_ops *wire_ops;
    void *where;
    tl_wire *wire;
    int rank, size;
    int64_t slice_bytes;
    peer *peer; /* [size]; [rank] is this one's host and nothing else */
    tl_wire_request *receiving; /* [size], of peer.in */
    op op[TL_MANY_OPS];
    lane lane[TL_MANY_LANES];
    void **part; /* [size], for the tree */
    /* The thread's own: how far each stage of the collectives' way is, freed < feeding ≤ agreed + 1 ≤ taken + 1. */
    uint64_t taken;   /* the last whose START has gone out */
    uint64_t agreed;  /* the last to which all ranks have come */
    uint64_t feeding; /* the first that may have pieces not begun */
    uint64_t freed;   /* the thread's copy of `complete` */
    uint64_t pieces_numbered;
    bool leaving;

    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t work, news; /* for the thread, for the engine */
    /* Under the lock. */
    bool waiting; /* the engine, for others */
    uint64_t started, complete; /* started by the engine; all up to `complete` are done and their places free */
    int64_t step;
    bool open, closing, ended;
    _Atomic bool failed;
    tl_error failure;
    bool told_by_another; /* the failure is another rank's */
    double bytes;           /* traffic since the last take */
    int64_t busy_ns, busy_since_ns;
    int busy;               /* collectives under way */
    int64_t silence_ns;     /* a rank of which nothing is heard for so long is lost */
    int64_t timeout_ns;     /* the last that a wait was given: closing and a full queue keep it too */
} many;

void *tl__many_progress(void *comm);
int tl__many_allocate(many *c); /* when the wire has said how many there are; 0, or −1: no memory */
const char *tl__many_kind(int kind);
/* "sum of 128 f32" */
void tl__many_describe(char *out, size_t size, int kind, int64_t n, int root);
/* In a hurry (tl__comm_hurry): a rank that is silent is lost, even while the engine computes and waits for nobody. Said at once, since
 * the engine may never come to say it. The communication thread's, without the lock. */
void tl__many_notice_lost(many *c);
/* Record a failure, the first one only, and wake everybody. Under the lock. */
void tl__many_fail(many *c, int status, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
