/* bpe.h — the inside of a tokenizer, shared by the files of this room that build, encode, decode, train and save one.
 *
 * A text goes through four stations: added tokens are found in it; what lies between is normalised (norm), cut into
 * pieces (pre), and each piece becomes ids (the model). Ids become text by the decoder's steps (decode). */
#ifndef TL_TEXT_BPE_H
#define TL_TEXT_BPE_H

#include "text/normalize.h"
#include "text/pretokenize.h"
#include "text/tokenizer.h"

typedef enum tl_model_kind {
    TL_MODEL_BYTES,  /* byte-level BPE: merges by rank, from the 256 bytes */
    TL_MODEL_CHARS,  /* BPE from characters: merges by rank */
    TL_MODEL_SCORES, /* BPE from characters: any two neighbours whose texts joined are a token, by that token's score */
    TL_MODEL_UNIGRAM /* the sequence of tokens of the best sum of scores */
} tl_model_kind;

/* What one id stands for: its text as tokenizer.json spells it, and the bytes that it decodes to. */
typedef struct tl_token {
    uint32_t text_at, text_n;
    uint32_t bytes_at, bytes_n;
    uint32_t first_at, first_n; /* the same where it is the first of a text: without its marks */
    bool present; /* false: a gap between ids */
    bool model;   /* in the model's vocabulary (an added token need not be) */
    bool added, special;
    bool byte;   /* "<0xE2>" to a decoder with byte fallback */
    bool unused; /* UNIGRAM: found like another, but its score does not count as the lowest */
} tl_token;

/* A token that is found in the text before it is cut. raw: before normalising (the others are matched on the normalised
 * text, by their own text normalised). */
typedef struct tl_added {
    int32_t id;
    bool special, raw, single_word, lstrip, rstrip;
    uint32_t key_at, key_n; /* what is matched, in the tokenizer's texts */
} tl_added;

/* Added tokens of one round: by first byte, then length (longest first), then bytes. */
typedef struct tl_added_index {
    int *order;     /* into added */
    int *group_end; /* [n]: where the tokens of the same first byte and length end */
    int n, first[257];
} tl_added_index;

typedef struct tl_merge {
    int32_t left, right, made;
} tl_merge;

typedef enum tl_decode_kind {
    TL_DECODE_BYTE_LEVEL,    /* characters that stand for bytes become these */
    TL_DECODE_REPLACE,       /* pattern by text, in each token */
    TL_DECODE_METASPACE,     /* the mark (pattern) becomes a space; strip: in the first token, nothing */
    TL_DECODE_BYTE_FALLBACK, /* <0xE2> becomes a byte */
    TL_DECODE_FUSE,          /* tokens become one text: what follows works on the whole */
    TL_DECODE_STRIP          /* at most `left` times text at the beginning, `right` times at the end */
} tl_decode_kind;

typedef struct tl_decode {
    tl_decode_kind kind;
    tl_pattern *pattern;
    char *text;
    size_t text_n;
    int left, right;
    bool strip;
} tl_decode;

enum { TL_AFFIX_MOST = 4, TL_STEPS_MOST = 32 };

typedef struct tl_encode_scratch tl_encode_scratch;

struct tl_tokenizer {
    tl_model_kind model;
    tl_norm norm[TL_STEPS_MOST];
    tl_pre pre[TL_STEPS_MOST];
    tl_decode decode[TL_STEPS_MOST];
    int n_norm, n_pre, n_decode;
    bool plain;       /* nothing to normalise, one scanner, bytes: the common case has a loop of its own */
    bool mapped;      /* BYTES: pieces come spelled in the characters that stand for bytes */
    bool whole_words; /* ignore_merges: a piece that is a token is not merged but taken */
    bool fuse_unk, byte_fallback;
    int unk;        /* −1: what is in no token vanishes */
    int vocab;      /* ids are below it */
    int model_size; /* entries of the model's vocabulary */
    int bos, eos, pad;
    int32_t prefix[TL_AFFIX_MOST], suffix[TL_AFFIX_MOST]; /* what add_special_tokens=True puts around a text */
    int n_prefix, n_suffix;
    int64_t id_limit; /* ids must be below it: a small file must not ask for a large table */
    tl_token *token;  /* [vocab] */
    int token_room;
    size_t longest_bytes; /* that a token decodes to */
    char *text; /* the texts and bytes of all tokens */
    size_t text_used, text_room;
    int32_t byte_id[256]; /* BYTES: the byte's token; else that of "<0xE2>", −1: none */

    uint64_t *id_of_text; /* hash table of (hash, id + 1) over texts; size a power of two */
    size_t id_of_text_size, texts;
    int again; /* tokens whose text an earlier one has, too */
    uint32_t *id_of_bytes; /* ids + 1 over bytes of the model's tokens; only BYTES with whole_words */
    size_t id_of_bytes_size;

    tl_merge *merge; /* [n_merges], by rank */
    int n_merges, merge_room;
    struct tl_pair_slot {
        uint64_t pair; /* left << 32 | right; all ones: free */
        int32_t rank;
    } * pair_slot;
    size_t pair_slots;       /* a power of two */
    int32_t *byte_pair_rank; /* BYTES [256 × 256]: rank of the merge of two bytes; INT32_MAX: none */

