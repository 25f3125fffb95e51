/* convert_parts.h — what convert.c and convert_metadata.c share. */
#ifndef TL_MODEL_CONVERT_PARTS_H
#define TL_MODEL_CONVERT_PARTS_H

#include "model/convert.h"
#include "model/gguf_model.h"
#include "model/source.h"

typedef struct tl_conversion {
    const tl_convert *job;
    tl_weight_source *source;
    bool to_gguf, same_form;
    tl_arch arch; /* unless same_form */
    tl_params params;
    tl_type most; /* the type of most of the output's elements */
} tl_conversion;

/* All keys of the output, to be followed by its tensors. */
int tl__convert_keys(const tl_conversion *c, tl_gguf_out *out, tl_error *err);
/* All files of the output folder but its weights; config.json is the last. */
int tl__convert_files(const tl_conversion *c, tl_error *err);

#endif
