"""Paths to places in a request, as errors name them."""

_MAX_STEP_CHARS = 64
_MAX_PATH_CHARS = 512


def below(path: str, *steps: str | int) -> str:
    """Return the path of what is inside, with long names and long paths cut.

    Args:
        path: Path of what it is in.
        steps: Names and indices that lead on from there.
    """
    for step in steps:
        name = str(step)
        path += "." + (name if len(name) <= _MAX_STEP_CHARS else name[:_MAX_STEP_CHARS] + "…")
    return path if len(path) <= _MAX_PATH_CHARS else "…" + path[1 - _MAX_PATH_CHARS :]
