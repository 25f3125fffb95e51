/* request.h — an OpenAI request, read from JSON: what is asked for, in the batcher's terms.
 *
 * Each member is known by name. One that is not, or that asks for what is not done, is refused by name and never
 * ignored, but for those by which OpenAI files requests (user, metadata, store …). null is as if not given. */
#ifndef TL_SERVE_REQUEST_H
#define TL_SERVE_REQUEST_H

#include "infer/batcher.h"
#include "serve/job.h"
#include "serve/refusal.h"
#include "serve/spelling.h"
#include "text/chat_template.h"

typedef enum tl_ask_kind { TL_ASK_COMPLETION, TL_ASK_CHAT, TL_ASK_EMBEDDING, TL_ASK_SCORE } tl_ask_kind;

typedef struct tl_ask_context { /* what a request is read against */
    const tl_engine *engine;
    const tl_chat_template *chat, *chat_tools; /* .template NULL: there is none; with tools, perhaps the same */
    const int32_t *stops;                      /* [n_stops] ids that end a chat's answer, beside the engine's */
    int n_stops;
    const char *name; /* of the model */
    int positions, waiting;
} tl_ask_context;

typedef struct tl_ask {
    tl_ask_kind kind;
    json_t *root; /* texts below are in it */
    bool stream, include_usage, echo, base64, special_prompt;
    int n;         /* answers that are told, of request.choices that are made */
    bool logprobs; /* are told */
    bool parse_tools, one_tool;
    tl_request request; /* but prompt, event and user */
    tl_prompt *prompt;  /* [n_prompts] */
    int n_prompts;
    /* What request points at. */
    tl_logit_bias *bias;
    const char *stop[TL_MOST_STOPS];
    int32_t *stop_id;
    tl_marks marks; /* of thinking; none where it is told as text */
    /* Between members, while reading. */
    bool no_tools, asked_max, no_generation_prompt, no_begin;
    int top_logprobs;
} tl_ask;

/* body: [n] bytes of JSON. After a failure too tl__ask_free is called. */
int tl__ask_read(tl_ask *ask, tl_ask_kind kind, const char *body, size_t n, const tl_ask_context *context,
                 tl_refusal *refusal);
void tl__ask_free(tl_ask *ask);

/* ---- also used by other readers of JSON (tokens.c) ---- */

/* A body that is an object, or a refusal. */
json_t *tl__ask_object(const char *body, size_t n, tl_refusal *refusal);
/* "prompt": a text, a list of texts, ids, or a list of lists of ids. */
int tl__ask_prompts(tl_ask *ask, const char *param, const json_t *value, const tl_ask_context *context,
                    tl_refusal *refusal);
/* "messages" through the template to ids (ask->root has the tools). */
int tl__ask_messages(tl_ask *ask, const json_t *messages, const tl_ask_context *context, tl_refusal *refusal);
/* The member must not be known: refuse it, naming the nearest of names[n]. */
int tl__ask_unknown(const char *key, const char *const *names, int n, tl_refusal *refusal);

#endif
