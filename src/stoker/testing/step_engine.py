"""A deterministic engine without weights, which notices every mistake in paging.

It keeps a paged "KV cache" of its own. The entry of a token is a hash of *all entries before it*, as
a transformer's keys and values depend on everything before them; and both that hash and the sampled
token are made from what the memory holds where the block table points. So a wrong table, a block
reused too early or shared wrongly, or a token missed or computed twice gives other tokens than
`reference_tokens`, which uses no memory at all.
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b

from stoker.core.drafting import MAX_DRAFT_TOKENS
from stoker.core.errors import EngineError
from stoker.core.pooling import Pooling, PromptPool
from stoker.core.sampling import SamplingParams
from stoker.core.step import BLOCK_TOKENS, LogitEdits, PromptScoring, StepPlan, StepResult
from stoker.core.tokens import PromptScores, TokenLogprob, TokenRequest
from stoker.testing.forcing import constraint_of

DEFAULT_VOCAB_SIZE = 256


class FakeStepEngine:
    """A `StepEngine` whose tokens depend on exactly what the plan's blocks hold.

    Args:
        kv_blocks: KV blocks in all.
        vocab_size: Token ids are below this.
        before_forward: Called with each plan before it is computed; a test may record it, wait or
            raise there.
        before_step: Likewise before each further step of a plan of several, with the token of each row.

    Attributes:
        n_forwards: Plans computed.
        n_tokens: Tokens computed.
        progress: Grows with every step; a test may let it grow within one (`Progressing`).
        closed: Whether `close` was called.
    """

    def __init__(
        self,
        kv_blocks: int = 64,
        vocab_size: int = DEFAULT_VOCAB_SIZE,
        before_forward: Callable[[StepPlan], None] | None = None,
        before_step: Callable[[list[int]], None] | None = None,
    ) -> None:
        self._kv_blocks = kv_blocks
        self._vocab_size = vocab_size
        self._before_forward = before_forward
        self._before_step = before_step
        self._flag = bytearray(1)
        self._memory = array("Q", bytes(8 * kv_blocks * BLOCK_TOKENS))
        self.n_forwards = 0
        self.n_tokens = 0
        self.progress = 0
        self.closed = False

    @property
    def kv_blocks(self) -> int:
        """KV blocks in all; block ids in a plan are below this."""
        return self._kv_blocks

    @property
    def vocab_size(self) -> int:
        """Token ids are below this."""
        return self._vocab_size

    @property
    def fingerprint(self) -> str:
        """Names this fake and its vocabulary."""
        return f"fake-{self._vocab_size}"

    def forward(self, plan: StepPlan) -> StepResult:
        """Compute the plan's tokens into the memory and sample where the plan says so.

        Raises:
            EngineError: The plan is malformed, or computes a block that another sequence uses.
        """
        if self.closed:
            raise EngineError("the engine is closed")
        if self._before_forward is not None:
            self._before_forward(plan)
        _check_plan(plan, self._kv_blocks, self._vocab_size)
        self.n_forwards += 1
        self.n_tokens += plan.n_tokens
        self.progress += 1
        n_rows = len(plan.request_ids)
        result = StepResult([[] for _ in range(n_rows)], [[] for _ in range(n_rows)])
        for row in range(n_rows):
            states = self._compute(plan, row, plan.tokens[row], plan.first_positions[row])
            if (scoring := plan.scoring.get(row)) is not None:
                result.scores[row] = _score_all(states, scoring, self._vocab_size)
            if plan.samples[row]:
                self._sample_run(plan, row, states, result)
            if (run := plan.pooling.get(row)) is not None:
                result.sums[row] = _pool(states[run.first :], run.sums)
        n_steps = 1
        while n_steps < plan.n_steps and not self._flag[0] and not _any_ended(plan, result):
            if self._before_step is not None:
                self._before_step([sampled[-1] for sampled in result.token_ids])
            for row, sampled in enumerate(result.token_ids):
                position = plan.first_positions[row] + len(plan.tokens[row]) - 1 + n_steps
                (state,) = self._compute(plan, row, sampled[-1:], position)
                self._sample(plan, row, state, result)
            n_steps += 1
        return result

    def heed(self, flag: bytearray) -> None:
        """End a call of several steps after the step during which ``flag[0]`` is not 0."""
        self._flag = flag

    @property
    def max_draft_tokens(self) -> int:
        """Most tokens of a draft behind a run."""
        return MAX_DRAFT_TOKENS

    def _sample_run(self, plan: StepPlan, row: int, states: list[bytes], result: StepResult) -> None:
        """Sample after a run, and after each token of a draft at its end that is the one sampled before."""
        n_draft = plan.drafts.get(row, 0)
        draft = plan.tokens[row][len(states) - n_draft :]
        for guess, state in zip([*draft, None], states[len(states) - n_draft - 1 :], strict=True):
            self._sample(plan, row, state, result)
            if result.token_ids[row][-1] != guess:
                return

    def _sample(self, plan: StepPlan, row: int, state: bytes, result: StepResult) -> None:
        """Sample the next token of a row into the result."""
        edits = plan.edits.get(row)
        if edits is not None:
            edits = replace(edits, history=edits.history + array("i", result.token_ids[row]))
        token_id, logprob = _sample(state, plan.sampling[row], self._vocab_size, edits)
        result.token_ids[row].append(token_id)
        if logprob is not None:
            result.logprobs[row].append(logprob)

    @property
    def kv_block_bytes(self) -> int:
        """Bytes of a block."""
        return 8 * BLOCK_TOKENS

    def save_blocks(self, blocks: Sequence[int], slots: Sequence[int], memory: memoryview) -> None:
        """Copy blocks to the slots of `kv_block_bytes` each in `memory`."""
        if len(set(slots)) != len(slots):
            raise EngineError(f"two blocks are saved to one of the slots {slots}: a race in a real engine")
        for own, slot in self._pairs(blocks, slots, memory):
            slot[:] = own

    def load_blocks(self, blocks: Sequence[int], slots: Sequence[int], memory: memoryview) -> None:
        """Copy blocks back from the slots where they are."""
        if len(set(blocks)) != len(blocks):
            raise EngineError(f"one of the blocks {blocks} is loaded twice: a race in a real engine")
        for own, slot in self._pairs(blocks, slots, memory):
            own[:] = slot

    def _pairs(
        self, blocks: Sequence[int], slots: Sequence[int], memory: memoryview
    ) -> Iterator[tuple[memoryview, memoryview]]:
        size = self.kv_block_bytes
        own = memoryview(self._memory).cast("B")
        for block, slot in zip(blocks, slots, strict=True):
            if not (0 <= block < self._kv_blocks and 0 <= slot < len(memory) // size):
                raise EngineError(f"block {block} and slot {slot} are not both there")
            yield own[block * size : (block + 1) * size], memory[slot * size : (slot + 1) * size]

    def close(self) -> None:
        """Refuse further steps."""
        self.closed = True

    def _compute(self, plan: StepPlan, row: int, tokens: list[int], first_position: int) -> list[bytes]:
        """Return the state after each token; without all layers, what is left in the memory is not right."""
        table = plan.block_tables[row]
        states = []
        context = blake2b(digest_size=8)
        n_full, n_rest = divmod(first_position, BLOCK_TOKENS)
        for block in table[:n_full]:
            context.update(self._memory[block * BLOCK_TOKENS : (block + 1) * BLOCK_TOKENS].tobytes())
        if n_rest:
            start = table[n_full] * BLOCK_TOKENS
            context.update(self._memory[start : start + n_rest].tobytes())
        for position, token in enumerate(tokens, first_position):
            entry = _entry(context.digest(), token)
            slot = table[position // BLOCK_TOKENS] * BLOCK_TOKENS + position % BLOCK_TOKENS
            self._memory[slot] = entry ^ len(plan.skipped_layers)
            context.update(array("Q", [entry]).tobytes())
            states.append(context.digest())
        return states


def reference_scores(request: TokenRequest, vocab_size: int = DEFAULT_VOCAB_SIZE) -> list[TokenLogprob]:
    """Return the scores that a request's prompt must get from a `FakeStepEngine`, whatever else runs."""
    context = blake2b(digest_size=8)
    scores = []
    wanted: list[tuple[int, ...]] = [(token,) for token in request.prompt[1:]] + [()]
    if request.candidates:
        wanted = [()] * (len(request.prompt) - len(request.candidates)) + [*request.candidates]
    for token, targets in zip(request.prompt, wanted, strict=True):
        context.update(array("Q", [_entry(context.digest(), token)]).tobytes())
        n_top = request.prompt_logprobs or 0
        scores += [_score(context.digest(), target, n_top, vocab_size) for target in targets]
    return scores


