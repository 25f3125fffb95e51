/* tokenizer_gguf.c — owns the tokenizer in GGUF metadata (tokenizer.ggml.*): reads it into the same steps and tables as
 * tokenizer.json, and writes it.
 *
 * Models: gpt2 (byte-level BPE), llama (SentencePiece's BPE, by scores), gemma4 (the same by merges), t5 (unigram). Added
 * tokens are the control, unknown and user-defined ones, found in the text as it is. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "text/gguf_presplit.h"

enum { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER_DEFINED, TYPE_UNUSED, TYPE_BYTE };

#define MARK "\xE2\x96\x81"
#define TRIMMED "\\A +| +\\z"

typedef struct reader {
    tl_tokenizer *tok;
    const tl_gguf *gguf;
    const char *where;
    tl_error *err;
} reader;

/* ---- reading ---- */

/* An array of `count` (−1: any) elements; strings or numbers. NULL and 0: not there. */
static int get_array(const reader *r, const char *key, bool strings, int64_t count, const tl_gguf_value **out) {
    const tl_gguf_value *v = *out = tl__gguf_find(r->gguf, key);
    if (!v) return 0;
    if (v->kind != TL_GGUF_ARRAY || (v->of == TL_GGUF_STRING) != strings || v->of == TL_GGUF_ARRAY)
        return tl__fail(r->err, TL_EFORMAT, "%s: %s is %s%s; an array of %s was expected: check the file", r->where, key,
                        v->kind == TL_GGUF_ARRAY ? "an array of kind " : "of kind ", tl__gguf_kind_name(v->of),
                        strings ? "strings" : "numbers");
    if (count >= 0 && v->count != count)
        return tl__fail(r->err, TL_EFORMAT, "%s: %s has %lld elements where tokenizer.ggml.tokens has %lld", r->where, key,
                        (long long)v->count, (long long)count);
    return 0;
}

static int get_flag(const reader *r, const char *key, bool usual, bool *out) {
    const tl_gguf_value *v = tl__gguf_find(r->gguf, key);
    int64_t value = usual;
    if (v && (v->kind != TL_GGUF_BOOL || !tl__gguf_int(v, 0, &value)))
        return tl__fail(r->err, TL_EFORMAT, "%s: %s is of kind %s; a bool was expected: check the file", r->where, key,
                        tl__gguf_kind_name(v->kind));
    *out = value != 0;
    return 0;
}

static int get_id(const reader *r, const char *key, int usual, int *out) {
    const tl_gguf_value *v = tl__gguf_find(r->gguf, key);
    int64_t value = usual < r->tok->vocab ? usual : -1;
    if (v && (v->kind == TL_GGUF_ARRAY || v->kind == TL_GGUF_STRING || !tl__gguf_int(v, 0, &value)))
        return tl__fail(r->err, TL_EFORMAT, "%s: %s is of kind %s; a whole number was expected: check the file", r->where, key,
                        tl__gguf_kind_name(v->kind));
    if (value == UINT32_MAX) value = -1; /* none, as some writers put it */
    if (value < -1 || value >= r->tok->vocab)
        return tl__fail(r->err, TL_EFORMAT, "%s: %s is %lld; ids are 0 to %d", r->where, key, (long long)value,
                        r->tok->vocab - 1);
    *out = (int)value;
    return 0;
}

static tl_gguf_text get_text(const reader *r, const char *key) {
    const tl_gguf_value *v = tl__gguf_find(r->gguf, key);
    return v && v->kind == TL_GGUF_STRING ? v->texts[0] : (tl_gguf_text){"", 0};
}

static bool text_is(tl_gguf_text text, const char *want) {
    return text.n == strlen(want) && memcmp(text.bytes, want, text.n) == 0;
}

