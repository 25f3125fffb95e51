/* spelling.c — decodes again what the engine decoded to look for stop texts. Its rule: an id that ended the choice has
 * no text; whatever else was made has. A byte is of the kind that its token is, however long it was held back. */
#include "serve/spelling.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

void tl__spelling_open(tl_spelling *s, const tl_tokenizer *tok, const tl_marks *marks, bool special) {
    *s = (tl_spelling){.tokenizer = tok, .marks = *marks, .special = special};
    s->inside = s->fresh = marks->begun;
}

static int make_room(tl_spelling *s, tl_error *err) {
    const size_t need = s->tokenizer ? 2 * tl__tokenizer_decode_room(s->tokenizer) : 1;
    if (s->room - s->n >= need) return 0;
    const size_t room = 2 * s->room + need;
    char *held = realloc(s->held, room), *kind = held ? realloc(s->kind, room) : NULL;
    if (held) s->held = held;
    if (kind) s->kind = kind;
    if (!kind) return tl__fail(err, TL_ENOMEM, "not enough memory to spell an answer");
    s->room = room;
    return 0;
}

enum { SAID, THOUGHT, MARK };

/* Token `next` behind held; id −1: none. last: no other comes. */
static void push(tl_spelling *s, int32_t id, bool last) {
    const size_t before = s->n;
    const bool mark = id >= 0 && (id == s->marks.open || id == s->marks.close);
    if (s->tokenizer && id >= 0) s->n += tl__decoder_push(s->tokenizer, &s->decoder, id, !s->special, s->held + s->n);
    if (s->tokenizer && last) s->n += tl__decoder_finish(&s->decoder, s->held + s->n);
    memset(s->kind + before, mark ? MARK : s->inside ? THOUGHT : SAID, s->n - before);
    if (mark) s->inside = id == s->marks.open;
}

static void give(tl_spelling *s, size_t n, tl_textbuf *said, tl_textbuf *thought) {
    for (size_t from = 0; from < n;) {
        const char kind = s->kind[from];
        size_t to = from;
        while (s->fresh && to < n && s->kind[to] == kind && s->held[to] == '\n') to++;
        from = to;
        while (to < n && s->kind[to] == kind) to++;
        if (to == from) continue;
        if (kind != MARK) tl__textbuf_add(kind == THOUGHT ? thought : said, s->held + from, to - from);
        s->fresh = kind == MARK;
        from = to;
    }
    memmove(s->held, s->held + n, s->n - n);
    memmove(s->kind, s->kind + n, s->n - n);
    s->n -= n;
    s->told += n;
}

int tl__spell(tl_spelling *s, tl_textbuf *said, tl_textbuf *thought, const tl_reply *r, int n_told, tl_finish finish,
              tl_error *err) {
    if (s->ended || (s->next == n_told && finish == TL_FINISH_NONE)) return 0;
    TRY(make_room(s, err));
    const bool last = finish != TL_FINISH_NONE && s->next + 1 >= n_told, token = s->next < n_told;
    const bool silent = last && finish == TL_FINISH_STOP && !r->by_text;
    push(s, token && !silent ? r->told[s->next].id : -1, last);
    const size_t certain = last ? r->text_bytes : r->told[s->next].text_end;
    assert(certain - s->told <= s->n); /* the engine has spelled the same */
    give(s, certain - s->told, said, thought);
    s->next += token;
    s->ended = last;
    if (said->failed || (thought && thought->failed))
        return tl__fail(err, TL_ENOMEM, "not enough memory for the text of an answer");
    return 1;
}

void tl__spelling_free(tl_spelling *s) {
    free(s->held);
    free(s->kind);
    *s = (tl_spelling){0};
}
