/* dataset.c — owns a prepared dataset while it is read: finding it again, checking it, and serving samples by index
 * without touching the heap. */
#include "text/dataset.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/json.h"
#include "base/rng.h"
#include "io/file.h"
#include "io/hash.h"
#include "text/shard.h"

typedef struct shard {
    tl_file *file;
    const unsigned char *ids; /* mapped, beyond the header; NULL: read from the file */
    int64_t first, tokens;
} shard;

struct tl_dataset {
    tl_dataset_index index;
    shard *shards;
    tl_file *starts_file;
    uint64_t *starts; /* [documents] first tokens; mapped or owned */
    bool starts_owned;
    int T;
    tl_dataset_facts facts;
};

static int no_memory(tl_error *err) {
    return tl__fail(err, TL_ENOMEM, "not enough memory to open the prepared data; close other programs");
}

/* ---- the index ---- */

static bool is_hash(const char *s) {
    return s && strlen(s) == 32 && strspn(s, "0123456789abcdef") == 32;
}

int tl__dataset_index_parse(tl_dataset_index *x, const char *json, size_t n, const char *where, tl_error *err) {
    *x = (tl_dataset_index){0};
    json_t *root = tl__json_parse(json, n, where, err);
    if (!root) return TL_EFORMAT;
    const int64_t most = (int64_t)1 << 46; /* the sizes in bytes stay far below 2^63 */
    int64_t format = 0, id_bytes = 0;
    const char *key = NULL, *content = NULL;
    int status = 0;
    if (!json_is_object(root))
        status = tl__fail(err, TL_EFORMAT, "%s: not a JSON object; delete its folder to prepare anew", where);
    if (!status) status = tl__json_int(root, "format", TL_DATASET_FORMAT, TL_DATASET_FORMAT, &format, where, err);
    if (!status) status = tl__json_int(root, "id_bytes", 2, 4, &id_bytes, where, err);
    if (!status) status = tl__json_int(root, "vocab", 1, INT32_MAX, &x->vocab, where, err);
    if (!status) status = tl__json_int(root, "tokens", 0, most, &x->tokens, where, err);
    if (!status) status = tl__json_int(root, "bytes", 0, most, &x->bytes, where, err);
    if (!status) status = tl__json_int(root, "documents", 0, x->tokens, &x->documents, where, err);
    if (!status) status = tl__json_int(root, "invalid_utf8", 0, most, &x->invalid_utf8, where, err);
    if (!status) status = tl__json_string_or(root, "key", NULL, &key, where, err);
    if (!status) status = tl__json_string_or(root, "content", NULL, &content, where, err);
    if (!status && (!is_hash(key) || !is_hash(content) || (id_bytes != 2 && id_bytes != 4)))
        status = tl__fail(err, TL_EFORMAT,
                          "%s: its hashes or its id_bytes are not what was written; delete its folder to prepare "
                          "anew",
                          where);
    const json_t *list = json_object_get(root, "shards");
    if (!status && (!json_is_array(list) || json_array_size(list) > TL_SHARDS_MOST))
        status = tl__fail(err, TL_EFORMAT, "%s: \"shards\" is not a list; delete its folder to prepare anew", where);
    if (!status) {
        memcpy(x->key, key, 33);
        memcpy(x->content, content, 33);
        x->id_bytes = (int)id_bytes;
        x->n_shards = (int)json_array_size(list);
        x->shard_tokens = malloc(((size_t)x->n_shards + 1) * sizeof *x->shard_tokens);
        if (!x->shard_tokens) status = no_memory(err);
    }
    int64_t sum = 0;
    for (int i = 0; i < x->n_shards && !status; i++) {
        const json_t *item = json_array_get(list, (size_t)i);
        int64_t tokens = json_is_integer(item) ? json_integer_value(item) : 0;
        if (tokens < 1 || tokens > x->tokens - sum)
            status = tl__fail(
                err, TL_EFORMAT,
                "%s: the tokens of shard %d do not add up to \"tokens\"; delete its folder to prepare anew", where, i);
        x->shard_tokens[i] = tokens;
        sum += tokens;
    }
    if (!status && sum != x->tokens)
        status =
            tl__fail(err, TL_EFORMAT, "%s: the shards hold %lld tokens, not %lld; delete its folder to prepare anew",
                     where, (long long)sum, (long long)x->tokens);
    json_decref(root);
    if (status) {
        free(x->shard_tokens);
        *x = (tl_dataset_index){0};
    }
    return status;
}

