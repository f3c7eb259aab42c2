"""Where model files come from. A source puts one checked file where it is told to."""

from stoker.models.sources.base import Fetched, Progress, Source
from stoker.models.sources.local_file import LocalFileSource
from stoker.models.sources.package_index import PackageIndexSource

__all__ = ["Fetched", "LocalFileSource", "PackageIndexSource", "Progress", "Source"]
