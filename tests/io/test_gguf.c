/* GGUF: what gguf-py wrote is read, and written again to the same bytes; parts are one model; hostile headers are
 * refused by key or tensor. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "files.h"
#include "io/gguf.h"

#define KINDS_FILE TL_SOURCE_DIR "/tests/vectors/gguf/kinds.gguf" /* tools/make_gguf_vectors.py */

/* ---- a file by hand ---- */

typedef struct bytes {
    unsigned char at[4096];
    size_t n;
} bytes;

static void add(bytes *b, const void *from, size_t n) {
    assert_true(b->n + n <= sizeof b->at);
    memcpy(b->at + b->n, from, n);
    b->n += n;
}

static void u32(bytes *b, uint32_t x) {
    add(b, &x, 4);
}

static void u64(bytes *b, uint64_t x) {
    add(b, &x, 8);
}

static void text(bytes *b, const char *s) {
    u64(b, strlen(s));
    add(b, s, strlen(s));
}

static bytes head(uint64_t tensors, uint64_t keys) {
    bytes b = {.n = 0};
    add(&b, "GGUF", 4);
    u32(&b, 3);
    u64(&b, tensors);
    u64(&b, keys);
    return b;
}

static void u32_key(bytes *b, const char *key, uint32_t x) {
    text(b, key);
    u32(b, TL_GGUF_U32);
    u32(b, x);
}

static void tensor(bytes *b, const char *name, uint32_t type, uint64_t offset, uint32_t dims, const uint64_t *n) {
    text(b, name);
    u32(b, dims);
    for (uint32_t d = 0; d < dims; d++) u64(b, n[d]);
    u32(b, type);
    u64(b, offset);
}

static void data(bytes *b, size_t n) {
    while (b->n % 32) add(b, "", 1);
    while (n--) add(b, "", 1);
}

/* Refused, mapped or not, with every one of the words. */
static void refused(const bytes *b, int status, const char *word, const char *other) {
    const char *path = put("hostile.gguf", b->at, b->n);
    for (int mapped = 0; mapped < 2; mapped++) {
        setenv("TRILITH_MMAP", mapped ? "1" : "0", 1);
        tl_gguf *g;
        tl_error err = {0};
        int rc = tl__gguf_open(&g, path, &err);
        if (rc != status || !strstr(err.text, word) || !strstr(err.text, other) || !strstr(err.text, "hostile.gguf"))
            fail_msg("%d \"%s\", where %d with \"%s\" and \"%s\" was expected", rc, err.text, status, word, other);
        assert_null(g);
    }
    unsetenv("TRILITH_MMAP");
}

