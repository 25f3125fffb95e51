/* size.c — places a training run's buffers; its dry run is the prediction. */
#include "plan/size.h"

enum {
    AUTO_ROWS = 2048,
    PROGRAM_BYTES = 6 << 20, /* libraries' data, stacks, tokenizer, span ring */
};

static int64_t greatest_common_divisor(int64_t a, int64_t b) {
    return b ? greatest_common_divisor(b, a % b) : a;
}

int tl__micro_batch(int *micro_batch, int wanted, int batch, int leaves, int T, tl_error *err) {
    int leaf = batch / leaves;
    int unit = (int)(TL_KB / greatest_common_divisor(TL_KB, T)); /* sequences whose rows end on a block */
    if (wanted <= 0) {
        int n = (AUTO_ROWS + T - 1) / T;
        n = (n + unit - 1) / unit * unit;
        *micro_batch = n < leaf ? n : leaf;
        return 0;
    }
    if (wanted >= leaf || wanted % unit == 0) {
        *micro_batch = wanted < leaf ? wanted : leaf;
        return 0;
    }
    int near = (wanted + unit - 1) / unit * unit;
    return tl__fail(
        err, TL_EINVALID,
        "micro-batch %d of %d tokens would cut a sum inside a block of %d rows and so change bits; use %d%s", wanted, T,
        TL_KB, near < leaf ? near : leaf, near < leaf ? " or another multiple of it" : ", the whole leaf");
}

void tl__train_place(tl_train_memory *memory, tl_arena *arena, const tl_arch *arch, const tl_train_shape *s) {
    tl_params params;
    *memory = (tl_train_memory){0};
    if (tl__params_make(&params, arch, NULL)) return;
    int64_t count = params.count, tokens = (int64_t)s->batch * s->T;
    tl__params_free(&params);

    memory->exp_avg = TL_TAKE(arena, float, count);
    memory->exp_avg_sq = TL_TAKE(arena, float, count);
    memory->grads = 1;
    for (int leaves = s->leaves; leaves > 1; leaves /= 2) memory->grads++;
    memory->grad = TL_TAKE(arena, float *, memory->grads);
    for (int i = 0; i < memory->grads; i++) {
        float *buffer = TL_TAKE(arena, float, count);
        if (!arena->dry) memory->grad[i] = buffer;
    }
    if (arch->tied) {
        int64_t leaf_tokens = tokens / s->leaves;
        memory->slots = (int)(arch->V < leaf_tokens ? arch->V : leaf_tokens);
        memory->embed_grad = TL_TAKE(arena, float, (int64_t)memory->slots * arch->C);
        memory->slot = TL_TAKE(arena, int32_t, arch->V);
    }
    int R = s->micro_batch * s->T, documents = s->micro_batch * s->max_documents;
    memory->kv_blocks = s->micro_batch * ((s->T + TL_KV_BLOCK - 1) / TL_KV_BLOCK) + documents;
    tl__acts_place(&memory->acts, arena, arch, R, memory->kv_blocks, true);
    memory->input = TL_TAKE(arena, int32_t, tokens);
    memory->target = TL_TAKE(arena, int32_t, tokens);
    memory->pos = TL_TAKE(arena, int32_t, tokens);
    memory->logp = TL_TAKE(arena, float, tokens);
    memory->seq_row = TL_TAKE(arena, int32_t, documents + 1);
    memory->seq_block = TL_TAKE(arena, int32_t, documents + 1);
    memory->block = TL_TAKE(arena, int32_t, memory->kv_blocks);
    if (!arena->dry)
        for (int i = 0; i < memory->kv_blocks; i++) memory->block[i] = i;
}

void tl__train_bytes(tl_train_bytes *bytes, const tl_arch *arch, const tl_train_shape *shape, int64_t sampling_bytes) {
    tl_params params;
    tl_train_memory memory;
    tl_arena arena = tl__arena_dry();
    *bytes = (tl_train_bytes){0};
    if (tl__params_make(&params, arch, NULL)) return;
    int64_t one = params.count * (int64_t)sizeof(float);
    tl__params_free(&params);
    tl__train_place(&memory, &arena, arch, shape);
    int64_t table = (int64_t)arch->max_positions * arch->D * (int64_t)sizeof(float);
    bytes->weights = one + tl__rope_tables(arch) * table;
    bytes->gradients = memory.grads * one;
    bytes->moments = 2 * one;
    bytes->activations = (int64_t)arena.used_bytes - bytes->gradients - bytes->moments;
    bytes->scratch = (int64_t)tl__ops_workspace_bytes(shape->threads);
    bytes->sampling = sampling_bytes;
    bytes->program = PROGRAM_BYTES;
    bytes->total = bytes->weights + bytes->gradients + bytes->moments + bytes->activations + bytes->scratch +
                   bytes->sampling + bytes->program;
}

void tl__train_rows(tl_rows *rows, tl_train_memory *memory, const int32_t *input, const int32_t *pos, int n, int T) {
    int R = n * T, S = 0, blocks = 0;
    for (int r = 0; r < R; r++) {
        if (pos[r] != 0) continue;
        if (S > 0) blocks += (r - memory->seq_row[S - 1] + TL_KV_BLOCK - 1) / TL_KV_BLOCK;
        memory->seq_row[S] = r;
        memory->seq_block[S] = blocks;
        S++;
    }
    memory->seq_row[S] = R;
    *rows = (tl_rows){.R = R,
                      .S = S,
                      .token = input,
                      .pos = pos,
                      .seq_row = memory->seq_row,
                      .seq_block = memory->seq_block,
                      .block = memory->block};
}
