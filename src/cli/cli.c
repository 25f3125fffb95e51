/* cli.c — from argv to a command's settings: options, operands, sub-commands, and the one sentence that says what was
 * wrong. */
#include "cli/cli.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- memory: small blocks that live as long as the invocation ---- */

typedef struct block {
    struct block *next;
    max_align_t bytes[];
} block;

static void *keep_bytes(tl_cli *cli, size_t size) {
    block *b = calloc(1, sizeof *b + size);
    if (!b) {
        fputs("trilith: not enough memory to read the command line\n", stderr);
        exit(TL_EXIT_FAILED);
    }
    b->next = cli->memory;
    cli->memory = b;
    return b->bytes;
}

const char *tl__cli_keep(tl_cli *cli, const char *text) {
    size_t size = strlen(text) + 1;
    return memcpy(keep_bytes(cli, size), text, size);
}

static void free_all(tl_cli *cli) {
    for (block *b = cli->memory; b;) {
        block *next = b->next;
        free(b);
        b = next;
    }
    cli->memory = NULL;
}

/* ---- the table ---- */

int tl__options_count(const tl_option *options) {
    int n = 0;
    while (options && options[n].kind != TL_OPTION_END) n++;
    return n;
}

static bool same_name(const char *name, const char *word, size_t word_bytes) {
    if (strlen(name) != word_bytes) return false;
    for (size_t i = 0; i < word_bytes; i++)
        if (name[i] != (word[i] == '_' ? '-' : word[i])) return false;
    return true;
}

int tl__options_find(const tl_option *options, const char *name, size_t name_bytes) {
    for (int i = 0; i < tl__options_count(options); i++)
        if (options[i].kind != TL_OPTION_HEADING && same_name(options[i].name, name, name_bytes)) return i;
    return -1;
}

const char *tl__options_nearest(const tl_option *options, const char *name) {
    const char *names[256];
    int n = 0;
    for (int i = 0; i < tl__options_count(options) && n < 256; i++)
        if (options[i].kind != TL_OPTION_HEADING) names[n++] = options[i].name;
    return tl__nearest_name(name, names, n);
}

tl_source tl__cli_source(const tl_cli *cli, const char *name) {
    int i = tl__options_find(cli->command->options, name, strlen(name));
    assert(i >= 0);
    return cli->source[i];
}

/* ---- values ---- */

/* A decimal number with an optional suffix k, M, G (or B) or T, spelled as strtod reads it: "1.5M" becomes "1.5e6", so
 * that no rounding comes between. Nothing else that strtod would take (hex, inf, leading blanks). */
static bool spell_number(char out[80], const char *text) {
    static const char suffixes[] = "kKmMgGbBtT", *const exponents[] = {"e3", "e6", "e9", "e9", "e12"};
    size_t n = strspn(text, "+-.0123456789eE");
    if (n == 0 || n > 64) return false;
    memcpy(out, text, n);
    out[n] = 0;
    if (text[n]) {
        const char *suffix = strchr(suffixes, text[n]);
        if (!suffix || text[n + 1] || strpbrk(out, "eE")) return false;
        strcpy(out + n, exponents[(suffix - suffixes) / 2]);
    }
    char *end;
    double x = strtod(out, &end);
    return end != out && !*end && isfinite(x);
}

static void describe_range(char *out, size_t size, const tl_option *o, const char *noun) {
    if (o->least == 0 && o->most == 0) snprintf(out, size, "%s", noun);
    else if (o->most >= 9e18) snprintf(out, size, "%s of at least %.15g", noun, o->least);
    else snprintf(out, size, "%s from %.15g to %.15g", noun, o->least, o->most);
}

static bool in_range(const tl_option *o, long double x) {
    return (o->least == 0 && o->most == 0) || (x >= (long double)o->least && x <= (long double)o->most);
}

