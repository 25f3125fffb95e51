/* test_rows_gradient.c — backward operators against finite differences: the sources of ref/, compiled in double.
 *
 * For L = Σ weight·output, dL/dp is (L(p + h) − L(p − h)) / 2h with an error of h²·|L‴|/6 + |L|·2^−53·√n/h. With
 * h = 1e-5, third derivatives up to some 1e3 (relative to |dL/dp| ~ 1) and |L| ≲ 10² the two parts are 2e-8 and 1e-9:
 * tolerance 1e-6 of max(1, |gradient|). A wrong factor in any term moves a gradient by 1e-3 at least. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#define TL_REF_DOUBLE
#include "kernels/ref/norm.c"
#include "kernels/ref/embed.c"
#include "kernels/ref/activation.c"
#include "kernels/ref/loss.c"

enum { R = 300, C = 19, F = 7, V = 11, H = 3, D = 6, TOKENS = 5 }; /* R crosses a block of TL_KB rows */

static double x[R * C], y[R * C], gain[C], head_gain[D], head_rstd[R * H], bias[C], weight[R * C], out[R * C],
    sum[R * C], rstd[R], mean[R];
static double gu[R * 2 * F], E[TOKENS * C], P[TOKENS * C], logits[R * V], logp[R], cos_sin[TOKENS * D], qk[R * H * D];
static int32_t token[R], pos[R], target[R], slot[TOKENS];

