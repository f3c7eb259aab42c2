"""The models that a name can mean: paths, references, stored and known ones. What the command line calls."""

from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path

from stoker.config import Settings
from stoker.core.errors import SourceError, UnknownModelError
from stoker.models.catalogue import (
    Catalogue,
    CatalogueEntry,
    ModelSource,
    RecommendedSampling,
    load_catalogue,
)
from stoker.models.details import FileDetails, read_details
from stoker.models.digest import DIGEST_CHARS
from stoker.models.header import check_model
from stoker.models.huggingface.files import CONFIG_NAME, QUANTIZE, folder_digest, is_model_folder
from stoker.models.packs import PackFolder
from stoker.models.reference import is_reference, parse_reference
from stoker.models.sources import Network, Progress, ResumableSource
from stoker.models.sources.space import require_space
from stoker.models.store import ModelStore, StoredModel

SUFFIX = ".gguf"
UNSTATED_LICENCE = "not stated"


@dataclass(frozen=True, slots=True)
class LocatedModel:
    """A model on this machine, and the name it is served under.

    Attributes:
        model_id: The name.
        path: A GGUF file, or a folder with a ``config.json``.
    """

    model_id: str
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedModel:
    """One line of the list of models.

    Attributes:
        name: Its name.
        stored: Whether it is on this machine.
        verified: Whether a pull has shown that its sources are right: one on this machine, or one by whoever
            wrote the catalogue's entry.
        size_bytes: Size of the file, or None when not known before it is pulled.
        licence: The weights' licence.
        description: One line for people; empty for a stored model that the catalogue does not know.
    """

    name: str
    stored: bool
    verified: bool
    size_bytes: int | None
    licence: str
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDetails:
    """All that is known of one model.

    Attributes:
        name: The name it is served under.
        description: One line for people, or None.
        licence: The weights' licence, or None when nothing states it.
        sources: Where it came from, or could be fetched from, for people.
        verified: As in `ListedModel`.
        sampling: How its makers recommend to sample.
        sha256: SHA-256 of the file as checked when it was pulled, or None.
        pulled_at: When it was pulled, or None.
        file: What the file says, or None while it is not on this machine.
    """

    name: str
    description: str | None
    licence: str | None
    sources: tuple[str, ...]
    verified: bool
    sampling: RecommendedSampling
    sha256: str | None
    pulled_at: datetime | None
    file: FileDetails | None


