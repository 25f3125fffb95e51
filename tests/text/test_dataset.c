/* test_dataset.c — from files to samples: the windows are those of the joined stream, the same whatever the threads and
 * the storage; a killed preparation is never used; damaged shards are refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <malloc.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include <zlib.h>
#include <zstd.h>

#include "base/rng.h"
#include "text/shard.h"
#include "tokenizer_vectors.h"

static tl_tokenizer *tok;

static tl_dataset_options options(const char *const *paths, int n, int T, double val, const char *cache) {
    return (tl_dataset_options){
        .paths = paths, .n_paths = n, .cache_folder = in_folder(cache), .tokenizer = tok, .T = T, .val_fraction = val};
}

static tl_dataset *opened(const tl_dataset_options *o) {
    tl_error err = {0};
    tl_dataset *d;
    if (tl__dataset_open(&d, o, &err)) fail_msg("%s", err.text);
    return d;
}

static void expect_refused(const tl_dataset_options *o, int status, const char *word) {
    tl_error err = {0};
    tl_dataset *d;
    assert_int_equal(tl__dataset_open(&d, o, &err), status);
    if (!strstr(err.text, word)) fail_msg("the sentence lacks \"%s\": %s", word, err.text);
}

/* The stream that samples must be windows of. */
typedef struct stream {
    int32_t *ids;
    int64_t n;
    int64_t starts[4096];
    int documents;
} stream;

static void add_document(stream *s, const char *text, size_t n) {
    int64_t room = s->n + 3 * (int64_t)n + 2;
    s->ids = realloc(s->ids, (size_t)room * sizeof *s->ids);
    int64_t got = tl__tokenizer_encode(tok, text, n, false, s->ids + s->n, 3 * n + 1, NULL);
    if (got == 0) return;
    s->starts[s->documents++] = s->n;
    s->n += got;
    s->ids[s->n++] = tl__tokenizer_eos(tok);
}

static void expect_samples(const tl_dataset *d, const stream *s, int T, int64_t val) {
    const tl_dataset_facts *f = tl__dataset_facts(d);
    int64_t windows = (s->n - 1) / T;
    assert_int_equal(f->tokens, s->n);
    assert_int_equal(f->documents, s->documents);
    assert_int_equal(f->val_samples, val);
    assert_int_equal(f->train_samples, windows - val);
    int32_t *input = malloc((size_t)T * 4), *target = malloc((size_t)T * 4), *pos = malloc((size_t)T * 4);
    char *seen = calloc((size_t)windows, 1);
    int most = 1;
    tl_error err = {0};
    for (int64_t k = 0; k < 2 * f->train_samples; k++) tl__dataset_will_need(d, 7, k); /* a hint changes nothing */
    for (int masked = 0; masked < 2; masked++) {
        for (int64_t k = 0; k < windows; k++) {
            bool train = k < f->train_samples;
            int64_t index =
                train ? k + (masked ? f->train_samples : 0) : k - f->train_samples; /* masked: the second epoch */
            int status = train ? tl__dataset_train_sample(d, 7, index, masked, input, target, pos, &err)
                               : tl__dataset_val_sample(d, index, masked, input, target, pos, &err);
            assert_int_equal(status, 0);
            int64_t w = train ? (int64_t)tl__permute((uint64_t)k, (uint64_t)f->train_samples, 7, (uint32_t)masked) : k;
            seen[w] += 1;
            int doc = 0, documents = 1;
            for (int i = 0; i < T; i++) {
                int64_t at = w * T + i;
                while (doc + 1 < s->documents && s->starts[doc + 1] <= at) doc++;
                bool ends = doc + 1 < s->documents && s->starts[doc + 1] == at + 1;
                int64_t begin = s->starts[doc] > w * T ? s->starts[doc] : w * T;
                documents += s->starts[doc] == at && i > 0;
                assert_int_equal(input[i], s->ids[at]);
                assert_int_equal(target[i], masked && ends ? -1 : s->ids[at + 1]);
                assert_int_equal(pos[i], masked ? at - begin : i);
            }
            if (documents > most) most = documents;
        }
    }
    for (int64_t w = 0; w < windows; w++) assert_int_equal(seen[w], 2); /* each once an epoch */
    assert_in_range(f->max_documents_per_sample, most, most + 1);
    free(input);
    free(target);
    free(pos);
    free(seen);
}