static uint64_t state_bits = 3;
static double number(void) { /* splitmix64 (Steele et al. 2014), uniform in [−1, 1) */
    uint64_t z = (state_bits += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (double)(int64_t)(z ^ (z >> 31)) * 0x1p-63;
}
static void fill(double *p, int n) {
    for (int i = 0; i < n; i++) p[i] = number();
}
#define FILL(array) fill(array, (int)(sizeof array / sizeof *array))
static int setup(void **state) {
    FILL(x), FILL(y), FILL(gain), FILL(bias), FILL(weight), FILL(gu), FILL(E), FILL(P), FILL(logits), FILL(cos_sin),
        FILL(qk), FILL(head_gain);
    for (int r = 0; r < R; r++) {
        token[r] = (int32_t)((number() + 1) * TOKENS / 2), pos[r] = (int32_t)((number() + 1) * TOKENS / 2);
        target[r] = r % 9 == 4 ? -1 : (int32_t)((number() + 1) * V / 2);
        for (int c = 0; c < C; c++) x[r * C + c] *= 2;
    }
    for (int i = 0; i < TOKENS; i++) slot[i] = (i + 2) % TOKENS;
    return 0;
}

static double weighted(const double *p, int n) {
    double l = 0;
    for (int i = 0; i < n; i++) l += weight[i] * p[i];
    return l;
}

/* Some 200 elements of p, spread over all of it. */
static void check(const char *name, double *p, int n, const double *gradient, double (*loss)(void)) {
    const double h = 1e-5;
    for (int i = 0; i < n; i += n / 200 + 1) {
        const double keep = p[i];
        p[i] = keep + h;
        const double above = loss();
        p[i] = keep - h;
        const double below = loss();
        p[i] = keep;
        const double want = (above - below) / (2 * h), tolerance = 1e-6 * fmax(1, fabs(want));
        if (!(fabs(gradient[i] - want) <= tolerance))
            fail_msg("%s[%d]: gradient %.12g, difference %.12g", name, i, gradient[i], want);
    }
}

/* Gradients that are added to start at this. */
static void start(double *d, int n) {
    for (int i = 0; i < n; i++) d[i] = 0.25;
}
static void take_start(double *d, int n) {
    for (int i = 0; i < n; i++) d[i] -= 0.25;
}

static double bias_loss(void) { /* out[r] = bias for every row */
    double l = 0;
    for (int i = 0; i < R * C; i++) l += weight[i] * bias[i % C];
    return l;
}
static void test_bias(void **state) {
    double db[C];
    start(db, C);
    ref_bias_backward(NULL, db, weight, C, R, C);
    take_start(db, C);
    check("db", bias, C, db, bias_loss);
}

static double rms_loss(void) {
    ref_rmsnorm(NULL, out, sum, rstd, x, y, gain, 1, 1e-5, R, C);
    return weighted(out, R * C);
}
static void test_rmsnorm(void **state) {
    static double dx[R * C], dgain[C];
    rms_loss();
    start(dx, R * C), start(dgain, C);
    ref_rmsnorm_backward(NULL, dx, dgain, weight, sum, rstd, gain, 1, R, C);
    take_start(dx, R * C), take_start(dgain, C);
    check("rmsnorm dx", x, R * C, dx, rms_loss);
    check("rmsnorm dy", y, R * C, dx, rms_loss); /* of the sum: the same for both addends */
    check("rmsnorm dgain", gain, C, dgain, rms_loss);
}

/* Out of place and in place; whole rows as one head. */
static double head_loss(void) {
    ref_head_norm(NULL, out, H * D, head_rstd, qk, H * D, head_gain, 1, 1e-5, R, H, D);
    return weighted(out, R * H * D);
}
static double whole_loss(void) {
    ref_head_norm(NULL, out, C, rstd, x, C, gain, 0, 1e-5, R, 1, C);
    return weighted(out, R * C);
}
static void test_head_norm(void **state) {
    static double dx[R * C], dgain[C], same[R * H * D], same_gain[D];
    head_loss();
    start(dgain, D), memcpy(same, weight, sizeof same);
    ref_head_norm_backward(NULL, dx, H * D, dgain, weight, H * D, qk, H * D, head_rstd, head_gain, 1, R, H, D);
    ref_head_norm_backward(NULL, same, H * D, same_gain, same, H * D, qk, H * D, head_rstd, head_gain, 1, R, H, D);
    assert_memory_equal(same, dx, sizeof same);
    take_start(dgain, D);
    for (int d = 0; d < D; d++) assert_true(fabs(same_gain[d] - dgain[d]) < 1e-12);
    check("head_norm dx", qk, R * H * D, dx, head_loss);
    check("head_norm dgain", head_gain, D, dgain, head_loss);
    whole_loss();
    start(dgain, C);
    ref_head_norm_backward(NULL, dx, C, dgain, weight, C, x, C, rstd, gain, 0, R, 1, C);
    take_start(dgain, C);
    check("whole norm dx", x, R * C, dx, whole_loss);
    check("whole norm dgain", gain, C, dgain, whole_loss);
}

static double layer_loss(void) {
    ref_layernorm(NULL, out, sum, mean, rstd, x, y, gain, bias, 1e-5, R, C);
    return weighted(out, R * C);
}
static void test_layernorm(void **state) {
    static double dx[R * C], dgain[C], dbias[C];
    layer_loss();
    start(dx, R * C), start(dgain, C), start(dbias, C);
    ref_layernorm_backward(NULL, dx, dgain, dbias, weight, sum, mean, rstd, gain, R, C);
    take_start(dx, R * C), take_start(dgain, C), take_start(dbias, C);
    check("layernorm dx", x, R * C, dx, layer_loss);
    check("layernorm dgain", gain, C, dgain, layer_loss);
    check("layernorm dbias", bias, C, dbias, layer_loss);
}

static double embed_loss(void) {
    ref_embed(NULL, out, E, P, token, pos, 1.5, R, C);
    return weighted(out, R * C);
}
static void test_embed(void **state) {
    double dE[TOKENS * C], dP[TOKENS * C], moved[TOKENS * C];
    start(dE, TOKENS * C), start(dP, TOKENS * C), start(moved, TOKENS * C);
    ref_embed_backward(NULL, dE, NULL, token, weight, 1.5, R, C);
    ref_embed_backward(NULL, dP, NULL, pos, weight, 1, R, C);
    ref_embed_backward(NULL, moved, slot, token, weight, 1.5, R, C);
    for (int i = 0; i < TOKENS * C; i++) assert_true(moved[slot[i / C] * C + i % C] == dE[i]);
    take_start(dE, TOKENS * C), take_start(dP, TOKENS * C);
    check("dE", E, TOKENS * C, dE, embed_loss);
    check("dP", P, TOKENS * C, dP, embed_loss);
}

static double rope_loss(void) {
    static double turned[R * H * D];
    memcpy(turned, qk, sizeof turned);
    ref_rope(NULL, turned, H * D, cos_sin, pos, 1, R, H, D);
    return weighted(turned, R * H * D);
}
static void test_rope(void **state) {
    static double d[R * H * D];
    memcpy(d, weight, sizeof d);
    ref_rope(NULL, d, H * D, cos_sin, pos, -1, R, H, D);
    check("rope", qk, R * H * D, d, rope_loss);
}

static double gelu_loss(void) {
    ref_gelu(NULL, out, x, R * C);
    return weighted(out, R * C);
}
static void test_gelu(void **state) {
    static double dx[R * C];
    ref_gelu_backward(NULL, dx, weight, x, R * C);
    check("gelu", x, R * C, dx, gelu_loss);
    ref_gelu(NULL, out, x, R * C);
    for (int i = 0; i < R * C; i++) { /* the same function as its definition with tanh; a few roundings */
        const double u = sqrt(2 / M_PI) * (x[i] + 0.044715 * x[i] * x[i] * x[i]);
        assert_true(fabs(out[i] - 0.5 * x[i] * (1 + tanh(u))) < 1e-14);
    }
}

static double swiglu_loss(void) {
    ref_swiglu(NULL, out, gu, R, F);
    return weighted(out, R * F);
}
static void test_swiglu(void **state) {
    static double dgu[R * 2 * F];
    ref_swiglu_backward(NULL, dgu, weight, gu, R, F);
    check("swiglu", gu, R * 2 * F, dgu, swiglu_loss);
}

static double geglu_loss(void) {
    ref_geglu(NULL, out, gu, R, F);
    return weighted(out, R * F);
}
static void test_geglu(void **state) {
    static double dgu[R * 2 * F], gate[R * F], gelu[R * F];
    ref_geglu_backward(NULL, dgu, weight, gu, R, F);
    check("geglu", gu, R * 2 * F, dgu, geglu_loss);
    for (int i = 0; i < R * F; i++) gate[i] = gu[i / F * 2 * F + i % F];
    ref_gelu(NULL, gelu, gate, R * F);
    ref_geglu(NULL, out, gu, R, F);
    for (int i = 0; i < R * F; i++) assert_true(out[i] == gelu[i] * gu[i / F * 2 * F + F + i % F]);
}

static void test_softcap(void **state) { /* its slope is tested within attention and the loss */
    static double capped[R * C];
    memcpy(capped, x, sizeof capped);
    ref_softcap(NULL, capped, 0.75, R * C);
    for (int i = 0; i < R * C; i++) assert_true(fabs(capped[i] - 0.75 * tanh(x[i] / 0.75)) < 1e-15);
}

static double add_loss(void) {
    ref_add(NULL, out, x, y, R * C);
    return weighted(out, R * C);
}
static void test_add(void **state) { /* its backward is to do nothing: both addends share the gradient */
    check("add x", x, R * C, weight, add_loss);
    check("add y", y, R * C, weight, add_loss);
}

/* grad_scale·Σ (−logp + z_coef·logZ²), whose gradient the operator leaves. */
static tl_loss_form loss_form;
static double softmax_loss(void) {
    static double logz[R];
    const tl_loss_form plain = {0, 0, loss_form.softcap};
    ref_softmax_loss(NULL, logp, logz, logits, target, &plain, R, V);
    double l = 0;
    for (int r = 0; r < R; r++) l += loss_form.grad_scale * (-logp[r] + loss_form.z_coef * logz[r] * logz[r]);
    return l;
}
static void test_softmax_loss(void **state) {
    static const tl_loss_form forms[] = {{0.25f, 0, 0}, {0.25f, 0.125f, 0}, {0.25f, 0, 0.75f}, {0.5f, 0.25f, 1.5f}};
    static double d[R * V];
    for (size_t f = 0; f < sizeof forms / sizeof *forms; f++) {
        loss_form = forms[f];
        memcpy(d, logits, sizeof d);
        ref_softmax_loss(NULL, logp, NULL, d, target, &loss_form, R, V);
        check("softmax_loss", logits, R * V, d, softmax_loss);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bias),      cmocka_unit_test(test_rmsnorm), cmocka_unit_test(test_layernorm),
        cmocka_unit_test(test_embed),     cmocka_unit_test(test_rope),    cmocka_unit_test(test_gelu),
        cmocka_unit_test(test_swiglu),    cmocka_unit_test(test_add),     cmocka_unit_test(test_softmax_loss),
        cmocka_unit_test(test_head_norm), cmocka_unit_test(test_geglu),   cmocka_unit_test(test_softcap),
    };
    return cmocka_run_group_tests_name("rows_gradient", tests, setup, NULL);
}
