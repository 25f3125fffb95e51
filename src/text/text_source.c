/* text_source.c — owns the cutting of files into blocks while they are read in ranges; promises that a block's memory
 * is bounded whatever the file holds. */
#include "text/text_source.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"

enum { BLOCK_BYTES = 1 << 20 };
/* A plain text without a safe cut for so long is cut at a character; a JSON line that long is refused. */
#define BLOCK_MOST_BYTES ((size_t)256 << 20)

struct tl_texts {
    const char *const *paths;
    int n_paths, path; /* the file that is read: paths[path] */
    const tl_tokenizer *cut;
    bool by_line, jsonl, at_end;
    tl_stream *stream;
    char *carry; /* read but not yet given out */
    size_t carry_n, carry_room;
    int64_t line;
    int64_t *size_bytes, total_bytes, done_bytes, limit_bytes, taken_bytes;
};

bool tl__path_is_jsonl(const char *path) {
    static const char *const ends[] = {".jsonl", ".jsonl.gz", ".jsonl.zst"};
    for (int i = 0; i < 3; i++) {
        size_t n = strlen(path), m = strlen(ends[i]);
        if (n > m && strcmp(path + n - m, ends[i]) == 0) return true;
    }
    return false;
}

void tl__texts_close(tl_texts *t) {
    if (!t) return;
    tl__stream_close(t->stream);
    free(t->carry);
    free(t->size_bytes);
    free(t);
}

void tl__block_free(tl_block *block) {
    free(block->bytes);
    *block = (tl_block){0};
}

static int no_memory(tl_error *err) {
    return tl__fail(err, TL_ENOMEM, "not enough memory to read text; close other programs");
}

int tl__texts_open(tl_texts **out, const char *const *paths, int n_paths, const tl_tokenizer *cut, bool by_line,
                   int64_t limit_bytes, tl_error *err) {
    tl_texts *t = calloc(1, sizeof *t);
    if (!t) return no_memory(err);
    *t = (tl_texts){.paths = paths,
                    .n_paths = n_paths,
                    .path = -1,
                    .cut = cut,
                    .by_line = by_line,
                    .at_end = true,
                    .limit_bytes = limit_bytes};
    t->size_bytes = calloc((size_t)n_paths + 1, sizeof *t->size_bytes);
    int status = t->size_bytes ? 0 : no_memory(err);
    /* All are opened once before work starts: a misspelt last file should not cost an hour. */
    for (int i = 0; i < n_paths && !status; i++) {
        tl_file *file;
        status = tl__file_open(&file, paths[i], err);
        if (status) break;
        t->size_bytes[i] = tl__file_size_bytes(file);
        t->total_bytes += t->size_bytes[i];
        tl__file_close(file);
    }
    if (status) tl__texts_close(t);
    else *out = t;
    return status;
}

void tl__texts_progress(const tl_texts *t, int64_t *done_bytes, int64_t *total_bytes) {
    int64_t done = 0, total;
    if (t->stream) tl__stream_progress(t->stream, &done, &total);
    *done_bytes = t->done_bytes + done;
    *total_bytes = t->total_bytes;
}

/* Turns to the next file; 0 when there is none. */
static int next_file(tl_texts *t, tl_error *err) {
    if (t->path >= 0 && t->path < t->n_paths) t->done_bytes += t->size_bytes[t->path];
    tl__stream_close(t->stream);
    t->stream = NULL;
    if (++t->path >= t->n_paths) return t->path = t->n_paths, 0;
    int status = tl__stream_open(&t->stream, t->paths[t->path], err);
    if (status) return status;
    t->jsonl = tl__path_is_jsonl(t->paths[t->path]);
    t->at_end = false;
    t->carry_n = 0;
    t->line = 1;
    t->taken_bytes = 0;
    return 1;
}

