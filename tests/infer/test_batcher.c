/* test_batcher.c — L1 through a crowd: every request gets the tokens and the log-probability bits that a plain session
 * gives it, whoever else is there, in whatever order they come, however steps are cut, pages run out or are shared.
 *
 * Models are made here, of every family. Of models in files instead: TRILITH_TEST_MODELS=a.gguf:b.gguf, with requests
 * that are short (a shuffle of a hundred million parameters takes half a second); one is then another's draft where they
 * have the same vocabulary. TRILITH_TEST_SHUFFLES=N: so many shuffles (24), of each file; TRILITH_TEST_FIRST=N: from the
 * one of that number on, so that many may be made in pieces. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include "base/clock.h"
#include "base/rng.h"
#include "families.h"
#include "heap_calls.h"
#include "infer/batcher.h"
#include "infer/session.h"
#include "infer/thinking_definition.h"

enum { REQUESTS = 64, CHOICES = 3, MOST_MADE = 64, MOST_PROMPT = 120, MODELS = 1 + TEST_FAMILIES, FILES = 8 };
enum { MOST_TEXT = 32 * MOST_MADE, STOPS = 3, MOST_STOP = 24 };

static const char larger[] =
    "{\"model_type\":\"llama\",\"vocab_size\":331,\"hidden_size\":64,\"intermediate_size\":168,\"num_hidden_layers\":3,"
    "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"max_position_embeddings\":160,\"rms_norm_eps\":1e-5,\"rope_"
    "theta\":10000,"
    "\"initializer_range\":0.15,\"tie_word_embeddings\":false}";

/* What proposes to it: of another shape, and knowing nothing of it. */
static const char smaller[] =
    "{\"model_type\":\"llama\",\"vocab_size\":331,\"hidden_size\":32,\"intermediate_size\":40,\"num_hidden_layers\":1,"
    "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"max_position_embeddings\":160,\"rms_norm_eps\":1e-5,\"rope_"
    "theta\":10000,"
    "\"initializer_range\":0.15,\"tie_word_embeddings\":true}";

static tl_engine engines[MODELS > FILES ? MODELS : FILES], drafts[MODELS];
static int n_files; /* 0: the models are made here */

/* What is asked of them at most. */
static struct {
    int requests, prompt, made;
    int alike;     /* tokens; prompts begin alike by a multiple of so many */
    int positions; /* 0: the model's */
} bounds = {20, MOST_PROMPT, MOST_MADE, 25, 0};

static int open_engines(void **state) {
    tl_error err = {0};
    int status = 0;
    for (int k = 0; !status && k < 2 * MODELS; k++) {
        const int i = k / 2;
        tl_engine *e = k % 2 ? &drafts[i] : &engines[i];
        const char *config = i ? test_families[i - 1].config : k % 2 ? smaller : larger;
        status = tl__ctx_open(&e->ctx, 2, NULL, &err);
        if (!status) status = tl__arch_parse(&e->arch, config, strlen(config), "config", &err);
        if (!status) status = tl__model_create(&e->model, &e->arch, 0, &err);
        if (!status) tl__model_init(&e->model, 5 + (uint64_t)k % 2, e->ctx.pool);
    }
    /* Bytes, and tokens of several: most of what a random model makes is no UTF-8. */
    const char *text[] = {TL_SOURCE_DIR "/LICENSE"};
    const tl_bpe_options bpe = {.vocab = 331};
    if (!status) status = tl__tokenizer_train(&engines[0].tokenizer, text, 1, &bpe, &err);
    if (status) fprintf(stderr, "%s\n", err.text);
    return status;
}

static int32_t *file_text; /* [n_file_text] tokens of English, by the tokenizer of the file that is at work */
static int64_t n_file_text;

static int open_files(void **state) {
    char *paths = strdup(getenv("TRILITH_TEST_MODELS")), *rest = paths;
    tl_error err = {0};
    int status = 0;
    for (char *path; !status && (path = strtok_r(rest, ":", &rest)) && n_files < FILES; n_files++) {
        tl_engine *e = &engines[n_files];
        status = tl__engine_open(e, path, true, &err);
        if (!status) status = tl__engine_load(e, &(tl_engine_options){.threads = 2}, &err);
    }
    bounds.requests = REQUESTS, bounds.prompt = 36, bounds.made = 8, bounds.alike = 11, bounds.positions = 80;
    free(paths);
    if (status) fprintf(stderr, "%s\n", err.text);
    return status;
}

static int close_files(void **state) {
    for (int i = 0; i < n_files; i++) tl__engine_close(&engines[i]);
    free(file_text);
    return 0;
}

static int positions_of(const tl_engine *e) {
    return bounds.positions ? bounds.positions : e->model.positions;
}

/* What proposes to a model; 1: another of its vocabulary, 2: itself. */
static tl_engine *draft_of(int model, int kind) {
    if (kind == 1 && !n_files) return &drafts[model];
    for (int i = 1; kind == 1 && i < n_files; i++) {
        tl_engine *other = &engines[(model + i) % n_files];
        if (other->arch.V == engines[model].arch.V) return other;
    }
    return kind ? &engines[model] : NULL;
}

static int close_engines(void **state) {
    tl__tokenizer_close(engines[0].tokenizer);
    for (int k = 0; k < 2 * MODELS; k++) {
        tl_engine *e = k % 2 ? &drafts[k / 2] : &engines[k / 2];
        tl__model_close(&e->model);
        tl__ctx_close(&e->ctx);
    }
    return 0;
}

enum { FIRST_KEY = 77 };

static int number_of(const char *name, int usual) {
    char full[64];
    snprintf(full, sizeof full, "TRILITH_TEST_%s", name);
    const char *n = getenv(full);
    return n ? atoi(n) : usual;
}

static int pages_for(int tokens) {
    return (tokens + TL_KV_BLOCK - 1) / TL_KV_BLOCK;
}

static uint32_t draw(uint64_t seed, uint64_t i, uint32_t n) {
    return tl__philox(seed, TL_RNG_TEST, 1, i).v[0] % n;
}

/* ---- what is asked, and what a session answers ---- */

