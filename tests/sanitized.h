/* sanitized.h — whether a sanitizer watches this program: it is slow then, keeps memory of its own, and what it looks for is not what a
 * training run learns. */
#ifndef TL_TESTS_SANITIZED_H
#define TL_TESTS_SANITIZED_H

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

/* ThreadSanitizer looks for races, which one thread cannot have, nor code that is not watched (CMakeLists.txt: ref); and of many ways to cut
 * the same work a few have them all. */
#if defined(__SANITIZE_THREAD__)
enum { RACES_ALONE = 1 };
#else
enum { RACES_ALONE = 0 };
#endif

#endif
