/* test_bpe_train.c — training against `tokenizers`' BpeTrainer (vectors by tools/make_tokenizer_vectors.py): the same
 * merges, ties broken the same way, whatever the threads and however the text is stored. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include <zlib.h>

#include "base/rng.h"
#include "text/bpe.h"
#include "tokenizer_vectors.h"

static tl_tokenizer *trained(const char *const *paths, int n_paths, int vocab, int threads, bool by_line,
                             const char *second) {
    const char *special[] = {"<|endoftext|>", second};
    tl_error err = {0};
    tl_pool *pool;
    tl_tokenizer *tok;
    assert_int_equal(tl__pool_open(&pool, threads, &err), 0);
    tl_bpe_options o = {.vocab = vocab, .special = special, .n_special = 2, .pool = pool, .by_line = by_line};
    if (tl__tokenizer_train(&tok, paths, n_paths, &o, &err)) fail_msg("%s", err.text);
    tl__pool_close(pool);
    return tok;
}

static void expect_merges(const tl_tokenizer *tok, const json_t *merges, const char *what) {
    for (int i = 0; i < tok->n_merges && (size_t)i < json_array_size(merges); i++) {
        const json_t *pair = json_array_get(merges, (size_t)i);
        for (size_t side = 0; side < 2; side++) {
            const json_t *want = json_array_get(pair, side);
            const tl_token *got = &tok->token[side ? tok->merge[i].right : tok->merge[i].left];
            if (got->text_n != json_string_length(want) ||
                memcmp(tok->text + got->text_at, json_string_value(want), got->text_n) != 0)
                fail_msg("%s, merge %d, side %zu: \"%s\" was expected, not \"%.*s\"", what, i, side,
                         json_string_value(want), (int)got->text_n, tok->text + got->text_at);
        }
    }
    assert_int_equal(tok->n_merges, json_array_size(merges));
}

static void test_merges_equal_the_librarys(void **state) {
    (void)state;
    json_t *want = vector("trained.json"), *model = json_object_get(want, "model");
    const char *path = VECTORS "text.txt", *key;
    json_t *id;
    char first[33] = "", hash[33];
    for (int threads = 1; threads <= 4; threads++) {
        tl_tokenizer *tok = trained(&path, 1, 1200, threads, false, "<|fim|>");
        expect_merges(tok, json_object_get(model, "merges"), "text.txt");
        json_object_foreach(json_object_get(model, "vocab"), key, id)
            assert_int_equal(tl__tokenizer_id(tok, key), json_integer_value(id));
        assert_int_equal(tl__tokenizer_vocab(tok), json_object_size(json_object_get(model, "vocab")));
        assert_int_equal(tl__tokenizer_eos(tok), 0);
        tl__tokenizer_hash(tok, hash);
        if (threads == 1) memcpy(first, hash, 33);
        assert_string_equal(first, hash);
        /* What is written is read back as the same. */
        tl_error err = {0};
        tl_tokenizer *again;
        assert_int_equal(tl__tokenizer_save(tok, in_folder("saved"), &err), 0);
        if (tl__tokenizer_open(&again, in_folder("saved"), &err)) fail_msg("%s", err.text);
        tl__tokenizer_hash(again, hash);
        assert_string_equal(first, hash);
        tl__tokenizer_close(again);
        tl__tokenizer_close(tok);
    }
    json_decref(want);
}

static void test_by_line(void **state) {
    (void)state;
    json_t *want = vector("by_line.json");
    const char *path = VECTORS "text.txt";
    tl_tokenizer *tok = trained(&path, 1, 1200, 2, true, "<|fim|>");
    expect_merges(tok, want, "by line");
    tl__tokenizer_close(tok);
    json_decref(want);
}

static void test_ties_and_tokens_made_twice(void **state) {
    (void)state;
    json_t *ties = vector("ties.json");
    for (size_t i = 0; i < json_array_size(ties); i++) {
        const json_t *c = json_array_get(ties, i), *text = json_object_get(c, "text");
        const char *path = put("tie.txt", json_string_value(text), json_string_length(text));
        char what[32];
        snprintf(what, sizeof what, "ties %zu", i);
        tl_tokenizer *tok = trained(&path, 1, (int)json_integer_value(json_object_get(c, "vocab")), 2, false, "ab");
        expect_merges(tok, json_object_get(c, "merges"), what);
        tl__tokenizer_close(tok);
    }
    json_decref(ties);
}

