"""What an answer must look like: a grammar, and what holds a sequence to it token by token."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

INVALID_GRAMMAR = "invalid_grammar"
"""Code of the error for what is no grammar of its notation."""

INVALID_SCHEMA = "invalid_schema"
"""Code of the error for a schema that answers could not be held to."""


class GrammarKind(StrEnum):
    """How a grammar is written."""

    JSON_SCHEMA = "json_schema"
    """A JSON Schema; answers are JSON that it accepts."""

    REGEX = "regex"
    """A regular expression that the whole answer matches."""

    LARK = "lark"
    """A context-free grammar in the Lark or the GBNF notation."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """A grammar as a client has sent it.

    Attributes:
        kind: How it is written.
        source: Its text.
        field: Path of the request's field that has it, for errors.
        eager: The answer ends as soon as it is of the grammar, even if more might follow.
        fast_forward: Text that is the only one to follow is taken as tokens without computing each of them
            first; how it is cut into tokens is then not the model's choice.
    """

    kind: GrammarKind
    source: str
    field: str
    eager: bool = False
    fast_forward: bool = False


class Constraint(Protocol):
    """Holds one sequence to its grammar; owned by the thread that runs the steps."""

    @property
    def allowed(self) -> memoryview:
        """Which tokens may come next, 32-bit words: bit ``t % 32`` of word ``t // 32`` is token ``t``'s.

        It is of the step that has been planned last.
        """

    @property
    def complete(self) -> bool:
        """Whether nothing may follow, or nothing need follow and the grammar is eager."""

    def advance(self, token_ids: Sequence[int]) -> bool:
        """Take in what was sampled, and return whether the answer is complete."""

    def force(self, most: int) -> Sequence[int]:
        """Return the tokens that have to follow, which are taken in; only if the grammar is fast-forwarded.

        They depend on the grammar and the tokens before them alone.

        Args:
            most: So many at most.
        """