static void hostile(void **state) {
    (void)state;
    const uint64_t four[] = {4}, q[] = {256}, odd[] = {33, 2}, zero[] = {4, 0}, huge[] = {1ull << 32, 1ull << 32};
    const uint64_t five[] = {1, 1, 1, 1, 1}, wide[] = {1ull << 61};
    bytes b = {.n = 0};
    refused(&b, TL_EFORMAT, "cut short", "magic");
    add(&b, "GGML", 4);
    refused(&b, TL_EFORMAT, "GGUF", "no GGUF file");

    b = head(0, 0), b.at[4] = 1;
    refused(&b, TL_EUNSUPPORTED, "version", "2 or 3");
    b = head(0, 0), memcpy(b.at + 4, "\0\0\0\3", 4);
    refused(&b, TL_EUNSUPPORTED, "big-endian", "version 2 or 3");
    b = head(1ull << 62, 0);
    refused(&b, TL_EFORMAT, "4611686018427387904 tensors", "more than");
    b = head(0, UINT64_MAX);
    refused(&b, TL_EFORMAT, "18446744073709551615 keys", "more than");

    b = head(0, 1), u64(&b, UINT64_MAX), data(&b, 100); /* a key of 2^64 − 1 bytes */
    refused(&b, TL_EFORMAT, "key 0", "ends within");
    b = head(0, 1), text(&b, ""), data(&b, 100);
    refused(&b, TL_EFORMAT, "key 0", "empty");
    b = head(0, 1), text(&b, "a\xff"), data(&b, 100);
    refused(&b, TL_EFORMAT, "key 0", "UTF-8");
    b = head(0, 1), text(&b, "a\033[2J"), data(&b, 100);
    refused(&b, TL_EFORMAT, "key 0", "not readable");
    b = head(0, 1), text(&b, "some.key"), u32(&b, 13), data(&b, 64);
    refused(&b, TL_EFORMAT, "\"some.key\"", "kind 13");
    b = head(0, 1), text(&b, "some.key"), u32(&b, TL_GGUF_BOOL), add(&b, "\2", 1), data(&b, 64);
    refused(&b, TL_EFORMAT, "\"some.key\"", "boolean");
    b = head(0, 1), text(&b, "some.key"), u32(&b, TL_GGUF_STRING), u64(&b, 1000), data(&b, 64);
    refused(&b, TL_EFORMAT, "\"some.key\"", "1000 bytes were expected");
    b = head(0, 1), text(&b, "some.key"), u32(&b, TL_GGUF_ARRAY), u32(&b, TL_GGUF_U64), u64(&b, 1ull << 61);
    data(&b, 64);
    refused(&b, TL_EFORMAT, "\"some.key\"", "2305843009213693952 elements");
    b = head(0, 1), text(&b, "some.key"), u32(&b, TL_GGUF_ARRAY), u32(&b, TL_GGUF_STRING), u64(&b, 99), data(&b, 64);
    refused(&b, TL_EFORMAT, "\"some.key\"", "99 elements of kind string");
    b = head(0, 1), text(&b, "some.key"), u32(&b, TL_GGUF_ARRAY), u32(&b, TL_GGUF_STRING), u64(&b, 2), text(&b, "x");
    u64(&b, 1u << 30);
    refused(&b, TL_EFORMAT, "\"some.key\"", "ends within");
    b = head(0, 1), text(&b, "some.key"), u32(&b, TL_GGUF_ARRAY), u32(&b, TL_GGUF_ARRAY), u64(&b, 1), data(&b, 64);
    refused(&b, TL_EUNSUPPORTED, "\"some.key\"", "arrays of arrays");
    b = head(0, 1), text(&b, "some.key"), u32(&b, TL_GGUF_ARRAY), u32(&b, 77), u64(&b, 1), data(&b, 64);
    refused(&b, TL_EFORMAT, "\"some.key\"", "kind 77");
    b = head(0, 3), u32_key(&b, "twice", 1), u32_key(&b, "once", 2), u32_key(&b, "twice", 3), data(&b, 64);
    refused(&b, TL_EFORMAT, "\"twice\"", "twice");
    b = head(0, 1), u32_key(&b, "general.alignment", 24), data(&b, 64);
    refused(&b, TL_EFORMAT, "general.alignment", "24");
    b = head(0, 1), u32_key(&b, "general.alignment", 0), data(&b, 64);
    refused(&b, TL_EFORMAT, "general.alignment", "power of two");

    b = head(1, 0), tensor(&b, "", 0, 0, 1, four), data(&b, 64);
    refused(&b, TL_EFORMAT, "tensor 0", "empty");
    b = head(1, 0), tensor(&b, "a\nb", 0, 0, 1, four), data(&b, 64);
    refused(&b, TL_EFORMAT, "tensor 0", "not readable");
    b = head(1, 0);
    tensor(&b, "a name of 65 bytes, one more than the format allows for a tensor.", 0, 0, 1, four), data(&b, 64);
    refused(&b, TL_EFORMAT, "tensor 0", "too long");
    b = head(1, 0), tensor(&b, "w", 0, 0, 5, five), data(&b, 64);
    refused(&b, TL_EFORMAT, "\"w\"", "5 dimensions");
    b = head(1, 0), tensor(&b, "w", 0, 0, 2, zero), data(&b, 64);
    refused(&b, TL_EFORMAT, "\"w\"", "dimension of 0");
    b = head(1, 0), tensor(&b, "w", 0, 0, 2, huge), data(&b, 64);
    refused(&b, TL_EFORMAT, "\"w\"", "overflows");
    b = head(1, 0), tensor(&b, "w", 28, 0, 1, wide), data(&b, 64); /* 2^61 elements fit, their bytes do not */
    refused(&b, TL_EFORMAT, "\"w\"", "overflows");
    b = head(1, 0), tensor(&b, "w", 0, 1ull << 63, 1, four), data(&b, 64);
    refused(&b, TL_EFORMAT, "\"w\"", "overflows");
    b = head(1, 0), tensor(&b, "w", 99, 0, 1, four), data(&b, 64);
    refused(&b, TL_EUNSUPPORTED, "\"w\"", "type 99");
    b = head(1, 0), tensor(&b, "w", 16, 0, 1, q), data(&b, 512);
    refused(&b, TL_EUNSUPPORTED, "\"w\"", "IQ2_XXS");
    b = head(1, 0), tensor(&b, "w", 2, 0, 2, odd), data(&b, 512);
    refused(&b, TL_EFORMAT, "\"w\"", "33 elements");
    b = head(1, 0), tensor(&b, "w", 0, 4, 1, four), data(&b, 64);
    refused(&b, TL_EFORMAT, "\"w\"", "multiple of 32");
    b = head(1, 0), tensor(&b, "w", 0, 32, 1, four), data(&b, 47);
    refused(&b, TL_EFORMAT, "\"w\"", "cut short");
    b = head(1, 0), tensor(&b, "w", 0, (1ull << 63) - 32, 1, four), data(&b, 64);
    refused(&b, TL_EFORMAT, "\"w\"", "cut short");
    b = head(2, 0), tensor(&b, "v", 0, 0, 1, q), tensor(&b, "w", 0, 992, 1, four), data(&b, 1024);
    refused(&b, TL_EFORMAT, "\"w\"", "overlaps that of tensor \"v\"");
    b = head(2, 0), tensor(&b, "w", 0, 0, 1, four), tensor(&b, "w", 0, 32, 1, four), data(&b, 64);
    refused(&b, TL_EFORMAT, "\"w\"", "twice");

    b = head(2, 0), tensor(&b, "v", 0, 32, 1, four), tensor(&b, "w", 0, 0, 1, four), data(&b, 48); /* is a good file */
    tl_gguf *g;
    assert_int_equal(tl__gguf_open(&g, put("good.gguf", b.at, b.n), NULL), 0);
    assert_true(tl__gguf_is(in_folder("good.gguf")) && !tl__gguf_is(in_folder("hostile.gguf2")));
    tl__gguf_close(g);
}

