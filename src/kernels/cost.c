/* cost.c — what an operator costs for a shape: FLOPs as executed, and bytes if every operand moved once between memory
 * and CPU.
 *
 * The ledger divides measured time into these; the planner predicts with them. A fused multiply-add counts two, any
 * other f32 operation one (a division or a square root too); an elementary function counts the operations of its
 * polynomial. */
#include <assert.h>
#include "kernels/ops.h"

enum { EXP = 20, LOG = 25, TANH = 30, F32 = 4, ID = 4 }; /* operations of an elementary function; bytes */

tl_cost tl__op_cost(tl_op op, int64_t d0, int64_t d1, int64_t d2) {
    const double a = (double)d0, b = (double)d1, c = (double)d2;
    switch (op) {
    /* 2MNK; A, B read and C written (that an accumulating product also reads C is left out: MN of MK + KN + MN). */
    case TL_OP_GEMM:
    case TL_OP_GEMM_BF16: /* operands lie in memory as f32 and are rounded on the way */
        return (tl_cost){2 * a * b * c, F32 * (a * c + c * b + a * b)};
    /* One addition an element. */
    case TL_OP_BIAS_BACKWARD:
        return (tl_cost){a * b, F32 * (a * b + 2 * b)};
    /* A row of E, and of P: one operation an element. */
    case TL_OP_EMBED:
        return (tl_cost){a * b, F32 * 3 * a * b + 2 * ID * a};
    case TL_OP_EMBED_BACKWARD:
        return (tl_cost){a * b, F32 * 3 * a * b + ID * a};
    /* Residual sum 1, squares 2 (LayerNorm: mean 1, difference 1, squares 2), scale and gain 2 (and bias): 6. x, y
     * read; sum, out written. */
    case TL_OP_NORM:
        return (tl_cost){6 * a * b, F32 * (4 * a * b + b)};
    /* xhat 1–2, gain∘dout 1, its sum with xhat 2, dgain 2, dx 4: 11. dout, s, dx read; dx written. */
    case TL_OP_NORM_BACKWARD:
        return (tl_cost){11 * a * b, F32 * (4 * a * b + 3 * b)};
    /* Squares 2, scale and gain 2; read and written. */
    case TL_OP_HEAD_NORM:
        return (tl_cost){4 * a * b, F32 * 2 * a * b};
    /* As NORM_BACKWARD, but dx is not read. */
    case TL_OP_HEAD_NORM_BACKWARD:
        return (tl_cost){10 * a * b, F32 * 3 * a * b};
    /* A pair: two products, two FMAs: 3 an element. Read and written in place. */
    case TL_OP_ROPE:
        return (tl_cost){3 * a * b, F32 * 2 * a * b};
    /* Keys and values, each read in f32 and written in their type. */
    case TL_OP_KV_STORE:
        return (tl_cost){0, 2 * a * b * (F32 + (double)tl__type_bytes((tl_type)d2) / tl__type_block((tl_type)d2))};
    /* A pair of query and key in a head: q·k and p·v are 2D each; scale, maximum, exp of a difference and sum. Bytes:
     * nothing is kept of a pair, and rows are those that their product counted; keys and values as stored are counted by
     * tl__attention_cost. */
    case TL_OP_ATTENTION:
        return (tl_cost){a * b * (4 * c + EXP + 4), 0};
    /* q·k again, dout·v, dq, dk, dv: 2D each; p and ds. */
    case TL_OP_ATTENTION_BACKWARD:
        return (tl_cost){a * b * (10 * c + EXP + 6), 0};
    /* An element: GELU by tanh, or SiLU (exp, division) and a product; about the same. Bytes as SwiGLU: two read, one
     * written. */
    case TL_OP_ACT:
        return (tl_cost){(TANH + 7) * a, F32 * 3 * a};
    /* The function, its derivative and the chain rule. */
    case TL_OP_ACT_BACKWARD:
        return (tl_cost){(TANH + 14) * a, F32 * 3 * a};
    case TL_OP_ADD:
        return (tl_cost){a, F32 * 3 * a};
    /* Two products and the tanh, in place. */
    case TL_OP_SOFTCAP:
        return (tl_cost){(TANH + 2) * a, F32 * 2 * a};
    /* Maximum 1, exp of a difference and sum EXP + 2, gradient EXP + 3; logits read and overwritten. */
    case TL_OP_SOFTMAX_LOSS:
        return (tl_cost){(2 * EXP + 6) * a * b + LOG * a, F32 * 2 * a * b + (F32 + ID) * a};
    /* Difference, division, exp, sum; logits read, weights written. */
    case TL_OP_WEIGH:
        return (tl_cost){(EXP + 3) * a, F32 * 2 * a};
    case TL_OP_SUM_SQUARES:
        return (tl_cost){2 * a, F32 * a};
    /* g' 1, decay 1, m 3, v 4, root, scale, eps, division, step 6; w, m, v read and written, g read. */
    case TL_OP_ADAMW:
        return (tl_cost){15 * a, F32 * 7 * a};
    /* Softmax of a row: maximum, exp of a difference, sum, division; a comparison for the largest. */
    case TL_OP_ROUTE:
        return (tl_cost){(EXP + 5) * a * b + LOG * a, F32 * 2 * a * b + (F32 + ID) * a * c + F32 * a};
    /* dp∘p and its sum, dlogits 3. */
    case TL_OP_ROUTE_BACKWARD:
        return (tl_cost){6 * a * b, F32 * 2 * a * b + (2 * F32 + ID) * a * c + F32 * a};
    /* Choices counted, then placed: read twice, two lists written. */
    case TL_OP_DISPATCH:
        return (tl_cost){0, ID * 4 * a * c};
    case TL_OP_GATHER:
        return (tl_cost){0, F32 * 2 * a * b + ID * a};
    case TL_OP_COMBINE:
        return (tl_cost){a * b * (c - 1), F32 * a * b * (c + 1) + ID * a * c};
    /* x, y read; y written. */
    case TL_OP_BLEND:
        return (tl_cost){3 * a, F32 * 3 * a};
    case TL_OPS:
        break;
    }
    assert(!"an operator of ops.h");
    return (tl_cost){0, 0};
}

