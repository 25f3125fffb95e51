/* cmd_tokenizer.c — `trilith tokenizer train|encode|decode`: vocabularies from text, ids from text, text from ids. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "cli/cli.h"
#include "infer/engine.h"
#include "io/file.h"

#define TEXT_LIMIT_BYTES ((size_t)1 << 30)

/* "bytes", a tokenizer.json, a folder with one, or a run, whose newest checkpoint has one. */
static int open_tokenizer(tl_tokenizer **tok, const char *given, tl_error *err) {
    char path[4096];
    if (strcmp(given, "bytes") != 0 && tl__path_is_folder(given) && strlen(given) < sizeof path - 32) {
        tl__path_join(path, sizeof path, given, "tokenizer.json");
        if (!tl__path_exists(path) && tl__model_folder(path, sizeof path, given, NULL) == 0)
            return tl__tokenizer_open(tok, path, err);
    }
    return tl__tokenizer_open(tok, given, err);
}

/* ---- train ---- */

typedef struct train_settings {
    tl_list data, special;
    const char *out, *text_key;
    int64_t vocab, limit, threads;
    bool by_line, json;
} train_settings;

static const tl_option train_options[] = {
    {"data", TL_LIST(train_settings, data), .value = "FILE",
     .help = "Text to learn from: plain, .gz or .zst; .jsonl (also compressed) by --text-key. Files can stand as "
             "operands too."},
    {"vocab", TL_INT(train_settings, vocab), .initial = "8k", .least = 257, .most = 1 << 24,
     .help = "Tokens in all: special ones, the 256 bytes, and one for each merge."},
    {"out", TL_STRING(train_settings, out), .value = "DIR", .required = true,
     .help = "Folder for tokenizer.json and tokenizer_config.json."},
    {"special", TL_LIST(train_settings, special), .value = "TEXT",
     .help = "Special tokens, which get the first ids; <|endoftext|> unless given. Name <|endoftext|> among them to "
             "have an end of "
             "text."},
    {"text-key", TL_STRING(train_settings, text_key), .value = "KEY", .initial = "text",
     .help = "The key of a JSONL line that holds its text."},
    {"limit", TL_INT(train_settings, limit), .value = "BYTES", .least = 0, .most = 1e15,
     .help = "Read only so many bytes: the beginning of each file in proportion to its size. Everything unless given."},
    {"by-line", TL_FLAG(train_settings, by_line),
     .help = "Take each line for a text of its own, as train(files) of the tokenizers library does; else a file is one "
             "text, as it "
             "is when it is encoded. The two differ where white space spans lines."},
    {"threads", TL_INT(train_settings, threads), .least = 0, .most = 1024,
     .help = "CPU threads; all that this process may use unless given. The result does not depend on it."},
    {"json", TL_FLAG(train_settings, json), .not_in_yaml = true,
     .help = "Print one JSON object (tokenizer: path, vocab, file_bytes, seconds, hash) and nothing else."},
    {0}};

