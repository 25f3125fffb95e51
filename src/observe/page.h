/* page.h — an HTML page under construction: a growing buffer into which markup is printed and foreign text is escaped.
 */
#ifndef TL_OBSERVE_PAGE_H
#define TL_OBSERVE_PAGE_H

#include <stdbool.h>
#include <stddef.h>

typedef struct tl_page {
    char *bytes; /* malloc'd, NUL-terminated when not NULL */
    size_t used, size;
    bool failed; /* out of memory: what was put since is lost */
} tl_page;

/* Markup of our own, as it is. */
void tl__page_put(tl_page *page, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Text of anybody's, safe inside an element or a quoted attribute: markup is escaped, control characters and what is
 * not UTF-8 become U+FFFD, and so do the characters that reorder a line. */
void tl__page_text(tl_page *page, const char *text, size_t bytes);
void tl__page_free(tl_page *page);

/* How a number reads. Each writes into out[32] and returns it; what is not finite reads as an en dash. */
typedef enum tl_form {
    TL_FORM_PLAIN,   /* 3.217, 0.0003 */
    TL_FORM_COUNT,   /* 812, 12,345, 1.25 M, 10.8 G */
    TL_FORM_PERCENT, /* of a fraction: 61.2 % */
    TL_FORM_BYTES,   /* 1.25 GB */
    TL_FORM_SECONDS, /* 3.2 ms, 41 s, 5 min 12 s, 2 h 03 min */
} tl_form;
const char *tl__form(char out[32], tl_form form, double x);

#endif
