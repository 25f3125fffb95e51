/* test_stored.c — products with quantised weights: every instruction set equal to ref to the bit, for any rows, threads
 * and company; ref within a derived bound of exact arithmetic on the widened weights; packing loses nothing.
 *
 * Operands end where an unreadable page begins and gaps of a leading dimension hold NaN, so a read or write outside a
 * matrix shows. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <cmocka.h>
#include "base/blocks.h"
#include "kernels/stored.h"

static const char *const isas[] = {"avx2", "avx512", "avx512_vnni", "avx512_bf16", "amx", "cuda"};
enum { ISAS = sizeof isas / sizeof *isas };
static const tl_type types[] = {TL_Q8_0, TL_Q4_0, TL_Q4_1, TL_Q5_0, TL_Q5_1, TL_IQ4_NL,
                                TL_Q2_K, TL_Q3_K, TL_Q4_K, TL_Q5_K, TL_Q6_K, TL_IQ4_XS};
enum { QUANTISED = sizeof types / sizeof *types };

static tl_ctx contexts[ISAS + 1][3]; /* [isa, the last is ref][threads − 1] */
static bool has[ISAS];

/* A device computes on threads of its own: contexts of more differ in nothing. */
static int contexts_of(int isa) {
    return !has[isa] ? 0 : strcmp(isas[isa], "cuda") ? 3 : 1;
}

static int setup(void **unused) {
    (void)unused;
    tl_error err = {0};
    for (int i = 0; i < ISAS; i++)
        for (int t = 0; t < 3; t++) has[i] = !tl__ctx_open(&contexts[i][t], t + 1, isas[i], &err);
    return tl__ctx_open(&contexts[ISAS][0], 1, "ref", &err);
}
static int teardown(void **unused) {
    (void)unused;
    for (int i = 0; i < ISAS; i++)
        for (int t = 0; t < 3 && has[i]; t++) tl__ctx_close(&contexts[i][t]);
    tl__ctx_close(&contexts[ISAS][0]);
    return 0;
}

/* ---- numbers ---- */

static uint64_t state = 1;
static uint64_t bits64(void) { /* splitmix64 (Steele et al. 2014) */
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}
static float uniform(void) {
    return (float)(bits64() >> 40) * 0x1p-24f;
}
static int integer(int low, int high) {
    return low + (int)(uniform() * (float)(high - low + 1));
}

