/* ops.h — the whole list of operators: mathematics, shapes, layout, cost.
 *
 * R rows, C model width, H query heads, K key/value heads (Hkv in code), D head width, F feed-forward width, V vocabulary.
 * All numbers are f32 in memory but weights (tl_stored) and keys and values (tl_kv). Matrices are row-major with a leading dimension in elements. Each operator exists
 * twice: in ref/ (plain C, fmaf, the order of the contract: the definition) and in cpu/ (fast, equal to ref to the bit).
 * A contract names the arithmetic: "f32", or "bf16", in which products with a weight round their operands to bf16
 * (gemm_bf16) and all else is as in f32. A weight that is stored in fewer bits brings its own contract, by its type: see
 * linear_f32, linear_f16, linear_bf16 and linear_quantised.
 *
 * The orders of summation (law L1):
 *   product   k is cut at multiples of TL_KB; inside a block one fmaf chain from +0 in k order; block sums are added in
 *             order (((s0 + s1) + s2) …), then to C if accumulating — C + s0 first, then + s1 … — and the bias last.
 *   bf16      the product's cuts and sums; inside a block k is taken TL_BF16_K = 32 at a time as TDPBF16PS takes it: a chain of the
 *             even k and one of the odd, each from +0 in k order, each step one fused multiply-add of bf16 factors in f32; then
 *             s += even + odd. Results below 2⁻¹²⁶ are flushed to a zero of their sign, and beyond the end of k there are zeros.
 *             Operands are rounded as vcvtneps2bf16 does: nearest, ties to even, denormals to zero, NaN made quiet. Which NaN
 *             comes out is not said.
 *   quantised x is rounded to eight bits and its products with a weight's integers are exact; see linear_quantised.
 *   vector    16 virtual lanes: lane j takes elements j, j+16, … in order (absent elements add nothing); then the fixed tree
 *             l[j]+l[j+8], then +4, +2, +1.
 *   rows      a gradient summed over rows (bias, gain) is the product's order with k = row: chains within TL_KB rows from +0,
 *             block sums added to the destination in order. Micro-batches cut at multiples of TL_KB rows change nothing.
 *   attention keys in chunks of TL_ATT_CHUNK at absolute positions; see each operator. */
#ifndef TL_KERNELS_OPS_H
#define TL_KERNELS_OPS_H

#include <stdbool.h>
#include <stdint.h>
#include "base/span.h"
#include "base/threads.h"
#include "base/type.h"

#define TL_KB 256        /* block of the product's k; measured in docs/decisions.md */
#define TL_BF16_K 32     /* of k, that a bf16 product sums at a time */
#define TL_LANES 16      /* virtual lanes of a vector reduction */
#define TL_KV_BLOCK 16   /* keys a KV block; see tl_kv */
#define TL_KV_GROUP 32   /* components of a key, or of a value, that share a scale in Q8_0 */
#define TL_ATT_CHUNK 64  /* keys a chunk of attention: four blocks */
#define TL_MAX_HEAD_DIM 256
#define TL_MAX_EXPERTS 1024

typedef enum tl_contract { TL_CONTRACT_F32, TL_CONTRACT_BF16, TL_CONTRACTS } tl_contract;
extern const char *const tl__contract_names[TL_CONTRACTS + 1]; /* "f32", "bf16", NULL */

typedef struct tl_ops tl_ops;
typedef struct tl_adamw tl_adamw;

/* What an operator needs besides its numbers. */
typedef struct tl_ctx {
    bool device;          /* ops are a GPU's, and read and write arenas alone */
    const tl_ops *cpu_ops; /* beside them, for what the CPU does itself; else ops */
    tl_pool *pool;        /* NULL: this thread alone */
    unsigned char *workspace; /* tl__ops_workspace_bytes(threads), 64-byte aligned; sliced per worker */
    size_t workspace_bytes;
    const tl_ops *ops;
    tl_spans *spans;      /* NULL: not recorded */
    tl_contract contract; /* of tl__linear and its backward */
} tl_ctx;

/* Scratch that operators may use, per worker: packed panels, attention tiles. */
#define TL_WORKSPACE_PER_WORKER_BYTES ((size_t)4 << 20)
size_t tl__ops_workspace_bytes(int threads);
/* Worker w's slice. */
static inline void *tl__workspace(const tl_ctx *ctx, int worker) {
    return ctx->workspace + (size_t)worker * TL_WORKSPACE_PER_WORKER_BYTES;
}

/* Open a context: threads as tl__pool_open, isa as tl__ops_select. With "cuda" arenas that are opened from then on are shared with
 * the device. spans stays NULL, contract f32. */
