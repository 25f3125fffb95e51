/* gguf.c — owns the reading of GGUF files: what their bytes mean, believed only after every key and tensor was checked.
 *
 * The header is read where it is mapped, else from a copy. No allocation is over twice the file's size: counts are
 * compared with the bytes that so many records take before anything is allocated for them. */
#include "io/gguf.h"

#include <assert.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>
#include "base/arena.h"

#define MAX_DIMS 4          /* of the format */
#define MAX_KEY_BYTES 65535 /* of the format */
#define MAX_NAME_BYTES 64   /* of the format */
#define MAX_PARTS 1024
#define HEAD_BYTES ((int64_t)1 << 20) /* of a header that is not mapped, at first */

typedef struct part {
    tl_file *file;
    const unsigned char *map;
    unsigned char *copy; /* the header's, where not mapped */
    int64_t data_at;
} part;

struct tl_gguf {
    part *parts;
    tl_gguf_value *values; /* of the first part */
    const tl_gguf_value **by_key;
    tl_tensor_info *tensors; /* of all parts; they own their names */
    const tl_tensor_info **by_name;
    int n_parts, n_values, n_tensors;
};

static const struct {
    const char *name;
    uint8_t bytes;
} kinds[] = {
    [TL_GGUF_U8] = {"u8", 1},       [TL_GGUF_I8] = {"i8", 1},     [TL_GGUF_U16] = {"u16", 2},
    [TL_GGUF_I16] = {"i16", 2},     [TL_GGUF_U32] = {"u32", 4},   [TL_GGUF_I32] = {"i32", 4},
    [TL_GGUF_F32] = {"f32", 4},     [TL_GGUF_BOOL] = {"bool", 1}, [TL_GGUF_STRING] = {"string", 0},
    [TL_GGUF_ARRAY] = {"array", 0}, [TL_GGUF_U64] = {"u64", 8},   [TL_GGUF_I64] = {"i64", 8},
    [TL_GGUF_F64] = {"f64", 8},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

const char *tl__gguf_kind_name(tl_gguf_kind kind) {
    return kinds[kind].name;
}

size_t tl__gguf_kind_bytes(tl_gguf_kind kind) {
    return kinds[kind].bytes;
}

/* ggml's numbers of the types that are read, and the names of those that are not. */
static const struct {
    tl_type type;
    const char *unread;
} numbers[] = {
    [0] = {TL_F32, NULL},
    [1] = {TL_F16, NULL},
    [2] = {TL_Q4_0, NULL},
    [3] = {TL_Q4_1, NULL},
    [4] = {TL_TYPES, "Q4_2"},
    [5] = {TL_TYPES, "Q4_3"},
    [6] = {TL_Q5_0, NULL},
    [7] = {TL_Q5_1, NULL},
    [8] = {TL_Q8_0, NULL},
    [9] = {TL_TYPES, "Q8_1"},
    [10] = {TL_Q2_K, NULL},
    [11] = {TL_Q3_K, NULL},
    [12] = {TL_Q4_K, NULL},
    [13] = {TL_Q5_K, NULL},
    [14] = {TL_Q6_K, NULL},
    [15] = {TL_TYPES, "Q8_K"},
    [16] = {TL_TYPES, "IQ2_XXS"},
    [17] = {TL_TYPES, "IQ2_XS"},
    [18] = {TL_TYPES, "IQ3_XXS"},
    [19] = {TL_TYPES, "IQ1_S"},
    [20] = {TL_IQ4_NL, NULL},
    [21] = {TL_TYPES, "IQ3_S"},
    [22] = {TL_TYPES, "IQ2_S"},
    [23] = {TL_IQ4_XS, NULL},
    [24] = {TL_I8, NULL},
    [25] = {TL_I16, NULL},
    [26] = {TL_I32, NULL},
    [27] = {TL_I64, NULL},
    [28] = {TL_F64, NULL},
    [29] = {TL_TYPES, "IQ1_M"},
    [30] = {TL_BF16, NULL},
    [31] = {TL_TYPES, "Q4_0_4_4"},
    [32] = {TL_TYPES, "Q4_0_4_8"},
    [33] = {TL_TYPES, "Q4_0_8_8"},
    [34] = {TL_TYPES, "TQ1_0"},
    [35] = {TL_TYPES, "TQ2_0"},
    [36] = {TL_TYPES, "IQ4_NL_4_4"},
    [37] = {TL_TYPES, "IQ4_NL_4_8"},
    [38] = {TL_TYPES, "IQ4_NL_8_8"},
    [39] = {TL_TYPES, "MXFP4"},
    [40] = {TL_TYPES, "NVFP4"},
    [41] = {TL_TYPES, "Q1_0"},
    [42] = {TL_TYPES, "Q2_0"},
};
enum { NUMBERS = sizeof numbers / sizeof *numbers };

int tl__gguf_type_number(tl_type type) {
    for (int i = 0; i < NUMBERS; i++)
        if (numbers[i].type == type) return i;
    return -1;
}

/* ---- a cursor over the header ---- */

typedef struct cursor {
    const unsigned char *bytes;
    int64_t n, at;
    int64_t file_bytes; /* ≥ n */
    bool beyond;        /* more than n was asked for where the file has more: read more of it and begin again */
    const char *path;
    tl_error *err;
} cursor;

static const unsigned char *lacks(cursor *c, uint64_t n, const char *what) {
    c->beyond = n <= (uint64_t)(c->file_bytes - c->at);
    tl__fail(c->err, TL_EFORMAT,
             "%s ends within %s: %" PRIu64 " bytes were expected at byte %" PRId64 " of %" PRId64
             "; the file is cut short or damaged: fetch it again",
             c->path, what, n, c->at, c->file_bytes);
    return NULL;
}

/* The next n bytes, or NULL. */
static inline const unsigned char *take(cursor *c, uint64_t n, const char *what) {
    if (n > (uint64_t)(c->n - c->at)) return lacks(c, n, what);
    const unsigned char *p = c->bytes + c->at;
    c->at += (int64_t)n;
    return p;
}

static inline uint32_t little4(const unsigned char *p) { /* one load */
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline uint64_t little(const unsigned char *p, int bytes) {
    uint64_t x = 0;
    if (bytes == 4) return little4(p);
    if (bytes == 8) return little4(p) | (uint64_t)little4(p + 4) << 32;
    for (int i = bytes - 1; i >= 0; i--) x = x << 8 | p[i];
    return x;
}

static bool take_int(cursor *c, int bytes, uint64_t *out, const char *what) {
    const unsigned char *p = take(c, (uint64_t)bytes, what);
    if (p) *out = little(p, bytes);
    return p != NULL;
}

static bool take_text(cursor *c, tl_gguf_text *out, const char *what) {
    uint64_t n;
    if (!take_int(c, 8, &n, what)) return false;
    out->n = n;
    out->bytes = (const char *)take(c, n, what);
    return out->bytes != NULL;
}

/* What may be a key or a name: UTF-8 without control characters. */
static bool readable(tl_gguf_text text) {
    for (size_t i = 0; i < text.n;) {
        utf8proc_int32_t point;
        size_t rest = text.n - i;
        utf8proc_ssize_t k =
            utf8proc_iterate((const utf8proc_uint8_t *)text.bytes + i, (utf8proc_ssize_t)(rest < 4 ? rest : 4), &point);
        if (k <= 0 || point < 0x20 || point == 0x7f) return false;
        i += (size_t)k;
    }
    return text.n > 0;
}

/* ---- keys and values ---- */

/* The key for an error: at most 100 bytes of it. */
#define KEY(v) (int)((v)->key.n < 100 ? (v)->key.n : 100), (v)->key.bytes

static int read_value(cursor *c, tl_gguf_value *v, int64_t i) {
    char what[160];
    uint64_t kind, count = 1;
    snprintf(what, sizeof what, "key %" PRId64, i);
    if (!take_text(c, &v->key, what)) return TL_EFORMAT;
    if (v->key.n > MAX_KEY_BYTES)
        return tl__fail(c->err, TL_EFORMAT,
                        "%s: key %" PRId64 " is %zu bytes long; at most %d were expected: fetch the "
                        "file again",
                        c->path, i, v->key.n, MAX_KEY_BYTES);
    if (!readable(v->key))
        return tl__fail(c->err, TL_EFORMAT,
                        "%s: key %" PRId64 " is empty or not readable UTF-8; the file is damaged: fetch it again",
                        c->path, i);
    snprintf(what, sizeof what, "the value of key \"%.*s\"", KEY(v));
    if (!take_int(c, 4, &kind, what)) return TL_EFORMAT;
    if (kind >= KINDS)
        return tl__fail(c->err, TL_EFORMAT,
                        "%s: key \"%.*s\" has a value of kind %" PRIu64 "; 0 to %d were expected: fetch the file again",
                        c->path, KEY(v), kind, KINDS - 1);
    v->kind = v->of = (tl_gguf_kind)kind;
    if (kind == TL_GGUF_ARRAY) {
        if (!take_int(c, 4, &kind, what) || !take_int(c, 8, &count, what)) return TL_EFORMAT;
        if (kind == TL_GGUF_ARRAY)
            return tl__fail(c->err, TL_EUNSUPPORTED,
                            "%s: key \"%.*s\" holds arrays of arrays, which this version does not read", c->path,
                            KEY(v));
        if (kind >= KINDS)
            return tl__fail(c->err, TL_EFORMAT,
                            "%s: key \"%.*s\" has elements of kind %" PRIu64
                            "; 0 to %d were expected: fetch the file again",
                            c->path, KEY(v), kind, KINDS - 1);
        v->of = (tl_gguf_kind)kind;
    }
    const bool strings = v->of == TL_GGUF_STRING;
    const uint64_t bytes = strings ? 8 : kinds[v->of].bytes, rest = (uint64_t)(c->file_bytes - c->at);
    if (count > rest / bytes)
        return tl__fail(c->err, TL_EFORMAT,
                        "%s: key \"%.*s\" claims %" PRIu64
                        " elements of kind %s, more than the rest of the file (%" PRIu64
                        " bytes) holds; it is cut short or damaged: fetch it again",
                        c->path, KEY(v), count, kinds[v->of].name, rest);
    v->count = (int64_t)count;
    if (!strings) {
        if (!(v->data = take(c, count * bytes, what))) return TL_EFORMAT;
        for (uint64_t k = 0; v->of == TL_GGUF_BOOL && k < count; k++)
            if (((const uint8_t *)v->data)[k] > 1)
                return tl__fail(c->err, TL_EFORMAT,
                                "%s: key \"%.*s\" has a boolean of value %d; 0 or 1 was expected: fetch the file again",
                                c->path, KEY(v), ((const uint8_t *)v->data)[k]);
        return 0;
    }
    tl_gguf_text *texts = tl__table_alloc(count * sizeof *texts); /* 16 bytes for at least 8 in the file */
    if (!texts)
        return tl__fail(c->err, TL_ENOMEM,
                        "no memory for the %" PRIu64 " strings of key \"%.*s\" of %s; free some and "
                        "try again",
                        count, KEY(v), c->path);
    v->texts = texts;
    for (uint64_t k = 0; k < count; k++)
        if (!take_text(c, &texts[k], what)) return TL_EFORMAT;
    return 0;
}

static int text_order(tl_gguf_text a, tl_gguf_text b) {
    int order = memcmp(a.bytes, b.bytes, a.n < b.n ? a.n : b.n);
    return order ? order : (a.n > b.n) - (a.n < b.n);
}

static int by_key(const void *a, const void *b) {
    return text_order((*(const tl_gguf_value *const *)a)->key, (*(const tl_gguf_value *const *)b)->key);
}

static const tl_gguf_value *find(const tl_gguf_value *const *sorted, int n, const char *key) {
    const tl_gguf_value wanted = {.key = {key, strlen(key)}}, *p = &wanted;
    const tl_gguf_value *const *found = n ? bsearch(&p, sorted, (size_t)n, sizeof p, by_key) : NULL;
    return found ? *found : NULL;
}

static void free_values(tl_gguf_value *values, int n) {
    for (int i = 0; i < n; i++) free((void *)values[i].texts);
    free(values);
}

/* ---- tensors ---- */

static int read_tensor(cursor *c, tl_tensor_info *t, int64_t i) {
    char what[128];
    tl_gguf_text name;
    uint64_t dims, n[MAX_DIMS], type, offset;
    snprintf(what, sizeof what, "the name of tensor %" PRId64, i);
    if (!take_text(c, &name, what)) return TL_EFORMAT;
    if (name.n > MAX_NAME_BYTES || !readable(name))
        return tl__fail(
            c->err, TL_EFORMAT,
            "%s: tensor %" PRId64 " has a name of %zu bytes that is %s; 1 to %d bytes of readable UTF-8 were "
            "expected: fetch the file again",
            c->path, i, name.n, name.n > MAX_NAME_BYTES ? "too long" : "empty or not readable", MAX_NAME_BYTES);
    if (!(t->name = strndup(name.bytes, name.n)))
        return tl__fail(c->err, TL_ENOMEM, "no memory for the tensors of %s; free some and try again", c->path);
    snprintf(what, sizeof what, "the record of tensor \"%s\"", t->name);
    if (!take_int(c, 4, &dims, what)) return TL_EFORMAT;
    if (dims > MAX_DIMS)
        return tl__fail(c->err, TL_EFORMAT,
                        "%s: tensor \"%s\" has %" PRIu64 " dimensions; at most %d were expected: fetch the file again",
                        c->path, t->name, dims, MAX_DIMS);
    for (uint64_t d = 0; d < dims; d++)
        if (!take_int(c, 8, &n[d], what)) return TL_EFORMAT;
    if (!take_int(c, 4, &type, what) || !take_int(c, 8, &offset, what)) return TL_EFORMAT;
    if (type >= NUMBERS || numbers[type].unread)
        return tl__fail(c->err, TL_EUNSUPPORTED,
                        "%s: tensor \"%s\" has type %" PRIu64 " (%s), which this version does not read; take a file in "
                        "Q8_0, Q4_K or another common type",
                        c->path, t->name, type, type < NUMBERS ? numbers[type].unread : "unknown");
    t->type = numbers[type].type, t->dims = (int)dims;
    int64_t elements = 1;
    for (int d = 0; d < t->dims; d++) {
        if (n[d] < 1 || n[d] > INT64_MAX || __builtin_mul_overflow(elements, (int64_t)n[d], &elements))
            return tl__fail(c->err, TL_EFORMAT, "%s: the shape of tensor \"%s\" %s; fetch the file again", c->path,
                            t->name,
                            n[d] < 1 ? "has a dimension of 0, where 1 or more was expected" : "overflows 63 bits");
        t->shape[t->dims - 1 - d] = (int64_t)n[d];
    }
    const int block = tl__type_block(t->type);
    const int64_t row = t->dims ? (int64_t)n[0] : 1;
    if (row % block)
        return tl__fail(c->err, TL_EFORMAT,
                        "%s: tensor \"%s\" of type %s has rows of %" PRId64 " elements; a multiple of %d was expected: "
                        "fetch the file again",
                        c->path, t->name, tl__type_name(t->type), row, block);
    t->size_bytes = tl__type_size(t->type, elements);
    if (t->size_bytes < 0 || offset > INT64_MAX)
        return tl__fail(c->err, TL_EFORMAT, "%s: the %s of tensor \"%s\" overflows 63 bits; fetch the file again",
                        c->path, t->size_bytes < 0 ? "size" : "offset", t->name);
    t->offset_bytes = (int64_t)offset;
    return 0;
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(const tl_tensor_info *const *)a)->name, (*(const tl_tensor_info *const *)b)->name);
}

