/* test_session.c — L1 and L2 through a whole model: the same bits however a sequence is chunked and whoever computes
 * it, and the probabilities of decoding equal to the trainer's, under each contract. A small random model of each
 * family, and a larger Llama. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "base/rng.h"
#include "families.h"
#include "heap_calls.h"
#include "infer/sampler.h"
#include "infer/session.h"
#include "sanitized.h"

/* T crosses KV blocks of 16, attention chunks of 64 and ends inside both. */
enum { T = 151, MAX_V = 331, POSITIONS = 160, MODELS = 1 + TEST_FAMILIES };

static const char larger[] =
    "{\"model_type\":\"llama\",\"vocab_size\":331,\"hidden_size\":64,\"intermediate_size\":168,\"num_hidden_layers\":3,"
    "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"max_position_embeddings\":160,\"rms_norm_eps\":1e-5,\"rope_"
    "theta\":10000,"
    "\"initializer_range\":0.15,\"tie_word_embeddings\":false}";

static tl_ctx ctx;
static tl_model models[MODELS];

static int open_models(void **state) {
    tl_error err = {0};
    int status = tl__ctx_open(&ctx, 2, NULL, &err);
    for (int i = 0; !status && i < MODELS; i++) {
        tl_arch arch;
        const char *config = i == 0 ? larger : test_families[i - 1].config;
        status = tl__arch_parse(&arch, config, strlen(config), "config", &err);
        if (!status) status = tl__model_create(&models[i], &arch, 0, &err);
        if (!status) tl__model_init(&models[i], 5, ctx.pool);
    }
    if (status) fprintf(stderr, "%s\n", err.text);
    return status;
}

static int close_models(void **state) {
    for (int i = 0; i < MODELS; i++) tl__model_close(&models[i]);
    tl__ctx_close(&ctx);
    return 0;
}

static void fill_tokens(int32_t *tokens, int n, int V, uint64_t seed) {
    for (int i = 0; i < n; i++) tokens[i] = (int32_t)(tl__philox(seed, TL_RNG_TEST, 0, (uint64_t)i).v[0] % (uint32_t)V);
}

static tl_session *open_session(const tl_model *m, tl_ctx *c, int capacity, int chunk) {
    tl_session *s;
    tl_error err = {0};
    if (tl__session_open(&s, m, c, capacity, chunk, &err)) fail_msg("%s", err.text);
    return s;
}

static void append(tl_session *s, const int32_t *tokens, int n, float *logits) {
    tl_error err = {0};
    if (tl__session_append(s, tokens, n, logits, &err)) fail_msg("%s", err.text);
}

/* Bits, so that −0 differs from 0 and a NaN would equal itself. */
static void assert_same_bits(const float *a, const float *b, int n, const char *what, int which) {
    for (int i = 0; i < n; i++)
        if (memcmp(a + i, b + i, sizeof *a))
            fail_msg("%s %d: element %d is %.9g, expected %.9g", what, which, i, (double)a[i], (double)b[i]);
}

/* log p of tokens[1 … n−1], each decoded alone: the slow way that every other must equal. */
static void score_one_by_one(const tl_model *m, tl_ctx *c, const int32_t *tokens, int n, float *logp) {
    float logits[MAX_V];
    tl_session *s = open_session(m, c, n, 1);
    for (int i = 0; i + 1 < n; i++) {
        append(s, tokens + i, 1, logits);
        int32_t target = tokens[i + 1];
        tl__softmax_loss(c, logp + i, NULL, logits, &target, &(tl_loss_form){0}, 1, m->arch.V);
    }
    tl__session_close(s);
}

/* The trainer's forward over B sequences of n tokens in one batch of rows, KV blocks handed out in a scattered order.
 */
