"""Targets among tokenizers and chat templates."""

import re

from stoker.core.text import ChatPrompt, Message
from stoker.models.config import TokenizerSpec
from stoker.text.template import ChatTemplate
from stoker.text.tokenizer import Tokenizer

_MAX_RENDERED_CHARS = 2**20
_TEXT_CHARS = 4096


def tokenizer(data: bytes) -> None:
    """Build a tokenizer out of a vocabulary, encode a text and decode it again.

    The input is text in paragraphs: the pre-tokenizer's name, the tokens (a line each: a digit for the
    type, then the spelling), the merges, and the text.
    """
    pre, tokens, merges, text = ([*data.decode(errors="replace").split("\n\n", 3), "", "", "", ""])[:4]
    lines = [line for line in tokens.split("\n") if line[:1] in {"1", "2", "3", "4", "5", "6"}]
    spec = TokenizerSpec(
        kind="bpe",
        pre=pre,
        tokens=tuple(line[1:] for line in lines),
        token_types=tuple(int(line[0]) for line in lines),
        merges=tuple(merge for merge in merges.split("\n") if re.fullmatch(r"[^ ]+ [^ ]+", merge)),
        bos_token_id=None,
        add_bos=False,
        end_token_ids=frozenset({0}),
        chat_template=None,
    )
    built = Tokenizer(spec)
    ids = built.encode(text[:_TEXT_CHARS])
    if any(built.is_control(token_id) for token_id in ids):
        raise AssertionError("a text became a control token")
    spelt = b"".join(map(built.token_bytes, ids)).decode(errors="replace")
    # NFC changes a text; a user-defined token that spells what BPE makes of other bytes takes their place.
    exact = pre not in {"qwen2", "deepseek-r1-qwen"} and all(
        line.isascii() for line in lines if line.startswith("4")
    )
    if exact and spelt != text[:_TEXT_CHARS]:
        raise AssertionError(f"{text!r} became {spelt!r}")
    built.decode(built.encode(text[:_TEXT_CHARS], special=True))


def template(data: bytes) -> None:
    """Compile a chat template and render a conversation.

    The input is text: the template, then, each after a form feed, the messages' contents.
    """
    source, *contents = data.decode(errors="replace").split("\f")
    compiled = ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"})
    messages = tuple(
        Message("user" if index % 2 == 0 else "assistant", content)
        for index, content in enumerate(contents[:16] or ["Hi"])
    )
    rendered = compiled.render(ChatPrompt(messages))
    if len(rendered) > _MAX_RENDERED_CHARS + 16 * len(data):
        raise AssertionError(f"{len(data)} bytes became {len(rendered)} characters")
