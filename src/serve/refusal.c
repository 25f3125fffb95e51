/* refusal.c — statuses of the library to statuses of HTTP. */
#include "serve/refusal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "text/unicode.h"

static const char *type_of(int http) {
    switch (http) {
    case 401:
    case 403:
        return "authentication_error";
    case 404:
        return "not_found_error";
    case 429:
        return "rate_limit_error";
    default:
        return http < 500 ? "invalid_request_error" : "server_error";
    }
}

static void fill(tl_refusal *r, int http, const char *code, const char *param, const char *format, va_list args) {
    r->http = http;
    r->type = type_of(http);
    r->code = code;
    r->retry_after_seconds = http == 429 || http == 503 ? 1 : 0;
    snprintf(r->param, sizeof r->param, "%s", param ? param : "");
    vsnprintf(r->text, sizeof r->text, format, args);
}

int tl__refuse(tl_refusal *r, const char *param, const char *format, ...) {
    va_list args;
    va_start(args, format);
    fill(r, 400, NULL, param, format, args);
    va_end(args);
    return TL_EINVALID;
}

int tl__refuse_as(tl_refusal *r, int http, const char *code, const char *param, const char *format, ...) {
    va_list args;
    va_start(args, format);
    fill(r, http, code, param, format, args);
    va_end(args);
    return TL_EINVALID;
}

int tl__refuse_error(tl_refusal *r, const char *param, const tl_error *err) {
    switch (err->status) {
    case TL_EINVALID:
    case TL_EFORMAT:
    case TL_ENOTFOUND:
        return tl__refuse(r, param, "%s", err->text);
    case TL_EUNSUPPORTED:
        return tl__refuse_as(r, 400, "unsupported", param, "%s", err->text);
    case TL_EBUSY:
        return tl__refuse_as(r, 429, "queue_full", param, "%s", err->text);
    case TL_ENOMEM:
        return tl__refuse_as(r, 503, "out_of_memory", param, "%s", err->text);
    default:
        return tl__refuse_as(r, 500, NULL, param, "%s", err->text);
    }
}

/* Messages quote what a client sent, and where they cut it short may cut a character. */
static json_t *text_of(const char *text) {
    char whole[3 * sizeof((tl_refusal *)0)->text];
    int64_t replaced = 0;
    return json_stringn(whole, tl__utf8_repair(whole, (const uint8_t *)text, strlen(text), &replaced));
}

json_t *tl__refusal_json(const tl_refusal *r) {
    return json_pack("{s:{s:o, s:s, s:o, s:s?}}", "error", "message", text_of(r->text), "type", r->type, "param",
                     r->param[0] ? text_of(r->param) : json_null(), "code", r->code);
}
