"""Where models come from. A source puts the checked files of one model where it is told to."""

from stoker.models.sources.base import Fetched, FetchedFile, Progress, ResumableSource, Source
from stoker.models.sources.huggingface import HuggingFaceSource
from stoker.models.sources.local_file import LocalFileSource
from stoker.models.sources.network import HUB, Network
from stoker.models.sources.package_index import PackageIndexSource
from stoker.models.sources.url import UrlSource

__all__ = [
    "HUB",
    "Fetched",
    "FetchedFile",
    "HuggingFaceSource",
    "LocalFileSource",
    "Network",
    "PackageIndexSource",
    "Progress",
    "ResumableSource",
    "Source",
    "UrlSource",
]