/* `bytes` whose end lies on a guard page. */
typedef struct guarded {
    unsigned char *map, *p;
    size_t map_bytes;
} guarded;
static guarded guarded_take(size_t bytes) {
    const size_t page = 4096, whole = (bytes + page - 1) / page * page;
    guarded g = {.map_bytes = whole + page};
    g.map = mmap(NULL, g.map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(g.map != MAP_FAILED);
    assert_int_equal(mprotect(g.map + whole, page, PROT_NONE), 0);
    g.p = g.map + whole - bytes;
    return g;
}
static void guarded_give(guarded *g) {
    munmap(g->map, g->map_bytes);
}

/* Where a type's blocks keep their f16 scales; −1: none. */
static void half_places(tl_type type, int at[2]) {
    at[0] = 0, at[1] = -1;
    if (type == TL_Q4_1 || type == TL_Q5_1 || type == TL_Q4_K || type == TL_Q5_K) at[1] = 2;
    if (type == TL_Q2_K) at[0] = 80, at[1] = 82;
    if (type == TL_Q3_K) at[0] = 108;
    if (type == TL_Q6_K) at[0] = 208;
}
static void set_half(uint8_t *block, int at, uint16_t half) {
    if (at >= 0) memcpy(block + at, &half, 2);
}

/* W[N, K] of random bits with scales about one: the rows as stored, and packed. */
typedef struct weight {
    uint8_t *rows;
    guarded packed;
    tl_stored w;
} weight;
static void weight_pack(weight *w) {
    const int64_t row_bytes = tl__type_size(w->w.type, w->w.K);
    const int cut = (w->w.N / 2 + 15) / 16 * 16 < w->w.N ? (w->w.N / 2 + 15) / 16 * 16 : 0; /* in two parts */
    memset(w->packed.p, 0xa5, tl__packed_bytes(w->w.type, w->w.N, w->w.K));
    tl__pack_rows(w->packed.p, w->w.type, w->w.N, w->w.K, cut, w->w.N - cut, w->rows + cut * row_bytes);
    tl__pack_rows(w->packed.p, w->w.type, w->w.N, w->w.K, 0, cut, w->rows);
}
static weight weight_make(tl_type type, int N, int K) {
    const int64_t block = (int64_t)tl__type_bytes(type), bytes = tl__type_size(type, (int64_t)N * K);
    weight w = {.rows = malloc((size_t)bytes + 1), .packed = guarded_take(tl__packed_bytes(type, N, K))};
    w.w = (tl_stored){type, N, K, w.packed.p};
    for (int64_t i = 0; i < bytes; i++) w.rows[i] = (uint8_t)bits64();
    int at[2];
    half_places(type, at);
    for (uint8_t *b = w.rows; b < w.rows + bytes; b += block)
        for (int h = 0; h < 2; h++) {
            /* Of either sign: zero, denormal, or 2^-9 … 2^-6. */
            const float u = uniform();
            const uint16_t size = u < 0.05f ? 0 : u < 0.1f ? 1 : (uint16_t)integer(6 << 10, 9 << 10);
            set_half(b, at[h], (uint16_t)(size | integer(0, 1) << 15));
        }
    weight_pack(&w);
    return w;
}
static void weight_give(weight *w) {
    free(w->rows);
    guarded_give(&w->packed);
}

/* x[R, K], gaps of NaN; every third group of 32 has another size. */
static guarded x_make(int R, int K, int64_t ld) {
    guarded g = guarded_take(((size_t)(R - 1) * (size_t)ld + (size_t)K) * 4);
    float *x = (float *)g.p;
    for (int64_t i = 0; i < (R - 1) * ld + K; i++) {
        const int k = (int)(i % ld);
        x[i] = k >= K ? NAN : (uniform() - 0.5f) * (k / 32 % 3 == 0 ? 40.f : uniform() < 0.1f ? 8.f : 1.f);
    }
    return g;
}

/* ---- equal bits ---- */

typedef struct call {
    int count, R;
    weight w[TL_MAX_PRODUCTS];
    float *bias[TL_MAX_PRODUCTS];
    int64_t ldx, ldy;
    guarded x;
} call;

/* y of all products, one after the other, each [R, ldy]. */
static void compute(tl_ctx *ctx, const call *c, float *y, int row, int rows) {
    tl_product p[TL_MAX_PRODUCTS];
    for (int i = 0; i < c->count; i++, y += (int64_t)c->R * c->ldy)
        p[i] = (tl_product){&c->w[i].w, y + row * c->ldy, c->ldy, c->bias[i]};
    tl__linear_stored(ctx, p, c->count, (const float *)c->x.p + row * c->ldx, c->ldx, rows);
}

static bool same(float a, float b) { /* equal bits, or both a NaN: which one is not said */
    return isnan(a) ? isnan(b) : memcmp(&a, &b, 4) == 0;
}

static void expect_same(const float *got, const float *want, const call *c, const char *isa, int threads, int row,
                        int rows) {
    for (int i = 0; i < c->count; i++)
        for (int r = row; r < row + rows; r++)
            for (int n = 0; n < c->ldy; n++) {
                const int64_t at = ((int64_t)i * c->R + r) * c->ldy + n;
                if (!same(got[at], want[at]))
                    fail_msg("%s, %d threads, rows %d of %d from %d: %s N %d K %d: y[%d,%d] is %a, not %a", isa,
                             threads, rows, c->R, row, tl__type_name(c->w[i].w.type), c->w[i].w.N, c->w[i].w.K, r, n,
                             got[at], want[at]);
            }
}

/* ref, then every instruction set and thread count, then some rows alone. */
static void check_call(call *c) {
    const size_t floats = (size_t)c->count * (size_t)c->R * (size_t)c->ldy;
    float *want = malloc(floats * 4), *got = malloc(floats * 4);
    for (size_t i = 0; i < floats; i++) want[i] = 77; /* what is beyond N must stay */
    compute(&contexts[ISAS][0], c, want, 0, c->R);
    for (int i = 0; i < ISAS; i++)
        for (int t = 0; t < contexts_of(i); t++) {
            for (size_t k = 0; k < floats; k++) got[k] = 77;
            compute(&contexts[i][t], c, got, 0, c->R);
            expect_same(got, want, c, isas[i], t + 1, 0, c->R);
            const int row = integer(0, c->R - 1), rows = integer(1, c->R - row);
            for (size_t k = 0; k < floats; k++) got[k] = 77;
            compute(&contexts[i][t], c, got, row, rows);
            expect_same(got, want, c, isas[i], t + 1, row, rows);
        }
    free(want), free(got);
}

static call call_make(int count, const tl_type *type, const int *N, int R, int K) {
    call c = {.count = count, .R = R, .ldx = K + integer(0, 5)};
    for (int i = 0; i < count; i++) {
        c.w[i] = weight_make(type[i], N[i], K);
        c.bias[i] = integer(0, 1) ? malloc((size_t)N[i] * 4) : NULL;
        for (int n = 0; n < N[i] && c.bias[i]; n++) c.bias[i][n] = uniform() - 0.5f;
        if (N[i] > c.ldy) c.ldy = N[i];
    }
    c.ldy += integer(0, 3);
    c.x = x_make(R, K, c.ldx);
    return c;
}
static void call_give(call *c) {
    for (int i = 0; i < c->count; i++) weight_give(&c->w[i]), free(c->bias[i]);
    guarded_give(&c->x);
}

static void test_ragged_shapes_equal_ref(void **unused) {
    (void)unused;
    const int rows[] = {1, 2, 3, 4, 5, 8, 9, 13, 16, 17, 31, 37};
    for (int t = 0; t < QUANTISED; t++)
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
            const int block = tl__type_block(types[t]);
            const int N = integer(1, 70), K = block * integer(1, block == 32 ? 19 : 3);
            call c = call_make(1, &types[t], &N, rows[r], K);
            check_call(&c);
            call_give(&c);
        }
}

