"""When an engine that died is started again (pure: time comes in as an argument)."""

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """How restarts are paced.

    Attributes:
        first_delay_s: Pause before the first restart; doubles with every further death of an engine that
            did not settle.
        max_delay_s: Longest pause, and the pause in a crash loop.
        crash_loop_deaths: So many deaths within `window_s` are a crash loop.
        settled_s: After the death of an engine that lived this long since it was ready, the pause is the
            first again: a next one is likely to serve, and its clients wait.
        window_s: See `crash_loop_deaths`; an engine that lived this long ends a crash loop.
    """

    first_delay_s: float = 0.1
    max_delay_s: float = 30.0
    crash_loop_deaths: int = 5
    settled_s: float = 10.0
    window_s: float = 60.0


class RestartHistory:
    """Counts deaths and says how long to wait after each.

    A crash loop lasts until an engine has lived for the whole window: slow attempts alone, with
    fewer deaths a minute, do not end it.
    """

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._deaths: deque[float] = deque(maxlen=policy.crash_loop_deaths)
        self._unsettled = 0  # deaths since an engine last settled, its own among them
        self.crash_loop = False

    def record_death(self, now: float, *, lived_s: float) -> float:
        """Note a death and return the pause before the next start, in seconds.

        Args:
            now: The time, in seconds.
            lived_s: How long the engine had been ready; 0 if it never was.
        """
        policy = self._policy
        if lived_s >= policy.window_s:
            self._deaths.clear()
            self.crash_loop = False
        self._deaths.append(now)
        self._unsettled = 1 if lived_s >= policy.settled_s else self._unsettled + 1
        full = len(self._deaths) == policy.crash_loop_deaths
        if full and now - self._deaths[0] <= policy.window_s:
            self.crash_loop = True
        if self.crash_loop:
            return policy.max_delay_s
        doublings = min(self._unsettled - 1, 32)
        return min(policy.first_delay_s * 2.0**doublings, policy.max_delay_s)
