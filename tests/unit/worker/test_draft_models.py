"""What a draft model's tokenizer must have in common with the served model's."""

from dataclasses import replace
from pathlib import Path

import pytest

from stoker.core.errors import SettingsError
from stoker.models import open_model
from stoker.models.config import TokenizerSpec
from stoker.models.token_bytes import NORMAL, UNUSED
from stoker.testing.gguf_files import write_tiny_llama
from stoker.worker.config import EngineConfig
from stoker.worker.native import load_native
from stoker.worker.native_drafts import check_tokens


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> TokenizerSpec:
    with open_model(write_tiny_llama(tmp_path_factory.mktemp("model") / "tiny.gguf")) as model:
        return model.tokenizer


def test_what_stands_unused_at_the_end_may_differ(spec: TokenizerSpec) -> None:
    padded = replace(
        spec,
        tokens=(*spec.tokens, "<pad 0>", "<pad 1>"),
        token_types=(*spec.token_types, UNUSED, UNUSED),
    )
    check_tokens(spec, spec)
    check_tokens(spec, padded)
    check_tokens(padded, spec)


def test_another_token_is_refused_by_its_number(spec: TokenizerSpec) -> None:
    other = replace(spec, tokens=(*spec.tokens[:40], "else", *spec.tokens[41:]))
    with pytest.raises(SettingsError, match=r"another tokenizer than the model: token 40 is 'else' there"):
        check_tokens(spec, other)


def test_further_tokens_are_refused(spec: TokenizerSpec) -> None:
    longer = replace(spec, tokens=(*spec.tokens, "more"), token_types=(*spec.token_types, NORMAL))
    for served, draft in ((spec, longer), (longer, spec)):
        with pytest.raises(SettingsError, match=f"{len(draft.tokens)} tokens, not {len(served.tokens)}"):
            check_tokens(served, draft)


def test_an_engine_refuses_before_it_loads_anything(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf")
    other = write_tiny_llama(tmp_path / "other.gguf", vocab_size=300)
    ending = tmp_path / "other-end.gguf"
    ending.write_bytes(other.read_bytes().replace(b"hell", b"bell"))
    config = EngineConfig(model_path=path, model="tiny", speculation="draft-model", draft_path=ending)
    with pytest.raises(SettingsError, match="another tokenizer"):
        load_native(config)
    loaded = load_native(
        EngineConfig(model_path=path, model="tiny", speculation="draft-model", draft_path=other)
    )
    loaded.close()


def test_layers_that_are_left_out(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", n_layers=5)
    config = EngineConfig(model_path=path, model="tiny", speculation="skip-layers", skip_layers="1-2")
    loaded = load_native(config)
    assert loaded.guesses is not None
    assert (loaded.guesses.skipped, loaded.guesses.cost) == ((1, 2), 0.6)
    assert loaded.engines == [loaded.engine]
    loaded.close()