static int read_tokens(const reader *r) {
    tl_tokenizer *tok = r->tok;
    const tl_gguf_value *tokens, *types, *scores;
    int status = get_array(r, "tokenizer.ggml.tokens", true, -1, &tokens);
    if (!status && (!tokens || tokens->count == 0 || tokens->count >= 1 << 26 || tokens->count < 0))
        return tl__fail(r->err, TL_EFORMAT, "%s: tokenizer.ggml.tokens is %s; a vocabulary is needed", r->where,
                        tokens ? "empty or too long" : "missing");
    if (!status) status = get_array(r, "tokenizer.ggml.token_type", false, tokens->count, &types);
    if (!status) status = get_array(r, "tokenizer.ggml.scores", false, tokens->count, &scores);
    if (status) return status;
    bool scored = tok->model == TL_MODEL_SCORES || tok->model == TL_MODEL_UNIGRAM;
    if (scored && !scores) return tl__fail(r->err, TL_EFORMAT, "%s: tokenizer.ggml.scores is missing", r->where);
    int n = (int)tokens->count;
    size_t bytes = 0;
    for (int id = 0; id < n; id++) bytes += tokens->texts[id].n;
    status = tl__bpe_expect(tok, n, 2 * bytes, r->err);
    if (scored && !status) {
        tok->score = tl__table_alloc((size_t)n * sizeof *tok->score); /* each is written below, or there is no tokenizer */
        tok->score_n = n;
        if (!tok->score) status = tl__fail(r->err, TL_ENOMEM, "%s: not enough memory for %d scores", r->where, n);
    }
    enum { AHEAD = 16 };
    uint64_t hash[AHEAD]; /* of the next tokens */
    for (int id = 0; id < n && id < AHEAD; id++)
        hash[id] = tl__bpe_will_add(tok, tokens->texts[id].bytes, tokens->texts[id].n);
    for (int id = 0; id < n && !status; id++) {
        tl_gguf_text text = tokens->texts[id];
        int64_t type = TYPE_NORMAL;
        const uint64_t here = hash[id % AHEAD];
        if (id + AHEAD < n)
            hash[id % AHEAD] = tl__bpe_will_add(tok, tokens->texts[id + AHEAD].bytes, tokens->texts[id + AHEAD].n);
        if (types && !tl__gguf_int(types, id, &type))
            return tl__fail(r->err, TL_EFORMAT, "%s: tokenizer.ggml.token_type %d is not a whole number", r->where, id);
        if (scored && (!tl__gguf_real(scores, id, &tok->score[id]) || !isfinite((float)tok->score[id])))
            return tl__fail(r->err, TL_EFORMAT, "%s: tokenizer.ggml.scores %d is not a finite number", r->where, id);
        if (tl__utf8_valid((const uint8_t *)text.bytes, text.n) != text.n)
            return tl__fail(r->err, TL_EFORMAT, "%s: token %d is not valid UTF-8; convert the model anew", r->where, id);
        bool twice;
        status = tl__bpe_add_or_nameless(tok, text.bytes, text.n, here, id, &twice, r->where, r->err);
        if (status) break;
        if (twice) {
            tok->token[id].special = type == TYPE_CONTROL;
            continue;
        }
        if (type == TYPE_CONTROL || type == TYPE_UNKNOWN || type == TYPE_USER_DEFINED)
            status = tl__bpe_add_added(tok, text.bytes, text.n, id,
                                       (tl_added){.special = type != TYPE_USER_DEFINED, .raw = true}, r->where, r->err);
        if (tok->model == TL_MODEL_UNIGRAM && type == TYPE_USER_DEFINED) tok->score[id] = 0;
        tok->token[id].unused = tok->model == TL_MODEL_UNIGRAM && type == TYPE_UNUSED;
        if (tok->model == TL_MODEL_UNIGRAM && (type == TYPE_CONTROL || type == TYPE_UNKNOWN || type == TYPE_BYTE))
            tok->token[id].model = false;
    }
    return status;
}

