/* template.h — chat templates: the part of Jinja that they are written in, compiled once and rendered many times.
 *
 * The output is, byte for byte, that of jinja2 as transformers sets it up (trim_blocks, lstrip_blocks, loop controls,
 * the `generation` block, its own tojson, no mutation of lists and dicts); what is an error there is an error here.
 * docs/templates.md says what is read and where the two differ. Every byte of the output is marked as the template's
 * own or as the conversation's, so that what a user types never becomes a special token.
 *
 * Templates are hostile: source, nesting, steps, values and output are bounded. A compiled template is read-only and
 * may be rendered by several threads at once. */
#ifndef TL_TEXT_TEMPLATE_H
#define TL_TEXT_TEMPLATE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/error.h"

/* A source, its nesting when compiled, and the nesting of blocks, calls and expressions when rendered. */
#define TL_TEMPLATE_SOURCE_BYTES ((size_t)1 << 20)
#define TL_TEMPLATE_DEPTH 100
#define TL_TEMPLATE_CALLS 600

typedef struct tl_template tl_template;

/* name goes into errors: "chat_template.jinja". Errors give line and column. */
int tl__template_compile(tl_template **template, const char *source, size_t n, const char *name, tl_error *err);
void tl__template_free(tl_template *template);

typedef struct tl_template_limits {
    int64_t steps;       /* expressions and statements evaluated, and 64 bytes of text made count as one */
    size_t memory_bytes; /* of values, the output among them */
} tl_template_limits;
extern const tl_template_limits tl__template_limits; /* 20 million steps, 256 MiB */

typedef struct tl_rendering {
    char *text; /* UTF-8, n bytes and a NUL */
    size_t n;
    unsigned char *data; /* [n] 1: the byte came from the conversation; NULL: none did */
} tl_rendering;

/* Both are objects whose members the template sees as variables: the conversation's strings (messages, tools,
 * documents) are data, a message's role if it is a plain word excepted; the settings' (bos_token,
 * add_generation_prompt, …) are not, and go before. limits: NULL for the usual ones. An error of the template's own
 * raise_exception is its sentence alone. */
int tl__template_render(const tl_template *template, const json_t *conversation, const json_t *settings,
                        const tl_template_limits *limits, tl_rendering *out, tl_error *err);
void tl__rendering_free(tl_rendering *rendering);

#endif
