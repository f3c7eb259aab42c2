"""Penalties, biases and bans against the same in NumPy, and what they leave alone."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stoker._native import LogitEdits, kernels

Floats = NDArray[np.float32]
Sampled = tuple[int, float, list[tuple[int, float]]]


@dataclass(frozen=True)
class Edits:
    prompt: list[int] = field(default_factory=list)
    output: list[int] = field(default_factory=list)
    presence: float = 0.0
    frequency: float = 0.0
    repetition: float = 1.0
    biases: dict[int, float] = field(default_factory=dict)
    banned: list[int] = field(default_factory=list)
    allowed: frozenset[int] | None = None
    n_words: int = 2

    def native(self) -> LogitEdits:
        return of_rows([self])

    def apply(self, logits: Floats) -> Floats:
        """Penalties, then bias, then masks; one operation after the other in single precision."""
        edited = logits.copy()
        seen = np.unique(np.array(self.prompt + self.output, np.int64))
        repetition = np.float32(self.repetition)
        edited[seen] = np.where(edited[seen] > 0, edited[seen] / repetition, edited[seen] * repetition)
        generated, counts = np.unique(np.array(self.output, np.int64), return_counts=True)
        per_count = np.float32(self.frequency) * counts.astype(np.float32)
        edited[generated] -= per_count + np.float32(self.presence)
        for token, bias in self.biases.items():
            edited[token] += np.float32(bias)
        spared = None if self.allowed is None else self.allowed - set(self.banned)
        if spared is None or spared:
            edited[self.banned] = -np.inf
        if self.allowed is not None:
            edited[[token for token in range(len(logits)) if token not in self.allowed]] = -np.inf
        return edited

    def words(self) -> NDArray[np.uint32]:
        if self.allowed is None:
            return np.zeros(0, np.uint32)
        bits = np.zeros(32 * self.n_words, np.uint8)
        bits[list(self.allowed)] = 1
        return np.packbits(bits, bitorder="little").view("<u4").astype(np.uint32)


def of_rows(rows: list[Edits]) -> LogitEdits:
    def starts(runs: list[list[int]]) -> NDArray[np.int32]:
        return np.cumsum([0, *map(len, runs)], dtype=np.int32)

    def flat(runs: list[list[int]]) -> NDArray[np.int32]:
        return np.array([token for run in runs for token in run], np.int32)

    histories = [row.prompt + row.output for row in rows]
    biased = [list(row.biases) for row in rows]
    words = [row.words() for row in rows]
    return LogitEdits(
        rows=np.arange(len(rows), dtype=np.int32),
        presence=np.array([row.presence for row in rows], np.float32),
        frequency=np.array([row.frequency for row in rows], np.float32),
        repetition=np.array([row.repetition for row in rows], np.float32),
        n_prompt=np.array([len(row.prompt) for row in rows], np.int32),
        history=flat(histories),
        history_starts=starts(histories),
        bias_tokens=flat(biased),
        bias=np.array([bias for row in rows for bias in row.biases.values()], np.float32),
        bias_starts=starts(biased),
        banned=flat([row.banned for row in rows]),
        banned_starts=starts([row.banned for row in rows]),
        allowed=np.concatenate([np.zeros(0, np.uint32), *words]),
        allowed_starts=np.cumsum([0, *map(len, words)], dtype=np.int32),
    )


def random_logits(seed: int, n: int) -> Floats:
    return (np.random.default_rng(seed).standard_normal(n) * 5).astype(np.float32)


def sample(
    isa: str, logits: Floats, edits: LogitEdits | None, *, temperature: float = 0.0, seed: int = 0
) -> Sampled:
    return kernels.sample(isa, logits, temperature, 40, 0.95, 0.01, seed, 0, 7, 5, edits)


VOCAB = 40
TOKENS = st.integers(0, VOCAB - 1)
CASES = st.builds(
    Edits,
    prompt=st.lists(TOKENS, max_size=60),
    output=st.lists(TOKENS, max_size=60),
    presence=st.floats(-2, 2),
    frequency=st.floats(-2, 2),
    repetition=st.sampled_from([1.0, 0.01, 0.5, 1.1, 1.3, 100.0]),
    biases=st.dictionaries(TOKENS, st.floats(-100, 100), max_size=10),
    banned=st.lists(TOKENS, max_size=10),
    allowed=st.none() | st.frozensets(TOKENS, min_size=1),
)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(edits=CASES, seed=st.integers(0, 1000))
@example(edits=Edits(banned=list(range(VOCAB))), seed=1)
@example(edits=Edits(banned=[3, 3, 4], allowed=frozenset({3, 4})), seed=4)
@example(edits=Edits(banned=[3, 3], allowed=frozenset({3, 4}), biases={3: 100}), seed=5)
@example(edits=Edits(allowed=frozenset({VOCAB - 1})), seed=6)
@example(edits=Edits(prompt=[3], output=[3, 3], presence=1.0, frequency=0.5, repetition=1.2), seed=2)
def test_the_same_tokens_as_from_logits_edited_before(isa: str, edits: Edits, seed: int) -> None:
    logits = random_logits(seed, VOCAB)
    before = logits.copy()
    for temperature in (0.0, 0.7, 1.5):
        token, logprob, top = sample(isa, logits, edits.native(), temperature=temperature, seed=seed)
        assert token == sample(isa, edits.apply(logits), None, temperature=temperature, seed=seed)[0]
        # Log-probabilities are those of the raw logits, whatever was chosen.
        assert top == sample(isa, logits, None)[2]
        exact = logits.astype(np.float64) - logits.max()
        assert logprob == pytest.approx(exact[token] - np.log(np.exp(exact).sum()), rel=3e-7, abs=1e-6)
    assert (logits == before).all()


@pytest.mark.parametrize("n", [1, 17, 1025, 49152])
def test_long_histories_over_any_vocabulary(isa: str, n: int) -> None:
    random = np.random.default_rng(n)
    for seed in range(5):
        logits = random_logits(seed, n)
        favourites = np.argsort(-logits)[:50]
        edits = Edits(
            prompt=random.choice(favourites, 3000).tolist(),
            output=random.choice(favourites[:20], 1000).tolist(),
            presence=0.3,
            frequency=0.02,
            repetition=1.2,
        )
        for temperature in (0.0, 1.0):
            token = sample(isa, logits, edits.native(), temperature=temperature, seed=seed)[0]
            assert token == sample(isa, edits.apply(logits), None, temperature=temperature, seed=seed)[0]


def test_edits_that_ask_for_nothing_change_nothing(isa: str) -> None:
    logits = random_logits(3, 500)
    nothing = Edits(prompt=[1, 2, 3], output=[4, 5])
    for seed in range(30):
        plain = sample(isa, logits, None, temperature=1.0, seed=seed)
        assert sample(isa, logits, nothing.native(), temperature=1.0, seed=seed) == plain
        assert sample(isa, logits, of_rows([]), temperature=1.0, seed=seed) == plain


def test_biases_ban_and_force(isa: str) -> None:
    logits = random_logits(4, 300)
    best = int(logits.argmax())
    banning, forcing = Edits(biases={best: -100}).native(), Edits(biases={7: 100}).native()
    for temperature in (0.0, 1.0, 2.0):
        for seed in range(50):
            assert sample(isa, logits, banning, temperature=temperature, seed=seed)[0] != best
            assert sample(isa, logits, forcing, temperature=temperature, seed=seed)[0] == 7


@pytest.mark.parametrize("n", [1, 31, 32, 33, 500])
def test_nothing_is_chosen_that_is_not_allowed(isa: str, n: int) -> None:
    random = np.random.default_rng(n)
    for seed in range(30):
        logits = random_logits(seed, n)
        allowed = frozenset(random.choice(n, random.integers(1, n + 1), replace=False).tolist())
        edits = Edits(allowed=allowed, n_words=-(-n // 32), biases={int(logits.argmax()): 100.0}).native()
        for temperature in (0.0, 1.0, 2.0):
            assert sample(isa, logits, edits, temperature=temperature, seed=seed)[0] in allowed


@pytest.mark.parametrize("n", [1025, 49152])
@pytest.mark.parametrize("n_allowed", [1, 2, 60, 100, 1000])
def test_few_tokens_of_many_are_chosen_among_as_if_the_others_were_impossible(
    isa: str, n: int, n_allowed: int
) -> None:
    random = np.random.default_rng(n_allowed)
    for seed in range(5):
        logits = random_logits(seed, n)
        allowed = random.choice(n, n_allowed, replace=False).tolist()
        edits = Edits(
            allowed=frozenset(allowed), n_words=-(-n // 32), biases={allowed[0]: 3.0}, banned=allowed[1:2]
        )
        for temperature in (0.0, 1.0):
            token = sample(isa, logits, edits.native(), temperature=temperature, seed=seed)[0]
            assert token == sample(isa, edits.apply(logits), None, temperature=temperature, seed=seed)[0]


@pytest.mark.parametrize(
    ("allowed", "n_words"), [(frozenset({1}), 1), (frozenset({1}), 3), (frozenset({40}), 2), (frozenset(), 2)]
)
def test_masks_of_another_vocabulary_or_of_nothing_are_refused(
    isa: str, allowed: frozenset[int], n_words: int
) -> None:
    with pytest.raises(ValueError, match="a bit for each token"):
        sample(isa, np.zeros(40, np.float32), Edits(allowed=allowed, n_words=n_words).native())


def test_the_prompt_counts_for_the_repetition_penalty_alone(isa: str) -> None:
    logits = np.array([2.0, 1.9, -1.0], np.float32)
    in_prompt = Edits(prompt=[0], presence=2.0, frequency=2.0)
    assert sample(isa, logits, in_prompt.native())[0] == 0
    assert sample(isa, logits, replace(in_prompt, repetition=1.2).native())[0] == 1
    assert sample(isa, logits, Edits(output=[0], presence=0.2).native())[0] == 1
    assert sample(isa, logits, Edits(output=[0, 0, 1], frequency=0.2).native())[0] == 1


GOOD = Edits(prompt=[1, 2], output=[3], biases={4: 1.0}, banned=[5])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Edits(prompt=[-1]), "outside the vocabulary"),
        (Edits(output=[6]), "outside the vocabulary"),
        (Edits(biases={6: 1.0}), "outside the vocabulary"),
        (Edits(banned=[2**31 - 1]), "outside the vocabulary"),
    ],
)
def test_tokens_that_do_not_exist_are_refused(isa: str, wrong: Edits, message: str) -> None:
    logits = np.zeros(6, np.float32)
    assert sample(isa, logits, GOOD.native())[0] == 4
    with pytest.raises(ValueError, match=message):
        sample(isa, logits, wrong.native())


def test_rows_that_do_not_exist_are_refused(isa: str) -> None:
    with pytest.raises(ValueError, match="not in the batch"):
        sample(isa, np.zeros(6, np.float32), of_rows([GOOD, GOOD]))


ONE = np.zeros(1, np.int32)
CUTS = np.array([0, 1], np.int32)
ALL = np.array([63], np.uint32)
ARRAYS = {
    **dict.fromkeys(("rows", "n_prompt", "history", "bias_tokens", "banned"), ONE),
    **dict.fromkeys(("presence", "frequency", "repetition", "bias"), np.ones(1, np.float32)),
    "allowed": ALL,
    **dict.fromkeys(("history_starts", "bias_starts", "banned_starts", "allowed_starts"), CUTS),
}


@pytest.mark.parametrize("name", sorted(ARRAYS))
def test_arrays_that_do_not_fit_each_other_are_refused(name: str) -> None:
    LogitEdits(**ARRAYS)  # type: ignore[arg-type]  # each has its own element type
    with pytest.raises(ValueError, match="must"):
        LogitEdits(**ARRAYS | {name: np.zeros(3, ARRAYS[name].dtype)})  # type: ignore[arg-type]
    if name.endswith("starts"):
        for starts in ([0, 2], [1, 1], [0, -1]):
            with pytest.raises(ValueError, match="must ascend"):
                LogitEdits(**ARRAYS | {name: np.array(starts, np.int32)})  # type: ignore[arg-type]


def test_a_history_shorter_than_its_prompt_is_refused(isa: str) -> None:
    for n_prompt in (-1, 2):
        edits = LogitEdits(**ARRAYS | {"n_prompt": np.array([n_prompt], np.int32)})  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="shorter than its prompt"):
            sample(isa, np.zeros(6, np.float32), edits)
