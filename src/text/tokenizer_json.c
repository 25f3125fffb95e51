/* tokenizer_json.c — owns the reading of tokenizer.json: its model, added tokens and post-processor (json_steps.c reads
 * the steps); refuses by name every construct whose ids we do not reproduce.
 *
 * Read: models BPE (ignore_merges, byte_fallback, unk_token; merges as "a b" or ["a", "b"]) and Unigram. A
 * post-processor's tokens are those of encode(text, add_special_tokens=True), which encoding here never adds: they are
 * told by tl__tokenizer_adds_bos and tl__tokenizer_adds_eos. */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/json_steps.h"

/* ---- post-processor ---- */

static int add_affix(const tl_token_reader *r, const char *text, bool before) {
    tl_tokenizer *tok = r->tok;
    int id = text ? tl__bpe_find(tok, text, strlen(text)) : -1;
    int *n = before ? &tok->n_prefix : &tok->n_suffix;
    if (id < 0)
        return tl__fail(r->err, TL_EFORMAT, "%s: the post-processor's token \"%.60s\" is in no vocabulary", r->where,
                        text ? text : "(none)");
    if (*n == TL_AFFIX_MOST)
        return tl__fail(r->err, TL_EUNSUPPORTED, "%s: the post-processor adds more than %d tokens at one end", r->where,
                        TL_AFFIX_MOST);
    (before ? tok->prefix : tok->suffix)[(*n)++] = id;
    return 0;
}

static int read_template(const tl_token_reader *r, const json_t *obj) {
    const json_t *single = json_object_get(obj, "single");
    if (!json_is_array(single))
        return tl__fail(r->err, TL_EFORMAT, "%s: TemplateProcessing has no list \"single\"", r->where);
    bool before = true;
    int status = 0;
    for (size_t i = 0; i < json_array_size(single) && !status; i++) {
        const json_t *item = json_array_get(single, i), *special = json_object_get(item, "SpecialToken");
        const char *name = json_string_value(json_object_get(special, "id"));
        /* A special token of the template may stand for several. */
        const json_t *tokens =
            name ? json_object_get(json_object_get(json_object_get(obj, "special_tokens"), name), "tokens") : NULL;
        if (json_object_get(item, "Sequence")) before = false;
        else if (json_is_array(tokens))
            for (size_t k = 0; k < json_array_size(tokens) && !status; k++)
                status = add_affix(r, json_string_value(json_array_get(tokens, k)), before);
        else status = add_affix(r, name, before);
    }
    return status;
}

static int read_post_processor(const tl_token_reader *r, const json_t *obj, int depth) {
    if (tl__reader_absent(obj)) return 0;
    const char *type = tl__reader_type(obj);
    if (strcmp(type, "ByteLevel") == 0) return 0;
    if (strcmp(type, "TemplateProcessing") == 0) return read_template(r, obj);
    if (strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0) {
        int status = add_affix(r, json_string_value(json_array_get(json_object_get(obj, "cls"), 0)), true);
        return status ? status : add_affix(r, json_string_value(json_array_get(json_object_get(obj, "sep"), 0)), false);
    }
    if (strcmp(type, "Sequence") != 0)
        return tl__reader_refuse(r, "post-processor", type,
                                 "ByteLevel, TemplateProcessing, BertProcessing and RobertaProcessing are");
    if (depth > 8) return tl__reader_refuse(r, "post-processor Sequence", "nested more than 8 deep", "a flat one is");
    const json_t *list = json_object_get(obj, "processors");
    int status = 0;
    for (size_t i = 0; i < json_array_size(list) && !status; i++)
        status = read_post_processor(r, json_array_get(list, i), depth + 1);
    return status;
}

static int read_limits(const tl_token_reader *r, const json_t *root) {
    if (!tl__reader_absent(json_object_get(root, "truncation")))
        return tl__reader_refuse(r, "\"truncation\"", "in the file", "set it to null and limit lengths when encoding");
    if (!tl__reader_absent(json_object_get(root, "padding")))
        return tl__reader_refuse(r, "\"padding\"", "in the file", "set it to null");
    return 0;
}

/* ---- model ---- */

static int read_vocab(const tl_token_reader *r, const json_t *vocab) {
    if (!json_is_object(vocab) || json_object_size(vocab) == 0)
        return tl__fail(r->err, TL_EFORMAT, "%s: model.vocab is not an object of tokens and ids", r->where);
    r->tok->id_limit = 2 * (int64_t)json_object_size(vocab) + 65536;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)vocab, key, value) {
        if (!json_is_integer(value))
            return tl__fail(r->err, TL_EFORMAT, "%s: the id of token \"%.60s\" in model.vocab is not an integer",
                            r->where, key);
        int status = tl__bpe_add_token(r->tok, key, strlen(key), json_integer_value(value), r->where, r->err);
        if (status) return status;
    }
    return 0;
}

