"""A prompt to token ids, checked against the context."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, assert_never

from stoker.core.errors import ContextLengthError, InvalidRequestError
from stoker.core.text import ChatPrompt, Prompt, TextPrompt, TextRequest, TokensPrompt
from stoker.text.chat import ChatEncoder
from stoker.text.template import ChatTemplate
from stoker.text.tokenizer import Tokenizer

THREAD_CHARS = 16_000
"""Prompts above this size are rendered and tokenized in a thread: a few milliseconds on the event
loop stall every stream."""

ENCODING_THREADS = 2
"""Long prompts encoded at the same time: tokenizing takes hundreds of bytes for each of text."""

Given = TypeVar("Given")
Made = TypeVar("Made")

_MESSAGE_CHARS = 64
"""What a message counts beside its content: a template's work on it."""


class PromptEncoder:
    """Turns prompts into token ids.

    Args:
        tokenizer: The model's tokenizer.
        template: The model's chat template, or None when it has no chat format.
        context_length: Most tokens of prompt and output together; a text that is certain to be
            longer is refused without being tokenized.
    """

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate | None, context_length: int) -> None:
        self._tokenizer = tokenizer
        self._context_length = context_length
        # Its own threads, not `asyncio.to_thread`'s: a cancelled request frees its place in a
        # semaphore at once, but its encoding runs on.
        self._threads = ThreadPoolExecutor(ENCODING_THREADS, thread_name_prefix="encode")
        self._chat = ChatEncoder(template, tokenizer) if template is not None else None

    async def encode(self, prompt: Prompt) -> list[int]:
        """Return the prompt's token ids, at least one.

        Raises:
            InvalidRequestError: The prompt is empty or the model cannot take it.
            ContextLengthError: The prompt is certain to exceed the context.
        """
        ids = await self.tokenize(prompt)
        if not ids:
            raise InvalidRequestError(
                "The prompt is empty, and this model has no token to begin with. Send some text.",
                param=prompt_field(prompt),
            )
        return ids

    async def encode_at(self, prompt: Prompt, path: str) -> list[int]:
        """Encode a prompt of a request whose field `path` it is; raises as `encode`, with that name."""
        try:
            return await self.encode(prompt)
        except ContextLengthError as error:
            raise ContextLengthError(str(error), param=path) from error
        except InvalidRequestError as error:
            raise InvalidRequestError(str(error), param=path, code=error.code) from error

    async def tokenize(self, prompt: Prompt) -> list[int]:
        """Return the prompt's token ids; none for an empty text that nothing goes before.

        Raises:
            InvalidRequestError: The model cannot take the prompt.
            ContextLengthError: The prompt is certain to exceed the context.
        """
        return await self.run(_size(prompt), self._encode, prompt)

    async def run(self, size: int, work: Callable[[Given], Made], given: Given) -> Made:
        """Do some work at once, or in the encoder's threads if it is on more than `THREAD_CHARS`."""
        if size > THREAD_CHARS:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, given)
        return work(given)

    def _encode(self, prompt: Prompt) -> list[int]:
        match prompt:
            case ChatPrompt():
                if self._chat is None:
                    raise InvalidRequestError(
                        "This model has no chat template, so it cannot take messages. "
                        "Send a text prompt (completions) instead.",
                        param="messages",
                    )
                ids = self._chat.encode(prompt, lambda text: self._check_length(text, "messages"))
            case TextPrompt(text):
                self._check_length(text, "prompt")
                ids = self.beginning(prompt) + self._tokenizer.encode(text)
            case TokensPrompt(token_ids):
                ids = self._check_ids(token_ids)
            case _:
                assert_never(prompt)
        return ids

    def beginning(self, prompt: Prompt) -> list[int]:
        """Return the tokens that go before a prompt's own."""
        begin = self._tokenizer.bos_token_id
        wanted = isinstance(prompt, TextPrompt) and prompt.add_special_tokens
        return [begin] if wanted and self._tokenizer.add_bos and begin is not None else []

    def _check_length(self, text: str, field: str) -> None:
        n_tokens = self._tokenizer.min_tokens(text)
        if n_tokens >= self._context_length:
            raise ContextLengthError(
                f"The prompt has {n_tokens} tokens or more, the context holds {self._context_length} and "
                "needs room for at least one more: shorten the prompt by at least "
                f"{n_tokens + 1 - self._context_length} tokens.",
                param=field,
            )

    def _check_ids(self, token_ids: tuple[int, ...]) -> list[int]:
        size = self._tokenizer.vocab_size
        for index, token_id in enumerate(token_ids):
            if not 0 <= token_id < size:
                raise InvalidRequestError(
                    f"prompt[{index}] is token id {token_id}, expected 0 to {size - 1}.", param="prompt"
                )
        return list(token_ids)


def prompt_field(prompt: Prompt) -> str:
    """Return the request's field that the prompt came in."""
    return "messages" if isinstance(prompt, ChatPrompt) else "prompt"


def output_room(request: TextRequest, n_prompt: int, context_length: int) -> int:
    """Return how many tokens may be generated.

    Args:
        request: Its `max_tokens` counts, None is the rest of the context.
        n_prompt: Tokens of the prompt.
        context_length: Most tokens of prompt and output together.

    Raises:
        ContextLengthError: They do not fit; the message says by how much.
        InvalidRequestError: `max_tokens` is not positive, and not 0 with `echo`.
    """
    wanted = request.max_tokens
    least = 0 if request.echo else 1
    if wanted is not None and wanted < least:
        raise InvalidRequestError(f"max_tokens is {wanted}, expected at least {least}.", param="max_tokens")
    room = context_length - n_prompt
    if room < 1 and not (room == wanted == 0):
        raise ContextLengthError(
            f"The prompt has {n_prompt} tokens, the context holds {context_length} and needs room for at "
            f"least one more: shorten the prompt by {1 - room} tokens.",
            param=prompt_field(request.prompt),
        )
    if wanted is None:
        return room
    if wanted > room:
        raise ContextLengthError(
            f"The prompt has {n_prompt} tokens and max_tokens asks for {wanted} more, "
            f"{n_prompt + wanted} together; the context holds {context_length}. Lower max_tokens or "
            f"shorten the prompt by {wanted - room} tokens.",
            param="max_tokens",
        )
    return wanted


def _size(prompt: Prompt) -> int:
    match prompt:
        case ChatPrompt(messages):
            return sum(map(len, prompt.texts)) + _MESSAGE_CHARS * len(messages)
        case TextPrompt(text):
            return len(text)
        case TokensPrompt(token_ids):
            return len(token_ids)
        case _:
            assert_never(prompt)
