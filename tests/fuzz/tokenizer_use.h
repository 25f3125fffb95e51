/* tokenizer_use.h — what the fuzzers of tokenizers do with one that opened: encode any text, decode the ids. */
#ifndef TL_TESTS_FUZZ_TOKENIZER_USE_H
#define TL_TESTS_FUZZ_TOKENIZER_USE_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "text/bpe.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static inline void use_text(const tl_tokenizer *tok, const uint8_t *text, size_t n, bool special) {
    int64_t replaced = 0;
    int64_t count = tl__tokenizer_encode(tok, (const char *)text, n, special, NULL, 0, &replaced);
    if (count == TL_EFORMAT) return; /* its steps make too much of the text (textbuf.h) */
    if (count < 0 || replaced > (int64_t)n) abort();
    int32_t *ids = malloc(((size_t)count + 1) * sizeof *ids);
    ids[count] = -7;
    if (tl__tokenizer_encode(tok, (const char *)text, n, special, ids, (size_t)count, &replaced) != count) abort();
    if (ids[count] != -7) abort();
    if (tl__tokenizer_safe_cut(tok, (const char *)text, n) > n) abort();
    size_t room = tl__tokenizer_decode_room(tok);
    char *out = malloc(room);
    tl_decoder d = {0};
    for (int64_t i = 0; i < count; i++) {
        if (ids[i] < 0 || ids[i] >= tl__tokenizer_vocab(tok)) abort();
        size_t got = tl__decoder_push(tok, &d, ids[i], !special, out);
        if (got > room || tl__utf8_valid((uint8_t *)out, got) != got) abort();
    }
    if (tl__decoder_finish(&d, out) > 9) abort();
    free(out);
    free(ids);
}

static inline void use_tokenizer(const tl_tokenizer *tok, const uint8_t *data, size_t size) {
    size_t some = size < 2000 ? size : 2000;
    use_text(tok, data, some, true);
    use_text(tok, data + size - some, some, false);
    static const char usual[] = " It's \xE2\x96\x81\xE2\x96\x81 1234 \xC3\x85ngstr\xC3\xB6m  e\xCC\x81\xCC\xA3 <s></s><0x41>\n\n";
    use_text(tok, (const uint8_t *)usual, sizeof usual - 1, true);
}

#endif
