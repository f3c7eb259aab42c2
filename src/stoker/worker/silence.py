"""For how long an engine has owed an answer (pure: time comes in as an argument)."""


class Silence:
    """Measures the time since an engine that has something to say was last heard.

    An engine that has been asked nothing owes nothing. Whoever is asked owes an answer until the next
    word, also if by then nobody wants it any more: a hung engine stays noticed when its clients leave.
    """

    def __init__(self) -> None:
        self._since: float | None = None

    def asked(self, now: float) -> None:
        """Note that the engine was given a sequence."""
        if self._since is None:
            self._since = now

    def heard(self, now: float, *, owes_more: bool) -> None:
        """Note a word of the engine.

        Args:
            now: The time, in seconds.
            owes_more: Whether it still has sequences to finish.
        """
        self._since = now if owes_more else None

    def length_s(self, now: float) -> float:
        """Return the seconds for which an answer has been due; 0 if none is."""
        return 0.0 if self._since is None else now - self._since
