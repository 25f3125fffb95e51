"""Tokenizers beside the `tokenizers` library: every construct that Trilith reads, trained live, on generated and real lines.

Lines: every code point that the library's regular expressions know (Unicode 16), marks after anything, emoji sequences, digits, runs of white
space, broken UTF-8 as it is replaced, mixed scripts, names of special tokens, English and code. Each tokenizer sees them twice, with special
tokens found and as ordinary text, and its ids are decoded again, with special tokens and without.
"""
import fcntl
import functools
import json
import math
import os
import random

import real_models
from checks import one
from tokenizers import AddedToken, Regex, Tokenizer, decoders as D, models as M, normalizers as N, pre_tokenizers as P, trainers as T

GPT4 = r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"""
QWEN = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
O200K = (r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"""
         r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"""
         r"""\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+""")
DEEPSEEK = [r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
            r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""]
MARKS = [0x300, 0x301, 0x302, 0x308, 0x323, 0x327, 0x334, 0x345, 0x5B4, 0x64B, 0x670, 0x93C, 0x94D, 0x9BE, 0xE48, 0x1100, 0x1161, 0x11A7, 0x11A8, 0x3099,
         0x309A, 0x11930, 0x11935, 0x20D0, 0xFE0F, 0x200D, 0x1F3FB]
EMOJI = ["\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "\u2764\ufe0f", "1\ufe0f\u20e3", "\U0001f44d\U0001f3fd"]
BLOCK = 100_000  # lines held at once
BATCH = 2_000  # lines whose encodings the library holds at once
ASKED = 2_000  # lines of each block of which the library is asked everything
SPACES = [" ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u3000", "\u2028", "\x85", "\x0b", "\u2003", " " * 20]
WORDS = ("the The don't it's IT'S stone ab Ba river \u00fcber na\u00efve \u041c\u043e\u0441\u043a\u0432\u0430 \u65e5\u672c\u8a9e\u30c6\u30ad\u30b9\u30c8 "
         "\uc548\ub155\ud558\uc138\uc694 \u0645\u0631\u062d\u0628\u0627 \u0939\u093f\u0928\u094d\u0926\u0940 \u0e44\u0e17\u0e22 <s> </s> <unk> <mask> <sep> "
         "<|endoftext|> \u2581 \u2581\u2581 _ <0x0A> \ufb01 \u212b \u2460 \u337f \u00bd \u017f \u212a \u0130 \u1e9e 12 3456 1,234.5 \u0663\u0664 x=y+1; {}[]()").split()
numeral = functools.cache(str)


@functools.cache
def known_points():
    """What is not \\p{C} to the library: assigned and visible."""
    points, split, out = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF], P.Split(Regex(r"\p{C}"), "removed"), []
    for i in range(0, len(points), 4096):
        out.extend(c for piece, _ in split.pre_tokenize_str("".join(map(chr, points[i:i + 4096]))) for c in map(ord, piece))
    return out


def lines_of(rng, n, real, every=True):
    """n lines; every: each point that there is stands in one."""
    points = known_points()
    out = ["".join(map(chr, points[i:i + 60])) for i in range(0, len(points), 60)] if every else []
    while len(out) < n:
        if rng.random() < 0.25:
            out.append(rng.choice(real))
            continue
        parts = []
        for _ in range(rng.randint(1, 14)):
            kind = rng.random()
            if kind < 0.4: parts.append(rng.choice(WORDS))
            elif kind < 0.5: parts.append(rng.choice(EMOJI))
            elif kind < 0.6: parts.append("".join(chr(rng.choice(points)) for _ in range(rng.randint(1, 4))))
            elif kind < 0.7: parts.append(chr(rng.choice(points)) + "".join(chr(rng.choice(MARKS)) for _ in range(rng.randint(1, 3))))
            elif kind < 0.75: parts.append(str(rng.randint(0, 10 ** rng.randint(1, 9))))
            elif kind < 0.8: parts.append(bytes(rng.randrange(256) for _ in range(rng.randint(1, 6))).decode("utf-8", "replace"))
            parts.append(rng.choice(SPACES) if rng.random() < 0.6 else "")
        out.append("".join(parts))
    rng.shuffle(out)
    return out


def kinds(corpus):
    """(name, what trains it on the lines that corpus() gives)"""
    def byte(**options):
        return P.ByteLevel(**{"add_prefix_space": False, "use_regex": False, **options})

    def split(*patterns):
        return P.Sequence([P.Split(Regex(p), "isolated") for p in patterns] + [byte()])

    def bytes_bpe(pre, norm=None, alphabet=True):
        t = Tokenizer(M.BPE())
        t.pre_tokenizer, t.decoder = pre, D.ByteLevel()
        if norm:
            t.normalizer = norm
        t.train_from_iterator(corpus(), T.BpeTrainer(vocab_size=1200, special_tokens=["<s>", "</s>", "<unk>"], show_progress=False, limit_alphabet=400,
                                                     initial_alphabet=P.ByteLevel.alphabet() if alphabet else []))
        return t

    def chars_bpe(norm, pre, decoder, fallback=True, fuse=True):
        t = Tokenizer(M.BPE(unk_token="<unk>", fuse_unk=fuse, byte_fallback=fallback))
        t.decoder = decoder
        if norm:
            t.normalizer = norm
        if pre:
            t.pre_tokenizer = pre
        special = ["<unk>", "<s>", "</s>"] + ([f"<0x{i:02X}>" for i in range(256)] if fallback else [])
        t.train_from_iterator(corpus(), T.BpeTrainer(vocab_size=2000, special_tokens=special, show_progress=False, limit_alphabet=150, max_token_length=12))
        data = json.loads(t.to_str())
        data["added_tokens"] = [a for a in data["added_tokens"] if not a["content"].startswith("<0x")]
        return Tokenizer.from_str(json.dumps(data))

    def unigram(norm, pre, decoder):
        t = Tokenizer(M.Unigram())
        t.pre_tokenizer, t.decoder = pre, decoder
        if norm:
            t.normalizer = norm
        t.train_from_iterator([line for line in corpus() if line.isascii()],
                              T.UnigramTrainer(vocab_size=1500, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False,
                                               max_piece_length=12))
        return t

    def spaces(*more):
        return D.Sequence([D.Replace("\u2581", " "), D.ByteFallback(), D.Fuse(), *more])

    plain = byte(use_regex=True)
    yield "GPT-2", lambda: bytes_bpe(plain)
    yield "GPT-2 with a prefix space", lambda: bytes_bpe(byte(use_regex=True, add_prefix_space=True))
    yield "Llama 3", lambda: bytes_bpe(split(GPT4))
    yield "Qwen 2", lambda: bytes_bpe(split(QWEN), N.NFC())
    yield "GPT-4o", lambda: bytes_bpe(split(O200K))
    yield "DeepSeek 3", lambda: bytes_bpe(split(*DEEPSEEK))
    yield "SmolLM", lambda: bytes_bpe(P.Sequence([P.Digits(individual_digits=True), plain]))
    yield "Falcon", lambda: bytes_bpe(P.Sequence([P.Punctuation("contiguous"), plain, P.Digits(), P.Split(Regex("[0-9][0-9][0-9]"), "isolated")]))
    yield "few bytes", lambda: bytes_bpe(plain, alphabet=False)
    yield "NFD", lambda: bytes_bpe(plain, N.NFD())
    yield "NFKD", lambda: bytes_bpe(plain, N.NFKD())
    yield "NFKC, Lowercase", lambda: bytes_bpe(plain, N.Sequence([N.NFKC(), N.Lowercase()]))
    yield "StripAccents", lambda: bytes_bpe(plain, N.Sequence([N.NFD(), N.StripAccents(), N.Strip()]))
    yield "Replace", lambda: bytes_bpe(plain, N.Sequence([N.Replace(Regex(r"\s+"), " "), N.Replace("th", "zz"), N.Strip(True, False),
                                                          N.Replace(Regex(r"(?<=[a-z])[0-9]{2,}|^x|e$"), "")]))
    for behavior in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"):
        for invert in (False, True):
            yield f"Split {behavior}{' inverted' if invert else ''}", lambda behavior=behavior, invert=invert: bytes_bpe(
                P.Sequence([P.Split(Regex(r"[aeiou ]|\d{2}|\s*$|(?=t)"), behavior, invert), byte()]))
    yield "Punctuation", lambda: bytes_bpe(P.Sequence([P.WhitespaceSplit(), P.Punctuation("merged_with_next"), P.Digits(), byte()]))
    yield "Whitespace", lambda: bytes_bpe(P.Sequence([P.Whitespace(), P.Punctuation(), byte()]))
    yield "words", lambda: bytes_bpe(split(r"\w+|[^\w\s]+|\S"))
    yield "Llama 2", lambda: chars_bpe(N.Sequence([N.Prepend("\u2581"), N.Replace(" ", "\u2581")]), None, spaces(D.Strip(" ", 1, 0)))
    yield "Gemma", lambda: chars_bpe(N.Replace(" ", "\u2581"), P.Split(" ", "merged_with_previous"), spaces())
    yield "Metaspace first", lambda: chars_bpe(None, P.Metaspace(prepend_scheme="first", split=False), spaces(D.Strip(" ", 1, 0)))
    yield "Metaspace always", lambda: chars_bpe(None, P.Metaspace(), D.Metaspace())
    yield "unknown", lambda: chars_bpe(None, P.Metaspace(prepend_scheme="never"), D.Metaspace(prepend_scheme="never"), fallback=False)
    yield "unknown, each", lambda: chars_bpe(N.Replace(" ", "\u2581"), None, spaces(), fallback=False, fuse=False)
    yield "unigram", lambda: unigram(N.Sequence([N.NFKC(), N.Replace(Regex(" {2,}"), " ")]), P.Metaspace(), D.Metaspace())
    yield "unigram, whole", lambda: unigram(None, P.Metaspace(split=False, prepend_scheme="first"), D.Metaspace(prepend_scheme="first"))
    yield "unigram, words", lambda: unigram(N.Lowercase(), P.Sequence([P.WhitespaceSplit(), P.Metaspace()]), D.Metaspace())


def decorate(tokenizer):
    """Added tokens of every kind."""
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", normalized=False), AddedToken("<mask>", lstrip=True, normalized=False),
                                  AddedToken("<sep>", rstrip=True, lstrip=True, normalized=False)])
    tokenizer.add_tokens([AddedToken("stone", single_word=True), AddedToken("the d", normalized=True), AddedToken("  ", normalized=False),
                          AddedToken("IT", normalized=True)])


def same_answers(lines, got, want):
    if got == want:
        return
    assert len(got) == len(want), f"{len(got)} answers for {len(want)} lines"
    for line, a, b in zip(lines, got, want):
        assert a == b, f"{line!r}: {a!r} for {b!r}"


def ids_of(tokenizer, lines, special):
    """Of each line; of equal ones once."""
    tokenizer.encode_special_tokens = not special
    known = dict.fromkeys(lines)
    different = list(known)
    for i in range(0, len(different), BATCH):
        known.update((different[i + k], e.ids) for k, e in enumerate(tokenizer.encode_batch_fast(different[i:i + BATCH], add_special_tokens=False)))
    return [known[line] for line in lines]


def text_of(ids):
    """As the program writes ids, a line each."""
    return "".join([" ".join(map(numeral, line)) + "\n" for line in ids])


def strings_of(text):
    """Of JSON strings, a line each."""
    return json.loads("[" + text[:-1].replace("\n", ",") + "]")


def answers_anew(answers, others, ask):
    """Answers to another question, ask(places), that are sure to be the same but where others[place]. The first ones are asked for all the same."""
    out, places = list(answers), [i for i, other in enumerate(others) if other or i < ASKED]
    for i, answer in zip(places, ask(places)):
        assert others[i] or answer == out[i], f"the library says {answer!r} beside {out[i]!r}"
        out[i] = answer
    return out


def same_encoding(trilith, model, lines_file, lines, ids, *options):
    got, want = trilith.run("tokenizer", "encode", "--model", model, "--text", lines_file, "--lines", *options).decode(), text_of(ids)
    if got != want:
        same_answers(lines, got.split("\n")[:-1], want.split("\n")[:-1])
    return got


def same_decoding(trilith, model, ids_file, lines, want, *options):
    got = trilith.run("tokenizer", "decode", "--model", model, "--tokens", ids_file, "--lines", *options).decode()
    assert got.count("\n") == len(lines), f"{got.count(chr(10))} lines for {len(lines)}"
    same_answers(lines, strings_of(got), want)


def write_lines(path, lines):
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def same_lines(trilith, tokenizer, lines_file, lines, folder):
    """Where no special token was found, which its id would show, the library has the same ids of ordinary text and the same text of the ids without
    special tokens: it is asked only once. The program is asked everything."""
    path, ids_file = (os.path.join(folder, name) for name in ("tokenizer.json", "ids.txt"))
    tokenizer.save(path)
    tokenizer = Tokenizer.from_file(path)
    found = ids_of(tokenizer, lines, special=True)
    texts = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    special = {i for i in set().union(*found) if tokenizer.id_to_token(i) in texts}  # a unigram trainer may find such a text once more
    others = [not special.isdisjoint(ids) for ids in found]
    ordinary = answers_anew(found, others, lambda places: ids_of(tokenizer, [lines[i] for i in places], special=False))
    same_encoding(trilith, path, lines_file, lines, ordinary)
    text = same_encoding(trilith, path, lines_file, lines, found, "--special")
    with open(ids_file, "w", encoding="utf-8") as f:
        f.write(text)
    whole = tokenizer.decode_batch(found, skip_special_tokens=False)
    bare = answers_anew(whole, others, lambda places: tokenizer.decode_batch([found[i] for i in places], skip_special_tokens=True))
    same_decoding(trilith, path, ids_file, lines, whole)
    same_decoding(trilith, path, ids_file, lines, bare, "--skip-special")
    return f"{2 * len(lines)} texts, {sum(map(len, found))} ids"


def runs_of_one(rng):
    """A unigram tokenizer of runs: many paths have the same sum but for its last bit, which the scores' own last bits decide. A few
    pieces stand twice, as the trainer writes them where its text holds a special token's."""
    vocab = [("<unk>", 0.0)] + [(c * k, -12 * rng.random() * k ** 0.5) for c in "*-=+" for k in (1, 2, 3, 4, 5, 8, 16)]
    vocab += [(piece, -12 * rng.random()) for piece, _ in rng.sample(vocab[1:], 4)]
    t = Tokenizer(M.Unigram(vocab, 0, False))
    t.pre_tokenizer, t.decoder = (kind(prepend_scheme="never", split=False) for kind in (P.Metaspace, D.Metaspace))
    return t


