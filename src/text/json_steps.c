/* json_steps.c — owns the reading of tokenizer.json's normalizer, pre_tokenizer and decoder into steps; refuses by name
 * what it does not know. */
#include "text/json_steps.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

int tl__reader_refuse(const tl_token_reader *r, const char *what, const char *value, const char *instead) {
    return tl__fail(r->err, TL_EUNSUPPORTED, "%s: %s %s is not supported; %s", r->where, what, value, instead);
}

int tl__reader_only_keys(const tl_token_reader *r, const json_t *obj, const char *what, const char *const *names) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)obj, key, value) {
        int i = 0;
        while (names[i] && strcmp(names[i], key) != 0) i++;
        if (!names[i])
            return tl__fail(r->err, TL_EUNSUPPORTED,
                            "%s: %s has the key \"%.60s\", which is not known and could change ids; remove it if it does "
                            "not",
                            r->where, what, key);
    }
    return 0;
}

const char *tl__reader_type(const json_t *obj) {
    const char *type = json_string_value(json_object_get(obj, "type"));
    return type ? type : "(without type)";
}

static int one_more(const tl_token_reader *r, int n, const char *what) {
    if (n < TL_STEPS_MOST - 2) return 0;
    return tl__fail(r->err, TL_EUNSUPPORTED, "%s: more than %d steps of the %s are not supported", r->where,
                    TL_STEPS_MOST - 2, what);
}

/* obj.pattern, {"String": …} or {"Regex": …}. */
static int read_pattern(const tl_token_reader *r, const json_t *obj, const char *what, tl_pattern **pattern) {
    const json_t *value = json_object_get(obj, "pattern");
    const char *literal = json_string_value(json_object_get(value, "String"));
    const char *regex = json_string_value(json_object_get(value, "Regex"));
    if (literal && literal[0]) return tl__pattern_literal(pattern, literal, strlen(literal), r->err);
    if (regex && regex[0]) return tl__pattern_regex(pattern, regex, r->where, r->err);
    return tl__reader_refuse(r, what, "without a pattern", "{\"String\": …} or {\"Regex\": …} is");
}

static int copy_text(const tl_token_reader *r, const json_t *obj, const char *key, char **text, size_t *n) {
    const char *value = json_string_value(json_object_get(obj, key));
    if (!value)
        return tl__fail(r->err, TL_EFORMAT, "%s: %s has no text \"%s\"; check the file", r->where, tl__reader_type(obj), key);
    *text = strdup(value);
    *n = strlen(value);
    return *text ? 0 : tl__fail(r->err, TL_ENOMEM, "%s: not enough memory", r->where);
}

/* Members of a Sequence, read one by one; nested ones lie flat. */
static int read_list(const tl_token_reader *r, const json_t *obj, const char *what, const char *member, int depth,
                     int (*read)(const tl_token_reader *, const json_t *, int)) {
    const char *const keys[] = {"type", member, NULL};
    int status = tl__reader_only_keys(r, obj, what, keys);
    const json_t *list = json_object_get(obj, member);
    if (!status && !json_is_array(list))
        return tl__fail(r->err, TL_EFORMAT, "%s: %s has no list \"%s\"; check the file", r->where, what, member);
    if (!status && depth > 8) return tl__reader_refuse(r, what, "nested more than 8 deep", "a flat one is");
    for (size_t i = 0; i < json_array_size(list) && !status; i++) status = read(r, json_array_get(list, i), depth + 1);
    return status;
}

/* ---- normalizer ---- */

