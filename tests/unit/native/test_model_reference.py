"""Logits of tiny files, of every stored type, against the reference forward in float64."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stoker import _native
from stoker.core.step import BLOCK_TOKENS, StepPlan
from stoker.engine.native import NativeEngine, NativeEngineSettings, load_engine
from stoker.models import OpenedModel, open_model
from stoker.testing.gguf_files import TINY_VOCAB_SIZE, TinyOptions, write_tiny_llama
from stoker.testing.gguf_superblocks import SUPER_BLOCK_BYTES
from stoker.testing.reference_forward import Doubles, ReferenceForward
from stoker.testing.workloads import make_tokens

CASES = {
    "plain": TinyOptions(),
    "three layers, untied": TinyOptions(n_layers=3, tied=False),
    "grouped heads": TinyOptions(n_heads=6, n_kv_heads=2, width=96),
    "five heads to one": TinyOptions(n_heads=5, n_kv_heads=1, width=160),
    "large heads": TinyOptions(n_heads=2, n_kv_heads=2, head_size=96),
    "odd vocabulary": TinyOptions(vocab_size=TINY_VOCAB_SIZE + 3),
    **{
        dtype: TinyOptions(dtype=dtype, n_heads=4, n_kv_heads=2)
        for dtype in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_0", "Q5_1", "IQ4_NL", "MXFP4")
    },
    **{
        dtype: TinyOptions(n_layers=1, dtype=dtype, width=256, n_heads=8, n_kv_heads=2, ffn_width=256)
        for dtype in SUPER_BLOCK_BYTES
    },
}

UNCODED = ("F32", "F16", "BF16", "Q2_K", "Q6_K")
"""Types whose weights are held as floats."""

N_TOKENS = 70
TOKENS = make_tokens("reference", N_TOKENS, TINY_VOCAB_SIZE)


def reference_logits(model: OpenedModel, tokens: tuple[int, ...]) -> Doubles:
    return ReferenceForward(model.config, model.tensors).logits(tokens)


def load(model: OpenedModel, isa: str, *, float_path: bool, kv_type: str = "auto") -> NativeEngine:
    settings = NativeEngineSettings(
        threads=1,
        isa=isa,
        kv_type=kv_type,
        kv_memory_bytes=1 << 20,
        context_length=128,
        max_running=2,
        step_tokens=128,
        float_path=float_path,
    )
    return load_engine(model, settings)


def engine_logits(engine: NativeEngine) -> NDArray[np.float32]:
    """Logits of the prompt computed in two chunks through blocks in disorder."""
    table = list(reversed(range(-(-N_TOKENS // BLOCK_TOKENS))))
    chunks = []
    for first, last in ((0, 41), (41, N_TOKENS)):
        plan = StepPlan(
            request_ids=["reference"],
            tokens=[list(TOKENS[first:last])],
            first_positions=[first],
            block_tables=[table],
            samples=[False],
        )
        chunks.append(engine.logits(plan))
    return np.concatenate(chunks)


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_the_float_path(tmp_path: Path, isa: str, options: TinyOptions) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", **options)
    with open_model(path) as model:
        logits = engine_logits(load(model, isa, float_path=True))
        np.testing.assert_allclose(logits, reference_logits(model, TOKENS), atol=1e-4)


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_the_path_that_serves(tmp_path: Path, isa: str, options: TinyOptions) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", **options)
    with open_model(path) as model:
        logits = engine_logits(load(model, isa, float_path=False))
        expected = reference_logits(model, TOKENS)
    error = np.sqrt(np.mean((logits - expected) ** 2) / np.mean(expected**2))
    # KV as the path likes it best, and int8 activations where the weights are quantized.
    uncoded = 6e-3 if _native.fastest_kv_type(isa) == "bf16" else 2e-3
    assert error <= (uncoded if options.get("dtype") in UNCODED else 0.04)


def test_norms_of_every_type(tmp_path: Path, isa: str) -> None:
    for norm_dtype in ("F32", "F16", "BF16"):
        path = write_tiny_llama(tmp_path / f"{norm_dtype}.gguf", norm_dtype=norm_dtype, dtype="F32")
        with open_model(path) as model:
            logits = engine_logits(load(model, isa, float_path=True))
            np.testing.assert_allclose(logits, reference_logits(model, TOKENS), atol=1e-4)


def test_all_paths_that_fuse_give_the_same_bits(tmp_path: Path) -> None:
    for dtype in ("Q4_1", "Q8_0", "F16"):
        with open_model(write_tiny_llama(tmp_path / f"{dtype}.gguf", dtype=dtype)) as model:
            isas = _native.available_isas()[:-1]
            engines = [load(model, isa, float_path=False, kv_type="f16") for isa in isas]
            assert len({engine_logits(engine).tobytes() for engine in engines}) <= 1


def test_the_fastest_path_is_taken_unless_one_is_named(tmp_path: Path) -> None:
    isas = _native.available_isas()
    assert isas[-1] == "portable"
    with open_model(write_tiny_llama(tmp_path / "tiny.gguf")) as model:
        for isa, named in (("auto", isas[0]), *zip(isas, isas, strict=True)):
            kv_type = "bf16" if named in ("amx", "avx512bf16") else "f16"
            assert load(model, isa, float_path=False).fingerprint.endswith(f"-{kv_type}-{named}")


def test_the_type_of_kv_that_is_named_is_taken(tmp_path: Path, isa: str) -> None:
    with open_model(write_tiny_llama(tmp_path / "tiny.gguf")) as model:
        for float_path, otherwise in ((False, _native.fastest_kv_type(isa)), (True, "f32")):
            for kv_type in ("f16", "bf16", "q8"):
                engine = load(model, isa, float_path=float_path, kv_type=kv_type)
                assert engine.fingerprint.endswith(f"-{kv_type}-{isa}")
            assert load(model, isa, float_path=float_path).fingerprint.endswith(f"-{otherwise}-{isa}")


def test_8_bits_hold_about_twice_as_much(tmp_path: Path) -> None:
    with open_model(write_tiny_llama(tmp_path / "tiny.gguf")) as model:
        halves, codes = (load(model, "auto", float_path=False, kv_type=kv_type) for kv_type in ("f16", "q8"))
    assert 1.7 * halves.kv_blocks < codes.kv_blocks < 2 * halves.kv_blocks
    assert codes.kv_block_bytes * codes.kv_blocks <= 1 << 20