/* ---- shards ---- */

static int check_header(tl_file *file, const char *magic, int elem_bytes, int64_t vocab, uint64_t first, int64_t count,
                        tl_error *err) {
    tl_shard_header h;
    const char *path = tl__file_path(file);
    int64_t want = (int64_t)sizeof h + count * elem_bytes;
    if (tl__file_size_bytes(file) != want)
        return tl__fail(err, TL_EDAMAGED,
                        "%s has %lld bytes where its index.json asks for %lld; delete its folder to prepare anew", path,
                        (long long)tl__file_size_bytes(file), (long long)want);
    int status = tl__file_read(file, &h, 0, sizeof h, err);
    if (status) return status;
    if (memcmp(h.magic, magic, 8) != 0 || h.elem_bytes != (uint32_t)elem_bytes || h.vocab != (uint32_t)vocab ||
        h.first != first)
        return tl__fail(err, TL_EDAMAGED,
                        "%s: its header is not what its index.json says; delete its folder to prepare anew", path);
    return 0;
}

static int shard_of(const tl_dataset *d, int64_t token) {
    int lo = 0, hi = d->index.n_shards - 1;
    while (lo < hi) {
        int mid = (lo + hi + 1) / 2;
        if (d->shards[mid].first <= token) lo = mid;
        else hi = mid - 1;
    }
    return lo;
}

/* n ids from token `at`, across shards. No heap. */
static int get_ids(const tl_dataset *d, int64_t at, int64_t n, int32_t *out, tl_error *err) {
    const int lo = shard_of(d, at);
    const int wide = d->index.id_bytes;
    uint32_t largest = 0;
    for (const shard *s = &d->shards[lo]; n > 0; s++) {
        int64_t offset = at - s->first, part = s->tokens - offset < n ? s->tokens - offset : n;
        for (int64_t done = 0; done < part;) {
            uint32_t buffer[2048];
            int64_t piece = part - done;
            const unsigned char *from = s->ids ? s->ids + (offset + done) * wide : (const unsigned char *)buffer;
            if (!s->ids) {
                if (piece > (int64_t)sizeof buffer / wide) piece = (int64_t)sizeof buffer / wide;
                int status = tl__file_read(s->file, buffer, (int64_t)sizeof(tl_shard_header) + (offset + done) * wide,
                                           (size_t)(piece * wide), err);
                if (status) return status;
            }
            if (wide == 2) {
                const uint16_t *ids = (const uint16_t *)from;
                for (int64_t i = 0; i < piece; i++) {
                    largest = ids[i] > largest ? ids[i] : largest;
                    out[i] = ids[i];
                }
            } else {
                const uint32_t *ids = (const uint32_t *)from;
                for (int64_t i = 0; i < piece; i++) {
                    largest = ids[i] > largest ? ids[i] : largest;
                    out[i] = (int32_t)ids[i];
                }
            }
            out += piece;
            done += piece;
        }
        at += part;
        n -= part;
    }
    if (largest >= (uint64_t)d->index.vocab)
        return tl__fail(
            err, TL_EDAMAGED,
            "prepared data %s holds token id %u where ids are below %lld; delete its folder to prepare anew",
            tl__file_path(d->shards[lo].file), largest, (long long)d->index.vocab);
    return 0;
}

