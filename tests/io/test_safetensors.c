/* safetensors: what is written is read back, byte for byte and with the same hash however it is sharded; hostile
 * headers are refused with the tensor's name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "files.h"
#include "io/safetensors.h"

/* A file of header text and `data_bytes` zero bytes. */
static const char *make(const char *name, const char *header, size_t data_bytes) {
    const char *path = in_folder(name);
    FILE *f = fopen(path, "wb");
    uint64_t n = strlen(header);
    fwrite(&n, 8, 1, f);
    fwrite(header, 1, n, f);
    for (size_t i = 0; i < data_bytes; i++) fputc(0, f);
    fclose(f);
    return path;
}

static float a[6] = {1, -2, 3.5f, 0x1p-149f, INFINITY, -0.0f};
static uint16_t halves[8] = {0x0000, 0x8000, 0x3c00, 0x0001, 0x03ff, 0x7bff, 0xfc00, 0x0400};
static uint16_t bfs[3] = {0x3f80, 0xc000, 0x0001};
static const tl_tensor_out out[] = {
    {.name = "z.weight", .type = TL_F32, .dims = 2, .shape = {2, 3}, .data = a},
    {.name = "a.half", .type = TL_F16, .dims = 1, .shape = {8}, .data = halves},
    {.name = "m \"é\".bf", .type = TL_BF16, .dims = 3, .shape = {3, 1, 1}, .data = bfs},
    {.name = "empty", .type = TL_I64, .dims = 2, .shape = {0, 5}, .data = NULL},
    {.name = "scalar", .type = TL_U8, .dims = 0, .data = "\7"},
};
enum { N = sizeof out / sizeof *out };

static void round_trip(void **state) {
    (void)state;
    tl_safetensors *st;
    tl_error err = {0};
    tl_hash hashes[N];
    for (int mapped = 0; mapped < 2; mapped++) {
        setenv("TRILITH_MMAP", mapped ? "1" : "0", 1);
        assert_int_equal(tl__safetensors_write(in_folder("model.safetensors"), out, N, hashes, &err), 0);
        assert_int_equal(tl__safetensors_open(&st, folder, &err), 0); /* found in its folder */
        assert_int_equal(tl__safetensors_count(st), N);
        for (int i = 1; i < N; i++)
            assert_true(strcmp(tl__safetensors_at(st, i - 1)->name, tl__safetensors_at(st, i)->name) < 0);
        for (int i = 0; i < N; i++) {
            const tl_tensor_info *t = tl__safetensors_find(st, out[i].name);
            assert_non_null(t);
            assert_int_equal(t->type, out[i].type);
            assert_int_equal(t->dims, out[i].dims);
            assert_memory_equal(t->shape, out[i].shape, sizeof(int64_t) * (size_t)t->dims);
            char back[64];
            assert_true(t->size_bytes <= 64);
            assert_int_equal(tl__safetensors_read(st, t, back, &err), 0);
            if (t->size_bytes) assert_memory_equal(back, out[i].data, (size_t)t->size_bytes);
            const void *map = tl__safetensors_data(st, t);
            if (!mapped) assert_null(map);
            else if (t->size_bytes) assert_memory_equal(map, out[i].data, (size_t)t->size_bytes);
            assert_string_equal(hashes[i].hex, tl__hash_bytes(out[i].data, (size_t)t->size_bytes).hex);
            if (i == 0) assert_int_equal(t->offset_bytes % 64, 0);
        }
        assert_null(tl__safetensors_find(st, "none"));
        assert_string_equal(tl__safetensors_metadata(st, "format"), "pt");
        assert_null(tl__safetensors_metadata(st, "else"));
        tl__safetensors_close(st);
    }
    unsetenv("TRILITH_MMAP");
}

