/* matrices.c — which parameters are matrices of the layers, for optimizers that treat a matrix as a whole. */
#include "model/arch.h"

/* A fused product's weight is cut where its outputs are: columns of [in, out], rows of [out, in]. */
static int cut(tl_matrix *out, const tl_param *p, const tl_arch *a, const int64_t *widths, int n) {
    int64_t at = 0;
    for (int i = 0; i < n; i++) {
        bool columns = a->layout == TL_IN_OUT;
        out[i] = (tl_matrix){.offset = p->offset + (columns ? at : at * p->shape[1]),
                             .rows = (int)(columns ? p->shape[0] : widths[i]),
                             .cols = (int)(columns ? widths[i] : p->shape[1]),
                             .ld = p->shape[1]};
        at += widths[i];
    }
    return n;
}

int tl__param_matrices(tl_matrix out[TL_MAX_FUSED], const tl_param *p, const tl_arch *a) {
    if (p->layer < 0 || p->dims != 2) return 0;
    const int64_t Q = (int64_t)a->H * a->D, KV = (int64_t)a->Hkv * a->D;
    if (p->role == TL_ROLE_QKV) return cut(out, p, a, (const int64_t[]){Q, KV, KV}, 3);
    *out = (tl_matrix){p->offset, (int)p->shape[0], (int)p->shape[1], p->shape[1]};
    return 1;
}
