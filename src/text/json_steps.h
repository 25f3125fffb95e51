/* json_steps.h — reading tokenizer.json, shared by the two files that do: who reads, and how it refuses. */
#ifndef TL_TEXT_JSON_STEPS_H
#define TL_TEXT_JSON_STEPS_H

#include "base/json.h"
#include "text/bpe.h"

typedef struct tl_token_reader {
    tl_tokenizer *tok;
    const char *where;
    tl_error *err;
} tl_token_reader;

int tl__reader_refuse(const tl_token_reader *r, const char *what, const char *value, const char *instead);
/* Every key of obj must be one of names (NULL-terminated): an unknown one could change ids. */
int tl__reader_only_keys(const tl_token_reader *r, const json_t *obj, const char *what, const char *const *names);
const char *tl__reader_type(const json_t *obj);
static inline bool tl__reader_absent(const json_t *value) {
    return !value || json_is_null(value);
}

int tl__read_normalizer(const tl_token_reader *r, const json_t *obj);
int tl__read_pre_tokenizer(const tl_token_reader *r, const json_t *obj);
int tl__read_decoder(const tl_token_reader *r, const json_t *obj);

#endif
