/* shard.h — a prepared dataset as files: what dataset_prepare.c writes and dataset.c reads.
 *
 * A folder holds shard-00000.ids … (a header, then token ids of 2 or 4 bytes, little-endian), documents.starts (a
 * header, then the first token of each document as uint64, increasing from 0) and index.json, which is written last: a
 * folder without it is unfinished. All is a function of sources, tokenizer and settings, so two processes that prepare
 * the same write the same. */
#ifndef TL_TEXT_SHARD_H
#define TL_TEXT_SHARD_H

#include "text/dataset.h"

#define TL_SHARD_MAGIC "TLIDS\0\0\1"
#define TL_STARTS_MAGIC "TLDOCS\0\1"
enum { TL_SHARDS_MOST = 1 << 20, TL_DATASET_FORMAT = 1 };

typedef struct tl_shard_header { /* the first 64 bytes of either kind of file */
    char magic[8];
    uint32_t elem_bytes; /* 2, 4; 8 for starts */
    uint32_t vocab;
    uint64_t first; /* index of the file's first token; 0 for starts */
    uint64_t count; /* elements; 0 in shards, whose count stands in index.json and is what the file's size says */
    unsigned char zero[32];
} tl_shard_header;
_Static_assert(sizeof(tl_shard_header) == 64, "data begins on a cache line");

/* index.json */
typedef struct tl_dataset_index {
    int64_t tokens, bytes, documents, invalid_utf8, vocab;
    int id_bytes, n_shards;
    int64_t *shard_tokens; /* [n_shards], malloc'd */
    char key[33];          /* of sources, tokenizer and settings */
    char content[33];      /* XXH3-128 of the ids */
} tl_dataset_index;

/* Reads and checks an index's text; free(index->shard_tokens). */
int tl__dataset_index_parse(tl_dataset_index *index, const char *json, size_t n, const char *where, tl_error *err);

/* Name of shard i within the folder. */
void tl__shard_name(char *out, size_t size, int i);

/* Tokenises the sources into folder; the index is written last. */
int tl__dataset_prepare(const char *folder, const char *key, const tl_dataset_options *options, tl_error *err);

/* Opens a prepared folder. options: T, val_fraction and pool; vocab: of the tokenizer, which the ids must be below.
 * key: what the index must carry, NULL: any. */
int tl__dataset_open_folder(tl_dataset **data, const char *folder, const char *key, int64_t vocab,
                            const tl_dataset_options *options, tl_error *err);

#endif