static const int8_t base64_values[256] = {['A'] = 1,  ['B'] = 2,  ['C'] = 3,  ['D'] = 4,  ['E'] = 5,  ['F'] = 6,  ['G'] = 7,
    ['H'] = 8,  ['I'] = 9,  ['J'] = 10, ['K'] = 11, ['L'] = 12, ['M'] = 13, ['N'] = 14, ['O'] = 15, ['P'] = 16, ['Q'] = 17,
    ['R'] = 18, ['S'] = 19, ['T'] = 20, ['U'] = 21, ['V'] = 22, ['W'] = 23, ['X'] = 24, ['Y'] = 25, ['Z'] = 26, ['a'] = 27,
    ['b'] = 28, ['c'] = 29, ['d'] = 30, ['e'] = 31, ['f'] = 32, ['g'] = 33, ['h'] = 34, ['i'] = 35, ['j'] = 36, ['k'] = 37,
    ['l'] = 38, ['m'] = 39, ['n'] = 40, ['o'] = 41, ['p'] = 42, ['q'] = 43, ['r'] = 44, ['s'] = 45, ['t'] = 46, ['u'] = 47,
    ['v'] = 48, ['w'] = 49, ['x'] = 50, ['y'] = 51, ['z'] = 52, ['0'] = 53, ['1'] = 54, ['2'] = 55, ['3'] = 56, ['4'] = 57,
    ['5'] = 58, ['6'] = 59, ['7'] = 60, ['8'] = 61, ['9'] = 62, ['+'] = 63, ['/'] = 64};

static int read_charsmap(const tl_token_reader *r, const json_t *obj, tl_charsmap **map) {
    static const char *const keys[] = {"type", "precompiled_charsmap", NULL};
    int status = tl__reader_only_keys(r, obj, "normalizer Precompiled", keys);
    const char *text = json_string_value(json_object_get(obj, "precompiled_charsmap"));
    if (!status && !text) status = tl__fail(r->err, TL_EFORMAT, "%s: Precompiled has no precompiled_charsmap", r->where);
    if (status) return status;
    size_t n = strlen(text), o = 0;
    uint8_t *bytes = malloc(n / 4 * 3 + 4);
    if (!bytes) return tl__fail(r->err, TL_ENOMEM, "%s: not enough memory for a precompiled_charsmap", r->where);
    uint32_t bits = 0;
    int held = 0;
    size_t i = 0;
    for (; i < n && text[i] != '='; i++) {
        int value = base64_values[(uint8_t)text[i]];
        if (!value) break;
        bits = bits << 6 | (uint32_t)(value - 1);
        held += 6;
        if (held >= 8) bytes[o++] = (uint8_t)(bits >> (held -= 8));
    }
    status = i < n && text[i] != '='
                 ? tl__fail(r->err, TL_EFORMAT, "%s: precompiled_charsmap is not base64; check the file", r->where)
                 : tl__charsmap_open(map, bytes, o, false, r->where, r->err);
    free(bytes);
    return status;
}

static int read_norm(const tl_token_reader *r, const json_t *obj, int depth) {
    static const struct {
        const char *name;
        tl_norm_kind kind;
    } simple[] = {{"NFC", TL_NORM_NFC},   {"NFD", TL_NORM_NFD},           {"NFKC", TL_NORM_NFKC},
                  {"NFKD", TL_NORM_NFKD}, {"Lowercase", TL_NORM_LOWERCASE}, {"StripAccents", TL_NORM_STRIP_ACCENTS}};
    const char *type = tl__reader_type(obj);
    if (strcmp(type, "Sequence") == 0) return read_list(r, obj, "normalizer Sequence", "normalizers", depth, read_norm);
    int status = one_more(r, r->tok->n_norm, "normalizer");
    if (status) return status;
    tl_norm step = {0};
    bool known = true;
    if (strcmp(type, "Prepend") == 0) {
        static const char *const keys[] = {"type", "prepend", NULL};
        step.kind = TL_NORM_PREPEND;
        status = tl__reader_only_keys(r, obj, "normalizer Prepend", keys);
        if (!status) status = copy_text(r, obj, "prepend", &step.text, &step.text_n);
    } else if (strcmp(type, "Replace") == 0) {
        static const char *const keys[] = {"type", "pattern", "content", NULL};
        step.kind = TL_NORM_REPLACE;
        status = tl__reader_only_keys(r, obj, "normalizer Replace", keys);
        if (!status) status = read_pattern(r, obj, "normalizer Replace", &step.pattern);
        if (!status) status = copy_text(r, obj, "content", &step.text, &step.text_n);
    } else if (strcmp(type, "Strip") == 0) {
        static const char *const keys[] = {"type", "strip_left", "strip_right", NULL};
        step.kind = TL_NORM_STRIP;
        status = tl__reader_only_keys(r, obj, "normalizer Strip", keys);
        if (!status) status = tl__json_bool_or(obj, "strip_left", true, &step.left, r->where, r->err);
        if (!status) status = tl__json_bool_or(obj, "strip_right", true, &step.right, r->where, r->err);
    } else if (strcmp(type, "Precompiled") == 0) {
        step.kind = TL_NORM_CHARSMAP;
        status = read_charsmap(r, obj, &step.map);
    } else {
        known = false;
        static const char *const keys[] = {"type", NULL};
        for (size_t i = 0; i < sizeof simple / sizeof simple[0] && !known; i++) {
            known = strcmp(simple[i].name, type) == 0;
            step.kind = simple[i].kind;
        }
        if (known) status = tl__reader_only_keys(r, obj, "a normalizer", keys);
    }
    if (!known)
        status = tl__reader_refuse(r, "normalizer", type,
                                   "NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, Prepend, Replace, Strip, Precompiled and "
                                   "Sequences of them are");
    if (status) tl__norm_free(&step);
    else r->tok->norm[r->tok->n_norm++] = step;
    return status;
}

