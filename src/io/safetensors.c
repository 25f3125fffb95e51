/* safetensors.c — owns the safetensors container: what the bytes of a model file mean, and how ours are laid out.
 *
 * A header is believed only after every entry was checked against the file: type, shape, size = shape × type, offsets
 * inside the data, and (as the format asks) data without overlap or holes. What is wrong is refused by tensor name.
 * Opening allocates at most in proportion to the header, which is at most 100 MB and no longer than its file. */
#include "io/safetensors.h"

#include "base/blocks.h"
#include "base/json.h"

#include <assert.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_HEADER_BYTES ((uint64_t)100000000) /* the reference implementation's limit */
#define MAX_INDEX_BYTES ((size_t)64 << 20)
#define MAX_SHARDS 4096
#define CHUNK_BYTES ((size_t)256 << 10) /* hashed and then written while it is in the cache */

typedef struct shard {
    tl_file *file;
    json_t *header; /* owns the tensors' names */
    const unsigned char *map;
    int64_t data_at;
} shard;

struct tl_safetensors {
    shard *shards;
    tl_tensor_info *tensors; /* by name */
    int n_shards, n_tensors;
    json_t *index; /* owns the shards' names */
};

/* ---- one file's header ---- */

static int by_name(const void *a, const void *b) {
    return strcmp(((const tl_tensor_info *)a)->name, ((const tl_tensor_info *)b)->name);
}

static int by_offset(const void *a, const void *b) {
    const tl_tensor_info *x = a, *y = b;
    if (x->offset_bytes != y->offset_bytes) return x->offset_bytes < y->offset_bytes ? -1 : 1;
    if (x->size_bytes != y->size_bytes)
        return x->size_bytes < y->size_bytes ? -1 : 1; /* empty ones before what they touch */
    return strcmp(x->name, y->name);
}

/* A whole number ≥ 0, or −1. */
static int64_t natural(const json_t *v) {
    return json_is_integer(v) && json_integer_value(v) >= 0 ? json_integer_value(v) : -1;
}

/* Fill t from its header entry; its offset is still within the data. */
static int read_entry(tl_tensor_info *t, const char *name, const json_t *entry, int64_t data_bytes, const char *path,
                      tl_error *err) {
    const char *type = json_string_value(json_object_get(entry, "dtype"));
    const json_t *shape = json_object_get(entry, "shape"), *range = json_object_get(entry, "data_offsets");
    const char *lacks = !type                                                  ? "\"dtype\", a string"
                        : !json_is_array(shape)                                ? "\"shape\", a list"
                        : !json_is_array(range) || json_array_size(range) != 2 ? "\"data_offsets\", a list of two"
                                                                               : NULL;
    if (lacks)
        return tl__fail(err, TL_EFORMAT, "%s: tensor \"%.200s\" has no %s; fetch or write the file again", path, name,
                        lacks);
    t->name = name;
    t->type = tl__type_named(type);
    if (t->type == TL_TYPES || tl__type_quantised(t->type))
        return tl__fail(
            err, TL_EUNSUPPORTED,
            "%s: tensor \"%.200s\" has type \"%.40s\", which this version does not read; convert it to F32 or BF16",
            path, name, type);
    if (json_array_size(shape) > TL_MAX_DIMS)
        return tl__fail(err, TL_EUNSUPPORTED, "%s: tensor \"%.200s\" has %zu dimensions; at most %d are read", path,
                        name, json_array_size(shape), TL_MAX_DIMS);
    t->dims = (int)json_array_size(shape);
    t->size_bytes = (int64_t)tl__type_bytes(t->type);
    bool empty = false, overflow = false;
    for (int d = 0; d < t->dims; d++) {
        t->shape[d] = natural(json_array_get(shape, (size_t)d));
        if (t->shape[d] < 0)
            return tl__fail(err, TL_EFORMAT,
                            "%s: tensor \"%.200s\": number %d of its shape is no whole number from 0 on; fetch or "
                            "write the file again",
                            path, name, d + 1);
        empty |= t->shape[d] == 0;
        overflow |= __builtin_mul_overflow(t->size_bytes, t->shape[d] ? t->shape[d] : 1, &t->size_bytes);
    }
    if (overflow) /* even where a zero elsewhere makes the product 0: nobody may multiply such a shape */
        return tl__fail(err, TL_EFORMAT,
                        "%s: the shape of tensor \"%.200s\" overflows 64 bits; fetch or write the file again", path,
                        name);
    if (empty) t->size_bytes = 0;
    int64_t begin = natural(json_array_get(range, 0)), end = natural(json_array_get(range, 1));
    if (begin < 0 || end < begin || end > data_bytes)
        return tl__fail(err, TL_EFORMAT,
                        "%s: the data_offsets of tensor \"%.200s\" are %" PRId64 " to %" PRId64
                        ", not a range within the file's %" PRId64
                        " bytes of data; the file is cut short or damaged: fetch it again",
                        path, name, begin, end, data_bytes);
    if (end - begin != t->size_bytes)
        return tl__fail(err, TL_EFORMAT,
                        "%s: tensor \"%.200s\" holds %" PRId64 " bytes where its shape and type ask for %" PRId64
                        "; fetch or write the file again",
                        path, name, end - begin, t->size_bytes);
    t->offset_bytes = begin;
    return 0;
}

