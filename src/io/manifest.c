/* manifest.c — reads a checkpoint's manifest and holds its files against it, tensor by tensor. */
#include "io/manifest.h"

#include <limits.h>
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

int tl__manifest_verify(const json_t *manifest, const char *folder, const char *name, tl_error *err) {
    char path[PATH_MAX];
    tl_safetensors *file;
    const json_t *hashes = json_object_get(json_object_get(manifest, "tensors"), name);
    if (!json_is_object(hashes))
        return tl__fail(err, TL_EFORMAT, "%s/%s lists no tensors of %s", folder, TL_MANIFEST_NAME, name);
    tl__path_join(path, sizeof path, folder, name);
    int status = tl__safetensors_open(&file, path, err);
    if (status) return status;
    int n = tl__safetensors_count(file);
    if ((size_t)n != json_object_size(hashes))
        status = tl__fail(err, TL_EDAMAGED,
                          "%s holds %d tensors where its manifest lists %zu; use another checkpoint or fetch it again",
                          path, n, json_object_size(hashes));
    for (int i = 0; !status && i < n; i++) {
        const tl_tensor_info *t = tl__safetensors_at(file, i);
        const char *want = json_string_value(json_object_get(hashes, t->name));
        tl_hash got;
        status = tl__safetensors_hash_tensor(file, t, &got, err);
        if (!status && (!want || strcmp(got.hex, want) != 0))
            status = tl__fail(err, TL_EDAMAGED,
                              "%s: tensor '%.200s' is damaged: its hash is %s, the manifest says %s; use another "
                              "checkpoint or fetch it again",
                              path, t->name, got.hex, want ? want : "nothing");
    }
    tl__safetensors_close(file);
    return status;
}
