/* checkpoint.c — finding, verifying and loading step-N folders: what a reader trusts is the manifest and nothing else.
 */
#include "train/checkpoint.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "train/checkpoint_format.h"

enum { PATH_BYTES = 4096, MANIFEST_LIMIT_BYTES = 64 << 20 };

/* ---- state as JSON ---- */

json_t *tl__train_state_json(const tl_train_state *s) {
    return json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:f}", "step", (json_int_t)s->step, "updates",
                     (json_int_t)s->updates, "samples", (json_int_t)s->samples, "tokens", (json_int_t)s->tokens,
                     "skipped", (json_int_t)s->skipped, "skipped_in_a_row", (json_int_t)s->skipped_in_a_row,
                     "metrics_bytes", (json_int_t)s->metrics_bytes, "texts_bytes", (json_int_t)s->texts_bytes,
                     "train_seconds", s->train_seconds);
}

static int parse_state(const json_t *obj, tl_train_state *s, const char *where, tl_error *err) {
    struct {
        const char *key;
        int64_t *out;
    } const fields[] = {{"step", &s->step},
                        {"updates", &s->updates},
                        {"samples", &s->samples},
                        {"tokens", &s->tokens},
                        {"skipped", &s->skipped},
                        {"skipped_in_a_row", &s->skipped_in_a_row},
                        {"metrics_bytes", &s->metrics_bytes},
                        {"texts_bytes", &s->texts_bytes}};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        int status = tl__json_int(obj, fields[i].key, 0, INT64_MAX / 2, fields[i].out, where, err);
        if (status) return status;
    }
    return tl__json_real_or(obj, "train_seconds", 0, 1e18, 0, &s->train_seconds, where, err);
}

/* ---- verifying ---- */

static int read_manifest(const char *checkpoint, json_t **manifest, tl_error *err) {
    char path[PATH_BYTES];
    char *bytes;
    size_t size;
    tl__path_join(path, sizeof path, checkpoint, TL_MANIFEST_NAME);
    int status = tl__file_slurp(&bytes, &size, path, MANIFEST_LIMIT_BYTES, err);
    if (status) return status;
    *manifest = tl__json_parse(bytes, size, path, err);
    free(bytes);
    if (!*manifest) return TL_EFORMAT;
    int64_t version;
    const char *format;
    status = tl__json_string_or(*manifest, "format", "", &format, path, err);
    if (!status && strcmp(format, TL_CHECKPOINT_FORMAT) != 0)
        status = tl__fail(err, TL_EFORMAT, "%s: 'format' should be \"%s\"", path, TL_CHECKPOINT_FORMAT);
    if (!status) status = tl__json_int(*manifest, "version", 1, INT32_MAX, &version, path, err);
    if (!status && version > TL_CHECKPOINT_VERSION)
        status = tl__fail(err, TL_EUNSUPPORTED, "%s: written by a newer version (format %lld; this one reads up to %d)",
                          path, (long long)version, TL_CHECKPOINT_VERSION);
    if (status) json_decref(*manifest);
    return status;
}

/* Every tensor that the manifest lists for one file is there with its hash, and no other. */
static int verify_file(const char *checkpoint, const char *file_name, const json_t *hashes, tl_error *err) {
    char path[PATH_BYTES];
    tl_safetensors *file;
    tl__path_join(path, sizeof path, checkpoint, file_name);
    int status = tl__safetensors_open(&file, path, err);
    if (status) return status;
    if ((size_t)tl__safetensors_count(file) != json_object_size(hashes))
        status = tl__fail(err, TL_EDAMAGED, "%s holds %d tensors, its manifest lists %zu", path,
                          tl__safetensors_count(file), json_object_size(hashes));
    for (int i = 0; !status && i < tl__safetensors_count(file); i++) {
        const tl_tensor_info *t = tl__safetensors_at(file, i);
        const char *want = json_string_value(json_object_get(hashes, t->name));
        const void *data = tl__safetensors_data(file, t);
        void *copy = NULL;
        if (!data) {
            copy = malloc((size_t)t->size_bytes + 1);
            status = copy ? tl__safetensors_read(file, t, copy, err)
                          : tl__fail(err, TL_ENOMEM, "no memory to verify tensor '%s'", t->name);
            data = copy;
        }
        if (!status) {
            tl_hash got = tl__hash_bytes(data, (size_t)t->size_bytes);
            if (!want || strcmp(got.hex, want) != 0)
                status = tl__fail(err, TL_EDAMAGED, "%s: tensor '%s' is damaged: its hash is %s, the manifest says %s",
                                  path, t->name, got.hex, want ? want : "nothing");
        }
        free(copy);
    }
    tl__safetensors_close(file);
    return status;
}

static int verify(const char *checkpoint, const json_t *manifest, tl_error *err) {
    const json_t *tensors = json_object_get(manifest, "tensors");
    static const char *const files[] = {TL_MODEL_NAME, TL_OPTIMIZER_NAME};
    for (size_t i = 0; i < 2; i++) {
        const json_t *hashes = json_object_get(tensors, files[i]);
        if (!json_is_object(hashes))
            return tl__fail(err, TL_EFORMAT, "%s/%s: lists no tensors of %s", checkpoint, TL_MANIFEST_NAME, files[i]);
        int status = verify_file(checkpoint, files[i], hashes, err);
        if (status) return status;
    }
    return 0;
}

