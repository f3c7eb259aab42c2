"""Settings of one model among several: a table of the settings file, or part of a request to load one."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field, StringConstraints, field_validator

ModelAlias = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}$")]
"""A name that clients can send; it is part of a URL and a metric's label."""


ModelName = Annotated[str, StringConstraints(min_length=1, max_length=4096, strip_whitespace=True)]
"""A name from the catalogue, a reference, or a path."""

Speculation = Literal["off", "prompt-lookup", "draft-model", "skip-layers"]

SkipLayers = Annotated[str, StringConstraints(pattern=r"^[a-z0-9, -]{1,1024}$")]
"""Layers; the engine knows which there are."""

Precise = Annotated[str, StringConstraints(pattern=r"^[a-z0-9:, ]{1,1024}$")]
"""Names of matrices; the engine knows which there are."""


class ModelSettings(BaseModel):
    """What may differ from model to model; what is unset is as in the settings for all.

    A number has the bounds of the setting of its name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    alias: ModelAlias | None = Field(
        default=None, description="Name that clients use for the model; unset, it is the model's own."
    )
    chat_template: Path | None = Field(
        default=None, description="Only in the settings file: a request must not name files."
    )
    batching: Literal["latency", "size", "time"] | None = None
    itl_target_s: float | None = Field(default=None, ge=0.001, le=60)
    engine: Literal["auto", "native", "llamacpp"] | None = None
    context_length: int | None = Field(default=None, ge=1, le=2**24)
    kv_memory: ByteSize | None = Field(default=None, ge=1)
    max_running: int | None = Field(default=None, ge=1, le=1024)
    max_waiting: int | None = Field(default=None, ge=0, le=65536)
    pooling: Literal["mean", "last"] | None = None
    precise: Precise | None = None
    speculation: Speculation | None = None
    draft_model: ModelName | None = Field(
        default=None, description="Only in the settings file: a request must not have a second model pulled."
    )
    skip_layers: SkipLayers | None = None
    quantize: Literal["none", "q8", "q4"] | None = None
    sleep_after_s: float | None = Field(default=None, ge=0, le=31_536_000)
    threads: int | None = Field(default=None, ge=1, le=1024)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: object) -> object:
        if isinstance(value, bool):
            raise ValueError("must not be true or false")  # noqa: TRY004 - what pydantic turns into its own
        return value

    def given(self) -> dict[str, object]:
        """Return what is set."""
        return {name: value for name, value in self if value is not None}
