"""Attention through KV blocks against a softmax in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stoker._native import kernels

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

KV_TYPES = ["f16", "bf16", "q8", "f32"]
MULTIPLY_PAIRS = ("amx", "avx512bf16")
MULTIPLY_CODES = (*MULTIPLY_PAIRS, "avx512vnni")
BORDERS = [1, 2, 15, 16, 17, 31, 63, 64, 65, 127, 129, 511, 512, 513, 1023, 1024, 1025]


def normal(seed: int, *shape: int, size: float = 1.0) -> Floats:
    return (np.random.default_rng(seed).standard_normal(shape) * size).astype(np.float32)


def block_table(n_keys: int, seed: int = 0) -> NDArray[np.int32]:
    """Blocks in any order, a few more than needed, not all of them used."""
    n_blocks = (n_keys + 15) // 16 + 2
    order = np.random.default_rng(seed).permutation(n_blocks + 3)[:n_blocks]
    return order.astype(np.int32)


def reference(
    queries: Floats,
    keys: Floats,
    values: Floats,
    first_position: int,
    *,
    window: int = 0,
    softcap: float = 0.0,
) -> Doubles:
    scores = np.einsum("rhd,kd->rhk", queries.astype(np.float64), keys.astype(np.float64))
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    distance = first_position + np.arange(len(queries))[:, None] - np.arange(len(keys))
    visible = (distance >= 0) & (distance < (window or len(keys)))
    scores = np.where(visible[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    weights /= weights.sum(axis=2, keepdims=True)
    expected: Doubles = np.einsum("rhk,kd->rhd", weights, values.astype(np.float64))
    return expected


def to_bf16(values: Floats) -> Floats:
    bits = values.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16
    return rounded.astype(np.uint32).view(np.float32)


def check(
    isa: str,
    queries: Floats,
    keys: Floats,
    values: Floats,
    *,
    kv_type: str,
    window: int = 0,
    softcap: float = 0.0,
) -> Floats:
    first_position = len(keys) - len(queries)
    table = block_table(len(keys))
    out = kernels.attend(isa, queries, keys, values, first_position, table, kv_type, window, softcap)
    keys, values = kernels.stored_kv(isa, kv_type, keys, values)
    # What is left: of a score, and of a weight.
    score_error, weight_error = 1e-6, 4e-6
    if kv_type == "bf16" and isa in MULTIPLY_PAIRS:
        factor = np.float32(1 if softcap else np.log2(np.e))
        queries = to_bf16(queries * factor) / factor
        weight_error = 2**-9 + 2e-4
    elif kv_type == "q8" and isa in MULTIPLY_CODES:
        score_error, weight_error = 2**-15, 2e-4
    expected = reference(queries, keys, values, first_position, window=window, softcap=softcap)
    # A score's error becomes a relative error of its weight.
    score_sizes = np.einsum("rhd,kd->rhk", np.abs(queries), np.abs(keys)).max(axis=2, keepdims=True)
    bound = (score_error * score_sizes + weight_error) * np.abs(values).max()
    assert np.all(np.abs(out - expected) <= bound)
    return out


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize("n_keys", BORDERS)
def test_last_row_of_so_many_keys(isa: str, n_keys: int, kv_type: str) -> None:
    queries = normal(1, 1, 3, 64, size=1 / 8)
    check(isa, queries, normal(2, n_keys, 64), normal(3, n_keys, 64), kv_type=kv_type)


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize("group", [1, 2, 3, 4, 5, 16])
@pytest.mark.parametrize("head_size", [32, 64, 96, 128, 256])
def test_heads_of_a_group(isa: str, group: int, head_size: int, kv_type: str) -> None:
    for n_rows, n_keys in ((1, 70), (7, 7), (20, 530)):
        queries = normal(4, n_rows, group, head_size, size=head_size**-0.5)
        check(isa, queries, normal(5, n_keys, head_size), normal(6, n_keys, head_size), kv_type=kv_type)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    n_rows=st.integers(1, 33),
    first_position=st.one_of(st.integers(0, 150), st.sampled_from([447, 448, 480, 495, 511, 512, 513])),
    group=st.integers(1, 5),
    head_size=st.sampled_from([32, 64, 96]),
    kv_type=st.sampled_from(KV_TYPES),
    seed=st.integers(0, 2**32 - 1),
)
def test_chunks(
    isa: str, *, n_rows: int, first_position: int, group: int, head_size: int, kv_type: str, seed: int
) -> None:
    n_keys = first_position + n_rows
    queries = normal(seed, n_rows, group, head_size, size=head_size**-0.5)
    check(
        isa,
        queries,
        normal(seed + 1, n_keys, head_size),
        normal(seed + 2, n_keys, head_size),
        kv_type=kv_type,
    )


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    n_rows=st.integers(1, 33),
    first_position=st.one_of(st.integers(0, 150), st.sampled_from([480, 511, 512, 575, 576, 1023, 1024])),
    window=st.one_of(st.integers(1, 200), st.sampled_from([1, 16, 63, 64, 65, 511, 512, 513, 600])),
    softcap=st.sampled_from([0.0, 1.0, 50.0]),
    group=st.integers(1, 5),
    kv_type=st.sampled_from(KV_TYPES),
    seed=st.integers(0, 2**32 - 1),
)
def test_windows_and_soft_caps(
    isa: str,
    *,
    n_rows: int,
    first_position: int,
    window: int,
    softcap: float,
    group: int,
    kv_type: str,
    seed: int,
) -> None:
    n_keys = first_position + n_rows
    queries = normal(seed, n_rows, group, 32, size=32**-0.5)
    keys, values = normal(seed + 1, n_keys, 32), normal(seed + 2, n_keys, 32)
    check(isa, queries, keys, values, kv_type=kv_type, window=window, softcap=softcap)


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize("window", [1, 5, 16, 64, 100, 512, 600])
def test_keys_before_the_window_are_not_seen(isa: str, window: int, kv_type: str) -> None:
    n_keys = 1100
    queries, keys, values = normal(18, 3, 2, 32), normal(19, n_keys, 32), normal(20, n_keys, 32)
    table = block_table(n_keys)
    whole = kernels.attend(isa, queries, keys, values, n_keys - 3, table, kv_type, window)
    keys[: n_keys - 2 - window], values[: n_keys - 2 - window] = np.nan, np.nan
    spoilt = kernels.attend(isa, queries, keys, values, n_keys - 3, table, kv_type, window)
    assert whole.tobytes() == spoilt.tobytes()
    assert np.isfinite(whole).all()


@pytest.mark.parametrize("kv_type", ["f16", "bf16", "q8"])
@pytest.mark.parametrize("window", [1, 30, 64, 100, 511, 513, 700])
def test_a_row_in_a_window_is_the_same_alone(isa: str, window: int, kv_type: str) -> None:
    n_keys = 1100
    queries, keys, values = normal(21, n_keys, 3, 32), normal(22, n_keys, 32), normal(23, n_keys, 32)
    values[::7] = -0.0
    table = block_table(n_keys)
    for first in (0, 60, 505, 570, 1015, 1090):
        last = min(first + 17, n_keys)
        rows = kernels.attend(
            isa, queries[first:last], keys[:last], values[:last], first, table, kv_type, window, 20.0
        )
        for row in range(first, last):
            end = row + 1
            alone = kernels.attend(
                isa, queries[row:end], keys[:end], values[:end], row, table, kv_type, window, 20.0
            )
            assert alone.tobytes() == rows[row - first : row - first + 1].tobytes()


@pytest.mark.parametrize("n_keys", [1, 16, 65, 513])
def test_equal_scores_give_the_mean(isa: str, n_keys: int) -> None:
    values = normal(7, n_keys, 32)
    out = check(isa, np.zeros((1, 2, 32), np.float32), normal(8, n_keys, 32), values, kv_type="f32")
    np.testing.assert_allclose(out[0, 1], values.mean(axis=0, dtype=np.float64), atol=1e-5)


@pytest.mark.parametrize("kv_type", ["f16", "bf16", "f32"])
@pytest.mark.parametrize("winner", [0, 15, 16, 63, 64, 100, 511, 512, 599])
def test_one_key_far_above_the_others(isa: str, winner: int, kv_type: str) -> None:
    keys = np.zeros((600, 32), np.float32)
    keys[winner, 0] = 100
    queries = np.zeros((1, 1, 32), np.float32)
    queries[0, 0, 0] = 10
    values = normal(9, 600, 32)
    out = kernels.attend(isa, queries, keys, values, 599, block_table(600), kv_type)
    _, stored = kernels.stored_kv(isa, kv_type, keys, values)
    np.testing.assert_array_equal(out[0, 0], stored[winner])


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_scores_far_below_zero(isa: str, kv_type: str) -> None:
    keys = normal(10, 530, 32, size=0.01) - np.float32(50)
    check(isa, np.ones((3, 2, 32), np.float32), keys, normal(11, 530, 32), kv_type=kv_type)


@pytest.mark.parametrize("kv_type", ["bf16", "q8", "f32"])
def test_huge_values(isa: str, kv_type: str) -> None:
    values = normal(12, 80, 32, size=1e30)
    check(isa, normal(13, 5, 2, 32, size=1 / 6), normal(14, 80, 32), values, kv_type=kv_type)


def test_subnormal_and_zero_values(isa: str) -> None:
    values = normal(15, 80, 32, size=1e-5)  # f16's subnormals
    values[::3] = 0
    check(isa, normal(16, 5, 2, 32, size=1 / 6), normal(17, 80, 32), values, kv_type="f16")


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_later_keys_are_not_seen(isa: str, kv_type: str) -> None:
    queries, keys, values = normal(18, 40, 2, 32), normal(19, 40, 32), normal(20, 40, 32)
    whole = kernels.attend(isa, queries, keys, values, 0, block_table(40), kv_type)
    keys[25:], values[25:] = np.nan, np.nan
    spoilt = kernels.attend(isa, queries, keys, values, 0, block_table(40), kv_type)
    assert whole[:25].tobytes() == spoilt[:25].tobytes()


@pytest.mark.parametrize(
    ("n_keys", "head_size", "table"),
    [(17, 32, [0]), (16, 32, [-1]), (16, 48, [0]), (16, 0, [0]), (4, 32, [0])],
    ids=["table too short", "negative block", "head size", "no head", "keys do not match rows"],
)
def test_refused(isa: str, n_keys: int, head_size: int, table: list[int]) -> None:
    queries = np.zeros((8, 1, head_size), np.float32)
    keys = np.zeros((n_keys, head_size), np.float32)
    with pytest.raises(ValueError, match="do not fit"):
        kernels.attend(isa, queries, keys, keys, max(0, n_keys - 8), np.array(table, np.int32), "f16")


def test_an_unknown_type_is_refused(isa: str) -> None:
    rows = np.zeros((4, 32), np.float32)
    with pytest.raises(ValueError, match="no KV type 'f8'; there are f16, bf16, q8 and f32"):
        kernels.attend(isa, rows[:, None], rows, rows, 0, np.zeros(1, np.int32), "f8")


@pytest.mark.parametrize("kv_type", ["f16", "bf16", "q8"])
@pytest.mark.parametrize("window", [0, 700])
def test_beyond_the_positions_where_pieces_grow(isa: str, window: int, kv_type: str) -> None:
    n_keys = 18_500  # pieces of 1,024 keys begin at 16,384
    queries, keys, values = normal(24, 2, 2, 32, size=1 / 6), normal(25, n_keys, 32), normal(26, n_keys, 32)
    check(isa, queries, keys, values, kv_type=kv_type, window=window)
