/* test_arch.c — config.json of every family: the keys of old files and those that transformers writes today mean the
 * same, what is written is read back as it was, lists a layer are checked, and a field that would change the result and
 * is not known is refused by name. (That the records compute what transformers computes is test_parity.c's.) */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "families.h"
#include "model/arch.h"

#define SIZES "\"vocab_size\":61,\"hidden_size\":32,\"intermediate_size\":48,\"num_attention_heads\":4,"
#define MORE SIZES "\"num_key_value_heads\":2,\"max_position_embeddings\":128,"
#define LAYERS(n) MORE "\"num_hidden_layers\":" #n ","

static tl_arch parsed(const char *config) {
    tl_arch a;
    tl_error err = {0};
    if (tl__arch_parse(&a, config, strlen(config), "config", &err)) fail_msg("%s\nfor %s", err.text, config);
    return a;
}

/* Everything that a record says, as text. */
static void assert_same_record(const tl_arch *a, const tl_arch *b, const char *what) {
    char *x = tl__arch_config_json(a), *y = tl__arch_config_json(b);
    if (strcmp(x, y)) fail_msg("%s: %s\nis not\n%s", what, x, y);
    assert_memory_equal(a->layer, b->layer, sizeof a->layer);
    free(x), free(y);
}

static void test_old_and_new_keys_mean_the_same(void **state) {
    static const char *const pairs[][2] = {
        {"{\"model_type\":\"llama\"," LAYERS(
             2) "\"rope_theta\":5e5,\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8.0,"
                "\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,\"original_max_position_embeddings\":64}}",
         "{\"model_type\":\"llama\"," LAYERS(
             2) "\"rope_scaling\":null,\"rope_parameters\":{\"rope_type\":\"llama3\","
                "\"rope_theta\":5e5,\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4,"
                "\"original_max_position_embeddings\":64}}"},
        {"{\"model_type\":\"smollm3\"," LAYERS(4) "\"no_rope_layer_interval\":2,\"use_sliding_window\":true,"
                                                  "\"sliding_window\":9}",
         "{\"model_type\":\"smollm3\"," LAYERS(
             4) "\"no_rope_layers\":[1,0,1,0],\"use_sliding_window\":true,"
                "\"sliding_window\":9,\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":2000000.0},"
                "\"layer_types\":[\"full_attention\",\"sliding_attention\",\"full_attention\",\"sliding_attention\"]}"},
        {"{\"model_type\":\"mistral\"," LAYERS(2) "\"head_dim\":null,\"rope_theta\":1e6}",
         "{\"model_type\":\"mistral\"," LAYERS(
             2) "\"head_dim\":8,\"sliding_window\":4096,"
                "\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":1e6}}"},
        {"{\"model_type\":\"qwen2\"," LAYERS(
             3) "\"use_sliding_window\":true,\"sliding_window\":16,\"max_window_layers\":1,"
                "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4.0,\"original_max_position_embeddings\":32}}",
         "{\"model_type\":\"qwen2\"," LAYERS(
             3) "\"use_sliding_window\":true,\"sliding_window\":16,"
                "\"layer_types\":[\"full_attention\",\"sliding_attention\",\"sliding_attention\"],\"rope_parameters\":"
                "{\"rope_type\":\"yarn\",\"rope_theta\":10000,\"factor\":4,\"original_max_position_embeddings\":32}}"},
        {"{\"model_type\":\"qwen3\"," LAYERS(2) "\"use_sliding_window\":false,\"sliding_window\":4096}",
         "{\"model_type\":\"qwen3\"," LAYERS(2) "\"sliding_window\":null,\"head_dim\":128,\"layer_types\":"
                                                "[\"full_attention\",\"full_attention\"]}"},
        {"{\"model_type\":\"gemma2\"," LAYERS(
             3) "\"hidden_act\":\"gelu_pytorch_tanh\",\"cache_implementation\":\"hybrid\"}",
         "{\"model_type\":\"gemma2\"," LAYERS(
             3) "\"attn_logit_softcapping\":50.0,\"final_logit_softcapping\":30.0,"
                "\"query_pre_attn_scalar\":256,\"sliding_window\":4096,\"head_dim\":256,\"tie_word_embeddings\":true,"
                "\"layer_types\":[\"sliding_attention\",\"full_attention\",\"sliding_attention\"]}"},
        {"{\"model_type\":\"gemma3_text\"," LAYERS(7) "\"sliding_window\":8,\"sliding_window_pattern\":3,"
                                                      "\"rope_theta\":2e6,\"rope_local_base_freq\":5000,\"rope_"
                                                      "scaling\":{\"rope_type\":\"linear\",\"factor\":8.0}}",
         "{\"model_type\":\"gemma3_text\"," LAYERS(
             7) "\"sliding_window\":8,\"rope_parameters\":{\"full_attention\":"
                "{\"rope_type\":\"linear\",\"factor\":8.0,\"rope_theta\":2e6},\"sliding_attention\":"
                "{\"rope_type\":\"default\",\"rope_theta\":5e3}},\"attn_logit_softcapping\":null,\"layer_types\":"
                "[\"sliding_attention\",\"sliding_attention\",\"full_attention\",\"sliding_attention\",\"sliding_"
                "attention\","
                "\"full_attention\",\"sliding_attention\"]}"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        tl_arch a = parsed(pairs[i][0]), b = parsed(pairs[i][1]);
        assert_same_record(&a, &b, pairs[i][0]);
    }
}