int tl__ctx_open(tl_ctx *ctx, int threads, const char *isa, tl_error *err);
/* isa of a device: NULL, the best table of the CPU, or "cuda". */
const char *tl__device_isa(tl_device device);
void tl__ctx_close(tl_ctx *ctx);

/* Which rows are being computed: R ragged token rows of S sequences. Rows of one sequence lie together with consecutive
 * positions; a training batch, packed documents, a prefill chunk and a decode step are all this. */
typedef struct tl_rows {
    int R, S;
    const int32_t *token;     /* [R] */
    const int32_t *pos;       /* [R] position within the sequence */
    const int32_t *seq_row;   /* [S+1] rows of sequence s: seq_row[s] … seq_row[s+1]−1 */
    const int32_t *seq_block; /* [S] where sequence s's block ids start in block[] */
    const int32_t *block;     /* KV block of positions 16i … 16i+15 of sequence s: block[seq_block[s] + i] */
} tl_rows;

/* One layer's keys and values, numbers of a type. A block holds Hkv parts of tl_kv_part_bytes one after the other; block b's part of key head
 * kh begins at (b·Hkv + kh)·tl_kv_part_bytes of k and of v. A part has K as [D][16] or V as [16][D]:
 *   F32
 *   F16, BF16   nearest, ties to even; what is too large is an infinity, and no number stays none (which NaN is not said)
 *   Q8_0        int8, and behind them f16 scales [⌈D/32⌉][16], for K and V alike. Of 32 components of one key (the last may be fewer)
 *               d = amax/127, q = x·(1/d) to the nearest integer, ties away from 0; where 1/d is infinite q = 0; the scale is d to the
 *               nearest f16, the number q·scale, which f32 holds exactly. These are the bits of ggml's reference quantiser for the row
 *               filled up with zeros. Where x holds a NaN or an infinity, the scale is NaN and q = 0. */
typedef struct tl_kv {
    void *k, *v;
    tl_type type;
} tl_kv;
/* Whether keys and values can be kept so. */
static inline bool tl_kv_can_be(tl_type type) {
    return type == TL_F32 || type == TL_F16 || type == TL_BF16 || type == TL_Q8_0;
}
/* Of one key head in a block, of K or of V. */
static inline int64_t tl_kv_part_bytes(tl_type type, int D) {
    if (type == TL_Q8_0) return TL_KV_BLOCK * (D + (int64_t)sizeof(uint16_t) * ((D + TL_KV_GROUP - 1) / TL_KV_GROUP));
    return TL_KV_BLOCK * D * (int64_t)tl__type_bytes(type);
}

/* How a layer attends: H query heads of width D over Hkv key heads. */
typedef struct tl_attention_form {
    int H, Hkv, D;
    float scale;   /* of q·k */
    float softcap; /* 0: none; else s = cap·tanh(s/cap) after the scale (Gemma 2, Gemma Team 2024 §2: "logit soft-capping") */
    int window;    /* 0: none; else a row at position i sees keys i−window+1 … i (Beltagy et al. 2020; Jiang et al. 2023, Mistral 7B §2) */
} tl_attention_form;

/* What the loss is made of: mean of −logp + z_coef·logZ². */
typedef struct tl_loss_form {
    float grad_scale; /* 0: no gradient, logits are only read */
    float z_coef;     /* of the z-loss, which holds log Z near 0 (Chowdhery et al. 2022, PaLM §5: 1e-4); 0: none */
    float softcap;    /* of the logits, as in tl_attention_form; 0: none */
} tl_loss_form;

/* ---- weights as they are stored, for inference: products and look-ups that read a type's own bytes ---- */

/* W[N,K], row n being output n. F32, F16 and BF16 are read where they lie, rows one after the other; a quantised type is packed once
 * (tl__pack_rows) into panels of sixteen rows. */
typedef struct tl_stored {
    tl_type type;
    int N, K;
    const void *data; /* 64-byte aligned where packed */
} tl_stored;
/* Bytes of the packed form; 0: the type is read where it lies. */
size_t tl__packed_bytes(tl_type type, int N, int K);
/* Rows [first, first + n) of W as stored, first a multiple of 16, into their place in packed[tl__packed_bytes]; n a multiple of 16 but
 * at the end. */
void tl__pack_rows(void *packed, tl_type type, int N, int K, int first, int n, const void *rows);

/* One of the products that share their x: y[R,N] = x[R,K]·Wᵀ + bias. bias may be NULL. */
typedef struct tl_product {
    const tl_stored *w;
    float *y;
    int64_t ldy;
    const float *bias;
} tl_product;
enum { TL_MAX_PRODUCTS = 4 };
#define TL_LEAST_AMAX 0x1p-100f /* of 32 of x, below which they count as zeros: its inverse scale is finite */

