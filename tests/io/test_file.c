/* Files: ranges and maps, slurps within their limit, streams of every kind of archive, sinks that publish whole or not
 * at all on disks that fill, folders, hashes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>
#include "files.h"
#include "io/hash.h"

static int entries_in(const char *path) {
    DIR *d = opendir(path);
    int n = -2;
    while (d && readdir(d)) n++;
    if (d) closedir(d);
    return n;
}

/* ---- sources ---- */

/* A fault's address names the file, while it is mapped and not after; two files never answer for each other. */
static void a_mapped_address_names_its_file(void **state) {
    (void)state;
    enum { MANY = 1100 }; /* more than the table holds: those beyond are mapped all the same */
    static tl_file *many[MANY];
    const char *path = put("here", "0123456789", 10), *maps[2];
    tl_file *f[2];
    for (int i = 0; i < 2; i++) {
        assert_int_equal(tl__file_open(&f[i], i ? put("there", "abc", 3) : path, NULL), 0);
        assert_non_null(maps[i] = tl__file_map(f[i]));
    }
    assert_string_equal(tl__file_mapped_at(maps[0]), path);
    assert_string_equal(tl__file_mapped_at(maps[0] + 9), path);
    assert_null(tl__file_mapped_at(maps[0] + 10));
    assert_null(tl__file_mapped_at(maps[0] - 1));
    assert_string_equal(tl__file_mapped_at(maps[1] + 2), tl__file_path(f[1]));
    assert_null(tl__file_mapped_at(&f));
    assert_null(tl__file_mapped_at(NULL));
    for (int i = 0; i < MANY; i++) {
        if (tl__file_open(&many[i], path, NULL)) break; /* no more descriptors */
        assert_non_null(tl__file_map(many[i]));
    }
    for (int i = 0; i < MANY && many[i]; i++) tl__file_close(many[i]);
    tl__file_close(f[0]);
    assert_null(tl__file_mapped_at(maps[0]));
    assert_string_equal(tl__file_mapped_at(maps[1]), tl__file_path(f[1]));
    tl__file_close(f[1]);
    assert_null(tl__file_mapped_at(maps[1]));
}

static void ranges_and_maps(void **state) {
    (void)state;
    tl_file *f;
    tl_error err;
    char out[16];
    const char *path = put("r", "0123456789", 10);
    for (int mapped = 0; mapped < 2; mapped++) {
        setenv("TRILITH_MMAP", mapped ? "1" : "0", 1);
        assert_int_equal(tl__file_open(&f, path, &err), 0);
        assert_int_equal(tl__file_size_bytes(f), 10);
        assert_string_equal(tl__file_path(f), path);
        assert_int_equal(tl__file_read(f, out, 3, 7, &err), 0);
        assert_memory_equal(out, "3456789", 7);
        assert_int_equal(tl__file_read(f, out, 10, 0, &err), 0);
        assert_int_equal(tl__file_read(f, out, 3, 8, &err), TL_EDAMAGED);
        assert_non_null(strstr(err.text, "/r ends at byte 10 where 1 more"));
        assert_int_equal(tl__file_read(f, out, -1, 1, &err), TL_EDAMAGED);
        assert_int_equal(tl__file_read(f, out, INT64_MAX, 8, &err), TL_EDAMAGED);
        const char *map = tl__file_map(f);
        assert_int_equal(map != NULL, mapped);
        if (map) assert_memory_equal(map, "0123456789", 10);
        assert_ptr_equal(tl__file_map(f), map);
        tl__file_close(f);
    }
    unsetenv("TRILITH_MMAP");
    assert_int_equal(tl__file_open(&f, put("empty", "", 0), &err), 0);
    assert_null(tl__file_map(f));
    tl__file_close(f);
    tl__file_close(NULL);
    assert_int_equal(tl__file_open(&f, folder, &err), TL_EINVALID);
    assert_non_null(strstr(err.text, "is a folder"));
    assert_int_equal(tl__file_open(&f, in_folder("absent"), &err), TL_ENOTFOUND);
    assert_non_null(strstr(err.text, "absent"));
    assert_int_equal(mkfifo(in_folder("fifo"), 0600), 0);
    assert_int_equal(tl__file_open(&f, in_folder("fifo"), &err), TL_EINVALID); /* and does not wait for a writer */
    assert_null(f);
}

