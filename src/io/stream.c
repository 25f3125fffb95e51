/* stream.c — owns reading a text source from its beginning, plain, gzip (also many members, and dictzip) or zstd (also
 * many frames), told apart by their first bytes. Memory is fixed: a 256 KiB window of input and the decoder's state,
 * whatever the archive claims (zstd windows over 128 MiB are refused). A damaged or cut archive is always an error. */
#include "io/file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#define WINDOW_BYTES ((size_t)256 << 10)

enum kind { PLAIN, GZIP, ZSTD };

struct tl_stream {
    int fd;
    enum kind kind;
    int64_t read_bytes, total_bytes; /* taken from the descriptor; the file's size (0 for a pipe) */
    size_t at, have;                 /* unread input: window[at … have) */
    bool ended;                      /* the descriptor has no more */
    bool between;                    /* decoder stands between members or frames: the end may come here */
    bool any;                        /* at least one member or frame was decoded */
    int failed;                      /* sticky status */
    z_stream z;
    ZSTD_DStream *zstd;
    char *path;
    unsigned char window[WINDOW_BYTES];
};

/* Read more input behind what is unread. */
static int refill(tl_stream *s, tl_error *err) {
    if (s->at) memmove(s->window, s->window + s->at, s->have - s->at);
    s->have -= s->at, s->at = 0;
    while (!s->ended && s->have < WINDOW_BYTES) {
        ssize_t got = read(s->fd, s->window + s->have, WINDOW_BYTES - s->have);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return tl__fail_errno(err, "cannot read %s at byte %lld", s->path, (long long)s->read_bytes);
        if (got == 0) s->ended = true;
        s->have += (size_t)got, s->read_bytes += got;
        if (s->have >= 16) break; /* enough to recognise anything; a pipe's bytes are used as they come */
    }
    return 0;
}

static bool starts(const tl_stream *s, const char *magic, size_t n) {
    return s->have - s->at >= n && !memcmp(s->window + s->at, magic, n);
}

static int damaged(tl_stream *s, const char *what, const char *why, tl_error *err) {
    return tl__fail(err, TL_EDAMAGED, "%s: the %s data is damaged near byte %lld (%s); fetch or make the file again",
                    s->path, what, (long long)(s->read_bytes - (int64_t)(s->have - s->at)), why);
}

static int recognise(tl_stream *s, tl_error *err) {
    if (starts(s, "\x1f\x8b", 2)) {
        s->kind = GZIP;
        if (inflateInit2(&s->z, 15 + 16) != Z_OK)
            return tl__fail(err, TL_ENOMEM, "no memory to decompress %s; free some and try again", s->path);
    } else if (starts(s, "\x28\xb5\x2f\xfd", 4) ||
               (s->have >= 4 && (s->window[0] & 0xf0) == 0x50 && !memcmp(s->window + 1, "\x2a\x4d\x18", 3))) {
        s->kind = ZSTD;
        s->zstd = ZSTD_createDStream();
        if (!s->zstd) return tl__fail(err, TL_ENOMEM, "no memory to decompress %s; free some and try again", s->path);
        ZSTD_DCtx_setParameter(s->zstd, ZSTD_d_windowLogMax, 27);
    } else if (starts(s,
                      "\xfd"
                      "7zXZ\0",
                      6) ||
               starts(s, "PK\3\4", 4) || starts(s, "7z\xbc\xaf\x27\x1c", 6) ||
               (starts(s, "BZh", 3) && s->have >= 10 && !memcmp(s->window + 4, "1AY&SY", 6))) {
        return tl__fail(err, TL_EUNSUPPORTED, "%s is an xz, bzip2, zip or 7z archive; unpack it, or use gzip or zstd",
                        s->path);
    }
    s->between = true;
    return 0;
}

int tl__stream_open(tl_stream **out, const char *path, tl_error *err) {
    *out = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return tl__fail_errno(err, "cannot open %s (check the name and its permissions)", path);
    struct stat st;
    int rc = fstat(fd, &st) ? tl__fail_errno(err, "cannot look at %s", path) : 0;
    if (!rc && S_ISDIR(st.st_mode)) rc = tl__fail(err, TL_EINVALID, "%s is a folder; a file was expected", path);
    tl_stream *s = rc ? NULL : calloc(1, sizeof *s);
    char *copy = rc ? NULL : strdup(path);
    if (!rc && (!s || !copy)) rc = tl__fail(err, TL_ENOMEM, "no memory to read %s; free some and try again", path);
    if (rc) {
        free(s), free(copy), close(fd);
        return rc;
    }
    s->fd = fd, s->path = copy, s->total_bytes = S_ISREG(st.st_mode) ? st.st_size : 0;
    rc = refill(s, err);
    if (!rc) rc = recognise(s, err);
    if (rc) {
        tl__stream_close(s);
        return rc;
    }
    *out = s;
    return 0;
}

