"""A row's attention has the same bits whatever rows share the call and wherever its blocks lie."""

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from stoker._native import kernels

Floats = NDArray[np.float32]

KV_TYPES = ["f16", "bf16", "q8", "f32"]
HEAD_SIZE = 64
N_KEYS = 1100


@pytest.fixture(scope="module")
def keys() -> Floats:
    return np.random.default_rng(1).standard_normal((N_KEYS, HEAD_SIZE)).astype(np.float32)


@pytest.fixture(scope="module")
def values() -> Floats:
    return np.random.default_rng(2).standard_normal((N_KEYS, HEAD_SIZE)).astype(np.float32)


@cache
def make_queries(group: int) -> Floats:
    queries = np.random.default_rng(3).standard_normal((N_KEYS, group, HEAD_SIZE)) / HEAD_SIZE**0.5
    rounded: Floats = queries.astype(np.float32)
    return rounded


@cache
def block_table(seed: int) -> NDArray[np.int32]:
    return np.random.default_rng(seed).permutation(N_KEYS // 16 + 9).astype(np.int32)


def attend(
    isa: str, keys: Floats, values: Floats, *, group: int, first: int, last: int, kv_type: str, seed: int = 0
) -> Floats:
    """Rows `first` to `last` - 1 in one call, their keys and values in blocks as `seed` says."""
    table = block_table(seed)
    queries = make_queries(group)[first:last]
    return kernels.attend(isa, queries, keys[:last], values[:last], first, table, kv_type)


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize("group", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    ("first", "last"),
    [(0, 33), (10, 20), (50, 70), (500, 521), (511, 514), (1020, 1030)],
    ids=str,
)
def test_alone_or_with_others(
    isa: str, keys: Floats, values: Floats, *, group: int, first: int, last: int, kv_type: str
) -> None:
    together = attend(isa, keys, values, group=group, first=first, last=last, kv_type=kv_type)
    alone = [
        attend(isa, keys, values, group=group, first=row, last=row + 1, kv_type=kv_type)
        for row in range(first, last)
    ]
    assert together.tobytes() == np.concatenate(alone).tobytes()


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize("chunk", [1, 3, 8, 15, 16, 17, 64, 65])
def test_cut_into_chunks_of_any_size(
    isa: str, keys: Floats, values: Floats, chunk: int, kv_type: str
) -> None:
    first, last = 470, 600
    whole = attend(isa, keys, values, group=3, first=first, last=last, kv_type=kv_type)
    borders = [*range(first, last, chunk), last]
    chunks = [
        attend(isa, keys, values, group=3, first=begin, last=end, kv_type=kv_type)
        for begin, end in pairwise(borders)
    ]
    assert whole.tobytes() == np.concatenate(chunks).tobytes()


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_wherever_the_blocks_lie(isa: str, keys: Floats, values: Floats, kv_type: str) -> None:
    results = {
        attend(isa, keys, values, group=3, first=1000, last=1020, kv_type=kv_type, seed=seed).tobytes()
        for seed in range(4)
    }
    assert len(results) == 1