static int check_metadata(const json_t *metadata, const char *path, tl_error *err) {
    const char *key;
    json_t *value;
    bool good = json_is_object(metadata);
    json_object_foreach((json_t *)metadata, key, value) good &= json_is_string(value);
    return good ? 0
                : tl__fail(err, TL_EFORMAT,
                           "%s: __metadata__ must map strings to strings; fetch or write the file again", path);
}

/* Open one file and append its tensors to st, in the order of their data. */
static int open_shard(tl_safetensors *st, const char *path, tl_error *err) {
    shard *s = &st->shards[st->n_shards];
    *s = (shard){0};
    int rc = tl__file_open(&s->file, path, err);
    if (rc) return rc;
    st->n_shards++; /* from here close() frees it */
    int64_t file_bytes = tl__file_size_bytes(s->file);
    unsigned char head[8];
    if (file_bytes < 8)
        return tl__fail(err, TL_EFORMAT,
                        "%s is %" PRId64 " bytes long, too short for a safetensors file; fetch it again", path,
                        file_bytes);
    if ((rc = tl__file_read(s->file, head, 0, 8, err))) return rc;
    uint64_t header_bytes = 0;
    for (int i = 7; i >= 0; i--) header_bytes = header_bytes << 8 | head[i];
    if (header_bytes > MAX_HEADER_BYTES || header_bytes > (uint64_t)file_bytes - 8)
        return tl__fail(err, TL_EFORMAT,
                        "%s claims a header of %" PRIu64
                        " bytes, more than %s; it is no safetensors file or is cut short",
                        path, header_bytes, header_bytes > MAX_HEADER_BYTES ? "the 100 MB allowed" : "the file holds");
    char *text = malloc(header_bytes + 1);
    if (!text) return tl__fail(err, TL_ENOMEM, "no memory for the header of %s; free some and try again", path);
    rc = tl__file_read(s->file, text, 8, header_bytes, err);
    if (!rc && !(s->header = tl__json_parse(text, header_bytes, path, err))) rc = TL_EFORMAT;
    free(text);
    if (rc) return rc;
    if (!json_is_object(s->header))
        return tl__fail(err, TL_EFORMAT, "%s: the safetensors header is not a JSON object; fetch the file again", path);
    s->data_at = 8 + (int64_t)header_bytes;
    int64_t data_bytes = file_bytes - s->data_at;

    size_t entries = json_object_size(s->header);
    if (entries > 64 + (uint64_t)file_bytes * 2 / sizeof *st->tensors || entries > INT_MAX - (size_t)st->n_tensors - 1)
        return tl__fail(err, TL_EFORMAT,
                        "%s has a header of %zu tensors, more than a file of %" PRId64
                        " bytes holds; it is damaged: fetch it again",
                        path, entries, file_bytes);
    tl_tensor_info *grown = realloc(st->tensors, ((size_t)st->n_tensors + entries + 1) * sizeof *grown);
    if (!grown)
        return tl__fail(err, TL_ENOMEM, "no memory for the %zu tensors of %s; free some and try again", entries, path);
    st->tensors = grown;
    tl_tensor_info *first = grown + st->n_tensors, *t = first;
    const char *name;
    json_t *entry;
    json_object_foreach(s->header, name, entry) {
        if (!strcmp(name, "__metadata__")) {
            if ((rc = check_metadata(entry, path, err))) return rc;
            continue;
        }
        *t = (tl_tensor_info){.file = st->n_shards - 1};
        if ((rc = read_entry(t, name, entry, data_bytes, path, err))) return rc;
        t++;
    }
    qsort(first, (size_t)(t - first), sizeof *t, by_offset);
    int64_t covered = 0;
    for (tl_tensor_info *i = first; i < t; i++) {
        if (i->offset_bytes != covered)
            return tl__fail(
                err, TL_EFORMAT,
                "%s: the data of tensor \"%.200s\" %s: it begins at byte %" PRId64 ", where %s%.200s ends at %" PRId64
                "; fetch or write the file again",
                path, i->name, i->offset_bytes < covered ? "overlaps another tensor's" : "leaves a hole before it",
                i->offset_bytes, i > first ? "tensor " : "the header", i > first ? i[-1].name : "", covered);
        covered += i->size_bytes;
        i->offset_bytes += s->data_at;
    }
    if (covered != data_bytes)
        return tl__fail(err, TL_EFORMAT,
                        "%s has %" PRId64 " bytes after its last tensor \"%.200s\"; fetch or write the file again",
                        path, data_bytes - covered, t > first ? t[-1].name : "(none)");
    st->n_tensors += (int)(t - first);
    s->map = tl__file_map(s->file);
    return 0;
}

