/* cli.h — what a command is: a name, a table of options, a function. Parsing, help, YAML and the man page follow from
 * the table.
 *
 * A command keeps its settings in a struct of its own; each option names a field of it, and TL_INT(T, field) and its
 * kin refuse to compile when the field has another type. Numbers take the suffixes k, M, G, T (powers of 1,000).
 * Precedence: command line, then the YAML file, then the default. Exit codes: 0 done, 1 failed, 2 bad usage, input or
 * place to write to, 75 another rank is lost (try again elsewhere), 76 a rank computed wrongly (do not trust its host).
 * Standard output carries results only; an error is one sentence on standard error, 'trilith COMMAND: …'. */
#ifndef TL_CLI_CLI_H
#define TL_CLI_CLI_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include "base/error.h"
#include "base/yaml.h"

enum { TL_EXIT_DONE = 0, TL_EXIT_FAILED = 1, TL_EXIT_USAGE = 2, TL_EXIT_LOST = 75 /* EX_TEMPFAIL */, TL_EXIT_DIVERGED = 76 };

typedef struct tl_list { /* values of a list option; NULL and 0 when not given */
    const char **values;
    int n;
} tl_list;

typedef enum tl_option_kind {
    TL_OPTION_END,     /* ends the table (so a zeroed entry does) */
    TL_OPTION_HEADING, /* .name is a heading in --help */
    TL_OPTION_FLAG,    /* bool; --name and --no-name */
    TL_OPTION_INT,     /* int64_t; "65536", "64k", "1.5M" */
    TL_OPTION_REAL,    /* double */
    TL_OPTION_STRING,  /* const char *; NULL when not given */
    TL_OPTION_LIST,    /* tl_list: takes values up to the next option; may be repeated */
    TL_OPTION_CHOICE,  /* int: index into .choices */
    TL_OPTION_CONFIG,  /* const char *: a YAML file that fills the same table */
} tl_option_kind;

typedef struct tl_option {
    const char *name; /* without dashes: "lr" is --lr here and lr: in YAML */
    tl_option_kind kind;
    size_t offset;              /* of the field in the command's struct */
    const char *value;          /* what help calls the value: "FILE", "N"; NULL: by kind */
    const char *help;           /* plain sentences, wrapped for the terminal */
    const char *initial;        /* the default, spelled as a user would; NULL: zero, and shown as none */
    double least, most;         /* INT and REAL; both 0: any finite number */
    const char *const *choices; /* CHOICE: NULL-terminated */
    bool required;              /* by command line or YAML */
    bool not_in_yaml;           /* belongs to the invocation, not to the settings: --config, --json, --resume */
} tl_option;

/* .kind and .offset of an option, checked against the field's type. */
#define TL__FIELD(T, field, type) offsetof(T, field) + 0 * sizeof(_Generic(((T *)0)->field, type : 1))
#define TL_FLAG(T, field) .kind = TL_OPTION_FLAG, .offset = TL__FIELD(T, field, bool)
#define TL_INT(T, field) .kind = TL_OPTION_INT, .offset = TL__FIELD(T, field, int64_t)
#define TL_REAL(T, field) .kind = TL_OPTION_REAL, .offset = TL__FIELD(T, field, double)
#define TL_STRING(T, field) .kind = TL_OPTION_STRING, .offset = TL__FIELD(T, field, const char *)
#define TL_LIST(T, field) .kind = TL_OPTION_LIST, .offset = TL__FIELD(T, field, tl_list)
#define TL_CHOICE(T, field) .kind = TL_OPTION_CHOICE, .offset = TL__FIELD(T, field, int)
#define TL_CONFIG(T, field) .kind = TL_OPTION_CONFIG, .offset = TL__FIELD(T, field, const char *), .not_in_yaml = true
#define TL_HEADING(text)                                                                                               \
    { .name = text, .kind = TL_OPTION_HEADING }

typedef struct tl_cli tl_cli;

typedef struct tl_command {
    const char *name;
    const char *summary;  /* a line in the list of commands, no full stop */
    const char *usage;    /* after "trilith NAME": "--model DIR --prompt TEXT [options]" */
    const char *about;    /* what it does, paragraphs parted by blank lines */
    const char *examples; /* a line "trilith …", then lines that say what it is for; NULL: none */
    const tl_option *options;
    size_t values_bytes; /* sizeof the command's struct; it is zeroed, then filled */
    const char *operand; /* what usage errors call an operand: "FILE or DIR"; NULL: takes none */
    int least_operands, most_operands;
    const struct tl_command *const *subcommands; /* NULL-terminated; then options and run are unused */
    int (*run)(tl_cli *cli);
} tl_command;

typedef enum tl_source { TL_FROM_DEFAULT, TL_FROM_YAML, TL_FROM_COMMAND_LINE } tl_source;

struct tl_cli {
    const tl_command *command;
    char name[64]; /* "trilith tokenizer encode" */
    void *values;  /* the command's struct */
    tl_list operands;
    tl_source *source; /* [options] */
    void *memory;      /* strings that outlive parsing */
};