static void test_products_that_share_x_equal_ref(void **unused) {
    (void)unused;
    for (int n = 0; n < 16; n++) {
        const int count = integer(2, TL_MAX_PRODUCTS), K = 256 * integer(1, 3);
        tl_type type[TL_MAX_PRODUCTS];
        int N[TL_MAX_PRODUCTS];
        for (int i = 0; i < count; i++) type[i] = types[integer(0, QUANTISED - 1)], N[i] = integer(1, 80);
        call c = call_make(count, type, N, n % 3 ? integer(1, 4) : integer(5, 40), K);
        check_call(&c);
        call_give(&c);
    }
}

/* More rows than a task takes, and k in two passes. */
static void test_many_rows_and_long_k_equal_ref(void **unused) {
    (void)unused;
    const struct {
        tl_type type;
        int N, R, K;
    } shapes[] = {{TL_Q4_0, 33, 523, 64}, {TL_Q6_K, 17, 523, 256}, {TL_Q8_0, 19, 3, 33024}, {TL_Q4_K, 18, 18, 33024}};
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        call c = call_make(1, &shapes[s].type, &shapes[s].N, shapes[s].R, shapes[s].K);
        check_call(&c);
        call_give(&c);
    }
}

/* Floats beside quantised types in one call, under their own contracts. */
static void test_floats_keep_their_contracts(void **unused) {
    (void)unused;
    enum { N = 21, K = 288, R = 3 };
    uint16_t *half = malloc(sizeof *half * N * K);
    float *wide = malloc(sizeof *wide * N * K), *x = malloc(sizeof *x * R * K), y[3][R * N], want[R * N];
    for (int i = 0; i < R * K; i++) x[i] = uniform() - 0.5f;
    for (int i = 0; i <= ISAS; i++) {
        if (i < ISAS && !has[i]) continue;
        tl_ctx *ctx = &contexts[i][0];
        for (int t = 0; t < 2; t++) {
            const tl_type type = t ? TL_BF16 : TL_F16;
            for (int k = 0; k < N * K; k++) half[k] = (uint16_t)(integer(8 << 10, 14 << 10) | integer(0, 1) << 15);
            tl__widen(wide, type, half, N * K);
            const tl_stored w = {type, N, K, half}, f = {TL_F32, N, K, wide};
            weight q = weight_make(TL_Q5_1, N, K);
            const tl_product p[] = {{&f, y[0], N, NULL}, {&w, y[1], N, NULL}, {&q.w, y[2], N, NULL}};
            tl__linear_stored(ctx, p, 3, x, K, R);
            ctx->ops->gemm(ctx, want, N, R, N, K, x, K, 1, wide, 1, K, NULL, false);
            assert_memory_equal(y[0], want, sizeof want);
            if (t) ctx->ops->gemm_bf16(ctx, want, N, R, N, K, x, K, 1, wide, 1, K, NULL, false);
            assert_memory_equal(y[1], want, sizeof want);
            ctx->ops->linear_quantised(ctx, &(tl_product){&q.w, want, N, NULL}, 1, x, K, R);
            assert_memory_equal(y[2], want, sizeof want);
            weight_give(&q);
        }
    }
    free(half), free(wide), free(x);
}

