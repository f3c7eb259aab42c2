"""Choices as a tree of their tokens: what several of them begin with is computed once.

A stem is what comes before a token of a choice: nothing, or the first tokens of one choice or of several.
After each stem the tokens that go on there are scored, all of them out of one row of logits. So choices of
one token need the prompt alone; in general each stem that is not the beginning of a longer one is a sequence.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import fsum


@dataclass(frozen=True, slots=True)
class StemRun:
    """One sequence behind a prompt.

    Attributes:
        tokens: A stem, to be computed after the prompt.
        candidates: What may come after its last ``len(candidates)`` stems, of which the longest is `tokens`,
            and the shortest may be the prompt alone. Those before them are another run's.
        nodes: The tree's nodes that `candidates` lead to, in the same order.
    """

    tokens: tuple[int, ...]
    candidates: tuple[tuple[int, ...], ...]
    nodes: tuple[int, ...]

    @property
    def n_candidates(self) -> int:
        """Tokens that are scored."""
        return len(self.nodes)


class ChoiceTree:
    """The tree of some choices.

    Args:
        choices: Their tokens; a choice may begin another one, or be empty.

    Attributes:
        runs: The sequences that score all of it, together each node once. None if every choice is empty.
    """

    def __init__(self, choices: Iterable[Sequence[int]]) -> None:
        self._next: list[dict[int, int]] = [{}]  # by node, the token that goes on and the node it leads to
        self._paths = [self._add(choice) for choice in choices]
        self.runs = tuple(self._find_runs())

    def logprobs(self, told: Iterable[Sequence[float]]) -> list[float]:
        """Return the sums of the log-probabilities of each choice's tokens, at most 0.

        Args:
            told: Those of each run's candidates.
        """
        of_node = {
            node: logprob
            for run, logprobs in zip(self.runs, told, strict=True)
            for node, logprob in zip(run.nodes, logprobs, strict=True)
        }
        return [fsum([of_node[node] for node in path]) for path in self._paths]

    def _add(self, choice: Sequence[int]) -> list[int]:
        """Add a choice and return its nodes, the root left out."""
        path = []
        node = 0
        for token in choice:
            node = self._next[node].setdefault(token, len(self._next))
            if node == len(self._next):
                self._next.append({})
            path.append(node)
        return path

    def _find_runs(self) -> Iterable[StemRun]:
        if not self._next[0]:
            return
        n_told = 0  # leading stems of the path that have been told by a run before
        path: list[int] = []  # the nodes of a stem, the root left out
        tokens: list[int] = []
        left = [(0, -1, 0)]  # nodes with the token that leads there and how deep they are, in preorder
        while left:
            node, token, depth = left.pop()
            n_told = min(n_told, depth)
            del path[max(0, depth - 1) :], tokens[max(0, depth - 1) :]
            if depth:
                path.append(node)
                tokens.append(token)
            longer = [
                (after, each, depth + 1) for each, after in self._next[node].items() if self._next[after]
            ]
            left += reversed(longer)
            if longer:
                continue
            stems = [0, *path][n_told:]
            yield StemRun(
                tuple(tokens),
                tuple(tuple(self._next[stem]) for stem in stems),
                tuple(after for stem in stems for after in self._next[stem].values()),
            )
            n_told = depth + 1
