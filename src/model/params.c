/* params.c — the list of a model's parameters: Hugging Face names, shapes, roles, initialisation, in file order.
 *
 * Two sets of tables, each the model's own parameters and those of one layer: the names that GPT-2 gave and those that
 * everyone since has used, with the rows that a family lacks left out. Shapes are letters of the architecture, resolved
 * here; all of them lie without holes in one flat buffer, so that a checkpoint writer streams it as it is. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/arch.h"

typedef enum dim {
    NONE,
    DIM_V,
    DIM_T,
    DIM_C,
    DIM_F,
    DIM_Q,
    DIM_KV,
    DIM_QKV,
    DIM_Q_NORM,
    DIM_K_NORM,
    DIM_E,
    DIM_EXPERT
} dim;
typedef enum when {
    ALWAYS,
    QKV_BIAS,
    O_BIAS,
    MLP_BIAS,
    UNTIED,
    QK_NORM,
    SANDWICH,
    PLAIN,
    DENSE
} when; /* PLAIN: not sandwich; DENSE: no experts */

typedef struct row {
    const char *name; /* below the layer's prefix */
    tl_role role;
    dim shape[2]; /* matrices as [out, in]; swapped where the layout is [in, out] */
    when present;
    int shard_axis; /* of [out, in]: 0 column-parallel, 1 row-parallel, −1 replicated */
} row;

static const row decoder_first[] = {{"model.embed_tokens.weight", TL_ROLE_EMBED, {DIM_V, DIM_C}, ALWAYS, 0}};
static const row decoder_layer[] = {
    {"input_layernorm.weight", TL_ROLE_NORM1_GAIN, {DIM_C}, ALWAYS, -1},
    {"self_attn.q_proj.weight", TL_ROLE_Q, {DIM_Q, DIM_C}, ALWAYS, 0},
    {"self_attn.q_proj.bias", TL_ROLE_Q_BIAS, {DIM_Q}, QKV_BIAS, 0},
    {"self_attn.k_proj.weight", TL_ROLE_K, {DIM_KV, DIM_C}, ALWAYS, 0},
    {"self_attn.k_proj.bias", TL_ROLE_K_BIAS, {DIM_KV}, QKV_BIAS, 0},
    {"self_attn.v_proj.weight", TL_ROLE_V, {DIM_KV, DIM_C}, ALWAYS, 0},
    {"self_attn.v_proj.bias", TL_ROLE_V_BIAS, {DIM_KV}, QKV_BIAS, 0},
    {"self_attn.q_norm.weight", TL_ROLE_Q_NORM, {DIM_Q_NORM}, QK_NORM, -1},
    {"self_attn.k_norm.weight", TL_ROLE_K_NORM, {DIM_K_NORM}, QK_NORM, -1},
    {"self_attn.o_proj.weight", TL_ROLE_O, {DIM_C, DIM_Q}, ALWAYS, 1},
    {"self_attn.o_proj.bias", TL_ROLE_O_BIAS, {DIM_C}, O_BIAS, -1},
    {"post_attention_layernorm.weight", TL_ROLE_POST1_GAIN, {DIM_C}, SANDWICH, -1}, /* Gemma: what it says */
    {"post_attention_layernorm.weight", TL_ROLE_NORM2_GAIN, {DIM_C}, PLAIN, -1},    /* Llama: before the feed-forward */
    {"pre_feedforward_layernorm.weight", TL_ROLE_NORM2_GAIN, {DIM_C}, SANDWICH, -1},
    {"mlp.gate_proj.weight", TL_ROLE_GATE, {DIM_F, DIM_C}, DENSE, 0},
    {"mlp.gate_proj.bias", TL_ROLE_GATE_BIAS, {DIM_F}, MLP_BIAS, 0},
    {"mlp.up_proj.weight", TL_ROLE_UP, {DIM_F, DIM_C}, DENSE, 0},
    {"mlp.up_proj.bias", TL_ROLE_UP_BIAS, {DIM_F}, MLP_BIAS, 0},
    {"mlp.down_proj.weight", TL_ROLE_DOWN, {DIM_C, DIM_F}, DENSE, 1},
    {"mlp.down_proj.bias", TL_ROLE_DOWN_BIAS, {DIM_C}, MLP_BIAS, -1},
    {"post_feedforward_layernorm.weight", TL_ROLE_POST2_GAIN, {DIM_C}, SANDWICH, -1},
};

static const row router_rows[] = {{"gate.weight", TL_ROLE_ROUTER, {DIM_E, DIM_C}, ALWAYS, -1}};
static const row expert_rows[TL_EXPERT_STRIDE] = {
    {"gate_proj.weight", TL_ROLE_EXPERT_GATE, {DIM_EXPERT, DIM_C}, ALWAYS, 0},
    {"up_proj.weight", TL_ROLE_EXPERT_UP, {DIM_EXPERT, DIM_C}, ALWAYS, 0},
    {"down_proj.weight", TL_ROLE_EXPERT_DOWN, {DIM_C, DIM_EXPERT}, ALWAYS, 1},
};
static const row mixtral_expert_rows[TL_EXPERT_STRIDE] = {
    {"w1.weight", TL_ROLE_EXPERT_GATE, {DIM_EXPERT, DIM_C}, ALWAYS, 0},
    {"w3.weight", TL_ROLE_EXPERT_UP, {DIM_EXPERT, DIM_C}, ALWAYS, 0},
    {"w2.weight", TL_ROLE_EXPERT_DOWN, {DIM_C, DIM_EXPERT}, ALWAYS, 1},
};

