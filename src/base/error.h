/* error.h — how a function says that it failed: a status to branch on, and a sentence for a person.
 *
 * Every function that can fail returns 0 or a negative tl_status and, if `err` is not NULL, fills it with one sentence
 * that says what failed, where, what was expected and the remedy. The first failure wins; callers may prefix context.
 */
#ifndef TL_BASE_ERROR_H
#define TL_BASE_ERROR_H

#include "trilith.h"

/* Fill `err` (may be NULL) with a formatted sentence and return `status` (negative). */
int tl__fail(tl_error *err, int status, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* The same, with ": " and strerror(errno) appended; picks TL_ENOSPACE for ENOSPC/EDQUOT,
 * TL_ENOTFOUND for ENOENT, else TL_EIO. */
int tl__fail_errno(tl_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Put "prefix: " before what `err` says; returns err's status. */
int tl__error_prefix(tl_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Leave the function with a status that is not 0. For functions that hold nothing to give back. */
#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        int try_status = (call);                                                                                       \
        if (try_status) return try_status;                                                                             \
    } while (0)

/* The element of names[n] nearest to `word` by edit distance, or NULL when none is within half its length. For
 * "unknown key 'lerning-rate'; did you mean 'lr'?". */
const char *tl__nearest_name(const char *word, const char *const *names, int n);

#endif