static void score_as_training(const tl_model *m, tl_ctx *c, const int32_t *tokens, int B, int n, float *logp) {
    int blocks = (n + TL_KV_BLOCK - 1) / TL_KV_BLOCK, R = B * n;
    tl_arena dry = tl__arena_dry(), arena;
    tl_acts acts;
    tl__acts_place(&acts, &dry, &m->arch, R, B * blocks, true, TL_RECOMPUTE_NONE);
    assert_int_equal(tl__arena_open(&arena, dry.used_bytes, NULL), 0);
    tl__acts_place(&acts, &arena, &m->arch, R, B * blocks, true, TL_RECOMPUTE_NONE);
    int32_t *pos = malloc((size_t)R * sizeof *pos), *target = malloc((size_t)R * sizeof *target);
    int32_t seq_row[8], seq_block[8], *block = malloc((size_t)(B * blocks) * sizeof *block);
    for (int b = 0; b <= B; b++) seq_row[b] = b * n;
    for (int b = 0; b < B; b++) seq_block[b] = b * blocks;
    for (int i = 0; i < B * blocks; i++) block[i] = B * blocks - 1 - i;
    for (int r = 0; r < R; r++) {
        pos[r] = r % n;
        target[r] = r % n + 1 < n ? tokens[r + 1] : -1;
    }
    tl_rows rows = {R, B, tokens, pos, seq_row, seq_block, block};
    tl__model_forward(c, m, &acts, &rows);
    tl__model_loss(c, m, &acts, target, R, logp, NULL, 0);
    free(pos), free(target), free(block);
    tl__arena_close(&arena);
}

/* ---- L1 ---- */

static void L1_a_prompt_in_any_chunks(void **state) {
    static const int chunks[] = {1, 2, 3, 5, 7, 15, 16, 17, 31, 63, 64, 65, 100, 128, 150, 151};
    for (int k = 0; k < MODELS; k++) {
        const tl_model *m = &models[k];
        int32_t tokens[T];
        float whole[T], whole_logits[MAX_V], logp[T], logits[MAX_V];
        fill_tokens(tokens, T, m->arch.V, 1);
        tl_session *s = open_session(m, &ctx, T, T);
        assert_int_equal(tl__session_score(s, tokens, T, 0, whole, NULL), 0);
        tl__session_rewind(s, 0);
        append(s, tokens, T, whole_logits);
        tl__session_close(s);
        for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c += RACES_ALONE ? 5 : 1) {
            s = open_session(m, &ctx, POSITIONS, chunks[c]);
            append(s, tokens, T, logits);
            assert_same_bits(logits, whole_logits, m->arch.V, "logits, chunk", chunks[c]);
            tl__session_rewind(s, 0);
            assert_int_equal(tl__session_score(s, tokens, T, 0, logp, NULL), 0);
            assert_same_bits(logp, whole, T, "log-probabilities, chunk", chunks[c]);
            tl__session_close(s);
        }
        /* Calls cut as they please, across chunks of 64. */
        s = open_session(m, &ctx, T, 64);
        for (int at = 0, n = 1; at < T; at += n, n = n * 5 % 71 + 1)
            append(s, tokens + at, n < T - at ? n : T - at, logits);
        assert_same_bits(logits, whole_logits, m->arch.V, "logits, ragged calls, model", k);
        tl__session_close(s);
    }
}

/* Keys and values in fewer bits: a chunk reads what it has stored of itself, so that cutting changes nothing. */
static void L1_chunks_with_narrow_keys(void **state) {
    static const tl_type types[] = {TL_F32, TL_F16, TL_BF16, TL_Q8_0};
    static const int chunks[] = {1, 7, 16, 64, 100};
    for (int k = 0; k < MODELS; k++) {
        const tl_model *m = &models[k];
        int32_t tokens[T];
        float whole[4][T], logp[T];
        fill_tokens(tokens, T, m->arch.V, 1);
        for (int t = 0; t < 4; t++)
            for (int c = -1; c < (int)(sizeof chunks / sizeof *chunks); c++) {
                tl_session *s;
                const int chunk = c < 0 ? T : chunks[c];
                assert_int_equal(tl__session_open_narrow(&s, m, &ctx, T, chunk, types[t], NULL), 0);
                assert_int_equal(tl__session_score(s, tokens, T, 0, c < 0 ? whole[t] : logp, NULL), 0);
                if (c >= 0) assert_same_bits(logp, whole[t], T, tl__type_name(types[t]), chunk);
                tl__session_close(s);
            }
        for (int t = 1; t < 4; t++) assert_memory_not_equal(whole[t], whole[0], sizeof whole[0]); /* it is done */
    }
}

