/* keys.c — keys are held in buffers of one size, so that a comparison reads as many bytes of a short key as of a long
 * one, of a right one as of a wrong one, and of every key there is. */
#include "serve/keys.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "io/file.h"

enum { KEY_BYTES = 256, MOST_KEYS = 4096 };

typedef struct tl_key {
    unsigned char bytes[KEY_BYTES]; /* zeros behind the key */
} tl_key;

static int add(tl_keys *k, const char *text, size_t n, const char *where, tl_error *err) {
    if (n >= KEY_BYTES)
        return tl__fail(err, TL_EINVALID, "%s: a key of %zu bytes; one has %d at most", where, n, KEY_BYTES - 1);
    for (size_t i = 0; i < n; i++)
        if (text[i] <= ' ' || text[i] > '~')
            return tl__fail(err, TL_EINVALID, "%s: a key with a blank or a byte that is not ASCII; no header holds it",
                            where);
    if (k->n == MOST_KEYS) return tl__fail(err, TL_EINVALID, "%s: more than %d keys", where, MOST_KEYS);
    tl_key *more = realloc(k->key, (size_t)(k->n + 1) * sizeof *more);
    if (!more) return tl__fail(err, TL_ENOMEM, "not enough memory for the keys");
    k->key = more;
    memset(&more[k->n], 0, sizeof *more);
    memcpy(more[k->n++].bytes, text, n);
    return 0;
}

static int read_file(tl_keys *k, const char *path, tl_error *err) {
    char *bytes = NULL;
    size_t size = 0;
    TRY(tl__file_slurp(&bytes, &size, path, (size_t)1 << 20, err));
    int status = 0;
    for (char *line = bytes, *end = bytes + size; line < end && !status;) {
        char *stop = memchr(line, '\n', (size_t)(end - line));
        if (!stop) stop = end;
        size_t n = (size_t)(stop - line);
        while (n > 0 && (line[n - 1] == '\r' || line[n - 1] == ' ' || line[n - 1] == '\t')) n--;
        if (n > 0 && *line != '#') status = add(k, line, n, path, err);
        line = stop + 1;
    }
    memset(bytes, 0, size);
    free(bytes);
    if (!status && k->n == 0)
        status = tl__fail(err, TL_EINVALID, "%s holds no key; write one a line, or leave --api-keys out", path);
    return status;
}

int tl__keys_open(tl_keys *k, const char *path, tl_error *err) {
    *k = (tl_keys){0};
    const char *one = getenv("TRILITH_API_KEY");
    if (path) TRY(read_file(k, path, err));
    return one && *one ? add(k, one, strlen(one), "TRILITH_API_KEY", err) : 0;
}

void tl__keys_close(tl_keys *k) {
    if (k->key) memset(k->key, 0, (size_t)k->n * sizeof *k->key);
    free(k->key);
    *k = (tl_keys){0};
}

bool tl__keys_admit(const tl_keys *k, const char *header) {
    unsigned char given[KEY_BYTES] = {0};
    if (k->n == 0) return true;
    if (!header || strncasecmp(header, "Bearer ", 7) != 0) return false;
    const size_t n = strlen(header + 7);
    if (n >= KEY_BYTES) return false;
    memcpy(given, header + 7, n);
    volatile unsigned char admitted = 0;
    for (int i = 0; i < k->n; i++) {
        volatile unsigned char differs = 0;
        for (int j = 0; j < KEY_BYTES; j++) differs |= (unsigned char)(k->key[i].bytes[j] ^ given[j]);
        admitted |= (unsigned char)(((unsigned)differs - 1) >> 31); /* 1 where nothing differs */
    }
    return admitted != 0;
}
