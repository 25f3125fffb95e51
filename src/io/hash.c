/* hash.c — owns the one hash that Trilith records, XXH3-128, printed as xxhsum prints it. */
#include "io/hash.h"

#include <assert.h>
#include <stdint.h>
#include <xxhash.h>

/* A tl_hasher * is xxHash's own state pointer under our name: struct tl_hasher is never defined. */

static tl_hash hex_of(XXH128_hash_t h) {
    static const char digit[] = "0123456789abcdef";
    XXH128_canonical_t c;
    XXH128_canonicalFromHash(&c, h);
    tl_hash out;
    for (int i = 0; i < 16; i++) out.hex[2 * i] = digit[c.digest[i] >> 4], out.hex[2 * i + 1] = digit[c.digest[i] & 15];
    out.hex[32] = 0;
    return out;
}

tl_hash tl__hash_bytes(const void *bytes, size_t n) {
    return hex_of(XXH3_128bits(bytes, n));
}

tl_hasher *tl__hasher_open(void) {
    XXH3_state_t *state = XXH3_createState();
    assert(state && "no memory for 576 bytes of hash state");
    XXH3_128bits_reset(state);
    return (tl_hasher *)state;
}

void tl__hasher_add(tl_hasher *h, const void *bytes, size_t n) {
    if (n) XXH3_128bits_update((XXH3_state_t *)h, bytes, n);
}

tl_hash tl__hasher_close(tl_hasher *h) {
    tl_hash out = hex_of(XXH3_128bits_digest((XXH3_state_t *)h));
    XXH3_freeState((XXH3_state_t *)h);
    return out;
}
