"""``POST /v1/classify``: how likely each label is for each input, in vLLM's shape."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from stoker.api.limits import ApiLimits
from stoker.api.openai.embedding_request import prompt_usage
from stoker.api.openai.fields import CLASSIFY_FIELDS, FieldTable
from stoker.api.openai.scoring_request import check_size, check_slots, filled, filled_size, scoring_request
from stoker.api.openai.validation import check_count, validate
from stoker.api.openai.wire import ClassifyBody
from stoker.core.text import ChatPrompt, ChoiceScores, Message, Prompt, ScoringRequest, TextPrompt

_CLASSIFY = FieldTable(CLASSIFY_FIELDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """A job that tells how likely labels are for inputs.

    Attributes:
        model: Name of the model asked for.
        request: The inputs as prompts, and the labels after them.
    """

    model: str
    request: ScoringRequest

    @property
    def reason(self) -> str:
        """What an input counts as among the answers that might end early."""
        return "classified"

    def document(self, scores: Sequence[ChoiceScores], *, model: str) -> bytes:
        """Return the answer's body."""
        labels = self.request.choices
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
                "usage": prompt_usage(scores),
            }
        )


def parse_classify(body: dict[str, Any], limits: ApiLimits, request_id: str) -> Classification:
    """Validate a request to classify texts.

    Raises:
        InvalidRequestError: Whatever is wrong with it, with the field's path.
    """
    fields = _CLASSIFY.sift(body)
    check_count(fields, "input", limits)
    several = isinstance(fields.get("input"), list)
    wire = validate(ClassifyBody, fields)
    if wire.prompt is not None:
        check_slots(wire.prompt, ["input"])
    check_size(_sizes(wire), "input" if wire.prompt is None else "prompt")
    prompts = [_prompt(text, wire) for text in wire.input]
    paths = [f"input.{index}" if several else "input" for index in range(len(prompts))]
    return Classification(
        model=wire.model,
        request=scoring_request(
            wire, prompts, paths, wire.labels, field="labels", limits=limits, request_id=request_id
        ),
    )


def _sizes(wire: ClassifyBody) -> Iterator[int]:
    n_labels = sum(map(len, wire.labels))
    for text in wire.input:
        yield n_labels + len(text) if wire.prompt is None else filled_size(wire.prompt, {"input": text})


def _prompt(text: str, wire: ClassifyBody) -> Prompt:
    if wire.prompt is not None:
        return TextPrompt(filled(wire.prompt, {"input": text}))
    labels = "\n".join(f"- {label}" for label in wire.labels)
    question = (
        f"Which of these labels fits the text best?\n{labels}\n\nText: {text}\n\nAnswer with the label alone."
    )
    return ChatPrompt((Message("user", question),), without_thinking=True)
