/* thinking.h — what a model thinks before it answers: where it begins and ends among the tokens made, and the bounds on
 * it. All is a function of the request and of the tokens made so far, so that tokens proposed ahead, or made before the
 * sequence was computed anew, are judged as in their turn.
 *
 * A token lies between the delimiters if it comes after `open` and neither completes `close` nor belongs to one that is
 * forced: of a `close` of several ids the first ones count as thought until the last has come. */
#ifndef TL_INFER_THINKING_H
#define TL_INFER_THINKING_H

#include <stdbool.h>
#include <stdint.h>

/* Delimiters of what a model thinks before it answers, as ids, and bounds on the tokens between them. */
typedef struct tl_thinking {
    const int32_t *open, *close; /* [n_open], [n_close]; n_close 0: no bounds */
    int n_open, n_close;
    bool begun; /* the prompt ends inside: its template wrote `open` */
    int least;  /* tokens that are thought before `close`, or an end of text or a stop id, can come */
    int most;   /* … after which `close` is forced, whatever else would be drawn (0: no limit; −1: at once) */
} tl_thinking;

typedef struct tl_thought {
    bool inside;
    int matched; /* ids of the delimiter that would come next */
    int tokens;  /* between the delimiters so far */
} tl_thought;

tl_thought tl__thinking_begin(const tl_thinking *thinking);
/* One more token; whether it lies between the delimiters. */
bool tl__thinking_read(const tl_thinking *thinking, tl_thought *so_far, int32_t id);
/* The id that must come next; −1: any. */
int32_t tl__thinking_forced(const tl_thinking *thinking, const tl_thought *so_far);
/* An id that cannot come next; −1: none. */
int32_t tl__thinking_barred(const tl_thinking *thinking, const tl_thought *so_far);
/* Whether the answer cannot end yet. */
bool tl__thinking_goes_on(const tl_thinking *thinking, const tl_thought *so_far);

#endif
