/* folder.c — owns names and folders: what exists, making a path of folders, removing a tree without ever leaving it. */
#include "io/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_DEPTH 64 /* of a tree to remove: one open descriptor a level */

bool tl__path_exists(const char *path) {
    struct stat st;
    return stat(path, &st) == 0;
}

bool tl__path_is_folder(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

void tl__path_join(char *out, size_t size, const char *folder, const char *name) {
    size_t n = strlen(folder);
    int need = snprintf(out, size, "%s%s%s", folder, n && folder[n - 1] != '/' ? "/" : "", name);
    if (need < 0 || (size_t)need >= size) snprintf(out, size, "%s", "");
}

int tl__folder_make(const char *path, tl_error *err) {
    char at[PATH_MAX];
    size_t n = strlen(path);
    if (!n || n >= sizeof at)
        return tl__fail(err, TL_EINVALID, "a folder cannot be made at %s; choose a path of 1 to %d bytes",
                        n ? "a path that long" : "an empty path", PATH_MAX - 1);
    memcpy(at, path, n + 1);
    for (size_t i = 1; i <= n; i++) {
        if (at[i] != '/' && at[i]) continue;
        if (at[i - 1] == '/') continue; /* "a//b", "a/" */
        char kept = at[i];
        at[i] = 0;
        if (mkdir(at, 0777) && (errno != EEXIST || !tl__path_is_folder(at))) {
            if (errno == EEXIST)
                return tl__fail(err, TL_EEXISTS, "%s exists and is not a folder; choose another path", at);
            return tl__fail_errno(err, "cannot make the folder %s", at);
        }
        at[i] = kept;
    }
    return 0;
}

static int empty(int folder, const char *path, int depth, tl_error *err);

/* Remove what folder fd holds under `name`; descends into real folders only (symbolic links are removed, not followed).
 */
static int remove_entry(int folder, const char *name, const char *path, int depth, tl_error *err) {
    if (unlinkat(folder, name, 0) == 0 || errno == ENOENT) return 0;
    if (errno != EISDIR && errno != EPERM) return tl__fail_errno(err, "cannot remove %s in %s", name, path);
    int inner = openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (inner < 0) return tl__fail_errno(err, "cannot remove %s in %s", name, path);
    int rc = empty(inner, path, depth + 1, err);
    if (!rc && unlinkat(folder, name, AT_REMOVEDIR)) rc = tl__fail_errno(err, "cannot remove %s in %s", name, path);
    return rc;
}

/* Remove all entries; closes `folder`. */
static int empty(int folder, const char *path, int depth, tl_error *err) {
    if (depth > MAX_DEPTH) {
        close(folder);
        return tl__fail(err, TL_EINVALID,
                        "%s is nested over %d folders deep, which no run folder is; remove it by hand", path,
                        MAX_DEPTH);
    }
    DIR *dir = fdopendir(folder);
    if (!dir) {
        int rc = tl__fail_errno(err, "cannot list %s", path);
        close(folder);
        return rc;
    }
    int rc = 0;
    errno = 0;
    for (struct dirent *e; !rc && (e = readdir(dir)); errno = 0)
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
            rc = remove_entry(dirfd(dir), e->d_name, path, depth, err);
    if (!rc && errno) rc = tl__fail_errno(err, "cannot list %s", path);
    closedir(dir);
    return rc;
}

int tl__folder_remove(const char *path, tl_error *err) {
    int folder = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (folder < 0 && (errno == ELOOP || errno == ENOTDIR))
        return tl__fail(err, TL_EINVALID, "%s is not a folder (a link is not followed); nothing was removed", path);
    if (folder < 0) return tl__fail_errno(err, "cannot open the folder %s", path);
    int rc = empty(folder, path, 0, err);
    if (!rc && rmdir(path)) rc = tl__fail_errno(err, "cannot remove the folder %s", path);
    return rc;
}
