"""A reader of GGUF files that trusts nothing it reads.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little-endian).
"""

from stoker.models.gguf.file import GgufFile, TensorInfo
from stoker.models.gguf.metadata import Metadata
from stoker.models.gguf.types import TENSOR_TYPES, TensorType

__all__ = ["TENSOR_TYPES", "GgufFile", "Metadata", "TensorInfo", "TensorType"]
