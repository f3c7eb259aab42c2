"""Downloading one file, resuming where an earlier try stopped, and checking every byte of it.

Beside the growing file ``NAME.part`` lies the note ``NAME.part.json``, which says of which version of
which file the bytes are; the finished file gets its own name only when its size and checksum are
right.
"""

import re
from hashlib import sha1, sha256
from pathlib import Path
from typing import IO, Protocol

import httpx2
import msgspec

from stoker.core.errors import SourceError
from stoker.models.fields import GitSha1, Sha256, SizeBytes
from stoker.models.sources.base import FetchedFile, Progress
from stoker.models.sources.copying import CHUNK_BYTES
from stoker.models.sources.http import Place, TransientSourceError, get
from stoker.models.sources.network import Network
from stoker.models.sources.retrying import patiently
from stoker.models.sources.space import require_space

_MAX_NOTE_BYTES = 2**14
_CONTENT_RANGE = re.compile(r"bytes (\d{1,15})-\d{1,15}/(\d{1,15})")


class WantedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file to download, and what is known of it beforehand.

    Attributes:
        place: Where it is.
        name: What to call it.
        size_bytes: Its size, or None to take what the server says.
        sha256: Its SHA-256, or None.
        git_sha1: The SHA-1 that git gives its content, or None.
    """

    place: Place
    name: str
    size_bytes: SizeBytes | None = None
    sha256: Sha256 | None = None
    git_sha1: GitSha1 | None = None

    @property
    def checksum(self) -> str | None:
        """What its bytes must hash to, if it is known."""
        return self.sha256 or self.git_sha1


class _Note(msgspec.Struct, frozen=True, kw_only=True):
    url: str
    checksum: str | None
    etag: str | None
    size_bytes: SizeBytes


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


class Download:
    """One file on its way into a folder.

    Args:
        client: Asks for it.
        network: How patiently.
        wanted: The file.
        folder: Where it goes; what an earlier try left there is used.
        progress: Told of this file's bytes.
    """

    def __init__(
        self, client: httpx2.Client, network: Network, wanted: WantedFile, folder: Path, progress: Progress
    ) -> None:
        self._client = client
        self._network = network
        self._wanted = wanted
        self._progress = progress
        self._target = folder / wanted.name
        self._part = folder / f"{wanted.name}.part"
        self._note = folder / f"{wanted.name}.part.json"

    def run(self) -> FetchedFile:
        """Fetch until the file is whole; ends also if it was so before.

        Raises:
            SourceError: It cannot be had, or is not what was expected.
            OSError: The folder cannot be written.
        """
        if self._target.is_file():
            size_bytes, digests = self._hashed(self._target)
            if self._is_right(size_bytes, digests):
                self._progress(size_bytes, size_bytes)
                return FetchedFile(self._target, digests[0])
            self._target.unlink()
        resumed = self._fetch_patiently()
        size_bytes, digests = self._hashed(self._part)
        if resumed and self._wanted.checksum and not self._is_right(size_bytes, digests):
            # The bytes of the earlier try may be the wrong ones: once more, from the start.
            self._forget()
            self._fetch_patiently()
            size_bytes, digests = self._hashed(self._part)
        self._require_right(size_bytes, digests)
        self._part.rename(self._target)
        self._note.unlink(missing_ok=True)
        return FetchedFile(self._target, digests[0])

    def _fetch_patiently(self) -> bool:
        """Try until all bytes are there; return whether the last request built upon earlier ones."""
        return patiently(self._network, self._fetch_rest, self._n_bytes)

    def _fetch_rest(self) -> bool:
        """Fetch what is missing with one request; return whether what was there was of use."""
        note, have = self._kept()
        headers = {}
        if note is not None:
            if have == note.size_bytes:
                return True
            headers["Range"] = f"bytes={have}-"
            if note.etag is not None:
                headers["If-Range"] = note.etag
        with get(self._client, self._network, self._wanted.place, headers) as response:
            if response.status_code == httpx2.codes.RANGE_NOT_SATISFIABLE:
                self._forget()
                raise TransientSourceError(
                    f"The {self._wanted.place.label} has changed while it was fetched."
                )
            self._require_file(response)
            start, size_bytes = self._extent(response)
            if start not in {0, have}:
                raise SourceError(f"The {self._wanted.place.label} does not arrive from the byte asked for.")
            if start == 0:
                self._forget()
            require_space(self._part.parent, size_bytes - start)
            if start == 0:
                self._write_note(response, size_bytes)
            with self._part.open("r+b" if start else "xb") as file:
                file.seek(start)
                self._receive(response, file, start, size_bytes)
        return start > 0

    def _receive(self, response: httpx2.Response, file: IO[bytes], start: int, size_bytes: int) -> None:
        done = start
        self._progress(done, size_bytes)
        for chunk in response.iter_raw():  # as they come: a larger buffer would be lost with the connection
            done += len(chunk)
            if done > size_bytes:
                self._forget()
                raise SourceError(f"The {self._wanted.place.label} is longer than the server said.")
            file.write(chunk)
            self._progress(done, size_bytes)
        if done < size_bytes:
            raise TransientSourceError(
                f"The {self._wanted.place.label} ended after {done} of {size_bytes} bytes."
            )

    def _require_file(self, response: httpx2.Response) -> None:
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "text/html":
            raise SourceError(
                f"The {self._wanted.place.label} is a web page, not a file: use the address that downloads "
                "the file itself."
            )

    def _extent(self, response: httpx2.Response) -> tuple[int, int]:
        """Return the first byte's place in the file and the file's size."""
        if response.status_code == httpx2.codes.PARTIAL_CONTENT:
            match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
            start, size_bytes = map(int, match.groups()) if match else (-1, 0)
        else:
            length = response.headers.get("content-length", "")
            start, size_bytes = 0, int(length) if length.isdecimal() else 0
        if size_bytes == 0:
            raise SourceError(f"The server does not say how large the {self._wanted.place.label} is.")
        if self._wanted.size_bytes not in {None, size_bytes}:
            raise SourceError(
                f"The {self._wanted.place.label} has {size_bytes} bytes, but {self._wanted.size_bytes} are "
                "expected: it is another file."
            )
        return start, size_bytes

    def _kept(self) -> tuple[_Note | None, int]:
        """Return what is known of the bytes that lie there already, and how many can be built upon."""
        try:
            note = msgspec.json.decode(self._note.read_bytes()[:_MAX_NOTE_BYTES], type=_Note)
        except (OSError, msgspec.DecodeError):
            return None, 0
        have = self._n_bytes()
        same = (note.url, note.checksum) == (self._wanted.place.url, self._wanted.checksum)
        if not same or not 0 < have <= note.size_bytes or (note.checksum is None and note.etag is None):
            return None, 0
        return note, have

    def _write_note(self, response: httpx2.Response, size_bytes: int) -> None:
        etag = response.headers.get("etag")
        if etag is not None and etag.startswith("W/"):  # says nothing of the bytes
            etag = None
        note = _Note(
            url=self._wanted.place.url, checksum=self._wanted.checksum, etag=etag, size_bytes=size_bytes
        )
        self._note.write_bytes(msgspec.json.encode(note))

    def _forget(self) -> None:
        self._part.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def _n_bytes(self) -> int:
        return self._part.stat().st_size if self._part.is_file() else 0

    def _hashed(self, path: Path) -> tuple[int, tuple[str, str]]:
        """Return a file's size, and its SHA-256 and git's SHA-1 (empty when not needed)."""
        size_bytes = path.stat().st_size
        states: list[_Hash] = [sha256()]
        if self._wanted.git_sha1 is not None:
            states.append(sha1(b"blob %d\0" % size_bytes, usedforsecurity=False))
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                for state in states:
                    state.update(chunk)
        return size_bytes, (states[0].hexdigest(), states[-1].hexdigest() if len(states) > 1 else "")

    def _is_right(self, size_bytes: int, digests: tuple[str, str]) -> bool:
        """Tell whether a file is the wanted one as far as is known; never if nothing is known."""
        wanted = self._wanted
        return (
            wanted.checksum is not None
            and wanted.size_bytes in {None, size_bytes}
            and wanted.sha256 in {None, digests[0]}
            and wanted.git_sha1 in {None, digests[1]}
        )

    def _require_right(self, size_bytes: int, digests: tuple[str, str]) -> None:
        wanted = self._wanted
        if wanted.checksum is None or self._is_right(size_bytes, digests):
            return
        self._forget()
        kind, digest = ("SHA-256", digests[0]) if wanted.sha256 else ("git SHA-1", digests[1])
        raise SourceError(
            f"The {wanted.place.label} has the {kind} {digest}, but {wanted.checksum} is expected: it is "
            "another file, or damaged. Nothing was kept."
        )
