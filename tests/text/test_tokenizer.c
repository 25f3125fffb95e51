/* test_tokenizer.c — reading, writing, encoding and decoding against the `tokenizers` library's own answers (vectors by
 * tools/make_tokenizer_vectors.py), and what a file from outside may not do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/rng.h"
#include "io/file.h"
#include "text/bpe.h"
#include "text/pattern.h"
#include "tokenizer_vectors.h"

static tl_tokenizer *opened(const char *name) {
    char path[512];
    tl_error err = {0};
    tl_tokenizer *tok;
    snprintf(path, sizeof path, VECTORS "%s.json", name);
    if (tl__tokenizer_open(&tok, path, &err)) fail_msg("%s", err.text);
    return tok;
}

static void expect_ids(const tl_tokenizer *tok, const char *text, size_t n, bool special, const json_t *ids,
                       const char *what) {
    int32_t got[4096];
    int64_t count = tl__tokenizer_encode(tok, text, n, special, got, 4096, NULL);
    bool same = count == (int64_t)json_array_size(ids);
    for (int64_t i = 0; i < count && same; i++) same = got[i] == json_integer_value(json_array_get(ids, (size_t)i));
    if (!same) {
        char *want = json_dumps(ids, JSON_COMPACT);
        fprintf(stderr, "%s, special %d, text of %zu bytes: \"%.*s\"\nwant %s\ngot  [", what, special, n, (int)n, text,
                want);
        for (int64_t i = 0; i < count; i++) fprintf(stderr, "%s%d", i ? "," : "", got[i]);
        fail_msg("] ids differ");
    }
}

static void test_ids_equal_the_librarys(void **state) {
    (void)state;
    static const char *const kinds[] = {"trained", "gpt2", "llama3"};
    json_t *cases = vector("cases.json");
    assert_true(json_array_size(cases) > 200);
    for (int k = 0; k < 3; k++) {
        tl_tokenizer *tok = opened(kinds[k]);
        char key[32];
        snprintf(key, sizeof key, "%s_special", kinds[k]);
        int with_special = 0;
        for (int round = 0; round < 2; round++) { /* the second time from the cache */
            for (size_t i = 0; i < json_array_size(cases); i++) {
                const json_t *c = json_array_get(cases, i);
                const json_t *text = json_object_get(c, "text"), *ids = json_object_get(c, kinds[k]);
                const json_t *special = json_object_get(c, key);
                expect_ids(tok, json_string_value(text), json_string_length(text), false, ids, kinds[k]);
                expect_ids(tok, json_string_value(text), json_string_length(text), true, special ? special : ids,
                           kinds[k]);
                with_special += special != NULL;
            }
        }
        assert_true(with_special > 0);
        tl__tokenizer_close(tok);
    }
    json_decref(cases);
}