static int read_merges(const tl_token_reader *r, const json_t *merges) {
    if (!json_is_array(merges)) return tl__fail(r->err, TL_EFORMAT, "%s: model.merges is not a list", r->where);
    char *joined = NULL;
    size_t room = 0;
    int status = 0;
    for (size_t i = 0; i < json_array_size(merges) && !status; i++) {
        const json_t *item = json_array_get(merges, i);
        const char *left, *right;
        size_t left_n, right_n;
        if (json_is_string(item)) {
            left = json_string_value(item);
            const char *gap = strchr(left, ' ');
            left_n = gap ? (size_t)(gap - left) : 0;
            right = gap ? gap + 1 : "";
            right_n = strlen(right);
        } else {
            const json_t *a = json_array_get(item, 0), *b = json_array_get(item, 1);
            bool pair = json_array_size(item) == 2 && json_is_string(a) && json_is_string(b);
            left = pair ? json_string_value(a) : "", left_n = strlen(left);
            right = pair ? json_string_value(b) : "", right_n = strlen(right);
        }
        if (left_n == 0 || right_n == 0) {
            status = tl__fail(r->err, TL_EFORMAT, "%s: merge %zu is neither \"a b\" nor [\"a\", \"b\"]", r->where, i);
            break;
        }
        if (left_n + right_n > room) {
            room = 2 * (left_n + right_n) + 64;
            char *bigger = realloc(joined, room);
            if (!bigger) {
                status = tl__fail(r->err, TL_ENOMEM, "%s: not enough memory for a merge of %zu bytes", r->where,
                                  left_n + right_n);
                break;
            }
            joined = bigger;
        }
        memcpy(joined, left, left_n);
        memcpy(joined + left_n, right, right_n);
        int a = tl__bpe_find(r->tok, left, left_n), b = tl__bpe_find(r->tok, right, right_n);
        int made = tl__bpe_find(r->tok, joined, left_n + right_n);
        if (a < 0 || b < 0 || made < 0) {
            const char *lacks = a < 0 ? left : b < 0 ? right : joined;
            size_t n = a < 0 ? left_n : b < 0 ? right_n : left_n + right_n;
            status = tl__fail(r->err, TL_EFORMAT,
                              "%s: merge %zu is of \"%.*s\" and \"%.*s\", but the vocabulary has no \"%.*s\"", r->where,
                              i, (int)(left_n < 60 ? left_n : 60), left, (int)(right_n < 60 ? right_n : 60), right,
                              (int)(n < 120 ? n : 120), lacks);
        } else {
            status = tl__bpe_add_merge(r->tok, a, b, made, r->err);
        }
    }
    free(joined);
    return status;
}

