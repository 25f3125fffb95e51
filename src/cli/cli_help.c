/* cli_help.c — what --help and the man page say, laid out from the option tables. */
#include "cli/cli.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { LEFT_COLUMNS = 26 };

static int columns(void) {
    struct winsize w;
    if (isatty(STDOUT_FILENO) && ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col >= 50)
        return w.ws_col < 110 ? w.ws_col : 110;
    return 100;
}

static bool styled(void) {
    const char *term = getenv("TERM");
    return isatty(STDOUT_FILENO) && !getenv("NO_COLOR") && term && strcmp(term, "dumb");
}

static const char *bold(void) {
    return styled() ? "\033[1m" : "";
}
static const char *plain(void) {
    return styled() ? "\033[0m" : "";
}

/* Columns of a UTF-8 text without wide characters: our own help holds none. */
static int width(const char *text, size_t n) {
    int w = 0;
    for (size_t i = 0; i < n; i++) w += ((unsigned char)text[i] & 0xC0) != 0x80;
    return w;
}

/* Words of `text` from column `at`, broken before `right`, further lines indented by `indent`. Blank lines part
 * paragraphs. */
static void print_wrapped(const char *text, int at, int indent, int right) {
    bool first = true;
    while (*text) {
        size_t blanks = strspn(text, " \n"), newlines = 0;
        for (size_t i = 0; i < blanks; i++) newlines += text[i] == '\n';
        text += blanks;
        size_t n = strcspn(text, " \n");
        if (n == 0) break;
        if (newlines >= 2 && !first) {
            printf("\n\n%*s", indent, "");
            at = indent;
            first = true;
        } else if (!first && at + 1 + width(text, n) > right) {
            printf("\n%*s", indent, "");
            at = indent;
            first = true;
        }
        if (!first) putchar(' '), at++;
        printf("%.*s", (int)n, text);
        at += width(text, n);
        text += n;
        first = false;
    }
    putchar('\n');
}

/* "--lr X", "--data FILE…", "--[no-]stop-at-eos", "--schedule cosine|linear". */
static void option_left(char *out, size_t size, const tl_option *o) {
    const char *value = o->value;
    char joined[128] = "";
    switch (o->kind) {
    case TL_OPTION_FLAG:
        snprintf(out, size, "--%s%s", o->initial && !strcmp(o->initial, "true") ? "[no-]" : "", o->name);
        return;
    case TL_OPTION_INT:
        value = value ? value : "N";
        break;
    case TL_OPTION_REAL:
        value = value ? value : "X";
        break;
    case TL_OPTION_LIST:
        value = value ? value : "FILE…";
        break;
    case TL_OPTION_CONFIG:
        value = value ? value : "FILE";
        break;
    case TL_OPTION_CHOICE:
        for (int i = 0; o->choices[i]; i++) {
            size_t used = strlen(joined);
            snprintf(joined + used, sizeof joined - used, "%s%s", i ? "|" : "", o->choices[i]);
        }
        value = value ? value : joined;
        break;
    default:
        value = value ? value : "TEXT";
    }
    snprintf(out, size, "--%s %s", o->name, value);
}

/* The help sentence with its default, or that it is required, before its full stop. */
static void option_right(char *out, size_t size, const tl_option *o) {
    const char *help = o->help ? o->help : "";
    int n = (int)strlen(help);
    bool stop = n > 0 && help[n - 1] == '.';
    if (o->required) snprintf(out, size, "%.*s (required)%s", n - stop, help, stop ? "." : "");
    else if (o->kind == TL_OPTION_FLAG && o->initial && !strcmp(o->initial, "true"))
        snprintf(out, size, "%.*s (on by default)%s", n - stop, help, stop ? "." : "");
    else if (o->initial && o->kind != TL_OPTION_FLAG && o->initial[0])
        snprintf(out, size, "%.*s (default %s)%s", n - stop, help, o->initial, stop ? "." : "");
    else snprintf(out, size, "%s", help);
}