struct tl_ops {
    const char *isa; /* "ref", "avx2", "avx512", "avx512_vnni", "avx512_bf16", "amx" */

    /* C[M,N] (+)= A[M,K]·B[K,N] + bias[N]. A(m,k) = a[m·a_row + k·a_col], B(k,n) = b[k·b_row + n·b_col]; of each pair of strides
     * one is 1. accumulate: C is added to, else written. bias may be NULL. K = 0 leaves +0 (or C) plus bias. */
    void (*gemm)(tl_ctx *ctx, float *c, int64_t ldc, int M, int N, int K, const float *a, int64_t a_row, int64_t a_col,
                 const float *b, int64_t b_row, int64_t b_col, const float *bias, bool accumulate);
    /* The same in bf16: A and B are rounded as they are packed; C and bias stay f32. */
    void (*gemm_bf16)(tl_ctx *ctx, float *c, int64_t ldc, int M, int N, int K, const float *a, int64_t a_row, int64_t a_col,
                      const float *b, int64_t b_row, int64_t b_col, const float *bias, bool accumulate);

    /* Up to TL_MAX_PRODUCTS products y[R,N] = x[R,K]·Wᵀ + bias that share x and K, W being stored as the name says. F32: the f32
     * product. F16: the same with the weights that the halves are. BF16: the bf16 product. */
    void (*linear_f32)(tl_ctx *ctx, const tl_product *products, int count, const float *x, int64_t ldx, int R);
    void (*linear_f16)(tl_ctx *ctx, const tl_product *products, int count, const float *x, int64_t ldx, int R);
    void (*linear_bf16)(tl_ctx *ctx, const tl_product *products, int count, const float *x, int64_t ldx, int R);
    /* The same of quantised types (stored.h), which may differ. A weight is w_k = d·q_k + o, with d and o of the sub-block of 16 or 32 that
     * k is in: f32, the f16 as stored or its product with a small integer, rounded once. x is quantised by 32 of k: s = amax/127,
     * a_k = x_k·(1/s) to the nearest integer, ties to even; where amax < TL_LEAST_AMAX, s = 0 and a = 0; where x holds a NaN or an
     * infinity, s = NaN and a = 0. Of each sub-block, in integers, D = Σ q_k·a_k and A = Σ a_k; then
     *   acc = fmaf(d·D, s, acc), then of a type with offsets acc = fmaf(o, s·A, acc), over sub-blocks in k order,
     * from +0 within TL_KB, block sums added in order, bias last. d·D is NaN where d is not finite. */
    void (*linear_quantised)(tl_ctx *ctx, const tl_product *products, int count, const float *x, int64_t ldx, int R);

    /* db[N] += Σ_r dy[r,n], the rows order. */
    void (*bias_backward)(tl_ctx *ctx, float *db, const float *dy, int64_t ld, int R, int N);

    /* x[r,:] = E[token[r],:]·scale, or fmaf(E, scale, P[pos[r],:]) if P. Vaswani et al. 2017 §3.4 (scale: Gemma's √C, else 1). */
    void (*embed)(tl_ctx *ctx, float *x, const float *E, const float *P, const int32_t *token, const int32_t *pos, float scale, int R, int C);
    /* The same of a stored E: F32, F16, BF16, or a quantised type's d·q + o, product and sum rounded. */
    void (*embed_stored)(tl_ctx *ctx, float *x, const tl_stored *E, const float *P, const int32_t *token, const int32_t *pos, float scale, int R);
    /* dE[slot[id[r]],:] = fmaf(dx[r,:], scale, dE) one by one in row order (a plain ordered sum: no blocks). slot NULL: identity. */
    void (*embed_backward)(tl_ctx *ctx, float *dE, const int32_t *slot, const int32_t *id, const float *dx, float scale, int R, int C);

    /* sum = x + y (y NULL: sum may be NULL too and x is normed), out = RMSNorm(sum)·gain' (Zhang & Sennrich 2019, eq. 4):
     * rstd[r] = 1/sqrt(Σ s²/C + eps), out = (s·rstd)·gain'. Σ is the vector order with fmaf(s, s, lane). rstd, sum may be NULL.
     * gain' = gain + gain_add: 1 where a checkpoint holds the gain's distance from 1 (Gemma), else 0. */
    void (*rmsnorm)(tl_ctx *ctx, float *out, float *sum, float *rstd, const float *x, const float *y, const float *gain, float gain_add, float eps, int R, int C);
    /* dx[r,:] += rstd·(gain'∘dout − xhat·(Σ gain'∘dout∘xhat)/C), xhat = s·rstd; dgain += Σ_r dout∘xhat (rows order). */
    void (*rmsnorm_backward)(tl_ctx *ctx, float *dx, float *dgain, const float *dout, const float *s, const float *rstd, const float *gain, float gain_add, int R, int C);
    /* LayerNorm (Ba et al. 2016) likewise: mean = Σs/C, var = Σ(s−mean)²/C, out = fmaf((s−mean)·rstd, gain, bias). */
    void (*layernorm)(tl_ctx *ctx, float *out, float *sum, float *mean, float *rstd, const float *x, const float *y, const float *gain, const float *bias, float eps, int R, int C);
    void (*layernorm_backward)(tl_ctx *ctx, float *dx, float *dgain, float *dbias, const float *dout, const float *s, const float *mean, const float *rstd, const float *gain, int R, int C);

