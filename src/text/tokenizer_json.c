/* tokenizer_json.c — owns the format tokenizer.json: reads the byte-level BPE constructs whose ids we reproduce,
 * refuses every other by name, and writes what we train as the `tokenizers` library itself would.
 *
 * Read: model BPE (ignore_merges too; merges as "a b" or ["a", "b"]); pre-tokenizers ByteLevel with its own expression,
 * and Split by a known expression followed by ByteLevel; added tokens that are plain text. A post-processor's tokens
 * are those of encode(text, add_special_tokens=True), which encoding here never adds, so a template is let through. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "io/file.h"
#include "text/bpe.h"

typedef struct reader {
    tl_tokenizer *tok;
    const char *where;
    tl_error *err;
} reader;

static int refuse(const reader *r, const char *what, const char *value, const char *instead) {
    return tl__fail(r->err, TL_EUNSUPPORTED, "%s: %s %s is not supported; %s", r->where, what, value, instead);
}

/* Every key of obj must be one of names (NULL-terminated): an unknown one could change ids. */
static int only_keys(const reader *r, const json_t *obj, const char *what, const char *const *names) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)obj, key, value) {
        int i = 0;
        while (names[i] && strcmp(names[i], key) != 0) i++;
        if (!names[i])
            return tl__fail(
                r->err, TL_EUNSUPPORTED,
                "%s: %s has the key \"%.60s\", which is not known and could change ids; only byte-level BPE is read",
                r->where, what, key);
    }
    return 0;
}

static const char *type_of(const json_t *obj) {
    const char *type = json_string_value(json_object_get(obj, "type"));
    return type ? type : "(without type)";
}

static bool absent(const json_t *value) {
    return !value || json_is_null(value);
}

/* ---- pre-tokenizer ---- */

/* ByteLevel; *own: it splits by GPT-2's expression itself. */
static int read_byte_level(const reader *r, const json_t *obj, bool *own) {
    static const char *const keys[] = {"type", "add_prefix_space", "trim_offsets", "use_regex", NULL};
    int status = only_keys(r, obj, "pre-tokenizer ByteLevel", keys);
    bool prefix;
    if (!status) status = tl__json_bool_or(obj, "add_prefix_space", true, &prefix, r->where, r->err);
    if (!status) status = tl__json_bool_or(obj, "use_regex", true, own, r->where, r->err);
    if (!status && prefix)
        status =
            refuse(r, "pre-tokenizer ByteLevel", "with add_prefix_space", "train or convert without a prefix space");
    return status;
}

static int read_split(const reader *r, const json_t *obj) {
    static const char *const keys[] = {"type", "pattern", "behavior", "invert", NULL};
    int status = only_keys(r, obj, "pre-tokenizer Split", keys);
    if (status) return status;
    const char *pattern = json_string_value(json_object_get(json_object_get(obj, "pattern"), "Regex"));
    const char *behavior = json_string_value(json_object_get(obj, "behavior"));
    bool invert;
    status = tl__json_bool_or(obj, "invert", false, &invert, r->where, r->err);
    if (status) return status;
    if (!pattern)
        return refuse(r, "pre-tokenizer Split", "without a Regex pattern",
                      "the expressions of GPT-2, GPT-4, Llama 3 and Qwen 2 are");
    /* Isolating the matches and removing what lies between them are the same where everything matches. */
    if (!behavior || !(invert ? strcmp(behavior, "Removed") == 0 : strcmp(behavior, "Isolated") == 0))
        return refuse(r, "pre-tokenizer Split with behavior", behavior ? behavior : "(none)", "Isolated is");
    int split = tl__split_find(pattern);
    if (split < 0) {
        char shown[128];
        snprintf(shown, sizeof shown, "\"%.100s\"", pattern);
        return refuse(r, "pre-tokenizer Split by", shown, "the expressions of GPT-2, GPT-4, Llama 3 and Qwen 2 are");
    }
    r->tok->split = (tl_split)split;
    return 0;
}

