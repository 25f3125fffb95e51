/* arch.h — the architecture record: what config.json says, checked, in Trilith's names.
 *
 * GPT-2 and Llama are tables of these fields, not code paths. A field of config.json that would change the result and is not
 * known here is refused by name, never ignored. */
#ifndef TL_MODEL_ARCH_H
#define TL_MODEL_ARCH_H

#include "base/json.h"
#include "kernels/ops.h"

typedef enum tl_norm { TL_NORM_RMS, TL_NORM_LAYER } tl_norm;
typedef enum tl_positions { TL_POS_ROPE, TL_POS_LEARNED } tl_positions;
typedef enum tl_act { TL_ACT_SWIGLU, TL_ACT_GELU_TANH } tl_act;

typedef struct tl_arch {
    char family[32];             /* model_type: "llama", "gpt2" */
    int V, L, C, H, Hkv, D, F;   /* DESIGN §4: vocabulary, layers, width, heads, key/value heads, head width, feed-forward width */
    int max_positions;
    tl_norm norm;
    float norm_eps;
    tl_positions positions;
    double rope_theta;
    tl_act act;
    bool attention_bias, mlp_bias, tied;
    tl_layout layout;
    double init_std;             /* normal(0, init_std) for matrices and embeddings */
    bool init_scaled_residual;   /* GPT-2: output projections by init_std/√(2L) */
    int bos, eos;                /* −1: none */
} tl_arch;

/* From config.json's bytes. */
int tl__arch_parse(tl_arch *arch, const char *bytes, size_t size, const char *where, tl_error *err);
/* spec: a preset's name, a config.json, or a folder holding one. */
int tl__arch_open(tl_arch *arch, const char *spec, tl_error *err);
/* "nano  6 layers, 384 wide …" for --help and errors; NULL-terminated. */
const char *const *tl__arch_presets(void);
/* config.json as transformers reads it. malloc'd, NUL-terminated. */
char *tl__arch_config_json(const tl_arch *arch);
/* Ranges and divisibility (heads divide, D even for RoPE, …), by field name and value. */
int tl__arch_check(const tl_arch *arch, const char *where, tl_error *err);

/* ---- parameters ---- */

typedef enum tl_role {
    TL_ROLE_EMBED, TL_ROLE_POSITION, TL_ROLE_NORM1_GAIN, TL_ROLE_NORM1_BIAS, TL_ROLE_Q, TL_ROLE_K, TL_ROLE_V, TL_ROLE_QKV,
    TL_ROLE_Q_BIAS, TL_ROLE_K_BIAS, TL_ROLE_V_BIAS, TL_ROLE_QKV_BIAS, TL_ROLE_O, TL_ROLE_O_BIAS, TL_ROLE_NORM2_GAIN, TL_ROLE_NORM2_BIAS,
    TL_ROLE_GATE, TL_ROLE_UP, TL_ROLE_UP_BIAS, TL_ROLE_GATE_BIAS, TL_ROLE_DOWN, TL_ROLE_DOWN_BIAS, TL_ROLE_FINAL_GAIN, TL_ROLE_FINAL_BIAS, TL_ROLE_HEAD,
    TL_ROLES
} tl_role;

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
int tl__params_find(const tl_params *params, const tl_arch *arch, int layer, tl_role role);

/* Model FLOPs of one training token at sequence length T: 6·N + 12·L·H·D·T (Chowdhery et al. 2022, PaLM, appendix B), N the parameters
 * that take part in products or norms: all but look-up-only embeddings. Attention counted whole, as there. */
double tl__arch_model_flops_per_token(const tl_arch *arch, int T);

#endif