static int set_number(const tl_option *o, void *field, const char *text, const char *spelled, tl_error *err) {
    char digits[80], range[128];
    bool whole = o->kind == TL_OPTION_INT, ok = spell_number(digits, text);
    long double exact = ok ? strtold(digits, NULL) : 0; /* 64 bits of mantissa hold every int64_t */
    if (ok && whole) ok = exact == floorl(exact) && exact >= -0x1p63L && exact < 0x1p63L;
    if (!ok || !in_range(o, exact)) {
        describe_range(range, sizeof range, o, whole ? "a whole number" : "a number");
        return tl__fail(err, TL_EINVALID, "%s needs %s, not '%.80s'", spelled, range, text);
    }
    if (whole) *(int64_t *)field = (int64_t)exact;
    else *(double *)field = strtod(digits, NULL);
    return 0;
}

static int set_flag(bool *field, const char *text, const char *spelled, tl_error *err) {
    static const char *const yes[] = {"true", "yes", "on", "1"}, *const no[] = {"false", "no", "off", "0"};
    for (int i = 0; i < 4; i++) {
        if (!strcmp(text, yes[i])) return *field = true, 0;
        if (!strcmp(text, no[i])) return *field = false, 0;
    }
    return tl__fail(err, TL_EINVALID, "%s is either true or false, not '%.80s'", spelled, text);
}

static int set_choice(const tl_option *o, int *field, const char *text, const char *spelled, tl_error *err) {
    char all[256] = "";
    for (int i = 0; o->choices[i]; i++) {
        if (!strcmp(o->choices[i], text)) return *field = i, 0;
        size_t used = strlen(all);
        snprintf(all + used, sizeof all - used, "%s%s", i == 0 ? "" : o->choices[i + 1] ? ", " : " or ", o->choices[i]);
    }
    return tl__fail(err, TL_EINVALID, "%s is one of %s, not '%.80s'", spelled, all, text);
}

int tl__option_set(tl_cli *cli, int i, const char *const *values, int n, const char *spelled, tl_source source,
                   tl_error *err) {
    const tl_option *o = &cli->command->options[i];
    void *field = (char *)cli->values + o->offset;
    if (o->kind == TL_OPTION_LIST) {
        /* A list given twice on the command line grows; one from a stronger source replaces what a weaker one gave. */
        tl_list *list = field;
        int before = cli->source[i] == source ? list->n : 0;
        const char **all = keep_bytes(cli, (size_t)(before + n + 1) * sizeof *all);
        if (before) memcpy(all, list->values, (size_t)before * sizeof *all);
        for (int j = 0; j < n; j++) all[before + j] = tl__cli_keep(cli, values[j]);
        list->values = all;
        list->n = before + n;
        cli->source[i] = source;
        return 0;
    }
    if (n != 1) return tl__fail(err, TL_EINVALID, "%s takes one value, not %d", spelled, n);
    const char *text = values[0];
    int rc = 0;
    switch (o->kind) {
    case TL_OPTION_FLAG:
        rc = set_flag(field, text, spelled, err);
        break;
    case TL_OPTION_INT:
    case TL_OPTION_REAL:
        rc = set_number(o, field, text, spelled, err);
        break;
    case TL_OPTION_CHOICE:
        rc = set_choice(o, field, text, spelled, err);
        break;
    case TL_OPTION_STRING:
    case TL_OPTION_CONFIG:
        *(const char **)field = tl__cli_keep(cli, text);
        break;
    default:
        assert(!"an option without a kind");
    }
    if (rc == 0) cli->source[i] = source;
    return rc;
}

static int set_defaults(tl_cli *cli, tl_error *err) {
    const tl_option *options = cli->command->options;
    for (int i = 0; i < tl__options_count(options); i++) {
        if (!options[i].initial || options[i].kind == TL_OPTION_HEADING) continue;
        char spelled[128];
        snprintf(spelled, sizeof spelled, "the default of --%s", options[i].name);
        if (tl__option_set(cli, i, &options[i].initial, 1, spelled, TL_FROM_DEFAULT, err) < 0) return err->status;
    }
    return 0;
}

/* ---- argv ---- */

/* "--name" or "--name=…": what could be an option, as against a value that happens to begin with dashes ("--- cut
 * here"). */