/* Six characters are words to Oniguruma, but not between brackets: `>¹` is one piece of [^\w\s]+ and `a¹` one of \w+. */
static void test_words_between_brackets(void **state) {
    (void)state;
    static const char *const texts[] = {"a", "\u00b9", "\u00b2", "\u00bd", "\u00ba", "\u2460", "\u093c"};
    static const struct {
        const char *expression, *found; /* in which of the texts: `tokenizers` 0.23.3 */
    } cases[] = {{"\\w", "1111101"},     {"\\W", "0000010"},  {"[\\w]", "1000101"},
                 {"[\\W]", "0111010"},   {"[^\\w]", "0111010"}, {"[^\\W]", "1000101"},
                 {"[^\\w\\s]", "0111010"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        tl_pattern *p;
        tl_error err = {0};
        if (tl__pattern_regex(&p, cases[i].expression, "here", &err)) fail_msg("%s", err.text);
        for (size_t k = 0; k < sizeof texts / sizeof texts[0]; k++) {
            size_t from, to;
            const bool found = tl__pattern_find(p, (const uint8_t *)texts[k], strlen(texts[k]), 0, &from, &to);
            if (found != (cases[i].found[k] == '1'))
                fail_msg("%s in \"%s\": %s", cases[i].expression, texts[k], found ? "found" : "not found");
        }
        tl__pattern_free(p);
    }
}

/* Every other construct, one small tokenizer each: ids, what they decode to in whole characters, and both again after
 * saving and opening. */
static void test_kinds(void **state) {
    (void)state;
    json_t *file = vector("kinds.json"), *kind, *kinds = json_object_get(file, "kinds"), *c;
    const char *name;
    size_t i;
    assert_true(json_object_size(kinds) > 20);
    json_object_foreach(kinds, name, kind) {
        const char *model = json_string_value(json_object_get(kind, "model"));
        json_object_set(kind, "model", json_object_get(json_object_get(file, "models"), model));
        char *text = json_dumps(kind, JSON_COMPACT);
        tl_tokenizer *tok;
        tl_error err = {0};
        if (tl__tokenizer_parse(&tok, text, strlen(text), name, &err)) fail_msg("%s", err.text);
        free(text);
        char *out = malloc(tl__tokenizer_decode_room(tok) + 8192);
        json_array_foreach(json_object_get(file, "cases"), i, c) {
            const json_t *s = json_object_get(c, "text"), *ids = json_array_get(json_object_get(c, name), 0);
            const json_t *back = json_array_get(json_object_get(c, name), 1);
            expect_ids(tok, json_string_value(s), json_string_length(s), true, ids, name);
            tl_decoder d = {0};
            size_t o = 0;
            for (size_t k = 0; k < json_array_size(ids); k++) {
                size_t got =
                    tl__decoder_push(tok, &d, (int32_t)json_integer_value(json_array_get(ids, k)), false, out + o);
                assert_int_equal(tl__utf8_valid((uint8_t *)out + o, got), got);
                o += got;
            }
            o += tl__decoder_finish(&d, out + o);
            if (o != json_string_length(back) || memcmp(out, json_string_value(back), o) != 0)
                fail_msg("%s: case %zu decodes to \"%.*s\", not \"%s\"", name, i, (int)o, out, json_string_value(back));
        }
        free(out);
        tl__tokenizer_close(tok);
    }
    json_decref(file);
}

static void test_broken_utf8_is_counted_and_replaced(void **state) {
    (void)state;
    json_t *nasty = vector("nasty.json");
    tl_tokenizer *tok = opened("trained");
    for (size_t i = 0; i < json_array_size(nasty); i++) {
        const json_t *c = json_array_get(nasty, i);
        const char *hex = json_string_value(json_object_get(c, "hex"));
        char raw[256];
        size_t n = strlen(hex) / 2;
        for (size_t k = 0; k < n; k++) {
            unsigned byte;
            sscanf(hex + 2 * k, "%2x", &byte);
            raw[k] = (char)byte;
        }
        int32_t ids[768];
        int64_t replaced = -1;
        tl__tokenizer_encode(tok, raw, n, false, ids, 768, &replaced);
        assert_int_equal(replaced, json_integer_value(json_object_get(c, "replaced")));
        expect_ids(tok, raw, n, false, json_object_get(c, "trained"), "nasty");
    }
    tl__tokenizer_close(tok);
    json_decref(nasty);
}

static void test_a_small_room_is_not_overrun(void **state) {
    (void)state;
    tl_tokenizer *tok = opened("trained");
    const char *text = "the stone and the river, 12345 \xff!";
    int32_t whole[64], part[64];
    int64_t need = tl__tokenizer_encode(tok, text, strlen(text), false, whole, 64, NULL);
    assert_in_range(need, 5, 64);
    for (int64_t cap = 0; cap <= need; cap++) {
        for (int i = 0; i < 64; i++) part[i] = -7;
        assert_int_equal(tl__tokenizer_encode(tok, text, strlen(text), false, part, (size_t)cap, NULL), need);
        for (int i = 0; i < 64; i++) assert_int_equal(part[i], i < cap ? whole[i] : -7);
    }
    tl__tokenizer_close(tok);
}

/* Both ways of merging give the same ids: words around the length where one takes over. */
static void test_long_words(void **state) {
    (void)state;
    tl_tokenizer *tok = opened("trained");
    /* Without white space a pre-token of letters of any length; cut into pre-tokens by an index of our own for
     * reference: merge by definition, one lowest rank at a time, over the whole list. */
    for (int trial = 0; trial < 60; trial++) {
        int n = trial < 40 ? 50 + trial : 400 + 37 * trial;
        uint8_t *text = malloc((size_t)n);
        int32_t *want = malloc((size_t)n * 4), *got = malloc((size_t)n * 4);
        for (int i = 0; i < n; i++) {
            uint32_t r = tl__philox(9, TL_RNG_TEST, (uint32_t)trial, (uint64_t)i).v[0];
            text[i] = (uint8_t) "eeaatthnso"[trial % 3 == 0 ? 0 : r % 10];
            want[i] = tok->byte_id[text[i]];
        }
        int count = n;
        for (;;) {
            int best = -1;
            int32_t least = INT32_MAX;
            for (int i = 0; i + 1 < count; i++) {
                int32_t rank = tl__bpe_rank(tok, want[i], want[i + 1]);
                if (rank < least) least = rank, best = i;
            }
            if (best < 0) break;
            want[best] = tok->merge[least].made;
            memmove(want + best + 1, want + best + 2, (size_t)(count - best - 2) * 4);
            count--;
        }
        assert_int_equal(tl__tokenizer_encode(tok, (char *)text, (size_t)n, false, got, (size_t)n, NULL), count);
        assert_memory_equal(want, got, (size_t)count * 4);
        free(text);
        free(want);
        free(got);
    }
    tl__tokenizer_close(tok);
}

static void test_safe_cuts_change_no_id(void **state) {
    (void)state;
    static const char *const kinds[] = {"trained", "gpt2", "llama3"};
    char *text;
    size_t n;
    assert_int_equal(tl__file_slurp(&text, &n, VECTORS "text.txt", 1 << 20, NULL), 0);
    json_t *cases = vector("cases.json");
    for (int k = 0; k < 3; k++) {
        tl_tokenizer *tok = opened(kinds[k]);
        int cuts = 0;
        for (int trial = 0; trial < 1500; trial++) {
            tl_u32x4 r = tl__philox(11, TL_RNG_TEST, (uint32_t)k, (uint64_t)trial);
            const char *s = text + r.v[0] % (n - 400);
            size_t total = 1 + r.v[1] % 120;
            if (trial % 3 == 0) {
                const json_t *t = json_object_get(json_array_get(cases, r.v[0] % json_array_size(cases)), "text");
                s = json_string_value(t), total = json_string_length(t);
            }
            size_t seen = total ? r.v[2] % (total + 1) : 0; /* what had been read when the cut was chosen */
            size_t cut = tl__tokenizer_safe_cut(tok, s, seen);
            assert_true(cut <= seen);
            if (cut == 0) continue;
            cuts++;
            int32_t whole[2048], parts[2048];
            int64_t want = tl__tokenizer_encode(tok, s, total, true, whole, 2048, NULL);
            int64_t got = tl__tokenizer_encode(tok, s, cut, true, parts, 2048, NULL);
            got += tl__tokenizer_encode(tok, s + cut, total - cut, true, parts + got, (size_t)(2048 - got), NULL);
            if (want != got || memcmp(whole, parts, (size_t)want * 4) != 0)
                fail_msg("%s: cut at %zu of \"%.*s\"", kinds[k], cut, (int)total, s);
        }
        assert_true(cuts > 500);
        tl__tokenizer_close(tok);
    }
    json_decref(cases);
    free(text);
}

static void test_decoding_gives_the_text_back_in_whole_characters(void **state) {
    (void)state;
    json_t *cases = vector("cases.json");
    tl_tokenizer *bytes;
    tl_error err;
    assert_int_equal(tl__tokenizer_open(&bytes, "bytes", &err), 0);
    tl_tokenizer *toks[3] = {opened("trained"), opened("llama3"), bytes};
    for (int k = 0; k < 3; k++) {
        char *out = malloc(tl__tokenizer_decode_room(toks[k]) + 4096);
        for (size_t i = 0; i < json_array_size(cases); i++) {
            const json_t *text = json_object_get(json_array_get(cases, i), "text");
            size_t n = json_string_length(text), o = 0;
            int32_t ids[4096];
            int64_t count = tl__tokenizer_encode(toks[k], json_string_value(text), n, true, ids, 4096, NULL);
            tl_decoder d = {0};
            for (int64_t t = 0; t < count; t++) {
                size_t got = tl__decoder_push(toks[k], &d, ids[t], false, out + o);
                assert_int_equal(tl__utf8_valid((uint8_t *)out + o, got), got);
                o += got;
            }
            o += tl__decoder_finish(&d, out + o);
            assert_int_equal(o, n);
            assert_memory_equal(out, json_string_value(text), n);
        }
        free(out);
        tl__tokenizer_close(toks[k]);
    }
    json_decref(cases);
}

static void test_decoding_broken_bytes(void **state) {
    (void)state;
    tl_tokenizer *tok;
    tl_error err;
    assert_int_equal(tl__tokenizer_open(&tok, "bytes", &err), 0);
    /* Python: bytes.decode(errors="replace") */
    static const struct {
        const char *bytes, *text;
    } table[] = {{"a\xE6\x97", "a\xEF\xBF\xBD"},
                 {"\xE6\x97\xA5", "\xE6\x97\xA5"},
                 {"\xE6\x97"
                  "b",
                  "\xEF\xBF\xBD"
                  "b"},
                 {"\xF0\x9F\x98\xF0\x9F\x98\x80", "\xEF\xBF\xBD\xF0\x9F\x98\x80"},
                 {"\xC0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD"},
                 {"\xED\xA0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
                 {"\xF0", "\xEF\xBF\xBD"},
                 {"\xE2\x82\xE2\x82\xAC", "\xEF\xBF\xBD\xE2\x82\xAC"}};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        tl_decoder d = {0};
        char out[4096];
        size_t o = 0;
        for (const char *s = table[i].bytes; *s; s++) o += tl__decoder_push(tok, &d, (uint8_t)*s, true, out + o);
        o += tl__decoder_push(tok, &d, 256, true, out + o); /* special: passed over */
        o += tl__decoder_push(tok, &d, 9999, true, out + o);
        o += tl__decoder_push(tok, &d, -1, true, out + o);
        o += tl__decoder_finish(&d, out + o);
        assert_int_equal(o, strlen(table[i].text));
        assert_memory_equal(out, table[i].text, o);
    }
    assert_int_equal(tl__tokenizer_vocab(tok), 257);
    assert_int_equal(tl__tokenizer_eos(tok), 256);
    assert_int_equal(tl__tokenizer_id(tok, "<|endoftext|>"), 256);
    assert_int_equal(tl__tokenizer_id(tok, "no such token"), -1);
    assert_true(tl__tokenizer_is_special(tok, 256));
    assert_false(tl__tokenizer_is_special(tok, 10));
    tl__tokenizer_close(tok);
}

/* A trainer that finds a special token's name in its text makes a piece of it: what is passed over is told by its text. */
static void test_decoding_passes_over_both_of_a_text_that_stands_twice(void **state) {
    (void)state;
    static const char json[] =
        "{\"version\":\"1.0\",\"added_tokens\":[{\"id\":2,\"content\":\"<unk>\",\"single_word\":false,\"lstrip\":false,"
        "\"rstrip\":false,\"normalized\":false,\"special\":true}],\"normalizer\":null,"
        "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"\u2581\",\"prepend_scheme\":\"never\",\"split\":true},"
        "\"post_processor\":null,"
        "\"decoder\":{\"type\":\"Metaspace\",\"replacement\":\"\u2581\",\"prepend_scheme\":\"never\",\"split\":true},"
        "\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[[\"<unk>\",0.0],[\"a\",-1.0],[\"<unk>\",-2.0]],"
        "\"byte_fallback\":false}}";
    tl_tokenizer *tok;
    tl_error err = {0};
    if (tl__tokenizer_parse(&tok, json, sizeof json - 1, "test.json", &err)) fail_msg("%s", err.text);
    for (int skip = 0; skip < 2; skip++) {
        char out[64];
        size_t o = 0;
        tl_decoder d = {0};
        for (int32_t id = 0; id < 3; id++) o += tl__decoder_push(tok, &d, id, skip, out + o);
        o += tl__decoder_finish(&d, out + o);
        assert_int_equal(o, skip ? 1 : 11);
        assert_memory_equal(out, skip ? "a" : "<unk>a<unk>", o);
    }
    tl__tokenizer_close(tok);
}

static void test_saving_keeps_what_was_read_and_reads_what_was_written(void **state) {
    (void)state;
    char path[300], *a, *b;
    tl_error err = {0};
    size_t an, bn;
    tl_tokenizer *tok = opened("llama3"), *again;
    assert_int_equal(tl__tokenizer_save(tok, folder, &err), 0);
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    assert_int_equal(tl__file_slurp(&a, &an, path, 1 << 20, &err), 0);
    assert_int_equal(tl__file_slurp(&b, &bn, VECTORS "llama3.json", 1 << 20, &err), 0);
    assert_int_equal(an, bn);
    assert_memory_equal(a, b, an);
    free(a);
    free(b);
    tl__tokenizer_close(tok);

    assert_int_equal(tl__tokenizer_open(&tok, "bytes", &err), 0);
    assert_int_equal(tl__tokenizer_save(tok, folder, &err), 0);
    if (tl__tokenizer_open(&again, folder, &err)) fail_msg("%s", err.text);
    char one[33], two[33];
    tl__tokenizer_hash(tok, one);
    tl__tokenizer_hash(again, two);
    assert_string_equal(one, two);
    assert_int_equal(tl__tokenizer_eos(again), 256);
    tl__tokenizer_close(tok);
    tl__tokenizer_close(again);
}

/* One of kinds.json by its shared model; what GGUF cannot say of added tokens is not asked here. */
static tl_tokenizer *plain_kind(const json_t *file, const char *name, json_t *(*change)(json_t *kind)) {
    json_t *kind = json_deep_copy(json_object_get(json_object_get(file, "kinds"), name));
    const json_t *model =
        json_object_get(json_object_get(file, "models"), json_string_value(json_object_get(kind, "model")));
    tl_tokenizer *tok;
    tl_error err = {0};
    json_object_set_new(kind, "model", json_deep_copy(model));
    json_object_set_new(kind, "added_tokens", json_array());
    if (change) kind = change(kind);
    char *text = json_dumps(kind, JSON_COMPACT);
    if (tl__tokenizer_parse(&tok, text, strlen(text), name, &err)) fail_msg("%s", err.text);
    free(text);
    json_decref(kind);
    return tok;
}

static int to_gguf(const tl_tokenizer *tok, int more, const char *path, tl_error *err) {
    tl_gguf_out *out;
    assert_int_equal(tl__gguf_create(&out, path, err), 0);
    int status = tl__tokenizer_to_gguf(tok, tl__tokenizer_vocab(tok) + more, out, err);
    if (!status) return tl__gguf_publish(out, err);
    tl__gguf_abandon(out);
    return status;
}

/* Into GGUF metadata (of a model with a few rows more) and back, and from that into tokenizer.json and back, and from
 * that into GGUF once more: the same ids. */
static void test_gguf_and_back(void **state) {
    (void)state;
    static const char *const names[] = {"trained", "smollm", "llama2", "gemma", "sentencepiece", "sentencepiece_words"};
    json_t *file = vector("kinds.json"), *c;
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        tl_error err = {0};
        tl_tokenizer *tok = k == 0 ? opened(names[0]) : plain_kind(file, names[k], NULL), *back[3];
        const int more = k == 0 ? 0 : 7;
        char path[300];
        snprintf(path, sizeof path, "%s/%s.gguf", folder, names[k]);
        if (to_gguf(tok, more, path, &err) || tl__tokenizer_open(&back[0], path, &err)) fail_msg("%s", err.text);
        assert_int_equal(tl__tokenizer_vocab(back[0]), tl__tokenizer_vocab(tok) + more);
        assert_int_equal(tl__tokenizer_save(back[0], folder, &err), 0);
        if (tl__tokenizer_open(&back[1], folder, &err)) fail_msg("%s", err.text);
        if (to_gguf(back[1], 0, path, &err) || tl__tokenizer_open(&back[2], path, &err)) fail_msg("%s", err.text);
        size_t i;
        json_array_foreach(json_object_get(file, "cases"), i, c) {
            const json_t *s = json_object_get(c, "text");
            int32_t want[4096], got[4096];
            /* Of a unigram: a special token's name in the text is a piece to the library, and none to llama.cpp; and
             * before a text that begins with ▁ itself the library puts none. */
            const char *t = json_string_value(s);
            const bool unigram = strncmp(names[k], "sentencepiece", 13) == 0;
            if (unigram && (strstr(t, "<s>") || strncmp(t, "\u2581", 3) == 0)) continue;
            int64_t n = tl__tokenizer_encode(tok, json_string_value(s), json_string_length(s), false, want, 4096, NULL);
            for (int m = 0; m < 3; m++) {
                int64_t count =
                    tl__tokenizer_encode(back[m], json_string_value(s), json_string_length(s), false, got, 4096, NULL);
                if (count != n || memcmp(want, got, (size_t)n * 4) != 0)
                    fail_msg("%s, %s, case %zu: \"%s\"", names[k],
                             m == 0   ? "from GGUF"
                             : m == 1 ? "saved"
                                      : "from GGUF again",
                             i, json_string_value(s));
            }
        }
        tl__tokenizer_close(tok);
        for (int m = 0; m < 3; m++) tl__tokenizer_close(back[m]);
    }
    json_decref(file);
}