static void slurps(void **state) {
    (void)state;
    char *bytes, big[10000];
    size_t n;
    tl_error err;
    memset(big, 'x', sizeof big);
    const char *path = put("s", big, sizeof big);
    assert_int_equal(tl__file_slurp(&bytes, &n, path, sizeof big, &err), 0);
    assert_int_equal(n, sizeof big);
    assert_memory_equal(bytes, big, sizeof big);
    assert_int_equal(bytes[n], 0);
    free(bytes);
    assert_int_equal(tl__file_slurp(&bytes, &n, path, sizeof big - 1, &err), TL_EINVALID);
    assert_null(bytes);
    assert_int_equal(tl__file_slurp(&bytes, &n, put("empty", "", 0), 0, &err), 0);
    assert_true(n == 0 && bytes[0] == 0);
    free(bytes);
    assert_int_equal(tl__file_slurp(&bytes, &n, "/proc/self/status", 1 << 20, &err), 0); /* says size 0 */
    assert_true(n > 100 && strlen(bytes) == n);
    free(bytes);
    assert_int_equal(tl__file_slurp(&bytes, &n, "/proc/self/status", 50, &err), TL_EINVALID);
    assert_int_equal(tl__file_slurp(&bytes, &n, "/dev/zero", 100000, &err), TL_EINVALID); /* endless */
    assert_int_equal(tl__file_slurp(&bytes, &n, folder, 100, &err), TL_EINVALID);
    assert_int_equal(tl__file_slurp(&bytes, &n, in_folder("absent"), 100, &err), TL_ENOTFOUND);
}

/* ---- streams ---- */

enum { TEXT_BYTES = 700001 };
static unsigned char text[TEXT_BYTES]; /* larger than the window, half of it incompressible */

/* The whole stream in reads of `step`, compared with `want`; the status of the first failure. */
static int read_all(const char *path, const unsigned char *want, size_t n, size_t step, tl_error *err) {
    tl_stream *s;
    int rc = tl__stream_open(&s, path, err);
    if (rc) return rc;
    unsigned char *out = malloc(step);
    size_t at = 0, got = 1;
    int64_t done, total, before = 0;
    while (!(rc = tl__stream_read(s, out, step, &got, err)) && got) {
        assert_true(at + got <= n);
        assert_memory_equal(out, want + at, got);
        at += got;
        tl__stream_progress(s, &done, &total);
        assert_true(done >= before && done <= total);
        before = done;
    }
    if (rc) assert_int_equal(tl__stream_read(s, out, step, &got, err), rc); /* stays failed */
    free(out);
    if (!rc) {
        tl__stream_progress(s, &done, &total);
        assert_int_equal(done, total);
        assert_int_equal(at, n);
    }
    tl__stream_close(s);
    return rc;
}

/* One gzip member of n bytes; `blocks`: dictzip's, flushed every so many bytes, with an extra header field. */
static size_t gzip(unsigned char *out, size_t room, const unsigned char *in, size_t n, size_t blocks) {
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    unsigned char extra[] = "RA\4\0abcd";
    gz_header head = {.extra = extra, .extra_len = 8, .name = (unsigned char *)"text", .os = 3};
    if (blocks) deflateSetHeader(&z, &head);
    z.next_out = out, z.avail_out = (unsigned)room;
    for (size_t at = 0; blocks && at + blocks < n; at += blocks, in += blocks) {
        z.next_in = (unsigned char *)in, z.avail_in = (unsigned)blocks;
        assert_int_equal(deflate(&z, Z_FULL_FLUSH), Z_OK);
        assert_int_equal(z.avail_in, 0);
    }
    z.next_in = (unsigned char *)in, z.avail_in = (unsigned)(n - z.total_in);
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    n = z.total_out;
    deflateEnd(&z);
    return n;
}

static unsigned char packed[2 * TEXT_BYTES];