typedef struct answer {
    int32_t id[MOST_MADE];
    float logp[MOST_MADE];
    int n;
    tl_finish finish;
    char text[MOST_TEXT];
    bool thinks[MOST_MADE];
    int thinking_tokens;
    size_t n_text;
    size_t text_after[MOST_MADE]; /* expected: bytes that the first so many tokens and one more make certain */
    char stop[MOST_STOP];         /* that ended it; "": none did */
} answer;

typedef struct item {
    tl_request asked;
    int32_t prompt[MOST_PROMPT];
    int32_t stop_id[2];
    tl_logit_bias bias[2];
    char stop_text[STOPS][MOST_STOP];
    const char *stop[STOPS];
    int32_t open[2], close[3];
    float prompt_logp[MOST_PROMPT]; /* expected */
    answer expected[CHOICES];
    /* what came */
    uint64_t id;
    answer got[CHOICES];
    float got_prompt_logp[MOST_PROMPT];
    int told;
    bool wrong;
    tl_usage usage[CHOICES];
    tl_candidate top[MOST_MADE][4]; /* of the first choice's tokens */
    float embedding[64];
    bool embedded;
    bool answered; /* expected is there */
} item;

static atomic_int n_ended;

static item items[REQUESTS];

/* Token t of the text that `from` names: drawn, or from some place in a file's. */
static int32_t text_token(uint64_t from, int t, int V) {
    if (!n_files) return (int32_t)draw(from, 100 + (uint64_t)t, (uint32_t)V);
    return file_text[(draw(from, 100, (uint32_t)n_file_text) + (uint32_t)t) % (uint32_t)n_file_text];
}

/* Prompts of all lengths; most begin with one of two long beginnings, some are equal. */
static void make_items(const tl_engine *e, uint64_t seed) {
    const int V = e->arch.V, room = positions_of(e) - 30;
    const int most = room < bounds.prompt ? room : bounds.prompt;
    memset(items, 0, sizeof items);
    for (int i = 0; i < bounds.requests; i++) {
        item *it = &items[i];
        const uint64_t key = seed * 1000 + (uint64_t)i;
        const int n = 1 + (int)draw(key, 0, (uint32_t)most), alike = (int)draw(key, 1, 4) * bounds.alike;
        for (int t = 0; t < n; t++) it->prompt[t] = text_token(t < alike ? seed * 7 + draw(key, 2, 2) : key, t, V);
        it->asked = (tl_request){.prompt = it->prompt, .n_prompt = n, .logprobs = true};
        it->asked.max_tokens = i % 7 == 3 ? 0 : 1 + (int)draw(key, 3, (uint32_t)bounds.made - 1);
        if (n_files && i % 6 == 1) it->asked.max_tokens += 20; /* more than a page was kept back for */
        it->asked.choices = i % 5 == 2 ? CHOICES : 1;
        it->asked.prompt_logprobs = i % 3 == 1;
        if (i % 4) it->asked.sampling = (tl_sampling){.temperature = 0.8f + 0.1f * (float)(i % 4), .seed = key};
        if (i % 4 == 2) it->asked.sampling.top_k = 20;
        if (i % 4 == 3) it->asked.sampling.top_p = 0.9f;
        if (i % 5 == 1) it->asked.sampling.typical_p = 0.8f, it->asked.sampling.min_p = 0.01f;
        if (i % 5 == 2) it->asked.sampling.repetition_penalty = 1.3f;
        if (i % 5 == 3) it->asked.sampling.presence_penalty = 0.7f, it->asked.sampling.frequency_penalty = 0.4f;
        if (i % 5 == 4) {
            it->bias[0] = (tl_logit_bias){(int32_t)draw(key, 6, (uint32_t)V), 2.5f};
            it->bias[1] = (tl_logit_bias){(int32_t)draw(key, 7, (uint32_t)V), -INFINITY};
            it->asked.bias = it->bias;
            it->asked.n_bias = 2;
        }
        if (i % 6 == 5) {
            it->stop_id[0] = (int32_t)draw(key, 4, (uint32_t)V);
            it->stop_id[1] = (int32_t)draw(key, 5, (uint32_t)V);
            it->asked.stop_id = it->stop_id;
            it->asked.n_stop_id = 2;
        }
        if (it->asked.max_tokens > 0 && i % 3 == 0) it->asked.min_tokens = (int)draw(key, 8, 6) % it->asked.max_tokens;
        it->asked.special = i % 4 == 3;
        it->asked.no_look_ahead = i % 8 == 5;
    }
}

static bool ends(const tl_engine *e, const tl_request *r, int32_t id) {
    for (int i = 0; i < r->n_stop_id; i++)
        if (r->stop_id[i] == id) return true;
    return tl__engine_ends_text(e, id);
}

/* ---- stop texts, by their definition: every end in the whole text is looked at ---- */

static void add_text(answer *a, size_t n) {
    a->n_text += n;
    assert_true(a->n_text + 128 < MOST_TEXT);
}

static void decode_whole(const tl_engine *e, const tl_request *r, answer *a) {
    tl_decoder d = {0};
    for (int t = 0; t < a->n && e->tokenizer; t++) {
        const bool ended = a->finish == TL_FINISH_STOP && t == a->n - 1; /* an id that ends has no text */
        if (!ended) add_text(a, tl__decoder_push(e->tokenizer, &d, a->id[t], !r->special, a->text + a->n_text));
        if (t == a->n - 1) add_text(a, tl__decoder_finish(&d, a->text + a->n_text));
        a->text_after[t] = a->n_text;
    }
}

