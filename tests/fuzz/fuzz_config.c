/* Any bytes through config.json's door: an error with a sentence, or an architecture whose parameters can be listed,
 * whose sizes do not overflow, and whose config.json reads back to the same record. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "model/arch.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    tl_error err = {0};
    tl_arch a, again;
    tl_params params;
    int rc = tl__arch_parse(&a, (const char *)data, size, "input", &err);
    if (rc) {
        if (rc != err.status || !err.text[0]) abort();
        return 0;
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
    if (a.V != again.V || a.C != again.C || a.F != again.F || a.D != again.D || a.Hkv != again.Hkv ||
        a.norm_eps != again.norm_eps || a.rope_theta != again.rope_theta || a.tied != again.tied)
        abort();
    free(text);
    return 0;
}
