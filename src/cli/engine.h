/* engine.h — what the commands that use a model open: its folder, tokenizer, weights, operators. */
#ifndef TL_CLI_ENGINE_H
#define TL_CLI_ENGINE_H

#include "model/model.h"
#include "text/tokenizer.h"

typedef struct tl_engine {
    char folder[4096]; /* where config.json lies */
    tl_arch arch;
    tl_tokenizer *tokenizer; /* NULL: the folder has none */
    tl_ctx ctx;
    tl_model model; /* .weight NULL until opened */
} tl_engine;

/* The model folder that `given` means: itself, or the newest checkpoint of a run folder. */
int tl__model_folder(char *out, size_t size, const char *given, tl_error *err);
/* Reads config.json and tokenizer.json only: milliseconds. Close it after a failure too. */
int tl__engine_open(tl_engine *engine, const char *given, bool needs_tokenizer, tl_error *err);
/* Weights, for sequences of at most `positions`, and operators on `threads` (0: all CPUs). */
int tl__engine_load(tl_engine *engine, int positions, int64_t threads, tl_error *err);
void tl__engine_close(tl_engine *engine);

/* Ids of a text, malloc'd; `what` names it in errors. Invalid UTF-8 is replaced, and said. Returns their number or a
 * status. */
int64_t tl__engine_encode(const tl_engine *engine, int32_t **ids, const char *text, size_t n, bool special,
                          const char *what, tl_error *err);

#endif