/* Two that do come, and one that begins like one of them and goes on otherwise. */
static void choose_stops(item *it, uint64_t key) {
    const answer *a = &it->expected[draw(key, 20, (uint32_t)(it->asked.choices > 1 ? it->asked.choices : 1))];
    if (a->n_text < 2) return;
    for (int i = 0; i < STOPS; i++) {
        size_t from = draw(key, 21 + (uint64_t)i, (uint32_t)a->n_text), n = 1 + draw(key, 24 + (uint64_t)i, 12);
        if (n > a->n_text - from) n = a->n_text - from;
        while (from > 0 && (a->text[from] & 0xC0) == 0x80) from--, n++;
        while (from + n < a->n_text && (a->text[from + n] & 0xC0) == 0x80) n++;
        memcpy(it->stop_text[i], a->text + from, n);
        n = strnlen(it->stop_text[i], n); /* the model may say a NUL, which no stop text can hold */
        if (i == 2 || n == 0) it->stop_text[i][n] = 'z', n++;
        it->stop_text[i][n] = 0;
        it->stop[i] = it->stop_text[i];
    }
    it->asked.stop = it->stop;
    it->asked.n_stop = STOPS;
    it->asked.include_stop = draw(key, 27, 2);
}

static void cut_at_stop(const tl_request *r, answer *a) {
    const size_t blind =
        r->min_tokens > 0 && a->n > 0 ? a->text_after[(r->min_tokens < a->n ? r->min_tokens : a->n) - 1] : 0;
    for (size_t end = blind + 1; end <= a->n_text; end++) {
        const char *best = NULL;
        for (int i = 0; i < r->n_stop; i++) {
            const size_t n = strlen(r->stop[i]);
            if (n <= end && !memcmp(a->text + end - n, r->stop[i], n) && (!best || n > strlen(best))) best = r->stop[i];
        }
        if (!best) continue;
        int t = 0;
        while (a->text_after[t] < end) t++;
        a->n = t + 1;
        a->thinking_tokens = 0;
        for (int i = 0; i < a->n; i++) a->thinking_tokens += a->thinks[i];
        a->finish = TL_FINISH_STOP;
        a->n_text = r->include_stop ? end : end - strlen(best);
        strcpy(a->stop, best);
        return;
    }
}

/* ---- thinking ---- */

/* Delimiters that do come, most often. */
static void choose_thinking(item *it, uint64_t key) {
    const answer *a = &it->expected[0];
    tl_thinking *t = &it->asked.thinking;
    if (a->n < 4) return;
    const int at = (int)draw(key, 30, (uint32_t)a->n / 2), end = at + 1 + (int)draw(key, 31, (uint32_t)(a->n - at - 1));
    t->n_open = 1 + (int)draw(key, 32, 2);
    t->n_close = 1 + (int)draw(key, 33, 3);
    for (int i = 0; i < t->n_open; i++) it->open[i] = a->id[at + i < a->n ? at + i : at];
    for (int i = 0; i < t->n_close; i++) it->close[i] = a->id[end + i < a->n ? end + i : end];
    t->open = it->open;
    t->close = it->close;
    t->begun = draw(key, 34, 3) > 0;
    t->most = (int)draw(key, 35, 12) - 1;
    t->least = t->most == 0 ? (int)draw(key, 36, 25) : t->most < 0 ? 0 : (int)draw(key, 36, (uint32_t)t->most + 1);
}

static void answer_alone(tl_engine *e, item *it, tl_type kv_type) {
    const tl_request *r = &it->asked;
    const int positions = positions_of(e);
    float *logits = malloc(2 * sizeof *logits * (size_t)e->arch.V), *masked = logits + e->arch.V;
    void *scratch = malloc(tl__sampler_bytes(e->arch.V));
    int32_t made[MOST_MADE];
    tl_session *s;
    assert_true(logits && scratch);
    assert_int_equal(tl__session_open_narrow(&s, &e->model, &e->ctx, positions, 33, kv_type, NULL), 0);
    assert_int_equal(tl__session_score(s, r->prompt, r->n_prompt, -1, it->prompt_logp + 1, NULL), 0);
    for (int c = 0; c < (r->choices > 1 ? r->choices : 1); c++) {
        answer *a = &it->expected[c];
        tl_sampling sampling = r->sampling;
        sampling.seed += (uint64_t)c;
        *a = (answer){.finish = TL_FINISH_LENGTH};
        tl__session_rewind(s, 0);
        assert_int_equal(tl__session_append(s, r->prompt, r->n_prompt, logits, NULL), 0);
        while (a->n < r->max_tokens && tl__session_length(s) < positions) {
            const tl_steering steering = {r->bias, r->n_bias, r->n_prompt, a->n, r->prompt, made};
            const float log_z = tl__log_z(&e->ctx, logits, e->arch.V);
            memcpy(masked, logits, (size_t)e->arch.V * sizeof *masked);
            const next x = think(&r->thinking, made, a->n, a->thinks, &a->thinking_tokens);
            for (int32_t id = 0; id < e->arch.V; id++)
                if (id == x.barred || ((a->n < r->min_tokens || x.goes_on) && ends(e, r, id))) masked[id] = -INFINITY;
            int32_t id =
                tl__sample(&e->ctx, &sampling, &steering, masked, e->arch.V, tl__session_length(s), scratch, NULL);
            if (x.forced >= 0) id = x.forced;
            a->logp[a->n] = logits[id] - log_z;
            made[a->n] = a->id[a->n] = id;
            a->n++;
            if (a->n > r->min_tokens && ends(e, r, id)) {
                a->finish = TL_FINISH_STOP;
                break;
            }
            assert_int_equal(tl__session_append(s, &id, 1, logits, NULL), 0);
        }
        think(&r->thinking, made, a->finish == TL_FINISH_STOP ? a->n - 1 : a->n, a->thinks, &a->thinking_tokens);
        decode_whole(e, r, a);
    }
    tl__session_close(s);
    free(scratch);
    free(logits);
}

/* ---- what a batcher tells ---- */

