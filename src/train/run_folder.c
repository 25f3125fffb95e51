/* run_folder.c — files of a run: published whole, or appended line by line. */
#include "train/run_folder.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/json.h"
#include "base/log.h"
#include "io/file.h"

enum { PATH_BYTES = 4096, JSON_LIMIT_BYTES = 16 << 20 };

void tl__run_folder_path(const tl_run_folder *run, char *out, size_t size, const char *name) {
    tl__path_join(out, size, run->path, name);
}

int tl__run_folder_open(tl_run_folder *run, const char *path, bool resume, tl_error *err) {
    char file[PATH_BYTES];
    *run = (tl_run_folder){.lock = -1, .metrics = -1, .samples = -1};
    if (strlen(path) >= sizeof run->path) return tl__fail(err, TL_EINVALID, "--out: the path is too long");
    snprintf(run->path, sizeof run->path, "%s", path);
    tl__run_folder_path(run, file, sizeof file, "run.json");
    if (tl__path_exists(path) && !tl__path_is_folder(path))
        return tl__fail(err, TL_EEXISTS, "%s is a file; --out names the folder that the run is written to", path);
    if (!resume && tl__path_exists(file))
        return tl__fail(err, TL_EEXISTS, "%s already holds a run; continue it with --resume, or choose another --out",
                        path);
    int status = tl__folder_make(path, err);
    if (status) return status;
    tl__run_folder_path(run, file, sizeof file, ".lock");
    run->lock = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (run->lock < 0) return tl__fail_errno(err, "cannot write in run folder %s", path);
    if (flock(run->lock, LOCK_EX | LOCK_NB)) {
        status =
            errno == EWOULDBLOCK
                ? tl__fail(err, TL_EEXISTS, "another process is writing to run folder %s; wait for it or stop it", path)
                : tl__fail_errno(err, "cannot lock run folder %s", path);
        tl__run_folder_close(run);
    }
    return status;
}

void tl__run_folder_close(tl_run_folder *run) {
    if (run->metrics >= 0) close(run->metrics);
    if (run->samples >= 0) close(run->samples);
    if (run->lock >= 0) close(run->lock); /* which unlocks */
    run->metrics = run->samples = run->lock = -1;
}

int tl__run_folder_put(const tl_run_folder *run, const char *name, const json_t *value, tl_error *err) {
    char path[PATH_BYTES];
    tl__run_folder_path(run, path, sizeof path, name);
    char *text = json_dumps(value, JSON_INDENT(2) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(17));
    if (!text) return tl__fail(err, TL_ENOMEM, "no memory for %s", path);
    int status = tl__file_publish(path, text, strlen(text), err);
    free(text);
    return status;
}

int tl__run_folder_get(const tl_run_folder *run, const char *name, json_t **value, tl_error *err) {
    char path[PATH_BYTES];
    char *bytes;
    size_t size;
    *value = NULL;
    tl__run_folder_path(run, path, sizeof path, name);
    if (!tl__path_exists(path)) return 0;
    int status = tl__file_slurp(&bytes, &size, path, JSON_LIMIT_BYTES, err);
    if (status) return status;
    *value = tl__json_parse(bytes, size, path, err);
    free(bytes);
    return *value ? 0 : TL_EFORMAT;
}

/* ---- logs ---- */

static int open_log(const tl_run_folder *run, const char *name, int64_t length, int *fd, int64_t *bytes,
                    tl_error *err) {
    char path[PATH_BYTES];
    struct stat st;
    tl__run_folder_path(run, path, sizeof path, name);
    *fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (*fd < 0) return tl__fail_errno(err, "cannot write %s", path);
    if (fstat(*fd, &st)) return tl__fail_errno(err, "cannot read the length of %s", path);
    if (st.st_size < length) { /* lines were lost, the run was not */
        tl__warn("%s is shorter than its checkpoint says: earlier lines were removed", path);
        length = st.st_size;
    }
    if (st.st_size > length && ftruncate(*fd, length))
        return tl__fail_errno(err, "cannot cut %s back to the checkpoint", path);
    *bytes = length;
    return 0;
}

int tl__run_folder_logs(tl_run_folder *run, int64_t metrics_bytes, int64_t samples_bytes, tl_error *err) {
    int status = open_log(run, "metrics.jsonl", metrics_bytes, &run->metrics, &run->metrics_bytes, err);
    return status ? status : open_log(run, "samples.jsonl", samples_bytes, &run->samples, &run->samples_bytes, err);
}

static void append(tl_run_folder *run, int fd, int64_t *bytes, const char *name, const char *line, size_t n) {
    ssize_t written;
    do written = write(fd, line, n);
    while (written < 0 && errno == EINTR);
    if (written == (ssize_t)n) {
        *bytes += written;
        return;
    }
    int reason = written < 0 ? errno : ENOSPC;
    if (written > 0 && ftruncate(fd, *bytes)) reason = errno; /* no half lines */
    if (!run->warned)
        tl__warn("%s/%s: a line could not be written (%s); the run goes on without it", run->path, name,
                 strerror(reason));
    run->warned = true;
}

void tl__run_folder_metrics(tl_run_folder *run, const char *line, size_t n) {
    append(run, run->metrics, &run->metrics_bytes, "metrics.jsonl", line, n);
}

void tl__run_folder_sample(tl_run_folder *run, const char *line, size_t n) {
    append(run, run->samples, &run->samples_bytes, "samples.jsonl", line, n);
}

/* ---- settings ---- */

bool tl__settings_differ(const json_t *was, const json_t *is, char *out, size_t size) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)is, key, value) {
        const json_t *old = json_object_get(was, key);
        if (old && json_equal(old, value)) continue;
        if (json_is_object(old) && json_is_object(value) && tl__settings_differ(old, value, out, size)) return true;
        char *before = old ? json_dumps(old, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(12)) : NULL;
        char *now = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(12));
        snprintf(out, size, "'%s' was %s and is %s now", key, before ? before : "absent", now ? now : "?");
        free(before);
        free(now);
        return true;
    }
    json_object_foreach((json_t *)was, key, value) {
        if (json_object_get(is, key)) continue;
        snprintf(out, size, "'%s' was set and is absent now", key);
        return true;
    }
    return false;
}
