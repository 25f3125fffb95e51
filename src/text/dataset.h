/* dataset.h — text files tokenised once into shards, then served as training samples by index.
 *
 * Preparing reads each source in ranges, never whole; tokenises with all threads; writes shards of token ids (uint16
 * where the vocabulary allows, else uint32) with the offsets of documents into a folder, and index.json last (a folder
 * without it is unfinished and is made anew). The folder's name carries the hash of sources (path, size, mtime,
 * contents' sampled hash), tokenizer and settings, so that it is found again by the next run.
 *
 * A document: a plain-text file; a line of a .jsonl file (its text_key). Documents are joined, each ended by EOS if the
 * tokenizer has one. Sample i is the window of T+1 tokens at i·T of the joined stream: inputs its first T, targets its
 * last T. Validation samples are the last val_fraction of windows (at least one if any were asked for), never trained
 * on. */
#ifndef TL_TEXT_DATASET_H
#define TL_TEXT_DATASET_H

#include "text/tokenizer.h"

typedef struct tl_dataset tl_dataset;

typedef struct tl_dataset_options {
    const char *const *paths;
    int n_paths;
    const char *text_key;     /* NULL: "text" */
    const char *cache_folder; /* where prepared folders live; made if absent */
    const tl_tokenizer *tokenizer;
    tl_pool *pool;
    int T; /* tokens a sample */
    double val_fraction;
    void (*progress)(void *user, int64_t done_bytes, int64_t total_bytes); /* may be NULL */
    void *user;
} tl_dataset_options;

typedef struct tl_dataset_facts {
    int64_t tokens, bytes, documents; /* bytes of text after decompression, within documents */
    int64_t train_samples, val_samples;
    int64_t invalid_utf8;         /* replaced by U+FFFD */
    int max_documents_per_sample; /* sequences that a window can be cut into */
    double bytes_per_token;
    bool reused;   /* prepared earlier */
    char hash[33]; /* over token contents and settings: equal on resume or refused */
} tl_dataset_facts;

/* Errors: missing or unreadable source, shorter than one sample (T+1 tokens), a JSONL line without the key (by file and
 * line). */
int tl__dataset_open(tl_dataset **data, const tl_dataset_options *options, tl_error *err);
void tl__dataset_close(tl_dataset *data);
const tl_dataset_facts *tl__dataset_facts(const tl_dataset *data);

/* Sample `index` of the training order: epoch = index / train_samples; within it a keyed permutation (tl__permute with
 * seed). */
/* input[T], target[T], pos[T]: position within the document (restarts after each EOS when document_mask, else 0 … T−1).
 * target is −1 where the next token belongs to another document (only with document_mask). No heap call. */
int tl__dataset_train_sample(const tl_dataset *data, uint64_t seed, int64_t index, bool document_mask, int32_t *input,
                             int32_t *target, int32_t *pos, tl_error *err);
/* That sample will be asked for soon: its part of the shards is fetched meanwhile. No heap call. */
void tl__dataset_will_need(const tl_dataset *data, uint64_t seed, int64_t index);
int tl__dataset_val_sample(const tl_dataset *data, int64_t index, bool document_mask, int32_t *input, int32_t *target,
                           int32_t *pos, tl_error *err);

#endif
