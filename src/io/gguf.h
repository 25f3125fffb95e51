/* gguf.h — the GGUF container, versions 2 and 3, little-endian: reading (one file, or the first of its parts
 * "…-00001-of-00003.gguf") and writing.
 *
 * Format: magic, version, counts, key–value pairs with types, tensor records, then aligned data
 * (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). Headers are hostile: counts, lengths, dimensions and
 * offsets are checked against the file, no two tensors overlap, names are unique, and what is allocated is at most in
 * proportion to the header; what is wrong is refused by key or tensor. */
#ifndef TL_IO_GGUF_H
#define TL_IO_GGUF_H

#include "base/type.h"
#include "io/file.h"
#include "io/safetensors.h" /* tl_tensor_info: shape[0] is the slowest axis, as there; GGUF's own order is the reverse */

typedef struct tl_gguf tl_gguf;

int tl__gguf_open(tl_gguf **gguf, const char *path, tl_error *err);
void tl__gguf_close(tl_gguf *gguf);
bool tl__gguf_is(const char *path); /* a file that begins with GGUF's magic */
const char *tl__gguf_path(const tl_gguf *gguf);
int tl__gguf_files(const tl_gguf *gguf);
const char *tl__gguf_file(const tl_gguf *gguf, const tl_tensor_info *t); /* the path that t lies in */
int tl__gguf_type_number(tl_type type);                                  /* ggml's; −1: GGUF has no such type */

/* ---- metadata; strings lie in the file's mapping or a copy and live as long as the handle ---- */

typedef enum tl_gguf_kind { /* GGUF's numbers */
                            TL_GGUF_U8,
                            TL_GGUF_I8,
                            TL_GGUF_U16,
                            TL_GGUF_I16,
                            TL_GGUF_U32,
                            TL_GGUF_I32,
                            TL_GGUF_F32,
                            TL_GGUF_BOOL,
                            TL_GGUF_STRING,
                            TL_GGUF_ARRAY,
                            TL_GGUF_U64,
                            TL_GGUF_I64,
                            TL_GGUF_F64
} tl_gguf_kind;
const char *tl__gguf_kind_name(tl_gguf_kind kind); /* "u8", "string", … */
size_t tl__gguf_kind_bytes(tl_gguf_kind kind);     /* of a number; 0 of a string */

typedef struct tl_gguf_text {
    const char *bytes; /* not NUL-terminated; not necessarily UTF-8 */
    size_t n;
} tl_gguf_text;

typedef struct tl_gguf_value {
    tl_gguf_text key;
    tl_gguf_kind kind; /* ARRAY: of `of` */
    tl_gguf_kind of;
    int64_t count;             /* elements; 1 unless ARRAY */
    const void *data;          /* raw little-endian elements, unaligned (numbers); NULL for arrays of strings */
    const tl_gguf_text *texts; /* [count] strings; else NULL */
} tl_gguf_value;

int tl__gguf_values(const tl_gguf *gguf);
const tl_gguf_value *tl__gguf_value_at(const tl_gguf *gguf, int i);
const tl_gguf_value *tl__gguf_find(const tl_gguf *gguf, const char *key); /* NULL: no such key */
/* Element i of a value as a number (a boolean is 0 or 1); false where it is not one (or not a whole one, or out of
 * range, for int). */
bool tl__gguf_int(const tl_gguf_value *value, int64_t i, int64_t *out);
bool tl__gguf_real(const tl_gguf_value *value, int64_t i, double *out);

/* ---- tensors ---- */

int tl__gguf_count(const tl_gguf *gguf);
const tl_tensor_info *tl__gguf_tensor_at(const tl_gguf *gguf, int i); /* in the file's order */
const tl_tensor_info *tl__gguf_tensor(const tl_gguf *gguf, const char *name);
/* The mapped bytes, or NULL where not mapped (then use read). */
const void *tl__gguf_data(const tl_gguf *gguf, const tl_tensor_info *t);
/* n bytes of the tensor from byte `from` on. */
int tl__gguf_read(const tl_gguf *gguf, const tl_tensor_info *t, void *out, int64_t from, size_t n, tl_error *err);

/* ---- writing: declare all, then give the tensors' bytes in the order of declaration, then publish ---- */

typedef struct tl_gguf_out tl_gguf_out;
int tl__gguf_create(tl_gguf_out **out, const char *path, tl_error *err); /* version 3, alignment 32 */
/* data: elements of kind, host order; texts for STRING. An array where array is set. */
int tl__gguf_put(tl_gguf_out *out, const char *key, tl_gguf_kind kind, bool array, const void *data,
                 const tl_gguf_text *texts, int64_t count, tl_error *err);
int tl__gguf_declare(tl_gguf_out *out, const char *name, tl_type type, int dims, const int64_t *shape, tl_error *err);
int tl__gguf_write(tl_gguf_out *out, const void *bytes, size_t n,
                   tl_error *err);                     /* any cut; padding between tensors is written by itself */
int tl__gguf_publish(tl_gguf_out *out, tl_error *err); /* frees it either way; checks that every tensor got its bytes */
void tl__gguf_abandon(tl_gguf_out *out);

#endif
