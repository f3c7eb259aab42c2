"""Every part of a `ModelConfig` in the native forward: against the reference in float64, and bit for bit."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from stoker import _native
from stoker.engine.native import NativeEngineSettings, load_engine
from stoker.models.config import Experts, LayerConfig, ModelConfig, Rotary
from stoker.models.rope import rope_frequencies
from stoker.testing.native_shapes import (
    CONTEXT,
    FAR,
    PLAIN,
    RANDOM,
    VOCAB_SIZE,
    chunked,
    load,
    scattered_tables,
    step,
)
from stoker.testing.random_source import RandomSource
from stoker.testing.random_source import random_source as new_random_source
from stoker.testing.reference_forward import Doubles, ReferenceForward
from stoker.testing.workloads import make_tokens

SHAPES = RANDOM | FAR
TOKENS = make_tokens("architectures", 600, VOCAB_SIZE)
FASTEST, *OTHERS = _native.available_isas()
SOME = [*SHAPES][::3]
CASES = [(FASTEST, name) for name in SHAPES]
CASES += [(isa, name) for isa in OTHERS for name in SOME]
"""The fastest path computes every shape, the others some."""

KV_ERRORS = {"f16": 4e-3, "bf16": 0.025, "q8": 0.05}
"""What a type of KV may cost a row's logits beside their size, in models whose attention is sharp."""


@cache
def random_source(config: ModelConfig, dtype: str = "F32") -> RandomSource:
    return new_random_source(config, dtype=dtype)


def tokens_of(name: str) -> tuple[int, ...]:
    return TOKENS if name in FAR else TOKENS[:90]


@cache
def expected(name: str, dtype: str) -> Doubles:
    config = SHAPES[name]
    reference = ReferenceForward(config, random_source(config, dtype).tensors, context_length=CONTEXT)
    return reference.logits(tokens_of(name))


@pytest.mark.parametrize(("isa", "name"), CASES)
def test_the_float_path(isa: str, name: str) -> None:
    engine = load(random_source(SHAPES[name]), isa, float_path=True)
    logits = chunked(engine, tokens_of(name), (41, 1, 200))
    np.testing.assert_allclose(logits, expected(name, "F32"), atol=1e-3)


@pytest.mark.parametrize(
    ("name", "dtype", "kv_type"),
    [(name, "Q8_0", "auto") for name in SHAPES]
    + [(name, dtype, "auto") for name in SOME for dtype in ("MXFP4", "BF16")]
    + [(name, "BF16", kv_type) for name in SOME for kv_type in KV_ERRORS],
)
def test_the_path_that_serves(name: str, dtype: str, kv_type: str) -> None:
    engine = load(random_source(SHAPES[name], dtype), kv_type=kv_type)
    exact = expected(name, dtype)
    error = chunked(engine, tokens_of(name), (41, 1, 200)) - exact
    rows = np.sqrt(np.mean(error**2, axis=1) / np.mean(exact**2))
    # KV as it is stored, int8 activations where weights have codes. Of nearly equal scores a router may take
    # the other expert, so some rows may be far off.
    bound = KV_ERRORS[_native.fastest_kv_type("auto") if kv_type == "auto" else kv_type]
    assert np.median(rows) <= (bound if dtype == "BF16" else 0.06)


LENGTHS = (1, 17, 64, 90)


def computed_together(
    config: ModelConfig, dtype: str, kv_type: str, threads: int
) -> list[NDArray[np.float32]]:
    """Logits of four sequences, in chunks of any size and in any company."""
    engine = load(random_source(config, dtype), kv_type=kv_type, threads=threads)
    random = np.random.default_rng(threads)
    tables = scattered_tables(LENGTHS, engine.kv_blocks)
    done = [0] * len(LENGTHS)
    parts: list[list[NDArray[np.float32]]] = [[] for _ in LENGTHS]
    while any(n < length for n, length in zip(done, LENGTHS, strict=True)):
        running = [i for i, length in enumerate(LENGTHS) if done[i] < length and random.random() < 0.8]
        ends = [min(LENGTHS[i], done[i] + int(random.integers(1, 40))) for i in running]
        if not running:
            continue
        runs = [
            (TOKENS[i + done[i] : i + end], done[i], tables[i]) for i, end in zip(running, ends, strict=True)
        ]
        for i, end, logits in zip(running, ends, step(engine, runs), strict=True):
            parts[i].append(logits)
            done[i] = end
    return [np.concatenate(each) for each in parts]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("name", RANDOM)
