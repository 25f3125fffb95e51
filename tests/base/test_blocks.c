/* Stored numbers: what ggml makes of them, to the bit, both ways; the small floats by their definition. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/blocks.h"
#include "io/gguf.h"

static tl_gguf *g;

static int open_vectors(void **state) {
    (void)state;
    tl_error err;
    int rc = tl__gguf_open(&g, TL_SOURCE_DIR "/tests/vectors/gguf/blocks.gguf", &err);
    if (rc) fprintf(stderr, "%s\n", err.text);
    return rc;
}

static int close_vectors(void **state) {
    (void)state;
    tl__gguf_close(g);
    return 0;
}

static const tl_tensor_info *tensor(const char *format, const char *type) {
    char name[64];
    snprintf(name, sizeof name, format, type);
    const tl_tensor_info *t = tl__gguf_tensor(g, name);
    if (!t) fail_msg("the vectors hold no %s", name);
    return t;
}

static void widens_as_ggml(void **state) {
    (void)state;
    int types = 0;
    for (int type = TL_Q4_0; type < TL_TYPES; type++, types++) {
        const tl_tensor_info *t = tensor("%s", tl__type_name(type)), *wide = tensor("%s.wide", tl__type_name(type));
        const int64_t n = wide->size_bytes / 4;
        assert_int_equal(t->type, type);
        float out[512];
        unsigned char moved[1200]; /* from an odd address */
        assert_true(n <= 512 && t->size_bytes < 1200 && tl__can_widen((tl_type)type));
        memcpy(moved + 1, tl__gguf_data(g, t), (size_t)t->size_bytes);
        tl__widen(out, (tl_type)type, moved + 1, n);
        assert_memory_equal(out, tl__gguf_data(g, wide), (size_t)n * 4);
        int64_t idle = 0; /* levels of a group whose scale is zero */
        for (int64_t i = 0; i < t->size_bytes; i++) {
            moved[1 + i] ^= 0x11;
            tl__widen(out, (tl_type)type, moved + 1, n);
            idle += !memcmp(out, tl__gguf_data(g, wide), (size_t)n * 4);
            moved[1 + i] ^= 0x11;
        }
        assert_true(idle <= t->size_bytes / 8);
    }
    assert_int_equal(types, 12);
}

static void narrows_as_ggml(void **state) {
    (void)state;
    const tl_tensor_info *rows = tensor("%s", "rows");
    const float *x = tl__gguf_data(g, rows);
    const int64_t n = rows->size_bytes / 4;
    int types = 0;
    for (int type = TL_Q4_0; type < TL_TYPES; type++) {
        if (!tl__can_narrow((tl_type)type)) continue;
        const tl_tensor_info *t = tensor("rows.%s", tl__type_name(type));
        assert_int_equal(t->type, type);
        unsigned char *out = malloc((size_t)t->size_bytes);
        tl__narrow(out, (tl_type)type, x, n);
        for (int64_t i = 0; i < t->size_bytes; i++)
            if (out[i] != ((const unsigned char *)tl__gguf_data(g, t))[i])
                fail_msg("%s: byte %lld of row %lld differs", tl__type_name(type), (long long)i,
                         (long long)(i / (t->size_bytes / rows->shape[0])));
        free(out);
        types++;
    }
    assert_int_equal(types, 8);
}

static float of_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

/* (−1)^s · 2^(e−bias) · 1.m, or 2^(1−bias) · 0.m. */
static double defined(unsigned bits, int exponent_bits, int mantissa_bits, int bias) {
    const unsigned e = bits >> mantissa_bits & ((1u << exponent_bits) - 1), m = bits & ((1u << mantissa_bits) - 1);
    const double f = ldexp(m, -mantissa_bits);
    const double x = e ? ldexp(1 + f, (int)e - bias) : ldexp(f, 1 - bias);
    return bits >> (exponent_bits + mantissa_bits) ? -x : x;
}

static void small_floats(void **state) {
    (void)state;
    for (unsigned i = 0; i < 256; i++) {
        const uint8_t b = (uint8_t)i;
        float x;
        tl__widen(&x, TL_F8_E4M3, &b, 1);
        double want = (i & 0x7f) == 0x7f ? NAN : defined(i, 4, 3, 7);
        assert_true(isnan(want) ? isnan(x) : x == want && !signbit(x) == !(i & 128));
        tl__widen(&x, TL_F8_E5M2, &b, 1);
        want = (i & 0x7c) != 0x7c ? defined(i, 5, 2, 15) : i & 3 ? NAN : i & 128 ? -INFINITY : INFINITY;
        assert_true(isnan(want) ? isnan(x) : x == want && !signbit(x) == !(i & 128));
    }
    for (unsigned i = 0; i < 65536; i++) {
        const uint16_t half = (uint16_t)i;
        const float x = tl__f16_to_f32(half);
        if ((i & 0x7fff) > 0x7c00) {
            assert_true(isnan(x) && isnan(tl__f16_to_f32(tl__f16_from_f32(x))));
            continue;
        }
        if ((i & 0x7fff) < 0x7c00) assert_true(x == defined(i, 5, 10, 15));
        assert_int_equal(tl__f16_from_f32(x), half);
        if ((i & 0x7fff) >= 0x7bff) continue;
        /* between a half and the next: the middle goes to the even one, its neighbours to the nearer */
        const float next = tl__f16_to_f32((uint16_t)(half + 1)), middle = (x + next) / 2;
        assert_int_equal(tl__f16_from_f32(middle), half + (half & 1));
        assert_int_equal(tl__f16_from_f32(nextafterf(middle, x)), half);
        assert_int_equal(tl__f16_from_f32(nextafterf(middle, next)), half + 1);
    }
    assert_int_equal(tl__f16_from_f32(65519.996f), 0x7bff); /* below the middle between the greatest and 2^16 */
    assert_int_equal(tl__f16_from_f32(65520), 0x7c00);
    assert_int_equal(tl__f16_from_f32(-1e38f), 0xfc00);
    assert_int_equal(tl__f16_from_f32(0x1p-149f), 0);
    for (uint32_t upper = 0; upper < 0x7f80; upper++) { /* bf16: the upper half, ties to even */
        const float in[3] = {of_bits(upper << 16 | 0x7fff), of_bits(upper << 16 | 0x8000),
                             of_bits(upper << 16 | 0x8001)};
        uint16_t out[3];
        tl__narrow(out, TL_BF16, in, 3);
        assert_true(out[0] == upper && out[1] == upper + (upper & 1) && out[2] == upper + 1);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(widens_as_ggml),
        cmocka_unit_test(narrows_as_ggml),
        cmocka_unit_test(small_floats),
    };
    return cmocka_run_group_tests(tests, open_vectors, close_vectors);
}
