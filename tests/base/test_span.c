/* test_span.c — a span's time goes to its bucket once, a child's is taken from its parent, and buckets plus the rest
 * are the wall; the ring gives back the newest spans, oldest first. Times are only ever bounded from below by a sleep
 * we made. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <time.h>
#include <cmocka.h>
#include "base/clock.h"
#include "base/span.h"

static void sleep_ms(int ms) {
    struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
    while (nanosleep(&t, &t) != 0) {
    }
}

static double sum(const tl_totals *t) {
    double s = 0;
    for (int b = 0; b < TL_BUCKETS; b++) s += t->seconds[b];
    return s;
}

static void names_are_whole(void **state) {
    (void)state;
    for (int a = 0; a < TL_BUCKETS; a++) {
        assert_non_null(tl__bucket_name(a));
        for (int b = 0; b < a; b++) assert_string_not_equal(tl__bucket_name(a), tl__bucket_name(b));
    }
}

static void a_child_is_taken_from_its_parent(void **state) {
    (void)state;
    tl_spans *s;
    assert_int_equal(tl__spans_open(&s, 64, NULL), 0);
    tl__spans_keep(s, true);
    tl__spans_set(s, 7, 3);
    tl__span_begin(s, "parent", TL_BUCKET_EVAL);
    tl__span_begin(s, "child", TL_BUCKET_MATMUL);
    tl__span_bf16(s);
    sleep_ms(20);
    tl__span_end(s, 100, 10, 2, 3, 4);
    tl__span_begin(s, "same bucket", TL_BUCKET_EVAL);
    tl__span_int8(s);
    sleep_ms(10);
    tl__span_end(s, 1, 2, 0, 0, 0);
    tl__span_end(s, 5, 7, 0, 0, 0);
    sleep_ms(10);
    int64_t before_take_ns = tl__now_ns();
    tl_totals t = tl__spans_take(s);

    const tl_span *list;
    assert_int_equal(tl__spans_list(s, &list), 3);
    const tl_span *child = &list[0], *same = &list[1], *parent = &list[2]; /* in the order they closed */
    assert_string_equal(parent->name, "parent");
    assert_int_equal(child->depth, 1);
    assert_int_equal(parent->depth, 0);
    assert_int_equal(child->step, 7);
    assert_int_equal(child->layer, 3);
    assert_int_equal(child->shape[2], 4);
    assert_true(child->start_ns >= parent->start_ns);
    assert_true(child->start_ns + child->duration_ns <= parent->start_ns + parent->duration_ns);

    /* Exclusive time, exactly: the sums are of whole nanoseconds; turning them to seconds costs an ulp or two. */
    double exclusive = (double)(parent->duration_ns - child->duration_ns) * 1e-9;
    assert_true(fabs(t.seconds[TL_BUCKET_EVAL] - exclusive) < 1e-12);
    assert_true(fabs(t.seconds[TL_BUCKET_MATMUL] - (double)child->duration_ns * 1e-9) < 1e-12);
    assert_true(t.seconds[TL_BUCKET_MATMUL] >= 0.020);
    assert_true(t.seconds[TL_BUCKET_EVAL] >= 0.010);
    assert_true(same->duration_ns >= 10000000);
    assert_true(t.seconds[TL_BUCKET_OTHER] >= 0.010);
    assert_true(t.flops[TL_BUCKET_MATMUL] == 100 && t.bytes[TL_BUCKET_MATMUL] == 10);
    assert_true(t.flops[TL_BUCKET_EVAL] == 6 && t.bytes[TL_BUCKET_EVAL] == 9);
    assert_true(fabs(sum(&t) - t.wall_seconds) < 1e-9);
    assert_true(child->bf16 && !same->bf16 && !parent->bf16);
    assert_true(t.bf16_flops[TL_BUCKET_MATMUL] == 100 && t.bf16_flops[TL_BUCKET_EVAL] == 0);
    assert_true(same->int8 && !child->int8 && !parent->int8);
    assert_true(t.int8_flops[TL_BUCKET_EVAL] == 1 && t.int8_flops[TL_BUCKET_MATMUL] == 0);
    tl_totals twice = t; /* every member is a double, and none is forgotten */
    tl__totals_add(&twice, &t);
    const double *one = (const double *)&t, *two = (const double *)&twice;
    for (size_t i = 0; i < sizeof t / sizeof *one; i++) assert_true(two[i] == 2 * one[i]);

    t = tl__spans_take(s); /* starts anew: from the take before, not from the opening */
    assert_true(t.seconds[TL_BUCKET_MATMUL] == 0 && t.flops[TL_BUCKET_MATMUL] == 0);
    assert_true(t.wall_seconds >= 0 && t.wall_seconds <= (double)(tl__now_ns() - before_take_ns) * 1e-9);
    tl__spans_close(s);
}

static void the_ring_keeps_the_newest(void **state) {
    (void)state;
    tl_spans *s;
    for (int capacity = 1; capacity <= 5; capacity++)
        for (int n = 0; n <= 13; n++) {
            assert_int_equal(tl__spans_open(&s, capacity, NULL), 0);
            tl__span_begin(s, "not kept", TL_BUCKET_DATA);
            tl__span_end(s, 0, 0, 0, 0, 0);
            tl__spans_keep(s, true);
            const tl_span *list;
            for (int i = 0; i < n; i++) {
                tl__span_begin(s, "kept", TL_BUCKET_DATA);
                tl__span_end(s, 0, 0, i, 0, 0);
                if (i == 8) (void)tl__spans_list(s, &list); /* looking in the middle changes nothing */
            }
            int held = tl__spans_list(s, &list);
            assert_int_equal(held, n < capacity ? n : capacity);
            for (int i = 0; i < held; i++) assert_int_equal(list[i].shape[0], n - held + i);
            tl__spans_close(s);
        }
}

static void null_records_nothing(void **state) {
    (void)state;
    tl__span_begin(NULL, "x", TL_BUCKET_LOG);
    tl__span_end(NULL, 1, 1, 1, 1, 1);
    tl__spans_set(NULL, 1, 1);
    tl__spans_keep(NULL, true);
    const tl_span *list;
    assert_int_equal(tl__spans_list(NULL, &list), 0);
    tl_totals t = tl__spans_take(NULL);
    assert_true(t.wall_seconds == 0);
    tl__spans_close(NULL);
    tl_error err = {0};
    tl_spans *s;
    assert_int_equal(tl__spans_open(&s, 0, &err), TL_EINVALID);
    assert_null(s);
    assert_true(err.text[0] != 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_whole),
        cmocka_unit_test(a_child_is_taken_from_its_parent),
        cmocka_unit_test(the_ring_keeps_the_newest),
        cmocka_unit_test(null_records_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
