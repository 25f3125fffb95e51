/* lookup.c — the longest suffix that came before, by going back over all places. */
#include "infer/lookup.h"

int tl__look_up(int32_t *token, int n, int most, int *alike) {
    int best = TL_LEAST_ALIKE - 1, from = -1;
    for (int end = n - 1; end >= TL_LEAST_ALIKE && best < TL_MOST_ALIKE; end--) { /* token[0, end) */
        if (token[end - 1] != token[n - 1]) continue;
        int same = 1;
        while (same < TL_MOST_ALIKE && same < end && token[end - 1 - same] == token[n - 1 - same]) same++;
        if (same > best) best = same, from = end;
    }
    if (from < 0) return 0;
    *alike = best;
    for (int i = 0; i < most; i++) token[n + i] = token[from + i]; /* a loop goes on into what is proposed */
    return most;
}
