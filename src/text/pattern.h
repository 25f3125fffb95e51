/* pattern.h — what Split, Replace and their like look for in a text: a literal, characters of a class, or a regular
 * expression.
 *
 * Expressions are run by PCRE2 after a translation that writes the classes out as pinned ranges, so that they mean what
 * they mean to the `tokenizers` library (Oniguruma, Unicode 16). Read are the constructs that mean the same to both:
 * literals, classes, groups, (?i:…), look-around, greedy, lazy and possessive quantifiers; any other is refused by
 * name. */
#ifndef TL_TEXT_PATTERN_H
#define TL_TEXT_PATTERN_H

#include "base/error.h"
#include "text/charset.h"

typedef struct tl_pattern tl_pattern;

int tl__pattern_regex(tl_pattern **pattern, const char *expression, const char *where, tl_error *err);
int tl__pattern_literal(tl_pattern **pattern, const char *bytes, size_t n, tl_error *err);
int tl__pattern_set(tl_pattern **pattern, tl_charset set, tl_error *err); /* one character of it */
int tl__pattern_char(tl_pattern **pattern, uint32_t c, tl_error *err);
void tl__pattern_free(tl_pattern *pattern);

/* The first match at or after s[at] in valid UTF-8 s[0, n); false: none. A match may be empty. A search that exceeds
 * PCRE2's limits counts as none. */
bool tl__pattern_find(const tl_pattern *pattern, const uint8_t *s, size_t n, size_t at, size_t *from, size_t *to);
/* The matches in order, as the library lists them: an empty one right behind a match does not count. at begins at 0 and
 * is moved on; last_end at SIZE_MAX. */
bool tl__pattern_next(const tl_pattern *pattern, const uint8_t *s, size_t n, size_t *at, size_t *last_end, size_t *from,
                      size_t *to);
/* How it was written, for saving and hashing; *regex: as an expression. */
const char *tl__pattern_source(const tl_pattern *pattern, size_t *n, bool *regex);

#endif
