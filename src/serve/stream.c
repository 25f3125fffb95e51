/* stream.c — an answer as server-sent events, made as the client takes them: what it has not taken yet is kept as ids
 * and numbers alone. */
#include <stdlib.h>
#include <string.h>
#include "serve/server_parts.h"
#include "serve/tool_calls.h"

typedef struct choice_state {
    tl_spelling spelling;
    int64_t offset;  /* characters told, for text_offset */
    tl_textbuf held; /* of a chat with tools: what may be a call */
    bool whole;      /* nothing of the text has left it */
    bool begun, done;
} choice_state;

typedef struct tl_stream_state {
    tl_textbuf out; /* [from, n) is to be written */
    size_t from;
    int seen;    /* tokens and ends that were read */
    int next;    /* choice to look at first */
    int done;    /* choices of which all is written */
    bool closed; /* [DONE] is written */
    choice_state choice[];
} tl_stream_state;

/* ---- events ---- */

static int put(tl_stream_state *s, json_t *object) {
    char *text = object ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(object);
    if (!text) return TL_ENOMEM;
    tl__textbuf_add_text(&s->out, "data: ");
    tl__textbuf_add_text(&s->out, text);
    tl__textbuf_add_text(&s->out, "\n\n");
    free(text);
    return s->out.failed ? TL_ENOMEM : 0;
}

/* choices: the reference is taken. */
static int put_chunk(tl_exchange *x, json_t *choices, json_t *usage) {
    const bool chat = x->ask.kind == TL_ASK_CHAT;
    json_t *chunk = json_pack("{s:s, s:s, s:I, s:s, s:o}", "id", x->object_id, "object",
                              chat ? "chat.completion.chunk" : "text_completion", "created", (json_int_t)x->created,
                              "model", x->server->runner.name, "choices", choices);
    if (x->ask.include_usage) json_object_set_new(chunk, "usage", usage ? usage : json_null());
    return put(x->stream, chunk);
}

/* delta, logprobs (may be NULL): the references are taken. */
static int put_choice(tl_exchange *x, int index, json_t *delta, json_t *logprobs, const char *finish) {
    const bool chat = x->ask.kind == TL_ASK_CHAT;
    return put_chunk(x,
                     json_pack("[{s:i, s:o, s:o, s:s?}]", "index", index, chat ? "delta" : "text", delta, "logprobs",
                               logprobs ? logprobs : json_null(), "finish_reason", finish),
                     NULL);
}

/* ---- one choice ---- */

/* A chat with tools: what may be the beginning of a call stays in `held`, and at the end is one or is none. */
static int part_tools(const tl_exchange *x, choice_state *c, tl_textbuf *text, bool last, json_t **calls) {
    tl__textbuf_add(&c->held, text->bytes, text->n);
    if (c->held.failed) return TL_ENOMEM;
    text->n = 0;
    size_t safe = tl__tool_calls_safe(c->held.bytes, c->held.n, c->whole);
    if (last)
        *calls = tl__tool_calls(c->held.bytes, c->held.n, c->whole, json_object_get(x->ask.root, "tools"),
                                x->ask.one_tool, &safe);
    tl__textbuf_add(text, c->held.bytes, safe);
    if (text->failed) return TL_ENOMEM;
    memmove(c->held.bytes, c->held.bytes + safe, c->held.n - safe);
    c->held.n -= safe;
    c->whole &= safe == 0;
    return 0;
}

static json_t *indexed(const json_t *calls) {
    json_t *out = json_array();
    for (size_t i = 0; i < json_array_size(calls); i++) {
        json_t *one = json_pack("{s:i}", "index", (int)i);
        json_object_update(one, json_array_get(calls, i));
        json_array_append_new(out, one);
    }
    return out;
}

static int put_news(tl_exchange *x, const tl_part *p, const tl_reply *r, choice_state *c, int index, tl_textbuf *text,
                    const tl_textbuf *thought, int from, bool read) {
    const tl_ask *a = &x->ask;
    const bool chat = a->kind == TL_ASK_CHAT, last = c->spelling.ended;
    json_t *calls = NULL, *logprobs = NULL, *delta;
    if (chat && a->parse_tools) TRY(part_tools(x, c, text, last, &calls));
    if (a->logprobs && (from < c->spelling.next || read))
        logprobs = tl__answer_logprobs(x, p, r, from, c->spelling.next, read, &c->offset);
    if (text->n == 0 && thought->n == 0 && !logprobs && !last) return 0;
    if (chat) {
        delta = json_object();
        if (thought->n > 0) json_object_set_new(delta, "reasoning_content", json_stringn(thought->bytes, thought->n));
        if (text->n > 0) json_object_set_new(delta, "content", json_stringn(text->bytes, text->n));
        if (calls) json_object_set_new(delta, "tool_calls", indexed(calls));
    } else {
        delta = json_stringn(text->bytes, text->n);
    }
    const char *finish = !last ? NULL : calls ? "tool_calls" : tl__answer_finish(r);
    json_decref(calls);
    return put_choice(x, index, delta, logprobs, finish);
}