static int read_merges(const reader *r) {
    tl_tokenizer *tok = r->tok;
    const tl_gguf_value *merges;
    int status = get_array(r, "tokenizer.ggml.merges", true, -1, &merges);
    if (!status && !merges) return tl__fail(r->err, TL_EFORMAT, "%s: tokenizer.ggml.merges is missing", r->where);
    tl_textbuf joined = {0};
    for (int64_t i = 0; !status && i < merges->count; i++) {
        tl_gguf_text text = merges->texts[i];
        const char *gap = text.n > 2 ? memchr(text.bytes + 1, ' ', text.n - 1) : NULL;
        size_t left_n = gap ? (size_t)(gap - text.bytes) : 0, right_n = gap ? text.n - left_n - 1 : 0;
        joined.n = 0;
        tl__textbuf_add(&joined, text.bytes, left_n);
        if (gap) tl__textbuf_add(&joined, gap + 1, right_n);
        if (joined.failed) {
            status = tl__fail(r->err, TL_ENOMEM, "%s: not enough memory for a merge of %zu bytes", r->where, text.n);
            break;
        }
        int left = tl__bpe_find(tok, text.bytes, left_n), right = right_n ? tl__bpe_find(tok, gap + 1, right_n) : -1;
        int made = tl__bpe_find(tok, joined.bytes, joined.n);
        if (left < 0 || right < 0 || made < 0)
            status = tl__fail(r->err, TL_EFORMAT,
                              "%s: tokenizer.ggml.merges %lld, \"%.*s\", is not of two tokens that make a third", r->where,
                              (long long)i, (int)(text.n < 60 ? text.n : 60), text.bytes);
        else status = tl__bpe_add_merge(tok, left, right, made, r->err);
    }
    free(joined.bytes);
    return status;
}

static int add_replace(const reader *r, const char *from, const char *to, bool regex) {
    tl_norm step = {.kind = TL_NORM_REPLACE, .text = strdup(to), .text_n = strlen(to)};
    int status = regex ? tl__pattern_regex(&step.pattern, from, r->where, r->err)
                       : tl__pattern_literal(&step.pattern, from, strlen(from), r->err);
    if (!step.text && !status) status = tl__fail(r->err, TL_ENOMEM, "%s: not enough memory", r->where);
    if (status) tl__norm_free(&step);
    else r->tok->norm[r->tok->n_norm++] = step;
    return status;
}

static int add_prepend(const reader *r) {
    tl_norm step = {.kind = TL_NORM_PREPEND, .text = strdup(MARK), .text_n = strlen(MARK)};
    if (!step.text) return tl__fail(r->err, TL_ENOMEM, "%s: not enough memory", r->where);
    r->tok->norm[r->tok->n_norm++] = step;
    return 0;
}

/* ▁ becomes a space again, bytes bytes, and the space that was put before the text goes. */
static int add_mark_decoder(const reader *r, bool prefix) {
    tl_tokenizer *tok = r->tok;
    tl_decode replace = {.kind = TL_DECODE_REPLACE, .text = strdup(" "), .text_n = 1};
    int status = tl__pattern_literal(&replace.pattern, MARK, strlen(MARK), r->err);
    tok->decode[tok->n_decode++] = replace;
    tok->decode[tok->n_decode++] = (tl_decode){.kind = TL_DECODE_BYTE_FALLBACK};
    tok->decode[tok->n_decode++] = (tl_decode){.kind = TL_DECODE_FUSE};
    char *space = prefix ? strdup(" ") : NULL;
    if (space) tok->decode[tok->n_decode++] = (tl_decode){.kind = TL_DECODE_STRIP, .text = space, .text_n = 1, .left = 1};
    if (!status && (!replace.text || (prefix && !space)))
        status = tl__fail(r->err, TL_ENOMEM, "%s: not enough memory", r->where);
    return status;
}

