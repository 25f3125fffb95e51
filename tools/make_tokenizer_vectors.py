#!/usr/bin/env python3
"""Writes the tokenizer's test vectors with the `tokenizers` library: tests/vectors/tokenizer/.

  text.txt       what the others are trained on: generated words, numbers, punctuation, many scripts
  trained.json   our kind of tokenizer, trained by the library on text.txt
  gpt2.json      GPT-2's kind: ByteLevel with its own expression, merges as strings, no model type
  llama3.json    Llama 3's kind: its spelling of the split, ignore_merges, added tokens, a template
  cases.json     strings and their ids by each, with and without special tokens
  ties.json      small texts full of equal counts and of tokens made twice, and the merges learnt on them
  kinds.json     a tokenizer for each other construct (shared models, and steps), strings, their ids and what these decode to
  nasty.json     the same with broken UTF-8, as hexadecimal bytes

Usage: make_tokenizer_vectors.py [FOLDER]
"""
import json
import os
import random
import sys

import charsmap
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

GPT4 = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|"
        r"\s+(?!\S)|\s+")
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
          r"\s+(?!\S)|\s+")
POOLS = ["abc", "aab", "the and of stone ", "\u00e4\u00f6\u00fc\u00df\u00e9", "\u65e5\u672c\u8a9e\u4e2d\u6587",
         "\U0001f600\U0001f389\U0001f468\u200d\U0001f469", "\u0627\u0628\u062c\u062f", "\u0301\u0300e",
         "0123456789\u0663\u0664", "'sStTdDmMlLrReEvV\u017f", " \t\n\r\u00a0\u3000\u2028\x85\x0b\x0c", "!?.,;:-_<|>#\"'",
         "\U0001e030\U00016d40\U0002ebf0\U0001ccf0\U00010437", " ", "\n", "  "]


def text_of(rng):
    onsets, vowels, codas = "b c d f g h k l m n p r s t th sh st tr".split(), "a e i o u ai ea ou".split(), ["", "n", "r", "s", "t", "ng", "ll"]
    words = ["".join(rng.choice(onsets) + rng.choice(vowels) + rng.choice(codas) for _ in range(rng.choice((1, 1, 2, 2, 3))))
             for _ in range(1200)]
    out = []
    for _ in range(900):
        line = []
        for _ in range(rng.randint(0, 14)):
            word = words[min(int(rng.expovariate(1 / 90)), len(words) - 1)]
            kind = rng.random()
            if kind < 0.08: word = word.capitalize()
            elif kind < 0.10: word = word.upper()
            elif kind < 0.14: word += rng.choice(("'s", "'t", "'ll", "'RE", "'ve", "'d"))
            elif kind < 0.18: word = str(rng.randint(0, 10 ** rng.randint(1, 8)))
            elif kind < 0.21: word = f"{word}_{rng.choice(words)}({rng.randint(0, 99)});"
            elif kind < 0.23: word = "".join(rng.choice(rng.choice(POOLS)) for _ in range(4))
            line.append(word + rng.choice(("", "", "", "", ",", ".", "!", "...", " -")))
        out.append(" ".join(line) + rng.choice(("\n", "\n", "\n", "\n\n", "\r\n", "  \n", "\n\n\n", "\n    ", "\n\t")))
    return "".join(out)