class ModelLibrary:
    """Finds, fetches, lists and removes models.

    A name is a reference (see `stoker.models.reference`), else a path (if it ends in ``.gguf`` or
    holds a ``/``), else a model in the store, else a model in the catalogue; letter case does not
    matter in the last two.

    Args:
        models_dir: The model store's folder; made when the first model is pulled.
        catalogue: What can be pulled; see `load_catalogue`.
        network: How sources reach other machines.
        packs: Where repacked weights are kept, to be removed with their model.
    """

    def __init__(
        self,
        models_dir: Path,
        catalogue: Catalogue,
        network: Network | None = None,
        packs: PackFolder | None = None,
    ) -> None:
        self.store = ModelStore(models_dir)
        self.catalogue = catalogue
        self.network = network or Network()
        self.packs = packs

    def locate(self, name: str) -> LocatedModel | None:
        """The model, if it is on this machine; nothing is fetched and no file is read.

        Raises:
            UnknownModelError: The name is a malformed reference, or a path that may not be looked at.
        """
        if _is_path(name):
            return _located(name)
        stored = self.store.find(_key(name))
        return None if stored is None else LocatedModel(stored.name, stored.path)

    def ensure(self, name: str, progress: Progress | None = None) -> LocatedModel:
        """The model, pulled first when it is missing. Raises as `pull` does."""
        located = self.locate(name)
        if located is not None:
            return located
        stored = self.pull(name, progress)
        return LocatedModel(stored.name, stored.path)

    def pull(self, name: str, progress: Progress | None = None) -> StoredModel:
        """Fetch a model into the store, unless it is there already.

        Sources are tried in order. When another process pulls the same model, this waits for it and
        finds the model complete.

        Args:
            name: A name in the catalogue (or already in the store), or a reference.
            progress: Told of bytes done and bytes in all.

        Raises:
            UnknownModelError: Neither the store nor the catalogue has it.
            SourceError: No source could deliver it, or there is no room for it.
            CorruptFileError: What the source delivers is not a valid model file.
            UnsupportedModelError: What the source delivers is a model that Stoker cannot run.
        """
        key = _key(name)
        stored = self.store.find(key)
        if stored is not None:
            return stored
        entry = self._entry(name)
        if entry is None:
            raise self._unknown(name)
        with self.store.lock(key):
            return self.store.find(key) or self._fetch(entry, progress or _silent)

    def list_models(self) -> list[ListedModel]:
        """Every model in the store or the catalogue, stored ones first, then by name."""
        stored = {model.name: model for model in self.store.list_models()}
        listed = [
            self._listed(name, stored.get(name), self.catalogue.get(name))
            for name in stored.keys() | self.catalogue.keys()
        ]
        return sorted(listed, key=lambda model: (not model.stored, model.name))

    def show(self, name: str) -> ModelDetails:
        """All that is known of a model, pulled or not; a path works too.

        Raises:
            UnknownModelError: Nothing has this name.
            CorruptFileError: Its file is malformed.
            UnsupportedModelError: Its file is of a model that Stoker cannot run.
        """
        located = self.locate(name)
        key = located.model_id if located is not None else _key(name)
        by_name = not _is_path(name)
        stored = self.store.find(key) if by_name else None
        entry = self._entry(name) if by_name else None
        if located is None and (entry is None or is_reference(name)):
            raise self._unknown(name)
        file = None if located is None else read_details(located.path)
        licences = [each.licence for each in (stored, entry, file) if each is not None]
        licences = [licence for licence in licences if licence != UNSTATED_LICENCE] or licences
        sources = (
            (stored.source,) if stored else tuple(source.label for source in entry.sources) if entry else ()
        )
        return ModelDetails(
            name=key,
            description=(entry.description if entry else None) or None,
            licence=next(filter(None, licences), None),
            sources=sources,
            verified=stored is not None or entry is None or entry.verified,
            sampling=self.sampling(name),
            sha256=stored.sha256 if stored else None,
            pulled_at=stored.pulled_at if stored else None,
            file=file,
        )

    def remove(self, name: str) -> None:
        """Remove a model from the store, and its packs; a file outside the store is never touched.

        Raises:
            UnknownModelError: The store has no such model.
            SourceError: It cannot be removed.
        """
        key = name if _is_path(name) else _key(name)
        stored = self.store.find(key)
        self.store.remove(key)
        if stored is not None and self.packs is not None:
            try:
                for digest in _digests(stored):
                    self.packs.remove(digest)
            except OSError as error:
                raise SourceError(
                    f"The model {key} is removed, but its packs in {self.packs.folder} cannot be: "
                    f"{error.strerror or error}."
                ) from error

    def sampling(self, name: str) -> RecommendedSampling:
        """How the makers of a model in the catalogue recommend to sample; nothing for any other."""
        entry = None if _is_path(name) else self.catalogue.get(_key(name))
        return RecommendedSampling() if entry is None else entry.sampling

    def _entry(self, name: str) -> CatalogueEntry | None:
        return _referenced(name) if is_reference(name) else self.catalogue.get(_key(name))

    def _fetch(self, entry: CatalogueEntry, progress: Progress) -> StoredModel:
        failures = []
        for source in entry.sources:
            try:
                return self._fetch_from(entry, source, progress)
            except SourceError as error:
                failures.append(error)
        if len(failures) == 1:
            raise failures[0]
        said = " ".join(f"({index}) {error}" for index, error in enumerate(failures, 1))
        raise SourceError(f"None of the {len(failures)} sources of {entry.name} worked. {said}")

    def _fetch_from(self, entry: CatalogueEntry, source: ModelSource, progress: Progress) -> StoredModel:
        needed_bytes = source.peak_bytes
        resume_key = source.resume_key if isinstance(source, ResumableSource) else None
        with self.store.workspace(entry.name, needed_bytes, resume_key) as workspace:
            require_space(workspace, needed_bytes)
            fetched = source.fetch(workspace, progress, self.network)
            check_model(fetched.path)
            licence = entry.licence or fetched.licence or UNSTATED_LICENCE
            return self.store.publish(entry.name, fetched, source=fetched.source, licence=licence)

    def _listed(self, name: str, stored: StoredModel | None, entry: CatalogueEntry | None) -> ListedModel:
        expected = [source.size_bytes for source in entry.sources] if entry else []
        size_bytes = stored.size_bytes if stored else next(filter(None, expected), None)
        licence = stored.licence if stored else entry.licence if entry else ""
        return ListedModel(
            name=name,
            stored=stored is not None,
            verified=stored is not None or entry is None or entry.verified,
            size_bytes=size_bytes,
            licence=licence,
            description=entry.description if entry else "",
        )

    def _unknown(self, name: str) -> UnknownModelError:
        shown = repr(name[:100])
        if is_reference(name):
            return UnknownModelError(
                f"The model {shown} is not in the model store; `stoker pull` fetches it."
            )
        if _is_path(name):
            located = _located(name)
            if located is not None:
                kind = "folder" if located.path.is_dir() else "file"
                return UnknownModelError(f"{shown} is a {kind}, not a name: it can be served as it is.")
            return UnknownModelError(
                f"There is no model file {shown}, nor a folder with a {CONFIG_NAME}. A repository of the hub "
                "is spelled hf:owner/repository."
            )
        known = sorted({model.name for model in self.store.list_models()} | self.catalogue.keys())
        close = get_close_matches(name.lower()[:100], known, n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        return UnknownModelError(
            f"There is no model {shown}.{hint} `stoker list` shows the names that are known; "
            f"paths (./model{SUFFIX}, ./folder), hf:owner/repository and https:// addresses work too."
        )


def open_library(settings: Settings) -> ModelLibrary:
    """Return the library over the model store, the catalogues and the network of these settings.

    Raises:
        SettingsError: A catalogue is malformed.
    """
    network = Network(
        offline=settings.offline,
        allow_http=settings.allow_http,
        hub=settings.hf_endpoint,
        hub_token=None if settings.hf_token is None else settings.hf_token.get_secret_value(),
    )
    packs = PackFolder(settings.packs_dir, settings.max_packs_bytes)
    return ModelLibrary(settings.models_dir, load_catalogue([settings.catalogue_file]), network, packs)


def _is_path(name: str) -> bool:
    return not is_reference(name) and (name.endswith(SUFFIX) or "/" in name)


def _key(name: str) -> str:
    """Return what the model of this name is called in the store."""
    return parse_reference(name).name if is_reference(name) else name.lower()


def _located(name: str) -> LocatedModel | None:
    """Return the model at a path: a file, or a folder with a config.json.

    Raises:
        UnknownModelError: The operating system does not let this user look there.
    """
    try:
        path = Path(name).expanduser()
        if path.is_file():
            return LocatedModel(path.stem.lower(), path)
        if is_model_folder(path):
            return LocatedModel(path.resolve().name.lower(), path)
    except (OSError, RuntimeError) as error:  # RuntimeError: a home folder of nobody
        reason = error.strerror if isinstance(error, OSError) else error
        raise UnknownModelError(
            f"Cannot look for a model at {name[:100]!r}: {reason}. Give the path of a file or folder that "
            "this user may read."
        ) from error
    return None


def _referenced(name: str) -> CatalogueEntry:
    """Return an entry as the catalogue would have it for a reference; its source tells the licence."""
    reference = parse_reference(name)
    return CatalogueEntry(
        name=reference.name, description="", licence="", context_length=None, sources=(reference.source,)
    )


def _digests(stored: StoredModel) -> list[str]:
    """Return what names a stored model's weights, in each way that they can be served."""
    if stored.path.suffix == SUFFIX:
        return [stored.sha256[:DIGEST_CHARS]]
    return [folder_digest(stored.sha256, quantize) for quantize in QUANTIZE]


def _silent(_done_bytes: int, _total_bytes: int | None) -> None:
    """Report progress to nobody."""