def test_bits_do_not_depend_on_company_chunks_or_threads(name: str, threads: int) -> None:
    config = RANDOM[name]
    dtype = ("Q4_0", "Q8_0", "BF16")[threads - 1]
    kv_type = ("q8", "f16", "bf16")[threads - 1]
    engine = load(random_source(config, dtype), kv_type=kv_type)
    alone = [chunked(engine, TOKENS[i : i + length], (length,)) for i, length in enumerate(LENGTHS)]
    for one, other in zip(alone, computed_together(config, dtype, kv_type, threads), strict=True):
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("kv_type", KV_ERRORS)
@pytest.mark.parametrize("name", FAR)
def test_bits_do_not_depend_on_how_keys_are_cut(name: str, kv_type: str) -> None:
    source = random_source(FAR[name], "Q8_0")
    # One thread walks a long sequence's pieces in turn; several share them.
    engines = [load(source, kv_type=kv_type, threads=threads) for threads in (1, 3)]
    sizes = [(256,), (7, 100, 1, 31)]
    outputs = [chunked(engine, TOKENS, each) for engine in engines for each in sizes]
    assert len({logits.tobytes() for logits in outputs}) == 1


def test_all_paths_that_fuse_give_the_same_bits() -> None:
    for name, config in RANDOM.items():
        source = random_source(config, "Q8_0")
        outputs = {
            chunked(load(source, isa, kv_type="f16"), tokens_of(name), (90,)).tobytes()
            for isa in _native.available_isas()[:-1]
        }
        assert len(outputs) <= 1


def test_equal_scores_go_to_the_first_experts() -> None:
    config = replace(PLAIN, layers=(LayerConfig(),), experts=Experts(n_experts=5, n_used=2, normalized=True))
    source = random_source(config)
    name = "blk.0.ffn_gate_inp.weight"
    zeros = bytes(len(source.tensors[name].data))
    tensors = {**source.tensors, name: replace(source.tensors[name], read=lambda: memoryview(zeros))}
    logits = chunked(load(replace(source, tensors=tensors), float_path=True), TOKENS[:40], (40,))
    reference = ReferenceForward(config, tensors).logits(TOKENS[:40])
    np.testing.assert_allclose(logits, reference, atol=1e-3)


def test_a_router_that_gives_no_numbers_harms_nobody() -> None:
    config = replace(PLAIN, experts=Experts(n_experts=5, n_used=3, normalized=False, biases=True))
    source = random_source(config)
    name = "blk.0.ffn_gate_inp.bias"
    odd = np.array([np.nan, np.inf, -np.inf, 0, 1], np.float32).tobytes()
    tensors = {**source.tensors, name: replace(source.tensors[name], read=lambda: memoryview(odd))}
    logits = chunked(load(replace(source, tensors=tensors), float_path=False), TOKENS[:40], (40,))
    assert logits.shape == (40, VOCAB_SIZE)


def test_a_window_as_long_as_the_context_is_none() -> None:
    windowed = replace(PLAIN, layers=(LayerConfig(window=CONTEXT), LayerConfig(window=CONTEXT - 1)))
    logits = [
        chunked(load(random_source(config), float_path=False), TOKENS, (200,)) for config in (windowed, PLAIN)
    ]
    assert logits[0].tobytes() == logits[1].tobytes()


def test_the_fingerprint_tells_other_frequencies_apart() -> None:
    """LongRoPE's two lists give other answers, and which of them is used is the setting's."""
    short, long = rope_frequencies(10_000.0, 32), rope_frequencies(500.0, 32)
    rotary = Rotary(frequencies=short, long_frequencies=long, original_context=32)
    source = new_random_source(replace(PLAIN, rotaries=(rotary,)))
    answers: dict[str, set[bytes]] = {}
    for context_length in (31, 32, 33, 64):
        settings = NativeEngineSettings(
            threads=1, context_length=context_length, max_running=1, step_tokens=32, kv_memory_bytes=1 << 20
        )
        engine = load_engine(source, settings)
        logits = chunked(engine, TOKENS[:30], (30,))
        answers.setdefault(engine.fingerprint, set()).add(logits.tobytes())
    assert [len(each) for each in answers.values()] == [1, 1]
    kv_type = _native.fastest_kv_type("auto")
    assert [name.endswith(f"-long-{kv_type}-{FASTEST}") for name in answers] == [False, True]