def reference_embedding(request: TokenRequest) -> "array[float]":
    """Return the embedding that a request must get from a `FakeStepEngine`, whatever else runs."""
    context = blake2b(digest_size=8)
    states = []
    for token in request.prompt:
        context.update(array("Q", [_entry(context.digest(), token)]).tobytes())
        states.append(context.digest())
    wanted = states if request.pooling is Pooling.MEAN else states[-1:]
    pool = PromptPool(Pooling.MEAN, len(request.prompt))
    pool.take(_pool(wanted, array("d")), len(request.prompt))
    return pool.embedding()


def reference_tokens(request: TokenRequest, vocab_size: int = DEFAULT_VOCAB_SIZE) -> tuple[int, ...]:
    """Return the tokens that a request must get from a `FakeStepEngine`, whatever else runs."""
    context = blake2b(digest_size=8)
    for token in request.prompt:
        context.update(array("Q", [_entry(context.digest(), token)]).tobytes())
    output: list[int] = []
    constraint = constraint_of(request)
    while len(output) < request.max_tokens:
        edits = LogitEdits.of(request, constraint)
        if edits is not None:
            edits.history.extend(output)
        token, _ = _sample(context.digest(), request.sampling, vocab_size, edits)
        news = [token]
        if constraint is not None:
            constraint.advance(news)
            news += constraint.force(request.max_tokens - len(output) - 1)
        for token in news:
            output.append(token)
            if token in request.stop_token_ids:
                return tuple(output)
            context.update(array("Q", [_entry(context.digest(), token)]).tobytes())
    return tuple(output)