static const row decoder_last[] = {{"model.norm.weight", TL_ROLE_FINAL_GAIN, {DIM_C}, ALWAYS, -1},
                                   {"lm_head.weight", TL_ROLE_HEAD, {DIM_V, DIM_C}, UNTIED, 0}};

static const row gpt2_first[] = {{"transformer.wte.weight", TL_ROLE_EMBED, {DIM_V, DIM_C}, ALWAYS, 0},
                                 {"transformer.wpe.weight", TL_ROLE_POSITION, {DIM_T, DIM_C}, ALWAYS, -1}};
static const row gpt2_layer[] = {
    {"ln_1.weight", TL_ROLE_NORM1_GAIN, {DIM_C}, ALWAYS, -1},
    {"ln_1.bias", TL_ROLE_NORM1_BIAS, {DIM_C}, ALWAYS, -1},
    {"attn.c_attn.weight", TL_ROLE_QKV, {DIM_QKV, DIM_C}, ALWAYS, 0},
    {"attn.c_attn.bias", TL_ROLE_QKV_BIAS, {DIM_QKV}, ALWAYS, 0},
    {"attn.c_proj.weight", TL_ROLE_O, {DIM_C, DIM_Q}, ALWAYS, 1},
    {"attn.c_proj.bias", TL_ROLE_O_BIAS, {DIM_C}, ALWAYS, -1},
    {"ln_2.weight", TL_ROLE_NORM2_GAIN, {DIM_C}, ALWAYS, -1},
    {"ln_2.bias", TL_ROLE_NORM2_BIAS, {DIM_C}, ALWAYS, -1},
    {"mlp.c_fc.weight", TL_ROLE_UP, {DIM_F, DIM_C}, ALWAYS, 0},
    {"mlp.c_fc.bias", TL_ROLE_UP_BIAS, {DIM_F}, ALWAYS, 0},
    {"mlp.c_proj.weight", TL_ROLE_DOWN, {DIM_C, DIM_F}, ALWAYS, 1},
    {"mlp.c_proj.bias", TL_ROLE_DOWN_BIAS, {DIM_C}, ALWAYS, -1},
};
static const row gpt2_last[] = {{"transformer.ln_f.weight", TL_ROLE_FINAL_GAIN, {DIM_C}, ALWAYS, -1},
                                {"transformer.ln_f.bias", TL_ROLE_FINAL_BIAS, {DIM_C}, ALWAYS, -1},
                                {"lm_head.weight", TL_ROLE_HEAD, {DIM_V, DIM_C}, UNTIED, 0}};

static int64_t extent(const tl_arch *a, dim d) {
    switch (d) {
    case DIM_V:
        return a->V;
    case DIM_T:
        return a->max_positions;
    case DIM_C:
        return a->C;
    case DIM_F:
        return a->F;
    case DIM_Q:
        return (int64_t)a->H * a->D;
    case DIM_KV:
        return (int64_t)a->Hkv * a->D;
    case DIM_QKV:
        return (int64_t)(a->H + 2 * a->Hkv) * a->D;
    case DIM_Q_NORM:
        return a->qk_norm == TL_QK_NORM_WHOLE ? (int64_t)a->H * a->D : a->D;
    case DIM_K_NORM:
        return a->qk_norm == TL_QK_NORM_WHOLE ? (int64_t)a->Hkv * a->D : a->D;
    case DIM_E:
        return a->E;
    case DIM_EXPERT:
        return a->expert_F;
    case NONE:
        break;
    }
    return 0;
}

static bool present(const tl_arch *a, int layer, when w) {
    switch (w) {
    case ALWAYS:
        return true;
    case QKV_BIAS:
        return a->qkv_bias;
    case O_BIAS:
        return a->o_bias;
    case MLP_BIAS:
        return a->mlp_bias;
    case UNTIED:
        return !a->tied;
    case QK_NORM:
        return a->qk_norm != TL_QK_NORM_NONE;
    case SANDWICH:
        return a->sandwich;
    case PLAIN:
        return !a->sandwich;
    case DENSE:
        return !a->layer[layer].moe;
    }
    return false;
}

static bool is_gain(tl_role r) {
    return r == TL_ROLE_NORM1_GAIN || r == TL_ROLE_NORM2_GAIN || r == TL_ROLE_FINAL_GAIN || r == TL_ROLE_POST1_GAIN ||
           r == TL_ROLE_POST2_GAIN || r == TL_ROLE_Q_NORM || r == TL_ROLE_K_NORM;
}
static bool is_look_up(tl_role r) {
    return r == TL_ROLE_EMBED || r == TL_ROLE_POSITION || r == TL_ROLE_HEAD;
}

