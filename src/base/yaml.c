/* yaml.c — owns the reading of a run's YAML: libyaml's events become a flat list of keys with their values and lines.
 *
 * The file is a person's settings: 1 MiB, 4,096 keys, joined keys of 255 bytes and eight levels are far more than any
 * run has, and bound what hostile bytes can cost. Anything that would need interpretation (anchors, aliases, tags, a
 * second document, lists of lists) is refused by line. */
#include "base/yaml.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#define MAX_BYTES ((size_t)1 << 20)
#define MAX_KEYS 4096
#define MAX_KEY_BYTES 255
#define MAX_DEPTH 8

/* Everything a tl_yaml points to, in a chain that tl__yaml_free walks. */
typedef struct block {
    struct block *next;
    _Alignas(16) char bytes[];
} block;

typedef struct reader {
    yaml_parser_t parser;
    yaml_event_t event; /* the current one; empty (type 0) when none is held */
    tl_yaml *out;
    const char *where;
    tl_error *err;
    int room; /* entries allocated */
} reader;

static void *keep(reader *r, size_t size) {
    block *b = calloc(1, sizeof *b + size);
    if (!b) {
        tl__fail(r->err, TL_ENOMEM, "no memory for %s; free some and try again", r->where);
        return NULL;
    }
    b->next = r->out->memory, r->out->memory = b;
    return b->bytes;
}

static int line_of(const reader *r) {
    return (int)r->event.start_mark.line + 1;
}

static int refuse(reader *r, const char *what, const char *remedy) {
    return tl__fail(r->err, TL_EFORMAT, "%s, line %d: %s; %s", r->where, line_of(r), what, remedy);
}

/* Step to the next event; it holds no anchor, alias or tag. */
static int next(reader *r) {
    yaml_event_delete(&r->event);
    if (!yaml_parser_parse(&r->parser, &r->event)) {
        const char *problem = r->parser.problem ? r->parser.problem : "not YAML";
        return tl__fail(r->err, r->parser.error == YAML_MEMORY_ERROR ? TL_ENOMEM : TL_EFORMAT,
                        "%s, line %d: %s; correct the YAML there", r->where, (int)r->parser.problem_mark.line + 1,
                        problem);
    }
    const yaml_char_t *anchor = NULL, *tag = NULL;
    switch (r->event.type) {
    case YAML_ALIAS_EVENT:
        return refuse(r, "an alias (*name) is not read", "write the value out");
    case YAML_SCALAR_EVENT:
        anchor = r->event.data.scalar.anchor, tag = r->event.data.scalar.tag;
        break;
    case YAML_SEQUENCE_START_EVENT:
        anchor = r->event.data.sequence_start.anchor, tag = r->event.data.sequence_start.tag;
        break;
    case YAML_MAPPING_START_EVENT:
        anchor = r->event.data.mapping_start.anchor, tag = r->event.data.mapping_start.tag;
        break;
    default:
        break;
    }
    if (anchor) return refuse(r, "an anchor (&name) is not read", "remove it");
    if (tag) return refuse(r, "a tag (!name) is not read", "remove it");
    return 0;
}

/* The current scalar's text, kept. */
static const char *text_of(reader *r) {
    const char *value = (const char *)r->event.data.scalar.value;
    size_t n = r->event.data.scalar.length;
    if (memchr(value, 0, n)) {
        refuse(r, "a value holds a NUL byte", "remove it");
        return NULL;
    }
    char *copy = keep(r, n + 1);
    if (copy) memcpy(copy, value, n);
    return copy;
}

static tl_yaml_entry *add_entry(reader *r, const char *key, int line) {
    tl_yaml *out = r->out;
    for (int i = 0; i < out->n; i++)
        if (!strcmp(out->entries[i].key, key)) {
            tl__fail(r->err, TL_EFORMAT, "%s, line %d: \"%s\" is given again (first on line %d); keep one", r->where,
                     line, key, out->entries[i].line);
            return NULL;
        }
    if (out->n == MAX_KEYS) {
        refuse(r, "more than 4096 keys", "is it the right file?");
        return NULL;
    }
    if (out->n == r->room) {
        int room = r->room ? 2 * r->room : 32;
        tl_yaml_entry *grown = keep(r, (size_t)room * sizeof *grown);
        if (!grown) return NULL;
        if (out->n) memcpy(grown, out->entries, (size_t)out->n * sizeof *grown);
        out->entries = grown, r->room = room;
    }
    tl_yaml_entry *e = &out->entries[out->n];
    *e = (tl_yaml_entry){.line = line};
    char *copy = keep(r, strlen(key) + 1);
    if (!copy) return NULL;
    strcpy(copy, key);
    e->key = copy;
    out->n++;
    return e;
}

