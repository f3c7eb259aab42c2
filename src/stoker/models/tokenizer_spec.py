"""The tokenizer from a GGUF file's metadata."""

from math import isfinite

from stoker.core.errors import CorruptFileError, UnsupportedModelError
from stoker.models.config import SpacePrefix, TokenizerSpec
from stoker.models.gguf import Metadata
from stoker.models.word_rules import WHOLE_WORDS

TOKENIZER_KINDS = {"gpt2": "byte-level BPE", "llama": "SentencePiece-style BPE"}
"""The tokenizers that Stoker runs, in GGUF's spelling."""

END_TEXTS = frozenset(
    {
        "<|im_end|>",  # ChatML: end of a turn
        "<|eot_id|>",  # Llama 3: end of a turn
        "<|eom_id|>",  # Llama 3: end of a message that waits for a tool
        "<|end_of_text|>",  # Llama 3, Granite: end of a document
        "<|endoftext|>",  # GPT-2 and its descendants: end of a document
        "<|end_of_turn|>",  # OpenChat and others: end of a turn
        "<end_of_turn>",  # Gemma: end of a turn
        "<|return|>",  # gpt-oss: end of a turn
        "<|call|>",  # gpt-oss: end of a message that waits for a tool
    }
)
"""Control tokens that end a turn whatever the file's ``eos`` says.

Files often name one end token of several: a chat model's ``eos`` is the end of a turn, and it still
ends a document at times. A token counts only if its type is *control*, which no text of a user can
become. ``<|end|>`` is not among them: some formats end a message with it and go on with the next
one of the same turn.
"""

_ENDS_OF_ARCHITECTURE = {"phi3": frozenset({"<|end|>"})}
"""Control tokens that end a turn in one architecture's format."""

MAX_TEMPLATE_CHARS = 2**17
"""Most characters of a template; real ones have up to 20,000. Bounds the time to compile it."""

_BEGINS_BY_DEFAULT = frozenset({"llama3", "llama-v3", "llama-bpe", "tekken"})
"""Pre-tokenizers of families whose raw prompts begin with the begin token when the file is silent."""

_SPACE_PREFIXES: dict[str, SpacePrefix] = {
    "gemma": "none",
    "gemma2": "none",
    "gemma3": "none",
    "phi3": "prepend",
}
"""Where a SentencePiece-style tokenizer puts a space of its own, by architecture; elsewhere before
the text. A file says only whether it does (``tokenizer.ggml.add_space_prefix``)."""

_MERGED_BY_ID = frozenset({"gemma", "gemma2", "gemma3"})
"""Architectures whose scores are not in the order of their merges; the order of the tokens is."""

_STRIPPING = frozenset({"phi3"})
"""Architectures whose control tokens take the white space behind them along."""
_NOT_STRIPPING = frozenset({"<unk>", "<s>", "<|endoftext|>"})

_CONTROL, _USER_DEFINED = 3, 4
_MAX_TOKEN_TYPE = 6
_SPACE = "\u2581"


def read_tokenizer(label: str, metadata: Metadata) -> TokenizerSpec:
    """Read and check the tokenizer.

    Args:
        label: The file's name, for messages.
        metadata: The file's metadata.

    Raises:
        CorruptFileError: Parts are missing or contradict each other.
        UnsupportedModelError: A tokenizer that Stoker does not run, or no end token.
    """
    kind = metadata.text("tokenizer.ggml.model")
    if kind not in TOKENIZER_KINDS:
        known = ", ".join(f"{name} ({meaning})" for name, meaning in TOKENIZER_KINDS.items())
        raise UnsupportedModelError(f"{label} has a tokenizer of kind {kind[:80]!r}; Stoker runs {known}.")
    tokens = metadata.strings("tokenizer.ggml.tokens")
    types = metadata.integers("tokenizer.ggml.token_type")
    if len(types) != len(tokens) or not all(1 <= each <= _MAX_TOKEN_TYPE for each in types):
        raise CorruptFileError(
            f"{label}: tokenizer.ggml.token_type must hold one number from 1 to {_MAX_TOKEN_TYPE} "
            f"for each of the {len(tokens)} tokens."
        )
    architecture = metadata.text("general.architecture", "")
    byte_level = kind == "gpt2"
    pre = metadata.text("tokenizer.ggml.pre") if byte_level else ""
    bos = _token_id(label, metadata, "bos", len(tokens))
    return TokenizerSpec(
        kind="bpe" if byte_level else "spm",
        pre=pre,
        whole_words=pre in WHOLE_WORDS,
        space_prefix="none" if byte_level else _read_space_prefix(label, metadata, architecture),
        tokens=_respell_spaces(tokens, types) if architecture in _MERGED_BY_ID else tokens,
        token_types=types,
        merges=_read_merges(label, metadata) if byte_level else (),
        scores=() if byte_level else _read_scores(label, metadata, architecture, len(tokens)),
        rstrip_ids=_read_stripping(architecture, tokens, types),
        bos_token_id=bos,
        add_bos=_read_add_bos(label, metadata, bos, begins=not byte_level or pre in _BEGINS_BY_DEFAULT),
        end_token_ids=_read_end_ids(label, metadata, architecture, tokens, types),
        special_tokens=_read_special_tokens(label, metadata, tokens),
        chat_template=_read_template(label, metadata),
    )


