/* runner.h — the model that is served and the one thread that computes with it: opens it, steps its batcher until it is
 * told to end, and says in which state it is. */
#ifndef TL_SERVE_RUNNER_H
#define TL_SERVE_RUNNER_H

#include <pthread.h>
#include <stdatomic.h>
#include "serve/metrics.h"
#include "serve/request.h"
#include "text/conversation.h"

typedef struct tl_runner_options {
    const char *model, *template; /* template: a file in place of the model's; NULL: the model's */
    const char *name;             /* what clients call the model; NULL: the end of its path */
    const char *draft;            /* a smaller model that proposes tokens; NULL: none */
    tl_engine_options engine;     /* positions: of a sequence at most */
    tl_batcher_options batcher;
} tl_runner_options;

typedef enum tl_runner_state { TL_RUNNER_LOADING, TL_RUNNER_READY, TL_RUNNER_ENDED, TL_RUNNER_FAILED } tl_runner_state;

typedef struct tl_runner {
    const tl_runner_options *options;
    atomic_int state; /* tl_runner_state: what follows is there, and read only, once READY */
    tl_engine engine, draft;
    tl_chat_template chat, chat_tools;
    int32_t stops[TL_CHAT_STOPS];
    int n_stops;
    char name[256];
    tl_ask_context context;
    tl_engine_options how;
    tl_batcher *batcher;
    tl_metrics *metrics;
    int64_t begun_ns, ready_ns;
    time_t created;
    tl_error err; /* of FAILED */
    pthread_t thread;
    bool started;
    atomic_bool end;
    void (*changed)(void *user); /* the state is another one; on the runner's thread */
    void *user;
} tl_runner;

/* Reads configuration, template and the weights' headers, so that a mistake shows before anyone can ask.
 * Close it after a failure too. */
int tl__runner_open(tl_runner *runner, const tl_runner_options *options, tl_error *err);
/* Begins to load the weights and the tokenizer, and then to compute, on a thread of its own. */
int tl__runner_start(tl_runner *runner, void (*changed)(void *user), void *user, tl_error *err);
/* What is asked for still ends as cancelled; the thread ends. */
void tl__runner_end(tl_runner *runner);
void tl__runner_close(tl_runner *runner);

#endif