/* The current event opens a list: its scalars become e's values. */
static int read_list(reader *r, tl_yaml_entry *e) {
    int room = 0, rc;
    while (!(rc = next(r)) && r->event.type != YAML_SEQUENCE_END_EVENT) {
        if (r->event.type != YAML_SCALAR_EVENT)
            return refuse(r, "a list may hold plain values only", "write one value an item");
        if (e->n == room) {
            const char **grown = keep(r, (size_t)(room ? 2 * room : 4) * sizeof *grown);
            if (!grown) return TL_ENOMEM;
            if (e->n) memcpy(grown, e->values, (size_t)e->n * sizeof *grown);
            e->values = grown, room = room ? 2 * room : 4;
        }
        const char *value = text_of(r);
        if (!value) return r->err->status;
        e->values[e->n++] = value;
    }
    return rc;
}

/* The current event opens a mapping whose keys continue `prefix` (prefix_bytes of a buffer with room for the rest). */
static int read_mapping(reader *r, char *prefix, size_t prefix_bytes, int depth) {
    if (depth > MAX_DEPTH) return refuse(r, "nested deeper than 8 levels", "is it the right file?");
    for (int rc;;) {
        if ((rc = next(r))) return rc;
        if (r->event.type == YAML_MAPPING_END_EVENT) return 0;
        if (r->event.type != YAML_SCALAR_EVENT) return refuse(r, "a key must be a plain word", "write \"key: value\"");
        size_t n = r->event.data.scalar.length, dot = prefix_bytes ? 1 : 0;
        const char *word = (const char *)r->event.data.scalar.value;
        if (!n || memchr(word, 0, n) || prefix_bytes + dot + n > MAX_KEY_BYTES)
            return refuse(r, "a key must have 1 to 255 bytes", "correct it");
        if (dot) prefix[prefix_bytes] = '.';
        memcpy(prefix + prefix_bytes + dot, word, n);
        prefix[prefix_bytes + dot + n] = 0;
        int line = line_of(r);
        if ((rc = next(r))) return rc;
        if (r->event.type == YAML_MAPPING_START_EVENT) {
            if ((rc = read_mapping(r, prefix, prefix_bytes + dot + n, depth + 1))) return rc;
            continue;
        }
        tl_yaml_entry *e = add_entry(r, prefix, line);
        if (!e) return r->err->status;
        if (r->event.type == YAML_SEQUENCE_START_EVENT) {
            if ((rc = read_list(r, e))) return rc;
            continue;
        }
        e->values = keep(r, sizeof *e->values);
        const char *value = e->values ? text_of(r) : NULL;
        if (!value) return r->err->status;
        e->values[0] = value, e->n = 1;
    }
}

static int read_stream(reader *r) {
    char key[MAX_KEY_BYTES + 1] = "";
    int rc = next(r); /* stream start */
    if (!rc) rc = next(r);
    if (rc || r->event.type == YAML_STREAM_END_EVENT) return rc; /* nothing but comments: no keys */
    if ((rc = next(r))) return rc;
    if (r->event.type == YAML_MAPPING_START_EVENT) rc = read_mapping(r, key, 0, 1);
    else if (r->event.type != YAML_SCALAR_EVENT || r->event.data.scalar.length)
        return refuse(r, "a mapping was expected", "write one \"key: value\" a line");
    if (rc || (rc = next(r)) || (rc = next(r))) return rc; /* document end, then stream end */
    return r->event.type == YAML_STREAM_END_EVENT ? 0 : refuse(r, "a second document follows", "keep one");
}

int tl__yaml_parse(tl_yaml *out, const char *bytes, size_t size, const char *where, tl_error *err) {
    *out = (tl_yaml){0};
    if (size > MAX_BYTES)
        return tl__fail(err, TL_EFORMAT,
                        "%s is %zu bytes long; a YAML file of settings has at most %zu: is it the right file?", where,
                        size, MAX_BYTES);
    tl_error unseen; /* err may be NULL, but the reader asks what went wrong */
    reader r = {.out = out, .where = where, .err = err ? err : &unseen};
    if (!yaml_parser_initialize(&r.parser))
        return tl__fail(err, TL_ENOMEM, "no memory to read %s; free some and try again", where);
    yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)bytes, size);
    int rc = read_stream(&r);
    yaml_event_delete(&r.event);
    yaml_parser_delete(&r.parser);
    if (rc) tl__yaml_free(out);
    return rc;
}

void tl__yaml_free(tl_yaml *yaml) {
    for (block *b = yaml->memory, *after; b; b = after) {
        after = b->next;
        free(b);
    }
    *yaml = (tl_yaml){0};
}
