"""Runs cases on the native engine, without scheduler and HTTP, and times the phases of their steps."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stoker.core.errors import OutOfMemoryError, SettingsError
from stoker.core.sampling import SamplingParams
from stoker.core.step import BLOCK_TOKENS, StepPlan
from stoker.engine.native import NativeEngine, NativeEngineSettings, load_engine
from stoker.measure.cases import Case
from stoker.measure.step_work import PHASES, Run, Work, step_work
from stoker.models import open_model
from stoker.models.config import ModelConfig
from stoker.models.huggingface.files import Quantize
from stoker.models.packs import PackFolder

WARM_UP_S = 0.2
MAX_WARM_STEPS = 64

_GREEDY = SamplingParams(temperature=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How the engine is loaded and its steps are timed.

    Attributes:
        threads: Compute threads.
        isa: Instruction-set path, or ``auto``.
        kv_type: How keys and values are held, or ``auto``.
        quantize: How weights of a folder are held whose tensors are floats.
        step_tokens: Most tokens of one step; longer prompts take several.
        n_repeats: Timed repeats of a prefill.
        n_steps: Timed steps of a decode.
    """

    threads: int
    isa: str = "auto"
    kv_type: str = "auto"
    quantize: Quantize = "none"
    step_tokens: int = 512
    n_repeats: int = 3
    n_steps: int = 24


@dataclass(slots=True)
class Timed:
    """One case's times.

    Attributes:
        case: The case.
        steps: What a repeat computes: the runs of each step, the last of which samples after each run.
        total_s: Seconds of every repeat, as its caller sees it.
        wall_s: Of every repeat, the seconds of each phase.
        idle_s: Likewise those that threads were idle, all of them together.
    """

    case: Case
    steps: list[list[Run]]
    total_s: list[float] = field(default_factory=list)
    wall_s: list[dict[str, float]] = field(default_factory=list)
    idle_s: list[dict[str, float]] = field(default_factory=list)


class EngineRunner:
    """A loaded engine whose sequences' KV blocks lie one after the other.

    Args:
        path: The model's file or folder.
        options: How it is loaded.
        cases: What will be run; the KV cache has room for any of them.
        packs: Where packs are kept; None for nowhere.

    Raises:
        StokerError: The model cannot be loaded, or a case is longer than its context.
    """

    def __init__(
        self, path: Path, options: EngineOptions, cases: Sequence[Case], packs: PackFolder | None
    ) -> None:
        self._options = options
        with open_model(path, options.quantize) as source:
            self.config: ModelConfig = source.config
            longest = max(_longest(case, options) for case in cases)
            if longest > self.config.context_length:
                raise SettingsError(
                    f"--cases: the longest needs {longest:,} tokens of context, but the model was made for "
                    f"{self.config.context_length:,}"
                )
            n_seqs = max(1, *(case.n_seqs for case in cases))
            self.engine: NativeEngine = load_engine(
                source,
                NativeEngineSettings(
                    threads=options.threads,
                    isa=options.isa,
                    kv_type=options.kv_type,
                    context_length=longest,
                    max_running=n_seqs,
                    step_tokens=max(options.step_tokens, n_seqs),
                ),
                packs,
            )
        n_blocks = max(max(1, case.n_seqs) * _blocks(_longest(case, options)) for case in cases)
        if n_blocks > self.engine.kv_blocks:
            raise OutOfMemoryError(
                f"--cases: the largest needs {n_blocks:,} KV blocks, but there is memory for "
                f"{self.engine.kv_blocks:,}: name smaller ones"
            )
        self.kv_token_bytes = self.engine.kv_block_bytes / BLOCK_TOKENS

    def run(self, case: Case) -> Timed:
        """Time a case."""
        return self._prefill(case) if case.n_seqs == 0 else self._decode(case)

    def work(self, timed: Timed) -> dict[str, Work]:
        """Return what one repeat of a case has to compute and to read, by phase."""
        total = dict.fromkeys(PHASES, Work())
        for i, runs in enumerate(timed.steps):
            n_sampled = len(runs) if i + 1 == len(timed.steps) else 0
            step = step_work(self.config, self.engine.matrix, self.kv_token_bytes, runs, n_sampled)
            total = {phase: total[phase] + step[phase] for phase in PHASES}
        return total

    def _prefill(self, case: Case) -> Timed:
        longest = _longest(case, self._options)
        chunks = _chunks(case.n_tokens, self._options.step_tokens)
        timed = Timed(case, [[chunk] for chunk in chunks])
        self._steps(range(1), chunks, longest)
        for _ in range(self._options.n_repeats):
            self._time(timed, range(1), chunks, longest)
        return timed

    def _decode(self, case: Case) -> Timed:
        longest = _longest(case, self._options)
        for s in range(case.n_seqs):
            self._steps(range(s, s + 1), _chunks(case.n_tokens, self._options.step_tokens), longest)
        sequences = range(case.n_seqs)
        began_s, position = time.perf_counter(), case.n_tokens
        while position < case.n_tokens + MAX_WARM_STEPS and time.perf_counter() - began_s < WARM_UP_S:
            self._steps(sequences, [Run(position, 1)], longest)
            position += 1
        middle = Run(position + self._options.n_steps // 2, 1)
        timed = Timed(case, [[middle for _ in sequences]])
        for i in range(self._options.n_steps):
            self._time(timed, sequences, [Run(position + i, 1)], longest)
        return timed

    def _time(self, timed: Timed, sequences: range, runs: list[Run], longest: int) -> None:
        self.engine.time_phases()
        timed.total_s.append(self._steps(sequences, runs, longest))
        times = self.engine.phase_times()
        timed.wall_s.append({phase: wall_s for phase, (wall_s, _) in times.items()})
        timed.idle_s.append({phase: idle_s for phase, (_, idle_s) in times.items()})

    def _steps(self, sequences: range, runs: Sequence[Run], longest: int) -> float:
        """Compute these runs of every sequence, a step each, and sample after the last; return seconds."""
        n_blocks = _blocks(longest)
        seconds = 0.0
        for i, run in enumerate(runs):
            plan = StepPlan(
                request_ids=[str(s) for s in sequences],
                tokens=[self._tokens(s, run) for s in sequences],
                first_positions=[run.first] * len(sequences),
                block_tables=[list(range(s * n_blocks, (s + 1) * n_blocks)) for s in sequences],
                samples=[i + 1 == len(runs)] * len(sequences),
                sampling=[_GREEDY] * len(sequences),
            )
            began_s = time.perf_counter()
            self.engine.forward(plan)
            seconds += time.perf_counter() - began_s
        return seconds

    def _tokens(self, sequence: int, run: Run) -> list[int]:
        """Return synthetic token ids, others for every sequence."""
        last = run.first + run.n_tokens
        return [(100 + sequence * 31 + i * 7) % self.config.vocab_size for i in range(run.first, last)]


def _longest(case: Case, options: EngineOptions) -> int:
    """Return the tokens of context that a case needs."""
    return case.n_tokens + (MAX_WARM_STEPS + options.n_steps if case.n_seqs else 0)


def _blocks(n_tokens: int) -> int:
    return -(-n_tokens // BLOCK_TOKENS)


def _chunks(n_tokens: int, step_tokens: int) -> list[Run]:
    return [Run(at, min(step_tokens, n_tokens - at)) for at in range(0, n_tokens, step_tokens)]
