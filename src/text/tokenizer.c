/* tokenizer.c — owns a tokenizer's tables: building them from tokens and merges, looking things up, opening and
 * closing. */
#include <assert.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "io/hash.h"
#include "text/bpe.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

enum { CONFIG_LIMIT_BYTES = 16 << 20, JSON_LIMIT_BYTES = 256 << 20 };

uint32_t tl__byte_char(uint8_t byte) {
    if ((byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE) return byte;
    if (byte <= 0x20) return 0x100u + byte;
    if (byte <= 0xA0) return 0x121u + (byte - 0x7Fu);
    return 0x143; /* 0xAD */
}

int tl__char_byte(uint32_t c) {
    if ((c >= 0x21 && c <= 0x7E) || (c >= 0xA1 && c <= 0xAC) || (c >= 0xAE && c <= 0xFF)) return (int)c;
    if (c >= 0x100 && c <= 0x120) return (int)(c - 0x100);
    if (c >= 0x121 && c <= 0x142) return (int)(c - 0x121 + 0x7F);
    return c == 0x143 ? 0xAD : -1;
}

static int no_memory(tl_error *err) {
    return tl__fail(err, TL_ENOMEM,
                    "not enough memory for the tokenizer; close other programs or use a smaller vocabulary");
}

/* array[room] grows to hold `need` elements. */
static bool grow(void **array, int *room, int need, size_t elem_bytes) {
    if (need <= *room) return true;
    int64_t more = (int64_t)need + need / 2 + 64;
    if (more > INT_MAX) return false;
    void *bigger = realloc(*array, (size_t)more * elem_bytes);
    if (!bigger) return false;
    *array = bigger;
    *room = (int)more;
    return true;
}

/* Appends n bytes to the texts; their place, or −1 when memory or the 4 GiB of places end. */
static int64_t keep_text(tl_tokenizer *tok, const void *bytes, size_t n) {
    if (!tok->text || tok->text_used + n > tok->text_room) { /* also for n = 0: NULL is no place */
        size_t room = (tok->text_used + n) * 3 / 2 + 4096;
        if (room > UINT32_MAX) return -1;
        char *bigger = realloc(tok->text, room);
        if (!bigger) return -1;
        tok->text = bigger;
        tok->text_room = room;
    }
    memcpy(tok->text + tok->text_used, bytes, n);
    tok->text_used += n;
    return (int64_t)(tok->text_used - n);
}

int tl__bpe_new(tl_tokenizer **out, tl_error *err) {
    tl__unicode_init();
    tl_tokenizer *tok = calloc(1, sizeof *tok);
    if (!tok) return no_memory(err);
    tok->eos = -1;
    tok->id_limit = 1 << 26;
    tok->scratches = tl__encode_scratches_open();
    if (!tok->scratches) {
        free(tok);
        return no_memory(err);
    }
    *out = tok;
    return 0;
}

void tl__tokenizer_close(tl_tokenizer *tok) {
    if (!tok) return;
    tl__encode_scratches_close(tok->scratches);
    free(tok->token);
    free(tok->text);
    free(tok->id_of_text);
    free(tok->id_of_bytes);
    free(tok->merge);
    free(tok->pair_slot);
    free(tok->byte_pair_rank);
    free(tok->added);
    free(tok->added_order);
    free(tok->json);
    free(tok->config);
    free(tok);
}

/* ---- text → id ---- */

static size_t probe(const tl_tokenizer *tok, const char *text, size_t n) {
    size_t mask = tok->id_of_text_size - 1;
    size_t at = XXH3_64bits(text, n) & mask;
    for (; tok->id_of_text[at]; at = (at + 1) & mask) {
        const tl_token *t = &tok->token[tok->id_of_text[at] - 1];
        if (t->text_n == n && memcmp(tok->text + t->text_at, text, n) == 0) break;
    }
    return at;
}

int tl__bpe_find(const tl_tokenizer *tok, const char *text, size_t n) {
    if (tok->id_of_text_size == 0) return -1;
    return (int)tok->id_of_text[probe(tok, text, n)] - 1;
}

/* Room for one more text, filled at most by half. */
static bool make_room(tl_tokenizer *tok, size_t used) {
    if ((used + 1) * 2 <= tok->id_of_text_size) return true;
    size_t size = tok->id_of_text_size ? tok->id_of_text_size * 2 : 1024;
    uint32_t *table = calloc(size, sizeof *table), *old = tok->id_of_text;
    if (!table) return false;
    size_t old_size = tok->id_of_text_size;
    tok->id_of_text = table;
    tok->id_of_text_size = size;
    for (size_t i = 0; i < old_size; i++) {
        if (!old[i]) continue;
        const tl_token *t = &tok->token[old[i] - 1];
        tok->id_of_text[probe(tok, tok->text + t->text_at, t->text_n)] = old[i];
    }
    free(old);
    return true;
}

/* Places a token at id; the texts' table and the bytes that it decodes to. */
static int put_token(tl_tokenizer *tok, const char *text, size_t n, int64_t id, bool added, const char *where,
                     tl_error *err) {
    /* Ids may have gaps, but not so many that a small file asks for a large table. */
    if (id < 0 || id >= tok->id_limit)
        return tl__fail(
            err, TL_EFORMAT,
            "%s: token \"%.*s\" has id %lld, which is negative or far above the number of tokens; check the file",
            where, (int)(n < 60 ? n : 60), text, (long long)id);
    if (id < tok->vocab && tok->token[id].present)
        return tl__fail(err, TL_EFORMAT, "%s: id %lld is given to two tokens, \"%.*s\" and \"%.*s\"; ids must differ",
                        where, (long long)id, (int)(tok->token[id].text_n < 60 ? tok->token[id].text_n : 60),
                        tok->text + tok->token[id].text_at, (int)(n < 60 ? n : 60), text);
    if (!grow((void **)&tok->token, &tok->token_room, (int)id + 1, sizeof *tok->token)) return no_memory(err);
    while (tok->vocab <= id) tok->token[tok->vocab++] = (tl_token){0};
    tl_token *t = &tok->token[id];
    int64_t place = keep_text(tok, text, n);
    if (place < 0) return no_memory(err);
    *t = (tl_token){.text_at = (uint32_t)place,
                    .text_n = (uint32_t)n,
                    .bytes_at = (uint32_t)place,
                    .bytes_n = (uint32_t)n,
                    .present = true};
    /* The spelling is turned back into bytes; what holds any other character stands for its own text. */
    if (!added) {
        uint8_t small[256], *bytes = n <= sizeof small ? small : malloc(n);
        if (!bytes) return no_memory(err);
        size_t count = 0;
        bool spelled = true;
        for (size_t i = 0; i < n && spelled;) {
            uint32_t c;
            i += (size_t)tl__utf8_at((const uint8_t *)text + i, &c);
            int byte = tl__char_byte(c);
            spelled = byte >= 0;
            bytes[count++] = (uint8_t)byte;
        }
        if (spelled && !(count == n && memcmp(bytes, text, n) == 0)) {
            place = keep_text(tok, bytes, count);
            if (place >= 0) t->bytes_at = (uint32_t)place, t->bytes_n = (uint32_t)count;
        }
        if (bytes != small) free(bytes);
        if (place < 0) return no_memory(err);
        t->model = true;
        tok->model_size++;
    }
    if (!make_room(tok, (size_t)tok->model_size + (size_t)tok->n_added)) return no_memory(err);
    tok->id_of_text[probe(tok, text, n)] = (uint32_t)id + 1;
    return 0;
}

int tl__bpe_add_token(tl_tokenizer *tok, const char *text, size_t n, int64_t id, const char *where, tl_error *err) {
    if (tl__bpe_find(tok, text, n) >= 0)
        return tl__fail(err, TL_EFORMAT, "%s: token \"%.*s\" stands twice in the vocabulary", where,
                        (int)(n < 60 ? n : 60), text);
    return put_token(tok, text, n, id, false, where, err);
}

int tl__bpe_add_added(tl_tokenizer *tok, const char *text, size_t n, int64_t id, bool special, bool raw,
                      const char *where, tl_error *err) {
    if (n == 0) return 0; /* the library passes over it, too */
    int known = tl__bpe_find(tok, text, n);
    if (known >= 0 && known != id)
        return tl__fail(err, TL_EFORMAT, "%s: added token \"%.*s\" has id %lld, but %d in the vocabulary", where,
                        (int)(n < 60 ? n : 60), text, (long long)id, known);
    if (known >= 0 && tok->token[known].added)
        return tl__fail(err, TL_EFORMAT, "%s: added token \"%.*s\" stands twice", where, (int)(n < 60 ? n : 60), text);
    if (!grow((void **)&tok->added, &tok->added_room, tok->n_added + 1, sizeof *tok->added)) return no_memory(err);
    if (known < 0) {
        int status = put_token(tok, text, n, id, true, where, err);
        if (status) return status;
    }
    tok->added[tok->n_added++] = (tl_added){.id = (int32_t)id, .special = special, .raw = raw};
    tl_token *t = &tok->token[id];
    t->added = true;
    t->special = special;
    t->bytes_at = t->text_at, t->bytes_n = t->text_n; /* an added token is its text */
    return 0;
}

int tl__bpe_add_merge(tl_tokenizer *tok, int left, int right, int made, tl_error *err) {
    if (!grow((void **)&tok->merge, &tok->merge_room, tok->n_merges + 1, sizeof *tok->merge)) return no_memory(err);
    tok->merge[tok->n_merges++] = (tl_merge){left, right, made};
    return 0;
}

/* ---- what encoding needs ---- */

static bool index_merges(tl_tokenizer *tok) {
    bool again = false;
    tok->pair_slots = 64;
    while (tok->pair_slots < 2 * (size_t)tok->n_merges + 1) tok->pair_slots *= 2;
    tok->pair_slot = malloc(tok->pair_slots * sizeof *tok->pair_slot);
    tok->byte_pair_rank = malloc(65536 * sizeof *tok->byte_pair_rank);
    if (!tok->pair_slot || !tok->byte_pair_rank) return false;
    memset(tok->pair_slot, 0xFF, tok->pair_slots * sizeof *tok->pair_slot);
    size_t mask = tok->pair_slots - 1;
    for (int i = 0; i < tok->n_merges; i++) {
        uint64_t pair = (uint64_t)(uint32_t)tok->merge[i].left << 32 | (uint32_t)tok->merge[i].right;
        size_t at = (pair * 0x9E3779B97F4A7C15u) >> 20 & mask;
        while (tok->pair_slot[at].pair != pair && tok->pair_slot[at].pair != ~(uint64_t)0) at = (at + 1) & mask;
        again |= tok->pair_slot[at].pair == pair;
        tok->pair_slot[at].pair = pair;
        tok->pair_slot[at].rank = i; /* a merge that stands twice has its last rank, as in the library */
    }
    if (again) { /* keep the ranks that count, and number them anew */
        int kept = 0;
        for (int i = 0; i < tok->n_merges; i++)
            if (tl__bpe_rank(tok, tok->merge[i].left, tok->merge[i].right) == i) tok->merge[kept++] = tok->merge[i];
        tok->n_merges = kept;
        free(tok->pair_slot);
        free(tok->byte_pair_rank);
        return index_merges(tok);
    }
    for (int a = 0; a < 256; a++)
        for (int b = 0; b < 256; b++)
            tok->byte_pair_rank[a << 8 | b] = tl__bpe_rank(tok, tok->byte_id[a], tok->byte_id[b]);
    return true;
}

static bool index_bytes(tl_tokenizer *tok) {
    tok->id_of_bytes_size = 1024;
    while (tok->id_of_bytes_size < 2 * (size_t)tok->model_size) tok->id_of_bytes_size *= 2;
    tok->id_of_bytes = calloc(tok->id_of_bytes_size, sizeof *tok->id_of_bytes);
    if (!tok->id_of_bytes) return false;
    for (int id = 0; id < tok->vocab; id++) {
        const tl_token *t = &tok->token[id];
        if (!t->model) continue;
        size_t at = XXH3_64bits(tok->text + t->bytes_at, t->bytes_n) & (tok->id_of_bytes_size - 1);
        while (tok->id_of_bytes[at]) at = (at + 1) & (tok->id_of_bytes_size - 1);
        tok->id_of_bytes[at] = (uint32_t)id + 1;
    }
    return true;
}

/* First byte, then longest, then position. */
static int by_first_byte(const void *pa, const void *pb, void *user) {
    const tl_tokenizer *tok = user;
    int a = *(const int *)pa, b = *(const int *)pb;
    const tl_token *x = &tok->token[tok->added[a].id], *y = &tok->token[tok->added[b].id];
    uint8_t cx = (uint8_t)tok->text[x->text_at], cy = (uint8_t)tok->text[y->text_at];
    if (cx != cy) return cx < cy ? -1 : 1;
    if (x->text_n != y->text_n) return x->text_n > y->text_n ? -1 : 1;
    return a < b ? -1 : a > b;
}

static bool index_added(tl_tokenizer *tok) {
    tok->added_order = malloc(((size_t)tok->n_added + 1) * sizeof *tok->added_order);
    if (!tok->added_order) return false;
    for (int i = 0; i < tok->n_added; i++) tok->added_order[i] = i;
    qsort_r(tok->added_order, (size_t)tok->n_added, sizeof *tok->added_order, by_first_byte, tok);
    int i = 0;
    for (int byte = 0; byte < 256; byte++) {
        tok->added_first[byte] = i;
        while (i < tok->n_added && (uint8_t)tok->text[tok->token[tok->added[tok->added_order[i]].id].text_at] == byte)
            i++;
    }
    tok->added_first[256] = i;
    return true;
}

/* What determines ids, in one canonical string of bytes. */
static void hash_all(tl_tokenizer *tok) {
    tl_hasher *h = tl__hasher_open();
    int32_t head[4] = {(int32_t)tok->split, tok->whole_words, tok->vocab, tok->n_merges};
    tl__hasher_add(h, head, sizeof head);
    for (int id = 0; id < tok->vocab; id++) {
        const tl_token *t = &tok->token[id];
        int32_t about[4] = {t->present, t->model, t->special, (int32_t)t->text_n};
        tl__hasher_add(h, about, sizeof about);
        tl__hasher_add(h, tok->text + t->text_at, t->text_n);
    }
    tl__hasher_add(h, tok->merge, (size_t)tok->n_merges * sizeof *tok->merge);
    for (int i = 0; i < tok->n_added; i++) {
        int32_t about[3] = {tok->added[i].id, tok->added[i].special, tok->added[i].raw};
        tl__hasher_add(h, about, sizeof about);
    }
    tl_hash hash = tl__hasher_close(h);
    memcpy(tok->hash, hash.hex, sizeof tok->hash);
}

int tl__bpe_finish(tl_tokenizer *tok, const char *where, tl_error *err) {
    for (int byte = 0; byte < 256; byte++) {
        char text[4];
        size_t n = (size_t)tl__utf8_put(text, tl__byte_char((uint8_t)byte));
        int id = tl__bpe_find(tok, text, n);
        if (id < 0 || !tok->token[id].model)
            return tl__fail(
                err, TL_EUNSUPPORTED,
                "%s: the vocabulary has no token for byte 0x%02X (\"%.*s\"); only byte-level vocabularies with all "
                "256 bytes are read",
                where, (unsigned)byte, (int)n, text);
        tok->byte_id[byte] = id;
    }
    if (!index_merges(tok) || !index_added(tok) || (tok->whole_words && !index_bytes(tok))) return no_memory(err);
    static const char *const ends[] = {"<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>"};
    for (size_t i = 0; i < sizeof ends / sizeof ends[0] && tok->eos < 0; i++) {
        int id = tl__bpe_find(tok, ends[i], strlen(ends[i]));
        if (id >= 0 && tok->token[id].added) tok->eos = id;
    }
    hash_all(tok);
    return 0;
}

/* ---- opening ---- */

static int open_bytes(tl_tokenizer **out, tl_error *err) {
    tl_tokenizer *tok;
    int status = tl__bpe_new(&tok, err);
    if (status) return status;
    tok->split = TL_SPLIT_GPT4;
    for (int byte = 0; byte < 256 && !status; byte++) {
        char text[4];
        size_t n = (size_t)tl__utf8_put(text, tl__byte_char((uint8_t)byte));
        status = tl__bpe_add_token(tok, text, n, byte, "bytes", err);
    }
    if (!status) status = tl__bpe_add_added(tok, "<|endoftext|>", 13, 256, true, true, "bytes", err);
    if (!status) status = tl__bpe_finish(tok, "bytes", err);
    if (status) tl__tokenizer_close(tok);
    else *out = tok;
    return status;
}

int tl__tokenizer_open(tl_tokenizer **out, const char *spec, tl_error *err) {
    *out = NULL;
    if (strcmp(spec, "bytes") == 0) return open_bytes(out, err);
    char path[PATH_MAX], config[PATH_MAX];
    if (strlen(spec) + sizeof "/tokenizer_config.json" > sizeof path)
        return tl__fail(err, TL_EINVALID, "the tokenizer's path has %zu characters; paths are shorter than %d",
                        strlen(spec), PATH_MAX);
    if (!tl__path_exists(spec))
        return tl__fail(err, TL_ENOTFOUND,
                        "tokenizer %s: no such file or folder; give \"bytes\", a tokenizer.json or a folder "
                        "that holds one",
                        spec);
    snprintf(path, sizeof path, "%s", spec);
    if (tl__path_is_folder(spec)) {
        tl__path_join(path, sizeof path, spec, "tokenizer.json");
        if (!tl__path_exists(path))
            return tl__fail(err, TL_ENOTFOUND,
                            "%s holds no tokenizer.json; only that format is read (a slow tokenizer's "
                            "vocab.json and merges.txt are not)",
                            spec);
    }
    char *json;
    size_t n;
    int status = tl__file_slurp(&json, &n, path, JSON_LIMIT_BYTES, err);
    if (status) return status;
    tl_tokenizer *tok = NULL;
    status = tl__tokenizer_parse(&tok, json, n, path, err);
    if (status) {
        free(json);
        return status;
    }
    tok->json = json;
    tok->json_n = n;
    /* The file beside it tells transformers how to open it: carried along when the tokenizer is saved. */
    char *slash = strrchr(path, '/');
    snprintf(config, sizeof config, "%.*stokenizer_config.json", slash ? (int)(slash - path + 1) : 0, path);
    if (tl__path_exists(config) && tl__file_slurp(&tok->config, &tok->config_n, config, CONFIG_LIMIT_BYTES, NULL) != 0)
        tok->config = NULL;
    *out = tok;
    return 0;
}

/* ---- asking ---- */

int tl__tokenizer_vocab(const tl_tokenizer *tok) {
    return tok->vocab;
}
int tl__tokenizer_eos(const tl_tokenizer *tok) {
    return tok->eos;
}
int tl__tokenizer_id(const tl_tokenizer *tok, const char *text) {
    return tl__bpe_find(tok, text, strlen(text));
}
void tl__tokenizer_hash(const tl_tokenizer *tok, char *hex) {
    memcpy(hex, tok->hash, sizeof tok->hash);
}

const char *tl__tokenizer_bytes(const tl_tokenizer *tok, int32_t id, size_t *n) {
    *n = 0;
    if (id < 0 || id >= tok->vocab || !tok->token[id].present) return "";
    *n = tok->token[id].bytes_n;
    return tok->text + tok->token[id].bytes_at;
}

bool tl__tokenizer_is_special(const tl_tokenizer *tok, int32_t id) {
    return id >= 0 && id < tok->vocab && tok->token[id].special;
}
