"""The tensors of a folder, taken one by one: what nobody takes is a reason to refuse the model."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from stoker.core.errors import CorruptFileError, UnsupportedModelError
from stoker.models.huggingface.matrices import FloatMatrix, Matrix, require_float, require_shape
from stoker.models.huggingface.packed import PackedMatrix, PackedParts
from stoker.models.huggingface.quantization import Quantization
from stoker.models.huggingface.safetensors import StoredTensor, shown

_PREFIXES = ("model.", "language_model.model.", "model.language_model.")
"""What stands before the names of a decoder's tensors."""

_NOT_COMPUTED = re.compile(
    r"(model\.)?(vision_tower|multi_modal_projector)\.|.*\.rotary_emb\.inv_freq\Z|.*\.attention\.bias\Z"
)
"""Tensors of parts that are not run, and tables that are computed anew."""


class Inventory:
    """A folder's tensors by the names that its family gives them.

    Args:
        label: The folder's name, for messages.
        tensors: Every tensor by its full name.
        quantization: How quantized matrices are stored, or None.

    Raises:
        CorruptFileError: There are no embeddings.
    """

    def __init__(
        self, label: str, tensors: Mapping[str, StoredTensor], quantization: Quantization | None
    ) -> None:
        self.label = label
        self.quantization = quantization
        self.packed: list[PackedMatrix] = []
        """The quantized matrices that were asked for."""
        self._tensors = tensors
        self._taken: set[str] = set()
        found = [prefix for prefix in _PREFIXES if f"{prefix}embed_tokens.weight" in tensors]
        if not found:
            raise CorruptFileError(f"{label} lacks the tensor {_PREFIXES[0]}embed_tokens.weight.")
        self.prefix = found[0]
        """What stands before the decoder's names."""

    @property
    def embedding_type(self) -> str:
        """How the embedding matrix is stored."""
        return self._tensors[f"{self.prefix}embed_tokens.weight"].dtype

    def has(self, name: str) -> bool:
        """Tell whether there is a tensor."""
        return name in self._tensors

    def take(self, name: str, *shapes: Sequence[int]) -> StoredTensor:
        """Return a tensor of one of these shapes.

        Raises:
            CorruptFileError: It is missing, or has another shape.
        """
        stored = self._tensors.get(name)
        if stored is None:
            raise CorruptFileError(f"{self.label} lacks the tensor {shown(name)}.")
        require_shape(self.label, stored, *shapes)
        self._taken.add(name)
        return stored

    def floats(self, name: str, *shapes: Sequence[int]) -> StoredTensor:
        """Return a tensor of floats. Raises as `take` and `require_float` do."""
        stored = self.take(name, *shapes)
        require_float(self.label, stored)
        return stored

    def matrix(self, name: str, shape: tuple[int, int]) -> Matrix:
        """Return the matrix of a linear layer, stored as floats or quantized.

        Raises:
            CorruptFileError: Tensors are missing, or do not fit the shape.
            UnsupportedModelError: It is stored in a type that Stoker does not read.
        """
        scheme = self.quantization
        if scheme is None or scheme.method == "mxfp4" or self.has(f"{name}.weight"):
            return FloatMatrix(self.floats(f"{name}.weight", shape))
        packed = PackedMatrix(self.label, self._packed_parts(name), scheme, shape)
        self.packed.append(packed)
        return packed

    def check_all_taken(self) -> None:
        """Refuse tensors that the forward pass would leave out.

        Raises:
            UnsupportedModelError: There is one.
        """
        for name, stored in self._tensors.items():
            if name not in self._taken and _NOT_COMPUTED.match(name) is None and not self._is_no_bias(stored):
                raise UnsupportedModelError(
                    f"{self.label} has the tensor {shown(name)}, which the forward pass of its family does "
                    "not use; computing without it would give other answers than the model's."
                )

    def ignore(self, name: str) -> None:
        """Count a tensor as taken, if there is one."""
        self._taken.add(name)

    def _is_no_bias(self, stored: StoredTensor) -> bool:
        """Tell whether this is a bias of zeros, which quantizing tools add where a model has none."""
        return (
            self.quantization is not None
            and stored.name.endswith(".bias")
            and len(stored.shape) == 1
            and not np.frombuffer(stored.data, np.uint8).any()
        )

    def _packed_parts(self, name: str) -> PackedParts:
        parts = {}
        for part in ("qweight", "qzeros", "scales"):
            full = f"{name}.{part}"
            if full not in self._tensors:
                raise CorruptFileError(f"{self.label} lacks the tensor {shown(full)}.")
            self._taken.add(full)
            parts[part] = self._tensors[full]
        self._taken.add(f"{name}.g_idx")
        return PackedParts(**parts, g_idx=self._tensors.get(f"{name}.g_idx"))