static int train(tl_cli *cli) {
    const train_settings *o = cli->values;
    int n = o->data.n + cli->operands.n, status = 0;
    if (n == 0) return tl__cli_bad(cli, "no text was given; name the files with --data");
    char path[4096];
    if (strlen(o->out) + 32 > sizeof path) return tl__cli_bad(cli, "--out is longer than a path may be");
    tl__path_join(path, sizeof path, o->out, "tokenizer.json");
    if (tl__path_exists(path)) return tl__cli_bad(cli, "%s exists; choose another --out or remove it", path);
    tl_error err = {0};
    const char **files = malloc((size_t)n * sizeof *files);
    tl_pool *pool = NULL;
    tl_tokenizer *tok = NULL;
    if (!files) status = tl__fail(&err, TL_ENOMEM, "not enough memory for %d file names", n);
    for (int i = 0; i < n && files; i++)
        files[i] = i < o->data.n ? o->data.values[i] : cli->operands.values[i - o->data.n];
    if (!status) status = tl__pool_open(&pool, (int)o->threads, &err);
    int64_t begin = tl__now_ns(), bytes = 0;
    for (int i = 0; i < n && !status; i++) {
        tl_file *file;
        status = tl__file_open(&file, files[i], &err);
        if (status) break;
        bytes += tl__file_size_bytes(file);
        tl__file_close(file);
    }
    tl_bpe_options options = {.vocab = (int)o->vocab,
                              .special = o->special.values,
                              .n_special = o->special.n,
                              .text_key = o->text_key,
                              .limit_bytes = o->limit,
                              .by_line = o->by_line,
                              .pool = pool};
    if (!status) status = tl__tokenizer_train(&tok, files, n, &options, &err);
    if (!status) status = tl__tokenizer_save(tok, o->out, &err);
    double seconds = (double)(tl__now_ns() - begin) * 1e-9;
    int code = TL_EXIT_DONE;
    if (status) {
        code = tl__cli_fail(cli, &err);
    } else {
        char hash[33];
        int vocab = tl__tokenizer_vocab(tok);
        tl__tokenizer_hash(tok, hash);
        if (vocab < o->vocab)
            tl__warn("the text gave %d tokens; no pair is left that could make more of the %" PRId64, vocab, o->vocab);
        if (o->json)
            code =
                tl__cli_print_json(cli, json_pack("{s:s, s:i, s:I, s:f, s:s}", "tokenizer", path, "vocab", vocab,
                                                  "file_bytes", (json_int_t)bytes, "seconds", seconds, "hash", hash));
        else
            printf("%s: %d tokens from %.1f MB in %.2f s (%.1f MB/s)\n", path, vocab, (double)bytes / 1e6, seconds,
                   (double)bytes / 1e6 / seconds);
    }
    tl__tokenizer_close(tok);
    if (pool) tl__pool_close(pool);
    free(files);
    return code;
}

static const tl_command train_command = {
    .name = "train",
    .summary = "learn a vocabulary from text",
    .usage = "--data FILE… --out DIR [--vocab N]",
    .about = "Learns a byte-level BPE: the merges that BpeTrainer of the tokenizers library learns from the same text, "
             "ties broken "
             "the same way, after the pre-splitting of GPT-4. The tokenizer.json that is written opens in that library "
             "and in "
             "transformers, with the same ids.",
    .examples = "  trilith tokenizer train --data book.txt --vocab 8k --out tok\n"
                "      writes tok/tokenizer.json\n"
                "  trilith tokenizer train --data part*.jsonl.zst --text-key content --vocab 32k --limit 1G --out tok\n"
                "      from the beginnings of large files\n",
    .options = train_options,
    .values_bytes = sizeof(train_settings),
    .operand = "FILE",
    .most_operands = 1 << 20,
    .run = train,
};

/* ---- encode ---- */

typedef struct encode_settings {
    const char *model, *text;
    bool special, lines, json;
} encode_settings;

static const tl_option encode_options[] = {
    {"model", TL_STRING(encode_settings, model), .value = "M", .required = true,
     .help = "A tokenizer.json, a folder with one (a model, a checkpoint, a run), a GGUF file, or bytes."},
    {"text", TL_STRING(encode_settings, text), .value = "FILE", .required = true,
     .help = "The text, exactly as it stands in the file. Invalid UTF-8 is replaced by U+FFFD and counted."},
    {"special", TL_FLAG(encode_settings, special),
     .help =
         "Names of special tokens in the text, such as <|endoftext|>, mean the tokens; else they are ordinary text."},
    {"lines", TL_FLAG(encode_settings, lines),
     .help = "Each line is a JSON string and a text of its own; prints a line of ids for each."},
    {"json", TL_FLAG(encode_settings, json), .not_in_yaml = true,
     .help = "Print one JSON object (ids; bytes of the text; replaced, a count) and nothing else."},
    {0}};

/* Room that grows to what a text needs; the ids of one text. */
static int64_t encode_text(const tl_tokenizer *tok, const char *text, size_t n, bool special, int32_t **ids, size_t *room,
                           int64_t *replaced, tl_error *err) {
    for (;;) {
        int64_t count = *ids ? tl__tokenizer_encode(tok, text, n, special, *ids, *room, replaced) : (int64_t)n / 2 + 64;
        if (count == TL_EFORMAT)
            return tl__fail(err, TL_EFORMAT, "the tokenizer's own steps make more than 64 times of a text of %zu bytes, which no honest one does", n);
        if (count < 0) return tl__fail(err, (int)count, "not enough memory to encode a text of %zu bytes", n);
        if (*ids && (size_t)count <= *room) return count;
        free(*ids);
        *ids = malloc((size_t)count * sizeof **ids);
        *room = *ids ? (size_t)count : 0;
        if (!*ids) return tl__fail(err, TL_ENOMEM, "not enough memory for %lld ids", (long long)count);
    }
}

