"""Carries out what the book of sleep decides: engines end and start, and those who wait are told."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field

from stoker.core.errors import ConflictError, NotReadyError, StokerError
from stoker.observe.metrics import Metrics
from stoker.observe.record import CURRENT_RECORD
from stoker.policy.sleep_book import Change, Rest, SleepBook, SleepReason
from stoker.policy.waking import Door

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bed:
    """What a model is put to sleep and woken with.

    Attributes:
        need_bytes: Memory that it needs while it is not asleep.
        sleep_after_s: It is put to sleep when nobody has used it for so long; 0 for never.
        wake: Brings it up; on failure nothing is left running.
        sleep: Ends its engine.
        changed: Called when what it is doing has changed.
    """

    need_bytes: int
    sleep_after_s: float
    wake: Callable[[], Awaitable[None]]
    sleep: Callable[[], Awaitable[None]]
    changed: Callable[[Rest], None]


@dataclass(frozen=True, slots=True)
class _ModelDoor:
    enter: Callable[[], AbstractAsyncContextManager[None]]
    is_open: Callable[[], bool]

    @property
    def open(self) -> bool:
        return self.is_open()

    def awake(self) -> AbstractAsyncContextManager[None]:
        return self.enter()


@dataclass(slots=True, eq=False)
class _Waiter:
    entered: asyncio.Future[None]
    timer: asyncio.Timeout | None = None  # it is off once waking has begun


@dataclass(slots=True, eq=False)
class _Sleeper:
    bed: Bed
    started: bool = False  # it has been awake
    waiters: deque[_Waiter] = field(default_factory=deque)
    task: asyncio.Task[None] | None = None


class Sleepers:
    """Puts models to sleep and wakes them, by the decisions of a `SleepBook`; belongs to the event loop.

    Args:
        metrics: Where sleeps and wakes are counted.
        wake_timeout_s: For so long a request waits for its model to be awake.
        memory_budget_bytes: What all models that are not asleep may need together; None for no bound.

    Attributes:
        wake_timeout_s: As given; may be changed at any time.
    """

    def __init__(self, metrics: Metrics, *, wake_timeout_s: float, memory_budget_bytes: int | None) -> None:
        self.wake_timeout_s = wake_timeout_s
        self._metrics = metrics
        self._book = SleepBook(memory_budget_bytes)
        self._sleepers: dict[str, _Sleeper] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, name: str, bed: Bed) -> None:
        """Take in a model, asleep."""
        self._book.add(name, need_bytes=bed.need_bytes, sleep_after_s=bed.sleep_after_s, now_s=_now())
        self._sleepers[name] = _Sleeper(bed)

    def tune(self, name: str, sleep_after_s: float) -> None:
        """Change after how long without users a model is put to sleep."""
        if name in self._sleepers:
            self._book.tune(name, sleep_after_s)
            self._act()

    async def remove(self, name: str) -> None:
        """Forget a model; if it is being woken or put to sleep, that is broken off first."""
        sleeper = self._sleepers.get(name)
        if sleeper is None:
            return
        while sleeper.task is not None and not sleeper.task.done():
            sleeper.task.cancel()
            await asyncio.wait((sleeper.task,))
        if self._sleepers.pop(name, None) is not None:
            self._book.remove(name)
            self._refuse(name, sleeper, NotReadyError(f"The model '{name}' was unloaded meanwhile."))
            self._act()

    async def close(self) -> None:
        """Break off whatever is being done, and forget all models."""
        await asyncio.gather(*(self.remove(name) for name in list(self._sleepers)))
        if self._timer is not None:
            self._timer.cancel()

    async def start(self, name: str) -> None:
        """Bring a model up for the first time: wait for room as a request does, from then on without limit.

        Raises:
            NotReadyError: There was no room for it in time.
            StokerError: It could not be brought up; the error is its own.
        """
        self._leave(name, await self._enter(name, timed_to_the_end=False))

    def door(self, name: str) -> Door:
        """Return where this model is entered."""
        return _ModelDoor(lambda: self._awake(name), lambda: self._is_awake(name))

    async def wake(self, name: str) -> None:
        """Wait until a model is awake; raises as `Door.awake` does."""
        async with self._awake(name):
            pass

    async def sleep(self, name: str) -> None:
        """Put an idle model to sleep and wait until it is; one that sleeps goes on.

        Raises:
            ConflictError: It is used, or is waking up.
        """
        if self._book.rest(name) not in {Rest.ASLEEP, Rest.FALLING}:
            change = self._book.asked_to_sleep(name)
            if change is None:
                doing = "is waking up" if self._book.rest(name) is Rest.WAKING else "answers requests"
                raise ConflictError(f"The model '{name}' {doing}; it can be put to sleep when it is idle.")
            self._begin(change)
        task = self._sleepers[name].task
        if self._book.rest(name) is Rest.FALLING and task is not None:
            await asyncio.wait((task,))

    def _is_awake(self, name: str) -> bool:
        return name in self._sleepers and self._book.rest(name) is Rest.AWAKE

    @asynccontextmanager
    async def _awake(self, name: str) -> AsyncGenerator[None]:
        try:
            sleeper = await self._enter(name, timed_to_the_end=True)
        except NotReadyError:
            raise
        except StokerError as error:
            raise NotReadyError(
                f"The model '{name}' sleeps and could not be woken: {error}. The next request tries again."
            ) from error
        except Exception as error:
            raise NotReadyError(
                f"The model '{name}' sleeps and could not be woken; the server's log says why. The next "
                "request tries again."
            ) from error
        try:
            yield
        finally:
            self._leave(name, sleeper)

    async def _enter(self, name: str, *, timed_to_the_end: bool) -> _Sleeper:
        sleeper = self._sleepers.get(name)
        if sleeper is None:
            raise NotReadyError(f"The model '{name}' was unloaded meanwhile.")
        if self._book.enter(name):
            return sleeper
        waiter = _Waiter(asyncio.get_running_loop().create_future())
        began_s = _now()
        self._book.wait(name)
        sleeper.waiters.append(waiter)
        try:
            async with asyncio.timeout(self.wake_timeout_s) as timer:
                waiter.timer = None if timed_to_the_end else timer
                self._act()
                await waiter.entered
        except TimeoutError as error:
            self._give_back(name, sleeper, waiter)
            raise NotReadyError(self._too_late(name)) from error
        except BaseException:
            self._give_back(name, sleeper, waiter)
            raise
        finally:
            with suppress(ValueError):  # it is there no more once it was told
                sleeper.waiters.remove(waiter)
                if self._sleepers.get(name) is sleeper:
                    self._book.wait_no_more(name)
                    self._act()
            if timed_to_the_end:  # a request's wait, not a model's first start
                self._note_wait(name, _now() - began_s)
        return sleeper

    def _note_wait(self, name: str, waited_s: float) -> None:
        self._metrics.model_waited_for(name, waited_s)
        record = CURRENT_RECORD.get()
        if record is not None:  # several prompts of a request wait together
            record.wake_s = max(waited_s, record.wake_s or 0.0)

    def _give_back(self, name: str, sleeper: _Sleeper, waiter: _Waiter) -> None:
        """Leave if the model was entered for one who did not stay."""
        entered = waiter.entered
        if entered.done() and not entered.cancelled() and entered.exception() is None:
            self._leave(name, sleeper)

    def _too_late(self, name: str) -> str:
        waited = f"The model '{name}' was not awake within {self.wake_timeout_s:g} s (wake_timeout_s)"
        budget_bytes = self._book.memory_budget_bytes
        if budget_bytes is None or name not in self._sleepers or self._book.rest(name) is Rest.WAKING:
            return f"{waited}. Try again later."
        return (
            f"{waited}: it needs {_mb(self._book.need_bytes(name))}, models that answer requests hold "
            f"{_mb(self._book.held_bytes)}, and memory_budget is {_mb(budget_bytes)}. Try again later, "
            "unload a model, or raise memory_budget."
        )

    def _leave(self, name: str, sleeper: _Sleeper) -> None:
        if self._sleepers.get(name) is sleeper:
            self._book.leave(name, _now())
            self._act()

    def _act(self) -> None:
        """Begin what the book says, and look again when it will say something new."""
        now_s = _now()
        for change in self._book.changes(now_s):
            self._begin(change)
        if self._timer is not None:
            self._timer.cancel()
        due_s = self._book.next_due_s()
        loop = asyncio.get_running_loop()
        self._timer = None if due_s is None else loop.call_at(max(due_s, now_s), self._act)

    def _begin(self, change: Change) -> None:
        sleeper = self._sleepers[change.name]
        reason = change.reason
        sleeper.bed.changed(self._book.rest(change.name))
        if reason is None:
            for waiter in sleeper.waiters:
                if waiter.timer is not None:
                    waiter.timer.reschedule(None)
            sleeper.task = asyncio.create_task(self._wake(change.name, sleeper), name=f"wake {change.name}")
        else:
            sleeper.task = asyncio.create_task(
                self._sleep(change.name, sleeper, reason), name=f"sleep {change.name}"
            )

    async def _wake(self, name: str, sleeper: _Sleeper) -> None:
        began_s = _now()
        try:
            await sleeper.bed.wake()
        except Exception as error:  # noqa: BLE001 - those who wait are told, and the log
            if sleeper.started:
                unforeseen = not isinstance(error, StokerError)
                _log.error("the model %s could not be woken: %s", name, error, exc_info=unforeseen)
                self._metrics.model_failed_to_wake(name)
            self._book.failed_to_wake(name)
            sleeper.bed.changed(Rest.ASLEEP)
            self._refuse(name, sleeper, error)
        else:
            if sleeper.started:
                took_s = _now() - began_s
                self._metrics.model_woke(name, took_s)
                _log.info("the model %s is awake after %.2f s", name, took_s)
            sleeper.started = True
            self._book.woke(name, _now())
            sleeper.bed.changed(Rest.AWAKE)
            self._admit(name, sleeper)
        self._act()

    async def _sleep(self, name: str, sleeper: _Sleeper, reason: SleepReason) -> None:
        try:
            await sleeper.bed.sleep()
        except Exception:  # noqa: BLE001 - whatever it is, the engine is not used any more
            _log.exception("the model %s did not fall asleep as it should", name)
        self._metrics.model_slept(name, reason.value)
        _log.info("the model %s sleeps (%s)", name, reason.value)
        self._book.fell_asleep(name)
        sleeper.bed.changed(Rest.ASLEEP)
        self._act()

    def _admit(self, name: str, sleeper: _Sleeper) -> None:
        """Let those in who wait, in the order of arrival."""
        while sleeper.waiters:
            waiter = sleeper.waiters.popleft()
            self._book.wait_no_more(name)
            if not waiter.entered.done() and self._book.enter(name):
                waiter.entered.set_result(None)

    def _refuse(self, name: str, sleeper: _Sleeper, error: Exception) -> None:
        while sleeper.waiters:
            waiter = sleeper.waiters.popleft()
            self._book.wait_no_more(name)
            if not waiter.entered.done():
                waiter.entered.set_exception(error)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.0f} MB"
