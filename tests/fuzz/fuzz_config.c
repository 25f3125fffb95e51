/* Any bytes through config.json's door: an error with a sentence, or an architecture whose parameters can be listed,
 * whose sizes do not overflow, and whose config.json reads back to the same record. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "heap.h"
#include "model/arch.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool same(const tl_arch *a, const tl_arch *b) {
    const tl_rope *r = &a->rope, *s = &b->rope;
    if (a->V != b->V || a->L != b->L || a->C != b->C || a->H != b->H || a->Hkv != b->Hkv || a->D != b->D ||
        a->F != b->F || a->max_positions != b->max_positions || a->norm_eps != b->norm_eps || a->tied != b->tied ||
        a->window != b->window || a->query_scalar != b->query_scalar || a->qkv_bias != b->qkv_bias ||
        a->o_bias != b->o_bias || a->mlp_bias != b->mlp_bias || a->attention_softcap != b->attention_softcap ||
        a->final_softcap != b->final_softcap || a->embed_scale != b->embed_scale)
        return false;
    if (r->theta != s->theta || r->local_theta != s->local_theta || r->scaling != s->scaling ||
        r->factor != s->factor || r->original_positions != s->original_positions ||
        r->low_freq_factor != s->low_freq_factor || r->high_freq_factor != s->high_freq_factor ||
        r->beta_fast != s->beta_fast || r->beta_slow != s->beta_slow || r->attention_factor != s->attention_factor ||
        r->mscale != s->mscale || r->mscale_all_dim != s->mscale_all_dim || r->truncate != s->truncate)
        return false;
    return memcmp(a->layer, b->layer, sizeof a->layer) == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    tl_error err = {0};
    tl_arch a, again;
    tl_params params;
    heap_watch();
    int rc = tl__arch_parse(&a, (const char *)data, size, "input", &err);
    heap_check(4096, 8, size);
    if (rc) {
        if (rc != err.status || !err.text[0]) abort();
        return 0;
    }
    if (a.positions == TL_POS_ROPE) { /* tables of any parameters can be made; NaN at worst */
        float table[2 * TL_MAX_HEAD_DIM];
        tl__rope_fill(table, &a, false, 0, 2);
        if (tl__rope_tables(&a) > 1) tl__rope_fill(table, &a, true, 0, 2);
    }
    if (a.L > 64) return 0; /* a list of parameters is proportional to L: bounded, but slow to fuzz */
    if (tl__params_make(&params, &a, &err)) abort();
    int64_t sum = 0;
    for (int i = 0; i < params.n; i++) {
        if (params.list[i].count <= 0 || params.list[i].offset != sum) abort();
        sum += params.list[i].count;
    }
    if (sum != params.count) abort();
    tl__params_free(&params);
    char *text = tl__arch_config_json(&a);
    if (!text || tl__arch_parse(&again, text, strlen(text), "written", &err)) abort();
    if (!same(&a, &again)) abort();
    free(text);
    return 0;
}
