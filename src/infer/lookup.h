/* lookup.h — tokens proposed from a sequence's own past: what came next where it last ended as it ends now (Saxena
 * 2023, prompt lookup decoding). Answers that quote, summarise or edit their prompt, and loops, go on like that. */
#ifndef TL_INFER_LOOKUP_H
#define TL_INFER_LOOKUP_H

#include <stdint.h>

/* Puts at most `most` tokens behind token[n] (there is room) and returns how many: 0 where no two last tokens came
 * before. Of all earlier places the one counts where most tokens are alike, and of several such the last. A walk over
 * the tokens, no memory. *alike: how many those are, TL_LEAST_ALIKE to TL_MOST_ALIKE. */
enum { TL_LEAST_ALIKE = 2, TL_MOST_ALIKE = 8 }; /* fewer say too little; more say nothing more */
int tl__look_up(int32_t *token, int n, int most, int *alike);

#endif
