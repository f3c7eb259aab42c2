"""What a soak asks: request bodies of every kind, the same for the same seed."""

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"

Body = dict[str, Any]

_WORDS = re.findall(
    r"\w+",
    """
    a lighthouse the keeper storm every evening walked slowly towards harbour lamp old stone stairs letter
    from sister city winter bread engine river counted seven boats gulls cried nobody answered quietly and
    then because while salt window garden apple wrote remembered number music north island
    """,
)
_QUESTIONS = (
    "Tell me a story about the sea.",
    "Name five animals and what they eat.",
    "Write a short poem about rain.",
    "How does a steam engine work?",
    "Why is the sky blue?",
    "Count from one to twenty in words.",
)
_N_DOCUMENTS = 3
_DOCUMENT_WORDS = 700
_SHORT_WORDS = 24


@dataclass(frozen=True, slots=True)
class Ask:
    """One request whose answer is the same whenever it is asked.

    Attributes:
        name: Its kind, and a number.
        path: Where it is posted.
        body: The request; a field `stream` is left out.
        stream: Whether its answer is streamed.
    """

    name: str
    path: str
    body: Mapping[str, Any]
    stream: bool

    @property
    def sent(self) -> Body:
        """The body as it is sent."""
        if not self.stream:
            return dict(self.body)
        return {**self.body, "stream": True, "stream_options": {"include_usage": True}}


def make_asks(n_asks: int, *, seed: int, model: str) -> tuple[Ask, ...]:
    """Return so many requests, each kind as often as the others.

    Args:
        n_asks: How many.
        seed: Of everything that is random in them.
        model: Name of the model.
    """
    chance = random.Random(seed)  # noqa: S311 - a workload is no secret
    documents = [_text(chance, _DOCUMENT_WORDS) for _ in range(_N_DOCUMENTS)]
    asks = []
    for number in range(n_asks):
        kind = KINDS[number % len(KINDS)]
        path, body = kind(chance, documents)
        name = f"{kind.__name__.strip('_')}-{number}"
        # Candidates that are ranked cannot be streamed.
        stream = "best_of" not in body and chance.random() < 0.75  # noqa: PLR2004 - most are
        asks.append(Ask(name, path, {"model": model, **body}, stream))
    return tuple(asks)


def make_burst(seed: int, model: str) -> Ask:
    """Return a short request that takes many places."""
    chance = random.Random(seed)  # noqa: S311 - a workload is no secret
    body = {"model": model, "prompt": "One", "n": 16, "max_tokens": 4, **_sampling(chance)}
    return Ask("burst", COMPLETIONS, body, stream=False)


def _text(chance: random.Random, n_words: int) -> str:
    return " ".join(chance.choices(_WORDS, k=n_words))


def _messages(chance: random.Random, *, before: str = "") -> list[dict[str, str]]:
    question = f"{before}{chance.choice(_QUESTIONS)} Mention number {chance.randrange(100)}."
    return [{"role": "user", "content": question}]


def _sampling(chance: random.Random) -> Body:
    return {
        "temperature": round(chance.uniform(0.6, 1.2), 2),
        "top_p": round(chance.uniform(0.8, 1.0), 2),
        "seed": chance.randrange(1 << 40),
    }


def _greedy_chat(chance: random.Random, _: list[str]) -> tuple[str, Body]:
    return CHAT, {
        "messages": _messages(chance),
        "temperature": 0,
        "max_tokens": chance.randrange(60, 200),
        "ignore_eos": True,
    }


def _sampled_chat(chance: random.Random, _: list[str]) -> tuple[str, Body]:
    return CHAT, {"messages": _messages(chance), "max_tokens": chance.randrange(20, 160), **_sampling(chance)}


def _scored_chat(chance: random.Random, _: list[str]) -> tuple[str, Body]:
    return CHAT, {
        "messages": _messages(chance),
        "max_tokens": chance.randrange(20, 100),
        "logprobs": True,
        "top_logprobs": chance.randrange(6),
        **_sampling(chance),
    }


def _stopped_chat(chance: random.Random, _: list[str]) -> tuple[str, Body]:
    return CHAT, {
        "messages": _messages(chance),
        "max_tokens": 200,
        "temperature": 0,
        "stop": chance.sample(["\n\n", " the ", "ing ", ", and", "2.", "!"], k=2),
    }


def _question_on_a_document(chance: random.Random, documents: list[str]) -> tuple[str, Body]:
    return CHAT, {
        "messages": _messages(chance, before=chance.choice(documents) + "\n\n"),
        "max_tokens": chance.randrange(8, 48),
        **_sampling(chance),
    }


def _several_texts(chance: random.Random, _: list[str]) -> tuple[str, Body]:
    return COMPLETIONS, {
        "prompt": _text(chance, _SHORT_WORDS),
        "n": chance.randrange(2, 5),
        "max_tokens": chance.randrange(20, 80),
        "logprobs": chance.choice([None, 2]),
        "ignore_eos": True,
        **_sampling(chance),
    }


def _several_prompts(chance: random.Random, _: list[str]) -> tuple[str, Body]:
    return COMPLETIONS, {
        "prompt": [_text(chance, chance.randrange(3, 60)) for _ in range(3)],
        "max_tokens": chance.randrange(10, 50),
        **_sampling(chance),
    }


def _continued_document(chance: random.Random, documents: list[str]) -> tuple[str, Body]:
    words = chance.choice(documents).split()
    return COMPLETIONS, {
        "prompt": " ".join(words[: chance.randrange(100, len(words))]),
        "max_tokens": chance.randrange(16, 64),
        "temperature": 0,
        "logprobs": 1,
        "ignore_eos": True,
    }


def _scored_prompt(chance: random.Random, _: list[str]) -> tuple[str, Body]:
    return COMPLETIONS, {
        "prompt": _text(chance, chance.randrange(20, 200)),
        "max_tokens": chance.choice([0, 1, 20]),
        "echo": True,
        "logprobs": 1,
        "temperature": 0,
    }


def _edited_text(chance: random.Random, _: list[str]) -> tuple[str, Body]:
    return COMPLETIONS, {
        "prompt": _text(chance, _SHORT_WORDS),
        "max_tokens": chance.randrange(40, 120),
        "presence_penalty": 0.5,
        "frequency_penalty": 0.25,
        "repetition_penalty": 1.1,
        "logit_bias": {str(chance.randrange(300, 40_000)): -100, str(chance.randrange(300, 40_000)): 3},
        "min_tokens": 20,
        "top_k": 50,
        "min_p": 0.02,
        **_sampling(chance),
    }


def _best_of_several(chance: random.Random, _: list[str]) -> tuple[str, Body]:
    return COMPLETIONS, {
        "prompt": _text(chance, _SHORT_WORDS),
        "best_of": 3,
        "max_tokens": chance.randrange(10, 40),
        **_sampling(chance),
    }


KINDS: tuple[Callable[[random.Random, list[str]], tuple[str, Body]], ...] = (
    _greedy_chat,
    _sampled_chat,
    _scored_chat,
    _stopped_chat,
    _question_on_a_document,
    _several_texts,
    _several_prompts,
    _continued_document,
    _scored_prompt,
    _edited_text,
    _best_of_several,
)
"""Makers of a path and a body, one for each kind of request."""