/* On a line; with printf it would take a sixth of the whole time. */
static void print_ids(const int32_t *ids, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        char digits[12], *end = digits + sizeof digits, *at = end;
        for (int32_t id = ids[i]; at == end || id; id /= 10) *--at = (char)('0' + id % 10);
        if (i) *--at = ' ';
        fwrite(at, 1, (size_t)(end - at), stdout);
    }
    putchar('\n');
}

static int encode_lines(const encode_settings *o, tl_error *err) {
    tl_tokenizer *tok = NULL;
    char *bytes = NULL;
    int32_t *ids = NULL;
    size_t size = 0, room = 0, line = 0;
    int status = open_tokenizer(&tok, o->model, err);
    if (!status) status = tl__file_slurp(&bytes, &size, o->text, TEXT_LIMIT_BYTES, err);
    for (size_t at = 0; !status && at < size;) {
        char *end = memchr(bytes + at, '\n', size - at);
        size_t n = end ? (size_t)(end - bytes) - at : size - at;
        line++;
        json_t *text = json_loadb(bytes + at, n, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
        if (!json_is_string(text)) {
            status = tl__fail(err, TL_EFORMAT, "%s: line %zu is not a JSON string", o->text, line);
        } else {
            int64_t count = encode_text(tok, json_string_value(text), json_string_length(text), o->special, &ids, &room, NULL, err);
            if (count < 0) status = (int)count;
            if (count >= 0) print_ids(ids, count);
        }
        json_decref(text);
        at += n + 1;
    }
    free(ids);
    free(bytes);
    tl__tokenizer_close(tok);
    return status;
}

static int encode_file(const encode_settings *o, int32_t **ids, int64_t *n, size_t *size, int64_t *replaced,
                       tl_error *err) {
    tl_tokenizer *tok = NULL;
    char *text = NULL;
    int status = open_tokenizer(&tok, o->model, err);
    if (!status) status = tl__file_slurp(&text, size, o->text, TEXT_LIMIT_BYTES, err);
    size_t room = 0;
    if (!status) *n = encode_text(tok, text, *size, o->special, ids, &room, replaced, err);
    if (!status && *n < 0) status = (int)*n;
    free(text);
    tl__tokenizer_close(tok);
    return status;
}

static int encode(tl_cli *cli) {
    const encode_settings *o = cli->values;
    tl_error err = {0};
    int32_t *ids = NULL;
    int64_t n = 0, replaced = 0;
    size_t size = 0;
    int code = TL_EXIT_DONE;
    if (o->lines) return encode_lines(o, &err) ? tl__cli_fail(cli, &err) : TL_EXIT_DONE;
    if (encode_file(o, &ids, &n, &size, &replaced, &err)) {
        code = tl__cli_fail(cli, &err);
    } else if (o->json) {
        json_t *list = json_array();
        for (int64_t i = 0; i < n; i++) json_array_append_new(list, json_integer(ids[i]));
        code = tl__cli_print_json(cli, json_pack("{s:o, s:I, s:I}", "ids", list, "bytes", (json_int_t)size, "replaced",
                                                 (json_int_t)replaced));
    } else {
        if (replaced)
            tl__warn("%s: %" PRId64 " invalid UTF-8 sequence%s read as U+FFFD", o->text, replaced,
                     replaced == 1 ? "" : "s");
        print_ids(ids, n);
    }
    free(ids);
    return code;
}

static const tl_command encode_command = {
    .name = "encode",
    .summary = "turn text into token ids",
    .usage = "--model M --text FILE [--special] [--lines] [--json]",
    .about = "Prints the ids of a text: those of the tokenizers library's encode(text, add_special_tokens=False).",
    .examples = "  trilith tokenizer encode --model runs/demo --text book.txt --json | jq '.ids | length'\n"
                "      how many tokens the book has\n",
    .options = encode_options,
    .values_bytes = sizeof(encode_settings),
    .run = encode,
};

/* ---- decode ---- */

typedef struct decode_settings {
    const char *model, *tokens;
    bool skip_special, lines, json;
} decode_settings;

static const tl_option decode_options[] = {
    {"model", TL_STRING(decode_settings, model), .value = "M", .required = true,
     .help = "A tokenizer.json, a folder with one (a model, a checkpoint, a run), a GGUF file, or bytes."},
    {"tokens", TL_STRING(decode_settings, tokens), .value = "FILE",
     .help = "A file of ids: numbers parted by white space, a JSON array, or what encode --json prints. Ids can stand "
             "as operands "
             "instead."},
    {"skip-special", TL_FLAG(decode_settings, skip_special), .help = "Leave special tokens out of the text."},
    {"lines", TL_FLAG(decode_settings, lines),
     .help = "Each line of --tokens is a text of its own; prints it as a JSON string on a line."},
    {"json", TL_FLAG(decode_settings, json), .not_in_yaml = true,
     .help = "Print one JSON object (text, tokens: a count) and nothing else."},
    {0}};

typedef struct text_out {
    char *bytes;
    size_t n, room, longest;
    tl_decoder decoder;
    int64_t tokens;
} text_out;

static int push(text_out *t, const tl_tokenizer *tok, int64_t id, bool skip_special, tl_error *err) {
    size_t known = 0;
    if (id >= 0 && id < tl__tokenizer_vocab(tok)) tl__tokenizer_bytes(tok, (int32_t)id, &known);
    if (known == 0)
        return tl__fail(err, TL_EINVALID, "token id %" PRId64 " is unknown; this tokenizer's ids are 0 to %d", id,
                        tl__tokenizer_vocab(tok) - 1);
    if (t->room - t->n < t->longest + 8) {
        size_t room = 2 * t->room + t->longest + 4096;
        char *bigger = realloc(t->bytes, room);
        if (!bigger) return tl__fail(err, TL_ENOMEM, "not enough memory for the decoded text");
        t->bytes = bigger;
        t->room = room;
    }
    t->n += tl__decoder_push(tok, &t->decoder, (int32_t)id, skip_special, t->bytes + t->n);
    t->tokens++;
    return 0;
}

static int push_json(text_out *t, const tl_tokenizer *tok, const char *bytes, size_t n, const decode_settings *o,
                     tl_error *err) {
    json_t *root = tl__json_parse(bytes, n, o->tokens, err);
    if (!root) return TL_EFORMAT;
    const json_t *list = json_is_object(root) ? json_object_get(root, "ids") : root;
    int status =
        json_is_array(list)
            ? 0
            : tl__fail(err, TL_EFORMAT, "%s: a JSON array of ids, or an object with \"ids\", was expected", o->tokens);
    for (size_t i = 0; i < json_array_size(list) && !status; i++) {
        const json_t *item = json_array_get(list, i);
        if (json_is_integer(item)) status = push(t, tok, json_integer_value(item), o->skip_special, err);
        else status = tl__fail(err, TL_EFORMAT, "%s: item %zu of the array is not a token id", o->tokens, i);
    }
    json_decref(root);
    return status;
}

static bool blank(char c) {
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static int push_words(text_out *t, const tl_tokenizer *tok, const char *s, const char *where, bool skip_special,
                      tl_error *err) {
    for (;;) {
        while (blank(*s)) s++;
        if (!*s) return 0;
        int64_t id = 0;
        int n = 0;
        for (; n < 11 && s[n] >= '0' && s[n] <= '9'; n++) id = 10 * id + (s[n] - '0');
        if (n == 0 || n > 10 || (s[n] && !blank(s[n])))
            return tl__fail(err, TL_EFORMAT,
                            "%s: \"%.20s\" is not a token id; ids are whole numbers parted by white space", where, s);
        int status = push(t, tok, id, skip_special, err);
        if (status) return status;
        s += n;
    }
}

static int decode_lines(const decode_settings *o, tl_error *err) {
    tl_tokenizer *tok = NULL;
    char *bytes = NULL;
    size_t n = 0;
    text_out t = {0};
    int status = open_tokenizer(&tok, o->model, err);
    if (!status) t.longest = tl__tokenizer_decode_room(tok);
    if (!status) status = tl__file_slurp(&bytes, &n, o->tokens, TEXT_LIMIT_BYTES, err);
    for (char *at = bytes, *end; !status && at < bytes + n; at = end + 1) {
        end = memchr(at, '\n', (size_t)(bytes + n - at));
        if (!end) end = bytes + n;
        *end = 0;
        t.n = 0;
        t.decoder = (tl_decoder){0};
        status = push_words(&t, tok, at, o->tokens, o->skip_special, err);
        if (status) break;
        if (t.bytes) t.n += tl__decoder_finish(&t.decoder, t.bytes + t.n);
        json_t *text = json_stringn(t.bytes ? t.bytes : "", t.n);
        json_dumpf(text, stdout, JSON_ENCODE_ANY);
        putchar('\n');
        json_decref(text);
    }
    free(t.bytes);
    free(bytes);
    tl__tokenizer_close(tok);
    return status;
}

static int decode(tl_cli *cli) {
    const decode_settings *o = cli->values;
    if ((o->tokens != NULL) == (cli->operands.n > 0))
        return tl__cli_bad(cli, "give the ids either with --tokens FILE or as operands");
    tl_error err = {0};
    if (o->lines && !o->tokens) return tl__cli_bad(cli, "--lines reads the file of --tokens");
    if (o->lines) return decode_lines(o, &err) ? tl__cli_fail(cli, &err) : TL_EXIT_DONE;
    tl_tokenizer *tok = NULL;
    text_out t = {0};
    char *bytes = NULL;
    size_t n = 0;
    int status = open_tokenizer(&tok, o->model, &err);
    if (!status) t.longest = tl__tokenizer_decode_room(tok);
    if (!status && o->tokens) {
        status = tl__file_slurp(&bytes, &n, o->tokens, TEXT_LIMIT_BYTES, &err);
        size_t blank = status ? 0 : strspn(bytes, " \t\r\n");
        if (!status)
            status = bytes[blank] == '[' || bytes[blank] == '{'
                         ? push_json(&t, tok, bytes, n, o, &err)
                         : push_words(&t, tok, bytes, o->tokens, o->skip_special, &err);
    }
    for (int i = 0; i < cli->operands.n && !status; i++)
        status = push_words(&t, tok, cli->operands.values[i], "the ids", o->skip_special, &err);
    int code = TL_EXIT_DONE;
    if (status) {
        code = tl__cli_fail(cli, &err);
    } else {
        if (t.bytes) t.n += tl__decoder_finish(&t.decoder, t.bytes + t.n);
        if (o->json)
            code = tl__cli_print_json(cli, json_pack("{s:o, s:I}", "text", json_stringn(t.bytes ? t.bytes : "", t.n),
                                                     "tokens", (json_int_t)t.tokens));
        else if (t.n) fwrite(t.bytes, 1, t.n, stdout);
    }
    free(t.bytes);
    free(bytes);
    tl__tokenizer_close(tok);
    return code;
}

static const tl_command decode_command = {
    .name = "decode",
    .summary = "turn token ids into text",
    .usage = "--model M (--tokens FILE | ID…) [--skip-special] [--lines] [--json]",
    .about = "Prints the text of ids, exactly: no line break is added. Bytes that form no character become U+FFFD.",
    .examples = "  trilith tokenizer decode --model runs/demo 464 2068 7586\n"
                "      the text of three tokens\n",
    .options = decode_options,
    .values_bytes = sizeof(decode_settings),
    .operand = "ID",
    .most_operands = 1 << 20,
    .run = decode,
};

static const tl_command *const subcommands[] = {&train_command, &encode_command, &decode_command, NULL};

const tl_command tl__cmd_tokenizer = {
    .name = "tokenizer",
    .summary = "train a tokenizer, turn text into ids and ids into text",
    .usage = "train|encode|decode …",
    .about = "BPE and unigram, in the format tokenizer.json of Hugging Face or a GGUF file's metadata.",
    .subcommands = subcommands,
};
