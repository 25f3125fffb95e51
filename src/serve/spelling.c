/* spelling.c — decodes again what the engine decoded to look for stop texts. Its rule: an id that ended the choice has
 * no text; whatever else was made has. */
#include "serve/spelling.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int tl__buffer_reserve(tl_buffer *t, size_t n, tl_error *err) {
    if (t->room - t->n > n) return 0;
    size_t room = 2 * t->room + n + 64;
    char *more = realloc(t->bytes, room);
    if (!more) return tl__fail(err, TL_ENOMEM, "not enough memory for an answer of %zu bytes", room);
    t->bytes = more;
    t->room = room;
    return 0;
}

int tl__buffer_add(tl_buffer *t, const char *bytes, size_t n, tl_error *err) {
    TRY(tl__buffer_reserve(t, n, err));
    if (n > 0) memcpy(t->bytes + t->n, bytes, n);
    t->n += n;
    t->bytes[t->n] = 0;
    return 0;
}

int tl__spell(tl_spelling *s, tl_buffer *text, const tl_tokenizer *tok, const tl_reply *r, int n_told, tl_finish finish,
              bool special, tl_error *err) {
    if (s->ended || (s->next == n_told && finish == TL_FINISH_NONE)) return 0;
    tl_buffer held = {s->held, s->n, s->room};
    TRY(tl__buffer_reserve(&held, tok ? 2 * tl__tokenizer_decode_room(tok) : 0, err));
    s->held = held.bytes;
    s->room = held.room;
    const bool last = finish != TL_FINISH_NONE && s->next + 1 >= n_told, token = s->next < n_told;
    const bool silent = last && finish == TL_FINISH_STOP && !r->by_text;
    if (tok && token && !silent)
        s->n += tl__decoder_push(tok, &s->decoder, r->told[s->next].id, !special, s->held + s->n);
    if (tok && last) s->n += tl__decoder_finish(&s->decoder, s->held + s->n);
    const size_t certain = last ? r->text_bytes : r->told[s->next].text_end, n = certain - s->told;
    assert(n <= s->n); /* the engine has spelled the same */
    TRY(tl__buffer_add(text, s->held, n, err));
    memmove(s->held, s->held + n, s->n - n);
    s->n -= n;
    s->told = certain;
    s->next += token;
    s->ended = last;
    return 1;
}

void tl__spelling_free(tl_spelling *s) {
    free(s->held);
    *s = (tl_spelling){0};
}
