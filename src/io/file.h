/* file.h — every byte that enters or leaves passes here: open, read a range, publish atomically. POSIX today, S3 later;
 * nothing above notices (DESIGN: seams). */
#ifndef TL_IO_FILE_H
#define TL_IO_FILE_H

#include <stdbool.h>
#include "base/error.h"

typedef struct tl_file tl_file; /* an open source of bytes, random access */

int tl__file_open(tl_file **file, const char *path, tl_error *err);
void tl__file_close(tl_file *file);
int64_t tl__file_size_bytes(const tl_file *file);
const char *tl__file_path(const tl_file *file);
/* Exactly n bytes at offset, or an error (TL_EDAMAGED when the file ends first). */
int tl__file_read(tl_file *file, void *out, int64_t offset, size_t n, tl_error *err);
/* A read-only mapping of the whole file, kept until close; NULL (no error) where mapping is off (TRILITH_MMAP=0) or
 * fails. */
const void *tl__file_map(tl_file *file);
/* The path of the mapped file that an address lies in, or NULL. Safe in a signal handler. */
const char *tl__file_mapped_at(const void *address);

/* Mapped bytes that will not be read again soon: their pages need not stay in memory. They are read from the file anew
 * if they are. */
void tl__file_let_go(const void *mapped, size_t n);

/* A range that will be read soon, mapped or not: the system may begin to fetch it, and does not wait. */
void tl__file_will_need(const tl_file *file, int64_t offset, int64_t n);

/* A whole small file, NUL-terminated beyond its end; refuses more than limit_bytes. free() it. */
int tl__file_slurp(char **bytes, size_t *size, const char *path, size_t limit_bytes, tl_error *err);

/* A reader of a text source from its beginning, decompressing by magic number (gzip, zstd, else plain). */
typedef struct tl_stream tl_stream;
int tl__stream_open(tl_stream **stream, const char *path, tl_error *err);
/* Up to n bytes into out; *got = 0 at the end. A truncated or damaged archive is TL_EDAMAGED. */
int tl__stream_read(tl_stream *stream, void *out, size_t n, size_t *got, tl_error *err);
/* Bytes consumed of the (compressed) file and its size, for progress. */
void tl__stream_progress(const tl_stream *stream, int64_t *done_bytes, int64_t *total_bytes);
void tl__stream_close(tl_stream *stream);

/* Writing: bytes go to "path.tmp-PID"; publish fsyncs, renames over path, fsyncs the folder. Abandon removes the rest.
 * A full disk (or file-size limit; the program ignores SIGXFSZ) is TL_ENOSPACE. */
typedef struct tl_sink tl_sink;
int tl__sink_open(tl_sink **sink, const char *path, tl_error *err);
int tl__sink_write(tl_sink *sink, const void *bytes, size_t n, tl_error *err); /* unbuffered past 64 KiB */
int tl__sink_publish(tl_sink *sink, tl_error *err);                            /* frees the sink either way */
void tl__sink_abandon(tl_sink *sink);
/* All at once. */
int tl__file_publish(const char *path, const void *bytes, size_t n, tl_error *err);

bool tl__path_exists(const char *path);
bool tl__path_is_folder(const char *path);
int tl__folder_make(const char *path, tl_error *err);   /* mkdir -p */
int tl__folder_remove(const char *path, tl_error *err); /* a tree; refuses symlinks out of it */
/* "folder/name" into out; a path that does not fit becomes "", which names no file, so that opening it fails. */
void tl__path_join(char *out, size_t size, const char *folder, const char *name);

#endif
