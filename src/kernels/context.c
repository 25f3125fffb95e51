/* context.c — opening what operators are called with: a table, a pool and scratch. */
#include <string.h>
#include <sys/mman.h>

#include "base/arena.h"
#include "kernels/device.h"

const char *tl__device_isa(tl_device device) {
    return device == TL_DEVICE_CUDA ? "cuda" : NULL;
}

int tl__ctx_open(tl_ctx *ctx, int threads, const char *isa, tl_error *err) {
    *ctx = (tl_ctx){0};
    int status = tl__ops_select(&ctx->ops, isa, err);
    if (!status) ctx->device = !strcmp(ctx->ops->isa, "cuda"), ctx->cpu_ops = ctx->ops;
    if (!status && ctx->device) status = tl__ops_select(&ctx->cpu_ops, NULL, err);
    if (!status) status = tl__pool_open(&ctx->pool, threads, err);
    if (status) return status;
    if (ctx->device) tl__device_share();
    ctx->workspace_bytes = tl__ops_workspace_bytes(tl__pool_threads(ctx->pool));
    void *memory = mmap(NULL, ctx->workspace_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        status = tl__fail(err, TL_ENOMEM, "no memory for %zu bytes of operator scratch; use fewer threads",
                          ctx->workspace_bytes);
        ctx->workspace_bytes = 0;
        tl__ctx_close(ctx);
        return status;
    }
    madvise(memory, ctx->workspace_bytes,
            MADV_HUGEPAGE); /* packed panels are walked by every product: fewer TLB misses */
    ctx->workspace = memory;
    return 0;
}

void tl__ctx_close(tl_ctx *ctx) {
    if (ctx->workspace) munmap(ctx->workspace, ctx->workspace_bytes);
    tl__pool_close(ctx->pool);
    *ctx = (tl_ctx){0};
}
