"""Drafters: guesses at what sequences will say next. Pure Python.

`lookup` copies from the conversation; `model` asks a model, by `guesser`; `first_of` makes one drafter of
several.
"""
