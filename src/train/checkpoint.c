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

enum { PATH_BYTES = 4096 };

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

static int verify(const char *checkpoint, const json_t *manifest, tl_error *err) {
    static const char *const files[] = {TL_WEIGHTS_NAME, TL_OPTIMIZER_NAME, TL_AVERAGE_NAME};
    for (size_t i = 0; i < 3; i++) {
        if (i == 2 && !json_object_get(json_object_get(manifest, "tensors"), files[i])) continue; /* none was kept */
        int status = tl__manifest_verify(manifest, checkpoint, files[i], err);
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
        status = tl__manifest_read(&manifest, path, &why);
        if (!status) status = parse_state(json_object_get(manifest, "state"), state, path, &why);
        if (!status) status = verify(path, manifest, &why);
        if (!status) {
            *settings_json = json_dumps(json_object_get(manifest, "settings"), JSON_COMPACT | JSON_SORT_KEYS);
            if (!*settings_json) status = tl__fail(&why, TL_EFORMAT, "%s: the manifest holds no settings", path);
        }
        json_decref(manifest);
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

int tl__optimizer_tensors(tl_tensor_out *tensors, char (*names)[192], const tl_params *params,
                          const tl_train_memory *memory) {
    int n = 0;
    for (int moment = 0; moment < 2; moment++)
        for (int i = 0; i < params->n; i++) {
            const tl_param *p = &params->list[i];
            int64_t sq = memory->sq_offset[i];
            if (moment && sq < 0) continue;
            snprintf(names[n], sizeof names[n], "%s.%s",
                     moment   ? "exp_avg_sq"
                     : sq < 0 ? "momentum_buffer"
                              : "exp_avg",
                     p->name);
            tensors[n] = (tl_tensor_out){.name = names[n], .type = TL_F32, .dims = p->dims};
            for (int d = 0; d < p->dims; d++) tensors[n].shape[d] = p->shape[d];
            tensors[n].data = moment ? memory->exp_avg_sq + sq : memory->exp_avg + p->offset;
            n++;
        }
    return n;
}

static int load_optimizer(const char *path, const tl_params *params, tl_train_memory *memory, tl_error *err) {
    size_t most = 2 * (size_t)params->n;
    tl_tensor_out *tensors = calloc(most, sizeof *tensors);
    char(*names)[192] = calloc(most, sizeof *names);
    tl_safetensors *file = NULL;
    int status = tensors && names ? tl__safetensors_open(&file, path, err)
                                  : tl__fail(err, TL_ENOMEM, "no memory to read the optimizer's state");
    int n = status ? 0 : tl__optimizer_tensors(tensors, names, params, memory);
    for (int i = 0; !status && i < n; i++) {
        int64_t count = 1;
        for (int d = 0; d < tensors[i].dims; d++) count *= tensors[i].shape[d];
        const tl_tensor_info *t = tl__safetensors_find(file, tensors[i].name);
        if (!t || t->type != TL_F32 || t->size_bytes != count * (int64_t)sizeof(float))
            status = tl__fail(err, TL_EDAMAGED, "%s lacks tensor '%s' of %lld f32 numbers", path, tensors[i].name,
                              (long long)count);
        else status = tl__safetensors_read(file, t, (void *)(uintptr_t)tensors[i].data, err); /* our own memory */
    }
    if (file) tl__safetensors_close(file);
    free(tensors);
    free(names);
    return status;
}

int tl__checkpoint_load(const char *path, tl_model *model, tl_train_memory *memory, tl_error *err) {
    json_t *manifest;
    char part[PATH_BYTES];
    int status = tl__manifest_read(&manifest, path, err);
    if (status) return status;
    status = verify(path, manifest, err);
    json_decref(manifest);
    if (!status) status = tl__model_load_into(model, path, err);
    tl__path_join(part, sizeof part, path, TL_OPTIMIZER_NAME);
    if (!status) status = load_optimizer(part, &model->params, memory, err);
    if (status || !memory->average) return status;
    tl_model averaged = *model; /* the same parameters in another buffer */
    averaged.flat = memory->average;
    tl__path_join(part, sizeof part, path, TL_AVERAGE_FOLDER);
    return tl__model_load_into(&averaged, part, err);
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