static void test_what_is_written_is_read_back(void **state) {
    for (int k = 0; k < TEST_FAMILIES; k++) {
        tl_arch a = parsed(test_families[k].config);
        char *text = tl__arch_config_json(&a);
        tl_arch b = parsed(text);
        assert_same_record(&a, &b, test_families[k].name);
        free(text);
    }
}

static void test_fields_of_the_record(void **state) {
    tl_arch a = parsed("{\"model_type\":\"gemma3_text\"," LAYERS(12) "\"sliding_window\":8}");
    for (int l = 0; l < 12; l++) assert_int_equal(tl__arch_window(&a, l), l == 5 || l == 11 ? 0 : 8); /* 5 : 1 */
    assert_true(a.sandwich && a.gain_add == 1 && a.qk_norm == TL_QK_NORM_HEAD && a.act == TL_ACT_GEGLU && a.tied);
    assert_true(a.rope.theta == 1e6 && a.rope.local_theta == 1e4 && tl__rope_tables(&a) == 2);
    assert_float_equal(a.embed_scale, 5.656854, 1e-6);

    a = parsed("{\"model_type\":\"smollm3\"," LAYERS(8) "\"bos_token_id\":3}");
    for (int l = 0; l < 8; l++) assert_int_equal(a.layer[l].no_rope, l == 3 || l == 7);
    assert_true(a.rope.theta == 2e6 && a.tied && a.window == 0 && a.bos == 3 && a.pad == -1);

    a = parsed("{\"model_type\":\"qwen2\"," LAYERS(2) "\"pad_token_id\":5}");
    assert_true(a.qkv_bias && !a.o_bias && !a.tied && a.pad == 5);
    a = parsed("{\"model_type\":\"qwen3\"," LAYERS(2) "\"attention_bias\":true}");
    assert_true(a.qkv_bias && a.o_bias && a.D == 128);

    a = parsed("{\"model_type\":\"mistral\"," LAYERS(2) "\"sliding_window\":null}");
    assert_int_equal(tl__arch_window(&a, 0), 0);
}

/* 6·N + 12·H·D·T a full layer, min(T, window) for one that slides. */
static void test_flops_count_a_windows_keys(void **state) {
    tl_arch full = parsed("{\"model_type\":\"mistral\"," LAYERS(2) "\"sliding_window\":null}");
    tl_arch slides = parsed("{\"model_type\":\"mistral\"," LAYERS(2) "\"sliding_window\":10}");
    double each = 12.0 * 4 * 8; /* H·D, one layer, one key */
    assert_float_equal(tl__arch_model_flops_per_token(&full, 64) - tl__arch_model_flops_per_token(&slides, 64),
                       2 * each * (64 - 10), 1e-3);
    assert_float_equal(tl__arch_model_flops_per_token(&slides, 9), tl__arch_model_flops_per_token(&full, 9), 1e-3);
}

static void test_gains_begin_where_they_do_nothing(void **state) {
    for (int k = 0; k < TEST_FAMILIES; k++) {
        tl_arch a = parsed(test_families[k].config);
        tl_params params;
        int gains = 0;
        assert_int_equal(tl__params_make(&params, &a, NULL), 0);
        for (int i = 0; i < params.n; i++) {
            const tl_param *p = &params.list[i];
            if (p->dims != 1 || strstr(p->name, "bias")) continue;
            assert_true((p->init_std < 0 ? 1 : p->init_std) + a.gain_add == 1); /* −1 stands for ones */
            gains++;
        }
        assert_int_equal(gains, a.L * (2 + 2 * a.sandwich + 2 * (a.qk_norm != TL_QK_NORM_NONE)) + 1);
        tl__params_free(&params);
    }
}

