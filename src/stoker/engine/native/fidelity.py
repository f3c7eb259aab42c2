"""How far the weights that the engine holds are from those that a model stores."""

from collections.abc import Iterable, Iterator, Mapping
from math import prod, sqrt

import numpy as np
from numpy.typing import NDArray

from stoker._native import kernels
from stoker.core.errors import CorruptFileError
from stoker.models.config import Tensor
from stoker.models.gguf import TENSOR_TYPES

SAMPLED_WEIGHTS = 2**20
"""About how many weights of one type are compared; they take some 20 ms."""

_MAX_TENSORS = 256
"""Most tensors of one type that are looked at."""

_RUN_ROWS = 16
"""Rows that are looked at together; the layout holds as many side by side."""

_BLOCKS = {kind.name: (kind.block_elements, kind.block_bytes) for kind in TENSOR_TYPES.values()}
_INEXACT = frozenset(kind.name for kind in TENSOR_TYPES.values() if kind.fidelity != "exact")


def measure_losses(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """Relative RMS error of the weights of each type that is not held exactly.

    That is the root of the sum of squared differences over the sum of squared weights: of all of them in
    a small model, of evenly spaced rows in a large one, the same ones each time.

    Args:
        tensors: A model's tensors.

    Raises:
        CorruptFileError: A row holds what cannot be used.
    """
    by_type: dict[str, list[Tensor]] = {}
    for tensor in tensors.values():
        if tensor.dtype in _INEXACT:
            by_type.setdefault(tensor.dtype, []).append(tensor)
    return {dtype: _relative_error(_sample(named)) for dtype, named in sorted(by_type.items())}


def _sample(tensors: list[Tensor]) -> Iterator[tuple[Tensor, int, int]]:
    """Yield tensors, each with a first row and a number of rows to look at; no row twice."""
    n_tensors = min(len(tensors), _MAX_TENSORS)
    for index in range(n_tensors):
        tensor = tensors[index * len(tensors) // n_tensors]
        n_rows, columns = prod(tensor.shape[:-1]), tensor.shape[-1]
        wanted = max(1, SAMPLED_WEIGHTS // n_tensors // columns)
        if wanted >= n_rows:
            yield tensor, 0, n_rows
            continue
        n_runs = max(1, wanted // _RUN_ROWS)
        for run in range(n_runs):
            yield tensor, run * n_rows // n_runs, min(wanted, _RUN_ROWS)


def _relative_error(samples: Iterable[tuple[Tensor, int, int]]) -> float:
    lost = whole = 0.0
    for tensor, first, count in samples:
        stored = _floats(tensor, first, count, dequantize=True)
        held = _floats(tensor, first, count, dequantize=False)
        lost += float(np.sum((held - stored) ** 2))
        whole += float(np.sum(stored**2))
    return sqrt(lost / whole) if whole else 0.0


def _floats(tensor: Tensor, first: int, count: int, *, dequantize: bool) -> NDArray[np.float64]:
    """Rows of a tensor, ``[count, columns]``: as stored, or as packed for the engine."""
    columns = tensor.shape[-1]
    block_elements, block_bytes = _BLOCKS[tensor.dtype]
    row_bytes = columns // block_elements * block_bytes
    rows = tensor.data[first * row_bytes : (first + count) * row_bytes]
    try:
        floats = kernels.unpack(
            tensor.dtype, np.frombuffer(rows, np.uint8), count, columns, dequantize=dequantize
        )
    except ValueError as error:
        raise CorruptFileError(f"tensor {tensor.name}: {error}") from error
    return floats.astype(np.float64)
