/* bpe.h — the inside of a tokenizer, shared by the files of this room that build, encode, decode, train and save one.
 */
#ifndef TL_TEXT_BPE_H
#define TL_TEXT_BPE_H

#include "text/presplit.h"
#include "text/tokenizer.h"

/* What one id stands for: its text as tokenizer.json spells it, and the bytes that it decodes to. */
typedef struct tl_token {
    uint32_t text_at, text_n;
    uint32_t bytes_at, bytes_n;
    bool present; /* false: a gap between ids */
    bool model;   /* in the model's vocabulary (an added token need not be) */
    bool added, special;
} tl_token;

/* A token that is found in the text before pre-splitting. raw: before the ones that are not (the library matches those
 * "on the normalized text", after). */
typedef struct tl_added {
    int32_t id;
    bool special, raw;
} tl_added;

typedef struct tl_merge {
    int32_t left, right, made;
} tl_merge;

typedef struct tl_encode_scratch tl_encode_scratch;

struct tl_tokenizer {
    tl_split split;
    bool whole_words; /* ignore_merges: a pre-token that is a token is not merged but taken */
    int vocab;        /* ids are below it */
    int model_size;   /* entries of the model's vocabulary */
    int eos;
    int64_t id_limit; /* ids must be below it: a small file must not ask for a large table */
    tl_token *token;  /* [vocab] */
    int token_room;
    char *text; /* the texts and bytes of all tokens */
    size_t text_used, text_room;
    int32_t byte_id[256];

    uint32_t *id_of_text; /* hash table of id + 1 over texts; size a power of two */
    size_t id_of_text_size;
    uint32_t *id_of_bytes; /* the same over bytes of the model's tokens; only with whole_words */
    size_t id_of_bytes_size;

    tl_merge *merge; /* [n_merges], by rank */
    int n_merges, merge_room;
    struct tl_pair_slot {
        uint64_t pair; /* left << 32 | right; all ones: free */
        int32_t rank;
    } * pair_slot;
    size_t pair_slots;       /* a power of two */
    int32_t *byte_pair_rank; /* [256 × 256]: rank of the merge of two bytes; INT32_MAX: none */

    tl_added *added;
    int n_added, added_room;
    int *added_order;     /* [n_added]: by first byte, then length, longest first */
    int added_first[257]; /* where a first byte's tokens start in added_order */

    char *json, *config; /* the files it was read from, byte for byte, to be written again; NULL: we made it */
    size_t json_n, config_n;
    char hash[33];

    struct tl_scratches *scratches; /* caches of encoding, one a running thread */
};

/* Building: a new one is empty. Tokens come in any order of ids; text is tokenizer.json's spelling. */
int tl__bpe_new(tl_tokenizer **tok, tl_error *err);
int tl__bpe_add_token(tl_tokenizer *tok, const char *text, size_t n, int64_t id, const char *where, tl_error *err);
int tl__bpe_find(const tl_tokenizer *tok, const char *text, size_t n); /* −1: none */
int tl__bpe_add_merge(tl_tokenizer *tok, int left, int right, int made, tl_error *err);
/* An added token; its id must be the model's if its text is in the vocabulary. */
int tl__bpe_add_added(tl_tokenizer *tok, const char *text, size_t n, int64_t id, bool special, bool raw,
                      const char *where, tl_error *err);
/* Builds what encoding needs; refuses a vocabulary that lacks one of the 256 bytes. */
int tl__bpe_finish(tl_tokenizer *tok, const char *where, tl_error *err);

/* Rank of merging two ids, INT32_MAX if they do not merge. */
static inline int32_t tl__bpe_rank(const tl_tokenizer *tok, int32_t left, int32_t right) {
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t mask = tok->pair_slots - 1;
    for (size_t at = (pair * 0x9E3779B97F4A7C15u) >> 20 & mask;; at = (at + 1) & mask) {
        if (tok->pair_slot[at].pair == pair) return tok->pair_slot[at].rank;
        if (tok->pair_slot[at].pair == ~(uint64_t)0) return INT32_MAX;
    }
}

/* The 256 characters that stand for bytes in tokenizer.json: printable ones for themselves, the rest from U+0100 on. */
uint32_t tl__byte_char(uint8_t byte);
int tl__char_byte(uint32_t c); /* −1: stands for no byte */

/* Reading and writing tokenizer.json (tokenizer_json.c). */
int tl__tokenizer_parse(tl_tokenizer **tok, const char *json, size_t n, const char *where, tl_error *err);
char *tl__tokenizer_print(const tl_tokenizer *tok, size_t *n); /* free() it; NULL: out of memory */

void tl__encode_scratches_close(struct tl_scratches *scratches);
struct tl_scratches *tl__encode_scratches_open(void);

#endif