    /* RMSNorm of each of `heads` slices of D of a row, one gain[D] for all (q/k norm: Henry et al. 2020, as Qwen 3 and Gemma 3
     * have it; OLMoE norms the whole width: heads = 1). x[r·ldx + h·D + d], out likewise, may be x; rstd[R, heads] may be NULL. */
    void (*head_norm)(tl_ctx *ctx, float *out, int64_t ldo, float *rstd, const float *x, int64_t ldx, const float *gain, float gain_add, float eps, int R, int heads, int D);
    /* dx = rstd·(gain'∘dout − xhat·(Σ gain'∘dout∘xhat)/D), written (may be dout in place); dgain[D] += Σ_k dout∘xhat, the rows
     * order over slices k = r·heads + h. */
    void (*head_norm_backward)(tl_ctx *ctx, float *dx, int64_t lddx, float *dgain, const float *dout, int64_t lddout, const float *x, int64_t ldx, const float *rstd, const float *gain, float gain_add, int R, int heads, int D);

    /* In place on x[R, heads·D] (leading dimension ld): rotate pairs (i, i+D/2) by the angle of pos[r] (Su et al. 2021, the
     * half-split pairing of Hugging Face Llama). cos_sin[position][D] = D/2 cosines, then D/2 sines. direction −1: backward. */
    void (*rope)(tl_ctx *ctx, float *x, int64_t ld, const float *cos_sin, const int32_t *pos, int direction, int R, int heads, int D);

    /* Store rows' keys and values into their blocks, in kv's type. k[r, kh·D + d], v likewise. */
    void (*kv_store)(tl_ctx *ctx, tl_kv kv, const float *k, int64_t ldk, const float *v, int64_t ldv, const tl_rows *rows, int Hkv, int D);

    /* Causal attention of each row over the keys that it sees, first … pos of its sequence, K and V as stored, each number widened to f32
     * (Vaswani et al. 2017 eq. 1; Dao et al. 2022 for the chunked form); first = 0, or max(0, pos − window + 1). Query head h reads key head
     * h/(H/Hkv). Per row and chunk of 64 keys at absolute positions that holds a key it sees, over those keys alone:
     *   s_j = (fmaf chain over d from +0 of q_d·k_jd)·scale, with a soft-cap then cap·tanh(s_j·(1/cap));
     *   m = max_j s_j; p_j = exp(s_j − m); l = Σ p_j (vector order, lane = key within the chunk, modulo 16);
     *   o_d = fmaf chain over keys j in order from +0 of p_j·v_jd.
     * Merge of (M, L, O) with the next chunk's (m, l, o): M' = max(M, m), α = exp(M − M'), β = exp(m − M'),
     *   L' = fmaf(L, α, l·β), O' = fmaf(O, α, o·β). The first chunk is taken as it is. out = O·(1/L).
     * max_sum[r, h, 2] = (M, L), may be NULL. Blocks that no row of a call sees a key of are not read. */
    void (*attention)(tl_ctx *ctx, float *out, int64_t ldo, float *max_sum, const float *q, int64_t ldq, tl_kv kv, const tl_rows *rows, const tl_attention_form *form);
    /* Gradients; rows hold whole sequences from position 0 (training), K and V are F32. p_ij = exp(s_ij − M_i)·(1/L_i); δ_i = Σ_d dout·out (vector
     * order); ds = p∘(dp − δ)·scale, with a soft-cap p∘(dp − δ)∘fmaf(−t, t, 1)·scale, t the tanh; dp_ij = fmaf chain over d of
     * dout_id·v_jd. Pairs of (query chunk, key chunk), 64×64, of which some query sees some key; a row whose partners in a pair
     * are all hidden has the sum +0 there:
     *   dq_i: chain over the keys of a chunk that i sees from +0, chunk sums added in key order (the first written).
     *   dk_j, dv_j: chain over the queries of a chunk that see j from +0, chunk sums added in query order, query heads of a group
     *   one after the other: for h in group { for query chunks in order }.
     * dq, dk, dv are written (not added to), in rows with leading dimension ld. */
    void (*attention_backward)(tl_ctx *ctx, float *dq, float *dk, float *dv, int64_t ld, const float *dout, const float *out, int64_t ldo, const float *max_sum, const float *q, int64_t ldq, tl_kv kv, const tl_rows *rows, const tl_attention_form *form);

