"""A model file at any address."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec

from stoker.core.errors import SourceError
from stoker.models.fields import Sha256, SizeBytes, Url
from stoker.models.sources.base import Fetched, Progress
from stoker.models.sources.network import Network, shown_url

_SUFFIX = ".gguf"


class UrlSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Downloads one GGUF file; only https, except from this machine or where `allow_http` is set.

    Attributes:
        url: Its address.
        sha256: Its SHA-256 in hex; the catalogue demands one. None takes what is there.
        size_bytes: Its size, or None to take what the server says.
    """

    url: Url
    sha256: Sha256 | None = None
    size_bytes: SizeBytes | None = None

    def __post_init__(self) -> None:
        if not urlsplit(self.url).hostname:
            raise ValueError("`url` names no host")

    @property
    def label(self) -> str:
        """What the source is, for people."""
        return f"file {shown_url(self.url)}"

    @property
    def peak_bytes(self) -> int:
        """The file's size; room is asked for once it is known."""
        return 0

    @property
    def resume_key(self) -> str:
        """The address."""
        return self.url

    def fetch(self, workspace: Path, progress: Progress, network: Network, /) -> Fetched:
        """Download and check; see `Source.fetch`."""
        # The HTTP client takes 60 ms to import, which starting with a stored model need not pay.
        from stoker.models.sources.download import Download, WantedFile  # noqa: PLC0415
        from stoker.models.sources.http import Place, connected  # noqa: PLC0415

        name = unquote(urlsplit(self.url).path).rpartition("/")[2]
        if not name.endswith(_SUFFIX) or "\0" in name or len(name.encode()) > 200:  # noqa: PLR2004 - a file's name
            raise SourceError(
                f"The {self.label} is not named like a GGUF file: its path must end in {_SUFFIX}."
            )
        wanted = WantedFile(
            place=Place(url=self.url, label=self.label),
            name=name,
            size_bytes=self.size_bytes,
            sha256=self.sha256,
        )
        with connected(network) as client:
            file = Download(client, network, wanted, workspace, progress).run()
        return Fetched(files=(file,), source=self.label)
