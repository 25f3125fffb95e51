/* Any bytes as a tokenizer.json: a sentence, or a tokenizer that encodes and decodes whatever text, prints itself, and
 * is read back as the same. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "text/bpe.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const tl_tokenizer *tok, const uint8_t *text, size_t n, bool special) {
    int64_t replaced = 0;
    int32_t *ids = malloc((3 * n + 1) * sizeof *ids);
    int64_t count = tl__tokenizer_encode(tok, (const char *)text, n, special, ids, 3 * n + 1, &replaced);
    if (count < 0 || count > (int64_t)(3 * n) || replaced > (int64_t)n) abort();
    if (tl__tokenizer_safe_cut(tok, (const char *)text, n) > n) abort();
    size_t room = tl__tokenizer_decode_room(tok);
    char *out = malloc(room);
    tl_decoder d = {0};
    for (int64_t i = 0; i < count; i++) {
        if (ids[i] < 0 || ids[i] >= tl__tokenizer_vocab(tok)) abort();
        size_t got = tl__decoder_push(tok, &d, ids[i], !special, out);
        if (got > room || tl__utf8_valid((uint8_t *)out, got) != got) abort();
    }
    if (tl__decoder_finish(&d, out) > 3) abort();
    free(out);
    free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    tl_tokenizer *tok = NULL, *again = NULL;
    tl_error err = {0};
    if (tl__tokenizer_parse(&tok, (const char *)data, size, "input", &err)) {
        if (err.status >= 0 || !err.text[0]) abort();
        return 0;
    }
    size_t some = size < 2000 ? size : 2000;
    use(tok, data, some, true);
    use(tok, data + size - some, some, false);
    size_t n = 0;
    char *printed = tl__tokenizer_print(tok, &n);
    if (!printed || tl__tokenizer_parse(&again, printed, n, "printed", &err)) abort();
    char one[33], two[33];
    tl__tokenizer_hash(tok, one);
    tl__tokenizer_hash(again, two);
    if (strcmp(one, two) != 0 && tok->n_added < 2)
        abort(); /* added tokens are printed by id, whatever their order was */
    tl__tokenizer_close(again);
    tl__tokenizer_close(tok);
    free(printed);
    return 0;
}
