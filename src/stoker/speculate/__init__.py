"""Drafters: guesses at what sequences will say next. Pure Python."""

from stoker.speculate.lookup import PromptLookup

__all__ = ["PromptLookup"]
