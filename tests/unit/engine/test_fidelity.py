"""What is lost when weights are packed, as `stoker show` tells it."""

import time

import numpy as np
import pytest

from stoker.core.errors import CorruptFileError
from stoker.engine.native import fidelity
from stoker.engine.native.fidelity import measure_losses
from stoker.models.config import Tensor
from stoker.models.gguf import TENSOR_TYPES
from stoker.testing.gguf_blocks import decode_blocks, encode_blocks

INEXACT = {kind.name for kind in TENSOR_TYPES.values() if kind.fidelity != "exact"}


def tensor(name: str, dtype: str, data: bytes, *shape: int) -> Tensor:
    return Tensor(name, dtype, shape, lambda: memoryview(data))


def encoded(name: str, dtype: str, *shape: int, scale: float = 1 / 64) -> Tensor:
    values = np.random.default_rng(len(name)).standard_normal(shape).astype(np.float32) * np.float32(scale)
    return tensor(name, dtype, encode_blocks(values, dtype), *shape)


def test_only_types_that_are_not_held_exactly_are_told() -> None:
    tensors = {kind.name: encoded(kind.name, kind.name, 32, 256) for kind in TENSOR_TYPES.values()}
    losses = measure_losses(tensors)
    assert losses.keys() == INEXACT
    assert all(1e-6 < loss < 1e-3 for loss in losses.values())
    assert measure_losses({}) == {}


@pytest.mark.parametrize("dtype", ["Q6_K", "Q2_K"])
def test_the_loss_is_that_of_rounding_to_f16(dtype: str) -> None:
    tensors = {name: encoded(name, dtype, 48, 512) for name in ("a", "bb")}
    stored = np.concatenate(
        [decode_blocks(each.data, dtype, each.shape).astype(np.float64) for each in tensors.values()]
    )
    expected = np.sqrt(np.sum((stored.astype(np.float16) - stored) ** 2) / np.sum(stored**2))
    assert measure_losses(tensors)[dtype] == pytest.approx(expected, rel=1e-6)


def test_experts_are_looked_at_as_rows() -> None:
    experts = encoded("experts", "Q6_K", 4, 32, 256)
    rows = tensor("rows", "Q6_K", bytes(experts.data), 128, 256)
    assert measure_losses({"a": experts}) == measure_losses({"b": rows}) != {"Q6_K": 0.0}


def test_large_weights_count_more() -> None:
    small, large = (
        encoded("small", "Q6_K", 32, 256, scale=1e-2),
        encoded("large..", "Q6_K", 32, 256, scale=10.0),
    )
    alone = measure_losses({"a": large})["Q6_K"]
    assert measure_losses({"a": small})["Q6_K"] != pytest.approx(alone, rel=1e-4)
    assert measure_losses({"a": small, "b": large})["Q6_K"] == pytest.approx(alone, rel=1e-4)


def test_a_sample_is_near_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {f"{n}": encoded("x" * n, "Q4_K", 256, 256) for n in range(1, 5)}
    whole = measure_losses(tensors)["Q4_K"]
    monkeypatch.setattr(fidelity, "SAMPLED_WEIGHTS", 4 * 40 * 256)
    assert measure_losses(tensors)["Q4_K"] == pytest.approx(whole, rel=0.1)
    assert measure_losses(tensors)["Q4_K"] != whole


def test_zeros_lose_nothing() -> None:
    assert measure_losses({"a": tensor("a", "Q4_K", bytes(144 * 16), 16, 256)}) == {"Q4_K": 0.0}


def test_a_large_model_is_sampled() -> None:
    shape = (2048, 16_384)
    (_, block_bytes) = next(
        (kind.block_elements, kind.block_bytes) for kind in TENSOR_TYPES.values() if kind.name == "Q4_K"
    )
    data = bytes(shape[0] * shape[1] // 256 * block_bytes)
    began = time.process_time()
    assert measure_losses({f"{n}": tensor(f"{n}", "Q4_K", data, *shape) for n in range(300)}) == {"Q4_K": 0.0}
    assert time.process_time() - began < 1


def test_damage_is_told_by_the_tensors_name() -> None:
    infinite = np.full(1, np.inf, np.float16).tobytes()
    block = bytes(210 - 2) + infinite
    with pytest.raises(CorruptFileError, match="tensor broken: "):
        measure_losses({"broken": tensor("broken", "Q6_K", block * 16, 16, 256)})