static json_t *with_bytes(json_t *kind) {
    json_object_set_new(json_object_get(kind, "model"), "byte_fallback", json_true());
    return kind;
}

static json_t *with_mark_within(json_t *kind) {
    json_array_append_new(json_object_get(json_object_get(kind, "model"), "vocab"),
                          json_pack("[s,f]", "s\u2581s", -3.5));
    return kind;
}

static json_t *without_map(json_t *kind) {
    json_array_remove(json_object_get(json_object_get(kind, "normalizer"), "normalizers"), 0);
    return kind;
}

/* Steps that no reader of GGUF would take. */
static void test_what_gguf_cannot_say_is_refused(void **state) {
    (void)state;
    static const struct {
        const char *name;
        json_t *(*change)(json_t *kind);
        const char *word;
    } cases[] = {{"falcon", NULL, "no form in GGUF"}, /* the order of whose steps has no name */
                 {"unknown", NULL, "no form in GGUF"},
                 {"unigram", NULL, "unigram"},       /* NFKC, which is no map of characters */
                 {"unigram_whole", NULL, "unigram"}, /* nothing put before a text that begins with a space */
                 {"sentencepiece", with_bytes, "unigram"},
                 {"sentencepiece", with_mark_within, "unigram"},
                 {"sentencepiece", without_map, "unigram"},
                 {"sentencepiece_words", with_mark_within, "unigram"}};
    json_t *file = vector("kinds.json");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tl_tokenizer *tok = plain_kind(file, cases[i].name, cases[i].change);
        char path[300];
        tl_error err = {0};
        snprintf(path, sizeof path, "%s/refused.gguf", folder);
        if (to_gguf(tok, 0, path, &err) != TL_EUNSUPPORTED || !strstr(err.text, "GGUF") ||
            !strstr(err.text, cases[i].word))
            fail_msg("%s, case %zu: %s", cases[i].name, i, err.text);
        tl__tokenizer_close(tok);
    }
    json_decref(file);
}

