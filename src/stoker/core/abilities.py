"""What not every engine can do. An engine announces what it lacks; whoever needs that is refused by name."""

from enum import StrEnum


class Ability(StrEnum):
    """Something that an engine may lack; the value completes "it does not …"."""

    PROMPT_SCORES = "score the tokens of a prompt"
    """`TokenRequest.prompt_logprobs`."""

    POOLING = "make embeddings"
    """`TokenRequest.pooling`."""

    PENALTY_BEFORE_BIAS = "apply a repetition penalty before biases and other penalties"
    """`repetition_penalty` together with `logit_bias`, `presence_penalty` or `frequency_penalty`."""

    SALTED_PREFIXES = "keep the prefixes of different salts apart"
    """`cache_salt`."""

    SHARED_BLOCKS = "share the KV blocks of a prefix among sequences"
    """Pinned prefixes; and the scheduler of an engine that lacks it finds nothing in its index."""

    GRAMMARS = "hold an answer to a grammar"
    """`response_format` and its like."""
    ADAPTERS = "apply adapters"
    """`TokenRequest.adapter`."""

    RESUMPTION = "continue another one's stream with the tokens that would have come"
    """Streams of an engine that lacks it end with an error when it dies, unless they had no token yet."""
