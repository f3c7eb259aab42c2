"""How a step is filled."""

from dataclasses import dataclass
from typing import Literal, get_args

from stoker.core.errors import SettingsError

BatchingMode = Literal["latency", "size", "time"]
"""What the number of tokens in a step follows; see `BatchingPolicy`."""

MAX_BATCH_WAIT_S = 1.0
MAX_PREFILL_SHARE = 0.9
MAX_PROMPT_PATIENCE_S = 1.0

MAX_DEFERRAL_S = 10.0
"""A long prompt is overtaken by nobody who comes this much later, or more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchingPolicy:
    """How the scheduler trades latency for throughput; may be replaced between any two steps.

    Attributes:
        mode: ``latency``: chunks of prompts ride beside the streams as long as the step is predicted to
            hold `itl_target_s`. ``size``: every step is filled up to its most tokens. ``time``: likewise,
            and who arrives waits up to `batch_wait_s` for a full step.
        itl_target_s: Time from one token of a stream to its next one that 95 % keep; steps beyond it are
            counted in every mode.
        prefill_share: Mode ``latency``: prompts have at least this share of a step's predicted time,
            whatever the target.
        batch_wait_s: Mode ``time``: longest wait for a full step.
        prompt_patience_s: What each token of a prompt that is not cached adds to the time of its arrival
            in the order of service, `MAX_DEFERRAL_S` at most. With 0 it is the order of arrival.

    Raises:
        SettingsError: A value is out of range.
    """

    mode: BatchingMode = "size"
    itl_target_s: float = 0.07
    prefill_share: float = 0.25
    batch_wait_s: float = 0.0
    prompt_patience_s: float = 0.0

    def __post_init__(self) -> None:
        if self.mode not in get_args(BatchingMode):
            raise SettingsError(
                f"batching is {self.mode!r}; set it to one of {', '.join(get_args(BatchingMode))}"
            )
        if not 0 < self.itl_target_s < float("inf"):
            raise SettingsError(f"itl_target_s is {self.itl_target_s}; set it to seconds above 0")
        for name, most in (
            ("prefill_share", MAX_PREFILL_SHARE),
            ("batch_wait_s", MAX_BATCH_WAIT_S),
            ("prompt_patience_s", MAX_PROMPT_PATIENCE_S),
        ):
            if not 0 <= getattr(self, name) <= most:
                raise SettingsError(f"{name} is {getattr(self, name)}; set it to 0 up to {most}")
