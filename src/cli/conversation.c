/* conversation.c — reads and checks what a chat template is given, before it is given. */
#include "cli/conversation.h"

#include <stdlib.h>
#include <string.h>
#include "base/json.h"
#include "io/file.h"

#define FILE_BYTES ((size_t)64 << 20)

static int read_file(json_t **out, const char *path, tl_error *err) {
    char *bytes = NULL;
    size_t n = 0;
    int status = tl__file_slurp(&bytes, &n, path, FILE_BYTES, err);
    if (status) return status;
    *out = tl__json_parse_exact(bytes, n, path, err);
    free(bytes);
    return *out ? 0 : TL_EFORMAT;
}

int tl__conversation_tools(json_t *conversation, const char *tools, tl_error *err) {
    json_t *list = NULL;
    int status = read_file(&list, tools, err);
    if (!status && !json_is_array(list)) status = tl__fail(err, TL_EFORMAT, "%s: a list of tools was expected", tools);
    if (!status) json_object_set(conversation, "tools", list);
    json_decref(list);
    return status;
}

int tl__conversation_read(json_t **conversation, const char *messages, const char *tools, tl_error *err) {
    json_t *root = NULL;
    *conversation = NULL;
    int status = read_file(&root, messages, err);
    if (status) return status;
    json_t *found = json_is_object(root) ? json_object_get(root, "messages") : root;
    if (json_is_array(found)) status = tl__conversation_make(conversation, json_incref(found), err);
    else status = tl__fail(err, TL_EFORMAT, "a list of messages, or an object with \"messages\", was expected");
    if (status) tl__error_prefix(err, "%s", messages);
    for (int i = 0; i < 2 && !status; i++) {
        const char *key = i == 0 ? "tools" : "documents";
        json_t *value = json_is_object(root) ? json_object_get(root, key) : NULL;
        if (value) json_object_set(*conversation, key, value);
    }
    json_decref(root);
    if (!status && tools) status = tl__conversation_tools(*conversation, tools, err);
    if (status) {
        json_decref(*conversation);
        *conversation = NULL;
    }
    return status;
}

int tl__settings_add(json_t *settings, const tl_list *entries, tl_error *err) {
    for (int i = 0; i < entries->n; i++) {
        const char *entry = entries->values[i], *equals = strchr(entry, '=');
        if (!equals || equals == entry)
            return tl__fail(err, TL_EINVALID, "--set takes KEY=JSON, as enable_thinking=false, and not '%s'", entry);
        char wrapped[64];
        snprintf(wrapped, sizeof wrapped, "--set %.40s", entry);
        size_t n = strlen(equals + 1);
        char *list = malloc(n + 3);
        if (!list) return tl__fail(err, TL_ENOMEM, "not enough memory for --set");
        snprintf(list, n + 3, "[%s]", equals + 1); /* a lone value of any kind becomes a document */
        json_t *value = tl__json_parse_exact(list, n + 2, wrapped, err);
        free(list);
        if (!value) return TL_EINVALID;
        json_object_setn(settings, entry, (size_t)(equals - entry), json_array_get(value, 0));
        json_decref(value);
    }
    return 0;
}