static void same_input_same_bytes(void **state) {
    (void)state;
    char *x, *y;
    size_t nx, ny;
    assert_int_equal(tl__safetensors_write(in_folder("x.safetensors"), out, N, NULL, NULL), 0);
    assert_int_equal(tl__safetensors_write(in_folder("y.safetensors"), out, N, NULL, NULL), 0);
    assert_int_equal(tl__file_slurp(&x, &nx, in_folder("x.safetensors"), 1 << 20, NULL), 0);
    assert_int_equal(tl__file_slurp(&y, &ny, in_folder("y.safetensors"), 1 << 20, NULL), 0);
    assert_int_equal(nx, ny);
    assert_memory_equal(x, y, nx);
    free(x), free(y);
}

static void widening(void **state) {
    (void)state;
    tl_safetensors *st;
    tl_error err;
    float f[8];
    assert_int_equal(tl__safetensors_write(in_folder("w.safetensors"), out, N, NULL, NULL), 0);
    assert_int_equal(tl__safetensors_open(&st, in_folder("w.safetensors"), NULL), 0);
    assert_int_equal(tl__safetensors_read_f32(st, tl__safetensors_find(st, "a.half"), f, NULL), 0);
    const float want[8] = {0, -0.0f, 1, 0x1p-24f, 1023 * 0x1p-24f, 65504, -INFINITY, 0x1p-14f};
    assert_memory_equal(f, want, sizeof want);
    assert_int_equal(tl__safetensors_read_f32(st, tl__safetensors_find(st, "m \"é\".bf"), f, NULL), 0);
    assert_true(f[0] == 1 && f[1] == -2 && f[2] == 0x1p-133f);
    assert_int_equal(tl__safetensors_read_f32(st, tl__safetensors_find(st, "z.weight"), f, NULL), 0);
    assert_memory_equal(f, a, sizeof a);
    assert_int_equal(tl__safetensors_read_f32(st, tl__safetensors_find(st, "scalar"), f, &err), TL_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "\"scalar\""));
    tl__safetensors_close(st);
    /* every half, by the definition: (−1)^s · 2^(e−15) · 1.m, 2^−14 · 0.m below, chunk borders crossed */
    static uint16_t all[65536];
    static float wide[65536];
    for (int i = 0; i < 65536; i++) all[i] = (uint16_t)i;
    tl_tensor_out one = {.name = "all", .type = TL_F16, .dims = 1, .shape = {65536}, .data = all};
    assert_int_equal(tl__safetensors_write(in_folder("h.safetensors"), &one, 1, NULL, NULL), 0);
    assert_int_equal(tl__safetensors_open(&st, in_folder("h.safetensors"), NULL), 0);
    assert_int_equal(tl__safetensors_read_f32(st, tl__safetensors_at(st, 0), wide, NULL), 0);
    tl__safetensors_close(st);
    for (int i = 0; i < 65536; i++) {
        int e = i >> 10 & 31, m = i & 1023;
        double x = e == 31 ? (m ? NAN : INFINITY) : e ? ldexp(1 + m / 1024.0, e - 15) : ldexp(m / 1024.0, -14);
        if (i >> 15) x = -x;
        assert_true(isnan(x) ? isnan(wide[i]) : wide[i] == (float)x && !signbit(wide[i]) == !signbit(x));
    }
}