def _read_space_prefix(label: str, metadata: Metadata, architecture: str) -> SpacePrefix:
    if metadata.flag("tokenizer.ggml.remove_extra_whitespaces", default=False):
        raise UnsupportedModelError(
            f"{label}: its tokenizer removes extra white space (tokenizer.ggml.remove_extra_whitespaces); "
            "Stoker runs only tokenizers that keep every space."
        )
    prefix = _SPACE_PREFIXES.get(architecture, "first")
    adds = metadata.flag("tokenizer.ggml.add_space_prefix", default=prefix != "none")
    if not adds:
        return "none"
    return "first" if prefix == "none" else prefix


def _respell_spaces(tokens: tuple[str, ...], types: tuple[int, ...]) -> tuple[str, ...]:
    """Spell the runs of spaces as in the other tokens; such files hold them as plain spaces."""
    return tuple(
        _SPACE * len(text) if kind == _USER_DEFINED and text and not text.strip(" ") else text
        for text, kind in zip(tokens, types, strict=True)
    )


def _read_scores(label: str, metadata: Metadata, architecture: str, n_tokens: int) -> tuple[float, ...]:
    scores = metadata.numbers("tokenizer.ggml.scores")
    if len(scores) != n_tokens or not all(map(isfinite, scores)):
        raise CorruptFileError(
            f"{label}: tokenizer.ggml.scores must hold one finite number for each of the {n_tokens} tokens."
        )
    return tuple(map(float, range(0, -n_tokens, -1))) if architecture in _MERGED_BY_ID else scores


def _read_stripping(architecture: str, tokens: tuple[str, ...], types: tuple[int, ...]) -> frozenset[int]:
    if architecture not in _STRIPPING:
        return frozenset()
    return frozenset(
        token_id
        for token_id, (text, kind) in enumerate(zip(tokens, types, strict=True))
        if kind == _CONTROL and text not in _NOT_STRIPPING
    )


def _read_special_tokens(label: str, metadata: Metadata, tokens: tuple[str, ...]) -> dict[str, str]:
    ids = {
        name: _token_id(label, metadata, role, len(tokens))
        for name, role in (("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"))
    }
    return {name: tokens[token_id] for name, token_id in ids.items() if token_id is not None}


def _token_id(label: str, metadata: Metadata, role: str, n_tokens: int) -> int | None:
    key = f"tokenizer.ggml.{role}_token_id"
    if key not in metadata:
        return None
    token_id = metadata.integer(key)
    if not 0 <= token_id < n_tokens:
        raise CorruptFileError(f"{label}: {key} is {token_id}, expected 0 to {n_tokens - 1}.")
    return token_id


def _read_merges(label: str, metadata: Metadata) -> tuple[str, ...]:
    merges = metadata.strings("tokenizer.ggml.merges")
    for index, merge in enumerate(merges):
        # The byte-level alphabet spells a space as another letter: the one space is the separator.
        left, _, right = merge.partition(" ")
        if not left or not right or " " in right:
            raise CorruptFileError(
                f"{label}: merge {index} is {merge[:80]!r}, expected two pieces with one space between them."
            )
    return merges


def _read_add_bos(label: str, metadata: Metadata, bos: int | None, *, begins: bool) -> bool:
    key = "tokenizer.ggml.add_bos_token"
    add_bos = metadata.flag(key, default=bos is not None and begins)
    if add_bos and bos is None:
        raise CorruptFileError(f"{label}: {key} is true, but there is no tokenizer.ggml.bos_token_id.")
    return add_bos


def _read_end_ids(
    label: str, metadata: Metadata, architecture: str, tokens: tuple[str, ...], types: tuple[int, ...]
) -> frozenset[int]:
    texts = END_TEXTS | _ENDS_OF_ARCHITECTURE.get(architecture, frozenset())
    named = {_token_id(label, metadata, role, len(tokens)) for role in ("eos", "eot", "eom")} - {None}
    known = {
        token_id
        for token_id, (text, kind) in enumerate(zip(tokens, types, strict=True))
        if kind == _CONTROL and text in texts
    }
    ends = frozenset(token_id for token_id in named | known if token_id is not None)
    if not ends:
        raise UnsupportedModelError(
            f"{label} names no end token (tokenizer.ggml.eos_token_id), so its answers would never end."
        )
    return ends


def _read_template(label: str, metadata: Metadata) -> str | None:
    key = "tokenizer.chat_template"
    if key not in metadata:
        return None
    template = metadata.text(key)
    if len(template) > MAX_TEMPLATE_CHARS:
        raise CorruptFileError(
            f"{label}: {key} has {len(template)} characters, expected at most {MAX_TEMPLATE_CHARS}."
        )
    return template
