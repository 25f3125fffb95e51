/* weights.c — owns how a model's weights are kept: a trainer's in one flat buffer, read or drawn at random; for use as
 * their file holds them, mapped where nothing has to be done to them, else copied, packed or widened once. */
#include <assert.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "model/model.h"
#include "model/source.h"

/* ---- places ---- */

/* How a parameter is kept. */
typedef enum form {
    FLAT,   /* f32 within the flat buffer of a trainer */
    MAPPED, /* f32 where it lies in its file */
    WIDE,   /* f32, widened from what the file holds, or put in order */
    STORED, /* F16, BF16 where it lies in its file */
    COPIED, /* F16, BF16 in memory */
    PACKED  /* quantised, in the layout that products read */
} form;

static bool is_product(const tl_param *p) {
    return p->dims == 2 && p->role != TL_ROLE_POSITION && p->role != TL_ROLE_ROUTER; /* a router's is f32 always */
}

/* Is a matrix of this type used as it is stored? */
static bool keeps(tl_type type, tl_dtype dtype) {
    if (dtype == TL_DTYPE_BF16) return type == TL_BF16;
    return dtype == TL_DTYPE_AUTO && (type == TL_F16 || type == TL_BF16 || tl__type_quantised(type));
}

static form form_of(const tl_weight_source *s, const tl_param *p, int i, tl_dtype dtype) {
    const tl_type type = tl__source_type(s, i);
    const bool lies = tl__source_data(s, i) != NULL && !tl__arena_is_shared(); /* no device reads a mapped file */
    if (p->dims == 1) return WIDE; /* a page of the file each, and sixteen around it, for a few numbers */
    if (type == TL_F32) return lies ? MAPPED : WIDE;
    if (!is_product(p) || !keeps(type, dtype)) return WIDE;
    if (tl__type_quantised(type)) return PACKED;
    return lies ? STORED : COPIED;
}

static int64_t rows_of(const tl_param *p) {
    return p->dims == 2 ? p->shape[0] : 1;
}
static int64_t cols_of(const tl_param *p) {
    return p->dims == 2 ? p->shape[1] : p->count;
}

/* The one placing function: over a dry arena it is the size, over a real one the model's memory. forms NULL: all FLAT.
 */
static void place(tl_model *m, tl_arena *arena, const tl_weight_source *s, const form *forms) {
    m->flat = m->flat_count ? TL_TAKE(arena, float, m->flat_count) : NULL;
    for (int i = 0; forms && i < m->params.n; i++) {
        const tl_param *p = &m->params.list[i];
        const tl_type type = tl__source_type(s, i);
        const int N = (int)rows_of(p), K = (int)cols_of(p);
        tl_stored *w = &m->stored[i];
        if (forms[i] == WIDE) m->weight[i] = TL_TAKE(arena, float, p->count);
        if (forms[i] == MAPPED) m->weight[i] = tl__source_data(s, i);
        if (forms[i] == MAPPED || forms[i] == WIDE) continue;
        *w = (tl_stored){.type = type, .N = N, .K = K};
        if (forms[i] == PACKED) w->data = TL_TAKE(arena, unsigned char, tl__packed_bytes(type, N, K));
        else if (forms[i] == COPIED) w->data = TL_TAKE(arena, unsigned char, tl__type_size(type, p->count));
        else w->data = tl__source_data(s, i);
    }
    const int tables = tl__rope_tables(&m->arch);
    const int64_t table = (int64_t)m->positions * m->arch.D;
    m->cos_sin = tables > 0 ? TL_TAKE(arena, float, table) : NULL;
    m->cos_sin_local = tables > 1 ? TL_TAKE(arena, float, table) : NULL;
    m->turned = tables > 0 ? TL_TAKE(arena, int, 1) : NULL;
}

/* Everything but memory for numbers. */
static int begin(tl_model *m, const tl_arch *arch, int positions, tl_error *err) {
    *m = (tl_model){.arch = *arch};
    m->positions = positions > 0 && positions < arch->max_positions ? positions : arch->max_positions;
    TRY(tl__params_make(&m->params, arch, err));
    m->weight = calloc((size_t)m->params.n, sizeof *m->weight);
    return m->weight ? 0 : tl__fail(err, TL_ENOMEM, "no memory for %d parameter records", m->params.n);
}

static int take(tl_model *m, const tl_weight_source *s, const form *forms, tl_error *err) {
    tl_arena dry = tl__arena_dry();
    place(m, &dry, s, forms);
    if (dry.used_bytes) TRY(tl__arena_open(&m->arena, dry.used_bytes, err));
    place(m, dry.used_bytes ? &m->arena : &dry, s, forms);
    return 0;
}

/* ---- a trainer's ---- */