static void print_option(const char *left, const char *right, int columns_) {
    int w = width(left, strlen(left));
    printf("  %s", left);
    if (w > LEFT_COLUMNS - 4) printf("\n%*s", LEFT_COLUMNS, "");
    else printf("%*s", LEFT_COLUMNS - 2 - w, "");
    print_wrapped(right, LEFT_COLUMNS, LEFT_COLUMNS, columns_);
}

/* Examples line by line: a command two columns in, what it is for under it, six in, however the table indents them. */
static void print_examples(const char *text, void (*line)(const char *)) {
    while (*text) {
        text += strspn(text, " ");
        size_t n = strcspn(text, "\n");
        char out[256];
        snprintf(out, sizeof out, "%s%.*s", strncmp(text, "trilith ", 8) ? "      " : "  ", (int)(n < 200 ? n : 200),
                 text);
        if (n > 0) line(out);
        text += n + (text[n] == '\n');
    }
}

static void put_line(const char *text) {
    puts(text);
}

void tl__help_overview(const tl_command *const *commands, int n) {
    printf("%sTrilith %s%s — train, understand and use foundation models\n\n", bold(), tl_version(), plain());
    printf("%susage%s  trilith COMMAND [options]\n\n", bold(), plain());
    for (int i = 0; i < n; i++) printf("  %s%-12s%s%s\n", bold(), commands[i]->name, plain(), commands[i]->summary);
    printf(
        "\n'trilith COMMAND --help' explains a command and shows examples; 'trilith --version' says which this is.\n");
}

void tl__help_command(const char *full_name, const tl_command *command) {
    int right = columns();
    printf("%s%s%s — %s\n\n", bold(), full_name, plain(), command->summary);
    printf("%susage%s  ", bold(), plain());
    int at = 7 + printf("%s ", full_name);
    print_wrapped(command->usage ? command->usage : "", at, at, right);
    if (command->about) {
        putchar('\n');
        print_wrapped(command->about, 0, 0, right);
    }
    if (command->subcommands) {
        putchar('\n');
        for (int i = 0; command->subcommands[i]; i++)
            printf("  %s%-12s%s%s\n", bold(), command->subcommands[i]->name, plain(), command->subcommands[i]->summary);
        printf("\n'%s COMMAND --help' explains one.\n", full_name);
    }
    bool headed = false;
    for (int i = 0; i < tl__options_count(command->options); i++) {
        const tl_option *o = &command->options[i];
        if (o->kind == TL_OPTION_HEADING || !headed) {
            printf("\n%s%s%s\n", bold(), o->kind == TL_OPTION_HEADING ? o->name : "Options", plain());
            headed = true;
            if (o->kind == TL_OPTION_HEADING) continue;
        }
        char left[160], text[1024];
        option_left(left, sizeof left, o);
        option_right(text, sizeof text, o);
        print_option(left, text, right);
    }
    if (!command->subcommands) {
        if (!headed) printf("\n%sOptions%s\n", bold(), plain());
        print_option("--help", "This text.", right);
    }
    if (command->examples) {
        printf("\n%sExamples%s\n", bold(), plain());
        print_examples(command->examples, put_line);
    }
}

/* ---- the man page, in man(7) macros ---- */

/* Text on its own line(s): backslashes and hyphens as typed, no line that begins with a control character, and what is
 * not ASCII by its number, which every roff reads. */
static void roff(const char *text) {
    bool line_start = true;
    for (; *text; text++) {
        if (line_start && (*text == '.' || *text == '\'')) fputs("\\&", stdout);
        line_start = *text == '\n';
        if (*text == '\\') fputs("\\e", stdout);
        else if (*text == '-') fputs("\\-", stdout);
        else if ((unsigned char)*text < 0x80) putchar(*text);
        else { /* two or three bytes of UTF-8: our own text has no others */
            unsigned c = (unsigned char)*text & ((unsigned char)*text < 0xE0 ? 0x1F : 0x0F);
            while (((unsigned char)text[1] & 0xC0) == 0x80) c = c << 6 | ((unsigned char)*++text & 0x3F);
            printf("\\[u%04X]", c);
        }
    }
}

static void roff_line(const char *text) {
    roff(text);
    putchar('\n');
}