static int read_pre_tokenizer(const reader *r, const json_t *obj) {
    const char *instead = "ByteLevel, or a Sequence of Split and ByteLevel, is";
    bool own;
    int status;
    if (absent(obj)) return refuse(r, "a tokenizer", "without a pre-tokenizer", instead);
    if (strcmp(type_of(obj), "ByteLevel") == 0) {
        status = read_byte_level(r, obj, &own);
        if (!status && !own)
            status = refuse(r, "pre-tokenizer ByteLevel", "with use_regex false and no Split before it", instead);
        r->tok->split = TL_SPLIT_GPT2;
        return status;
    }
    if (strcmp(type_of(obj), "Sequence") != 0) return refuse(r, "pre-tokenizer", type_of(obj), instead);
    static const char *const keys[] = {"type", "pretokenizers", NULL};
    status = only_keys(r, obj, "pre-tokenizer Sequence", keys);
    if (status) return status;
    const json_t *list = json_object_get(obj, "pretokenizers");
    size_t n = json_array_size(list);
    for (size_t i = 0; i < n; i++) {
        const char *type = type_of(json_array_get(list, i));
        if (strcmp(type, "Split") != 0 && strcmp(type, "ByteLevel") != 0)
            return refuse(r, "pre-tokenizer", type, instead);
    }
    if (n == 1 && strcmp(type_of(json_array_get(list, 0)), "ByteLevel") == 0)
        return read_pre_tokenizer(r, json_array_get(list, 0));
    if (n != 2 || strcmp(type_of(json_array_get(list, 0)), "Split") != 0 ||
        strcmp(type_of(json_array_get(list, 1)), "ByteLevel") != 0)
        return refuse(r, "a pre-tokenizer Sequence", "of other steps than Split, ByteLevel", instead);
    status = read_split(r, json_array_get(list, 0));
    if (!status) status = read_byte_level(r, json_array_get(list, 1), &own);
    if (!status && own) status = refuse(r, "pre-tokenizer ByteLevel", "with use_regex after a Split", instead);
    return status;
}

/* ---- what must not change ids ---- */

static int read_post_processor(const reader *r, const json_t *obj) {
    if (absent(obj)) return 0;
    const char *type = type_of(obj);
    if (strcmp(type, "ByteLevel") == 0 || strcmp(type, "TemplateProcessing") == 0) return 0;
    if (strcmp(type, "Sequence") != 0) return refuse(r, "post-processor", type, "ByteLevel and TemplateProcessing are");
    const json_t *list = json_object_get(obj, "processors");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *one = json_array_get(list, i);
        if (strcmp(type_of(one), "Sequence") == 0)
            return refuse(r, "post-processor", "Sequence in a Sequence", "one level is");
        int status = read_post_processor(r, one);
        if (status) return status;
    }
    return 0;
}

static int read_rest(const reader *r, const json_t *root) {
    if (!absent(json_object_get(root, "truncation")))
        return refuse(r, "\"truncation\"", "in the file", "set it to null and limit lengths when encoding");
    if (!absent(json_object_get(root, "padding"))) return refuse(r, "\"padding\"", "in the file", "set it to null");
    const json_t *normalizer = json_object_get(root, "normalizer");
    if (!absent(normalizer))
        return refuse(r, "normalizer", type_of(normalizer), "only tokenizers without a normalizer are read");
    const json_t *decoder = json_object_get(root, "decoder");
    if (absent(decoder) || strcmp(type_of(decoder), "ByteLevel") != 0)
        return refuse(r, "decoder", absent(decoder) ? "null" : type_of(decoder), "ByteLevel is");
    return read_post_processor(r, json_object_get(root, "post_processor"));
}

/* ---- model ---- */

