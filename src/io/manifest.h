/* manifest.h — a checkpoint folder's manifest.json: written last, so that the folder exists when it does, and holding
 * the hash of every tensor of its files.
 *
 *   {"format": "trilith-checkpoint", "version": 1, "tensors": {FILE: {TENSOR: XXH3-128 of its bytes, in hex}}, …}
 *
 * FILE is relative to the folder; what several ranks wrote is listed shard by shard. */
#ifndef TL_IO_MANIFEST_H
#define TL_IO_MANIFEST_H

#include <jansson.h>
#include <stdbool.h>
#include "base/error.h"

#define TL_MANIFEST_NAME "manifest.json"
#define TL_MANIFEST_FORMAT "trilith-checkpoint"
#define TL_MANIFEST_VERSION 1
#define TL_WEIGHTS_NAME "model.safetensors"

/* Read FOLDER/manifest.json; the caller json_decref()s it. TL_ENOTFOUND where there is none, or another program's. */
int tl__manifest_read(json_t **manifest, const char *folder, tl_error *err);
/* Each tensor that the manifest lists for FOLDER/file, or for its shards, is there with its hash, and no other. Reads it
 * all. */
int tl__manifest_verify(const json_t *manifest, const char *folder, const char *file, tl_error *err);
/* The same of every `parts`-th tensor from `part` on: what one of several ranks reads. */
int tl__manifest_verify_part(const json_t *manifest, const char *folder, const char *file, int part, int parts,
                             tl_error *err);
/* Whether it lists FILE or shards of it. */
bool tl__manifest_lists(const json_t *manifest, const char *file);
/* The hash that it has for a tensor in the file or shard at `path` below the folder, or NULL. `file` says what a path
 * may be: FILE, or a shard of it. */
const char *tl__manifest_hash(const json_t *manifest, const char *file, const char *path, const char *tensor);
/* TL_EDAMAGED, by path and tensor, where `got` is not the hash that the manifest has (NULL: none). */
int tl__manifest_compare(const char *path, const char *tensor, const char *got, const char *want, tl_error *err);

#endif
