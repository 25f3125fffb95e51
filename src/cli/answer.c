/* answer.c — prefill, then a token at a time, each shown as soon as it completes a character. */
#include "cli/answer.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>
#include "base/clock.h"

int tl__answer_open(tl_answer *a, const tl_engine *e, int most, tl_error *err) {
    a->ids = malloc((size_t)most * sizeof *a->ids);
    a->logp = malloc((size_t)most * sizeof *a->logp);
    a->logits = malloc((size_t)e->arch.V * sizeof *a->logits);
    a->piece = malloc(tl__tokenizer_decode_room(e->tokenizer));
    if (a->ids && a->logp && a->logits && a->piece) return 0;
    return tl__fail(err, TL_ENOMEM, "not enough memory to hold %d generated tokens; lower --max-tokens", most);
}

void tl__answer_close(tl_answer *a) {
    free(a->ids);
    free(a->logp);
    free(a->logits);
    free(a->piece);
}

static bool ends(const tl_answer *a, const tl_engine *e, int32_t id) {
    if (!a->stop_at_eos) return false;
    for (int i = 0; i < a->n_stops; i++)
        if (a->stops[i] == id) return true;
    return tl__engine_ends_text(e, id);
}

int tl__answer_run(tl_answer *a, const tl_sampling_options *how, tl_engine *e, tl_session *session,
                   const int32_t *prompt, int n, int held, tl_error *err) {
    const tl_sampling sampling = {.temperature = (float)how->temperature,
                                  .top_k = (int)how->top_k,
                                  .top_p = (float)how->top_p,
                                  .min_p = (float)how->min_p,
                                  .typical_p = (float)how->typical_p,
                                  .repetition_penalty = (float)how->repetition_penalty,
                                  .presence_penalty = (float)how->presence_penalty,
                                  .frequency_penalty = (float)how->frequency_penalty,
                                  .seed = (uint64_t)how->seed};
    tl_steering so_far = {.prompt = prompt, .n_prompt = n, .made = a->ids};
    bool terminal = isatty(STDOUT_FILENO);
    tl_decoder decoder = {0};
    int64_t start = tl__now_ns();
    int status = tl__sampling_check(&sampling, err);
    a->n = 0;
    a->stop = a->all;
    if (!status) status = tl__session_append(session, prompt + held, n - held, a->logits, err);
    int64_t decoding = tl__now_ns();
    while (!status && a->n < a->max) {
        if (a->interrupted && *a->interrupted) {
            a->stop = "interrupted";
            break;
        }
        so_far.n_made = a->n;
        int32_t id = tl__sample(&e->ctx, &sampling, &so_far, a->logits, e->arch.V, tl__session_length(session),
                                e->scratch, &a->logp[a->n]);
        a->ids[a->n++] = id;
        if (ends(a, e, id)) {
            a->stop = "eos";
            break;
        }
        if (a->show) {
            tl__cli_show(stdout, a->piece, tl__decoder_push(e->tokenizer, &decoder, id, true, a->piece), terminal);
            fflush(stdout);
            if (ferror(stdout)) break; /* nobody reads on */
        }
        if (a->n < a->max) status = tl__session_append(session, &id, 1, a->logits, err);
    }
    if (a->show) tl__cli_show(stdout, a->piece, tl__decoder_finish(&decoder, a->piece), terminal);
    int64_t end = tl__now_ns();
    a->prompt_seconds = (double)(decoding - start) * 1e-9;
    a->seconds = (double)(end - start) * 1e-9;
    return status;
}

double tl__answer_speed(const tl_answer *a) {
    double s = a->seconds - a->prompt_seconds;
    return s > 0 ? a->n / s : 0;
}

json_t *tl__answer_json(const tl_answer *a, const tl_engine *e, int prompt_n) {
    size_t bytes = 0;
    if (tl_engine_decode(e, a->ids, (size_t)a->n, false, NULL, 0, &bytes, NULL)) return NULL;
    char *text = malloc(bytes + 1);
    if (!text || tl_engine_decode(e, a->ids, (size_t)a->n, false, text, bytes + 1, &bytes, NULL)) {
        free(text);
        return NULL;
    }
    json_t *ids = json_array(), *logp = json_array();
    for (int i = 0; i < a->n; i++) {
        json_array_append_new(ids, json_integer(a->ids[i]));
        json_array_append_new(logp, isfinite(a->logp[i]) ? json_real((double)a->logp[i]) : json_null());
    }
    json_t *out = json_pack("{s:s%, s:o, s:o, s:s, s:i, s:f, s:f, s:f}", "text", text, bytes, "ids", ids, "logprobs",
                            logp, "stop", a->stop, "prompt_tokens", prompt_n, "prompt_seconds", a->prompt_seconds,
                            "seconds", a->seconds, "tokens_per_second", tl__answer_speed(a));
    free(text);
    return out;
}
