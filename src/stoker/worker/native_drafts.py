"""Models that guess for one of the native engine's; imported only where there is one."""

from dataclasses import replace

from stoker.core.errors import SettingsError
from stoker.engine.native import NativeEngine, NativeEngineSettings, load_engine
from stoker.engine.native.loader import draft_settings, model_bytes
from stoker.engine.native.skipping import choose_skipped
from stoker.engine.native.work import model_work
from stoker.models.config import ModelConfig, TokenizerSpec
from stoker.models.opening import OpenedModel
from stoker.models.packs import PackFolder
from stoker.models.token_bytes import UNUSED
from stoker.worker.drafters import GuessingModel


def load_with_draft(
    source: OpenedModel, draft: OpenedModel, settings: NativeEngineSettings, packs: PackFolder | None
) -> tuple[NativeEngine, GuessingModel]:
    """Load a model, and a smaller one that guesses for it, into memory that they share.

    Raises:
        ModelError: They do not fit the memory.
        SettingsError: A setting does not go with them, or their tokenizers differ.
    """
    check_tokens(source.tokenizer, draft.tokenizer)
    of_draft = draft_settings(settings, draft.config.context_length)
    engine = load_engine(source, replace(settings, companion=model_bytes(draft, of_draft)), packs)
    works = [
        model_work(each.config, each.tensors.values(), settings.chosen_kv_type()) for each in (source, draft)
    ]
    return engine, GuessingModel(
        engine=load_engine(draft, replace(of_draft, kv_blocks=engine.kv_blocks), packs),
        context_length=of_draft.context_length,
        vocab_size=draft.config.vocab_size,
        cost=works[1].weight_bytes / works[0].weight_bytes,
    )


def without_layers(setting: str, model: ModelConfig, context_length: int) -> GuessingModel:
    """Return a model that guesses for itself without some layers.

    Args:
        setting: The setting ``skip_layers``.
        model: The model.
        context_length: Most tokens of its sequences.

    Raises:
        SettingsError: It has not these layers.
    """
    skipped = choose_skipped(setting, model.n_layers)
    return GuessingModel(
        skipped=skipped,
        context_length=context_length,
        vocab_size=model.vocab_size,
        cost=1.0 - len(skipped) / model.n_layers,
    )


def check_tokens(served: TokenizerSpec, draft: TokenizerSpec) -> None:
    """Refuse a draft model whose token ids are not the served model's.

    Raises:
        SettingsError: They are not.
    """
    advice = "give a draft model of the same family, whose tokenizer is the same"
    n_common = min(len(served.tokens), len(draft.tokens))
    for token_id, (own, other) in enumerate(zip(served.tokens, draft.tokens, strict=False)):
        if own != other:
            raise SettingsError(
                f"draft_model has another tokenizer than the model: token {token_id} is {other[:40]!r} there "
                f"and {own[:40]!r} here; {advice}"
            )
    longer = max(served.tokens, draft.tokens, key=len)
    types = served.token_types if longer is served.tokens else draft.token_types
    if any(each != UNUSED for each in types[n_common:]):
        raise SettingsError(
            f"draft_model has another tokenizer than the model: {len(draft.tokens)} tokens, not "
            f"{len(served.tokens)}; {advice}"
        )
