/* Any bytes as a tokenizer.json: a sentence, or a tokenizer that encodes and decodes whatever text, prints itself, and
 * is read back as the same. */
#include "heap.h"
#include "tokenizer_use.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    tl_tokenizer *tok = NULL, *again = NULL;
    tl_error err = {0};
    heap_watch();
    int rc = tl__tokenizer_parse(&tok, (const char *)data, size, "input", &err);
    heap_check((size_t)8 << 20, 64, size); /* a record for each of 65,536 ids and twice as many as tokens */
    if (rc) {
        if (err.status >= 0 || !err.text[0]) abort();
        return 0;
    }
    use_tokenizer(tok, data, size);
    size_t n = 0;
    char *printed = tl__tokenizer_print(tok, &n);
    if (!printed) abort();
    /* Tokens of several rounds or texts are printed by id, whatever their order was; a space before bytes is printed
     * as a step of its own. */
    bool same = tok->n_added < 2;
    for (int i = 0; i < tok->n_pre; i++) same &= tok->pre[i].kind == TL_PRE_SCAN || tok->pre[i].kind == TL_PRE_SPLIT;
    same &= !tok->mapped && tok->model == TL_MODEL_BYTES;
    if (same) {
        if (tl__tokenizer_parse(&again, printed, n, "printed", &err)) abort();
        char one[33], two[33];
        tl__tokenizer_hash(tok, one);
        tl__tokenizer_hash(again, two);
        if (strcmp(one, two) != 0) abort();
        tl__tokenizer_close(again);
    }
    tl__tokenizer_close(tok);
    free(printed);
    return 0;
}
