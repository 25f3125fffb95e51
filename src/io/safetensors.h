/* safetensors.h — the safetensors container: reading (one file, or shards with model.safetensors.index.json) and
 * writing.
 *
 * Format: 8-byte little-endian header length, a JSON header {name: {dtype, shape, data_offsets}}, then the data without
 * holes (https://huggingface.co/docs/safetensors). Headers are hostile: length ≤ 100 MB, offsets inside the file, no
 * overlap, size equal to shape × type, each refused by tensor name. */
#ifndef TL_IO_SAFETENSORS_H
#define TL_IO_SAFETENSORS_H

#include "base/type.h"
#include "io/file.h"
#include "io/hash.h"

#define TL_MAX_DIMS 8

typedef struct tl_tensor_info {
    const char *name;
    tl_type type;
    int dims;
    int64_t shape[TL_MAX_DIMS];
    int64_t offset_bytes; /* within its file */
    int64_t size_bytes;
    int file; /* index of the shard */
} tl_tensor_info;

typedef struct tl_safetensors tl_safetensors;

/* path: a .safetensors file, a .safetensors.index.json, or a folder holding either (model.safetensors first). */
int tl__safetensors_open(tl_safetensors **st, const char *path, tl_error *err);
/* FOLDER/name, or where that is not there its shards by FOLDER/name.index.json. */
int tl__safetensors_open_in(tl_safetensors **st, const char *folder, const char *name, tl_error *err);
void tl__safetensors_close(tl_safetensors *st);
int tl__safetensors_count(const tl_safetensors *st);
int tl__safetensors_files(const tl_safetensors *st);
const char *tl__safetensors_file(const tl_safetensors *st, const tl_tensor_info *t); /* the path that t lies in */
const tl_tensor_info *tl__safetensors_at(const tl_safetensors *st, int i);           /* sorted by name */
const tl_tensor_info *tl__safetensors_find(const tl_safetensors *st, const char *name);
/* The mapped bytes, or NULL where not mapped (then use read). */
const void *tl__safetensors_data(const tl_safetensors *st, const tl_tensor_info *t);
int tl__safetensors_read(const tl_safetensors *st, const tl_tensor_info *t, void *out, tl_error *err);
/* n bytes of the tensor from byte `from` on. */
int tl__safetensors_read_part(const tl_safetensors *st, const tl_tensor_info *t, void *out, int64_t from, size_t n,
                              tl_error *err);
/* Read as f32, widening F16 and BF16; TL_EUNSUPPORTED by name for other types. out holds prod(shape) floats. */
int tl__safetensors_read_f32(const tl_safetensors *st, const tl_tensor_info *t, float *out, tl_error *err);
const char *tl__safetensors_metadata(const tl_safetensors *st, const char *key); /* from __metadata__, or NULL */
/* XXH3-128 over, in name order: name, NUL, type name, NUL, dims and shape as little-endian int64, then the bytes. The
 * same whatever the sharding or the order in the file. */
int tl__safetensors_hash(const tl_safetensors *st, tl_hash *out, tl_error *err);
/* XXH3-128 of one tensor's bytes: what manifests record. */
int tl__safetensors_hash_tensor(const tl_safetensors *st, const tl_tensor_info *t, tl_hash *out, tl_error *err);

/* As Hugging Face names them: shard i, from 0, of n of "x/model.safetensors" is "x/model-00001-of-0000n.safetensors",
 * and "x/model.safetensors.index.json" says which tensor lies where. */
void tl__safetensors_shard_name(char *out, size_t size, const char *name, int i, int n);
void tl__safetensors_index_name(char *out, size_t size, const char *name);

typedef struct tl_tensor_out {
    const char *name;
    tl_type type;
    int dims;
    int64_t shape[TL_MAX_DIMS];
    const void *data;
} tl_tensor_out;

/* Write n tensors, in the given order, with metadata {"format": "pt"} (transformers asks for it), through a sink,
 * fsynced; hashes (may be NULL) receives the XXH3-128 of each tensor's bytes. The header is padded with spaces so that
 * data starts on a multiple of 64. */
int tl__safetensors_write(const char *path, const tl_tensor_out *tensors, int n, tl_hash *hashes, tl_error *err);
/* The same into a sink that the caller opens, and publishes or abandons: when bytes must be on the disk is its choice.
 */
int tl__safetensors_write_to(tl_sink *sink, const tl_tensor_out *tensors, int n, tl_hash *hashes, tl_error *err);

/* The header alone, for a caller that then writes the tensors' bytes in this order; data is not read. */
int tl__safetensors_write_header(tl_sink *sink, const tl_tensor_out *tensors, int n, tl_error *err);

#endif
