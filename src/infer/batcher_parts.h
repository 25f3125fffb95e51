/* batcher_parts.h — what the files of the batcher share: a request, its sequences, and what a step is made of.
 *
 *   batcher.c   opening; the door for other threads; one step from end to end
 *   request.c   what was asked: checked and copied; what is told
 *   schedule.c  which rows a step computes, and who holds which pages
 *   pick.c      from hidden rows to tokens
 *   settle.c    what a step's tokens mean for their sequences
 *   draft.c     tokens proposed by a smaller model */
#ifndef TL_INFER_BATCHER_PARTS_H
#define TL_INFER_BATCHER_PARTS_H

#include <pthread.h>
#include <stdatomic.h>
#include "infer/batcher.h"
#include "infer/prefix.h"

/* waiting → reading → running → ended; reading and running go back to waiting where their pages are taken away. The
 * second choice of a request and those after it are unborn until the first has read the prompt. */
typedef enum tl_sequence_state {
    TL_SEQUENCE_UNBORN,
    TL_SEQUENCE_WAITING, /* in the queue: no pages, no slot, nothing computed */
    TL_SEQUENCE_READING, /* in a slot, with pages for all its tokens, of which two or more are to be computed … */
    TL_SEQUENCE_RUNNING, /* … or just the last one */
    TL_SEQUENCE_ENDED
} tl_sequence_state;

typedef struct tl_copy tl_copy;

typedef struct tl_sequence { /* one answer of a request */
    tl_copy *copy;
    int choice;
    tl_sequence_state state;
    struct tl_sequence *next, *before; /* in the queue */
    tl_sampling sampling;

    int32_t *token; /* [n] the prompt and what was made; behind it what is proposed */
    int n;
    int length;       /* of these, with keys and values */
    int draft_length; /* the same of the draft's */
    int slot;         /* where its row of the table of pages is; −1: none */
    int pages;        /* it holds */
    int shared;       /* of these, the first so many are in the tree */
    uint64_t leader;  /* the stay of the sequence that is reading what this one wants to find; 0: none */
    int leader_slot, leader_pages;
    uint64_t stay; /* numbers the times that any sequence was given a slot */

    int rows, proposed; /* in this step, the proposed ones included */

    int told; /* tokens of the prompt */
    tl_decoder decoder;
    tl_usage usage;
    bool begun;    /* it had a slot once */
    bool embedded; /* the copy's embedding is there */
} tl_sequence;

struct tl_copy { /* a request, and all that it needs until it ends: one piece of memory */
    uint64_t id;
    tl_request asked; /* what it points at is in this piece */
    atomic_bool cancelled;
    bool begun;             /* a sequence had a slot once: it waits no more (under the lock) */
    int open;               /* choices that have not ended */
    int most;               /* tokens that a choice may make */
    float *embedding;       /* [C] where asked for */
    tl_copy *next, *before; /* of all that have not ended (under the lock) */
    tl_copy *next_new;      /* of those that the owner has not seen (under the lock) */
    tl_sequence choice[];
};

/* Rows of a step that belong to one sequence: its tokens [length, length + rows). */
typedef struct tl_piece {
    tl_sequence *sequence;
    int first;       /* row */
    int pick, picks; /* of the step's */
} tl_piece;

/* A row whose logits matter. */
typedef struct tl_pick {
    const tl_sequence *sequence;
    int row;
    int place;      /* tokens before the one that is picked */
    int32_t target; /* the prompt's own token, only scored; −1: drawn */
    int32_t id;
    float logp;
    int n_top;
    tl_candidate top[TL_MOST_ALTERNATIVES];
} tl_pick;

struct tl_batcher {
    tl_arena arena; /* holds this record too */
    tl_engine *engine;
    const tl_model *model;
    tl_ctx *ctx;
    tl_batcher_options options; /* with what 0 stands for */
    int row_pages;              /* of a sequence: entries of its row in the table */
    int64_t page_bytes;

    tl_pages pages;
    tl_prefix prefix;
    unsigned char *kv; /* [L, 2, pages, Hkv parts] */
    tl_acts acts;
    tl_ctx draft_ctx;
    float *draft_kv;
    tl_acts draft_acts;

    /* Sequences that have a slot, oldest first, and those that wait, oldest first. */
    tl_sequence **active; /* [running] */
    int n_active;
    int *free_slot; /* [running] */
    int n_free_slots;
    tl_sequence *first_waiting, *last_waiting;
    int n_waiting;
    uint64_t stays;

    /* A step. */
    int32_t *token, *pos; /* [step_tokens] */
    int32_t *seq_row;     /* [running + 1] */
    int32_t *seq_block;   /* [running] */
    int32_t *block;       /* [running, row_pages] */
    int32_t *found;       /* [row_pages] pages that a waiting sequence would find */
    tl_piece *piece;      /* [running] */
    int n_pieces, R;
    tl_pick *pick; /* [step_tokens] */
    int n_picks;
    float *gathered;        /* [loss_rows, C] */
    unsigned char *scratch; /* [threads, tl__sampler_bytes(V)] */
    char *text;             /* decoded bytes of a token */
    size_t text_room;
    tl_batch_step step;
    tl_batcher_facts tally; /* the owner's; described is what others see */

    /* The door. */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    tl_copy *live, *dead;
    tl_copy *first_new, *last_new;
    int n_unbegun;
    uint64_t last_id;
    bool woken;
    tl_batcher_facts described;
};

static inline int tl_pages_for(int tokens) {
    return (tokens + TL_KV_BLOCK - 1) / TL_KV_BLOCK;
}
static inline int32_t *tl_pages_of(const tl_batcher *b, const tl_sequence *s) {
    return b->block + (int64_t)s->slot * b->row_pages;
}
/* Most tokens that are proposed to a sequence in a step. */
static inline int tl_ahead(const tl_batcher *b) {
    const int drafted = b->options.draft ? b->options.draft_tokens : 0;
    return drafted > b->options.look_up ? drafted : b->options.look_up;
}
/* Age: by arrival, then by choice. */
static inline bool tl_is_older(const tl_sequence *a, const tl_sequence *b) {
    return a->copy->id != b->copy->id ? a->copy->id < b->copy->id : a->choice < b->choice;
}

/* ---- batcher.c ---- */

/* All its choices have ended: it is freed by the next submit or close. */
void tl__retire(tl_batcher *b, tl_copy *c);

/* ---- request.c ---- */

int tl__copy_request(tl_copy **copy, const tl_batcher *b, const tl_request *request, tl_error *err);
/* One event about a sequence. */
void tl__tell(tl_sequence *s, tl_event *event);

/* ---- schedule.c ---- */

void tl__queue_put(tl_batcher *b, tl_sequence *s);
/* Fills piece and rows: who computes what. */
void tl__schedule(tl_batcher *b);
/* Keys and values of the tokens [0, length) are there: finished pages go into the tree. */
void tl__share_pages(tl_batcher *b, tl_sequence *s);
/* Out of its slot, or of the queue. */
void tl__leave(tl_batcher *b, tl_sequence *s);

/* ---- pick.c ---- */

/* Fills pick from the pieces' hidden rows. */
void tl__pick(tl_batcher *b);

/* ---- settle.c ---- */

void tl__settle(tl_batcher *b);
/* Those that were cancelled or are too late end. */
void tl__end_late(tl_batcher *b, int64_t now_ns);
void tl__end(tl_batcher *b, tl_sequence *s, tl_finish finish);

#endif