/* Bytes of this file that may still be read. */
static size_t quota(const tl_texts *t) {
    if (t->limit_bytes <= 0) return SIZE_MAX;
    double share = t->total_bytes ? (double)t->size_bytes[t->path] / (double)t->total_bytes : 0;
    int64_t left = (int64_t)(share * (double)t->limit_bytes) - t->taken_bytes;
    return left > 0 ? (size_t)left : 0;
}

static bool reserve(tl_block *block, size_t room) {
    room += TL_BLOCK_SLACK_BYTES;
    if (room <= block->room) return true;
    char *bigger = realloc(block->bytes, room);
    if (!bigger) return false;
    block->bytes = bigger;
    block->room = room;
    return true;
}

static size_t last_line_end(const char *bytes, size_t n) {
    const char *found = n ? memrchr(bytes, '\n', n) : NULL;
    return found ? (size_t)(found - bytes) + 1 : 0;
}

/* Where bytes[0, n) of a file that goes on may be cut; 0: nowhere. */
static size_t place_to_cut(const tl_texts *t, const char *bytes, size_t n) {
    if (t->jsonl || t->by_line) return last_line_end(bytes, n);
    return tl__tokenizer_safe_cut(t->cut, bytes, n);
}

int tl__texts_next(tl_texts *t, tl_block *block, tl_error *err) {
    for (;;) {
        while (t->at_end) {
            int status = next_file(t, err);
            if (status <= 0) return status;
        }
        block->jsonl = t->jsonl;
        block->path = t->path;
        block->first_line = t->line;
        if (!reserve(block, t->carry_n + BLOCK_BYTES)) return no_memory(err);
        if (t->carry_n) memcpy(block->bytes, t->carry, t->carry_n);
        size_t n = t->carry_n, cut = 0;
        bool ended = false;
        for (size_t want = BLOCK_BYTES; cut == 0; want = n + n / 2) {
            if (want > BLOCK_MOST_BYTES) want = BLOCK_MOST_BYTES;
            if (!reserve(block, want)) return no_memory(err);
            while (n < want && !ended) {
                size_t ask = want - n, most = quota(t), got = 0;
                if (ask > most) ask = most;
                int status = ask ? tl__stream_read(t->stream, block->bytes + n, ask, &got, err) : 0;
                if (status) return status;
                ended = got == 0;
                n += got;
                t->taken_bytes += (int64_t)got;
            }
            bool limited = ended && quota(t) == 0;
            if (ended && !limited) cut = n; /* the rest */
            else cut = place_to_cut(t, block->bytes, n);
            if (ended && cut == 0) break;
            if (cut == 0 && n >= BLOCK_MOST_BYTES) {
                if (t->jsonl)
                    return tl__fail(err, TL_EFORMAT, "%s, line %lld is longer than %zu MiB; split that document",
                                    t->paths[t->path], (long long)t->line, BLOCK_MOST_BYTES >> 20);
                cut = n;
                for (int i = 0; i < 3 && cut > 1 && ((unsigned char)block->bytes[cut - 1] & 0xC0) == 0x80; i++) cut--;
                cut -= cut > 1 && (unsigned char)block->bytes[cut - 1] >= 0xC0;
            }
        }
        size_t rest = ended ? 0 : n - cut;
        if (rest > t->carry_room) {
            free(t->carry);
            t->carry = malloc(rest);
            t->carry_room = t->carry ? rest : 0;
            if (!t->carry) return no_memory(err);
        }
        if (rest) memcpy(t->carry, block->bytes + cut, rest);
        t->carry_n = rest;
        t->at_end = ended;
        block->n = cut;
        block->ends_document = ended;
        memset(block->bytes + cut, 0, TL_BLOCK_SLACK_BYTES);
        if (t->jsonl)
            for (const char *s = block->bytes; (s = memchr(s, '\n', (size_t)(block->bytes + cut - s))) != NULL; s++)
                t->line++;
        if (cut || ended) return 1;
    }
}
