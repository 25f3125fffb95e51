/* families.h — a small configuration of each family, as its config.json would say it, for tests that hold for every
 * model: windows shorter than the sequence, grouped heads, every kind of norm, bias, scaling, tie and mixture of experts. */
#ifndef TL_TESTS_FAMILIES_H
#define TL_TESTS_FAMILIES_H

typedef struct test_family {
    const char *name, *config;
} test_family;

#define FAMILY_SIZES                                                                                                   \
    "\"vocab_size\":61,\"hidden_size\":32,\"intermediate_size\":48,\"num_attention_heads\":4,"                         \
    "\"num_key_value_heads\":2,\"max_position_embeddings\":160,\"initializer_range\":0.15,"

static const test_family test_families[] = {
    {"gpt2", "{\"model_type\":\"gpt2\",\"vocab_size\":61,\"n_embd\":32,\"n_layer\":2,\"n_head\":4,\"n_positions\":160,"
             "\"initializer_range\":0.15}"},
    {"llama", "{\"model_type\":\"llama\"," FAMILY_SIZES "\"num_hidden_layers\":2,\"rms_norm_eps\":1e-5,"
              "\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":4,\"low_freq_factor\":1,\"high_freq_factor\":4,"
              "\"original_max_position_embeddings\":32}}"},
    {"smollm3", "{\"model_type\":\"smollm3\"," FAMILY_SIZES "\"num_hidden_layers\":3,\"no_rope_layers\":[1,0,1],"
                "\"use_sliding_window\":true,\"sliding_window\":20}"},
    {"mistral", "{\"model_type\":\"mistral\"," FAMILY_SIZES "\"num_hidden_layers\":2,\"head_dim\":12,"
                "\"sliding_window\":24}"},
    {"qwen2", "{\"model_type\":\"qwen2\"," FAMILY_SIZES "\"num_hidden_layers\":2,\"tie_word_embeddings\":true,"
              "\"use_sliding_window\":true,\"sliding_window\":65,\"max_window_layers\":1,"
              "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":24}}"},
    {"qwen3", "{\"model_type\":\"qwen3\"," FAMILY_SIZES "\"num_hidden_layers\":2,\"head_dim\":16}"},
    {"gemma2", "{\"model_type\":\"gemma2\"," FAMILY_SIZES "\"num_hidden_layers\":2,\"head_dim\":16,"
               "\"query_pre_attn_scalar\":24,\"sliding_window\":33,\"attn_logit_softcapping\":5,"
               "\"final_logit_softcapping\":12}"},
    {"gemma3", "{\"model_type\":\"gemma3_text\"," FAMILY_SIZES "\"num_hidden_layers\":3,\"head_dim\":16,"
               "\"query_pre_attn_scalar\":16,\"sliding_window\":20,\"sliding_window_pattern\":3,"
               "\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":8}}"},
    {"mixtral", "{\"model_type\":\"mixtral\"," FAMILY_SIZES "\"num_hidden_layers\":2,\"num_local_experts\":5,"
                "\"num_experts_per_tok\":2,\"router_aux_loss_coef\":0.02}"},
    {"qwen3_moe", "{\"model_type\":\"qwen3_moe\"," FAMILY_SIZES "\"num_hidden_layers\":2,\"head_dim\":12,"
                  "\"num_experts\":20,\"num_experts_per_tok\":4,\"moe_intermediate_size\":24,\"norm_topk_prob\":true,"
                  "\"mlp_only_layers\":[0],\"tie_word_embeddings\":true}"},
    {"olmoe", "{\"model_type\":\"olmoe\"," FAMILY_SIZES "\"num_hidden_layers\":2,\"num_experts\":9,"
              "\"num_experts_per_tok\":3}"},
};
enum { TEST_FAMILIES = sizeof test_families / sizeof test_families[0] };

#endif
