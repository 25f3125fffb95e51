/* stops.c — several texts looked for at once, each by its own count of bytes matched. A stop text is read once per byte
 * of the answer, and a count falls no more often than it rose: linear time. */
#include "infer/stops.h"

#include <string.h>

/* How many bytes are matched after one more. */
static int32_t advance(const tl_stop *s, int32_t matched, char byte) {
    while (matched > 0 && s->text[matched] != byte) matched = s->border[matched];
    return s->text[matched] == byte ? matched + 1 : 0;
}

void tl__stop_borders(int32_t *border, const char *text, int n) {
    const tl_stop self = {text, n, border};
    border[0] = 0;
    border[1] = 0;
    for (int i = 1; i < n; i++) border[i + 1] = advance(&self, border[i], text[i]);
}

/* The one of which most is matched. */
static int longest(const int32_t *matched, int n) {
    int best = 0;
    for (int i = 1; i < n; i++)
        if (matched[i] > matched[best]) best = i;
    return best;
}

/* A complete stop text that did not count is no more held back than what it ends with. */
static void forget_complete(const tl_stop *stop, int n, int32_t *matched) {
    for (int i = 0; i < n; i++)
        if (matched[i] == stop[i].n) matched[i] = stop[i].border[matched[i]];
}

size_t tl__stops_held(const tl_stop *stop, int n, const int32_t *matched, char *text) {
    if (n == 0) return 0;
    const int i = longest(matched, n);
    memcpy(text, stop[i].text, (size_t)matched[i]);
    return (size_t)matched[i];
}

int tl__stops_read(const tl_stop *stop, int n, int32_t *matched, const char *text, size_t from, size_t to, bool blind,
                   size_t *certain) {
    *certain = to;
    if (n == 0) return -1;
    for (size_t at = from; at < to; at++) {
        int complete = -1;
        for (int i = 0; i < n; i++) {
            matched[i] = advance(&stop[i], matched[i], text[at]);
            if (matched[i] == stop[i].n && (complete < 0 || stop[i].n > stop[complete].n)) complete = i;
        }
        if (complete < 0) continue;
        if (!blind) {
            *certain = at + 1 - (size_t)stop[complete].n;
            return complete;
        }
        forget_complete(stop, n, matched);
    }
    *certain = to - (size_t)matched[longest(matched, n)];
    return -1;
}
