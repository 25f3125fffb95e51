/* sink.c — owns writing: whole files appear under their name at once or not at all.
 *
 * Bytes go to "path.tmp-PID" beside the target; publishing flushes, fsyncs, renames and fsyncs the folder, so that
 * after a crash at any instant the name holds either what it held before or all that was written. A full disk is
 * TL_ENOSPACE (a file-size limit too: the remedy and what a run does about it are the same).
 *
 * A large file goes to the disk while it is still being written: otherwise the system begins late, and publishing waits
 * for all of it. Asking for that may wait for the disk, so that a thread of the sink's own asks. */
#include "io/file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BUFFER_BYTES ((size_t)64 << 10)
enum { LARGE_BYTES = 64 << 20, BEHIND_BYTES = 8 << 20 };

struct tl_sink {
    int fd;
    int failed; /* sticky status: a sink that lost bytes never publishes */
    size_t used;
    off_t written; /* handed to the system; under lock where it goes behind */
    bool behind;   /* whether the thread is there */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool closing; /* under lock */
    char path[PATH_MAX], temporary[PATH_MAX];
    unsigned char buffer[BUFFER_BYTES];
};

static int write_failed(tl_sink *sink, tl_error *err) {
    if (errno == ENOSPC || errno == EDQUOT)
        sink->failed = tl__fail(err, TL_ENOSPACE,
                                "the disk under %s is full; free space there or choose another folder "
                                "(what was there before is untouched)",
                                sink->path);
    else if (errno == EFBIG)
        sink->failed = tl__fail(err, TL_ENOSPACE,
                                "%s would grow over the file-size limit; raise it with ulimit -f "
                                "(what was there before is untouched)",
                                sink->path);
    else sink->failed = tl__fail_errno(err, "cannot write %s (check the disk and its permissions)", sink->path);
    return sink->failed;
}

static void *flush_behind(void *user) {
    tl_sink *sink = user;
    off_t asked = 0;
    pthread_mutex_lock(&sink->lock);
    for (;;) {
        while (!sink->closing && sink->written - asked < BEHIND_BYTES) pthread_cond_wait(&sink->changed, &sink->lock);
        if (sink->closing) break;
        const off_t to = sink->written;
        pthread_mutex_unlock(&sink->lock);
        (void)sync_file_range(sink->fd, asked, to - asked, SYNC_FILE_RANGE_WRITE); /* fsync() tells what fails */
        pthread_mutex_lock(&sink->lock);
        asked = to;
    }
    pthread_mutex_unlock(&sink->lock);
    return NULL;
}

static void count_written(tl_sink *sink, ssize_t n) {
    if (!sink->behind) {
        sink->written += n;
        if (sink->written < LARGE_BYTES) return;
        sink->behind = !pthread_create(&sink->thread, NULL, flush_behind, sink);
        return;
    }
    pthread_mutex_lock(&sink->lock);
    sink->written += n;
    pthread_cond_signal(&sink->changed);
    pthread_mutex_unlock(&sink->lock);
}

static void end_thread(tl_sink *sink) {
    if (!sink->behind) return;
    pthread_mutex_lock(&sink->lock);
    sink->closing = true;
    pthread_cond_signal(&sink->changed);
    pthread_mutex_unlock(&sink->lock);
    pthread_join(sink->thread, NULL);
    sink->behind = false;
}

static void free_sink(tl_sink *sink) {
    assert(!sink->behind);
    pthread_mutex_destroy(&sink->lock);
    pthread_cond_destroy(&sink->changed);
    free(sink);
}

static int put(tl_sink *sink, const unsigned char *bytes, size_t n, tl_error *err) {
    while (n) {
        ssize_t done = write(sink->fd, bytes, n < (size_t)1 << 30 ? n : (size_t)1 << 30);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return write_failed(sink, err);
        bytes += done, n -= (size_t)done;
        count_written(sink, done);
    }
    return 0;
}

