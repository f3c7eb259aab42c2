"""Fetching a model from a hub: ask for the list of files, choose, download and check each."""

from pathlib import Path
from urllib.parse import quote

from stoker.core.errors import SourceError
from stoker.models.huggingface.shape import check_described
from stoker.models.huggingface.tokenizer_json import read_tokenizer_json
from stoker.models.sources.base import Fetched, Progress
from stoker.models.sources.download import Download, WantedFile
from stoker.models.sources.http import Place, connected
from stoker.models.sources.hub_listing import RepoFile, RepoListing, read_listing
from stoker.models.sources.huggingface import HuggingFaceSource
from stoker.models.sources.network import Network
from stoker.models.sources.selection import (
    FOLDER_PART,
    is_weights,
    select_file,
    select_folder,
    select_model,
    select_quantization,
)
from stoker.models.sources.space import require_space


def fetch_from_hub(
    source: HuggingFaceSource, workspace: Path, progress: Progress, network: Network
) -> Fetched:
    """What `HuggingFaceSource.fetch` does.

    Raises:
        UnsupportedModelError: What a folder's config describes cannot be run, or its tokenizer; no weights
            were fetched.
        CorruptFileError: Its config or tokenizer makes no sense; likewise.
    """
    label = f"repository {source.repo}"
    with connected(network) as client:
        listing = read_listing(client, network, repo=source.repo, revision=source.revision, label=label)
        wanted = [
            _wanted(source, file, listing.commit, network) for file in _selected(source, label, listing)
        ]
        total_bytes = sum(file.size_bytes or 0 for file in wanted)
        require_space(workspace, total_bytes - sum(_present_bytes(workspace, file.name) for file in wanted))
        files, before_bytes, described = [], 0, False
        for each in wanted:
            if is_weights(each.name) and not described:
                check_described(workspace)
                read_tokenizer_json(workspace)
                described = True
            report = _offset(progress, before_bytes, total_bytes)
            files.append(Download(client, network, each, workspace, report).run())
            before_bytes += each.size_bytes or 0
    return Fetched(
        files=tuple(files),
        is_folder=not files[0].path.name.endswith(".gguf"),
        source=f"{source.label} ({listing.commit[:12]})",
        licence=listing.licence,
    )


def _selected(source: HuggingFaceSource, label: str, listing: RepoListing) -> tuple[RepoFile, ...]:
    if source.file is not None:
        return (select_file(label, listing.files, source.file),)
    if source.quantization is not None and source.quantization.lower() == FOLDER_PART:
        return select_folder(label, listing.files)
    if source.quantization is not None:
        return (select_quantization(label, listing.files, source.quantization),)
    return select_model(label, listing.files)


def _wanted(source: HuggingFaceSource, file: RepoFile, commit: str, network: Network) -> WantedFile:
    where = f"file {file.name} of the repository {source.repo}"
    said = None if file.lfs is None else file.lfs.sha256
    if source.sha256 is not None and said is not None and said != source.sha256:
        raise SourceError(
            f"The {where} has the SHA-256 {said}, but the catalogue expects {source.sha256}: it has been "
            "replaced. Nothing was fetched."
        )
    sha256 = said or source.sha256
    size_bytes = file.size if file.lfs is None else file.lfs.size
    if not size_bytes or (sha256 is None and file.git_sha1 is None):
        raise SourceError(f"The hub states no size or no checksum of the {where}.")
    return WantedFile(
        # The commit, not the branch: all files are of one state of the repository.
        place=Place(
            url=f"{network.hub}/{source.repo}/resolve/{commit}/{quote(file.name)}",
            label=where,
            token=network.hub_token,
            page=f"{network.hub}/{source.repo}",
        ),
        name=file.name.rpartition("/")[2],
        size_bytes=size_bytes,
        sha256=sha256,
        git_sha1=None if sha256 else file.git_sha1,
    )


def _present_bytes(folder: Path, name: str) -> int:
    """How much of a file an earlier try has left."""
    return sum(path.stat().st_size for path in (folder / name, folder / f"{name}.part") if path.is_file())


def _offset(progress: Progress, before_bytes: int, total_bytes: int) -> Progress:
    return lambda done_bytes, _: progress(before_bytes + done_bytes, total_bytes)
