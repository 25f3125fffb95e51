"""Reference vectors from ggml, for tests/io/test_gguf.c and tests/base/test_blocks.c. Run by hand, where llama-cpp-python (which compiles for
minutes) and gguf are installed:

    python3 tools/make_gguf_vectors.py [--check N]

    tests/vectors/gguf/kinds.gguf    every kind of metadata, tensors of one to four dimensions, written by gguf-py
    tests/vectors/gguf/blocks.gguf   T: random blocks of each quantised type, T.wide: what ggml widens them to in f32;
                                     rows: f32 rows, common and extreme, rows.T: what ggml's reference quantiser makes of them

--check N compares N million elements of each kind of row besides, with build/libtrilith.a as a shared library (made with cc on the way).
"""

import argparse
import ctypes
import glob
import os
import subprocess
import tempfile

import gguf
import llama_cpp
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as Type

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "..", "tests", "vectors", "gguf")
# where each type's halves lie in its block
HALVES = dict(Q4_0=[0], Q4_1=[0, 2], Q5_0=[0], Q5_1=[0, 2], Q8_0=[0], Q2_K=[80, 82], Q3_K=[108], Q4_K=[0, 2], Q5_K=[0, 2], Q6_K=[208], IQ4_NL=[0], IQ4_XS=[0])
NARROW = "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q4_K Q5_K Q6_K".split()
TYPES = "F32 F16 BF16 F64 I64 I32 I16 I8 U8 BOOL F8_E4M3 F8_E5M2 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS".split()  # type.h

ggml = ctypes.CDLL(glob.glob(os.path.join(os.path.dirname(llama_cpp.__file__), "lib", "libggml-base.so"))[0])


def pointer(array):
    return array.ctypes.data_as(ctypes.c_void_p)


def blocks(name, n, rng):
    """n random blocks whose scales are finite."""
    _, size = GGML_QUANT_SIZES[Type[name]]
    raw = rng.integers(0, 256, (n, size), dtype=np.uint8)
    for at in HALVES[name]:
        half = rng.integers(0, 65536, n).astype(np.uint16)
        half[(half & 0x7C00) == 0x7C00] &= 0xBFFF
        raw[:, at : at + 2] = half.view(np.uint8).reshape(n, 2)
    return raw


def widened(name, raw):
    """By gguf-py, and by libggml where it has the function: they agree."""
    wide = gguf.quants.dequantize(raw, Type[name]).reshape(-1).astype(np.float32)
    function = getattr(ggml, f"dequantize_row_{name.lower().replace('_k', '_K')}", None)
    if function:
        other = np.empty_like(wide)
        function(pointer(raw), pointer(other), ctypes.c_int64(other.size))
        assert np.array_equal(wide.view(np.uint32), other.view(np.uint32)), name
    return wide