/* All ids once, by all threads, when the dataset opens: a page of another file or a flipped bit is found before
 * training is. */
typedef struct scan {
    const tl_dataset *d;
    _Atomic int status;
    tl_error error;
    _Atomic int lock;
} scan;

enum { SCAN_TOKENS = 1 << 20, SCAN_STEP = 4096 };

static void scan_part(void *user, int64_t i, int worker) {
    (void)worker;
    scan *s = user;
    int64_t at = i * SCAN_TOKENS, end = at + SCAN_TOKENS;
    if (end > s->d->index.tokens) end = s->d->index.tokens;
    int32_t ids[SCAN_STEP];
    for (; at < end && !atomic_load(&s->status); at += SCAN_STEP) {
        tl_error error = {0};
        int status = get_ids(s->d, at, end - at < SCAN_STEP ? end - at : SCAN_STEP, ids, &error);
        if (status && !atomic_exchange(&s->lock, 1)) {
            s->error = error;
            atomic_store(&s->status, status);
        }
    }
}

static int check_ids(const tl_dataset *d, tl_pool *pool, tl_error *err) {
    if (d->index.id_bytes == 2 && d->index.vocab == 65536) return 0;
    scan s = {.d = d};
    tl__parallel_for(pool, (d->index.tokens + SCAN_TOKENS - 1) / SCAN_TOKENS, scan_part, &s);
    if (s.status && err) *err = s.error;
    return s.status;
}

static int open_starts(tl_dataset *d, const char *folder, tl_error *err) {
    char path[PATH_MAX];
    tl__path_join(path, sizeof path, folder, "documents.starts");
    int64_t n = d->index.documents;
    int status = tl__file_open(&d->starts_file, path, err);
    if (!status) status = check_header(d->starts_file, TL_STARTS_MAGIC, 8, d->index.vocab, 0, n, err);
    if (status) return status;
    const unsigned char *map = tl__file_map(d->starts_file);
    if (map) {
        d->starts = (uint64_t *)(map + sizeof(tl_shard_header));
    } else {
        d->starts = malloc((size_t)n * 8 + 8);
        d->starts_owned = true;
        if (!d->starts) return no_memory(err);
        status = tl__file_read(d->starts_file, d->starts, sizeof(tl_shard_header), (size_t)n * 8, err);
        if (status) return status;
    }
    for (int64_t i = 0; i < n; i++)
        if (i == 0 ? d->starts[0] != 0 : d->starts[i] <= d->starts[i - 1] || d->starts[i] >= (uint64_t)d->index.tokens)
            return tl__fail(err, TL_EDAMAGED,
                            "%s: the documents' starts do not increase within the tokens; delete its folder to "
                            "prepare anew",
                            path);
    return 0;
}

/* ---- opening ---- */