/* sentencepiece's normalisation: its map of characters, spaces in a row as one and none at the ends, ▁ for spaces. */
static int read_marks(const reader *r) {
    tl_tokenizer *tok = r->tok;
    bool unigram = tok->model == TL_MODEL_UNIGRAM, prefix, squeeze;
    int status = get_flag(r, "tokenizer.ggml.add_space_prefix", tok->model != TL_MODEL_CHARS, &prefix);
    if (!status) status = get_flag(r, "tokenizer.ggml.remove_extra_whitespaces", false, &squeeze);
    const tl_gguf_value *map = NULL;
    if (!status) status = get_array(r, "tokenizer.ggml.precompiled_charsmap", false, -1, &map);
    if (!status && map && map->count && (map->of == TL_GGUF_U8 || map->of == TL_GGUF_I8)) {
        tl_norm step = {.kind = TL_NORM_CHARSMAP};
        status = tl__charsmap_open(&step.map, map->data, (size_t)map->count, true, r->where, r->err);
        if (!status) tok->norm[tok->n_norm++] = step;
    }
    /* llama.cpp squeezes spaces in unigram models only. */
    if (!status && unigram && squeeze) status = add_replace(r, TRIMMED, "", true);
    if (!status && unigram && squeeze) status = add_replace(r, " +", " ", true);
    if (!status && (prefix || (unigram && squeeze))) status = add_prepend(r);
    if (!status) status = add_replace(r, " ", MARK, false);
    return status ? status : add_mark_decoder(r, prefix);
}

static int read_specials(const reader *r, bool adds_bos, bool adds_eos) {
    tl_tokenizer *tok = r->tok;
    bool marks = tok->model == TL_MODEL_SCORES;
    int status = get_id(r, "tokenizer.ggml.bos_token_id", marks ? 1 : -1, &tok->bos);
    if (!status) status = get_id(r, "tokenizer.ggml.eos_token_id", marks ? 2 : -1, &tok->eos);
    if (!status) status = get_id(r, "tokenizer.ggml.unknown_token_id", marks ? 0 : -1, &tok->unk);
    if (!status) status = get_id(r, "tokenizer.ggml.padding_token_id", -1, &tok->pad);
    if (!status) status = get_flag(r, "tokenizer.ggml.add_bos_token", adds_bos, &adds_bos);
    if (!status) status = get_flag(r, "tokenizer.ggml.add_eos_token", adds_eos, &adds_eos);
    if (adds_bos && tok->bos >= 0) tok->prefix[tok->n_prefix++] = tok->bos;
    if (adds_eos && tok->eos >= 0) tok->suffix[tok->n_suffix++] = tok->eos;
    tl_gguf_text chat = get_text(r, "tokenizer.chat_template");
    if (!status && chat.n) {
        tok->chat_template = malloc(chat.n + 1);
        if (!tok->chat_template) return tl__fail(r->err, TL_ENOMEM, "%s: not enough memory", r->where);
        memcpy(tok->chat_template, chat.bytes, tok->chat_template_n = chat.n);
        tok->chat_template[chat.n] = 0;
    }
    return status;
}

static int read_all(const reader *r) {
    tl_tokenizer *tok = r->tok;
    tl_gguf_text model = get_text(r, "tokenizer.ggml.model"), pre = get_text(r, "tokenizer.ggml.pre");
    bool adds_bos = false, adds_eos = false, merges = true;
    int status = 0;
    if (text_is(model, "gpt2")) {
        tok->model = TL_MODEL_BYTES;
        tok->decode[tok->n_decode++] = (tl_decode){.kind = TL_DECODE_BYTE_LEVEL};
        status = pre.n ? tl__gguf_presplit(tok, pre.bytes, pre.n, &adds_bos, r->where, r->err)
                       : tl__gguf_presplit(tok, "default", 7, &adds_bos, r->where, r->err);
    } else if (text_is(model, "llama")) {
        tok->model = TL_MODEL_SCORES;
        adds_bos = true;
        merges = false;
    } else if (text_is(model, "gemma4")) {
        tok->model = TL_MODEL_CHARS;
        adds_bos = true;
    } else if (text_is(model, "t5")) {
        tok->model = TL_MODEL_UNIGRAM;
        tok->fuse_unk = true;
        adds_eos = true;
        merges = false;
    } else {
        return tl__fail(r->err, TL_EUNSUPPORTED,
                        "%s: tokenizer.ggml.model is \"%.*s\"; gpt2, llama, gemma4 and t5 are supported", r->where,
                        (int)(model.n < 60 ? model.n : 60), model.bytes);
    }
    tok->byte_fallback = tok->model == TL_MODEL_SCORES || tok->model == TL_MODEL_CHARS;
    if (!status && tok->model != TL_MODEL_BYTES) status = read_marks(r);
    if (!status) status = read_tokens(r);
    if (!status && merges) status = read_merges(r);
    if (!status) status = read_specials(r, adds_bos, adds_eos);
    if (tok->model == TL_MODEL_BYTES) tok->unk = -1; /* bytes are never unknown */
    return status ? status : tl__bpe_finish(tok, r->where, r->err);
}

