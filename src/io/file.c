/* file.c — owns open files as sources of bytes at any offset, mapped or read; it promises exactly the bytes asked for
 * or an error that names the file. Streams are in stream.c, writing in sink.c, folders in folder.c. */
#include "io/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct tl_file {
    int fd;
    int listed; /* place in the table of mapped files, or −1 */
    int64_t size_bytes;
    void *map;
    bool map_tried;
    char path[];
};

/* ---- mapped files, in a table that a signal handler may read at any instant ---- */

enum { MAPPED_FILES = 1024 }; /* a file beyond is mapped, but not found */
enum { FREE, TAKEN, LISTED };
static struct place {
    atomic_int state;
    const unsigned char *begin;
    size_t size_bytes;
    const char *path;
} places[MAPPED_FILES];

static int list_mapping(const tl_file *file) {
    for (int i = 0; i < MAPPED_FILES; i++) {
        int expected = FREE;
        if (!atomic_compare_exchange_strong(&places[i].state, &expected, TAKEN)) continue;
        places[i].begin = file->map, places[i].size_bytes = (size_t)file->size_bytes, places[i].path = file->path;
        atomic_store(&places[i].state, LISTED);
        return i;
    }
    return -1;
}

const char *tl__file_mapped_at(const void *address) {
    for (int i = 0; i < MAPPED_FILES; i++)
        if (atomic_load(&places[i].state) == LISTED && (uintptr_t)address >= (uintptr_t)places[i].begin &&
            (uintptr_t)address - (uintptr_t)places[i].begin < places[i].size_bytes)
            return places[i].path;
    return NULL;
}

/* ---- opening and reading ---- */

int tl__file_open(tl_file **out, const char *path, tl_error *err) {
    *out = NULL;
    /* O_NONBLOCK: opening a FIFO must not wait for its writer; regular files do not mind. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return tl__fail_errno(err, "cannot open %s (check the name and its permissions)", path);
    struct stat st;
    if (fstat(fd, &st)) {
        int rc = tl__fail_errno(err, "cannot look at %s", path);
        close(fd);
        return rc;
    }
    if (!S_ISREG(st.st_mode)) {
        close(fd);
        return tl__fail(err, TL_EINVALID, "%s is %s; a regular file was expected", path,
                        S_ISDIR(st.st_mode) ? "a folder" : "a pipe or device");
    }
    size_t length = strlen(path) + 1;
    tl_file *file = calloc(1, sizeof *file + length);
    if (!file) {
        close(fd);
        return tl__fail(err, TL_ENOMEM, "no memory to open %s; free some and try again", path);
    }
    file->fd = fd, file->listed = -1, file->size_bytes = st.st_size;
    memcpy(file->path, path, length);
    *out = file;
    return 0;
}

void tl__file_close(tl_file *file) {
    if (!file) return;
    if (file->listed >= 0) atomic_store(&places[file->listed].state, FREE);
    if (file->map) munmap(file->map, (size_t)file->size_bytes);
    close(file->fd);
    free(file);
}

int64_t tl__file_size_bytes(const tl_file *file) {
    return file->size_bytes;
}
const char *tl__file_path(const tl_file *file) {
    return file->path;
}

void tl__file_will_need(const tl_file *file, int64_t offset, int64_t n) {
    posix_fadvise(file->fd, offset, n, POSIX_FADV_WILLNEED); /* a mapping reads through the same pages */
}

int tl__file_read(tl_file *file, void *out, int64_t offset, size_t n, tl_error *err) {
    unsigned char *to = out;
    if (offset < 0 || offset > INT64_MAX - (int64_t)(n < INT64_MAX ? n : INT64_MAX))
        return tl__fail(err, TL_EDAMAGED,
                        "%s: a range at offset %lld was asked for, which no file has; its records are damaged",
                        file->path, (long long)offset);
    while (n) {
        ssize_t got = pread(file->fd, to, n < (size_t)1 << 30 ? n : (size_t)1 << 30, offset);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return tl__fail_errno(err, "cannot read %s at offset %lld", file->path, (long long)offset);
        if (got == 0)
            return tl__fail(err, TL_EDAMAGED,
                            "%s ends at byte %lld where %zu more were expected; it was cut short: "
                            "fetch or make it again",
                            file->path, (long long)offset, n);
        to += got, offset += got, n -= (size_t)got;
    }
    return 0;
}

const void *tl__file_map(tl_file *file) {
    if (file->map_tried) return file->map;
    file->map_tried = true;
    const char *wish = getenv("TRILITH_MMAP");
    if (file->size_bytes <= 0 || (wish && !strcmp(wish, "0"))) return NULL;
    void *map = mmap(NULL, (size_t)file->size_bytes, PROT_READ, MAP_PRIVATE, file->fd, 0);
    if (map == MAP_FAILED) return NULL;
    file->map = map;
    file->listed = list_mapping(file);
    return file->map;
}

void tl__file_let_go(const void *mapped, size_t n) {
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)mapped / page * page;
    if (n)
        madvise((void *)begin, (uintptr_t)mapped + n - begin, MADV_DONTNEED); /* a private mapping never written to */
}

int tl__file_slurp(char **bytes, size_t *size, const char *path, size_t limit_bytes, tl_error *err) {
    *bytes = NULL, *size = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC), rc = 0;
    struct stat st;
    if (fd < 0 || fstat(fd, &st)) {
        rc = tl__fail_errno(err, "cannot open %s (check the name and its permissions)", path);
        if (fd >= 0) close(fd);
        return rc;
    }
    /* Pipes and /proc files say size 0: the buffer starts from the size, and grows up to the limit with what comes. */
    size_t room = S_ISREG(st.st_mode) && st.st_size > 0 ? (size_t)st.st_size : 4096, used = 0;
    char *buffer = NULL;
    if (S_ISDIR(st.st_mode)) {
        rc = tl__fail(err, TL_EINVALID, "%s is a folder; a file was expected", path);
        goto end;
    }
    if (S_ISREG(st.st_mode) && (uint64_t)st.st_size > limit_bytes) goto too_large;
    if (room > limit_bytes) room = limit_bytes;
    for (;;) { /* room + 2: one byte to notice what is beyond the limit, one for the NUL */
        char *grown = realloc(buffer, room + 2);
        if (!grown) {
            rc = tl__fail(err, TL_ENOMEM, "no memory for the %zu bytes of %s; free some and try again", room, path);
            goto end;
        }
        buffer = grown;
        ssize_t got = 1;
        while (used < room + 1 && got) {
            got = read(fd, buffer + used, room + 1 - used);
            if (got < 0 && errno == EINTR) continue;
            if (got < 0) {
                rc = tl__fail_errno(err, "cannot read %s", path);
                goto end;
            }
            used += (size_t)got;
        }
        if (!got) break;
        if (used > limit_bytes) goto too_large;
        room = room > limit_bytes / 2 ? limit_bytes : room * 2;
    }
    buffer[used] = 0;
    *bytes = buffer, *size = used;
    close(fd);
    return 0;
too_large:
    rc = tl__fail(err, TL_EINVALID, "%s is larger than the %zu bytes that such a file may have; is it the right file?",
                  path, limit_bytes);
end:
    free(buffer);
    close(fd);
    return rc;
}
