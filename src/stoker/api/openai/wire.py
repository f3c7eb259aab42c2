"""The honoured fields of OpenAI's requests as pydantic types.

The field tables have been applied before: what arrives here is honoured and not null.
"""

import re
from math import isfinite
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from stoker.core.early_exit import MAX_EXIT_WINDOW
from stoker.core.sampling import (
    MAX_BIAS,
    MAX_BIASED_TOKENS,
    MAX_LOGPROBS,
    MAX_PENALTY,
    MAX_REPETITION_PENALTY,
    MAX_TOP_K,
    MIN_REPETITION_PENALTY,
)
from stoker.core.text import TemplateValue
from stoker.core.tokens import MAX_PRIORITY, MAX_STOP_TOKENS, MAX_TIMEOUT_S

DEFAULT_COMPLETION_TOKENS = 16
MAX_STOPS = 16
MAX_STOP_CHARS = 512
MAX_MODEL_CHARS = 256
MAX_VARIABLES = 16
MAX_VARIABLE_CHARS = 4096
MAX_GUIDED_CHOICES = 1024
MAX_SCORED_CHARS = 512
DEFAULT_EXIT_WINDOW = 16

_MAX_INT32 = 2**31 - 1
_MIN_INT64 = -(2**63)
_MAX_INT64 = 2**63 - 1


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


_TOKEN_KEY = re.compile(r"(?:0|[1-9][0-9]{0,8})")


def _bias_pairs(value: Any) -> Any:
    """Turn OpenAI's object, whose names are token ids, into pairs of token id and bias."""
    if not isinstance(value, dict):
        raise PydanticCustomError("bias_type", "it should be an object of token ids and their biases")
    if len(value) > MAX_BIASED_TOKENS:
        raise PydanticCustomError(
            "bias_count",
            "it should have at most {most} tokens, not {count}",
            {"most": MAX_BIASED_TOKENS, "count": len(value)},
        )
    for key, bias in value.items():
        if not _TOKEN_KEY.fullmatch(key):
            raise PydanticCustomError("bias_token", "its names should be token ids, such as '50256'")
        if type(bias) not in {int, float} or not -MAX_BIAS <= bias <= MAX_BIAS:
            raise PydanticCustomError(
                "bias_value",
                "the bias of token {token} should be a number from -{most} to {most}",
                {"token": key, "most": f"{MAX_BIAS:g}"},
            )
    return tuple((int(key), float(bias)) for key, bias in value.items())


_VARIABLE = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


def _is_plain(value: Any) -> bool:
    match value:
        case None | bool() | str():
            return True
        case int():
            return _MIN_INT64 <= value <= _MAX_INT64
        case _:
            return isinstance(value, float) and isfinite(value)


def _template_variables(value: Any) -> Any:
    """Turn an object of names and plain values into pairs."""
    if not isinstance(value, dict):
        raise PydanticCustomError("variables_type", "it should be an object of variables and their values")
    if len(value) > MAX_VARIABLES:
        raise PydanticCustomError(
            "variables_count",
            "it should have at most {most} variables, not {count}",
            {"most": MAX_VARIABLES, "count": len(value)},
        )
    for name, each in value.items():
        if not _VARIABLE.fullmatch(name):
            raise PydanticCustomError(
                "variables_name", "its names should be 1 to 64 letters, digits or '_', a letter first"
            )
        if not _is_plain(each):
            raise PydanticCustomError(
                "variables_value",
                "the value of {name} should be a string, a number, true, false or null",
                {"name": name},
            )
        if isinstance(each, str) and len(each) > MAX_VARIABLE_CHARS:
            raise PydanticCustomError(
                "variables_length",
                "the value of {name} should have at most {most} characters, not {count}",
                {"name": name, "most": MAX_VARIABLE_CHARS, "count": len(each)},
            )
    return tuple(value.items())


_VARIABLES_SCHEMA = {
    "type": "object",
    "propertyNames": {"pattern": f"^{_VARIABLE.pattern}$"},
    "additionalProperties": {
        "anyOf": [
            {"type": "string", "maxLength": MAX_VARIABLE_CHARS},
            {"type": "integer", "minimum": _MIN_INT64, "maximum": _MAX_INT64},
            {"type": ["number", "boolean", "null"]},
        ]
    },
    "maxProperties": MAX_VARIABLES,
}
_BIAS_SCHEMA = {
    "type": "object",
    "propertyNames": {"pattern": f"^{_TOKEN_KEY.pattern}$"},
    "additionalProperties": {"type": "number", "minimum": -MAX_BIAS, "maximum": MAX_BIAS},
    "maxProperties": MAX_BIASED_TOKENS,
}
_STOP_SCHEMA = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_CHARS}
_STOPS_SCHEMA = {"anyOf": [_STOP_SCHEMA, {"type": "array", "items": _STOP_SCHEMA, "maxItems": MAX_STOPS}]}

LogitBias = Annotated[
    tuple[tuple[int, float], ...], BeforeValidator(_bias_pairs), WithJsonSchema(_BIAS_SCHEMA)
]
TemplateVariables = Annotated[
    tuple[tuple[str, TemplateValue], ...],
    BeforeValidator(_template_variables),
    WithJsonSchema(_VARIABLES_SCHEMA),
]
Penalty = Annotated[float, Field(ge=-MAX_PENALTY, le=MAX_PENALTY)]
ModelName = Annotated[str, Field(min_length=1, max_length=MAX_MODEL_CHARS)]
TokenId = Annotated[int, Field(ge=0, le=_MAX_INT32)]
Seconds = Annotated[float, Field(ge=0.001, le=MAX_TIMEOUT_S)]
PositiveInt = Annotated[int, Field(ge=1)]
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
Stops = Annotated[
    list[Stop],
    Field(max_length=MAX_STOPS),
    BeforeValidator(_one_or_many),
    WithJsonSchema(_STOPS_SCHEMA),
]


