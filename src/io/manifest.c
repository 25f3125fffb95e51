/* manifest.c — reads a checkpoint's manifest and holds its files against it, tensor by tensor. */
#include "io/manifest.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "io/safetensors.h"

enum { LIMIT_BYTES = 64 << 20 };

int tl__manifest_read(json_t **manifest, const char *folder, tl_error *err) {
    char path[PATH_MAX];
    char *bytes;
    size_t size;
    *manifest = NULL;
    tl__path_join(path, sizeof path, folder, TL_MANIFEST_NAME);
    int status = tl__file_slurp(&bytes, &size, path, LIMIT_BYTES, err);
    if (status) return status;
    json_t *found = tl__json_parse(bytes, size, path, err);
    free(bytes);
    if (!found) return TL_EFORMAT;
    int64_t version;
    const char *format;
    status = tl__json_string_or(found, "format", "", &format, path, err);
    if (!status && strcmp(format, TL_MANIFEST_FORMAT) != 0)
        status = tl__fail(err, TL_ENOTFOUND, "%s is no checkpoint's manifest: its 'format' is not \"%s\"", path,
                          TL_MANIFEST_FORMAT);
    if (!status) status = tl__json_int(found, "version", 1, INT32_MAX, &version, path, err);
    if (!status && version > TL_MANIFEST_VERSION)
        status = tl__fail(err, TL_EUNSUPPORTED, "%s: written by a newer version (format %lld; this one reads up to %d)",
                          path, (long long)version, TL_MANIFEST_VERSION);
    if (status) json_decref(found);
    else *manifest = found;
    return status;
}

/* ---- what it lists ---- */

/* Whether `listed` is file, or a shard of it: "model-00001-of-00004.safetensors" of "model.safetensors". */
static bool is_of(const char *listed, const char *file) {
    char shard[PATH_MAX];
    int i, n, end = 0;
    if (strcmp(listed, file) == 0) return true;
    const char *dot = strrchr(file, '.');
    size_t stem = dot ? (size_t)(dot - file) : 0;
    if (!dot || strncmp(listed, file, stem) != 0) return false;
    if (sscanf(listed + stem, "-%5d-of-%5d%n", &i, &n, &end) != 2 || !end || i < 1 || i > n) return false;
    tl__safetensors_shard_name(shard, sizeof shard, file, i - 1, n);
    return strcmp(listed, shard) == 0;
}

bool tl__manifest_lists(const json_t *manifest, const char *file) {
    const char *listed;
    json_t *tensors = json_object_get(manifest, "tensors"), *hashes;
    json_object_foreach(tensors, listed, hashes) if (is_of(listed, file)) return true;
    return false;
}

const char *tl__manifest_hash(const json_t *manifest, const char *file, const char *path, const char *tensor) {
    char listed[PATH_MAX];
    const char *slash = strrchr(path, '/'), *above = strrchr(file, '/'); /* "…/model-….safetensors"; "ema/" */
    int n =
        snprintf(listed, sizeof listed, "%.*s%s", above ? (int)(above + 1 - file) : 0, file, slash ? slash + 1 : path);
    if (n < 0 || (size_t)n >= sizeof listed || !is_of(listed, file)) return NULL;
    const json_t *hashes = json_object_get(json_object_get(manifest, "tensors"), listed);
    return json_string_value(json_object_get(hashes, tensor));
}

/* ---- holding files against it ---- */

int tl__manifest_compare(const char *path, const char *tensor, const char *got, const char *want, tl_error *err) {
    if (want && strcmp(got, want) == 0) return 0;
    return tl__fail(err, TL_EDAMAGED,
                    "%s: tensor '%.200s' is damaged: its hash is %s, the manifest says %s; use another checkpoint or "
                    "fetch it again",
                    path, tensor, got, want ? want : "nothing");
}

int tl__manifest_verify_part(const json_t *manifest, const char *folder, const char *name, int part, int parts,
                             tl_error *err) {
    const char *listed;
    json_t *tensors = json_object_get(manifest, "tensors"), *hashes;
    size_t want = 0;
    tl_safetensors *file;
    json_object_foreach(tensors, listed, hashes) if (is_of(listed, name)) want += json_object_size(hashes);
    if (!tl__manifest_lists(manifest, name))
        return tl__fail(err, TL_EFORMAT, "%s/%s lists no tensors of %s", folder, TL_MANIFEST_NAME, name);
    TRY(tl__safetensors_open_in(&file, folder, name, err));
    int n = tl__safetensors_count(file), status = 0;
    if ((size_t)n != want)
        status = tl__fail(err, TL_EDAMAGED,
                          "%s/%s: %d tensors are there where its manifest lists %zu; use another checkpoint or fetch "
                          "it again",
                          folder, name, n, want);
    for (int i = part; !status && i < n; i += parts) {
        const tl_tensor_info *t = tl__safetensors_at(file, i);
        const char *path = tl__safetensors_file(file, t);
        tl_hash got;
        status = tl__safetensors_hash_tensor(file, t, &got, err);
        if (!status)
            status =
                tl__manifest_compare(path, t->name, got.hex, tl__manifest_hash(manifest, name, path, t->name), err);
    }
    tl__safetensors_close(file);
    return status;
}

int tl__manifest_verify(const json_t *manifest, const char *folder, const char *name, tl_error *err) {
    return tl__manifest_verify_part(manifest, folder, name, 0, 1, err);
}
