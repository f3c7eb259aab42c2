"""The tokenizer from a model folder: ``tokenizer.json`` and the files beside it."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from stoker.core.errors import CorruptFileError, UnsupportedModelError
from stoker.models.config import TokenizerSpec
from stoker.models.huggingface.files import (
    CONFIG_NAME,
    MAX_CONFIG_BYTES,
    TOKENIZER_NAME,
    read_json,
    read_optional,
)
from stoker.models.huggingface.tokenizer_steps import recognize
from stoker.models.tokenizer_spec import END_TEXTS, MAX_TEMPLATE_CHARS

MAX_TOKENIZER_BYTES = 2**26
"""Largest ``tokenizer.json``; the largest real ones have some 35 MB."""

MAX_TOKENS = 2**22

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
ADDED_TYPES = frozenset({_CONTROL, _USER_DEFINED, UNUSED})
"""Types of tokens that no merge makes."""

_BYTE_SPELLING = re.compile(r"<0x[0-9A-F]{2}>\Z")
_POST_PROCESSORS = ("ByteLevel", "Sequence", "TemplateProcessing")


class _AddedToken(msgspec.Struct):
    id: int
    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    special: bool = False


class _ModelType(msgspec.Struct):
    type: str = "BPE"


class _Bpe(msgspec.Struct):
    vocab: dict[str, int]
    merges: list[str | tuple[str, str]]
    unk_token: str | None = None
    byte_fallback: bool | None = None
    ignore_merges: bool | None = None
    dropout: float | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None


class _TokenizerFile(msgspec.Struct):
    model: msgspec.Raw
    added_tokens: list[_AddedToken] = []
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    post_processor: dict[str, Any] | None = None


class _Named(msgspec.Struct):
    content: str


class _NamedTemplate(msgspec.Struct):
    name: str
    template: str


class _SpecialTokens(msgspec.Struct):
    bos_token: str | _Named | None = None
    eos_token: str | _Named | None = None
    unk_token: str | _Named | None = None
    sep_token: str | _Named | None = None
    pad_token: str | _Named | None = None
    cls_token: str | _Named | None = None
    mask_token: str | _Named | None = None


class _ConfigFile(_SpecialTokens):
    add_bos_token: bool | None = None
    chat_template: str | list[_NamedTemplate] | None = None


class _GenerationFile(msgspec.Struct):
    eos_token_id: int | list[int] | None = None


def read_tokenizer_json(folder: Path) -> TokenizerSpec:
    """Read and check the tokenizer of a model folder.

    Reads ``tokenizer.json`` and, where they are there, ``tokenizer_config.json``,
    ``special_tokens_map.json`` (for tokens that the former does not name), ``generation_config.json`` (else
    ``config.json``, for the tokens that end a turn) and ``chat_template.jinja``.

    Raises:
        CorruptFileError: A file is missing, too large, malformed or contradicts itself or another.
        UnsupportedModelError: A tokenizer that Stoker does not run exactly, or no end token.
    """
    path = folder / TOKENIZER_NAME
    label = str(path)
    if not path.is_file():
        raise CorruptFileError(
            f"{path} is missing: a model folder needs it for its tokenizer. Save the model's tokenizer with "
            "`transformers` as a fast one, which writes this file."
        )
    file = read_json(path, _TokenizerFile, MAX_TOKENIZER_BYTES)
    config = read_json(folder / "tokenizer_config.json", _ConfigFile, MAX_CONFIG_BYTES, default=_ConfigFile())
    generation = read_json(
        folder / "generation_config.json", _GenerationFile, MAX_CONFIG_BYTES, default=_GenerationFile()
    )
    if generation.eos_token_id is None:
        generation = read_json(
            folder / CONFIG_NAME, _GenerationFile, MAX_CONFIG_BYTES, default=_GenerationFile()
        )
    named = read_json(
        folder / "special_tokens_map.json", _SpecialTokens, MAX_CONFIG_BYTES, default=_SpecialTokens()
    )
    model = _read_model(label, file.model)
    steps = recognize(label, file.normalizer, file.pre_tokenizer)
    if steps.kind == "spm" and not model.byte_fallback:
        raise UnsupportedModelError(
            f"{label}: its model has neither byte-level words nor a byte fallback; "
            "Stoker runs BPE with one of them."
        )
    tokens, types = _read_tokens(label, model, file.added_tokens, byte_tokens=steps.kind == "spm")
    ids = {text: token_id for token_id, text in enumerate(tokens) if text}
    special = _special_tokens(named, config, model)
    bos = _id_of(label, ids, special.get("bos_token"), "bos_token")
    template_bos = _begins_with(label, file.post_processor)
    add_bos = config.add_bos_token if config.add_bos_token is not None else template_bos is not None
    if bos is None and add_bos:
        bos = _id_of(label, ids, template_bos, "post_processor")
    if bos is None and add_bos:
        raise CorruptFileError(f"{label}: raw prompts begin with a token (add_bos_token), but none is named.")
    return TokenizerSpec(
        kind=steps.kind,
        pre=steps.pre,
        whole_words=bool(model.ignore_merges),
        space_prefix=steps.space_prefix,
        tokens=tokens,
        token_types=types,
        merges=_read_merges(label, model.merges),
        lstrip_ids=frozenset(each.id for each in file.added_tokens if each.lstrip),
        rstrip_ids=frozenset(each.id for each in file.added_tokens if each.rstrip),
        bos_token_id=bos,
        add_bos=add_bos,
        end_token_ids=_read_end_ids(
            label, tokens, types, _id_of(label, ids, special.get("eos_token"), "eos_token"), generation
        ),
        special_tokens=special,
        chat_template=_read_template(folder, config),
    )


def _read_model(label: str, raw: msgspec.Raw) -> _Bpe:
    try:
        kind = msgspec.json.decode(raw, type=_ModelType).type
        if kind != "BPE":
            raise UnsupportedModelError(
                f"{label} has a tokenizer of the type {kind[:80]!r}; Stoker runs BPE."
            )
        model = msgspec.json.decode(raw, type=_Bpe)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise CorruptFileError(f"{label}: its model is malformed: {str(error)[:400]}.") from error
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if getattr(model, name):
            raise UnsupportedModelError(f"{label}: its BPE has a {name}; Stoker runs BPE without.")
    return model


def _read_tokens(
    label: str, model: _Bpe, added: list[_AddedToken], *, byte_tokens: bool
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the text and the type of each token id; ids that the file skips are unused."""
    n_tokens = 1 + max((*model.vocab.values(), *(each.id for each in added)), default=-1)
    if not 0 < n_tokens <= MAX_TOKENS or min((*model.vocab.values(), *(each.id for each in added))) < 0:
        raise CorruptFileError(f"{label}: token ids must be from 0 to {MAX_TOKENS - 1}.")
    tokens = [""] * n_tokens
    types = [UNUSED] * n_tokens
    for text, token_id in model.vocab.items():
        if types[token_id] != UNUSED:
            raise CorruptFileError(f"{label}: two tokens of the vocabulary have the id {token_id}.")
        tokens[token_id] = text
        is_byte = byte_tokens and _BYTE_SPELLING.match(text)
        types[token_id] = _BYTE if is_byte else _UNKNOWN if text == model.unk_token else _NORMAL
    for each in added:
        if each.single_word or not each.content:
            raise UnsupportedModelError(
                f"{label}: the added token {each.content[:80]!r} is empty or counts only as a single word; "
                "Stoker runs tokenizers without such tokens."
            )
        if tokens[each.id] not in {"", each.content} or model.vocab.get(each.content, each.id) != each.id:
            raise CorruptFileError(
                f"{label}: the added token {each.content[:80]!r} and the vocabulary disagree on the id "
                f"{each.id}."
            )
        tokens[each.id] = each.content
        if types[each.id] != _UNKNOWN:
            types[each.id] = _CONTROL if each.special else _USER_DEFINED
    if len({each.content for each in added}) != len(added) or len({each.id for each in added}) != len(added):
        raise CorruptFileError(f"{label}: two added tokens have the same text or the same id.")
    return tuple(tokens), tuple(types)