/* ---- a folder, an index, its shards ---- */

/* A shard lies beside its index: no separators, nothing hidden, nothing upward. */
static bool plain_name(const char *name) {
    return *name && *name != '.' && !strchr(name, '/') && strlen(name) < 256;
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int open_index(tl_safetensors *st, const char *path, tl_error *err) {
    char *text, folder[PATH_MAX], shard_path[PATH_MAX];
    size_t size;
    int rc = tl__file_slurp(&text, &size, path, MAX_INDEX_BYTES, err);
    if (rc) return rc;
    st->index = tl__json_parse(text, size, path, err);
    free(text);
    if (!st->index) return TL_EFORMAT;
    json_t *weight_map = json_object_get(st->index, "weight_map"), *value;
    const char *name;
    if (!json_is_object(weight_map) || !json_object_size(weight_map))
        return tl__fail(err, TL_EFORMAT, "%s has no \"weight_map\" from tensor names to files; fetch it again", path);
    size_t n = 0, files = 0;
    const char **file = malloc(json_object_size(weight_map) * sizeof *file);
    if (!file) return tl__fail(err, TL_ENOMEM, "no memory for the index %s; free some and try again", path);
    json_object_foreach(weight_map, name, value) {
        if (!json_is_string(value) || !plain_name(json_string_value(value))) {
            free(file);
            return tl__fail(err, TL_EFORMAT,
                            "%s: tensor \"%.200s\" is said to lie in \"%.100s\", which is not the name of a file "
                            "beside the index; fetch it again",
                            path, name, json_is_string(value) ? json_string_value(value) : "(no name)");
        }
        file[n++] = json_string_value(value);
    }
    qsort(file, n, sizeof *file, by_text);
    for (size_t i = 0; i < n; i++)
        if (!i || strcmp(file[i], file[i - 1])) file[files++] = file[i];
    if (files > MAX_SHARDS)
        rc = tl__fail(err, TL_EFORMAT, "%s names %zu files; at most %d are read", path, files, MAX_SHARDS);
    st->shards = rc ? NULL : calloc(files, sizeof *st->shards);
    if (!rc && !st->shards) rc = tl__fail(err, TL_ENOMEM, "no memory for the index %s; free some and try again", path);
    const char *slash = strrchr(path, '/');
    snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path + (slash == path)) : 1, slash ? path : ".");
    for (size_t i = 0; i < files && !rc; i++) {
        tl__path_join(shard_path, sizeof shard_path, folder, file[i]);
        rc = open_shard(st, shard_path, err);
    }
    free(file);
    if (rc) return rc;
    qsort(st->tensors, (size_t)st->n_tensors, sizeof *st->tensors, by_name);
    json_object_foreach(weight_map, name, value) {
        const tl_tensor_info *t = tl__safetensors_find(st, name);
        const char *at = t ? strrchr(tl__safetensors_file(st, t), '/') + 1 : NULL;
        if (!t || strcmp(at, json_string_value(value)))
            return tl__fail(err, TL_EFORMAT,
                            "%s: tensor \"%.200s\" is not in %s, where the index has it; fetch the model again", path,
                            name, json_string_value(value));
    }
    return 0;
}

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcmp(text + n - m, end);
}

