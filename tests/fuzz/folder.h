/* folder.h — a folder in memory that a fuzzer fills with the bytes it is given, and that goes when the process does. */
#ifndef TESTS_FUZZ_FOLDER_H
#define TESTS_FUZZ_FOLDER_H

#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include "io/file.h"

static char folder[64];

static void put_file(const char *name, const uint8_t *bytes, size_t n) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    assert(f);
    assert(fwrite(bytes, 1, n, f) == n);
    assert(fclose(f) == 0);
}

static void clean_up(void) {
    (void)tl__folder_remove(folder, NULL);
}

/* True the first time, when the folder is made. */
static bool make_folder(void) {
    struct stat memory;
    if (folder[0]) return false;
    snprintf(folder, sizeof folder, "%s/trilith-fuzz-XXXXXX", stat("/dev/shm", &memory) == 0 ? "/dev/shm" : "/tmp");
    assert(mkdtemp(folder));
    atexit(clean_up);
    return true;
}

#endif
