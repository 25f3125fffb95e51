/* page.c — page.html as it was when the program was built (tools/embed.cmake). */
#include "serve/page.h"

static const unsigned char html[] = {
#include "page.html.inc"
};

const char *tl__page(size_t *n) {
    *n = sizeof html;
    return (const char *)html;
}