static void shards_hash_alike(void **state) {
    (void)state;
    tl_safetensors *st;
    tl_error err;
    tl_hash whole, backwards, sharded, changed;
    tl_tensor_out reversed[N];
    for (int i = 0; i < N; i++) reversed[i] = out[N - 1 - i];
    assert_int_equal(tl__safetensors_write(in_folder("whole.safetensors"), out, N, NULL, NULL), 0);
    assert_int_equal(tl__safetensors_open(&st, in_folder("whole.safetensors"), NULL), 0);
    assert_int_equal(tl__safetensors_hash(st, &whole, NULL), 0);
    tl__safetensors_close(st);
    assert_int_equal(tl__safetensors_write(in_folder("backwards.safetensors"), reversed, N, NULL, NULL), 0);
    assert_int_equal(tl__safetensors_open(&st, in_folder("backwards.safetensors"), NULL), 0);
    assert_null(
        tl__safetensors_data(st, tl__safetensors_find(st, "z.weight"))); /* lies at an odd byte: only read works */
    assert_int_equal(tl__safetensors_hash(st, &backwards, NULL), 0);
    tl__safetensors_close(st);
    assert_int_equal(tl__safetensors_write(in_folder("s-1.safetensors"), out, 2, NULL, NULL), 0);
    assert_int_equal(tl__safetensors_write(in_folder("s-2.safetensors"), out + 2, N - 2, NULL, NULL), 0);
    const char *index =
        "{\"metadata\":{},\"weight_map\":{\"z.weight\":\"s-1.safetensors\",\"a.half\":\"s-1.safetensors\","
        "\"m \\\"é\\\".bf\":\"s-2.safetensors\",\"empty\":\"s-2.safetensors\",\"scalar\":\"s-2.safetensors\"}}";
    assert_int_equal(tl__file_publish(in_folder("s.safetensors.index.json"), index, strlen(index), NULL), 0);
    assert_int_equal(tl__safetensors_open(&st, in_folder("s.safetensors.index.json"), &err), 0);
    assert_int_equal(tl__safetensors_count(st), N);
    assert_int_equal(tl__safetensors_files(st), 2);
    assert_string_equal(tl__safetensors_file(st, tl__safetensors_find(st, "empty")), in_folder("s-2.safetensors"));
    assert_int_equal(tl__safetensors_hash(st, &sharded, NULL), 0);
    tl__safetensors_close(st);
    assert_string_equal(whole.hex, backwards.hex);
    assert_string_equal(whole.hex, sharded.hex);
    /* a reshaped tensor with the same bytes is another model */
    tl_tensor_out other[N];
    memcpy(other, out, sizeof out);
    other[0].shape[0] = 3, other[0].shape[1] = 2;
    assert_int_equal(tl__safetensors_write(in_folder("other.safetensors"), other, N, NULL, NULL), 0);
    assert_int_equal(tl__safetensors_open(&st, in_folder("other.safetensors"), NULL), 0);
    assert_int_equal(tl__safetensors_hash(st, &changed, NULL), 0);
    tl__safetensors_close(st);
    assert_string_not_equal(whole.hex, changed.hex);
}

static void hostile_indexes(void **state) {
    (void)state;
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"{\"weight_map\":{\"t\":\"../s-1.safetensors\"}}", "\"t\""},
        {"{\"weight_map\":{\"t\":\"/etc/passwd\"}}", "\"t\""},
        {"{\"weight_map\":{\"t\":\"a/b\"}}", "\"t\""},
        {"{\"weight_map\":{\"t\":\"..\"}}", "\"t\""},
        {"{\"weight_map\":{\"t\":\"\"}}", "\"t\""},
        {"{\"weight_map\":{\"t\":7}}", "\"t\""},
        {"{\"weight_map\":{}}", "weight_map"},
        {"{\"weight_map\":[]}", "weight_map"},
        {"[]", "weight_map"},
        {"{", "not valid JSON"},
        {"{\"weight_map\":{\"not there\":\"s-1.safetensors\"}}", "\"not there\""},
        {"{\"weight_map\":{\"scalar\":\"s-1.safetensors\",\"z.weight\":\"s-2.safetensors\"}}",
         "where the index has it"},
        {"{\"weight_map\":{\"z.weight\":\"s-1.safetensors\",\"a.half\":\"whole.safetensors\"}}", "in two files"},
        {"{\"weight_map\":{\"t\":\"absent.safetensors\"}}", "absent.safetensors"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        tl_safetensors *st;
        tl_error err = {0};
        assert_int_equal(tl__file_publish(in_folder("bad.index.json"), bad[i].text, strlen(bad[i].text), NULL), 0);
        int rc = tl__safetensors_open(&st, in_folder("bad.index.json"), &err);
        if (rc >= 0 || !strstr(err.text, bad[i].says)) fail_msg("case %zu: %d, %s", i, rc, err.text);
        assert_int_equal(rc, err.status);
        assert_null(st);
    }

    /* Too many files, and an index larger than any that is read (sparse). */
    tl_safetensors *st;
    tl_error err = {0};
    FILE *f = fopen(in_folder("bad.index.json"), "w");
    assert_non_null(f);
    fputs("{\"weight_map\":{\"t\":\"s-1.safetensors\"", f);
    for (int i = 0; i < 5000; i++) fprintf(f, ",\"t%d\":\"x-%d.safetensors\"", i, i);
    fputs("}}", f);
    fclose(f);
    assert_int_equal(tl__safetensors_open(&st, in_folder("bad.index.json"), &err), TL_EFORMAT);
    assert_non_null(strstr(err.text, "names 5001 files; at most 4096"));
    assert_int_equal(truncate(in_folder("bad.index.json"), (off_t)1 << 40), 0);
    assert_true(tl__safetensors_open(&st, in_folder("bad.index.json"), &err) < 0);
    assert_non_null(strstr(err.text, "bad.index.json"));
    assert_null(st);
}

