/* tokenizer.c — owns a tokenizer's tables: building them from tokens and merges, looking things up, opening and
 * closing. */
#include <assert.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "io/file.h"
#include "io/hash.h"
#include "text/bpe.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

enum { CONFIG_LIMIT_BYTES = 16 << 20, JSON_LIMIT_BYTES = 256 << 20 };

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

int64_t tl__bpe_keep(tl_tokenizer *tok, const void *bytes, size_t n) {
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
    tok->bos = tok->eos = tok->pad = tok->unk = -1;
    tok->id_limit = 1 << 26;
    tok->scratches = tl__encode_scratches_open();
    if (!tok->scratches) {
        free(tok);
        return no_memory(err);
    }
    *out = tok;
    return 0;
}

static void added_index_free(tl_added_index *index) {
    free(index->order);
    free(index->group_end);
}

void tl__tokenizer_close(tl_tokenizer *tok) {
    if (!tok) return;
    tl__encode_scratches_close(tok->scratches);
    for (int i = 0; i < tok->n_norm; i++) tl__norm_free(&tok->norm[i]);
    for (int i = 0; i < tok->n_pre; i++) tl__pre_free(&tok->pre[i]);
    for (int i = 0; i < tok->n_decode; i++) tl__decode_free(&tok->decode[i]);
    free(tok->token);
    free(tok->text);
    free(tok->id_of_text);
    free(tok->id_of_bytes);
    free(tok->merge);
    free(tok->pair_slot);
    free(tok->byte_pair_rank);
    free(tok->char_id);
    free(tok->score);
    free(tok->trie);
    free(tok->added);
    added_index_free(&tok->raw);
    added_index_free(&tok->normal);
    free(tok->json);
    free(tok->config);
    free(tok->chat_template);
    free(tok);
}

/* ---- text → id ---- */

static size_t probe(const tl_tokenizer *tok, const char *text, size_t n, uint64_t hash) {
    size_t mask = tok->id_of_text_size - 1;
    size_t at = hash & mask;
    for (; tok->id_of_text[at]; at = (at + 1) & mask) {
        if ((tok->id_of_text[at] ^ hash) >> 32) continue;
        const tl_token *t = &tok->token[(uint32_t)tok->id_of_text[at] - 1];
        if (t->text_n == n && memcmp(tok->text + t->text_at, text, n) == 0) break;
    }
    return at;
}

int tl__bpe_find(const tl_tokenizer *tok, const char *text, size_t n) {
    if (tok->id_of_text_size == 0) return -1;
    return (int)(uint32_t)tok->id_of_text[probe(tok, text, n, XXH3_64bits(text, n))] - 1;
}

uint64_t tl__bpe_will_add(const tl_tokenizer *tok, const char *text, size_t n) {
    const uint64_t hash = XXH3_64bits(text, n);
    if (tok->id_of_text_size) __builtin_prefetch(&tok->id_of_text[hash & (tok->id_of_text_size - 1)]);
    return hash;
}

/* A table of texts for so many, filled at most by half. */
static bool make_room(tl_tokenizer *tok, size_t texts) {
    if (2 * texts <= tok->id_of_text_size) return true;
    size_t size = tok->id_of_text_size ? tok->id_of_text_size : 1024;
    while (size < 2 * texts) size *= 2;
    uint64_t *table = tl__table_alloc(size * sizeof *table), *old = tok->id_of_text;
    if (!table) return false;
    memset(table, 0, size * sizeof *table);
    size_t old_size = tok->id_of_text_size;
    tok->id_of_text = table;
    tok->id_of_text_size = size;
    for (size_t i = 0; i < old_size; i++) {
        if (!old[i]) continue;
        const tl_token *t = &tok->token[(uint32_t)old[i] - 1];
        const char *text = tok->text + t->text_at;
        tok->id_of_text[probe(tok, text, t->text_n, XXH3_64bits(text, t->text_n))] = old[i];
    }
    free(old);
    return true;
}

int tl__bpe_expect(tl_tokenizer *tok, int tokens, size_t text_bytes, tl_error *err) {
    assert(!tok->text && !tok->token);
    tok->text_room = text_bytes + 16;
    tok->text = tok->text_room < UINT32_MAX ? tl__table_alloc(tok->text_room) : NULL;
    tok->token = tl__table_alloc((size_t)tokens * sizeof *tok->token);
    tok->token_room = tokens;
    return tok->text && tok->token && make_room(tok, (size_t)tokens) ? 0 : no_memory(err);
}

/* Places a token at id, and its text, whose hash this is, in the table; *twice (may be NULL): the text is there already,
 * and nothing was done. */
