/* lookup.h — tokens proposed from a sequence's own past: what came next where it last ended as it ends now (Saxena
 * 2023, prompt lookup decoding). Answers that quote, summarise or edit their prompt, and loops, go on like that. */
#ifndef TL_INFER_LOOKUP_H
#define TL_INFER_LOOKUP_H

#include <stdint.h>

/* Puts at most `most` tokens behind token[n] (there is room) and returns how many: 0 where no two last tokens came
 * before. Of all earlier places the one counts where most tokens are alike, and of several such the last. A walk over
 * the tokens, no memory. */
int tl__look_up(int32_t *token, int n, int most);

#endif
