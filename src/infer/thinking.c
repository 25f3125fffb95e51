/* thinking.c — one delimiter is looked for at a time: `open` outside, `close` inside. Each begins to be looked for
 * where the other was complete. */
#include "infer/thinking.h"

#include <string.h>

tl_thought tl__thinking_begin(const tl_thinking *t) {
    return (tl_thought){.inside = t->begun};
}

/* How many of want[n] the ids end with after one more, where they ended with `matched`: the delimiters are too short
 * for a table. */
static int advance(const int32_t *want, int n, int matched, int32_t id) {
    if (n == 0) return 0;
    for (int k = matched; k >= 0; k--) /* of the matched ones the last k, which must be the first k too */
        if (want[k] == id && !memcmp(want, want + matched - k, (size_t)k * sizeof *want)) return k + 1;
    return 0;
}

static bool is_over(const tl_thinking *t, const tl_thought *so_far) {
    return so_far->inside && t->most != 0 && so_far->tokens >= t->most;
}

bool tl__thinking_read(const tl_thinking *t, tl_thought *so_far, int32_t id) {
    const bool inside = so_far->inside, over = is_over(t, so_far);
    const int n = inside ? t->n_close : t->n_open;
    so_far->matched = advance(inside ? t->close : t->open, n, so_far->matched, id);
    if (n > 0 && so_far->matched == n) {
        so_far->inside = !inside;
        so_far->matched = 0;
        return false;
    }
    so_far->tokens += inside && !over;
    return inside && !over;
}

int32_t tl__thinking_forced(const tl_thinking *t, const tl_thought *so_far) {
    return is_over(t, so_far) ? t->close[so_far->matched] : -1;
}

int32_t tl__thinking_barred(const tl_thinking *t, const tl_thought *so_far) {
    const bool next_completes = so_far->inside && t->n_close > 0 && so_far->matched == t->n_close - 1;
    return next_completes && so_far->tokens - so_far->matched < t->least ? t->close[so_far->matched] : -1;
}

bool tl__thinking_goes_on(const tl_thinking *t, const tl_thought *so_far) {
    return so_far->inside && so_far->tokens < t->least;
}