static void test_samples_are_windows_of_the_joined_stream(void **state) {
    (void)state;
    char *text;
    size_t n;
    assert_int_equal(tl__file_slurp(&text, &n, VECTORS "text.txt", 1 << 20, NULL), 0);
    stream s = {0};
    /* A plain file, a JSONL file of short documents (one empty, one blank line, one broken), a plain one again. */
    add_document(&s, text, n);
    char *lines = malloc(8 * n);
    size_t at = 0;
    for (int i = 0; i < 200; i++) {
        size_t from = (size_t)i * 250, length = (size_t)(tl__philox(3, TL_RNG_TEST, 0, (uint64_t)i).v[0] % 250);
        while (from > 0 && ((unsigned char)text[from] & 0xC0) == 0x80) from--;
        while (((unsigned char)text[from + length] & 0xC0) == 0x80) length++;
        at += (size_t)sprintf(lines + at, "{\"words\": ");
        at += (size_t)tl__json_quote(lines + at, 8 * n - at, text + from, length);
        at += (size_t)sprintf(lines + at, ", \"n\": %d}\n%s", i, i == 50 ? "  \n" : "");
        add_document(&s, text + from, length);
    }
    at += (size_t)sprintf(
        lines + at, "{\"words\": \"\"}\n{\"words\": \"a\\u0000b\\ud83d\\ude00 \\udc00 x\xff\"}"); /* no line end */
    add_document(&s, "a\0b\xF0\x9F\x98\x80 \xEF\xBF\xBD x\xEF\xBF\xBD", 16);
    add_document(&s, text, n);
    put("a.txt", text, n);
    put("b.jsonl", lines, at);
    gzFile gz = gzopen(in_folder("b.jsonl.gz"), "wb");
    assert_int_equal(gzwrite(gz, lines, (unsigned)at), at);
    gzclose(gz);
    char *packed = malloc(ZSTD_compressBound(at));
    size_t packed_n = ZSTD_compress(packed, ZSTD_compressBound(at), lines, at, 3);
    put("b.jsonl.zst", packed, packed_n);
    char hash[33] = "";
    static const char *const second[] = {"b.jsonl", "b.jsonl.gz", "b.jsonl.zst"};
    for (int k = 0; k < 3; k++) {
        const char *paths[3] = {in_folder("a.txt"), in_folder(second[k]), in_folder("a.txt")};
        char cache[16];
        snprintf(cache, sizeof cache, "cache%d", k);
        tl_dataset_options o = options(paths, 3, 64, 0.1, cache);
        o.text_key = "words";
        tl_error err;
        assert_int_equal(tl__pool_open(&o.pool, k + 1, &err), 0);
        tl_dataset *d = opened(&o);
        const tl_dataset_facts *f = tl__dataset_facts(d);
        assert_false(f->reused);
        assert_int_equal(f->invalid_utf8, 2); /* a lone surrogate, a byte that is none */
        expect_samples(d, &s, 64, (int64_t)(0.1 * (double)((s.n - 1) / 64)));
        if (k == 0) memcpy(hash, f->hash, 33);
        assert_string_equal(hash, f->hash);
        tl__dataset_close(d);
        /* Found again, with other settings of the same data too. */
        o.T = 17;
        o.val_fraction = 0;
        d = opened(&o);
        assert_true(tl__dataset_facts(d)->reused);
        assert_string_not_equal(hash, tl__dataset_facts(d)->hash);
        expect_samples(d, &s, 17, 0);
        tl__dataset_close(d);
        setenv("TRILITH_MMAP", "0", 1); /* read instead of mapped */
        d = opened(&o);
        expect_samples(d, &s, 17, 0);
        tl__dataset_close(d);
        unsetenv("TRILITH_MMAP");
        tl__pool_close(o.pool);
    }
    free(s.ids);
    free(lines);
    free(packed);
    free(text);
}

static void test_blocks_do_not_show(void **state) {
    (void)state;
    char *text;
    size_t n;
    assert_int_equal(tl__file_slurp(&text, &n, VECTORS "text.txt", 1 << 20, NULL), 0);
    enum { COPIES = 60 };
    char *big = malloc(n * COPIES);
    for (int i = 0; i < COPIES; i++) memcpy(big + (size_t)i * n, text, n);
    put("big.txt", big, n * COPIES);
    stream s = {0};
    add_document(&s, big, n * COPIES);
    const char *path = in_folder("big.txt");
    tl_dataset_options o = options(&path, 1, 256, 0, "big");
    tl_error err;
    assert_int_equal(tl__pool_open(&o.pool, 3, &err), 0);
    tl_dataset *d = opened(&o);
    expect_samples(d, &s, 256, 0);
    /* Sampling never touches the heap. */
    int32_t input[256], target[256], pos[256];
    struct mallinfo2 before = mallinfo2();
    for (int64_t i = 0; i < 500; i++) tl__dataset_train_sample(d, 1, i, true, input, target, pos, &err);
    struct mallinfo2 after = mallinfo2();
    assert_int_equal(before.uordblks, after.uordblks);
    assert_int_equal(before.arena, after.arena);
    tl__dataset_close(d);
    tl__pool_close(o.pool);
    free(s.ids);
    free(big);
    free(text);
}