void tl__stream_close(tl_stream *s) {
    if (!s) return;
    if (s->kind == GZIP) inflateEnd(&s->z);
    ZSTD_freeDStream(s->zstd);
    close(s->fd);
    free(s->path);
    free(s);
}

void tl__stream_progress(const tl_stream *s, int64_t *done_bytes, int64_t *total_bytes) {
    *done_bytes = s->read_bytes - (int64_t)(s->have - s->at);
    *total_bytes = s->total_bytes;
}

static int read_plain(tl_stream *s, unsigned char *out, size_t n, size_t *made, tl_error *err) {
    size_t k = s->have - s->at < n ? s->have - s->at : n;
    memcpy(out, s->window + s->at, k);
    s->at += k, *made = k;
    return 0;
}

/* One step of gunzip: *made bytes into out. Between members zero bytes are padding (as gzip has it), then comes a
 * member. */
static int read_gzip(tl_stream *s, unsigned char *out, size_t n, size_t *made, tl_error *err) {
    *made = 0;
    if (s->between) {
        while (s->any && s->at < s->have && !s->window[s->at]) s->at++;
        if (s->have - s->at < 2) {
            if (!s->ended) return refill(s, err);
            return s->at < s->have ? damaged(s, "gzip", "bytes follow the last member", err) : 0;
        }
        if (!starts(s, "\x1f\x8b", 2)) return damaged(s, "gzip", "something else follows a member", err);
        if (s->any) inflateReset(&s->z);
        s->between = false;
    }
    s->z.next_in = s->window + s->at, s->z.avail_in = (unsigned)(s->have - s->at);
    unsigned room = n < (1u << 30) ? (unsigned)n : 1u << 30;
    s->z.next_out = out, s->z.avail_out = room;
    int rc = inflate(&s->z, Z_NO_FLUSH);
    s->at = s->have - s->z.avail_in;
    *made = room - s->z.avail_out;
    if (rc == Z_STREAM_END) return s->between = s->any = true, 0;
    if (rc == Z_OK || rc == Z_BUF_ERROR) return 0;
    if (rc == Z_MEM_ERROR)
        return tl__fail(err, TL_ENOMEM, "no memory to decompress %s; free some and try again", s->path);
    return damaged(s, "gzip", s->z.msg ? s->z.msg : "not a deflate stream", err);
}

static int read_zstd(tl_stream *s, unsigned char *out, size_t n, size_t *made, tl_error *err) {
    ZSTD_inBuffer in = {s->window, s->have, s->at};
    ZSTD_outBuffer to = {out, n, 0};
    size_t rc = ZSTD_decompressStream(s->zstd, &to, &in);
    bool moved = in.pos != s->at || to.pos;
    s->at = in.pos, *made = to.pos;
    if (ZSTD_isError(rc)) {
        if (strstr(ZSTD_getErrorName(rc), "too much memory"))
            return tl__fail(err, TL_EUNSUPPORTED,
                            "%s needs a zstd window over 128 MiB; compress it again without --long", s->path);
        return damaged(s, "zstd", ZSTD_getErrorName(rc), err);
    }
    if (moved) s->between = rc == 0, s->any = true;
    return 0;
}

int tl__stream_read(tl_stream *s, void *out, size_t n, size_t *got, tl_error *err) {
    static int (*const step[])(tl_stream *, unsigned char *, size_t, size_t *,
                               tl_error *) = {[PLAIN] = read_plain, [GZIP] = read_gzip, [ZSTD] = read_zstd};
    unsigned char *to = out;
    *got = 0;
    if (s->failed) return tl__fail(err, s->failed, "%s could not be read further after an earlier error", s->path);
    int rc = 0;
    while (!rc && *got < n) {
        if (s->at == s->have && !s->ended && (rc = refill(s, err))) break;
        if (s->at == s->have && s->ended && (s->kind == PLAIN || s->between)) break;
        size_t made = 0, before = s->at;
        rc = step[s->kind](s, to + *got, n - *got, &made, err);
        *got += made;
        /* No input left, nothing made, not between members: the archive was cut. */
        if (!rc && !made && s->at == before && s->at == s->have && s->ended && !s->between)
            rc = damaged(s, s->kind == GZIP ? "gzip" : "zstd", "it ends too early", err);
    }
    if (rc) s->failed = rc, *got = 0;
    return rc;
}