def split(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def train(pre, texts, vocab, special):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer, t.decoder = pre, decoders.ByteLevel()
    t.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocab, special_tokens=special, show_progress=False,
                                                     initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return t


def cases_of(rng, text):
    out = ["", " ", "  ", "\n", "a", "'", "''", "'s", "'S", "'\u017f", "'\u017fx", "it's IT'S it'll we'VE they'RE 'tis",
           "hello world", " hello  world ", "a\n\nb", "a \n b", "a\r\n\r\nb", "\n \n x", "x" * 300, "ab" * 200,
           "1", "12", "1234567", "3.14159", "1,000,000", "\u0661\u0662\u0663\u0664", "!!!", "...\n\n", " !?\r\n x",
           "<|endoftext|>", "a<|endoftext|>b", "<|endoftext|", "<|endoftext|><|endoftext|>", "x <|fim|> y<|fim_middle|>z",
           "\u00a0x", "\u3000\u65e5\u672c", "e\u0301", "\u0301", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\ufeffx",
           "\x00\x01\x7f", "\u2028x\u2029y", "\x85x", "\x1cx\x1dy", "\u200bx", "tab\tx", "\t\tx", " \tx", "x\t \ty", "\ufffd",
           "\U00016d40\U0002ebf0 \U0001e030", "\U0010ffff", "def f(x):\n    return x+1\n\n\n", "https://a.b/c?d=e&f=g#h"]
    for _ in range(170):
        out.append("".join("".join(rng.choice(p) for _ in range(rng.randint(1, 4)))
                           for p in (rng.choice(POOLS) for _ in range(rng.randint(1, 9)))))
    for _ in range(30):
        at = rng.randrange(len(text) - 60)
        out.append(text[at:at + rng.randint(1, 60)])
    return out


def kinds_of(text):
    """One small tokenizer for each construct that byte-level BPE after one scanner does not have."""
    from tokenizers import models, normalizers as N, pre_tokenizers as P, decoders as D
    words = text[:20000].split("\n")
    byte = lambda regex=False, prefix=False: P.ByteLevel(add_prefix_space=prefix, use_regex=regex)

    def bytes_bpe(pre, norm=None, alphabet=True):
        t = Tokenizer(models.BPE())
        t.pre_tokenizer, t.decoder = pre, D.ByteLevel()
        if norm: t.normalizer = norm
        t.train_from_iterator(words, trainers.BpeTrainer(vocab_size=360 if alphabet else 120, show_progress=False, special_tokens=["<s>"], limit_alphabet=256 if alphabet else 60,
                                                         initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if alphabet else []))
        return t

    def chars_bpe(norm, pre, decoder, fallback, fuse=True):
        t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=fuse, byte_fallback=fallback))
        t.decoder = decoder
        if norm: t.normalizer = norm
        if pre: t.pre_tokenizer = pre
        special = ["<unk>", "<s>"] + ([f"<0x{i:02X}>" for i in range(256)] if fallback else [])
        t.train_from_iterator(words, trainers.BpeTrainer(vocab_size=len(special) + 110, special_tokens=special, show_progress=False, limit_alphabet=40, max_token_length=9))
        data = json.loads(t.to_str())
        data["added_tokens"] = [a for a in data["added_tokens"] if not a["content"].startswith("<0x")]
        return Tokenizer.from_str(json.dumps(data))

    def unigram(norm, pre, decoder):
        t = Tokenizer(models.Unigram())
        t.pre_tokenizer, t.decoder = pre, decoder
        if norm: t.normalizer = norm
        t.train_from_iterator(["".join(c for c in w if c.isascii()) for w in words],
                              trainers.UnigramTrainer(vocab_size=180, special_tokens=["<unk>", "<s>"], unk_token="<unk>", show_progress=False, max_piece_length=9))
        return t
    spaces = lambda strip: D.Sequence([D.Replace("\u2581", " "), D.ByteFallback(), D.Fuse()] + ([D.Strip(" ", 1, 0)] if strip else []))
    behaviors = ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"]
    out = {
        "smollm": bytes_bpe(P.Sequence([P.Digits(individual_digits=True), byte(True)])),
        "falcon": bytes_bpe(P.Sequence([P.Punctuation("contiguous"), byte(True), P.Digits(), P.Split(Regex("[0-9][0-9][0-9]"), "isolated")])),
        "prefix": bytes_bpe(byte(True, True), N.NFC()),
        "few_bytes": bytes_bpe(byte(True), alphabet=False),
        "nfkc": bytes_bpe(byte(True), N.Sequence([N.NFKC(), N.Lowercase(), N.Strip()])),
        "accents": bytes_bpe(byte(True), N.Sequence([N.NFD(), N.StripAccents()])),
        "nfkd": bytes_bpe(byte(True), N.Sequence([N.NFKD(), N.Replace(Regex(r"\s+|(?<=t)h|^x"), " "), N.Replace("th", "")])),
        "words": bytes_bpe(P.Sequence([P.Whitespace(), P.Punctuation(), byte()])),
        "white": bytes_bpe(P.Sequence([P.WhitespaceSplit(), P.Split(Regex(r"\w+|[^\w\s]+"), "isolated"), byte()])),
        "llama2": chars_bpe(N.Sequence([N.Prepend("\u2581"), N.Replace(" ", "\u2581")]), None, spaces(True), True),
        "gemma": chars_bpe(N.Replace(" ", "\u2581"), P.Split(" ", "merged_with_previous"), spaces(False), True),
        "mistral": chars_bpe(None, P.Metaspace(prepend_scheme="first", split=False), spaces(True), True),
        "unknown": chars_bpe(None, P.Metaspace(), D.Metaspace(), False),
        "unknowns": chars_bpe(N.Replace(" ", "\u2581"), None, spaces(False), False, False),
        "unigram": unigram(N.Sequence([N.NFKC(), N.Replace(Regex(" {2,}"), " ")]), P.Metaspace(), D.Metaspace()),
        "unigram_whole": unigram(None, P.Metaspace(prepend_scheme="first", split=False), D.Metaspace(prepend_scheme="first")),
    }
    for i, behavior in enumerate(behaviors):
        out["split_" + behavior] = bytes_bpe(P.Sequence([P.Split(Regex(r"[aeiou ]|\d{2}|\s*$|(?=t)"), behavior, i % 2 == 1), byte()]))
    # sentencepiece's, as transformers writes them: T5's words, and XLM-R's whole text.
    compiled = N.Precompiled(charsmap.compile(charsmap.nfkc([*range(0xA0, 0xC0), 0x212B, *range(0x2460, 0x2474), 0xFB01, *range(0xFF01, 0xFF5F)])
                                              | {"e\u0301": "\u00e9"}))
    out["sentencepiece_words"] = unigram(compiled, P.Sequence([P.WhitespaceSplit(), P.Metaspace()]), D.Metaspace())
    out["sentencepiece"] = unigram(N.Sequence([compiled, N.Strip(left=False, right=True), N.Replace(Regex(" {2,}"), "\u2581")]), P.Metaspace(), D.Metaspace())
    # What differs is the steps: models are shared, so that the file stays small.
    model_of = {name: "prefix" if name not in ("few_bytes", "llama2", "gemma", "mistral", "unknown", "unknowns", "unigram", "unigram_whole", "sentencepiece", "sentencepiece_words") else
                {"gemma": "llama2", "mistral": "llama2", **dict.fromkeys(("unigram_whole", "sentencepiece", "sentencepiece_words"), "unigram")}.get(name, name) for name in out}
    shared = {name: json.loads(out[name].to_str())["model"] for name in dict.fromkeys(model_of.values())}
    for name in out:
        data = json.loads(out[name].to_str())
        data["model"] = shared[model_of[name]]
        out[name] = Tokenizer.from_str(json.dumps(data))
    for i, t in enumerate(out.values()):
        if i % 2 == 0:
            t.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False), AddedToken("<sep>", lstrip=True, rstrip=True, normalized=False)])
            t.add_tokens([AddedToken("ab", single_word=True), AddedToken("Ba", normalized=True), AddedToken("  ", normalized=False)])
    return out, shared, model_of


