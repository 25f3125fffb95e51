/* server.h — a model behind HTTP: the OpenAI API over one batcher, on a TCP port or a Unix socket. */
#ifndef TL_SERVE_SERVER_H
#define TL_SERVE_SERVER_H

#include "serve/runner.h"

typedef struct tl_serve_options {
    tl_runner_options runner; /* batcher.waiting is set */
    const char *host;         /* address to listen on */
    int port;                 /* 0: a free one, which is said */
    const char *unix_path;    /* a socket of this name instead; NULL: TCP */
    const char *keys;         /* file of keys; NULL: those of the environment */
    const char *cors;         /* the one other origin whose pages may call, or "*"; NULL: none */
    int64_t body_bytes;       /* most of a request */
    int connections;          /* most at once */
    int idle_seconds;         /* without a byte read or written, while a client is waited for */
    int drain_seconds;        /* for what is being answered, after SIGTERM or SIGINT */
    int deadline_seconds;     /* for an answer; 0: none */
} tl_serve_options;

/* Serves until SIGTERM or SIGINT, drains, and returns 0; or a status where it could not begin. Threads of this process
 * must not have been started before: the signals are taken for all of them. */
int tl__serve(const tl_serve_options *options, tl_error *err);

#endif
