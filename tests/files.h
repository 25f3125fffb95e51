/* files.h — for tests that need files: a folder of the test program's own, made before its first test and removed after
 * its last. */
#ifndef TL_TESTS_FILES_H
#define TL_TESTS_FILES_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>
#include "io/file.h"

static char folder[64];

static inline int make_folder(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/trilith-test-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static inline int remove_folder(void **state) {
    (void)state;
    return tl__folder_remove(folder, NULL);
}

/* The path of a name in the folder: good for the next 255 calls. */
static inline const char *in_folder(const char *name) {
    static char path[256][320];
    static int turn;
    char *out = path[turn++ % 256];
    if (snprintf(out, sizeof path[0], "%s/%s", folder, name) >= (int)sizeof path[0]) fail_msg("%s: too long", name);
    return out;
}

/* A file of these bytes; its path. */
static inline const char *put(const char *name, const void *bytes, size_t n) {
    const char *path = in_folder(name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
    return path;
}

#endif
