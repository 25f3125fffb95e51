/* Any bytes as a GGUF file: refused with a sentence, or every key is found and every tensor lies in the file and can be
 * read and widened. An input that starts with 'S' is the second part of a model whose first part is good. */
#include <stdlib.h>
#include <string.h>
#include "base/blocks.h"
#include "folder.h"
#include "heap.h"
#include "io/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char path[128], parts_path[128];

static void make_first_part(void) {
    tl_gguf_out *out;
    snprintf(path, sizeof path, "%s/m.gguf", folder);
    snprintf(parts_path, sizeof parts_path, "%s/p-00001-of-00002.gguf", folder);
    if (tl__gguf_create(&out, parts_path, NULL) ||
        tl__gguf_put(out, "split.count", TL_GGUF_U16, false, &(uint16_t){2}, NULL, 1, NULL) ||
        tl__gguf_declare(out, "w", TL_F32, 1, (int64_t[]){2}, NULL) || tl__gguf_write(out, (float[2]){0}, 8, NULL) ||
        tl__gguf_publish(out, NULL))
        abort();
}

static void ask(const tl_gguf *g, size_t size) {
    int64_t sum = 0, x;
    double y;
    for (int i = 0; i < tl__gguf_values(g); i++) {
        const tl_gguf_value *v = tl__gguf_value_at(g, i);
        char *key = strndup(v->key.bytes, v->key.n);
        if (tl__gguf_find(g, key) != v) abort();
        free(key);
        if (v->count && !v->texts && !tl__gguf_real(v, v->count - 1, &y)) abort();
        if (tl__gguf_int(v, v->count, &x) || tl__gguf_real(v, -1, &y)) abort();
        for (int64_t k = 0; k < v->count; k++) {
            sum += tl__gguf_int(v, k, &x);
            for (size_t b = 0; v->texts && b < v->texts[k].n; b++) sum += v->texts[k].bytes[b];
        }
    }
    for (int i = 0; i < tl__gguf_count(g); i++) {
        const tl_tensor_info *t = tl__gguf_tensor_at(g, i);
        if (tl__gguf_tensor(g, t->name) != t || t->size_bytes > (int64_t)size + 64) abort();
        unsigned char *bytes = malloc((size_t)t->size_bytes);
        if (tl__gguf_read(g, t, bytes, 0, (size_t)t->size_bytes, NULL)) abort();
        const void *map = tl__gguf_data(g, t);
        if (map && memcmp(map, bytes, (size_t)t->size_bytes)) abort();
        if (tl__can_widen(t->type)) {
            const int64_t n = t->size_bytes / (int64_t)tl__type_bytes(t->type) * tl__type_block(t->type);
            float *wide = malloc((size_t)n * sizeof *wide);
            tl__widen(wide, t->type, bytes, n);
            free(wide);
        }
        free(bytes);
    }
    static volatile int64_t sink;
    sink = sum;
    (void)sink;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (make_folder()) make_first_part();
    const bool second = size && data[0] == 'S';
    put_file(second ? "p-00002-of-00002.gguf" : "m.gguf", data + second, size - second);
    for (int mapped = 0; mapped < 2; mapped++) {
        setenv("TRILITH_MMAP", mapped ? "1" : "0", 1);
        tl_error err = {0};
        tl_gguf *g;
        heap_watch();
        int rc = tl__gguf_open(&g, second ? parts_path : path, &err);
        heap_check(4352, 2, size); /* a path's */
        if (rc) {
            if (rc != err.status || !err.text[0] || g) abort();
            continue;
        }
        ask(g, size);
        tl__gguf_close(g);
    }
    return 0;
}
