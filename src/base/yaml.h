/* yaml.h — a run's YAML file as a flat list of (key, values, line): one mapping of scalars and lists of scalars,
 * through libyaml. Nested mappings join their keys with '.'. Anchors, aliases, tags and duplicate keys are refused by
 * line. */
#ifndef TL_BASE_YAML_H
#define TL_BASE_YAML_H

#include "base/error.h"

typedef struct tl_yaml_entry {
    const char *key;
    const char **values; /* n of them; a scalar is one */
    int n, line;
} tl_yaml_entry;

typedef struct tl_yaml {
    tl_yaml_entry *entries;
    int n;
    void *memory;
} tl_yaml;

int tl__yaml_parse(tl_yaml *out, const char *bytes, size_t size, const char *where, tl_error *err);
void tl__yaml_free(tl_yaml *yaml);

#endif
