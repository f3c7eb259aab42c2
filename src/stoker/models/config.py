"""What a model file says of its model, apart from the weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

Activation = Literal["silu", "gelu_tanh", "clamped_swiglu"]
"""What a feed-forward network does to its gate; see `ModelConfig.activation`."""

SpacePrefix = Literal["none", "first", "always", "prepend"]
"""Where a SentencePiece-style tokenizer puts a space that the text does not have.

``first``: before the text; ``always``: before every run of text between added tokens; both only where
no space is already. ``prepend``: before every run, whatever it begins with. ``none``: nowhere.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotary:
    """A rotary position embedding: pairs of a head's elements turn with the position.

    A head's first ``2 * len(frequencies)`` elements turn, the others stay. All kinds of scaling (linear,
    Llama 3's, YaRN, long and short factors) come down to these numbers.

    Attributes:
        frequencies: Radians a position, one for each pair, rounded to fp32.
        long_frequencies: Those for a served context longer than `original_context`; None for the same.
        original_context: Positions that the model was first trained for; used with `long_frequencies`.
        magnitude: Factor of cosine and sine.
    """

    frequencies: tuple[float, ...]
    long_frequencies: tuple[float, ...] | None = None
    original_context: int = 0
    magnitude: float = 1.0

    def is_long(self, context_length: int) -> bool:
        """Tell whether a served context of so many tokens has `long_frequencies`."""
        return self.long_frequencies is not None and context_length > self.original_context

    def at(self, context_length: int) -> tuple[float, ...]:
        """Return the frequencies for a served context of so many tokens."""
        if self.long_frequencies is not None and self.is_long(context_length):
            return self.long_frequencies
        return self.frequencies


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerConfig:
    """What may differ from layer to layer.

    Attributes:
        window: Positions that a token sees, itself included; None for all before it.
        rotary: Index into `ModelConfig.rotaries`; None for a layer without positions.
    """

    window: int | None = None
    rotary: int | None = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """A mixture of feed-forward networks in place of one.

    Attributes:
        n_experts: Networks in a layer.
        n_used: Those that a token goes through, the ones its router scores highest.
        normalized: Their shares are a softmax over the used ones; else over all of them.
        biases: Router and experts have biases.
    """

    n_experts: int
    n_used: int
    normalized: bool
    biases: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Shape and arithmetic of a decoder-only transformer.

    Readers of every format bring a model to these terms: norms hold their whole factor (Gemma's +1
    included), fused matrices are cut apart, tensors have the names of `expected_shapes`.

    Attributes:
        architecture: GGUF's name of it, such as ``llama``.
        layers: The decoder layers, first to last.
        width: Size of the residual stream.
        n_heads: Query heads.
        n_kv_heads: Key and value heads; divides `n_heads`.
        head_size: Size of one head.
        ffn_width: Inner size of the feed-forward network, or of one expert.
        vocab_size: Rows of the embedding matrix.
        context_length: Most positions that the model was made for.
        rotaries: The rotary embeddings that layers name.
        rope_pairs: Which elements of a head rotate together in the file's query and key rows:
            neighbours (``adjacent``) or element i with i + half of those that turn (``halves``).
        norm_epsilon: Added to the mean square in RMSNorm.
        tied_embeddings: The output matrix is the embedding matrix.
        activation: Of the gate: SiLU, tanh GELU, or gpt-oss's clamped SwiGLU, which takes the gate up
            to 7 and the other half within 7 of zero, and is ``(up + 1) * gate * sigmoid(1.702 * gate)``.
        pre_norms: Attention and feed-forward read the normed residual stream.
        post_norms: Their outputs are normed before they are added to it.
        qk_norm: Queries and keys are normed before they rotate, by ``head`` or as a ``row`` of all heads.
        qkv_bias: Query, key and value products have a bias.
        attention_output_bias: The attention's output product has one.
        sinks: Each head has a score that takes part in the softmax and has no value.
        score_scale: Factor of attention scores; None for ``1 / sqrt(head_size)``.
        score_softcap: Scores go through ``cap * tanh(score / cap)``; None for not.
        logit_softcap: Likewise for logits.
        embedding_scale: Factor of embeddings.
        residual_scale: Factor of what a layer adds to the residual stream.
        logit_scale: Factor of logits.
        experts: How the feed-forward network is made of experts; None when it is one network.
    """

    architecture: str
    layers: tuple[LayerConfig, ...]
    width: int
    n_heads: int
    n_kv_heads: int
    head_size: int
    ffn_width: int
    vocab_size: int
    context_length: int
    rotaries: tuple[Rotary, ...]
    rope_pairs: Literal["adjacent", "halves"]
    norm_epsilon: float
    tied_embeddings: bool
    activation: Activation = "silu"
    pre_norms: bool = True
    post_norms: bool = False
    qk_norm: Literal["none", "head", "row"] = "none"
    qkv_bias: bool = False
    attention_output_bias: bool = False
    sinks: bool = False
    score_scale: float | None = None
    score_softcap: float | None = None
    logit_softcap: float | None = None
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    experts: Experts | None = None

    @property
    def n_layers(self) -> int:
        """Decoder layers."""
        return len(self.layers)


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
        read: Returns the raw bytes, row-major, exactly as long as type and shape say; a view of the
            mapped file, or made anew when the file stores them in another form.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], memoryview]

    @property
    def data(self) -> memoryview:
        """What `read` returns."""
        return self.read()


class WeightSource(Protocol):
    """An opened model file that an engine loads from."""

    @property
    def config(self) -> ModelConfig:
        """Shape of the model."""

    @property
    def digest(self) -> str:
        """32 hex digits that name these weights; part of the fingerprint."""

    @property
    def identity(self) -> str:
        """Changes whenever the model's file does, also where the digest does not see it."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Every tensor by name."""
