"""Whose sequence is whose: the engine loop's view of the connected gateways."""

from stoker.core.errors import StokerError
from stoker.core.stats import EngineStats
from stoker.core.tokens import TokensEvent
from stoker.worker import conversion, frames
from stoker.worker.peer import Peer

STATS_INTERVAL_S = 0.1
"""A gateway without tokens of its own hears of a busy engine this often."""


class Session:
    """One gateway: its sequences, and what it has not been told yet."""

    __slots__ = ("admitted", "ids", "number", "peer", "refused", "tokens", "told", "told_at")

    def __init__(self, number: int, peer: Peer) -> None:
        self.number = number
        self.peer = peer
        self.ids: set[str] = set()
        self.admitted: list[int] = []
        self.refused: list[frames.Refusal] = []
        self.tokens: list[frames.Tokens] = []
        self.told: EngineStats | None = None
        self.told_at = 0.0

    @property
    def has_news(self) -> bool:
        """Whether there is something of its own to tell."""
        return bool(self.tokens or self.admitted or self.refused)


class Sessions:
    """Gives every gateway's sequences ids of their own and sends each what is its.

    Args:
        incarnation: Number of this engine process.
        hello: What a gateway is told first.
    """

    def __init__(self, incarnation: int, hello: frames.Hello) -> None:
        self._incarnation = incarnation
        self._hello = frames.encode(hello)
        self._pulse = frames.encode(frames.Pulse(incarnation))
        self._sessions: dict[Peer, Session] = {}
        self._greeted: tuple[Peer, ...] = ()
        self._owners: dict[str, tuple[Session, int]] = {}
        self._n_sessions = 0

    def open(self, peer: Peer) -> None:
        """Greet a gateway."""
        self._n_sessions += 1
        self._sessions[peer] = Session(self._n_sessions, peer)
        peer.send(self._hello)
        self._greeted = tuple(self._sessions)

    def close(self, peer: Peer) -> set[str]:
        """Forget a gateway and return the ids of its sequences, which nobody waits for any more."""
        ids = self._sessions.pop(peer).ids
        self._greeted = tuple(self._sessions)
        for request_id in ids:
            del self._owners[request_id]
        return ids

    def request_id(self, peer: Peer, sequence: int) -> str:
        """Return the id of a gateway's sequence: unique among all gateways' sequences."""
        return f"{self._sessions[peer].number}.{sequence}"

    def admit(self, peer: Peer, sequence: int) -> None:
        """Note that a sequence has been taken into the queue."""
        session = self._sessions[peer]
        request_id = self.request_id(peer, sequence)
        session.ids.add(request_id)
        session.admitted.append(sequence)
        self._owners[request_id] = (session, sequence)

    def refuse(self, peer: Peer, sequence: int, error: StokerError) -> None:
        """Note that a sequence has not been taken."""
        refusal = frames.Refusal(sequence, conversion.failure(error))
        self._sessions[peer].refused.append(refusal)

    def fail(self, request_id: str, error: StokerError) -> None:
        """Note that an admitted sequence has ended with an error; nothing more is told of it."""
        session, sequence = self._owners[request_id]
        session.refused.append(frames.Refusal(sequence, conversion.failure(error)))
        self.forget(request_id)

    def forget(self, request_id: str) -> None:
        """Drop a sequence, if there is one of this id; nothing more is told of it."""
        owner = self._owners.pop(request_id, None)
        if owner is not None:
            owner[0].ids.remove(request_id)

    def add(self, events: list[TokensEvent]) -> None:
        """Note the tokens of a step."""
        for event in events:
            session, sequence = self._owners[event.request_id]
            session.tokens.append(conversion.tokens_frame(event, sequence=sequence))
            if event.finish_reason is not None:
                self.forget(event.request_id)

    def beat(self) -> None:
        """Tell every gateway that the engine call goes on; for any thread."""
        for peer in self._greeted:
            peer.send(self._pulse)

    def publish(self, stats: EngineStats, now: float, *, idle: bool) -> None:
        """Send one frame to each gateway with news of its own, and to the others now and then.

        Args:
            stats: Counters and gauges as of now.
            now: The time, in seconds.
            idle: No step follows, so every gateway hears the final state.
        """
        for session in self._sessions.values():
            overdue = idle or now - session.told_at >= STATS_INTERVAL_S
            if session.has_news or (overdue and session.told != stats):
                self._tell(session, stats, now)

    def _tell(self, session: Session, stats: EngineStats, now: float) -> None:
        step = frames.Step(
            self._incarnation,
            tuple(session.admitted),
            tuple(session.refused),
            tuple(session.tokens),
            conversion.stats_frame(stats),
        )
        session.admitted.clear()
        session.refused.clear()
        session.tokens.clear()
        session.told = stats
        session.told_at = now
        session.peer.send(frames.encode(step))