static void note(void *user, const tl_event *e) {
    item *it = user;
    answer *a = &it->got[e->choice];
    if (e->choice >= CHOICES || a->finish) it->wrong = true; /* nothing after the end */
    if (e->prompt_at >= 0) {
        if (e->prompt_at != it->told || e->id != it->prompt[it->told] || a->n > 0) it->wrong = true;
        it->got_prompt_logp[it->told++] = e->logp;
    } else if (e->id >= 0) {
        if (a->n >= MOST_MADE) it->wrong = true;
        else a->id[a->n] = e->id, a->thinks[a->n] = e->thinking, a->logp[a->n++] = e->logp;
    }
    a->thinking_tokens = e->usage->thinking_tokens;
    a->finish = e->finish;
    if (a->n_text + e->text_n > MOST_TEXT) it->wrong = true;
    else if (e->text_n) memcpy(a->text + a->n_text, e->text, e->text_n), a->n_text += e->text_n;
    if (e->stop) snprintf(a->stop, sizeof a->stop, "%s", e->stop);
    if (e->choice == 0 && e->id >= 0 && e->n_top == 4) memcpy(it->top[a->n - 1], e->top, sizeof it->top[0]);
    it->usage[e->choice] = *e->usage;
    if (e->embedding) memcpy(it->embedding, e->embedding, sizeof it->embedding), it->embedded = true;
    n_ended += e->finish != TL_FINISH_NONE;
}

typedef struct setting {
    int model, threads, step_tokens, pages, running;
    int requests;   /* so many of all, whichever */
    uint64_t asked; /* what make_items had */
    bool no_cache, cancels;
    int look_up, draft; /* draft 1: a model that knows nothing, 2: the model itself */
    bool eager;
    tl_type kv_type;
} setting;

static int64_t page_bytes(const tl_engine *e, tl_type kv_type) {
    return 2 * e->arch.L * e->arch.Hkv * tl_kv_part_bytes(kv_type, e->arch.D);
}

static void check_item(const item *it, bool may_be_cut, uint64_t seed, int i) {
    const tl_request *r = &it->asked;
    assert_false(it->wrong);
    for (int c = 0; c < (r->choices > 1 ? r->choices : 1); c++) {
        const answer *a = &it->got[c], *x = &it->expected[c];
        const bool cut = may_be_cut && a->finish == TL_FINISH_CANCELLED;
        if (a->finish != x->finish && !cut)
            fail_msg("seed %llu, request %d, choice %d: finish %d, expected %d", (unsigned long long)seed, i, c,
                     a->finish, x->finish);
        if (cut ? a->n > x->n : a->n != x->n)
            fail_msg("seed %llu, request %d: %d tokens, expected %d", (unsigned long long)seed, i, a->n, x->n);
        for (int t = 0; t < a->n; t++)
            if (a->id[t] != x->id[t] || memcmp(&a->logp[t], &x->logp[t], sizeof(float)))
                fail_msg("seed %llu, request %d, choice %d, token %d: id %d at %.9g, expected %d at %.9g",
                         (unsigned long long)seed, i, c, t, (int)a->id[t], (double)a->logp[t], (int)x->id[t],
                         (double)x->logp[t]);
        assert_memory_equal(a->thinks, x->thinks, (size_t)a->n * sizeof(bool));
        if (cut) continue;
        assert_int_equal(a->thinking_tokens, x->thinking_tokens);
        assert_string_equal(a->stop, x->stop);
        assert_int_equal(a->n_text, x->n_text);
        assert_memory_equal(a->text, x->text, x->n_text);
    }
    if (!r->prompt_logprobs) {
        assert_int_equal(it->told, 0);
        return;
    }
    if (!(may_be_cut && it->got[0].finish == TL_FINISH_CANCELLED)) assert_int_equal(it->told, r->n_prompt);
    for (int t = 1; t < it->told; t++)
        if (memcmp(&it->got_prompt_logp[t], &it->prompt_logp[t], sizeof(float)))
            fail_msg("seed %llu, request %d: the prompt's token %d has %.9g, expected %.9g", (unsigned long long)seed,
                     i, t, (double)it->got_prompt_logp[t], (double)it->prompt_logp[t]);
}

/* Works out what is expected of request i of those that make_items had from the seed. */
static void expect(int i, int model, uint64_t seed, tl_type kv_type) {
    item *it = &items[i];
    if (it->answered) return;
    answer_alone(&engines[model], it, kv_type);
    if (i % 3 == 2) {
        choose_thinking(it, seed * 1000 + (uint64_t)i);
        answer_alone(&engines[model], it, kv_type);
    }
    if (i % 2 == 0) choose_stops(it, seed * 1000 + (uint64_t)i);
    for (int c = 0; c < CHOICES; c++) cut_at_stop(&it->asked, &it->expected[c]);
    it->answered = true;
}

/* Requests through one batcher, in an order and at times drawn from the seed. */
static tl_batcher_facts run(const setting *how, uint64_t seed) {
    tl_engine engine = engines[how->model];
    tl_error err = {0};
    tl_batcher *b;
    assert_int_equal(tl__ctx_open(&engine.ctx, how->threads, NULL, &err), 0);
    tl_engine *draft = draft_of(how->model, how->draft);
    const int64_t page = page_bytes(&engine, how->kv_type) + (draft ? page_bytes(draft, how->kv_type) : 0);
    tl_batcher_options o = {.kv_bytes = page * how->pages,
                            .draft = draft,
                            .draft_tokens = draft ? 1 + (int)draw(seed, 99, 6) : 0,
                            .kv_type = how->kv_type,
                            .eager = how->eager,
                            .step_tokens = how->step_tokens,
                            .running = how->running,
                            .positions = bounds.positions,
                            .no_prefix_cache = how->no_cache,
                            .look_up = how->look_up};
    if (tl__batcher_open(&b, &engine, &o, &err)) fail_msg("%s", err.text);
    int64_t kv, other;
    assert_int_equal(tl__batcher_size(&kv, &other, &engine, &o, &err), 0);
    assert_int_equal(kv, o.kv_bytes);
    const bool at_once = draw(seed, 98, 4) == 0;
    int order[REQUESTS], at = 0, steps = 0;
    for (int i = 0; i < bounds.requests; i++) {
        const int j = (int)draw(seed, (uint64_t)i, (uint32_t)i + 1);
        order[i] = order[j];
        order[j] = i;
        item *it = &items[i];
        memset(it->got, 0, sizeof it->got);
        it->told = 0;
        it->wrong = false;
    }
    for (int i = 0; i < how->requests; i++) expect(order[i], how->model, how->asked, how->kv_type);
    for (int rows = 1; at < how->requests || rows > 0; steps++) {
        assert_true(steps < 20000); /* nothing is stuck */
        const int come = at_once ? REQUESTS : (int)draw(seed, 100 + (uint64_t)steps, 3);
        for (int n = come; at < how->requests && n > 0; n--, at++) {
            item *it = &items[order[at]];
            it->asked.event = note;
            it->asked.user = it;
            if (tl__batcher_submit(b, &it->asked, &it->id, &err)) fail_msg("%s", err.text);
        }
        if (how->cancels && steps % 5 == 4 && at > 0)
            tl__batcher_cancel(b, items[order[draw(seed, 50000 + (uint64_t)steps, (uint32_t)at)]].id);
        const long calls = own_heap_calls;
        rows = tl__batcher_step(b, 0, &err);
        assert_int_equal(own_heap_calls, calls);
        assert_true(rows >= 0 && rows <= how->step_tokens);
    }
    tl_batcher_facts facts;
    tl__batcher_describe(b, &facts);
    assert_int_equal(facts.page_bytes, page);
    assert_int_equal(facts.running, 0);
    assert_int_equal(facts.waiting, 0);
    assert_int_equal(facts.used_pages, 0); /* no page leaked */
    if (how->no_cache) assert_int_equal(facts.cached_pages, 0);
    tl__batcher_close(b);
    tl__ctx_close(&engine.ctx);
    int64_t proposed = 0, accepted = 0;
    for (int k = 0; k < how->requests; k++) {
        const item *it = &items[order[k]];
        check_item(it, how->cancels, seed, order[k]);
        for (int c = 0; c < it->asked.choices; c++) {
            proposed += it->usage[c].proposed;
            accepted += it->usage[c].accepted;
            if (it->asked.no_look_ahead) assert_int_equal(it->usage[c].proposed, 0);
        }
    }
    assert_int_equal(facts.proposed, proposed);
    assert_int_equal(facts.accepted, accepted);
    return facts;
}

