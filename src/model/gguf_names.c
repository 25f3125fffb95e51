/* gguf_names.c — which tensor of a GGUF file holds which parameter: one table, read in both directions. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/gguf_model.h"

/* By role, below "blk.N." where the parameter belongs to a layer. */
static const char *const names[TL_ROLES] = {
    [TL_ROLE_EMBED] = "token_embd.weight",
    [TL_ROLE_POSITION] = "position_embd.weight",
    [TL_ROLE_NORM1_GAIN] = "attn_norm.weight",
    [TL_ROLE_NORM1_BIAS] = "attn_norm.bias",
    [TL_ROLE_Q] = "attn_q.weight",
    [TL_ROLE_K] = "attn_k.weight",
    [TL_ROLE_V] = "attn_v.weight",
    [TL_ROLE_QKV] = "attn_qkv.weight",
    [TL_ROLE_Q_BIAS] = "attn_q.bias",
    [TL_ROLE_K_BIAS] = "attn_k.bias",
    [TL_ROLE_V_BIAS] = "attn_v.bias",
    [TL_ROLE_QKV_BIAS] = "attn_qkv.bias",
    [TL_ROLE_Q_NORM] = "attn_q_norm.weight",
    [TL_ROLE_K_NORM] = "attn_k_norm.weight",
    [TL_ROLE_O] = "attn_output.weight",
    [TL_ROLE_O_BIAS] = "attn_output.bias",
    [TL_ROLE_POST1_GAIN] = "post_attention_norm.weight",
    [TL_ROLE_NORM2_GAIN] = "ffn_norm.weight",
    [TL_ROLE_NORM2_BIAS] = "ffn_norm.bias",
    [TL_ROLE_GATE] = "ffn_gate.weight",
    [TL_ROLE_UP] = "ffn_up.weight",
    [TL_ROLE_UP_BIAS] = "ffn_up.bias",
    [TL_ROLE_GATE_BIAS] = "ffn_gate.bias",
    [TL_ROLE_DOWN] = "ffn_down.weight",
    [TL_ROLE_DOWN_BIAS] = "ffn_down.bias",
    [TL_ROLE_POST2_GAIN] = "post_ffw_norm.weight",
    [TL_ROLE_ROUTER] = "ffn_gate_inp.weight",
    [TL_ROLE_EXPERT_GATE] = "ffn_gate_exps.weight",
    [TL_ROLE_EXPERT_UP] = "ffn_up_exps.weight",
    [TL_ROLE_EXPERT_DOWN] = "ffn_down_exps.weight",
    [TL_ROLE_FINAL_GAIN] = "output_norm.weight",
    [TL_ROLE_FINAL_BIAS] = "output_norm.bias",
    [TL_ROLE_HEAD] = "output.weight",
};

static bool is_expert(tl_role role) {
    return role == TL_ROLE_EXPERT_GATE || role == TL_ROLE_EXPERT_UP || role == TL_ROLE_EXPERT_DOWN;
}

static bool is_gain(tl_role role) {
    return role == TL_ROLE_NORM1_GAIN || role == TL_ROLE_NORM2_GAIN || role == TL_ROLE_POST1_GAIN ||
           role == TL_ROLE_POST2_GAIN || role == TL_ROLE_Q_NORM || role == TL_ROLE_K_NORM || role == TL_ROLE_FINAL_GAIN;
}

/* Families whose GGUF form rotates neighbours; the others rotate halves, as Hugging Face's do. */
static bool rotates_neighbours(const tl_arch *a) {
    const char *name = tl__gguf_arch_name(a);
    return name && (strcmp(name, "llama") == 0 || strcmp(name, "smollm3") == 0);
}

/* Readers of GGUF look for these in two families alone. */
static bool is_nameless(const tl_arch *a, tl_role role) {
    bool outward =
        role == TL_ROLE_O_BIAS || role == TL_ROLE_GATE_BIAS || role == TL_ROLE_UP_BIAS || role == TL_ROLE_DOWN_BIAS;
    const char *name = tl__gguf_arch_name(a);
    return !name || (outward && strcmp(name, "llama") != 0 && strcmp(name, "gpt2") != 0);
}

bool tl__gguf_place(tl_gguf_place *place, const tl_arch *a, const tl_params *params, int i) {
    const tl_param *p = &params->list[i];
    const tl_role role = p->role;
    if (is_nameless(a, role)) return false;
    *place = (tl_gguf_place){.expert = -1};
    if (p->layer < 0) snprintf(place->name, sizeof place->name, "%s", names[role]);
    else snprintf(place->name, sizeof place->name, "blk.%d.%s", p->layer, names[role]);
    if (is_expert(role)) place->expert = (i - tl__params_find(params, a, p->layer, role)) / TL_EXPERT_STRIDE;
    if (rotates_neighbours(a) && (role == TL_ROLE_Q || role == TL_ROLE_Q_BIAS)) place->heads = a->H;
    if (rotates_neighbours(a) && (role == TL_ROLE_K || role == TL_ROLE_K_BIAS)) place->heads = a->Hkv;
    bool look_up = role == TL_ROLE_EMBED || role == TL_ROLE_POSITION || role == TL_ROLE_HEAD;
    place->transposed = a->layout == TL_IN_OUT && p->dims == 2 && !look_up;
    if (is_gain(role)) place->add = a->gain_add;
    return true;
}

int tl__gguf_param(const tl_arch *a, const tl_params *params, const char *name) {
    int layer = -1;
    const char *rest = name;
    if (strncmp(name, "blk.", 4) == 0) {
        char *end;
        long n = strtol(name + 4, &end, 10);
        if (end == name + 4 || *end != '.' || n < 0 || n >= a->L) return -1;
        layer = (int)n, rest = end + 1;
    }
    for (int role = 0; role < TL_ROLES; role++) {
        int i = strcmp(rest, names[role]) == 0 ? tl__params_find(params, a, layer, (tl_role)role) : -1;
        tl_gguf_place place;
        if (i >= 0 && tl__gguf_place(&place, a, params, i) && strcmp(place.name, name) == 0) return i; /* not blk.01 */
    }
    return -1;
}

/* Within a head of D rows, the pair (i, i + D/2) of the parameter is the pair (2i, 2i + 1) of the tensor. */
int64_t tl__gguf_row(int64_t r, int64_t rows, int heads) {
    if (heads == 0) return r;
    const int64_t D = rows / heads, half = D / 2, d = r % D;
    return r - d + (d < half ? 2 * d : 2 * (d - half) + 1);
}

int64_t tl__gguf_param_row(int64_t r, int64_t rows, int heads) {
    if (heads == 0) return r;
    const int64_t D = rows / heads, half = D / 2, d = r % D;
    return r - d + (d % 2 ? half : 0) + d / 2;
}
