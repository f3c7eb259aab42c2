"""A tokenizer for tests: one token a byte, and a few control tokens after them."""

from stoker.models.config import TokenizerSpec
from stoker.models.token_bytes import byte_alphabet
from stoker.models.word_rules import WHOLE_WORDS

BYTE_CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""Control tokens of the byte tokenizer; their ids are 256, 257, 258."""

BYTE_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A ChatML template."""


def byte_tokenizer_spec(
    *,
    pre: str = "gpt-2",
    controls: tuple[str, ...] = BYTE_CONTROLS,
    user_defined: tuple[str, ...] = (),
    merges: tuple[str, ...] = (),
    begin: str | None = None,
    end: str = "<|im_end|>",
    chat_template: str | None = BYTE_TEMPLATE,
) -> TokenizerSpec:
    """Describe a tokenizer whose id of each byte is the byte.

    Args:
        pre: The pre-tokenizer's name.
        controls: Control tokens, from id 256 on.
        user_defined: User-defined tokens, after them.
        merges: BPE merges in the byte-level alphabet; what each makes follows as a token.
        begin: The control token that raw prompts begin with, or None.
        end: The control token that ends a turn.
        chat_template: Jinja2 source, or None.
    """
    merged = tuple(merge.replace(" ", "") for merge in merges)
    tokens = (*byte_alphabet(), *controls, *user_defined, *merged)
    types = (*[1] * 256, *[3] * len(controls), *[4] * len(user_defined), *[1] * len(merged))
    return TokenizerSpec(
        kind="bpe",
        pre=pre,
        whole_words=pre in WHOLE_WORDS,
        tokens=tokens,
        token_types=types,
        merges=merges,
        bos_token_id=tokens.index(begin) if begin is not None else None,
        add_bos=begin is not None,
        end_token_ids=frozenset({tokens.index(end)}),
        chat_template=chat_template,
    )