static int put_token(tl_tokenizer *tok, const char *text, size_t n, uint64_t hash, int64_t id, bool added, bool *twice,
                     const char *where, tl_error *err) {
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
    if (!grow((void **)&tok->token, &tok->token_room, (int)id + 1, sizeof *tok->token) ||
        !make_room(tok, tok->texts + 1))
        return no_memory(err);
    size_t slot = probe(tok, text, n, hash);
    if (tok->id_of_text[slot] && twice) return *twice = true, 0;
    /* A trainer of unigrams may find a special token's text in its data: the later one is meant, as in the library. */
    bool known = tok->id_of_text[slot] != 0;
    if (known && (tok->model != TL_MODEL_UNIGRAM || added))
        return tl__fail(err, TL_EFORMAT, "%s: token \"%.*s\" stands twice in the vocabulary", where,
                        (int)(n < 60 ? n : 60), text);
    int64_t place = tl__bpe_keep(tok, text, n);
    if (place < 0) return no_memory(err);
    while (tok->vocab <= id) tok->token[tok->vocab++] = (tl_token){0};
    tok->token[id] = (tl_token){.text_at = (uint32_t)place,
                                .text_n = (uint32_t)n,
                                .bytes_at = (uint32_t)place,
                                .bytes_n = (uint32_t)n,
                                .present = true,
                                .model = !added};
    tok->id_of_text[slot] = (hash >> 32) << 32 | (uint32_t)(id + 1);
    tok->texts += !known;
    tok->again += known;
    tok->model_size += !added;
    return 0;
}

int tl__bpe_add_token(tl_tokenizer *tok, const char *text, size_t n, int64_t id, const char *where, tl_error *err) {
    return put_token(tok, text, n, XXH3_64bits(text, n), id, false, NULL, where, err);
}

int tl__bpe_add_or_nameless(tl_tokenizer *tok, const char *text, size_t n, uint64_t hash, int64_t id, bool *nameless,
                            const char *where, tl_error *err) {
    *nameless = n == 0;
    int status = *nameless ? 0 : put_token(tok, text, n, hash, id, false, nameless, where, err);
    if (status || !*nameless) return status;
    if (id < 0 || id >= tok->id_limit || !grow((void **)&tok->token, &tok->token_room, (int)id + 1, sizeof *tok->token))
        return no_memory(err);
    int64_t place = tl__bpe_keep(tok, text, n);
    if (place < 0) return no_memory(err);
    while (tok->vocab <= id) tok->token[tok->vocab++] = (tl_token){0};
    tok->token[id] = (tl_token){.text_at = (uint32_t)place,
                                .text_n = (uint32_t)n,
                                .bytes_at = (uint32_t)place,
                                .bytes_n = (uint32_t)n,
                                .present = true};
    return 0;
}

int tl__bpe_add_added(tl_tokenizer *tok, const char *text, size_t n, int64_t id, tl_added about, const char *where,
                      tl_error *err) {
    if (n == 0) return 0; /* the library passes over it, too */
    int known = tl__bpe_find(tok, text, n);
    if (known >= 0 && known != id)
        return tl__fail(err, TL_EFORMAT, "%s: added token \"%.*s\" has id %lld, but %d in the vocabulary", where,
                        (int)(n < 60 ? n : 60), text, (long long)id, known);
    if (known >= 0 && tok->token[known].added)
        return tl__fail(err, TL_EFORMAT, "%s: added token \"%.*s\" stands twice", where, (int)(n < 60 ? n : 60), text);
    if (!grow((void **)&tok->added, &tok->added_room, tok->n_added + 1, sizeof *tok->added)) return no_memory(err);
    if (known < 0) {
        int status = put_token(tok, text, n, XXH3_64bits(text, n), id, true, NULL, where, err);
        if (status) return status;
    }
    tl_token *t = &tok->token[id];
    t->added = true;
    t->special = about.special;
    about.id = (int32_t)id;
    about.key_at = t->text_at, about.key_n = t->text_n;
    tok->added[tok->n_added++] = about;
    return 0;
}

void tl__bpe_set_plain(tl_tokenizer *tok, tl_split split) {
    tok->model = TL_MODEL_BYTES;
    tok->pre[0] = (tl_pre){.kind = TL_PRE_SCAN, .split = split};
    tok->n_pre = 1;
    tok->decode[0] = (tl_decode){.kind = TL_DECODE_BYTE_LEVEL};
    tok->n_decode = 1;
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
    tok->pair_slot = tl__table_alloc(tok->pair_slots * sizeof *tok->pair_slot);
    if (!tok->pair_slot) return false;
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
        return index_merges(tok);
    }
    if (tok->model != TL_MODEL_BYTES) return true;
    tok->byte_pair_rank = malloc(65536 * sizeof *tok->byte_pair_rank);
    if (!tok->byte_pair_rank) return false;
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

