/* spelling.h — the text of a choice, spelled from its ids as it is read: as many bytes of it as the engine has called
 * certain, so that whole characters come, and never a part of a stop text. What lies between the model's marks of
 * thinking comes apart from what it says, and the marks, with the line breaks behind them, not at all. */
#ifndef TL_SERVE_SPELLING_H
#define TL_SERVE_SPELLING_H

#include "serve/job.h"
#include "text/textbuf.h"

typedef struct tl_marks {
    int32_t open, close; /* ids; −1: there are none */
    bool begun;          /* the prompt ends behind `open` */
} tl_marks;

typedef struct tl_spelling {
    const tl_tokenizer *tokenizer; /* NULL: nothing has a text */
    tl_marks marks;
    bool special; /* special tokens have a text */
    tl_decoder decoder;
    bool inside, fresh; /* of the marks; right behind one */
    int next;           /* token that comes next */
    bool ended;         /* nothing comes any more */
    size_t told;        /* bytes given */
    char *held;         /* [n of room] spelled, and not certain yet */
    char *kind;         /* [n of room] of each byte */
    size_t n, room;
} tl_spelling;

void tl__spelling_open(tl_spelling *s, const tl_tokenizer *tokenizer, const tl_marks *marks, bool special);
/* Puts what is certain after token `next` (or, if there is none left and the choice has ended, at the end) behind
 * `said` and `thought`. n_told and finish as tl__job_look gave them. 1: there was a token or an end; 0: there was none;
 * else a status. */
int tl__spell(tl_spelling *s, tl_textbuf *said, tl_textbuf *thought, const tl_reply *reply, int n_told, tl_finish finish,
              tl_error *err);
void tl__spelling_free(tl_spelling *s);

#endif
