"""Grammars in the engine process: compiled beside the loop, and the masks of each step."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from threading import Condition, Thread

from stoker.core.errors import (
    EngineError,
    InvalidRequestError,
    QueueFullError,
    StokerError,
    UnsupportedFieldError,
)
from stoker.core.grammar import INVALID_GRAMMAR, Grammar
from stoker.core.stats import EngineStats
from stoker.core.step import LogitEdits, StepPlan
from stoker.core.tokens import TokenRequest
from stoker.grammar.compiler import GrammarCompiler
from stoker.grammar.limits import TOO_COMPLEX
from stoker.grammar.matcher import MaskWriter, TokenMatcher

MAX_PREPARED = 1024
"""Most sequences whose grammars wait to be compiled."""


@dataclass(slots=True, eq=False)
class Preparation:
    """A sequence whose grammar is being compiled.

    Attributes:
        request: The sequence; it has a grammar.
        since: When it came, on the loop's clock.
        began: When compiling it began, or None.
        outcome: What became of it, or None.
    """

    request: TokenRequest
    since: float
    began: float | None = None
    outcome: TokenMatcher | StokerError | None = None

    @property
    def constraint(self) -> TokenMatcher:
        """What holds it to its grammar.

        Raises:
            StokerError: There is no such thing.
        """
        if isinstance(self.outcome, TokenMatcher):
            return self.outcome
        raise self.outcome or EngineError("a grammar has no outcome; report this bug")


@dataclass(slots=True)
class Grammars:
    """Gives sequences their matchers, and matchers their masks; but for the compiling of the loop's thread.

    Compiling may take seconds, so a thread of its own does it while steps go on. It cannot be stopped: what
    takes longer than the limit is refused, and what waits behind it as long, too.

    Args:
        compiler: Compiles; None where no grammar can be honoured.
        timeout_s: Longest that compiling one may take.
        nudge: Called by the thread when one is ready.
    """

    compiler: GrammarCompiler | None
    timeout_s: float
    nudge: Callable[[], None]
    _pending: dict[str, Preparation] = field(default_factory=dict)
    _thread: "_CompileThread | None" = None
    _writer: MaskWriter | None = None
    _mask_seconds: float = 0.0

    def prepare(self, request: TokenRequest, now: float) -> None:
        """Begin to compile a sequence's grammar.

        Raises:
            UnsupportedFieldError: There is nothing to compile it with.
            InvalidRequestError: The id is in flight.
            QueueFullError: Too many wait for theirs.
        """
        if self.compiler is None:
            raise UnsupportedFieldError("this engine has no grammars", param=_grammar(request).field)
        if request.request_id in self._pending:
            raise InvalidRequestError(
                f"a request with the id {request.request_id!r} is in flight; use an id once"
            )
        if len(self._pending) >= MAX_PREPARED:
            raise QueueFullError("too many grammars wait to be compiled; try later", retry_after_s=1.0)
        if self._thread is None:
            self._thread = _CompileThread(self.compiler, self.nudge)
        preparation = self._pending[request.request_id] = Preparation(request, now)
        self._thread.submit(preparation)

    def forget(self, request_id: str) -> bool:
        """Drop a sequence whose grammar is being compiled; return whether there is such a one."""
        dropped = self._pending.pop(request_id, None)
        if dropped is not None and self._thread is not None:
            self._thread.drop([dropped])
        return dropped is not None

    def take_ready(self, now: float) -> list[Preparation]:
        """Take out those that have an outcome, or no time left, in the order in which they came."""
        if not self._pending:
            return []
        late = []
        for each in self._pending.values():
            # The thread may have an outcome at any moment, which nothing but an error may take the place of.
            if each.outcome is None and (overdue := self._overdue(each, now)) is not None:
                each.outcome = overdue
                late.append(each)
        if late and self._thread is not None:
            self._thread.drop(late)
        ready = [each for each in self._pending.values() if each.outcome is not None]
        for each in ready:
            del self._pending[each.request.request_id]
        return ready

    def _overdue(self, each: Preparation, now: float) -> StokerError | None:
        if now < self._due(each):
            return None
        if each.began is not None:
            grammar = _grammar(each.request)
            return InvalidRequestError(
                f"Invalid '{grammar.field}': compiling it takes longer than {self.timeout_s:g} s "
                "(grammar_timeout_s); make it smaller.",
                param=grammar.field,
                code=TOO_COMPLEX,
            )
        return QueueFullError("other grammars are being compiled; try again", retry_after_s=1.0)

    def _due(self, each: Preparation) -> float:
        return (each.since if each.began is None else each.began) + self.timeout_s

    @property
    def wake_at(self) -> float | None:
        """When `take_ready` is to be called again though nothing has happened; None for never."""
        return min(map(self._due, self._pending.values()), default=None)

    def write_masks(self, plan: StepPlan) -> list[tuple[str, StokerError]]:
        """Compute the masks of a plan's constrained rows.

        Returns:
            The sequences for which that is impossible, and why; any token is allowed them in this step, and
            their end must be told instead of it.
        """
        rows = [
            (row, matcher) for row, edits in plan.edits.items() if (matcher := _matcher(edits)) is not None
        ]
        if not rows or self.compiler is None:
            return []
        began = time.perf_counter()
        if self._writer is None:
            self._writer = self.compiler.mask_writer()
        lost = self._writer.write([matcher for _, matcher in rows])
        self._mask_seconds += time.perf_counter() - began
        return [(plan.request_ids[rows[index][0]], _lost(rows[index][1])) for index in lost]

    @property
    def mask_seconds(self) -> float:
        """Time that masks have taken."""
        return self._mask_seconds

    def count(self, stats: EngineStats) -> EngineStats:
        """Return the statistics with what grammars have taken."""
        if self._thread is None or self.compiler is None:
            return stats
        return replace(
            stats,
            grammars_compiled_total=self.compiler.n_compiled,
            grammar_compile_seconds_total=self._thread.seconds,
            grammar_mask_seconds_total=self._mask_seconds,
        )

    def close(self) -> None:
        """End the thread, unless it is in the middle of a grammar."""
        if self._thread is not None:
            self._thread.close()


class _CompileThread:
    """Compiles one grammar after the other.

    Attributes:
        seconds: Time that it took.
    """

    def __init__(self, compiler: GrammarCompiler, nudge: Callable[[], None]) -> None:
        self._compiler = compiler
        self._nudge = nudge
        self._changed = Condition()
        self._jobs: deque[Preparation] = deque()
        self._closed = False
        self.seconds = 0.0
        self._thread = Thread(target=self._run, name="grammars", daemon=True)
        self._thread.start()

    def submit(self, job: Preparation) -> None:
        """Queue a sequence; never blocks."""
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()

    def drop(self, jobs: Sequence[Preparation]) -> None:
        """Take out those that have not begun: nobody waits for them."""
        with self._changed:
            dropped = set(jobs)
            self._jobs = deque(job for job in self._jobs if job not in dropped)

    def close(self) -> None:
        """End with the grammar that is being compiled."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _run(self) -> None:
        while (job := self._next()) is not None:
            job.began = time.monotonic()
            outcome = self._outcome(job.request)
            self.seconds += time.monotonic() - job.began
            if job.outcome is None:
                job.outcome = outcome
            self._nudge()

    def _next(self) -> Preparation | None:
        with self._changed:
            while not (self._jobs or self._closed):
                self._changed.wait()
            return None if self._closed else self._jobs.popleft()

    def _outcome(self, request: TokenRequest) -> TokenMatcher | StokerError:
        generated = request.prompt[len(request.prompt) - request.n_generated :]
        try:
            return self._compiler.matcher(_grammar(request), generated)
        except StokerError as error:
            return error
        except BaseException as error:  # noqa: BLE001 - a panic is none of Exception; the thread must live on
            return InvalidRequestError(
                f"The grammar cannot be compiled: {error}",
                param=_grammar(request).field,
                code=INVALID_GRAMMAR,
            )


def _grammar(request: TokenRequest) -> Grammar:
    if request.grammar is None:
        raise InvalidRequestError("a request without a grammar needs no matcher; report this bug")
    return request.grammar


def _matcher(edits: LogitEdits) -> TokenMatcher | None:
    return edits.constraint if isinstance(edits.constraint, TokenMatcher) else None


def _lost(matcher: TokenMatcher) -> StokerError:
    why = matcher.fault or "nothing can follow what has been generated"
    return InvalidRequestError(
        f"The answer cannot be held to '{matcher.field}' any further: {why}. Make the grammar simpler.",
        param=matcher.field,
        code=TOO_COMPLEX,
    )
