"""GGUF beside llama.cpp and transformers' own reader of it: of every family a random model that GGUF can say, converted from its folder.

llama.cpp (llama-cpp-python, in the Python that --llama names) opens the file, gives the ids of the vocabulary's own library and the logits of the
model in PyTorch; so does Trilith (`verify`); so does transformers (`gguf_file=`) where it knows the family. Real models are held to llama.cpp's perplexity.
"""

import json
import os
import random
import subprocess

import gguf
import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES
from safetensors.torch import load_file, save_file
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models as bpe_models, normalizers as N, pre_tokenizers, trainers)
from transformers import (AutoModelForCausalLM, AutoTokenizer, Gemma2Config, Gemma3TextConfig, GPT2Config, LlamaConfig, MistralConfig, MixtralConfig,
                          OlmoeConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen3Config, Qwen3MoeConfig, SmolLM3Config)

import charsmap
import interop_tokenizers
import make_vectors
import real_models
from checks import one

HERE = os.path.dirname(os.path.abspath(__file__))
V, T = 320, 90
# llama.cpp looks GELU up in a table of halves: 2^-11 of an activation, in each of a few layers whose errors add up. Else both are f32.
NEAR = dict.fromkeys(("gpt2", "gemma2", "gemma2-usual", "gemma3"), 4e-3)
NEAR_F32 = 2e-5


def configurations():
    """(configuration, does transformers read it from GGUF). What transformers does not read it takes to be the family's default: GPT-2's positions,
    Qwen 3's width of heads and of experts, Gemma 2's caps and scale; those that it is asked for have these. A file that is called mistral it refuses."""
    base = dict(vocab_size=V, hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
                rms_norm_eps=1e-5, bos_token_id=0, eos_token_id=0, pad_token_id=None, attn_implementation="eager")
    few = dict(base, num_hidden_layers=2)
    return {
        "gpt2": (GPT2Config(vocab_size=V, n_embd=64, n_layer=2, n_head=4, n_positions=1024, bos_token_id=0, eos_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0,
                            attn_pdrop=0.0, attn_implementation="eager"), True),
        "llama": (LlamaConfig(tie_word_embeddings=True, rope_theta=5e4, **few), True),
        "llama3": (LlamaConfig(attention_bias=True, mlp_bias=True, tie_word_embeddings=False,
                               rope_parameters=dict(rope_type="llama3", rope_theta=1000.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                                    original_max_position_embeddings=32), **few), False),
        "llama-linear": (LlamaConfig(tie_word_embeddings=True, rope_parameters=dict(rope_type="linear", rope_theta=5000.0, factor=3.0), **few), False),
        "smollm3": (SmolLM3Config(tie_word_embeddings=True, rope_theta=2e6, **dict(few, num_hidden_layers=5)), False),
        "like-mistral": (MistralConfig(sliding_window=None, head_dim=24, tie_word_embeddings=False, rope_theta=1e6, **few), True),
        "qwen2": (Qwen2Config(tie_word_embeddings=False, rope_theta=1e6, **few), True),
        "qwen2-yarn": (Qwen2Config(tie_word_embeddings=True, rope_parameters=dict(rope_type="yarn", rope_theta=1e4, factor=4.0,
                                                                                original_max_position_embeddings=24), **few), False),
        "qwen3": (Qwen3Config(head_dim=128, tie_word_embeddings=True, rope_theta=1e6, **few), True),
        "qwen3moe": (Qwen3MoeConfig(head_dim=32, moe_intermediate_size=768, num_experts=6, num_experts_per_tok=3, norm_topk_prob=True, rope_theta=1e6,
                                    tie_word_embeddings=False, **few), True),
        "gemma2": (Gemma2Config(head_dim=32, query_pre_attn_scalar=32, sliding_window=24, attn_logit_softcapping=1.5, final_logit_softcapping=4.0,
                                **few), False),
        "gemma2-usual": (Gemma2Config(head_dim=256, query_pre_attn_scalar=256, sliding_window=24, **few), True),
        "gemma3": (Gemma3TextConfig(head_dim=32, query_pre_attn_scalar=32, sliding_window=20,
                                    rope_parameters=dict(full_attention=dict(rope_type="linear", rope_theta=1e6, factor=8.0),
                                                         sliding_attention=dict(rope_type="default", rope_theta=1e4)),
                                    **dict(base, num_hidden_layers=7)), False),
        "mixtral": (MixtralConfig(num_local_experts=4, num_experts_per_tok=2, tie_word_embeddings=False, sliding_window=None, rope_theta=1e6, **few), False),
        "olmoe": (OlmoeConfig(num_experts=7, num_experts_per_tok=2, norm_topk_prob=False, tie_word_embeddings=False,
                              **dict(few, num_key_value_heads=4, intermediate_size=32)), False),
    }