/* ---- gguf-py's file ---- */

static int64_t integer(const tl_gguf *g, const char *key, int64_t i) {
    int64_t x;
    const tl_gguf_value *v = tl__gguf_find(g, key);
    if (!v || !tl__gguf_int(v, i, &x)) fail_msg("%s is no whole number", key);
    return x;
}

static double real(const tl_gguf *g, const char *key, int64_t i) {
    double x;
    const tl_gguf_value *v = tl__gguf_find(g, key);
    if (!v || !tl__gguf_real(v, i, &x)) fail_msg("%s is no number", key);
    return x;
}

static void is_text(tl_gguf_text t, const char *want) {
    assert_int_equal(t.n, strlen(want));
    assert_memory_equal(t.bytes, want, t.n);
}

static void reads_what_gguf_py_wrote(void **state) {
    (void)state;
    for (int mapped = 0; mapped < 2; mapped++) {
        setenv("TRILITH_MMAP", mapped ? "1" : "0", 1);
        tl_gguf *g;
        tl_error err = {0};
        int64_t x;
        if (tl__gguf_open(&g, KINDS_FILE, &err)) fail_msg("%s", err.text);
        assert_int_equal(tl__gguf_values(g), 17); /* general.architecture is written too */
        is_text(tl__gguf_value_at(g, 0)->key, "general.architecture");
        assert_int_equal(integer(g, "k.u8", 0), 200);
        assert_int_equal(integer(g, "k.i8", 0), -100);
        assert_int_equal(integer(g, "k.u16", 0), 60000);
        assert_int_equal(integer(g, "k.i16", 0), -30000);
        assert_int_equal(integer(g, "k.u32", 0), 4000000000);
        assert_int_equal(integer(g, "k.i32", 0), -2000000000);
        assert_int_equal(integer(g, "k.bool", 0), 1);
        assert_int_equal(integer(g, "k.i64", 0), -((int64_t)1 << 62));
        assert_false(tl__gguf_int(tl__gguf_find(g, "k.u64"), 0, &x)); /* beyond int64 */
        assert_true(real(g, "k.u64", 0) == 0x1p63);
        assert_false(tl__gguf_int(tl__gguf_find(g, "k.f32"), 0, &x)); /* not whole */
        assert_true(real(g, "k.f32", 0) == 0.1f && real(g, "k.f64", 0) == 0.1);
        assert_false(tl__gguf_int(tl__gguf_find(g, "k.string"), 0, &x));
        is_text(tl__gguf_find(g, "k.string")->texts[0], "naïve 日本");
        const tl_gguf_value *v = tl__gguf_find(g, "a.string");
        assert_true(v->kind == TL_GGUF_ARRAY && v->of == TL_GGUF_STRING && v->count == 4);
        is_text(v->texts[0], "");
        is_text(v->texts[2], "two\n");
        assert_int_equal(integer(g, "a.i32", 1), -2);
        assert_false(tl__gguf_int(tl__gguf_find(g, "a.i32"), 3, &x));
        assert_false(tl__gguf_int(tl__gguf_find(g, "a.i32"), -1, &x));
        assert_true(real(g, "a.f32", 1) == -1.5 && integer(g, "a.bool", 1) == 0);
        assert_null(tl__gguf_find(g, "k.u"));

        assert_int_equal(tl__gguf_count(g), 4);
        const tl_tensor_info *t = tl__gguf_tensor(g, "four");
        assert_non_null(t);
        assert_true(t->type == TL_I8 && t->dims == 4 && t->shape[0] == 2 && t->shape[3] == 5 && t->size_bytes == 120);
        unsigned char out[7];
        assert_int_equal(tl__gguf_read(g, t, out, 113, 7, NULL), 0);
        for (int i = 0; i < 7; i++) assert_int_equal(out[i], 113 + i);
        assert_null(tl__gguf_tensor(g, "fou"));
        const float *vector = tl__gguf_data(g, tl__gguf_tensor(g, "vector"));
        if (mapped) assert_true(vector[4] == 4);
        else assert_null(vector);
        tl__gguf_close(g);
    }
    unsetenv("TRILITH_MMAP");
}