    /* y = gelu_new(x): 0.5·x·(1 + tanh u), u = √(2/π)·(x + 0.044715·x³) (Hendrycks & Gimpel 2016), as x·sigmoid(2u): the same
     * without cancellation. n elements. */
    void (*gelu)(tl_ctx *ctx, float *y, const float *x, int64_t n);
    void (*gelu_backward)(tl_ctx *ctx, float *dx, const float *dy, const float *x, int64_t n); /* may be in place over dy */
    /* y = silu(g)·u (Shazeer 2020, SwiGLU). gu[R, 2F]: g then u. */
    void (*swiglu)(tl_ctx *ctx, float *y, const float *gu, int R, int F);
    void (*swiglu_backward)(tl_ctx *ctx, float *dgu, const float *dy, const float *gu, int R, int F);
    /* y = gelu_new(g)·u (Shazeer 2020, GEGLU, with gelu's tanh form as Gemma has it), laid out as SwiGLU. */
    void (*geglu)(tl_ctx *ctx, float *y, const float *gu, int R, int F);
    void (*geglu_backward)(tl_ctx *ctx, float *dgu, const float *dy, const float *gu, int R, int F);
    /* out = x + y. May be in place. */
    void (*add)(tl_ctx *ctx, float *out, const float *x, const float *y, int64_t n);
    /* x = cap·tanh(x·(1/cap)) in place (Gemma Team 2024, Gemma 2 §2). n elements. */
    void (*softcap)(tl_ctx *ctx, float *x, float cap, int64_t n);

    /* ---- mixtures of experts: E of them, each row goes to k; n = R·k places in a list that is sorted by expert ---- */

    /* prob[R,E]: logits in, p = softmax out (in place), logz[r] = log Σ exp (may be NULL). choice[R,k]: the ids of the k largest p,
     * of equals the lower id, in ascending order. weight[r,j] = p of choice[r,j], renormalise: over their sum (a chain in that
     * order). Shazeer et al. 2017 §2.1, Jiang et al. 2024 (Mixtral) §2.1. Σ is the vector order. */
    void (*route)(tl_ctx *ctx, int32_t *choice, float *weight, float *logz, float *prob, int R, int E, int k, bool renormalise);
    /* dlogits (written) from the weights' gradient, of the load-balance loss dp_e += balance[e] (NULL: none; Fedus et al. 2021 eq. 4) and of the
     * z-loss: dlogits = p∘((dp − Σ dp∘p) + z_scale·logz) (Zoph et al. 2022 eq. 5). Σ is the vector order with fmaf(dp, p, lane). */
    void (*route_backward)(tl_ctx *ctx, float *dlogits, const float *dweight, const int32_t *choice, const float *weight, const float *logz, const float *prob, const float *balance, float z_scale, int R, int E, int k, bool renormalise);
    /* The list: expert e has the places first[e] … first[e+1]−1 (first[E+1]), in row order. Place i holds slot[i] = r·k + j, and at[slot] is
     * the place: two permutations of R·k, each other's inverse. */
    void (*dispatch)(tl_ctx *ctx, int32_t *first, int32_t *slot, int32_t *at, const int32_t *choice, int R, int E, int k);
    /* out[i,:] = x[slot[i]/k,:] for n places; backward: combine. */
    void (*gather)(tl_ctx *ctx, float *out, const float *x, const int32_t *slot, int n, int k, int C);
    /* out[r,:] = x[at[r,0],:] + x[at[r,1],:] + …: a row's experts in ascending order. Backward: gather. */
    void (*combine)(tl_ctx *ctx, float *out, const float *x, const int32_t *at, int R, int k, int C);
    /* y[i,:] = silu(g)·u·weight[slot[i]], gu[n, 2F]: the routing weight goes in before the down projection, which is linear, so that combine
     * only adds and the weight's gradient needs no expert's output. */
    void (*expert_swiglu)(tl_ctx *ctx, float *y, const float *gu, const float *weight, const int32_t *slot, int n, int F);
    /* And dweight[slot[i]] = Σ dy∘silu(g)·u, vector order, written. */
    void (*expert_swiglu_backward)(tl_ctx *ctx, float *dgu, float *dweight, const float *dy, const float *gu, const float *weight, const int32_t *slot, int n, int F);