static void L1_any_threads_and_instruction_set(void **state) {
    static const char *const isas[] = {"ref", "avx2", "avx512", "avx512_bf16", "amx"};
    for (int k = 0; k < MODELS; k++) {
        const tl_model *m = &models[k];
        int32_t tokens[T];
        float expected[T], logp[T];
        fill_tokens(tokens, T, m->arch.V, 2);
        tl_session *s = open_session(m, &ctx, T, 0);
        assert_int_equal(tl__session_score(s, tokens, T, -1, expected, NULL), 0);
        tl__session_close(s);
        for (int i = RACES_ALONE; i < (int)(sizeof isas / sizeof *isas); i++)
            for (int threads = 1 + RACES_ALONE; threads <= 4; threads++) {
                tl_ctx other;
                if (tl__ctx_open(&other, threads, isas[i], NULL)) continue; /* not on this CPU */
                other.contract = ctx.contract;
                s = open_session(m, &other, T, 40);
                assert_int_equal(tl__session_score(s, tokens, T, -1, logp, NULL), 0);
                assert_same_bits(logp, expected, T - 1, isas[i], threads);
                tl__session_close(s);
                tl__ctx_close(&other);
            }
    }
}

/* ---- L2 ---- */

static void L2_decoding_equals_training(void **state) {
    enum { B = 3 };
    for (int k = 0; k < MODELS; k++) {
        const tl_model *m = &models[k];
        int32_t tokens[B * T];
        float trained[B * T], decoded[T];
        fill_tokens(tokens, B * T, m->arch.V, 3);
        score_as_training(m, &ctx, tokens, B, T, trained);
        for (int b = 0; b < B; b++) {
            score_one_by_one(m, &ctx, tokens + b * T, T, decoded);
            assert_same_bits(decoded, trained + b * T, T - 1, "sequence", b);
            tl_session *s = open_session(m, &ctx, T, 50);
            assert_int_equal(tl__session_score(s, tokens + b * T, T, -1, decoded, NULL), 0);
            assert_same_bits(decoded, trained + b * T, T - 1, "scored sequence", b);
            tl__session_rewind(s, 0); /* and in two calls, the first told what comes next */
            assert_int_equal(tl__session_score(s, tokens + b * T, 70, tokens[b * T + 70], decoded, NULL), 0);
            assert_int_equal(tl__session_score(s, tokens + b * T + 70, T - 70, -1, decoded + 70, NULL), 0);
            assert_same_bits(decoded, trained + b * T, T - 1, "sequence scored in two calls", b);
            tl__session_close(s);
        }
    }
}

/* A rollout: what the sampler recorded of its own picks is what the trainer computes for them. */
static void L2_the_samplers_record_equals_training(void **state) {
    for (int k = 0; k < MODELS; k++) {
        const tl_model *m = &models[k];
        int32_t tokens[T], scratch[4 * MAX_V];
        float sampled[T], trained[T], logits[MAX_V];
        tl_sampling sampling = {.temperature = 0.9f, .top_k = 50, .top_p = 0.95f, .seed = 4};
        int prompt = 20;
        fill_tokens(tokens, prompt, m->arch.V, 4);
        tl_session *s = open_session(m, &ctx, T, 0);
        append(s, tokens, prompt, logits);
        for (int i = prompt; i < T; i++) {
            tokens[i] = tl__sample(&ctx, &sampling, NULL, logits, m->arch.V, i, scratch, &sampled[i - 1]);
            append(s, tokens + i, 1, logits);
        }
        tl__session_close(s);
        score_as_training(m, &ctx, tokens, 1, T, trained);
        assert_same_bits(sampled + prompt - 1, trained + prompt - 1, T - prompt, "rollout, model", k);
    }
}

