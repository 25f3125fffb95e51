/* depth.c — the rules behind --depth, each beside its source.
 *
 * Written N: parameters, D: tokens of the run, B: tokens a step, S = D/B: steps, C: FLOPs, η: learning rate, λ: weight
 * decay. Chosen rates are rounded to three digits: the laws are no finer, and a person has to read them. */
#include "plan/depth.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/elementary.h"

/* ---- the shape ---- */

/* Width over depth. Kaplan et al. 2020 (§3.1, figure 5): between about 40 and 100 it hardly matters to the loss; 64 is
 * what nanochat's dial uses (scripts/base_train.py, --aspect-ratio), and what GPT-3's table has at 125M: 768 over 12
 * (Brown et al. 2020, table 2.1). */
static const int64_t DEFAULT_ASPECT = 64;

/* Brown et al. 2020, table 2.1: heads of 64 up to 1.5k wide, of 128 from 2k on. Below four heads of 64 they are halved:
 * fewer heads than that attend to too little at once (the smallest models in use have four to six). */
static int64_t head_width(int64_t width) {
    int64_t D = width >= 2048 ? 128 : 64;
    while (D > 16 && width < 4 * D) D /= 2;
    return D;
}

static int64_t round_up(int64_t n, int64_t unit) {
    return (n + unit - 1) / unit * unit;
}

int tl__depth_arch(tl_arch *arch, int64_t depth, int64_t aspect, int64_t T, tl_error *err) {
    if (depth < 1 || depth > TL_MOST_DEPTH)
        return tl__fail(err, TL_EINVALID, "--depth %lld: a depth is 1 to %d layers", (long long)depth, TL_MOST_DEPTH);
    if (aspect < 0 || aspect > TL_MOST_ASPECT)
        return tl__fail(err, TL_EINVALID, "--aspect %lld: a layer's width over the depth is 1 to %d", (long long)aspect,
                        TL_MOST_ASPECT);
    int64_t width = depth * (aspect ? aspect : DEFAULT_ASPECT), D = head_width(width);
    width = round_up(width, D);
    /* SwiGLU has three matrices where a plain feed-forward of 4C has two: 8/3·C keeps the parameters (Shazeer 2020, §2;
     * Touvron et al. 2023, §2.2), rounded up to a register tile. */
    int64_t F = round_up((8 * width + 2) / 3, 64);
    int64_t positions = T > 2048 ? T : 2048;
    char config[512];
    /* Tied embeddings, as SmolLM2 and Llama 3.2 have them where the vocabulary is a large part of the model. RMSNorm
     * before each branch, RoPE with theta 10,000 (Su et al. 2021, §3.3), no biases: LLaMA (Touvron et al. 2023, §2.2).
     */
    snprintf(config, sizeof config,
             "{\"model_type\":\"llama\",\"vocab_size\":1,\"hidden_size\":%lld,\"intermediate_size\":%lld,"
             "\"num_hidden_layers\":%lld,\"num_attention_heads\":%lld,\"num_key_value_heads\":%lld,\"head_dim\":%lld,"
             "\"max_position_embeddings\":%lld,\"rms_norm_eps\":1e-5,\"rope_theta\":10000,"
             "\"tie_word_embeddings\":true}",
             (long long)width, (long long)F, (long long)depth, (long long)(width / D), (long long)(width / D),
             (long long)D, (long long)positions);
    return tl__arch_parse(arch, config, strlen(config), "--depth", err);
}

/* ---- how it is trained ---- */

/* Hoffmann et al. 2022, table 3: compute-optimal runs have about 20 tokens a parameter, embeddings counted (which is
 * what makes their exponents differ from Kaplan's: Pearce & Song 2024). */
const double tl__depth_tokens_per_param = 20;