    /* Rows of logits → log-probability of target (−1: ignored, logp = logz = 0): logp = z_t − log Z, logz = log Z = m + log Σ exp(z − m),
     * m = max z, Σ in the vector order; z = logits, or capped as softcap does. logz may be NULL.
     * With form->grad_scale, logits are overwritten by the gradient of grad_scale·(−logp + z_coef·logZ²), zeros where ignored:
     * ((softmax·(1 + 2·z_coef·log Z) − onehot(target))·grad_scale)·(1 − t²), t the soft-cap's tanh. */
    void (*softmax_loss)(tl_ctx *ctx, float *logp, float *logz, float *logits, const int32_t *target, const tl_loss_form *form, int R, int V);

    /* What a draw weighs: p_i = exp((z_i − m)/T) where z_i < m, 1 where z_i = m, 0 where z_i is no number. Returns Σ p in double, 16 lanes
     * and the tree of the vector order. n elements; p may be z. */
    double (*weigh)(tl_ctx *ctx, float *p, const float *z, float m, float temperature, int n);

    /* Σ x², as double: f32 squares are not rounded; chunks of 4096 elements, 16 double lanes and the vector tree within a chunk,
     * chunks added in order. NaN or infinity show in the result. */
    double (*sum_squares)(tl_ctx *ctx, const float *x, int64_t n);
    /* AdamW (Loshchilov & Hutter 2019, alg. 2; PyTorch's order of operations): with g' = g·grad_scale
     *   w *= 1 − lr·wd; m = m + (1−b1)·(g' − m) [lerp]; v = b2·v + (1−b2)·g'²; w −= (lr/c1)·m / (sqrt(v)/sqrt(c2) + eps)
     * where c1 = 1 − b1^t, c2 = 1 − b2^t come in as f32 factors. */
    void (*adamw)(tl_ctx *ctx, float *w, float *m, float *v, const float *g, int64_t n, const struct tl_adamw *hyper);
    /* y = fmaf(s, x, t·y) over R rows of C elements; t = 0: y = s·x and y is not read. x may be y. Momentum, decayed steps and
     * averages are made of it. */
    void (*blend)(tl_ctx *ctx, float *y, int64_t ldy, float t, const float *x, int64_t ldx, float s, int64_t R, int64_t C);
};

typedef struct tl_adamw {
    float lr, eps, weight_decay;
    double beta1, beta2;       /* double: 1 − beta2 of an f32 0.999 would be 5e-5 off */
    float grad_scale;          /* clipping and 1/tokens, applied as the gradient is read */
    float step_size;           /* lr / (1 − beta1^t) */
    float inv_sqrt_correction2; /* 1 / sqrt(1 − beta2^t) */
} tl_adamw;

/* The table for the best instruction set this CPU has, or the one named by TRILITH_ISA or `want` (ref, avx2, avx512, avx512_vnni, avx512_bf16, amx;
 * NULL: best), or the GPU's, "cuda". TL_EUNSUPPORTED, naming what the CPU has, when it cannot. */
int tl__ops_select(const tl_ops **ops, const char *want, tl_error *err);
/* "avx2 avx512 …": what CPUID and XGETBV say, for doctor. */
void tl__cpu_features(char *out, size_t size);

/* Cost of an operator for a shape: FLOPs as executed, bytes if every operand moved once. */
typedef struct tl_cost { double flops, bytes; } tl_cost;
typedef enum tl_op {
    TL_OP_GEMM, TL_OP_GEMM_BF16, TL_OP_BIAS_BACKWARD, TL_OP_EMBED, TL_OP_EMBED_BACKWARD, TL_OP_NORM, TL_OP_NORM_BACKWARD,
    TL_OP_HEAD_NORM, TL_OP_HEAD_NORM_BACKWARD, TL_OP_ROPE, TL_OP_KV_STORE, TL_OP_ATTENTION, TL_OP_ATTENTION_BACKWARD, TL_OP_ACT,
    TL_OP_ACT_BACKWARD, TL_OP_ADD, TL_OP_SOFTCAP, TL_OP_SOFTMAX_LOSS, TL_OP_SUM_SQUARES, TL_OP_ADAMW, TL_OP_BLEND,
    TL_OP_ROUTE, TL_OP_ROUTE_BACKWARD, TL_OP_DISPATCH, TL_OP_GATHER, TL_OP_COMBINE, TL_OP_WEIGH, TL_OPS
} tl_op;
/* Dimensions by operator: GEMM* (M,N,K); BIAS_BACKWARD, EMBED*, NORM* (R,C,–); HEAD_NORM*, ROPE (R, heads·D, –), KV_STORE (R, heads·D, type); ATTENTION*
 * (pairs of query and key, H, D); ACT*, ADD, SOFTCAP (elements of the output,–,–), SOFTMAX_LOSS (R,V,–), SUM_SQUARES, ADAMW,
 * BLEND, WEIGH (n,–,–), ROUTE*, DISPATCH (R,E,k), GATHER (n,C,–), COMBINE (R,C,k). A soft-cap inside attention or the loss is a SOFTCAP's FLOPs more. */
