/* cli_yaml.c — a command's settings as a YAML file: read into the option table, and written so that they read back the
 * same. */
#include "cli/cli.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/json.h"
#include "io/file.h"

#define YAML_LIMIT_BYTES ((size_t)1 << 20)

int tl__cli_yaml_option(const tl_cli *cli, const tl_yaml_entry *e, const char *path, tl_error *err) {
    const tl_option *options = cli->command->options;
    int i = tl__options_find(options, e->key, strlen(e->key));
    if (i < 0 || options[i].not_in_yaml) {
        if (i >= 0)
            return tl__fail(err, TL_EINVALID, "%s line %d: '%.60s' belongs on the command line, not in the file", path,
                            e->line, e->key);
        const char *nearest = tl__options_nearest(options, e->key);
        if (nearest)
            return tl__fail(err, TL_EINVALID, "%s line %d: unknown key '%.60s'; did you mean '%s'?", path, e->line,
                            e->key, nearest);
        return tl__fail(err, TL_EINVALID,
                        "%s line %d: unknown key '%.60s'; '%s --help' lists the settings, each without its dashes",
                        path, e->line, e->key, cli->name);
    }
    return i;
}

static int set_entry(tl_cli *cli, const tl_yaml_entry *e, const char *path, tl_error *err) {
    int i = tl__cli_yaml_option(cli, e, path, err);
    if (i < 0) return i;
    if (cli->source[i] == TL_FROM_COMMAND_LINE) return 0;
    char spelled[512];
    snprintf(spelled, sizeof spelled, "%.400s line %d: '%.60s'", path, e->line, e->key);
    return tl__option_set(cli, i, e->values, e->n, spelled, TL_FROM_YAML, err);
}

int tl__cli_read_yaml(tl_cli *cli, const char *path, tl_error *err) {
    char *bytes;
    size_t size;
    int rc = tl__file_slurp(&bytes, &size, path, YAML_LIMIT_BYTES, err);
    if (rc < 0) return rc;
    tl_yaml yaml = {0};
    rc = tl__yaml_parse(&yaml, bytes, size, path, err);
    for (int i = 0; rc == 0 && i < yaml.n; i++) rc = set_entry(cli, &yaml.entries[i], path, err);
    tl__yaml_free(&yaml);
    free(bytes);
    return rc;
}

/* ---- writing ---- */

static void print_string(FILE *out, const char *text) {
    size_t n = strlen(text);
    bool plain = n > 0 && strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./+-") == n &&
                 text[0] != '-';
    static const char *const words[] = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"};
    for (size_t i = 0; plain && i < sizeof words / sizeof *words; i++) plain = strcmp(text, words[i]) != 0;
    if (plain) {
        fputs(text, out);
        return;
    }
    char *quoted = malloc(6 * n + 3); /* \u00XX is the longest escape */
    int used = quoted ? tl__json_quote(quoted, 6 * n + 3, text, n) : -1;
    if (used >= 0) fwrite(quoted, 1, (size_t)used, out);
    free(quoted);
}

/* The shortest decimal that reads back as the same double. */
static void print_real(FILE *out, double x) {
    char text[32];
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, x);
        if (strtod(text, NULL) == x) break;
    }
    fputs(text, out);
}

/* A value that is neither a list nor text of a user's. */
static void print_plain(FILE *out, const tl_option *o, const void *field) {
    switch (o->kind) {
    case TL_OPTION_FLAG:
        fputs(*(const bool *)field ? "true" : "false", out);
        break;
    case TL_OPTION_INT:
        fprintf(out, "%lld", (long long)*(const int64_t *)field);
        break;
    case TL_OPTION_REAL:
        print_real(out, *(const double *)field);
        break;
    case TL_OPTION_CHOICE:
        print_string(out, o->choices[*(const int *)field]);
        break;
    default:
        break;
    }
}

static void print_value(FILE *out, const tl_option *o, const void *field) {
    switch (o->kind) {
    case TL_OPTION_LIST: {
        const tl_list *list = field;
        for (int i = 0; i < list->n; i++) fputs("\n  - ", out), print_string(out, list->values[i]);
        break;
    }
    case TL_OPTION_STRING:
    case TL_OPTION_CONFIG:
        fputc(' ', out), print_string(out, *(const char *const *)field);
        break;
    default:
        fputc(' ', out), print_plain(out, o, field);
        break;
    }
    fputc('\n', out);
}

char *tl__cli_value_text(const tl_cli *cli, int i) {
    const tl_option *o = &cli->command->options[i];
    const void *field = (const char *)cli->values + o->offset;
    if (o->kind == TL_OPTION_STRING || o->kind == TL_OPTION_CONFIG) return strdup(*(const char *const *)field);
    if (o->kind == TL_OPTION_CHOICE) return strdup(o->choices[*(const int *)field]);
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (!out) return NULL;
    print_plain(out, o, field);
    if (fclose(out)) {
        free(text);
        return NULL;
    }
    return text;
}

/* Nothing to say: no default, never given, still zero. */
static bool absent(const tl_cli *cli, int i, const void *field) {
    const tl_option *o = &cli->command->options[i];
    if (o->kind == TL_OPTION_STRING) return *(const char *const *)field == NULL;
    if (o->kind == TL_OPTION_LIST) return ((const tl_list *)field)->n == 0;
    if (o->initial || cli->source[i] != TL_FROM_DEFAULT) return false;
    if (o->kind == TL_OPTION_INT) return *(const int64_t *)field == 0;
    if (o->kind == TL_OPTION_REAL) return *(const double *)field == 0;
    return false;
}

char *tl__cli_yaml_text(const tl_cli *cli) {
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (!out) return NULL;
    const tl_option *options = cli->command->options;
    for (int i = 0; i < tl__options_count(options); i++) {
        const tl_option *o = &options[i];
        if (o->kind == TL_OPTION_HEADING) {
            fprintf(out, "%s# %s\n", i ? "\n" : "", o->name);
            continue;
        }
        const void *field = (const char *)cli->values + o->offset;
        if (o->not_in_yaml || absent(cli, i, field)) continue;
        fprintf(out, "%s:", o->name);
        print_value(out, o, field);
    }
    if (fclose(out)) {
        free(text);
        return NULL;
    }
    return text;
}