static int count_samples(tl_dataset *d, const tl_dataset_options *o, tl_error *err) {
    const tl_dataset_index *x = &d->index;
    int64_t windows = x->tokens > 0 ? (x->tokens - 1) / o->T : 0, val = 0;
    char what[PATH_MAX + 64];
    if (o->n_paths == 1) snprintf(what, sizeof what, "%s has", o->paths[0]);
    else snprintf(what, sizeof what, "the %d data files have", o->n_paths);
    if (windows < 1) {
        if (x->tokens < 2)
            return tl__fail(err, TL_EINVALID,
                            "%s %lld token%s, but one sample is %d (--seq %d and the next token); give more text", what,
                            (long long)x->tokens, x->tokens == 1 ? "" : "s", o->T + 1, o->T);
        return tl__fail(
            err, TL_EINVALID,
            "%s %lld tokens, but one sample is %d (--seq %d and the next token); give more text or a --seq of at most "
            "%lld",
            what, (long long)x->tokens, o->T + 1, o->T, (long long)x->tokens - 1);
    }
    if (o->val_fraction > 0) {
        val = (int64_t)floor((double)windows * o->val_fraction);
        if (val < 1) val = 1;
        if (windows - val < 1)
            return tl__fail(err, TL_EINVALID,
                            "%s %lld tokens, %lld sample%s of %d, which leaves none to train on beside validation; "
                            "give more text, a "
                            "--seq of at most %lld, or no validation",
                            what, (long long)x->tokens, (long long)windows, windows == 1 ? "" : "s", o->T + 1,
                            (long long)(x->tokens - 1) / 2);
    }
    d->facts = (tl_dataset_facts){.tokens = x->tokens,
                                  .bytes = x->bytes,
                                  .documents = x->documents,
                                  .train_samples = windows - val,
                                  .val_samples = val,
                                  .invalid_utf8 = x->invalid_utf8,
                                  .bytes_per_token = (double)x->bytes / (double)x->tokens};
    /* Documents that a window can be cut into: itself, and one more at each start inside it. */
    int64_t most = 1, in_window = 1, window = -1;
    for (int64_t i = 0; i < x->documents; i++) {
        int64_t start = (int64_t)d->starts[i];
        if (start / o->T != window) window = start / o->T, in_window = 1;
        in_window += start % o->T != 0;
        if (in_window > most) most = in_window;
    }
    d->facts.max_documents_per_sample = most < o->T ? (int)most : o->T;
    return 0;
}

int tl__dataset_open_folder(tl_dataset **out, const char *folder, const char *key, int64_t vocab,
                            const tl_dataset_options *o, tl_error *err) {
    *out = NULL;
    char path[PATH_MAX];
    tl__path_join(path, sizeof path, folder, "index.json");
    char *json;
    size_t n;
    int status = tl__file_slurp(&json, &n, path, 64 << 20, err);
    if (status) return status;
    tl_dataset *d = calloc(1, sizeof *d);
    status = d ? tl__dataset_index_parse(&d->index, json, n, path, err) : no_memory(err);
    free(json);
    if (!status && key && strcmp(key, d->index.key) != 0)
        status = tl__fail(err, TL_EDAMAGED, "%s belongs to other data; delete its folder to prepare anew", path);
    if (!status && d->index.vocab != vocab)
        status = tl__fail(err, TL_EDAMAGED,
                          "%s is for ids below %lld, the tokenizer's are below %lld; delete its folder to prepare anew",
                          path, (long long)d->index.vocab, (long long)vocab);
    if (!status) {
        d->T = o->T;
        d->shards = calloc((size_t)d->index.n_shards + 1, sizeof *d->shards);
        if (!d->shards) status = no_memory(err);
    }
    int64_t first = 0;
    for (int i = 0; !status && i < d->index.n_shards; i++) {
        shard *s = &d->shards[i];
        char name[32];
        tl__shard_name(name, sizeof name, i);
        tl__path_join(path, sizeof path, folder, name);
        s->first = first;
        s->tokens = d->index.shard_tokens[i];
        first += s->tokens;
        status = tl__file_open(&s->file, path, err);
        if (!status)
            status = check_header(s->file, TL_SHARD_MAGIC, d->index.id_bytes, d->index.vocab, (uint64_t)s->first,
                                  s->tokens, err);
        const unsigned char *map = status ? NULL : tl__file_map(s->file);
        s->ids = map ? map + sizeof(tl_shard_header) : NULL;
    }
    if (!status) status = open_starts(d, folder, err);
    if (!status) status = check_ids(d, o->pool, err);
    if (!status) status = count_samples(d, o, err);
    if (status) tl__dataset_close(d);
    else *out = d;
    return status;
}

void tl__dataset_close(tl_dataset *d) {
    if (!d) return;
    for (int i = 0; d->shards && i < d->index.n_shards; i++)
        if (d->shards[i].file) tl__file_close(d->shards[i].file);
    if (d->starts_owned) free(d->starts);
    if (d->starts_file) tl__file_close(d->starts_file);
    free(d->shards);
    free(d->index.shard_tokens);
    free(d);
}

