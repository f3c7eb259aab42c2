"""Make ``golden.npz``: random blocks of GGUF's types, and what the `gguf` package reads in them.

Needs `gguf`; must not import stoker::

    python tests/golden/blocks/make_golden.py

For each type, ``<type>.data`` are blocks, ``[n, bytes]``, and ``<type>.values`` their values,
``[n, elements]``. Bytes are random, so that every code occurs; scales are f16 values of every size that
Stoker's groups can hold. The first blocks are edge cases: zero scales, subnormal scales, all bits set.
"""

from importlib import import_module
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HALVES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,),
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
    "IQ4_NL": (0,), "IQ4_XS": (0,), "MXFP4": (),
}  # fmt: skip
"""Where a block's f16 scales are."""

N_BLOCKS = {32: 48, 256: 10}
LARGEST_SCALE = 14.0
"""Times 31 * 128 an f16 yet; times 127 * 32 too."""


def make_blocks(random: np.random.Generator, name: str, n: int, size_bytes: int) -> NDArray[np.uint8]:
    """Return random blocks, ``[n, size_bytes]``, edge cases first."""
    blocks = random.integers(0, 256, (n, size_bytes), np.uint8)
    blocks[0] = 0
    blocks[1] = 255
    if name == "MXFP4":
        # Scales from 2^-24, the smallest f16, to 2^12.
        blocks[:, 0] = random.integers(104, 141, n)
    for offset in HALVES[name]:
        sizes = 2.0 ** random.uniform(-24, np.log2(LARGEST_SCALE), n)
        sizes[0], sizes[2], sizes[3], sizes[4] = 0, 0, 2.0**-24, 1023 * 2.0**-24
        halves = (sizes * random.choice([-1, 1], n)).astype("<f2")
        blocks[:, offset : offset + 2] = halves.view(np.uint8).reshape(n, 2)
    return blocks


def main() -> None:
    """Write the file beside this script."""
    gguf = import_module("gguf")
    quants = import_module("gguf.quants")
    random = np.random.default_rng(1)
    arrays: dict[str, NDArray[np.generic]] = {}
    for name in HALVES:
        kind = gguf.GGMLQuantizationType[name]
        n_values, size_bytes = gguf.GGML_QUANT_SIZES[kind]
        data = make_blocks(random, name, N_BLOCKS[n_values], size_bytes)
        arrays[f"{name}.data"] = data
        arrays[f"{name}.values"] = quants.dequantize(data, kind)
    np.savez_compressed(Path(__file__).with_name("golden.npz"), allow_pickle=False, **arrays)


if __name__ == "__main__":
    main()