/* ---- another contract: the same laws ---- */

static int use_bf16(void **state) {
    ctx.contract = TL_CONTRACT_BF16;
    return 0;
}
static int use_f32(void **state) {
    ctx.contract = TL_CONTRACT_F32;
    return 0;
}

/* The contract reaches the products: its log-probabilities are near f32's and not the same. */
static void bf16_is_another_contract(void **state) {
    for (int k = 0; k < MODELS; k++) {
        const tl_model *m = &models[k];
        int32_t tokens[T];
        float f32[T], bf16[T];
        fill_tokens(tokens, T, m->arch.V, 9);
        for (int contract = TL_CONTRACT_F32; contract <= TL_CONTRACT_BF16; contract++) {
            ctx.contract = (tl_contract)contract;
            tl_session *s = open_session(m, &ctx, T, 0);
            assert_int_equal(tl__session_score(s, tokens, T, -1, contract == TL_CONTRACT_BF16 ? bf16 : f32, NULL), 0);
            tl__session_close(s);
        }
        ctx.contract = TL_CONTRACT_F32;
        int differ = 0;
        for (int i = 0; i + 1 < T; i++) {
            differ += f32[i] != bf16[i];
            /* Logits of a few units, each behind some ten roundings of 2⁻⁸ that are as often up as down. */
            assert_true(f32[i] - bf16[i] < 0.5f && bf16[i] - f32[i] < 0.5f);
        }
        assert_true(differ > T / 2);
    }
}

/* ---- the rest of the contract ---- */

static void rewound_is_as_if_never_read(void **state) {
    for (int k = 0; k < MODELS; k++) {
        const tl_model *m = &models[k];
        int32_t tokens[T], detour[T];
        float expected[MAX_V], logits[MAX_V];
        fill_tokens(tokens, T, m->arch.V, 5);
        fill_tokens(detour, T, m->arch.V, 6);
        tl_session *s = open_session(m, &ctx, T, 32);
        append(s, tokens, T, expected);
        tl__session_rewind(s, 37);
        assert_int_equal(tl__session_length(s), 37);
        append(s, detour, 100, NULL);
        tl__session_rewind(s, 200); /* beyond the end: nothing to forget */
        assert_int_equal(tl__session_length(s), 137);
        tl__session_rewind(s, 37);
        append(s, tokens + 37, T - 37, logits);
        assert_same_bits(logits, expected, m->arch.V, "after a detour, model", k);
        tl__session_close(s);
    }
}

static void refusals_change_nothing(void **state) {
    const tl_model *m = &models[0];
    int32_t tokens[T], bad[3] = {1, 2, 0};
    float expected[MAX_V], logits[MAX_V], logp[4];
    tl_error err = {0};
    tl_session *s;
    static const int capacities[] = {0, -1, POSITIONS + 1, 2147483647};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(tl__session_open(&s, m, &ctx, capacities[i], 0, &err), TL_EINVALID);
        assert_null(s);
        assert_non_null(strstr(err.text, "160")); /* says what would fit */
    }
    fill_tokens(tokens, T, m->arch.V, 7);
    s = open_session(m, &ctx, 60, 16);
    append(s, tokens, 50, expected);
    tl__session_rewind(s, 40);
    static const int32_t ids[] = {-1, 331, 2147483647, -2147483647 - 1};
    for (int i = 0; i < 4; i++) {
        bad[2] = ids[i];
        assert_int_equal(tl__session_append(s, bad, 3, logits, &err), TL_EINVALID);
        assert_non_null(strstr(err.text, "330"));
        assert_int_equal(tl__session_score(s, bad, 3, -1, logp, &err), TL_EINVALID);
    }
    assert_int_equal(tl__session_score(s, tokens, 3, 331, logp, &err), TL_EINVALID);
    assert_int_equal(tl__session_append(s, tokens, 21, logits, &err), TL_EINVALID);
    assert_non_null(strstr(err.text, "60"));
    assert_int_equal(tl__session_append(s, tokens, -1, logits, &err), TL_EINVALID);
    assert_int_equal(tl__session_append(s, tokens, 0, NULL, &err), 0);
    assert_int_equal(tl__session_length(s), 40);
    append(s, tokens + 40, 10, logits);
    assert_same_bits(logits, expected, m->arch.V, "after refusals", 0);
    append(s, tokens, 10, NULL); /* the last that fit */
    assert_int_equal(tl__session_append(s, tokens, 1, NULL, NULL), TL_EINVALID);
    tl__session_close(s);
}