static void streams(void **state) {
    (void)state;
    tl_error err = {0};
    const size_t steps[] = {1 << 20, 65536, 4097}, room = sizeof packed;
    size_t n, half = TEXT_BYTES / 2, m;
    const char *plain = put("plain", text, TEXT_BYTES);
    n = gzip(packed, room, text, TEXT_BYTES, 0);
    const char *gz = put("gz", packed, n);
    n = gzip(packed, room, text, half, 0);
    n += gzip(packed + n, room - n, text, 0, 0); /* an empty member between */
    n += gzip(packed + n, room - n, text + half, TEXT_BYTES - half, 0);
    memset(packed + n, 0, 512); /* and tar's kind of padding */
    const char *members = put("members.gz", packed, n + 512);
    n = gzip(packed, room, text, TEXT_BYTES, 58315);
    const char *dz = put("text.dz", packed, n);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(read_all(plain, text, TEXT_BYTES, steps[i], &err), 0);
        assert_int_equal(read_all(gz, text, TEXT_BYTES, steps[i], &err), 0);
        assert_int_equal(read_all(members, text, TEXT_BYTES, steps[i], &err), 0);
        assert_int_equal(read_all(dz, text, TEXT_BYTES, steps[i], &err), 0);
    }
    n = ZSTD_compress(packed, room, text, half, 3);
    memcpy(packed + n, "\x50\x2a\x4d\x18\4\0\0\0skip", 12); /* a skippable frame between */
    n += 12;
    m = ZSTD_compress(packed + n, room - n, text + half, TEXT_BYTES - half, 3);
    const char *zst = put("zst", packed, n + m);
    const char *skip_first = put("skip.zst", packed + n - 12, m + 12);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(read_all(zst, text, TEXT_BYTES, steps[i], &err), 0);
        assert_int_equal(read_all(skip_first, text + half, TEXT_BYTES - half, steps[i], &err), 0);
    }
    /* small ones, read byte by byte */
    for (size_t k = 0; k < 40; k++) {
        assert_int_equal(read_all(put("small", text, k), text, k, 1, &err), 0);
        assert_int_equal(read_all(put("small", packed, gzip(packed, room, text, k, 0)), text, k, 1, &err), 0);
        assert_int_equal(read_all(put("small", packed, ZSTD_compress(packed, room, text, k, 3)), text, k, 1, &err), 0);
    }
    tl_stream *s;
    assert_int_equal(tl__stream_open(&s, folder, &err), TL_EINVALID);
    assert_int_equal(tl__stream_open(&s, in_folder("absent"), &err), TL_ENOTFOUND);
    assert_int_equal(tl__stream_open(&s,
                                     put("x",
                                         "\xfd"
                                         "7zXZ\0rest",
                                         10),
                                     &err),
                     TL_EUNSUPPORTED);
    assert_int_equal(tl__stream_open(&s, put("x", "BZh91AY&SY....", 14), &err), TL_EUNSUPPORTED);
    assert_int_equal(read_all(put("x", "BZh is text", 11), (const unsigned char *)"BZh is text", 11, 5, &err), 0);
}

/* Cut at any byte, or with any byte changed, an archive never passes for whole: it is TL_EDAMAGED, or (a change in the
 * header's date or name) reads as the same text. */
static void damaged_archives(void **state) {
    (void)state;
    tl_error err;
    enum { SMALL = 3000 };
    static unsigned char archive[2][2 * SMALL], changed[2 * SMALL];
    size_t length[2] = {gzip(archive[0], sizeof archive[0], text, SMALL, 1000), 0};
    ZSTD_CCtx *c = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(c, ZSTD_c_checksumFlag, 1);
    length[1] = ZSTD_compress2(c, archive[1], sizeof archive[1], text, SMALL);
    ZSTD_freeCCtx(c);
    for (int kind = 0; kind < 2; kind++) {
        size_t n = length[kind];
        for (size_t cut = 4; cut < n; cut += 1 + n / 200)
            assert_int_equal(read_all(put("cut", archive[kind], cut), text, SMALL, 512, &err), TL_EDAMAGED);
        for (size_t at = kind ? 4 : 40; at < n; at += 1 + n / 200) {
            memcpy(changed, archive[kind], n);
            changed[at] ^= 0x10;
            tl_stream *s;
            static unsigned char out[8 * SMALL];
            size_t got = 0;
            const char *path = put("changed", changed, n);
            if (tl__stream_open(&s, path, &err)) continue;
            int rc = tl__stream_read(s, out, sizeof out, &got, &err);
            tl__stream_close(s);
            if (!rc && got == SMALL && !memcmp(out, text, SMALL)) continue; /* deflate's padding bits mean nothing */
            if (rc != TL_EDAMAGED && rc != TL_EUNSUPPORTED)                 /* a window size may be what changed */
                fail_msg("kind %d, byte %zu: status %d, %zu bytes", kind, at, rc, got);
        }
        memcpy(changed, archive[kind], n);
        memcpy(changed + n, "junk", 4);
        assert_int_equal(read_all(put("junk", changed, n + 4), text, SMALL, 512, &err), TL_EDAMAGED);
        assert_non_null(strstr(err.text, "junk"));
    }
}