static void roff_paragraphs(const char *text) {
    while (*text) {
        const char *end = strstr(text, "\n\n");
        size_t n = end ? (size_t)(end - text) : strlen(text);
        char *paragraph = strndup(text, n);
        if (paragraph) {
            puts(".PP");
            roff(paragraph);
            putchar('\n');
        }
        free(paragraph);
        text += n + (end ? 2 : 0);
    }
}

static void man_command(const char *prefix, const tl_command *command) {
    char name[64];
    snprintf(name, sizeof name, "%s %s", prefix, command->name);
    printf(".SS %s\n", name);
    printf(".B %s\n", name);
    roff(command->usage ? command->usage : "");
    putchar('\n');
    roff_paragraphs(command->about ? command->about : command->summary);
    for (int i = 0; i < tl__options_count(command->options); i++) {
        const tl_option *o = &command->options[i];
        if (o->kind == TL_OPTION_HEADING) {
            printf(".PP\n.I ");
            roff(o->name);
            putchar('\n');
            continue;
        }
        char left[160], text[1024];
        option_left(left, sizeof left, o);
        option_right(text, sizeof text, o);
        printf(".TP\n.B ");
        roff(left);
        putchar('\n');
        roff(text);
        putchar('\n');
    }
    if (command->examples) {
        puts(".PP\nExamples:\n.PP\n.nf");
        print_examples(command->examples, roff_line);
        puts(".fi");
    }
    for (int i = 0; command->subcommands && command->subcommands[i]; i++) man_command(name, command->subcommands[i]);
}

void tl__help_man(const tl_command *const *commands, int n) {
    printf(".TH TRILITH 1 \"\" \"Trilith %s\" \"Trilith\"\n", tl_version());
    puts(".SH NAME\ntrilith \\- train, understand and use foundation models\n.SH SYNOPSIS\n.B trilith\n.I "
         "COMMAND\n[options]");
    puts(".SH DESCRIPTION");
    puts("Trilith pre\\-trains language models on text, keeps them as Hugging Face model folders, and generates and "
         "scores with\n"
         "the same operators that trained them. Each command explains itself with\n.BR \\-\\-help .\n.PP");
    puts("Numbers may carry the suffixes k, M, G and T (powers of 1,000). A flag that is on by default is switched off "
         "by\n"
         ".BR \\-\\-no\\-NAME .\nWith\n.B \\-\\-json\nstandard output holds one JSON value and nothing else.");
    puts(".SH COMMANDS");
    for (int i = 0; i < n; i++) man_command("trilith", commands[i]);
    puts(
        ".SH EXIT STATUS\n.TP\n0\nDone, or stopped by a signal after everything was kept.\n.TP\n1\nFailed: no memory, "
        "a loss "
        "that is not finite, standard output that cannot be written.\n.TP\n2\nThe usage, the input or the place to "
        "write to is at fault: no room on the disk, say. Nothing was written over.\n"
        ".TP\n75\nOf a training on several ranks: another rank is gone, late or out of step. The same command with\n.B "
        "\\-\\-resume\ngoes on from the newest checkpoint, there or elsewhere.\n"
        ".TP\n76\nOf a training on several ranks: a rank computed other bits than the rest. Do not go on with the host "
        "that "
        "the sentence names.");
    puts(".SH ENVIRONMENT\n.TP\n.B TRILITH_LOG\nThe least that is said on standard error: debug, info, warn or error "
         "(default info).\n"
         ".TP\n.B TRILITH_ISA\nKernels to use: ref, avx2, avx512, avx512_vnni, avx512_bf16 or amx (default: the best that the CPU has). "
         "Results are "
         "the same bits.\n"
         ".TP\n.B TRILITH_MMAP\n0 reads files of weights and of tokenised data instead of mapping them, as\n.B "
         "\\-\\-no\\-mmap\ndoes.\n.TP\n.B TRILITH_FAULT\nFor tests of a job: a fault that a rank brings about on "
         "purpose (docs/cli.md).\n.TP\n.B NO_COLOR\nNo bold text in help.");
}