def _read_merges(label: str, merges: list[str | tuple[str, str]]) -> tuple[str, ...]:
    joined = tuple(each if isinstance(each, str) else " ".join(each) for each in merges)
    for index, merge in enumerate(joined):
        left, _, right = merge.partition(" ")
        if not left or not right or " " in right:
            raise CorruptFileError(
                f"{label}: merge {index} is {merge[:80]!r}, expected two pieces without spaces in them."
            )
    return joined


def _special_tokens(named: _SpecialTokens, config: _ConfigFile, model: _Bpe) -> dict[str, str]:
    """Return the spelling of each special token, by the name that templates use."""
    texts = {"unk_token": model.unk_token} if model.unk_token else {}
    for source in (named, config):
        for name in _SpecialTokens.__struct_fields__:
            token = getattr(source, name)
            if token is not None:
                texts[name] = token.content if isinstance(token, _Named) else token
    return texts


def _id_of(label: str, ids: dict[str, int], text: str | None, name: str) -> int | None:
    if text is None:
        return None
    if text not in ids:
        raise CorruptFileError(f"{label}: {name} is {text[:80]!r}, which is no token.")
    return ids[text]


def _begins_with(label: str, processor: dict[str, Any] | None) -> str | None:
    """Return the token that the post-processor puts before a text."""
    if processor is None:
        return None
    kind = processor.get("type")
    if kind not in _POST_PROCESSORS:
        raise UnsupportedModelError(
            f"{label}: its post_processor is {str(kind)[:80]!r}; Stoker knows {', '.join(_POST_PROCESSORS)}."
        )
    if kind == "Sequence":
        parts = processor.get("processors")
        known = [each for each in parts if isinstance(each, dict)] if isinstance(parts, list) else []
        found = (_begins_with(label, each) for each in known if each.get("type") != "Sequence")
        return next((text for text in found if text is not None), None)
    single = processor.get("single")
    first = single[0] if isinstance(single, list) and single else None
    token = first.get("SpecialToken") if isinstance(first, dict) else None
    text = token.get("id") if isinstance(token, dict) else None
    return text if isinstance(text, str) else None


