/* sanitized.h — whether a sanitizer watches this program: it is slow then, keeps memory of its own, and what it looks for is not what a
 * training run learns. */
#ifndef TL_TESTS_SANITIZED_H
#define TL_TESTS_SANITIZED_H

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

#endif
