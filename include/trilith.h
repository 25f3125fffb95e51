/* trilith.h — the public C API of Trilith: open a model folder or a GGUF file, turn text into token ids and back, score
 * and continue token ids.
 *
 * Every call returns 0 (or, where it says so, a count) or a negative tl_status. With a negative one it has filled a
 * tl_error (which may be NULL) with one sentence that says what is wrong, where, and what to do about it. Arguments are
 * checked: a call that is refused has changed nothing, and its handle works as before. No call prints, and none ends
 * the process.
 *
 * An engine is a model made ready to compute; a session is one sequence of tokens read or written with it. An
 * engine and its sessions are used by one thread at a time (several threads need one lock around them); engines are
 * independent of each other. Sessions are closed before their engine.
 *
 * Numbers are those of the program `trilith`, to the bit: on any number of threads, on AVX2 as on AVX-512, and however
 * a sequence is cut into calls. docs/example.c is a whole program. */
#ifndef TRILITH_H
#define TRILITH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tl_status {
    TL_OK = 0,
    TL_EINVALID = -1,     /* an argument or setting is wrong */
    TL_EIO = -2,          /* the operating system refused a read or write */
    TL_ENOSPACE = -3,     /* the disk is full */
    TL_ENOMEM = -4,       /* not enough memory */
    TL_EFORMAT = -5,      /* bytes from outside are not what they claim to be */
    TL_EUNSUPPORTED = -6, /* well formed, but this build or version cannot do it */
    TL_ENOTFOUND = -7,    /* no such file, tensor, key … */
    TL_EEXISTS = -8,      /* would write over something */
    TL_EDAMAGED = -9,     /* a hash or size does not match its record */
    TL_ENONFINITE = -10,  /* too many losses or gradients that are not finite */
    TL_ESTOPPED = -11,    /* asked to stop by a signal */
    TL_ECOMM = -12,       /* another rank is gone, late or out of step: the same run may go on elsewhere */
    TL_EDIVERGED = -13,   /* a rank computed other bits than the rest: its machine is not to be trusted */
    TL_EBUSY = -14,       /* as much as can wait is waiting: come again later */
} tl_status;

typedef struct tl_error {
    int status;
    char text[1024];
} tl_error;

/* "0.1.0" */
const char *tl_version(void);

/* ---- a model ---- */

typedef struct tl_engine tl_engine;

/* Numerics that hold their bits on any CPU. */
typedef enum tl_dtype {
    TL_DTYPE_AUTO = 0, /* as the weights are stored: F32 and F16 in f32, BF16 in bf16, a quantised type in its own */
    TL_DTYPE_BF16 = 1, /* factors of products rounded to bf16, sums in f32 */
    TL_DTYPE_F32 = 2,  /* all in f32, whatever the weights are stored in */
} tl_dtype;

/* What computes, to the same bits (docs/cuda.md: how far that is proved). */
typedef enum tl_device {
    TL_DEVICE_CPU = 0,
    TL_DEVICE_CUDA = 1, /* the first NVIDIA GPU, or that which TRILITH_CUDA_DEVICE numbers; one in a process */
} tl_device;

/* Begin with {0} and set what differs: members may be added, and 0 stays what it is now. */
typedef struct tl_engine_options {
    int threads;    /* CPU threads; 0: all that this process may use */
    int positions;  /* most tokens of a session; 0: all the positions that the model has */
    tl_dtype dtype; /* of the factors of products; results of each have bits of their own */
    bool verify;    /* read all weights first and compare them with the folder's manifest, which must be there */
    tl_device device;
} tl_engine_options;

/* model: a checkpoint, a run (its newest checkpoint is used), a Hugging Face model folder, a GGUF file, or a folder
 * that holds one and no config.json. options may be NULL. Weights are mapped from their file, which is therefore not to
 * be changed in place while the engine is open; with TRILITH_MMAP=0 in the environment they are read into memory
 * instead. *engine is NULL after a failure. */
int tl_engine_open(tl_engine **engine, const char *model, const tl_engine_options *options, tl_error *err);
void tl_engine_close(tl_engine *engine); /* NULL is allowed, as in all the closing calls */

