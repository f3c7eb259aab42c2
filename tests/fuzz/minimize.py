"""Adds to a target's corpus those inputs of a folder, the smallest first, that reach lines nothing else does.

Usage: ``python tests/fuzz/minimize.py gguf FOLDER``, with the folder that `run.py` was given as ``--found``.
"""

import argparse
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import FrameType
from typing import Any

from stoker.testing.fuzz import TARGETS, Target, run

CORPUS = Path(__file__).parent / "corpus"
MAX_INPUT_BYTES = 1024

Place = tuple[str, int, int]
"""File, line before, line: a step from one line to another."""


def reached(target: Target, data: bytes) -> set[Place]:
    """Return the steps that an input takes through Stoker's files."""
    places: set[Place] = set()

    def follow(frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        file = frame.f_code.co_filename
        if event == "call" and "stoker" not in file:
            return None
        before = last.get(frame, 0)
        places.add((file, before, frame.f_lineno))
        last[frame] = frame.f_lineno
        return follow

    last: dict[FrameType, int] = {}
    sys.settrace(follow)
    try:
        run(target, data)
    finally:
        sys.settrace(None)
    return places


def main() -> None:
    """Grow one corpus."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    target = TARGETS[arguments.target]
    corpus = CORPUS / arguments.target
    known: set[Place] = set()
    for path in corpus.iterdir():
        known |= reached(target, path.read_bytes())
    found = sorted(
        (path.read_bytes() for path in arguments.folder.iterdir()), key=lambda data: (len(data), data)
    )
    for data in found:
        if len(data) > MAX_INPUT_BYTES:
            break
        new = reached(target, data) - known
        if new:
            known |= new
            (corpus / sha256(data).hexdigest()[:12]).write_bytes(data)


if __name__ == "__main__":
    main()
