/* batcher.h — many requests on one model at once: each step computes rows of all of them together, and each gets the
 * bits it would get alone (laws L1, L2).
 *
 * Keys and values lie in one pool of pages sized from a budget of bytes; a sequence is a list of pages. Prompts that
 * begin alike share pages (a radix tree over finished pages, copy on write). A step holds at most step_tokens rows: a
 * row of every running sequence, or several where tokens are proposed ahead, then pieces of prompts. Where pages run
 * out the youngest sequence gives its own back and is computed again later, to the same bits.
 *
 * One thread owns a batcher and calls open, step and close; submit, cancel and wake may come from any. */
#ifndef TL_INFER_BATCHER_H
#define TL_INFER_BATCHER_H

#include "infer/engine.h"
#include "infer/sampler.h"
#include "infer/thinking.h"

typedef struct tl_batcher tl_batcher;

typedef struct tl_batch_step { /* what one step did */
    int rows, prompt_rows, running, waiting;
    int proposed, accepted;                           /* tokens looked up or drafted, and of them kept */
    int64_t begin_ns, wait_ns, forward_ns, sample_ns; /* wait: nothing was there to do before it */
    int preempted;                                    /* sequences that gave their pages back */
} tl_batch_step;

typedef struct tl_batcher_options { /* 0 everywhere: what is said in brackets */
    int64_t kv_bytes; /* of the pool of pages (room for `running` of 2048 positions, or of `positions` if fewer, and no
                       * more than a quarter of free memory) */
    tl_type kv_type;  /* of keys and values as stored: F32 (0), F16, BF16, Q8_0 */
    int running;      /* most sequences at once (64), and no more than step_tokens */
    int waiting;      /* most requests that wait; one more is TL_EBUSY (1024) */
    int step_tokens;  /* most rows of a step (512) */
    int positions;    /* most tokens of a sequence (the model's) */
    bool no_prefix_cache; /* nothing is shared or kept */
    /* Tokens proposed ahead are computed in the same step as the token before them and kept as far as they are what is
     * drawn anyway: nothing that is told depends on them. They take rows that neither prompts nor the running need. */
    int look_up; /* most tokens proposed from the sequence's own past, a step (0: none) */
    tl_engine
        *draft; /* a smaller model of the same vocabulary that proposes; NULL: none. Loaded; it outlives the batcher */
    int draft_tokens; /* so many a step (4) */
    bool eager;       /* as many are proposed as may be, whether or not that pays */
    /* After each step, on the owner's thread; may be NULL. */
    void (*stepped)(void *user, const tl_batch_step *step);
    void *user;
} tl_batcher_options;

typedef enum tl_finish {
    TL_FINISH_NONE,   /* goes on */
    TL_FINISH_STOP,   /* an end-of-text id, a stop id, or a stop text */
    TL_FINISH_LENGTH, /* max_tokens, or the positions */
    TL_FINISH_CANCELLED,
    TL_FINISH_DEADLINE,
    TL_FINISH_FAILED, /* event.error says why */
    TL_FINISHES
} tl_finish;

enum { TL_MOST_STOPS = 16, TL_MOST_CHOICES = 128 };

typedef struct tl_usage {
    int prompt_tokens, cached_tokens; /* cached: found computed */
    int completion_tokens, thinking_tokens;
    int proposed, accepted;
    int preemptions;
    int64_t submitted_ns, scheduled_ns, first_ns,
        last_ns; /* tl__now_ns: when it came, began, and gave its first and last token; 0: not yet */
} tl_usage;

/* What a request is told, in order. Everything pointed at lasts for the call. */
typedef struct tl_event {
    uint64_t request;
    int choice;
    int32_t id;    /* the token made; −1: none (a prompt's token is in prompt_at) */
    int prompt_at; /* ≥ 0: this event is about that token of the prompt (its id and logp; the first has logp 0) */
    float logp;
    const tl_candidate *top; /* [n_top] the likeliest at this place, likeliest first */
    int n_top;
    const char *text; /* [text_n] bytes that are now certain: whole characters, never a part of a stop text */
    size_t text_n;
    bool thinking;          /* the token lies between the delimiters */
    const float *embedding; /* [C] where asked for */
    tl_finish finish;
    const char *stop;      /* the stop text that ended it; NULL: an id did */
    const tl_usage *usage; /* never NULL */
    const char *error;     /* with FAILED */
} tl_event;