def kinds(rng, text, folder):
    (tokenizers, shared, model_of), cases = kinds_of(text), []
    for s in rng.sample(cases_of(rng, text), 26) + ["\u00c5\ufb01\u2460\u212b e\u0301\u0323x 12\u00bd", " ab ab, Ba <mask>  ab<sep> x", "\u2581 \u2581\u2581a  b", "\U00011938\u0dda\u1100\u1161\u11a8\uac01\u11a8"]:
        case = {"text": s}
        for name, t in tokenizers.items():
            ids = t.encode(s, add_special_tokens=False).ids
            case[name] = [ids, t.decode(ids, skip_special_tokens=False)]
        cases.append(case)
    dump(os.path.join(folder, "kinds.json"), {"models": shared, "cases": cases, "kinds": {
        name: {**json.loads(t.to_str()), "model": model_of[name]} for name, t in tokenizers.items()}})


def dump(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=True, separators=(",", ":"))
        f.write("\n")


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), "../tests/vectors/tokenizer")
    os.makedirs(folder, exist_ok=True)
    rng = random.Random(3)
    text = text_of(rng)
    with open(os.path.join(folder, "text.txt"), "w", encoding="utf-8", newline="") as f:
        f.write(text)
    trained = train(split(GPT4), [text], 1200, ["<|endoftext|>", "<|fim|>"])
    by_line = train(split(GPT4), [l + "\n" for l in text.split("\n")[:-1]] +
                    [text.split("\n")[-1]], 1200, ["<|endoftext|>", "<|fim|>"])
    gpt2 = train(pre_tokenizers.ByteLevel(add_prefix_space=False), [text], 700, ["<|endoftext|>"])
    llama3 = train(split(LLAMA3), [text], 900, [])
    saved = json.loads(llama3.to_str())
    saved["model"]["ignore_merges"] = True
    # Some words are tokens that no merge leads to: only ignore_merges finds them.
    vocab = saved["model"]["vocab"]
    for word in ("\u0120hello", "return", "\u0120world"):
        if word not in vocab:
            vocab[word] = len(vocab)
    llama3 = Tokenizer.from_str(json.dumps(saved))
    llama3.add_special_tokens([AddedToken("<|begin_of_text|>", normalized=False), AddedToken("<|endoftext|>", normalized=False)])
    llama3.add_tokens([AddedToken("<|fim|>", normalized=False), AddedToken("<|fim_middle|>", normalized=True),
                       AddedToken("fim_mid", normalized=True)])
    llama3.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), processors.TemplateProcessing(
        single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A $B", special_tokens=[("<|begin_of_text|>", llama3.token_to_id("<|begin_of_text|>"))])])

    dump(os.path.join(folder, "trained.json"), json.loads(trained.to_str()))
    dump(os.path.join(folder, "by_line.json"), json.loads(by_line.to_str())["model"]["merges"])
    old = json.loads(gpt2.to_str())
    old["model"]["merges"] = [" ".join(m) for m in old["model"]["merges"]]
    for key in ("type", "byte_fallback", "ignore_merges"):
        del old["model"][key]
    old["model"]["continuing_subword_prefix"] = old["model"]["end_of_word_suffix"] = ""
    dump(os.path.join(folder, "gpt2.json"), old)
    dump(os.path.join(folder, "llama3.json"), json.loads(llama3.to_str()))

    cases = []
    for s in cases_of(rng, text):
        case = {"text": s}
        for name, t in (("trained", trained), ("gpt2", gpt2), ("llama3", llama3)):
            t.encode_special_tokens = True
            case[name] = t.encode(s, add_special_tokens=False).ids
            t.encode_special_tokens = False
            with_special = t.encode(s, add_special_tokens=False).ids
            if with_special != case[name]:
                case[name + "_special"] = with_special
        cases.append(case)
    dump(os.path.join(folder, "cases.json"), cases)

    texts = ["a" * 257 + " " + "ab" * 60, " ".join("x" * rng.randint(1, 40) for _ in range(120)),
             " ".join("".join(rng.choice("ab") for _ in range(rng.randint(1, 30))) for _ in range(200)),
             " ".join("".join(rng.choice("abc") for _ in range(rng.randint(1, 9))) for _ in range(300)),
             "".join("".join(rng.choice(p) for _ in range(rng.randint(1, 4))) for p in (rng.choice(POOLS) for _ in range(1500)))]
    ties = []
    for s in texts:
        t = train(split(GPT4), [s], 600, ["<|endoftext|>", "ab"])
        ties.append({"text": s, "vocab": 600, "special": ["<|endoftext|>", "ab"], "merges": json.loads(t.to_str())["model"]["merges"]})
    dump(os.path.join(folder, "ties.json"), ties)

    nasty = []
    for _ in range(60):
        raw = bytearray("".join(rng.choice(rng.choice(POOLS)) for _ in range(12)).encode())
        for _ in range(rng.randint(1, 4)):
            raw[rng.randrange(len(raw))] = rng.choice((0x80, 0xBF, 0xC0, 0xC3, 0xE0, 0xED, 0xF0, 0xF4, 0xFF, rng.randrange(256)))
        raw = bytes(raw[:rng.randint(1, len(raw))])
        fixed = raw.decode("utf-8", errors="replace")
        clean = 0  # how many U+FFFD were put in
        at = 0
        while at < len(raw):
            try:
                raw[at:].decode("utf-8")
                break
            except UnicodeDecodeError as e:
                clean += 1
                at += e.end
        trained.encode_special_tokens = True
        nasty.append({"hex": raw.hex(), "replaced": clean, "trained": trained.encode(fixed, add_special_tokens=False).ids})
    dump(os.path.join(folder, "nasty.json"), nasty)
    kinds(rng, text, folder)


main()