tl_cost tl__stored_cost(const tl_product *products, int n, int R) {
    tl_cost cost = {0, n ? (double)F32 * R * products->w->K : 0};
    for (int i = 0; i < n; i++) {
        const tl_stored *w = products[i].w;
        const size_t packed = tl__packed_bytes(w->type, w->N, w->K);
        const double weights = (double)w->N * w->K;
        cost.flops += 2.0 * R * weights;
        cost.bytes += (packed ? (double)packed : weights * (double)tl__type_bytes(w->type)) + (double)F32 * R * w->N;
    }
    return cost;
}

tl_cost tl__attention_cost(tl_op op, const tl_rows *rows, const tl_attention_form *form, tl_type kv_type) {
    const int64_t pairs = tl__attention_pairs(rows, form->window), keys = tl__attention_keys(rows, form->window);
    tl_cost cost = tl__op_cost(op, pairs, form->H, form->D);
    if (form->softcap != 0) cost.flops += tl__op_cost(TL_OP_SOFTCAP, pairs * form->H, 0, 0).flops;
    const double head = 2 * (double)tl_kv_part_bytes(kv_type, form->D) / TL_KV_BLOCK; /* a key and a value */
    cost.bytes += (double)keys * form->Hkv * head;
    return cost;
}

tl_contract tl__op_type(tl_op op) {
    return op == TL_OP_GEMM_BF16 ? TL_CONTRACT_BF16 : TL_CONTRACT_F32;
}

const char *tl__op_name(tl_op op) {
    static const char *const names[TL_OPS] = {"gemm",
                                              "gemm_bf16",
                                              "bias_backward",
                                              "embed",
                                              "embed_backward",
                                              "norm",
                                              "norm_backward",
                                              "head_norm",
                                              "head_norm_backward",
                                              "rope",
                                              "kv_store",
                                              "attention",
                                              "attention_backward",
                                              "act",
                                              "act_backward",
                                              "add",
                                              "softcap",
                                              "softmax_loss",
                                              "sum_squares",
                                              "adamw",
                                              "blend",
                                              "route",
                                              "route_backward",
                                              "dispatch",
                                              "gather",
                                              "combine",
                                              "weigh"};
    assert((unsigned)op < TL_OPS);
    return names[op];
}

tl_bucket tl__op_bucket(tl_op op) {
    switch (op) {
    case TL_OP_GEMM:
    case TL_OP_GEMM_BF16:
    case TL_OP_BIAS_BACKWARD:
        return TL_BUCKET_MATMUL;
    case TL_OP_EMBED:
    case TL_OP_EMBED_BACKWARD:
        return TL_BUCKET_EMBED;
    case TL_OP_NORM:
    case TL_OP_NORM_BACKWARD:
    case TL_OP_HEAD_NORM:
    case TL_OP_HEAD_NORM_BACKWARD:
        return TL_BUCKET_NORM;
    case TL_OP_ROPE:
    case TL_OP_KV_STORE:
    case TL_OP_ACT:
    case TL_OP_ACT_BACKWARD:
    case TL_OP_ADD:
    case TL_OP_ROUTE:
    case TL_OP_ROUTE_BACKWARD:
    case TL_OP_DISPATCH:
    case TL_OP_GATHER:
    case TL_OP_COMBINE:
        return TL_BUCKET_ELEMENTWISE;
    case TL_OP_ATTENTION:
    case TL_OP_ATTENTION_BACKWARD:
        return TL_BUCKET_ATTENTION;
    case TL_OP_SOFTCAP:
    case TL_OP_SOFTMAX_LOSS:
    case TL_OP_WEIGH:
        return TL_BUCKET_LOSS;
    case TL_OP_SUM_SQUARES:
    case TL_OP_ADAMW:
    case TL_OP_BLEND:
        return TL_BUCKET_OPTIMIZER;
    case TL_OPS:
        break;
    }
    assert(!"an operator of ops.h");
    return TL_BUCKET_MATMUL;
}

/* A row at position p sees keys 0 … p, or the last `window` of them. */
int64_t tl__attention_pairs(const tl_rows *rows, int window) {
    int64_t pairs = 0;
    for (int r = 0; r < rows->R; r++) {
        const int64_t keys = (int64_t)rows->pos[r] + 1;
        pairs += window && keys > window ? window : keys;
    }
    return pairs;
}

int64_t tl__attention_keys(const tl_rows *rows, int window) {
    int64_t keys = 0;
    for (int s = 0; s < rows->S; s++) {
        const int first = rows->seq_row[s], end = rows->seq_row[s + 1];
        if (first == end) continue;
        const int64_t from = window ? (int64_t)rows->pos[first] + 1 - window : 0;
        keys += (int64_t)rows->pos[end - 1] + 1 - (from > 0 ? from : 0);
    }
    return keys;
}
