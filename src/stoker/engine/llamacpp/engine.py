"""`LlamaCppEngine`: steps computed by llama.cpp's server, a completion of one token for each sequence."""

import time
from typing import Any, Protocol

import numpy as np

from stoker.core.errors import EngineError
from stoker.core.step import BLOCK_TOKENS, StepPlan, StepResult
from stoker.core.tokens import TokenLogprob
from stoker.engine.llamacpp.sampling import alternatives, completion, logprob_of, token_of
from stoker.engine.llamacpp.slots import Slot, SlotBook, Tokens, shared

FEW_ALTERNATIVES = 64
"""Looked through for a token that llama.cpp tells no probability of, before the whole vocabulary is."""

_TICKS_PER_S = 10


class Completions(Protocol):
    """Computes completions side by side; `CompletionClient` is one."""

    def complete(self, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return an answer to each request."""

    def close(self) -> None:
        """Let go of what leads to the server."""


class LlamaCppEngine:
    """A `StepEngine` and `Progressing`.

    llama.cpp's streams leave out the ids of tokens that end inside a character, so each step asks for one
    token of each sequence, whose id is always told. A slot keeps what was computed before, and llama.cpp
    computes the rows of a step together. The plan's blocks say which tokens a sequence has: this engine
    keeps token ids where others keep keys and values.

    Args:
        server: The wheel's server, which lives as long as this engine.
        client: How it is asked.
        fingerprint: Names weights, KV type and the wheel's version.
        n_slots: Slots of the server.
        kv_blocks: KV blocks that they may hold together.
        n_idle: Tokens of ended sequences that are kept for those that begin alike.
        vocab_size: Token ids are below this.
        end_token: A token that has no text.
    """

    def __init__(
        self,
        server: object,
        client: Completions,
        *,
        fingerprint: str,
        n_slots: int,
        kv_blocks: int,
        n_idle: int,
        vocab_size: int,
        end_token: int,
    ) -> None:
        self._vocab_size = vocab_size
        self._end_token = end_token
        self._server: object | None = server
        self._client = client
        self._fingerprint = fingerprint
        self._cells = np.zeros((kv_blocks, BLOCK_TOKENS), np.int32)
        self._slots = SlotBook(n_slots, kv_blocks * BLOCK_TOKENS, n_idle)

    @property
    def kv_blocks(self) -> int:
        """KV blocks in all; block ids in a plan are below this."""
        return len(self._cells)

    @property
    def fingerprint(self) -> str:
        """Names weights, KV type and the wheel's version."""
        return self._fingerprint

    @property
    def progress(self) -> int:
        """Tenths of a second that this process has computed: llama.cpp does not tell what it has done."""
        return int(time.process_time() * _TICKS_PER_S)

    def forward(self, plan: StepPlan) -> StepResult:
        """Compute the plan's tokens into their slots and sample where the plan says so.

        Raises:
            EngineError: The plan is not one that this engine can compute, llama.cpp refused it, or the
                engine is closed.
        """
        if self._server is None:
            raise EngineError("the engine is closed")
        if plan.scoring:
            raise EngineError("a plan scores a prompt, which llama.cpp's server does not do")
        histories = [self._history(plan, row) for row in range(len(plan.request_ids))]
        slots = self._slots.assign(plan.request_ids, histories, plan.samples)
        n_held = [shared(slot.tokens, history) for slot, history in zip(slots, histories, strict=True)]
        rows = [
            row
            for row, wanted in enumerate(plan.samples)
            # Of a chunk that another sequence left behind nothing need be computed now; what follows
            # it may be there, too, and would be lost if it was.
            if wanted or n_held[row] < len(histories[row])
        ]
        self._clear(self._slots.room_for([(slots[row], histories[row]) for row in rows]))
        answers = self._client.complete([self._body(plan, row, slots[row], histories[row]) for row in rows])
        for row in rows:
            slots[row].tokens = histories[row]
        tokens: list[list[int]] = [[] for _ in slots]
        logprobs: list[list[TokenLogprob]] = [[] for _ in slots]
        for row, answer in zip(rows, answers, strict=True):
            if plan.samples[row]:
                token = token_of(answer)
                tokens[row].append(token)
                if (n_top := plan.sampling[row].logprobs) is not None:
                    logprobs[row].append(
                        logprob_of(answer, token, n_top)
                        or self._logprob(slots[row], histories[row], token, n_top)
                    )
        return StepResult(tokens, logprobs, reused=_reused(plan, n_held))

    def begin(self) -> None:
        """Have a token computed: a server that is ended before its loop has begun would never end."""
        self._client.complete([completion(0, np.zeros(1, np.int32), None, None)])

    def close(self) -> None:
        """End the server's threads and free its memory."""
        self._server = None
        self._client.close()

    def _history(self, plan: StepPlan, row: int) -> Tokens:
        """Note the tokens of a row's run in its blocks, and return all its tokens up to them."""
        table, run, first = plan.block_tables[row], plan.tokens[row], plan.first_positions[row]
        end = first + len(run)
        if not run or end > len(table) * BLOCK_TOKENS or not all(0 <= b < self.kv_blocks for b in table):
            raise EngineError(f"the blocks of {plan.request_ids[row]} do not hold its {end} tokens")
        history: Tokens = self._cells[table].reshape(-1)[:end]
        history[first:] = run
        for block in range(first // BLOCK_TOKENS, -(-end // BLOCK_TOKENS)):
            part = history[block * BLOCK_TOKENS : (block + 1) * BLOCK_TOKENS]
            self._cells[table[block], : len(part)] = part
        return history

    def _body(self, plan: StepPlan, row: int, slot: Slot, history: Tokens) -> dict[str, Any]:
        sampled = plan.samples[row]
        return completion(
            slot.index,
            history,
            plan.sampling[row] if sampled else None,
            plan.edits.get(row) if sampled else None,
        )

    def _logprob(self, slot: Slot, history: Tokens, token: int, n_top: int) -> TokenLogprob:
        """Return what llama.cpp has not told beside a token: its likelihood, by asking again."""
        for n_asked in (max(n_top, FEW_ALTERNATIVES), self._vocab_size):
            (answer,) = self._client.complete([alternatives(slot.index, history, n_asked, self._end_token)])
            found = logprob_of(answer, token, n_top)
            if found is not None:
                return found
        raise EngineError(f"llama.cpp tells no probability of the token {token}")

    def _clear(self, slots: list[Slot]) -> None:
        """Let slots hold a single token, which is the least that they can."""
        if slots:
            nothing = np.zeros(1, np.int32)
            self._client.complete(
                [completion(slot.index, nothing, None, None) | {"cache_prompt": False} for slot in slots]
            )


def _reused(plan: StepPlan, n_held: list[int]) -> dict[int, int]:
    """Return how much of each run its slot had before: a prefix that it shares with an earlier sequence."""
    reused = {}
    for row, (run, first, sampled) in enumerate(
        zip(plan.tokens, plan.first_positions, plan.samples, strict=True)
    ):
        n_skipped = min(n_held[row] - first, len(run) - sampled)  # a sampled token's logits are computed
        if n_skipped > 0:
            reused[row] = n_skipped
    return reused
