"""Which matrices have activations of 16 bits: the setting, and the rule that chooses by measured cost."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stoker import _native
from stoker.core.errors import SettingsError
from stoker.engine.native import NativeEngine, NativeEngineSettings, load_engine
from stoker.engine.native.activation_cost import (
    EVERYTHING,
    LOGITS_SHARE,
    Cost,
    choose,
    list_candidates,
    measure_costs,
    measure_divergence,
)
from stoker.engine.native.precision import (
    DEFAULT,
    MATRICES,
    Precise,
    apply_precise,
    choose_precise,
    describe,
)
from stoker.engine.native.shape import native_shape
from stoker.engine.native.sizing import scratch_bytes
from stoker.models.config import ModelConfig
from stoker.testing.native_models import fill, make_model
from stoker.testing.native_shapes import PLAIN, RANDOM, step
from stoker.testing.random_source import random_source

Floats = NDArray[np.float32]

EVERY_NAME = ",".join(MATRICES)

WINDOWS = [list(range(3, 40)), list(range(40, 60))]


def settings(**changes: object) -> NativeEngineSettings:
    fields = {
        "threads": 1,
        "kv_type": "f16",
        "context_length": 64,
        "step_tokens": 64,
        "max_running": 1,
    } | changes
    return NativeEngineSettings(kv_memory_bytes=1 << 20, **fields)  # type: ignore[arg-type]


def test_auto_is_the_documented_default() -> None:
    assert choose_precise("auto", PLAIN) == {Precise("v"), Precise("output")}
    assert describe(choose_precise("auto", PLAIN)) == DEFAULT


@pytest.mark.parametrize("text", ["none", "v,output", "q,down:0,down:1,output"])
def test_a_choice_is_described_as_it_is_set(text: str) -> None:
    assert describe(choose_precise(text, PLAIN)) == text


def test_order_and_blanks_do_not_matter() -> None:
    assert choose_precise("output, v", PLAIN) == choose_precise("v,output", PLAIN)


@pytest.mark.parametrize(
    "text", ["", "v,", "gates", "output:0", "down:", "down:-1", "down:99", "down:²", "router"]
)
def test_what_the_model_has_not_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="precise has"):
        choose_precise(text, PLAIN)


@pytest.mark.parametrize("config", RANDOM.values(), ids=RANDOM)
def test_shares_are_of_all_operations(config: ModelConfig) -> None:
    source = random_source(config, dtype="Q4_1")
    whole = dict(list_candidates(source, by_layer=False))
    assert sum(whole.values()) == pytest.approx(1)
    by_layer = dict(list_candidates(source, by_layer=True))
    for name in MATRICES:
        parts = [share for matrix, share in by_layer.items() if matrix.name == name]
        assert sum(parts) == pytest.approx(whole[Precise(name)])


def test_logits_count_for_answers_alone() -> None:
    shares = dict(list_candidates(random_source(PLAIN, dtype="Q4_1"), by_layer=False))
    ratio = PLAIN.vocab_size * PLAIN.width * LOGITS_SHARE / (PLAIN.n_layers * PLAIN.width * PLAIN.ffn_width)
    assert shares[Precise("output")] / shares[Precise("down")] == pytest.approx(ratio)


def test_matrices_of_floats_are_no_candidates() -> None:
    assert list(list_candidates(random_source(PLAIN, dtype="F16"), by_layer=False)) == []


def test_costs_are_measured_and_add_up() -> None:
    source = random_source(PLAIN, dtype="Q4_1")
    engine = load_engine(source, settings())
    costs = measure_costs(engine, source, WINDOWS, by_layer=False)
    assert [cost.matrix.name for cost in costs] == list(MATRICES)
    assert all(cost.kl > 0 for cost in costs)
    everything, nothing = measure_divergence(engine, source, WINDOWS, [EVERYTHING, frozenset()])
    assert everything == 0
    assert nothing == pytest.approx(sum(cost.kl for cost in costs), rel=0.5)


def whole(engine: NativeEngine) -> Floats:
    """Logits of a text in one step."""
    return step(engine, [(WINDOWS[0], 0, [0, 1, 2])])[0]


@pytest.mark.parametrize("config", RANDOM.values(), ids=RANDOM)
def test_16_bits_are_next_to_the_float_path(config: ModelConfig) -> None:
    if config.experts is not None:  # all are used: which ones come first may hang on the last bit
        experts = replace(config.experts, n_used=config.experts.n_experts)
        config = replace(config, experts=experts)
    source = random_source(config, dtype="Q4_1")
    right = whole(load_engine(source, settings(float_path=True, kv_type="auto")))
    error = {
        text: float(np.sqrt(np.mean((whole(load_engine(source, settings(precise=text))) - right) ** 2)))
        for text in ("none", EVERY_NAME)
    }
    # What is left is the rounding of keys and values to fp16.
    assert error[EVERY_NAME] < error["none"] / 4


@pytest.mark.parametrize("config", RANDOM.values(), ids=RANDOM)
def test_rows_at_16_bits_do_not_depend_on_their_number(config: ModelConfig) -> None:
    source = random_source(config, dtype="Q4_1")
    engine = load_engine(source, settings(precise=EVERY_NAME))
    together = whole(engine)
    tokens = WINDOWS[0]
    runs = [(tokens[:1], 0), (tokens[1:20], 1), (tokens[20:], 20)]
    apart = [step(engine, [(part, first, [2, 1, 0])])[0] for part, first in runs]
    assert np.array_equal(np.concatenate(apart), together)


@pytest.mark.parametrize("name", MATRICES[:-1])
def test_one_layers_matrix_is_one_layers(name: str) -> None:
    source = random_source(PLAIN, dtype="Q4_1")
    found = [
        whole(load_engine(source, settings(precise=text)))
        for text in ("none", f"{name}:0", f"{name}:1", f"{name}:0,{name}:1", name)
    ]
    assert PLAIN.n_layers == 2
    assert np.array_equal(found[3], found[4])
    for i in range(4):
        for j in range(i):
            assert not np.array_equal(found[i], found[j])


@pytest.mark.parametrize("text", ["none", "o", "down:0", "gate", "q,up", EVERY_NAME])
@pytest.mark.parametrize("config", RANDOM.values(), ids=RANDOM)
def test_what_is_counted_is_what_the_library_takes(config: ModelConfig, text: str) -> None:
    choice = choose_precise(text, config)
    model = _native.Model(
        native_shape(config, 64),
        isa="auto",
        n_threads=1,
        kv_blocks=5,
        max_step_tokens=37,
        max_step_seqs=3,
        float_path=False,
    )
    apply_precise(model, config, choice)
    assert model.step_bytes == scratch_bytes(config, step_tokens=37, max_running=3, threads=1, precise=choice)


def test_only_8_or_16_bits() -> None:
    model = make_model()
    assert [model.activation_bits(name, 0) for name in ("q", "v", "embedding", "down")] == [8, 16, 16, 8]
    for bits in (0, 4, 32):
        with pytest.raises(ValueError, match="8 or 16 bits"):
            model.set_activation_bits("q", 0, bits)
    with pytest.raises(ValueError, match="no matrix 'x'"):
        model.set_activation_bits("x", 0, 16)
    model.set_activation_bits("q", 0, 16)
    fill(model)  # the choice outlives the packing
    assert model.activation_bits("q", 0) == 16


def test_the_fingerprint_names_a_choice_of_ones_own() -> None:
    source = random_source(PLAIN, dtype="Q4_1")
    usual, same, other, third = (
        load_engine(source, settings(precise=text)).fingerprint
        for text in ("auto", "output,v", "none", "v,output,down:1")
    )
    assert usual == same
    assert len({usual, other, third}) == 3


costs_of = st.lists(
    st.builds(
        Cost,
        st.builds(Precise, st.sampled_from(MATRICES[:-1]), st.integers(0, 5)),
        st.floats(0, 1),
        st.floats(0.001, 1),
    ),
    unique_by=lambda cost: cost.matrix,
    max_size=12,
)


@given(costs_of, st.floats(0, 2))
def test_a_choice_meets_the_budget_and_nothing_in_it_is_spare(costs: list[Cost], budget: float) -> None:
    chosen = choose(costs, budget)
    left = sum(cost.kl for cost in costs if cost.matrix not in chosen)
    assert left <= budget + 1e-9
    for cost in costs:
        if cost.matrix in chosen:
            assert left + cost.kl > budget - 1e-9


def test_what_saves_most_for_its_operations_comes_first() -> None:
    down, output, gate = Precise("down"), Precise("output"), Precise("gate")
    costs = [Cost(down, 0.4, 0.25), Cost(output, 0.3, 0.03), Cost(gate, 0.3, 0.25)]
    assert choose(costs, 0.7) == {output}
    assert choose(costs, 0.5) == {output, down}
    assert choose(costs, 1.0) == frozenset()
    # Once all of `down` is needed, `output` is not.
    assert choose(costs, 0.6) == {down}