static void test_refusals_name_the_field(void **state) {
    static const struct {
        const char *config, *says;
    } cases[] = {
        {"{\"model_type\":\"qwen4\"," LAYERS(2) "\"x\":null}", "llama, smollm3, mistral"},
        {"{\"model_type\":\"qwen3\"," LAYERS(2) "\"mlp_bias\":true}", "'mlp_bias' is not a field of a qwen3 model"},
        {"{\"model_type\":\"mistral\"," LAYERS(2) "\"attention_bias\":true}", "'attention_bias'"},
        {"{\"model_type\":\"mistral\"," LAYERS(2) "\"layer_types\":[]}", "'layer_types'"},
        {"{\"model_type\":\"llama\"," LAYERS(2) "\"rope_interleaved\":true}", "'rope_interleaved' is true"},
        {"{\"model_type\":\"llama\"," LAYERS(2) "\"hidden_act\":\"gelu\"}", "'hidden_act' is 'gelu'"},
        {"{\"model_type\":\"llama\"," LAYERS(513) "\"x\":null}", "num_hidden_layers"},
        {"{\"model_type\":\"mistral\"," SIZES "\"max_position_embeddings\":128,\"num_hidden_layers\":2}",
         "num_key_value_heads"},
        /* layers */
        {"{\"model_type\":\"smollm3\"," LAYERS(3) "\"no_rope_layers\":[1,0]}", "'no_rope_layers' has 2 entries for 3"},
        {"{\"model_type\":\"smollm3\"," LAYERS(3) "\"no_rope_layers\":[1,0,2]}", "'no_rope_layers'"},
        {"{\"model_type\":\"smollm3\"," LAYERS(3) "\"no_rope_layers\":[1,0,\"1\"]}", "for layer 2"},
        {"{\"model_type\":\"smollm3\"," LAYERS(3) "\"no_rope_layers\":{}}", "should be a list"},
        {"{\"model_type\":\"smollm3\"," LAYERS(3) "\"no_rope_layer_interval\":0}", "no_rope_layer_interval"},
        {"{\"model_type\":\"qwen3\"," LAYERS(3) "\"layer_types\":[\"full_attention\",\"full_attention\"]}",
         "'layer_types' has 2 entries for 3 layers"},
        {"{\"model_type\":\"qwen3\"," LAYERS(2) "\"layer_types\":[\"full_attention\",\"chunked_attention\"]}",
         "'chunked_attention' for layer 1"},
        {"{\"model_type\":\"qwen3\"," LAYERS(2) "\"layer_types\":[\"full_attention\",7]}", "for layer 1"},
        {"{\"model_type\":\"qwen3\"," LAYERS(1) "\"layer_types\":[\"sliding_attention\"],\"sliding_window\":5}",
         "there is no window"},
        {"{\"model_type\":\"gemma2\"," LAYERS(1) "\"sliding_window\":null}", "'sliding_window' is null"},
        {"{\"model_type\":\"gemma2\"," LAYERS(1) "\"sliding_window\":0}", "sliding_window"},
        {"{\"model_type\":\"gemma3_text\"," LAYERS(1) "\"sliding_window_pattern\":0}", "sliding_window_pattern"},
        {"{\"model_type\":\"gemma3_text\"," LAYERS(1) "\"attn_logit_softcapping\":50.0}",
         "'attn_logit_softcapping' is set"},
        {"{\"model_type\":\"gemma3_text\"," LAYERS(1) "\"use_bidirectional_attention\":true}",
         "'use_bidirectional_attention' is true"},
        {"{\"model_type\":\"gemma2\"," LAYERS(1) "\"final_logit_softcapping\":0}", "final_logit_softcapping"},
        {"{\"model_type\":\"gemma2\"," LAYERS(1) "\"hidden_activation\":\"gelu\"}", "'hidden_activation' is 'gelu'"},
        /* RoPE */
        {"{\"model_type\":\"llama\"," LAYERS(1) "\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2}}",
         "RoPE of type 'dynamic'"},
        {"{\"model_type\":\"llama\"," LAYERS(1) "\"rope_scaling\":{\"rope_type\":\"linear\"}}", "'factor' is missing"},
        {"{\"model_type\":\"llama\"," LAYERS(1) "\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":0.5}}",
         "factor"},
        {"{\"model_type\":\"llama\"," LAYERS(
             1) "\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":2,\"beta_fast\":3}}",
         "'beta_fast' is not a field of RoPE of type 'linear'"},
        {"{\"model_type\":\"llama\"," LAYERS(1) "\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":2,"
                                                "\"low_freq_factor\":4,\"high_freq_factor\":4}}",
         "'high_freq_factor' is 4"},
        {"{\"model_type\":\"llama\"," LAYERS(1) "\"rope_parameters\":{\"partial_rotary_factor\":0.5}}",
         "'partial_rotary_factor' is 0.5"},
        {"{\"model_type\":\"llama\"," LAYERS(1) "\"rope_parameters\":[1]}", "rope_parameters: should be an object"},
        {"{\"model_type\":\"llama\"," LAYERS(1) "\"rope_theta\":1,\"rope_scaling\":{\"type\":\"yarn\",\"factor\":2}}",
         "'rope_theta' is 1"},
        {"{\"model_type\":\"gemma3_text\"," LAYERS(1) "\"rope_parameters\":{\"rope_theta\":1e4}}",
         "'rope_parameters.rope_theta'"},
        {"{\"model_type\":\"gemma3_text\"," LAYERS(
             1) "\"rope_parameters\":{\"sliding_attention\":{\"rope_type\":\"linear\","
                "\"factor\":2}}}",
         "rope_parameters.sliding_attention"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tl_arch a;
        tl_error err = {0};
        if (tl__arch_parse(&a, cases[i].config, strlen(cases[i].config), "config", &err) == 0)
            fail_msg("accepted: %s", cases[i].config);
        if (!strstr(err.text, cases[i].says)) fail_msg("'%s' does not say \"%s\"", err.text, cases[i].says);
    }
}

