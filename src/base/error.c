/* error.c — owns the wording machinery of tl_error: a sentence always fits, is always NUL-terminated, and never carries
 * control bytes that came from outside (a hostile tensor name must not drive a person's terminal). */
#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Control bytes become '?', and a sentence that was cut does not end in half a UTF-8 character. */
static void clean(char *text, size_t size, int wanted) {
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = '?';
    if (wanted < 0 || (size_t)wanted < size) return;
    char *end = text + strlen(text);
    while (end > text && ((unsigned char)end[-1] & 0xc0) == 0x80) end--;
    if (end > text && (unsigned char)end[-1] >= 0xc0) end--;
    *end = 0;
}

static void say(tl_error *err, int status, const char *format, va_list args) {
    err->status = status;
    int n = vsnprintf(err->text, sizeof err->text, format, args);
    if (n < 0) err->text[0] = 0;
    clean(err->text, sizeof err->text, n);
}

int tl__fail(tl_error *err, int status, const char *format, ...) {
    if (!err) return status;
    va_list args;
    va_start(args, format);
    say(err, status, format, args);
    va_end(args);
    return status;
}

int tl__fail_errno(tl_error *err, const char *format, ...) {
    int code = errno;
    int status = code == ENOSPC || code == EDQUOT ? TL_ENOSPACE : code == ENOENT ? TL_ENOTFOUND : TL_EIO;
    if (!err) return status;
    va_list args;
    va_start(args, format);
    say(err, status, format, args);
    va_end(args);
    size_t used = strlen(err->text);
    char why[128];
    int n = snprintf(err->text + used, sizeof err->text - used, ": %s", strerror_r(code, why, sizeof why));
    clean(err->text, sizeof err->text, n + (int)used);
    return status;
}

int tl__error_prefix(tl_error *err, const char *format, ...) {
    if (!err) return TL_EINVALID;
    char text[sizeof err->text], prefix[512];
    memcpy(text, err->text, sizeof text);
    text[sizeof text - 1] = 0;
    va_list args;
    va_start(args, format);
    if (vsnprintf(prefix, sizeof prefix, format, args) < 0) prefix[0] = 0;
    va_end(args);
    int n = snprintf(err->text, sizeof err->text, "%s: %s", prefix, text);
    clean(err->text, sizeof err->text, n);
    return err->status;
}

#define MAX_WORD 64

/* Optimal string alignment distance (insert, delete, replace, swap of neighbours) in three rows on the stack. */
static int edit_distance(const char *a, int na, const char *b, int nb) {
    int row[3][MAX_WORD + 1];
    for (int j = 0; j <= nb; j++) row[0][j] = j;
    for (int i = 1; i <= na; i++) {
        int *before = row[(i + 1) % 3], *above = row[(i - 1) % 3], *here = row[i % 3];
        here[0] = i;
        for (int j = 1; j <= nb; j++) {
            int best = above[j - 1] + (a[i - 1] != b[j - 1]);
            if (above[j] + 1 < best) best = above[j] + 1;
            if (here[j - 1] + 1 < best) best = here[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && before[j - 2] + 1 < best)
                best = before[j - 2] + 1;
            here[j] = best;
        }
    }
    return row[na % 3][nb];
}

const char *tl__nearest_name(const char *word, const char *const *names, int n) {
    size_t length = strnlen(word, MAX_WORD + 1);
    const char *nearest = NULL;
    int least = (int)length / 2 + 1;
    if (length > MAX_WORD) return NULL;
    for (int i = 0; i < n; i++) {
        size_t m = strnlen(names[i], MAX_WORD + 1);
        if (m > MAX_WORD) continue;
        int d = edit_distance(word, (int)length, names[i], (int)m);
        if (d < least) least = d, nearest = names[i];
    }
    return nearest;
}
