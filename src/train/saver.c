/* saver.c — writes checkpoints behind the trainer's back: one thread on each rank that reads weights and moments in
 * place, while the trainer computes the next gradient and holds back only the update.
 *
 * Every rank's thread writes its own tensors and hashes them; the page cache takes them at the speed of memory, and the
 * trainer is let go before they are on the disk. When all ranks' parts are, the trainers, who alone may use the
 * communicator, exchange what came of them (a status, the hashes), and rank 0's thread publishes: nothing has to be
 * looked for in the file system, which another machine may be slow to show.
 *
 * Invariants of the state machine, asserted by number:
 *   V1  IDLE → READING → SYNCING → SYNCED → PUBLISHING → IDLE, moved by start (the trainer) and then by the thread; but
 *       where there are several ranks SYNCED → PUBLISHING is the trainer's, when every rank has said what came of its
 *       part.
 *   V2  weights, moments and average are read only in READING; the trainer writes them only outside READING.
 *   V3  a folder called step-N has its manifest: the manifest is the last file written, and the rename follows it. Both
 *       are rank 0's, in PUBLISHING, when every file of every rank is on disk.
 *   V4  a failed save removes its partial folder and leaves every finished one, and `latest`, as they were. One rank's
 *       failure fails the save on all; rank 0 removes, in PUBLISHING, when no rank writes there any more.
 *   V5  a partial folder is one save's alone: its name carries the step and, where there are several ranks, the run's
 *       id, so that what a rank of a killed job still writes can never reach a later one.
 *   V6  which calls are collective follows from what the trainer called (begun, unsaid) and from what all ranks were
 * told alike, never from how far this rank's thread is. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "train/checkpoint_format.h"

enum { PATH_BYTES = 4096 };
typedef enum phase { IDLE, READING, SYNCING, SYNCED, PUBLISHING, PHASES } phase;

/* What a rank says of its part of a save: the hashes of its tensors follow, set by set. */
typedef struct part {
    int64_t step;
    uint64_t run_id;
    tl_error error; /* status 0: written */
    tl_hash hashes[];
} part;

struct tl_saver {
    char folder[PATH_BYTES];
    const tl_model *model;
    const tl_tokenizer *tokenizer;
    json_t *settings;
    int keep, rank, ranks;
    uint64_t run_id;
    tl_comm *comm;
    int64_t timeout_ns;
    /* Made at opening, so that saving asks the heap for nothing large. */
    tl_tensor_sets sets;
    tl_hash *hashes[TL_SETS]; /* [n] of each set: this rank's once read, all ranks' once joined */
    tl_tensor_out *mine;      /* [largest n]: what of a set this rank writes */
    part *part;               /* part_bytes */
    unsigned char *parts;     /* [ranks · part_bytes] */
    size_t part_bytes;
    double mine_bytes;      /* of all tensors that this rank writes */
    tl_sink *sink[TL_SETS]; /* the thread's: written, and not published */

    bool begun;  /* the trainer's: a save was started, and the ranks have not exchanged their parts */
    bool unsaid; /* the trainer's: they have, and rank 0 has not told what came of the whole */

    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    phase phase; /* under lock, as all below */
    bool closing, failed;
    tl_train_state state;
    tl_error error;   /* of a failure that has not been handed over */
    tl_error verdict; /* of all parts */
    tl_error last;    /* what came of the save before, for rank 0 to tell */
    tl_saver_work work;
    int64_t begun_ns; /* the present save */
};

/* ---- this rank's part ---- */

static void partial_path(const tl_saver *s, char out[PATH_BYTES], int64_t step) {
    char name[96];
    if (s->ranks > 1) snprintf(name, sizeof name, ".step-%" PRId64 ".%016" PRIx64 ".partial", step, s->run_id);
    else snprintf(name, sizeof name, ".step-%" PRId64 ".partial", step);
    tl__path_join(out, PATH_BYTES, s->folder, name);
}

/* The file that a rank writes of a set. */
static void file_name(const tl_saver *s, char out[256], const tl_tensor_set *set, int rank) {
    if (s->ranks > 1) tl__safetensors_shard_name(out, 256, set->file, rank, s->ranks);
    else snprintf(out, 256, "%s", set->file);
}

