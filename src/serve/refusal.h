/* refusal.h — why a request is not answered, as a client is told it: an HTTP status and a sentence in OpenAI's shape.
 */
#ifndef TL_SERVE_REFUSAL_H
#define TL_SERVE_REFUSAL_H

#include <jansson.h>
#include "base/error.h"

typedef struct tl_refusal {
    int http;         /* status; 0: nothing was refused */
    const char *type; /* "invalid_request_error" … */
    const char *code; /* "context_length_exceeded" …; NULL: none */
    char param[96];   /* the member of the request that is wrong; "": none */
    char text[1024];
    int retry_after_seconds; /* 0: not said */
} tl_refusal;

/* 400, about `param` (NULL: about none). All these return TL_EINVALID. */
int tl__refuse(tl_refusal *r, const char *param, const char *format, ...) __attribute__((format(printf, 3, 4)));
int tl__refuse_as(tl_refusal *r, int http, const char *code, const char *param, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
/* What a call of the library refused, by its status. */
int tl__refuse_error(tl_refusal *r, const char *param, const tl_error *err);

/* {"error": {"message", "type", "param", "code"}} */
json_t *tl__refusal_json(const tl_refusal *r);

#endif
