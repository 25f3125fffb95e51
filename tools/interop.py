"""Trilith beside other implementations, live: PyTorch, transformers and tokenizers, on fresh random models and real text.

    interop.py --trilith build/trilith [--only WORD] [--seed N] [--jobs N]

Each check runs the program as a user would and compares what it says with what the other library says of the same file. Checks that share something
are a group, and each group is a process with a folder and draws of its own, as many at a time as there are processors: what a seed draws, --only and
--jobs do not change, and a group that crashes is one failure. Ends in one line, 'N passed, N failed'; the exit status is 1 when any failed.
`./dev interop` runs it in its virtual environment.
"""

import argparse
import collections
import functools
import gc
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
import zlib

os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # groups of checks run side by side

import numpy as np
import torch
import torch.nn.functional as F
from gguf import GGMLQuantizationType, GGUFReader, quants
from gguf.constants import GGML_QUANT_SIZES
from safetensors.torch import load_file
from tokenizers import AddedToken, Tokenizer, decoders, models as bpe_models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import expert_models
import interop_gguf
import interop_gpu
import interop_serve
import interop_serve_metrics
import interop_tokenizers
import make_optimizer_vectors
import make_reference
import make_vectors
import make_template_vectors
import real_models
import template_cases
import template_fuzz
import try_page
from checks import Checks, Skipped, in_processes, one

HERE = os.path.dirname(os.path.abspath(__file__))
AWKWARD = [
    "", " ", "\n", "\r\n\r\n \t x", "a", "don't DON'T we'll I'd've", "1234567 3.14159 0x7f 12 345",
    "naïve café résumé Ångström", "e\u0301 combining", "日本語のテキストと漢字", "العربية עברית हिन्दी ไทย", "👩‍👩‍👧‍👦 🇪🇺 👍🏽",
    "trailing spaces   ", "   leading", "tabs\t\tand\u00a0no-break\u2003em space", "zero\u200bwidth\ufeff", "\x00\x01\x7f control",
    "<|endoftext|> in the text <|endoftext|>", "def f(x):\n    return {k: v for k, v in x.items()}  # ok\n\n\n",
    "ǅ ǆ ﬁ ﬂ ⅷ ½ ² ೩ 𝔘𝔫𝔦", "a" * 300, "ab" * 200 + "!?" * 50, "x\u2028y\u2029z\x85w", "\U0010ffff\ue000",
]


# ---- running the program


class Trilith:
    def __init__(self, program):
        self.program = os.path.abspath(program)

    def run(self, *args, text=None):
        done = subprocess.run([self.program, *map(str, args)], input=text, capture_output=True, timeout=600)
        if done.returncode:
            raise AssertionError(f"trilith {' '.join(map(str, args))}: exit {done.returncode}: {done.stderr.decode(errors='replace').strip()[-600:]}")
        return done.stdout

    def json(self, *args):
        return json.loads(self.run(*args, "--json"))


def near(what, got, want, tolerance):
    """max|Δ| / max|want| within tolerance."""
    got, want = (torch.as_tensor(x, dtype=torch.float64) for x in (got, want))
    assert got.shape == want.shape, f"{what}: {tuple(got.shape)} values for {tuple(want.shape)}"
    distance = ((got - want).abs().max() / want.abs().max()).item()
    assert distance <= tolerance, f"{what}: {distance:.2e} from the reference, beyond {tolerance:.0e}"
    return f"{distance:.1e} of {tolerance:.0e}"


# ---- real text that is wherever Python is


def english(limit_bytes=None):
    from pydoc_data.topics import topics

    text = "\n\n".join(topics[key] for key in sorted(topics))
    return text if limit_bytes is None else text[:limit_bytes].encode()[:limit_bytes].decode(errors="ignore")


def code():
    text = []
    for folder in (os.path.join(HERE, ".."), HERE, os.path.join(HERE, "..", "src")):
        for where, _, files in sorted(os.walk(folder)) if folder.endswith("src") else [(folder, None, os.listdir(folder))]:
            for name in sorted(files):
                if name.endswith((".py", ".md", ".c", ".h")) and os.path.getsize(os.path.join(where, name)) < 1 << 20:
                    with open(os.path.join(where, name), encoding="utf-8", errors="replace") as f:
                        text.append(f.read())
    return "\n".join(text)


def write(path, text):
    with open(path, "w", encoding="utf-8", newline="") as f:
        f.write(text)
    return path


# ---- checks


def served(missing, check, program):
    if missing:
        raise Skipped(missing)
    return check(program, real_models.smollm2())