/* Where an option's value came from. The name must be in the table. */
tl_source tl__cli_source(const tl_cli *cli, const char *name);
#define tl__cli_given(cli, name) (tl__cli_source(cli, name) != TL_FROM_DEFAULT)

/* Fill options from a YAML file, as --config does; options that the command line gave keep their value. */
int tl__cli_read_yaml(tl_cli *cli, const char *path, tl_error *err);
/* The settings as they stand now, as YAML text that --config reads back to the same values. malloc'd. */
char *tl__cli_yaml_text(const tl_cli *cli);
/* Index of the option that a YAML entry names, or a negative status that says which it may have meant. */
int tl__cli_yaml_option(const tl_cli *cli, const tl_yaml_entry *entry, const char *path, tl_error *err);
/* Option i's value (given, and no list) as text that sets it to the same: the shortest for a number. malloc'd. */
char *tl__cli_value_text(const tl_cli *cli, int i);

/* 'name: sentence' on standard error, in one piece: many ranks may speak at once. */
void tl__cli_say(const char *name, const char *sentence);
/* 'trilith COMMAND: sentence' on standard error; returns 2. */
int tl__cli_bad(const tl_cli *cli, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The same from a tl_error; returns the exit code of its status: 0 after TL_ESTOPPED, 1 where the machine or the run
 * failed (no memory, not finite), 75 after TL_ECOMM, 76 after TL_EDIVERGED, 2 where what came in or the place to write
 * to is at fault. */
int tl__cli_fail(const tl_cli *cli, const tl_error *err);
/* Print one line of JSON on standard output and drop the reference. Reals have 9 significant digits: an f32 reads back
 * with the same bits. Returns an exit code. */
int tl__cli_print_json(const tl_cli *cli, json_t *value);
/* Text that a model made. It may hold anything, and a terminal obeys control sequences: to one only line breaks and tabs
 * pass, the other control characters become '?'. */
void tl__cli_show(FILE *out, const char *text, size_t n, bool terminal);

/* What --model means where a model is used. */
#define TL_MODEL_HELP                                                                                                  \
    "A checkpoint, a run (its newest checkpoint is used), a Hugging Face model folder, or a GGUF file."
/* And --dtype; values are tl_dtype's. */
extern const char *const tl__dtype_names[];
#define TL_DTYPE_HELP                                                                                                  \
    "Numerics of products with weights. auto: those of the type that each is stored in (F32 and F16 in f32, BF16 in "  \
    "bf16, quantised ones with their input in 8 bits by 32). bf16 rounds all factors on the way in; f32 widens every "  \
    "weight. Score a run trained in bf16 in bf16 to get the trainer's bits."

/* And --device; values are tl_device's. */
extern const char *const tl__device_names[];
#define TL_DEVICE_HELP                                                                                                 \
    "What computes: cpu, or cuda for an NVIDIA GPU, to the same bits (docs/cuda.md: how far that is proved)."

/* The two options of every command that computes with a model's weights: fields `verify` and `mmap` of its struct. */
#define TL_MODEL_FILE_OPTIONS(T)                                                                                       \
    {"verify", TL_FLAG(T, verify),                                                                                     \
     .help = "First compare every weight with the hashes in the checkpoint's manifest, which reads the whole file."},  \
    {                                                                                                                  \
        "mmap", TL_FLAG(T, mmap), .initial = "true",                                                                   \
        .help = "Use the weights where they lie in their file; --no-mmap reads them into memory, where nothing that "  \
                "happens to the file can reach them."                                                                  \
    }
/* What --no-mmap asks for, from here on. */
void tl__cli_mmap(bool mmap);
/* From here on a mapped file that is cut short while it is used ends the process with one sentence and status 2. */
void tl__cli_guard_mapped_files(const char *name);

/* Parse and run; commands[n]. The whole of main. */
int tl__cli_main(int argc, char **argv, const tl_command *const *commands, int n);

/* ---- between cli.c, cli_yaml.c and cli_help.c ---- */

int tl__options_count(const tl_option *options);
/* Index of the option spelled `name` ('_' as '-'), or −1. */
int tl__options_find(const tl_option *options, const char *name, size_t name_bytes);
/* The nearest option's name, or NULL. */
const char *tl__options_nearest(const tl_option *options, const char *name);
/* Give option i its value(s), copied. `spelled` is what errors call it: "--lr", "run.yaml line 3: 'lr'". */
int tl__option_set(tl_cli *cli, int i, const char *const *values, int n, const char *spelled, tl_source source,
                   tl_error *err);
/* A copy that lives as long as `cli`. */
const char *tl__cli_keep(tl_cli *cli, const char *text);
void tl__help_overview(const tl_command *const *commands, int n);
void tl__help_command(const char *full_name, const tl_command *command);
void tl__help_man(const tl_command *const *commands, int n);

#endif
