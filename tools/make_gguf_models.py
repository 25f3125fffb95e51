#!/usr/bin/env python3
"""tests/vectors/gguf-models/NAME.gguf: kept models of tests/vectors as llama.cpp's own converter writes them, in F16.

    tools/make_gguf_models.py LLAMA_CPP

LLAMA_CPP is a checkout of https://github.com/ggml-org/llama.cpp (made with the one that llama-cpp-python 0.3.36 builds), which needs
torch, transformers and gguf. Vocabularies are left out: the files are for tests/model/test_model_gguf.c, which reads architectures
and tensors. What the converter asks of a folder that ours lack is put into a copy first."""
import json
import pathlib
import shutil
import sys
import tempfile

NAMES = ["llama3", "mixtral", "qwen2", "gemma3", "gpt2-tied"]
vectors = pathlib.Path(__file__).resolve().parent.parent / "tests" / "vectors"


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    llama = pathlib.Path(sys.argv[1])
    sys.path[:0] = [str(llama / "gguf-py"), str(llama)]
    import gguf
    import torch
    from conversion import get_model_class
    from conversion.base import ModelBase

    (vectors / "gguf-models").mkdir(exist_ok=True)
    for name in NAMES:
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder) / name  # the converter calls the model after it
            folder.mkdir()
            shutil.copy(vectors / name / "model.safetensors", folder)
            config = json.loads((vectors / name / "config.json").read_text())
            if "n_positions" in config:
                config["n_ctx"] = config["n_positions"]
            (folder / "config.json").write_text(json.dumps(config))
            vocabulary = {str(i): i for i in range(config["vocab_size"])}
            (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}, "added_tokens": []}))
            kind = get_model_class(ModelBase.load_hparams(folder, False)["architectures"][0])
            kind.set_vocab = lambda self: None
            with torch.inference_mode():
                kind(folder, gguf.LlamaFileType.MOSTLY_F16, vectors / "gguf-models" / f"{name}.gguf").write()


main()