def vectors_anew(tests, folder, seed, odd=False):
    """The C tests of operators and whole models on vectors that have just been made from another seed."""
    make_vectors.write_all(folder, seed, odd)
    said = []
    for test in ("kernels_test_vectors", "model_test_parity"):
        program = os.path.join(tests, test)
        assert os.path.exists(program), f"{program} is not built; ./dev interop builds it"
        done = subprocess.run([program], env=dict(os.environ, TRILITH_VECTORS=folder), capture_output=True, timeout=600)
        assert done.returncode == 0, f"{test}: {done.stderr.decode(errors='replace')[-1500:]}"
        said.append(test)
    return f"seed {seed}, " + ", ".join(said)


def vectors_kept(folder):
    """What is kept in tests/vectors is what its generator makes today, but for the last bits of another CPU's arithmetic."""
    kept = os.path.join(HERE, "..", "tests", "vectors")
    make_vectors.write_all(folder, 1)
    names = [os.path.relpath(os.path.join(d, f), folder) for d, _, fs in os.walk(folder) for f in fs if f.endswith(".safetensors")]
    for name in sorted(names):
        a, b = load_file(os.path.join(kept, name)), load_file(os.path.join(folder, name))
        assert a.keys() == b.keys(), f"{name}: other tensors; run ./dev vectors"
        for key in a:
            if a[key].is_floating_point():
                near(f"{name} {key}", a[key], b[key], 1e-4)
            else:
                assert torch.equal(a[key], b[key]), f"{name} {key} differs; run ./dev vectors"
    return f"{len(names)} files"


