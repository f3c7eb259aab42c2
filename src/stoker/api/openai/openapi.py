"""The dialect's share of the OpenAPI document.

Requests are described by the field tables and the wire types that requests are parsed by.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from stoker.api.openai.adapters import LoadAdapterBody, UnloadAdapterBody
from stoker.api.openai.errors import KINDS
from stoker.api.openai.fields import (
    CHAT_FIELDS,
    CLASSIFY_FIELDS,
    COMPLETION_FIELDS,
    DETOKENIZE_FIELDS,
    EARLY_EXIT_FIELDS,
    EMBEDDING_FIELDS,
    JSON_SCHEMA_FIELDS,
    MESSAGE_FIELDS,
    PART_FIELDS,
    RERANK_FIELDS,
    RESPONSE_FORMAT_FIELDS,
    SCORE_FIELDS,
    STREAM_OPTIONS_FIELDS,
    STRUCTURED_OUTPUTS_FIELDS,
    TOKENIZE_FIELDS,
    Field,
    Treatment,
)
from stoker.api.openai.wire import (
    ChatBody,
    ClassifyBody,
    CompletionBody,
    DetokenizeBody,
    EmbeddingBody,
    ExitBody,
    JsonSchemaFormat,
    MessageBody,
    RerankBody,
    ResponseFormat,
    ScoreBody,
    StreamOptions,
    StructuredOutputs,
    TokenizeBody,
)
from stoker.api.openapi import Part, Schema, content, nullable, record, ref, response
from stoker.core.early_exit import ExitReason
from stoker.core.tokens import FinishReason

_TEXT: Schema = {"type": "string"}
_EVENT: Schema = {
    "description": "One server-sent event; its data is a chunk as JSON, or [DONE].",
    **record({"data": {"type": "string"}}),
}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_LOGPROB: Schema = {"type": "number"}
_TOKENS: Schema = {"type": "array", "items": _COUNT, "minItems": 1}

_CONTENT: Schema = {"anyOf": [_TEXT, {"type": "array", "items": ref("ContentPart"), "minItems": 1}]}
_PROMPT: Schema = {
    "anyOf": [
        _TEXT,
        {"type": "array", "items": _TEXT, "minItems": 1},
        _TOKENS,
        {"type": "array", "items": _TOKENS, "minItems": 1},
    ]
}


def error_responses(*statuses: int) -> dict[str, Schema]:
    """Describe errors in OpenAI's shape, and what may befall any request."""
    types = {kind.status: kind.type for kind in KINDS.values()} | {405: "invalid_request_error"}
    return {str(status): response(types[status], ref("Error")) for status in (*statuses, 401, 405, 413, 500)}


def request_schema(
    fields: tuple[Field, ...],
    wire: type[BaseModel] | None,
    special: Mapping[str, Schema],
    required: tuple[str, ...],
) -> Schema:
    """Describe a request's object.

    Args:
        fields: Its table.
        wire: The type of its honoured fields, or None.
        special: Schemas of honoured fields that are not in the wire type, or that are parsed before it.
        required: Fields that must be there and not null.
    """
    known = {} if wire is None else wire.model_json_schema()["properties"]
    properties: dict[str, Any] = {}
    for field in fields:
        if field.treatment is Treatment.HONOURED:
            schema = special.get(field.name, known.get(field.name, {}))
            plain = field.name in required or not schema
            properties[field.name] = {
                **(schema if plain else nullable(_without_default(schema))),
                "description": field.note,
            }
        elif field.treatment is Treatment.NO_OP:
            properties[field.name] = {"description": f"no effect: {field.note}"}
        else:
            properties[field.name] = {"description": f"not supported; {field.note or 'leave it out'}"}
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _without_default(schema: Schema) -> Schema:
    return {name: value for name, value in schema.items() if name not in {"default", "title"}}


def _generation(operation: str, body: str, answer: str) -> Schema:
    done: dict[str, Any] = dict(response("The answer, or its chunks with `stream`.", ref(answer)))
    done["content"] = {**done["content"], "text/event-stream": {"schema": _EVENT}}
    return {
        "post": {
            "operationId": operation,
            "requestBody": {"required": True, **content(ref(body))},
            "responses": {"200": done, **error_responses(400, 404, 408, 429, 503)},
        }
    }


def _conversion(operation: str, body: str, answer: Schema) -> Schema:
    return {
        "post": {
            "operationId": operation,
            "requestBody": {"required": True, **content(ref(body))},
            "responses": {"200": response("What came of it.", answer), **error_responses(400, 404, 408, 503)},
        }
    }


def _adapter_paths() -> dict[str, Schema]:
    """Describe the routes that load and unload adapters."""
    deleted = record({"id": _TEXT, "object": {"const": "model"}, "deleted": {"const": True}})
    calls = (
        ("load", "Load", "The adapter, as a model.", ref("Model"), (400, 403, 404, 408, 409, 503)),
        ("unload", "Unload", "It is forgotten.", deleted, (400, 403, 404, 408, 503)),
    )
    return {
        f"/v1/{verb}_lora_adapter": {
            "post": {
                "operationId": f"{verb}LoraAdapter",
                "requestBody": {"required": True, **content(ref(f"{name}AdapterRequest"))},
                "responses": {"200": response(what, answer), **error_responses(*statuses)},
            }
        }
        for verb, name, what, answer, statuses in calls
    }


