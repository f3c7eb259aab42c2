"""Names that say where a model is: ``hf:owner/repo[@revision][:file-or-quantization]`` and ``https://…``."""

import re
from dataclasses import dataclass
from hashlib import sha256
from urllib.parse import unquote, urlsplit

import msgspec

from stoker.core.errors import UnknownModelError
from stoker.models.sources import HuggingFaceSource, UrlSource

HUB_PREFIX = "hf:"
_URL_PREFIXES = ("https://", "http://")
_SUFFIX = ".gguf"
_MAX_NAME_CHARS = 100
_HASH_CHARS = 8
_UNSAFE = re.compile(r"[^a-z0-9._-]+")
_FORM = re.compile(r"(?P<repo>[^@:]+)(@(?P<revision>[^:]+))?(:(?P<part>.+))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ModelReference:
    """A model that a name says where to find.

    Attributes:
        name: What it is called in the store and by clients.
        source: Where it is.
    """

    name: str
    source: HuggingFaceSource | UrlSource


def is_reference(name: str) -> bool:
    """Tell whether `name` is meant as a reference; it may still be malformed."""
    return name.lower().startswith((HUB_PREFIX, *_URL_PREFIXES))


def parse_reference(text: str) -> ModelReference:
    """Read a reference.

    The same reference always gives the same name; another one, letter case aside, another.

    Raises:
        UnknownModelError: It is malformed; the message says what was expected.
    """
    if text.lower().startswith(HUB_PREFIX):
        return _hub_reference(text)
    try:
        source = msgspec.convert({"url": text}, UrlSource)
        stem = unquote(urlsplit(text).path).rpartition("/")[2].removesuffix(_SUFFIX)
    except (msgspec.ValidationError, ValueError) as error:
        raise UnknownModelError(f"{text[:100]!r} is no address of a model file: {error}.") from error
    return ModelReference(_safe_name(stem, text, always_hashed=True), source)


def _hub_reference(text: str) -> ModelReference:
    match = _FORM.fullmatch(text[len(HUB_PREFIX) :])
    fields = {} if match is None else {key: value for key, value in match.groupdict().items() if value}
    part = fields.pop("part", None)
    if part is not None:
        fields["file" if part.endswith(_SUFFIX) else "quantization"] = part
    try:
        source = msgspec.convert(fields, HuggingFaceSource)
    except msgspec.ValidationError as error:
        raise UnknownModelError(
            f"{text[:100]!r} is no model of the hub: {error}. Expected hf:owner/repository, then @revision "
            "and :file.gguf or :quantization if need be."
        ) from error
    pieces = [source.repo.replace("/", "--")]
    if source.revision != "main":
        pieces.append(source.revision)
    if part is not None:
        pieces.append(part.removesuffix(_SUFFIX))
    return ModelReference(
        _safe_name("--".join(pieces), text, always_hashed=source.revision != "main"), source
    )


def _safe_name(wanted: str, reference: str, *, always_hashed: bool) -> str:
    """A name for the store; a hash of the reference follows wherever another one could give the same."""
    lowered = wanted.lower()
    safe = _UNSAFE.sub("-", lowered).strip("-._")
    if safe == lowered and len(safe) <= _MAX_NAME_CHARS and not always_hashed:
        return safe
    digest = sha256(reference.encode()).hexdigest()[:_HASH_CHARS]
    stem = safe[: _MAX_NAME_CHARS - _HASH_CHARS - 1].rstrip("-._")
    return f"{stem}-{digest}" if stem else f"model-{digest}"