def logprobs_of(model, ids):
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double()
    return F.log_softmax(logits[:-1], -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def score_tokens(trilith, folder, model, ids, work):
    """trilith's log-probabilities of given ids against transformers'; both in f32, so 1e-5 of the largest."""
    path = write(os.path.join(work, "ids.json"), json.dumps(ids))
    said = trilith.json("score", "--model", folder, "--tokens", path)
    assert len(said["logprobs"]) == len(ids) - 1, f"{len(said['logprobs'])} log-probabilities for {len(ids)} tokens"
    return near("logprobs", said["logprobs"], logprobs_of(model, ids), 1e-5)


def noticed(check):
    """A comparison that ought to fail."""
    try:
        check()
    except AssertionError as error:
        return str(error)
    raise AssertionError("a comparison with the wrong reference passed")


def greedy(trilith, folder, model, tokenizer, prompt):
    """32 tokens at temperature 0 against transformers' greedy decoding, up to the first place where its two best are within 1e-4."""
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        out = model.generate(torch.tensor([ids]), max_new_tokens=32, do_sample=False, return_dict_in_generate=True, output_logits=True,
                             pad_token_id=0, attention_mask=torch.ones(1, len(ids), dtype=torch.long))
    want, sure = out.sequences[0, len(ids):].tolist(), 0
    for logits in out.logits:
        best = logits[0].topk(2).values
        if best[0] - best[1] < 1e-4:
            break
        sure += 1
    said = trilith.json("generate", "--model", folder, "--prompt", prompt, "--max-tokens", 32, "--temperature", 0)
    got = said["ids"]
    eos = model.generation_config.eos_token_id
    want = [i for i in want[:sure] if i != eos]
    assert got[: len(want)] == want, f"{got[:len(want)]} for {want}"
    return f"{len(want)} tokens"


def sharded_as_whole(trilith, folder, model, ids, work):
    """A folder that transformers cut into shards is used as the whole one is, to the last digit: scored, generated from, trained from."""
    shards = os.path.join(work, "in-shards")
    model.save_pretrained(shards, max_shard_size="20KB")
    files = sum(name.endswith(".safetensors") for name in os.listdir(shards))
    assert files > 1, "transformers did not shard; make the model larger"
    assert trilith.json("inspect", shards)["files"] == files
    tokens, data = write(os.path.join(work, "ids.json"), json.dumps(ids)), write(os.path.join(work, "few.txt"), english(4000))
    said = []
    for path in (folder, shards):
        run = os.path.join(work, "from-" + os.path.basename(path))
        trilith.run("train", "--data", data, "--out", run, "--model", path, "--tokenizer", "bytes", "--batch", 2, "--seq", 64, "--steps", 2,
                    "--val-fraction", 0, "--sample-tokens", 0, "--quiet")
        said.append([trilith.json("score", "--model", path, "--tokens", tokens)["logprobs"], trilith.json("inspect", run)["weights_hash"]])
    assert said[0] == said[1], "other log-probabilities or other weights after two steps"
    return f"{files} files"


def written_by_ranks(trilith, folder, model, work):
    """A checkpoint that three processes wrote, each its own files: transformers opens it and its average as it opens one process's, to the bit, and
    safetensors finds the optimizer's state by its index."""
    os.makedirs(work)
    data, states = write(os.path.join(work, "few.txt"), english(4000)), []
    for launcher in ([], ["mpirun", "-quiet", "--oversubscribe", "-n", "3"]):
        run = os.path.join(work, f"by-{len(launcher)}")
        command = [*launcher, trilith.program, "train", "--data", data, "--out", run, "--model", folder, "--tokenizer", "bytes", "--batch", "4",
                   "--leaves", "4", "--seq", "64", "--steps", "2", "--ema", "0.9", "--val-fraction", "0", "--sample-tokens", "0", "--threads", "1",
                   "--quiet", "--shard", "zero1"]
        done = subprocess.run(command, capture_output=True, timeout=600,
                              env=dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1"))
        assert done.returncode == 0, f"exit {done.returncode}: {done.stderr.decode(errors='replace').strip()[-600:]}"
        latest, state = os.path.join(run, "checkpoints", "latest"), {}
        for part in (latest, os.path.join(latest, "ema")):
            again, info = AutoModelForCausalLM.from_pretrained(part, output_loading_info=True, attn_implementation="eager")
            for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
                assert not info[kind], f"{kind}: {info[kind]}"
            state.update({f"{os.path.basename(part)}.{key}": value for key, value in again.state_dict().items()})
        index = os.path.join(latest, "optimizer.safetensors.index.json")
        files = {"optimizer.safetensors"}
        if launcher:
            with open(index) as f:
                files = set(json.load(f)["weight_map"].values())
        for name in files:
            state.update(load_file(os.path.join(latest, name)))
        states.append(state)
    assert len(files) == 3, f"{sorted(files)}"
    assert states[0].keys() == states[1].keys(), "other tensors"
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), f"{key} differs"
    return f"{len(states[0])} tensors of {len(files)} ranks"


def inspected_weights(trilith, folder, model, work):
    """Names and shapes; the hash is the same when transformers cuts the file into shards, and another when one bit changes."""
    said = trilith.json("inspect", folder)
    whole = said["weights_hash"]
    shards = os.path.join(work, "shards")
    model.save_pretrained(shards, max_shard_size="20KB")
    assert os.path.exists(os.path.join(shards, "model.safetensors.index.json")), "transformers did not shard; make the model larger"
    assert trilith.json("inspect", shards)["weights_hash"] == whole, "the hash depends on the sharding"
    tensors = load_file(os.path.join(folder, "model.safetensors"))
    if "tensors" in said and isinstance(said["tensors"], list):
        got = {t["name"]: list(t["shape"]) for t in said["tensors"]}
        assert got == {k: list(v.shape) for k, v in tensors.items()}, "other names or shapes"
    name = sorted(tensors)[0]
    tensors[name].view(-1)[0] = torch.nextafter(tensors[name].view(-1)[0], torch.tensor(9.0))
    from safetensors.torch import save_file

    other = os.path.join(work, "one-bit")
    os.makedirs(other, exist_ok=True)
    model.config.save_pretrained(other)
    save_file(tensors, os.path.join(other, "model.safetensors"), metadata={"format": "pt"})
    assert trilith.json("inspect", other)["weights_hash"] != whole, "a changed bit does not show in the hash"
    return whole


def same_ids(trilith, folder_or_file, tokenizer, texts, work, special=False):
    count = 0
    for text in texts:
        path = write(os.path.join(work, "encode.txt"), text)
        args = ["tokenizer", "encode", "--model", folder_or_file, "--text", path] + (["--special"] if special else [])
        got = trilith.json(*args)["ids"]
        want = tokenizer(text)
        if got != want:
            at = next((i for i, (a, b) in enumerate(zip(got, want)) if a != b), min(len(got), len(want)))
            raise AssertionError(f"{text[:40]!r}: {len(got)} ids for {len(want)}; at {at}: {got[at:at + 5]} for {want[at:at + 5]}")
        count += len(got)
    return f"{count} ids of {len(texts)} texts"


def plain_encoder(tokenizer):
    """Text of special tokens as ordinary text, as `trilith tokenizer encode` without --special: by a copy of the tokenizer that has none."""
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = []
    data["post_processor"] = None
    bare = Tokenizer.from_str(json.dumps(data))
    return lambda text: bare.encode(text, add_special_tokens=False).ids


def special_encoder(tokenizer):
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def trained_merges(trilith, text, vocab, work):
    """Our trainer against theirs: same pre-tokenizer (read from our file), same text as one document, same merges in the same order."""
    source, out = write(os.path.join(work, "train.txt"), text), os.path.join(work, f"bpe-{vocab}")
    trilith.run("tokenizer", "train", "--data", source, "--vocab", vocab, "--out", out)
    path = os.path.join(out, "tokenizer.json") if os.path.isdir(out) else out
    ours = Tokenizer.from_file(path)
    theirs = Tokenizer(bpe_models.BPE())
    theirs.pre_tokenizer = ours.pre_tokenizer
    theirs.train_from_iterator([text], trainers.BpeTrainer(vocab_size=vocab, special_tokens=["<|endoftext|>"], show_progress=False,
                                                           initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    a, b = (json.loads(t.to_str())["model"] for t in (ours, theirs))
    for i, (x, y) in enumerate(zip(a["merges"], b["merges"])):
        x, y = (" ".join(m) if isinstance(m, list) else m for m in (x, y))
        assert x == y, f"merge {i} is {x!r}, theirs {y!r}"
    assert len(a["merges"]) == len(b["merges"]), f"{len(a['merges'])} merges, theirs {len(b['merges'])}"
    assert ours.get_vocab() == theirs.get_vocab(), "same merges, other ids"
    return f"{len(a['merges'])} merges of {len(text.encode()) / 1e6:.1f} MB", path


def gpt2_style_tokenizer(text, folder):
    """A tokenizer.json of the GPT-2 kind, made by `tokenizers` itself."""
    t = Tokenizer(bpe_models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator([text], trainers.BpeTrainer(vocab_size=1500, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                                      special_tokens=[AddedToken("<|endoftext|>", special=True)]))
    os.makedirs(folder, exist_ok=True)
    t.save(os.path.join(folder, "tokenizer.json"))
    return t


def metrics_of(run):
    with open(os.path.join(run, "metrics.jsonl")) as f:
        return [row for row in map(json.loads, f) if "loss" in row and "step" in row]


def tokenizer_of(folder):
    """A checkpoint's tokenizer as transformers finds it. Under model_type qwen2 it takes Qwen's own class whatever tokenizer_config.json says,
    which replaces the file's normalisation and splitting; there the class that the file names is asked for."""
    with open(os.path.join(folder, "config.json")) as f:
        qwen2 = json.load(f)["model_type"] == "qwen2"
    return (PreTrainedTokenizerFast if qwen2 else AutoTokenizer).from_pretrained(folder)


def trained_losses(trilith, folder, model, work, name, batch=4, seq=64, steps=50, options=(), reference=make_vectors.train):
    """`trilith train` from a folder that transformers saved against PyTorch's AdamW (or `reference`) from the same folder. The data is one batch long, so each
    step sees all of it, in whatever order; the learning rate of each step is the one that metrics.jsonl says."""
    text = english(1 << 20)[1000 : 1000 + batch * seq + 8]
    data = write(os.path.join(work, f"{name}.txt"), text)
    run = os.path.join(work, f"run-{name}")
    trilith.run("train", "--data", data, "--out", run, "--model", folder, "--tokenizer", "bytes", "--batch", batch, "--seq", seq,
                "--steps", steps, "--lr", 1e-3, "--val-fraction", 0, "--seed", 3, "--sample-tokens", 0, "--quiet", *options)
    rows = metrics_of(run)
    assert len(rows) == steps, f"{len(rows)} lines in metrics.jsonl for {steps} steps"
    # Ids as AutoTokenizer reads them from the checkpoint.
    tokenizer = tokenizer_of(os.path.join(run, "checkpoints", "latest"))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    windows = torch.tensor([ids[i * seq : i * seq + seq + 1] for i in range(batch)])
    with open(os.path.join(run, "run.json")) as f:
        settings = json.load(f)["settings"]
    gaps = []
    want = reference(model, [windows], steps, settings, lr_of_step=lambda i: rows[i]["learning_rate"], router_z=settings.get("router_z", 0.0), gaps=gaps)
    try:
        said = near("losses", [row["loss"] for row in rows], want, 1e-4)
    except AssertionError as error:
        if min(gaps, default=1.0) >= expert_models.NEAREST_TIE:
            raise
        said = f"undecided: two experts came within {min(gaps):.1e} of a tie, where rounding chooses; {error}"
    return f"loss {want[0]:.3f} → {want[-1]:.3f}, {said}", run


def saved_as_given(trilith, folder, model, ids, work, name):
    """A folder that transformers saved, through a training step that moves nothing: transformers loads what is written and finds the same
    weights and the same logits, to the bit, so config.json still says the same."""
    run = os.path.join(work, f"still-{name}")
    data = write(os.path.join(work, "still.txt"), english(4000))
    trilith.run("train", "--data", data, "--out", run, "--model", folder, "--tokenizer", "bytes", "--batch", 2, "--seq", 64, "--steps", 1,
                "--lr", 0, "--val-fraction", 0, "--sample-tokens", 0, "--quiet")
    again, info = AutoModelForCausalLM.from_pretrained(os.path.join(run, "checkpoints", "latest"), output_loading_info=True,
                                                       attn_implementation="eager")
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind], f"{kind}: {info[kind]}"
    assert type(again) is type(model), f"{type(again).__name__} for {type(model).__name__}"
    want, got = model.state_dict(), again.state_dict()
    assert want.keys() == got.keys()
    for key in want:
        assert torch.equal(want[key], got[key]), f"{key} has changed"
    with torch.no_grad():
        a, b = (m.eval()(input_ids=torch.tensor([ids]), use_cache=False).logits for m in (model, again))
    assert torch.equal(a, b), f"the same weights, other logits: {(a - b).abs().max().item():.2e} apart"
    return f"{len(want)} tensors"


def opened_as_is(trilith, run, work):
    """A run's checkpoint by AutoModelForCausalLM and AutoTokenizer: no missing or unexpected weights, same ids, same log-probabilities."""
    folder = os.path.join(run, "checkpoints", "latest")
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, attn_implementation="eager")
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind], f"{kind}: {info[kind]}"
    tokenizer = tokenizer_of(folder)
    texts = [t for t in AWKWARD if t] + [english(20000), code()[:20000]]
    same_ids(trilith, folder, lambda t: plain_encoder(tokenizer.backend_tokenizer)(t), texts, work)
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        back = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        assert back == text, f"{text[:40]!r} comes back as {back[:40]!r}"
        tokens = write(os.path.join(work, "decode.json"), json.dumps(ids))
        said = trilith.run("tokenizer", "decode", "--model", folder, "--tokens", tokens).decode()
        assert said == text, f"{text[:40]!r} is decoded to {said[:40]!r}"
    text = english(100_000)[50_000:50_400]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"][:64]
    said = score_tokens(trilith, folder, model.float().eval(), ids, work)
    said += ", greedy " + greedy(trilith, folder, model, tokenizer, "the statement ")
    return said


def scored_text(trilith, run, work):
    """score --text: log-probabilities and bits per byte of a text, by way of both tokenizers."""
    folder = os.path.join(run, "checkpoints", "latest")
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").float().eval()
    tokenizer = tokenizer_of(folder)
    text = english(100_000)[30_000:30_060]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    want = logprobs_of(model, ids)
    said = trilith.json("score", "--model", folder, "--text", write(os.path.join(work, "score.txt"), text))
    report = near("logprobs", said["logprobs"], want, 1e-5)
    first = len(tokenizer.decode(ids[:1]).encode())
    candidates = [-want.sum().item() / math.log(2) / n for n in (len(text.encode()), len(text.encode()) - first)]
    assert any(abs(said["bits_per_byte"] - c) < 1e-4 * c for c in candidates), f"bits_per_byte {said['bits_per_byte']} for {candidates}"
    return report


def shuffled(trilith, tests, folder, all, n):
    """Crowds on files, SmolLM2 in three types and Gemma: in n shuffles of each every request is answered as alone."""
    program = os.path.join(tests, "infer_test_crowd_of_files")
    assert os.path.exists(program), f"{program} is not built; ./dev interop builds it"
    files = []
    os.makedirs(folder, exist_ok=True)
    for name in ("F32", "Q8_0", "Q4_0"):
        files.append(os.path.join(folder, f"smollm2-{name}.gguf"))
        trilith.run("convert", real_models.smollm2(), files[-1], "--type", name, "--overwrite")
    if all:
        files.append(real_models.gemma3(folder))
    done = subprocess.run([program], env=dict(os.environ, TRILITH_TEST_MODELS=":".join(files), TRILITH_TEST_SHUFFLES=str(n)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1500:]
    return f"{n} shuffles of " + ", ".join(os.path.basename(path) for path in files)


def converted(trilith, folder, model, ids, work):
    """A folder as GGUF and back: gguf-py finds what its own quantisers make of the file in F32, transformers the same model. What GGUF cannot
    say is refused by field."""
    whole, back = os.path.join(work, "whole.gguf"), os.path.join(work, "back")
    try:
        trilith.run("convert", folder, whole, "--type", "F32", "--overwrite")
    except AssertionError as refusal:
        assert "would be lost" in str(refusal) or "cannot" in str(refusal) or "GGUF" in str(refusal), refusal
        return "GGUF cannot say it"
    tensors = {t.name: t for t in GGUFReader(whole).tensors}
    blocks = 0
    for name in ("Q8_0", "Q4_0", "F16", "BF16"):
        path, type = os.path.join(work, f"{name}.gguf"), GGMLQuantizationType[name]
        trilith.run("convert", folder, path, "--type", name, "--overwrite")
        for t in GGUFReader(path).tensors:
            if t.tensor_type != type:
                continue
            want = quants.quantize(np.asarray(tensors[t.name].data, dtype=np.float32), type)
            assert np.array_equal(np.ascontiguousarray(want).view(np.uint8).ravel(), np.ascontiguousarray(t.data).view(np.uint8).ravel()), f"{t.name} in {name}"
            blocks += t.n_elements // GGML_QUANT_SIZES[type][0]
    trilith.run("convert", whole, back, "--overwrite")
    again, info = AutoModelForCausalLM.from_pretrained(back, output_loading_info=True, attn_implementation="eager")
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    with torch.no_grad():
        a, b = (m.float().eval()(input_ids=torch.tensor([ids]), use_cache=False).logits[0] for m in (model, again))
    exact = "gemma" not in model.config.model_type  # whose gains lose what adding 1 loses
    assert torch.equal(a, b) if exact else (a - b).abs().max() <= 1e-5 * a.abs().max(), f"other logits: {(a - b).abs().max().item():.2e} apart"
    return f"{blocks} blocks, {len(tensors)} tensors"


def converted_real(trilith, model, work):
    """A real GGUF file as a folder: it is certified as the file is, and made a GGUF file again gguf-py finds its own quantiser's blocks in it."""
    folder, again, reference = os.path.join(work, "real"), os.path.join(work, "real.gguf"), os.path.join(work, "real.safetensors")
    trilith.run("convert", model, folder, "--overwrite")
    make_reference.make(model, reference, english(8_000), 64)
    said = certified(trilith, folder, reference)
    trilith.run("convert", folder, again, "--type", "Q8_0", "--overwrite")
    theirs = {t.name: t for t in GGUFReader(model).tensors}
    for t in GGUFReader(again).tensors:
        if t.tensor_type == GGMLQuantizationType.Q8_0:
            wide = quants.dequantize(theirs[t.name].data, theirs[t.name].tensor_type)
            assert np.array_equal(quants.quantize(wide, GGMLQuantizationType.Q8_0).ravel(), t.data.ravel()), t.name
    return said


def certified(trilith, model, reference, *options):
    """verify MODEL --against what transformers makes of it: every check holds; what the logits' says."""
    said = trilith.json("verify", model, "--against", reference, *options)
    details = {check["name"]: check["detail"] for check in said["checks"]}
    assert said["passed"], details
    return details["logits"]


def imported(trilith, model, work):
    """A real model's first 512 tokens of English: ids, rendering and, in f32 on widened weights, the logits of each position within 1e-4.

    Of more spaces than Gemma's longest token of them (31) transformers' reading of a GGUF file makes two halves: user-defined tokens are merges to
    it, while sentencepiece and llama.cpp find the longest first, as here (docs/tokenizers.md). No run here is so long."""
    reference = os.path.join(work, "reference.safetensors")
    make_reference.make(model, reference, re.sub(" {32,}", " " * 31, english(20_000)), 512)
    return certified(trilith, model, reference)


def both(seed, vocab=make_vectors.V):
    """(name, what draws it) of two random models of each family."""
    odd = make_vectors.odd_configurations(vocab)
    for first, suffix, chosen in ((seed, "", {}), (seed + 20, "-odd", odd)):
        for i, (name, config) in enumerate((make_vectors.configurations(vocab) | chosen).items()):
            if name in chosen or not chosen:
                yield name + suffix, functools.partial(make_vectors.drawn, config, first + i)


# ---- chat templates


def rendered(trilith, source, conversation, settings, work):
    """The text, or the sentence of the error in an exception; from a file, as a user has it."""
    template, messages = write(os.path.join(work, "t.jinja"), source), write(os.path.join(work, "messages.json"), json.dumps({"messages": [], **conversation}))
    settings = {**{k: v for k, v in conversation.items() if k not in ("messages", "tools", "documents")}, **settings}
    sets = [f"{k}={json.dumps(v)}" for k, v in settings.items() if k != "add_generation_prompt"]
    done = subprocess.run([trilith.program, "template", "--file", template, "--messages", messages, *(["--set", *sets] if sets else []),
                           *(["--generation-prompt"] if settings.get("add_generation_prompt") else [])], capture_output=True, timeout=60)
    assert done.returncode in (0, 2), f"exit {done.returncode}: {done.stderr.decode()[-300:]}\n{source}"
    return done.stdout.decode() if done.returncode == 0 else ValueError(done.stderr.decode())


def same_rendering(trilith, source, conversation, settings, work, lenient=False):
    want = template_cases.render(source, {"messages": [], **conversation}, {"add_generation_prompt": False, **settings})
    got = rendered(trilith, source, conversation, settings, work)
    if isinstance(want, Exception) and isinstance(got, Exception):
        return "error"
    if got == want:
        return "text"
    assert lenient and template_fuzz.excused(want, str(got)), f"{source!r}\n  jinja2: {want!r}\n  here:   {got!r}"
    return "excused"


def random_templates(trilith, seed, count, work):
    seen = collections.Counter()
    for i in range(count):
        source = template_fuzz.Maker(seed * 1_000_003 + i).template()
        seen[same_rendering(trilith, source, make_template_vectors.VARIABLES, {}, work, lenient=True)] += 1
    assert seen["text"] > count // 10, f"too few of them render: {seen}"
    return ", ".join(f"{n} {what}" for what, n in seen.most_common())


def formatted_numbers(trilith, seed, count, work):
    expressions = template_fuzz.formatted_numbers(seed, count)
    for i in range(0, count, 50):
        source = "\n".join("{{ %s }}" % e for e in expressions[i:i + 50])
        assert same_rendering(trilith, source, {}, {}, work) == "text", f"one of these does not render: {source}"
    return f"{count} numbers"


def counted(trilith, library):
    if not os.path.exists(library):
        raise Skipped("NVML is not played here")
    return interop_gpu.run(trilith.program, library)


def whole_templates(trilith, work):
    n = 0
    folder = os.path.join(HERE, "..", "tests", "vectors", "chat")
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".jinja"):
            continue
        source = open(os.path.join(folder, name)).read()
        for conversation in template_cases.CONVERSATIONS.values():
            for settings in template_cases.SETTINGS:
                same_rendering(trilith, source, conversation, {**template_cases.TOKENS, **settings}, work)
                n += 1
    return f"{n} renderings"


# ---- groups of checks (checks.py)


def model_group(trilith, name, draw):
    def group(checks, at):
        model = draw().eval()
        model.save_pretrained(at("model"))
        ids = torch.randint(0, make_vectors.V, (90,)).tolist()
        checks.run(f"score {name}", lambda: score_tokens(trilith, at("model"), model, ids, at()))
        checks.run(f"convert {name}", lambda: converted(trilith, at("model"), model, ids, at()))
        checks.run(f"inspect {name}", lambda: inspected_weights(trilith, at("model"), model, at("other")))

    return name, group


def another_noticed(trilith, draw, draw_another, at):
    draw().save_pretrained(at("model"))
    ids = torch.randint(0, make_vectors.V, (90,)).tolist()
    return noticed(lambda: score_tokens(trilith, at("model"), draw_another().eval(), ids, at()))


def training_group(trilith, name, draw):
    def group(checks, at):
        run, model = None, draw()
        model.save_pretrained(at("start"))
        ids = torch.randint(0, 300, (90,)).tolist()
        checks.run(f"shards of {name}", lambda: sharded_as_whole(trilith, at("start"), model, ids, at("shards")))
        if name in ("gpt2-tied", "llama-gqa", "mixtral"):
            checks.run(f"shards by ranks {name}", lambda: written_by_ranks(trilith, at("start"), model, at("ranks")))
        checks.run(f"saved as given {name}", lambda: saved_as_given(trilith, at("start"), model, ids, at(), name))

        def losses():
            nonlocal run
            said, run = trained_losses(trilith, at("start"), model, at(), name)
            return said

        def muon_losses():
            copy = AutoModelForCausalLM.from_pretrained(at("start"), attn_implementation="eager")
            reference = functools.partial(make_optimizer_vectors.train, loss_of=make_vectors.loss_of)
            options = ("--optimizer", "muon", "--ema", 0.9, "--recompute", "full")
            said, run_of_muon = trained_losses(trilith, at("start"), copy, at(), name + "-muon", steps=20, options=options, reference=reference)
            average = os.path.join(run_of_muon, "checkpoints", "latest", "ema")
            averaged, info = AutoModelForCausalLM.from_pretrained(average, output_loading_info=True, attn_implementation="eager")
            assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), f"{average}: {info}"
            AutoTokenizer.from_pretrained(average)
            ids = torch.randint(0, 256, (40,)).tolist()
            return said + ", average: " + score_tokens(trilith, average, averaged.float().eval(), ids, at())

        checks.run(f"muon {name}", muon_losses)
        checks.run(f"train {name}", losses)
        if run:
            checks.run(f"checkpoint {name}", lambda: opened_as_is(trilith, run, at()))
            checks.run(f"score text {name}", lambda: scored_text(trilith, run, at()))

    return f"training {name}", group


