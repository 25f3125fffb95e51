/* step_bench.h — a training step on the bench: context, rank, model and the step's memory of an architecture and a
 * shape, for tests that fill in the batch themselves. */
#ifndef TESTS_TRAIN_STEP_BENCH_H
#define TESTS_TRAIN_STEP_BENCH_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "train/step.h"

typedef struct bench {
    tl_ctx ctx;
    tl_comm *comm;
    tl_model model;
    tl_arena arena;
    tl_train_memory memory;
    tl_train_shape shape;
} bench;

/* Weights from a model folder, or random (folder NULL). What is placed is what was sized. */
static inline void bench_open(bench *b, const tl_arch *arch, const char *folder, const tl_train_shape *shape) {
    tl_error err = {0};
    *b = (bench){.shape = *shape};
    if (tl__ctx_open(&b->ctx, shape->threads, NULL, &err) || tl__comm_open_self(&b->comm, &err) ||
        tl__model_create(&b->model, arch, 0, &err) || (folder && tl__model_load_into(&b->model, folder, &err)))
        fail_msg("%s", err.text);
    b->ctx.contract = shape->contract;
    if (!folder) tl__model_init(&b->model, 7, b->ctx.pool);
    tl_arena dry = tl__arena_dry();
    tl__train_place(&b->memory, &dry, arch, shape);
    assert_int_equal(tl__arena_open(&b->arena, dry.used_bytes, &err), 0);
    tl__train_place(&b->memory, &b->arena, arch, shape);
    assert_int_equal(b->arena.used_bytes, dry.used_bytes);
}

/* The same of a config.json's text. */
static inline void bench_open_config(bench *b, const char *config, const tl_train_shape *shape) {
    tl_error err = {0};
    tl_arch arch;
    if (tl__arch_parse(&arch, config, strlen(config), "test", &err)) fail_msg("%s", err.text);
    bench_open(b, &arch, NULL, shape);
}

static inline void bench_update(bench *b, const tl_adamw_settings *adamw, const tl_muon_settings *muon, double rate, double norm,
                                int64_t update) {
    tl_error err = {0};
    if (tl__step_update(&b->ctx, b->comm, &b->model, &b->memory, &b->shape, adamw, muon, rate, norm, update, &err))
        fail_msg("%s", err.text);
}

static inline void bench_close(bench *b) {
    tl__spans_close(b->ctx.spans);
    tl__arena_close(&b->arena);
    tl__model_close(&b->model);
    tl__comm_close(b->comm);
    tl__ctx_close(&b->ctx);
}

#endif
