"""Every field of OpenAI's requests and what Stoker does with it.

A field that can change the answer is honoured or refused by name, never ignored. The tables are
what the code goes by and what `docs/openai-api.md` shows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from stoker.api.body import shown
from stoker.api.openai.errors import UNKNOWN_PARAMETER
from stoker.core.errors import InvalidRequestError, UnsupportedFieldError


class Treatment(StrEnum):
    """What becomes of a field."""

    HONOURED = "honoured"
    NO_OP = "no-op"
    REFUSED = "refused"


Body = Mapping[str, Any]
Neutral = Callable[[Any, Body], bool]
"""Whether a refused field's value asks for nothing, given the whole object it stands in."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field.

    Attributes:
        name: Its name on the wire.
        treatment: What becomes of it. ``null`` is always the same as leaving it out.
        note: For a reader of the docs: its values, or why it is a no-op, or what is accepted.
        neutral: Of a refused field: whether a value is accepted because it asks for nothing.
    """

    name: str
    treatment: Treatment
    note: str
    neutral: Neutral | None = None


def honoured(name: str, note: str) -> Field:
    """A field that does what OpenAI says."""
    return Field(name, Treatment.HONOURED, note)


def no_op(name: str, note: str) -> Field:
    """A field that cannot change the answer; any value is accepted."""
    return Field(name, Treatment.NO_OP, note)


def refused(name: str, *values: Any, note: str = "") -> Field:
    """A field that is not supported; `values` are those that ask for nothing and are accepted."""

    def neutral(value: Any, _: Body) -> bool:
        return any(isinstance(value, bool) == isinstance(v, bool) and value == v for v in values)

    return Field(name, Treatment.REFUSED, note, neutral)


_SHARED = (
    honoured("model", "required; one of `GET /v1/models`"),
    honoured("temperature", "0 to 2, default 1; 0 is greedy"),
    honoured("top_p", "above 0, up to 1; default 1"),
    honoured("seed", "any signed 64-bit integer; random when unset"),
    honoured("stop", "a string or up to 16, each of 1 to 512 characters"),
    honoured("presence_penalty", "-2 to 2, default 0"),
    honoured("frequency_penalty", "-2 to 2, default 0"),
    honoured("logit_bias", "up to 1,024 token ids, each with a number from -100 to 100"),
    honoured("n", "1 to 16, default 1"),
    honoured("stream", "default false"),
    honoured("stream_options", "only with `stream`; see below"),
    honoured("top_k", "extension: 0 to 2,147,483,647, default 0 = off"),
    honoured("min_p", "extension: 0 to 1, default 0 = off"),
    honoured("repetition_penalty", "extension: 0.01 to 100, default 1 = off"),
    honoured("stop_token_ids", "extension: up to 256 token ids; a text ends before any of them"),
    honoured("min_tokens", "extension: no end token and no stop token before so many; default 0"),
    honoured("ignore_eos", "extension: go on after end tokens; default false"),
    honoured("priority", "extension: -1,000 to 1,000, default 0; the lower is served first"),
    honoured("queue_timeout", "extension: seconds in which it must begin, at most `queue_timeout_s`"),
    honoured("timeout", "extension: seconds in which it must be finished, at most `request_timeout_s`"),
    honoured("response_format", "`text`, `json_object` or `json_schema`; see below"),
    honoured("structured_outputs", "extension: what the answer must look like; see below"),
    honoured("guided_json", "extension: `structured_outputs.json`"),
    honoured("guided_regex", "extension: `structured_outputs.regex`"),
    honoured("guided_choice", "extension: `structured_outputs.choice`"),
    honoured("guided_grammar", "extension: `structured_outputs.grammar`"),
    no_op("guided_decoding_backend", "there is one way to do it"),
    honoured(
        "choices",
        "extension: 2 to `max_scored_choices` different texts, the likeliest of which is the answer",
    ),
    honoured("confidence_threshold", "extension: 0 to 1, default 0; below it the answer is generated"),
    honoured("early_exit", "extension: end when the model is not sure, or the form complete; see below"),
    no_op("user", "names the end user"),
    refused("prompt_logprobs", note="instead: `echo` with `logprobs` on `/v1/completions`"),
)

_TEMPLATE = (
    honoured("continue_final_message", "extension: go on with the last message, in it; default false"),
    honoured("chat_template_kwargs", "extension: up to 16 variables of the model's chat template"),
    refused("chat_template", note="a model's template is set by who runs the server"),
    refused("documents", [], note="accepted: `[]`"),
    refused("mm_processor_kwargs", {}, note="accepted: `{}`"),
)

CHAT_FIELDS = (
    honoured("messages", "required; 1 to 4,096; see below"),
    honoured("max_tokens", "1 or above; default: the rest of the context"),
    honoured("max_completion_tokens", "the same as `max_tokens`; both given must be equal"),
    honoured("logprobs", "true or false, default false"),
    honoured("top_logprobs", "0 to 20, only with `logprobs`"),
    *_SHARED,
    honoured("add_generation_prompt", "extension: begin the assistant's answer; default true"),
    *_TEMPLATE,
    refused("add_special_tokens", False, note="accepted: false; the chat template says what comes first"),
    refused("echo", False, note="accepted: false"),
    no_op("metadata", "labels for stored completions"),
    no_op("store", "nothing is stored"),
    no_op("safety_identifier", "names the end user"),
    no_op("prompt_cache_key", "prefixes are shared without it"),
    no_op("prompt_cache_options", "prefixes are shared without it"),
    no_op("prompt_cache_retention", "prefixes are kept as long as there is room"),
    no_op("prediction", "could only make the same answer faster"),
    no_op("parallel_tool_calls", "means nothing without `tools`, which are refused"),
    refused("tools", [], note="accepted: `[]`"),
    refused("tool_choice", "none", "auto", note='accepted: `"none"`, `"auto"`'),
    refused("functions", [], note="accepted: `[]`"),
    refused("function_call", "none", "auto", note='accepted: `"none"`, `"auto"`'),
    refused("modalities", ["text"], note='accepted: `["text"]`'),
    refused("audio"),
    refused("reasoning_effort", "none", note='accepted: `"none"`; some templates have it as a variable'),
    refused("verbosity", "medium", note='accepted: `"medium"`'),
    refused("service_tier", "auto", "default", note='accepted: `"auto"`, `"default"`'),
    refused("web_search_options"),
    refused("moderation"),
)
"""Fields of ``POST /v1/chat/completions``."""

COMPLETION_FIELDS = (
    honoured("prompt", "required; a string, token ids, or up to 64 of either in a list"),
    honoured("max_tokens", "1 or above, or 0 with `echo`; default 16"),
    honoured("logprobs", "0 to 20 alternatives a token"),
    honoured("best_of", "`n` to 16, default `n`; above `n` not with `stream`"),
    honoured("echo", "the prompt before each text; default false"),
    *_SHARED,
    refused("suffix", "", note='accepted: `""`'),
)
"""Fields of ``POST /v1/completions``."""

STREAM_OPTIONS_FIELDS = (
    honoured("include_usage", "a last chunk with the usage; default false"),
    no_op("include_obfuscation", "no padding is ever added"),
)
"""Fields of ``stream_options``."""

RESPONSE_FORMAT_FIELDS = (
    honoured("type", 'required; `"text"`, `"json_object"` (any JSON object) or `"json_schema"`'),
    honoured("json_schema", "required with this type"),
)
"""Fields of ``response_format``."""

JSON_SCHEMA_FIELDS = (
    honoured("name", "required; 1 to 64 letters, digits, `_` or `-`"),
    honoured("schema", "required; a JSON Schema of the keywords in structured-output.md"),
    honoured("strict", "the schema is held to either way"),
    no_op("description", "for the reader"),
)
"""Fields of ``response_format.json_schema``."""

STRUCTURED_OUTPUTS_FIELDS = (
    honoured("json", "a JSON Schema, as an object or a string"),
    honoured("regex", "a regular expression that the whole answer matches"),
    honoured("choice", "1 to 1,024 texts, one of which is the answer"),
    honoured("grammar", "a grammar in Lark's or GBNF's notation"),
    honoured("json_object", "true: any JSON object"),
    honoured("fast_forward", "extension: take text that has to follow at once; default false"),
    no_op("disable_fallback", "there is one way to do it"),
    refused("structural_tag"),
    refused("disable_any_whitespace", False, note="accepted: false"),
    refused("disable_additional_properties", False, note="accepted: false; the schema says it"),
    refused("whitespace_pattern"),
)
"""Fields of ``structured_outputs``, which are vLLM's."""

