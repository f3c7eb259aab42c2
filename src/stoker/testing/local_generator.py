"""A `LocalGenerator` over a fake engine and a tokenizer whose tokens are bytes."""

from stoker.core.text import (
    Event,
    TextDelta,
    TextPrompt,
    TextRequest,
)
from stoker.testing.token_engine import FAKE_WIDTH, FakeTokenEngine, Step
from stoker.testing.tokenizer import BYTE_TEMPLATE, byte_tokenizer_spec
from stoker.text import ChatTemplate, LocalGenerator, Tokenizer

TOKENIZER = Tokenizer(byte_tokenizer_spec())
END = 258
"""Token that ends an answer."""

CONTEXT = 100
"""Tokens of prompt and answer that the model holds."""

REQUEST = TextRequest(request_id="r", model="m", prompt=TextPrompt("abc"), max_tokens=8)


def generator(
    engine: FakeTokenEngine,
    tokenizer: Tokenizer = TOKENIZER,
    context: int = CONTEXT,
    *,
    patience_s: float = 0.0,
) -> LocalGenerator:
    """Return a generator over `engine`."""
    return LocalGenerator(
        "m",
        engine,
        tokenizer,
        ChatTemplate(BYTE_TEMPLATE),
        context,
        width=FAKE_WIDTH,
        patience_s=lambda: patience_s,
    )


def saying(*pieces: str | int | Step) -> list[Step]:
    """Return a script whose pieces are one event each: text, a token id or a step."""
    return [
        list(piece.encode()) if isinstance(piece, str) else [piece] if isinstance(piece, int) else piece
        for piece in pieces
    ]


async def play(engine: FakeTokenEngine, request: TextRequest = REQUEST) -> list[Event]:
    """Return every event of a request."""
    return [event async for event in generator(engine).generate(request)]


def text_of(events: list[Event], choice: int = 0) -> str:
    """Return the text of one choice."""
    return "".join(each.text for each in events if isinstance(each, TextDelta) and each.choice == choice)
