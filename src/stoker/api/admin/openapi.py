"""The administration's share of the OpenAPI document."""

from stoker.api.admin.control import ModelStatus
from stoker.api.openai.openapi import error_responses, openai_part
from stoker.api.openapi import Part, Schema, content, record, ref, response
from stoker.config import ModelSettings

_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}

_OF_SETTINGS = frozenset({"chat_template", "draft_model"})
"""What a request must not name."""


def admin_part() -> Part:
    """Return the routes under ``/admin`` and their schemas."""
    once_known = dict.fromkeys(("reason", "engine"), _TEXT) | dict.fromkeys(
        ("pulled_bytes", "total_bytes", "context_length", "pid", "memory_bytes"), _COUNT
    )
    counts = ("restarts", "in_flight", "running", "waiting", "kv_blocks", "kv_blocks_used")
    state = {
        "name": _TEXT,
        "model": _TEXT,
        "status": {"enum": [each.value for each in ModelStatus]},
        "since": {"type": "number"},
        **dict.fromkeys(counts, _COUNT),
        **once_known,
    }
    load = ModelSettings.model_json_schema()
    schemas: dict[str, Schema] = {
        "ModelState": record(state, optional=once_known),
        "ModelStates": record({"models": {"type": "array", "items": ref("ModelState")}}),
        "LoadRequest": {
            "type": "object",
            "properties": {
                "model": {"type": "string", "minLength": 1, "maxLength": 256},
                **{name: each for name, each in load["properties"].items() if name not in _OF_SETTINGS},
            },
            "required": ["model"],
            "additionalProperties": False,
        },
    }
    schemas |= _pin_schemas()
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    begun = response("It has begun.", ref("ModelState"))
    paths: dict[str, Schema] = {
        "/admin/models": {
            "get": {
                "operationId": "listModelStates",
                "responses": {"200": response("Every model.", ref("ModelStates")), **error_responses(403)},
            },
            "post": {
                "operationId": "loadModel",
                "requestBody": {"required": True, **content(ref("LoadRequest"))},
                "responses": {"202": begun, **error_responses(400, 403, 404, 408, 409, 503)},
            },
        },
        "/admin/models/{name}": {
            "delete": {
                "operationId": "unloadModel",
                "parameters": [name],
                "responses": {"202": begun, **error_responses(403, 404, 409, 503)},
            },
        },
    }
    return Part(paths | _sleep_paths(name) | _pin_paths(name), schemas)


def _sleep_paths(name: Schema) -> dict[str, Schema]:
    sleeps = record({"is_sleeping": {"type": "boolean"}})
    return {
        "/admin/models/{name}/sleep": {
            "post": {
                "operationId": "sleepModel",
                "parameters": [name],
                "responses": {
                    "200": response("It sleeps, and its memory is free.", ref("ModelState")),
                    **error_responses(403, 404, 409, 503),
                },
            },
        },
        "/admin/models/{name}/wake_up": {
            "post": {
                "operationId": "wakeModel",
                "parameters": [name],
                "responses": {
                    "200": response("It is awake.", ref("ModelState")),
                    **error_responses(403, 404, 409, 503),
                },
            },
        },
        "/admin/models/{name}/is_sleeping": {
            "get": {
                "operationId": "isModelSleeping",
                "parameters": [name],
                "responses": {
                    "200": response("Whether it sleeps.", sleeps),
                    **error_responses(403, 404, 503),
                },
            },
        },
    }


def _pin_schemas() -> dict[str, Schema]:
    pin = {
        "id": _TEXT,
        "created": {"type": "number"},
        "tokens": _COUNT,
        "pinned_tokens": _COUNT,
        "held": {"type": "boolean"},
    }
    tokenize = openai_part().schemas["TokenizeRequest"]
    left_out = ("model", "return_token_strs")
    texts = {name: each for name, each in tokenize["properties"].items() if name not in left_out}
    return {
        "Pin": record(pin),
        "Pins": record({"pins": {"type": "array", "items": ref("Pin")}}),
        "PinRequest": {
            "type": "object",
            "properties": {
                **texts,
                "tokens": {
                    "type": "array",
                    "minItems": 1,
                    "items": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
                },
            },
            "additionalProperties": False,
        },
    }


def _pin_paths(name: Schema) -> dict[str, Schema]:
    pin = {"name": "pin", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    return {
        "/admin/models/{name}/pins": {
            "get": {
                "operationId": "listPins",
                "parameters": [name],
                "responses": {
                    "200": response("The model's pinned prefixes.", ref("Pins")),
                    **error_responses(403, 404, 503),
                },
            },
            "post": {
                "operationId": "pinPrefix",
                "parameters": [name],
                "requestBody": {"required": True, **content(ref("PinRequest"))},
                "responses": {
                    "201": response("It is computed and pinned.", ref("Pin")),
                    **error_responses(400, 403, 404, 408, 409, 429, 503),
                },
            },
        },
        "/admin/models/{name}/pins/{pin}": {
            "delete": {
                "operationId": "unpinPrefix",
                "parameters": [name, pin],
                "responses": {
                    "200": response("It was pinned.", ref("Pin")),
                    **error_responses(403, 404, 503),
                },
            },
        },
    }