/* ---- what saturates ---- */

/* The largest quants beside the largest activations, of either sign: sums of two products pass 2^15. d = 1, x = ±127.
 */
static void test_nothing_saturates(void **unused) {
    (void)unused;
    for (int t = 0; t < QUANTISED; t++)
        for (int R = 1; R <= 17; R += 16)
            for (int pattern = 0; pattern < 6; pattern++) {
                const int K = tl__type_block(types[t]), N = 16;
                weight w = weight_make(types[t], N, K);
                const int64_t bytes = tl__type_size(types[t], (int64_t)N * K),
                              block = (int64_t)tl__type_bytes(types[t]);
                int at[2];
                half_places(types[t], at);
                /* −128 as int8, all bits, none, and mixtures; then the scales. */
                const uint8_t fill[6] = {0x80, 0xff, 0x00, 0x7f, 0x88, 0x01};
                memset(w.rows, fill[pattern], (size_t)bytes);
                for (uint8_t *b = w.rows; b < w.rows + bytes; b += block)
                    set_half(b, at[0], 0x3c00), set_half(b, at[1], 0x3c00);
                weight_pack(&w);
                float *x = malloc(sizeof *x * (size_t)R * (size_t)K), *y = malloc(sizeof *y * (size_t)R * N);
                for (int r = 0; r < R; r++)
                    for (int k = 0; k < K; k++)
                        x[r * K + k] = (r + pattern) % 3 == 0   ? 127
                                       : (r + pattern) % 3 == 1 ? -127
                                       : k & 1                  ? 127
                                                                : -127;
                for (int i = 0; i <= ISAS; i++) {
                    if (i < ISAS && !has[i]) continue;
                    tl__linear_stored(&contexts[i][0], &(tl_product){&w.w, y, N, NULL}, 1, x, K, R);
                    for (int r = 0; r < R; r++)
                        for (int n = 0; n < N; n++) {
                            /* Every number here is an integer of at most 2^24 times a scale of at most seven bits, and
                             * s is 1: the double is exact, and of a few roundings in f32 each is within 2^-24. */
                            double exact = 0, size = 0;
                            for (int g = 0; g < K / 32; g++) {
                                int16_t q[32];
                                float d[2], o[2];
                                tl__unpack_group(q, d, o, &w.w, n, g);
                                for (int k = 0; k < 32; k++) {
                                    exact += ((double)d[k / 16] * q[k] + o[k / 16]) * x[r * K + g * 32 + k];
                                    size += fabs((double)d[k / 16] * q[k] * 127) + fabs((double)o[k / 16] * 127);
                                }
                            }
                            if (!(fabs(y[r * N + n] - exact) <= size * 0x1p-18))
                                fail_msg("%s, %s, pattern %d, %d rows: %g, not %g", i < ISAS ? isas[i] : "ref",
                                         tl__type_name(types[t]), pattern, R, y[r * N + n], exact);
                        }
                }
                free(x), free(y);
                weight_give(&w);
            }
}

