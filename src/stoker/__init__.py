"""Stoker serves open language models in production, on a CPU engine of its own."""

from importlib.metadata import version

__version__ = version("stoker")
