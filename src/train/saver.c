/* saver.c — writes checkpoints behind the trainer's back: one thread that reads weights and moments in place, while the
 * trainer computes the next gradient and holds back only the update.
 *
 * Invariants of the state machine, asserted by number:
 *   V1  IDLE → READING → PUBLISHING → IDLE, moved by start (the trainer) and then by the thread alone.
 *   V2  weights, moments and average are read only in READING; the trainer writes them only outside READING.
 *   V3  a folder called step-N has its manifest: the manifest is the last file written, and the rename follows it.
 *   V4  a failed save removes its partial folder and leaves every finished one, and `latest`, as they were. */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "train/checkpoint_format.h"

enum { PATH_BYTES = 4096 };
typedef enum phase { IDLE, READING, PUBLISHING } phase;

struct tl_saver {
    char folder[PATH_BYTES];
    const tl_model *model;
    const tl_train_memory *memory;
    const tl_tokenizer *tokenizer;
    json_t *settings;
    int keep;
    /* Made at opening, so that saving asks the heap for nothing large. */
    tl_tensor_out *model_tensors;   /* [n] */
    tl_tensor_out *average_tensors; /* [n] */
    char (*moment_names)[192];      /* [2n] */
    tl_tensor_out *moment_tensors;  /* [2n], of which moments are used */
    int moments;
    tl_hash *hashes; /* [2n] */

    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    phase phase; /* under lock, as all below */
    bool closing, failed;
    tl_train_state state;
    tl_error error;
};

/* ---- one save ---- */

static int write_json(const char *folder, const char *name, const json_t *value, tl_error *err) {
    char path[PATH_BYTES];
    tl__path_join(path, sizeof path, folder, name);
    char *text = json_dumps(value, JSON_INDENT(1) | JSON_SORT_KEYS | JSON_REAL_PRECISION(17));
    if (!text) return tl__fail(err, TL_ENOMEM, "no memory for %s", path);
    int status = tl__file_publish(path, text, strlen(text), err);
    free(text);
    return status;
}