/* Cut anywhere, the file is refused in a sentence; whole, it is not. */
static void refuses_every_cut(void **state) {
    (void)state;
    char *whole;
    size_t n;
    tl_gguf *g;
    assert_int_equal(tl__file_slurp(&whole, &n, KINDS_FILE, 1 << 20, NULL), 0);
    for (size_t cut = 0; cut + 8 < n; cut++) { /* the last tensor's 120 bytes are padded to 128 */
        tl_error err = {0};
        assert_int_equal(tl__gguf_open(&g, put("cut.gguf", whole, cut), &err), TL_EFORMAT);
        assert_true(err.text[0] && !g);
    }
    assert_int_equal(tl__gguf_open(&g, put("cut.gguf", whole, n - 8), NULL), 0);
    tl__gguf_close(g);
    free(whole);
}

static void copy(const tl_gguf *g, const char *path, int first, int end, int part, int parts, size_t step) {
    tl_gguf_out *out;
    tl_error err = {0};
    if (tl__gguf_create(&out, path, &err)) fail_msg("%s", err.text);
    for (int i = 0; i < tl__gguf_values(g) && part == 0; i++) {
        const tl_gguf_value *v = tl__gguf_value_at(g, i);
        char key[64];
        snprintf(key, sizeof key, "%.*s", (int)v->key.n, v->key.bytes);
        assert_int_equal(tl__gguf_put(out, key, v->of, v->kind == TL_GGUF_ARRAY, v->data, v->texts, v->count, &err), 0);
    }
    if (parts > 1) {
        assert_int_equal(tl__gguf_put(out, "split.no", TL_GGUF_U16, false, &(uint16_t){(uint16_t)part}, NULL, 1, &err),
                         0);
        assert_int_equal(
            tl__gguf_put(out, "split.count", TL_GGUF_U16, false, &(uint16_t){(uint16_t)parts}, NULL, 1, &err), 0);
        assert_int_equal(
            tl__gguf_put(out, "split.tensors.count", TL_GGUF_I32, false, &(int32_t){tl__gguf_count(g)}, NULL, 1, &err),
            0);
    }
    for (int i = first; i < end; i++) {
        const tl_tensor_info *t = tl__gguf_tensor_at(g, i);
        assert_int_equal(tl__gguf_declare(out, t->name, t->type, t->dims, t->shape, &err), 0);
    }
    for (int i = first; i < end; i++) {
        const tl_tensor_info *t = tl__gguf_tensor_at(g, i);
        const char *from = tl__gguf_data(g, t);
        for (size_t at = 0, n = (size_t)t->size_bytes; at < n; at += step)
            assert_int_equal(tl__gguf_write(out, from + at, n - at < step ? n - at : step, &err), 0);
    }
    if (tl__gguf_publish(out, &err)) fail_msg("%s", err.text);
}

static void writes_what_gguf_py_writes(void **state) {
    (void)state;
    tl_gguf *g;
    char *theirs, *ours;
    size_t n, m;
    assert_int_equal(tl__gguf_open(&g, KINDS_FILE, NULL), 0);
    for (size_t step = 1; step < 200; step = step * 3 + 1) { /* bytes come in any cut */
        copy(g, in_folder("kinds.gguf"), 0, 4, 0, 1, step);
        assert_int_equal(tl__file_slurp(&theirs, &n, KINDS_FILE, 1 << 20, NULL), 0);
        assert_int_equal(tl__file_slurp(&ours, &m, in_folder("kinds.gguf"), 1 << 20, NULL), 0);
        assert_int_equal(n, m);
        assert_memory_equal(theirs, ours, n);
        free(theirs), free(ours);
    }
    tl__gguf_close(g);
}

