/* checkpoint.c — finding, verifying and loading step-N folders: what a reader trusts is the manifest and nothing else.
 */
#include "train/checkpoint.h"

#include <dirent.h>
#include <inttypes.h>
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

/* ---- agreeing ---- */

/* What a rank has to say of a checkpoint. */
typedef struct opinion {
    tl_error error;   /* status 0: as it should be */
    tl_hash manifest; /* as this rank reads it */
} opinion;

/* All ranks' opinions, in rank order, of one's own; alone, that one. */
static int exchange(tl_comm *comm, int64_t timeout_ns, opinion *all, const opinion *mine, tl_error *err) {
    tl_ticket ticket;
    if (!comm) {
        *all = *mine;
        return 0;
    }
    TRY(tl__comm_gather_start(comm, TL_AXIS_DP, all, mine, sizeof *mine, &ticket, err));
    return tl__comm_wait(comm, ticket, timeout_ns, err);
}

/* The first rank's that found something wrong, named where there are several; NULL: all is well. */
static const tl_error *first_wrong(opinion *all, tl_comm *comm, int ranks) {
    for (int rank = 0; rank < ranks; rank++) {
        if (!all[rank].error.status) continue;
        if (ranks > 1) tl__error_prefix(&all[rank].error, "rank %d on %s", rank, tl__comm_host(comm, rank));
        return &all[rank].error;
    }
    return NULL;
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

typedef struct finder {
    const char *folder;
    tl_comm *comm;
    int64_t timeout_ns;
    int rank, ranks;
    opinion *all; /* [ranks] */
    tl_train_state *state;
    char **settings_json;
} finder;

/* Hold this rank's share of a checkpoint against its manifest. */
static int examine(finder *f, const char *path, tl_hash *manifest_hash, tl_error *err) {
    static const char *const files[] = {TL_WEIGHTS_NAME, TL_OPTIMIZER_NAME, TL_AVERAGE_NAME};
    json_t *manifest;
    TRY(tl__manifest_read(&manifest, path, err));
    char *text = json_dumps(manifest, JSON_COMPACT | JSON_SORT_KEYS);
    int status = text ? 0 : tl__fail(err, TL_ENOMEM, "no memory for the manifest of %s", path);
    if (text) *manifest_hash = tl__hash_bytes(text, strlen(text));
    free(text);
    if (!status) status = parse_state(json_object_get(manifest, "state"), f->state, path, err);
    for (int i = 0; !status && i < TL_SETS; i++) {
        if (i == TL_SET_AVERAGE && !tl__manifest_lists(manifest, files[i])) continue; /* none was kept */
        status = tl__manifest_verify_part(manifest, path, files[i], f->rank, f->ranks, err);
    }
    if (!status) {
        *f->settings_json = json_dumps(json_object_get(manifest, "settings"), JSON_COMPACT | JSON_SORT_KEYS);
        if (!*f->settings_json) status = tl__fail(err, TL_EFORMAT, "%s: the manifest holds no settings", path);
    }
    json_decref(manifest);
    return status;
}

/* Every rank's opinion of the same folder: 0 with *wrong NULL where it is intact. A rank that sees other files than
 * rank 0 is an error of its own: it is no checkpoint that is damaged. */
static int judge(finder *f, const char *path, const tl_error **wrong, tl_error *err) {
    opinion mine = {0};
    examine(f, path, &mine.manifest, &mine.error);
    TRY(exchange(f->comm, f->timeout_ns, f->all, &mine, err));
    for (int rank = 1; rank < f->ranks; rank++)
        if (strcmp(f->all[rank].manifest.hex, f->all[0].manifest.hex) != 0)
            return tl__fail(err, TL_EINVALID,
                            "rank %d on %s does not see the %s that rank 0 on %s sees; all ranks need the run's folder "
                            "on one shared file system",
                            rank, tl__comm_host(f->comm, rank), path, tl__comm_host(f->comm, 0));
    *wrong = first_wrong(f->all, f->comm, f->ranks);
    return 0;
}

/* The step that rank 0 would try next; −1: none is left. */
static int next_step(const finder *f, int64_t *step, tl_error *err) {
    tl_ticket ticket;
    if (f->ranks == 1) return 0;
    TRY(tl__comm_broadcast_start(f->comm, TL_AXIS_DP, step, sizeof *step, 0, &ticket, err));
    return tl__comm_wait(f->comm, ticket, f->timeout_ns, err);
}

static int find(finder *f, const int64_t *steps, int n, char *path, size_t path_size, tl_error *err) {
    for (int i = 0;; i++) {
        int64_t step = i < n ? steps[i] : -1;
        const tl_error *wrong;
        char name[64];
        TRY(next_step(f, &step, err));
        if (step < 0 && i == 0) return tl__fail(err, TL_ENOTFOUND, "%s: no checkpoint is there", f->folder);
        if (step < 0) return tl__fail(err, TL_EDAMAGED, "%s: none of the %d checkpoints is intact", f->folder, i);
        snprintf(name, sizeof name, "step-%" PRId64, step);
        tl__path_join(path, path_size, f->folder, name);
        TRY(judge(f, path, &wrong, err));
        if (!wrong) return 0;
        if (f->rank == 0) tl__warn("checkpoint %s is passed over: %s", name, wrong->text);
        free(*f->settings_json);
        *f->settings_json = NULL;
    }
}

int tl__checkpoint_find(const char *folder, tl_comm *comm, int64_t timeout_ns, char *path, size_t path_size,
                        tl_train_state *state, char **settings_json, tl_error *err) {
    finder f = {.folder = folder,
                .comm = comm,
                .timeout_ns = timeout_ns,
                .rank = comm ? tl__comm_rank(comm, TL_AXIS_DP) : 0,
                .ranks = comm ? tl__comm_size(comm, TL_AXIS_DP) : 1,
                .state = state,
                .settings_json = settings_json};
    int64_t *steps = NULL;
    *settings_json = NULL;
    f.all = calloc((size_t)f.ranks, sizeof *f.all);
    if (!f.all) return tl__fail(err, TL_ENOMEM, "no memory to look for checkpoints");
    int n = f.rank == 0 ? tl__checkpoint_list(folder, &steps) : 0;
    int status = find(&f, steps, n, path, path_size, err);
    if (status) {
        free(*settings_json);
        *settings_json = NULL;
    }
    free(steps);
    free(f.all);
    return status;
}

/* ---- loading ---- */

/* Read what this rank keeps of a set to where it lies, each tensor held against its hash as it was read. */
static int load_set(const tl_tensor_set *set, const char *path, const json_t *manifest, tl_error *err) {
    tl_safetensors *file;
    TRY(tl__safetensors_open_in(&file, path, set->file, err));
    int status = 0;
    for (int i = 0; !status && i < set->n; i++) {
        const tl_tensor_out *want = &set->tensors[i];
        const tl_tensor_info *t = tl__safetensors_find(file, want->name);
        void *data = (void *)(uintptr_t)want->data; /* our own memory */
        bool same = t && t->type == want->type && t->dims == want->dims;
        for (int d = 0; same && d < t->dims; d++) same = t->shape[d] == want->shape[d];
        if (!same) {
            status =
                tl__fail(err, TL_EDAMAGED, "%s/%s lacks tensor '%s' of %" PRId64 " f32 numbers in the model's shape",
                         path, set->file, want->name, tl__tensor_bytes(want) / 4);
            break;
        }
        if (!data) continue;
        status = tl__safetensors_read(file, t, data, err);
        if (status) break;
        const char *from = tl__safetensors_file(file, t);
        tl_hash got = tl__hash_bytes(data, (size_t)t->size_bytes);
        status =
            tl__manifest_compare(from, t->name, got.hex, tl__manifest_hash(manifest, set->file, from, t->name), err);
    }
    tl__safetensors_close(file);
    return status;
}

static int load(const char *path, const tl_model *model, const tl_train_memory *memory, tl_optimizer optimizer,
                tl_error *err) {
    tl_tensor_sets sets;
    json_t *manifest;
    TRY(tl__manifest_read(&manifest, path, err));
    int status = tl__tensor_sets_open(&sets, model, memory, optimizer, err);
    if (!status) {
        for (int i = 0; !status && i < TL_SETS; i++)
            if (sets.set[i].n) status = load_set(&sets.set[i], path, manifest, err);
        tl__tensor_sets_close(&sets);
    }
    json_decref(manifest);
    return status;
}

int tl__checkpoint_load(const char *path, tl_comm *comm, int64_t timeout_ns, tl_model *model, tl_train_memory *memory,
                        tl_optimizer optimizer, tl_error *err) {
    int ranks = comm ? tl__comm_size(comm, TL_AXIS_DP) : 1;
    opinion mine = {0}, *all = calloc((size_t)ranks, sizeof *all);
    if (!all) return tl__fail(err, TL_ENOMEM, "no memory to read a checkpoint");
    load(path, model, memory, optimizer, &mine.error);
    int status = exchange(comm, timeout_ns, all, &mine, err);
    const tl_error *wrong = status ? NULL : first_wrong(all, comm, ranks);
    if (wrong) {
        status = wrong->status;
        if (err) *err = *wrong;
    }
    free(all);
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