def _entry(state: bytes, token: int) -> int:
    return int.from_bytes(blake2b(state + token.to_bytes(8, "little"), digest_size=8).digest(), "little")


def _pool(states: list[bytes], sums: "array[float]") -> "array[float]":
    """Add eight values, made of each state, that are not added exactly: their order can be seen."""
    total = list(sums) or [0.0] * 8
    for state in states:
        total = [value + (byte - 127.5) / 3 for value, byte in zip(total, state, strict=True)]
    return array("d", total)


def _sample(
    state: bytes, sampling: SamplingParams, vocab_size: int, edits: LogitEdits | None
) -> tuple[int, TokenLogprob | None]:
    key = f"{sampling.seed}/{sampling.choice}" if sampling.temperature else "greedy"
    drawn = int.from_bytes(blake2b(state, key=key.encode(), digest_size=8).digest(), "little")
    token = drawn % vocab_size if edits is None else _edited(drawn, vocab_size, edits)
    if sampling.logprobs is None:
        return token, None
    top = tuple(((token + rank) % vocab_size, -0.5 - rank) for rank in range(sampling.logprobs))
    return token, TokenLogprob(-0.5, top)


def _score_all(states: list[bytes], scoring: PromptScoring, vocab_size: int) -> PromptScores:
    return PromptScores.of(
        [
            _score(states[row], target, scoring.n_top, vocab_size)
            for row, target in zip(scoring.rows, scoring.targets, strict=True)
        ],
        scoring.n_top,
    )


def _score(state: bytes, target: int, n_top: int, vocab_size: int) -> TokenLogprob:
    """Make values up that fit a C float exactly."""
    drawn = int.from_bytes(blake2b(state, key=b"score", digest_size=8).digest(), "little")
    top = tuple(((drawn + rank) % vocab_size, -rank / 64) for rank in range(n_top))
    return TokenLogprob(-((drawn + target) % 4096) / 64, top)


