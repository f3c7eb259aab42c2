"""Optional packages: whether they are there, and what brings them."""

from importlib.util import find_spec

LLAMACPP = "pip install 'stoker[llamacpp]'"
"""Brings llama.cpp."""


def has_llamacpp() -> bool:
    """Tell whether llama.cpp's wheel is there, without loading it."""
    return find_spec("xllamacpp") is not None
