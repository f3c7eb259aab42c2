"""Which models are awake, who is put to sleep and who is woken (pure: time comes in as an argument)."""

from dataclasses import dataclass
from enum import Enum


class Rest(Enum):
    """Where a model is between asleep and awake; the value completes "the model …"."""

    ASLEEP = "is asleep"
    WAKING = "is waking up"
    AWAKE = "is awake"
    FALLING = "is falling asleep"


class SleepReason(Enum):
    """Why a model is put to sleep; the value is a metric's label."""

    IDLE = "idle"
    """Nobody used it for `sleep_after_s`."""

    MEMORY = "memory"
    """Another one needs its memory."""

    ASKED = "asked"
    """Somebody asked for it."""


@dataclass(frozen=True, slots=True)
class Change:
    """Something to be begun now; the book has noted that it is.

    Attributes:
        name: Whose.
        reason: Why it is put to sleep; None where it is woken.
    """

    name: str
    reason: SleepReason | None = None


@dataclass(slots=True)
class _Model:
    need_bytes: int
    sleep_after_s: float
    idle_since_s: float
    rest: Rest = Rest.ASLEEP
    n_uses: int = 0
    n_waiting: int = 0

    @property
    def idle(self) -> bool:
        return self.rest is Rest.AWAKE and self.n_uses == 0