/* ---- the law ---- */

/* How often what is to be proved harmless took place. */
typedef struct deeds {
    int64_t hits, preemptions, stops, thought, proposed, accepted, answers;
} deeds;

static void shuffle(deeds *d, int model, uint64_t key, uint64_t asked, tl_type kv_type) {
    static const int steps[] = {1, 3, 17, 40, 64, 512}, running[] = {1, 2, 5, 64}, crowd[] = {1, 2, 3, 5, 8, 12, 20, 64};
    static const int pages[] = {0, 3, 12, 200}, tight[] = {0, 1, 2, 60};
    setting how = {.model = model,
                   .threads = 1 + (int)((key - FIRST_KEY) % 3),
                   .requests = n_files ? crowd[draw(key, 8, 8)] : bounds.requests,
                   .asked = asked,
                   .step_tokens = steps[draw(key, 0, 6)],
                   .running = running[draw(key, 1, 4)],
                   .pages = pages_for(positions_of(&engines[model])) + (n_files ? tight : pages)[draw(key, 2, 4)],
                   .no_cache = draw(key, 3, 3) == 0,
                   .look_up = (int[]){0, 3, 8}[draw(key, 5, 3)],
                   .draft = (int)draw(key, 6, 3),
                   .eager = draw(key, 7, 3) > 0,
                   .cancels = draw(key, 4, 3) == 0,
                   .kv_type = kv_type};
    if (how.requests > 8 && n_files && how.step_tokens < 17) how.step_tokens = 17; /* a file's weights are read in each */
    const tl_batcher_facts facts = run(&how, key);
    d->hits += facts.prefix_hits;
    d->preemptions += facts.preemptions;
    d->proposed += facts.proposed;
    d->accepted += facts.accepted;
    for (int i = 0; i < bounds.requests; i++)
        for (int c = 0; c < CHOICES; c++)
            d->answers += items[i].got[c].finish != TL_FINISH_NONE, d->stops += items[i].got[c].stop[0] != 0,
                d->thought += items[i].got[c].thinking_tokens;
}

/* What was to be proved harmless took place. */
static void expect_deeds(const deeds *d) {
    const int least = n_files ? 20 : 100; /* short answers, and fewer shuffles at a time */
    assert_true(d->hits > 0 && d->preemptions > 0 && d->stops > 20 && d->thought > least);
    assert_true(d->accepted > least && d->proposed > d->accepted + least);
}

static const tl_type kv_types[] = {TL_F32, TL_F16, TL_BF16, TL_Q8_0};

static void L1_a_crowd_is_answered_as_one(void **state) {
    deeds d = {0};
    for (int i = 0, k = number_of("FIRST", 0); i < number_of("SHUFFLES", 24); i++, k++) {
        const uint64_t key = FIRST_KEY + (uint64_t)k;
        const int model = k % 2 ? 0 : 1 + (k / 2) % (MODELS - 1);
        make_items(&engines[model], key);
        shuffle(&d, model, key, key, kv_types[k / 2 % 4]);
    }
    expect_deeds(&d);
}

/* Requests and what a session answers serve for many shuffles. */
static void L1_of_files(void **state) {
    enum { SERVES = 50 };
    for (int model = 0; model < n_files; model++) {
        tl_engine *e = &engines[model];
        tl_error err = {0};
        char *text;
        size_t n;
        deeds d = {0};
        if (tl__file_slurp(&text, &n, TL_SOURCE_DIR "/docs/decisions.md", 1 << 20, &err)) fail_msg("%s", err.text);
        free(file_text);
        n_file_text = tl__engine_encode(e, &file_text, text, n, false, "docs/decisions.md", &err);
        free(text);
        assert_true(n_file_text > 1000);
        const int first = number_of("FIRST", 0), end = first + number_of("SHUFFLES", 24);
        for (int k = first; k < end; k++) {
            const uint64_t set = FIRST_KEY + (uint64_t)(k / SERVES);
            if (k == first || k % SERVES == 0) make_items(e, set);
            shuffle(&d, model, FIRST_KEY + (uint64_t)k, set, kv_types[(k / SERVES + model) % 4]);
        }
        print_message("%s: %d shuffles, %lld answers, %lld tokens found computed, %lld preemptions, %lld stop texts, "
                      "%lld tokens thought, %lld of %lld proposed kept\n",
                      e->folder, end - first, (long long)d.answers, (long long)d.hits, (long long)d.preemptions,
                      (long long)d.stops, (long long)d.thought, (long long)d.accepted, (long long)d.proposed);
        expect_deeds(&d);
    }
}