/* ---- hostile files ---- */

static void expect_refused(json_t *root, const char *word) {
    char *text = json_dumps(root, JSON_COMPACT);
    tl_tokenizer *tok = NULL;
    tl_error err = {0};
    int status = tl__tokenizer_parse(&tok, text, strlen(text), "test.json", &err);
    if (status == 0) fail_msg("accepted; \"%s\" was to be refused", word);
    if (!strstr(err.text, word) || !strstr(err.text, "test.json"))
        fail_msg("the sentence lacks \"%s\": %s", word, err.text);
    free(text);
    json_decref(root);
}

#define CHANGED(steps)                                                                                                 \
    ({                                                                                                                 \
        json_t *root = json_deep_copy(base);                                                                           \
        json_t *model = json_object_get(root, "model"), *vocab = json_object_get(model, "vocab");                      \
        json_t *merges = json_object_get(model, "merges"), *added = json_object_get(root, "added_tokens");             \
        (void)model, (void)vocab, (void)merges, (void)added;                                                           \
        steps;                                                                                                         \
        root;                                                                                                          \
    })

static void test_other_constructs_are_refused_by_name(void **state) {
    (void)state;
    json_t *base = vector("trained.json");
    expect_refused(CHANGED(json_object_set_new(root, "normalizer", json_pack("{s:s}", "type", "BertNormalizer"))),
                   "BertNormalizer");
    expect_refused(
        CHANGED(json_object_set_new(root, "normalizer", json_pack("{s:s,s:b}", "type", "NFC", "novelty", 1))),
        "novelty");
    expect_refused(CHANGED(json_object_set_new(model, "type", json_string("WordPiece"))), "WordPiece");
    expect_refused(CHANGED(json_object_set_new(model, "type", json_string("Unigram"))), "dropout");
    expect_refused(CHANGED(json_object_set_new(model, "dropout", json_real(0.1))), "dropout");
    expect_refused(CHANGED(json_object_set_new(model, "end_of_word_suffix", json_string("</w>"))),
                   "end_of_word_suffix");
    expect_refused(CHANGED(json_object_set_new(model, "novelty", json_true())), "novelty");
    expect_refused(CHANGED(json_object_set_new(root, "novelty", json_true())), "novelty");
    expect_refused(CHANGED(json_object_set_new(root, "truncation", json_object())), "truncation");
    expect_refused(CHANGED(json_object_set_new(root, "decoder", json_pack("{s:s}", "type", "WordPiece"))), "WordPiece");
    expect_refused(CHANGED(json_object_set_new(root, "decoder", json_null())), "decoder");
    expect_refused(CHANGED(json_object_set_new(root, "post_processor", json_pack("{s:s}", "type", "Novelty"))),
                   "Novelty");
    expect_refused(CHANGED(json_object_set_new(root, "post_processor",
                                               json_pack("{s:s,s:[s,i],s:[s,i]}", "type", "BertProcessing", "sep",
                                                         "[SEP]", 1, "cls", "[CLS]", 2))),
                   "[CLS]");
    expect_refused(CHANGED(json_object_set_new(root, "pre_tokenizer", json_pack("{s:s}", "type", "UnicodeScripts"))),
                   "UnicodeScripts");
    static const char *const expressions[] = {"[a-z&&[^b]]+", "\\p{Greek}+", "(a)\\1",     "(?x) a",
                                              "a{1,2}+",      "\\R",         "[[:alpha:]]"};
    for (size_t i = 0; i < sizeof expressions / sizeof expressions[0]; i++)
        expect_refused(
            CHANGED(json_object_set_new(root, "pre_tokenizer",
                                        json_pack("{s:s,s:{s:s},s:s,s:b}", "type", "Split", "pattern", "Regex",
                                                  expressions[i], "behavior", "Isolated", "invert", 0))),
            expressions[i]);
    expect_refused(CHANGED(json_object_set_new(json_array_get(added, 0), "id", json_integer(7))), "id 7");
    json_decref(base);
}