static bool looks_like_option(const char *arg) {
    if (strncmp(arg, "--", 2) || arg[2] < 'a' || arg[2] > 'z') return false;
    size_t n = strspn(arg + 2, "abcdefghijklmnopqrstuvwxyz0123456789-_");
    return arg[2 + n] == 0 || arg[2 + n] == '=';
}

static int unknown_option(const tl_cli *cli, const char *arg, size_t name_bytes, tl_error *err) {
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)(name_bytes < 60 ? name_bytes : 60), arg + 2);
    const char *nearest = tl__options_nearest(cli->command->options, name);
    if (nearest) return tl__fail(err, TL_EINVALID, "unknown option '--%s'; did you mean '--%s'?", name, nearest);
    return tl__fail(err, TL_EINVALID, "unknown option '--%s'; '%s --help' lists those there are", name, cli->name);
}

/* One option at argv[at] and its values; returns the index after them, or a negative status. */
static int parse_option(tl_cli *cli, int argc, char **argv, int at, tl_error *err) {
    const char *arg = argv[at++];
    const tl_option *options = cli->command->options;
    const char *equals = strchr(arg, '=');
    size_t name_bytes = equals ? (size_t)(equals - arg) - 2 : strlen(arg) - 2;
    int i = tl__options_find(options, arg + 2, name_bytes);
    char spelled[128];
    snprintf(spelled, sizeof spelled, "%.*s", (int)(name_bytes + 2), arg);
    if (i < 0 && !strncmp(arg, "--no-", 5) && !equals) {
        i = tl__options_find(options, arg + 5, name_bytes - 3);
        if (i >= 0 && options[i].kind == TL_OPTION_FLAG) {
            const char *off = "false";
            int rc = tl__option_set(cli, i, &off, 1, spelled, TL_FROM_COMMAND_LINE, err);
            return rc < 0 ? rc : at;
        }
        i = -1;
    }
    if (i < 0) return unknown_option(cli, arg, name_bytes, err);
    const tl_option *o = &options[i];
    const char *single = equals ? equals + 1 : NULL;
    if (o->kind == TL_OPTION_FLAG && !single) single = "true";
    int first = at, n = 0;
    if (!single) {
        while (at < argc && !looks_like_option(argv[at]) && strcmp(argv[at], "--") &&
               (n == 0 || o->kind == TL_OPTION_LIST))
            at++, n++;
        if (n == 0) return tl__fail(err, TL_EINVALID, "%s needs a value", spelled);
    }
    int rc = tl__option_set(cli, i, single ? &single : (const char *const *)(argv + first), single ? 1 : n, spelled,
                            TL_FROM_COMMAND_LINE, err);
    return rc < 0 ? rc : at;
}

static int parse_arguments(tl_cli *cli, int argc, char **argv, tl_error *err) {
    const tl_command *command = cli->command;
    cli->operands.values = keep_bytes(cli, (size_t)(argc + 1) * sizeof(char *));
    bool only_operands = false;
    for (int at = 0; at < argc;) {
        const char *arg = argv[at];
        if (!only_operands && !strcmp(arg, "--")) {
            only_operands = true;
            at++;
        } else if (!only_operands && looks_like_option(arg)) {
            at = parse_option(cli, argc, argv, at, err);
            if (at < 0) return at;
        } else if (!only_operands && arg[0] == '-' && arg[1]) {
            return tl__fail(err, TL_EINVALID, "unknown option '%.60s'; options begin with two dashes, as in --help",
                            arg);
        } else {
            if (cli->operands.n == command->most_operands) {
                if (command->most_operands == 0)
                    return tl__fail(err, TL_EINVALID, "unexpected word '%.80s'; settings are given as --name value",
                                    arg);
                return tl__fail(err, TL_EINVALID, "unexpected word '%.80s' after %s", arg, command->operand);
            }
            cli->operands.values[cli->operands.n++] = arg;
            at++;
        }
    }
    return 0;
}