def _read_end_ids(
    label: str, tokens: tuple[str, ...], types: tuple[int, ...], eos: int | None, generation: _GenerationFile
) -> frozenset[int]:
    named = generation.eos_token_id
    listed = [named] if isinstance(named, int) else named or []
    _check_ids(label, listed, len(tokens))
    known = (
        token_id
        for token_id, (text, kind) in enumerate(zip(tokens, types, strict=True))
        if kind == _CONTROL and text in END_TEXTS
    )
    ends = frozenset({*listed, *known, *([] if eos is None else [eos])})
    if not ends:
        raise UnsupportedModelError(
            f"{label} and the files beside it name no end token (eos_token), so answers would never end."
        )
    return ends


def _check_ids(label: str, ids: Iterable[int], n_tokens: int) -> None:
    for token_id in ids:
        if not 0 <= token_id < n_tokens:
            raise CorruptFileError(
                f"{label}: generation_config.json ends with token {token_id}, expected 0 to {n_tokens - 1}."
            )


def _read_template(folder: Path, config: _ConfigFile) -> str | None:
    path = folder / "chat_template.jinja"
    data = read_optional(path, MAX_CONFIG_BYTES)
    if data is not None:
        try:
            template: str | None = data.decode()
        except UnicodeDecodeError as error:
            raise CorruptFileError(f"{path} is not UTF-8.") from error
    elif isinstance(config.chat_template, list):
        named = {each.name: each.template for each in config.chat_template}
        template = named.get("default")
    else:
        template = config.chat_template
    if template is not None and len(template) > MAX_TEMPLATE_CHARS:
        raise CorruptFileError(
            f"{path}: the chat template has {len(template)} characters, expected at most "
            f"{MAX_TEMPLATE_CHARS}."
        )
    return template
