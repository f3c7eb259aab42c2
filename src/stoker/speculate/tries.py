"""When a model is asked though drafts are not expected to pay: that may have changed."""

LEAST_TRY, FIRST_TRY, MOST_TRY = 8, 64, 1024
"""After so many steps without drafts there is one on trial: half as many if that was right, else twice."""


class Tries:
    """Counts steps, and what came of tries."""

    __slots__ = ("_after", "_n_right", "_n_without", "_n_wrong", "_trying")

    def __init__(self) -> None:
        self._after = FIRST_TRY
        self._n_without = 0
        self._trying = False
        self._n_right = self._n_wrong = 0

    def due(self) -> bool:
        """Count a step without drafts, and say whether it is time."""
        if self._n_right or self._n_wrong:
            after = self._after // 2 if self._n_right >= self._n_wrong else self._after * 2
            self._after = max(LEAST_TRY, min(MOST_TRY, after))
            self._n_right = self._n_wrong = 0
        self._n_without += 1
        return self._n_without >= self._after

    def begin(self) -> None:
        """Note that there are drafts on trial."""
        self._n_without = 0
        self._trying = True

    def end(self) -> None:
        """Note that there are drafts, which are expected to pay."""
        self._n_without = 0
        self._trying = False
        self._after = FIRST_TRY

    def note(self, *, right: bool) -> None:
        """Note how a guess turned out."""
        if self._trying:
            self._n_right += right
            self._n_wrong += not right
