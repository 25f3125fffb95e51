/* keys.h — which keys open the server: from a file, a line each, or from TRILITH_API_KEY. Compared in a time that tells
 * nothing about them. */
#ifndef TL_SERVE_KEYS_H
#define TL_SERVE_KEYS_H

#include <stdbool.h>
#include "base/error.h"

typedef struct tl_keys {
    struct tl_key *key; /* [n] */
    int n;              /* 0: everyone may come in */
} tl_keys;

/* path: NULL for none. A line is a key; blank lines and those that begin with # are not. The environment's is added. */
int tl__keys_open(tl_keys *keys, const char *path, tl_error *err);
void tl__keys_close(tl_keys *keys);
/* header: of Authorization, "Bearer KEY"; NULL: none came. */
bool tl__keys_admit(const tl_keys *keys, const char *header);

#endif
