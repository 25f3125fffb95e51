/* decode.c — owns the way from ids to text, one id at a time; promises that what it hands out is valid UTF-8 and that
 * no character is split between two pushes. */
#include <string.h>

#include "text/bpe.h"

size_t tl__tokenizer_decode_room(const tl_tokenizer *tok) {
    size_t longest = 0;
    for (int id = 0; id < tok->vocab; id++)
        if (tok->token[id].present && tok->token[id].bytes_n > longest) longest = tok->token[id].bytes_n;
    return 3 * longest + 16; /* every byte may be wrong and become the three of U+FFFD, those held back too */
}

/* Moves what is whole in in[0, n) to out, repaired; what could be the beginning of a character stays in d. */
static size_t flow(tl_decoder *d, const uint8_t *in, size_t n, char *out) {
    size_t at = 0, o = 0;
    while (at < n) {
        int skip;
        bool partial;
        int width = tl__utf8_check(in + at, n - at, &skip, &partial);
        if (width) {
            memcpy(out + o, in + at, (size_t)width);
            o += (size_t)width, at += (size_t)width;
        } else if (partial) {
            d->n = (int)(n - at); /* at most 3 */
            memcpy(d->held, in + at, n - at);
            return o;
        } else {
            memcpy(out + o, "\xEF\xBF\xBD", 3);
            o += 3, at += (size_t)skip;
        }
    }
    return o;
}

size_t tl__decoder_push(const tl_tokenizer *tok, tl_decoder *d, int32_t id, bool skip_special, char *out) {
    if (skip_special && tl__tokenizer_is_special(tok, id)) return 0;
    size_t n;
    const uint8_t *bytes = (const uint8_t *)tl__tokenizer_bytes(tok, id, &n);
    size_t o = 0, used = 0;
    /* First, complete or give up what was held back: with at most 4 bytes it is decided. */
    while (d->n > 0 && used < n) {
        uint8_t head[8];
        size_t held = (size_t)d->n;
        memcpy(head, d->held, held);
        head[held] = bytes[used++];
        d->n = 0;
        o += flow(d, head, held + 1, out + o);
    }
    return o + flow(d, bytes + used, n - used, out + o);
}

size_t tl__decoder_finish(tl_decoder *d, char *out) {
    size_t o = d->n > 0 ? 3 : 0; /* what is held back is one maximal subpart */
    memcpy(out, "\xEF\xBF\xBD", o);
    d->n = 0;
    return o;
}