int tl__tokenizer_from_gguf(tl_tokenizer **out, const tl_gguf *gguf, tl_error *err) {
    *out = NULL;
    reader r = {.gguf = gguf, .where = tl__gguf_path(gguf), .err = err};
    int status = tl__bpe_new(&r.tok, err);
    if (status) return status;
    status = read_all(&r);
    if (status) tl__tokenizer_close(r.tok);
    else *out = r.tok;
    return status;
}

/* ---- writing ---- */

typedef struct writer {
    const tl_tokenizer *tok;
    int rows; /* ≥ the tokenizer's ids */
    tl_gguf_out *out;
    tl_error *err;
    int status;
} writer;

static void put_text(writer *w, const char *key, const char *text, size_t n) {
    tl_gguf_text value = {text, n};
    if (!w->status) w->status = tl__gguf_put(w->out, key, TL_GGUF_STRING, false, NULL, &value, 1, w->err);
}

static void put_flag(writer *w, const char *key, bool value) {
    uint8_t byte = value;
    if (!w->status) w->status = tl__gguf_put(w->out, key, TL_GGUF_BOOL, false, &byte, NULL, 1, w->err);
}

static void put_id(writer *w, const char *key, int id) {
    uint32_t value = (uint32_t)id;
    if (!w->status && id >= 0) w->status = tl__gguf_put(w->out, key, TL_GGUF_U32, false, &value, NULL, 1, w->err);
}

static void put_tokens(writer *w) {
    const tl_tokenizer *tok = w->tok;
    size_t n = (size_t)w->rows;
    tl_gguf_text *texts = malloc(n * sizeof *texts);
    int32_t *types = malloc(n * sizeof *types);
    char(*names)[24] = malloc(n * sizeof *names); /* of gaps, which GGUF cannot have */
    if (!texts || !types || !names) {
        w->status = tl__fail(w->err, TL_ENOMEM, "not enough memory to write %d tokens", w->rows);
    } else {
        for (int id = 0; id < w->rows; id++) {
            static const tl_token none;
            const tl_token *t = id < tok->vocab ? &tok->token[id] : &none;
            int named = snprintf(names[id], sizeof names[id], "[PAD%d]", id);
            texts[id] = t->present ? (tl_gguf_text){tok->text + t->text_at, t->text_n} : (tl_gguf_text){names[id], (size_t)named};
            bool byte = t->byte && !t->added;
            types[id] = !t->present || t->unused   ? TYPE_UNUSED
                        : id == tok->unk           ? TYPE_UNKNOWN
                        : t->added && t->special   ? TYPE_CONTROL
                        : t->added                 ? TYPE_USER_DEFINED
                        : byte                     ? TYPE_BYTE
                                                   : TYPE_NORMAL;
        }
        w->status = tl__gguf_put(w->out, "tokenizer.ggml.tokens", TL_GGUF_STRING, true, NULL, texts, w->rows, w->err);
        if (!w->status)
            w->status = tl__gguf_put(w->out, "tokenizer.ggml.token_type", TL_GGUF_I32, true, types, NULL, w->rows, w->err);
    }
    free(texts);
    free(types);
    free(names);
}