/* ---- ref against exact arithmetic on the widened weights ---- */

/* Of a group, |x − s·a| ≤ s/2·(1 + 2^-20) (rounding to a nearest integer, after two roundings of x/s of about 127·2^-23
 * at most), so y is within Σ |w|·s/2 of the exact product, and the chain's own roundings add at most (2 an f32
 * operation, K/16·3 + K/256 of them) Σ |w·x| of 2^-24 each. An error of twice that bound must show: it is planted. */
static void test_ref_is_near_the_exact_product(void **unused) {
    (void)unused;
    enum { N = 24, R = 3 };
    for (int t = 0; t < QUANTISED; t++) {
        const int K = 768;
        weight w = weight_make(types[t], N, K);
        float *E = malloc(sizeof *E * N * (size_t)K), y[R * N];
        int32_t id[N];
        for (int n = 0; n < N; n++) id[n] = n;
        tl__embed_stored(&contexts[ISAS][0], E, &w.w, NULL, id, NULL, 1, N);
        guarded x = x_make(R, K, K);
        const float *xs = (const float *)x.p;
        tl__linear_stored(&contexts[ISAS][0], &(tl_product){&w.w, y, N, NULL}, 1, xs, K, R);
        double worst = 0;
        for (int r = 0; r < R; r++)
            for (int n = 0; n < N; n++) {
                double exact = 0, bound = 0;
                for (int g = 0; g < K / 32; g++) {
                    double amax = 0;
                    for (int k = 0; k < 32; k++) amax = fmax(amax, fabs(xs[r * K + g * 32 + k]));
                    for (int k = 0; k < 32; k++) {
                        const double e = E[n * K + g * 32 + k], v = xs[r * K + g * 32 + k];
                        exact += e * v;
                        /* d·q and o apart: their sum may be small where they are not, and each is rounded */
                        bound += fabs(e) * amax / 254 * 1.00001 + (fabs(e) + 8) * fabs(v) * (K / 16 * 3 + 3) * 0x1p-24;
                    }
                }
                const double off = fabs(y[r * N + n] - exact);
                if (off > bound) fail_msg("%s: %g off, at most %g", tl__type_name(types[t]), off, bound);
                worst = fmax(worst, off / bound);
                assert_true(fabs(y[r * N + n] + 2.1 * bound - exact) > bound);
            }
        assert_true(worst > 0.005); /* the bound is not beyond all reach */
        guarded_give(&x);
        weight_give(&w);
        free(E);
    }
}

/* ---- packing ---- */