/* The hash of what was asked for: sources (path, size, time, samples of the contents), tokenizer, settings. */
static int make_key(char *key, const tl_dataset_options *o, tl_error *err) {
    enum { SAMPLE_BYTES = 1 << 16 };
    tl_hasher *h = tl__hasher_open();
    unsigned char *sample = malloc(SAMPLE_BYTES);
    int status = h && sample ? 0 : no_memory(err);
    char tokenizer[33];
    tl__tokenizer_hash(o->tokenizer, tokenizer);
    int64_t head[2] = {TL_DATASET_FORMAT, o->n_paths};
    if (!status) {
        tl__hasher_add(h, head, sizeof head);
        tl__hasher_add(h, tokenizer, 33);
        const char *text_key = o->text_key ? o->text_key : "text";
        tl__hasher_add(h, text_key, strlen(text_key) + 1);
    }
    for (int i = 0; i < o->n_paths && !status; i++) {
        tl_file *file;
        status = tl__file_open(&file, o->paths[i], err);
        if (status) break;
        char real[PATH_MAX];
        const char *name = realpath(o->paths[i], real) ? real : o->paths[i];
        struct stat about;
        if (stat(o->paths[i], &about) != 0) memset(&about, 0, sizeof about);
        int64_t size = tl__file_size_bytes(file);
        int64_t times[3] = {size, about.st_mtim.tv_sec, about.st_mtim.tv_nsec};
        tl__hasher_add(h, name, strlen(name) + 1);
        tl__hasher_add(h, times, sizeof times);
        for (int k = 0; k < 16 && !status; k++) { /* sixteen places, evenly from first to last byte */
            int64_t n = size < SAMPLE_BYTES ? size : SAMPLE_BYTES, at = (size - n) / 15 * k;
            if (k == 15) at = size - n;
            if (n == 0 || (k > 0 && size <= SAMPLE_BYTES)) break;
            status = tl__file_read(file, sample, at, (size_t)n, err);
            if (!status) tl__hasher_add(h, sample, (size_t)n);
        }
        tl__file_close(file);
    }
    if (h) {
        tl_hash hash = tl__hasher_close(h);
        memcpy(key, hash.hex, 33);
    }
    free(sample);
    return status;
}

int tl__dataset_open(tl_dataset **out, const tl_dataset_options *o, tl_error *err) {
    *out = NULL;
    if (o->n_paths < 1) return tl__fail(err, TL_EINVALID, "no data files were given; name them with --data");
    if (o->T < 1)
        return tl__fail(err, TL_EINVALID, "a sample of %d tokens was asked for; give a --seq of at least 1", o->T);
    if (!(o->val_fraction >= 0 && o->val_fraction < 1))
        return tl__fail(err, TL_EINVALID, "a validation fraction of %g was asked for; give one from 0 to below 1",
                        o->val_fraction);
    char key[33], again[33], name[64], folder[PATH_MAX], path[PATH_MAX];
    int status = make_key(key, o, err);
    if (status) return status;
    snprintf(name, sizeof name, "tokens-%.16s", key);
    if (strlen(o->cache_folder) + 128 > sizeof folder)
        return tl__fail(err, TL_EINVALID, "the cache folder's path has %zu characters; choose a shorter one",
                        strlen(o->cache_folder));
    tl__path_join(folder, sizeof folder, o->cache_folder, name);
    tl__path_join(path, sizeof path, folder, "index.json");
    int64_t vocab = tl__tokenizer_vocab(o->tokenizer);
    bool reused = tl__path_exists(path);
    if (!reused) {
        status = tl__dataset_prepare(folder, key, o, err);
        if (!status) status = make_key(again, o, err);
        if (status) return status;
        if (strcmp(key, again) != 0) {
            tl__folder_remove(folder, NULL);
            return tl__fail(err, TL_EINVALID, "a data file changed while it was read; start again when it is complete");
        }
    }
    status = tl__dataset_open_folder(out, folder, key, vocab, o, err);
    if (status) return status;
    tl_dataset *d = *out;
    d->facts.reused = reused;
    char tokenizer[33], settings[160];
    tl__tokenizer_hash(o->tokenizer, tokenizer);
    snprintf(settings, sizeof settings, "%s %s T %d val %a", d->index.content, tokenizer, o->T, o->val_fraction);
    tl_hash hash = tl__hash_bytes(settings, strlen(settings));
    memcpy(d->facts.hash, hash.hex, sizeof d->facts.hash);
    return 0;
}