static void a_pipe_streams(void **state) {
    (void)state;
    tl_stream *s;
    tl_error err;
    size_t n = gzip(packed, sizeof packed, text, TEXT_BYTES, 0), at = 0, got;
    const char *path = in_folder("pipe");
    assert_int_equal(mkfifo(path, 0600), 0);
    pid_t child = fork();
    if (child == 0) {
        FILE *f = fopen(path, "wb");
        for (size_t i = 0; f && i < n; i += 1000) fwrite(packed + i, 1, n - i < 1000 ? n - i : 1000, f), fflush(f);
        if (f) fclose(f);
        _exit(0);
    }
    assert_int_equal(tl__stream_open(&s, path, &err), 0);
    static unsigned char out[TEXT_BYTES + 1];
    do {
        assert_int_equal(tl__stream_read(s, out + at, sizeof out - at, &got, &err), 0);
        at += got;
    } while (got);
    assert_int_equal(at, TEXT_BYTES);
    assert_memory_equal(out, text, TEXT_BYTES);
    tl__stream_close(s);
    waitpid(child, NULL, 0);
}

/* ---- sinks ---- */

static void publishes(void **state) {
    (void)state;
    tl_error err;
    tl_sink *sink;
    char *back;
    size_t n;
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/sinks", folder);
    assert_int_equal(tl__folder_make(path, &err), 0);
    strcat(path, "/out");
    put("sinks/out", "old", 3);
    assert_int_equal(tl__sink_open(&sink, path, &err), 0);
    size_t at = 0;
    for (size_t k = 1; at < TEXT_BYTES; k = k * 3 % 200003) { /* small and large pieces */
        size_t piece = k < TEXT_BYTES - at ? k : TEXT_BYTES - at;
        assert_int_equal(tl__sink_write(sink, text + at, piece, &err), 0);
        at += piece;
        assert_int_equal(tl__file_slurp(&back, &n, path, 100, &err), 0); /* the old one stands until then */
        assert_true(n == 3 && !memcmp(back, "old", 3));
        free(back);
    }
    assert_int_equal(entries_in(in_folder("sinks")), 2);
    assert_int_equal(tl__sink_publish(sink, &err), 0);
    assert_int_equal(entries_in(in_folder("sinks")), 1);
    assert_int_equal(tl__file_slurp(&back, &n, path, TEXT_BYTES, &err), 0);
    assert_int_equal(n, TEXT_BYTES);
    assert_memory_equal(back, text, TEXT_BYTES);
    free(back);
    assert_int_equal(tl__sink_open(&sink, path, &err), 0);
    assert_int_equal(tl__sink_write(sink, "x", 1, &err), 0);
    tl__sink_abandon(sink);
    tl__sink_abandon(NULL);
    assert_int_equal(entries_in(in_folder("sinks")), 1);
    char stale[PATH_MAX + 32]; /* what a killed process of our number left behind is no obstacle */
    snprintf(stale, sizeof stale, "sinks/out.tmp-%ld", (long)getpid());
    put(stale, "stale", 5);
    assert_int_equal(tl__file_publish(path, "new", 3, &err), 0);
    assert_int_equal(entries_in(in_folder("sinks")), 1);
    assert_int_equal(tl__file_slurp(&back, &n, path, 100, &err), 0);
    assert_true(n == 3 && !memcmp(back, "new", 3));
    free(back);
    assert_int_equal(tl__file_publish(in_folder("no/such/place"), "x", 1, &err), TL_ENOTFOUND);
    assert_int_equal(tl__file_publish("", "x", 1, &err), TL_EINVALID);
    assert_int_equal(tl__file_publish(in_folder("sinks"), "x", 1, &err), TL_EIO); /* a folder is in the way */
    char endless[2 * PATH_MAX];
    memset(endless, 'a', sizeof endless);
    endless[sizeof endless - 1] = 0;
    assert_int_equal(tl__file_publish(endless, "x", 1, &err), TL_EINVALID);
    assert_int_equal(tl__folder_make(endless, &err), TL_EINVALID);
}

