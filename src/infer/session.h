/* session.h — one sequence being read or written by a model: its KV blocks, prefill in chunks, decode a token at a
 * time.
 *
 * The boundary between a loaded model (shared, read-only) and one conversation (this). The same bits come out however
 * the prompt is chunked (law L1) and as in training (law L2). */
#ifndef TL_INFER_SESSION_H
#define TL_INFER_SESSION_H

#include "model/model.h"

typedef struct tl_session tl_session;

/* capacity: most positions; chunk: most rows computed at once (0: 256). All memory is taken here. */
int tl__session_open(tl_session **session, const tl_model *model, tl_ctx *ctx, int capacity, int chunk, tl_error *err);
/* The same with keys and values in F16, BF16 or Q8_0. */
int tl__session_open_narrow(tl_session **session, const tl_model *model, tl_ctx *ctx, int capacity, int chunk,
                            tl_type kv_type, tl_error *err);
void tl__session_close(tl_session *session);
size_t tl__session_bytes(const tl_arch *arch, int capacity, int chunk); /* what open will take */
/* Of these bytes, keys and values; and what only scoring touches. */
size_t tl__session_kv_bytes(const tl_arch *arch, int capacity);
size_t tl__session_scoring_bytes(const tl_arch *arch, int capacity, int chunk);
int tl__session_length(const tl_session *session);
int tl__session_capacity(const tl_session *session);
/* From now on blocks of weights are asked for before they are read; NULL: they lie there. */
void tl__session_lend(tl_session *session, const tl_blocks *blocks);
void tl__session_rewind(tl_session *session, int length); /* forget positions ≥ length */

/* Append n tokens; if logits, it receives [V] of the last. TL_EINVALID: id ≥ V, or beyond capacity or the model's
 * positions. */
int tl__session_append(tl_session *session, const int32_t *tokens, int n, float *logits, tl_error *err);
/* Append n tokens and give logp[i] = log p(tokens[i+1] | tokens[… i]) for i < n−1 (and of `next` for the last if next ≥
 * 0). */
int tl__session_score(tl_session *session, const int32_t *tokens, int n, int32_t next, float *logp, tl_error *err);
/* Begin anew and give logp[n − 1] of tokens[1 …], in windows of W = capacity tokens where there are more: the first
 * scores all its tokens but one; each next begins W/2 before the first token not yet scored and scores what is new. The
 * session is left in the last window. windows: how many it took; may be NULL. */
int tl__session_score_whole(tl_session *session, const int32_t *tokens, int64_t n, float *logp, int64_t *windows,
                            tl_error *err);

#endif
