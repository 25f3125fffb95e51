/* gguf_write.c — owns the writing of GGUF files: keys, tensor records, and the tensors' bytes where the records say. */
#include "io/gguf.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALIGNMENT 32
#define MAX_NAME_BYTES 63 /* of ggml's reader, with its NUL 64 */

struct tl_gguf_out {
    tl_sink *sink;
    FILE *keys, *records; /* in memory until the first tensor's bytes come */
    char *keys_text, *records_text;
    size_t keys_bytes, records_bytes;
    int64_t n_keys, n_tensors, capacity;
    int64_t *sizes; /* of the tensors, in bytes */
    int64_t data_bytes;
    bool started;
    int64_t tensor, left; /* being written, and how many of its bytes are missing */
    char *path;
};

static void put_int(FILE *f, uint64_t x, int bytes) {
    for (int i = 0; i < bytes; i++) fputc((int)(x >> 8 * i & 255), f);
}

static void put_text(FILE *f, const char *text, size_t n) {
    put_int(f, n, 8);
    fwrite(text, 1, n, f);
}

static int no_memory(const tl_gguf_out *out, tl_error *err) {
    return tl__fail(err, TL_ENOMEM, "no memory for the header of %s; free some and try again", out->path);
}

static void free_out(tl_gguf_out *out) {
    if (out->keys) fclose(out->keys);
    if (out->records) fclose(out->records);
    free(out->keys_text);
    free(out->records_text);
    free(out->sizes);
    free(out->path);
    free(out);
}

int tl__gguf_create(tl_gguf_out **result, const char *path, tl_error *err) {
    *result = NULL;
    tl_gguf_out *out = calloc(1, sizeof *out);
    if (!out) return tl__fail(err, TL_ENOMEM, "no memory to write %s; free some and try again", path);
    out->path = strdup(path);
    out->keys = open_memstream(&out->keys_text, &out->keys_bytes);
    out->records = open_memstream(&out->records_text, &out->records_bytes);
    int rc = out->path && out->keys && out->records
                 ? tl__sink_open(&out->sink, path, err)
                 : tl__fail(err, TL_ENOMEM, "no memory to write %s; free some and try again", path);
    if (rc) free_out(out);
    else *result = out;
    return rc;
}

int tl__gguf_put(tl_gguf_out *out, const char *key, tl_gguf_kind kind, bool array, const void *data,
                 const tl_gguf_text *texts, int64_t count, tl_error *err) {
    assert(!out->started && kind != TL_GGUF_ARRAY && (array || count == 1) && count >= 0);
    FILE *f = out->keys;
    put_text(f, key, strlen(key));
    if (array) {
        put_int(f, TL_GGUF_ARRAY, 4);
        put_int(f, kind, 4);
        put_int(f, (uint64_t)count, 8);
    } else {
        put_int(f, kind, 4);
    }
    if (kind == TL_GGUF_STRING)
        for (int64_t i = 0; i < count; i++) put_text(f, texts[i].bytes, texts[i].n);
    else if (count) fwrite(data, tl__gguf_kind_bytes(kind), (size_t)count, f); /* every host here is little-endian */
    out->n_keys++;
    return ferror(f) ? no_memory(out, err) : 0;
}