/* The same documents as plain files, JSONL and gzip, over several blocks. */
static void test_storage_does_not_matter(void **state) {
    (void)state;
    char *text;
    size_t n;
    assert_int_equal(tl__file_slurp(&text, &n, VECTORS "text.txt", 1 << 20, NULL), 0);
    enum { COPIES = 70 }; /* 4 MB: several blocks of a MiB */
    char *big = malloc(n * COPIES), *lines = malloc(7 * n * COPIES + 64 * COPIES);
    size_t at = 0;
    for (int i = 0; i < COPIES; i++) {
        memcpy(big + (size_t)i * n, text, n);
        at += (size_t)sprintf(lines + at, "{\"id\": [%d, {\"a\": \"}\"}], \"text\": ", i);
        int quoted = tl__json_quote(lines + at, 7 * n, text, n);
        assert_true(quoted > 0);
        at += (size_t)quoted;
        at += (size_t)sprintf(lines + at, "}\n");
    }
    const char *plain = put("plain.txt", big, n * COPIES);
    const char *jsonl = put("lines.jsonl", lines, at);
    gzFile gz = gzopen(in_folder("plain.txt.gz"), "wb");
    assert_int_equal(gzwrite(gz, big, (unsigned)(n * COPIES)), n * COPIES);
    gzclose(gz);
    const char *zipped = in_folder("plain.txt.gz"), *copies[COPIES];
    for (int i = 0; i < COPIES; i++) copies[i] = VECTORS "text.txt";
    char want[33], got[33];
    tl_tokenizer *tok = trained(copies, COPIES, 900, 2, false, "<|fim|>");
    tl__tokenizer_hash(tok, want);
    tl__tokenizer_close(tok);
    tok = trained(&jsonl, 1, 900, 3, false, "<|fim|>");
    tl__tokenizer_hash(tok, got);
    tl__tokenizer_close(tok);
    assert_string_equal(got, want);
    /* One long text: joins of copies are inside it, so it is held against itself compressed. */
    tok = trained(&plain, 1, 900, 1, false, "<|fim|>");
    tl__tokenizer_hash(tok, want);
    tl__tokenizer_close(tok);
    tok = trained(&zipped, 1, 900, 4, false, "<|fim|>");
    tl__tokenizer_hash(tok, got);
    tl__tokenizer_close(tok);
    assert_string_equal(got, want);
    free(big);
    free(lines);
    free(text);
}

static void test_what_cannot_be_trained(void **state) {
    (void)state;
    tl_error err = {0};
    tl_tokenizer *tok;
    const char *path = VECTORS "text.txt", *bad = put("bad.jsonl", "{\"text\": \"a\"}\n\n{\"words\": \"b\"}\n", 31);
    const char *special[] = {"<|a|>", "<|a|>"};
    tl_bpe_options o = {.vocab = 256};
    assert_int_equal(tl__tokenizer_train(&tok, &path, 1, &o, &err), TL_EINVALID);
    assert_non_null(strstr(err.text, "257"));
    o = (tl_bpe_options){.vocab = 300, .special = special, .n_special = 2};
    assert_int_not_equal(tl__tokenizer_train(&tok, &path, 1, &o, &err), 0);
    assert_non_null(strstr(err.text, "twice"));
    o = (tl_bpe_options){.vocab = 300};
    assert_int_equal(tl__tokenizer_train(&tok, &bad, 1, &o, &err), TL_EFORMAT);
    assert_non_null(strstr(err.text, "line 3"));
    assert_non_null(strstr(err.text, "\"text\""));
    const char *missing[] = {path, "/nowhere/text.txt"};
    assert_int_not_equal(tl__tokenizer_train(&tok, missing, 2, &o, &err), 0);
    assert_non_null(strstr(err.text, "/nowhere/text.txt"));
    /* An empty file leaves the bytes. */
    const char *empty = put("empty.txt", "", 0);
    assert_int_equal(tl__tokenizer_train(&tok, &empty, 1, &o, &err), 0);
    assert_int_equal(tl__tokenizer_vocab(tok), 257);
    tl__tokenizer_close(tok);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_merges_equal_the_librarys),  cmocka_unit_test(test_by_line),
        cmocka_unit_test(test_ties_and_tokens_made_twice), cmocka_unit_test(test_storage_does_not_matter),
        cmocka_unit_test(test_what_cannot_be_trained),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
