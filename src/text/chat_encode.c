/* chat_encode.c — a rendered conversation to ids, such that a special token is one only where the template wrote it.
 *
 * Without a special token's text in what came from the conversation, the ids are those of the whole text. With one, the
 * text is cut around it and it is encoded as text, so that "<|im_end|>" typed by a user ends nothing. */
#include "text/chat_template.h"

#include <stdlib.h>
#include <string.h>

typedef struct encoder {
    const tl_tokenizer *tok;
    const tl_rendering *r;
    bool begins[256]; /* whether a special token begins with the byte */
    int32_t *special; /* [n_special] */
    int n_special;
    int32_t *ids;
    size_t n, room;
} encoder;

static int add(encoder *x, size_t from, size_t to, bool special, tl_error *err) {
    if (from == to) return 0;
    size_t bound = 3 * (to - from) + 1;
    if (x->room - x->n < bound) {
        size_t room = 2 * x->room + bound;
        int32_t *more = realloc(x->ids, room * sizeof *more);
        if (!more) return tl__fail(err, TL_ENOMEM, "not enough memory for the tokens of the conversation");
        x->ids = more, x->room = room;
    }
    int64_t got =
        tl__tokenizer_encode(x->tok, x->r->text + from, to - from, special, x->ids + x->n, x->room - x->n, NULL);
    if (got < 0) return tl__fail(err, (int)got, "the conversation could not be encoded by the model's tokenizer");
    x->n += (size_t)got;
    return 0;
}

/* Bytes of the longest special token at `at`; 0: none. */
static size_t special_at(const encoder *x, size_t at) {
    size_t longest = 0;
    if (!x->begins[(unsigned char)x->r->text[at]]) return 0;
    for (int i = 0; i < x->n_special; i++) {
        size_t n;
        const char *text = tl__tokenizer_bytes(x->tok, x->special[i], &n);
        if (n > longest && n <= x->r->n - at && !memcmp(x->r->text + at, text, n)) longest = n;
    }
    return longest;
}

static int find_specials(encoder *x, tl_error *err) {
    int vocab = tl__tokenizer_vocab(x->tok);
    for (int32_t id = 0; id < vocab; id++) x->n_special += tl__tokenizer_is_special(x->tok, id);
    x->special = malloc(((size_t)x->n_special + 1) * sizeof *x->special);
    if (!x->special) return tl__fail(err, TL_ENOMEM, "not enough memory for the tokens of the conversation");
    x->n_special = 0;
    for (int32_t id = 0; id < vocab; id++) {
        if (!tl__tokenizer_is_special(x->tok, id)) continue;
        size_t n;
        const char *text = tl__tokenizer_bytes(x->tok, id, &n);
        if (n == 0) continue;
        x->begins[(unsigned char)text[0]] = true;
        x->special[x->n_special++] = id;
    }
    return 0;
}

int64_t tl__chat_encode(const tl_tokenizer *tok, const tl_rendering *r, int32_t **ids, tl_error *err) {
    encoder x = {.tok = tok, .r = r};
    size_t from = 0;
    int status = find_specials(&x, err);
    for (size_t at = 0; at < r->n && r->data && !status;) {
        size_t n = special_at(&x, at);
        if (n && memchr(r->data + at, 1, n)) {
            status = add(&x, from, at, true, err);
            if (!status) status = add(&x, at, at + n, false, err);
            from = at + n;
        }
        at += n ? n : 1;
    }
    if (!status) status = add(&x, from, r->n, true, err);
    free(x.special);
    *ids = x.ids;
    if (!status) return (int64_t)x.n;
    free(x.ids);
    *ids = NULL;
    return status;
}
