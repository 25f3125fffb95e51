/* Any bytes through the YAML door: an error with a sentence, or entries whose parts can all be read. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "base/yaml.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    tl_error err = {0};
    tl_yaml y;
    int rc = tl__yaml_parse(&y, (const char *)data, size, "input", &err);
    if (rc && (rc != err.status || !err.text[0] || y.n)) abort();
    size_t all = 0;
    for (int i = 0; i < y.n; i++) {
        all += strlen(y.entries[i].key);
        if (y.entries[i].line < 1) abort();
        for (int k = 0; k < y.entries[i].n; k++) all += strlen(y.entries[i].values[k]);
    }
    if (all > 300 * size) abort();
    tl__yaml_free(&y);
    return 0;
}