static int flush(tl_sink *sink, tl_error *err) {
    size_t n = sink->used;
    sink->used = 0;
    return put(sink, sink->buffer, n, err);
}

int tl__sink_open(tl_sink **out, const char *path, tl_error *err) {
    *out = NULL;
    tl_sink *sink = malloc(sizeof *sink);
    if (!sink) return tl__fail(err, TL_ENOMEM, "no memory to write %s; free some and try again", path);
    sink->failed = 0, sink->used = 0, sink->written = 0, sink->behind = sink->closing = false;
    pthread_mutex_init(&sink->lock, NULL);
    pthread_cond_init(&sink->changed, NULL);
    int n = snprintf(sink->temporary, sizeof sink->temporary, "%s.tmp-%ld", path, (long)getpid());
    if (!*path || n < 0 || (size_t)n >= sizeof sink->temporary) {
        free_sink(sink);
        return tl__fail(err, TL_EINVALID, "a file cannot be written to %s; choose a path of 1 to %d bytes",
                        *path ? "a path that long" : "an empty path", PATH_MAX - 32);
    }
    strcpy(sink->path, path);
    sink->fd = open(sink->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (sink->fd < 0 && errno == EEXIST &&
        unlink(sink->temporary) == 0) /* left by a killed process of the same number */
        sink->fd = open(sink->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (sink->fd < 0) {
        int rc = write_failed(sink, err);
        free_sink(sink);
        return rc;
    }
    *out = sink;
    return 0;
}

int tl__sink_write(tl_sink *sink, const void *bytes, size_t n, tl_error *err) {
    if (sink->failed)
        return tl__fail(err, sink->failed, "%s cannot be written further after an earlier error", sink->path);
    if (!n) return 0;
    if (sink->used + n > BUFFER_BYTES) {
        int rc = flush(sink, err);
        if (rc) return rc;
    }
    if (n >= BUFFER_BYTES) return put(sink, bytes, n, err);
    memcpy(sink->buffer + sink->used, bytes, n);
    sink->used += n;
    return 0;
}

void tl__sink_abandon(tl_sink *sink) {
    if (!sink) return;
    end_thread(sink);
    if (sink->fd >= 0) close(sink->fd);
    unlink(sink->temporary);
    free_sink(sink);
}

/* Make the folder's entry for `path` durable. Some file systems cannot fsync a folder; they say EINVAL, and that is all
 * that can be done there. */
static int sync_folder_of(const char *path) {
    char folder[PATH_MAX];
    strcpy(folder, path);
    char *slash = strrchr(folder, '/');
    if (!slash) strcpy(folder, ".");
    else slash[slash == folder] = 0;
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return errno == EACCES ? 0 : -1;
    int rc = fsync(fd);
    if (rc && (errno == EINVAL || errno == EROFS)) rc = 0;
    int code = errno;
    close(fd);
    errno = code;
    return rc;
}

int tl__sink_publish(tl_sink *sink, tl_error *err) {
    int rc = sink->failed
                 ? tl__fail(err, sink->failed, "%s is not published: not all of it could be written", sink->path)
                 : flush(sink, err);
    end_thread(sink);
    if (!rc && fsync(sink->fd)) rc = write_failed(sink, err);
    int fd = sink->fd;
    sink->fd = -1;
    if (close(fd) && !rc && errno != EINTR) rc = write_failed(sink, err);
    if (!rc && rename(sink->temporary, sink->path)) rc = write_failed(sink, err);
    if (rc) {
        tl__sink_abandon(sink);
        return rc;
    }
    if (sync_folder_of(sink->path)) rc = write_failed(sink, err);
    free_sink(sink);
    return rc;
}

int tl__file_publish(const char *path, const void *bytes, size_t n, tl_error *err) {
    tl_sink *sink;
    int rc = tl__sink_open(&sink, path, err);
    if (rc) return rc;
    if ((rc = tl__sink_write(sink, bytes, n, err))) {
        tl__sink_abandon(sink);
        return rc;
    }
    return tl__sink_publish(sink, err);
}