static void test_packing_loses_nothing(void **unused) {
    (void)unused;
    enum { N = 37, K = 768 };
    static float want[N * K], got[N * K], P[N * K];
    int32_t id[N];
    for (int n = 0; n < N; n++) id[n] = (n * 7 + 3) % N;
    for (int i = 0; i < N * K; i++) P[i] = uniform();
    for (int t = 0; t < QUANTISED; t++) {
        if (!tl__can_widen(types[t])) continue;
        weight w = weight_make(types[t], N, K);
        tl__widen(want, types[t], w.rows, (int64_t)N * K);
        for (int i = 0; i <= ISAS; i++) {
            if (i < ISAS && !has[i]) continue;
            tl__embed_stored(&contexts[i][i < ISAS && contexts_of(i) > 1], got, &w.w, NULL, id, NULL, 1, N);
            for (int n = 0; n < N; n++) assert_memory_equal(got + n * K, want + id[n] * K, K * 4);
            tl__embed_stored(&contexts[i][i < ISAS && contexts_of(i) > 1], got, &w.w, P, id, id, 1.5f, N);
            for (int n = 0; n < N; n++)
                for (int k = 0; k < K; k++)
                    assert_true(same(got[n * K + k], fmaf(want[id[n] * K + k], 1.5f, P[id[n] * K + k])));
        }
        weight_give(&w);
    }
}

static void test_floats_are_looked_up_as_they_widen(void **unused) {
    (void)unused;
    enum { N = 13, C = 37, R = 20 };
    const tl_type floats[] = {TL_F32, TL_F16, TL_BF16};
    float E[N * C], wide[N * C], P[R * C], got[R * C];
    int32_t id[R], pos[R];
    for (int r = 0; r < R; r++) id[r] = integer(0, N - 1), pos[r] = R - 1 - r;
    for (int i = 0; i < R * C; i++) P[i] = uniform();
    for (int t = 0; t < 3; t++) {
        uint16_t half[N * C];
        for (int i = 0; i < N * C; i++) E[i] = uniform() - 0.5f, half[i] = (uint16_t)(bits64() & 0xbbff); /* finite as F16 and BF16 */
        const tl_stored stored = {floats[t], N, C, t ? (const void *)half : E};
        tl__widen(wide, floats[t], stored.data, N * C);
        for (int i = 0; i <= ISAS; i++) {
            if (i < ISAS && !has[i]) continue;
            for (int with = 0; with < 2; with++) {
                tl__embed_stored(&contexts[i][0], got, &stored, with ? P : NULL, id, pos, 1.5f, R);
                for (int k = 0; k < R * C; k++) {
                    const float e = wide[id[k / C] * C + k % C];
                    assert_true(same(got[k], with ? fmaf(e, 1.5f, P[pos[k / C] * C + k % C]) : e * 1.5f));
                }
            }
        }
    }
}

/* Decoding waits for memory: a packed weight takes no more than 4 % over what is stored. */
static void test_packed_is_as_small_as_stored(void **unused) {
    (void)unused;
    for (int t = 0; t < QUANTISED; t++) {
        const double stored = (double)tl__type_size(types[t], 2048 * 64),
                     packed = (double)tl__packed_bytes(types[t], 64, 2048);
        assert_true(packed >= stored && packed <= stored * 1.04);
    }
    assert_int_equal(tl__packed_bytes(TL_F16, 64, 64), 0);
}

/* ---- x that is not ordinary ---- */