/* ---- the rest of the contract ---- */

static tl_batcher *open_batcher(tl_engine *e, const tl_batcher_options *o) {
    tl_batcher *b;
    tl_error err = {0};
    if (tl__batcher_open(&b, e, o, &err)) fail_msg("%s", err.text);
    return b;
}

static void run_out(tl_batcher *b) {
    for (int i = 0; tl__batcher_step(b, 0, NULL) > 0; i++) assert_true(i < 10000);
}

static void what_cannot_be_is_refused_by_name(void **state) {
    tl_engine *e = &engines[0];
    tl_batcher *b;
    tl_error err = {0};
    uint64_t id;
    assert_int_equal(tl__batcher_open(&b, e, &(tl_batcher_options){.kv_type = TL_Q4_0}, &err), TL_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "Q4_0"));
    assert_int_equal(tl__batcher_open(&b, e, &(tl_batcher_options){.look_up = -1}, &err), TL_EINVALID);
    assert_int_equal(tl__batcher_open(&b, e, &(tl_batcher_options){.draft_tokens = 1}, &err), TL_EINVALID);
    assert_int_equal(tl__batcher_open(&b, e, &(tl_batcher_options){.draft = &engines[1]}, &err), TL_EINVALID);
    assert_non_null(strstr(err.text, "same vocabulary"));
    assert_int_equal(tl__batcher_open(&b, e, &(tl_batcher_options){.kv_bytes = 1}, &err), TL_EINVALID);
    assert_int_equal(tl__batcher_open(&b, e, &(tl_batcher_options){.positions = 161}, &err), TL_EINVALID);
    assert_null(b);
    b = open_batcher(e, NULL);
    int32_t prompt[200] = {1, 2, 3};
    const tl_request plain = {.prompt = prompt, .n_prompt = 3, .max_tokens = 2, .event = note, .user = &items[0]};
    tl_request r = plain;
    r.sampling.typical_p = 1.5f;
    assert_int_equal(tl__batcher_submit(b, &r, &id, &err), TL_EINVALID);
    r = plain;
    r.thinking.most = 5;
    assert_int_equal(tl__batcher_submit(b, &r, &id, &err), TL_EINVALID);
    assert_non_null(strstr(err.text, "thinking.close is empty"));
    r.thinking = (tl_thinking){.close = prompt, .n_close = 1, .begun = true, .most = -1, .least = 1};
    assert_int_equal(tl__batcher_submit(b, &r, &id, &err), TL_EINVALID);
    r = plain;
    r.n_prompt = 161;
    assert_int_equal(tl__batcher_submit(b, &r, &id, &err), TL_EINVALID);
    assert_non_null(strstr(err.text, "1 more")); /* says by how much */
    r = plain;
    r.stop = (const char *[]){"a", "\xC3"}; /* half a character */
    r.n_stop = 2;
    assert_int_equal(tl__batcher_submit(b, &r, &id, &err), TL_EINVALID);
    assert_non_null(strstr(err.text, "stop text 1"));
    r = plain;
    prompt[1] = 331;
    assert_int_equal(tl__batcher_submit(b, &r, &id, &err), TL_EINVALID);
    tl__batcher_close(b);
}

static void what_never_fits_and_too_many_are_refused(void **state) {
    tl_engine *e = &engines[0];
    const int64_t page = page_bytes(e, TL_F32);
    tl_batcher *b = open_batcher(e, &(tl_batcher_options){.kv_bytes = 2 * page, .waiting = 2});
    tl_batcher_facts facts;
    tl_error err = {0};
    uint64_t id;
    tl__batcher_describe(b, &facts);
    assert_int_equal(facts.positions, 32);
    int32_t prompt[40] = {0};
    memset(items, 0, sizeof items);
    tl_request r = {.prompt = prompt, .n_prompt = 33, .max_tokens = 2, .event = note, .user = &items[0]};
    assert_int_equal(tl__batcher_submit(b, &r, &id, &err), TL_EINVALID);
    r.n_prompt = 20;
    r.max_tokens = 100; /* as far as there is room */
    r.ignore_eos = true;
    for (int i = 0; i < 2; i++) {
        r.user = &items[i];
        assert_int_equal(tl__batcher_submit(b, &r, &id, &err), 0);
    }
    assert_int_equal(tl__batcher_submit(b, &r, &id, &err), TL_EBUSY);
    run_out(b);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(items[i].got[0].finish, TL_FINISH_LENGTH);
        assert_int_equal(items[i].got[0].n, 12);
    }
    assert_int_equal(tl__batcher_submit(b, &r, &id, &err), 0); /* there is room again; close ends it */
    items[1].got[0] = (answer){0};
    tl__batcher_close(b);
    assert_int_equal(items[1].got[0].finish, TL_FINISH_CANCELLED);
}

/* Two that fit together only for a while: the younger gives way, the older never. */
static void the_younger_gives_its_pages_back(void **state) {
    tl_engine *e = &engines[0];
    const int64_t page = page_bytes(e, TL_F32);
    tl_batcher *b = open_batcher(e, &(tl_batcher_options){.kv_bytes = 4 * page});
    int32_t prompt[17] = {1, 2, 3};
    uint64_t id;
    memset(items, 0, sizeof items);
    for (int i = 0; i < 2; i++) {
        const tl_request r = {.prompt = prompt,
                              .n_prompt = i ? 15 : 17,
                              .max_tokens = 30,
                              .ignore_eos = true,
                              .event = note,
                              .user = &items[i]};
        assert_int_equal(tl__batcher_submit(b, &r, &id, NULL), 0);
    }
    run_out(b);
    for (int i = 0; i < 2; i++) assert_int_equal(items[i].got[0].n, 30);
    assert_int_equal(items[0].usage[0].preemptions, 0);
    assert_true(items[1].usage[0].preemptions > 0);
    tl__batcher_close(b);
}

