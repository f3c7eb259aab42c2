"""Stoker serves open language models in production, on a CPU engine of its own."""

__version__ = "0.1.0"  # as in pyproject.toml; asking the installed package would take a tenth of a start
