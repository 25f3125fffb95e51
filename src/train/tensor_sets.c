/* tensor_sets.c — which tensors a run's state is, under which names, where each lies on this rank, and who writes it.
 */
#include <stdio.h>
#include <stdlib.h>

#include "train/checkpoint_format.h"

int64_t tl__tensor_bytes(const tl_tensor_out *t) {
    int64_t bytes = (int64_t)tl__type_bytes(t->type);
    for (int d = 0; d < t->dims; d++) bytes *= t->shape[d];
    return bytes;
}

static void add(tl_tensor_set *set, const char *name, const tl_param *p, const float *data, int writer) {
    tl_tensor_out *t = &set->tensors[set->n];
    *t = (tl_tensor_out){.name = name, .type = TL_F32, .dims = p->dims, .data = data};
    for (int d = 0; d < p->dims; d++) t->shape[d] = p->shape[d];
    set->writer[set->n++] = writer;
}

int tl__tensor_sets_open(tl_tensor_sets *sets, const tl_model *model, const tl_train_memory *memory,
                         tl_optimizer optimizer, tl_error *err) {
    static const char *const files[TL_SETS] = {TL_WEIGHTS_NAME, TL_OPTIMIZER_NAME, TL_AVERAGE_NAME};
    const tl_params *params = &model->params;
    size_t n = (size_t)params->n;
    bool taken = true;
    *sets = (tl_tensor_sets){.names = calloc(2 * n, sizeof *sets->names)};
    for (int i = 0; i < TL_SETS; i++) {
        tl_tensor_set *set = &sets->set[i];
        set->file = files[i];
        set->tensors = calloc(2 * n, sizeof *set->tensors);
        set->writer = calloc(2 * n, sizeof *set->writer);
        taken = taken && set->tensors && set->writer;
    }
    if (!taken || !sets->names) {
        tl__tensor_sets_close(sets);
        return tl__fail(err, TL_ENOMEM, "no memory for the list of a checkpoint's tensors");
    }
    for (int i = 0; i < params->n; i++) {
        const tl_param *p = &params->list[i];
        int writer = memory->owner ? memory->owner[i] : 0;
        add(&sets->set[TL_SET_WEIGHTS], p->name, p, model->weight[i], writer); /* NULL: its owner's alone */
        const float *average = model->at[i] < 0 ? NULL : memory->average + model->at[i];
        if (memory->average) add(&sets->set[TL_SET_AVERAGE], p->name, p, average, writer);
    }
    for (int second = 0; second < 2; second++)
        for (int i = 0; i < params->n; i++) {
            const tl_param *p = &params->list[i];
            tl_tensor_set *set = &sets->set[TL_SET_OPTIMIZER];
            tl_matrix matrix[TL_MAX_FUSED];
            bool muon = optimizer == TL_OPTIMIZER_MUON && tl__param_matrices(matrix, p, &model->arch) > 0;
            if (second && muon) continue;
            char *name = sets->names[set->n];
            snprintf(name, sizeof *sets->names, "%s.%s",
                     second ? "exp_avg_sq"
                     : muon ? "momentum_buffer"
                            : "exp_avg",
                     p->name);
            const float *base = second ? memory->exp_avg_sq : memory->exp_avg;
            int64_t at = second ? memory->sq_offset[i] : memory->avg_offset[i]; /* −1: another rank keeps it */
            add(set, name, p, at < 0 ? NULL : base + at, memory->owner ? memory->owner[i] : 0);
        }
    return 0;
}

void tl__tensor_sets_close(tl_tensor_sets *sets) {
    for (int i = 0; i < TL_SETS; i++) {
        free(sets->set[i].tensors);
        free(sets->set[i].writer);
    }
    free(sets->names);
    *sets = (tl_tensor_sets){0};
}
