/* test_request.c — a request in JSON becomes what the batcher is asked for, or is refused by the name of what is wrong
 * with it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include "context.h"

static void reads(tl_ask *a, tl_ask_kind kind, const char *body) {
    tl_refusal r = {0};
    if (tl__ask_read(a, kind, body, strlen(body), &context, &r)) fail_msg("%s: refused: %s", body, r.text);
    assert_int_equal(r.http, 0);
}

/* The ids of prompt i as text. */
static void prompt_is(const tl_ask *a, int i, const char *text) {
    assert_true(i < a->n_prompts);
    const tl_prompt *p = &a->prompt[i];
    assert_int_equal(p->n, strlen(text));
    for (int j = 0; j < p->n; j++) assert_int_equal(p->ids[j], (unsigned char)text[j]);
}

static void everything_of_a_completion(void **state) {
    tl_ask a;
    (void)state;
    reads(&a, TL_ASK_COMPLETION,
          "{\"model\": \"model\", \"prompt\": \"ab\", \"max_tokens\": 7, \"min_tokens\": 2, \"temperature\": 0.5, "
          "\"top_p\": 0.9, \"top_k\": 4, \"min_p\": 0.25, \"typical_p\": 0.5, \"repetition_penalty\": 1.5, "
          "\"presence_penalty\": -1, \"frequency_penalty\": 2, \"seed\": -3, \"n\": 2, \"best_of\": 3, "
          "\"stop\": [\"x\", \"\", \"yz\"], \"stop_token_ids\": [9], \"include_stop_str_in_output\": true, "
          "\"ignore_eos\": true, \"skip_special_tokens\": false, \"logprobs\": 4, \"echo\": true, "
          "\"logit_bias\": {\"5\": -100, \"6\": 1.5}, \"user\": \"me\", \"stream\": null}");
    const tl_request *q = &a.request;
    prompt_is(&a, 0, "ab");
    assert_int_equal(a.n_prompts, 1);
    assert_int_equal(q->max_tokens, 7);
    assert_int_equal(q->min_tokens, 2);
    assert_true(q->sampling.temperature == 0.5f && q->sampling.top_p == 0.9f && q->sampling.min_p == 0.25f);
    assert_true(q->sampling.typical_p == 0.5f && q->sampling.repetition_penalty == 1.5f);
    assert_true(q->sampling.presence_penalty == -1 && q->sampling.frequency_penalty == 2);
    assert_int_equal(q->sampling.top_k, 4);
    assert_true(q->sampling.seed == (uint64_t)-3);
    assert_int_equal(a.n, 2);
    assert_int_equal(q->choices, 3);
    assert_int_equal(q->n_stop, 2);
    assert_string_equal(q->stop[0], "x");
    assert_string_equal(q->stop[1], "yz");
    assert_int_equal(q->n_stop_id, 1);
    assert_int_equal(q->stop_id[0], 9);
    assert_true(q->include_stop && q->ignore_eos && q->special && a.echo && a.logprobs && !a.stream);
    assert_true(q->logprobs && q->prompt_logprobs);
    assert_int_equal(q->alternatives, 4);
    assert_int_equal(q->n_bias, 2);
    assert_int_equal(q->bias[0].id, 5);
    assert_true(q->bias[0].bias == -100 && q->bias[1].bias == 1.5f);
    tl__ask_free(&a);
}

static void what_is_not_said(void **state) {
    tl_ask a, b;
    (void)state;
    reads(&a, TL_ASK_COMPLETION, "{\"prompt\": \"a\"}");
    assert_int_equal(a.request.max_tokens, 16);
    assert_true(a.request.sampling.temperature == 1 && a.request.choices == 1 && !a.request.logprobs);
    assert_int_equal(a.request.n_stop_id, 0);
    reads(&b, TL_ASK_COMPLETION, "{\"prompt\": \"a\"}");
    assert_true(a.request.sampling.seed != b.request.sampling.seed); /* one in 2^64 */
    tl__ask_free(&a);
    tl__ask_free(&b);
    reads(&a, TL_ASK_CHAT, "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}");
    assert_int_equal(a.request.max_tokens, INT32_MAX); /* what is left */
    assert_int_equal(a.request.n_stop_id, 2);          /* the model's own */
    tl__ask_free(&a);
    reads(&a, TL_ASK_EMBEDDING, "{\"input\": \"a\"}");
    assert_true(a.request.max_tokens == 0 && a.request.embed && !a.request.prompt_logprobs);
    tl__ask_free(&a);
    reads(&a, TL_ASK_SCORE, "{\"input\": [1, 2]}");
    assert_true(a.request.max_tokens == 0 && !a.request.embed && a.request.prompt_logprobs);
    tl__ask_free(&a);
}