static void parts_are_one_model(void **state) {
    (void)state;
    tl_gguf *g, *whole;
    tl_error err = {0};
    assert_int_equal(tl__gguf_open(&whole, KINDS_FILE, NULL), 0);
    copy(whole, in_folder("m-00001-of-00003.gguf"), 0, 1, 0, 3, 64);
    copy(whole, in_folder("m-00002-of-00003.gguf"), 1, 3, 1, 3, 64);
    copy(whole, in_folder("m-00003-of-00003.gguf"), 3, 4, 2, 3, 64);
    if (tl__gguf_open(&g, in_folder("m-00001-of-00003.gguf"), &err)) fail_msg("%s", err.text);
    assert_int_equal(tl__gguf_count(g), 4);
    assert_int_equal(tl__gguf_files(g), 3);
    assert_int_equal(integer(g, "k.u8", 0), 200);
    for (int i = 0; i < 4; i++) {
        const tl_tensor_info *t = tl__gguf_tensor_at(whole, i), *p = tl__gguf_tensor(g, t->name);
        assert_non_null(p);
        assert_int_equal(p->size_bytes, t->size_bytes);
        assert_memory_equal(tl__gguf_data(g, p), tl__gguf_data(whole, t), (size_t)t->size_bytes);
    }
    assert_string_equal(tl__gguf_file(g, tl__gguf_tensor(g, "four")), in_folder("m-00003-of-00003.gguf"));
    tl__gguf_close(g);
    assert_int_equal(tl__gguf_open(&g, in_folder("m-00002-of-00003.gguf"), &err), TL_EFORMAT);
    assert_non_null(strstr(err.text, "give the first one"));

    assert_int_equal(rename(in_folder("m-00003-of-00003.gguf"), in_folder("kept")), 0);
    assert_int_equal(tl__gguf_open(&g, in_folder("m-00001-of-00003.gguf"), &err), TL_ENOTFOUND);
    copy(whole, in_folder("m-00003-of-00003.gguf"), 3, 4, 1, 3, 64); /* says that it is the second */
    assert_int_equal(tl__gguf_open(&g, in_folder("m-00001-of-00003.gguf"), &err), TL_EFORMAT);
    assert_non_null(strstr(err.text, "part 3 of 3 was expected"));
    copy(whole, in_folder("m-00003-of-00003.gguf"), 2, 4, 2, 3, 64); /* holds one that the second has */
    assert_int_equal(tl__gguf_open(&g, in_folder("m-00001-of-00003.gguf"), &err), TL_EFORMAT);
    assert_non_null(strstr(err.text, "split.tensors.count"));
    copy(whole, in_folder("m-00002-of-00003.gguf"), 2, 3, 1, 3, 64);
    assert_int_equal(tl__gguf_open(&g, in_folder("m-00001-of-00003.gguf"), &err), TL_EFORMAT);
    assert_non_null(strstr(err.text, "\"cube\" twice"));
    assert_int_equal(rename(in_folder("m-00001-of-00003.gguf"), in_folder("other.gguf")), 0);
    assert_int_equal(tl__gguf_open(&g, in_folder("other.gguf"), &err), TL_EFORMAT);
    assert_non_null(strstr(err.text, "-00001-of-00003.gguf"));
    tl__gguf_close(whole);
}

static void refuses_to_write(void **state) {
    (void)state;
    tl_gguf_out *out;
    tl_error err = {0};
    assert_int_equal(tl__gguf_create(&out, in_folder("w.gguf"), NULL), 0);
    assert_int_equal(tl__gguf_declare(out, "w", TL_F8_E4M3, 1, (int64_t[]){32}, &err), TL_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "F8_E4M3"));
    assert_int_equal(tl__gguf_declare(out, "w", TL_Q4_K, 2, (int64_t[]){256, 32}, &err), TL_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "rows of 32 elements"));
    assert_int_equal(tl__gguf_declare(out, "w", TL_F32, 2, (int64_t[]){3, 2}, &err), 0);
    assert_int_equal(tl__gguf_write(out, (float[5]){0}, 20, &err), 0);
    assert_int_equal(tl__gguf_publish(out, &err), TL_EINVALID);
    assert_non_null(strstr(err.text, "lacks 4 bytes"));
    assert_false(tl__path_exists(in_folder("w.gguf")));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hostile),
        cmocka_unit_test(reads_what_gguf_py_wrote),
        cmocka_unit_test(refuses_every_cut),
        cmocka_unit_test(writes_what_gguf_py_writes),
        cmocka_unit_test(parts_are_one_model),
        cmocka_unit_test(refuses_to_write),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
