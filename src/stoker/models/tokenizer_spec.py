"""The tokenizer from a GGUF file's metadata."""

from stoker.core.errors import CorruptFileError, UnsupportedModelError
from stoker.models.config import TokenizerSpec
from stoker.models.gguf import Metadata

TOKENIZER_KINDS = {"gpt2": "byte-level BPE"}
"""The tokenizers that Stoker runs, in GGUF's spelling."""

END_TEXTS = frozenset(
    {
        "<|im_end|>",  # ChatML: end of a turn
        "<|eot_id|>",  # Llama 3: end of a turn
        "<|eom_id|>",  # Llama 3: end of a message that waits for a tool
        "<|end_of_text|>",  # Llama 3, Granite: end of a document
        "<|endoftext|>",  # GPT-2 and its descendants: end of a document
        "<|end_of_turn|>",  # OpenChat and others: end of a turn
    }
)
"""Control tokens that end a turn whatever the file's ``eos`` says.

Files often name one end token of several: a chat model's ``eos`` is the end of a turn, and it still
ends a document at times. A token counts only if its type is *control*, which no text of a user can
become. ``<|end|>`` is not among them: some formats end a message with it and go on with the next
one of the same turn.
"""

MAX_TEMPLATE_CHARS = 2**20

_BEGINS_BY_DEFAULT = frozenset({"llama3", "llama-v3", "llama-bpe"})
"""Pre-tokenizers of families whose raw prompts begin with the begin token when the file is silent."""

_CONTROL = 3
_MAX_TOKEN_TYPE = 6


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
    pre = metadata.text("tokenizer.ggml.pre")
    bos = _token_id(label, metadata, "bos", len(tokens))
    return TokenizerSpec(
        kind="bpe",
        pre=pre,
        tokens=tokens,
        token_types=types,
        merges=_read_merges(label, metadata),
        bos_token_id=bos,
        add_bos=_read_add_bos(label, metadata, pre, bos),
        end_token_ids=_read_end_ids(label, metadata, tokens, types),
        chat_template=_read_template(label, metadata),
    )


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


def _read_add_bos(label: str, metadata: Metadata, pre: str, bos: int | None) -> bool:
    key = "tokenizer.ggml.add_bos_token"
    add_bos = metadata.flag(key, default=bos is not None and pre in _BEGINS_BY_DEFAULT)
    if add_bos and bos is None:
        raise CorruptFileError(f"{label}: {key} is true, but there is no tokenizer.ggml.bos_token_id.")
    return add_bos


def _read_end_ids(
    label: str, metadata: Metadata, tokens: tuple[str, ...], types: tuple[int, ...]
) -> frozenset[int]:
    named = {_token_id(label, metadata, role, len(tokens)) for role in ("eos", "eot", "eom")} - {None}
    known = {
        token_id
        for token_id, (text, kind) in enumerate(zip(tokens, types, strict=True))
        if kind == _CONTROL and text in END_TEXTS
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
