/* source.h — where a model's weights come from: a folder of safetensors or a GGUF file, told apart here alone.
 *
 * After tl__source_match a caller asks by parameter and gets its numbers in its own order, whatever the file's: experts
 * cut out of their common tensor, rows put back, a matrix turned, Gemma's 1 taken off. Reading is safe from several
 * threads. */
#ifndef TL_MODEL_SOURCE_H
#define TL_MODEL_SOURCE_H

#include "io/gguf.h"
#include "io/safetensors.h"
#include "model/arch.h"

typedef struct tl_weight_source tl_weight_source;

/* path: a folder (config.json and safetensors, or one .gguf and no config.json), or a GGUF file. Reads headers only. */
int tl__source_open(tl_weight_source **source, const char *path, tl_error *err);
void tl__source_close(tl_weight_source *source);
/* The GGUF file that a path means, in out[size]: itself, or the only one of a folder without config.json. "" where it
 * means none; an error where a folder holds several. */
int tl__source_gguf_path(char *out, size_t size, const char *path, tl_error *err);
const char *tl__source_path(const tl_weight_source *source);                  /* of the folder or the file */
const tl_gguf *tl__source_gguf(const tl_weight_source *source);               /* NULL: it is a folder of safetensors */
const tl_safetensors *tl__source_safetensors(const tl_weight_source *source); /* NULL: it is a GGUF file */
/* The architecture that it says it has, in Hugging Face's layout. */
int tl__source_arch(tl_arch *arch, const tl_weight_source *source, tl_error *err);
/* How matrices lie in it: what an architecture should say whose matrices are to be used without being turned. */
tl_layout tl__source_layout(const tl_weight_source *source, const tl_arch *arch);

/* Every parameter has its tensor, in its shape and of a type that can be read, and no tensor is left over. Reads no
 * weights. params belong to arch, whose layout may be either. */
int tl__source_match(tl_weight_source *source, const tl_arch *arch, const tl_params *params, tl_error *err);

tl_type tl__source_type(const tl_weight_source *source, int i);
/* Parameter i whole, where it lies mapped in its own order and needs nothing done to it; else NULL. */
const void *tl__source_data(const tl_weight_source *source, int i);
/* Rows [first, first + n) of a matrix in the parameter's order, as stored. One that is turned is best asked for whole.
 */
int tl__source_rows(const tl_weight_source *source, int i, int64_t first, int64_t n, void *out, tl_error *err);
/* Is it stored [in, out] and wanted [out, in], or the other way round? */
bool tl__source_turns(const tl_weight_source *source, int i);
/* The parameter whole, widened, in its own order. */
int tl__source_read_f32(const tl_weight_source *source, int i, float *out, tl_error *err);
/* The tensor's rows [first, first + n), as far as it has them, will not be asked for again soon: their pages need not
 * stay in memory. */
void tl__source_release(const tl_weight_source *source, int i, int64_t first, int64_t n);

#endif
