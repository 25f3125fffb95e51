/* dataset_prepare.c — owns the way from text files to shards of ids; promises the same bytes whatever the number of
 * threads, and that a kill at any instant leaves no folder that would be taken for a finished one. */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "io/file.h"
#include "io/hash.h"
#include "text/shard.h"
#include "text/text_source.h"

#define SHARD_TOKENS ((int64_t)1 << 26)

void tl__shard_name(char *out, size_t size, int i) {
    snprintf(out, size, "shard-%05d.ids", i);
}

static int no_memory(tl_error *err) {
    return tl__fail(err, TL_ENOMEM,
                    "not enough memory to tokenise the data; use fewer threads or close other programs");
}

/* ---- a block of text to ids, on any thread ---- */

typedef struct encoded {
    int32_t *ids;
    size_t n, room;
    size_t *ends; /* where documents of a JSONL block end among ids */
    size_t n_ends, ends_room;
    int64_t bytes, replaced;
    tl_error error; /* status 0: fine */
} encoded;

typedef struct encoding {
    const tl_dataset_options *options;
    const char *text_key;
    tl_block *blocks;
    encoded *out;
} encoding;

static bool reserve(encoded *e, size_t more) {
    if (e->n + more <= e->room) return true;
    size_t room = e->n + more + (e->n + more) / 4;
    int32_t *bigger = realloc(e->ids, room * sizeof *bigger);
    if (!bigger) return false;
    e->ids = bigger;
    e->room = room;
    return true;
}

static void encode_text(const encoding *c, encoded *e, const char *text, size_t n) {
    /* A quarter of the bytes is usually enough; the first call says if not. */
    int64_t replaced, need;
    for (size_t ask = n / 3 + 64;; ask = (size_t)need) {
        if (!reserve(e, ask)) {
            no_memory(&e->error);
            return;
        }
        need = tl__tokenizer_encode(c->options->tokenizer, text, n, false, e->ids + e->n, e->room - e->n, &replaced);
        if (need < 0) {
            if (need == TL_EFORMAT) tl__fail(&e->error, TL_EFORMAT, "the tokenizer's own steps make more than 64 times of the data, which no honest one does");
            else no_memory(&e->error);
            return;
        }
        if ((size_t)need <= e->room - e->n) break;
    }
    e->n += (size_t)need;
    e->bytes += (int64_t)n;
    e->replaced += replaced;
}

static void encode_block(void *user, int64_t i, int worker) {
    (void)worker;
    const encoding *c = user;
    const tl_block *block = &c->blocks[i];
    encoded *e = &c->out[i];
    e->n = e->n_ends = 0;
    e->bytes = e->replaced = 0;
    e->error.status = 0;
    if (!block->jsonl) {
        encode_text(c, e, block->bytes, block->n);
        return;
    }
    char *text = malloc(block->n + 1);
    if (!text) no_memory(&e->error);
    int64_t line = block->first_line;
    for (size_t at = 0; at < block->n && !e->error.status; line++) {
        const char *end = memchr(block->bytes + at, '\n', block->n - at);
        size_t next = end ? (size_t)(end - block->bytes) + 1 : block->n;
        int64_t n = tl__jsonl_text(block->bytes + at, next - at, c->text_key, text, &e->replaced);
        at = next;
        if (n == -1) continue;
        if (n < 0) {
            tl__jsonl_fail(n, c->options->paths[block->path], line, c->text_key, &e->error);
            break;
        }
        encode_text(c, e, text, (size_t)n);
        if (e->n_ends == e->ends_room) {
            size_t room = 2 * e->ends_room + 256;
            size_t *bigger = realloc(e->ends, room * sizeof *bigger);
            if (!bigger) {
                no_memory(&e->error);
                break;
            }
            e->ends = bigger;
            e->ends_room = room;
        }
        e->ends[e->n_ends++] = e->n;
    }
    free(text);
}

/* ---- ids to files, in order, on the calling thread ---- */

typedef struct writer {
    const char *folder;
    tl_sink *shard, *starts;
    tl_hasher *hasher;
    tl_dataset_index index;
    int eos;
    int64_t in_shard, in_document;
    tl_error *err;
} writer;