static void append(tl_params *p, const tl_arch *a, const row *rows, int n, const char *prefix, int layer) {
    for (int i = 0; i < n; i++) {
        const row *r = &rows[i];
        if (!present(a, layer, r->present)) continue;
        tl_param *out = &p->list[p->n];
        *out = (tl_param){.layer = layer, .role = r->role, .offset = p->count, .shard_axis = r->shard_axis, .count = 1};
        snprintf(out->name, sizeof out->name, "%s%s", prefix, r->name);
        out->dims = r->shape[1] == NONE ? 1 : 2;
        for (int d = 0; d < out->dims; d++) out->shape[d] = extent(a, r->shape[d]);
        if (out->dims == 2 && a->layout == TL_IN_OUT && !is_look_up(r->role)) { /* Conv1D: [in, out] */
            int64_t swap = out->shape[0];
            out->shape[0] = out->shape[1], out->shape[1] = swap;
            if (out->shard_axis >= 0) out->shard_axis = 1 - out->shard_axis;
        }
        for (int d = 0; d < out->dims; d++) out->count *= out->shape[d];
        bool residual = r->role == TL_ROLE_O || r->role == TL_ROLE_DOWN;
        double std = residual && a->init_scaled_residual ? a->init_std / sqrt(2.0 * a->L) : a->init_std;
        bool ones = is_gain(r->role) && a->gain_add == 0; /* a gain of 1 + g begins at g = 0 */
        out->init_std = out->dims == 2 ? (float)std : ones ? -1.0f : 0.0f;
        out->decay = out->dims == 2;
        int *index = &p->by_role[(layer < 0 ? a->L : layer) * TL_ROLES + r->role];
        if (*index < 0) *index = p->n; /* of experts the first */
        p->count += out->count;
        p->n++;
    }
}

#define COUNT(table) ((int)(sizeof(table) / sizeof((table)[0])))

static void append_experts(tl_params *p, const tl_arch *a, const char *layer_prefix, int layer) {
    const char *block = a->mixtral_names ? "block_sparse_moe" : "mlp";
    char prefix[112];
    snprintf(prefix, sizeof prefix, "%s%s.", layer_prefix, block);
    append(p, a, router_rows, 1, prefix, layer);
    for (int e = 0; e < a->E; e++) {
        snprintf(prefix, sizeof prefix, "%s%s.experts.%d.", layer_prefix, block, e);
        append(p, a, a->mixtral_names ? mixtral_expert_rows : expert_rows, TL_EXPERT_STRIDE, prefix, layer);
    }
}

int tl__params_make(tl_params *params, const tl_arch *a, tl_error *err) {
    bool gpt2 = a->positions == TL_POS_LEARNED;
    int most = 8 + a->L * (TL_ROLES + a->E * TL_EXPERT_STRIDE);
    *params = (tl_params){.list = calloc((size_t)most, sizeof *params->list),
                          .by_role = malloc(((size_t)a->L + 1) * TL_ROLES * sizeof *params->by_role)};
    if (!params->list || !params->by_role) {
        tl__params_free(params);
        return tl__fail(err, TL_ENOMEM, "no memory for the list of parameters");
    }
    for (int i = 0; i < (a->L + 1) * TL_ROLES; i++) params->by_role[i] = -1;
    if (gpt2) append(params, a, gpt2_first, COUNT(gpt2_first), "", -1);
    else append(params, a, decoder_first, COUNT(decoder_first), "", -1);
    for (int l = 0; l < a->L; l++) {
        char prefix[64];
        snprintf(prefix, sizeof prefix, gpt2 ? "transformer.h.%d." : "model.layers.%d.", l);
        if (gpt2) append(params, a, gpt2_layer, COUNT(gpt2_layer), prefix, l);
        else append(params, a, decoder_layer, COUNT(decoder_layer), prefix, l);
        if (a->layer[l].moe) append_experts(params, a, prefix, l);
    }
    if (gpt2) append(params, a, gpt2_last, COUNT(gpt2_last), "", -1);
    else append(params, a, decoder_last, COUNT(decoder_last), "", -1);
    return 0;
}

void tl__params_free(tl_params *params) {
    free(params->list);
    free(params->by_role);
    *params = (tl_params){0};
}

int tl__params_find(const tl_params *params, const tl_arch *a, int layer, tl_role role) {
    return params->by_role[(layer < 0 ? a->L : layer) * TL_ROLES + role];
}

/* Layers' parameters are neighbours, in the layers' order; those of no layer stand before the first or after the last.
 */
void tl__param_block(int *first, int *end, const tl_params *params, int L, int b) {
    int i = 0;
    for (int block = 0;; block++) {
        *first = i;
        if (block == 0 || block > L)
            while (i < params->n && params->list[i].layer < 0) i++;
        else
            while (i < params->n && params->list[i].layer == block - 1) i++;
        *end = i;
        if (block == b) return;
    }
}