static int read_vocab(const reader *r, const json_t *vocab) {
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

static int read_merges(const reader *r, const json_t *merges) {
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

static int read_model(const reader *r, const json_t *model) {
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
    if (!json_is_object(model))
        return tl__fail(r->err, TL_EFORMAT, "%s: \"model\" is missing; is it a tokenizer.json?", r->where);
    /* Files of the library's first years name no type. */
    const json_t *type = json_object_get(model, "type");
    if (type ? strcmp(type_of(model), "BPE") != 0 : !json_object_get(model, "merges"))
        return refuse(r, "model", type_of(model), "BPE is");
    int status = only_keys(r, model, "model BPE", keys);
    if (status) return status;
    double dropout;
    status = tl__json_real_or(model, "dropout", 0, 1, 0, &dropout, r->where, r->err);
    if (status) return status;
    if (dropout > 0) return refuse(r, "model BPE", "with dropout", "set it to null");
    static const char *const affix[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (int i = 0; i < 2; i++) {
        const char *text = json_string_value(json_object_get(model, affix[i]));
        if (text && text[0]) return refuse(r, "model BPE with", affix[i], "byte-level vocabularies have none");
    }
    status = tl__json_bool_or(model, "ignore_merges", false, &r->tok->whole_words, r->where, r->err);
    if (!status) status = read_vocab(r, json_object_get(model, "vocab"));
    if (!status) status = read_merges(r, json_object_get(model, "merges"));
    return status;
}

static int read_added(const reader *r, const json_t *list) {
    static const char *const keys[] = {"id",     "content",    "single_word", "lstrip",
                                       "rstrip", "normalized", "special",     NULL};
    static const char *const refused[] = {"single_word", "lstrip", "rstrip"};
    if (absent(list)) return 0;
    if (!json_is_array(list)) return tl__fail(r->err, TL_EFORMAT, "%s: \"added_tokens\" is not a list", r->where);
    int64_t next = r->tok->model_size; /* the id that the library gives to the next one that the vocabulary has not */
    r->tok->id_limit += 2 * (int64_t)json_array_size(list);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *obj = json_array_get(list, i);
        const char *text = json_string_value(json_object_get(obj, "content"));
        if (!text) return tl__fail(r->err, TL_EFORMAT, "%s: added token %zu has no \"content\"", r->where, i);
        if (text[0] == 0) continue;
        int status = only_keys(r, obj, "an added token", keys);
        int64_t id;
        bool special, normalized;
        if (!status) status = tl__json_int(obj, "id", 0, INT32_MAX, &id, r->where, r->err);
        if (!status) status = tl__json_bool_or(obj, "special", false, &special, r->where, r->err);
        if (!status) status = tl__json_bool_or(obj, "normalized", !special, &normalized, r->where, r->err);
        for (size_t k = 0; k < 3 && !status; k++) {
            bool on;
            status = tl__json_bool_or(obj, refused[k], false, &on, r->where, r->err);
            if (!status && on) {
                char what[128];
                snprintf(what, sizeof what, "\"%.80s\" with", text);
                status = refuse(r, what, refused[k], "added tokens are found as plain text only");
            }
        }
        if (status) return status;
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
        status = tl__bpe_add_added(r->tok, text, strlen(text), id, special, !normalized, r->where, r->err);
        if (status) return status;
    }
    return 0;
}

int tl__tokenizer_parse(tl_tokenizer **out, const char *json, size_t n, const char *where, tl_error *err) {
    static const char *const keys[] = {"version",       "truncation",     "padding", "added_tokens", "normalizer",
                                       "pre_tokenizer", "post_processor", "decoder", "model",        NULL};
    json_t *root = tl__json_parse(json, n, where, err);
    if (!root) return TL_EFORMAT;
    reader r = {.where = where, .err = err};
    int status = tl__bpe_new(&r.tok, err);
    if (status) {
        json_decref(root);
        return status;
    }
    if (!json_is_object(root))
        status = tl__fail(err, TL_EFORMAT, "%s: not a JSON object; is it a tokenizer.json?", where);
    if (!status) status = only_keys(&r, root, "the file", keys);
    if (!status) status = read_rest(&r, root);
    if (!status) status = read_model(&r, json_object_get(root, "model"));
    if (!status) status = read_pre_tokenizer(&r, json_object_get(root, "pre_tokenizer"));
    if (!status) status = read_added(&r, json_object_get(root, "added_tokens"));
    if (!status) status = tl__bpe_finish(r.tok, where, err);
    json_decref(root);
    if (status) tl__tokenizer_close(r.tok);
    else *out = r.tok;
    return status;
}

/* ---- writing ---- */

typedef struct printer {
    char *bytes;
    size_t n, room;
    bool failed;
} printer;

static bool reserve(printer *p, size_t more) {
    if (p->failed) return false;
    if (p->n + more <= p->room) return true;
    size_t room = (p->n + more) * 2;
    char *bigger = realloc(p->bytes, room);
    if (!bigger) return p->failed = true, false;
    p->bytes = bigger;
    p->room = room;
    return true;
}

static void print(printer *p, const char *text) {
    size_t n = strlen(text);
    if (!reserve(p, n)) return;
    memcpy(p->bytes + p->n, text, n);
    p->n += n;
}

static void print_quoted(printer *p, const char *text, size_t n) {
    if (!reserve(p, 6 * n + 2)) return;
    int written = tl__json_quote(p->bytes + p->n, p->room - p->n, text, n);
    if (written < 0) p->failed = true;
    else p->n += (size_t)written;
}

static void print_int(printer *p, int value) {
    char text[16];
    snprintf(text, sizeof text, "%d", value);
    print(p, text);
}

static void print_text_of(printer *p, const tl_tokenizer *tok, int id) {
    print_quoted(p, tok->text + tok->token[id].text_at, tok->token[id].text_n);
}

static void print_all(printer *p, const tl_tokenizer *tok) {
    print(p, "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [");
    for (int id = 0, seen = 0; id < tok->vocab; id++) {
        if (!tok->token[id].added) continue;
        print(p, seen++ ? ",\n    {\"id\": " : "\n    {\"id\": ");
        print_int(p, id);
        print(p, ", \"content\": ");
        print_text_of(p, tok, id);
        print(p,
              ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, \"normalized\": false, \"special\": ");
        print(p, tok->token[id].special ? "true}" : "false}");
    }
    print(p, "\n  ],\n  \"normalizer\": null,\n  \"pre_tokenizer\": {\n    \"type\": \"Sequence\",\n    "
             "\"pretokenizers\": [\n"
             "      {\"type\": \"Split\", \"pattern\": {\"Regex\": ");
    const char *pattern = tl__split_pattern(tok->split);
    print_quoted(p, pattern, strlen(pattern));
    print(p,
          "}, \"behavior\": \"Isolated\", \"invert\": false},\n"
          "      {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": false}\n"
          "    ]\n  },\n  \"post_processor\": null,\n"
          "  \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, \"use_regex\": "
          "true},\n"
          "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": null,\n"
          "    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n    \"fuse_unk\": false,\n"
          "    \"byte_fallback\": false,\n    \"ignore_merges\": ");
    print(p, tok->whole_words ? "true,\n    \"vocab\": {" : "false,\n    \"vocab\": {");
    for (int id = 0, seen = 0; id < tok->vocab; id++) {
        if (!tok->token[id].model) continue;
        print(p, seen++ ? ",\n      " : "\n      ");
        print_text_of(p, tok, id);
        print(p, ": ");
        print_int(p, id);
    }
    print(p, "\n    },\n    \"merges\": [");
    for (int i = 0; i < tok->n_merges; i++) {
        const tl_merge *m = &tok->merge[i];
        print(p, i ? ",\n      [" : "\n      [");
        print_text_of(p, tok, m->left);
        print(p, ", ");
        print_text_of(p, tok, m->right);
        print(p, "]");
    }
    print(p, "\n    ]\n  }\n}\n");
}

char *tl__tokenizer_print(const tl_tokenizer *tok, size_t *n) {
    printer p = {0};
    if (tok->json) {
        if (reserve(&p, tok->json_n + 1)) memcpy(p.bytes, tok->json, p.n = tok->json_n);
    } else {
        print_all(&p, tok);
    }
    if (p.failed) {
        free(p.bytes);
        return NULL;
    }
    *n = p.n;
    return p.bytes;
}

static char *print_config(const tl_tokenizer *tok, size_t *n) {
    printer p = {0};
    if (tok->config) {
        if (reserve(&p, tok->config_n + 1)) memcpy(p.bytes, tok->config, p.n = tok->config_n);
    } else {
        print(&p, "{\n");
        if (tok->eos >= 0) {
            print(&p, "  \"bos_token\": ");
            print_text_of(&p, tok, tok->eos);
            print(&p, ",\n  \"eos_token\": ");
            print_text_of(&p, tok, tok->eos);
            print(&p, ",\n");
        }
        print(&p,
              "  \"clean_up_tokenization_spaces\": false,\n  \"model_max_length\": 1000000000000000019884624838656,\n"
              "  \"tokenizer_class\": \"PreTrainedTokenizerFast\"\n}\n");
    }
    if (p.failed) {
        free(p.bytes);
        return NULL;
    }
    *n = p.n;
    return p.bytes;
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
        char *bytes = i ? tl__tokenizer_print(tok, &n) : print_config(tok, &n);
        if (!bytes) return tl__fail(err, TL_ENOMEM, "not enough memory to write %s", path);
        status = tl__file_publish(path, bytes, n, err);
        free(bytes);
    }
    return status;
}