static void test_files_that_contradict_themselves(void **state) {
    (void)state;
    json_t *base = vector("trained.json");
    expect_refused(CHANGED(json_array_append_new(merges, json_pack("[s,s]", "a", "\xE2\x98\x83"))), "\xE2\x98\x83");
    expect_refused(CHANGED(json_array_append_new(merges, json_string("ab"))), "merge 9");
    expect_refused(CHANGED(json_array_append_new(merges, json_integer(3))), "merge 9");
    expect_refused(CHANGED(json_object_set_new(vocab, "zzzzzz", json_integer(5))), "id 5");
    expect_refused(CHANGED(json_object_set_new(vocab, "zzzzzz", json_integer(-1))), "id -1");
    expect_refused(CHANGED(json_object_set_new(vocab, "zzzzzz", json_integer(2000000000))), "2000000000");
    expect_refused(CHANGED(json_object_set_new(vocab, "zzzzzz", json_string("5"))), "zzzzzz");
    expect_refused(CHANGED(json_object_del(root, "model")), "model");
    expect_refused(json_array(), "object");
    /* A gap between ids is allowed: ids without a token decode to nothing. */
    json_t *gap = CHANGED(json_object_set_new(vocab, "zzzzzz", json_integer(5000)));
    char *text = json_dumps(gap, JSON_COMPACT);
    tl_tokenizer *tok;
    tl_error err;
    assert_int_equal(tl__tokenizer_parse(&tok, text, strlen(text), "gap", &err), 0);
    assert_int_equal(tl__tokenizer_vocab(tok), 5001);
    size_t n = 9;
    tl__tokenizer_bytes(tok, 4000, &n);
    assert_int_equal(n, 0);
    tl__tokenizer_close(tok);
    free(text);
    json_decref(gap);
    json_decref(base);
    assert_int_not_equal(tl__tokenizer_open(&tok, "/nowhere/at/all", &err), 0);
    assert_non_null(strstr(err.text, "/nowhere/at/all"));
}