int tl__read_normalizer(const tl_token_reader *r, const json_t *obj) {
    return tl__reader_absent(obj) ? 0 : read_norm(r, obj, 0);
}

/* ---- pre-tokenizer ---- */

static int read_behavior(const tl_token_reader *r, const json_t *obj, const char *usual, tl_behavior *behavior) {
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    const char *name;
    int status = tl__json_string_or(obj, "behavior", usual, &name, r->where, r->err);
    for (int i = 0; i < 5 && !status && name; i++)
        if (strcmp(names[i], name) == 0) return *behavior = (tl_behavior)i, 0;
    return status ? status
                  : tl__reader_refuse(r, "behavior", name ? name : "(none)",
                                      "Removed, Isolated, MergedWithPrevious, MergedWithNext and Contiguous are");
}

static int read_byte_level(const tl_token_reader *r, const json_t *obj) {
    static const char *const keys[] = {"type", "add_prefix_space", "trim_offsets", "use_regex", NULL};
    tl_tokenizer *tok = r->tok;
    int status = tl__reader_only_keys(r, obj, "pre-tokenizer ByteLevel", keys);
    bool prefix, regex;
    if (!status) status = tl__json_bool_or(obj, "add_prefix_space", true, &prefix, r->where, r->err);
    if (!status) status = tl__json_bool_or(obj, "use_regex", true, &regex, r->where, r->err);
    if (status) return status;
    if (prefix) tok->pre[tok->n_pre++] = (tl_pre){.kind = TL_PRE_PREFIX_SPACE};
    if (!status) status = one_more(r, tok->n_pre, "pre-tokenizer");
    if (status) return status;
    if (regex) tok->pre[tok->n_pre++] = (tl_pre){.kind = TL_PRE_SCAN, .split = TL_SPLIT_GPT2};
    if (!status) status = one_more(r, tok->n_pre, "pre-tokenizer");
    if (!status) tok->pre[tok->n_pre++] = (tl_pre){.kind = TL_PRE_BYTES};
    return status;
}

static int read_split(const tl_token_reader *r, const json_t *obj, tl_pre *step) {
    static const char *const keys[] = {"type", "pattern", "behavior", "invert", NULL};
    int status = tl__reader_only_keys(r, obj, "pre-tokenizer Split", keys);
    if (!status) status = read_behavior(r, obj, NULL, &step->behavior);
    if (!status) status = tl__json_bool_or(obj, "invert", false, &step->invert, r->where, r->err);
    if (status) return status;
    const char *regex = json_string_value(json_object_get(json_object_get(obj, "pattern"), "Regex"));
    int split = regex ? tl__split_find(regex) : -1;
    /* Isolating the matches and removing what lies between them are the same where everything matches. */
    if (split >= 0 && step->behavior == (step->invert ? TL_REMOVED : TL_ISOLATED)) {
        *step = (tl_pre){.kind = TL_PRE_SCAN, .split = (tl_split)split};
        return 0;
    }
    step->kind = TL_PRE_SPLIT;
    return read_pattern(r, obj, "pre-tokenizer Split", &step->pattern);
}