class Llama:
    """bench_llama.py on one file."""

    def __init__(self, python, path, positions, threads=1):
        self.process = subprocess.Popen([python, os.path.join(HERE, "bench_llama.py"), path, "--threads", str(threads), "--positions", str(positions),
                                         "--exact"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.vocabulary = self.read()["vocabulary"]

    def read(self):
        line = self.process.stdout.readline()
        assert line, f"llama.cpp: {self.process.stderr.read().strip()[-400:]}"
        return json.loads(line)

    def ask(self, word, given):
        self.process.stdin.write(f"{word}\n{json.dumps(given)}\n")
        self.process.stdin.flush()
        return self.read()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close(), self.process.stderr.close()


def distance(got, want):
    """Of the worst position: max|Δ| / max|reference|."""
    return ((got - want).abs().amax(-1) / want.abs().amax(-1)).max().item()


def tokenizer_of(folder, text):
    """SmolLM's kind, of V ids at most."""
    t = Tokenizer(bpe_models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator([text[:200_000]], trainers.BpeTrainer(vocab_size=V, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                                              special_tokens=[AddedToken("<|endoftext|>", special=True)]))
    PreTrainedTokenizerFast(tokenizer_object=t, eos_token="<|endoftext|>", bos_token="<|endoftext|>").save_pretrained(folder)
    return t


def same_model(trilith, name, config, knows, seed, real, folder, llama, certified):
    model = make_vectors.drawn(config, seed).eval()
    model.save_pretrained(folder)
    tokenizer = tokenizer_of(folder, real)
    path, reference, out = (os.path.join(folder, x) for x in ("model.gguf", "reference.safetensors", "logits.f32"))
    trilith.run("convert", folder, path, "--type", "F32")
    text = real[300_000:301_000]
    ids = tokenizer.encode(text).ids
    with torch.no_grad():
        want = model(input_ids=torch.tensor([ids[:T]]), use_cache=False).logits[0].float().contiguous()
    save_file({"tokens": torch.tensor(ids[:T], dtype=torch.int32), "logits": want}, reference, metadata={"text": text})
    said = f"here {certified(trilith, path, reference)}"
    if knows:
        again, info = AutoModelForCausalLM.from_pretrained(folder, gguf_file="model.gguf", dtype=torch.float32, output_loading_info=True,
                                                           attn_implementation="eager")
        assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
        with torch.no_grad():
            far = distance(again.eval()(input_ids=torch.tensor([ids[:T]]), use_cache=False).logits[0], want)
        assert far <= 1e-5, f"transformers, reading the file: {far:.1e} from the model"
        got = AutoTokenizer.from_pretrained(folder, gguf_file="model.gguf")(text, add_special_tokens=False)["input_ids"]
        assert got == ids, f"transformers, reading the file: {got[:20]} for {ids[:20]}"
        said += f"; transformers {far:.0e}"
    if not llama:
        return said + "; no llama.cpp: give --llama PYTHON"
    with Llama(llama, path, T) as peer:
        assert peer.vocabulary == V, f"llama.cpp has {peer.vocabulary} ids"
        peer.ask(f"logits {out}", ids[:T])
        far = distance(torch.from_numpy(np.fromfile(out, dtype=np.float32).reshape(T, V)), want)
        most = NEAR.get(name, NEAR_F32)
        assert far <= most, f"llama.cpp's logits are {far:.1e} from the model's, beyond {most:.0e}"
        got = peer.ask("tokens", text)["ids"]
        assert got == ids, f"llama.cpp: {got[:20]} for {ids[:20]}"
    return f"{said}; llama.cpp {far:.0e} of {most:.0e}"


def sentencepieces(corpus):
    """Unigram tokenizers as transformers makes them of sentencepiece models: T5's words, XLM-R's whole text."""
    compiled = N.Precompiled(charsmap.compile(charsmap.nfkc(range(0x11000))))
    squeezed = N.Sequence([compiled, N.Strip(left=False, right=True), N.Replace(Regex(" {2,}"), "\u2581")])
    for name, norm, pre in (("T5", compiled, pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])),
                            ("XLM-R", squeezed, pre_tokenizers.Metaspace())):
        def make(norm=norm, pre=pre):
            t = Tokenizer(bpe_models.Unigram())
            t.normalizer, t.pre_tokenizer, t.decoder = norm, pre, decoders.Metaspace()
            t.train_from_iterator(corpus, trainers.UnigramTrainer(vocab_size=2000, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>",
                                                                  show_progress=False, max_piece_length=12))
            # GGUF's scores have 32 bits, as sentencepiece's; with more the last one decides between ways to a row of stars.
            data = json.loads(t.to_str())
            data["model"]["vocab"] = [[piece, round(score * 1024) / 1024] for piece, score in data["model"]["vocab"]]
            return Tokenizer.from_str(json.dumps(data))
        yield f"unigram {name}", make


def same_tokenizer(trilith, tokenizer, lines, folder, llama):
    """A tokenizer's ids of real lines by its own library, from a GGUF file that it was converted into, from the folder that this was, by the library
    again from that, and by llama.cpp."""
    os.makedirs(folder)
    vocabulary = tokenizer.get_vocab_size()
    LlamaConfig(vocab_size=vocabulary + 3, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=1, max_position_embeddings=64,
                tie_word_embeddings=True).save_pretrained(folder)
    AutoModelForCausalLM.from_config(LlamaConfig.from_pretrained(folder)).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>").save_pretrained(folder)
    path, back, text = (os.path.join(folder, x) for x in ("model.gguf", "back", "lines.jsonl"))
    interop_tokenizers.write_lines(text, lines)
    want = interop_tokenizers.ids_of(tokenizer, lines, special=True)
    trilith.run("convert", folder, path)
    trilith.run("convert", path, back)
    interop_tokenizers.same_encoding(trilith, path, text, lines, want)
    interop_tokenizers.same_encoding(trilith, back, text, lines, want)
    interop_tokenizers.same_answers(lines, interop_tokenizers.ids_of(Tokenizer.from_file(os.path.join(back, "tokenizer.json")), lines, special=True), want)
    said = f"{len(lines)} lines, {sum(map(len, want))} ids"
    if not llama:
        return said + "; no llama.cpp: give --llama PYTHON"
    with Llama(llama, path, 64) as peer:
        interop_tokenizers.same_answers(lines, [peer.ask("tokens", line)["ids"] if line else [] for line in lines], want)
    return said


TYPES = "F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS".split()


def inspected(trilith, path):
    """What `inspect` says of a GGUF file is what gguf-py finds in it: keys, tensors in their order, types, shapes, bytes."""
    said, file = trilith.json("inspect", path), gguf.GGUFReader(path)
    want = [dict(name=t.name, type=t.tensor_type.name, shape=[int(n) for n in reversed(t.shape)], bytes=int(t.n_bytes)) for t in file.tensors]
    assert said["tensors"] == want, next((a, b) for a, b in zip(said["tensors"], want) if a != b)
    elements = {}
    for t in file.tensors:
        elements[t.tensor_type.name] = elements.get(t.tensor_type.name, 0) + int(t.n_elements)
    assert said["types"] == elements and said["parameters"] == sum(elements.values()), f"{said['types']} for {elements}"
    keys = {key: field.contents() for key, field in file.fields.items() if not key.startswith("GGUF.")}
    assert said["metadata"].keys() == keys.keys(), f"other keys: {said['metadata'].keys() ^ keys.keys()}"
    for key, value in keys.items():
        got = said["metadata"][key]
        if isinstance(value, list) and len(value) > 64:
            assert got["count"] == len(value), f"{key}: {got}"
        elif isinstance(value, float):
            assert abs(got - value) <= 1e-8 * abs(value), f"{key}: {got} for {value}"
        elif not (isinstance(value, list) and value and isinstance(value[0], float)):
            assert got == value, f"{key}: {got} for {value}"
    return f"{len(keys)} keys, {len(want)} tensors"


def widened(trilith, seed, folder):
    """A file of random blocks of each type, as gguf-py writes it: converted to F32 it holds gguf-py's numbers, bit for bit."""
    os.makedirs(folder)
    rng, path, out = np.random.default_rng(seed), os.path.join(folder, "types.gguf"), os.path.join(folder, "wide.gguf")
    writer, want = gguf.GGUFWriter(path, "test"), {}
    for name in TYPES:
        kind = gguf.GGMLQuantizationType[name]
        block, size = GGML_QUANT_SIZES[kind]
        raw = rng.integers(0, 256, (64, 1024 // block * size), dtype=np.uint8)
        with np.errstate(all="ignore"):
            wide = gguf.quants.dequantize(raw, kind).astype(np.float32)
        writer.add_tensor(f"{name}.weight", raw, raw_dtype=kind)
        want[f"{name}.weight"] = wide
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file(), writer.close()
    said = inspected(trilith, path)
    trilith.run("convert", path, out, "--type", "F32")
    got = {t.name: np.array(t.data) for t in gguf.GGUFReader(out).tensors}
    assert got.keys() == want.keys()
    for name, wide in want.items():
        a, b = got[name].view(np.uint32).ravel(), wide.view(np.uint32).ravel()
        assert a.shape == b.shape
        differ = (a != b) & ~(np.isnan(got[name].ravel()) & np.isnan(wide.ravel()))
        assert not differ.any(), f"{name}: {int(differ.sum())} of {len(a)} numbers differ"
    return f"{len(TYPES)} types, {sum(w.size for w in want.values())} numbers; {said}"


def small_floats(trilith, folder):
    """Both F8, all 256 codes of each, in a folder that torch wrote: widened they are torch's."""
    os.makedirs(folder)
    tensors = {name: torch.arange(256, dtype=torch.uint8).view(kind).reshape(16, 16) for name, kind in (("a.weight", torch.float8_e4m3fn), ("b.weight", torch.float8_e5m2))}
    save_file(tensors, os.path.join(folder, "model.safetensors"))
    said = []
    for kind, out in (("F32", torch.float32), ("BF16", torch.bfloat16)):
        trilith.run("convert", folder, os.path.join(folder, kind), "--type", kind)
        got = load_file(os.path.join(folder, kind, "model.safetensors"))
        for name, codes in tensors.items():
            a, b = got[name], codes.float().to(out)
            assert a.dtype == out and torch.equal(a.isnan(), b.isnan()), name
            assert torch.equal(a.nan_to_num(7.0, 8.0, -8.0), b.nan_to_num(7.0, 8.0, -8.0)), name
            assert torch.equal(torch.signbit(a) & ~a.isnan(), torch.signbit(b) & ~b.isnan()), name
        said.append(kind)
    return f"512 codes in {' and '.join(said)}"


WINDOW = 512


def perplexity(trilith, path, text, windows, folder, llama):
    """Of a real model in its own types, over windows of a text each begun anew: within 0.1 % and two standard errors of the difference of what the same
    weights give widened to f32, and of llama.cpp's with keys and values in f32 as here (in halves, its default, they move its own perplexity by as much),
    unless llama.cpp is further from the widened weights than we are. Both round inputs to eight bits, so that single log-probabilities differ by
    far more than their mean."""
    os.makedirs(folder, exist_ok=True)
    source, part, whole = (os.path.join(folder, name) for name in ("text.txt", "ids.json", "whole.gguf"))
    with open(source, "w", encoding="utf-8", newline="") as f:
        f.write(text)
    ids = trilith.json("tokenizer", "encode", "--model", path, "--text", source)["ids"][: windows * WINDOW]
    assert len(ids) == windows * WINDOW, f"{len(ids)} tokens are not {windows} windows of {WINDOW}"

    def scored(model):
        logprobs = []
        for first in range(0, len(ids), WINDOW):
            with open(part, "w") as f:
                json.dump(ids[first : first + WINDOW], f)
            logprobs += trilith.json("score", "--model", model, "--tokens", part)["logprobs"]
        return np.array(logprobs)

    def apart(a, b):
        """(by how much a's perplexity is above b's, the standard error of that)."""
        return np.exp((b - a).mean()) - 1, (b - a).std() / len(a) ** 0.5

    def within(by, error):
        return abs(by) <= 1e-3 + 2 * error

    def words(by, error):
        return f"{100 * by:+.3f} % (standard error {100 * error:.3f})"

    trilith.run("convert", path, whole, "--type", "F32", "--overwrite")
    ours, wide = scored(path), scored(whole)
    from_wide = apart(ours, wide)
    said = f"{np.exp(-ours.mean()):.4f} over {windows} windows of {WINDOW}, from the widened weights {words(*from_wide)}"
    assert within(*from_wide), said
    if not llama:
        return said + "; no llama.cpp: give --llama PYTHON"
    with Llama(llama, path, WINDOW, threads=2) as peer:
        theirs = np.array(peer.ask(f"score {WINDOW}", ids)["logprobs"])
    from_theirs, theirs_from_wide = apart(ours, theirs), apart(theirs, wide)
    said += f", from llama.cpp {words(*from_theirs)}, which is {words(*theirs_from_wide)} from them"
    assert within(*from_theirs) or abs(theirs_from_wide[0]) > abs(from_wide[0]), said
    return said


def groups(trilith, real, seed, llama, certified, whole, text, windows):
    """(name, checks) as interop.py runs them. Perplexities of real models are compared over the beginning of text; whole: of Gemma's too."""
    def widest(folder):
        path = os.path.join(folder, "smollm2-q8_0.gguf")
        trilith.run("convert", real_models.smollm2(), path, "--type", "Q8_0")
        return path

    files = {"SmolLM2 Q4_1": lambda _: real_models.smollm2(), "SmolLM2 Q8_0": widest} | ({"Gemma 3 Q4_K_M": real_models.gemma3} if whole else {})
    for name, file in files.items():
        yield one(f"gguf perplexity {name}", lambda at, file=file: perplexity(trilith, file(at()), text, windows, at(), llama))
    # Names of tokens, which the library finds in any text, and the mark of spaces, before which it puts none.
    names = ("<s>", "</s>", "<unk>", "<pad>", "<0x", "\u2581")
    lines = [line for line in dict.fromkeys(real.split("\n")) if line and not any(name in line for name in names)]
    corpus = random.Random(seed).sample(lines, min(len(lines), 6000))
    known = {"GPT-2", "Llama 3", "Qwen 2", "GPT-4o", "SmolLM", "Llama 2", "Gemma"}
    lines = random.Random(seed).sample(lines, min(len(lines), 20_000))
    made = [(name, make) for name, make in interop_tokenizers.kinds(lambda: corpus) if name in known]
    for name, make in [*made, *sentencepieces(corpus)]:
        yield one(f"gguf tokenizer {name}", lambda at, make=make: same_tokenizer(trilith, make(), lines, at("tokenizer"), llama))
    for i, (name, (config, knows)) in enumerate(configurations().items()):
        yield one(f"gguf {name}", lambda at, given=(name, config, knows, seed + i): same_model(trilith, *given, real, at("model"), llama, certified))
    yield one("gguf types", lambda at: widened(trilith, seed, at("types")))
    yield one("gguf F8 in a folder", lambda at: small_floats(trilith, at("f8")))
