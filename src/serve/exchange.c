/* exchange.c — a request from its first header to its last byte.
 *
 * libmicrohttpd calls the handler with the headers, then with each piece of the body, then with its end, and again
 * whenever a suspended connection is resumed. What is wrong with the headers is remembered and said at the end of the
 * body, so that the connection can be used again; only a body that says it is too long is refused at once. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "base/clock.h"
#include "base/log.h"
#include "serve/server_parts.h"

/* ---- sending ---- */

static const char *header(const tl_exchange *x, const char *name) {
    return MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, name);
}

/* Pages of another origin may read what is answered. */
static bool allows_origin(const tl_exchange *x) {
    const char *cors = x->server->options->cors;
    return x->origin && cors && (strcmp(cors, "*") == 0 || strcmp(cors, x->origin) == 0);
}

static void queue(tl_exchange *x, int http, const char *type, struct MHD_Response *response, int retry_seconds) {
    if (!response) return; /* no memory: the connection is closed */
    MHD_add_response_header(response, "Content-Type", type);
    MHD_add_response_header(response, "X-Request-Id", x->id);
    if (allows_origin(x)) {
        MHD_add_response_header(response, "Access-Control-Allow-Origin", x->server->options->cors);
        MHD_add_response_header(response, "Access-Control-Expose-Headers", "X-Request-Id, Retry-After");
        MHD_add_response_header(response, "Vary", "Origin");
    }
    if (strcmp(x->path, "*cors") == 0) {
        MHD_add_response_header(response, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
        MHD_add_response_header(response, "Access-Control-Allow-Headers", "Authorization, Content-Type, X-Request-Id");
        MHD_add_response_header(response, "Access-Control-Max-Age", "600");
    }
    if (retry_seconds > 0) {
        char seconds[16];
        snprintf(seconds, sizeof seconds, "%d", retry_seconds);
        MHD_add_response_header(response, "Retry-After", seconds);
    }
    if (http == 401) MHD_add_response_header(response, "WWW-Authenticate", "Bearer");
    if (atomic_load(&x->server->draining)) MHD_add_response_header(response, "Connection", "close");
    x->answered = MHD_queue_response(x->connection, (unsigned)http, response) == MHD_YES;
    MHD_destroy_response(response);
    x->status = http;
    if (atomic_load(&x->server->runner.state) == TL_RUNNER_READY) tl__metrics_answer(x->server->runner.metrics, http);
}

void tl__exchange_send_text(tl_exchange *x, int http, const char *type, const char *text, size_t n) {
    queue(x, http, type, MHD_create_response_from_buffer(n, (void *)(uintptr_t)text, MHD_RESPMEM_MUST_COPY), 0);
}

static void send_json(tl_exchange *x, int http, json_t *body, int retry_seconds) {
    char *text = body ? json_dumps(body, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(body);
    struct MHD_Response *response =
        text ? MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE) : NULL;
    if (text && !response) free(text);
    queue(x, http, "application/json", response, retry_seconds);
}

void tl__exchange_send(tl_exchange *x, int http, json_t *body) {
    send_json(x, http, body, 0);
}

void tl__exchange_refuse(tl_exchange *x, const tl_refusal *r) {
    send_json(x, r->http, tl__refusal_json(r), r->retry_after_seconds);
}

void tl__exchange_send_stream(tl_exchange *x, const char *type,
                              ssize_t (*read)(void *x, uint64_t at, char *out, size_t most)) {
    enum { BLOCK_BYTES = 16384 };
    struct MHD_Response *response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK_BYTES, read, x, NULL);
    if (response) MHD_add_response_header(response, "Cache-Control", "no-cache");
    queue(x, 200, type, response, 0);
}

/* ---- jobs ---- */

