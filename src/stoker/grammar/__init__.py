"""Grammars: what is refused of them, and what answers are held to them by.

`schema` and `lark` read a client's grammar and refuse what could not be honoured; both are pure. `compiler`
compiles it with llguidance, and `matcher` holds one sequence to it; they run in the engine process alone.
"""