static void a_deadline_ends_a_request(void **state) {
    tl_engine *e = &engines[0];
    tl_batcher *b = open_batcher(e, NULL);
    int32_t prompt[3] = {1, 2, 3};
    uint64_t id;
    memset(items, 0, sizeof items);
    tl_request r = {.prompt = prompt,
                    .n_prompt = 3,
                    .max_tokens = 9,
                    .choices = 3,
                    .event = note,
                    .user = &items[0],
                    .deadline_ns = 1};
    assert_int_equal(tl__batcher_submit(b, &r, &id, NULL), 0);
    run_out(b);
    for (int c = 0; c < 3; c++) assert_int_equal(items[0].got[c].finish, TL_FINISH_DEADLINE);
    tl__batcher_close(b);
}

/* ---- from several threads ---- */

typedef struct client {
    tl_batcher *b;
    int first;
    bool failed;
} client;

static void *submit_half(void *user) {
    client *c = user;
    for (int i = c->first; i < bounds.requests; i += 2) {
        c->failed |= tl__batcher_submit(c->b, &items[i].asked, &items[i].id, NULL) != 0;
        tl__batcher_cancel(c->b, 1000000 + (uint64_t)i); /* nobody */
        tl_batcher_facts facts;
        tl__batcher_describe(c->b, &facts);
    }
    tl__batcher_wake(c->b);
    return NULL;
}

static void requests_come_from_any_thread(void **state) {
    make_items(&engines[0], 6);
    int choices = 0;
    for (int i = 0; i < bounds.requests; i++) {
        expect(i, 0, 6, TL_F32);
        items[i].asked.event = note;
        items[i].asked.user = &items[i];
        choices += items[i].asked.choices;
    }
    const tl_batcher_options o = {.step_tokens = 50, .look_up = 4, .draft = &drafts[0], .eager = true};
    tl_batcher *b = open_batcher(&engines[0], &o);
    client clients[2] = {{b, 0, false}, {b, 1, false}};
    pthread_t threads[2];
    n_ended = 0;
    for (int i = 0; i < 2; i++) assert_int_equal(pthread_create(&threads[i], NULL, submit_half, &clients[i]), 0);
    for (int steps = 0; n_ended < choices; steps++) {
        assert_true(steps < 20000);
        tl__batcher_step(b, 10000000, NULL);
    }
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    tl__batcher_close(b);
    assert_false(clients[0].failed || clients[1].failed);
    for (int i = 0; i < bounds.requests; i++) check_item(&items[i], false, 6, i);
}

/* ---- what a request may change ---- */

static item *ask(tl_batcher *b, item *it, const tl_request *r) {
    tl_request asked = *r;
    tl_error err = {0};
    memset(it, 0, sizeof *it);
    asked.event = note;
    asked.user = it;
    if (tl__batcher_submit(b, &asked, &it->id, &err)) fail_msg("%s", err.text);
    run_out(b);
    assert_true(it->got[0].finish != TL_FINISH_NONE);
    return it;
}

static void forbid_all_but_9(void *user, const int32_t *made, int n, float *logits) {
    for (int i = 0; i < n; i++)
        if (made[i] != 9) logits[9] = -INFINITY; /* never: the ids made so far are what was told */
    for (int i = 0; i < 331; i++)
        if (i != 9) logits[i] = -INFINITY;
}

static void bias_alternatives_and_least_tokens(void **state) {
    tl_engine *e = &engines[0];
    tl_batcher *b = open_batcher(e, NULL);
    int32_t prompt[5] = {5, 4, 3, 2, 1};
    const tl_request plain = {
        .prompt = prompt, .n_prompt = 5, .max_tokens = 4, .logprobs = true, .alternatives = 4, .ignore_eos = true};
    static item it, other;
    ask(b, &it, &plain);
    for (int t = 0; t < 4; t++) { /* greedy: the likeliest is the pick */
        assert_int_equal(it.top[t][0].id, it.got[0].id[t]);
        assert_memory_equal(&it.top[t][0].logp, &it.got[0].logp[t], sizeof(float));
        for (int k = 1; k < 4; k++) assert_true(it.top[t][k].logp <= it.top[t][k - 1].logp);
    }
    const tl_candidate first = it.top[0][0], second = it.top[0][1];

    tl_request r = plain; /* what is forbidden gives way to the next, whose probability stays the model's */
    const tl_logit_bias never = {first.id, -INFINITY};
    r.bias = &never;
    r.n_bias = 1;
    ask(b, &other, &r);
    assert_int_equal(other.got[0].id[0], second.id);
    assert_memory_equal(&other.got[0].logp[0], &second.logp, sizeof(float));
    assert_int_equal(other.top[0][0].id, first.id);

    r = plain; /* a stop cannot come too early */
    r.stop_id = &first.id;
    r.n_stop_id = 1;
    ask(b, &other, &r);
    assert_int_equal(other.got[0].n, 1);
    assert_int_equal(other.got[0].finish, TL_FINISH_STOP);
    r.min_tokens = 1;
    ask(b, &other, &r);
    assert_int_equal(other.got[0].id[0], second.id);

    r = plain;
    r.constrain = forbid_all_but_9;
    ask(b, &other, &r);
    for (int t = 0; t < 4; t++) assert_int_equal(other.got[0].id[t], 9);
    tl__batcher_close(b);
}

/* Of a prompt that ends inside: exactly as many tokens as may be, then `close` with the probability that the model
 * gives it; and where `close` would come at once it cannot before as many as must be. */
