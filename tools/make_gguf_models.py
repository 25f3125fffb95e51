#!/usr/bin/env python3
"""tests/vectors/gguf-models/NAME.gguf: small models as llama.cpp's own converter writes them, in F16: kept ones of tests/vectors, and, where those say
what GGUF cannot, others, whose folders are kept beside the files.

    tools/make_gguf_models.py LLAMA_CPP

LLAMA_CPP is a checkout of https://github.com/ggml-org/llama.cpp (made with the one that llama-cpp-python 0.3.36 builds), which needs
torch, transformers and gguf. Vocabularies are left out: the files are for tests/model/test_model_gguf.c, which reads architectures
and tensors. What the converter asks of a folder that ours lack is put into a copy first."""
import json
import pathlib
import shutil
import sys
import tempfile

NAMES = ["llama3", "mixtral", "qwen2", "gemma3", "gpt2-tied", "qwen3", "olmoe"]
vectors = pathlib.Path(__file__).resolve().parent.parent / "tests" / "vectors"


def others():
    """Configurations by name, smaller than those of make_vectors.py."""
    from transformers import Gemma2Config, MistralConfig, Qwen3MoeConfig, SmolLM3Config

    small = dict(vocab_size=61, hidden_size=24, intermediate_size=20, num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=96,
                 rms_norm_eps=1e-5, bos_token_id=0, eos_token_id=0, pad_token_id=None, attn_implementation="eager")
    return {
        "gemma2": Gemma2Config(num_hidden_layers=2, head_dim=16, query_pre_attn_scalar=16, sliding_window=24, attn_logit_softcapping=1.5,
                               final_logit_softcapping=4.0, **small),
        "smollm3": SmolLM3Config(num_hidden_layers=4, tie_word_embeddings=True, **small),
        "mistral": MistralConfig(num_hidden_layers=2, head_dim=16, sliding_window=None, tie_word_embeddings=False,
                                 rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=2.5), **small),
        "qwen3-moe": Qwen3MoeConfig(num_hidden_layers=2, head_dim=16, moe_intermediate_size=12, num_experts=5, num_experts_per_tok=2, norm_topk_prob=True,
                                    tie_word_embeddings=True, **small),
    }


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    llama = pathlib.Path(sys.argv[1])
    sys.path[:0] = [str(llama / "gguf-py"), str(llama)]
    import gguf
    import torch
    from conversion import get_model_class
    from conversion.base import ModelBase

    import make_vectors

    (vectors / "gguf-models").mkdir(exist_ok=True)
    homes = {name: vectors / name for name in NAMES}
    for i, (name, config) in enumerate(others().items()):
        homes[name] = vectors / "gguf-models" / name
        make_vectors.drawn(config, 700 + i).save_pretrained(homes[name])
        (homes[name] / "generation_config.json").unlink(missing_ok=True)
    for name, home in homes.items():
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder) / name  # the converter calls the model after it
            folder.mkdir()
            shutil.copy(home / "model.safetensors", folder)
            config = json.loads((home / "config.json").read_text())
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