/* Publishing 4 MiB over path "old" fails with TL_ENOSPACE, in pieces or at once; then all is as before. */
static void check_full(const char *where, const char *path) {
    tl_error err = {0};
    tl_sink *sink;
    char *back, *large = calloc(1, 4 << 20);
    size_t n;
    int before = entries_in(where);
    assert_int_equal(tl__file_publish(path, large, 4 << 20, &err), TL_ENOSPACE);
    assert_non_null(strstr(err.text, path));
    assert_int_equal(tl__sink_open(&sink, path, &err), 0);
    int rc = 0;
    for (int i = 0; i < 4096 && !rc; i++) rc = tl__sink_write(sink, large, 1024, &err);
    assert_int_equal(rc, TL_ENOSPACE);
    assert_int_equal(tl__sink_write(sink, "x", 1, &err), TL_ENOSPACE); /* stays failed */
    assert_int_equal(tl__sink_publish(sink, &err), TL_ENOSPACE);       /* and never publishes a part */
    assert_int_equal(entries_in(where), before);
    assert_int_equal(tl__file_slurp(&back, &n, path, 100, &err), 0);
    assert_true(n == 3 && !memcmp(back, "old", 3));
    free(back);
    free(large);
}

static void a_full_disk(void **state) {
    (void)state;
    char where[300], path[400];
    snprintf(where, sizeof where, "%s", in_folder("full"));
    assert_int_equal(tl__folder_make(where, NULL), 0);
    if (mount("tmpfs", where, "tmpfs", 0, "size=1m")) {
        print_message("no tmpfs may be mounted here (%s): skipped\n", strerror(errno));
        skip();
    }
    snprintf(path, sizeof path, "%s/out", where);
    put("full/out", "old", 3);
    check_full(where, path);
    assert_int_equal(tl__file_publish(path, "new", 3, NULL), 0); /* the space is free again */
    assert_int_equal(umount(where), 0);
}

static void a_file_size_limit(void **state) {
    (void)state;
    struct rlimit old, few;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(tl__folder_make(in_folder("limit"), NULL), 0);
    put("limit/out", "old", 3);
    few = old, few.rlim_cur = 1 << 20;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &few), 0);
    check_full(in_folder("limit"), in_folder("limit/out"));
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    signal(SIGXFSZ, SIG_DFL);
}

/* ---- folders, names, hashes ---- */

static void folders(void **state) {
    (void)state;
    tl_error err;
    char deep[PATH_MAX];
    snprintf(deep, sizeof deep, "%s/tree/a//b/c/", folder);
    assert_int_equal(tl__folder_make(deep, &err), 0);
    assert_int_equal(tl__folder_make(deep, &err), 0);
    assert_true(tl__path_is_folder(deep));
    put("tree/a/file", "x", 1);
    assert_true(tl__path_exists(in_folder("tree/a/file")) && !tl__path_is_folder(in_folder("tree/a/file")));
    assert_false(tl__path_exists(in_folder("tree/none")));
    assert_int_equal(tl__folder_make(in_folder("tree/a/file"), &err), TL_EEXISTS);
    assert_int_equal(tl__folder_make(in_folder("tree/a/file/x"), &err), TL_EEXISTS);
    assert_int_equal(tl__folder_make("", &err), TL_EINVALID);
    /* links out of the tree are removed, what they point to stays */
    assert_int_equal(tl__folder_make(in_folder("outside"), &err), 0);
    put("outside/kept", "x", 1);
    assert_int_equal(symlink(in_folder("outside"), in_folder("tree/a/link")), 0);
    assert_int_equal(symlink("/nowhere", in_folder("tree/dangling")), 0);
    assert_int_equal(tl__folder_remove(in_folder("tree/a/link"), &err), TL_EINVALID);
    assert_int_equal(tl__folder_remove(in_folder("tree/a/file"), &err), TL_EINVALID);
    assert_int_equal(tl__folder_remove(in_folder("tree"), &err), 0);
    assert_false(tl__path_exists(in_folder("tree")));
    assert_true(tl__path_exists(in_folder("outside/kept")));
    assert_int_equal(tl__folder_remove(in_folder("tree"), &err), TL_ENOTFOUND);
    char out[16];
    tl__path_join(out, sizeof out, "a", "b");
    assert_string_equal(out, "a/b");
    tl__path_join(out, sizeof out, "a/", "b");
    assert_string_equal(out, "a/b");
    tl__path_join(out, sizeof out, "", "b");
    assert_string_equal(out, "b");
    tl__path_join(out, sizeof out, "1234567", "1234567");
    assert_string_equal(out, "1234567/1234567");
    tl__path_join(out, sizeof out, "12345678", "1234567"); /* too long: a name that opens nothing */
    assert_string_equal(out, "");
}

