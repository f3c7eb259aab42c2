"""What a hub says of a repository: `GET /api/models/{repo}/revision/{revision}?blobs=true`."""

from urllib.parse import quote

import httpx2
import msgspec

from stoker.core.errors import SourceError
from stoker.models.fields import GitSha1, Sha256, SizeBytes
from stoker.models.sources.http import Place, TransientSourceError, get
from stoker.models.sources.network import Network
from stoker.models.sources.retrying import patiently

MAX_LISTING_BYTES = 2**25
"""Largest listing that is read: 32 MiB, some 100,000 files."""


class LargeFile(msgspec.Struct, frozen=True):
    """What git-lfs knows of a file's content."""

    sha256: Sha256
    size: SizeBytes


class RepoFile(msgspec.Struct, frozen=True, rename={"name": "rfilename", "git_sha1": "blobId"}):
    """One file of a repository.

    Attributes:
        name: Its path in the repository.
        size: Its size in bytes.
        git_sha1: The SHA-1 of its git blob, which for an LFS file is only the pointer's.
        lfs: Its content, if it is stored with LFS.
    """

    name: str
    size: int | None = None
    git_sha1: GitSha1 | None = None
    lfs: LargeFile | None = None


class _Card(msgspec.Struct, frozen=True):
    license: str | list[str] | None = None
    license_name: str | None = None


class RepoListing(
    msgspec.Struct, frozen=True, rename={"commit": "sha", "files": "siblings", "card": "cardData"}
):
    """A repository at one commit.

    Attributes:
        commit: The commit that the revision names now.
        files: Every file.
        card: The head of the model card.
    """

    commit: GitSha1
    files: list[RepoFile]
    card: _Card | None = None

    @property
    def licence(self) -> str | None:
        """The licence that the model card states."""
        stated = self.card.license if self.card else None
        if self.card and stated == "other" and self.card.license_name:
            return self.card.license_name[:100]
        return stated[:100] if isinstance(stated, str) else None


def read_listing(
    client: httpx2.Client, network: Network, *, repo: str, revision: str, label: str
) -> RepoListing:
    """Ask the hub which files a repository has, with sizes and checksums.

    Raises:
        SourceError: The hub refuses or cannot be reached, or its reply makes no sense.
    """
    place = Place(
        url=f"{network.hub}/api/models/{repo}/revision/{quote(revision, safe='')}?blobs=true",
        label=label,
        token=network.hub_token,
        page=f"{network.hub}/{repo}",
    )
    raw = patiently(network, lambda: _read(client, network, place))
    try:
        return msgspec.json.decode(raw, type=RepoListing)
    except msgspec.DecodeError as error:
        raise SourceError(f"The hub's list of files of the {label} cannot be understood: {error}.") from error


def _read(client: httpx2.Client, network: Network, place: Place) -> bytes:
    raw = bytearray()
    with get(client, network, place, {}) as response:
        for chunk in response.iter_bytes():
            raw += chunk
            if len(raw) > MAX_LISTING_BYTES:
                raise SourceError(f"The hub's list of files of the {place.label} is too long.")
        expected = response.headers.get("content-length", "")
    if expected.isdecimal() and len(raw) < int(expected):
        raise TransientSourceError(f"The hub's list of files of the {place.label} did not arrive whole.")
    return bytes(raw)