int tl__model_create_owned(tl_model *m, const tl_arch *arch, int positions, const int *owner, int rank, tl_error *err) {
    int status = begin(m, arch, positions, err);
    int64_t count = 0;
    m->at = status ? NULL : calloc((size_t)m->params.n, sizeof *m->at);
    if (!status && !m->at) status = tl__fail(err, TL_ENOMEM, "no memory for the places of the parameters");
    for (int i = 0; !status && i < m->params.n; i++) {
        bool here = !owner || owner[i] == rank;
        m->at[i] = here ? count : -1;
        if (here) count += m->params.list[i].count;
    }
    m->flat_count = count > 0 ? count : 1;
    if (!status) status = take(m, NULL, NULL, err);
    m->flat_count = count;
    if (status) {
        tl__model_close(m);
        return status;
    }
    for (int i = 0; i < m->params.n; i++) m->weight[i] = m->at[i] < 0 ? NULL : m->flat + m->at[i];
    return 0;
}

int tl__model_create(tl_model *m, const tl_arch *arch, int positions, tl_error *err) {
    return tl__model_create_owned(m, arch, positions, NULL, 0, err);
}

int tl__model_load_into(tl_model *m, const char *path, tl_error *err) {
    assert(m->flat);
    tl_weight_source *source;
    TRY(tl__source_open(&source, path, err));
    int status = tl__source_match(source, &m->arch, &m->params, err);
    for (int i = 0; !status && i < m->params.n; i++)
        if (m->at[i] >= 0) {
            status = tl__source_read_f32(source, i, m->flat + m->at[i], err);
            tl__source_release(source, i, 0, INT64_MAX);
        }
    tl__source_close(source);
    return status;
}

int tl__model_fits(const tl_arch *arch, const char *path, tl_error *err) {
    tl_weight_source *source;
    tl_params params;
    TRY(tl__source_open(&source, path, err));
    int status = tl__params_make(&params, arch, err);
    if (!status) {
        status = tl__source_match(source, arch, &params, err);
        tl__params_free(&params);
    }
    tl__source_close(source);
    return status;
}

/* ---- for use: weights as the file holds them ---- */

/* GPT-2's matrices are used as they lie where they are f32; kept in another type they are read as [out, in]. */
static void choose_layout(tl_arch *arch, const tl_weight_source *s, tl_dtype dtype) {
    const tl_safetensors *file = tl__source_safetensors(s);
    arch->layout = tl__source_layout(s, arch);
    for (int i = 0; file && i < tl__safetensors_count(file); i++)
        if (keeps(tl__safetensors_at(file, i)->type, dtype)) arch->layout = TL_OUT_IN;
}

/* The model's records, its source matched with them, and how each parameter is kept. */
static int plan(tl_model *m, form **forms, tl_weight_source *s, const tl_arch *arch, int positions, tl_dtype dtype,
                tl_error *err) {
    tl_arch used = *arch;
    *forms = NULL;
    choose_layout(&used, s, dtype);
    TRY(begin(m, &used, positions, err));
    m->stored = calloc((size_t)m->params.n, sizeof *m->stored);
    *forms = calloc((size_t)m->params.n, sizeof **forms);
    if (!m->stored || !*forms) return tl__fail(err, TL_ENOMEM, "no memory for %d parameter records", m->params.n);
    TRY(tl__source_match(s, &m->arch, &m->params, err));
    for (int i = 0; i < m->params.n; i++) (*forms)[i] = form_of(s, &m->params.list[i], i, dtype);
    return 0;
}

enum { TASK_BYTES = 1 << 20, PANEL = 16 };

typedef struct loading {
    tl_model *model;
    const tl_weight_source *source;
    const form *forms;
    int64_t *first_task; /* [params.n + 1], from 1 on where something is done beside */
    const tl_beside *beside;
    const atomic_bool *stop;
    atomic_bool failed;
    tl_error err; /* of what failed first */
} loading;

/* Rows of a task; all of what is read as a whole. */
static int64_t task_rows(const loading *j, int i) {
    const tl_param *p = &j->model->params.list[i];
    if (j->forms[i] == WIDE || tl__source_turns(j->source, i)) return rows_of(p);
    int64_t rows = TASK_BYTES / tl__type_size(tl__source_type(j->source, i), cols_of(p)) / PANEL * PANEL;
    return rows > PANEL ? rows : PANEL;
}

/* Rows in the parameter's order, from where they lie or through a buffer. */
static int pack(const loading *j, int i, int64_t first, int64_t n, tl_error *err) {
    const tl_stored *w = &j->model->stored[i];
    const int64_t row = tl__type_size(w->type, w->K);
    const unsigned char *data = tl__source_data(j->source, i);
    unsigned char *buffer = data ? NULL : malloc((size_t)(n * row));
    if (!data && !buffer) return tl__fail(err, TL_ENOMEM, "no memory to pack %lld rows", (long long)n);
    int status = data ? 0 : tl__source_rows(j->source, i, first, n, buffer, err);
    if (!status)
        tl__pack_rows((void *)w->data, w->type, w->N, w->K, (int)first, (int)n, data ? data + first * row : buffer);
    free(buffer);
    return status;
}

