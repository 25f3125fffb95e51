/* engine.h — a model folder or a GGUF file made ready to compute: its configuration, tokenizer, weights, operators. The
 * public tl_engine (trilith.h), seen from inside. */
#ifndef TL_INFER_ENGINE_H
#define TL_INFER_ENGINE_H

#include "model/model.h"
#include "text/tokenizer.h"

struct tl_engine {
    char folder[4096]; /* where config.json lies, or the GGUF file */
    tl_arch arch;
    bool has_tokenizer;       /* the model's files hold one */
    tl_tokenizer *tokenizer;  /* NULL: it has none, or has only begun */
    tl_weight_source *source; /* its headers; NULL once loaded */
    tl_ctx ctx;
    tl_model model; /* .weight NULL until loaded */
    void *scratch;  /* of the sampler; NULL until loaded */
    const atomic_bool *stop; /* set before loading: once it is true, loading gives up with TL_ESTOPPED; NULL: it cannot */
};

/* The model that `given` means: a folder, the newest checkpoint of a run folder, or a GGUF file, which may be the only
 * one of a folder. */
int tl__model_folder(char *out, size_t size, const char *given, tl_error *err);
/* Reads configuration and the weights' headers: milliseconds. Close it after a failure too. */
int tl__engine_begin(tl_engine *engine, const char *given, tl_error *err);
/* The same, then the tokenizer; needed: one that is not there is an error. */
int tl__engine_open(tl_engine *engine, const char *given, bool needs_tokenizer, tl_error *err);
/* What loading and a session will take, before either: bytes. */
typedef struct tl_engine_size {
    tl_model_size weights;
    int64_t kv;          /* of the session's capacity */
    int64_t activations; /* of its chunk */
    int64_t scoring;     /* logits, which only scoring touches */
    int64_t workspace;   /* of the operators, by thread, and the sampler's */
    int64_t program;     /* what this process has in memory now: itself and the tokenizer */
    int64_t generating;  /* all but scoring */
} tl_engine_size;
int tl__engine_size(tl_engine_size *size, const tl_engine *engine, const tl_engine_options *options, int capacity,
                    int chunk, tl_error *err);
/* Weights and operators; the tokenizer beside them, where the engine has only begun. */
int tl__engine_load(tl_engine *engine, const tl_engine_options *options, tl_error *err);
void tl__engine_close(tl_engine *engine);

/* The ids that end a text: config.json and the tokenizer may each name one. Returns their number. */
int tl__engine_ends(const tl_engine *engine, int32_t id[2]);
bool tl__engine_ends_text(const tl_engine *engine, int32_t id);
/* The id that stands before every text; −1: none. */
int tl__engine_begin_id(const tl_engine *engine);

/* Ids of a text, malloc'd, after the id that begins a text where the model expects it; `what` names it in errors.
 * Invalid UTF-8 is replaced, and said. Returns their number or a status. */
int64_t tl__engine_encode(const tl_engine *engine, int32_t **ids, const char *text, size_t n, bool special,
                          const char *what, tl_error *err);

#endif