static void put_merges(writer *w) {
    const tl_tokenizer *tok = w->tok;
    tl_textbuf all = {0};
    size_t n = (size_t)tok->n_merges;
    tl_gguf_text *texts = malloc((n + 1) * sizeof *texts);
    for (size_t i = 0; i < n && texts; i++) {
        const tl_token *a = &tok->token[tok->merge[i].left], *b = &tok->token[tok->merge[i].right];
        texts[i].n = (size_t)a->text_n + b->text_n + 1;
        tl__textbuf_add(&all, tok->text + a->text_at, a->text_n);
        tl__textbuf_add(&all, " ", 1);
        tl__textbuf_add(&all, tok->text + b->text_at, b->text_n);
    }
    if (!texts || all.failed) {
        w->status = tl__fail(w->err, TL_ENOMEM, "not enough memory to write %d merges", tok->n_merges);
    } else {
        size_t at = 0;
        for (size_t i = 0; i < n; at += texts[i++].n) texts[i].bytes = all.bytes + at;
        w->status = tl__gguf_put(w->out, "tokenizer.ggml.merges", TL_GGUF_STRING, true, NULL, texts, tok->n_merges, w->err);
    }
    free(texts);
    free(all.bytes);
}

/* Scores as they were (in 32 bits, as sentencepiece has them), or, of merges, the higher the earlier a token is made. */
static void put_scores(writer *w) {
    static const float of_gaps = -10000; /* as llama.cpp's converter has it: never the best way to a text */
    const tl_tokenizer *tok = w->tok;
    float *scores = malloc(((size_t)w->rows + 1) * sizeof *scores);
    if (!scores) {
        w->status = tl__fail(w->err, TL_ENOMEM, "not enough memory to write %d scores", w->rows);
        return;
    }
    if (tok->score) {
        for (int id = 0; id < w->rows; id++) scores[id] = id < tok->score_n ? (float)tok->score[id] : of_gaps;
    } else {
        for (int id = 0; id < w->rows; id++) scores[id] = -1e9f;
        for (int i = tok->n_merges; i-- > 0;) scores[tok->merge[i].made] = -(float)i;
    }
    w->status = tl__gguf_put(w->out, "tokenizer.ggml.scores", TL_GGUF_F32, true, scores, NULL, w->rows, w->err);
    free(scores);
}

/* How the text of a model with ▁ is normalised, where GGUF can say it. */
typedef struct marks {
    bool prefix;  /* ▁ before the text */
    bool squeeze; /* UNIGRAM: spaces in a row are one, and none at the ends */
    const tl_charsmap *map;
} marks;

static bool source_is(const tl_pattern *pattern, bool regex, const char *text) {
    size_t n;
    bool is_regex;
    const char *source = tl__pattern_source(pattern, &n, &is_regex);
    return is_regex == regex && n == strlen(text) && memcmp(source, text, n) == 0;
}

static bool replaces(const tl_norm *step, bool regex, const char *from, const char *to) {
    return step->kind == TL_NORM_REPLACE && strcmp(step->text, to) == 0 && source_is(step->pattern, regex, from);
}

static bool is_metaspace(const tl_pre *step) {
    return step->kind == TL_PRE_METASPACE && source_is(step->pattern, false, MARK);
}

/* Perhaps ▁ put before, then ▁ for spaces, and nothing cut. */
static bool marks_spaces(const tl_tokenizer *tok, int first, marks *m) {
    int i = first;
    if (tok->n_norm == first && tok->n_pre == 1 && is_metaspace(&tok->pre[0])) {
        m->prefix = tok->pre[0].prepend != TL_PREPEND_NEVER;
        return true;
    }
    if (i < tok->n_norm && tok->norm[i].kind == TL_NORM_PREPEND && strcmp(tok->norm[i].text, MARK) == 0) m->prefix = true, i++;
    if (i + 1 != tok->n_norm || !replaces(&tok->norm[i], false, " ", MARK)) return false;
    for (i = 0; i < tok->n_pre; i++) /* Gemma's Split at spaces finds none any more */
        if (tok->pre[i].kind != TL_PRE_SPLIT || tok->pre[i].name || !source_is(tok->pre[i].pattern, false, " ")) return false;
    return true;
}