static void names_of_shards(void **state) {
    (void)state;
    char name[64];
    tl__safetensors_shard_name(name, sizeof name, "ema/model.safetensors", 0, 4);
    assert_string_equal(name, "ema/model-00001-of-00004.safetensors");
    tl__safetensors_shard_name(name, sizeof name, "optimizer.safetensors", 1023, 1024);
    assert_string_equal(name, "optimizer-01024-of-01024.safetensors");
    tl__safetensors_index_name(name, sizeof name, "model.safetensors");
    assert_string_equal(name, "model.safetensors.index.json");
}

static void hostile_headers(void **state) {
    (void)state;
#define T(body) "{\"t\":{" body "}}"
#define TWO(r1, r2)                                                                                                    \
    "{\"t\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[" r1                                                     \
    "]},\"u\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[" r2 "]}}"
    static const struct {
        const char *header;
        size_t data_bytes;
        int status;
        const char *says;
    } bad[] = {
        {T("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]"), 7, TL_EFORMAT, "\"t\""},  /* cut short */
        {T("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]"), 9, TL_EFORMAT, "\"t\""},  /* something after */
        {T("\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]"), 8, TL_EFORMAT, "\"t\""},  /* size */
        {T("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]"), 8, TL_EFORMAT, "\"t\""},  /* backwards */
        {T("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[-8,0]"), 8, TL_EFORMAT, "\"t\""}, /* negative */
        {T("\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]"), 8, TL_EFORMAT, "\"t\""},
        {T("\"dtype\":\"F32\",\"shape\":[2.0],\"data_offsets\":[0,8]"), 8, TL_EFORMAT, "\"t\""},
        {T("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8,8]"), 8, TL_EFORMAT, "\"t\""},
        {T("\"dtype\":\"F32\",\"shape\":{},\"data_offsets\":[0,8]"), 8, TL_EFORMAT, "\"t\""},
        {T("\"shape\":[2],\"data_offsets\":[0,8]"), 8, TL_EFORMAT, "\"t\""},
        {T("\"dtype\":\"F4\",\"shape\":[8],\"data_offsets\":[0,8]"), 8, TL_EUNSUPPORTED, "\"F4\""},
        {T("\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,8],\"data_offsets\":[0,8]"), 8, TL_EUNSUPPORTED, "\"t\""},
        /* products that wrap to the right size, or to 0, or hide behind a zero */
        {T("\"dtype\":\"F32\",\"shape\":[4611686018427387906],\"data_offsets\":[0,8]"), 8, TL_EFORMAT, "overflows"},
        {T("\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]"), 0, TL_EFORMAT, "overflows"},
        {T("\"dtype\":\"U8\",\"shape\":[0,4294967296,4294967296],\"data_offsets\":[0,0]"), 0, TL_EFORMAT, "overflows"},
        {T("\"dtype\":\"U8\",\"shape\":[9223372036854775808],\"data_offsets\":[0,8]"), 8, TL_EFORMAT, "\"t\""},
        {TWO("0,4", "2,6"), 6, TL_EFORMAT, "overlaps"},
        {TWO("0,4", "0,4"), 4, TL_EFORMAT, "overlaps"},
        {TWO("0,4", "5,9"), 9, TL_EFORMAT, "\"u\" leaves a hole"},
        {TWO("1,5", "5,9"), 9, TL_EFORMAT, "\"t\" leaves a hole"},
        {"{\"t\":[]}", 0, TL_EFORMAT, "\"t\""},
        {"{\"t\":null}", 0, TL_EFORMAT, "\"t\""},
        {"{\"t\":{},\"t\":{}}", 0, TL_EFORMAT, "uplicate"},
        {"{\"__metadata__\":{\"a\":1}}", 0, TL_EFORMAT, "__metadata__"},
        {"{\"__metadata__\":7}", 0, TL_EFORMAT, "__metadata__"},
        {"[]", 0, TL_EFORMAT, "not a JSON object"},
        {"", 0, TL_EFORMAT, "JSON"},
        {"{", 0, TL_EFORMAT, "JSON"},
        {"{}", 1, TL_EFORMAT, "1 bytes after"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        tl_safetensors *st;
        tl_error err = {0};
        int rc = tl__safetensors_open(&st, make("bad.safetensors", bad[i].header, bad[i].data_bytes), &err);
        if (rc != bad[i].status || !strstr(err.text, bad[i].says)) fail_msg("case %zu: %d, %s", i, rc, err.text);
        assert_null(st);
    }
    /* lengths: over 100 MB in a file that could hold it (sparse), over the file, a file too short for one */
    tl_safetensors *st;
    tl_error err;
    const char *path = make("long.safetensors", "{}", 0);
    FILE *f = fopen(path, "r+b");
    uint64_t n = 100000001;
    fwrite(&n, 8, 1, f);
    fclose(f);
    assert_int_equal(truncate(path, 100000100), 0);
    assert_int_equal(tl__safetensors_open(&st, path, &err), TL_EFORMAT);
    assert_non_null(strstr(err.text, "100 MB"));
    for (uint64_t claim = 3; claim; claim <<= 7) { /* 3 … 2^63 and beyond, then 0 */
        path = make("long.safetensors", "{}", 0);
        f = fopen(path, "r+b");
        fwrite(&claim, 8, 1, f);
        fclose(f);
        assert_int_equal(tl__safetensors_open(&st, path, &err), TL_EFORMAT);
    }
    for (int bytes = 0; bytes < 10; bytes++) {
        assert_int_equal(tl__file_publish(path, "\2\0\0\0\0\0\0\0{}", (size_t)bytes, NULL), 0);
        assert_int_equal(tl__safetensors_open(&st, path, &err), TL_EFORMAT);
    }
    assert_int_equal(tl__file_publish(path, "\2\0\0\0\0\0\0\0{}", 10, NULL), 0);
    assert_int_equal(tl__safetensors_open(&st, path, &err), 0); /* no tensors, but well formed */
    assert_int_equal(tl__safetensors_count(st), 0);
    tl__safetensors_close(st);
    /* a control byte in a name does not reach the terminal */
    assert_int_equal(tl__safetensors_open(&st, make("bad.safetensors", "{\"\\u001b[2J\":{}}", 0), &err), TL_EFORMAT);
    assert_null(strchr(err.text, 27));
}

static void nothing_there(void **state) {
    (void)state;
    tl_safetensors *st;
    tl_error err;
    assert_int_equal(tl__safetensors_open(&st, in_folder("none.safetensors"), &err), TL_ENOTFOUND);
    char empty[300];
    snprintf(empty, sizeof empty, "%s/sub", folder);
    assert_int_equal(tl__folder_make(empty, NULL), 0);
    assert_int_equal(tl__safetensors_open(&st, empty, &err), TL_ENOTFOUND);
    assert_non_null(strstr(err.text, "model.safetensors"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),        cmocka_unit_test(same_input_same_bytes), cmocka_unit_test(widening),
        cmocka_unit_test(shards_hash_alike), cmocka_unit_test(hostile_indexes),       cmocka_unit_test(hostile_headers),
        cmocka_unit_test(nothing_there),     cmocka_unit_test(names_of_shards),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