static int read_bpe(const tl_token_reader *r, const json_t *model) {
    static const char *const keys[] = {"type",
                                       "dropout",
                                       "unk_token",
                                       "continuing_subword_prefix",
                                       "fuse_unk",
                                       "byte_fallback",
                                       "ignore_merges",
                                       "end_of_word_suffix",
                                       "vocab",
                                       "merges",
                                       NULL};
    tl_tokenizer *tok = r->tok;
    int status = tl__reader_only_keys(r, model, "model BPE", keys);
    if (status) return status;
    double dropout;
    status = tl__json_real_or(model, "dropout", 0, 1, 0, &dropout, r->where, r->err);
    if (status) return status;
    if (dropout > 0) return tl__reader_refuse(r, "model BPE", "with dropout", "set it to null");
    static const char *const affix[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (int i = 0; i < 2; i++) {
        const char *text = json_string_value(json_object_get(model, affix[i]));
        if (text && text[0]) return tl__reader_refuse(r, "model BPE with", affix[i], "vocabularies without one are");
    }
    const char *unk;
    status = tl__json_bool_or(model, "ignore_merges", false, &tok->whole_words, r->where, r->err);
    if (!status) status = tl__json_bool_or(model, "fuse_unk", false, &tok->fuse_unk, r->where, r->err);
    if (!status) status = tl__json_bool_or(model, "byte_fallback", false, &tok->byte_fallback, r->where, r->err);
    if (!status) status = tl__json_string_or(model, "unk_token", NULL, &unk, r->where, r->err);
    if (!status) status = read_vocab(r, json_object_get(model, "vocab"));
    if (!status) status = read_merges(r, json_object_get(model, "merges"));
    if (!status && unk && unk[0]) tok->unk = tl__bpe_find(tok, unk, strlen(unk));
    /* Bytes are byte-level BPE's alphabet where a pre-tokenizer makes them; as the last step that is not spelled. */
    tok->model = TL_MODEL_CHARS;
    for (int i = 0; i < tok->n_pre && !status; i++) {
        if (tok->pre[i].kind != TL_PRE_BYTES) continue;
        if (tok->model == TL_MODEL_BYTES)
            return tl__reader_refuse(r, "a pre-tokenizer", "with ByteLevel twice", "once is");
        tok->model = TL_MODEL_BYTES;
        tok->mapped = i + 1 < tok->n_pre;
    }
    if (tok->model == TL_MODEL_BYTES && !tok->mapped) tok->n_pre--;
    if (!status && unk && unk[0] && tok->unk < 0 && tok->model == TL_MODEL_CHARS)
        status = tl__fail(r->err, TL_EFORMAT, "%s: unk_token \"%.60s\" is not in the vocabulary; check the file",
                          r->where, unk);
    return status;
}

/* A score as the library has it, which may be one bit off the nearest: its reader (serde_json, without float_roundtrip)
 * takes the digits as one integer, rounds that, and divides by a power of ten. Sums of scores tie, and the last bit
 * decides. The digits of the file are the fewest that give x; with fifteen, as most files have, both are exact. */
static double score_as_read(double x) {
    const double fine = fabs(x) < 10 ? 1e14 : 1e13;
    if (fabs(x) < 100 && rint(x * fine) / fine == x) return x; /* seen without a detour through text */
    char text[32];
    int digits = 15;
    while (snprintf(text, sizeof text, "%.*e", digits - 1, fabs(x)), strtod(text, NULL) != fabs(x)) digits++;
    if (digits == 15) return x;
    uint64_t whole = 0;
    for (const char *c = text; *c != 'e'; c++)
        if (*c >= '0' && *c <= '9') whole = 10 * whole + (uint64_t)(*c - '0');
    long exponent = strtol(strchr(text, 'e') + 1, NULL, 10) - (digits - 1);
    if (labs(exponent) > 308) return x;
    snprintf(text, sizeof text, "1e%ld", labs(exponent));
    const double power = strtod(text, NULL);
    return copysign(exponent < 0 ? (double)whole / power : (double)whole * power, x);
}

static int read_unigram(const tl_token_reader *r, const json_t *model) {
    static const char *const keys[] = {"type", "unk_id", "vocab", "byte_fallback", NULL};
    tl_tokenizer *tok = r->tok;
    int status = tl__reader_only_keys(r, model, "model Unigram", keys);
    const json_t *vocab = json_object_get(model, "vocab");
    size_t n = json_array_size(vocab);
    if (!status && (n == 0 || n > INT32_MAX / 2))
        return tl__fail(r->err, TL_EFORMAT, "%s: model.vocab is not a list of tokens and scores", r->where);
    int64_t unk;
    if (!status) status = tl__json_int_or(model, "unk_id", 0, (int64_t)n - 1, -1, &unk, r->where, r->err);
    if (!status) status = tl__json_bool_or(model, "byte_fallback", false, &tok->byte_fallback, r->where, r->err);
    if (status) return status;
    tok->model = TL_MODEL_UNIGRAM;
    tok->unk = (int)unk;
    tok->fuse_unk = true;
    tok->score = calloc(n + 1, sizeof *tok->score);
    if (!tok->score) return tl__fail(r->err, TL_ENOMEM, "%s: not enough memory for %zu scores", r->where, n);
    tok->score_n = (int)n;
    for (size_t id = 0; id < n && !status; id++) {
        const json_t *item = json_array_get(vocab, id), *score = json_array_get(item, 1);
        const char *text = json_string_value(json_array_get(item, 0));
        if (!text || !json_is_number(score) || !isfinite(json_number_value(score)))
            return tl__fail(r->err, TL_EFORMAT, "%s: item %zu of model.vocab is not [token, score]", r->where, id);
        tok->score[id] = score_as_read(json_number_value(score));
        status = tl__bpe_add_token(tok, text, strlen(text), (int64_t)id, r->where, r->err);
    }
    return status;
}

static int read_model(const tl_token_reader *r, const json_t *model) {
    if (!json_is_object(model))
        return tl__fail(r->err, TL_EFORMAT, "%s: \"model\" is missing; is it a tokenizer.json?", r->where);
    /* Files of the library's first years name no type. */
    const json_t *type = json_object_get(model, "type");
    if (type && strcmp(tl__reader_type(model), "Unigram") == 0) return read_unigram(r, model);
    if (type ? strcmp(tl__reader_type(model), "BPE") != 0 : !json_object_get(model, "merges"))
        return tl__reader_refuse(r, "model", tl__reader_type(model), "BPE and Unigram are");
    return read_bpe(r, model);
}

static int read_added(const tl_token_reader *r, const json_t *list) {
    static const char *const keys[] = {"id",     "content",    "single_word", "lstrip",
                                       "rstrip", "normalized", "special",     NULL};
    if (tl__reader_absent(list)) return 0;
    if (!json_is_array(list)) return tl__fail(r->err, TL_EFORMAT, "%s: \"added_tokens\" is not a list", r->where);
    int64_t next = r->tok->model_size; /* the id that the library gives to the next one that the vocabulary has not */
    r->tok->id_limit += 2 * (int64_t)json_array_size(list);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *obj = json_array_get(list, i);
        const char *text = json_string_value(json_object_get(obj, "content"));
        if (!text) return tl__fail(r->err, TL_EFORMAT, "%s: added token %zu has no \"content\"", r->where, i);
        if (text[0] == 0) continue;
        int status = tl__reader_only_keys(r, obj, "an added token", keys);
        int64_t id = -1;
        tl_added about = {0};
        bool normalized;
        if (!status) status = tl__json_int(obj, "id", 0, INT32_MAX, &id, r->where, r->err);
        if (!status) status = tl__json_bool_or(obj, "special", false, &about.special, r->where, r->err);
        if (!status) status = tl__json_bool_or(obj, "normalized", !about.special, &normalized, r->where, r->err);
        if (!status) status = tl__json_bool_or(obj, "single_word", false, &about.single_word, r->where, r->err);
        if (!status) status = tl__json_bool_or(obj, "lstrip", false, &about.lstrip, r->where, r->err);
        if (!status) status = tl__json_bool_or(obj, "rstrip", false, &about.rstrip, r->where, r->err);
        if (status) return status;
        about.raw = !normalized;
        if (tl__bpe_find(r->tok, text, strlen(text)) < 0) {
            if (id != next)
                return tl__fail(
                    r->err, TL_EFORMAT,
                    "%s: added token \"%.60s\" has id %lld where %lld is next; the library would renumber it", r->where,
                    text, (long long)id, (long long)next);
            next++;
        } else if (id >= next) {
            next = id + 1;
        }
        status = tl__bpe_add_added(r->tok, text, strlen(text), id, about, r->where, r->err);
        if (status) return status;
    }
    /* The library tells by its text what decoding passes over: of a text that stands twice, both. */
    for (int32_t i = 0; i < r->tok->vocab && r->tok->again; i++) {
        tl_token *t = &r->tok->token[i];
        const int last = t->present ? tl__bpe_find(r->tok, r->tok->text + t->text_at, t->text_n) : -1;
        if (last >= 0) t->special = r->tok->token[last].special;
    }
    return 0;
}

