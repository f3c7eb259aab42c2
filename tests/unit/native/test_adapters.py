"""Adapters in the native engine: against the merged weights in float64, and each row by itself."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stoker import _native
from stoker.core.errors import CorruptFileError, EngineError, ModelError
from stoker.core.sampling import SamplingParams
from stoker.core.step import StepPlan
from stoker.core.tokens import AdapterRef
from stoker.engine.native import NativeEngine, NativeEngineSettings, load_engine
from stoker.models import OpenedModel, open_model
from stoker.models.adapters import AdapterLimits
from stoker.models.adapters.reading import adapter_digest
from stoker.testing.adapters import (
    ALL,
    ATTENTION,
    adapter_weights,
    bottleneck_weights,
    merged,
    write_adapter,
    write_bottlenecks,
)
from stoker.testing.model_folders import write_tiny_folder
from stoker.testing.reference_forward import ReferenceForward

Floats = NDArray[np.float32]
Plan = list[tuple[list[int], str]]
"""Tokens of each sequence and the digest of its adapter, empty for none."""

LIMITS = AdapterLimits()
TEXTS = [[5, 9, 33, 40, 2, 7, 19, 61, 62, 8, 70, 11, 3], [40, 41, 42, 43, 44], [9], list(range(3, 50))]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenedModel]:
    with open_model(write_tiny_folder(tmp_path_factory.mktemp("base"), n_heads=4, n_kv_heads=2)) as model:
        yield model


def load(
    base: OpenedModel, isa: str, *, float_path: bool = False, threads: int = 1, n: int = 8
) -> NativeEngine:
    settings = NativeEngineSettings(
        threads=threads,
        isa=isa,
        kv_memory_bytes=1 << 22,
        context_length=128,
        max_running=16,
        step_tokens=192,
        float_path=float_path,
        max_adapters=n,
    )
    return load_engine(base, settings)


def place(engine: NativeEngine, folder: Path) -> str:
    digest = adapter_digest(folder, LIMITS)
    engine.place_adapter(digest, engine.read_adapter(AdapterRef(str(folder), digest)))
    return digest


def logits(engine: NativeEngine, sequences: Plan) -> list[Floats]:
    plan = StepPlan(
        request_ids=[str(row) for row in range(len(sequences))],
        tokens=[tokens for tokens, _ in sequences],
        first_positions=[0] * len(sequences),
        block_tables=[list(range(4 * row, 4 * row + 4)) for row in range(len(sequences))],
        samples=[False] * len(sequences),
        adapters={row: digest for row, (_, digest) in enumerate(sequences) if digest},
    )
    return np.split(engine.logits(plan), np.cumsum([len(tokens) for tokens, _ in sequences])[:-1])


@pytest.mark.parametrize("rank", [1, 3, 16, 40])
@pytest.mark.parametrize("rslora", [False, True])
def test_logits_are_those_of_the_merged_weights(
    isa: str, base: OpenedModel, tmp_path: Path, *, rank: int, rslora: bool
) -> None:
    weights = adapter_weights(base.config, rank=rank, seed=rank, strength=0.5)
    folder = write_adapter(tmp_path, weights, rank=rank, alpha=rank, use_rslora=rslora)
    engine = load(base, isa, float_path=True)
    expected = ReferenceForward(
        base.config, merged(base.tensors, weights, alpha=rank, rslora=rslora), context_length=128
    )
    plain = ReferenceForward(base.config, base.tensors, context_length=128)
    (found,) = logits(engine, [(TEXTS[0], place(engine, folder))])
    assert np.abs(found - expected.logits(TEXTS[0])).max() < 3e-4
    assert np.abs(found - plain.logits(TEXTS[0])).max() > 0.1


@pytest.mark.parametrize("modules", [(module,) for module in ALL] + [ATTENTION])
def test_every_module_by_itself_in_the_path_that_serves(
    isa: str, base: OpenedModel, tmp_path: Path, modules: tuple[str, ...]
) -> None:
    weights = adapter_weights(base.config, rank=8, modules=modules, strength=0.5)
    folder = write_adapter(tmp_path, weights, rank=8, dtype="BF16")
    expected = ReferenceForward(base.config, merged(base.tensors, weights), context_length=128).logits(
        TEXTS[0]
    )
    engine = load(base, isa)
    (found,) = logits(engine, [(TEXTS[0], place(engine, folder))])
    error = np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2))
    assert error < 0.04


def _mixture(engine: NativeEngine, base: OpenedModel, tmp_path: Path) -> Plan:
    digests = []
    for seed, (rank, modules) in enumerate([(4, ALL), (16, ATTENTION), (24, ("down_proj", "v_proj"))]):
        weights = adapter_weights(base.config, rank=rank, modules=modules, seed=seed)
        digests.append(place(engine, write_adapter(tmp_path / str(seed), weights, rank=rank)))
    folder = write_bottlenecks(tmp_path / "bottlenecks", bottleneck_weights(base.config, size=20))
    fourth = place(engine, folder)
    first, second, third = digests
    return [
        (TEXTS[2], fourth),
        (TEXTS[3], fourth),
        (TEXTS[0], first),
        (TEXTS[1], ""),
        (TEXTS[2], second),
        (TEXTS[3], third),
        (TEXTS[1], first),
        (TEXTS[2], first),
        (TEXTS[0], third),
    ]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_has_the_same_bytes_alone_and_among_others(
    isa: str, base: OpenedModel, tmp_path: Path, threads: int
) -> None:
    engine = load(base, isa, threads=threads)
    sequences = _mixture(engine, base, tmp_path)
    together = logits(engine, sequences)
    backwards = logits(engine, sequences[::-1])[::-1]
    for one, among, other in zip(sequences, together, backwards, strict=True):
        (alone,) = logits(engine, [one])
        assert alone.tobytes() == among.tobytes() == other.tobytes()


def test_rows_without_an_adapter_are_those_of_an_engine_without(
    isa: str, base: OpenedModel, tmp_path: Path
) -> None:
    engine = load(base, isa)
    together = logits(engine, _mixture(engine, base, tmp_path))
    (alone,) = logits(load(base, isa, n=0), [(TEXTS[1], "")])
    assert alone.tobytes() == together[3].tobytes()


def test_several_steps_in_a_call_have_the_adapter(isa: str, base: OpenedModel, tmp_path: Path) -> None:
    engine = load(base, isa)
    weights = adapter_weights(base.config, rank=8, strength=2)
    digest = place(engine, write_adapter(tmp_path, weights, rank=8))

    def decode(n_steps: int) -> list[int]:
        tokens = [40]
        while len(tokens) < 13:
            plan = StepPlan(
                request_ids=["a"],
                tokens=[tokens[-1:]],
                first_positions=[len(tokens) - 1],
                block_tables=[[0]],
                samples=[True],
                sampling=[SamplingParams(temperature=0.0)],
                adapters={0: digest},
                n_steps=n_steps,
                stop_token_ids=[frozenset()] if n_steps > 1 else [],
            )
            tokens += engine.forward(plan).token_ids[0]
        return tokens

    assert decode(1) == decode(4)


def test_an_adapter_that_goes_makes_room_and_leaves_the_others(base: OpenedModel, tmp_path: Path) -> None:
    engine = load(base, "auto", n=2)
    folders = [
        write_adapter(tmp_path / str(seed), adapter_weights(base.config, rank=4, seed=seed), rank=4)
        for seed in range(3)
    ]
    first, second = place(engine, folders[0]), place(engine, folders[1])
    before = logits(engine, [(TEXTS[0], second)])[0]
    with pytest.raises(EngineError, match="no slot"):
        place(engine, folders[2])
    engine.drop_adapter(first)
    third = place(engine, folders[2])
    assert logits(engine, [(TEXTS[1], third), (TEXTS[0], second)])[1].tobytes() == before.tobytes()
    with pytest.raises(EngineError, match="not in memory"):
        logits(engine, [(TEXTS[0], first)])


def test_a_folder_that_has_changed_is_refused(base: OpenedModel, tmp_path: Path) -> None:
    engine = load(base, "auto")
    folder = write_adapter(tmp_path, adapter_weights(base.config, rank=4), rank=4)
    ref = AdapterRef(str(folder), adapter_digest(folder, LIMITS))
    write_adapter(tmp_path, adapter_weights(base.config, rank=4, seed=9), rank=4)
    with pytest.raises(CorruptFileError, match="has changed"):
        engine.read_adapter(ref)


def test_the_library_refuses_what_does_not_fit(base: OpenedModel) -> None:
    adapter = _native.Adapter(n_layers=2, float_path=False)
    down, up = np.ones((4, 64), np.float32), np.ones((64, 4), np.float32)
    for wrong in (
        lambda: adapter.set("nothing", 0, down, up, 1.0),
        lambda: adapter.set("q", 2, down, up, 1.0),
        lambda: adapter.set("q", 0, down[:2].copy(), up, 1.0),
        lambda: adapter.set("q", 0, down[:, :33].copy(), up, 1.0),
        lambda: adapter.set("q", 0, down, up[:9].copy(), 1.0),
        lambda: adapter.set("q", 0, down * np.float32(np.nan), up, 1.0),
        lambda: adapter.set("q", 0, down, up * np.float32(3.4e38), 1.0),
        lambda: adapter.set("q", 0, down, up, float("inf")),
        lambda: _native.Adapter(n_layers=0, float_path=False),
    ):
        with pytest.raises(ValueError, match=r"."):
            wrong()
    engine = load(base, "auto")
    other = _native.Adapter(n_layers=2, float_path=False)
    other.set("down", 0, np.ones((4, 64), np.float32), up, 1.0)
    with pytest.raises(EngineError, match="another shape"):
        engine.place_adapter("d", other)
    with pytest.raises(EngineError, match="number of layers"):
        engine.place_adapter("d", _native.Adapter(n_layers=3, float_path=False))


def test_the_library_refuses_bottlenecks_that_do_not_fit(base: OpenedModel) -> None:
    adapter = _native.Adapter(n_layers=2, float_path=False)
    down, up = np.ones((4, 64), np.float32), np.ones((64, 4), np.float32)
    bias, up_bias = np.ones(4, np.float32), np.ones(64, np.float32)

    def add(
        down: Floats,
        bias: Floats,
        up_bias: Floats,
        half: str = "attention",
        layer: int = 0,
        bend: str = "relu",
    ) -> None:
        adapter.set_bottleneck(half, layer, down, bias, up, up_bias, scale=1.0, bend=bend, of_stream=False)

    wrong: list[Callable[[], None]] = [
        lambda: add(down, bias, up_bias, half="middle"),
        lambda: add(down, bias, up_bias, layer=2),
        lambda: add(down[:3].copy(), bias, up_bias),
        lambda: add(down[:, :32].copy(), bias, up_bias),
        lambda: add(down, bias[:3].copy(), up_bias),
        lambda: add(down, bias, up_bias[:9].copy()),
        lambda: add(down * np.float32(np.nan), bias, up_bias),
        lambda: add(down, bias, up_bias, bend="sine"),
    ]
    for each in wrong:
        with pytest.raises(ValueError, match=r"."):
            each()
    other = _native.Adapter(n_layers=2, float_path=False)
    other.set_bottleneck(
        "attention",
        0,
        down[:, :32].copy(),
        bias,
        up[:32].copy(),
        up_bias[:32].copy(),
        scale=1.0,
        bend="relu",
        of_stream=False,
    )
    with pytest.raises(EngineError, match="another width"):
        load(base, "auto").place_adapter("d", other)


def test_an_engine_without_places_refuses(base: OpenedModel, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path, adapter_weights(base.config, rank=4), rank=4)
    with pytest.raises((EngineError, ModelError), match="without places"):
        place(load(base, "auto", n=0), folder)
