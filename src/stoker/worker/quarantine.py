"""Which request is to blame when engines die, and who may run meanwhile (pure: time is an argument).

An engine that dies does not say of what. A request that makes engines die does so again at the same
position, so suspicion narrows with every death:

* Whatever the dead engine had is suspect, until a next engine has made more tokens of it than the dead one
  can have made untold: those of one call.
* Suspects run together once more, since most deaths are nobody's fault. Those that an engine dies
  under again stand in line: the first of them runs, and until the line is gone nobody new joins it.
* A death counts as a strike against the one request that it can be blamed on: the only one that the
  engine had, or the only suspect. Who has had `STRIKES`, the last of them alone, is condemned. Its
  like is refused for `REMEMBERED_S`.

So a killer among any number of others is found with the fourth death at the latest, one by itself
with the second, and a request is never condemned for a death that another could have caused.
"""

from dataclasses import dataclass, replace
from hashlib import blake2b

from stoker.core.errors import RequestQuarantinedError
from stoker.core.tokens import TokenRequest

STRIKES = 2
"""So many deaths that only one request can have caused condemn it."""

REMEMBERED = 1024
"""Most condemned requests that are remembered; the oldest are forgotten first."""

REMEMBERED_S = 3600.0
"""For how long a condemned request is refused."""


@dataclass(slots=True, eq=False)
class Case:
    """One request in flight, as the quarantine sees it; made by `Quarantine.open`.

    Attributes:
        request: As it was first submitted.
        engine: Number of the engine that has it; None while none has.
        suspect: An engine died under it, and none has got further with it since.
        strikes: Deaths since an engine last got further that only it can have caused.
        guilty: It is condemned.
    """

    request: TokenRequest
    engine: int | None = None
    suspect: bool = False
    strikes: int = 0
    guilty: bool = False


class Quarantine:
    """Keeps the case of every request in flight, and the memory of those condemned.

    Attributes:
        n_condemned: Requests condemned so far.
    """

    def __init__(self) -> None:
        self._cases: dict[Case, None] = {}  # used as ordered sets, here and below
        self._line: dict[Case, None] = {}
        self._condemned: dict[bytes, float] = {}  # digest to when it is forgotten; oldest first
        self.n_condemned = 0

    def open(self, request: TokenRequest, now: float) -> Case:
        """Return the case of a new request; it must be given to `close` in the end.

        Raises:
            RequestQuarantinedError: Its like was condemned not long ago.
        """
        self._forget(now)
        if self._condemned and digest(request) in self._condemned:
            raise RequestQuarantinedError(
                "engines died of this very request not long ago, so it is not tried again for a while;"
                " change it and report this"
            )
        case = Case(request)
        self._cases[case] = None
        return case

    def close(self, case: Case) -> bool:
        """Drop a case, since its request has ended, and return whether this lets others run."""
        self._cases.pop(case, None)
        return self._leave_line(case)

    def may_run(self, case: Case) -> bool:
        """Whether the request may be submitted now."""
        return next(iter(self._line), case) is case

    def submitted(self, case: Case, engine: int) -> None:
        """Note that an engine has the request from now on."""
        case.engine = engine

    def withdrawn(self, case: Case) -> None:
        """Note that the engine did not take the request."""
        case.engine = None

    def progressed(self, case: Case) -> bool:
        """Note that an engine got further than those before it, and return whether this lets others run.

        Tokens that are read after their engine is known to be dead take nobody out of the number of
        those that it had.
        """
        if not case.suspect:
            return False
        case.suspect = case.engine is None
        case.strikes = 0
        return self._leave_line(case)

    def died(self, engine: int, now: float) -> None:
        """Note that an engine died; only the first call for an engine has an effect.

        Args:
            engine: Its number.
            now: The time, in seconds.
        """
        held = [case for case in self._cases if case.engine == engine]
        again = [case for case in held if case.suspect]
        if len(held) == 1 or len(again) == 1:
            (blamed,) = again or held
            blamed.strikes += 1
            if len(held) == 1 and blamed.strikes >= STRIKES:
                self._condemn(blamed, now)
            again = [blamed]
        for case in held:
            case.engine = None
            case.suspect = True
        self._line |= dict.fromkeys(case for case in again if not case.guilty)

    def check(self) -> None:
        """Check the invariants.

        Raises:
            AssertionError: One does not hold.
        """
        for case in self._line:
            if case not in self._cases or not case.suspect or case.guilty:
                raise AssertionError(f"{case} stands in line and is not an uncondemned suspect in flight")
        if any(case.engine is not None for case in list(self._line)[1:]):
            raise AssertionError("others in line run beside the first")
        if len(self._condemned) > REMEMBERED:
            raise AssertionError(f"{len(self._condemned)} condemned requests are remembered")

    def _leave_line(self, case: Case) -> bool:
        stood = case in self._line
        self._line.pop(case, None)
        return stood

    def _condemn(self, case: Case, now: float) -> None:
        case.guilty = True
        self._leave_line(case)
        self.n_condemned += 1
        key = digest(case.request)
        self._condemned.pop(key, None)
        self._condemned[key] = now + REMEMBERED_S
        if len(self._condemned) > REMEMBERED:
            del self._condemned[next(iter(self._condemned))]

    def _forget(self, now: float) -> None:
        while self._condemned:
            oldest = next(iter(self._condemned))
            if self._condemned[oldest] > now:
                return
            del self._condemned[oldest]


def digest(request: TokenRequest) -> bytes:
    """Return what names everything an engine computes a request from, but for its random numbers.

    A request without a seed draws another one each time, and is the same request still.
    """
    sampling = replace(request.sampling, seed=0, choice=0)
    named = (
        request.prompt,
        request.max_tokens,
        request.min_tokens,
        sorted(request.stop_token_ids),
        sampling,
        request.prompt_logprobs,
        request.candidates,
        request.pooling,
        request.grammar,
        request.adapter and request.adapter.digest,
    )
    return blake2b(repr(named).encode(), digest_size=16).digest()