def _edited(drawn: int, vocab_size: int, edits: LogitEdits) -> int:
    """Choose another token for any other edits, and none that is banned, or that a grammar does not allow."""
    everything = f"{drawn} {edits}".encode()
    token = int.from_bytes(blake2b(everything, digest_size=8).digest(), "little") % vocab_size
    allowed = edits.allowed
    possible = [
        each for each in range(vocab_size) if not len(allowed) or allowed[each // 32] >> each % 32 & 1
    ]
    spared = [each for each in possible if each not in edits.banned]
    return next((each for each in spared or possible if each >= token), (spared or possible or [token])[0])


def _check_plan(plan: StepPlan, kv_blocks: int, vocab_size: int) -> None:
    n_rows = len(plan.request_ids)
    columns = (plan.tokens, plan.first_positions, plan.block_tables, plan.samples, plan.sampling)
    if not n_rows or any(len(column) != n_rows for column in columns):
        raise EngineError(f"a plan has {n_rows} request ids and {[len(column) for column in columns]} rows")
    for row in range(n_rows):
        _check_row(plan, row, kv_blocks, vocab_size)
    for row, edits in plan.edits.items():
        _check_edits(plan, row, edits, n_rows)
    for row, scoring in plan.scoring.items():
        _check_scoring(plan, row, scoring, n_rows)
    for row, run in plan.pooling.items():
        if not (0 <= row < n_rows and 0 <= run.first < len(plan.tokens[row])):
            raise EngineError(f"row {row}: tokens to pool from {run.first} are not there")
    _check_drafts(plan)
    _check_steps(plan)
    _check_writers(plan)


def _check_edits(plan: StepPlan, row: int, edits: LogitEdits, n_rows: int) -> None:
    if not (0 <= row < n_rows and plan.samples[row]):
        raise EngineError(f"logit edits for row {row}, which does not sample")
    run = plan.tokens[row][: len(plan.tokens[row]) - plan.drafts.get(row, 0)]
    end = plan.first_positions[row] + len(run)
    tail = edits.history[plan.first_positions[row] :].tolist()
    if len(edits.history) != end or tail != run or edits.n_prompt > end:
        raise EngineError(f"row {row}: the history of its logit edits is not that of its tokens")


def _any_ended(plan: StepPlan, result: StepResult) -> bool:
    return any(
        sampled[-1] in stops for sampled, stops in zip(result.token_ids, plan.stop_token_ids, strict=True)
    )


def _check_drafts(plan: StepPlan) -> None:
    for row, n_draft in plan.drafts.items():
        n_rows = len(plan.tokens)
        if not (0 <= row < n_rows and plan.samples[row] and 0 < n_draft < len(plan.tokens[row])):
            raise EngineError(f"row {row}: a draft of {n_draft} tokens behind a run that has or samples none")
        if n_draft > MAX_DRAFT_TOKENS or plan.n_steps > 1:
            raise EngineError(f"row {row}: a draft of {n_draft} tokens in a call of {plan.n_steps} steps")


def _check_steps(plan: StepPlan) -> None:
    if plan.n_steps == 1 and not plan.stop_token_ids:
        return
    if plan.n_steps < 1 or len(plan.stop_token_ids) != len(plan.request_ids):
        raise EngineError(f"{plan.n_steps} steps with the end tokens of {len(plan.stop_token_ids)} rows")
    if plan.scoring or plan.pooling or not all(plan.samples):
        raise EngineError(f"{plan.n_steps} steps of a plan that does more than decode")


def _check_scoring(plan: StepPlan, row: int, scoring: PromptScoring, n_rows: int) -> None:
    run = plan.tokens[row] if 0 <= row < n_rows else []
    rows, targets = list(scoring.rows), scoring.targets
    if not targets or len(rows) != len(targets) or rows != sorted(rows):
        raise EngineError(f"row {row}: {len(targets)} tokens to score after {rows}")
    if rows[0] < 0 or rows[-1] >= len(run):
        raise EngineError(f"row {row}: tokens to score after {rows[0]}..{rows[-1]} of {len(run)}")


def _check_row(plan: StepPlan, row: int, kv_blocks: int, vocab_size: int) -> None:
    tokens, first, table = plan.tokens[row], plan.first_positions[row], plan.block_tables[row]
    end = first + len(tokens) + plan.n_steps - 1
    if not tokens or first < 0 or end > len(table) * BLOCK_TOKENS:
        raise EngineError(f"row {row}: tokens {first}..{end} do not fit {len(table)} blocks")
    if not all(0 <= token < vocab_size for token in tokens):
        raise EngineError(f"row {row}: a token is outside the vocabulary of {vocab_size}")
    if not all(0 <= block < kv_blocks for block in table) or len(set(table)) != len(table):
        raise EngineError(f"row {row}: the table {table} is not of distinct blocks below {kv_blocks}")


def _check_writers(plan: StepPlan) -> None:
    """Refuse a block that one row writes while another uses it: a race in a real engine."""
    writer: dict[int, int] = {}
    for row, table in enumerate(plan.block_tables):
        first = plan.first_positions[row]
        end = first + len(plan.tokens[row]) + plan.n_steps - 1
        for block in table[first // BLOCK_TOKENS : -(-end // BLOCK_TOKENS)]:
            if writer.setdefault(block, row) != row:
                raise EngineError(f"rows {writer[block]} and {row} both write block {block}")
    for row, table in enumerate(plan.block_tables):
        for block in table:
            if writer.get(block, row) != row:
                raise EngineError(f"row {row} uses block {block}, which row {writer[block]} writes")