/* First byte, then longest, then bytes, then position. */
static int by_first_byte(const void *pa, const void *pb, void *user) {
    const tl_tokenizer *tok = user;
    int a = *(const int *)pa, b = *(const int *)pb;
    const tl_added *x = &tok->added[a], *y = &tok->added[b];
    const uint8_t *kx = (const uint8_t *)tok->text + x->key_at, *ky = (const uint8_t *)tok->text + y->key_at;
    if (kx[0] != ky[0]) return kx[0] < ky[0] ? -1 : 1;
    if (x->key_n != y->key_n) return x->key_n > y->key_n ? -1 : 1;
    int order = memcmp(kx, ky, x->key_n);
    return order ? order : a < b ? -1 : a > b;
}

static bool index_added(tl_tokenizer *tok, tl_added_index *index, bool raw) {
    index->order = malloc(((size_t)tok->n_added + 1) * sizeof *index->order);
    index->group_end = malloc(((size_t)tok->n_added + 1) * sizeof *index->group_end);
    if (!index->order || !index->group_end) return false;
    for (int i = 0; i < tok->n_added; i++)
        if (tok->added[i].raw == raw && tok->added[i].key_n) index->order[index->n++] = i;
    qsort_r(index->order, (size_t)index->n, sizeof *index->order, by_first_byte, tok);
    for (int i = index->n - 1; i >= 0; i--) {
        const tl_added *here = &tok->added[index->order[i]], *next = i + 1 < index->n ? &tok->added[index->order[i + 1]] : NULL;
        bool same = next && next->key_n == here->key_n && tok->text[next->key_at] == tok->text[here->key_at];
        index->group_end[i] = same ? index->group_end[i + 1] : i + 1;
    }
    int i = 0;
    for (int byte = 0; byte < 256; byte++) {
        index->first[byte] = i;
        while (i < index->n && (uint8_t)tok->text[tok->added[index->order[i]].key_at] == byte) i++;
    }
    index->first[256] = i;
    return true;
}

/* Tokens that are matched on the normalised text are so by their own text normalised. */
static bool normalize_added(tl_tokenizer *tok) {
    tl_textbuf a = {0}, b = {0};
    bool fine = true;
    for (int i = 0; i < tok->n_added && tok->n_norm && fine; i++) {
        tl_added *about = &tok->added[i];
        if (about->raw) continue;
        a.n = b.n = 0;
        a.most = b.most = tl__textbuf_most(about->key_n);
        tl__textbuf_add(&a, tok->text + about->key_at, about->key_n);
        for (int k = 0; k < tok->n_norm; k++) {
            bool kept;
            tl__normalize(&tok->norm[k], (uint8_t *)a.bytes, a.n, &b, &kept);
            tl_textbuf other = a;
            a = b, b = other;
        }
        int64_t place = a.failed || b.failed ? -1 : tl__bpe_keep(tok, a.bytes, a.n);
        fine = place >= 0;
        about->key_at = (uint32_t)place, about->key_n = (uint32_t)a.n;
    }
    free(a.bytes);
    free(b.bytes);
    return fine;
}

/* ---- models over characters ---- */

static const uint8_t mark[3] = {0xE2, 0x96, 0x81}; /* ▁ */

/* Where a token has ▁ inside, no piece may be cut before it. */
static void note_marks(tl_tokenizer *tok, const uint8_t *s, size_t n) {
    for (size_t i = 1; i + sizeof mark <= n; i++)
        if (s[i] == mark[0] && memcmp(s + i, mark, sizeof mark) == 0) tok->keeps[s[i - 1]] = true;
}

/* Whether a piece may be cut before ▁ without changing an id: no token, and so no merge, lies across. */
static void find_cuts(tl_tokenizer *tok) {
    tok->cuts = tok->char_id[0x2581] >= 0 && tok->model != TL_MODEL_UNIGRAM;
    /* ▁ itself ends as its last byte does: a run of them stays together, and no other character is cut from it. */
    tok->keeps[mark[2]] = true;
    /* A merge of what stands for other text than its own (a byte, the unknown) would not be seen in the texts. */
    for (int i = 0; i < tok->n_merges && tok->cuts; i++) {
        int32_t parts[2] = {tok->merge[i].left, tok->merge[i].right};
        for (int k = 0; k < 2; k++) {
            const tl_token *t = &tok->token[parts[k]];
            if (parts[k] == tok->unk || (t->text_n == 6 && memcmp(tok->text + t->text_at, "<0x", 3) == 0))
                tok->cuts = false;
        }
    }
}