def quantised(name, rows):
    block, size = GGML_QUANT_SIZES[Type[name]]
    out = np.empty((rows.shape[0], rows.shape[1] // block * size), np.uint8)
    ggml.ggml_quantize_chunk(int(Type[name]), pointer(rows), pointer(out), ctypes.c_int64(0), ctypes.c_int64(rows.shape[0]), ctypes.c_int64(rows.shape[1]), None)
    return out


def rows(n, rng):
    """(name, [n, 256] of f32), common and extreme."""
    bits = rng.integers(0, 2**32, (n, 256), dtype=np.uint32).view(np.float32)
    yield "any bits", np.where(np.isfinite(bits), bits, 0)
    yield "normal", rng.standard_normal((n, 256)) * 0.02
    yield "uniform", rng.random((n, 256))
    yield "heavy tails", rng.standard_t(2, (n, 256))
    yield "integers", rng.integers(-8, 8, (n, 256))
    for scale in (1e-40, 1e-20, 1e-15, 1e-8, 1e7, 1e37):
        yield f"normal times {scale}", rng.standard_normal((n, 256)) * scale
    sparse = rng.standard_normal((n, 256))
    sparse[rng.random(sparse.shape) < 0.97] = 0
    yield "sparse", sparse
    yield "zeros", np.zeros((n, 256)) * np.where(np.arange(256) % 2, 1.0, -1.0)
    yield "steps", np.repeat(rng.standard_normal((n, 8)), 32, axis=1)


def write_kinds(path):
    w = gguf.GGUFWriter(path, "test")
    w.add_uint8("k.u8", 200)
    w.add_int8("k.i8", -100)
    w.add_uint16("k.u16", 60000)
    w.add_int16("k.i16", -30000)
    w.add_uint32("k.u32", 4000000000)
    w.add_int32("k.i32", -2000000000)
    w.add_float32("k.f32", 0.1)
    w.add_bool("k.bool", True)
    w.add_string("k.string", "naïve 日本")
    w.add_uint64("k.u64", 2**63 + 1)
    w.add_int64("k.i64", -(2**62))
    w.add_float64("k.f64", 0.1)
    w.add_array("a.string", ["", "one", "two\n", "日本"])
    w.add_array("a.i32", [1, -2, 3])
    w.add_array("a.f32", [0.5, -1.5])
    w.add_array("a.bool", [True, False])
    w.add_tensor("vector", np.arange(5, dtype=np.float32))
    w.add_tensor("matrix", np.arange(6, dtype=np.int32).reshape(2, 3))
    w.add_tensor("cube", np.arange(24, dtype=np.float16).reshape(2, 3, 4))
    w.add_tensor("four", np.arange(120, dtype=np.int8).reshape(2, 3, 4, 5))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def write_blocks(path, rng):
    w = gguf.GGUFWriter(path, "test")
    for name in HALVES:
        raw = blocks(name, 512 // GGML_QUANT_SIZES[Type[name]][0], rng)
        w.add_tensor(name, raw.reshape(1, -1), raw_dtype=Type[name])
        w.add_tensor(f"{name}.wide", widened(name, raw))
    all_rows = np.ascontiguousarray(np.concatenate([x for _, x in rows(2, rng)]).astype(np.float32))
    w.add_tensor("rows", all_rows)
    for name in NARROW:
        w.add_tensor(f"rows.{name}", quantised(name, all_rows), raw_dtype=Type[name])
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def check(millions, rng):
    with tempfile.TemporaryDirectory() as folder:
        library = os.path.join(folder, "blocks.so")
        base = os.path.join(HERE, "..", "src", "base")
        subprocess.run(["cc", "-O2", "-ffp-contract=off", "-shared", "-fPIC", "-I", os.path.join(base, ".."), "-o", library,
                        *(os.path.join(base, f"{name}.c") for name in ("widen", "narrow", "type")), "-lm"], check=True)
        ours = ctypes.CDLL(library)
        n, wrong = round(millions * 1e6), 0
        for name in HALVES:
            raw = blocks(name, max(1, n // GGML_QUANT_SIZES[Type[name]][0]), rng)
            want = widened(name, raw)
            got = np.empty_like(want)
            ours.tl__widen(pointer(got), TYPES.index(name), pointer(raw), ctypes.c_int64(got.size))
            wrong += int((got.view(np.uint32) != want.view(np.uint32)).sum())
        for kind, x in rows(max(1, n // 256), rng):
            x = np.ascontiguousarray(x.astype(np.float32))
            for name in NARROW:
                want = quantised(name, x)
                got = np.empty_like(want)
                ours.tl__narrow(pointer(got), TYPES.index(name), pointer(x), ctypes.c_int64(x.size))
                differ = int((got != want).sum())
                wrong += differ
                if differ:
                    print(f"{name}, {kind}: {differ} bytes differ")
        print(f"{n} elements a type and kind: {wrong} differ")
        return wrong


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", type=float, default=0, metavar="N")
    args = parser.parse_args()
    os.makedirs(OUT, exist_ok=True)
    write_kinds(os.path.join(OUT, "kinds.gguf"))
    write_blocks(os.path.join(OUT, "blocks.gguf"), np.random.default_rng(20))
    if args.check and check(args.check, np.random.default_rng(21)):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
