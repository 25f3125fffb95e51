/* stops.h — where an answer's text ends that must hold none of certain texts: at the first byte with which one of them
 * is complete; of several complete there the longest was meant.
 *
 * Found byte by byte (Knuth, Morris and Pratt 1977), so that borders between tokens, and how many tokens come at once,
 * change nothing. (vLLM looks for each text in turn in what one token added: of two in the same token the first in the
 * list wins there, even if it comes later in the text.) What could yet become a stop text is held back, and is itself
 * the beginning of one: its length is the whole state. */
#ifndef TL_INFER_STOPS_H
#define TL_INFER_STOPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct tl_stop {
    const char *text; /* [n] ≥ 1, UTF-8 */
    int n;
    const int32_t *border; /* [n + 1] of its first so many bytes, the longest beginning that is also their end */
} tl_stop;

/* border[n + 1] of text[n]. */
void tl__stop_borders(int32_t *border, const char *text, int n);
/* matched[n]: of each stop text, how many bytes the text so far ends with; begins as zeros. What is held back is put at
 * the beginning of text; returns its bytes, fewer than those of the longest stop text. */
size_t tl__stops_held(const tl_stop *stop, int n, const int32_t *matched, char *text);
/* text[0, from) is what was held back, text[from, to) is new. Returns the stop text that ends it, which then begins at
 * *certain; −1: none, and text[0, *certain) can be in none. blind: those that are complete within it do not count. */
int tl__stops_read(const tl_stop *stop, int n, int32_t *matched, const char *text, size_t from, size_t to, bool blind,
                   size_t *certain);

#endif
