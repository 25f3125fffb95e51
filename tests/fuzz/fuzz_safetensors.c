/* Any bytes as a safetensors file: refused with a sentence, or every tensor lies in the file and can be read and
 * hashed. An input that starts with '{' is given its 8 length bytes here, so that mutation works on headers; an input
 * that starts with 'I' is an index of shards. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "heap.h"
#include "io/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* In memory: a disk's file system flushes a file that is written over, which costs milliseconds an input. */
static char folder[64] = "/dev/shm/trilith-fuzz-XXXXXX", path[96], index_path[96];

static void clean_up(void) {
    tl__folder_remove(folder, NULL);
}

static void put(const char *name, const void *head, size_t n, const void *body, size_t m) {
    FILE *f = fopen(name, "wb");
    if (!f || fwrite(head, 1, n, f) != n || fwrite(body, 1, m, f) != m || fclose(f)) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!path[0]) {
        if (!mkdtemp(folder) && !mkdtemp(strcpy(folder, "/tmp/trilith-fuzz-XXXXXX"))) abort();
        atexit(clean_up);
        snprintf(path, sizeof path, "%s/m.safetensors", folder);
        snprintf(index_path, sizeof index_path, "%s/m.index.json", folder);
    }
    const char *open = path;
    if (size && data[0] == 'I') {
        static const char header[] = "{\"t\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}ab";
        put(path, (uint64_t[]){sizeof header - 3}, 8, header, sizeof header - 1);
        put(index_path, "", 0, data + 1, size - 1);
        open = index_path;
    } else if (size && data[0] == '{') { /* the header ends at the first NUL or the end; data follows */
        const uint8_t *end = memchr(data, 0, size);
        uint64_t n = end ? (uint64_t)(end - data) : size;
        put(path, &n, 8, data, size);
    } else {
        put(path, "", 0, data, size);
    }
    tl_error err = {0};
    tl_safetensors *st;
    heap_watch();
    int rc = tl__safetensors_open(&st, open, &err);
    heap_check(16384, 8, size); /* JSON's (fuzz_json.c) */
    if (rc) {
        if (rc != err.status || !err.text[0] || st) abort();
        return 0;
    }
    for (int i = 0; i < tl__safetensors_count(st); i++) {
        const tl_tensor_info *t = tl__safetensors_at(st, i);
        if (tl__safetensors_find(st, t->name) != t || t->size_bytes > (int64_t)size + 64) abort();
        unsigned char *bytes = malloc((size_t)t->size_bytes + 1);
        if (tl__safetensors_read(st, t, bytes, &err)) abort();
        const void *map = tl__safetensors_data(st, t);
        if (map && memcmp(map, bytes, (size_t)t->size_bytes)) abort();
        free(bytes);
        float *wide = malloc((size_t)t->size_bytes * 2 + 1);
        tl__safetensors_read_f32(st, t, wide, &err);
        free(wide);
    }
    tl_hash hash;
    if (tl__safetensors_hash(st, &hash, &err)) abort();
    tl__safetensors_metadata(st, "format");
    tl__safetensors_close(st);
    return 0;
}
