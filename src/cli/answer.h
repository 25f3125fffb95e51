/* answer.h — tokens made one after the other from a session, shown as they are made: what generate and chat share. */
#ifndef TL_CLI_ANSWER_H
#define TL_CLI_ANSWER_H

#include <signal.h>
#include "cli/cli.h"
#include "infer/engine.h"
#include "infer/sampler.h"
#include "infer/session.h"

/* Fields of a command's struct that --temperature and its kin fill. */
typedef struct tl_sampling_options {
    int64_t max_tokens, top_k, seed;
    double temperature, top_p, min_p, typical_p, repetition_penalty, presence_penalty, frequency_penalty;
} tl_sampling_options;
#define TL_SAMPLING_OPTIONS(T, most_tokens)                                                                            \
    {"max-tokens", TL_INT(T, sampling.max_tokens),    .initial = most_tokens, .least = 1,                              \
     .most = 1e9,  .help = "Most tokens to generate."},                                                                \
        {"temperature",                                                                                                \
         TL_REAL(T, sampling.temperature),                                                                             \
         .initial = "0.8",                                                                                             \
         .least = 0,                                                                                                   \
         .most = 1000,                                                                                                 \
         .help = "0 takes the likeliest token each time; 1 samples from the model as it is; above 1 flattens."},       \
        {"top-k",                                                                                                      \
         TL_INT(T, sampling.top_k),                                                                                    \
         .value = "K",                                                                                                 \
         .initial = "0",                                                                                               \
         .least = 0,                                                                                                   \
         .most = 2147483647,                                                                                           \
         .help = "Sample among the K likeliest tokens; 0 is off."},                                                    \
        {"top-p",        TL_REAL(T, sampling.top_p),                                                                   \
         .initial = "1", .least = 1e-9,                                                                                \
         .most = 1,      .help = "Sample among the fewest tokens that hold this share of the probability; 1 is off."}, \
        {"min-p",        TL_REAL(T, sampling.min_p),                                                                   \
         .initial = "0", .least = 0,                                                                                   \
         .most = 1,      .help = "Drop tokens less likely than this share of the likeliest; 0 is off."},               \
        {"typical-p",                                                                                                  \
         TL_REAL(T, sampling.typical_p),                                                                               \
         .initial = "1",                                                                                               \
         .least = 1e-9,                                                                                                \
         .most = 1,                                                                                                    \
         .help =                                                                                                       \
             "Of what is left, sample among the tokens whose surprise is nearest the average that hold this share "    \
             "of the probability; 1 is off."},                                                                         \
        {"repetition-penalty",                                                                                         \
         TL_REAL(T, sampling.repetition_penalty),                                                                      \
         .value = "R",                                                                                                 \
         .initial = "1",                                                                                               \
         .least = 0.01,                                                                                                \
         .most = 100,                                                                                                  \
         .help =                                                                                                       \
             "Divide the logits of tokens in the prompt or the answer by R, multiply the negative ones; 1 is off."},   \
        {"presence-penalty",                                                                                           \
         TL_REAL(T, sampling.presence_penalty),                                                                        \
         .value = "X",                                                                                                 \
         .initial = "0",                                                                                               \
         .least = -2,                                                                                                  \
         .most = 2,                                                                                                    \
         .help = "Take X from the logits of tokens in the answer; 0 is off."},                                         \
        {"frequency-penalty",                                                                                          \
         TL_REAL(T, sampling.frequency_penalty),                                                                       \
         .value = "X",                                                                                                 \
         .initial = "0",                                                                                               \
         .least = -2,                                                                                                  \
         .most = 2,                                                                                                    \
         .help = "Take X from the logits of a token for each time that the answer holds it; 0 is off."},               \
    {                                                                                                                  \
        "seed", TL_INT(T, sampling.seed),                                                                              \
            .initial = "0", .least = 0, .most = 9.2e18,                                                                \
            .help = "The same seed, prompt and settings give the same text, on any number of threads."                 \
    }

typedef struct tl_answer {
    /* set by the caller */
    int max;         /* most tokens */
    const char *all; /* what `stop` says when there are so many: "length", "positions" */
    bool show;       /* on standard output */
    bool stop_at_eos;
    const int32_t *stops; /* [n_stops] ids that end an answer, beside the engine's */
    int n_stops;
    const volatile sig_atomic_t *interrupted; /* not 0: stop; NULL: never */
    /* what came of it */
    int32_t *ids; /* [n] a final end-of-text token included */
    float *logp;  /* [n] */
    int n;
    const char *stop; /* "eos", `all`, or "interrupted" */
    double prompt_seconds, seconds;
    float *logits; /* [V] */
    char *piece;   /* decoded bytes of one token */
} tl_answer;

/* Memory for `most` tokens; one answer after another may use it. */
int tl__answer_open(tl_answer *a, const tl_engine *e, int most, tl_error *err);
void tl__answer_close(tl_answer *a);
/* The session holds the first `held` of prompt[n]; append the rest and answer. Nothing here allocates. */
int tl__answer_run(tl_answer *a, const tl_sampling_options *how, tl_engine *e, tl_session *session,
                   const int32_t *prompt, int n, int held, tl_error *err);
double tl__answer_speed(const tl_answer *a); /* tokens/s of the answer, without its prompt */
/* {"text", "ids", "logprobs", "stop", "prompt_tokens", …}. */
json_t *tl__answer_json(const tl_answer *a, const tl_engine *e, int prompt_n);

#endif
