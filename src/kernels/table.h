/* table.h — who fills which part of the operator table: one function per instruction set and group of operators.
 *
 * A group: gemm (gemm.c), gemm_bf16, attention (attention.c: kv_store, attention and its backward), rows (all the others; the
 * function is in norm.c), stored (quantised.c). ref/ fills every entry; a cpu/ function overwrites the entries that it has a faster form of.
 */
#ifndef TL_KERNELS_TABLE_H
#define TL_KERNELS_TABLE_H

#include "kernels/ops.h"

/* Every entry from ref/. */
void tl__ops_ref(tl_ops *ops);

void tl__ops_gemm_ref(tl_ops *ops);
void tl__ops_attention_ref(tl_ops *ops);
void tl__ops_rows_ref(tl_ops *ops); /* calls the five below */
void tl__ops_embed_ref(tl_ops *ops);
void tl__ops_activation_ref(tl_ops *ops);
void tl__ops_loss_ref(tl_ops *ops);
void tl__ops_optimizer_ref(tl_ops *ops);
void tl__ops_moe_ref(tl_ops *ops);
void tl__ops_stored_ref(tl_ops *ops);

/* Compiled from cpu/ per instruction set: TL_NAME(ops_gemm) and so on. */
void tl__ops_gemm_avx2(tl_ops *ops);
void tl__ops_gemm_bf16_avx2(tl_ops *ops);
void tl__ops_attention_avx2(tl_ops *ops);
void tl__ops_rows_avx2(tl_ops *ops);
void tl__ops_head_norm_avx2(tl_ops *ops);
void tl__ops_embed_avx2(tl_ops *ops);
void tl__ops_activation_avx2(tl_ops *ops);
void tl__ops_loss_avx2(tl_ops *ops);
void tl__ops_optimizer_avx2(tl_ops *ops);
void tl__ops_moe_avx2(tl_ops *ops);
void tl__ops_stored_avx2(tl_ops *ops);
void tl__ops_gemm_avx512(tl_ops *ops);
void tl__ops_gemm_bf16_avx512(tl_ops *ops);
void tl__ops_gemm_bf16_avx512_bf16(tl_ops *ops);
void tl__ops_attention_avx512(tl_ops *ops);
void tl__ops_rows_avx512(tl_ops *ops);
void tl__ops_head_norm_avx512(tl_ops *ops);
void tl__ops_embed_avx512(tl_ops *ops);
void tl__ops_activation_avx512(tl_ops *ops);
void tl__ops_loss_avx512(tl_ops *ops);
void tl__ops_optimizer_avx512(tl_ops *ops);
void tl__ops_moe_avx512(tl_ops *ops);
void tl__ops_stored_avx512(tl_ops *ops);
void tl__ops_stored_avx512_vnni(tl_ops *ops);
void tl__ops_stored_amx(tl_ops *ops);
void tl__ops_gemm_bf16_amx(tl_ops *ops);

#endif