static int read_metaspace(const tl_token_reader *r, const json_t *obj, const char *what, tl_prepend *prepend, bool *cut,
                          tl_pattern **mark) {
    static const char *const keys[] = {"type", "replacement", "str_rep", "prepend_scheme", "add_prefix_space", "split", NULL};
    static const char *const schemes[] = {"never", "first", "always"};
    const char *replacement, *scheme;
    bool prefix;
    int status = tl__reader_only_keys(r, obj, what, keys);
    if (!status) status = tl__json_string_or(obj, "replacement", "\xE2\x96\x81", &replacement, r->where, r->err);
    if (!status) status = tl__json_bool_or(obj, "add_prefix_space", true, &prefix, r->where, r->err);
    if (!status) status = tl__json_string_or(obj, "prepend_scheme", prefix ? "always" : "never", &scheme, r->where, r->err);
    if (!status) status = tl__json_bool_or(obj, "split", true, cut, r->where, r->err);
    if (status) return status;
    int k = 0;
    while (k < 3 && strcmp(schemes[k], scheme) != 0) k++;
    if (k == 3) return tl__reader_refuse(r, "prepend_scheme", scheme, "always, first and never are");
    *prepend = (tl_prepend)k;
    uint32_t c;
    size_t n = strlen(replacement);
    if (n == 0 || (size_t)tl__utf8_at((const uint8_t *)replacement, &c) != n)
        return tl__reader_refuse(r, what, "with a replacement that is not one character", "\"\xE2\x96\x81\" is usual");
    return tl__pattern_char(mark, c, r->err);
}

static int read_pre(const tl_token_reader *r, const json_t *obj, int depth) {
    const char *type = tl__reader_type(obj);
    tl_tokenizer *tok = r->tok;
    if (strcmp(type, "Sequence") == 0)
        return read_list(r, obj, "pre-tokenizer Sequence", "pretokenizers", depth, read_pre);
    int status = one_more(r, tok->n_pre, "pre-tokenizer");
    if (status) return status;
    if (strcmp(type, "ByteLevel") == 0) return read_byte_level(r, obj);
    tl_pre step = {.kind = TL_PRE_SPLIT};
    if (strcmp(type, "Split") == 0) {
        status = read_split(r, obj, &step);
    } else if (strcmp(type, "Metaspace") == 0) {
        step.kind = TL_PRE_METASPACE;
        step.behavior = TL_MERGED_WITH_NEXT;
        status = read_metaspace(r, obj, "pre-tokenizer Metaspace", &step.prepend, &step.cut, &step.pattern);
    } else if (strcmp(type, "Digits") == 0) {
        static const char *const keys[] = {"type", "individual_digits", NULL};
        bool individual = false;
        step.name = "Digits";
        status = tl__reader_only_keys(r, obj, "pre-tokenizer Digits", keys);
        if (!status) status = tl__json_bool_or(obj, "individual_digits", false, &individual, r->where, r->err);
        step.behavior = individual ? TL_ISOLATED : TL_CONTIGUOUS;
        if (!status) status = tl__pattern_set(&step.pattern, TL_SET_NUMERIC, r->err);
    } else if (strcmp(type, "Punctuation") == 0) {
        static const char *const keys[] = {"type", "behavior", NULL};
        step.name = "Punctuation";
        status = tl__reader_only_keys(r, obj, "pre-tokenizer Punctuation", keys);
        if (!status) status = read_behavior(r, obj, "Isolated", &step.behavior);
        if (!status) status = tl__pattern_set(&step.pattern, TL_SET_PUNCTUATOR, r->err);
    } else if (strcmp(type, "WhitespaceSplit") == 0) {
        static const char *const keys[] = {"type", NULL};
        step.name = "WhitespaceSplit";
        step.behavior = TL_REMOVED;
        status = tl__reader_only_keys(r, obj, "pre-tokenizer WhitespaceSplit", keys);
        if (!status) status = tl__pattern_set(&step.pattern, TL_SET_SPACE, r->err);
    } else if (strcmp(type, "Whitespace") == 0) {
        static const char *const keys[] = {"type", NULL};
        step.kind = TL_PRE_WORDS;
        status = tl__reader_only_keys(r, obj, "pre-tokenizer Whitespace", keys);
    } else {
        status = tl__reader_refuse(r, "pre-tokenizer", type,
                                   "ByteLevel, Split, Metaspace, Digits, Punctuation, Whitespace, WhitespaceSplit and "
                                   "Sequences of them are");
    }
    if (status) tl__pre_free(&step);
    else tok->pre[tok->n_pre++] = step;
    return status;
}