static int by_offset(const void *a, const void *b) {
    const tl_tensor_info *x = *(const tl_tensor_info *const *)a, *y = *(const tl_tensor_info *const *)b;
    if (x->offset_bytes != y->offset_bytes) return x->offset_bytes < y->offset_bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Every tensor of one part lies in its data, aligned, apart from the others. */
static int check_data(const cursor *c, tl_tensor_info *tensors, int n, int64_t data_at, int64_t alignment) {
    const int64_t data_bytes = c->file_bytes > data_at ? c->file_bytes - data_at : 0;
    for (int i = 0; i < n; i++) {
        const tl_tensor_info *t = &tensors[i];
        if (t->offset_bytes % alignment)
            return tl__fail(c->err, TL_EFORMAT,
                            "%s: the data of tensor \"%s\" lies at byte %" PRId64 "; a multiple of %" PRId64
                            " was expected: fetch the file again",
                            c->path, t->name, t->offset_bytes, alignment);
        if (t->size_bytes > data_bytes || t->offset_bytes > data_bytes - t->size_bytes)
            return tl__fail(c->err, TL_EFORMAT,
                            "%s: tensor \"%s\" takes %" PRId64 " bytes from byte %" PRId64
                            " of the data on, where the file has %" PRId64
                            "; it is cut short or damaged: fetch it again",
                            c->path, t->name, t->size_bytes, t->offset_bytes, data_bytes);
    }
    const tl_tensor_info **sorted = malloc(((size_t)n + 1) * sizeof *sorted);
    if (!sorted)
        return tl__fail(c->err, TL_ENOMEM, "no memory for the tensors of %s; free some and try again", c->path);
    for (int i = 0; i < n; i++) sorted[i] = &tensors[i];
    qsort(sorted, (size_t)n, sizeof *sorted, by_offset);
    int rc = 0;
    for (int i = 1; i < n && !rc; i++)
        if (sorted[i]->offset_bytes < sorted[i - 1]->offset_bytes + sorted[i - 1]->size_bytes)
            rc = tl__fail(c->err, TL_EFORMAT,
                          "%s: the data of tensor \"%s\" overlaps that of tensor \"%s\"; fetch the file again", c->path,
                          sorted[i]->name, sorted[i - 1]->name);
    free(sorted);
    for (int i = 0; i < n; i++) tensors[i].offset_bytes += data_at;
    return rc;
}

/* ---- one file ---- */

typedef struct header {
    tl_gguf_value *values;
    const tl_gguf_value **by_key;
    tl_tensor_info *tensors;
    int n_values, n_tensors;
} header;

static void free_header(header *h) {
    free_values(h->values, h->n_values);
    free(h->by_key);
    for (int i = 0; i < h->n_tensors; i++) free((void *)h->tensors[i].name);
    free(h->tensors);
    *h = (header){0};
}

/* How many records of `each` bytes a file may claim: as many as take twice its size. The smallest key takes 14 bytes of
 * a file, the smallest tensor 26 and the alignment of its data, so that a file of a model is far below. */
static bool too_many(uint64_t n, size_t each, int64_t file_bytes) {
    return n > (uint64_t)file_bytes * 2 / each || n >= INT_MAX;
}

static int read_header(cursor *c, header *h, int64_t *data_at) {
    const unsigned char *magic = take(c, 4, "its magic");
    uint64_t version, n_tensors, n_values;
    if (!magic) return TL_EFORMAT;
    if (memcmp(magic, "GGUF", 4) != 0)
        return tl__fail(c->err, TL_EFORMAT, "%s does not begin with \"GGUF\"; it is no GGUF file", c->path);
    if (!take_int(c, 4, &version, "its version")) return TL_EFORMAT;
    if (version != 2 && version != 3)
        return tl__fail(c->err, TL_EUNSUPPORTED, "%s is of %s; version 2 or 3 was expected: convert it anew", c->path,
                        version & 0xffff ? "another version of GGUF" : "a big-endian machine");
    if (!take_int(c, 8, &n_tensors, "its counts") || !take_int(c, 8, &n_values, "its counts")) return TL_EFORMAT;
    if (too_many(n_values, sizeof(tl_gguf_value), c->file_bytes) ||
        too_many(n_tensors, sizeof(tl_tensor_info), c->file_bytes))
        return tl__fail(c->err, TL_EFORMAT,
                        "%s claims %" PRIu64 " keys and %" PRIu64 " tensors, more than %" PRId64
                        " bytes hold; it is cut short or damaged: fetch it again",
                        c->path, n_values, n_tensors, c->file_bytes);
    h->values = calloc(n_values + 1, sizeof *h->values);
    h->by_key = malloc((n_values + 1) * sizeof *h->by_key);
    h->tensors = calloc(n_tensors + 1, sizeof *h->tensors);
    if (!h->values || !h->by_key || !h->tensors)
        return tl__fail(c->err, TL_ENOMEM, "no memory for the header of %s; free some and try again", c->path);
    for (; h->n_values < (int)n_values; h->n_values++) {
        int rc = read_value(c, &h->values[h->n_values], h->n_values);
        if (rc) {
            h->n_values++; /* the strings of a value that was read in part are freed too */
            return rc;
        }
        h->by_key[h->n_values] = &h->values[h->n_values];
    }
    qsort(h->by_key, n_values, sizeof *h->by_key, by_key);
    for (uint64_t i = 1; i < n_values; i++)
        if (!text_order(h->by_key[i]->key, h->by_key[i - 1]->key))
            return tl__fail(c->err, TL_EFORMAT, "%s has the key \"%.*s\" twice; fetch the file again", c->path,
                            KEY(h->by_key[i]));
    for (; h->n_tensors < (int)n_tensors; h->n_tensors++) {
        int rc = read_tensor(c, &h->tensors[h->n_tensors], h->n_tensors);
        if (rc) {
            h->n_tensors++;
            return rc;
        }
    }
    int64_t alignment = 32;
    const tl_gguf_value *v = find(h->by_key, h->n_values, "general.alignment");
    if (v &&
        (v->kind != TL_GGUF_U32 || !tl__gguf_int(v, 0, &alignment) || alignment < 8 || (alignment & (alignment - 1))))
        return tl__fail(c->err, TL_EFORMAT,
                        "%s: key \"general.alignment\" is %s%" PRId64
                        "; a power of two from 8 on, of kind u32, was expected: fetch the file again",
                        c->path, v->kind == TL_GGUF_U32 ? "" : "of another kind than u32, not ", alignment);
    *data_at = (c->at + alignment - 1) / alignment * alignment;
    return check_data(c, h->tensors, h->n_tensors, *data_at, alignment);
}

static int open_part(part *p, header *h, const char *path, tl_error *err) {
    int rc = tl__file_open(&p->file, path, err);
    if (rc) return rc;
    p->map = tl__file_map(p->file);
    cursor c = {.bytes = p->map, .n = tl__file_size_bytes(p->file), .path = tl__file_path(p->file), .err = err};
    c.file_bytes = c.n;
    if (p->map) return read_header(&c, h, &p->data_at);
    for (c.n = HEAD_BYTES;; c.n *= 2) {
        if (c.n > c.file_bytes) c.n = c.file_bytes;
        free(p->copy);
        if (!(p->copy = malloc((size_t)c.n + 1)))
            return tl__fail(err, TL_ENOMEM, "no memory for the header of %s; free some and try again", path);
        if ((rc = tl__file_read(p->file, p->copy, 0, (size_t)c.n, err))) return rc;
        c.bytes = p->copy, c.at = 0, c.beyond = false;
        rc = read_header(&c, h, &p->data_at);
        if (!rc || !c.beyond) return rc;
        free_header(h);
    }
}

/* ---- several files ---- */

/* split.no or split.count of a part; absent: the fallback. */
static int split(const header *h, const char *path, const char *key, int64_t fallback, int64_t *out, tl_error *err) {
    const tl_gguf_value *v = find(h->by_key, h->n_values, key);
    *out = fallback;
    if (!v || (v->kind != TL_GGUF_ARRAY && tl__gguf_int(v, 0, out) && *out >= 0 && *out <= MAX_PARTS)) return 0;
    return tl__fail(err, TL_EFORMAT, "%s: key \"%s\" is no whole number from 0 to %d; fetch the file again", path, key,
                    MAX_PARTS);
}

/* Open part i of n, and append its tensors to g's; the first part's values stay with g. */
static int add_part(tl_gguf *g, int i, int64_t n, const char *path, tl_error *err) {
    header h = {0};
    part *p = &g->parts[i];
    int64_t no, count;
    int rc = open_part(p, &h, path, err);
    if (p->file) g->n_parts = i + 1;
    if (!rc) rc = split(&h, path, "split.no", 0, &no, err);
    if (!rc) rc = split(&h, path, "split.count", 1, &count, err);
    if (!rc && (no != i || (i && count != n)))
        rc = tl__fail(err, TL_EFORMAT,
                      "%s says that it is part %" PRId64 " of %" PRId64 "; part %d of %" PRId64 " was expected%s", path,
                      no + 1, count, i + 1, i ? n : count,
                      i ? ": fetch the parts of one model again" : ": give the first one");
    if (!rc && h.n_tensors > INT_MAX - 1 - g->n_tensors)
        rc = tl__fail(err, TL_EFORMAT, "%s and the parts before it hold too many tensors", path);
    tl_tensor_info *grown =
        rc ? NULL : realloc(g->tensors, ((size_t)g->n_tensors + (size_t)h.n_tensors + 1) * sizeof *grown);
    if (!rc && !grown) rc = tl__fail(err, TL_ENOMEM, "no memory for the tensors of %s; free some and try again", path);
    if (rc) {
        free_header(&h);
        return rc;
    }
    g->tensors = grown;
    for (int t = 0; t < h.n_tensors; t++) {
        grown[g->n_tensors + t] = h.tensors[t];
        grown[g->n_tensors + t].file = i;
    }
    g->n_tensors += h.n_tensors;
    h.n_tensors = 0; /* g has their names */
    if (i == 0) {
        g->values = h.values, g->n_values = h.n_values, g->by_key = h.by_key;
        h.values = NULL, h.n_values = 0, h.by_key = NULL;
    }
    free_header(&h);
    return 0;
}

static int open_others(tl_gguf *g, const char *path, tl_error *err) {
    const tl_gguf_value *v = tl__gguf_find(g, "split.count");
    int64_t n = 1, total;
    if (v) tl__gguf_int(v, 0, &n);
    if (n <= 1) return 0;
    char end[32], other[PATH_MAX];
    snprintf(end, sizeof end, "-00001-of-%05d.gguf", (int)n);
    size_t stem = strlen(path) - strlen(end);
    if (strlen(path) < strlen(end) || strcmp(path + stem, end) != 0)
        return tl__fail(
            err, TL_EFORMAT,
            "%s is the first of %d parts, but its name does not end in \"%s\"; give the parts their names back", path,
            (int)n, end);
    part *grown = realloc(g->parts, (size_t)n * sizeof *grown);
    if (!grown) return tl__fail(err, TL_ENOMEM, "no memory to open %s; free some and try again", path);
    g->parts = grown;
    for (int i = 1; i < n; i++) {
        grown[i] = (part){0};
        if (snprintf(other, sizeof other, "%.*s-%05d-of-%05d.gguf", (int)stem, path, i + 1, (int)n) >=
            (int)sizeof other)
            return tl__fail(err, TL_EINVALID, "the path of %s is too long for its parts", path);
        TRY(add_part(g, i, n, other, err));
    }
    v = tl__gguf_find(g, "split.tensors.count");
    if (v && tl__gguf_int(v, 0, &total) && total != g->n_tensors)
        return tl__fail(err, TL_EFORMAT,
                        "%s and its other parts hold %d tensors; %" PRId64
                        " were expected by its key \"split.tensors.count\": fetch them again",
                        path, g->n_tensors, total);
    return 0;
}

static int sort_names(tl_gguf *g, tl_error *err) {
    g->by_name = malloc(((size_t)g->n_tensors + 1) * sizeof *g->by_name);
    if (!g->by_name)
        return tl__fail(err, TL_ENOMEM, "no memory for the tensors of %s; free some and try again", tl__gguf_path(g));
    for (int i = 0; i < g->n_tensors; i++) g->by_name[i] = &g->tensors[i];
    qsort(g->by_name, (size_t)g->n_tensors, sizeof *g->by_name, by_name);
    for (int i = 1; i < g->n_tensors; i++)
        if (!by_name(&g->by_name[i], &g->by_name[i - 1]))
            return tl__fail(err, TL_EFORMAT, "%s has the tensor \"%s\" twice; fetch the file again",
                            tl__file_path(g->parts[g->by_name[i]->file].file), g->by_name[i]->name);
    return 0;
}

int tl__gguf_open(tl_gguf **out, const char *path, tl_error *err) {
    *out = NULL;
    tl_gguf *g = calloc(1, sizeof *g);
    if (g) g->parts = calloc(1, sizeof *g->parts);
    int rc = g && g->parts ? add_part(g, 0, 1, path, err)
                           : tl__fail(err, TL_ENOMEM, "no memory to open %s; free some and try again", path);
    if (!rc) rc = open_others(g, path, err);
    if (!rc) rc = sort_names(g, err);
    if (rc) tl__gguf_close(g);
    else *out = g;
    return rc;
}

void tl__gguf_close(tl_gguf *g) {
    if (!g) return;
    free_values(g->values, g->n_values);
    free(g->by_key);
    for (int i = 0; i < g->n_tensors; i++) free((void *)g->tensors[i].name);
    free(g->tensors);
    free(g->by_name);
    for (int i = 0; i < g->n_parts; i++) {
        tl__file_close(g->parts[i].file);
        free(g->parts[i].copy);
    }
    free(g->parts);
    free(g);
}

bool tl__gguf_is(const char *path) {
    tl_file *file;
    char magic[4];
    if (tl__path_is_folder(path) || tl__file_open(&file, path, NULL)) return false;
    bool is = tl__file_size_bytes(file) >= 4 && !tl__file_read(file, magic, 0, 4, NULL) && !memcmp(magic, "GGUF", 4);
    tl__file_close(file);
    return is;
}

/* ---- asking ---- */

const char *tl__gguf_path(const tl_gguf *g) {
    return tl__file_path(g->parts[0].file);
}

int tl__gguf_files(const tl_gguf *g) {
    return g->n_parts;
}

const char *tl__gguf_file(const tl_gguf *g, const tl_tensor_info *t) {
    return tl__file_path(g->parts[t->file].file);
}

int tl__gguf_values(const tl_gguf *g) {
    return g->n_values;
}

const tl_gguf_value *tl__gguf_value_at(const tl_gguf *g, int i) {
    assert(i >= 0 && i < g->n_values);
    return &g->values[i];
}

const tl_gguf_value *tl__gguf_find(const tl_gguf *g, const char *key) {
    return find(g->by_key, g->n_values, key);
}

static bool is_there(const tl_gguf_value *v, int64_t i) {
    return i >= 0 && i < v->count && v->data;
}

static float as_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static uint32_t word_at(const tl_gguf_value *v, int64_t i) {
    return little4((const unsigned char *)v->data + 4 * i);
}

/* Element i, which is there: an integer, or a real. */
static void number(const tl_gguf_value *v, int64_t i, bool *whole, int64_t *integer, double *real) {
    const int bytes = kinds[v->of].bytes;
    uint64_t x = little((const unsigned char *)v->data + i * bytes, bytes);
    *whole = v->of != TL_GGUF_F32 && v->of != TL_GGUF_F64;
    if (v->of == TL_GGUF_F32) {
        *real = as_float((uint32_t)x);
    } else if (v->of == TL_GGUF_F64) {
        memcpy(real, &x, 8);
    } else if (v->of == TL_GGUF_I8 || v->of == TL_GGUF_I16 || v->of == TL_GGUF_I32) {
        const uint64_t sign = (uint64_t)1 << (8 * bytes - 1);
        *integer = (int64_t)((x ^ sign) - sign);
    } else {
        *integer = (int64_t)x;
    }
}

bool tl__gguf_int(const tl_gguf_value *v, int64_t i, int64_t *out) {
    bool whole;
    int64_t integer;
    double real;
    if (!is_there(v, i)) return false;
    if (v->of == TL_GGUF_I32) return *out = (int32_t)word_at(v, i), true; /* as the types of tokens are */
    number(v, i, &whole, &integer, &real);
    if (!whole) {
        if (!(real >= -0x1p63 && real < 0x1p63) || real != (double)(int64_t)real) return false;
        integer = (int64_t)real;
    } else if (v->of == TL_GGUF_U64 && integer < 0) {
        return false;
    }
    *out = integer;
    return true;
}

bool tl__gguf_real(const tl_gguf_value *v, int64_t i, double *out) {
    bool whole;
    int64_t integer;
    double real;
    if (!is_there(v, i)) return false;
    if (v->of == TL_GGUF_F32) return *out = as_float(word_at(v, i)), true; /* as their scores are */
    number(v, i, &whole, &integer, &real);
    *out = !whole ? real : v->of == TL_GGUF_U64 ? (double)(uint64_t)integer : (double)integer;
    return true;
}

int tl__gguf_count(const tl_gguf *g) {
    return g->n_tensors;
}

const tl_tensor_info *tl__gguf_tensor_at(const tl_gguf *g, int i) {
    assert(i >= 0 && i < g->n_tensors);
    return &g->tensors[i];
}

const tl_tensor_info *tl__gguf_tensor(const tl_gguf *g, const char *name) {
    const tl_tensor_info wanted = {.name = name}, *p = &wanted;
    const tl_tensor_info **found =
        g->n_tensors ? bsearch(&p, g->by_name, (size_t)g->n_tensors, sizeof p, by_name) : NULL;
    return found ? *found : NULL;
}

const void *tl__gguf_data(const tl_gguf *g, const tl_tensor_info *t) {
    const unsigned char *map = g->parts[t->file].map;
    return map ? map + t->offset_bytes : NULL;
}

int tl__gguf_read(const tl_gguf *g, const tl_tensor_info *t, void *out, int64_t from, size_t n, tl_error *err) {
    assert(from >= 0 && from <= t->size_bytes && n <= (uint64_t)(t->size_bytes - from));
    int rc = tl__file_read(g->parts[t->file].file, out, t->offset_bytes + from, n, err);
    return rc ? tl__error_prefix(err, "tensor \"%s\"", t->name) : 0;
}
