"""``POST /v1/classify``: how likely each label is for each input, in vLLM's shape."""

import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from stoker.api.body import parsed_body
from stoker.api.disconnect import until_disconnect
from stoker.api.edge import record_of
from stoker.api.limits import ApiLimits
from stoker.api.openai.early_exit import check_different
from stoker.api.openai.entry import body_parser
from stoker.api.openai.fields import CLASSIFY_FIELDS, FieldTable
from stoker.api.openai.job import shorter
from stoker.api.openai.validation import validate
from stoker.api.openai.wire import ClassifyBody
from stoker.api.reply import Reply
from stoker.api.served import ServedModel, ServedModels
from stoker.core.errors import InvalidRequestError
from stoker.core.text import ChatPrompt, ChoiceScores, Message, Prompt, ScoringRequest, TextPrompt
from stoker.observe.record import RequestRecord

MAX_PAIRS = 16_384
"""Most inputs times labels in one request."""

MAX_CHARS = 2**25
"""Most characters of the texts that inputs and a prompt make together: the prompt is in each of them."""

CLASSIFIED = "classified"
"""What an input counts as among the answers that might end early."""

_CLASSIFY = FieldTable(CLASSIFY_FIELDS)
_SLOT = "{input}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """What the endpoint has to do.

    Attributes:
        model: Name of the model asked for.
        request: The inputs as prompts, and the labels after them.
    """

    model: str
    request: ScoringRequest

    def document(self, scores: Sequence[ChoiceScores], *, model: str) -> bytes:
        """Return the answer's body."""
        labels = self.request.choices
        n_tokens = sum(each.n_tokens for each in scores)
        return orjson.dumps(
            {
                "id": f"classify-{self.request.request_id}",
                "object": "list",
                "created": int(time.time()),
                "model": model,
                "data": [
                    {
                        "index": index,
                        "label": labels[each.best],
                        "probs": each.probabilities,
                        "num_classes": len(labels),
                    }
                    for index, each in enumerate(scores)
                ],
                "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
            }
        )


def parse_classify(body: dict[str, Any], limits: ApiLimits, request_id: str) -> Classification:
    """Validate a request to classify texts.

    Raises:
        InvalidRequestError: Whatever is wrong with it, with the field's path.
    """
    fields = _CLASSIFY.sift(body)
    several = isinstance(fields.get("input"), list)
    if several and len(fields["input"]) > limits.max_inputs:
        raise _too_many(
            "input", f"at most {limits.max_inputs:,} are taken at a time, not {len(fields['input'])}"
        )
    wire = validate(ClassifyBody, fields)
    check_different(wire.labels, "labels")
    n_pairs = len(wire.input) * len(wire.labels)
    if n_pairs > MAX_PAIRS:
        raise _too_many(
            "input", f"with as many labels at most {MAX_PAIRS // len(wire.labels):,} are taken at a time"
        )
    if wire.prompt is not None and _SLOT not in wire.prompt:
        raise InvalidRequestError(
            f"Invalid 'prompt': it should say with '{_SLOT}' where an input comes.",
            param="prompt",
            code="invalid_value",
        )
    if wire.prompt is not None:
        _check_size(wire.prompt, wire.input)
    return Classification(
        model=wire.model,
        request=ScoringRequest(
            request_id=request_id,
            prompts=tuple(_prompt(text, wire) for text in wire.input),
            paths=tuple(f"input.{index}" if several else "input" for index in range(len(wire.input))),
            choices=tuple(wire.labels),
            choices_path="labels",
            priority=-wire.priority,  # on the wire lower is earlier, as in vLLM
            queue_timeout_s=shorter(wire.queue_timeout, limits.queue_timeout_s),
            timeout_s=shorter(wire.timeout, limits.request_timeout_s),
        ),
    )


def _check_size(prompt: str, inputs: Sequence[str]) -> None:
    n_chars = len(inputs) * len(prompt) + prompt.count(_SLOT) * sum(len(each) - len(_SLOT) for each in inputs)
    if n_chars > MAX_CHARS:
        why = f"with these inputs it makes {n_chars:,} characters, and at most {MAX_CHARS:,} are taken"
        raise _too_many("prompt", why)


def _prompt(text: str, wire: ClassifyBody) -> Prompt:
    if wire.prompt is not None:
        return TextPrompt(wire.prompt.replace(_SLOT, text))
    labels = "\n".join(f"- {label}" for label in wire.labels)
    question = (
        f"Which of these labels fits the text best?\n{labels}\n\nText: {text}\n\nAnswer with the label alone."
    )
    return ChatPrompt((Message("user", question),))


def _too_many(field: str, why: str) -> InvalidRequestError:
    return InvalidRequestError(f"Invalid '{field}': {why}.", param=field, code="invalid_value")


class Classify:
    """ASGI endpoint.

    Args:
        models: Served models.
        limits: Bounds on a request.
        parser: Where large bodies are parsed.
    """

    def __init__(self, models: ServedModels, limits: ApiLimits, parser: Executor) -> None:
        self._models = models
        self._limits = limits
        self._parser = parser

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            StokerError: The request was refused or failed.
        """
        record = record_of(scope)
        parse = body_parser(parse_classify, self._limits, record.request_id)
        job = await parsed_body(scope, receive, parse, self._parser)
        model = self._models.find(job.model)
        record.model = model.base_name
        await until_disconnect(receive, self._respond(job, model, record, send))

    async def _respond(
        self, job: Classification, model: ServedModel, record: RequestRecord, send: Send
    ) -> None:
        # A sequence is a prompt with one of the labels, and as many as there are places run at a time.
        request = replace(job.request, adapter=model.adapter)
        sequences = request.prompts if len(request.prompts) > 1 else request.prompts * len(request.choices)
        with model.hold(sequences, self._limits.embedding_places) as places:
            scores = await model.scorer.score(request, places=places)
        record.prompt_tokens = sum(each.n_tokens for each in scores)
        record.cached_tokens = sum(each.n_cached for each in scores)
        record.early_exits += [CLASSIFIED] * len(scores)
        await Reply(200, job.document(scores, model=model.name)).send(send)