EARLY_EXIT_FIELDS = (
    honoured("stop_below", "above 0, up to 1: the least mean probability of the last tokens"),
    honoured("window", "1 to 256, default 16: how many tokens these are"),
    honoured("when_complete", "end as soon as the answer is of its grammar; default false"),
)
"""Fields of ``early_exit``."""

MESSAGE_FIELDS = (
    honoured("role", "required; `system`, `developer` (the same), `user` or `assistant`"),
    honoured("content", "required; a string or a list of parts, which are joined by a line break"),
    no_op("annotations", "part of answers that clients send back"),
    refused("name"),
    refused("refusal"),
    refused("audio"),
    refused("tool_calls", [], note="accepted: `[]`"),
    refused("tool_call_id"),
    refused("function_call"),
)
"""Fields of one of ``messages``."""

PART_FIELDS = (
    honoured("type", 'required; `"text"`, every other type is refused'),
    honoured("text", "required; a string"),
    no_op("prompt_cache_breakpoint", "prefixes are shared without it"),
)
"""Fields of one part of a message's ``content``."""


_COMPUTED = (
    honoured("priority", "extension: -1,000 to 1,000, default 0; the lower is served first"),
    honoured("queue_timeout", "extension: seconds in which each input must begin, at most `queue_timeout_s`"),
    honoured("timeout", "extension: seconds in which it must be finished, at most `request_timeout_s`"),
    no_op("user", "names the end user"),
    refused("truncate_prompt_tokens", note="nothing is cut: send what fits the context"),
)