static int check_complete(const tl_cli *cli, tl_error *err) {
    const tl_command *command = cli->command;
    if (cli->operands.n < command->least_operands)
        return tl__fail(err, TL_EINVALID, "%s is missing; usage: %s %s", command->operand, cli->name, command->usage);
    for (int i = 0; i < tl__options_count(command->options); i++)
        if (command->options[i].required && cli->source[i] == TL_FROM_DEFAULT)
            return tl__fail(err, TL_EINVALID, "--%s is missing; usage: %s %s", command->options[i].name, cli->name,
                            command->usage);
    return 0;
}

static int parse(tl_cli *cli, int argc, char **argv, tl_error *err) {
    const tl_option *options = cli->command->options;
    int rc = set_defaults(cli, err);
    if (rc == 0) rc = parse_arguments(cli, argc, argv, err);
    for (int i = 0; rc == 0 && i < tl__options_count(options); i++) {
        if (options[i].kind != TL_OPTION_CONFIG || cli->source[i] != TL_FROM_COMMAND_LINE) continue;
        rc = tl__cli_read_yaml(cli, *(const char **)((char *)cli->values + options[i].offset), err);
    }
    return rc == 0 ? check_complete(cli, err) : rc;
}

/* ---- saying how it ended ---- */

void tl__cli_say(const char *name, const char *sentence) {
    char line[8192];
    size_t n = strlen(sentence), used = (size_t)snprintf(line, sizeof line, "%.100s: ", name);
    while (n > 0 && (sentence[n - 1] == '\n' || sentence[n - 1] == '.')) n--;
    /* Names come from outside and may hold anything: a control character must not move the reader's cursor. */
    for (size_t i = 0; i < n && used < sizeof line - 8; i++) {
        unsigned char c = (unsigned char)sentence[i];
        if (c < 0x20 || c == 0x7f) used += (size_t)snprintf(line + used, 5, "\\x%02x", c);
        else line[used++] = (char)c;
    }
    fprintf(stderr, "%.*s\n", (int)used, line);
}

int tl__cli_bad(const tl_cli *cli, const char *format, ...) {
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    tl__cli_say(cli->name, text);
    return TL_EXIT_USAGE;
}

int tl__cli_fail(const tl_cli *cli, const tl_error *err) {
    if (err->text[0]) tl__cli_say(cli->name, err->text); /* none: another rank of the job has said it */
    switch (err->status) {
    case TL_ESTOPPED:
        return TL_EXIT_DONE;
    case TL_ENOMEM:
    case TL_ENONFINITE:
        return TL_EXIT_FAILED;
    case TL_ECOMM:
        return TL_EXIT_LOST;
    case TL_EDIVERGED:
        return TL_EXIT_DIVERGED;
    default:
        return TL_EXIT_USAGE;
    }
}

/* C1 controls are two bytes in UTF-8 (C2 80 … C2 9F), always complete here since a decoder never splits a character. */
void tl__cli_show(FILE *out, const char *text, size_t n, bool terminal) {
    if (!terminal) {
        fwrite(text, 1, n, out);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        bool c1 = c == 0xC2 && i + 1 < n && (unsigned char)text[i + 1] < 0xA0;
        if (c1) i++;
        if (c1 || (c < 0x20 && c != '\n' && c != '\t') || c == 0x7f) c = '?';
        fputc(c, out);
    }
}

int tl__cli_print_json(const tl_cli *cli, json_t *value) {
    int rc = value ? json_dumpf(value, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9) | JSON_ENCODE_ANY) : -1;
    json_decref(value);
    if (rc < 0) {
        tl__cli_say(cli->name, "the result could not be written as JSON on standard output");
        return TL_EXIT_FAILED;
    }
    putchar('\n');
    return TL_EXIT_DONE;
}

/* ---- main ---- */

static const tl_command *find_command(const tl_command *const *commands, int n, const char *name) {
    for (int i = 0; i < n; i++)
        if (!strcmp(commands[i]->name, name)) return commands[i];
    return NULL;
}

