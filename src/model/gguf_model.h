/* gguf_model.h — what a GGUF file says about a model, in Trilith's terms: its architecture, and which tensor holds
 * which parameter.
 *
 * The conventions are those of llama.cpp's converter (https://github.com/ggml-org/llama.cpp, conversion/): llama and
 * smollm3 keep rows of queries and keys ordered for rotation of neighbours, Gemma's gains are stored with their 1
 * added, GPT-2's matrices are [out, in], and the experts of a layer are one tensor. */
#ifndef TL_MODEL_GGUF_MODEL_H
#define TL_MODEL_GGUF_MODEL_H

#include "io/gguf.h"
#include "model/arch.h"

/* ---- architecture ---- */

/* As from a config.json: the layout is Hugging Face's, and gains lack their 1, whatever the file's. A key below the
 * architecture's name that is not known here is refused, since it might change the result. */
int tl__arch_from_gguf(tl_arch *arch, const tl_gguf *gguf, tl_error *err);
/* "llama", "qwen3moe", …: general.architecture and the prefix of its keys; NULL: GGUF has no such family. */
const char *tl__gguf_arch_name(const tl_arch *arch);
/* general.architecture and all that lies below it. What a reader would not get back is refused by the name that it has
 * in config.json. Tokens' ids go with the tokenizer. */
int tl__arch_to_gguf(tl_gguf_out *out, const tl_arch *arch, tl_error *err);
/* "rope_freqs.weight" [D/2], by which Llama 3 divides its frequencies; false: the model has none. */
bool tl__gguf_rope_factors(float *out, const tl_arch *arch);

/* ---- parameters ---- */

/* A parameter's place in a GGUF file, and how what lies there differs from it. */
typedef struct tl_gguf_place {
    char name[64];
    int expert;      /* which of the E slices of a tensor [E, …]; −1: all of it */
    int heads;       /* > 0: rows are ordered for rotation of neighbours within each of so many heads */
    bool transposed; /* the tensor is [out, in], the parameter [in, out] */
    float add;       /* the tensor is the parameter plus this */
} tl_gguf_place;

/* Of params->list[i]; false: GGUF has no name for it in this family. */
bool tl__gguf_place(tl_gguf_place *place, const tl_arch *arch, const tl_params *params, int i);
/* The other way: which parameter a tensor holds (of experts, expert 0's); −1: none. */
int tl__gguf_param(const tl_arch *arch, const tl_params *params, const char *name);
/* Row of the tensor in which the parameter's row r lies, of `rows` in so many heads; r where heads is 0. Its inverse is
 * tl__gguf_param_row. */
int64_t tl__gguf_row(int64_t r, int64_t rows, int heads);
int64_t tl__gguf_param_row(int64_t r, int64_t rows, int heads);

#endif
