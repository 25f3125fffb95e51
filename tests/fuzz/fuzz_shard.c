/* Any bytes as a prepared dataset: index.json, a shard and the documents' starts, parted by "\n--\n". A sentence, or
 * samples whose ids are below the vocabulary. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "text/shard.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char folder[64];

static void put(const char *name, const uint8_t *bytes, size_t n) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(bytes, 1, n, f) != n || fclose(f)) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!folder[0]) {
        struct stat about; /* in memory where there is such a place */
        snprintf(folder, sizeof folder, "%s/tl_fuzz_shard_XXXXXX", stat("/dev/shm", &about) == 0 ? "/dev/shm" : "/tmp");
        if (!mkdtemp(folder)) abort();
    }
    const char *const names[3] = {"index.json", "shard-00000.ids", "documents.starts"};
    const uint8_t *at = data, *end = data + size;
    for (int i = 0; i < 3; i++) {
        const uint8_t *stop = i < 2 ? memmem(at, (size_t)(end - at), "\n--\n", 4) : NULL;
        put(names[i], at, (size_t)((stop ? stop : end) - at));
        at = stop ? stop + 4 : end;
    }
    const char *path = "input";
    tl_dataset_options o = {.paths = &path, .n_paths = 1, .T = 5, .val_fraction = 0.2};
    tl_dataset *d;
    tl_error err = {0};
    if (tl__dataset_open_folder(&d, folder, NULL, 300, &o, &err)) {
        if (err.status >= 0 || !err.text[0]) abort();
        return 0;
    }
    const tl_dataset_facts *f = tl__dataset_facts(d);
    int32_t input[5], target[5], pos[5];
    for (int64_t i = 0; i < 20; i++) {
        int64_t n = i % 2 ? f->train_samples : f->val_samples;
        if (n == 0) continue;
        int status = i % 2 ? tl__dataset_train_sample(d, 1, i, i % 4 == 1, input, target, pos, &err)
                           : tl__dataset_val_sample(d, i % n, i % 4 == 0, input, target, pos, &err);
        if (status) abort();
        for (int k = 0; k < 5; k++)
            if (input[k] < 0 || input[k] >= 300 || target[k] < -1 || target[k] >= 300 || pos[k] < 0 || pos[k] >= 5)
                abort();
    }
    tl__dataset_close(d);
    return 0;
}