static bool index_chars(tl_tokenizer *tok) {
    tok->char_id = malloc(65536 * sizeof *tok->char_id);
    if (!tok->char_id) return false;
    memset(tok->char_id, 0xFF, 65536 * sizeof *tok->char_id);
    memset(tok->byte_id, 0xFF, sizeof tok->byte_id);
    for (int id = 0; id < tok->vocab; id++) {
        const tl_token *t = &tok->token[id];
        const uint8_t *s = (const uint8_t *)tok->text + t->text_at;
        if (t->present) note_marks(tok, s, t->text_n);
        if (!t->model) continue;
        if (t->text_n > tok->longest) tok->longest = t->text_n;
        if (t->text_n == 0 || t->text_n > 3) continue;
        uint32_t c;
        if (tl__utf8_check(s, t->text_n, NULL, NULL) == (int)t->text_n) tl__utf8_at(s, &c), tok->char_id[c] = id;
    }
    for (int byte = 0; byte < 256; byte++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)byte);
        int id = tl__bpe_find(tok, name, 6);
        if (id >= 0 && tok->token[id].model) tok->byte_id[byte] = id;
    }
    find_cuts(tok);
    return true;
}

/* The 256 bytes' tokens; false: one is missing. */
static bool find_bytes(tl_tokenizer *tok) {
    for (int byte = 0; byte < 256; byte++) {
        char text[4];
        size_t n = (size_t)tl__utf8_put(text, tl__byte_char((uint8_t)byte));
        int id = tl__bpe_find(tok, text, n);
        if (id < 0 || !tok->token[id].model) return false;
        tok->byte_id[byte] = id;
    }
    return true;
}

int tl__bpe_finish(tl_tokenizer *tok, const char *where, tl_error *err) {
    if (tok->model == TL_MODEL_BYTES && !find_bytes(tok)) {
        /* What is not there is unknown or vanishes: spell the bytes, and merge characters. */
        if (tok->n_pre == TL_STEPS_MOST)
            return tl__fail(err, TL_EUNSUPPORTED, "%s: more than %d pre-tokenizers are not supported", where,
                            TL_STEPS_MOST - 1);
        if (!tok->mapped) tok->pre[tok->n_pre++] = (tl_pre){.kind = TL_PRE_BYTES};
        tok->mapped = false;
        tok->model = TL_MODEL_CHARS;
    }
    tok->plain = tok->model == TL_MODEL_BYTES && tok->n_norm == 0 && tok->n_pre == 1 && tok->pre[0].kind == TL_PRE_SCAN;
    bool fine = index_merges(tok) && normalize_added(tok) && index_added(tok, &tok->raw, true) &&
                index_added(tok, &tok->normal, false);
    if (fine && tok->model != TL_MODEL_BYTES) fine = index_chars(tok);
    int status = fine ? 0 : no_memory(err);
    if (!status && tok->model == TL_MODEL_UNIGRAM) status = tl__unigram_finish(tok, where, err);
    if (!status) status = tl__decode_finish(tok, where, err);
    if (!status && tok->model == TL_MODEL_BYTES && tok->whole_words && !index_bytes(tok)) status = no_memory(err);
    static const char *const ends[] = {"<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>"};
    for (size_t i = 0; i < sizeof ends / sizeof ends[0] && tok->eos < 0; i++) {
        int id = tl__bpe_find(tok, ends[i], strlen(ends[i]));
        if (id >= 0 && tok->token[id].added) tok->eos = id;
    }
    if (tok->bos < 0 && tok->n_prefix) tok->bos = tok->prefix[0];
    return status;
}

/* ---- opening ---- */