def groups(trilith, real, shared, n, seed):
    """(name, checks) as interop.py runs them, on n lines, the same of each kind: a block of them is a file in the folder `shared`, which whoever needs it
    first makes while the others wait."""
    real = [line for line in real.split("\n") if line]

    def block(i):
        path = os.path.join(shared, f"lines-{i}.jsonl")
        with open(path + ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not os.path.exists(path):
                write_lines(path + ".part", lines_of(random.Random(seed * 1_000_003 + i), min(n, BLOCK), real, every=i == 0))
                os.rename(path + ".part", path)
        with open(path, encoding="utf-8") as f:
            return path, strings_of(f.read())

    def corpus():
        return random.Random(seed).sample(real, min(len(real), 6000)) + block(0)[1][:1500]

    def compare(tokenizer, folder):
        said = [same_lines(trilith, tokenizer, *block(i), folder) for i in range(math.ceil(n / BLOCK))]
        return said[0] if n <= BLOCK else f"{n} lines, the first: {said[0]}"

    def trained(make, decorated, at):
        tokenizer = make()
        if decorated:
            decorate(tokenizer)
        return compare(tokenizer, at())

    def of_runs(at):
        rng, path = random.Random(seed), at("runs.jsonl")
        runs = [rng.choice("*-=+") * rng.randint(1, 90) for _ in range(300)]
        write_lines(path, runs)
        return [same_lines(trilith, runs_of_one(rng), path, runs, at()) for _ in range(10)][-1]

    yield one("tokenizer lines: a real one", lambda at: compare(Tokenizer.from_file(real_models.tokenizer()), at()))
    for i, (name, make) in enumerate(kinds(corpus)):
        yield one(f"tokenizer lines: {name}", functools.partial(trained, make, i % 2 == 0))
    yield one("tokenizer lines: unigram, runs", of_runs)
