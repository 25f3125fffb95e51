/* hash.h — XXH3-128 through xxHash: what manifests record of each tensor and `inspect` of a whole model. */
#ifndef TL_IO_HASH_H
#define TL_IO_HASH_H

#include <stddef.h>

typedef struct tl_hash {
    char hex[33];
} tl_hash; /* 32 lower-case hexadecimal digits, NUL */

tl_hash tl__hash_bytes(const void *bytes, size_t n);
typedef struct tl_hasher tl_hasher; /* streaming */
tl_hasher *tl__hasher_open(void);
void tl__hasher_add(tl_hasher *h, const void *bytes, size_t n);
tl_hash tl__hasher_close(tl_hasher *h);

#endif