/* Writes what is new of a choice, in one event. */
static int write_choice(tl_exchange *x, const tl_part *p, const tl_reply *r, choice_state *c, int index) {
    enum { MOST_AT_ONCE = 64 };
    tl_finish finish;
    const int n = tl__job_look(x->job, r, &finish);
    const bool first = !c->begun && (n > 0 || finish != TL_FINISH_NONE), read = first && x->ask.echo;
    tl_textbuf text = {0}, thought = {0};
    tl_error err;
    int status = tl__textbuf_reserve(&text, 0) ? 0 : TL_ENOMEM;
    if (first && x->ask.kind == TL_ASK_CHAT && !status)
        status = put_choice(x, index, json_pack("{s:s, s:s}", "role", "assistant", "content", ""), NULL, NULL);
    if (read && !status) status = tl__answer_prompt(x, p, &text);
    c->begun |= first;
    const int from = c->spelling.next;
    for (int i = 0; i < MOST_AT_ONCE && !status; i++) {
        const int some = tl__spell(&c->spelling, &text, &thought, r, n, finish, &err);
        if (some == 0) break;
        if (some < 0) status = some;
    }
    if (!status) status = put_news(x, p, r, c, index, &text, &thought, from, read);
    x->stream->seen += c->spelling.next - from + (c->spelling.ended && !c->done);
    x->stream->done += c->spelling.ended && !c->done;
    c->done |= c->spelling.ended;
    free(text.bytes);
    free(thought.bytes);
    return status;
}

static int write_end(tl_exchange *x) {
    tl_stream_state *s = x->stream;
    tl_refusal failed = {0};
    int status = 0;
    s->closed = true;
    if (tl__answer_failed(x->job, &failed)) return put(s, tl__refusal_json(&failed));
    if (x->ask.include_usage) status = put_chunk(x, json_array(), tl__answer_usage(x->job));
    tl__textbuf_add_text(&s->out, "data: [DONE]\n\n");
    return status ? status : s->out.failed ? TL_ENOMEM : 0;
}

/* ---- libmicrohttpd's side ---- */

/* Fills s->out with some of what is there. */
static int write_some(tl_exchange *x, size_t most) {
    tl_stream_state *s = x->stream;
    const int choices = x->job->choices, all = x->job->n_parts * choices;
    s->from = s->out.n = 0;
    for (int i = 0; i < all && s->out.n < most; i++, s->next = (s->next + 1) % all) {
        const tl_part *p = &x->job->part[s->next / choices];
        if (!s->choice[s->next].done)
            TRY(write_choice(x, p, &p->reply[s->next % choices], &s->choice[s->next], s->next));
    }
    return s->done == all && !s->closed ? write_end(x) : 0;
}

static ssize_t read_stream(void *of, uint64_t at, char *out, size_t most) {
    tl_exchange *x = of;
    tl_stream_state *s = x->stream;
    (void)at;
    while (s->from == s->out.n) {
        if (s->closed) return MHD_CONTENT_READER_END_OF_STREAM;
        if (write_some(x, most)) return MHD_CONTENT_READER_END_WITH_ERROR;
        if (s->out.n == 0 && !s->closed && tl__exchange_sleep(x, false, s->seen)) return 0;
    }
    const size_t n = s->out.n - s->from < most ? s->out.n - s->from : most;
    memcpy(out, s->out.bytes + s->from, n);
    s->from += n;
    return (ssize_t)n;
}

int tl__stream_begin(tl_exchange *x, tl_refusal *refusal) {
    const size_t all = (size_t)x->job->n_parts * (size_t)x->job->choices;
    x->stream = calloc(1, sizeof *x->stream + all * sizeof *x->stream->choice);
    if (!x->stream || !tl__textbuf_reserve(&x->stream->out, 1024))
        return tl__refuse_as(refusal, 503, NULL, NULL, "not enough memory for a stream of %zu answers", all);
    for (size_t i = 0; i < all; i++) {
        choice_state *c = &x->stream->choice[i];
        c->whole = true;
        tl__spelling_open(&c->spelling, x->server->runner.context.engine->tokenizer, &x->ask.marks,
                          x->ask.request.special);
    }
    tl__exchange_send_stream(x, "text/event-stream; charset=utf-8", read_stream);
    return 0;
}

void tl__stream_free(tl_exchange *x) {
    if (!x->stream) return;
    for (int i = 0, n = x->job->n_parts * x->job->choices; i < n; i++) {
        tl__spelling_free(&x->stream->choice[i].spelling);
        free(x->stream->choice[i].held.bytes);
    }
    free(x->stream->out.bytes);
    free(x->stream);
    x->stream = NULL;
}