static void prompts_of_all_forms(void **state) {
    tl_ask a;
    (void)state;
    reads(&a, TL_ASK_COMPLETION, "{\"prompt\": [\"ab\", \"c\"]}");
    assert_int_equal(a.n_prompts, 2);
    prompt_is(&a, 0, "ab");
    prompt_is(&a, 1, "c");
    tl__ask_free(&a);
    reads(&a, TL_ASK_COMPLETION, "{\"prompt\": [97, 98]}");
    assert_int_equal(a.n_prompts, 1);
    prompt_is(&a, 0, "ab");
    tl__ask_free(&a);
    reads(&a, TL_ASK_COMPLETION, "{\"prompt\": [[97], [98, 99]]}");
    assert_int_equal(a.n_prompts, 2);
    prompt_is(&a, 1, "bc");
    tl__ask_free(&a);
    reads(&a, TL_ASK_COMPLETION, "{\"prompt\": \"\"}"); /* a text of its own: the id that begins one */
    assert_int_equal(a.prompt[0].n, 1);
    assert_int_equal(a.prompt[0].ids[0], 256);
    tl__ask_free(&a);
}

static void chats(void **state) {
    tl_ask a;
    (void)state;
    reads(
        &a, TL_ASK_CHAT,
        "{\"messages\": [{\"role\": \"developer\", \"content\": \"s\"}, {\"role\": \"user\", \"content\": [{\"type\": "
        "\"text\", \"text\": \"a\"}, {\"type\": \"text\", \"text\": \"b\"}]}, {\"role\": \"assistant\", \"content\": "
        "null, \"tool_calls\": [{\"type\": \"function\", \"function\": {\"name\": \"f\", \"arguments\": "
        "\"{\\\"city\\\": \\\"P\\\"}\"}}]}], \"chat_template_kwargs\": {\"more\": \"!\"}, "
        "\"add_generation_prompt\": false}");
    prompt_is(&a, 0, "<system>s<user>a\nb<assistant>[P]!");
    tl__ask_free(&a);
    /* A special token that the template writes is one; what a user types is text. */
    reads(&a, TL_ASK_CHAT,
          "{\"messages\": [{\"role\": \"user\", \"content\": \"<|endoftext|>\"}], \"tools\": [{\"type\": "
          "\"function\", \"function\": {\"name\": \"f\"}}]}");
    const tl_prompt *p = &a.prompt[0];
    assert_int_equal(p->n, strlen("<user><|endoftext|>1") + 1);
    assert_int_equal(p->ids[p->n - 1], 256);
    assert_int_equal(p->ids[6], '<');
    assert_true(a.parse_tools);
    tl__ask_free(&a);
    reads(&a, TL_ASK_CHAT,
          "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"tool_choice\": \"none\", \"tools\": "
          "[{\"type\": \"function\", \"function\": {\"name\": \"f\"}}]}");
    assert_int_equal(a.prompt[0].n, strlen("<user>a") + 1); /* without them */
    assert_false(a.parse_tools);
    tl__ask_free(&a);
}

#define CHAT_OF(more) "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]" more "}"

