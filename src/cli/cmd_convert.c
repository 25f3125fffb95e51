/* cmd_convert.c — `trilith convert`: a model in another form, or its weights in another type. */
#include <stdio.h>
#include <string.h>
#include "base/json.h"
#include "cli/cli.h"
#include "model/convert.h"

typedef struct settings {
    int type;
    int64_t shard_bytes, threads;
    bool overwrite, mmap, json;
} settings;

static const tl_type types[] = {TL_TYPES, TL_F32,  TL_F16,  TL_BF16, TL_Q8_0, TL_Q4_0,
                                TL_Q4_1,  TL_Q5_0, TL_Q5_1, TL_Q4_K, TL_Q5_K, TL_Q6_K};
static const char *const type_names[] = {"same", "F32",  "F16",  "BF16", "Q8_0", "Q4_0", "Q4_1",
                                         "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K", NULL};

static const tl_option options[] = {
    {"type", TL_CHOICE(settings, type), .initial = "same", .choices = type_names,
     .help = "What matrices become. In a GGUF file vectors, routers and learned positions stay as they are (F32 where "
             "they come from a folder), and rows that are no whole blocks take the nearest type that fits, as "
             "llama-quantize --pure has it. A folder holds F32, F16 and BF16; with 'same' quantised weights become F32 "
             "there, which keeps them exactly."},
    {"shard-bytes", TL_INT(settings, shard_bytes), .initial = "5G", .least = 0, .most = 9e18,
     .help = "Most bytes of a folder's file, beyond which weights lie in several with an index; 0: one file."},
    {"overwrite", TL_FLAG(settings, overwrite), .help = "Replace what is there."},
    {"threads", TL_INT(settings, threads), .least = 0, .most = 1024,
     .help = "CPU threads; all that this process may use unless given. The result is the same."},
    {"mmap", TL_FLAG(settings, mmap), .initial = "true", .help = "Map the input rather than read it."},
    {"json", TL_FLAG(settings, json), .not_in_yaml = true,
     .help = "Print one JSON object (out, form, files, bytes, tensors, elements, demoted) and nothing else."},
    {0}};

static void scaled(char out[32], double x, const char *unit) {
    static const char *const steps[] = {"", "k", "M", "G", "T"};
    int s = 0;
    while (x >= 999.5 && s < 4) x /= 1000, s++;
    snprintf(out, 32, s ? "%.3g %s%s" : "%.0f %s%s", x, steps[s], unit);
}

static int print(tl_cli *cli, const tl_convert *job, const tl_converted *done, bool as_json) {
    int tensors = 0;
    int64_t elements = 0;
    for (int t = 0; t < TL_TYPES; t++) tensors += done->tensors[t], elements += done->elements[t];
    if (as_json) {
        json_t *by_type = json_object();
        for (int t = 0; t < TL_TYPES; t++)
            if (done->tensors[t])
                json_object_set_new(
                    by_type, tl__type_name((tl_type)t),
                    json_pack("{s:i, s:I}", "tensors", done->tensors[t], "elements", (json_int_t)done->elements[t]));
        const size_t n = strlen(job->out);
        return tl__cli_print_json(cli, json_pack("{s:s, s:s, s:i, s:I, s:i, s:I, s:i, s:o}", "out", job->out, "form",
                                                 n >= 5 && !strcmp(job->out + n - 5, ".gguf") ? "gguf" : "folder",
                                                 "files", done->files, "bytes", (json_int_t)done->bytes, "tensors",
                                                 tensors, "elements", (json_int_t)elements, "demoted", done->demoted,
                                                 "types", by_type));
    }
    char size[32], count[32];
    scaled(size, (double)done->bytes, "B");
    scaled(count, (double)elements, "");
    printf("%s: %d tensors, %sparameters, %s", job->out, tensors, count, size);
    if (done->files > 1) printf(" in %d files", done->files);
    const char *before = ": ";
    for (int t = 0; t < TL_TYPES; t++) {
        if (!done->tensors[t]) continue;
        scaled(count, (double)done->elements[t], "");
        printf("%s%sof %s in %d", before, count, tl__type_name((tl_type)t), done->tensors[t]);
        before = ", ";
    }
    putchar('\n');
    if (done->demoted)
        printf("  %d tensors have rows that are no whole blocks of %s and took a type that fits\n", done->demoted,
               tl__type_name(job->type));
    return TL_EXIT_DONE;
}

static int run(tl_cli *cli) {
    const settings *o = cli->values;
    tl_convert job = {.in = cli->operands.values[0],
                      .out = cli->operands.values[1],
                      .type = types[o->type],
                      .shard_bytes = o->shard_bytes,
                      .overwrite = o->overwrite};
    tl_converted done;
    tl_error err = {0};
    tl__cli_mmap(o->mmap);
    tl__cli_guard_mapped_files(cli->name);
    int rc = tl__pool_open(&job.pool, (int)o->threads, &err);
    if (!rc) rc = tl__convert(&job, &done, &err);
    tl__pool_close(job.pool);
    return rc ? tl__cli_fail(cli, &err) : print(cli, &job, &done, o->json);
}

const tl_command tl__cmd_convert = {
    .name = "convert",
    .summary = "turn a model into another form, or its weights into another type",
    .usage = "IN OUT [--type TYPE]",
    .about =
        "IN is a Hugging Face model folder or a GGUF file (the first of its parts); OUT is a GGUF file where its name "
        "ends in .gguf, else a folder. Between the two forms a model of a known family is translated: names, order of "
        "rows, experts, tokenizer. Within one form everything is copied as it lies, known or not, and only weights "
        "whose type changes are touched.\n\n"
        "Quantised blocks have the bytes of ggml's reference quantisers without importance weights. A number that the "
        "type cannot hold is refused by tensor.",
    .examples = "  trilith convert SmolLM2-135M-Instruct smollm2-q8.gguf --type Q8_0\n"
                "      a folder as a GGUF file that llama.cpp opens\n"
                "  trilith convert gemma-3-270m-q4_k_m.gguf gemma-3-270m --type BF16\n"
                "      back to a folder that transformers opens\n"
                "  trilith convert model sharded --shard-bytes 1G\n"
                "      the same weights in files of at most a gigabyte",
    .options = options,
    .values_bytes = sizeof(settings),
    .operand = "IN and OUT",
    .least_operands = 2,
    .most_operands = 2,
    .run = run,
};
