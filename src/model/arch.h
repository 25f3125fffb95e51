/* arch.h — the architecture record: what config.json says, checked, in Trilith's names.
 *
 * Every family is a table of these fields, not a code path (arch_families.c). A field of config.json that would change the
 * result and is not known there is refused by name, never ignored. */
#ifndef TL_MODEL_ARCH_H
#define TL_MODEL_ARCH_H

#include "base/json.h"
#include "kernels/ops.h"

#define TL_MAX_LAYERS 512

typedef enum tl_norm { TL_NORM_RMS, TL_NORM_LAYER } tl_norm;
typedef enum tl_positions { TL_POS_ROPE, TL_POS_LEARNED } tl_positions;
typedef enum tl_act { TL_ACT_SWIGLU, TL_ACT_GELU_TANH, TL_ACT_GEGLU } tl_act;
typedef enum tl_qk_norm { TL_QK_NORM_NONE, TL_QK_NORM_HEAD, TL_QK_NORM_WHOLE } tl_qk_norm; /* one gain a head width, or all */

/* How RoPE's frequencies are stretched beyond the positions that the model was first trained on. */
typedef enum tl_rope_scaling { TL_ROPE_PLAIN, TL_ROPE_LINEAR, TL_ROPE_LLAMA3, TL_ROPE_YARN } tl_rope_scaling;
typedef struct tl_rope {
    double theta;
    double local_theta;                        /* of sliding layers, never scaled; 0: theta serves every layer */
    tl_rope_scaling scaling;
    double factor;                             /* of positions: scaling other than PLAIN */
    int original_positions;                    /* LLAMA3, YARN: positions before scaling */
    double low_freq_factor, high_freq_factor;  /* LLAMA3 */
    double beta_fast, beta_slow;               /* YARN: turns within the original positions that bound the ramp */
    double attention_factor;                   /* YARN: factor of cos and sin; 0: from mscale or the paper's rule */
    double mscale, mscale_all_dim;             /* YARN: 0: not given */
    bool truncate;                             /* YARN: the ramp's bounds are whole dimensions */
} tl_rope;

typedef struct tl_arch_layer {
    bool sliding; /* attends to the last `window` positions only */
    bool no_rope;
    bool moe;     /* its feed-forward part is a mixture of experts */
} tl_arch_layer;

typedef struct tl_arch {
    char family[32];             /* model_type: "llama", "gpt2", "gemma3_text", … */
    int V, L, C, H, Hkv, D, F;   /* DESIGN §4: vocabulary, layers, width, heads, key/value heads, head width, feed-forward width */
    int max_positions;
    tl_norm norm;
    float norm_eps;
    float gain_add;              /* RMSNorm multiplies by gain + gain_add (Gemma: 1) */
    bool sandwich;               /* each branch is normed again before it is added */
    tl_qk_norm qk_norm;          /* RMSNorm of queries and keys before RoPE */
    tl_positions positions;
    tl_rope rope;
    int window;                  /* of sliding layers: a row sees itself and window − 1 before it */
    float attention_softcap, final_softcap; /* 0: none */
    int query_scalar;            /* scores are q·k/√query_scalar; 0: D */
    float embed_scale;           /* looked-up embeddings are multiplied by it: 1, or √C */
    tl_act act;
    bool qkv_bias, o_bias, mlp_bias, tied;
    tl_layout layout;
    double init_std;             /* normal(0, init_std) for matrices and embeddings */
    bool init_scaled_residual;   /* GPT-2: output projections by init_std/√(2L) */
    int bos, eos, pad;           /* −1: none */
    /* Experts: of layers whose `moe` is set. */
    int E, top_k, expert_F;      /* experts, how many a row goes to, their width; E 0: none */
    bool norm_topk;              /* a row's weights are divided by their sum */
    bool mixtral_names;          /* block_sparse_moe.experts.0.w1, not mlp.experts.0.gate_proj */
    double router_aux_coef, router_z_coef; /* of the load-balance loss and the router's z-loss (moe.h) */
    tl_arch_layer layer[TL_MAX_LAYERS];
} tl_arch;

/* From config.json's bytes. */
int tl__arch_parse(tl_arch *arch, const char *bytes, size_t size, const char *where, tl_error *err);
/* spec: a preset's name (even where a folder is called so), a config.json, a GGUF file, or a folder holding one. */
int tl__arch_open(tl_arch *arch, const char *spec, tl_error *err);
/* "nano  6 layers, 384 wide …" for --help and errors; NULL-terminated. */
const char *const *tl__arch_presets(void);
bool tl__arch_is_preset(const char *name);
/* config.json as transformers reads it. malloc'd, NUL-terminated. */
char *tl__arch_config_json(const tl_arch *arch);
/* Ranges and divisibility (heads divide, D even for RoPE, …), by field name and value. */
int tl__arch_check(const tl_arch *arch, const char *where, tl_error *err);