/* A Replace of nothing by 140 bytes: a few bytes may grow so, a text may not; and that is not a lack of memory. */
static void steps_that_swell_a_text_are_refused(void **state) {
    (void)state;
    char *file;
    size_t n;
    tl_tokenizer *tok;
    assert_int_equal(tl__file_slurp(&file, &n, TL_SOURCE_DIR "/tests/fuzz/corpus/fuzz_tokenizer_json/swells", 1 << 20, NULL), 0);
    assert_int_equal(tl__tokenizer_parse(&tok, file, n, "swells", NULL), 0);
    assert_true(tl__tokenizer_encode(tok, file, 10, false, NULL, 0, NULL) > 0);
    assert_int_equal(tl__tokenizer_encode(tok, file, n, false, NULL, 0, NULL), TL_EFORMAT);
    assert_true(tl__tokenizer_encode(tok, file, 10, false, NULL, 0, NULL) > 0);
    tl__tokenizer_close(tok);
    free(file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_that_swell_a_text_are_refused),
        cmocka_unit_test(test_ids_equal_the_librarys),
        cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_words_between_brackets),
        cmocka_unit_test(test_broken_utf8_is_counted_and_replaced),
        cmocka_unit_test(test_a_small_room_is_not_overrun),
        cmocka_unit_test(test_long_words),
        cmocka_unit_test(test_safe_cuts_change_no_id),
        cmocka_unit_test(test_decoding_gives_the_text_back_in_whole_characters),
        cmocka_unit_test(test_decoding_broken_bytes),
        cmocka_unit_test(test_decoding_passes_over_both_of_a_text_that_stands_twice),
        cmocka_unit_test(test_saving_keeps_what_was_read_and_reads_what_was_written),
        cmocka_unit_test(test_gguf_and_back),
        cmocka_unit_test(test_what_gguf_cannot_say_is_refused),
        cmocka_unit_test(test_other_constructs_are_refused_by_name),
        cmocka_unit_test(test_files_that_contradict_themselves),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
