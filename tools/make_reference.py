#!/usr/bin/env python3
"""What transformers makes of a model, for `trilith verify MODEL --against OUT`.

    tools/make_reference.py MODEL OUT.safetensors [--text FILE] [--tokens N]

MODEL is a Hugging Face folder or a GGUF file (which transformers widens to f32). OUT gets the first N tokens of the text, with what the tokenizer
puts before a text, the logits of each in f32, the text itself, and how the chat template renders the conversation that `verify` renders."""
import argparse
import os

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

logging.disable_progress_bar()
TEXT = "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n"
MESSAGES = [{"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": "4"},
            {"role": "user", "content": " And\n3 + 3? "}]


def make(model, out, text, most):
    folder, name = (model, None) if os.path.isdir(model) else os.path.split(model)
    source = dict(gguf_file=name) if name else {}
    tokenizer = AutoTokenizer.from_pretrained(folder or ".", **source)
    net = AutoModelForCausalLM.from_pretrained(folder or ".", dtype=torch.float32, **source).eval()
    tokens = tokenizer(text)["input_ids"][:most]
    with torch.no_grad():
        logits = net(torch.tensor([tokens])).logits[0].float().contiguous()
    facts = {"format": "trilith-reference", "text": text}
    if tokenizer.chat_template:
        facts["rendering"] = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    save_file({"tokens": torch.tensor(tokens, dtype=torch.int32), "logits": logits}, out, metadata=facts)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--text")
    parser.add_argument("--tokens", type=int, default=512)
    options = parser.parse_args()
    text = open(options.text, encoding="utf-8", newline="").read() if options.text else TEXT
    make(options.model, options.out, text, options.tokens)


if __name__ == "__main__":
    main()