void tl__safetensors_shard_name(char *out, size_t size, const char *name, int i, int n) {
    static const char end[] = ".safetensors";
    assert(ends_with(name, end) && i >= 0 && i < n);
    snprintf(out, size, "%.*s-%05d-of-%05d%s", (int)(strlen(name) - strlen(end)), name, i + 1, n, end);
}

void tl__safetensors_index_name(char *out, size_t size, const char *name) {
    snprintf(out, size, "%s.index.json", name);
}

int tl__safetensors_open_in(tl_safetensors **out, const char *folder, const char *name, tl_error *err) {
    char found[PATH_MAX], index[256];
    *out = NULL;
    tl__path_join(found, sizeof found, folder, name);
    tl__safetensors_index_name(index, sizeof index, name);
    if (!tl__path_exists(found)) tl__path_join(found, sizeof found, folder, index);
    if (!tl__path_exists(found))
        return tl__fail(err, TL_ENOTFOUND, "%s holds no %s and no %s; give a model folder or a .safetensors file",
                        folder, name, index);
    return tl__safetensors_open(out, found, err);
}

int tl__safetensors_open(tl_safetensors **out, const char *path, tl_error *err) {
    *out = NULL;
    if (tl__path_is_folder(path)) return tl__safetensors_open_in(out, path, "model.safetensors", err);
    tl_safetensors *st = calloc(1, sizeof *st);
    if (!st) return tl__fail(err, TL_ENOMEM, "no memory to open %s; free some and try again", path);
    int rc;
    if (ends_with(path, ".json")) {
        rc = open_index(st, path, err);
    } else {
        st->shards = calloc(1, sizeof *st->shards);
        rc = st->shards ? open_shard(st, path, err)
                        : tl__fail(err, TL_ENOMEM, "no memory to open %s; free some and try again", path);
        if (!rc) qsort(st->tensors, (size_t)st->n_tensors, sizeof *st->tensors, by_name);
    }
    for (int i = 1; i < st->n_tensors && !rc; i++)
        if (!strcmp(st->tensors[i].name, st->tensors[i - 1].name))
            rc = tl__fail(err, TL_EFORMAT, "%s: tensor \"%.200s\" is in two files; fetch the model again", path,
                          st->tensors[i].name);
    if (rc) {
        tl__safetensors_close(st);
        return rc;
    }
    *out = st;
    return 0;
}

void tl__safetensors_close(tl_safetensors *st) {
    if (!st) return;
    for (int i = 0; i < st->n_shards; i++) {
        tl__file_close(st->shards[i].file);
        json_decref(st->shards[i].header);
    }
    json_decref(st->index);
    free(st->shards);
    free(st->tensors);
    free(st);
}

/* ---- asking ---- */

int tl__safetensors_count(const tl_safetensors *st) {
    return st->n_tensors;
}

int tl__safetensors_files(const tl_safetensors *st) {
    return st->n_shards;
}

const char *tl__safetensors_file(const tl_safetensors *st, const tl_tensor_info *t) {
    return tl__file_path(st->shards[t->file].file);
}

const tl_tensor_info *tl__safetensors_at(const tl_safetensors *st, int i) {
    assert(i >= 0 && i < st->n_tensors);
    return &st->tensors[i];
}

const tl_tensor_info *tl__safetensors_find(const tl_safetensors *st, const char *name) {
    if (!st->n_tensors) return NULL;
    tl_tensor_info key = {.name = name};
    return bsearch(&key, st->tensors, (size_t)st->n_tensors, sizeof key, by_name);
}

