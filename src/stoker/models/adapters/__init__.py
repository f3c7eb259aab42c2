"""Readers of adapters: what is added to a model's matrices for the requests that ask for it."""

from stoker.models.adapters.checked import AdapterLimits, AdapterPart, CheckedAdapter
from stoker.models.adapters.reading import adapter_digest, read_adapter

__all__ = ["AdapterLimits", "AdapterPart", "CheckedAdapter", "adapter_digest", "read_adapter"]
