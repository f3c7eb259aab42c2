"""Bounds on what a client may send, and the middleware that holds bodies to them."""

import asyncio
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stoker.core.errors import PayloadTooLargeError, QueueFullError, RequestTimeoutError


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiLimits:
    """Bounds on one request.

    Attributes:
        max_body_bytes: Largest body.
        max_bodies_bytes: Most bytes in the bodies of all requests that are being answered; one that is
            alone may have more.
        body_timeout_s: Longest time from asking for the body to its last byte.
        max_json_depth: Deepest nesting of arrays and objects in a body.
        max_messages: Most messages in one conversation.
        max_prompt_tokens: Most token ids in one prompt: the longest context that is served.
        max_prompts: Most prompts in one completion request.
        max_inputs: Most inputs to embed, documents to rank or texts to score in one request.
        embedding_places: Most of the inputs of one request that are computed or queued at a time.
        max_n: Largest `n`.
        max_choices: Most choices in one request: prompts times `n`, or `best_of`.
        max_scored_choices: Most texts that are scored as choices or labels.
        max_prompt_scores: Most log-probabilities that echoed prompts of one request may come with,
            alternatives and every choice counted; each prompt may have an equal share.
        max_grammar_bytes: Largest grammar of a request.
        max_schema_depth: Deepest nesting of arrays and objects in a JSON Schema.
        queue_timeout_s: Longest time in which a request must begin to be computed; None for no limit.
        request_timeout_s: Longest time in which it must be finished; None for no limit.
    """

    max_body_bytes: int = 10_000_000
    max_bodies_bytes: int = 512 * 2**20
    body_timeout_s: float = 30.0
    max_json_depth: int = 64
    max_messages: int = 4096
    max_prompt_tokens: int = 2**24
    max_prompts: int = 64
    max_inputs: int = 2048
    embedding_places: int = 16
    max_n: int = 16
    max_choices: int = 128
    max_scored_choices: int = 128
    max_grammar_bytes: int = 65_536
    max_schema_depth: int = 32
    queue_timeout_s: float | None = None
    request_timeout_s: float | None = None
    max_prompt_scores: int = 2**18


class BodyLimit:
    """ASGI middleware that bounds a body's size, the size of all together, and the time one takes.

    The wrapped application's `receive` raises; whoever translates errors into responses is outside.

    Args:
        app: The application within.
        limits: The bounds.
    """

    def __init__(self, app: ASGIApp, *, limits: ApiLimits) -> None:
        self._app = app
        self._limits = limits
        self._held_bytes = 0

    @property
    def held_bytes(self) -> int:
        """Bytes in the bodies of the requests that are being answered."""
        return self._held_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application.

        Raises:
            PayloadTooLargeError: ``content-length``, or what has arrived, is over the limit.
            QueueFullError: The bodies of all requests together are over their limit.
            RequestTimeoutError: The body was not complete in time.
        """
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit():
                self._check_size(int(value[:20]))
        limits = self._limits
        n_received = 0
        deadline_s: float | None = None
        complete = False

        async def bounded_receive() -> Message:
            nonlocal n_received, deadline_s, complete
            if complete:
                return await receive()
            if deadline_s is None:
                deadline_s = asyncio.get_running_loop().time() + limits.body_timeout_s
            try:
                async with asyncio.timeout_at(deadline_s):
                    message = await receive()
            except TimeoutError as error:
                raise RequestTimeoutError(
                    f"The request body did not arrive within {limits.body_timeout_s:g} s "
                    f"({n_received} bytes did). Send it faster, or send less."
                ) from error
            n_new = len(message.get("body", b""))
            n_received += n_new
            self._held_bytes += n_new
            self._check_size(n_received)
            self._check_all(n_received)
            complete = not message.get("more_body", False)
            return message

        try:
            await self._app(scope, bounded_receive, send)
        finally:
            self._held_bytes -= n_received

    def _check_all(self, n_own: int) -> None:
        n_others = self._held_bytes - n_own
        if n_others and self._held_bytes > self._limits.max_bodies_bytes:
            raise QueueFullError(
                f"The bodies of the requests being answered are over the limit of "
                f"{self._limits.max_bodies_bytes} bytes together. Try again later.",
                retry_after_s=1.0,
            )

    def _check_size(self, n_bytes: int) -> None:
        if n_bytes > self._limits.max_body_bytes:
            raise PayloadTooLargeError(
                f"The request body is over the limit of {self._limits.max_body_bytes} bytes. "
                "Send less at a time."
            )