/* Write what is this rank's of a set, and append its hashes to the part. */
static int write_set(tl_saver *s, const char *partial, const tl_tensor_set *set, int *hashes, tl_error *err) {
    char path[PATH_BYTES], name[256];
    int n = 0;
    for (int i = 0; i < set->n; i++)
        if (set->writer[i] == s->rank) s->mine[n++] = set->tensors[i];
    file_name(s, name, set, s->rank);
    tl__path_join(path, sizeof path, partial, name);
    tl_sink **sink = &s->sink[set - s->sets.set];
    TRY(tl__sink_open(sink, path, err));
    TRY(tl__safetensors_write_to(*sink, s->mine, n, s->part->hashes + *hashes, err));
    *hashes += n;
    return 0;
}

/* Read the state and hand it to the system. */
static int write_part(tl_saver *s, const tl_train_state *state, tl_error *err) {
    char partial[PATH_BYTES], average[PATH_BYTES];
    int hashes = 0;
    partial_path(s, partial, state->step);
    tl__path_join(average, sizeof average, partial, TL_AVERAGE_FOLDER);
    TRY(tl__folder_make(s->sets.set[TL_SET_AVERAGE].n ? average : partial, err));
    for (int i = 0; i < TL_SETS; i++)
        if (s->sets.set[i].n) TRY(write_set(s, partial, &s->sets.set[i], &hashes, err));
    return 0;
}

/* And onto the disk, or nothing of it. */
static void sync_part(tl_saver *s, tl_error *err) {
    for (int i = 0; i < TL_SETS; i++) {
        tl_sink *sink = s->sink[i];
        s->sink[i] = NULL;
        if (!sink) continue;
        if (err->status) tl__sink_abandon(sink);
        else tl__sink_publish(sink, err);
    }
}

/* ---- the whole: rank 0 ---- */

static int write_json(const char *folder, const char *name, const json_t *value, tl_error *err) {
    char path[PATH_BYTES];
    tl__path_join(path, sizeof path, folder, name);
    char *text = json_dumps(value, JSON_INDENT(1) | JSON_SORT_KEYS | JSON_REAL_PRECISION(17));
    if (!text) return tl__fail(err, TL_ENOMEM, "no memory for %s", path);
    int status = tl__file_publish(path, text, strlen(text), err);
    free(text);
    return status;
}

/* What makes the folder a Hugging Face model beside its weights. */
static int write_model_files(tl_saver *s, const char *folder, tl_error *err) {
    char path[PATH_BYTES];
    const tl_arch *a = &s->model->arch;
    char *config = tl__arch_config_json(a);
    if (!config) return tl__fail(err, TL_ENOMEM, "no memory for config.json");
    tl__path_join(path, sizeof path, folder, "config.json");
    int status = tl__file_publish(path, config, strlen(config), err);
    free(config);
    if (status) return status;
    json_t *generation = json_object();
    if (a->bos >= 0) json_object_set_new(generation, "bos_token_id", json_integer(a->bos));
    if (a->eos >= 0) json_object_set_new(generation, "eos_token_id", json_integer(a->eos));
    json_object_set_new(generation, "do_sample", json_true());
    status = write_json(folder, "generation_config.json", generation, err);
    json_decref(generation);
    return status || !s->tokenizer ? status : tl__tokenizer_save(s->tokenizer, folder, err);
}

/* Where each tensor of a set lies, as transformers reads it. */
static int write_index(const tl_saver *s, const char *partial, const tl_tensor_set *set, tl_error *err) {
    char name[256], file[256];
    json_int_t bytes = 0;
    json_t *map = json_object();
    for (int i = 0; i < set->n; i++) {
        file_name(s, file, set, set->writer[i]);
        const char *slash = strrchr(file, '/'); /* the index lies beside its files */
        json_object_set_new(map, set->tensors[i].name, json_string(slash ? slash + 1 : file));
        bytes += tl__tensor_bytes(&set->tensors[i]);
    }
    json_t *index = json_pack("{s:{s:I},s:o}", "metadata", "total_size", bytes, "weight_map", map);
    tl__safetensors_index_name(name, sizeof name, set->file);
    int status = index ? write_json(partial, name, index, err) : tl__fail(err, TL_ENOMEM, "no memory for %s", name);
    json_decref(index);
    return status;
}

/* {FILE: {TENSOR: hash}} of all ranks' files. */
static json_t *all_hashes(const tl_saver *s) {
    json_t *all = json_object();
    for (int k = 0; k < TL_SETS; k++) {
        const tl_tensor_set *set = &s->sets.set[k];
        for (int rank = 0; set->n && rank < s->ranks; rank++) {
            char name[256];
            json_t *hashes = json_object();
            for (int i = 0; i < set->n; i++)
                if (set->writer[i] == rank)
                    json_object_set_new(hashes, set->tensors[i].name, json_string(s->hashes[k][i].hex));
            file_name(s, name, set, rank);
            json_object_set_new(all, name, hashes);
        }
    }
    return all;
}

