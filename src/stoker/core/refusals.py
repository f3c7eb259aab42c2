"""Refusal of what an engine lacks, by the name of the request's field."""

from collections.abc import Iterable
from contextlib import suppress

from stoker.core.abilities import Ability
from stoker.core.errors import NotReadyError, UnsupportedFieldError
from stoker.core.protocols import EngineInfo, TokenEngine
from stoker.core.tokens import TokenRequest


def refuse_if_known(
    requests: Iterable[TokenRequest], engine: TokenEngine, *, scores_field: str | None = None
) -> None:
    """Refuse requests as `refuse_lacking`, if an engine has said what it lacks.

    Without a ready one nothing is known, and whoever streams is told so.
    """
    with suppress(NotReadyError):
        info = engine.info
        for request in requests:
            refuse_lacking(request, info, scores_field=scores_field)


def refuse_lacking(request: TokenRequest, engine: EngineInfo, *, scores_field: str | None = None) -> None:
    """Refuse a request that needs something its engine cannot do.

    Args:
        request: What an engine is asked for.
        engine: What it has said of itself.
        scores_field: The field that asks for scores, where that is known; else the likeliest is named.

    Raises:
        UnsupportedFieldError: It names the field as clients spell it, the model and the engine.
    """
    grammar = request.grammar
    needs = (
        (
            Ability.PROMPT_SCORES,
            scores_field or ("choices" if request.candidates else "echo"),
            request.prompt_logprobs is not None,
        ),
        (Ability.POOLING, "input", request.pooling is not None),
        (Ability.SALTED_PREFIXES, "cache_salt", bool(request.cache_salt)),
        (Ability.ADAPTERS, "model", request.adapter is not None),
        (Ability.SHARED_BLOCKS, "pins", request.hold),
        (Ability.PENALTY_BEFORE_BIAS, "repetition_penalty", request.sampling.penalizes_before_bias),
        (Ability.GRAMMARS, "" if grammar is None else grammar.field, grammar is not None),
    )
    for ability, field, needed in needs:
        if needed and ability in engine.lacks:
            raise UnsupportedFieldError(
                f"Unsupported parameter for the model '{engine.model}': {_USES[ability]}. Its engine is "
                f"{engine.engine}, which does not {ability}.",
                param=field,
            )


_USES = {
    Ability.GRAMMARS: "structured output ('response_format', 'structured_outputs', 'guided_…')",
    Ability.PROMPT_SCORES: "scores of given tokens ('echo' with 'logprobs', 'choices', 'labels')",
    Ability.POOLING: "an 'input' for embeddings",
    Ability.SALTED_PREFIXES: "'cache_salt'",
    Ability.ADAPTERS: "an adapter as 'model'",
    Ability.SHARED_BLOCKS: "pinned prefixes",
    Ability.PENALTY_BEFORE_BIAS: "'repetition_penalty' together with 'logit_bias', 'presence_penalty' or "
    "'frequency_penalty'",
}
"""What of a request needs an ability."""
