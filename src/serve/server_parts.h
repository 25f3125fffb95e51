/* server_parts.h — what the files of the server share: the server, and one request from its first header to its last
 * byte.
 *
 *   server.c    listening, threads, draining
 *   exchange.c  a request and its response as libmicrohttpd tells and asks them
 *   routes.c    which path does what
 *   answer.c    what was told, as OpenAI's objects
 *   stream.c    the same as server-sent events
 *   watch.c     clients that leave */
#ifndef TL_SERVE_SERVER_PARTS_H
#define TL_SERVE_SERVER_PARTS_H

#include <microhttpd.h>
#include "serve/keys.h"
#include "serve/server.h"
#include "serve/spelling.h"
#include "serve/watch.h"

typedef struct tl_exchange tl_exchange;

typedef struct tl_server {
    const tl_serve_options *options;
    tl_runner runner;
    tl_keys keys;
    tl_watch watch;
    tl_job_yard yard;
    struct MHD_Daemon *daemon;
    char origin[64]; /* "127.0.0.1:8080", for what is said */
    int event;       /* eventfd: the main thread is to look */
    uint64_t boot;   /* random: begins the ids of this process */
    atomic_ulong last_id;
    atomic_bool draining; /* nothing new is begun */

    pthread_mutex_t door; /* over what follows, and over every submit */
    bool closed;
    tl_exchange *first; /* all that may be cancelled */
    int open;           /* that have not ended */
    atomic_int asleep;  /* those whose connection is suspended */
} tl_server;

typedef struct tl_route {
    const char *method, *path; /* a path that ends in '*' is a beginning */
    bool free;                 /* needs no key */
    bool model;                /* needs the model */
    /* Answers with tl__exchange_send …, or begins a job; a status with refusal filled. */
    int (*run)(tl_exchange *x, tl_refusal *refusal);
} tl_route;

struct tl_exchange {
    tl_server *server;
    struct MHD_Connection *connection;
    tl_exchange *next, *before;
    uint64_t number;
    char id[129]; /* X-Request-Id */
    const char *origin;
    const tl_route *route;
    const char *path;   /* owned */
    tl_refusal refusal; /* found before the body came */
    tl_textbuf body;
    int64_t dropped; /* bytes of a body that is not kept */
    bool begun, answered, watched;
    int status; /* that was answered; 0: none yet */
    int64_t begun_ns;

    tl_ask ask;
    tl_job *job;
    char object_id[48]; /* "chatcmpl-…" */
    time_t created;
    struct tl_stream_state *stream;
};

/* ---- exchange.c ---- */

enum MHD_Result tl__exchange_handle(void *server, struct MHD_Connection *connection, const char *url,
                                    const char *method, const char *version, const char *upload, size_t *upload_bytes,
                                    void **exchange);
void tl__exchange_done(void *server, struct MHD_Connection *connection, void **exchange,
                       enum MHD_RequestTerminationCode why);
/* Queues a whole response. JSON: the reference is taken; NULL is no memory. */
void tl__exchange_send(tl_exchange *x, int http, json_t *body);
void tl__exchange_send_text(tl_exchange *x, int http, const char *type, const char *text, size_t n);
void tl__exchange_refuse(tl_exchange *x, const tl_refusal *refusal);
/* Queues a response whose bytes `read` gives: as MHD_ContentReaderCallback. */
void tl__exchange_send_stream(tl_exchange *x, const char *type,
                              ssize_t (*read)(void *x, uint64_t at, char *out, size_t most));
/* Begins the job that x->ask wants. */
int tl__exchange_begin(tl_exchange *x, tl_refusal *refusal);
/* Suspends the connection until there is more, or with `whole` until the job has ended; false: there is already. */
bool tl__exchange_sleep(tl_exchange *x, bool whole, int seen);

/* ---- routes.c ---- */

/* *known: there is the path, though not for this method. */
const tl_route *tl__route_find(const char *method, const char *path, bool *known);

/* ---- answer.c ---- */

/* The whole answer of an ended job. */
int tl__answer_send(tl_exchange *x, tl_refusal *refusal);
json_t *tl__answer_usage(const tl_job *job);
const char *tl__answer_finish(const tl_reply *reply);
/* Log-probabilities of the tokens [from, to) of a choice, in the form of completions or of chats. With `read` the
 * prompt's come first. *offset: characters before, moved on. */
json_t *tl__answer_logprobs(const tl_exchange *x, const tl_part *part, const tl_reply *reply, int from, int to,
                            bool read, int64_t *offset);
/* Why a job failed, if some choice of it did. */
int tl__answer_failed(const tl_job *job, tl_refusal *refusal);
/* The prompt's text, for echo. */
int tl__answer_prompt(const tl_exchange *x, const tl_part *part, tl_textbuf *text);

/* ---- stream.c ---- */

int tl__stream_begin(tl_exchange *x, tl_refusal *refusal);
void tl__stream_free(tl_exchange *x);

#endif
