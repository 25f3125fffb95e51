/* text_source.h — documents from files, in blocks that can be worked on apart: for training a tokenizer and preparing a
 * dataset.
 *
 * A plain file is one document, cut into blocks of about a MiB where a pre-token must end; a .jsonl file (also .gz,
 * .zst) gives blocks of whole lines, each line a document. Blocks depend on the contents alone, never on threads. */
#ifndef TL_TEXT_TEXT_SOURCE_H
#define TL_TEXT_TEXT_SOURCE_H

#include "text/tokenizer.h"

enum { TL_BLOCK_SLACK_BYTES = 32 }; /* readable beyond a block's end */

typedef struct tl_block {
    char *bytes;
    size_t n, room;
    bool jsonl;
    bool ends_document; /* plain: the file's last block */
    int path;           /* index of its file */
    int64_t first_line; /* JSONL: number of its first line, from 1 */
} tl_block;

typedef struct tl_texts tl_texts;

/* cut: whose pre-tokens blocks of plain text respect; by_line: cut those at any line end instead. limit_bytes > 0: the
 * beginnings of the files, each in proportion to its size. Paths are borrowed. */
int tl__texts_open(tl_texts **texts, const char *const *paths, int n_paths, const tl_tokenizer *cut, bool by_line,
                   int64_t limit_bytes, tl_error *err);
/* The next block into *block (its buffer is reused and grows); 1, 0 at the end, or a negative status. */
int tl__texts_next(tl_texts *texts, tl_block *block, tl_error *err);
void tl__texts_progress(const tl_texts *texts, int64_t *done_bytes, int64_t *total_bytes); /* of the files as stored */
void tl__texts_close(tl_texts *texts);
void tl__block_free(tl_block *block);
bool tl__path_is_jsonl(const char *path);

/* The string under `key` of one JSON line, decoded into out (room for n bytes). Its length; −1: a blank line; −2: not a
 * JSON object, −3: no such key, −4: not a string there. Lone surrogates become U+FFFD and are counted. */
int64_t tl__jsonl_text(const char *line, size_t n, const char *key, char *out, int64_t *replaced);
/* The sentence for such a failure. */
int tl__jsonl_fail(int64_t what, const char *path, int64_t line, const char *key, tl_error *err);

#endif
