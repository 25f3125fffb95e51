/* cmd_template.c — `trilith template`: a conversation as a model's chat template writes it. */
#include <stdio.h>
#include "cli/cli.h"
#include "cli/conversation.h"
#include "infer/engine.h"
#include "text/chat_template.h"

typedef struct settings {
    const char *model, *file, *messages, *tools;
    tl_list set;
    bool generation_prompt, json;
} settings;

static const tl_option options[] = {
    {"model", TL_STRING(settings, model), .value = "M",
     .help = "A Hugging Face folder (chat_template.jinja, or tokenizer_config.json), a run, or a GGUF file, whose template "
             "and special tokens are taken."},
    {"file", TL_STRING(settings, file), .value = "FILE",
     .help = "A template in a file of its own, without --model or in place of the model's."},
    {"messages", TL_STRING(settings, messages), .value = "FILE", .required = true,
     .help = "A JSON list of messages, or an object with \"messages\", \"tools\" and \"documents\"."},
    {"tools", TL_STRING(settings, tools), .value = "FILE", .help = "A JSON list of tools, as JSON schemas."},
    {"generation-prompt", TL_FLAG(settings, generation_prompt), .help = "End with what begins the model's answer."},
    {"set", TL_LIST(settings, set), .value = "KEY=JSON",
     .help = "More variables, as enable_thinking=false or date_string='\"26 Jul 2024\"'; may be repeated."},
    {"json", TL_FLAG(settings, json), .not_in_yaml = true,
     .help = "Print one JSON object (text; data: a list of [begin, end) in bytes that came from the conversation) and "
             "nothing else."},
    {0}};

static json_t *as_json(const tl_rendering *r) {
    json_t *spans = json_array();
    for (size_t i = 0; r->data && i < r->n;) {
        size_t end = i;
        while (end < r->n && r->data[end] == r->data[i]) end++;
        if (r->data[i]) json_array_append_new(spans, json_pack("[I, I]", (json_int_t)i, (json_int_t)end));
        i = end;
    }
    return json_pack("{s:s%, s:o}", "text", r->text, r->n, "data", spans);
}

/* A run stands for its newest checkpoint; a folder with a tokenizer alone for itself. */
static const char *model_of(const settings *o, char *place, size_t size) {
    return o->model && tl__model_folder(place, size, o->model, NULL) == 0 ? place : o->model;
}

static int run(tl_cli *cli) {
    const settings *o = cli->values;
    if (!o->model && !o->file)
        return tl__cli_bad(cli, "no template was given; name a model with --model or a file with --file");
    char place[4096];
    const char *model = model_of(o, place, sizeof place);
    tl_chat_template chat = {0};
    tl_rendering text = {0};
    json_t *conversation = NULL, *values = json_pack("{s:b}", "add_generation_prompt", o->generation_prompt);
    tl_error err = {0};
    int status = tl__conversation_read(&conversation, o->messages, o->tools, &err);
    bool tools = json_array_size(json_object_get(conversation, "tools")) > 0;
    if (!status && model && !o->file) status = tl__chat_template_open(&chat, model, NULL, tools, &err);
    else if (!status && model) status = tl__chat_template_tokens(&chat, model, NULL, &err);
    if (!status && o->file) status = tl__chat_template_file(&chat, o->file, &err);
    if (!status) json_object_update_missing(values, chat.tokens);
    if (!status) status = tl__settings_add(values, &o->set, &err);
    if (!status) status = tl__template_render(chat.template, conversation, values, NULL, &text, &err);
    int code = TL_EXIT_DONE;
    if (status) code = tl__cli_fail(cli, &err);
    else if (o->json) code = tl__cli_print_json(cli, as_json(&text));
    else fwrite(text.text, 1, text.n, stdout);
    tl__rendering_free(&text);
    tl__chat_template_close(&chat);
    json_decref(conversation);
    json_decref(values);
    return code;
}

const tl_command tl__cmd_template = {
    .name = "template",
    .summary = "write a conversation as a model's chat template does",
    .usage = "(--model M | --file FILE) --messages FILE [--tools FILE] [--generation-prompt] [--set KEY=JSON…]",
    .about = "Prints the text that a model would be given, exactly: no line break is added. It is, byte for byte, what "
             "apply_chat_template(…, tokenize=False) of transformers gives. docs/templates.md says what templates may "
             "hold.",
    .examples = "  trilith template --model models/smollm2 --messages chat.json --generation-prompt\n"
                "      what the model sees before it answers\n"
                "  trilith template --file my.jinja --messages chat.json --set bos_token='\"<s>\"'\n"
                "      a template of one's own\n",
    .options = options,
    .values_bytes = sizeof(settings),
    .run = run,
};