class SleepBook:
    """The books of sleep: states, users, those who wait, and the memory that awake models are taken to need.

    A model that is not asleep counts with all of its need, from when it begins to wake until its memory is
    given back. Models that somebody waits for are woken in the order in which they were first waited for; one
    that does not fit holds up those behind it, so that none waits for ever. A model that is used is never put
    to sleep.

    Args:
        memory_budget_bytes: What all models that are not asleep may need together; None for no bound.

    Attributes:
        memory_budget_bytes: As given.
    """

    def __init__(self, memory_budget_bytes: int | None = None) -> None:
        self.memory_budget_bytes = memory_budget_bytes
        self._models: dict[str, _Model] = {}
        self._queue: list[str] = []  # those to be woken, who waited first before others

    def add(self, name: str, *, need_bytes: int, sleep_after_s: float, now_s: float) -> None:
        """Take in a model, asleep.

        Args:
            name: Its name; there is none like it.
            need_bytes: What it needs while it is not asleep.
            sleep_after_s: It is put to sleep when nobody has used it for so long; 0 for never.
            now_s: The time, in seconds.
        """
        self._models[name] = _Model(need_bytes, sleep_after_s, now_s)

    def remove(self, name: str) -> None:
        """Forget a model, whatever it is doing: its memory is given back."""
        self._models.pop(name, None)
        self._leave_queue(name)

    def tune(self, name: str, sleep_after_s: float) -> None:
        """Change after how long a model is put to sleep."""
        self._models[name].sleep_after_s = sleep_after_s

    def rest(self, name: str) -> Rest:
        """Return what a model is doing."""
        return self._models[name].rest

    def need_bytes(self, name: str) -> int:
        """Return what a model needs while it is not asleep."""
        return self._models[name].need_bytes

    @property
    def held_bytes(self) -> int:
        """What all models that are not asleep need."""
        return sum(each.need_bytes for each in self._models.values() if each.rest is not Rest.ASLEEP)

    def enter(self, name: str) -> bool:
        """Begin to use a model if it is awake; return whether it is."""
        model = self._models[name]
        if model.rest is not Rest.AWAKE:
            return False
        model.n_uses += 1
        return True

    def leave(self, name: str, now_s: float) -> None:
        """Use a model no more; exactly once for each `enter` that was true."""
        model = self._models.get(name)
        if model is not None and model.n_uses:  # else it was removed, and perhaps added again, meanwhile
            model.n_uses -= 1
            model.idle_since_s = now_s

    def wait(self, name: str) -> None:
        """Wait for a model that is not awake; one that is asleep, or falls asleep, is to be woken."""
        model = self._models[name]
        model.n_waiting += 1
        if model.rest in {Rest.ASLEEP, Rest.FALLING} and name not in self._queue:
            self._queue.append(name)

    def wait_no_more(self, name: str) -> None:
        """End one `wait`, however; a model that nobody waits for is not woken if it has not begun."""
        model = self._models.get(name)
        if model is not None and model.n_waiting:
            model.n_waiting -= 1
            if not model.n_waiting:
                self._leave_queue(name)

    def changes(self, now_s: float) -> list[Change]:
        """Return what is to be begun now, and take it as begun."""
        begun = [
            self._fall(name, SleepReason.IDLE)
            for name, model in self._models.items()
            if model.idle and model.sleep_after_s and now_s >= model.idle_since_s + model.sleep_after_s
        ]
        while self._queue:
            name = self._queue[0]
            model = self._models[name]
            short_bytes = self._short_bytes(model)
            if model.rest is not Rest.ASLEEP or short_bytes > 0:
                begun += self._make_room(short_bytes)
                break
            self._queue.pop(0)
            model.rest = Rest.WAKING
            begun.append(Change(name))
        return begun

    def asked_to_sleep(self, name: str) -> Change | None:
        """Put a model to sleep, if it is idle; None if it is not."""
        return self._fall(name, SleepReason.ASKED) if self._models[name].idle else None

    def fell_asleep(self, name: str) -> None:
        """Note that a model's memory is given back."""
        self._models[name].rest = Rest.ASLEEP

    def woke(self, name: str, now_s: float) -> None:
        """Note that a model is awake; those who wait for it may `enter`."""
        model = self._models[name]
        model.rest, model.idle_since_s = Rest.AWAKE, now_s

    def failed_to_wake(self, name: str) -> None:
        """Note that a model could not be woken; it is tried again when somebody waits for it anew."""
        self._models[name].rest = Rest.ASLEEP

    def next_due_s(self) -> float | None:
        """Return when the next idle model is to be put to sleep, or None if none is."""
        return min(
            (
                model.idle_since_s + model.sleep_after_s
                for model in self._models.values()
                if model.idle and model.sleep_after_s
            ),
            default=None,
        )

    def check(self) -> None:
        """Check that the books agree with themselves.

        Raises:
            AssertionError: They do not.
        """
        if len(set(self._queue)) != len(self._queue):
            raise AssertionError(f"somebody is to be woken twice: {self._queue}")
        for name, model in self._models.items():
            if min(model.n_uses, model.n_waiting) < 0:
                raise AssertionError(f"{name} has {model.n_uses} users and {model.n_waiting} that wait")
            if model.n_uses and model.rest is not Rest.AWAKE:
                raise AssertionError(f"{name} is used and {model.rest.value}")
            queued = name in self._queue
            if queued and not (model.n_waiting and model.rest in {Rest.ASLEEP, Rest.FALLING}):
                raise AssertionError(f"{name} is to be woken for nobody")
            if model.rest is Rest.FALLING and model.n_waiting and not queued:
                raise AssertionError(f"{name} is waited for and will not be woken")

    def _short_bytes(self, model: _Model) -> int:
        """Return what is missing to wake a model, memory that is being given back not counted as free."""
        if self.memory_budget_bytes is None:
            return 0
        held_bytes = self.held_bytes - (0 if model.rest is Rest.ASLEEP else model.need_bytes)
        return held_bytes + model.need_bytes - self.memory_budget_bytes

    def _make_room(self, short_bytes: int) -> list[Change]:
        """Put the idle models used least recently to sleep: as many as are needed, or none if in vain."""
        models = self._models
        head = self._queue[0]
        coming = sum(
            each.need_bytes for name, each in models.items() if each.rest is Rest.FALLING and name != head
        )
        short_bytes -= coming
        idle = sorted(
            (name for name, each in models.items() if each.idle and each.need_bytes),
            key=lambda name: models[name].idle_since_s,
        )
        if short_bytes > sum(models[name].need_bytes for name in idle):
            return []
        begun = []
        for name in idle:
            if short_bytes <= 0:
                break
            short_bytes -= models[name].need_bytes
            begun.append(self._fall(name, SleepReason.MEMORY))
        return begun

    def _fall(self, name: str, reason: SleepReason) -> Change:
        self._models[name].rest = Rest.FALLING
        return Change(name, reason)

    def _leave_queue(self, name: str) -> None:
        if name in self._queue:
            self._queue.remove(name)