static int write_manifest(const tl_saver *s, const char *partial, const tl_train_state *state, tl_error *err) {
    char written[32];
    tl__utc_iso8601(written, sizeof written);
    json_t *manifest =
        json_pack("{s:s,s:i,s:s,s:s,s:i,s:o,s:O,s:o}", "format", TL_MANIFEST_FORMAT, "version", TL_MANIFEST_VERSION,
                  "written_by", tl_version(), "written_at", written, "ranks", s->ranks, "state",
                  tl__train_state_json(state), "settings", s->settings, "tensors", all_hashes(s));
    int status = manifest ? write_json(partial, TL_MANIFEST_NAME, manifest, err)
                          : tl__fail(err, TL_ENOMEM, "no memory for the manifest");
    json_decref(manifest);
    return status;
}

static void move_latest(const tl_saver *s, const char *name) {
    char link[PATH_BYTES], fresh[PATH_BYTES];
    tl__path_join(link, sizeof link, s->folder, "latest");
    tl__path_join(fresh, sizeof fresh, s->folder, ".latest.new");
    unlink(fresh);
    if (symlink(name, fresh) || rename(fresh, link))
        tl__warn("%s could not be moved to %s: %s", link, name, strerror(errno));
}

static void prune(const tl_saver *s) {
    int64_t *steps;
    int n = tl__checkpoint_list(s->folder, &steps);
    for (int i = s->keep; s->keep > 0 && i < n; i++) {
        char name[64], path[PATH_BYTES];
        snprintf(name, sizeof name, "step-%lld", (long long)steps[i]);
        tl__path_join(path, sizeof path, s->folder, name);
        tl__folder_remove(path, NULL);
    }
    free(steps);
}

static void sync_folder(const char *path) {
    int fd = open(path, O_RDONLY | O_DIRECTORY);
    if (fd < 0) return;
    fsync(fd);
    close(fd);
}

static int publish(tl_saver *s, const tl_train_state *state, tl_error *err) {
    char name[64], partial[PATH_BYTES], final[PATH_BYTES], average[PATH_BYTES];
    snprintf(name, sizeof name, "step-%" PRId64, state->step);
    partial_path(s, partial, state->step);
    tl__path_join(final, sizeof final, s->folder, name);
    tl__path_join(average, sizeof average, partial, TL_AVERAGE_FOLDER);
    for (int i = 0; s->ranks > 1 && i < TL_SETS; i++)
        if (s->sets.set[i].n) TRY(write_index(s, partial, &s->sets.set[i], err));
    TRY(write_model_files(s, partial, err));
    if (s->sets.set[TL_SET_AVERAGE].n) TRY(write_model_files(s, average, err));
    TRY(write_manifest(s, partial, state, err));
    if (tl__path_exists(final)) TRY(tl__folder_remove(final, err)); /* a damaged one of the same step */
    if (rename(partial, final)) return tl__fail_errno(err, "cannot rename %s to %s", partial, final); /* V3 */
    sync_folder(s->folder);
    move_latest(s, name);
    prune(s);
    return 0;
}

/* ---- the phases ---- */

static void enter(tl_saver *s, phase next) {
    assert(next == (s->phase + 1) % PHASES); /* V1 */
    s->phase = next;
    pthread_cond_broadcast(&s->changed);
}

/* What one rank said, into the verdict and the hashes. */
static void take_part(tl_saver *s, const part *p, int rank) {
    int next = 0;
    if (s->verdict.status) return;
    if (p->error.status) {
        s->verdict = p->error;
        if (s->ranks > 1) tl__error_prefix(&s->verdict, "rank %d", rank);
        return;
    }
    if (p->step != s->state.step || p->run_id != s->run_id) {
        tl__fail(&s->verdict, TL_EINVALID,
                 "rank %d wrote step %" PRId64 " of run %016" PRIx64 " where rank %d wrote step %" PRId64
                 " of run %016" PRIx64,
                 rank, p->step, p->run_id, s->rank, s->state.step, s->run_id);
        return;
    }
    for (int k = 0; k < TL_SETS; k++)
        for (int i = 0; i < s->sets.set[k].n; i++)
            if (s->sets.set[k].writer[i] == rank) s->hashes[k][i] = p->hashes[next++];
}

/* SYNCED → PUBLISHING, knowing all parts. Under lock. */
static void join(tl_saver *s, const void *parts) {
    assert(s->phase == SYNCED); /* V1 */
    s->verdict = (tl_error){0};
    for (int rank = 0; rank < s->ranks; rank++)
        take_part(s, (const part *)((const unsigned char *)parts + (size_t)rank * s->part_bytes), rank);
    enter(s, PUBLISHING);
}