typedef struct tl_engine_facts {
    int vocabulary;     /* ids are 0 … vocabulary − 1, a row of logits has as many */
    int positions;      /* most tokens that a session can hold */
    int tokenizer_ids;  /* ids that stand for text; 0: there is no tokenizer */
    int begin_id;       /* the id that stands before a text, for an empty prompt; −1: none */
    int64_t parameters; /* tied ones counted once */
    bool begins_texts;  /* the model expects every text to begin with begin_id, which encoding does not add */
} tl_engine_facts;

int tl_engine_describe(const tl_engine *engine, tl_engine_facts *facts, tl_error *err);
/* 1: the id ends a text; 0: it does not. */
int tl_engine_ends_text(const tl_engine *engine, int32_t id);

/* Ids of text_bytes bytes of UTF-8 (each invalid sequence is read as U+FFFD). special: the text of a special token, as
 * "<|endoftext|>", means that token; else it is text like any other. At most `room` ids are written; *count is how many
 * there are, so that (NULL, 0) asks for the room. */
int tl_engine_encode(const tl_engine *engine, const char *text, size_t text_bytes, bool special, int32_t *ids,
                     size_t room, size_t *count, tl_error *err);
/* Text of n ids as UTF-8 (bytes that form no character become U+FFFD). special: special tokens give their text; else
 * none. At most `room` bytes are written, a NUL after them only if there is room; *text_bytes is how many there are. */
int tl_engine_decode(const tl_engine *engine, const int32_t *ids, size_t n, bool special, char *text, size_t room,
                     size_t *text_bytes, tl_error *err);

/* How the next token is drawn from logits: penalties first, then in this order. {0} takes the likeliest, of equals the smallest id. */
typedef struct tl_sampling {
    float temperature; /* 0: the likeliest */
    int top_k;         /* among so many of the likeliest; 0: off */
    float top_p;       /* among the fewest that hold this share of the probability; 0 or 1: off */
    float min_p;       /* none less likely than this share of the likeliest; 0: off */
    float typical_p;   /* among those nearest the entropy that hold this share (Meister et al. 2023); 0 or 1: off */
    /* What the sequence holds already is less likely, before anything else: logits divided by repetition (0 or 1: off,
     * at most 100) where positive, else multiplied (Keskar et al. 2019; prompt and answer); then less presence, and less
     * frequency for each time (the answer alone, as OpenAI does; −2 … 2, 0: off). */
    float repetition_penalty, presence_penalty, frequency_penalty;
    uint64_t seed;     /* the draw is a function of seed, position and logits alone */
} tl_sampling;

/* *id is drawn from logits[vocabulary] for this position: the number of tokens before it. *logprob (may be NULL) is its
 * log-probability under the model's own distribution: temperature 1, nothing changed or cut. Penalties are refused. */
int tl_engine_sample(tl_engine *engine, const tl_sampling *sampling, const float *logits, int64_t position, int32_t *id,
                     float *logprob, tl_error *err);
/* The same after ids[n], for position n, with penalties; the first n_prompt of them are the prompt. */
int tl_engine_sample_after(tl_engine *engine, const tl_sampling *sampling, const float *logits, const int32_t *ids,
                           size_t n, size_t n_prompt, int32_t *id, float *logprob, tl_error *err);

/* ---- a sequence ---- */

typedef struct tl_session tl_session;

/* capacity: most tokens that it will hold; 0: the engine's positions. All memory is taken here. */
int tl_session_open(tl_session **session, tl_engine *engine, int capacity, tl_error *err);
void tl_session_close(tl_session *session);
/* Tokens in it. */
int tl_session_length(const tl_session *session);
/* Forget the tokens from position `length` on; 0 begins anew. */
int tl_session_rewind(tl_session *session, int length, tl_error *err);
/* Append n ids. logits (may be NULL) receives [vocabulary]: what may follow the last of them. */
int tl_session_append(tl_session *session, const int32_t *ids, size_t n, float *logits, tl_error *err);
/* Begin anew and score n ≥ 2 ids: logprobs[n − 1], the natural logarithm of the probability of each after the first. A
 * sequence longer than the session's capacity is scored in windows that overlap by half (docs/cli.md, score). */
int tl_session_score(tl_session *session, const int32_t *ids, size_t n, float *logprobs, tl_error *err);

#ifdef __cplusplus
}
#endif
#endif