/* ---- finding ---- */

/* The step of "step-N", or −1. */
int64_t tl__checkpoint_step(const char *name) {
    char *end;
    if (strncmp(name, "step-", 5) != 0 || name[5] < '0' || name[5] > '9') return -1;
    int64_t step = strtoll(name + 5, &end, 10);
    return *end ? -1 : step;
}

int tl__checkpoint_list(const char *folder, int64_t **steps) {
    DIR *dir = opendir(folder);
    int n = 0, room = 0;
    *steps = NULL;
    if (!dir) return 0;
    for (struct dirent *e; (e = readdir(dir));) {
        int64_t step = tl__checkpoint_step(e->d_name);
        if (step < 0) continue;
        if (n == room) {
            int64_t *more = realloc(*steps, sizeof **steps * (size_t)(room = room ? 2 * room : 16));
            if (!more) break;
            *steps = more;
        }
        int i = n++;
        for (; i > 0 && (*steps)[i - 1] < step; i--) (*steps)[i] = (*steps)[i - 1]; /* newest first */
        (*steps)[i] = step;
    }
    closedir(dir);
    return n;
}

int tl__checkpoint_find(const char *folder, char *path, size_t path_size, tl_train_state *state, char **settings_json,
                        tl_error *err) {
    int64_t *steps;
    int n = tl__checkpoint_list(folder, &steps), status = TL_ENOTFOUND, damaged = 0;
    *settings_json = NULL;
    for (int i = 0; i < n && status; i++) {
        tl_error why = {0};
        json_t *manifest = NULL;
        char name[64];
        snprintf(name, sizeof name, "step-%lld", (long long)steps[i]);
        tl__path_join(path, path_size, folder, name);
        status = read_manifest(path, &manifest, &why);
        if (!status) status = parse_state(json_object_get(manifest, "state"), state, path, &why);
        if (!status) status = verify(path, manifest, &why);
        if (!status) {
            *settings_json = json_dumps(json_object_get(manifest, "settings"), JSON_COMPACT | JSON_SORT_KEYS);
            if (!*settings_json) status = tl__fail(&why, TL_EFORMAT, "%s: the manifest holds no settings", path);
        }
        if (manifest) json_decref(manifest);
        if (status) {
            tl__warn("checkpoint step-%lld is passed over: %s", (long long)steps[i], why.text);
            damaged++;
        }
    }
    free(steps);
    if (!status) return 0;
    if (damaged) return tl__fail(err, TL_EDAMAGED, "%s: none of the %d checkpoints is intact", folder, damaged);
    return tl__fail(err, TL_ENOTFOUND, "%s: no checkpoint is there", folder);
}

/* ---- loading ---- */

static int load_moment(const tl_safetensors *file, const tl_params *params, const char *prefix, float *out,
                       tl_error *err) {
    for (int i = 0; i < params->n; i++) {
        const tl_param *p = &params->list[i];
        char name[192];
        snprintf(name, sizeof name, "%s%s", prefix, p->name);
        const tl_tensor_info *t = tl__safetensors_find(file, name);
        if (!t || t->type != TL_F32 || t->size_bytes != p->count * (int64_t)sizeof(float))
            return tl__fail(err, TL_EDAMAGED, "the optimizer's state lacks tensor '%s' of %lld f32 numbers", name,
                            (long long)p->count);
        int status = tl__safetensors_read(file, t, out + p->offset, err);
        if (status) return status;
    }
    return 0;
}

int tl__checkpoint_load(const char *path, tl_model *model, float *exp_avg, float *exp_avg_sq, tl_error *err) {
    json_t *manifest;
    int status = read_manifest(path, &manifest, err);
    if (status) return status;
    status = verify(path, manifest, err);
    json_decref(manifest);
    if (!status) status = tl__model_load_into(model, path, err);
    if (status) return status;
    char file_path[PATH_BYTES];
    tl_safetensors *file;
    tl__path_join(file_path, sizeof file_path, path, TL_OPTIMIZER_NAME);
    status = tl__safetensors_open(&file, file_path, err);
    if (status) return status;
    status = load_moment(file, &model->params, TL_EXP_AVG, exp_avg, err);
    if (!status) status = load_moment(file, &model->params, TL_EXP_AVG_SQ, exp_avg_sq, err);
    tl__safetensors_close(file);
    return status;
}

/* ---- sweeping ---- */

void tl__checkpoint_sweep(const char *folder) {
    DIR *dir = opendir(folder);
    if (!dir) return;
    for (struct dirent *e; (e = readdir(dir));) {
        size_t n = strlen(e->d_name);
        bool partial = strncmp(e->d_name, ".step-", 6) == 0 && n > 8 && strcmp(e->d_name + n - 8, ".partial") == 0;
        if (!partial) continue;
        char path[PATH_BYTES];
        tl__path_join(path, sizeof path, folder, e->d_name);
        tl__folder_remove(path, NULL);
    }
    closedir(dir);
}
