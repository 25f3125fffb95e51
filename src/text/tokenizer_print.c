/* tokenizer_print.c — owns the writing of tokenizer.json and tokenizer_config.json: what was read from them byte for
 * byte, what we trained or read from GGUF metadata as the `tokenizers` library would write it, with the same ids. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "io/file.h"
#include "text/bpe.h"

static void print(tl_textbuf *p, const char *text) {
    tl__textbuf_add_text(p, text);
}

static void print_quoted(tl_textbuf *p, const char *text, size_t n) {
    if (!tl__textbuf_reserve(p, 6 * n + 2)) return;
    int written = tl__json_quote(p->bytes + p->n, p->room - p->n, text, n);
    if (written < 0) p->failed = true;
    else p->n += (size_t)written;
}

static void print_int(tl_textbuf *p, int value) {
    char text[16];
    snprintf(text, sizeof text, "%d", value);
    print(p, text);
}

static void print_bool(tl_textbuf *p, bool value) {
    print(p, value ? "true" : "false");
}

static void print_text_of(tl_textbuf *p, const tl_tokenizer *tok, int id) {
    print_quoted(p, tok->text + tok->token[id].text_at, tok->token[id].text_n);
}

static void print_pattern(tl_textbuf *p, const tl_pattern *pattern) {
    size_t n;
    bool regex;
    const char *source = tl__pattern_source(pattern, &n, &regex);
    print(p, regex ? "\"pattern\": {\"Regex\": " : "\"pattern\": {\"String\": ");
    print_quoted(p, source, n);
    print(p, "}");
}

/* ---- steps ---- */

static void print_norm(tl_textbuf *p, const tl_norm *step) {
    static const char *const names[] = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents"};
    switch (step->kind) {
    case TL_NORM_PREPEND:
        print(p, "{\"type\": \"Prepend\", \"prepend\": ");
        print_quoted(p, step->text, step->text_n);
        break;
    case TL_NORM_REPLACE:
        print(p, "{\"type\": \"Replace\", ");
        print_pattern(p, step->pattern);
        print(p, ", \"content\": ");
        print_quoted(p, step->text, step->text_n);
        break;
    case TL_NORM_STRIP:
        print(p, "{\"type\": \"Strip\", \"strip_left\": ");
        print_bool(p, step->left);
        print(p, ", \"strip_right\": ");
        print_bool(p, step->right);
        break;
    case TL_NORM_CHARSMAP: {
        static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        size_t n;
        bool whole;
        const uint8_t *bytes = tl__charsmap_bytes(step->map, &n, &whole);
        print(p, "{\"type\": \"Precompiled\", \"precompiled_charsmap\": \"");
        for (size_t i = 0; i < n; i += 3) {
            uint32_t bits = (uint32_t)bytes[i] << 16 | (i + 1 < n ? (uint32_t)bytes[i + 1] << 8 : 0) | (i + 2 < n ? bytes[i + 2] : 0);
            char four[4] = {digits[bits >> 18], digits[bits >> 12 & 63], i + 1 < n ? digits[bits >> 6 & 63] : '=',
                            i + 2 < n ? digits[bits & 63] : '='};
            tl__textbuf_add(p, four, 4);
        }
        print(p, "\"");
        break;
    }
    default:
        print(p, "{\"type\": ");
        print_quoted(p, names[step->kind], strlen(names[step->kind]));
    }
    print(p, "}");
}

