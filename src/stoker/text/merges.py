"""The merges of a SentencePiece-style BPE vocabulary, which files give as scores."""

from collections.abc import Iterable, Sequence
from itertools import groupby


def merges_of_scores(pieces: Sequence[str], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Return the merges that a vocabulary implies, most important first.

    SentencePiece merges the pair of neighbours that makes the piece of the highest score (Kudo and
    Richardson, 2018). So every cut of a piece into two pieces is a merge of that piece's score; of
    equal scores the one with the longer left part comes first, as in `transformers`' conversion.

    Args:
        pieces: What may be merged or come out of a merge; no duplicates.
        scores: One for each piece.
    """
    known = frozenset(pieces)
    by_score = sorted(zip(scores, pieces, strict=True), key=lambda each: -each[0])
    if len(set(scores)) == len(scores):
        return _cuts((piece for _, piece in by_score), known)
    merges: list[tuple[str, str]] = []
    for _, group in groupby(by_score, key=lambda each: each[0]):
        cuts = _cuts((piece for _, piece in group), known)
        cuts.sort(key=lambda cut: (-len(cut[0]), -len(cut[1])))
        merges += cuts
    return merges


def _cuts(pieces: Iterable[str], known: frozenset[str]) -> list[tuple[str, str]]:
    """Return every cut of each piece into two known ones, those with the longer left part first."""
    return [
        (left, right)
        for piece in pieces
        for at in range(len(piece) - 1, 0, -1)
        if (left := piece[:at]) in known and (right := piece[at:]) in known
    ]
