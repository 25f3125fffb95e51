/* manifest.h — a checkpoint folder's manifest.json: written last, so that the folder exists when it does, and holding
 * the hash of every tensor of its files.
 *
 *   {"format": "trilith-checkpoint", "version": 1, "tensors": {FILE: {TENSOR: XXH3-128 of its bytes, in hex}}, …} */
#ifndef TL_IO_MANIFEST_H
#define TL_IO_MANIFEST_H

#include <jansson.h>
#include "base/error.h"

#define TL_MANIFEST_NAME "manifest.json"
#define TL_MANIFEST_FORMAT "trilith-checkpoint"
#define TL_MANIFEST_VERSION 1
#define TL_WEIGHTS_NAME "model.safetensors"

/* Read FOLDER/manifest.json; the caller json_decref()s it. TL_ENOTFOUND where there is none, or another program's. */
int tl__manifest_read(json_t **manifest, const char *folder, tl_error *err);
/* Each tensor that the manifest lists for FOLDER/file is there with its hash, and no other. Reads the whole file. */
int tl__manifest_verify(const json_t *manifest, const char *folder, const char *file, tl_error *err);

#endif