EMBEDDING_FIELDS = (
    honoured("model", "required; one of `GET /v1/models`"),
    honoured("input", "required; a string, token ids, or up to `max_inputs` of either in a list"),
    honoured("encoding_format", '`"float"`, the default, or `"base64"`: little-endian 32-bit floats'),
    honoured("dimensions", "the width of the model, and nothing else: a part of an embedding means nothing"),
    *_COMPUTED,
    refused("input_type", note="put a model's prefix before the input"),
)
"""Fields of ``POST /v1/embeddings``."""

_JUDGED = (
    honoured(
        "choices", "extension: 2 to `max_scored_choices` texts; the first one's probability is the score"
    ),
    honoured(
        "instruction", "extension, with `choices`: what makes a text relevant; default: to answer a query"
    ),
)

RERANK_FIELDS = (
    honoured("model", "required; one of `GET /v1/models`"),
    honoured("query", "required; a string"),
    honoured("documents", 'required; up to `max_inputs` strings, or objects `{"text": ...}`'),
    honoured("top_n", "how many results, the best; default all"),
    honoured("return_documents", "the documents' texts in the answer; default true, as vLLM does"),
    *_JUDGED,
    honoured(
        "prompt",
        "extension, with `choices`: a text with `{query}` and `{document}` that a choice goes on with",
    ),
    *_COMPUTED,
    refused("rank_fields"),
    refused("max_chunks_per_doc"),
    refused("max_tokens_per_doc"),
)
"""Fields of ``POST /v1/rerank``."""

SCORE_FIELDS = (
    honoured("model", "required; one of `GET /v1/models`"),
    honoured("text_1", "required; a string, or as many as in `text_2`"),
    honoured("text_2", "required; a string or up to `max_inputs` of them"),
    *_JUDGED,
    honoured(
        "prompt",
        "extension, with `choices`: a text with `{text_1}` and `{text_2}` that a choice goes on with",
    ),
    *_COMPUTED,
)
"""Fields of ``POST /v1/score``."""

CLASSIFY_FIELDS = (
    honoured("model", "required; one of `GET /v1/models`"),
    honoured("input", "required; a string or up to `max_inputs` of them"),
    honoured("labels", "extension, required: 2 to `max_scored_choices` different texts"),
    honoured("prompt", "extension: a text with `{input}` that a label goes on with; default: a question"),
    *_COMPUTED,
)
"""Fields of ``POST /v1/classify``."""

TOKENIZE_FIELDS = (
    honoured("model", "one of `GET /v1/models`; may be left out if there is one only"),
    honoured("prompt", "a string; this or `messages` is required"),
    honoured("messages", "as in a chat; this or `prompt` is required"),
    honoured("add_special_tokens", "begin as texts of the model begin; default true, with `messages` false"),
    honoured("add_generation_prompt", "only with `messages`: begin the assistant's answer; default true"),
    honoured("return_token_strs", "spell the tokens too; default false"),
    refused("tools", [], note="accepted: `[]`"),
    *_TEMPLATE,
)
"""Fields of ``POST /tokenize``, which are vLLM's."""

DETOKENIZE_FIELDS = (
    honoured("model", "one of `GET /v1/models`; may be left out if there is one only"),
    honoured("tokens", "required; token ids, at most the context"),
)
"""Fields of ``POST /detokenize``, which are vLLM's."""


class FieldTable:
    """A table in use.

    Args:
        fields: The table.
    """

    def __init__(self, fields: tuple[Field, ...]) -> None:
        self._fields = {field.name: field for field in fields}

    def sift(self, body: Body, *, path: str = "") -> dict[str, Any]:
        """Return the honoured fields that are not null.

        Args:
            body: The object as parsed.
            path: Where it stands in the request, such as ``messages.0.``.

        Raises:
            InvalidRequestError: A field that is in no table.
            UnsupportedFieldError: A refused field with a value that asks for something.
        """
        kept = {}
        for name, value in body.items():
            field = self._fields.get(name)
            if field is None:
                where = path + shown(name)
                raise InvalidRequestError(
                    f"Unrecognized request argument supplied: '{where}'.", param=where, code=UNKNOWN_PARAMETER
                )
            if value is None or field.treatment is Treatment.NO_OP:
                continue
            if field.treatment is Treatment.HONOURED:
                kept[name] = value
            elif field.neutral is None or not field.neutral(value, body):
                hint = f" ({field.note})" if field.note else ""
                raise UnsupportedFieldError(
                    f"'{path}{name}' is not supported{hint}. Leave it out.", param=path + name
                )
        return kept
