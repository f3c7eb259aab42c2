"""The catalogue: model names, and the sources to fetch each from.

A catalogue file is TOML, one table per model::

    [models.my-model]
    description = "What it is good for"
    licence = "Apache-2.0"
    context_length = 8192

    [models.my-model.sampling]      # what its makers recommend; all optional
    temperature = 0.7

    [[models.my-model.sources]]     # tried in order
    path = "/shared/my-model.gguf"

    [[models.my-model.sources]]
    repo = "someone/my-model-GGUF"
    file = "my-model-Q4_K_M.gguf"

A source with `package` is a `PackageIndexSource`, one with `repo` a `HuggingFaceSource`, one with
`url` a `UrlSource` (which needs `sha256` here), one with `path` a `LocalFileSource` (relative to the
catalogue file's folder); their attributes are the fields. A name with a dot is quoted:
``[models."my-model-1.5"]``. An entry with ``verified = false`` was written without having been
pulled: its sources may be wrong, and a pull tells.
"""

import tomllib
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from stoker.core.errors import SettingsError
from stoker.core.sampling import MAX_TOP_K
from stoker.models.sources import HuggingFaceSource, LocalFileSource, PackageIndexSource, UrlSource

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,99}\Z"
"""What a model may be called: a name is also a folder of the store."""

MAX_CATALOGUE_BYTES = 2**20

ModelName = Annotated[str, Meta(pattern=NAME_PATTERN)]
ModelSource = PackageIndexSource | HuggingFaceSource | UrlSource | LocalFileSource

_KINDS: Mapping[str, type[ModelSource]] = {
    "package": PackageIndexSource,
    "repo": HuggingFaceSource,
    "url": UrlSource,
    "path": LocalFileSource,
}
"""The field that tells a source's kind."""


class RecommendedSampling(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a model's makers recommend to sample from it; None where they do not say.

    Attributes:
        temperature, top_p, top_k, min_p: As in `SamplingParams`.
    """

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=MAX_TOP_K)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None

    def __str__(self) -> str:
        stated = msgspec.structs.asdict(self).items()
        return ", ".join(f"{name} {value:g}" for name, value in stated if value is not None)


class CatalogueEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What the catalogue says of one model.

    Attributes:
        name: Its name.
        description: One line for people.
        licence: The weights' licence, as SPDX spells it where it can.
        context_length: Most tokens of a prompt with its answer, or None when not stated.
        sources: Where to fetch it from, tried in order; at least one.
        sampling: How its makers recommend to sample.
        verified: Whether the entry was ever pulled by who wrote it.
    """

    name: str
    description: str
    licence: str
    context_length: int | None
    sources: tuple[ModelSource, ...]
    sampling: RecommendedSampling = RecommendedSampling()
    verified: bool = True


Catalogue = Mapping[str, CatalogueEntry]


class _ModelTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    description: str
    licence: str
    context_length: Annotated[int, Meta(ge=1)] | None = None
    sources: Annotated[list[dict[str, object]], Meta(min_length=1)]
    sampling: RecommendedSampling = RecommendedSampling()
    verified: bool = True


class _CatalogueFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    models: dict[ModelName, _ModelTable]


def load_catalogue(extra_files: Iterable[Path] = ()) -> Catalogue:
    """Read the catalogue that comes with Stoker, then the user's.

    Args:
        extra_files: Catalogue files, later ones first in rank; those that do not exist are passed
            over. An entry replaces one of the same name.

    Raises:
        SettingsError: A file cannot be read or is malformed; the message names file and field.
    """
    builtin = files("stoker.models").joinpath("catalogue.toml")
    entries = _parse("the built-in catalogue", builtin.read_bytes(), Path())
    for path in extra_files:
        try:
            with path.open("rb") as file:
                raw = file.read(MAX_CATALOGUE_BYTES + 1)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise SettingsError(f"Cannot read the catalogue {path}: {error.strerror}.") from error
        entries |= _parse(f"the catalogue {path}", raw, path.absolute().parent)
    return entries


def _parse(label: str, raw: bytes, folder: Path) -> dict[str, CatalogueEntry]:
    if len(raw) > MAX_CATALOGUE_BYTES:
        raise SettingsError(f"Cannot use {label}: it has more than {MAX_CATALOGUE_BYTES} bytes.")
    try:
        content = msgspec.convert(tomllib.loads(raw.decode()), _CatalogueFile)
        return {name: _entry(name, table, folder) for name, table in content.models.items()}
    except UnicodeDecodeError as error:
        raise SettingsError(f"Cannot use {label}: it is not UTF-8 text.") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"Cannot use {label}: it is not valid TOML: {error}.") from error
    except RecursionError as error:
        raise SettingsError(f"Cannot use {label}: it is nested too deeply.") from error
    except msgspec.ValidationError as error:
        raise SettingsError(f"Cannot use {label}: {error}.") from error


def _entry(name: str, table: _ModelTable, folder: Path) -> CatalogueEntry:
    sources = tuple(
        _source(f"$.models.{name}.sources[{index}]", fields, folder)
        for index, fields in enumerate(table.sources)
    )
    return CatalogueEntry(
        name=name,
        description=table.description,
        licence=table.licence,
        context_length=table.context_length,
        sources=sources,
        sampling=table.sampling,
        verified=table.verified,
    )


def _source(where: str, fields: dict[str, object], folder: Path) -> ModelSource:
    kinds = [kind for field, kind in _KINDS.items() if field in fields]
    if len(kinds) != 1:
        raise msgspec.ValidationError(
            f"a source has one of {', '.join(map('`{}`'.format, _KINDS))} - at `{where}`"
        )
    try:
        source = msgspec.convert(fields, kinds[0])
    except msgspec.ValidationError as error:
        raise msgspec.ValidationError(f"{error} (of `{where}`)") from error
    if isinstance(source, UrlSource) and source.sha256 is None:
        raise msgspec.ValidationError(f"a source with `url` needs `sha256` - at `{where}`")
    if isinstance(source, LocalFileSource):
        return msgspec.structs.replace(source, path=str(folder / Path(source.path).expanduser()))
    return source
