"""The tiny models of every architecture, and the logits that they must give.

They are in ``tests/golden/architectures``, with the script that makes them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class GoldenModel:
    """One model in one format, served in one way.

    Attributes:
        label: Names the three.
        path: A GGUF file, or a folder as on the Hugging Face hub.
        context_length: Tokens of the served context.
        tokens: The text.
        positions: Where there are golden logits.
        logits: Those logits, ``[positions, vocab_size]``.
    """

    label: str
    path: Path
    context_length: int
    tokens: tuple[int, ...]
    positions: tuple[int, ...]
    logits: Floats

    @property
    def name(self) -> str:
        """The model's name."""
        return self.path.stem if self.path.is_file() else self.path.name

    def error(self, logits: NDArray[np.floating]) -> float:
        """Largest difference of ``logits [n_tokens, vocab_size]`` from the golden ones."""
        return float(np.abs(logits[list(self.positions)] - self.logits).max())


def golden_models(folder: Path) -> Iterator[GoldenModel]:
    """Every model in every format that the folder has it in."""
    arrays = np.load(folder / "golden.npz")
    tokens, positions = tuple(arrays["tokens"].tolist()), tuple(arrays["positions"].tolist())
    for name in sorted({key.split("/")[0] for key in arrays} - {"tokens", "positions"}):
        for path in (folder / f"{name}.gguf", folder / name):
            if not path.exists():
                continue
            kind = "gguf" if path.is_file() else "safetensors"
            key = f"{name}/gguf" if kind == "gguf" and f"{name}/gguf" in arrays else name
            yield GoldenModel(f"{name}-{kind}", path, 128, tokens, positions, arrays[key])
            if f"{name}/short" in arrays:
                n_tokens = 1 + max(positions[: len(arrays[f"{name}/short"])])
                yield GoldenModel(
                    f"{name}-{kind}-short",
                    path,
                    n_tokens,
                    tokens[:n_tokens],
                    positions[: len(arrays[f"{name}/short"])],
                    arrays[f"{name}/short"],
                )
