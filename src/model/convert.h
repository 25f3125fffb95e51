/* convert.h — a model from one form to another: a Hugging Face folder or a GGUF file in, either out, its weights as
 * they are or in another type.
 *
 * Between the two forms tensors are renamed, rows reordered, experts joined or parted, as gguf_model.h says. Within one
 * form tensors and metadata are copied as they lie, known or not, and only weights whose type changes are touched.
 * Memory is a few chunks of a tensor, whatever the model's size. */
#ifndef TL_MODEL_CONVERT_H
#define TL_MODEL_CONVERT_H

#include "base/threads.h"
#include "base/type.h"

typedef struct tl_convert {
    const char *in;      /* a folder or a GGUF file (the first of its parts) */
    const char *out;     /* ends in ".gguf": such a file; else a folder */
    tl_type type;        /* of matrices; TL_TYPES: as they are (to a folder: those that are quantised as F32) */
    int64_t shard_bytes; /* of a folder's files, at most, where no tensor alone is larger; 0: one file */
    bool overwrite;
    tl_pool *pool;
} tl_convert;

typedef struct tl_converted {
    int files, tensors[TL_TYPES];
    int64_t elements[TL_TYPES], bytes; /* written */
    int demoted;                       /* tensors whose rows are no whole blocks of the type */
} tl_converted;

/* Nothing is left where it fails, unless in a folder, which then lacks its config.json. */
int tl__convert(const tl_convert *job, tl_converted *done, tl_error *err);

#endif