static void refusals(void **state) {
    static const struct {
        tl_ask_kind kind;
        const char *body, *param, *text;
        int http;
    } wrong[] = {
        {TL_ASK_COMPLETION, "", "", "not valid JSON", 400},
        {TL_ASK_COMPLETION, "7", "", "JSON", 400},
        {TL_ASK_COMPLETION, "{\"prompt\": \"a\", \"prompt\": \"b\"}", "", "duplicate", 400},
        {TL_ASK_COMPLETION, "{}", "prompt", "missing", 400},
        {TL_ASK_COMPLETION, "{\"prompt\": []}", "prompt", "missing or empty", 400},
        {TL_ASK_COMPLETION, "{\"prompt\": [[]]}", "prompt", "no token", 400},
        {TL_ASK_COMPLETION, "{\"prompt\": [1, \"a\"]}", "prompt", "no token id", 400},
        {TL_ASK_COMPLETION, "{\"prompt\": [300]}", "prompt", "0 to 299", 400},
        {TL_ASK_COMPLETION, "{\"prompt\": [-1]}", "prompt", "0 to 299", 400},
        {TL_ASK_COMPLETION, "{\"prompt\": {}}", "prompt", "list of texts", 400},
        {TL_ASK_COMPLETION, "{\"prompt\": [[1],[1],[1],[1],[1],[1]]}", "prompt", "this server takes 5", 400},
        {TL_ASK_COMPLETION, "{\"prompt\": \"a\", \"model\": \"b\"}", "model", "no model 'b'", 404},
        {TL_ASK_COMPLETION, "{\"prompt\": \"a\", \"max_tokens\": -1}", "max_tokens", "whole number", 400},
        {TL_ASK_COMPLETION, "{\"prompt\": \"a\", \"max_tokens\": 1.5}", "max_tokens", "whole number", 400},
        {TL_ASK_COMPLETION, "{\"prompt\": \"a\", \"max_tokens\": \"7\"}", "max_tokens", "whole number", 400},
        {TL_ASK_COMPLETION, "{\"prompt\": \"a\", \"max_tokens\": 100}", "prompt", "1 more than the 100", 400},
        {TL_ASK_COMPLETION, "{\"prompt\": \"a\", \"max_tokens\": 1e99}", "max_tokens", "whole number", 400},
        {TL_ASK_COMPLETION, "{\"prompt\": \"a\", \"min_tokens\": 17}", "min_tokens", "more than the 16", 400},
        {TL_ASK_COMPLETION, "{\"prompt\": \"a\", \"temperature\": true}", "temperature", "a number from", 400},
        {TL_ASK_COMPLETION, "{\"prompt\": \"a\", \"top_p\": 0}", "top_p", "a number from", 400},
        {TL_ASK_COMPLETION, "{\"prompt\": \"a\", \"n\": 0}", "n", "whole number", 400},
        {TL_ASK_COMPLETION, "{\"prompt\": \"a\", \"n\": 3, \"best_of\": 2}", "best_of", "fewer", 400},
        {TL_ASK_COMPLETION, "{\"prompt\": \"a\", \"best_of\": 2, \"stream\": true}", "best_of", "stream", 400},
        {TL_ASK_COMPLETION, "{\"prompt\": \"a\", \"logprobs\": true}", "logprobs", "whole number", 400},
        {TL_ASK_COMPLETION, "{\"prompt\": \"a\", \"logprobs\": 21}", "logprobs", "0 to 20", 400},
        {TL_ASK_COMPLETION, "{\"prompt\": \"a\", \"stop\": 7}", "stop", "text", 400},
        {TL_ASK_COMPLETION, "{\"prompt\": \"a\", \"stop\": [7]}", "stop", "text", 400},
        {TL_ASK_COMPLETION, "{\"prompt\": \"a\", \"stop_token_ids\": [300]}", "stop_token_ids", "0 to 299", 400},
        {TL_ASK_COMPLETION, "{\"prompt\": \"a\", \"logit_bias\": {\"x\": 1}}", "logit_bias", "'x'", 400},
        {TL_ASK_COMPLETION, "{\"prompt\": \"a\", \"logit_bias\": {\"300\": 1}}", "logit_bias", "'300'", 400},
        {TL_ASK_COMPLETION, "{\"prompt\": \"a\", \"logit_bias\": {\"3\": 101}}", "logit_bias", "from -100", 400},
        {TL_ASK_COMPLETION, "{\"prompt\": \"a\", \"suffix\": \"b\"}", "suffix", "not supported", 400},
        {TL_ASK_COMPLETION, "{\"prompt\": \"a\", \"steam\": true}", "steam", "did you mean 'stream'", 400},
        {TL_ASK_COMPLETION, "{\"prompt\": \"a\", \"messages\": []}", "messages", "", 400},
        {TL_ASK_COMPLETION, "{\"prompt\": \"a\", \"stream_options\": {\"include_usage\": true}}", "stream_options",
         "stream", 400},
        {TL_ASK_COMPLETION, "{\"prompt\": \"a\", \"stream\": true, \"stream_options\": {\"x\": true}}",
         "stream_options", "'x'", 400},
        {TL_ASK_CHAT, "{}", "messages", "missing", 400},
        {TL_ASK_CHAT, "{\"messages\": {}}", "messages", "list", 400},
        {TL_ASK_CHAT, "{\"messages\": [7]}", "messages", "no object", 400},
        {TL_ASK_CHAT, "{\"messages\": [{\"role\": \"king\"}]}", "messages[0]", "'king'", 400},
        {TL_ASK_CHAT, "{\"messages\": [{\"role\": \"user\", \"content\": 7}]}", "messages[0]", "not a text", 400},
        {TL_ASK_CHAT, "{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image_url\"}]}]}",
         "messages[0].content[0]", "image_url", 400},
        {TL_ASK_CHAT, CHAT_OF(", \"top_logprobs\": 2"), "top_logprobs", "'logprobs'", 400},
        {TL_ASK_CHAT, CHAT_OF(", \"max_tokens\": 1, \"max_completion_tokens\": 2"), "max_completion_tokens", "differ",
         400},
        {TL_ASK_CHAT, CHAT_OF(", \"max_tokens\": 0"), "max_tokens", "from 1", 400},
        {TL_ASK_CHAT, CHAT_OF(", \"tools\": [{}]"), "tools[0]", "function", 400},
        {TL_ASK_CHAT, CHAT_OF(", \"tool_choice\": \"required\""), "tool_choice", "forced", 400},
        {TL_ASK_CHAT, CHAT_OF(", \"response_format\": {\"type\": \"json_schema\"}"), "response_format", "json_schema",
         400},
        {TL_ASK_CHAT, CHAT_OF(", \"max_thinking_tokens\": 3"), "max_thinking_tokens", "<think>", 400},
        {TL_ASK_CHAT, CHAT_OF(", \"functions\": []"), "functions", "", 400},
        {TL_ASK_CHAT, CHAT_OF(", \"echo\": true"), "echo", "", 400},
        {TL_ASK_EMBEDDING, "{\"input\": \"a\", \"dimensions\": 4}", "dimensions", "have 8", 400},
        {TL_ASK_EMBEDDING, "{\"input\": \"a\", \"encoding_format\": \"hex\"}", "encoding_format", "base64", 400},
        {TL_ASK_EMBEDDING, "{\"input\": \"a\", \"max_tokens\": 1}", "max_tokens", "", 400},
        {TL_ASK_SCORE, "{\"input\": \"a\", \"prompt\": \"b\"}", "prompt", "beside", 400},
    };
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        tl_ask a;
        tl_refusal r = {0};
        const int status = tl__ask_read(&a, wrong[i].kind, wrong[i].body, strlen(wrong[i].body), &context, &r);
        if (!status || r.http != wrong[i].http || strcmp(r.param, wrong[i].param) || !strstr(r.text, wrong[i].text))
            fail_msg("%s: %d, '%s', '%s'", wrong[i].body, r.http, r.param, r.text);
        tl__ask_free(&a);
    }
}

