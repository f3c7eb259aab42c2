"""What a model file says of its model, apart from the weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

SpacePrefix = Literal["none", "first", "always", "prepend"]
"""Where a SentencePiece-style tokenizer puts a space that the text does not have.

``first``: before the text; ``always``: before every run of text between added tokens; both only where
no space is already. ``prepend``: before every run, whatever it begins with. ``none``: nowhere.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Shape of a decoder-only transformer.

    Attributes:
        architecture: GGUF's name of it, such as ``llama``.
        n_layers: Decoder layers.
        width: Size of the residual stream.
        n_heads: Query heads.
        n_kv_heads: Key and value heads; divides `n_heads`.
        head_size: Size of one head.
        ffn_width: Inner size of the feed-forward network.
        vocab_size: Rows of the embedding matrix.
        context_length: Most positions that the model was made for.
        rope_base: Base of the rotary embedding's frequencies.
        rope_pairs: Which elements of a head rotate together in the file's query and key rows:
            neighbours (``adjacent``) or element i with i + head_size / 2 (``halves``).
        norm_epsilon: Added to the mean square in RMSNorm.
        tied_embeddings: The output matrix is the embedding matrix.
    """

    architecture: str
    n_layers: int
    width: int
    n_heads: int
    n_kv_heads: int
    head_size: int
    ffn_width: int
    vocab_size: int
    context_length: int
    rope_base: float
    rope_pairs: Literal["adjacent", "halves"]
    norm_epsilon: float
    tied_embeddings: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerSpec:
    """A tokenizer as the model file describes it.

    Attributes:
        kind: ``bpe`` for byte-level BPE, ``spm`` for SentencePiece-style BPE: over characters, with
            bytes as a fallback.
        pre: ``bpe``: name of the rule that cuts words, as in ``tokenizer.ggml.pre``.
        whole_words: ``bpe``: a word that is a token becomes it, whatever the merges say.
        space_prefix: ``spm``: where a space is put that the text does not have.
        tokens: Text of each token id, in the file's spelling (byte-level alphabet for ``bpe``,
            U+2581 for a space for ``spm``).
        token_types: GGUF type of each token id: 1 normal, 2 unknown, 3 control, 4 user defined,
            5 unused, 6 byte.
        merges: BPE merges, ``"left right"``, most important first.
        scores: ``spm`` without merges: of two pairs, the one that makes the token of the higher score
            is merged first. One for each token; empty when there are merges.
        lstrip_ids: Control and user-defined tokens that take the white space before them along.
        rstrip_ids: Those that take the white space behind them along.
        bos_token_id: Token that begins a text, or None.
        add_bos: Whether raw prompts begin with it.
        end_token_ids: Tokens that end a turn; at least one.
        special_tokens: Spelling of the tokens that a template may name (``bos_token``).
        chat_template: Jinja source, or None when the model has no chat format.
    """

    kind: Literal["bpe", "spm"]
    pre: str
    whole_words: bool = False
    space_prefix: SpacePrefix = "none"
    tokens: tuple[str, ...]
    token_types: tuple[int, ...]
    merges: tuple[str, ...]
    scores: tuple[float, ...] = ()
    lstrip_ids: frozenset[int] = frozenset()
    rstrip_ids: frozenset[int] = frozenset()
    bos_token_id: int | None
    add_bos: bool
    end_token_ids: frozenset[int]
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    chat_template: str | None


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor as stored.

    Attributes:
        name: GGUF's name, such as ``blk.0.attn_q.weight``; every file reader uses these.
        dtype: GGUF's name of one of `stoker.models.gguf.TENSOR_TYPES`.
        shape: Outermost dimension first: ``(rows, columns)`` of a matrix that maps ``columns``
            inputs to ``rows`` outputs, or ``(n,)``. (GGUF's header lists them innermost first.)
        data: The raw bytes, row-major, exactly as long as type and shape say.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: memoryview


class WeightSource(Protocol):
    """An opened model file that an engine loads from."""

    @property
    def config(self) -> ModelConfig:
        """Shape of the model."""

    @property
    def digest(self) -> str:
        """Short hex digest that names these weights; part of the fingerprint."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Every tensor by name."""
