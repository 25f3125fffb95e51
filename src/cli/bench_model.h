/* bench_model.h — `trilith bench --model`: how fast a model reads and writes. */
#ifndef TL_CLI_BENCH_MODEL_H
#define TL_CLI_BENCH_MODEL_H

#include "cli/cli.h"
#include "trilith.h"

typedef struct tl_bench_model {
    const char *model;
    int threads, prefill, decode, repeat;
    tl_dtype dtype;
    tl_device device;
    bool json;
} tl_bench_model;

/* Measures, prints; the command's exit status. */
int tl__bench_model(tl_cli *cli, const tl_bench_model *what);

#endif