const void *tl__safetensors_data(const tl_safetensors *st, const tl_tensor_info *t) {
    const unsigned char *map = st->shards[t->file].map;
    if (!map || (uintptr_t)(map + t->offset_bytes) % tl__type_bytes(t->type)) return NULL;
    return map + t->offset_bytes;
}

int tl__safetensors_read_part(const tl_safetensors *st, const tl_tensor_info *t, void *out, int64_t from, size_t n,
                              tl_error *err) {
    assert(from >= 0 && from <= t->size_bytes && n <= (uint64_t)(t->size_bytes - from));
    int rc = tl__file_read(st->shards[t->file].file, out, t->offset_bytes + from, n, err);
    return rc ? tl__error_prefix(err, "tensor \"%.200s\"", t->name) : 0;
}

int tl__safetensors_read(const tl_safetensors *st, const tl_tensor_info *t, void *out, tl_error *err) {
    return tl__safetensors_read_part(st, t, out, 0, (size_t)t->size_bytes, err);
}

int tl__safetensors_read_f32(const tl_safetensors *st, const tl_tensor_info *t, float *out, tl_error *err) {
    if (t->type == TL_F32) return tl__safetensors_read(st, t, out, err);
    if (!tl__can_widen(t->type))
        return tl__fail(err, TL_EUNSUPPORTED, "tensor \"%.200s\" has type %s; F32, F16, BF16 or F8 was expected",
                        t->name, tl__type_name(t->type));
    unsigned char chunk[16384];
    const int64_t bytes = (int64_t)tl__type_bytes(t->type);
    for (int64_t done = 0, n = t->size_bytes / bytes; done < n;) {
        size_t k = n - done < 8192 ? (size_t)(n - done) : 8192;
        int rc = tl__file_read(st->shards[t->file].file, chunk, t->offset_bytes + bytes * done, (size_t)bytes * k, err);
        if (rc) return tl__error_prefix(err, "tensor \"%.200s\"", t->name);
        tl__widen(out + done, t->type, chunk, (int64_t)k);
        done += (int64_t)k;
    }
    return 0;
}

const char *tl__safetensors_metadata(const tl_safetensors *st, const char *key) {
    for (int i = 0; i < st->n_shards; i++) {
        const char *value =
            json_string_value(json_object_get(json_object_get(st->shards[i].header, "__metadata__"), key));
        if (value) return value;
    }
    return NULL;
}

static void hash_int(tl_hasher *h, int64_t x) {
    unsigned char le[8];
    for (int i = 0; i < 8; i++) le[i] = (unsigned char)((uint64_t)x >> 8 * i);
    tl__hasher_add(h, le, 8);
}

/* Read, not mapped: a file that is cut short meanwhile is an error and no fault. */
static int hash_bytes(const tl_safetensors *st, const tl_tensor_info *t, tl_hasher *h, unsigned char *chunk,
                      tl_error *err) {
    for (int64_t done = 0; done < t->size_bytes;) {
        size_t k = t->size_bytes - done < (int64_t)CHUNK_BYTES ? (size_t)(t->size_bytes - done) : CHUNK_BYTES;
        int rc = tl__file_read(st->shards[t->file].file, chunk, t->offset_bytes + done, k, err);
        if (rc) return tl__error_prefix(err, "tensor \"%.200s\"", t->name);
        tl__hasher_add(h, chunk, k);
        done += (int64_t)k;
    }
    return 0;
}

int tl__safetensors_hash_tensor(const tl_safetensors *st, const tl_tensor_info *t, tl_hash *out, tl_error *err) {
    unsigned char *chunk = malloc(CHUNK_BYTES);
    if (!chunk) return tl__fail(err, TL_ENOMEM, "no memory to hash a tensor; free some and try again");
    tl_hasher *h = tl__hasher_open();
    int rc = hash_bytes(st, t, h, chunk, err);
    *out = tl__hasher_close(h);
    free(chunk);
    return rc;
}

