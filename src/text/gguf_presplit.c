/* gguf_presplit.c — owns the table of tokenizer.ggml.pre: what llama.cpp's names mean
 * (https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp), in the expressions of the models' own
 * tokenizer.json where llama.cpp approximates these. */
#include "text/gguf_presplit.h"

#include <string.h>

#define GPT2_PUNCTUATION "[\\p{P}\\$\\+<=>\\^~\\|]+"
#define CONTRACTION "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
#define UPPER "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define TAIL "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/* A step: one of the scanners, or '0' a digit alone, or an expression whose matches stand alone. */
typedef struct split_step {
    char scanner; /* '2' GPT-2, '3' Llama 3, 'q' Qwen 2, '0' digits; 0: expression */
    const char *expression;
} split_step;

static const struct {
    const char *names; /* the first is the one that is written */
    bool whole_words, adds_bos;
    split_step steps[5];
} kinds[] = {
    {" llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano ", true, true, {{'3', 0}}},
    {" dbrx smaug-bpe ", false, false, {{'3', 0}}},
    {" chatglm-bpe glm4 glm5 ", true, false, {{'3', 0}}},
    {" qwen2 deepseek-r1-qwen kormo f2llmv2 stablelm2 megrez hunyuan grok-2 solar-open ", false, false, {{'q', 0}}},
    {" gpt-2 phi-2 jina-es jina-de jina-v1-en jina-v2-es jina-v2-de jina-v2-code roberta-bpe gigachat a.x-4.0 mellum "
     "modern-bert mpt olmo jais trillion granite-docling ",
     false,
     false,
     {{'2', 0}}},
    {" smollm starcoder refact command-r codeshell exaone minerva-7b mellum2 ", false, false, {{'0', 0}, {'2', 0}}},
    {" gpt-4o llama4 kanana2 talkie minimax-m2 ",
     false,
     false,
     {{0, UPPER "*" LOWER "+" CONTRACTION "|" UPPER "+" LOWER "*" CONTRACTION
              "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" TAIL}}},
    {" tekken ", true, true, {{0, UPPER "*" LOWER "+|" UPPER "+" LOWER "*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" TAIL}}},
    {" qwen35 ",
     false,
     false,
     {{0, "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" TAIL}}},
    {" deepseek-v3 hunyuan-dense joyai-llm hy_v4 ",
     false,
     false,
     {{0, "\\p{N}{1,3}"},
      {0, "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"},
      {0, "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "
          "?[\\p{P}\\p{S}]+[\\r\\n]*|" TAIL}}},
    {" deepseek-coder ",
     false,
     false,
     {{0, "[\\r\\n]"}, {0, "\\s?\\p{L}+"}, {0, "\\s?\\p{P}+"}, {0, "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"}, {0, "\\p{N}"}}},
    {" falcon ", false, false, {{0, "[\\p{P}\\$\\+<=>\\^~\\|`]+"}, {'2', 0}, {0, "[0-9][0-9][0-9]"}}},
    {" bailingmoe bailingmoe2 llada-moe ",
     false,
     false,
     {{0, "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"}}},
    {" seed-coder ",
     false,
     false,
     {{0, "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|" TAIL}}},
    {" default ", false, false, {{0, GPT2_PUNCTUATION}, {'2', 0}, {0, "\\p{N}+"}, {0, "[0-9][0-9][0-9]"}}},
};

static int add_step(tl_tokenizer *tok, const split_step *step, const char *where, tl_error *err) {
    tl_pre pre = {.kind = TL_PRE_SCAN, .behavior = TL_ISOLATED};
    int status = 0;
    switch (step->scanner) {
    case '2':
        pre.split = TL_SPLIT_GPT2;
        break;
    case '3':
        pre.split = TL_SPLIT_GPT4;
        break;
    case 'q':
        pre.split = TL_SPLIT_QWEN;
        break;
    case '0':
        pre.kind = TL_PRE_SPLIT;
        pre.name = "Digits";
        status = tl__pattern_set(&pre.pattern, TL_SET_NUMERIC, err);
        break;
    default:
        pre.kind = TL_PRE_SPLIT;
        status = tl__pattern_regex(&pre.pattern, step->expression, where, err);
    }
    if (!status) tok->pre[tok->n_pre++] = pre;
    return status;
}

/* Is " name " one of a kind's names? */
static bool has_name(const char *names, const char *name, size_t n) {
    for (const char *at = names; (at = memmem(at, strlen(at), name, n)); at++)
        if (at[-1] == ' ' && at[n] == ' ') return true;
    return false;
}

int tl__gguf_presplit(tl_tokenizer *tok, const char *name, size_t n, bool *adds_bos, const char *where, tl_error *err) {
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        if (n == 0 || !has_name(kinds[k].names + 1, name, n)) continue;
        tok->whole_words = kinds[k].whole_words;
        *adds_bos = kinds[k].adds_bos;
        int status = 0;
        for (int i = 0; i < 5 && !status && (kinds[k].steps[i].scanner || kinds[k].steps[i].expression); i++)
            status = add_step(tok, &kinds[k].steps[i], where, err);
        return status;
    }
    return tl__fail(err, TL_EUNSUPPORTED,
                    "%s: tokenizer.ggml.pre is \"%.*s\", whose splits are not known here; llama-bpe, qwen2, gpt-2, smollm, "
                    "gpt-4o, tekken, deepseek-v3, falcon and others are",
                    where, (int)(n < 60 ? n : 60), name);
}

static bool same_step(const tl_pre *pre, const split_step *step) {
    size_t n;
    bool regex;
    switch (step->scanner) {
    case '2':
        return pre->kind == TL_PRE_SCAN && pre->split == TL_SPLIT_GPT2;
    case '3':
        return pre->kind == TL_PRE_SCAN && pre->split == TL_SPLIT_GPT4;
    case 'q':
        return pre->kind == TL_PRE_SCAN && pre->split == TL_SPLIT_QWEN;
    case '0':
        return pre->kind == TL_PRE_SPLIT && pre->name && strcmp(pre->name, "Digits") == 0 && pre->behavior == TL_ISOLATED;
    default:
        return pre->kind == TL_PRE_SPLIT && !pre->name && pre->behavior == TL_ISOLATED && !pre->invert &&
               strcmp(tl__pattern_source(pre->pattern, &n, &regex), step->expression) == 0 && regex;
    }
}

const char *tl__gguf_presplit_name(const tl_tokenizer *tok) {
    static const char *const first[] = {"llama-bpe", "dbrx",           "chatglm-bpe", "qwen2",  "gpt-2",
                                        "smollm",    "gpt-4o",         "tekken",      "qwen35", "deepseek-v3",
                                        "deepseek-coder", "falcon", "bailingmoe", "seed-coder", "default"};
    _Static_assert(sizeof first / sizeof first[0] == sizeof kinds / sizeof kinds[0], "a name for each kind");
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        int n = 0;
        while (n < 5 && (kinds[k].steps[n].scanner || kinds[k].steps[n].expression)) n++;
        bool same = n == tok->n_pre && kinds[k].whole_words == tok->whole_words;
        for (int i = 0; i < n && same; i++) same = same_step(&tok->pre[i], &kinds[k].steps[i]);
        if (same) return first[k];
    }
    return NULL;
}