static void test_strange_x_stays_in_its_row(void **unused) {
    (void)unused;
    enum { R = 19, K = 512, N = 18 };
    for (int t = 0; t < QUANTISED; t++)
        for (int rows = 1; rows <= R; rows += 9) {
            call c = call_make(1, &types[t], &(int){N}, rows, K);
            float *x = (float *)c.x.p;
            for (int r = 0; r < rows; r++)
                for (int k = 0; k < K; k++) {
                    float *v = &x[r * c.ldx + k];
                    if (r % 6 == 1) *v *= 1e-38f;          /* below TL_LEAST_AMAX, and denormal */
                    if (r % 6 == 2 && k / 32 == 3) *v = 0; /* a zero group */
                    if (r % 6 == 3 && k == 100) *v = r & 8 ? -INFINITY : INFINITY;
                    if (r % 6 == 4 && k == 500) *v = NAN;
                    if (r % 6 == 5) *v *= 0x1p-99f / 20; /* about TL_LEAST_AMAX */
                }
            check_call(&c);
            float *y = malloc(sizeof *y * (size_t)rows * (size_t)c.ldy);
            free(c.bias[0]), c.bias[0] = NULL;
            compute(&contexts[ISAS][0], &c, y, 0, rows);
            for (int r = 0; r < rows; r++)
                for (int n = 0; n < N; n++) {
                    assert_int_equal(isnan(y[r * c.ldy + n]) != 0, r % 6 == 3 || r % 6 == 4);
                    if (r % 6 == 1) assert_true(y[r * c.ldy + n] == 0);
                }
            free(y);
            call_give(&c);
        }
}

/* Weights from a file may be anything: scales that are not finite make outputs that are not, and nothing else. */
static void test_any_bits_are_read(void **unused) {
    (void)unused;
    for (int t = 0; t < QUANTISED; t++) {
        call c = call_make(1, &types[t], &(int){34}, t % 2 ? 3 : 20, 512);
        const int64_t bytes = tl__type_size(types[t], 34 * 512);
        for (int64_t i = 0; i < bytes; i++) c.w[0].rows[i] = (uint8_t)bits64();
        int at[2];
        half_places(types[t], at);
        for (int h = 0; h < 2; h++) /* infinite, which chance hardly hits */
            set_half(c.w[0].rows + (3 * h + 1) * (int64_t)tl__type_bytes(types[t]), at[h], h ? 0xfc00 : 0x7c00);
        weight_pack(&c.w[0]);
        check_call(&c);
        call_give(&c);
    }
}

/* The chain's order shows in the bits: the same weights with two groups of k exchanged, in x as in W, come out
 * otherwise. */
static void test_the_comparison_sees_an_order(void **unused) {
    (void)unused;
    enum { N = 32, K = 512 };
    const size_t block = tl__type_bytes(TL_Q8_0);
    weight w = weight_make(TL_Q8_0, N, K);
    guarded x = x_make(1, K, K);
    float y[N], z[N], swap[32], *xs = (float *)x.p;
    tl__linear_stored(&contexts[ISAS][0], &(tl_product){&w.w, y, N, NULL}, 1, xs, K, 1);
    memcpy(swap, xs + 32, sizeof swap), memcpy(xs + 32, xs + 96, sizeof swap), memcpy(xs + 96, swap, sizeof swap);
    for (int n = 0; n < N; n++) {
        uint8_t *row = w.rows + (size_t)n * K / 32 * block, b[64];
        memcpy(b, row + block, block), memcpy(row + block, row + 3 * block, block), memcpy(row + 3 * block, b, block);
    }
    weight_pack(&w);
    tl__linear_stored(&contexts[ISAS][0], &(tl_product){&w.w, z, N, NULL}, 1, xs, K, 1);
    int differ = 0;
    for (int n = 0; n < N; n++) differ += y[n] != z[n];
    assert_true(differ > 2);
    guarded_give(&x);
    weight_give(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_packing_loses_nothing),          cmocka_unit_test(test_packed_is_as_small_as_stored),
        cmocka_unit_test(test_floats_are_looked_up_as_they_widen),
        cmocka_unit_test(test_ref_is_near_the_exact_product),  cmocka_unit_test(test_nothing_saturates),
        cmocka_unit_test(test_ragged_shapes_equal_ref),        cmocka_unit_test(test_products_that_share_x_equal_ref),
        cmocka_unit_test(test_many_rows_and_long_k_equal_ref), cmocka_unit_test(test_floats_keep_their_contracts),
        cmocka_unit_test(test_strange_x_stays_in_its_row),     cmocka_unit_test(test_any_bits_are_read),
        cmocka_unit_test(test_the_comparison_sees_an_order),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
