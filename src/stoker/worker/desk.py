"""What comes to an engine from outside, on its way to the scheduler."""

import logging
from dataclasses import dataclass, field, replace

from stoker.core.abilities import Ability
from stoker.core.errors import CapacityError, RequestError, SettingsError, StokerError
from stoker.core.grammar import Constraint
from stoker.core.protocols import EngineInfo
from stoker.core.refusals import refuse_lacking
from stoker.core.stats import EngineStats
from stoker.core.tokens import TokenRequest
from stoker.scheduler import Scheduler
from stoker.worker import conversion
from stoker.worker.adapters import AdapterShelf, WaitingSubmission, with_time_left
from stoker.worker.checks import check_request
from stoker.worker.frames import Abort, Submit, Tune
from stoker.worker.grammars import Grammars
from stoker.worker.mailbox import Letter, PeerChange
from stoker.worker.peer import Peer
from stoker.worker.sessions import Sessions

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Desk:
    """Does what a letter says; a sequence waits here for its grammar, then for its adapter.

    Belongs to the engine loop.

    Attributes:
        scheduler: Where sequences go in the end.
        sessions: Whose they are.
        info: What the engine can do.
        grammars: Compiles grammars.
        shelf: Brings adapters in and out; None where there are none.
        waiting: Whose are the sequences that wait for their grammars, by their ids.
    """

    scheduler: Scheduler
    sessions: Sessions
    info: EngineInfo
    grammars: Grammars
    shelf: AdapterShelf | None
    waiting: dict[str, tuple[Peer, int]] = field(default_factory=dict)

    @property
    def wake_at(self) -> float | None:
        """When to look again though nothing has happened; None for never."""
        times = (
            self.scheduler.wake_at,
            self.grammars.wake_at,
            None if self.shelf is None else self.shelf.wake_at,
        )
        return min((each for each in times if each is not None), default=None)

    def settle(self, now: float) -> bool:
        """Go on with the sequences whose adapters have come; return whether there were any."""
        if self.shelf is None:
            return False
        settled = self.shelf.settle(now)
        for each in settled:
            peer, sequence = each.submission.peer, each.submission.sequence
            if each.error is not None:
                self.sessions.refuse(peer, sequence, each.error)
            else:
                self._take(peer, sequence, each.submission.at(now), now, each.submission.constraint)
        return bool(settled)

    def open(self, letter: Letter, now: float) -> None:
        """Do what a letter says."""
        match letter.content:
            case Submit() as submit:
                self._submit(letter.peer, submit, now)
            case Abort(sequence=sequence):
                self._abort(self.sessions.request_id(letter.peer, sequence))
            case Tune() as tune:
                self._tune(tune)
            case PeerChange.CONNECTED:
                self.sessions.open(letter.peer)
            case PeerChange.DISCONNECTED:
                if self.shelf is not None:
                    self.shelf.forget_peer(letter.peer)
                for request_id in self.sessions.close(letter.peer):
                    self.scheduler.abort(request_id)
                for request_id in [one for one, (peer, _) in self.waiting.items() if peer is letter.peer]:
                    self._abort(request_id)

    def _submit(self, peer: Peer, submit: Submit, now: float) -> None:
        request_id = self.sessions.request_id(peer, submit.sequence)
        try:
            request = conversion.token_request(submit, request_id=request_id)
            check_request(request, vocab_size=self.info.vocab_size)
            refuse_lacking(request, self.info)
            if request.grammar is not None:
                self.grammars.prepare(request, now)
                self.waiting[request_id] = (peer, submit.sequence)
                return
        except (RequestError, CapacityError) as error:
            self.sessions.refuse(peer, submit.sequence, error)
        else:
            self._enter(WaitingSubmission(peer, submit.sequence, request, now), now)

    def _enter(self, submission: WaitingSubmission, now: float) -> None:
        """Queue a sequence, once its adapter is in memory."""
        peer, sequence, request = submission.peer, submission.sequence, submission.request
        if self.shelf is None or request.adapter is None or self.shelf.use(request.adapter):
            self._take(peer, sequence, request, now, submission.constraint)
            return
        try:
            self.shelf.wait(submission)
        except CapacityError as error:
            self.sessions.refuse(peer, sequence, error)

    def _take(
        self, peer: Peer, sequence: int, request: TokenRequest, now: float, constraint: Constraint | None
    ) -> None:
        try:
            self.scheduler.submit(self._apart(request), now, constraint)
        except (RequestError, CapacityError) as error:
            self.sessions.refuse(peer, sequence, error)
        else:
            self.sessions.admit(peer, sequence)

    def begin_prepared(self, now: float) -> bool:
        """Queue those whose grammars are ready, or refuse them; return whether there were any."""
        ready = self.grammars.take_ready(now)
        for each in ready:
            peer, sequence = self.waiting.pop(each.request.request_id)
            try:
                constraint = each.constraint
            except StokerError as error:
                self.sessions.refuse(peer, sequence, error)
            else:
                request = with_time_left(each.request, now - each.since)
                self._enter(WaitingSubmission(peer, sequence, request, now, constraint), now)
        return bool(ready)

    def stats(self) -> EngineStats:
        """Return counters and gauges as of now."""
        stats = self.grammars.count(self.scheduler.stats())
        return stats if self.shelf is None else self.shelf.counted(stats)

    def _tune(self, tune: Tune) -> None:
        try:
            self.scheduler.retune(conversion.batching_policy(tune))
        except SettingsError as error:  # a gateway checks its settings; this one is not of ours
            _log.warning("steps are filled as before: %s", error)

    def _apart(self, request: TokenRequest) -> TokenRequest:
        """Let a sequence have a salt of its own where no blocks can be shared."""
        if Ability.SHARED_BLOCKS in self.info.lacks:
            return replace(request, cache_salt=request.request_id)
        return request

    def _abort(self, request_id: str) -> None:
        if self.grammars.forget(request_id):
            del self.waiting[request_id]
        if self.shelf is not None:
            self.shelf.forget(request_id)
        if self.scheduler.abort(request_id):
            self.sessions.forget(request_id)
