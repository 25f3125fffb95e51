/* bench_tokenizer.c — how long a tokenizer takes to open, and how fast it encodes a text on one thread.
 * bench_tokenizer MODEL TEXT [SECONDS]: MODEL is what --model takes elsewhere (tokenizer.json, GGUF, bytes). */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include "base/clock.h"
#include "io/file.h"
#include "text/tokenizer.h"

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

int main(int argc, char **argv) {
    if (argc < 3) return fprintf(stderr, "usage: bench_tokenizer MODEL TEXT [SECONDS]\n"), 2;
    double open_ms[5], mb_s[1000];
    tl_tokenizer *tok = NULL;
    tl_error err = {0};
    char *text;
    size_t n;
    for (int i = 0; i < 5; i++) {
        tl__tokenizer_close(tok);
        int64_t begin = tl__now_ns();
        if (tl__tokenizer_open(&tok, argv[1], &err)) return fprintf(stderr, "%s\n", err.text), 1;
        open_ms[i] = (double)(tl__now_ns() - begin) * 1e-6;
    }
    if (tl__file_slurp(&text, &n, argv[2], (size_t)1 << 30, &err)) return fprintf(stderr, "%s\n", err.text), 1;
    int32_t *ids = malloc((3 * n + 1) * sizeof *ids);
    if (!ids) return 1;
    int64_t count = 0, until = tl__now_ns() + (int64_t)((argc > 3 ? atof(argv[3]) : 2) * 1e9);
    int runs = 0;
    while (runs < 1000 && (runs < 3 || tl__now_ns() < until)) {
        int64_t begin = tl__now_ns();
        count = tl__tokenizer_encode(tok, text, n, false, ids, 3 * n + 1, NULL);
        mb_s[runs++] = (double)n * 1e3 / (double)(tl__now_ns() - begin);
    }
    qsort(open_ms, 5, sizeof *open_ms, compare);
    qsort(mb_s, (size_t)runs, sizeof *mb_s, compare);
    printf("{\"vocab\": %d, \"open_ms\": %.1f, \"bytes\": %zu, \"ids\": %" PRId64 ", \"mb_per_second\": %.1f}\n",
           tl__tokenizer_vocab(tok), open_ms[2], n, count, mb_s[runs / 2]);
    tl__tokenizer_close(tok);
    free(ids);
    free(text);
    return 0;
}
