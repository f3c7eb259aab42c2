"""Adapters: what is added to a model's matrices for the requests that ask for it.

Their readers are in `stoker.models.adapters.reading`, which a start has no need of.
"""

from stoker.models.adapters.checked import AdapterLimits, AdapterPart, CheckedAdapter

__all__ = ["AdapterLimits", "AdapterPart", "CheckedAdapter"]
