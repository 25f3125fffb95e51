/* Any bytes as a GGUF file: a sentence, or a tokenizer that encodes and decodes whatever text and prints itself. */
#include "folder.h"
#include "heap.h"
#include "tokenizer_use.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    make_folder();
    put_file("model.gguf", data, size);
    char path[128];
    snprintf(path, sizeof path, "%s/model.gguf", folder);
    tl_gguf *gguf = NULL;
    tl_tokenizer *tok = NULL;
    tl_error err = {0};
    if (tl__gguf_open(&gguf, path, &err)) return 0;
    heap_watch();
    int status = tl__tokenizer_from_gguf(&tok, gguf, &err);
    heap_check((size_t)8 << 20, 64, size); /* as fuzz_tokenizer_json.c */
    tl__gguf_close(gguf); /* the tokenizer keeps nothing of it */
    if (status) {
        if (status >= 0 || !err.text[0]) abort();
        return 0;
    }
    use_tokenizer(tok, data, size);
    size_t n = 0;
    char *printed = tl__tokenizer_print(tok, &n);
    if (!printed) abort();
    free(printed);
    tl__tokenizer_close(tok);
    return 0;
}