static void hashes(void **state) {
    (void)state;
    /* XXH3-128 of nothing and of "abc", as `xxhsum -H2` prints them */
    assert_string_equal(tl__hash_bytes("", 0).hex, "99aa06d3014798d86001c324468d497f");
    assert_string_equal(tl__hash_bytes("abc", 3).hex, "06b05ab6733a618578af5f94892f3950");
    for (size_t step = 1; step < TEXT_BYTES; step = step * 7 + 1) {
        size_t n = step < 50 ? 3000 : TEXT_BYTES;
        tl_hasher *h = tl__hasher_open();
        for (size_t at = 0; at < n; at += step) tl__hasher_add(h, text + at, step < n - at ? step : n - at);
        tl__hasher_add(h, NULL, 0);
        assert_string_equal(tl__hasher_close(h).hex, tl__hash_bytes(text, n).hex);
    }
}

/* A file that goes to the disk while it is written is as whole, or as absent, as any other. */
static void a_large_file(void **state) {
    (void)state;
    enum { PIECE = (600 << 10) + 3, PIECES = 160 };
    for (int whole = 1; whole >= 0; whole--) {
        tl_sink *sink;
        tl_error err = {0};
        char path[PATH_MAX];
        snprintf(path, sizeof path, "%s/large-%d", folder, whole);
        assert_int_equal(tl__sink_open(&sink, path, &err), 0);
        tl_hasher *written = tl__hasher_open();
        for (int i = 0; i < PIECES; i++) {
            const unsigned char *piece = text + i * 500; /* what begins elsewhere is other bytes */
            assert_true(i * 500 + PIECE <= TEXT_BYTES);
            tl__hasher_add(written, piece, PIECE);
            assert_int_equal(tl__sink_write(sink, piece, PIECE, &err), 0);
        }
        const tl_hash want = tl__hasher_close(written);
        if (whole) assert_int_equal(tl__sink_publish(sink, &err), 0);
        else tl__sink_abandon(sink);
        FILE *f = fopen(path, "rb");
        assert_true(!!f == !!whole);
        if (!f) continue;
        unsigned char *back = malloc((size_t)PIECE * PIECES + 1);
        assert_non_null(back);
        assert_int_equal(fread(back, 1, (size_t)PIECE * PIECES + 1, f), (size_t)PIECE * PIECES);
        const tl_hash got = tl__hash_bytes(back, (size_t)PIECE * PIECES);
        assert_string_equal(got.hex, want.hex);
        free(back), fclose(f), unlink(path);
    }
}

static int set_up(void **state) {
    (void)state;
    uint32_t x = 1;
    for (int i = 0; i < TEXT_BYTES; i++) {
        x = x * 1664525 + 1013904223;
        text[i] = i % 100000 < 50000 ? (unsigned char)(x >> 24) : (unsigned char)('a' + i % 7);
    }
    text[0] = 't';
    return make_folder(state);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranges_and_maps),
        cmocka_unit_test(a_mapped_address_names_its_file),
        cmocka_unit_test(slurps),
        cmocka_unit_test(streams),
        cmocka_unit_test(damaged_archives),
        cmocka_unit_test(a_pipe_streams),
        cmocka_unit_test(publishes),
        cmocka_unit_test(a_large_file),
        cmocka_unit_test(a_full_disk),
        cmocka_unit_test(a_file_size_limit),
        cmocka_unit_test(folders),
        cmocka_unit_test(hashes),
    };
    return cmocka_run_group_tests(tests, set_up, remove_folder);
}