tl_cost tl__op_cost(tl_op op, int64_t d0, int64_t d1, int64_t d2);
/* Of products with stored weights, which share R rows of x: the weights' bytes as stored. */
tl_cost tl__stored_cost(const tl_product *products, int n, int R);
/* Of attention or its backward: tl__op_cost's, a soft-cap's FLOPs, and the bytes of the keys and values that are read. */
tl_cost tl__attention_cost(tl_op op, const tl_rows *rows, const tl_attention_form *form, tl_type kv_type);
tl_contract tl__op_type(tl_op op); /* whose peak its FLOPs count against */
const char *tl__op_name(tl_op op);
tl_bucket tl__op_bucket(tl_op op);
/* Query–key pairs of causal attention for these rows, within the window if it is not 0. */
int64_t tl__attention_pairs(const tl_rows *rows, int window);
/* Keys that these rows see, each counted once for a sequence, however many of its rows see it. */
int64_t tl__attention_keys(const tl_rows *rows, int window);

/* What callers use: the table's operator inside a span with its cost. For each table entry but gemm* there is a tl__NAME with the
 * same arguments. Products with a weight, by the context's contract: y[R,N] = x[R,K]·W + b. */
typedef enum tl_layout { TL_OUT_IN, TL_IN_OUT } tl_layout; /* W[N,K] as Linear, or W[K,N] as GPT-2's Conv1D */
void tl__linear(tl_ctx *ctx, float *y, int64_t ldy, const float *x, int64_t ldx, const float *W, tl_layout layout, const float *bias, int R, int N, int K);
/* dx[R,K] (+)= dy[R,N]·Wᵀ */
void tl__linear_dx(tl_ctx *ctx, float *dx, int64_t lddx, const float *dy, int64_t lddy, const float *W, tl_layout layout, int R, int N, int K, bool accumulate);
/* dW (+)= dyᵀ·x in W's layout (k = rows, blocks of TL_KB), added to where accumulate; dbias += Σ dy if dbias. */
void tl__linear_dw(tl_ctx *ctx, float *dW, float *dbias, const float *dy, int64_t lddy, const float *x, int64_t ldx, tl_layout layout, int R, int N, int K, bool accumulate);

/* Products with stored weights that share x: y = x·Wᵀ + bias, each under its type's contract (F32: that of f32). */
void tl__linear_stored(tl_ctx *ctx, const tl_product *products, int n, const float *x, int64_t ldx, int R);
/* As tl__embed, E being stored. */
void tl__embed_stored(tl_ctx *ctx, float *x, const tl_stored *E, const float *P, const int32_t *token, const int32_t *pos, float scale, int R);

