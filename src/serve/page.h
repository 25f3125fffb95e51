/* page.h — the chat page that the program carries (page.html): what a browser is shown at /. */
#ifndef TL_SERVE_PAGE_H
#define TL_SERVE_PAGE_H

#include <stddef.h>

/* [*n] bytes of HTML in UTF-8, for as long as the program runs. */
const char *tl__page(size_t *n);

#endif