int tl__tokenizer_parse(tl_tokenizer **out, const char *json, size_t n, const char *where, tl_error *err) {
    static const char *const keys[] = {"version",       "truncation",     "padding", "added_tokens", "normalizer",
                                       "pre_tokenizer", "post_processor", "decoder", "model",        NULL};
    json_t *root = tl__json_parse(json, n, where, err);
    if (!root) return TL_EFORMAT;
    tl_token_reader r = {.where = where, .err = err};
    int status = tl__bpe_new(&r.tok, err);
    if (status) {
        json_decref(root);
        return status;
    }
    if (!json_is_object(root))
        status = tl__fail(err, TL_EFORMAT, "%s: not a JSON object; is it a tokenizer.json?", where);
    if (!status) status = tl__reader_only_keys(&r, root, "the file", keys);
    if (!status) status = read_limits(&r, root);
    if (!status) status = tl__read_normalizer(&r, json_object_get(root, "normalizer"));
    if (!status) status = tl__read_pre_tokenizer(&r, json_object_get(root, "pre_tokenizer"));
    if (!status) status = tl__read_decoder(&r, json_object_get(root, "decoder"));
    if (!status) status = read_model(&r, json_object_get(root, "model"));
    if (!status) status = read_added(&r, json_object_get(root, "added_tokens"));
    if (!status) status = read_post_processor(&r, json_object_get(root, "post_processor"), 0);
    if (!status) status = tl__bpe_finish(r.tok, where, err);
    json_decref(root);
    if (status) tl__tokenizer_close(r.tok);
    else *out = r.tok;
    return status;
}