static void a_thought_has_its_bounds(void **state) {
    tl_engine *e = &engines[0];
    tl_batcher *b = open_batcher(e, NULL);
    int32_t prompt[5] = {5, 4, 3, 2, 1}, close[2] = {300, 301};
    tl_request r = {.prompt = prompt, .n_prompt = 5, .max_tokens = 12, .logprobs = true, .ignore_eos = true};
    static item plain, it;
    ask(b, &plain, &r);
    r.thinking = (tl_thinking){.close = close, .n_close = 2, .begun = true, .most = 4};
    ask(b, &it, &r);
    for (int t = 0; t < 12; t++) assert_true(it.got[0].thinks[t] == (t < 4));
    assert_memory_equal(it.got[0].id, plain.got[0].id, 4 * sizeof(int32_t));
    assert_int_equal(it.got[0].id[4], 300);
    assert_int_equal(it.got[0].id[5], 301);
    assert_int_equal(it.got[0].thinking_tokens, 4);
    tl_session *s;
    float logp[11];
    int32_t tokens[11];
    memcpy(tokens, prompt, sizeof prompt);
    memcpy(tokens + 5, it.got[0].id, 6 * sizeof(int32_t));
    assert_int_equal(tl__session_open(&s, &e->model, &e->ctx, 20, 0, NULL), 0);
    assert_int_equal(tl__session_score(s, tokens, 11, -1, logp, NULL), 0);
    assert_memory_equal(&logp[4], it.got[0].logp, 6 * sizeof(float));
    tl__session_close(s);

    r.thinking.most = -1;
    ask(b, &it, &r);
    assert_int_equal(it.got[0].id[0], 300);
    assert_int_equal(it.got[0].thinking_tokens, 0);

    r.thinking = (tl_thinking){.close = plain.got[0].id, .n_close = 1, .begun = true};
    ask(b, &it, &r);
    assert_int_equal(it.got[0].thinking_tokens, 0);
    r.stop_id = &plain.got[0].id[3]; /* an end is no thought */
    r.n_stop_id = 1;
    r.thinking.close = close;
    ask(b, &it, &r);
    assert_int_equal(it.got[0].finish, TL_FINISH_STOP);
    assert_int_equal(it.got[0].thinking_tokens, it.got[0].n - 1);
    assert_false(it.got[0].thinks[it.got[0].n - 1]);
    r.n_stop_id = 0;
    r.thinking.close = plain.got[0].id;
    r.thinking.least = 12;
    ask(b, &it, &r);
    assert_int_equal(it.got[0].thinking_tokens, 12);
    for (int t = 0; t < 12; t++) assert_true(it.got[0].id[t] != plain.got[0].id[0]);
    tl__batcher_close(b);
}

/* A draft that is the model itself is always right, sampled or not: only what is cut off by an end is not kept. */
static void a_draft_that_agrees_is_always_right(void **state) {
    tl_engine *e = &engines[0];
    for (int k = 0; k < 3; k++) {
        tl_batcher *b = open_batcher(e, &(tl_batcher_options){.draft = e, .draft_tokens = 5, .eager = true});
        static item it;
        int32_t prompt[5] = {5, 4, 3, 2, 1};
        tl_request r = {.prompt = prompt, .n_prompt = 5, .max_tokens = 30, .ignore_eos = true};
        if (k > 0) r.sampling = (tl_sampling){.temperature = 1.2f, .seed = 3};
        if (k > 1) r.sampling.repetition_penalty = 1.5f, r.sampling.frequency_penalty = 0.5f;
        ask(b, &it, &r);
        assert_int_equal(it.got[0].n, 30); /* one with the prompt, then six a step */
        assert_int_equal(it.usage[0].proposed, 24);
        assert_int_equal(it.usage[0].accepted, 24);
        tl_batcher_facts facts;
        tl__batcher_describe(b, &facts);
        assert_int_equal(facts.steps, 6);
        assert_int_equal(facts.page_bytes, 2 * page_bytes(e, TL_F32));
        int last = 29; /* the last id that came for the first time: after it nothing is proposed */
        for (int i = 0; i < last; i++)
            if (it.got[0].id[i] == it.got[0].id[last]) last--, i = -1;
        assert_true(last > 1);
        r.stop_id = &it.got[0].id[last];
        r.n_stop_id = 1;
        r.max_tokens = 60;
        static item stopped;
        ask(b, &stopped, &r);
        assert_int_equal(stopped.got[0].finish, TL_FINISH_STOP);
        assert_int_equal(stopped.got[0].n, last + 1);
        assert_int_equal(stopped.usage[0].proposed, last - (last + 5) / 6);
        assert_int_equal(stopped.usage[0].accepted, stopped.usage[0].proposed);
        tl__batcher_close(b);
    }
}

static void an_embedding_has_unit_length_and_its_bits(void **state) {
    tl_engine *e = &engines[0];
    assert_int_equal(e->arch.C, 64);
    static item it, other;
    int32_t prompt[50];
    for (int i = 0; i < 50; i++) prompt[i] = (int32_t)draw(8, (uint64_t)i, 331);
    const tl_request r = {.prompt = prompt, .n_prompt = 50, .embed = true};
    for (int k = 0; k < 2; k++) { /* in one piece, and in many */
        tl_batcher *b = open_batcher(e, &(tl_batcher_options){.step_tokens = k ? 7 : 512});
        ask(b, k ? &other : &it, &r);
        tl__batcher_close(b);
    }
    assert_true(it.embedded && other.embedded);
    assert_memory_equal(it.embedding, other.embedding, sizeof it.embedding);
    double sum = 0;
    for (int i = 0; i < 64; i++) sum += (double)it.embedding[i] * (double)it.embedding[i];
    assert_true(sum > 1 - 1e-6 && sum < 1 + 1e-6); /* 64 roundings to f32, each 2⁻²⁴ of its element: at most 2⁻²³ */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(L1_a_crowd_is_answered_as_one),
        cmocka_unit_test(what_cannot_be_is_refused_by_name),
        cmocka_unit_test(what_never_fits_and_too_many_are_refused),
        cmocka_unit_test(the_younger_gives_its_pages_back),
        cmocka_unit_test(a_deadline_ends_a_request),
        cmocka_unit_test(requests_come_from_any_thread),
        cmocka_unit_test(bias_alternatives_and_least_tokens),
        cmocka_unit_test(a_thought_has_its_bounds),
        cmocka_unit_test(a_draft_that_agrees_is_always_right),
        cmocka_unit_test(an_embedding_has_unit_length_and_its_bits),
    };
    const struct CMUnitTest of_files[] = {cmocka_unit_test(L1_of_files)};
    if (getenv("TRILITH_TEST_MODELS")) return cmocka_run_group_tests(of_files, open_files, close_files);
    return cmocka_run_group_tests(tests, open_engines, close_engines);
}
