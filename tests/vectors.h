/* vectors.h — for tests that compare with another implementation's numbers, kept in tests/vectors
 * (tools/make_vectors.py).
 *
 * One measure everywhere: max|Δ| / max|reference|. Each comparison proves that it can fail: the same numbers with one
 * of them moved by twice the tolerance must be refused. */
#ifndef TL_TESTS_VECTORS_H
#define TL_TESTS_VECTORS_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "io/safetensors.h"

#define UNIT 0x1p-24 /* f32's unit roundoff */

/* tests/vectors, or where tools/interop.py has just made others. */
static inline const char *vectors_folder(void) {
    const char *other = getenv("TRILITH_VECTORS");
    return other ? other : TL_SOURCE_DIR "/tests/vectors";
}

static inline tl_safetensors *vectors_open(const char *name) {
    char path[4096];
    tl_safetensors *st = NULL;
    tl_error err = {0};
    snprintf(path, sizeof path, "%s/%s", vectors_folder(), name);
    if (tl__safetensors_open(&st, path, &err)) fail_msg("%s", err.text);
    return st;
}

/* A tensor's bytes in memory of its own (free it); *count its elements. */
static inline void *vectors_read(const tl_safetensors *st, const char *name, tl_type type, int64_t *count) {
    const tl_tensor_info *t = tl__safetensors_find(st, name);
    if (!t) fail_msg("the vectors hold no tensor '%s'", name);
    if (t->type != type) fail_msg("'%s' is %s, not %s", name, tl__type_name(t->type), tl__type_name(type));
    void *data = malloc((size_t)t->size_bytes + 1);
    tl_error err = {0};
    if (tl__safetensors_read(st, t, data, &err)) fail_msg("%s", err.text);
    if (count) *count = t->size_bytes / (int64_t)tl__type_bytes(type);
    return data;
}

static inline double vectors_distance(const float *got, const float *want, int64_t n, int64_t *where) {
    double worst = 0, largest = 0;
    *where = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - want[i]);
        if (!(d <= worst)) { /* NaN too */
            worst = d;
            *where = i;
        }
        largest = fmax(largest, fabs(want[i]));
    }
    return largest > 0 ? worst / largest : worst;
}

/* got[n] is within tolerance of want[n], and would not be if its worst element were off by twice the tolerance more. */
static inline void vectors_near(const char *what, float *got, const float *want, int64_t n, double tolerance) {
    int64_t at, other;
    assert_true(n > 0);
    double distance = vectors_distance(got, want, n, &at);
    if (getenv("TRILITH_TEST_SHOW")) printf("  %-44s %.2e of %.2e\n", what, distance, tolerance);
    if (!(distance <= tolerance))
        fail_msg("%s: %.3e from the reference, beyond %.3e, at element %lld: %.9g for %.9g", what, distance, tolerance,
                 (long long)at, got[at], want[at]);
    double largest = 0;
    for (int64_t i = 0; i < n; i++) largest = fmax(largest, fabs(want[i]));
    float kept = got[at];
    double planted = 2 * tolerance * (largest > 0 ? largest : 1);
    got[at] = (float)(got[at] + (got[at] < want[at] ? -planted : planted));
    if (vectors_distance(got, want, n, &other) <= tolerance)
        fail_msg("%s: an error of twice the tolerance passes", what);
    got[at] = kept;
}

#endif
