/* lookup.c — the longest suffix that came before, by going back over all places. */
#include "infer/lookup.h"

enum { LEAST_ALIKE = 2, MOST_ALIKE = 8 }; /* fewer say too little; more say nothing more */

int tl__look_up(int32_t *token, int n, int most) {
    int best = LEAST_ALIKE - 1, from = -1;
    for (int end = n - 1; end >= LEAST_ALIKE && best < MOST_ALIKE; end--) { /* token[0, end) */
        if (token[end - 1] != token[n - 1]) continue;
        int alike = 1;
        while (alike < MOST_ALIKE && alike < end && token[end - 1 - alike] == token[n - 1 - alike]) alike++;
        if (alike > best) best = alike, from = end;
    }
    if (from < 0) return 0;
    for (int i = 0; i < most; i++) token[n + i] = token[from + i]; /* a loop goes on into what is proposed */
    return most;
}