static int load_rows(const loading *j, int64_t task, tl_error *err) {
    tl_model *m = j->model;
    int i = 0, status = 0;
    for (int step = m->params.n; step > 0; step /= 2) /* the last whose first task is not beyond this one */
        while (i + step < m->params.n && j->first_task[i + step] <= task) i += step;
    const tl_stored *w = &m->stored[i];
    const int64_t most = task_rows(j, i), first = (task - j->first_task[i]) * most;
    const int64_t n = rows_of(&m->params.list[i]) - first < most ? rows_of(&m->params.list[i]) - first : most;
    if (j->forms[i] == WIDE) status = tl__source_read_f32(j->source, i, (float *)m->weight[i], err);
    else if (j->forms[i] == PACKED) status = pack(j, i, first, n, err);
    else
        status = tl__source_rows(j->source, i, first, n,
                                 (unsigned char *)w->data + tl__type_size(w->type, first * w->K), err);
    tl__source_release(j->source, i, first, n == rows_of(&m->params.list[i]) ? INT64_MAX : n);
    return status;
}

static void load_task(void *user, int64_t task, int worker) {
    loading *j = user;
    tl_error err = {0};
    (void)worker;
    if (atomic_load(&j->failed) || (j->stop && atomic_load(j->stop))) return;
    const int status = task < j->first_task[0] ? j->beside->run(j->beside->user, &err) : load_rows(j, task, &err);
    if (status && !atomic_exchange(&j->failed, true)) j->err = err;
}

/* What is beside is begun first: it is one task and may be the longest. */
static int load(tl_model *m, const tl_weight_source *s, const form *forms, tl_pool *pool, const tl_beside *beside,
                const atomic_bool *stop, tl_error *err) {
    loading j = {.model = m, .source = s, .forms = forms, .beside = beside, .stop = stop};
    j.first_task = calloc((size_t)m->params.n + 1, sizeof *j.first_task);
    if (!j.first_task) return tl__fail(err, TL_ENOMEM, "no memory to load %d parameters", m->params.n);
    j.first_task[0] = beside != NULL;
    for (int i = 0; i < m->params.n; i++) {
        bool lies = forms[i] == MAPPED || forms[i] == STORED;
        int64_t rows = rows_of(&m->params.list[i]), most = lies ? 1 : task_rows(&j, i);
        j.first_task[i + 1] = j.first_task[i] + (lies ? 0 : (rows + most - 1) / most);
    }
    tl__parallel_for(pool, j.first_task[m->params.n], load_task, &j);
    free(j.first_task);
    if (err && j.err.status) *err = j.err;
    if (!j.err.status && stop && atomic_load(stop))
        return tl__fail(err, TL_ESTOPPED, "the model was no longer wanted while it was read");
    return j.err.status;
}

static void add_sizes(tl_model_size *out, const tl_model *m, const tl_weight_source *s, const form *forms) {
    for (int i = 0; i < m->params.n; i++) {
        const tl_param *p = &m->params.list[i];
        const tl_type type = tl__source_type(s, i);
        const int64_t bytes = tl__type_size(type, p->count);
        if (forms[i] == MAPPED || forms[i] == STORED) out->mapped_bytes += bytes;
        if (forms[i] == COPIED) out->copied_bytes += bytes;
        if (forms[i] == WIDE) out->widened_bytes += 4 * p->count;
        if (forms[i] == PACKED) out->packed_bytes += (int64_t)tl__packed_bytes(type, (int)rows_of(p), (int)cols_of(p));
    }
}

int tl__model_size(tl_model_size *out, tl_weight_source *s, const tl_arch *arch, int positions, tl_dtype dtype,
                   tl_error *err) {
    tl_model m = {0};
    form *forms = NULL;
    *out = (tl_model_size){0};
    int status = plan(&m, &forms, s, arch, positions, dtype, err);
    if (!status) {
        tl_arena dry = tl__arena_dry();
        place(&m, &dry, s, forms);
        add_sizes(out, &m, s, forms);
        out->table_bytes =
            (int64_t)dry.used_bytes - out->packed_bytes - out->copied_bytes - out->widened_bytes; /* and alignment */
        out->total_bytes = (int64_t)dry.used_bytes + out->mapped_bytes;
    }
    free(forms);
    tl__model_close(&m);
    return status;
}

int tl__model_open(tl_model *m, tl_weight_source *source, const tl_arch *arch, int positions, tl_dtype dtype,
                   tl_pool *pool, const tl_beside *beside, const atomic_bool *stop, tl_error *err) {
    form *forms;
    int status = plan(m, &forms, source, arch, positions, dtype, err);
    if (!status) status = take(m, source, forms, err);
    if (!status) status = load(m, source, forms, pool, beside, stop, err);
    bool mapped = false;
    for (int i = 0; !status && i < m->params.n; i++) mapped = mapped || forms[i] == MAPPED || forms[i] == STORED;
    free(forms);
    if (mapped) m->source = source;
    else tl__source_close(source);
    if (status) tl__model_close(m);
    return status;
}

void tl__model_close(tl_model *m) {
    tl__source_close(m->source);
    tl__arena_close(&m->arena);
    tl__params_free(&m->params);
    free(m->weight);
    free(m->stored);
    free(m->at);
    *m = (tl_model){0};
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