Texts = Annotated[
    list[str], BeforeValidator(_one_or_many, json_schema_input_type=str | list[str]), Field(min_length=1)
]


class Wire(BaseModel):
    """Base of the wire types: exact JSON types, nothing unknown, nothing infinite."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class StreamOptions(Wire):
    """``stream_options``."""

    include_usage: bool = False


class JsonSchemaFormat(Wire):
    """``response_format.json_schema``."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool = False


class ResponseFormat(Wire):
    """``response_format``."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


Schema = dict[str, Any] | Annotated[str, Field(min_length=1)]
Expression = Annotated[str, Field(min_length=1)]
Choices = Annotated[
    list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=MAX_GUIDED_CHOICES)
]


ScoredChoices = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=MAX_SCORED_CHARS)]],
    Field(min_length=2),
]


class ExitBody(Wire):
    """``early_exit``."""

    stop_below: Annotated[float, Field(gt=0, le=1)] | None = None
    window: Annotated[int, Field(ge=1, le=MAX_EXIT_WINDOW)] = DEFAULT_EXIT_WINDOW
    when_complete: bool = False


class StructuredOutputs(Wire):
    """``structured_outputs``."""

    json_: Annotated[Schema | None, Field(alias="json")] = None
    regex: Expression | None = None
    choice: Choices | None = None
    grammar: Expression | None = None
    json_object: bool = False
    fast_forward: bool = False


class GrammarFields(Wire):
    """What an answer must look like."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema | None = None
    guided_regex: Expression | None = None
    guided_choice: Choices | None = None
    guided_grammar: Expression | None = None


class GenerationBody(GrammarFields):
    """What both requests share; the names are OpenAI's."""

    model: ModelName
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0, le=MAX_TOP_K)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    seed: Annotated[int, Field(ge=_MIN_INT64, le=_MAX_INT64)] | None = None
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    repetition_penalty: Annotated[float, Field(ge=MIN_REPETITION_PENALTY, le=MAX_REPETITION_PENALTY)] = 1.0
    logit_bias: LogitBias = ()
    stop: Stops = []
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_STOP_TOKENS)] = []
    min_tokens: Annotated[int, Field(ge=0)] = 0
    n: PositiveInt = 1
    stream: bool = False
    stream_options: StreamOptions | None = None
    ignore_eos: bool = False
    choices: ScoredChoices | None = None
    confidence_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    early_exit: ExitBody | None = None
    priority: Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = 0
    queue_timeout: Seconds | None = None
    timeout: Seconds | None = None


class MessageBody(Wire):
    """One of ``messages``, its content already a string."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str


class TemplateFields(Wire):
    """How a conversation is rendered; a part of every request that has ``messages``."""

    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    chat_template_kwargs: TemplateVariables = ()


class ChatBody(GenerationBody, TemplateFields):
    """``POST /v1/chat/completions``, apart from ``messages``."""

    max_tokens: PositiveInt | None = None
    max_completion_tokens: PositiveInt | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None


class CompletionBody(GenerationBody):
    """``POST /v1/completions``, apart from ``prompt``."""

    max_tokens: Annotated[int, Field(ge=0)] = DEFAULT_COMPLETION_TOKENS
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    best_of: PositiveInt | None = None
    echo: bool = False


class TokenizeBody(TemplateFields):
    """``POST /tokenize``, apart from ``messages``."""

    model: ModelName | None = None
    prompt: str | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool = False


class DetokenizeBody(Wire):
    """``POST /detokenize``."""

    model: ModelName | None = None
    tokens: list[TokenId]


class EmbeddedBody(Wire):
    """What requests share whose texts are embedded or scored."""

    model: ModelName
    priority: Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = 0
    queue_timeout: Seconds | None = None
    timeout: Seconds | None = None


class EmbeddingBody(EmbeddedBody):
    """``POST /v1/embeddings``, apart from ``input``."""

    encoding_format: Literal["float", "base64"] = "float"
    dimensions: PositiveInt | None = None


class DocumentBody(Wire):
    """One of ``documents`` as an object."""

    text: str


class JudgedBody(EmbeddedBody):
    """What requests share whose texts are compared, or judged by the model."""

    choices: ScoredChoices | None = None
    prompt: Annotated[str, Field(min_length=1)] | None = None
    instruction: Annotated[str, Field(min_length=1)] | None = None


class RerankBody(JudgedBody):
    """``POST /v1/rerank``."""

    query: str
    documents: Annotated[list[str | DocumentBody], Field(min_length=1)]
    top_n: PositiveInt | None = None
    return_documents: bool = True


class ScoreBody(JudgedBody):
    """``POST /v1/score``."""

    text_1: Texts
    text_2: Texts


class ClassifyBody(EmbeddedBody):
    """``POST /v1/classify``."""

    input: Annotated[
        list[Annotated[str, Field(min_length=1)]],
        BeforeValidator(_one_or_many, json_schema_input_type=str | list[str]),
        Field(min_length=1),
    ]
    labels: ScoredChoices
    prompt: Annotated[str, Field(min_length=1)] | None = None