/* Keys that layer l's rows see, at most: its window, or 0 where there is none. */
int tl__arch_window(const tl_arch *arch, int layer);
/* Gate and up projections rather than up alone. */
bool tl__arch_gated(const tl_arch *arch);

/* ---- RoPE tables ---- */

/* How many a model holds: none, one, or another for sliding layers. */
int tl__rope_tables(const tl_arch *arch);
/* Rows [first, end) of cos_sin[position][D] = D/2 cosines, then D/2 sines, for layers that slide (local) or not. Frequencies
 * and angles are f32 products in transformers' order. */
void tl__rope_fill(float *cos_sin, const tl_arch *arch, bool local, int first, int end);

/* ---- parameters ---- */

typedef enum tl_role {
    TL_ROLE_EMBED, TL_ROLE_POSITION, TL_ROLE_NORM1_GAIN, TL_ROLE_NORM1_BIAS, TL_ROLE_Q, TL_ROLE_K, TL_ROLE_V, TL_ROLE_QKV,
    TL_ROLE_Q_BIAS, TL_ROLE_K_BIAS, TL_ROLE_V_BIAS, TL_ROLE_QKV_BIAS, TL_ROLE_Q_NORM, TL_ROLE_K_NORM, TL_ROLE_O, TL_ROLE_O_BIAS, TL_ROLE_POST1_GAIN,
    TL_ROLE_NORM2_GAIN, TL_ROLE_NORM2_BIAS, TL_ROLE_GATE, TL_ROLE_UP, TL_ROLE_UP_BIAS, TL_ROLE_GATE_BIAS, TL_ROLE_DOWN, TL_ROLE_DOWN_BIAS,
    TL_ROLE_POST2_GAIN, TL_ROLE_ROUTER, TL_ROLE_EXPERT_GATE, TL_ROLE_EXPERT_UP, TL_ROLE_EXPERT_DOWN,
    TL_ROLE_FINAL_GAIN, TL_ROLE_FINAL_BIAS, TL_ROLE_HEAD,
    TL_ROLES
} tl_role;

/* An expert's three matrices stand together in the list: expert e's role is at that of expert 0 + e·TL_EXPERT_STRIDE. */
#define TL_EXPERT_STRIDE 3

typedef struct tl_param {
    char name[128];          /* as in Hugging Face's file */
    int dims;
    int64_t shape[2];
    int64_t count;           /* elements */
    int64_t offset;          /* first element in the flat buffer of all parameters; no holes */
    int layer;               /* −1: none */
    tl_role role;
    float init_std;          /* > 0: normal; 0: zeros; −1: ones */
    bool decay;              /* weight decay applies (matrices and embeddings) */
    int shard_axis;          /* axis cut by tensor parallelism; −1: replicated */
} tl_param;

typedef struct tl_params {
    tl_param *list;
    int n;
    int64_t count;           /* elements of all */
    int *by_role;            /* [(L+1)·TL_ROLES]: index of (layer, role), −1: absent; layer −1 sits at row L */
} tl_params;

int tl__params_make(tl_params *params, const tl_arch *arch, tl_error *err);
void tl__params_free(tl_params *params);
/* Index of a role in a layer (−1 for the model's own), or −1. */
/* Of experts' roles, expert 0's. */
int tl__params_find(const tl_params *params, const tl_arch *arch, int layer, tl_role role);

/* Parameters [*first, *end) of block b: 0 what comes before the layers, 1 … L a layer each, L + 1 what comes after. A block is what is
 * reduced or gathered together; it lies without holes in the flat buffer, and may be empty. */
void tl__param_block(int *first, int *end, const tl_params *params, int L, int b);

/* A matrix within the flat buffer of all parameters. */
typedef struct tl_matrix {
    int64_t offset; /* of its first element */
    int rows, cols;
    int64_t ld;     /* elements from a row to the next */
} tl_matrix;
#define TL_MAX_FUSED 3
/* The matrices that a parameter holds if it is a weight of a layer (a fused one holds several); 0: embeddings, head, norms, biases. */
int tl__param_matrices(tl_matrix out[TL_MAX_FUSED], const tl_param *param, const tl_arch *arch);

/* Model FLOPs of one training token at sequence length T: 6·N + Σ over layers 12·H·D·min(T, window) (Chowdhery et al. 2022, PaLM,
 * appendix B, where no layer has a window), N the parameters that take part in products or norms for a token: all but look-up-only embeddings, and of E experts top_k. Attention
 * is counted whole, as there, but a window's keys are all that a sliding layer is asked for. */
double tl__arch_model_flops_per_token(const tl_arch *arch, int T);

#endif