void tl__bias_backward(tl_ctx *ctx, float *db, const float *dy, int64_t ld, int R, int N);
void tl__embed(tl_ctx *ctx, float *x, const float *E, const float *P, const int32_t *token, const int32_t *pos, float scale, int R, int C);
void tl__embed_backward(tl_ctx *ctx, float *dE, const int32_t *slot, const int32_t *id, const float *dx, float scale, int R, int C);
void tl__rmsnorm(tl_ctx *ctx, float *out, float *sum, float *rstd, const float *x, const float *y, const float *gain, float gain_add, float eps, int R, int C);
void tl__rmsnorm_backward(tl_ctx *ctx, float *dx, float *dgain, const float *dout, const float *s, const float *rstd, const float *gain, float gain_add, int R, int C);
void tl__layernorm(tl_ctx *ctx, float *out, float *sum, float *mean, float *rstd, const float *x, const float *y, const float *gain, const float *bias, float eps, int R, int C);
void tl__layernorm_backward(tl_ctx *ctx, float *dx, float *dgain, float *dbias, const float *dout, const float *s, const float *mean, const float *rstd, const float *gain, int R, int C);
void tl__head_norm(tl_ctx *ctx, float *out, int64_t ldo, float *rstd, const float *x, int64_t ldx, const float *gain, float gain_add, float eps, int R, int heads, int D);
void tl__head_norm_backward(tl_ctx *ctx, float *dx, int64_t lddx, float *dgain, const float *dout, int64_t lddout, const float *x, int64_t ldx, const float *rstd, const float *gain, float gain_add, int R, int heads, int D);
void tl__rope(tl_ctx *ctx, float *x, int64_t ld, const float *cos_sin, const int32_t *pos, int direction, int R, int heads, int D);
void tl__kv_store(tl_ctx *ctx, tl_kv kv, const float *k, int64_t ldk, const float *v, int64_t ldv, const tl_rows *rows, int Hkv, int D);
void tl__attention(tl_ctx *ctx, float *out, int64_t ldo, float *max_sum, const float *q, int64_t ldq, tl_kv kv, const tl_rows *rows, const tl_attention_form *form);
void tl__attention_backward(tl_ctx *ctx, float *dq, float *dk, float *dv, int64_t ld, const float *dout, const float *out, int64_t ldo, const float *max_sum, const float *q, int64_t ldq, tl_kv kv, const tl_rows *rows, const tl_attention_form *form);
void tl__gelu(tl_ctx *ctx, float *y, const float *x, int64_t n);
void tl__gelu_backward(tl_ctx *ctx, float *dx, const float *dy, const float *x, int64_t n);
void tl__swiglu(tl_ctx *ctx, float *y, const float *gu, int R, int F);
void tl__swiglu_backward(tl_ctx *ctx, float *dgu, const float *dy, const float *gu, int R, int F);
void tl__geglu(tl_ctx *ctx, float *y, const float *gu, int R, int F);
void tl__geglu_backward(tl_ctx *ctx, float *dgu, const float *dy, const float *gu, int R, int F);
void tl__add(tl_ctx *ctx, float *out, const float *x, const float *y, int64_t n);
void tl__softcap(tl_ctx *ctx, float *x, float cap, int64_t n);
void tl__route(tl_ctx *ctx, int32_t *choice, float *weight, float *logz, float *prob, int R, int E, int k, bool renormalise);
void tl__route_backward(tl_ctx *ctx, float *dlogits, const float *dweight, const int32_t *choice, const float *weight, const float *logz, const float *prob, const float *balance, float z_scale, int R, int E, int k, bool renormalise);
void tl__dispatch(tl_ctx *ctx, int32_t *first, int32_t *slot, int32_t *at, const int32_t *choice, int R, int E, int k);
void tl__gather(tl_ctx *ctx, float *out, const float *x, const int32_t *slot, int n, int k, int C);
void tl__combine(tl_ctx *ctx, float *out, const float *x, const int32_t *at, int R, int k, int C);
void tl__expert_swiglu(tl_ctx *ctx, float *y, const float *gu, const float *weight, const int32_t *slot, int n, int F);
void tl__expert_swiglu_backward(tl_ctx *ctx, float *dgu, float *dweight, const float *dy, const float *gu, const float *weight, const int32_t *slot, int n, int F);
void tl__softmax_loss(tl_ctx *ctx, float *logp, float *logz, float *logits, const int32_t *target, const tl_loss_form *form, int R, int V);
double tl__weigh(tl_ctx *ctx, float *p, const float *z, float m, float temperature, int n);
double tl__sum_squares(tl_ctx *ctx, const float *x, int64_t n);
void tl__adamw(tl_ctx *ctx, float *w, float *m, float *v, const float *g, int64_t n, const tl_adamw *hyper);
void tl__blend(tl_ctx *ctx, float *y, int64_t ldy, float t, const float *x, int64_t ldx, float s, int64_t R, int64_t C);

/* ---- Muon (Jordan et al. 2024), of one matrix and made of the operators above ---- */

#define TL_MUON_STEPS 5 /* of Newton–Schulz */

typedef struct tl_muon {
    float lr, weight_decay, grad_scale;
    double momentum;
} tl_muon;
typedef struct tl_muon_scratch {
    float *update, *next; /* [rows·cols] of the largest matrix */
    float *gram, *square; /* [side, side], side the smaller of rows and cols, of the largest */
} tl_muon_scratch;

/* w, m and g are [rows, cols] with leading dimension ld. With g' = g·grad_scale and μ the momentum, PyTorch's order:
 *   m = μ·m + (1−μ)·g';  u = μ·m + (1−μ)·g' (Nesterov's);  X = u / max(‖u‖, 1e−7);  TL_MUON_STEPS times X = (a·I + b·A + c·A²)·X
 *   with A = X·Xᵀ (of the wide form; the tall one from the other side, to the same effect); w = (1 − lr·wd)·w − lr·0.2·√max(rows, cols)·X.
 * The last factor gives the update the RMS of AdamW's, so that one rate serves both (Liu et al. 2025, eq. 4). Everything is f32. */
void tl__muon(tl_ctx *ctx, float *w, float *m, const float *g, int rows, int cols, int64_t ld, const tl_muon_scratch *scratch, const tl_muon *hyper);

#endif
