/* tokenizer.h — text to token ids and back: BPE (of bytes or characters) and unigram, read from Hugging Face's
 * tokenizer.json or GGUF metadata and written as either, or plain bytes.
 *
 * Ids equal those of the `tokenizers` library (tokenizer.json) and of llama.cpp (GGUF) for the constructs that are read;
 * any other construct (normalizer, pre-tokenizer, model, post-processor that would change ids) is refused by name.
 * Encoding is safe from several threads. */
#ifndef TL_TEXT_TOKENIZER_H
#define TL_TEXT_TOKENIZER_H

#include <stdbool.h>
#include "base/threads.h"
#include "io/gguf.h"

typedef struct tl_tokenizer tl_tokenizer;

/* spec: "bytes" (256 ids and <|endoftext|> = 256, itself written as a byte-level BPE without merges), a tokenizer.json,
 * a folder holding one, or a GGUF file. */
int tl__tokenizer_open(tl_tokenizer **tok, const char *spec, tl_error *err);
/* The tokenizer in a GGUF file's metadata (tokenizer.ggml.*); keeps nothing of the handle. */
int tl__tokenizer_from_gguf(tl_tokenizer **tok, const tl_gguf *gguf, tl_error *err);
void tl__tokenizer_close(tl_tokenizer *tok);
int tl__tokenizer_vocab(const tl_tokenizer *tok); /* ids are below this */
int tl__tokenizer_eos(const tl_tokenizer *tok);   /* id of <|endoftext|>, </s>, <|end_of_text|> or <eos>; −1: none */
int tl__tokenizer_bos(const tl_tokenizer *tok);   /* −1: none */
/* Does the model expect texts that begin with bos, end with eos? Encoding itself never adds them. */
bool tl__tokenizer_adds_bos(const tl_tokenizer *tok);
bool tl__tokenizer_adds_eos(const tl_tokenizer *tok);
int tl__tokenizer_id(const tl_tokenizer *tok, const char *token_text); /* −1: no such token */
/* Publish tokenizer.json (and tokenizer_config.json for transformers' AutoTokenizer) into a folder. */
int tl__tokenizer_save(const tl_tokenizer *tok, const char *folder, tl_error *err);
/* The same as GGUF metadata, in as many tokens as the model's embedding has rows (those beyond the tokenizer's are
 * unused); refuses what GGUF has no form for. */
int tl__tokenizer_to_gguf(const tl_tokenizer *tok, int rows, tl_gguf_out *out, tl_error *err);
/* XXH3 of what determines ids; recorded by runs and shards. hex[33] */
void tl__tokenizer_hash(const tl_tokenizer *tok, char *hex);

/* Ids of a UTF-8 text (invalid bytes: encoded as U+FFFD, counted in *replaced if not NULL). special: text of special
 * tokens in the input becomes their id (else ordinary text). Writes at most cap ids; returns the number needed, or a
 * negative status: TL_EFORMAT where the tokenizer's own steps make far more of the text than any honest one's do
 * (textbuf.h). A cap of n mostly suffices; U+FFFD and normalisers may need more: call again with what is returned. */
int64_t tl__tokenizer_encode(const tl_tokenizer *tok, const char *text, size_t n, bool special, int32_t *ids,
                             size_t cap, int64_t *replaced);
/* The longest prefix of text[0, n) that can be encoded on its own with the same ids as within a longer text (ends where
 * a pre-token must end whatever follows); 0 if none is known. For reading files in ranges. */
size_t tl__tokenizer_safe_cut(const tl_tokenizer *tok, const char *text, size_t n);
/* Bytes of one id, borrowed; special tokens give their text. *n = 0 for unknown ids. */
const char *tl__tokenizer_bytes(const tl_tokenizer *tok, int32_t id, size_t *n);
bool tl__tokenizer_is_special(const tl_tokenizer *tok, int32_t id);

/* Streaming decode: push an id, get the bytes that complete characters (an incomplete UTF-8 tail is held back; invalid
 * bytes become U+FFFD). out needs 3·(longest token)+16 bytes: tl__tokenizer_decode_room. */
typedef struct tl_decoder {
    unsigned char held[4];
    int n, stripped;
    bool some, begun, bytewise; /* a token came; the beginning is past; each wrong byte is a U+FFFD */
} tl_decoder; /* begins as {0} */
size_t tl__tokenizer_decode_room(const tl_tokenizer *tok);
size_t tl__decoder_push(const tl_tokenizer *tok, tl_decoder *d, int32_t id, bool skip_special, char *out);
size_t tl__decoder_finish(tl_decoder *d, char *out); /* flushes what was held back as U+FFFD */

/* Train byte-level BPE (Sennrich et al. 2016; Radford et al. 2019) on files (gz, zst, .jsonl by text_key): GPT-4-style
 * pre-splitting, the merges of `tokenizers`' BpeTrainer(vocab_size, special_tokens, initial_alphabet =
 * ByteLevel.alphabet()) on the same text, ties broken the same way. specials: n names, given the first ids (default
 * <|endoftext|>). limit_bytes > 0: reads only the beginning of each file in proportion. by_line: each line is a text of
 * its own, as the library's train(files) reads them (else a file is one text, as it is when encoded); the two differ
 * where white space spans lines. */
typedef struct tl_bpe_options {
    int vocab;
    const char *const *special;
    int n_special;
    const char *text_key; /* for JSONL; NULL: "text" */
    int64_t limit_bytes;
    bool by_line;
    tl_pool *pool;
} tl_bpe_options;
int tl__tokenizer_train(tl_tokenizer **tok, const char *const *paths, int n_paths, const tl_bpe_options *options,
                        tl_error *err);

#endif
