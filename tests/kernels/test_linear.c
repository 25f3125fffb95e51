/* Products with weights of F32, F16 and BF16 where they lie: every instruction set and thread count gives ref's bits,
 * for any rows, ragged shapes, several products of one x; and ref's are those of the product with the weights that the
 * halves are. Weights and x end at an unreadable page. */
#define ENTRY gemm
#define WITHOUT_SHAPES
#define ISA_NAMES "avx2", "avx512", "avx512_bf16", "amx", "cuda"
#include "product_check.h"
#include "base/blocks.h"

static const tl_type types[] = {TL_F32, TL_F16, TL_BF16};

/* A weight of any exponent, denormals and zeros too; no infinity, whose products with zeros are NaNs of any bits. */
static uint16_t half(tl_type type) {
    const int exponents = type == TL_F16 ? 30 : 254, mantissa = type == TL_F16 ? 10 : 7;
    const int middle = type == TL_F16 ? 15 : 127, wide = integer(0, 9) == 0;
    const int e = wide ? integer(0, type == TL_F16 ? exponents : 140) : integer(middle - 4, middle + 1);
    return (uint16_t)(integer(0, 1) << 15 | e << mantissa | integer(0, (1 << mantissa) - 1));
}

typedef void entry(tl_ctx *ctx, const tl_product *products, int count, const float *x, int64_t ldx, int R);
static entry *entry_of(const tl_ops *ops, tl_type type) {
    return type == TL_F32 ? ops->linear_f32 : type == TL_F16 ? ops->linear_f16 : ops->linear_bf16;
}

static void check_linear(tl_type type, int R, int K, const int *N, int count, int gap, bool with_bias) {
    const size_t size = type == TL_F32 ? 4 : 2;
    matrix x = matrix_make(R, K, false, gap);
    guarded w[TL_MAX_PRODUCTS], wide[TL_MAX_PRODUCTS], bias[TL_MAX_PRODUCTS], want[TL_MAX_PRODUCTS],
        got[TL_MAX_PRODUCTS];
    tl_stored stored[TL_MAX_PRODUCTS];
    tl_product wanted[TL_MAX_PRODUCTS], made[TL_MAX_PRODUCTS];
    for (int i = 0; i < count; i++) {
        const size_t n = (size_t)N[i] * (size_t)K;
        w[i] = guarded_take((n * size + 3) / 4), wide[i] = guarded_take(n), bias[i] = guarded_take((size_t)N[i]);
        char *data = (char *)(w[i].p + w[i].n) - n * size;
        for (size_t k = 0; k < n; k++) {
            const float f = number();
            const uint16_t h = half(type);
            memcpy(data + k * size, type == TL_F32 ? (const void *)&f : &h, size);
        }
        tl__widen(wide[i].p, type, data, (int64_t)n);
        for (int k = 0; k < N[i]; k++) bias[i].p[k] = number();
        want[i] = guarded_take((size_t)R * (size_t)(N[i] + gap)), got[i] = guarded_take(want[i].n);
        stored[i] = (tl_stored){type, N[i], K, data};
        wanted[i] = made[i] = (tl_product){&stored[i], want[i].p, N[i] + gap, with_bias ? bias[i].p : NULL};
        made[i].y = got[i].p;
    }
    tl_ctx *ref = &contexts[ISAS][0];
    entry_of(ref->ops, type)(ref, wanted, count, x.g.p, x.row, R);
    for (int i = 0; i < count; i++) { /* ref is what it says */
        (type == TL_BF16 ? ref->ops->gemm_bf16 : ref->ops->gemm)(ref, got[i].p, N[i] + gap, R, N[i], K, x.g.p, x.row, 1,
                                                                 wide[i].p, 1, K, made[i].bias, false);
        assert_memory_equal(got[i].p, want[i].p, want[i].n * 4);
    }
    for (int isa = 0; isa < ISAS; isa++)
        for (int t = 0; t < contexts_of(isa); t++) {
            for (int i = 0; i < count; i++)
                for (size_t k = 0; k < got[i].n; k++) got[i].p[k] = NAN;
            tl_ctx *ctx = &contexts[isa][t];
            entry_of(ctx->ops, type)(ctx, made, count, x.g.p, x.row, R);
            for (int i = 0; i < count; i++)
                for (int r = 0; r < R; r++)
                    for (int n = 0; n < N[i]; n++) {
                        const int64_t at = r * (int64_t)(N[i] + gap) + n;
                        if (memcmp(&got[i].p[at], &want[i].p[at], 4))
                            fail_msg("%s, %s, %d threads: R %d N %d K %d bias %d: y[%d,%d] of product %d is %a, not %a",
                                     isas[isa], tl__type_name(type), t + 1, R, N[i], K, with_bias, r, n, i,
                                     got[i].p[at], want[i].p[at]);
                    }
        }
    for (int i = 0; i < count; i++)
        guarded_give(&w[i]), guarded_give(&wide[i]), guarded_give(&bias[i]), guarded_give(&want[i]),
            guarded_give(&got[i]);
    guarded_give(&x.g);
}

static void test_stored_weights_equal_ref(void **unused) {
    (void)unused;
    const int ks[] = {1, 2, 15, 31, 32, 33, 64, 255, 256, 257, 288, 511, 576},
              rows[] = {1, 1, 2, 3, 4, 5, 7, 8, 9, 13, 16};
    for (int n = 0; n < 150; n++) {
        const int count = integer(1, TL_MAX_PRODUCTS), R = n % 5 ? rows[integer(0, 10)] : integer(17, 60);
        int N[TL_MAX_PRODUCTS];
        for (int i = 0; i < count; i++) N[i] = n % 4 ? integer(1, 50) : integer(30, 200);
        check_linear(types[n % 3], R, n % 2 ? ks[integer(0, 12)] : integer(1, 600), N, count, n % 3 ? 0 : 3, n & 1);
    }
}

/* Every half widens to what tl__widen says: one weight times 1, all 65,536 of them. */
static void test_every_f16_is_widened_exactly(void **unused) {
    (void)unused;
    enum { N = 65536 };
    static uint16_t w[N];
    static float wide[N], y[N];
    for (int i = 0; i < N; i++) w[i] = (uint16_t)i;
    tl__widen(wide, TL_F16, w, N);
    const tl_stored stored = {TL_F16, N, 1, w};
    const float one = 1;
    for (int isa = 0; isa < ISAS; isa++) {
        if (!has[isa]) continue;
        contexts[isa][1].ops->linear_f16(&contexts[isa][1], &(tl_product){&stored, y, N, NULL}, 1, &one, 1, 1);
        for (int i = 0; i < N; i++)
            if (wide[i] == wide[i] ? wide[i] != y[i] : y[i] == y[i])
                fail_msg("%s: half %04x is %a", isas[isa], i, y[i]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stored_weights_equal_ref),
        cmocka_unit_test(test_every_f16_is_widened_exactly),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
