/* Any bytes as a template and, after a line "====", a conversation: a sentence, or the same text on every rendering, in
 * UTF-8, with a mark for each of its bytes; within its bounds whatever the template does. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "base/json.h"
#include "heap.h"
#include "text/template.h"
#include "text/unicode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static json_t *conversation_of(const char *bytes, size_t n) {
    json_t *root = n ? tl__json_parse_exact(bytes, n, "input", NULL) : NULL;
    if (json_is_object(root)) return root;
    json_t *out = json_pack("{s:o}", "messages", root ? root : json_array());
    return out;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const tl_template_limits limits = {.steps = 200000, .memory_bytes = (size_t)16 << 20};
    static const char cut[] = "\n====\n";
    const char *text = (const char *)data, *parted = size ? memmem(text, size, cut, sizeof cut - 1) : NULL;
    size_t n = parted ? (size_t)(parted - text) : size, rest = parted ? size - n - (sizeof cut - 1) : 0;
    tl_error err = {0};
    tl_template *t;
    heap_watch();
    int compiled = tl__template_compile(&t, text, n, "input", &err);
    heap_check((size_t)128 << 10, 32, n); /* an arena, whose pieces double */
    if (compiled) {
        if (err.status >= 0 || !err.text[0] || t) abort();
        return 0;
    }
    json_t *conversation = conversation_of(parted ? parted + sizeof cut - 1 : NULL, rest);
    json_t *settings = json_pack("{s:b, s:s}", "add_generation_prompt", 1, "bos_token", "<s>");
    tl_rendering one, two;
    int first = tl__template_render(t, conversation, settings, &limits, &one, &err);
    int again = tl__template_render(t, conversation, settings, &limits, &two, NULL);
    bool clock = memmem(text, n, "strftime_now", 12) != NULL;
    if (first > 0 || (first && (!err.text[0] || one.text)) || (!clock && first != again)) abort();
    if (!first && tl__utf8_valid((uint8_t *)one.text, one.n) != one.n) abort();
    if (!first && !again && !clock && (one.n != two.n || memcmp(one.text, two.text, one.n))) abort();
    for (size_t i = 0; !first && one.data && i < one.n; i++)
        if (one.data[i] > 1) abort();
    tl__rendering_free(&one);
    tl__rendering_free(&two);
    tl__template_free(t);
    json_decref(conversation);
    json_decref(settings);
    return 0;
}