int tl__read_pre_tokenizer(const tl_token_reader *r, const json_t *obj) {
    return tl__reader_absent(obj) ? 0 : read_pre(r, obj, 0);
}

/* ---- decoder ---- */

static int read_decode(const tl_token_reader *r, const json_t *obj, int depth) {
    const char *type = tl__reader_type(obj);
    tl_tokenizer *tok = r->tok;
    if (strcmp(type, "Sequence") == 0) return read_list(r, obj, "decoder Sequence", "decoders", depth, read_decode);
    int status = one_more(r, tok->n_decode, "decoder");
    if (status) return status;
    tl_decode step = {0};
    if (strcmp(type, "ByteLevel") == 0) {
        static const char *const keys[] = {"type", "add_prefix_space", "trim_offsets", "use_regex", NULL};
        step.kind = TL_DECODE_BYTE_LEVEL;
        status = tl__reader_only_keys(r, obj, "decoder ByteLevel", keys);
    } else if (strcmp(type, "Replace") == 0) {
        static const char *const keys[] = {"type", "pattern", "content", NULL};
        step.kind = TL_DECODE_REPLACE;
        status = tl__reader_only_keys(r, obj, "decoder Replace", keys);
        if (!status) status = read_pattern(r, obj, "decoder Replace", &step.pattern);
        if (!status) status = copy_text(r, obj, "content", &step.text, &step.text_n);
    } else if (strcmp(type, "Metaspace") == 0) {
        tl_prepend prepend = TL_PREPEND_NEVER;
        bool cut;
        step.kind = TL_DECODE_METASPACE;
        status = read_metaspace(r, obj, "decoder Metaspace", &prepend, &cut, &step.pattern);
        step.strip = prepend != TL_PREPEND_NEVER;
    } else if (strcmp(type, "ByteFallback") == 0 || strcmp(type, "Fuse") == 0) {
        static const char *const keys[] = {"type", NULL};
        step.kind = type[0] == 'B' ? TL_DECODE_BYTE_FALLBACK : TL_DECODE_FUSE;
        status = tl__reader_only_keys(r, obj, "a decoder", keys);
    } else if (strcmp(type, "Strip") == 0) {
        static const char *const keys[] = {"type", "content", "start", "stop", NULL};
        int64_t left = 0, right = 0;
        step.kind = TL_DECODE_STRIP;
        status = tl__reader_only_keys(r, obj, "decoder Strip", keys);
        if (!status) status = copy_text(r, obj, "content", &step.text, &step.text_n);
        if (!status) status = tl__json_int_or(obj, "start", 0, 1024, 0, &left, r->where, r->err);
        if (!status) status = tl__json_int_or(obj, "stop", 0, 1024, 0, &right, r->where, r->err);
        if (!status && step.text_n == 0) status = tl__reader_refuse(r, "decoder Strip", "of nothing", "a character is");
        step.left = (int)left, step.right = (int)right;
    } else {
        status = tl__reader_refuse(r, "decoder", type,
                                   "ByteLevel, Replace, Metaspace, ByteFallback, Fuse, Strip and Sequences of them are");
    }
    if (status) tl__decode_free(&step);
    else tok->decode[tok->n_decode++] = step;
    return status;
}

int tl__read_decoder(const tl_token_reader *r, const json_t *obj) {
    if (tl__reader_absent(obj))
        return tl__reader_refuse(r, "decoder", "null", "the library would part tokens by spaces; name one");
    return read_decode(r, obj, 0);
}