int tl__safetensors_hash(const tl_safetensors *st, tl_hash *out, tl_error *err) {
    unsigned char *chunk = malloc(CHUNK_BYTES);
    if (!chunk) return tl__fail(err, TL_ENOMEM, "no memory to hash a model; free some and try again");
    tl_hasher *h = tl__hasher_open();
    int rc = 0;
    for (int i = 0; i < st->n_tensors && !rc; i++) {
        const tl_tensor_info *t = &st->tensors[i];
        const char *type = tl__type_name(t->type);
        tl__hasher_add(h, t->name, strlen(t->name) + 1);
        tl__hasher_add(h, type, strlen(type) + 1);
        hash_int(h, t->dims);
        for (int d = 0; d < t->dims; d++) hash_int(h, t->shape[d]);
        rc = hash_bytes(st, t, h, chunk, err);
    }
    *out = tl__hasher_close(h);
    free(chunk);
    return rc;
}

/* ---- writing ---- */

/* The bytes of one tensor; its shape is our own, so an overflow is our own bug. */
static int64_t bytes_of(const tl_tensor_out *t) {
    int64_t bytes = (int64_t)tl__type_bytes(t->type);
    bool overflow = false;
    for (int d = 0; d < t->dims; d++) overflow |= __builtin_mul_overflow(bytes, t->shape[d], &bytes);
    assert(!overflow && bytes >= 0 && t->dims <= TL_MAX_DIMS);
    return bytes;
}

/* The header with its length before it, padded with spaces to a multiple of 64; free() it. NULL: no memory. */
static char *make_header(const tl_tensor_out *tensors, int n, size_t *size) {
    char *text = NULL;
    FILE *f = open_memstream(&text, size);
    if (!f) return NULL;
    fputs("12345678{\"__metadata__\":{\"format\":\"pt\"}", f);
    int64_t at = 0;
    for (int i = 0; i < n; i++) {
        const tl_tensor_out *t = &tensors[i];
        char name[4096];
        int quoted = tl__json_quote(name, sizeof name, t->name, strlen(t->name));
        assert(quoted > 0 && "a tensor's name is too long");
        fprintf(f, ",%.*s:{\"dtype\":\"%s\",\"shape\":[", quoted, name, tl__type_name(t->type));
        for (int d = 0; d < t->dims; d++) fprintf(f, "%s%" PRId64, d ? "," : "", t->shape[d]);
        int64_t end = at + bytes_of(t);
        fprintf(f, "],\"data_offsets\":[%" PRId64 ",%" PRId64 "]}", at, end);
        at = end;
    }
    fputc('}', f);
    for (fflush(f); *size % 64; fflush(f)) fputc(' ', f);
    if (fclose(f)) {
        free(text);
        return NULL;
    }
    for (int i = 0; i < 8; i++) text[i] = (char)((uint64_t)(*size - 8) >> 8 * i);
    return text;
}

int tl__safetensors_write_header(tl_sink *sink, const tl_tensor_out *tensors, int n, tl_error *err) {
    size_t header_bytes;
    char *header = make_header(tensors, n, &header_bytes);
    if (!header) return tl__fail(err, TL_ENOMEM, "no memory for a header of %d tensors; free some and try again", n);
    int rc = tl__sink_write(sink, header, header_bytes, err);
    free(header);
    return rc;
}

int tl__safetensors_write_to(tl_sink *sink, const tl_tensor_out *tensors, int n, tl_hash *hashes, tl_error *err) {
    int rc = tl__safetensors_write_header(sink, tensors, n, err);
    for (int i = 0; i < n && !rc; i++) {
        const unsigned char *bytes = tensors[i].data;
        size_t left = (size_t)bytes_of(&tensors[i]);
        tl_hasher *h = hashes ? tl__hasher_open() : NULL;
        while (left && !rc) {
            size_t k = left < CHUNK_BYTES ? left : CHUNK_BYTES;
            if (h) tl__hasher_add(h, bytes, k);
            rc = tl__sink_write(sink, bytes, k, err);
            bytes += k, left -= k;
        }
        if (h) hashes[i] = tl__hasher_close(h);
    }
    return rc;
}

int tl__safetensors_write(const char *path, const tl_tensor_out *tensors, int n, tl_hash *hashes, tl_error *err) {
    tl_sink *sink;
    int rc = tl__sink_open(&sink, path, err);
    if (rc) return rc;
    rc = tl__safetensors_write_to(sink, tensors, n, hashes, err);
    if (!rc) return tl__sink_publish(sink, err);
    tl__sink_abandon(sink);
    return rc;
}