/* What is asked for. Begin with {0}. Everything pointed at is copied by submit, but `user`. */
typedef struct tl_request {
    const int32_t *prompt; /* [n_prompt] ≥ 1 */
    int n_prompt;
    int max_tokens; /* 0: only the prompt is read; else at least one token */
    int min_tokens; /* neither an end nor a stop before so many */
    int choices;    /* ≤ TL_MOST_CHOICES answers to one prompt (0 and 1: one); choice c samples with seed + c */
    tl_sampling sampling;
    const tl_logit_bias *bias; /* [n_bias] */
    int n_bias;
    const char *const *stop; /* [n_stop ≤ TL_MOST_STOPS] texts; none is in what is told */
    int n_stop;
    const int32_t *stop_id; /* [n_stop_id] */
    int n_stop_id;
    bool ignore_eos;
    bool special;         /* special tokens show as text, in which stop texts are looked for too */
    bool include_stop;    /* the stop text is told too */
    bool logprobs;        /* event.logp and top are filled */
    int alternatives;     /* 0 … TL_MOST_ALTERNATIVES */
    bool prompt_logprobs; /* events about the prompt's tokens come first */
    bool embed;           /* the last event holds the final hidden row of the prompt's last token, of unit length */
    bool no_look_ahead;   /* plain decoding for this one */
    tl_thinking thinking;
    int64_t deadline_ns; /* on tl__now_ns; 0: none */
    /* Seam for grammars: may lower logits[V] to −INFINITY before sampling, knowing the ids made so far. NULL: none.
     * Inside step, on any thread of the engine's pool, several at once; also for places behind tokens that are only
     * proposed, and more than once for a place: what it does is a function of made[n] alone. */
    void (*constrain)(void *user, const int32_t *made, int n, float *logits);
    /* On the owner's thread, inside step; must not block, and may call cancel. The last one has a finish. */
    void (*event)(void *user, const tl_event *event);
    void *user;
} tl_request;

/* The engine is loaded and outlives the batcher. All memory is taken here. */
int tl__batcher_open(tl_batcher **batcher, tl_engine *engine, const tl_batcher_options *options, tl_error *err);
/* Requests that are left end as cancelled. */
void tl__batcher_close(tl_batcher *batcher);
/* What open will take, bytes: pages, and all else. */
int tl__batcher_size(int64_t *kv, int64_t *other, const tl_engine *engine, const tl_batcher_options *options,
                     tl_error *err);

/* *request names it (never 0). TL_EINVALID says which field; TL_EBUSY: too many wait. Its events come from step alone.
 */
int tl__batcher_submit(tl_batcher *batcher, const tl_request *request, uint64_t *id, tl_error *err);
/* The request ends as cancelled in the next step, if it has not ended by then; any number may be given. */
void tl__batcher_cancel(tl_batcher *batcher, uint64_t request);

/* One step. Waits while there is nothing to do, at most wait_ns; returns the rows computed, or a status (the batcher
 * goes on). */
int tl__batcher_step(tl_batcher *batcher, int64_t wait_ns, tl_error *err);
/* End the wait of step, from any thread. */
void tl__batcher_wake(tl_batcher *batcher);

typedef struct tl_batcher_facts { /* as of the last step; from any thread */
    int running, waiting;
    int positions; /* most tokens of a sequence: as asked for, and no more than all pages hold */
    int64_t pages, used_pages, cached_pages,
        page_bytes;                      /* used: by running sequences; cached: kept for prompts to come */
    int64_t prefix_queries, prefix_hits; /* tokens of prompts, and of them found computed */
    int64_t preemptions, steps, prompt_tokens, generated_tokens, proposed, accepted;
} tl_batcher_facts;
void tl__batcher_describe(const tl_batcher *batcher, tl_batcher_facts *facts);

#endif