static int unknown_command(const char *name, const char *word, const tl_command *const *commands, int n) {
    const char *names[64];
    for (int i = 0; i < n && i < 64; i++) names[i] = commands[i]->name;
    const char *nearest = tl__nearest_name(word, names, n < 64 ? n : 64);
    char text[256];
    if (nearest) snprintf(text, sizeof text, "no command '%.60s'; did you mean '%s'?", word, nearest);
    else snprintf(text, sizeof text, "no command '%.60s'; '%s --help' lists those there are", word, name);
    tl__cli_say(name, text);
    return TL_EXIT_USAGE;
}

static bool asks_for_help(const char *arg) {
    return !strcmp(arg, "--help") || !strcmp(arg, "-h");
}

static int run_command(const char *prefix, const tl_command *command, int argc, char **argv) {
    tl_cli cli = {.command = command};
    snprintf(cli.name, sizeof cli.name, "%s %s", prefix, command->name);
    if (command->subcommands) {
        int n = 0;
        while (command->subcommands[n]) n++;
        if (argc == 0 || asks_for_help(argv[0])) {
            tl__help_command(cli.name, command);
            return TL_EXIT_DONE;
        }
        const tl_command *sub = find_command(command->subcommands, n, argv[0]);
        if (!sub) return unknown_command(cli.name, argv[0], command->subcommands, n);
        return run_command(cli.name, sub, argc - 1, argv + 1);
    }
    for (int i = 0; i < argc && strcmp(argv[i], "--"); i++)
        if (asks_for_help(argv[i])) {
            tl__help_command(cli.name, command);
            return TL_EXIT_DONE;
        }
    cli.values = keep_bytes(&cli, command->values_bytes);
    cli.source = keep_bytes(&cli, (size_t)(tl__options_count(command->options) + 1) * sizeof *cli.source);
    tl__cli_guard_mapped_files(cli.name);
    tl_error err = {0};
    int code = parse(&cli, argc, argv, &err) < 0 ? tl__cli_fail(&cli, &err) : command->run(&cli);
    free_all(&cli);
    return code;
}

static int help(int argc, char **argv, const tl_command *const *commands, int n) {
    if (argc > 0 && !strcmp(argv[0], "--man")) {
        tl__help_man(commands, n);
        return TL_EXIT_DONE;
    }
    if (argc == 0) {
        tl__help_overview(commands, n);
        return TL_EXIT_DONE;
    }
    char name[64] = "trilith";
    const tl_command *found = NULL;
    for (int i = 0; i < argc; i++) {
        found = find_command(commands, n, argv[i]);
        if (!found) return unknown_command(name, argv[i], commands, n);
        size_t used = strlen(name);
        snprintf(name + used, sizeof name - used, " %s", found->name);
        commands = found->subcommands;
        for (n = 0; commands && commands[n];) n++;
    }
    tl__help_command(name, found);
    return TL_EXIT_DONE;
}

static int dispatch(int argc, char **argv, const tl_command *const *commands, int n) {
    if (argc < 2 || asks_for_help(argv[1])) {
        tl__help_overview(commands, n);
        return TL_EXIT_DONE;
    }
    if (!strcmp(argv[1], "--version")) {
        printf("trilith %s\n", tl_version());
        return TL_EXIT_DONE;
    }
    if (!strcmp(argv[1], "help")) return help(argc - 2, argv + 2, commands, n);
    const tl_command *command = find_command(commands, n, argv[1]);
    if (!command) return unknown_command("trilith", argv[1], commands, n);
    return run_command("trilith", command, argc - 2, argv + 2);
}

int tl__cli_main(int argc, char **argv, const tl_command *const *commands, int n) {
    signal(SIGXFSZ, SIG_IGN); /* a file-size limit is an error of the write (TL_ENOSPACE), not the end of the process */
    int code = dispatch(argc, argv, commands, n);
    if (fflush(stdout) || ferror(stdout)) {
        if (errno != EPIPE) fprintf(stderr, "trilith: writing to standard output failed: %s\n", strerror(errno));
        if (code == TL_EXIT_DONE) code = TL_EXIT_FAILED;
    }
    return code;
}