def real_group(trilith, name, file, whole):
    def group(checks, at):
        path = file(at())
        checks.run(f"verify {name}", lambda: imported(trilith, path, at()))
        if whole:
            checks.run(f"convert {name}", lambda: converted_real(trilith, path, at()))

    return name, group


def encoded(trilith, label, checks, folder, tokenizer, at):
    texts = [*AWKWARD, english(60_000), code()[:60_000]]
    checks.run(f"tokenizer encode {label}", lambda: same_ids(trilith, folder, plain_encoder(tokenizer), texts, at()))
    checks.run(f"tokenizer encode {label} --special", lambda: same_ids(trilith, folder, special_encoder(tokenizer), texts, at(), special=True))


def merges_group(trilith, label, text, vocab):
    def group(checks, at):
        path = None

        def merges():
            nonlocal path
            said, path = trained_merges(trilith, text, vocab, at())
            return said

        checks.run(f"tokenizer train {label}", merges)
        if path:
            encoded(trilith, label, checks, path, Tokenizer.from_file(path), at)

    return f"tokenizer {label}", group


def groups(trilith, tests, shared, args):
    """Those that take longest first, so that none is left alone at the end. What several use, the first of them makes in the folder `shared`."""
    seed, real = args.seed, {"SmolLM2-135M-Instruct Q4_1": lambda _: real_models.smollm2()}
    if args.real:
        real["Gemma 3 270M Q4_K_M"] = real_models.gemma3
    yield one("serve shuffles of files", lambda at: shuffled(trilith, tests, at(), args.real, args.shuffles))
    for name, file in real.items():
        yield real_group(trilith, name, file, args.real)
    if not args.only or "serve" in args.only:
        yield "serve", lambda checks, at: checks.run("serve", lambda: interop_serve.run(checks, trilith, english(), seed, at))
    yield one("serve metrics by prometheus", lambda _: served(interop_serve_metrics.missing(), interop_serve_metrics.run, trilith.program))
    yield one("serve page in chromium", lambda _: served(try_page.missing(), try_page.run, trilith.program))
    yield from interop_tokenizers.groups(trilith, english() + code(), shared, args.lines, seed)
    for name, draw in both(seed + 50, vocab=300):
        yield training_group(trilith, name, draw)
    yield from interop_gguf.groups(trilith, english() + code(), seed, args.llama, certified, args.real,
                                   open(args.text, encoding="utf-8").read() if args.text else english(), args.windows)
    yield one("counters of a GPU", lambda _: counted(trilith, os.path.join(tests, "libnvidia-ml.so.1")))
    yield one("templates random", lambda at: random_templates(trilith, seed, 800, at()))
    yield one("templates numbers", lambda at: formatted_numbers(trilith, seed, 2000, at()))
    yield one("templates whole", lambda at: whole_templates(trilith, at()))
    for label, text, vocab in (("English", english(), 2000), ("code", code(), 1000), ("awkward", "\n".join(AWKWARD), 400)):
        yield merges_group(trilith, label, text, vocab)
    yield "tokenizer GPT-2 style", lambda checks, at: encoded(trilith, "GPT-2 style", checks, at("model"), gpt2_style_tokenizer(english(), at("model")), at)
    yield one("vectors kept", lambda at: vectors_kept(at("vectors")))
    yield one("vectors anew", lambda at: vectors_anew(tests, at("vectors"), seed))
    yield one("vectors anew, odd", lambda at: vectors_anew(tests, at("vectors"), seed + 7, odd=True))
    for name, draw in both(seed):
        yield model_group(trilith, name, draw)
    llama, another = (functools.partial(make_vectors.drawn, make_vectors.configurations()["llama-tied"], seed + i) for i in (0, 1))
    yield one("another model is noticed", lambda at: another_noticed(trilith, llama, another, at))