static int open_bytes(tl_tokenizer **out, tl_error *err) {
    tl_tokenizer *tok;
    int status = tl__bpe_new(&tok, err);
    if (status) return status;
    tl__bpe_set_plain(tok, TL_SPLIT_GPT4);
    for (int byte = 0; byte < 256 && !status; byte++) {
        char text[4];
        size_t n = (size_t)tl__utf8_put(text, tl__byte_char((uint8_t)byte));
        status = tl__bpe_add_token(tok, text, n, byte, "bytes", err);
    }
    if (!status) status = tl__bpe_add_added(tok, "<|endoftext|>", 13, 256, (tl_added){.special = true, .raw = true}, "bytes", err);
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
                        "tokenizer %s: no such file or folder; give \"bytes\", a tokenizer.json, a GGUF file or a folder "
                        "that holds one",
                        spec);
    snprintf(path, sizeof path, "%s", spec);
    if (!tl__path_is_folder(spec) && tl__gguf_is(spec)) {
        tl_gguf *gguf;
        int failed = tl__gguf_open(&gguf, spec, err);
        if (failed) return failed;
        failed = tl__tokenizer_from_gguf(out, gguf, err);
        tl__gguf_close(gguf);
        return failed;
    }
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
int tl__tokenizer_bos(const tl_tokenizer *tok) {
    return tok->bos;
}
bool tl__tokenizer_adds_bos(const tl_tokenizer *tok) {
    return tok->n_prefix > 0;
}
bool tl__tokenizer_adds_eos(const tl_tokenizer *tok) {
    return tok->n_suffix > 0;
}

static void hash_text(tl_hasher *h, const char *text, size_t n) {
    uint64_t length = n;
    tl__hasher_add(h, &length, sizeof length);
    if (n) tl__hasher_add(h, text, n);
}

static void hash_pattern(tl_hasher *h, const tl_pattern *p) {
    size_t n = 0;
    bool regex = false;
    const char *source = p ? tl__pattern_source(p, &n, &regex) : "";
    int32_t about = regex;
    tl__hasher_add(h, &about, sizeof about);
    hash_text(h, source, n);
}

/* What determines ids beyond what byte-level BPE after one scanner has: nothing is added for that, the hashes of which
 * stand in shards and runs. */
static void hash_steps(const tl_tokenizer *tok, tl_hasher *h) {
    int32_t model[8] = {(int32_t)tok->model, tok->mapped, tok->unk, tok->fuse_unk, tok->byte_fallback, tok->n_norm, tok->n_pre};
    tl__hasher_add(h, model, sizeof model);
    for (int i = 0; i < tok->n_norm; i++) {
        const tl_norm *step = &tok->norm[i];
        int32_t about[4] = {(int32_t)step->kind, step->left, step->right};
        tl__hasher_add(h, about, sizeof about);
        hash_text(h, step->text, step->text_n);
        hash_pattern(h, step->pattern);
        size_t n = 0;
        bool whole = false;
        const uint8_t *map = step->map ? tl__charsmap_bytes(step->map, &n, &whole) : NULL;
        hash_text(h, (const char *)map, n);
        about[0] = whole;
        tl__hasher_add(h, about, sizeof about);
    }
    for (int i = 0; i < tok->n_pre; i++) {
        const tl_pre *step = &tok->pre[i];
        int32_t about[6] = {(int32_t)step->kind, (int32_t)step->split, (int32_t)step->behavior,
                            step->invert, (int32_t)step->prepend, step->cut};
        tl__hasher_add(h, about, sizeof about);
        hash_pattern(h, step->pattern);
        hash_text(h, step->name, step->name ? strlen(step->name) : 0);
    }
    if (tok->score) tl__hasher_add(h, tok->score, (size_t)tok->score_n * sizeof *tok->score);
}

/* In one canonical string of bytes. */
void tl__tokenizer_hash(const tl_tokenizer *tok, char *hex) {
    tl_hasher *h = tl__hasher_open();
    int32_t head[4] = {tok->plain ? (int32_t)tok->pre[0].split : -1, tok->whole_words, tok->vocab, tok->n_merges};
    tl__hasher_add(h, head, sizeof head);
    for (int id = 0; id < tok->vocab; id++) {
        const tl_token *t = &tok->token[id];
        int32_t about[4] = {t->present, t->model, t->special, (int32_t)t->text_n};
        tl__hasher_add(h, about, sizeof about);
        tl__hasher_add(h, tok->text + t->text_at, t->text_n);
    }
    tl__hasher_add(h, tok->merge, (size_t)tok->n_merges * sizeof *tok->merge);
    bool flags = false;
    for (int i = 0; i < tok->n_added; i++) {
        const tl_added *a = &tok->added[i];
        int32_t about[3] = {a->id, a->special, a->raw};
        tl__hasher_add(h, about, sizeof about);
        flags |= a->single_word || a->lstrip || a->rstrip;
    }
    for (int i = 0; i < tok->n_added && flags; i++) {
        const tl_added *a = &tok->added[i];
        int32_t about[3] = {a->single_word, a->lstrip, a->rstrip};
        tl__hasher_add(h, about, sizeof about);
    }
    if (!tok->plain) hash_steps(tok, h);
    tl_hash hash = tl__hasher_close(h);
    memcpy(hex, hash.hex, sizeof hash.hex);
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
