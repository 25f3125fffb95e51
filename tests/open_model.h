/* open_model.h — a model for use from a folder, in the types of its file, as tests inside the library need one. */
#ifndef TL_TESTS_OPEN_MODEL_H
#define TL_TESTS_OPEN_MODEL_H

#include "model/model.h"

static inline int open_model(tl_model *model, const char *path, tl_error *err) {
    tl_weight_source *source;
    tl_arch arch;
    int status = tl__source_open(&source, path, err);
    if (status) return status;
    status = tl__source_arch(&arch, source, err);
    if (!status) return tl__model_open(model, source, &arch, 0, TL_DTYPE_AUTO, NULL, NULL, NULL, err);
    tl__source_close(source);
    return status;
}

#endif