def _answer(kind: str, choice: Mapping[str, Schema]) -> Schema:
    usage = record(
        {
            "prompt_tokens": _COUNT,
            "completion_tokens": _COUNT,
            "total_tokens": _COUNT,
            "prompt_tokens_details": record({"cached_tokens": _COUNT}),
        }
    )
    reason: Schema = {"enum": [each.value for each in FinishReason]}
    told = record(
        {
            "reason": {"enum": [each.value for each in ExitReason]},
            "confidence": nullable(_LOGPROB),
            "scores": {"type": "object", "additionalProperties": _LOGPROB},
        },
        optional=("scores",),
    )
    return record(
        {
            "id": _TEXT,
            "object": {"const": kind},
            "created": _COUNT,
            "model": _TEXT,
            "choices": {
                "type": "array",
                "items": record(
                    {"index": _COUNT, **choice, "finish_reason": reason, "early_exit": told},
                    optional=("early_exit",),
                ),
                "minItems": 1,
            },
            "usage": usage,
            "system_fingerprint": nullable(_TEXT),
        }
    )


def _logprobs() -> tuple[Schema, Schema]:
    """Return the shapes of chat completions and of completions."""
    token = {
        "token": _TEXT,
        "logprob": _LOGPROB,
        "bytes": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 255}},
    }
    with_top = record({**token, "top_logprobs": {"type": "array", "items": record(token)}})
    chat = record({"content": {"type": "array", "items": with_top}, "refusal": {"type": "null"}})
    by_text = {"type": "object", "additionalProperties": _LOGPROB}
    legacy = record(
        {
            "tokens": {"type": "array", "items": _TEXT},
            "token_logprobs": {"type": "array", "items": nullable(_LOGPROB)},
            "top_logprobs": {"type": "array", "items": nullable(by_text)},
            "text_offset": {"type": "array", "items": _COUNT},
        }
    )
    return chat, legacy


def _tokenized() -> Schema:
    spelt: Schema = {"type": "array", "items": _TEXT}
    ids: Schema = {"type": "array", "items": _COUNT}
    return record({"count": _COUNT, "max_model_len": _COUNT, "tokens": ids, "token_strs": nullable(spelt)})


_USAGE: Schema = record({"prompt_tokens": _COUNT, "total_tokens": _COUNT})


def _embedding_schemas() -> dict[str, Schema]:
    vector: Schema = {"anyOf": [{"type": "array", "items": {"type": "number"}}, _TEXT]}
    embedding = record({"object": {"const": "embedding"}, "index": _COUNT, "embedding": vector})
    ranked: Schema = record({"index": _COUNT, "relevance_score": {"type": "number"}})
    ranked = {**ranked, "properties": {**ranked["properties"], "document": record({"text": _TEXT})}}
    scored = record({"index": _COUNT, "object": {"const": "score"}, "score": {"type": "number"}})
    classified = record(
        {
            "index": _COUNT,
            "label": _TEXT,
            "probs": {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}},
            "num_classes": _COUNT,
        }
    )
    texts: Schema = {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}]}
    document: Schema = {"anyOf": [_TEXT, record({"text": _TEXT})]}
    return {
        "EmbeddingRequest": request_schema(
            EMBEDDING_FIELDS, EmbeddingBody, {"input": _PROMPT}, ("model", "input")
        ),
        "RerankRequest": request_schema(
            RERANK_FIELDS,
            RerankBody,
            {"documents": {"type": "array", "items": document, "minItems": 1}},
            ("model", "query", "documents"),
        ),
        "ScoreRequest": request_schema(
            SCORE_FIELDS, ScoreBody, {"text_1": texts, "text_2": texts}, ("model", "text_1", "text_2")
        ),
        "ClassifyRequest": request_schema(
            CLASSIFY_FIELDS, ClassifyBody, {"input": texts}, ("model", "input", "labels")
        ),
        "Classification": record(
            {
                "id": _TEXT,
                "object": {"const": "list"},
                "created": _COUNT,
                "model": _TEXT,
                "data": {"type": "array", "items": classified},
                "usage": _USAGE,
            }
        ),
        "EmbeddingList": record(
            {
                "object": {"const": "list"},
                "data": {"type": "array", "items": embedding},
                "model": _TEXT,
                "usage": _USAGE,
            }
        ),
        "Ranking": record(
            {"id": _TEXT, "model": _TEXT, "usage": _USAGE, "results": {"type": "array", "items": ranked}}
        ),
        "ScoreList": record(
            {
                "id": _TEXT,
                "object": {"const": "list"},
                "created": _COUNT,
                "model": _TEXT,
                "data": {"type": "array", "items": scored},
                "usage": _USAGE,
            }
        ),
    }