static void *saver_thread(void *user) {
    tl_saver *s = user;
    pthread_mutex_lock(&s->lock);
    for (;;) {
        while (s->phase == IDLE && !s->closing) pthread_cond_wait(&s->changed, &s->lock);
        if (s->phase == IDLE) break;
        tl_train_state state = s->state;
        pthread_mutex_unlock(&s->lock);

        s->part->step = state.step, s->part->run_id = s->run_id, s->part->error = (tl_error){0};
        write_part(s, &state, &s->part->error);

        pthread_mutex_lock(&s->lock);
        enter(s, SYNCING); /* V2: the state may change from here on */
        pthread_mutex_unlock(&s->lock);
        sync_part(s, &s->part->error);

        pthread_mutex_lock(&s->lock);
        enter(s, SYNCED);
        if (!s->part->error.status) {
            s->work.saves++, s->work.bytes += s->mine_bytes;
            s->work.seconds += (double)(tl__now_ns() - s->begun_ns) * 1e-9;
        }
        if (s->ranks == 1) join(s, s->part);
        while (s->phase == SYNCED && !s->closing) pthread_cond_wait(&s->changed, &s->lock);
        bool given_up = s->phase == SYNCED;
        if (given_up) enter(s, PUBLISHING);
        tl_error error = s->verdict;
        pthread_mutex_unlock(&s->lock);

        bool undo = given_up || error.status;
        if (!undo && s->rank == 0) undo = publish(s, &state, &error) != 0;
        if (undo && s->rank == 0) { /* V4 */
            char partial[PATH_BYTES];
            partial_path(s, partial, state.step);
            tl__folder_remove(partial, NULL);
        }

        pthread_mutex_lock(&s->lock);
        s->last = error;
        /* A verdict of several ranks is handed over where they join. */
        if (error.status && (s->ranks == 1 || !s->verdict.status)) s->failed = true, s->error = error;
        enter(s, IDLE);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* ---- the trainer's side ---- */

static void release(tl_saver *s) {
    json_decref(s->settings);
    tl__tensor_sets_close(&s->sets);
    for (int k = 0; k < TL_SETS; k++) free(s->hashes[k]);
    free(s->mine), free(s->part), free(s->parts);
    free(s);
}

/* The same list on all ranks, so the same size on all. */
static int take_memory(tl_saver *s, tl_error *err) {
    int most = 0, largest = 0;
    bool taken = true;
    for (int rank = 0; rank < s->ranks; rank++) {
        int n = 0;
        for (int k = 0; k < TL_SETS; k++)
            for (int i = 0; i < s->sets.set[k].n; i++) n += s->sets.set[k].writer[i] == rank;
        most = n > most ? n : most;
    }
    for (int k = 0; k < TL_SETS; k++) {
        int n = s->sets.set[k].n;
        largest = n > largest ? n : largest;
        for (int i = 0; i < n; i++)
            if (s->sets.set[k].writer[i] == s->rank)
                s->mine_bytes += (double)tl__tensor_bytes(&s->sets.set[k].tensors[i]);
        s->hashes[k] = calloc((size_t)n + 1, sizeof *s->hashes[k]);
        taken = taken && s->hashes[k];
    }
    s->part_bytes = (sizeof(part) + (size_t)most * sizeof(tl_hash) + 7) / 8 * 8;
    s->mine = calloc((size_t)largest + 1, sizeof *s->mine);
    s->part = calloc(1, s->part_bytes);
    s->parts = calloc((size_t)s->ranks, s->part_bytes);
    return taken && s->mine && s->part && s->parts ? 0
                                                   : tl__fail(err, TL_ENOMEM, "no memory for the checkpoint writer");
}

int tl__saver_open(tl_saver **saver, const tl_saver_options *o, tl_error *err) {
    *saver = NULL;
    TRY(tl__folder_make(o->folder, err));
    tl_saver *s = calloc(1, sizeof *s);
    if (!s) return tl__fail(err, TL_ENOMEM, "no memory for the checkpoint writer");
    snprintf(s->folder, sizeof s->folder, "%s", o->folder);
    s->model = o->model, s->tokenizer = o->tokenizer, s->keep = o->keep;
    s->comm = o->comm, s->timeout_ns = o->timeout_ns, s->run_id = o->run_id;
    s->rank = o->comm ? tl__comm_rank(o->comm, TL_AXIS_DP) : o->rank;
    s->ranks = o->comm ? tl__comm_size(o->comm, TL_AXIS_DP) : o->ranks > 1 ? o->ranks : 1;
    s->settings = tl__json_parse(o->settings_json, strlen(o->settings_json), "settings", err);
    int status = s->settings ? 0 : TL_EFORMAT;
    if (!status) status = tl__tensor_sets_open(&s->sets, o->model, o->memory, o->optimizer, err);
    if (!status) status = take_memory(s, err);
    if (status) {
        release(s);
        return status;
    }
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    int code = pthread_create(&s->thread, NULL, saver_thread, s);
    if (code) {
        release(s);
        return tl__fail(err, TL_ENOMEM, "cannot start the checkpoint writer's thread: %s", strerror(code));
    }
    *saver = s;
    return 0;
}

/* Wait until the state has been read, or until all is done; hand over a failure once. */
static int wait_for(tl_saver *s, bool all, tl_error *err) {
    int status = 0;
    pthread_mutex_lock(&s->lock);
    while (all ? s->phase != IDLE : s->phase == READING) pthread_cond_wait(&s->changed, &s->lock);
    if (s->failed) {
        s->failed = false;
        status = s->error.status;
        if (err) *err = s->error;
    }
    pthread_mutex_unlock(&s->lock);
    return status;
}

const void *tl__saver_part(tl_saver *s, size_t *part_bytes) {
    pthread_mutex_lock(&s->lock);
    while (s->phase == READING || s->phase == SYNCING) pthread_cond_wait(&s->changed, &s->lock);
    pthread_mutex_unlock(&s->lock);
    *part_bytes = s->part_bytes;
    return s->part;
}

int tl__saver_join(tl_saver *s, const void *parts, tl_error *err) {
    assert(s->begun && s->ranks > 1); /* V6 */
    pthread_mutex_lock(&s->lock);
    join(s, parts);
    int status = s->verdict.status;
    if (status && err) *err = s->verdict;
    pthread_mutex_unlock(&s->lock);
    s->begun = false;
    s->unsaid = !status;
    return status;
}

bool tl__saver_written(tl_saver *s) {
    pthread_mutex_lock(&s->lock);
    bool written = s->begun && s->phase == SYNCED;
    pthread_mutex_unlock(&s->lock);
    return written;
}

int tl__saver_settle(tl_saver *s, tl_error *err) {
    size_t bytes;
    tl_ticket ticket;
    if (!s->begun || !s->comm) return 0; /* V6 */
    const void *mine = tl__saver_part(s, &bytes);
    TRY(tl__comm_gather_start(s->comm, TL_AXIS_DP, s->parts, mine, (int64_t)bytes, &ticket, err));
    TRY(tl__comm_wait(s->comm, ticket, s->timeout_ns, err));
    return tl__saver_join(s, s->parts, err);
}

int tl__saver_wait_read(tl_saver *s, tl_error *err) {
    return wait_for(s, false, err);
}

int tl__saver_wait_published(tl_saver *s, tl_error *err) {
    tl_error told = {0};
    int status = tl__saver_settle(s, err);
    assert(s->comm || !s->begun); /* a caller without a communicator has joined */
    if (s->begun) return status;  /* ranks have lost each other */
    int late = wait_for(s, true, status ? NULL : err);
    status = status ? status : late;
    if (!s->unsaid) return status;
    s->unsaid = false; /* V6 */
    if (!s->comm) return status;
    tl_ticket ticket;
    if (s->rank == 0) told = s->last; /* the thread is idle */
    TRY(tl__comm_broadcast_start(s->comm, TL_AXIS_DP, &told, sizeof told, 0, &ticket, err));
    TRY(tl__comm_wait(s->comm, ticket, s->timeout_ns, err));
    if (s->rank == 0 || !told.status) return status; /* rank 0 has had its own failure */
    if (err) *err = told;
    return told.status;
}

void tl__saver_start(tl_saver *s, const tl_train_state *state) {
    pthread_mutex_lock(&s->lock);
    assert(s->phase == IDLE && !s->begun && !s->unsaid); /* V1, V6 */
    s->state = *state;
    s->begun_ns = tl__now_ns();
    enter(s, READING);
    pthread_mutex_unlock(&s->lock);
    s->begun = s->ranks > 1;
}

tl_saver_work tl__saver_work(tl_saver *s) {
    pthread_mutex_lock(&s->lock);
    tl_saver_work work = s->work;
    pthread_mutex_unlock(&s->lock);
    return work;
}

void tl__saver_close(tl_saver *s) {
    if (!s) return;
    pthread_mutex_lock(&s->lock);
    s->closing = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->changed);
    release(s);
}