static void print_pre(tl_textbuf *p, const tl_pre *step) {
    static const char *const behaviors[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    static const char *const schemes[] = {"never", "first", "always"};
    switch (step->kind) {
    case TL_PRE_SCAN: {
        const char *pattern = tl__split_pattern(step->split);
        print(p, "{\"type\": \"Split\", \"pattern\": {\"Regex\": ");
        print_quoted(p, pattern, strlen(pattern));
        print(p, "}, \"behavior\": \"Isolated\", \"invert\": false}");
        return;
    }
    case TL_PRE_SPLIT:
        if (step->name && strcmp(step->name, "Digits") == 0) {
            print(p, "{\"type\": \"Digits\", \"individual_digits\": ");
            print_bool(p, step->behavior == TL_ISOLATED);
        } else if (step->name) {
            print(p, "{\"type\": ");
            print_quoted(p, step->name, strlen(step->name));
            if (strcmp(step->name, "Punctuation") == 0) {
                print(p, ", \"behavior\": ");
                print_quoted(p, behaviors[step->behavior], strlen(behaviors[step->behavior]));
            }
        } else {
            print(p, "{\"type\": \"Split\", ");
            print_pattern(p, step->pattern);
            print(p, ", \"behavior\": ");
            print_quoted(p, behaviors[step->behavior], strlen(behaviors[step->behavior]));
            print(p, ", \"invert\": ");
            print_bool(p, step->invert);
        }
        print(p, "}");
        return;
    case TL_PRE_WORDS:
        print(p, "{\"type\": \"Whitespace\"}");
        return;
    case TL_PRE_METASPACE: {
        size_t n;
        bool regex;
        const char *mark = tl__pattern_source(step->pattern, &n, &regex);
        print(p, "{\"type\": \"Metaspace\", \"replacement\": ");
        print_quoted(p, mark, n);
        print(p, ", \"prepend_scheme\": ");
        print_quoted(p, schemes[step->prepend], strlen(schemes[step->prepend]));
        print(p, ", \"split\": ");
        print_bool(p, step->cut);
        print(p, "}");
        return;
    }
    case TL_PRE_PREFIX_SPACE:
    case TL_PRE_BYTES:
        print(p, "{\"type\": \"ByteLevel\", \"add_prefix_space\": ");
        print_bool(p, step->kind == TL_PRE_PREFIX_SPACE);
        print(p, ", \"trim_offsets\": true, \"use_regex\": false}");
    }
}

static void print_decode(tl_textbuf *p, const tl_decode *step) {
    switch (step->kind) {
    case TL_DECODE_BYTE_LEVEL:
        print(p, "{\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, \"use_regex\": true}");
        return;
    case TL_DECODE_REPLACE:
        print(p, "{\"type\": \"Replace\", ");
        print_pattern(p, step->pattern);
        print(p, ", \"content\": ");
        print_quoted(p, step->text, step->text_n);
        break;
    case TL_DECODE_METASPACE:
        print(p, "{\"type\": \"Metaspace\", \"replacement\": \"\xE2\x96\x81\", \"prepend_scheme\": ");
        print(p, step->strip ? "\"always\", \"split\": true" : "\"never\", \"split\": true");
        break;
    case TL_DECODE_BYTE_FALLBACK:
        print(p, "{\"type\": \"ByteFallback\"");
        break;
    case TL_DECODE_FUSE:
        print(p, "{\"type\": \"Fuse\"");
        break;
    case TL_DECODE_STRIP:
        print(p, "{\"type\": \"Strip\", \"content\": ");
        print_quoted(p, step->text, step->text_n);
        print(p, ", \"start\": ");
        print_int(p, step->left);
        print(p, ", \"stop\": ");
        print_int(p, step->right);
    }
    print(p, "}");
}

static void print_template(tl_textbuf *p, const tl_tokenizer *tok) {
    if (tok->n_prefix + tok->n_suffix == 0) {
        print(p, "null");
        return;
    }
    print(p, "{\"type\": \"TemplateProcessing\",\n    \"single\": [");
    for (int pair = 0; pair < 2; pair++) {
        if (pair) print(p, "],\n    \"pair\": [");
        for (int i = 0; i < tok->n_prefix; i++) {
            print(p, "{\"SpecialToken\": {\"id\": ");
            print_text_of(p, tok, tok->prefix[i]);
            print(p, ", \"type_id\": 0}}, ");
        }
        print(p, "{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}");
        if (pair) print(p, ", {\"Sequence\": {\"id\": \"B\", \"type_id\": 1}}");
        for (int i = 0; i < tok->n_suffix; i++) {
            print(p, ", {\"SpecialToken\": {\"id\": ");
            print_text_of(p, tok, tok->suffix[i]);
            print(p, ", \"type_id\": 0}}");
        }
    }
    print(p, "],\n    \"special_tokens\": {");
    for (int i = 0, seen = 0; i < tok->n_prefix + tok->n_suffix; i++) {
        int id = i < tok->n_prefix ? tok->prefix[i] : tok->suffix[i - tok->n_prefix];
        bool before = false;
        for (int k = 0; k < i; k++) before |= (k < tok->n_prefix ? tok->prefix[k] : tok->suffix[k - tok->n_prefix]) == id;
        if (before) continue;
        if (seen++) print(p, ", ");
        print_text_of(p, tok, id);
        print(p, ": {\"id\": ");
        print_text_of(p, tok, id);
        print(p, ", \"ids\": [");
        print_int(p, id);
        print(p, "], \"tokens\": [");
        print_text_of(p, tok, id);
        print(p, "]}");
    }
    print(p, "}}");
}

/* ---- model ---- */

static void print_merge(tl_textbuf *p, const tl_tokenizer *tok, int left, int right, bool first) {
    print(p, first ? "\n      [" : ",\n      [");
    print_text_of(p, tok, left);
    print(p, ", ");
    print_text_of(p, tok, right);
    print(p, "]");
}

typedef struct scored_merge {
    int32_t rank, made, left, right;
    uint32_t left_n;
} scored_merge;

/* The best score first; of one token's, the longest left part, which merging from the left mostly leaves. */
static int by_rank(const void *pa, const void *pb) {
    const scored_merge *a = pa, *b = pb;
    if (a->rank != b->rank) return a->rank < b->rank ? -1 : 1;
    if (a->made != b->made) return a->made < b->made ? -1 : 1;
    return a->left_n > b->left_n ? -1 : a->left_n < b->left_n;
}

/* Scores as merges: every way to make a token of two. Equal scores, which merge from the left by score, get ranks one
 * after the other: `tokenizers` knows no equal ones. */
static void print_scored_merges(tl_textbuf *p, const tl_tokenizer *tok) {
    scored_merge *all = NULL;
    size_t n = 0, room = 0;
    for (int id = 0; id < tok->vocab && !p->failed; id++) {
        const tl_token *t = &tok->token[id];
        for (uint32_t at = 1; at < t->text_n; at++) {
            const char *s = tok->text + t->text_at;
            if (((uint8_t)s[at] & 0xC0) == 0x80) continue;
            int left = tl__bpe_find(tok, s, at), right = left < 0 ? -1 : tl__bpe_find(tok, s + at, t->text_n - at);
            if (right < 0) continue;
            if (n == room) {
                room = 2 * room + 4096;
                scored_merge *bigger = realloc(all, room * sizeof *all);
                if (!bigger) {
                    p->failed = true;
                    break;
                }
                all = bigger;
            }
            all[n++] = (scored_merge){tl__bpe_score_rank(tok, id), id, left, right, at};
        }
    }
    qsort(all, n, sizeof *all, by_rank);
    for (size_t i = 0; i < n && !p->failed; i++) print_merge(p, tok, all[i].left, all[i].right, i == 0);
    free(all);
}

/* A token's place in the list is its id: those that the model does not find (control tokens of GGUF, texts that stand
 * twice) keep theirs, the latter under a name of their own. */
static void print_unigram(tl_textbuf *p, const tl_tokenizer *tok) {
    const double least = tok->unk_score + TL_UNKNOWN_PENALTY;
    print(p, "  \"model\": {\n    \"type\": \"Unigram\",\n    \"unk_id\": ");
    if (tok->unk >= 0) print_int(p, tok->unk);
    else print(p, "null");
    print(p, ",\n    \"byte_fallback\": ");
    print_bool(p, tok->byte_fallback);
    print(p, ",\n    \"vocab\": [");
    for (int id = 0; id < tok->score_n; id++) {
        const tl_token *t = &tok->token[id];
        char score[40], name[24];
        snprintf(score, sizeof score, ", %.17g]", t->unused && tok->score[id] < least ? least : tok->score[id]);
        snprintf(name, sizeof name, "\"[PAD%d]\"", id);
        print(p, id ? ",\n      [" : "\n      [");
        if (tl__bpe_find(tok, tok->text + t->text_at, t->text_n) == id || t->model) print_text_of(p, tok, id);
        else print(p, name);
        print(p, score);
    }
    print(p, "\n    ]\n  }\n}\n");
}

static void print_bpe(tl_textbuf *p, const tl_tokenizer *tok) {
    print(p, "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": ");
    if (tok->unk >= 0) print_text_of(p, tok, tok->unk);
    else print(p, "null");
    print(p, ",\n    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n    \"fuse_unk\": ");
    print_bool(p, tok->fuse_unk);
    print(p, ",\n    \"byte_fallback\": ");
    print_bool(p, tok->byte_fallback);
    print(p, ",\n    \"ignore_merges\": ");
    print(p, tok->whole_words ? "true,\n    \"vocab\": {" : "false,\n    \"vocab\": {");
    for (int id = 0, seen = 0; id < tok->vocab; id++) {
        if (!tok->token[id].model) continue;
        print(p, seen++ ? ",\n      " : "\n      ");
        print_text_of(p, tok, id);
        print(p, ": ");
        print_int(p, id);
    }
    print(p, "\n    },\n    \"merges\": [");
    if (tok->model == TL_MODEL_SCORES) print_scored_merges(p, tok);
    for (int i = 0; i < tok->n_merges; i++) print_merge(p, tok, tok->merge[i].left, tok->merge[i].right, i == 0);
    print(p, "\n    ]\n  }\n}\n");
}

static void print_added(tl_textbuf *p, const tl_tokenizer *tok) {
    int *of = malloc(((size_t)tok->vocab + 1) * sizeof *of); /* which added token an id is */
    if (!of) {
        p->failed = true;
        return;
    }
    for (int i = 0; i < tok->n_added; i++) of[tok->added[i].id] = i;
    for (int id = 0, seen = 0; id < tok->vocab; id++) {
        if (!tok->token[id].added) continue;
        const tl_added *a = &tok->added[of[id]];
        print(p, seen++ ? ",\n    {\"id\": " : "\n    {\"id\": ");
        print_int(p, id);
        print(p, ", \"content\": ");
        print_text_of(p, tok, id);
        print(p, ", \"single_word\": ");
        print_bool(p, a->single_word);
        print(p, ", \"lstrip\": ");
        print_bool(p, a->lstrip);
        print(p, ", \"rstrip\": ");
        print_bool(p, a->rstrip);
        print(p, ", \"normalized\": ");
        print_bool(p, !a->raw);
        print(p, ", \"special\": ");
        print(p, a->special ? "true}" : "false}");
    }
    free(of);
}

static void print_all(tl_textbuf *p, const tl_tokenizer *tok) {
    print(p, "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [");
    print_added(p, tok);
    print(p, "\n  ],\n  \"normalizer\": ");
    if (tok->n_norm == 0) print(p, "null");
    if (tok->n_norm > 1) print(p, "{\"type\": \"Sequence\", \"normalizers\": [");
    for (int i = 0; i < tok->n_norm; i++) {
        if (i) print(p, ", ");
        print_norm(p, &tok->norm[i]);
    }
    if (tok->n_norm > 1) print(p, "]}");
    print(p, ",\n  \"pre_tokenizer\": ");
    bool spells = tok->model == TL_MODEL_BYTES && !tok->mapped;
    if (tok->n_pre + spells == 0) print(p, "null");
    else print(p, "{\n    \"type\": \"Sequence\",\n    \"pretokenizers\": [\n      ");
    for (int i = 0; i < tok->n_pre; i++) {
        if (i) print(p, ",\n      ");
        print_pre(p, &tok->pre[i]);
    }
    if (spells) {
        print(p, tok->n_pre ? ",\n      " : "");
        print_pre(p, &(tl_pre){.kind = TL_PRE_BYTES});
    }
    if (tok->n_pre + spells) print(p, "\n    ]\n  }");
    print(p, ",\n  \"post_processor\": ");
    print_template(p, tok);
    print(p, ",\n  \"decoder\": ");
    if (tok->n_decode > 1) print(p, "{\"type\": \"Sequence\", \"decoders\": [");
    for (int i = 0; i < tok->n_decode; i++) {
        if (i) print(p, ", ");
        print_decode(p, &tok->decode[i]);
    }
    if (tok->n_decode > 1) print(p, "]}");
    print(p, ",\n");
    if (tok->model == TL_MODEL_UNIGRAM) print_unigram(p, tok);
    else print_bpe(p, tok);
}

static char *finished(tl_textbuf *p, size_t *n) {
    if (!tl__textbuf_reserve(p, 1)) {
        free(p->bytes);
        return NULL;
    }
    *n = p->n;
    return p->bytes;
}

char *tl__tokenizer_print(const tl_tokenizer *tok, size_t *n) {
    tl_textbuf p = {0};
    if (tok->json) tl__textbuf_add(&p, tok->json, tok->json_n);
    else print_all(&p, tok);
    return finished(&p, n);
}

char *tl__tokenizer_print_config(const tl_tokenizer *tok, size_t *n) {
    tl_textbuf p = {0};
    if (tok->config) {
        tl__textbuf_add(&p, tok->config, tok->config_n);
        return finished(&p, n);
    }
    const struct {
        const char *key;
        int id;
    } named[] = {{"bos_token", tok->bos >= 0 ? tok->bos : tok->eos}, {"eos_token", tok->eos}, {"unk_token", tok->unk},
                 {"pad_token", tok->pad}};
    print(&p, "{\n");
    for (int i = 0; i < 4; i++) {
        if (named[i].id < 0) continue;
        print(&p, "  \"");
        print(&p, named[i].key);
        print(&p, "\": ");
        print_text_of(&p, tok, named[i].id);
        print(&p, ",\n");
    }
    if (tok->chat_template) {
        print(&p, "  \"chat_template\": ");
        print_quoted(&p, tok->chat_template, tok->chat_template_n);
        print(&p, ",\n");
    }
    print(&p, "  \"clean_up_tokenization_spaces\": false,\n  \"model_max_length\": 1000000000000000019884624838656,\n"
              "  \"tokenizer_class\": \"PreTrainedTokenizerFast\"\n}\n");
    return finished(&p, n);
}

int tl__tokenizer_save(const tl_tokenizer *tok, const char *folder, tl_error *err) {
    if (strlen(folder) + 64 > PATH_MAX)
        return tl__fail(err, TL_EINVALID, "the folder's path has %zu characters; paths are shorter than %d",
                        strlen(folder), PATH_MAX);
    int status = tl__folder_make(folder, err);
    for (int i = 0; i < 2 && !status; i++) {
        char path[PATH_MAX];
        tl__path_join(path, sizeof path, folder, i ? "tokenizer.json" : "tokenizer_config.json");
        size_t n = 0;
        char *bytes = i ? tl__tokenizer_print(tok, &n) : tl__tokenizer_print_config(tok, &n);
        if (!bytes) return tl__fail(err, TL_ENOMEM, "not enough memory to write %s", path);
        status = tl__file_publish(path, bytes, n, err);
        free(bytes);
    }
    return status;
}