    /* Models over characters */
    int32_t *char_id;   /* [65536]: the token that is one character, −1: none */
    bool cuts;          /* a piece may be cut before each ▁ … */
    bool keeps[256];    /* … unless the byte before is the last of a character that some token has before a ▁ */
    size_t longest;     /* bytes of the longest text of the model's tokens */
    double *score;      /* [score_n], SCORES and UNIGRAM: of the model's tokens */
    int score_n;
    double unk_score;   /* UNIGRAM */
    struct tl_trie_slot {
        uint64_t edge; /* node << 8 | byte, + 1; 0: free */
        uint32_t node, id; /* id + 1 of the token that ends there */
    } * trie;
    size_t trie_size, trie_used;

    tl_added *added;
    int n_added, added_room;
    tl_added_index raw, normal;

    char *json, *config; /* the files it was read from, byte for byte, to be written again; NULL: we made it */
    size_t json_n, config_n;
    char *chat_template; /* from GGUF metadata, to be written into tokenizer_config.json */
    size_t chat_template_n;

    struct tl_scratches *scratches; /* caches of encoding, one a running thread */
};

/* Building: a new one is empty. Tokens come in any order of ids; text is tokenizer.json's spelling. */
int tl__bpe_new(tl_tokenizer **tok, tl_error *err);
int tl__bpe_add_token(tl_tokenizer *tok, const char *text, size_t n, int64_t id, const char *where, tl_error *err);
/* The same with the hash that will_add gave; but where the text is another's already, or empty, the id only decodes:
 * *nameless. */
int tl__bpe_add_or_nameless(tl_tokenizer *tok, const char *text, size_t n, uint64_t hash, int64_t id, bool *nameless,
                            const char *where, tl_error *err);
/* A text that will be added in a moment: its place in a large table comes into the cache meanwhile. Its hash. */
uint64_t tl__bpe_will_add(const tl_tokenizer *tok, const char *text, size_t n);
int tl__bpe_find(const tl_tokenizer *tok, const char *text, size_t n); /* −1: none */
int tl__bpe_add_merge(tl_tokenizer *tok, int left, int right, int made, tl_error *err);
/* An added token, as `about` says (its id and key are set here); its id must be the model's if its text is in the
 * vocabulary. */
int tl__bpe_add_added(tl_tokenizer *tok, const char *text, size_t n, int64_t id, tl_added about, const char *where,
                      tl_error *err);
/* Room for so many tokens and bytes of text before the first, so that opening a large vocabulary moves nothing. */
int tl__bpe_expect(tl_tokenizer *tok, int tokens, size_t text_bytes, tl_error *err);
/* Byte-level BPE after one scanner, as we train and most models have it. */
void tl__bpe_set_plain(tl_tokenizer *tok, tl_split split);
/* Builds what encoding needs. */
int tl__bpe_finish(tl_tokenizer *tok, const char *where, tl_error *err);
/* Appends n bytes to the tokenizer's texts; their place, or −1 when memory or the 4 GiB of places end. */
int64_t tl__bpe_keep(tl_tokenizer *tok, const void *bytes, size_t n);

/* Rank of merging two ids, INT32_MAX if they do not merge. */
static inline int32_t tl__bpe_rank(const tl_tokenizer *tok, int32_t left, int32_t right) {
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t mask = tok->pair_slots - 1;
    for (size_t at = (pair * 0x9E3779B97F4A7C15u) >> 20 & mask;; at = (at + 1) & mask) {
        if (tok->pair_slot[at].pair == pair) return tok->pair_slot[at].rank;
        if (tok->pair_slot[at].pair == ~(uint64_t)0) return INT32_MAX;
    }
}

/* SCORES: rank of a token's score, lowest for the highest, equal for equal ones. A float's bits order as the float does
 * once negative ones are turned over. */
static inline int32_t tl__bpe_score_rank(const tl_tokenizer *tok, int32_t id) {
    const float score = (float)tok->score[id] + 0.0f; /* −0 is 0 */
    int32_t bits;
    memcpy(&bits, &score, sizeof bits);
    return ~(bits < 0 ? bits ^ INT32_MAX : bits);
}

/* The token that is this one character, −1: none. */
static inline int tl__bpe_char(const tl_tokenizer *tok, uint32_t c, const uint8_t *s, size_t n) {
    return c < 0x10000 ? tok->char_id[c] : tl__bpe_find(tok, (const char *)s, n);
}

/* unigram.c: builds the trie and the score of the unknown; the ids of a piece. */
#define TL_UNKNOWN_PENALTY 10.0 /* of an unknown character, below the lowest score (sentencepiece's kUnkPenalty) */
int tl__unigram_finish(tl_tokenizer *tok, const char *where, tl_error *err);
/* Calls put for each id; false: no memory. room is scratch that grows. */
bool tl__unigram_encode(const tl_tokenizer *tok, const uint8_t *s, size_t n, tl_textbuf *room,
                        void (*put)(void *user, int32_t id), void *user);

/* decode.c: fills in each token's bytes by the decoder's steps. */
int tl__decode_finish(tl_tokenizer *tok, const char *where, tl_error *err);
void tl__decode_free(tl_decode *step);

/* Reading (tokenizer_json.c) and writing (tokenizer_print.c) tokenizer.json. */
int tl__tokenizer_parse(tl_tokenizer **tok, const char *json, size_t n, const char *where, tl_error *err);
char *tl__tokenizer_print(const tl_tokenizer *tok, size_t *n); /* free() it; NULL: out of memory */
char *tl__tokenizer_print_config(const tl_tokenizer *tok, size_t *n);

void tl__encode_scratches_close(struct tl_scratches *scratches);
struct tl_scratches *tl__encode_scratches_open(void);

#endif