static int open_sink(writer *w, tl_sink **sink, const char *name, const tl_shard_header *header) {
    char path[PATH_MAX];
    tl__path_join(path, sizeof path, w->folder, name);
    int status = tl__sink_open(sink, path, w->err);
    return status ? status : tl__sink_write(*sink, header, sizeof *header, w->err);
}

static int close_shard(writer *w) {
    if (!w->shard) return 0;
    int status = tl__sink_publish(w->shard, w->err);
    w->shard = NULL;
    w->index.shard_tokens[w->index.n_shards++] = w->in_shard;
    w->in_shard = 0;
    return status;
}

static int open_shard(writer *w) {
    if (w->index.n_shards == TL_SHARDS_MOST)
        return tl__fail(w->err, TL_EINVALID, "the data has more than %lld tokens; train on a part of it",
                        (long long)(TL_SHARDS_MOST * SHARD_TOKENS));
    int64_t *more = realloc(w->index.shard_tokens, ((size_t)w->index.n_shards + 1) * sizeof *more);
    if (!more) return no_memory(w->err);
    w->index.shard_tokens = more;
    tl_shard_header header = {.elem_bytes = (uint32_t)w->index.id_bytes,
                              .vocab = (uint32_t)w->index.vocab,
                              .first = (uint64_t)w->index.tokens};
    memcpy(header.magic, TL_SHARD_MAGIC, 8);
    char name[32];
    tl__shard_name(name, sizeof name, w->index.n_shards);
    return open_sink(w, &w->shard, name, &header);
}

static int put_ids(writer *w, const int32_t *ids, size_t n) {
    if (n == 0) return 0;
    if (w->in_document == 0) { /* a document begins */
        uint64_t start = (uint64_t)w->index.tokens;
        int status = tl__sink_write(w->starts, &start, sizeof start, w->err);
        if (status) return status;
        w->index.documents++;
    }
    w->in_document += (int64_t)n;
    tl__hasher_add(w->hasher, ids, n * sizeof *ids);
    while (n > 0) {
        int status = w->shard ? 0 : open_shard(w);
        if (status) return status;
        uint16_t narrow[4096];
        size_t part = n < 4096 ? n : 4096;
        if ((int64_t)part > SHARD_TOKENS - w->in_shard) part = (size_t)(SHARD_TOKENS - w->in_shard);
        if (w->index.id_bytes == 2)
            for (size_t i = 0; i < part; i++) narrow[i] = (uint16_t)ids[i];
        status = tl__sink_write(w->shard, w->index.id_bytes == 2 ? (const void *)narrow : ids,
                                part * (size_t)w->index.id_bytes, w->err);
        if (status) return status;
        w->in_shard += (int64_t)part;
        w->index.tokens += (int64_t)part;
        ids += part;
        n -= part;
        if (w->in_shard == SHARD_TOKENS && (status = close_shard(w)) != 0) return status;
    }
    return 0;
}

/* An empty document leaves no trace. */
static int end_document(writer *w) {
    int status = 0;
    int32_t eos = w->eos;
    if (w->in_document > 0 && eos >= 0) status = put_ids(w, &eos, 1);
    w->in_document = 0;
    return status;
}

static int put_block(writer *w, const tl_block *block, const encoded *e) {
    if (e->error.status) {
        if (w->err) *w->err = e->error;
        return e->error.status;
    }
    w->index.bytes += e->bytes;
    w->index.invalid_utf8 += e->replaced;
    size_t from = 0;
    int status = 0;
    for (size_t i = 0; i < e->n_ends && !status; i++) {
        status = put_ids(w, e->ids + from, e->ends[i] - from);
        from = e->ends[i];
        if (!status) status = end_document(w);
    }
    if (!status) status = put_ids(w, e->ids + from, e->n - from);
    if (!status && block->ends_document) status = end_document(w);
    return status;
}

