"""The state of one sequence."""

from dataclasses import dataclass, field

from stoker.core.grammar import Constraint
from stoker.core.pooling import PromptPool
from stoker.core.sampling import SamplingParams
from stoker.core.step import MAX_CALL_TOKENS, LogitEdits
from stoker.core.tokens import TokenRequest
from stoker.kvcache import Namespace, Parent


@dataclass(slots=True, eq=False, kw_only=True)
class SequenceState:
    """What the scheduler knows of one sequence, kept up to date step by step.

    A sequence has no phase. It wants its tokens computed, and a token is sampled whenever the last
    of them has been.

    Attributes:
        request_id: The request's id.
        order: (-priority, due, arrival): smaller is served first and preempted last. Due is the time of
            its arrival, later the more there is to compute (`BatchingPolicy.prompt_patience_s`).
        namespace: Parent of its first block in the prefix index.
        sampling: How its tokens are sampled.
        edits: What is done to its logits before that, with a history of its own; None for most.
        stop_token_ids: Tokens that end it.
        n_prompt: Tokens of the prompt.
        max_total: It ends when it has this many tokens.
        tokens: Prompt, then sampled tokens.
        n_computed: Tokens whose KV is in its blocks.
        table: Its block ids in order of position. Only changed while no step is in flight, except
            that `commit` may swap a block for an equal one when the forward is over.
        n_published: Leading blocks of `table` that are in the prefix index: all the full ones.
        n_cached: Prompt tokens that the prefix cache held at its first admission; None before.
        start_by: When it must have been admitted for the first time, on the caller's clock, or None.
        end_by: When it must have ended, likewise.
        n_top: Alternatives to report beside each score.
        candidates: What is scored after each of the prompt's last tokens; empty for the prompt's own tokens.
        n_scored: Leading prompt tokens after which nothing is to be scored any more. Preemption leaves it.
        n_to_score: What `n_scored` comes to in the end.
        pool: What is summed for its embedding; None if it wants none.
        single_until: Below this many tokens it takes single steps without drafts: it goes on where an engine
            has died, maybe of it; then every token that it can give should be told before that happens again.
        begun: Whether a token of it has been planned.
        waits_since: Since when it waits for blocks from the disk; None while it waits for none.
        asks_disk: Whether it may still do so.
        draft_states: What drafters remember of it.
        hold: When it ends it stays, holding its full blocks, until it is aborted.
        aborted: Aborted under a step in flight; its blocks are released when the step is over.
    """

    request_id: str
    order: tuple[int, float, int]
    namespace: Namespace
    sampling: SamplingParams
    edits: LogitEdits | None
    stop_token_ids: frozenset[int]
    n_prompt: int
    max_total: int
    tokens: list[int]
    n_computed: int = 0
    table: list[int] = field(default_factory=list)
    n_published: int = 0
    n_cached: int | None = None
    start_by: float | None = None
    end_by: float | None = None
    n_top: int = 0
    candidates: tuple[tuple[int, ...], ...] = ()
    n_scored: int = 0
    n_to_score: int = 0
    pool: PromptPool | None = None
    single_until: int = 0
    begun: bool = False
    waits_since: float | None = None
    asks_disk: bool = True
    draft_states: dict[type, object] = field(default_factory=dict)
    hold: bool = False
    aborted: bool = False

    @classmethod
    def of(
        cls,
        request: TokenRequest,
        *,
        arrival: int,
        root: str,
        now: float,
        constraint: Constraint | None = None,
    ) -> "SequenceState":
        """Return the state of a request that is submitted now as number `arrival`, and due now."""
        n_prompt = len(request.prompt)
        n_to_score = 0
        if request.prompt_logprobs is not None:
            n_to_score = n_prompt if request.candidates else n_prompt - 1
        return cls(
            request_id=request.request_id,
            order=(-request.priority, now, arrival),
            namespace=Namespace(
                root, request.cache_salt, "" if request.adapter is None else request.adapter.digest
            ),
            sampling=request.sampling,
            edits=LogitEdits.of(request, constraint),
            stop_token_ids=request.stop_token_ids,
            n_prompt=n_prompt,
            max_total=n_prompt + request.max_tokens,
            tokens=list(request.prompt),
            start_by=None if request.queue_timeout_s is None else now + request.queue_timeout_s,
            end_by=None if request.timeout_s is None else now + request.timeout_s,
            n_top=request.prompt_logprobs or 0,
            candidates=request.candidates,
            pool=None if request.pooling is None else PromptPool(request.pooling, n_prompt),
            single_until=n_prompt + MAX_CALL_TOKENS if request.n_generated else 0,
            n_scored=n_prompt - len(request.candidates) if request.candidates else 0,
            n_to_score=n_to_score,
            hold=request.hold,
        )

    def defer(self, seconds: float) -> None:
        """Let it be due later; only before it is queued."""
        priority, due, arrival = self.order
        self.order = (priority, due + seconds, arrival)

    @property
    def arrival(self) -> int:
        """Its number in the order of arrival."""
        return self.order[2]

    @property
    def parent(self) -> Parent:
        """What precedes its first unpublished block in the prefix index."""
        return self.table[self.n_published - 1] if self.n_published else self.namespace

    @property
    def wants_token(self) -> bool:
        """Whether a token is sampled when all that it has are computed; not if it is only scored."""
        return len(self.tokens) < self.max_total

    @property
    def wants_scores(self) -> bool:
        """Whether something is still to be scored after tokens of the prompt."""
        return self.n_scored < self.n_to_score

    @property
    def n_shareable(self) -> int:
        """How many leading tokens may come from others' blocks: none whose hidden state is still wanted."""
        if self.pool is not None:
            return min(self.pool.n_pooled, self.n_prompt - 1)
        return self.n_scored if self.wants_scores else len(self.tokens) - 1

    def yields_to(self, other: "SequenceState") -> bool:
        """Whether `other` has a higher priority (having arrived earlier is not enough)."""
        return other.order[0] < self.order[0]