/* Bi et al. 2024 (DeepSeek LLM), §3.1, eq. 1: η = 0.3118·C^−0.1250 and B = 0.2920·C^0.3271 tokens, C = M·D with M the
 * FLOPs a token without the vocabulary's (§3.2, eq. 2). Fitted at 10^17 to 2·10^19 FLOPs. */
static const double LR_COEF = 0.3118, LR_EXPONENT = -0.1250, BATCH_COEF = 0.2920, BATCH_EXPONENT = 0.3271;
/* Below that the rate stays where it is at 10^17: followed upwards it was worse (docs/depth.md has the figures). */
static const double LEAST_FITTED_FLOPS = 1e17;

/* Weights under AdamW are a moving average of updates over τ = 1/(ηλ) steps (Wang & Aitchison 2024). The best τ, as a
 * part of the run's S steps, falls with D/N: 1.084·(D/N)^−0.527 (Bergsma et al. 2025, "Power Lines"). */
static const double TIMESCALE_COEF = 1.084, TIMESCALE_EXPONENT = -0.527;
static const double MOST_TOKENS = 1e30; /* and its products stay finite */

/* Runs of a few steps would get any λ from that; beyond 1 nothing was measured. */
static const double MOST_WEIGHT_DECAY = 1;

static double three_digits(double x) {
    char text[32];
    snprintf(text, sizeof text, "%.3g", x);
    return strtod(text, NULL);
}

/* B tokens as sequences: the nearest multiple of the leaves, within what a step can hold. */
static int64_t sequences(double B, int64_t T, int64_t leaves) {
    double most = floor((double)(INT32_MAX / 4) / (double)(T * leaves)), n = floor(B / (double)(T * leaves) + 0.5);
    n = n < 1 ? 1 : n > most ? most : n;
    return (int64_t)n * leaves;
}

void tl__depth_plan(tl_depth_plan *p, const tl_arch *arch, int64_t params, int64_t T, int64_t leaves) {
    double N = (double)params, M = tl__arch_model_flops_per_token(arch, (int)T) - 6.0 * arch->V * (double)arch->C;
    double D = p->tokens < MOST_TOKENS ? p->tokens : MOST_TOKENS, B; /* the law's batch, whichever is used */
    if (D <= 0 && p->steps > 0) {
        double S = (double)p->steps; /* D = S·B, and B = a·(M·S·B)^b is solved by B = (a·(M·S)^b)^(1/(1−b)) */
        B = tl__pow_f64(BATCH_COEF * tl__pow_f64(M * S, BATCH_EXPONENT), 1 / (1 - BATCH_EXPONENT));
        if (p->batch == 0) p->batch = sequences(B, T, leaves);
        D = S * (double)(p->batch * T);
        B = BATCH_COEF * tl__pow_f64(M * D, BATCH_EXPONENT);
    } else {
        if (D <= 0) D = ceil(tl__depth_tokens_per_param * N);
        B = BATCH_COEF * tl__pow_f64(M * D, BATCH_EXPONENT);
        if (p->batch == 0) p->batch = sequences(B, T, leaves);
    }
    p->tokens = D;
    double used = (double)(p->batch * T), S = D / used;
    /* Another batch than the law's, as rounded or as given: Adam's rate goes with the root of the batch (Malladi et al.
     * 2022, "On the SDEs and scaling rules for adaptive gradient algorithms"). */
    if (p->lr < 0) {
        double C = M * D > LEAST_FITTED_FLOPS ? M * D : LEAST_FITTED_FLOPS;
        p->lr = three_digits(LR_COEF * tl__pow_f64(C, LR_EXPONENT) * sqrt(used / B));
    }
    if (p->weight_decay < 0) {
        double timescale = TIMESCALE_COEF * tl__pow_f64(D / N, TIMESCALE_EXPONENT); /* τ/S */
        double decay = p->lr > 0 ? 1 / (p->lr * S * timescale) : 0;
        p->weight_decay = three_digits(decay < MOST_WEIGHT_DECAY ? decay : MOST_WEIGHT_DECAY);
    }
}
