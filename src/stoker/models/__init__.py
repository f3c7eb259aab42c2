"""Models on disk: the catalogue, the sources they are fetched from, the store, and the file readers."""

from stoker.models.opening import OpenedModel, open_model

__all__ = ["OpenedModel", "open_model"]
