/* thinking_definition.h — thinking by its definition: what the tokens made so far, gone through from the first, mean
 * for the next. */
#ifndef TL_TESTS_THINKING_DEFINITION_H
#define TL_TESTS_THINKING_DEFINITION_H

#include <string.h>
#include "infer/thinking.h"

typedef struct next {
    int32_t forced, barred;
    bool goes_on;
} next;

static next think(const tl_thinking *t, const int32_t *made, int n, bool *thinks, int *tokens) {
    bool inside = t->begun;
    int from = 0;
    *tokens = 0;
    for (int i = 0; i < n; i++) {
        const int32_t *want = inside ? t->close : t->open;
        const int size = inside ? t->n_close : t->n_open;
        const bool over = t->most && *tokens >= t->most;
        const bool complete = size > 0 && i + 1 - from >= size && !memcmp(made + i + 1 - size, want, (size_t)size * 4);
        thinks[i] = inside && !complete && !over;
        *tokens += thinks[i];
        if (complete) inside = !inside, from = i + 1;
    }
    next x = {-1, -1, inside && *tokens < t->least};
    if (!inside || t->n_close == 0) return x;
    int alike = t->n_close - 1;
    while (alike > n - from || memcmp(made + n - alike, t->close, (size_t)alike * 4)) alike--;
    if (t->most && *tokens >= t->most) x.forced = t->close[alike];
    else if (alike == t->n_close - 1 && *tokens - alike < t->least) x.barred = t->close[alike];
    return x;
}

#endif