static int socket_of(const tl_exchange *x) {
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(x->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    return info ? info->connect_fd : -1;
}

static void on_wake(void *of) {
    tl_exchange *x = of;
    atomic_fetch_sub(&x->server->asleep, 1);
    MHD_resume_connection(x->connection);
}

static void on_sleep(void *of) {
    tl_exchange *x = of;
    atomic_fetch_add(&x->server->asleep, 1);
    MHD_suspend_connection(x->connection);
}

bool tl__exchange_sleep(tl_exchange *x, bool whole, int seen) {
    return tl__job_sleep(x->job, whole, seen, on_sleep);
}

int tl__exchange_begin(tl_exchange *x, tl_refusal *refusal) {
    static const char *const prefix[] = {"cmpl", "chatcmpl", "embd", "score"};
    tl_server *s = x->server;
    const tl_ask_context *c = &s->runner.context;
    tl_ask *a = &x->ask;
    tl_error err = {0};
    snprintf(x->object_id, sizeof x->object_id, "%s-%016llx%08llx", prefix[a->kind], (unsigned long long)s->boot,
             (unsigned long long)x->number);
    x->created = time(NULL);
    if (s->options->deadline_seconds > 0)
        a->request.deadline_ns = tl__now_ns() + s->options->deadline_seconds * 1000000000LL;
    tl_job *job;
    int status =
        tl__job_open(&job, a->prompt, a->n_prompts, &a->request, c->positions, c->engine->arch.C, &s->yard, &err);
    if (status) return tl__refuse_error(refusal, NULL, &err);
    job->wake = on_wake;
    job->of = x;
    job->metrics = s->runner.metrics;
    pthread_mutex_lock(&s->door);
    status = tl__job_submit(job, s->closed ? NULL : s->runner.batcher, &a->request, &err);
    if (!status) x->job = job; /* from here on others may cancel it */
    pthread_mutex_unlock(&s->door);
    if (status) { /* what went in ends by itself */
        tl__job_leave(job, s->runner.batcher);
        return tl__refuse_error(refusal, NULL, &err);
    }
    tl__watch_add(&s->watch, socket_of(x), x->number);
    x->watched = true;
    return 0;
}

/* ---- opening ---- */

/* A name that the client gives is kept if it can stand in a header and a log. */
static void take_id(tl_exchange *x) {
    const char *given = header(x, "X-Request-Id");
    size_t n = given ? strlen(given) : 0;
    bool clean = n > 0 && n < sizeof x->id;
    for (size_t i = 0; i < n && clean; i++) clean = given[i] > ' ' && given[i] <= '~';
    if (clean) memcpy(x->id, given, n + 1);
    else
        snprintf(x->id, sizeof x->id, "req-%016llx%08llx", (unsigned long long)x->server->boot,
                 (unsigned long long)x->number);
}

/* "127.0.0.1:8080", "[::1]", "localhost": no name that somebody else's DNS could give to this machine. */
static bool is_numeric(const char *host) {
    if (strncasecmp(host, "localhost", 9) == 0) return host[9] == 0 || host[9] == ':';
    if (*host == '[') return strchr(host, ']') && !strpbrk(host, "ghijklmnopqrstuvwxyzGHIJKLMNOPQRSTUVWXYZ");
    return host[strspn(host, "0123456789.:")] == 0;
}

/* Other pages than the server's own may not even ask: a page elsewhere could else use a server that listens for this
 * machine alone. A page's own server is told by a name only where a key is asked for, since names can be turned. */
static bool admits_origin(const tl_exchange *x) {
    const char *host = header(x, "Host"), *cut = x->origin ? strstr(x->origin, "://") : NULL;
    if (!x->origin || allows_origin(x)) return true;
    return cut && host && strcasecmp(cut + 3, host) == 0 && (x->server->keys.n > 0 || is_numeric(host));
}

static void check_headers(tl_exchange *x, const char *method) {
    tl_refusal *r = &x->refusal;
    tl_server *s = x->server;
    bool known = false;
    x->route = tl__route_find(method, x->path, &known);
    const char *length = header(x, "Content-Length");
    if (!admits_origin(x))
        tl__refuse_as(r, 403, "origin_not_allowed", NULL,
                      "pages of %.200s may not call this server; start it with --cors to allow them", x->origin);
    else if (!x->route && known)
        tl__refuse_as(r, 405, "method_not_allowed", NULL, "%.16s does not go with %.200s", method, x->path);
    else if (!x->route) tl__refuse_as(r, 404, "not_found", NULL, "there is no %.200s here", x->path);
    else if (!x->route->free && !tl__keys_admit(&s->keys, header(x, "Authorization")))
        tl__refuse_as(r, 401, "invalid_api_key", NULL,
                      "the API key is missing or wrong; send it as 'Authorization: Bearer KEY'");
    else if (length && (strlen(length) > 18 || atoll(length) > s->options->body_bytes))
        tl__refuse_as(r, 413, "request_too_large", NULL,
                      "the request has %.20s bytes, more than the %lld that are read (--max-body)", length,
                      (long long)s->options->body_bytes);
}

/* Preflight of another origin's page. */
static bool is_preflight(const tl_exchange *x, const char *method) {
    return strcmp(method, "OPTIONS") == 0 && allows_origin(x);
}

static tl_exchange *open_exchange(tl_server *s, struct MHD_Connection *connection, const char *url,
                                  const char *method) {
    tl_exchange *x = calloc(1, sizeof *x);
    if (!x) return NULL;
    x->server = s;
    x->connection = connection;
    x->number = atomic_fetch_add(&s->last_id, 1) + 1;
    x->begun_ns = tl__now_ns();
    x->origin = header(x, "Origin");
    x->path = strdup(is_preflight(x, method) ? "*cors" : url);
    if (!x->path) {
        free(x);
        return NULL;
    }
    take_id(x);
    if (strcmp(x->path, "*cors") != 0) check_headers(x, method);
    pthread_mutex_lock(&s->door);
    x->next = s->first;
    if (s->first) s->first->before = x;
    s->first = x;
    s->open++;
    pthread_mutex_unlock(&s->door);
    return x;
}

/* ---- from beginning to end ---- */

/* A piece of the body; false: the connection is closed. */
static bool take_body(tl_exchange *x, const char *bytes, size_t n) {
    const int64_t most = x->server->options->body_bytes;
    const bool keep = x->refusal.http == 0;
    if (keep && (int64_t)(x->body.n + n) <= most) {
        tl__textbuf_add(&x->body, bytes, n);
        return !x->body.failed;
    }
    if (keep)
        tl__refuse_as(&x->refusal, 413, "request_too_large", NULL,
                      "the request has more than the %lld bytes that are read (--max-body)", (long long)most);
    x->dropped += (int64_t)n;
    return x->dropped <= most;
}

static void begin(tl_exchange *x) {
    tl_server *s = x->server;
    tl_refusal *r = &x->refusal;
    const int state = atomic_load(&s->runner.state);
    x->begun = true;
    if (strcmp(x->path, "*cors") == 0) {
        tl__exchange_send_text(x, 204, "text/plain", "", 0);
        return;
    }
    if (r->http == 0 && x->route->model && atomic_load(&s->draining))
        tl__refuse_as(r, 503, "draining", NULL, "the server is going down and begins nothing new");
    else if (r->http == 0 && x->route->model && state != TL_RUNNER_READY)
        tl__refuse_as(r, 503, "loading", NULL, "the model is being loaded; come again in a moment");
    if (r->http == 0) x->route->run(x, r);
    if (r->http != 0) tl__exchange_refuse(x, r);
}

enum MHD_Result tl__exchange_handle(void *server, struct MHD_Connection *connection, const char *url,
                                    const char *method, const char *version, const char *upload, size_t *upload_bytes,
                                    void **exchange) {
    tl_exchange *x = *exchange;
    (void)version;
    if (!x) {
        *exchange = x = open_exchange(server, connection, url, method);
        if (!x) return MHD_NO;
        if (x->refusal.http != 413) return MHD_YES; /* the body comes first */
        tl__exchange_refuse(x, &x->refusal);
        return x->answered ? MHD_YES : MHD_NO;
    }
    if (*upload_bytes > 0) {
        const bool taken = take_body(x, upload, *upload_bytes);
        *upload_bytes = 0;
        return taken ? MHD_YES : MHD_NO;
    }
    if (!x->begun) begin(x);
    if (x->job && !x->ask.stream && !x->answered) {
        tl_refusal refusal = {0};
        if (tl__exchange_sleep(x, true, 0)) return MHD_YES;
        if (tl__answer_send(x, &refusal)) tl__exchange_refuse(x, &refusal);
    }
    return x->answered ? MHD_YES : MHD_NO;
}

void tl__exchange_done(void *server, struct MHD_Connection *connection, void **exchange,
                       enum MHD_RequestTerminationCode why) {
    tl_server *s = server;
    tl_exchange *x = *exchange;
    (void)connection, (void)why;
    if (!x) return;
    *exchange = NULL;
    tl__log_line(TL_LOG_DEBUG, "%s %.200s: %d in %.3f s", x->id, x->path, x->status,
                 (double)(tl__now_ns() - x->begun_ns) * 1e-9);
    if (x->watched) tl__watch_remove(&s->watch, socket_of(x));
    pthread_mutex_lock(&s->door); /* out of the list first: the watch may just have seen its client leave */
    if (x->before) x->before->next = x->next;
    else s->first = x->next;
    if (x->next) x->next->before = x->before;
    pthread_mutex_unlock(&s->door);
    tl__stream_free(x);
    if (x->job) tl__job_leave(x->job, s->runner.batcher); /* while it loads, the batcher is not to be looked at */
    pthread_mutex_lock(&s->door);
    s->open--;
    pthread_mutex_unlock(&s->door);
    tl__ask_free(&x->ask);
    free(x->body.bytes);
    free((char *)(uintptr_t)x->path);
    free(x);
}