static void test_too_little_text(void **state) {
    (void)state;
    put("small.txt", "the stone and the river", 23);
    const char *path = in_folder("small.txt");
    int32_t ids[64];
    int n = (int)tl__tokenizer_encode(tok, "the stone and the river", 23, false, ids, 64, NULL) + 1;
    char tokens[32], most[32];
    snprintf(tokens, sizeof tokens, "has %d tokens", n);
    snprintf(most, sizeof most, "at most %d", n - 1);
    tl_dataset_options o = options(&path, 1, 256, 0, "small");
    expect_refused(&o, TL_EINVALID, tokens);
    expect_refused(&o, TL_EINVALID, "257");
    expect_refused(&o, TL_EINVALID, most);
    o.T = n - 1;
    tl_dataset *d = opened(&o);
    tl__dataset_close(d);
    o.val_fraction = 0.1;
    expect_refused(&o, TL_EINVALID, "validation");
    put("empty.txt", "", 0);
    const char *empty = in_folder("empty.txt");
    o = options(&empty, 1, 8, 0, "small");
    expect_refused(&o, TL_EINVALID, "0 tokens");
    const char *missing[] = {path, "/nowhere/text.txt"};
    o = options(missing, 2, 8, 0, "small");
    tl_error err = {0};
    assert_int_not_equal(tl__dataset_open(&d, &o, &err), 0);
    assert_non_null(strstr(err.text, "/nowhere/text.txt"));
    put("bad.jsonl", "{\"text\": \"a\"}\n[1]\n", 18);
    const char *bad = in_folder("bad.jsonl");
    o = options(&bad, 1, 8, 0, "small");
    expect_refused(&o, TL_EFORMAT, "line 2");
}

/* A child prepares and is killed at some instant; what the next one finds is unfinished or right, never half. */
static void test_kill_while_preparing(void **state) {
    (void)state;
    const char *path = in_folder("big.txt");
    tl_dataset_options o = options(&path, 1, 256, 0, "killed");
    char want[33];
    {
        tl_dataset_options whole = options(&path, 1, 256, 0, "big");
        tl_dataset *d = opened(&whole);
        memcpy(want, tl__dataset_facts(d)->hash, 33);
        tl__dataset_close(d);
    }
    int unfinished = 0;
    for (int trial = 0; trial < 12; trial++) {
        tl__folder_remove(in_folder("killed"), NULL);
        pid_t child = fork();
        if (child == 0) {
            tl_dataset *d;
            _exit(tl__dataset_open(&d, &o, NULL) != 0);
        }
        usleep((useconds_t)(trial * trial * 1200));
        kill(child, SIGKILL);
        int status;
        waitpid(child, &status, 0);
        unfinished += WIFSIGNALED(status);
        tl_dataset *d = opened(&o);
        assert_string_equal(tl__dataset_facts(d)->hash, want);
        tl__dataset_close(d);
        /* Nothing is left behind of the killed one. */
        char command[256];
        snprintf(command, sizeof command, "find %s/killed -name '*.tmp-*' | grep -q .", folder);
        assert_int_not_equal(system(command), 0);
    }
    assert_true(unfinished > 0);
}

/* ---- damaged folders ---- */

static char prepared[128];

static void corrupt(const char *name, int64_t offset, const void *bytes, size_t n, bool cut) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", prepared, name);
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    if (cut) {
        assert_int_equal(ftruncate(fileno(f), offset), 0);
    } else {
        fseek(f, offset, SEEK_SET);
        fwrite(bytes, 1, n, f);
    }
    fclose(f);
}