def _embedded(operation: str, body: str, answer: str) -> Schema:
    return {
        "post": {
            "operationId": operation,
            "requestBody": {"required": True, **content(ref(body))},
            "responses": {
                "200": response("What came of it.", ref(answer)),
                **error_responses(400, 404, 408, 429, 503),
            },
        }
    }


def openai_part() -> Part:
    """Return the dialect's routes and their schemas."""
    chat_logprobs, legacy_logprobs = _logprobs()
    stream_options = request_schema(STREAM_OPTIONS_FIELDS, StreamOptions, {}, ())
    json_schema = request_schema(JSON_SCHEMA_FIELDS, JsonSchemaFormat, {}, ("name", "schema"))
    grammars = {
        "response_format": request_schema(
            RESPONSE_FORMAT_FIELDS, ResponseFormat, {"json_schema": json_schema}, ("type",)
        ),
        "early_exit": request_schema(EARLY_EXIT_FIELDS, ExitBody, {}, ()),
        "structured_outputs": request_schema(STRUCTURED_OUTPUTS_FIELDS, StructuredOutputs, {}, ()),
    }
    messages: Schema = {"type": "array", "items": ref("Message"), "minItems": 1}
    message = {"role": {"const": "assistant"}, "content": _TEXT, "refusal": {"type": "null"}}
    error = {"message": _TEXT, "type": _TEXT, "param": nullable(_TEXT), "code": nullable(_TEXT)}
    model = {
        "id": _TEXT,
        "object": {"const": "model"},
        "created": _COUNT,
        "owned_by": _TEXT,
        "context_length": _COUNT,
    }
    schemas: dict[str, Schema] = {
        "ChatRequest": request_schema(
            CHAT_FIELDS,
            ChatBody,
            {"messages": messages, "stream_options": stream_options, **grammars},
            ("model", "messages"),
        ),
        "CompletionRequest": request_schema(
            COMPLETION_FIELDS,
            CompletionBody,
            {"prompt": _PROMPT, "stream_options": stream_options, **grammars},
            ("model", "prompt"),
        ),
        "TokenizeRequest": request_schema(TOKENIZE_FIELDS, TokenizeBody, {"messages": messages}, ()),
        "DetokenizeRequest": request_schema(
            DETOKENIZE_FIELDS, DetokenizeBody, {"tokens": {"type": "array", "items": _COUNT}}, ("tokens",)
        ),
        "Message": request_schema(MESSAGE_FIELDS, MessageBody, {"content": _CONTENT}, ("role", "content")),
        "ContentPart": request_schema(
            PART_FIELDS, None, {"type": {"const": "text"}, "text": _TEXT}, ("type", "text")
        ),
        "ChatCompletion": _answer(
            "chat.completion", {"message": record(message), "logprobs": nullable(chat_logprobs)}
        ),
        "Completion": _answer("text_completion", {"text": _TEXT, "logprobs": nullable(legacy_logprobs)}),
        **_embedding_schemas(),
        "Model": record(model | {"parent": _TEXT}, optional=("parent",)),
        "LoadAdapterRequest": LoadAdapterBody.model_json_schema(),
        "UnloadAdapterRequest": UnloadAdapterBody.model_json_schema(),
        "ModelList": record({"object": {"const": "list"}, "data": {"type": "array", "items": ref("Model")}}),
        "Error": record({"error": record(error)}),
    }
    name = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    paths: dict[str, Schema] = {
        "/v1/chat/completions": _generation("createChatCompletion", "ChatRequest", "ChatCompletion"),
        "/v1/completions": _generation("createCompletion", "CompletionRequest", "Completion"),
        "/v1/embeddings": _embedded("createEmbedding", "EmbeddingRequest", "EmbeddingList"),
        "/v1/rerank": _embedded("createRanking", "RerankRequest", "Ranking"),
        "/rerank": _embedded("rerank", "RerankRequest", "Ranking"),
        "/v1/score": _embedded("createScores", "ScoreRequest", "ScoreList"),
        "/score": _embedded("score", "ScoreRequest", "ScoreList"),
        "/v1/classify": _embedded("createClassification", "ClassifyRequest", "Classification"),
        "/classify": _embedded("classify", "ClassifyRequest", "Classification"),
        "/tokenize": _conversion("tokenize", "TokenizeRequest", _tokenized()),
        "/detokenize": _conversion("detokenize", "DetokenizeRequest", record({"prompt": _TEXT})),
        **_adapter_paths(),
        "/v1/models": {
            "get": {
                "operationId": "listModels",
                "responses": {"200": response("The served models.", ref("ModelList")), **error_responses()},
            }
        },
        "/v1/models/{model}": {
            "get": {
                "operationId": "showModel",
                "parameters": [name],
                "responses": {"200": response("The model.", ref("Model")), **error_responses(404)},
            }
        },
    }
    return Part(paths, schemas)