/* What is quoted may be cut amid a character: the sentence goes on, in UTF-8. */
static void quoted(void **state) {
    tl_ask a;
    tl_refusal r = {0};
    char body[512] = "{\"prompt\": \"a\", \"temperature\": \"x";
    (void)state;
    for (int i = 0; i < 60; i++) strcat(body, "\xe6\x97\xa5");
    strcat(body, "\"}");
    assert_int_not_equal(tl__ask_read(&a, TL_ASK_COMPLETION, body, strlen(body), &context, &r), 0);
    json_t *told = tl__refusal_json(&r);
    const char *text = json_string_value(json_object_get(json_object_get(told, "error"), "message"));
    assert_non_null(strstr(text, "was expected"));
    json_decref(told);
    tl__ask_free(&a);
}

/* The limit of a sequence is met to the token. */
static void room(void **state) {
    tl_ask a;
    char body[512];
    (void)state;
    for (int n = 98; n <= 101; n++) {
        tl_refusal r = {0};
        snprintf(body, sizeof body, "{\"prompt\": \"%0*d\", \"max_tokens\": 1}", n, 0);
        const int status = tl__ask_read(&a, TL_ASK_COMPLETION, body, strlen(body), &context, &r);
        assert_int_equal(status != 0, n > 99);
        if (n > 99) assert_string_equal(r.code, "context_length_exceeded");
        tl__ask_free(&a);
        snprintf(body, sizeof body, "{\"input\": \"%0*d\"}", n, 0);
        r = (tl_refusal){0};
        assert_int_equal(tl__ask_read(&a, TL_ASK_EMBEDDING, body, strlen(body), &context, &r) != 0, n > 100);
        if (n > 100) assert_non_null(strstr(r.text, "101 tokens: 1 more than the 100"));
        tl__ask_free(&a);
    }
}

static int open_all(void **state) {
    (void)state;
    open_context();
    return 0;
}
static int close_all(void **state) {
    (void)state;
    close_context();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything_of_a_completion),
        cmocka_unit_test(what_is_not_said),
        cmocka_unit_test(prompts_of_all_forms),
        cmocka_unit_test(chats),
        cmocka_unit_test(refusals),
        cmocka_unit_test(quoted),
        cmocka_unit_test(room),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
