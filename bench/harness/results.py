"""Files of results: JSON, with lists of numbers on one line, written beside and renamed."""

import json
import re
from pathlib import Path
from typing import Any


def to_text(result: dict[str, Any]) -> str:
    """Return a result as it is written."""
    indented = json.dumps(result, indent=1, ensure_ascii=False)
    return re.sub(r"\[[-\d\s.,e]+\]", lambda found: " ".join(found[0].split()), indented) + "\n"


def write(path: Path, result: dict[str, Any]) -> None:
    """Write a result whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(to_text(result), encoding="utf-8")
    part.replace(path)


def read(path: Path) -> dict[str, Any]:
    """Read a result.

    Raises:
        SystemExit: It is not JSON of an object.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SystemExit(f"{path} is not JSON: {error}; restore it or take it again") from error
    if not isinstance(result, dict):
        raise SystemExit(f"{path} holds no result: expected a JSON object")
    return result
