"""How much a scheduler takes on."""

from dataclasses import dataclass

from stoker.core.errors import SettingsError


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerLimits:
    """Bounds of one scheduler.

    Attributes:
        context_length: Most tokens (prompt and output) of one sequence.
        max_running: Most sequences computed in one step.
        max_waiting: Most sequences queued while every running place is taken.
        max_waiting_tokens: Most tokens of the sequences queued; one that is alone may have more.
        max_step_tokens: Most tokens computed in one step; at least `max_running`, so that every
            running sequence can have one.
        max_pinned_blocks: Most KV blocks that sequences may hold after their end; whoever says so leaves
            enough for a whole context.
        max_restored_blocks: Most KV blocks restored in a step from the tiers below while others have
            tokens in it, and most that are copied to be written there.
        max_call_steps: Most decode steps in one engine call, for an engine that can take several.
        max_call_s: Longest that a call of several steps is meant to take, in seconds.

    Raises:
        SettingsError: A limit is out of range, or two contradict each other.
    """

    context_length: int
    max_running: int = 64
    max_waiting: int = 256
    max_waiting_tokens: int = 2_000_000
    max_step_tokens: int = 512
    max_pinned_blocks: int = 0
    max_restored_blocks: int = 32
    max_call_steps: int = 1
    max_call_s: float = 0.016

    def __post_init__(self) -> None:
        for name, least in (
            ("context_length", 1),
            ("max_running", 1),
            ("max_waiting", 0),
            ("max_waiting_tokens", 0),
            ("max_pinned_blocks", 0),
            ("max_restored_blocks", 1),
            ("max_call_steps", 1),
        ):
            if getattr(self, name) < least:
                raise SettingsError(
                    f"{name} is {getattr(self, name)}; set it to {least} or more",
                )
        if self.max_step_tokens < self.max_running:
            raise SettingsError(
                f"max_step_tokens is {self.max_step_tokens}, less than max_running ({self.max_running}), "
                "so a step would not have a token for each running sequence; "
                "raise max_step_tokens or lower max_running"
            )
