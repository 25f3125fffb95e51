/* example.c — the public API on one page: continue a text with a model folder.
 *
 *   cc example.c $(pkg-config --cflags --libs trilith) -o example
 *   ./example runs/book "In the beginning" */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <trilith.h>

enum { NEW_TOKENS = 40 };

static int failed(const tl_error *err) {
    fprintf(stderr, "example: %s\n", err->text);
    return 1;
}

int main(int argc, char **argv) {
    tl_engine *engine;
    tl_engine_facts facts;
    tl_session *session;
    tl_error err;
    if (argc != 3) return fprintf(stderr, "usage: example MODEL PROMPT\n"), 2;
    if (tl_engine_open(&engine, argv[1], NULL, &err) || tl_engine_describe(engine, &facts, &err)) return failed(&err);

    size_t prompt, n;
    if (tl_engine_encode(engine, argv[2], strlen(argv[2]), false, NULL, 0, &prompt, &err)) return failed(&err);
    int32_t *ids = malloc((prompt + NEW_TOKENS) * sizeof *ids);
    float *logits = malloc((size_t)facts.vocabulary * sizeof *logits);
    if (!ids || !logits) return 1;
    if (tl_engine_encode(engine, argv[2], strlen(argv[2]), false, ids, prompt, &n, &err)) return failed(&err);

    /* Read the prompt, then draw one token at a time and append it. */
    tl_sampling sampling = {.temperature = 0.8f, .seed = 7};
    if (tl_session_open(&session, engine, (int)n + NEW_TOKENS, &err)) return failed(&err);
    if (tl_session_append(session, ids, n, logits, &err)) return failed(&err);
    while (n < prompt + NEW_TOKENS) {
        if (tl_engine_sample(engine, &sampling, logits, (int64_t)n, &ids[n], NULL, &err)) return failed(&err);
        if (tl_engine_ends_text(engine, ids[n])) break;
        if (tl_session_append(session, &ids[n++], 1, logits, &err)) return failed(&err);
    }

    char text[4096];
    size_t bytes;
    if (tl_engine_decode(engine, ids + prompt, n - prompt, false, text, sizeof text, &bytes, &err)) return failed(&err);
    fwrite(text, 1, bytes < sizeof text ? bytes : sizeof text, stdout);
    putchar('\n');

    free(ids), free(logits);
    tl_session_close(session);
    tl_engine_close(engine);
    return 0;
}
