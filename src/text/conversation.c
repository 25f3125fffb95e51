/* conversation.c — messages as transformers passes them, and the ids that a model's files say end an answer. */
#include "text/conversation.h"

#include <stdlib.h>
#include <string.h>
#include "base/json.h"
#include "io/file.h"

/* transformers fills `reasoning_content` from older names, and `thinking` for templates that read that. */
static json_t *with_reasoning(const json_t *message) {
    static const char *const names[] = {"reasoning_content", "thinking", "reasoning"};
    json_t *reasoning = NULL;
    for (int i = 0; i < 3 && !reasoning; i++) {
        reasoning = json_object_get(message, names[i]);
        if (json_is_null(reasoning)) reasoning = NULL;
    }
    if (!reasoning) return json_incref((json_t *)message);
    json_t *out = json_object();
    json_object_set(out, "thinking", reasoning);
    json_object_update(out, (json_t *)message);
    json_object_set(out, "reasoning_content", reasoning);
    return out;
}

int tl__conversation_make(json_t **conversation, json_t *messages, tl_error *err) {
    int status = 0;
    json_t *list = json_array();
    for (size_t i = 0; i < json_array_size(messages) && !status; i++) {
        const json_t *message = json_array_get(messages, i);
        if (json_is_object(message)) json_array_append_new(list, with_reasoning(message));
        else status = tl__fail(err, TL_EFORMAT, "message %zu is not an object with \"role\" and \"content\"", i + 1);
    }
    json_decref(messages);
    *conversation = status ? NULL : json_pack("{s:o, s:n, s:n}", "messages", list, "tools", "documents");
    if (status) json_decref(list);
    return status;
}

/* ---- ids that end an answer ---- */

static void add_stop(int32_t *stops, int *n, int64_t id, int V) {
    if (*n < TL_CHAT_STOPS && id >= 0 && id < V) stops[(*n)++] = (int32_t)id;
}

/* "eos_token_id" of a JSON file of the model: a number or a list. A file that is not there says nothing. */
static int read_stops(int32_t *stops, int *n_stops, const char *folder, const char *name, int V, tl_error *err) {
    char path[4096 + 64];
    char *bytes = NULL;
    size_t n = 0;
    tl__path_join(path, sizeof path, folder, name);
    if (!tl__path_exists(path)) return 0;
    TRY(tl__file_slurp(&bytes, &n, path, (size_t)16 << 20, err));
    json_t *root = tl__json_parse(bytes, n, path, err);
    free(bytes);
    if (!root) return TL_EFORMAT;
    const json_t *eos = json_object_get(root, "eos_token_id");
    if (json_is_integer(eos)) add_stop(stops, n_stops, json_integer_value(eos), V);
    for (size_t i = 0; i < json_array_size(eos); i++)
        if (json_is_integer(json_array_get(eos, i)))
            add_stop(stops, n_stops, json_integer_value(json_array_get(eos, i)), V);
    json_decref(root);
    return 0;
}

int tl__conversation_stops(int32_t stops[TL_CHAT_STOPS], int *n, const char *model, const tl_gguf *gguf, int V,
                           tl_error *err) {
    *n = 0;
    if (!gguf) {
        TRY(read_stops(stops, n, model, "config.json", V, err));
        return read_stops(stops, n, model, "generation_config.json", V, err);
    }
    static const char *const keys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    for (int i = 0; i < 3; i++) {
        int64_t id;
        const tl_gguf_value *v = tl__gguf_find(gguf, keys[i]);
        if (v && tl__gguf_int(v, 0, &id)) add_stop(stops, n, id, V);
    }
    return 0;
}
