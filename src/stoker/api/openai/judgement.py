"""Texts that are scored by a judgement: how likely a model answers with the first of some choices.

Decoder models that were trained to rank are asked so (Qwen3-Reranker: "yes" against "no").
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from stoker.api.limits import ApiLimits
from stoker.api.openai.embedding_request import prompt_usage
from stoker.api.openai.scoring_request import check_size, check_slots, filled, filled_size, scoring_request
from stoker.api.openai.wire import JudgedBody
from stoker.core.errors import InvalidRequestError
from stoker.core.text import ChatPrompt, ChoiceScores, Message, Prompt, ScoringRequest, TextPrompt

DEFAULT_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
"""What Qwen3-Reranker has been trained with where nothing else is said."""


class ScoresAnswer(Protocol):
    """How an answer tells the scores of texts."""

    def body(
        self, scores: Sequence[float], usage: Mapping[str, int], *, request_id: str, model: str
    ) -> bytes:
        """Return the answer's body.

        Args:
            scores: One for each text, in the order of the request.
            usage: What it says of tokens.
            request_id: Unique.
            model: The model that made them.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A job that scores pairs of texts by how likely the first choice is after each.

    Attributes:
        model: Name of the model asked for.
        request: The pairs as prompts, and the choices after them.
        answer: Tells the scores.
    """

    model: str
    request: ScoringRequest
    answer: ScoresAnswer

    @property
    def reason(self) -> str:
        """What a pair counts as among the answers that might end early."""
        return "judged"

    def document(self, scores: Sequence[ChoiceScores], *, model: str) -> bytes:
        """Return the answer's body."""
        firsts = [each.probabilities[0] for each in scores]
        return self.answer.body(firsts, prompt_usage(scores), request_id=self.request.request_id, model=model)


def check_judged(body: JudgedBody) -> None:
    """Refuse fields of a judgement that do not go together.

    Raises:
        InvalidRequestError: It names one of them.
    """
    for name, there in (("prompt", body.prompt is not None), ("instruction", body.instruction is not None)):
        if there and body.choices is None:
            raise InvalidRequestError(
                f"'{name}' is only allowed together with 'choices': without them texts are compared as they "
                "are, by their embeddings.",
                param=name,
                code="invalid_value",
            )
    if body.prompt is not None and body.instruction is not None:
        raise InvalidRequestError(
            "'prompt' and 'instruction' do not go together. Put the instruction into 'prompt'.",
            param="instruction",
            code="invalid_value",
        )


def judgement(
    body: JudgedBody,
    choices: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    *,
    slots: tuple[str, str],
    paths: Sequence[str],
    answer: ScoresAnswer,
    limits: ApiLimits,
    request_id: str,
) -> Judgement:
    """Return the job that judges pairs of texts.

    Args:
        body: The request.
        choices: Its choices; the first one's probability is the score.
        pairs: What is searched for, and what may answer it.
        slots: Names of the two in ``prompt``.
        paths: Where the second of each pair stands in the request.
        answer: Tells the scores.
        limits: Bounds on the request.
        request_id: Unique.

    Raises:
        InvalidRequestError: The choices or the prompt cannot be taken.
    """
    instruction = body.instruction or DEFAULT_INSTRUCTION
    if body.prompt is None:
        n_each = len(instruction) + sum(map(len, choices))
        check_size((n_each + len(query) + len(document) for query, document in pairs), slots[0])
    else:
        check_slots(body.prompt, slots)
        each = (dict(zip(slots, pair, strict=True)) for pair in pairs)
        check_size((filled_size(body.prompt, texts) for texts in each), "prompt")
    prompts: list[Prompt] = [
        _question(instruction, query, document, choices)
        if body.prompt is None
        else TextPrompt(filled(body.prompt, {slots[0]: query, slots[1]: document}))
        for query, document in pairs
    ]
    return Judgement(
        model=body.model,
        request=scoring_request(
            body, prompts, paths, choices, field="choices", limits=limits, request_id=request_id
        ),
        answer=answer,
    )


def _question(instruction: str, query: str, document: str, choices: Sequence[str]) -> ChatPrompt:
    """Return the question in the words that Qwen3-Reranker has been trained with."""
    *firsts, last = [f'"{choice}"' for choice in choices]
    return ChatPrompt(
        (
            Message(
                "system",
                "Judge whether the Document meets the requirements based on the Query and the Instruct "
                f"provided. Note that the answer can only be {', '.join(firsts)} or {last}.",
            ),
            Message("user", f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"),
        ),
        without_thinking=True,
    )
