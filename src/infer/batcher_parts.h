/* batcher_parts.h — what the files of the batcher share: a request, its sequences, and what a step is made of.
 *
 *   batcher.c   opening; the door for other threads; one step from end to end
 *   request.c   what was asked: checked and copied; what is told
 *   schedule.c  which rows a step computes, and who holds which pages
 *   pick.c      from hidden rows to tokens
 *   settle.c    what a step's tokens mean for their sequences
 *   ahead.c     which sequences get tokens proposed, and how many
 *   draft.c     tokens proposed by a smaller model */
#ifndef TL_INFER_BATCHER_PARTS_H
#define TL_INFER_BATCHER_PARTS_H

#include <pthread.h>
#include <stdatomic.h>
#include "infer/batcher.h"
#include "infer/lookup.h"
#include "infer/prefix.h"
#include "infer/stops.h"

/* waiting → reading → running → ended; reading and running go back to waiting where their pages are taken away. The
 * second choice of a request and those after it are unborn until the first has read the prompt. */
typedef enum tl_sequence_state {
    TL_SEQUENCE_UNBORN,
    TL_SEQUENCE_WAITING, /* in the queue: no pages, no slot, nothing computed */
    TL_SEQUENCE_READING, /* in a slot, with pages for all its tokens, of which two or more are to be computed … */
    TL_SEQUENCE_RUNNING, /* … or just the last one */
    TL_SEQUENCE_ENDED
} tl_sequence_state;

enum { TL_MOST_AHEAD = 64 }; /* tokens proposed to a sequence in a step */

typedef struct tl_copy tl_copy;

/* Where proposals come from: a place in the past where so many tokens are alike, or the draft. */
enum tl_source { TL_FROM_DRAFT = TL_MOST_ALIKE + 1, TL_SOURCES };

/* How many of the tokens proposed lately were kept, of those that were tried; what is older counts less. */
typedef struct tl_trust {
    float kept, tried;
} tl_trust;

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
    int drafts;         /* proposals asked of the draft */
    int source;         /* of the proposals: tl_source */
    tl_trust trust[2];  /* in what is looked up, and in what is drafted, for it */

    int told; /* tokens of the prompt */
    tl_decoder decoder;
    int32_t *matched; /* [n_stop] of each stop text */
    tl_thought thought;
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
    const tl_stop *stop;    /* [n_stop] */
    char *text;             /* what was held back for them and what a token adds; NULL: none is held back */
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
    tl_sequence *sequence;
    int row;
    int place;      /* tokens before the one that is picked */
    int32_t target; /* the prompt's own token, only scored; −1: drawn */
    int32_t id;
    float logp;
    int n_top;
    tl_candidate top[TL_MOST_ALTERNATIVES];
} tl_pick;

/* Where hidden rows come from and how they become logits. */
typedef struct tl_head {
    tl_ctx *ctx;
    const tl_model *model;
    tl_acts *acts;
    float *gathered; /* [acts->loss_rows, C] */
} tl_head;

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
    unsigned char *draft_kv;
    tl_acts draft_acts;
    float *draft_gathered;
    double draft_share; /* what a step of it costs of one of the model */

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
    tl_trust trust[TL_SOURCES];
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
/* Keys and values of a page of one model, all its layers. */
static inline int64_t tl_page_bytes(const tl_arch *a, tl_type kv_type) {
    return 2 * (int64_t)a->L * a->Hkv * tl_kv_part_bytes(kv_type, a->D);
}
/* Layer by layer K of all pages, then V of all. */
static inline void tl_lay_pages(tl_acts *acts, const tl_arch *a, unsigned char *kv, int pages, tl_type kv_type) {
    const int64_t bytes = pages * (int64_t)a->Hkv * tl_kv_part_bytes(kv_type, a->D);
    for (int l = 0; l < a->L; l++) acts->layer[l].kv = (tl_kv){kv + 2 * l * bytes, kv + (2 * l + 1) * bytes, kv_type};
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
/* Who computes how many rows. */
void tl__schedule(tl_batcher *b);
/* Keys and values of the tokens [0, length) are there: finished pages go into the tree. */
void tl__share_pages(tl_batcher *b, tl_sequence *s);
/* Out of its slot, or of the queue. */
void tl__leave(tl_batcher *b, tl_sequence *s);

/* One page more for s, where one is free or cached. */
void tl__page_more(tl_batcher *b, tl_sequence *s);
/* The rows that each has: which tokens, where, and which of them matter. */
void tl__lay_out(tl_batcher *b);

/* ---- ahead.c ---- */

/* Up to `left` rows of this step for tokens proposed to the running. */
void tl__look_ahead(tl_batcher *b, int left);
/* Of the tokens proposed to s, `kept` were right, then one wrong if there is any. */
void tl__learn(tl_batcher *b, tl_sequence *s, int kept, bool wrong);

/* ---- draft.c ---- */

/* Options, with what 0 stands for put in. */
int tl__draft_check(tl_batcher_options *options, const tl_engine *engine, tl_error *err);
void tl__draft_place(tl_batcher *b, tl_arena *arena, int pages);
void tl__draft_open(tl_batcher *b, int pages);
/* Fills in the tokens that were asked of it, or fewer. */
void tl__draft(tl_batcher *b);

/* ---- pick.c ---- */

/* Whether an id ends an answer. */
bool tl__ends(const tl_batcher *b, const tl_request *r, int32_t id);

/* Fills pick from hidden rows. guess: ids alone, which only propose. */
void tl__pick(tl_batcher *b, const tl_head *head, bool guess);

/* ---- settle.c ---- */

void tl__settle(tl_batcher *b);
/* Those that were cancelled or are too late end. */
void tl__end_late(tl_batcher *b, int64_t now_ns);
void tl__end(tl_batcher *b, tl_sequence *s, tl_finish finish);

#endif
