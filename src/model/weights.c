/* weights.c — where a model's weights come from: mapped from a checkpoint folder, read into a flat buffer, or drawn at
 * random. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "model/model.h"

/* ---- opening ---- */

static int prepare(tl_model *m, const tl_arch *arch, int positions, int64_t flat_count, tl_error *err) {
    *m = (tl_model){.arch = *arch};
    m->positions = positions > 0 && positions < arch->max_positions ? positions : arch->max_positions;
    int status = tl__params_make(&m->params, arch, err);
    if (status) return status;
    m->weight = calloc((size_t)m->params.n, sizeof *m->weight);
    if (!m->weight) return tl__fail(err, TL_ENOMEM, "no memory for %d parameter records", m->params.n);
    int tables = tl__rope_tables(arch);
    for (int pass = 0; pass < 2; pass++) { /* measure, then take */
        if (pass == 0) m->arena = tl__arena_dry();
        else if ((status = tl__arena_open(&m->arena, m->arena.used_bytes, err))) return status;
        m->flat = flat_count ? TL_TAKE(&m->arena, float, flat_count) : NULL;
        int64_t table = (int64_t)m->positions * arch->D;
        m->cos_sin = tables > 0 ? TL_TAKE(&m->arena, float, table) : NULL;
        m->cos_sin_local = tables > 1 ? TL_TAKE(&m->arena, float, table) : NULL;
    }
    if (m->cos_sin) tl__rope_fill(m->cos_sin, arch, false, m->positions);
    if (m->cos_sin_local) tl__rope_fill(m->cos_sin_local, arch, true, m->positions);
    return 0;
}

int tl__model_create_owned(tl_model *m, const tl_arch *arch, int positions, const int *owner, int rank, tl_error *err) {
    tl_params params;
    int status = tl__params_make(&params, arch, err);
    if (status) return status;
    int64_t count = 0, *at = calloc((size_t)params.n, sizeof *at);
    for (int i = 0; at && i < params.n; i++) {
        bool here = !owner || owner[i] == rank;
        at[i] = here ? count : -1;
        if (here) count += params.list[i].count;
    }
    tl__params_free(&params);
    if (!at) return tl__fail(err, TL_ENOMEM, "no memory for the places of the parameters");
    status = prepare(m, arch, positions, count > 0 ? count : 1, err);
    m->at = at, m->flat_count = count;
    if (status) {
        tl__model_close(m);
        return status;
    }
    for (int i = 0; i < m->params.n; i++) m->weight[i] = at[i] < 0 ? NULL : m->flat + at[i];
    return 0;
}

int tl__model_create(tl_model *m, const tl_arch *arch, int positions, tl_error *err) {
    return tl__model_create_owned(m, arch, positions, NULL, 0, err);
}

void tl__model_close(tl_model *m) {
    if (m->file) tl__safetensors_close(m->file);
    tl__arena_close(&m->arena);
    tl__params_free(&m->params);
    free(m->weight);
    free(m->at);
    *m = (tl_model){0};
}

/* ---- reading a folder ---- */

/* Base models are saved without their first name ("wte.weight"): both are read. */
static const tl_tensor_info *find_tensor(const tl_safetensors *file, const char *name) {
    const tl_tensor_info *t = tl__safetensors_find(file, name);
    const char *dot = strchr(name, '.');
    return t || !dot ? t : tl__safetensors_find(file, dot + 1);
}

/* Buffers that old checkpoints carry and that hold no weights, and the head's second copy of a tied embedding. */
static bool is_known_extra(const tl_arch *a, const char *name) {
    static const char *const endings[] = {".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"};
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
        if (n >= strlen(endings[i]) && strcmp(name + n - strlen(endings[i]), endings[i]) == 0) return true;
    return a->tied && strcmp(name, "lm_head.weight") == 0;
}

/* Each parameter has its tensor with the right shape and a type that can be read, and no tensor is left over. */
static int check_tensors(const tl_model *m, const tl_safetensors *file, const tl_tensor_info **tensors,
                         const char *folder, tl_error *err) {
    int used = 0;
    for (int i = 0; i < m->params.n; i++) {
        const tl_param *p = &m->params.list[i];
        const tl_tensor_info *t = tensors[i] = find_tensor(file, p->name);
        if (!t)
            return tl__fail(err, TL_EFORMAT, "%s: the weights lack tensor '%s', which config.json calls for", folder,
                            p->name);
        bool same = t->dims == p->dims;
        for (int d = 0; same && d < p->dims; d++) same = t->shape[d] == p->shape[d];
        if (!same) {
            char want[64];
            if (p->dims == 2) snprintf(want, sizeof want, "%lld, %lld", (long long)p->shape[0], (long long)p->shape[1]);
            else snprintf(want, sizeof want, "%lld", (long long)p->shape[0]);
            return tl__fail(err, TL_EFORMAT,
                            "%s: tensor '%s' should have shape [%s] by config.json, but the file's differs", folder,
                            p->name, want);
        }
        if (t->type != TL_F32 && t->type != TL_F16 && t->type != TL_BF16)
            return tl__fail(err, TL_EUNSUPPORTED, "%s: tensor '%s' has type %s; F32, F16 and BF16 can be read", folder,
                            p->name, tl__type_name(t->type));
        used++;
    }
    if (used == tl__safetensors_count(file)) return 0;
    for (int k = 0; k < tl__safetensors_count(file); k++) {
        const tl_tensor_info *t = tl__safetensors_at(file, k);
        bool known = is_known_extra(&m->arch, t->name);
        for (int i = 0; !known && i < m->params.n; i++) known = tensors[i] == t;
        if (!known)
            return tl__fail(
                err, TL_EUNSUPPORTED,
                "%s: tensor '%s' belongs to no part of a %s model with this config.json; it would be ignored", folder,
                t->name, m->arch.family);
    }
    return 0;
}

