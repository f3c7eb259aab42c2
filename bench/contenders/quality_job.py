"""What `bench/quality.py` and the engines whose logits it compares say to each other: JSON each way.

An engine runs in its own environment, so this file imports nothing but NumPy.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass
class QualityJob:
    """Logits to compute.

    Attributes:
        model: GGUF file.
        threads: Compute threads.
        windows: Token ids, one list a text; each is computed by itself, from an empty cache.
        out: File for the logits, fp32 ``[windows, tokens, vocabulary]`` in NumPy's format.
        options: The engine's own.
    """

    model: str
    threads: int
    windows: list[list[int]]
    out: str
    options: dict[str, str] = field(default_factory=dict)


def read_quality_job() -> QualityJob:
    """Read the job from standard input."""
    return QualityJob(**json.load(sys.stdin))


def write_logits(
    job: QualityJob, vocab_size: int, logits: Callable[[list[int]], NDArray[np.float32]]
) -> None:
    """Compute all windows; `logits` returns those after every token of one, ``[tokens, vocabulary]``."""
    shape = (len(job.windows), len(job.windows[0]), vocab_size)
    out = np.lib.format.open_memmap(job.out, "w+", np.float32, shape)
    for index, window in enumerate(job.windows):
        out[index] = logits(window)
    out.flush()


def print_settings(**settings: str) -> None:
    """Write what the logits were computed with, as the last line of standard output."""
    sys.stdout.write(json.dumps(settings) + "\n")