/* The size asked of the system is the size told to the user: keys and values dominate it and are counted exactly. */
static void L4_bytes_are_known_and_stepping_takes_none(void **state) {
    for (int k = 0; k < MODELS; k++) {
        const tl_model *m = &models[k];
        const tl_arch *a = &m->arch;
        size_t small = tl__session_bytes(a, 16, 16), large = tl__session_bytes(a, 160, 16);
        size_t kv = (size_t)(160 - 16) * 2 * (size_t)a->L * (size_t)a->Hkv * (size_t)a->D * sizeof(float);
        assert_in_range(large - small, kv, kv + TL_ARENA_ALIGN_BYTES); /* and the table of 9 more blocks */
        assert_true(tl__session_bytes(a, 160, 64) > large);
        assert_int_equal(tl__session_bytes(a, 16, 0), small); /* a chunk beyond the capacity is cut to it */

        int32_t tokens[T], scratch[4 * MAX_V];
        float logits[MAX_V], logp[T];
        fill_tokens(tokens, T, a->V, 8);
        tl_session *s = open_session(m, &ctx, T, 32);
        const long before = own_heap_calls;
        append(s, tokens, 100, logits);
        tl_sampling sampling = {.temperature = 1, .top_p = 0.9f, .seed = 4};
        for (int i = 100; i < 120; i++) {
            tokens[i] = tl__sample(&ctx, &sampling, NULL, logits, a->V, i, scratch, logp);
            append(s, tokens + i, 1, logits);
        }
        assert_int_equal(tl__session_score(s, tokens, 31, -1, logp, NULL), 0);
        assert_int_equal(own_heap_calls - before, 0);
        tl__session_close(s);
    }
    void *volatile p = malloc(10); /* the counter counts */
    free(p);
    assert_true(!COUNTS_HEAP || own_heap_calls > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(L1_a_prompt_in_any_chunks),
        cmocka_unit_test(L1_chunks_with_narrow_keys),
        cmocka_unit_test(L1_any_threads_and_instruction_set),
        cmocka_unit_test(L2_decoding_equals_training),
        cmocka_unit_test(L2_the_samplers_record_equals_training),
        cmocka_unit_test(bf16_is_another_contract),
        cmocka_unit_test_setup_teardown(L1_a_prompt_in_any_chunks, use_bf16, use_f32),
        cmocka_unit_test_setup_teardown(L1_any_threads_and_instruction_set, use_bf16, use_f32),
        cmocka_unit_test_setup_teardown(L2_decoding_equals_training, use_bf16, use_f32),
        cmocka_unit_test_setup_teardown(L2_the_samplers_record_equals_training, use_bf16, use_f32),
        cmocka_unit_test(rewound_is_as_if_never_read),
        cmocka_unit_test(refusals_change_nothing),
        cmocka_unit_test(L4_bytes_are_known_and_stepping_takes_none),
    };
    return cmocka_run_group_tests(tests, open_models, close_models);
}