static void test_damage_is_refused(void **state) {
    (void)state;
    const char *path = in_folder("a.txt");
    static const struct {
        const char *file, *bytes, *word;
        int64_t offset;
        size_t n;
        bool cut;
    } table[] = {
        {"shard-00000.ids", "\xFF\xFF", "token id 65535", 64 + 4000, 2, false}, /* an id ≥ V */
        {"shard-00000.ids", "X", "header", 3, 1, false},
        {"shard-00000.ids", "\x01", "header", 16, 1, false}, /* begins elsewhere */
        {"shard-00000.ids", "", "bytes where", 5000, 0, true},
        {"shard-00000.ids", "", "bytes where", 10, 0, true},
        {"documents.starts", "\x09", "starts", 64, 1, false},
        {"documents.starts", "", "bytes where", 64, 0, true},
        {"index.json", "[", "JSON", 0, 1, false},
        {"index.json", "", "JSON", 40, 0, true},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        tl__folder_remove(in_folder("damaged"), NULL);
        tl_dataset_options o = options(&path, 1, 64, 0, "damaged");
        tl__dataset_close(opened(&o));
        char command[256];
        snprintf(command, sizeof command, "ls -d %s/damaged/tokens-*", folder);
        FILE *list = popen(command, "r");
        assert_non_null(fgets(prepared, sizeof prepared, list));
        pclose(list);
        prepared[strcspn(prepared, "\n")] = 0;
        corrupt(table[i].file, table[i].offset, table[i].bytes, table[i].n, table[i].cut);
        tl_error err = {0};
        tl_dataset *d;
        int status = tl__dataset_open(&d, &o, &err);
        if (status == 0) fail_msg("damage %zu went unnoticed", i);
        if (!strstr(err.text, table[i].word) || !strstr(err.text, table[i].file))
            fail_msg("damage %zu: the sentence lacks \"%s\" or the file: %s", i, table[i].word, err.text);
    }
    /* Without its index the folder is unfinished, and made anew. */
    corrupt("shard-00000.ids", 30, "", 0, true);
    char index[256];
    snprintf(index, sizeof index, "%s/index.json", prepared);
    unlink(index);
    tl_dataset_options o = options(&path, 1, 64, 0, "damaged");
    tl_dataset *d = opened(&o);
    assert_false(tl__dataset_facts(d)->reused);
    tl__dataset_close(d);
    /* A changed source is prepared again. */
    put("c.txt", "one two three four five six seven", 33);
    const char *changing = in_folder("c.txt");
    o = options(&changing, 1, 4, 0, "changing");
    d = opened(&o);
    tl__dataset_close(d);
    put("c.txt", "one two three four five six eight", 33);
    d = opened(&o);
    assert_false(tl__dataset_facts(d)->reused);
    tl__dataset_close(d);
}

static void test_indexes_that_lie(void **state) {
    (void)state;
    static const char *const good =
        "{\"format\":1,\"key\":\"0123456789abcdef0123456789abcdef\",\"content\":"
        "\"0123456789abcdef0123456789abcdef\",\"id_bytes\":2,\"vocab\":300,\"tokens\":9,\"bytes\":9,"
        "\"documents\":1,\"invalid_utf8\":0,\"shards\":[4,5]}";
    tl_dataset_index x;
    tl_error err = {0};
    assert_int_equal(tl__dataset_index_parse(&x, good, strlen(good), "i", &err), 0);
    assert_int_equal(x.n_shards, 2);
    free(x.shard_tokens);
    static const char *const lies[][2] = {{"\"format\":1", "\"format\":2"},
                                          {"[4,5]", "[4,6]"},
                                          {"[4,5]", "[9,0]"},
                                          {"[4,5]", "[-1,10]"},
                                          {"[4,5]", "[4]"},
                                          {"[4,5]", "[9223372036854775807,9223372036854775807]"},
                                          {"[4,5]", "\"no\""},
                                          {"\"id_bytes\":2", "\"id_bytes\":3"},
                                          {"\"documents\":1", "\"documents\":10"},
                                          {"\"tokens\":9", "\"tokens\":-9"},
                                          {"\"vocab\":300", "\"vocab\":0"},
                                          {"\"key\":\"01", "\"key\":\"../"}};
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        char text[512];
        const char *at = strstr(good, lies[i][0]);
        assert_non_null(at);
        snprintf(text, sizeof text, "%.*s%s%s", (int)(at - good), good, lies[i][1], at + strlen(lies[i][0]));
        if (tl__dataset_index_parse(&x, text, strlen(text), "i", &err) == 0) fail_msg("accepted %s", text);
    }
}

int main(void) {
    tl_error err = {0};
    if (make_folder(NULL) || tl__tokenizer_open(&tok, VECTORS "trained.json", &err)) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_samples_are_windows_of_the_joined_stream),
        cmocka_unit_test(test_blocks_do_not_show),
        cmocka_unit_test(test_too_little_text),
        cmocka_unit_test(test_kill_while_preparing),
        cmocka_unit_test(test_damage_is_refused),
        cmocka_unit_test(test_indexes_that_lie),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    tl__tokenizer_close(tok);
    remove_folder(NULL);
    return failed;
}
