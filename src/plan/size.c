/* size.c — places a training run's buffers; its dry run is the prediction. */
#include "plan/size.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum {
    AUTO_ROWS = 2048,
    PROGRAM_BYTES = 6 << 20, /* libraries' data, stacks, tokenizer, span ring */
};

static int64_t greatest_common_divisor(int64_t a, int64_t b) {
    return b ? greatest_common_divisor(b, a % b) : a;
}

/* The rule has two halves. Sums over rows may be cut at blocks; the experts' statistics are of a leaf, which may not be
 * cut. */
int tl__micro_batch(int *micro_batch, const tl_arch *arch, int wanted, int batch, int leaves, int T, tl_error *err) {
    int leaf = batch / leaves;
    if (arch->E > 0) {
        *micro_batch = leaf;
        if (wanted <= 0 || wanted >= leaf) return 0;
        return tl__fail(
            err, TL_EINVALID,
            "micro-batch %d would cut a leaf of %d sequences, over which this model's experts are balanced; "
            "leave it at 0, or use more --leaves to need less memory",
            wanted, leaf);
    }
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

/* ---- ranks ---- */

static int ranks_of(const tl_train_shape *s) {
    return s->ranks > 1 ? s->ranks : 1;
}

int tl__train_leaves(const tl_train_shape *s) {
    int first, count;
    tl__comm_leaves(s->leaves, ranks_of(s), s->rank, &first, &count);
    return count;
}

bool tl__train_streams(const tl_train_shape *s) {
    int ranks = ranks_of(s);
    return s->shard >= TL_SHARD_ZERO2 && (ranks & (ranks - 1)) == 0 && s->micro_batch >= s->batch / s->leaves;
}

int tl__train_leaf(const tl_train_shape *s, int i) {
    int first, count;
    tl__comm_leaves(s->leaves, ranks_of(s), s->rank, &first, &count);
    assert(i >= 0 && i < count);
    return tl__train_streams(s) ? i * ranks_of(s) + s->rank : first + i;
}

int tl__block_slot(int block, int L) {
    return block == 0 ? 0 : block == L + 1 ? 1 : 2 + (block & 1);
}

/* ---- places ---- */

/* A step's collectives: its gradient by block, or by neighbours in a block that have one owner. */
static void count_collectives(tl_train_memory *memory, const tl_params *params, const int *owner, int L,
                              const tl_train_shape *s) {
    for (int b = 0, i, end; b < L + 2; b++) {
        tl__param_block(&i, &end, params, L, b);
        int runs = 0;
        while (i < end) {
            int first = i;
            while (i < end && (s->shard == TL_SHARD_NONE || owner[i] == owner[first])) i++;
            runs++;
            memory->tickets++;
        }
        if (runs > memory->slot_tickets) memory->slot_tickets = runs;
    }
    if (memory->tickets < 2 * TL_SLOTS * memory->slot_tickets) /* weights and gradients by block */
        memory->tickets = 2 * TL_SLOTS * memory->slot_tickets;
}

/* A buffer for each slot, as large as the largest block that comes there; returns their floats. */
static int64_t place_slots(float *slots[TL_SLOTS], tl_arena *arena, const tl_params *params, int L) {
    int64_t most[TL_SLOTS] = {0}, sum = 0;
    for (int b = 0, first, end; b < L + 2; b++) {
        int64_t count = 0, *slot = &most[tl__block_slot(b, L)];
        tl__param_block(&first, &end, params, L, b);
        for (int i = first; i < end; i++) count += params->list[i].count;
        if (count > *slot) *slot = count;
    }
    for (int i = 0; i < TL_SLOTS; i++) {
        slots[i] = TL_TAKE(arena, float, most[i]);
        sum += most[i];
    }
    return sum;
}

/* What lies here of something that every rank has whole, or only its owner; returns its elements. */
static int64_t place_parts(int64_t **at, tl_arena *arena, const tl_params *params, const int *owner, int rank,
                           bool owned) {
    int64_t count = 0;
    *at = TL_TAKE(arena, int64_t, params->n);
    for (int i = 0; i < params->n; i++) {
        bool here = !owned || owner[i] == rank;
        if (!arena->dry) (*at)[i] = here ? count : -1;
        if (here) count += params->list[i].count;
    }
    return count;
}

static void place_gradients(tl_train_memory *memory, tl_arena *arena, const tl_params *params, const int *owner, int L,
                            const tl_train_shape *s) {
    bool streams = tl__train_streams(s);
    memory->grad_count = place_parts(&memory->grad_at, arena, params, owner, s->rank, streams);
    memory->grads = streams ? 0 : 1; /* a round's sum needs no place beside those that it is added to */
    for (int n = tl__train_leaves(s); n > 1; n /= 2) memory->grads++;
    if (memory->grads == 0) memory->grads = 1;
    memory->grad = TL_TAKE(arena, float *, memory->grads);
    for (int i = 0; i < memory->grads; i++) {
        float *buffer = TL_TAKE(arena, float, memory->grad_count);
        if (!arena->dry) memory->grad[i] = buffer;
    }
    if (streams) memory->block_grad_floats = place_slots(memory->block_grad, arena, params, L);
}

static int *place_owners(tl_arena *arena, const tl_params *params, const int *owner) {
    int *placed = TL_TAKE(arena, int, params->n);
    if (!arena->dry) memcpy(placed, owner, sizeof *owner * (size_t)params->n);
    return placed;
}

/* What the optimizer keeps between steps, and Muon's scratch, as large as its largest matrix needs. */
static void place_optimizer(tl_train_memory *memory, tl_arena *arena, const tl_arch *arch, const tl_params *params,
                            const int *owner, const tl_train_shape *s) {
    int64_t most = 0, side = 0;
    memory->avg_count = place_parts(&memory->avg_offset, arena, params, owner, s->rank, s->shard != TL_SHARD_NONE);
    memory->sq_offset = TL_TAKE(arena, int64_t, params->n);
    for (int i = 0; i < params->n; i++) {
        tl_matrix matrix[TL_MAX_FUSED];
        bool here = s->shard == TL_SHARD_NONE || owner[i] == s->rank;
        int n = here && s->optimizer == TL_OPTIMIZER_MUON ? tl__param_matrices(matrix, &params->list[i], arch) : 0;
        if (!arena->dry) memory->sq_offset[i] = here && !n ? memory->sq_count : -1;
        if (here && !n) memory->sq_count += params->list[i].count;
        for (int k = 0; k < n; k++) {
            int64_t rows = matrix[k].rows, cols = matrix[k].cols, smaller = rows < cols ? rows : cols;
            most = rows * cols > most ? rows * cols : most;
            side = smaller > side ? smaller : side;
        }
    }
    memory->exp_avg = TL_TAKE(arena, float, memory->avg_count);
    memory->exp_avg_sq = TL_TAKE(arena, float, memory->sq_count);
    if (s->optimizer != TL_OPTIMIZER_MUON) return;
    memory->muon = (tl_muon_scratch){TL_TAKE(arena, float, most), TL_TAKE(arena, float, most),
                                     TL_TAKE(arena, float, side *side), TL_TAKE(arena, float, side *side)};
    memory->muon_bytes = (2 * most + 2 * side * side) * (int64_t)sizeof(float);
}

void tl__train_place(tl_train_memory *memory, tl_arena *arena, const tl_arch *arch, const tl_train_shape *s) {
    tl_params params;
    *memory = (tl_train_memory){0};
    if (tl__params_make(&params, arch, NULL)) return;
    int leaves = tl__train_leaves(s);
    int64_t leaf_tokens = (int64_t)(s->batch / s->leaves) * s->T, tokens = leaves * leaf_tokens;
    int *owner = calloc((size_t)params.n, sizeof *owner);
    memory->leaf_columns = TL_LEAF_LOAD + tl__moe_layers(arch);
    if (owner) {
        tl__shard_owners(owner, &params, arch->L, ranks_of(s));
        memory->owner = place_owners(arena, &params, owner);
        count_collectives(memory, &params, owner, arch->L, s);
        memory->ticket = TL_TAKE(arena, tl_ticket, memory->tickets);
        if (s->shard == TL_SHARD_ZERO1 || s->shard == TL_SHARD_ZERO2)
            memory->spread = TL_TAKE(arena, tl_spread, memory->tickets);
        place_optimizer(memory, arena, arch, &params, owner, s);
        place_gradients(memory, arena, &params, owner, arch->L, s);
        memory->weight_count = params.count;
        if (s->shard == TL_SHARD_ZERO3) {
            for (int i = 0; i < params.n; i++)
                if (owner[i] != s->rank) memory->weight_count -= params.list[i].count;
            memory->block_weight_floats = place_slots(memory->block_weight, arena, &params, arch->L);
        }
        if (s->average) memory->average = TL_TAKE(arena, float, memory->weight_count);
    }
    memory->norms = TL_TAKE(arena, double, params.n);
    memory->leaf_sums = TL_TAKE(arena, double, (int64_t)s->leaves * memory->leaf_columns);
    free(owner);
    tl__params_free(&params);
    if (arch->tied) {
        memory->slots = (int)(arch->V < leaf_tokens ? arch->V : leaf_tokens);
        memory->embed_grad = TL_TAKE(arena, float, (int64_t)memory->slots * arch->C);
        memory->slot = TL_TAKE(arena, int32_t, arch->V);
    }
    int R = s->micro_batch * s->T, documents = s->micro_batch * s->max_documents;
    memory->kv_blocks = s->micro_batch * ((s->T + TL_KV_BLOCK - 1) / TL_KV_BLOCK) + documents;
    tl__acts_place(&memory->acts, arena, arch, R, memory->kv_blocks, true, s->recompute);
    memory->acts.z_coef = (float)s->z_coef;
    memory->input = TL_TAKE(arena, int32_t, tokens);
    memory->target = TL_TAKE(arena, int32_t, tokens);
    memory->pos = TL_TAKE(arena, int32_t, tokens);
    memory->logp = TL_TAKE(arena, float, tokens);
    if (arch->E > 0) memory->expert_load = TL_TAKE(arena, float, arch->L);
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
    tl__params_free(&params);
    tl__train_place(&memory, &arena, arch, shape);
    int positions =
        shape->positions > 0 && shape->positions < arch->max_positions ? shape->positions : arch->max_positions;
    int64_t table = (int64_t)positions * arch->D * (int64_t)sizeof(float);
    const int64_t one = (int64_t)sizeof(float);
    int64_t gathered = memory.block_weight_floats * one;
    bytes->weights = memory.weight_count * one + gathered + tl__rope_tables(arch) * table;
    bytes->gradients = (memory.grads * memory.grad_count + memory.block_grad_floats) * one;
    bytes->moments = (memory.avg_count + memory.sq_count) * one;
    bytes->average = shape->average ? memory.weight_count * one : 0;
    bytes->activations =
        (int64_t)arena.used_bytes - bytes->gradients - bytes->moments - bytes->average - memory.muon_bytes - gathered;
    bytes->scratch =
        (int64_t)tl__ops_workspace_bytes(shape->threads) + memory.muon_bytes + tl__comm_reserve_bytes(ranks_of(shape));
    bytes->sampling = sampling_bytes;
    bytes->program = PROGRAM_BYTES;
    bytes->total = bytes->weights + bytes->gradients + bytes->moments + bytes->average + bytes->activations +
                   bytes->scratch + bytes->sampling + bytes->program;
}

void tl__train_bytes_by_recompute(int64_t bytes[TL_RECOMPUTES], const tl_arch *arch, const tl_train_shape *shape,
                                  int64_t sampling_bytes) {
    for (int i = 0; i < TL_RECOMPUTES; i++) {
        tl_train_shape other = *shape;
        tl_train_bytes all;
        other.recompute = (tl_recompute)i;
        tl__train_bytes(&all, arch, &other, sampling_bytes);
        bytes[i] = all.total;
    }
}

void tl__train_bytes_by_shard(int64_t bytes[TL_SHARDS], const tl_arch *arch, const tl_train_shape *shape,
                              int64_t sampling_bytes) {
    for (int i = 0; i < TL_SHARDS; i++) {
        tl_train_shape other = *shape;
        tl_train_bytes all;
        other.shard = (tl_shard)i;
        tl__train_bytes(&all, arch, &other, sampling_bytes);
        bytes[i] = all.total;
    }
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