static int publish_index(const writer *w) {
    json_t *shards = json_array();
    for (int i = 0; i < w->index.n_shards; i++) json_array_append_new(shards, json_integer(w->index.shard_tokens[i]));
    json_t *root = json_pack("{s:i, s:s, s:s, s:i, s:I, s:I, s:I, s:I, s:I, s:o}", "format", (int)TL_DATASET_FORMAT,
                             "key", w->index.key, "content", w->index.content, "id_bytes", w->index.id_bytes, "vocab",
                             (json_int_t)w->index.vocab, "tokens", (json_int_t)w->index.tokens, "bytes",
                             (json_int_t)w->index.bytes, "documents", (json_int_t)w->index.documents, "invalid_utf8",
                             (json_int_t)w->index.invalid_utf8, "shards", shards);
    char *text = root ? json_dumps(root, JSON_INDENT(2)) : NULL;
    int status;
    if (text) {
        char path[PATH_MAX];
        tl__path_join(path, sizeof path, w->folder, "index.json");
        status = tl__file_publish(path, text, strlen(text), w->err);
    } else {
        status = no_memory(w->err);
    }
    free(text);
    json_decref(root);
    return status;
}

/* What killed processes left: NAME.tmp-PID whose process is gone. */
static void sweep(const char *folder) {
    DIR *dir = opendir(folder);
    if (!dir) return;
    for (struct dirent *d; (d = readdir(dir)) != NULL;) {
        const char *tail = strstr(d->d_name, ".tmp-");
        long pid = tail ? strtol(tail + 5, NULL, 10) : 0;
        if (pid > 0 && kill((pid_t)pid, 0) != 0 && errno == ESRCH) unlinkat(dirfd(dir), d->d_name, 0);
    }
    closedir(dir);
}

static int run(writer *w, encoding *c, tl_texts *texts, int room) {
    const tl_dataset_options *o = c->options;
    for (bool more = true; more;) {
        int n = 0;
        while (n < room && more) {
            int got = tl__texts_next(texts, &c->blocks[n], w->err);
            if (got < 0) return got;
            if (got == 0) more = false;
            else n++;
        }
        tl__parallel_for(o->pool, n, encode_block, c);
        for (int i = 0; i < n; i++) {
            int status = put_block(w, &c->blocks[i], &c->out[i]);
            if (status) return status;
        }
        if (o->progress) {
            int64_t done, total;
            tl__texts_progress(texts, &done, &total);
            o->progress(o->user, done, total);
        }
    }
    return 0;
}

int tl__dataset_prepare(const char *folder, const char *key, const tl_dataset_options *o, tl_error *err) {
    enum { BLOCKS_A_THREAD = 4 };
    int room = BLOCKS_A_THREAD * tl__pool_threads(o->pool);
    encoding c = {.options = o, .text_key = o->text_key ? o->text_key : "text"};
    writer w = {.folder = folder, .eos = tl__tokenizer_eos(o->tokenizer), .err = err};
    w.index.vocab = tl__tokenizer_vocab(o->tokenizer);
    w.index.id_bytes = w.index.vocab <= 65536 ? 2 : 4;
    snprintf(w.index.key, sizeof w.index.key, "%s", key);
    tl_texts *texts = NULL;
    int status = tl__folder_make(folder, err);
    if (status) return status;
    sweep(folder);
    c.blocks = calloc((size_t)room, sizeof *c.blocks);
    c.out = calloc((size_t)room, sizeof *c.out);
    w.hasher = tl__hasher_open();
    if (!c.blocks || !c.out || !w.hasher) status = no_memory(err);
    if (!status) status = tl__texts_open(&texts, o->paths, o->n_paths, o->tokenizer, false, 0, err);
    tl_shard_header header = {.elem_bytes = 8, .vocab = (uint32_t)w.index.vocab};
    memcpy(header.magic, TL_STARTS_MAGIC, 8);
    if (!status) status = open_sink(&w, &w.starts, "documents.starts", &header);
    if (!status) status = run(&w, &c, texts, room);
    if (!status) status = close_shard(&w);
    if (!status) {
        status = tl__sink_publish(w.starts, err);
        w.starts = NULL;
    }
    if (w.hasher) {
        tl_hash hash = tl__hasher_close(w.hasher);
        memcpy(w.index.content, hash.hex, sizeof w.index.content);
    }
    if (!status) status = publish_index(&w);
    if (w.shard) tl__sink_abandon(w.shard);
    if (w.starts) tl__sink_abandon(w.starts);
    tl__texts_close(texts);
    for (int i = 0; i < room && c.blocks; i++) tl__block_free(&c.blocks[i]);
    for (int i = 0; i < room && c.out; i++) {
        free(c.out[i].ids);
        free(c.out[i].ends);
    }
    free(c.blocks);
    free(c.out);
    free(w.index.shard_tokens);
    return status;
}