/* The rules of scaling by numbers worked out by hand. D = 8, θ = 10^4: frequencies 1, 0.1, 0.01, 0.001. */
static void test_scaled_frequencies(void **state) {
    float plain[16], scaled[16];
    tl_arch a = parsed("{\"model_type\":\"llama\"," LAYERS(1) "\"rope_theta\":10000}");
    tl__rope_fill(plain, &a, false, 0, 2);
    for (int i = 0; i < 4; i++) { /* position 0, then 1 */
        static const float sines[] = {0.841471f, 0.0998334f, 0.00999983f, 0.001f};
        assert_float_equal(plain[i], 1, 0);
        assert_float_equal(plain[4 + i], 0, 0);
        assert_float_equal(plain[12 + i], sines[i], 1e-6);
    }
    a = parsed("{\"model_type\":\"llama\"," LAYERS(1) "\"rope_scaling\":{\"type\":\"linear\",\"factor\":10}}");
    tl__rope_fill(scaled, &a, false, 0, 2);
    for (int i = 0; i < 3; i++)
        assert_float_equal(scaled[12 + i], plain[13 + i], 1e-8); /* each a tenth: the next one */
    /* Wavelengths 6.3, 62.8, 628, 6283: 64/4 = 16 and 64 bound the blend; below kept, above a tenth. */
    a = parsed("{\"model_type\":\"llama\"," LAYERS(
        1) "\"rope_scaling\":{\"type\":\"llama3\",\"factor\":10,"
           "\"low_freq_factor\":1,\"high_freq_factor\":4,\"original_max_position_embeddings\":64}}");
    tl__rope_fill(scaled, &a, false, 0, 2);
    assert_float_equal(scaled[12], plain[12], 0);
    double smooth = (64 / 62.831853 - 1) / 3, between = (1 - smooth) * 0.01 + smooth * 0.1;
    assert_float_equal(scaled[13], between, 1e-6);
    assert_float_equal(scaled[14], plain[15], 1e-8);
    /* YaRN with its factor of magnitude given: 0.5 at position 0. */
    a = parsed(
        "{\"model_type\":\"llama\"," LAYERS(1) "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":10,"
                                               "\"attention_factor\":0.5,\"original_max_position_embeddings\":64}}");
    tl__rope_fill(scaled, &a, false, 0, 2);
    for (int i = 0; i < 4; i++) assert_float_equal(scaled[i], 0.5f, 0);
    assert_float_equal(scaled[15], 0.5f * 1e-4f, 1e-8); /* the slowest dimension is stretched by ten */
}

/* Presets named after published models have their numbers of parameters. */
static void test_presets_have_the_published_sizes(void **state) {
    static const struct {
        const char *name;
        int64_t parameters;
    } known[] = {{"gpt2-124m", 124439808},
                 {"smollm2-135m", 134515008},
                 {"qwen3-0.6b", 596049920},
                 {"llama-3.2-1b", 1235814400},
                 {"gemma3-270m", 268098176}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        tl_arch a;
        tl_params params;
        tl_error err = {0};
        if (tl__arch_open(&a, known[i].name, &err) || tl__params_make(&params, &a, &err)) fail_msg("%s", err.text);
        assert_int_equal(params.count, known[i].parameters);
        tl__params_free(&params);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_old_and_new_keys_mean_the_same),
        cmocka_unit_test(test_what_is_written_is_read_back),
        cmocka_unit_test(test_fields_of_the_record),
        cmocka_unit_test(test_flops_count_a_windows_keys),
        cmocka_unit_test(test_gains_begin_where_they_do_nothing),
        cmocka_unit_test(test_refusals_name_the_field),
        cmocka_unit_test(test_scaled_frequencies),
        cmocka_unit_test(test_presets_have_the_published_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