/* Write one safetensors file and note its tensors' hashes under its name. */
static int write_tensors(tl_saver *s, const char *folder, const char *name, const tl_tensor_out *tensors, int n,
                         json_t *all, tl_error *err) {
    char path[PATH_BYTES];
    tl__path_join(path, sizeof path, folder, name);
    int status = tl__safetensors_write(path, tensors, n, s->hashes, err);
    if (status) return status;
    json_t *hashes = json_object();
    for (int i = 0; i < n; i++) json_object_set_new(hashes, tensors[i].name, json_string(s->hashes[i].hex));
    json_object_set_new(all, name, hashes);
    return 0;
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

static void enter(tl_saver *s, phase next) {
    pthread_mutex_lock(&s->lock);
    assert(next == (s->phase + 1) % 3); /* V1 */
    s->phase = next;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

static int save(tl_saver *s, const tl_train_state *state, tl_error *err) {
    char name[64], partial_name[80], partial[PATH_BYTES], final[PATH_BYTES], average[PATH_BYTES];
    int n = s->model->params.n;
    snprintf(name, sizeof name, "step-%lld", (long long)state->step);
    snprintf(partial_name, sizeof partial_name, ".%s.partial", name);
    tl__path_join(partial, sizeof partial, s->folder, partial_name);
    tl__path_join(final, sizeof final, s->folder, name);
    tl__path_join(average, sizeof average, partial, TL_AVERAGE_FOLDER);
    json_t *tensors = json_object();
    int status = tl__folder_make(partial, err);
    if (!status) status = write_tensors(s, partial, TL_WEIGHTS_NAME, s->model_tensors, n, tensors, err);
    if (!status) status = write_tensors(s, partial, TL_OPTIMIZER_NAME, s->moment_tensors, s->moments, tensors, err);
    if (!status && s->memory->average) {
        status = tl__folder_make(average, err);
        if (!status) status = write_tensors(s, partial, TL_AVERAGE_NAME, s->average_tensors, n, tensors, err);
    }
    enter(s, PUBLISHING); /* V2: the state may change from here on */
    if (!status) status = write_model_files(s, partial, err);
    if (!status && s->memory->average) status = write_model_files(s, average, err);
    if (!status) {
        char written[32];
        tl__utc_iso8601(written, sizeof written);
        json_t *manifest = json_pack("{s:s,s:i,s:s,s:s,s:o,s:O,s:O}", "format", TL_MANIFEST_FORMAT, "version",
                                     TL_MANIFEST_VERSION, "written_by", tl_version(), "written_at", written, "state",
                                     tl__train_state_json(state), "settings", s->settings, "tensors", tensors);
        status = manifest ? write_json(partial, TL_MANIFEST_NAME, manifest, err)
                          : tl__fail(err, TL_ENOMEM, "no memory for the manifest");
        json_decref(manifest);
    }
    json_decref(tensors);
    if (!status && tl__path_exists(final)) status = tl__folder_remove(final, err); /* a damaged one of the same step */
    if (!status && rename(partial, final))
        status = tl__fail_errno(err, "cannot rename %s to %s", partial, final); /* V3 */
    if (status) {                                                               /* V4 */
        tl__folder_remove(partial, NULL);
        return status;
    }
    sync_folder(s->folder);
    move_latest(s, name);
    prune(s);
    return 0;
}

static void *saver_thread(void *user) {
    tl_saver *s = user;
    pthread_mutex_lock(&s->lock);
    for (;;) {
        while (s->phase == IDLE && !s->closing) pthread_cond_wait(&s->changed, &s->lock);
        if (s->phase == IDLE) break;
        tl_train_state state = s->state;
        pthread_mutex_unlock(&s->lock);
        tl_error error = {0};
        int status = save(s, &state, &error);
        pthread_mutex_lock(&s->lock);
        assert(s->phase == PUBLISHING); /* V1 */
        if (status) s->failed = true, s->error = error;
        s->phase = IDLE;
        pthread_cond_broadcast(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* ---- the trainer's side ---- */

static void describe(tl_saver *s) {
    const tl_params *params = &s->model->params;
    for (int i = 0; i < params->n; i++) {
        const tl_param *p = &params->list[i];
        tl_tensor_out out = {.name = p->name, .type = TL_F32, .dims = p->dims, .data = s->model->flat + p->offset};
        for (int d = 0; d < p->dims; d++) out.shape[d] = p->shape[d];
        s->model_tensors[i] = out;
        if (!s->memory->average) continue;
        out.data = s->memory->average + p->offset;
        s->average_tensors[i] = out;
    }
    s->moments = tl__optimizer_tensors(s->moment_tensors, s->moment_names, params, s->memory);
}

static void release(tl_saver *s) {
    json_decref(s->settings);
    free(s->moment_names), free(s->model_tensors), free(s->average_tensors), free(s->moment_tensors), free(s->hashes);
    free(s);
}

int tl__saver_open(tl_saver **saver, const tl_saver_options *o, tl_error *err) {
    *saver = NULL;
    int status = tl__folder_make(o->folder, err);
    if (status) return status;
    tl_saver *s = calloc(1, sizeof *s);
    if (!s) return tl__fail(err, TL_ENOMEM, "no memory for the checkpoint writer");
    size_t n = (size_t)o->model->params.n;
    s->moment_names = calloc(2 * n, sizeof *s->moment_names);
    s->model_tensors = calloc(n, sizeof *s->model_tensors);
    s->average_tensors = calloc(n, sizeof *s->average_tensors);
    s->moment_tensors = calloc(2 * n, sizeof *s->moment_tensors);
    s->hashes = calloc(2 * n, sizeof *s->hashes);
    s->settings = tl__json_parse(o->settings_json, strlen(o->settings_json), "settings", err);
    snprintf(s->folder, sizeof s->folder, "%s", o->folder);
    s->model = o->model, s->memory = o->memory, s->tokenizer = o->tokenizer, s->keep = o->keep;
    if (!s->moment_names || !s->model_tensors || !s->average_tensors || !s->moment_tensors || !s->hashes ||
        !s->settings) {
        release(s);
        return tl__fail(err, TL_ENOMEM, "no memory for the checkpoint writer");
    }
    describe(s);
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

/* Wait until the phase is neither of two; hand over a failure once. */
static int wait_while(tl_saver *s, phase a, phase b, tl_error *err) {
    int status = 0;
    pthread_mutex_lock(&s->lock);
    while (s->phase == a || s->phase == b) pthread_cond_wait(&s->changed, &s->lock);
    if (s->failed) {
        s->failed = false;
        status = s->error.status;
        if (err) *err = s->error;
    }
    pthread_mutex_unlock(&s->lock);
    return status;
}

int tl__saver_wait_read(tl_saver *s, tl_error *err) {
    return wait_while(s, READING, READING, err);
}
int tl__saver_wait_published(tl_saver *s, tl_error *err) {
    return wait_while(s, READING, PUBLISHING, err);
}

int tl__saver_start(tl_saver *s, const tl_train_state *state, tl_error *err) {
    int status = tl__saver_wait_published(s, err);
    if (status) return status;
    pthread_mutex_lock(&s->lock);
    assert(s->phase == IDLE); /* V1 */
    s->state = *state;
    s->phase = READING;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    return 0;
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
