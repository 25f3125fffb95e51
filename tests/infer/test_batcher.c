/* test_batcher.c — L1 through crowds on models of every family, made here: every request gets the tokens and the
 * log-probability bits that a plain session gives it, whoever else is there, in whatever order they come, however steps
 * are cut, pages run out or are shared. And the rest of what batcher.h promises. */
#include <pthread.h>
#include "families.h"
#include "infer/crowd.h"

enum { MODELS = 1 + TEST_FAMILIES };

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

static tl_engine engines[MODELS], drafts[MODELS];

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

static int close_engines(void **state) {
    tl__tokenizer_close(engines[0].tokenizer);
    for (int k = 0; k < 2 * MODELS; k++) {
        tl_engine *e = k % 2 ? &drafts[k / 2] : &engines[k / 2];
        tl__model_close(&e->model);
        tl__ctx_close(&e->ctx);
    }
    return 0;
}

static subject subject_of(int model) {
    tl_engine *e = &engines[model];
    return (subject){.engine = e,
                     .draft = {NULL, &drafts[model], e},
                     .requests = 20,
                     .prompt = MOST_PROMPT,
                     .made = MOST_MADE,
                     .alike = 25,
                     .positions = e->model.positions};
}

/* ---- the law ---- */

static void L1_a_crowd_is_answered_as_one(void **state) {
    deeds d = {0};
    for (int i = 0, k = number_of("FIRST", 0); i < number_of("SHUFFLES", 24); i++, k++) {
        const uint64_t key = FIRST_KEY + (uint64_t)k;
        const subject s = subject_of(k % 2 ? 0 : 1 + (k / 2) % (MODELS - 1));
        make_items(&s, key);
        const setting how = draw_setting(&s, key, key, kv_types[k / 2 % 4]);
        shuffle(&d, &how, key);
    }
    expect_deeds(&d, 100);
    assert_true(d.stops > 20);
}

/* ---- the rest of the contract ---- */

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
    int first, requests;
    bool failed;
} client;

static void *submit_half(void *user) {
    client *c = user;
    for (int i = c->first; i < c->requests; i += 2) {
        c->failed |= tl__batcher_submit(c->b, &items[i].asked, &items[i].id, NULL) != 0;
        tl__batcher_cancel(c->b, 1000000 + (uint64_t)i); /* nobody */
        tl_batcher_facts facts;
        tl__batcher_describe(c->b, &facts);
    }
    tl__batcher_wake(c->b);
    return NULL;
}

static void requests_come_from_any_thread(void **state) {
    const subject s = subject_of(0);
    int choices = 0;
    make_items(&s, 6);
    for (int i = 0; i < s.requests; i++) {
        expect(&s, i, 6, TL_F32);
        items[i].asked.event = note;
        items[i].asked.user = &items[i];
        choices += choices_of(&items[i]);
    }
    const tl_batcher_options o = {.step_tokens = 50, .look_up = 4, .draft = &drafts[0], .eager = true};
    tl_batcher *b = open_batcher(&engines[0], &o);
    client clients[2] = {{b, 0, s.requests, false}, {b, 1, s.requests, false}};
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
    for (int i = 0; i < s.requests; i++) check_item(&items[i], false, 6, i);
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
    return cmocka_run_group_tests(tests, open_engines, close_engines);
}
