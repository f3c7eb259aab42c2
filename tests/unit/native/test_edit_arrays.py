"""Logit edits that are kept from step to step: what changes in them is seen all the same."""

from array import array
from collections.abc import Sequence

import numpy as np

from stoker._native import kernels
from stoker.core.sampling import SamplingParams
from stoker.core.step import LogitEdits
from stoker.core.tokens import TokenRequest
from stoker.engine.native.arrays import EditArrays

VOCAB = 64
END = 60
LOGITS = np.arange(VOCAB, dtype=np.float32)


class Allowing:
    """A constraint of one token."""

    def __init__(self) -> None:
        self.token = 0

    @property
    def allowed(self) -> memoryview:
        words = array("I", [0, 0])
        words[self.token // 32] = 1 << self.token % 32
        return memoryview(words)

    @property
    def complete(self) -> bool:
        return False

    def force(self, most: int) -> Sequence[int]:
        return [][:most]

    def advance(self, token_ids: Sequence[int]) -> bool:
        return not token_ids


def edits_of(
    *, min_tokens: int = 0, constraint: Allowing | None = None, sampling: SamplingParams | None = None
) -> LogitEdits:
    request = TokenRequest(
        request_id="a",
        prompt=(1, 2),
        max_tokens=20,
        min_tokens=min_tokens,
        stop_token_ids=frozenset({END, VOCAB - 1}),
        sampling=sampling or SamplingParams(),
    )
    edits = LogitEdits.of(request, constraint)
    assert edits is not None
    return edits


def best(isa: str, arrays: EditArrays, edits: LogitEdits) -> int:
    native = arrays.native({0: edits})
    return int(kernels.sample(isa, LOGITS, 0.0, 0, 1.0, 0.0, 0, 0, 7, -1, native)[0])


def test_no_edits_are_none() -> None:
    assert EditArrays({}).native({}) is None


def test_masks_are_those_of_the_step(isa: str) -> None:
    constraint = Allowing()
    edits = edits_of(constraint=constraint)
    arrays = EditArrays({0: edits})
    for constraint.token in (3, 40, 63):
        edits.history.append(constraint.token)
        assert best(isa, arrays, edits) == constraint.token


def test_penalties_see_every_token_of_the_history(isa: str) -> None:
    edits = edits_of(sampling=SamplingParams(presence_penalty=2.0, frequency_penalty=2.0))
    arrays = EditArrays({0: edits})
    chosen = []
    for _ in range(4):
        chosen.append(best(isa, arrays, edits))
        edits.history.append(chosen[-1])
    assert chosen == [63, 62, 61, 60]


def test_bans_end(isa: str) -> None:
    edits = edits_of(min_tokens=2)
    arrays = EditArrays({0: edits})
    chosen = []
    for _ in range(3):
        chosen.append(best(isa, arrays, edits))
        edits.history.append(0)
    assert chosen == [62, 62, 63]


def test_edits_without_penalties_do_not_carry_their_history(isa: str) -> None:
    edits = edits_of(constraint=Allowing())
    edits.history.append(10**6)  # no token: it would be refused
    assert best(isa, EditArrays({0: edits}), edits) == 0
