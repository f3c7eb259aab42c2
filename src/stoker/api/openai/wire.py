"""The honoured fields of OpenAI's requests as pydantic types.

The field tables have been applied before: what arrives here is honoured and not null.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from stoker.core.sampling import MAX_LOGPROBS, MAX_TOP_K

DEFAULT_COMPLETION_TOKENS = 16
MAX_STOPS = 16
MAX_STOP_CHARS = 512
MAX_MODEL_CHARS = 256

_MIN_INT64 = -(2**63)
_MAX_INT64 = 2**63 - 1


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


PositiveInt = Annotated[int, Field(ge=1)]
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
Stops = Annotated[list[Stop], Field(max_length=MAX_STOPS), BeforeValidator(_one_or_many)]


class Wire(BaseModel):
    """Base of the wire types: exact JSON types, nothing unknown, nothing infinite."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class StreamOptions(Wire):
    """``stream_options``."""

    include_usage: bool = False


class GenerationBody(Wire):
    """What both requests share; the names are OpenAI's."""

    model: Annotated[str, Field(min_length=1, max_length=MAX_MODEL_CHARS)]
    max_tokens: PositiveInt | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0, le=MAX_TOP_K)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    seed: Annotated[int, Field(ge=_MIN_INT64, le=_MAX_INT64)] | None = None
    stop: Stops = []
    n: PositiveInt = 1
    stream: bool = False
    stream_options: StreamOptions | None = None
    ignore_eos: bool = False


class MessageBody(Wire):
    """One of ``messages``, its content already a string."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str


class ChatBody(GenerationBody):
    """``POST /v1/chat/completions``, apart from ``messages``."""

    max_completion_tokens: PositiveInt | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None


class CompletionBody(GenerationBody):
    """``POST /v1/completions``, apart from ``prompt``."""

    max_tokens: PositiveInt = DEFAULT_COMPLETION_TOKENS
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