/* May pieces that begin with ▁ be encoded together? A token with ▁ elsewhere would join them, and so would unknown
 * characters if ▁ were one. */
static bool joins_nothing(const tl_tokenizer *tok) {
    for (int id = 0; id < tok->vocab; id++) {
        const tl_token *t = &tok->token[id];
        if (t->model && t->text_n > 1 && memmem(tok->text + t->text_at + 1, t->text_n - 1, MARK, strlen(MARK))) return false;
    }
    return tl__bpe_find(tok, MARK, strlen(MARK)) >= 0;
}

/* Does the map make a space, or nothing, of white space, so that what strips and splits there sees spaces alone? U+0085,
 * which sentencepiece's maps leave, is not asked for. */
static bool maps_white_space(const tl_charsmap *map) {
    static const char *const others[] = {"\t", "\n", "\v", "\f", "\r", "\u00a0", "\u1680", "\u2000", "\u2001",
                                         "\u2002", "\u2003", "\u2004", "\u2005", "\u2006", "\u2007", "\u2008", "\u2009",
                                         "\u200a", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000"};
    tl_textbuf out = {0};
    bool all = true, kept;
    for (size_t i = 0; i < sizeof others / sizeof *others && all; i++) {
        out.n = 0;
        tl__charsmap_apply(map, (const uint8_t *)others[i], strlen(others[i]), &out, &kept);
        all = !out.failed && (out.n == 0 || (out.n == 1 && out.bytes[0] == ' '));
    }
    free(out.bytes);
    return all;
}

/* sentencepiece's unigram: what a GGUF file was read as, or what transformers makes of a sentencepiece model, whose spaces
 * are stripped and squeezed by other steps. */
static bool marks_unigram(const tl_tokenizer *tok, marks *m) {
    int i = 0;
    if (tok->unk < 0 || tok->byte_fallback) return false;
    if (i < tok->n_norm && tok->norm[i].kind == TL_NORM_CHARSMAP) m->map = tok->norm[i++].map;
    if (tok->n_norm - i >= 2 && replaces(&tok->norm[i], true, TRIMMED, "") && replaces(&tok->norm[i + 1], true, " +", " "))
        return m->squeeze = marks_spaces(tok, i + 2, m) && m->prefix && tok->n_pre == 0;
    const tl_pre *last = tok->n_pre ? &tok->pre[tok->n_pre - 1] : NULL;
    if (!last || !is_metaspace(last)) return marks_spaces(tok, i, m) && tok->n_pre == 0;
    if (last->cut && !joins_nothing(tok)) return false;
    if (last->prepend == TL_PREPEND_NEVER) return marks_spaces(tok, i, m) && tok->n_norm == i;
    /* Put before the text, but where it begins with a space: the same only where spaces are stripped or squeezed. */
    const bool words = tok->n_pre == 2 && tok->pre[0].name && strcmp(tok->pre[0].name, "WhitespaceSplit") == 0;
    bool strips = false, single = false;
    if (i < tok->n_norm && tok->norm[i].kind == TL_NORM_STRIP) strips = tok->norm[i++].right;
    if (i < tok->n_norm && (replaces(&tok->norm[i], true, " {2,}", " ") || replaces(&tok->norm[i], true, " {2,}", MARK)))
        single = true, i++;
    m->prefix = m->squeeze = true;
    return i == tok->n_norm && m->map && maps_white_space(m->map) &&
           (words ? last->prepend == TL_PREPEND_ALWAYS && joins_nothing(tok) : tok->n_pre == 1 && strips && single);
}

static void put_map(writer *w, const tl_charsmap *map) {
    size_t n;
    bool whole;
    const uint8_t *bytes = tl__charsmap_bytes(map, &n, &whole);
    if (!w->status)
        w->status = tl__gguf_put(w->out, "tokenizer.ggml.precompiled_charsmap", TL_GGUF_U8, true, bytes, NULL, (int64_t)n, w->err);
}

int tl__tokenizer_to_gguf(const tl_tokenizer *tok, int rows, tl_gguf_out *out, tl_error *err) {
    if (rows < tok->vocab)
        return tl__fail(err, TL_EUNSUPPORTED, "the tokenizer has %d ids, where the model has rows for %d", tok->vocab, rows);
    writer w = {.tok = tok, .rows = rows, .out = out, .err = err};
    marks m = {0};
    const bool unigram = tok->model == TL_MODEL_UNIGRAM;
    /* Bytes that a vocabulary lacks made its model one of characters, which stand for bytes; the file is as before. */
    tl_tokenizer steps = *tok;
    const bool spelled = tok->model == TL_MODEL_CHARS && !tok->byte_fallback && tok->n_pre > 0 &&
                         tok->pre[tok->n_pre - 1].kind == TL_PRE_BYTES;
    const bool bytes = (tok->model == TL_MODEL_BYTES && !tok->mapped) || spelled;
    steps.n_pre -= spelled;
    if (bytes) {
        /* Qwen's normal form C is left out, as llama.cpp and its converter do. */
        const char *pre = tok->n_norm == 0 || (tok->n_norm == 1 && tok->norm[0].kind == TL_NORM_NFC) ? tl__gguf_presplit_name(&steps) : NULL;
        if (!pre)
            return tl__fail(err, TL_EUNSUPPORTED,
                            "GGUF has no name for this tokenizer's normalizer and pre-tokenizer; it can be written as "
                            "tokenizer.json only");
        put_text(&w, "tokenizer.ggml.model", "gpt2", 4);
        put_text(&w, "tokenizer.ggml.pre", pre, strlen(pre));
    } else if (unigram && marks_unigram(tok, &m)) {
        put_text(&w, "tokenizer.ggml.model", "t5", 2);
        put_text(&w, "tokenizer.ggml.pre", "default", 7);
        put_flag(&w, "tokenizer.ggml.remove_extra_whitespaces", m.squeeze);
        if (m.map) put_map(&w, m.map);
    } else if ((tok->model == TL_MODEL_SCORES || (tok->model == TL_MODEL_CHARS && tok->byte_fallback)) && marks_spaces(tok, 0, &m)) {
        put_text(&w, "tokenizer.ggml.model", "llama", 5);
        put_text(&w, "tokenizer.ggml.pre", "default", 7);
    } else {
        return tl__fail(err, TL_EUNSUPPORTED,
                        unigram ? "GGUF has no form for this unigram tokenizer's steps; sentencepiece's have one (its map of "
                                  "characters, spaces squeezed or kept, \"" MARK "\" for spaces, an unknown token, no bytes)"
                                : "a tokenizer of this kind has no form in GGUF; byte-level BPE, SentencePiece's BPE with byte "
                                  "fallback and its unigram do");
    }
    if (!w.status) put_tokens(&w);
    if (!w.status && bytes) put_merges(&w);
    if (!w.status && !bytes) put_scores(&w);
    put_id(&w, "tokenizer.ggml.bos_token_id", tok->bos);
    put_id(&w, "tokenizer.ggml.eos_token_id", tok->eos);
    put_id(&w, "tokenizer.ggml.unknown_token_id", tok->unk);
    put_id(&w, "tokenizer.ggml.padding_token_id", tok->pad);
    put_flag(&w, "tokenizer.ggml.add_bos_token", tok->n_prefix > 0);
    put_flag(&w, "tokenizer.ggml.add_eos_token", tok->n_suffix > 0);
    put_flag(&w, "tokenizer.ggml.add_space_prefix", m.prefix);
    return w.status;
}
