/* tokenizer_vectors.h — the answers of the `tokenizers` library, kept in tests/vectors/tokenizer
 * (tools/make_tokenizer_vectors.py). */
#ifndef TL_TESTS_TEXT_TOKENIZER_VECTORS_H
#define TL_TESTS_TEXT_TOKENIZER_VECTORS_H

#include "base/json.h"
#include "files.h"

#define VECTORS TL_SOURCE_DIR "/tests/vectors/tokenizer/"

static inline json_t *vector(const char *name) {
    char path[512], *bytes;
    size_t n;
    tl_error err = {0};
    snprintf(path, sizeof path, VECTORS "%s", name);
    if (tl__file_slurp(&bytes, &n, path, 64 << 20, &err)) fail_msg("%s", err.text);
    json_t *root = json_loadb(bytes, n, JSON_ALLOW_NUL, NULL);
    assert_non_null(root);
    free(bytes);
    return root;
}

#endif