int tl__gguf_declare(tl_gguf_out *out, const char *name, tl_type type, int dims, const int64_t *shape, tl_error *err) {
    assert(!out->started);
    const int number = tl__gguf_type_number(type);
    if (number < 0)
        return tl__fail(err, TL_EUNSUPPORTED,
                        "%s: tensor \"%.200s\" has type %s, which GGUF does not have; F32, F16 or "
                        "BF16 holds it",
                        out->path, name, tl__type_name(type));
    if (strlen(name) > MAX_NAME_BYTES)
        return tl__fail(err, TL_EUNSUPPORTED, "%s: tensor \"%.200s\" has a name of %zu bytes; GGUF allows %d",
                        out->path, name, strlen(name), MAX_NAME_BYTES);
    if (dims > 4)
        return tl__fail(err, TL_EUNSUPPORTED, "%s: tensor \"%.200s\" has %d dimensions; GGUF allows 4", out->path, name,
                        dims);
    int64_t elements = 1;
    for (int d = 0; d < dims; d++)
        if (shape[d] < 1 || __builtin_mul_overflow(elements, shape[d], &elements)) elements = -1, d = dims;
    const int64_t bytes = tl__type_size(type, elements), row = dims ? shape[dims - 1] : 1;
    if (bytes < 0 || row % tl__type_block(type))
        return tl__fail(err, TL_EUNSUPPORTED,
                        "%s: tensor \"%.200s\" with rows of %" PRId64
                        " elements cannot be of type %s, whose blocks have "
                        "%d; choose another type",
                        out->path, name, row, tl__type_name(type), tl__type_block(type));
    if (out->n_tensors == out->capacity) {
        int64_t capacity = out->capacity * 2 + 64, *grown = realloc(out->sizes, (size_t)capacity * sizeof *grown);
        if (!grown) return no_memory(out, err);
        out->sizes = grown, out->capacity = capacity;
    }
    FILE *f = out->records;
    put_text(f, name, strlen(name));
    put_int(f, (uint64_t)dims, 4);
    for (int d = dims; d-- > 0;) put_int(f, (uint64_t)shape[d], 8);
    put_int(f, (uint64_t)number, 4);
    put_int(f, (uint64_t)out->data_bytes, 8);
    out->sizes[out->n_tensors++] = bytes;
    out->data_bytes += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return ferror(f) ? no_memory(out, err) : 0;
}

static int pad(tl_gguf_out *out, int64_t after, tl_error *err) {
    static const char zeros[ALIGNMENT];
    return tl__sink_write(out->sink, zeros, (size_t)(-after & (ALIGNMENT - 1)), err);
}

static int start(tl_gguf_out *out, tl_error *err) {
    if (out->started) return 0;
    out->started = true;
    unsigned char head[24] = "GGUF\3";
    for (int i = 0; i < 8; i++) {
        head[8 + i] = (unsigned char)((uint64_t)out->n_tensors >> 8 * i);
        head[16 + i] = (unsigned char)((uint64_t)out->n_keys >> 8 * i);
    }
    if (fflush(out->keys) || fflush(out->records)) return no_memory(out, err);
    TRY(tl__sink_write(out->sink, head, sizeof head, err));
    TRY(tl__sink_write(out->sink, out->keys_text, out->keys_bytes, err));
    TRY(tl__sink_write(out->sink, out->records_text, out->records_bytes, err));
    if (out->n_tensors) out->left = out->sizes[0];
    return pad(out, (int64_t)(sizeof head + out->keys_bytes + out->records_bytes), err);
}

int tl__gguf_write(tl_gguf_out *out, const void *bytes, size_t n, tl_error *err) {
    TRY(start(out, err));
    for (const unsigned char *from = bytes; n;) {
        assert(out->tensor < out->n_tensors && "more bytes than were declared");
        const size_t k = n < (uint64_t)out->left ? n : (size_t)out->left;
        TRY(tl__sink_write(out->sink, from, k, err));
        from += k, n -= k, out->left -= (int64_t)k;
        if (out->left) continue;
        TRY(pad(out, out->sizes[out->tensor], err));
        if (++out->tensor < out->n_tensors) out->left = out->sizes[out->tensor];
    }
    return 0;
}

int tl__gguf_publish(tl_gguf_out *out, tl_error *err) {
    int rc = start(out, err);
    if (!rc && out->tensor < out->n_tensors)
        rc = tl__fail(err, TL_EINVALID,
                      "%s: tensor %" PRId64 " of %" PRId64 " lacks %" PRId64 " bytes; nothing was written", out->path,
                      out->tensor, out->n_tensors, out->left);
    if (rc) tl__sink_abandon(out->sink);
    else rc = tl__sink_publish(out->sink, err);
    free_out(out);
    return rc;
}

void tl__gguf_abandon(tl_gguf_out *out) {
    if (!out) return;
    tl__sink_abandon(out->sink);
    free_out(out);
}