def main():
    parser = argparse.ArgumentParser(description="compare Trilith with PyTorch, transformers and tokenizers")
    parser.add_argument("--trilith", default=os.path.join(HERE, "..", "build", "trilith"))
    parser.add_argument("--tests", help="folder of the built C tests (default: tests/ beside the program)")
    parser.add_argument("--llama", metavar="PYTHON", help="a Python that has llama-cpp-python, to open the GGUF files that are written")
    parser.add_argument("--text", help="a file of text for perplexities (default: English of Python's documentation)")
    parser.add_argument("--windows", type=int, default=8, help="of 512 tokens, for perplexities (default 8)")
    parser.add_argument("--real", action="store_true", help="Gemma 3 270M too, and conversions of real models, which transformers reads for minutes")
    parser.add_argument("--shuffles", type=int, default=24, help="of requests to each real model (default 24)")
    parser.add_argument("--lines", type=int, default=1_000_000, help="to compare each kind of tokenizer on (default 1,000,000: 40 CPU minutes for all kinds)")
    parser.add_argument("--only", help="run only checks whose name holds this word")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000 + 2, help="of the fresh models (default: another each time)")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="groups of checks at a time (default: as many as processors)")
    args = parser.parse_args()
    torch.set_num_threads(1)  # models this small lose by more
    trilith = Trilith(args.trilith)
    tests = args.tests or os.path.join(os.path.dirname(trilith.program), "tests")
    print(f"seed {args.seed}; torch {torch.__version__}", flush=True)

    with tempfile.TemporaryDirectory(prefix="trilith-interop-") as work:
        def run(name, group, tell):
            gc.freeze()  # what was imported is no garbage to look through
            torch.manual_seed(zlib.crc32(f"{args.seed} {name}".encode()))
            with tempfile.TemporaryDirectory(dir=work) as folder:
                group(Checks(args.only, tell), functools.partial(os.path.join, folder))

        told = in_processes(groups(trilith, tests, work, args), max(1, args.jobs), run)

    print(f"{told['ok']} passed, {told['FAIL']} failed")
    return 1 if told["FAIL"] or not told["ok"] else 0


if __name__ == "__main__":
    sys.exit(main())
