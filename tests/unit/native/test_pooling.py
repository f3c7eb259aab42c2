"""Embeddings of the native engine: those of the reference, the same bytes however they are computed."""

from array import array
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stoker.core.errors import EngineError
from stoker.core.pooling import Pooling, PoolRun, PromptPool
from stoker.core.sampling import SamplingParams
from stoker.core.step import BLOCK_TOKENS, PromptScoring, StepPlan
from stoker.engine.native import NativeEngine, NativeEngineSettings, load_engine
from stoker.models import open_model
from stoker.testing.gguf_files import TinyOptions, write_tiny_llama
from stoker.testing.reference_forward import ReferenceForward
from stoker.testing.workloads import make_tokens

N_TOKENS = 70
TOKENS = list(make_tokens("pooled", N_TOKENS, vocab_size=60))
OTHERS = list(make_tokens("others", 30, vocab_size=60))
N_BLOCKS = -(-N_TOKENS // BLOCK_TOKENS)
BOTH = pytest.mark.parametrize("pooling", list(Pooling))


def load(path: Path, isa: str, *, threads: int = 1, float_path: bool = False) -> NativeEngine:
    settings = NativeEngineSettings(
        threads=threads,
        isa=isa,
        kv_memory_bytes=1 << 20,
        context_length=128,
        max_running=3,
        step_tokens=128,
        float_path=float_path,
    )
    with open_model(path) as model:
        return load_engine(model, settings)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("model") / "tiny.gguf", dtype="Q4_1")


def embed(
    engine: NativeEngine, pooling: Pooling, cuts: tuple[int, ...] = (), *, company: bool = False
) -> "array[float]":
    """Embed the tokens in chunks that end at `cuts`, alone or behind a sequence that samples and scores."""
    pool = PromptPool(pooling, N_TOKENS)
    bounds = (0, *cuts, N_TOKENS)
    for start, end in pairwise(bounds):
        plan = StepPlan()
        if company:
            plan.request_ids.append("other")
            plan.tokens.append(OTHERS)
            plan.first_positions.append(0)
            plan.block_tables.append([N_BLOCKS, N_BLOCKS + 1])
            plan.samples.append(True)
            plan.sampling.append(SamplingParams(temperature=0.0))
            plan.scoring[0] = PromptScoring(range(len(OTHERS) - 1), OTHERS[1:], 1)
        plan.request_ids.append("pooled")
        plan.tokens.append(TOKENS[start:end])
        plan.first_positions.append(start)
        plan.block_tables.append(list(range(N_BLOCKS)))
        plan.samples.append(False)
        plan.sampling.append(SamplingParams(temperature=0.0))
        row = len(plan.tokens) - 1
        if (run := pool.run(start, end)) is not None:
            plan.pooling[row] = run
        result = engine.forward(plan)
        assert result.sums.keys() == plan.pooling.keys()
        if run is not None:
            pool.take(result.sums[row], end)
    return pool.embedding()


class HiddenStates(ReferenceForward):
    """Keeps what stands before the output matrix."""

    hidden: NDArray[np.float64]

    def _norm(self, name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
        normed = super()._norm(name, x)
        if name == "output_norm":
            self.hidden = normed
        return normed


@BOTH
@pytest.mark.parametrize("options", [TinyOptions(), TinyOptions(n_layers=3, tied=False)], ids=["tied", "own"])
def test_the_float_path_gives_the_embedding_of_the_reference(
    tmp_path: Path, isa: str, pooling: Pooling, options: TinyOptions
) -> None:
    file = write_tiny_llama(tmp_path / "tiny.gguf", **options)
    with open_model(file) as model:
        reference = HiddenStates(model.config, model.tensors)
        reference.logits(tuple(TOKENS))
    expected = reference.hidden.sum(axis=0) if pooling is Pooling.MEAN else reference.hidden[-1]
    expected = expected / np.linalg.norm(expected)
    got = np.array(embed(load(file, isa, float_path=True), pooling))
    np.testing.assert_allclose(got, expected, atol=2e-5)


@BOTH
def test_weights_and_activations_in_8_bits_turn_it_little(path: Path, isa: str, pooling: Pooling) -> None:
    exact, coded = (np.array(embed(load(path, isa, float_path=on), pooling)) for on in (True, False))
    assert float(exact @ coded) > 0.99


@BOTH
@pytest.mark.parametrize("cuts", [(1,), (16, 32), (15, 33, 69), tuple(range(1, N_TOKENS))])
def test_chunks_company_and_threads_change_no_bit(
    path: Path, isa: str, pooling: Pooling, cuts: tuple[int, ...]
) -> None:
    one, two = load(path, isa, threads=1), load(path, isa, threads=2)
    expected = embed(one, pooling).tobytes()
    assert embed(one, pooling, cuts).tobytes() == expected
    assert embed(two, pooling).tobytes() == expected
    assert embed(two, pooling, cuts[:3], company=True).tobytes() == expected


def test_pooling_leaves_tokens_and_scores_as_they_are(path: Path, isa: str) -> None:
    engine = load(path, isa)
    results = []
    for pooled in (False, True):
        plan = StepPlan(
            request_ids=["a"],
            tokens=[TOKENS],
            first_positions=[0],
            block_tables=[list(range(N_BLOCKS))],
            samples=[True],
            sampling=[SamplingParams(seed=3, logprobs=2)],
            scoring={0: PromptScoring(range(len(TOKENS) - 1), TOKENS[1:], 2)},
            pooling={0: PoolRun(0, array("d"))} if pooled else {},
        )
        result = engine.forward(plan)
        results.append((result.token_ids, result.logprobs, result.scores))
    assert results[0] == results[1]


@pytest.mark.parametrize("first", [-1, N_TOKENS])
def test_rows_that_are_not_there_are_refused(path: Path, isa: str, first: int) -> None:
    engine = load(path, isa)
    plan = StepPlan(
        request_ids=["a"],
        tokens=[TOKENS],
        first_positions=[0],
        block_tables=[list(range(N_BLOCKS))],
        samples=[False],
        sampling=[SamplingParams()],
        pooling={0: PoolRun(first, array("d"))},
    )
    with pytest.raises(EngineError, match="rows to pool"):
        engine.forward(plan)