const tl_dataset_facts *tl__dataset_facts(const tl_dataset *d) {
    return &d->facts;
}

/* ---- samples ---- */

/* Window w: tokens [w·T, w·T + T]. */
static int window(const tl_dataset *d, int64_t w, bool document_mask, int32_t *input, int32_t *target, int32_t *pos,
                  tl_error *err) {
    const int T = d->T;
    const int64_t at = w * T;
    int32_t last;
    int status = get_ids(d, at, T, input, err);
    if (!status) status = get_ids(d, at + T, 1, &last, err);
    if (status) return status;
    memcpy(target, input + 1, (size_t)(T - 1) * sizeof *target);
    target[T - 1] = last;
    for (int i = 0; i < T; i++) pos[i] = i;
    if (!document_mask) return 0;
    /* The first document that starts after the window does. */
    int64_t lo = 0, hi = d->index.documents;
    while (lo < hi) {
        int64_t mid = (lo + hi) / 2;
        if ((int64_t)d->starts[mid] <= at) lo = mid + 1;
        else hi = mid;
    }
    for (; lo < d->index.documents && (int64_t)d->starts[lo] <= at + T; lo++) {
        int64_t next = lo + 1 < d->index.documents ? (int64_t)d->starts[lo + 1] - at : T;
        int begin = (int)((int64_t)d->starts[lo] - at), end = next < T ? (int)next : T;
        target[begin - 1] = -1;
        for (int i = begin; i < end; i++) pos[i] = i - begin;
    }
    return 0;
}

/* The window that stands at `index` of the training order. */
static int64_t train_window(const tl_dataset *d, uint64_t seed, int64_t index) {
    int64_t n = d->facts.train_samples;
    assert(index >= 0 && n > 0);
    return (int64_t)tl__permute((uint64_t)(index % n), (uint64_t)n, seed, (uint32_t)(index / n));
}

int tl__dataset_train_sample(const tl_dataset *d, uint64_t seed, int64_t index, bool document_mask, int32_t *input,
                             int32_t *target, int32_t *pos, tl_error *err) {
    return window(d, train_window(d, seed, index), document_mask, input, target, pos, err);
}

void tl__dataset_will_need(const tl_dataset *d, uint64_t seed, int64_t index) {
    int64_t at = train_window(d, seed, index) * d->T, n = d->T + 1;
    for (const shard *s = &d->shards[shard_of(d, at)]; n > 0; s++) {
        int64_t offset = at - s->first, part = s->tokens - offset < n ? s->tokens - offset : n;
        tl__file_will_need(s->file, (int64_t)sizeof(tl_shard_header) + offset * d->index.id_bytes,
                           part * d->index.id_bytes);
        at += part, n -= part;
    }
}

int tl__dataset_val_sample(const tl_dataset *d, int64_t index, bool document_mask, int32_t *input, int32_t *target,
                           int32_t *pos, tl_error *err) {
    assert(index >= 0);
    if (index >= d->facts.val_samples)
        return tl__fail(err, TL_EINVALID, "validation sample %lld was asked for; there are %lld", (long long)index,
                        (long long)d->facts.val_samples);
    return window(d, d->facts.train_samples + index, document_mask, input, target, pos, err);
}