int tl__model_fits(const tl_arch *arch, const tl_safetensors *file, const char *folder, tl_error *err) {
    tl_model m = {.arch = *arch};
    int status = tl__params_make(&m.params, arch, err);
    if (status) return status;
    const tl_tensor_info **tensors = calloc((size_t)m.params.n, sizeof *tensors);
    status = tensors ? check_tensors(&m, file, tensors, folder, err)
                     : tl__fail(err, TL_ENOMEM, "no memory for %d tensor records", m.params.n);
    free(tensors);
    tl__params_free(&m.params);
    return status;
}

int tl__model_load_into(tl_model *m, const char *folder, tl_error *err) {
    assert(m->flat);
    tl_safetensors *file;
    int status = tl__safetensors_open(&file, folder, err);
    if (status) return status;
    const tl_tensor_info **tensors = calloc((size_t)m->params.n, sizeof *tensors);
    status = tensors ? check_tensors(m, file, tensors, folder, err)
                     : tl__fail(err, TL_ENOMEM, "no memory for %d tensor records", m->params.n);
    for (int i = 0; !status && i < m->params.n; i++)
        if (m->at[i] >= 0) status = tl__safetensors_read_f32(file, tensors[i], m->flat + m->at[i], err);
    free(tensors);
    tl__safetensors_close(file);
    return status;
}

int tl__model_open(tl_model *m, const char *folder, int positions, tl_error *err) {
    tl_arch arch;
    *m = (tl_model){0};
    int status = tl__arch_open(&arch, folder, err);
    if (status) return status;
    tl_safetensors *file;
    status = tl__safetensors_open(&file, folder, err);
    if (status) return status;

    /* Weights are used where they lie if every one is mapped, f32 and aligned; else all are read into a buffer. */
    bool mapped = true;
    for (int k = 0; k < tl__safetensors_count(file); k++) {
        const tl_tensor_info *t = tl__safetensors_at(file, k);
        const void *data = tl__safetensors_data(file, t);
        mapped = mapped && data && t->type == TL_F32 && (uintptr_t)data % sizeof(float) == 0;
    }
    if (!mapped) {
        tl__safetensors_close(file);
        status = tl__model_create(m, &arch, positions, err);
        if (!status) status = tl__model_load_into(m, folder, err);
    } else {
        status = prepare(m, &arch, positions, 0, err);
        m->file = file;
        const tl_tensor_info **tensors = status ? NULL : calloc((size_t)m->params.n, sizeof *tensors);
        if (!status && !tensors) status = tl__fail(err, TL_ENOMEM, "no memory for %d tensor records", m->params.n);
        if (!status) status = check_tensors(m, file, tensors, folder, err);
        for (int i = 0; !status && i < m->params.n; i++) m->weight[i] = tl__safetensors_data(file, tensors[i]);
        free(tensors);
    }
    if (status) tl__model_close(m);
    return status;
}

/* ---- random initialisation ---- */

enum { INIT_CHUNK = 1 << 16 }; /* elements a task; any value gives the same bits */

typedef struct init_job {
    tl_model *model;
    uint64_t seed;
} init_job;

static void init_chunk(void *user, int64_t task, int worker) {
    const init_job *job = user;
    const tl_params *params = &job->model->params;
    (void)worker;
    for (int i = 0; i < params->n; i++) { /* task counts chunks over the parameters in order */
        const tl_param *p = &params->list[i];
        int64_t chunks = (p->count + INIT_CHUNK - 1) / INIT_CHUNK;
        if (task >= chunks) {
            task -= chunks;
            continue;
        }
        if (job->model->at[i] < 0) return;
        int64_t first = task * INIT_CHUNK, n = p->count - first < INIT_CHUNK ? p->count - first : INIT_CHUNK;
        float *out = job->model->flat + job->model->at[i] + first;
        if (p->init_std > 0)
            tl__normal_fill(out, (size_t)n, 0.0f, p->init_std, job->seed, (uint32_t)i, (uint64_t)first);
        else
            for (int64_t j = 0; j < n; j++) out[j] = p->init_std < 0 ? 1.0f : 0.0f;
        return;
    }
}

void tl__model_init(tl_model *m, uint64_t seed, tl_pool *pool) {
    assert(m->flat);
    init_job job = {m, seed};
    int64_t tasks = 0;
    for (int i = 0; i < m->params.n; i++) tasks += (m->params.list[i].count + INIT_CHUNK - 1) / INIT_CHUNK;
    tl__parallel_for(pool, tasks, init_chunk, &job);
}
