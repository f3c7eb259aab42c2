"""Numbers that GGUF gives to tensor types and to metadata value types."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

Fidelity = Literal["exact", "rounded scales", "widened to f16"]
"""How Stoker's weights hold a stored type.

- ``exact``: every value is held as it is.
- ``rounded scales``: codes are kept; each group's scale and minimum, products of a small integer and an
  f16, are rounded to f16.
- ``widened to f16``: each value is rounded to f16 and takes 16 bits.
"""


@dataclass(frozen=True, slots=True)
class TensorType:
    """How a tensor's elements are stored.

    Attributes:
        name: GGUF's name.
        block_elements: Consecutive elements along the innermost dimension that form one block.
        block_bytes: Size of one block.
        fidelity: How Stoker's weights hold it.
    """

    name: str
    block_elements: int
    block_bytes: int
    fidelity: Fidelity = "exact"


TENSOR_TYPES = {
    0: TensorType("F32", 1, 4),
    1: TensorType("F16", 1, 2),
    2: TensorType("Q4_0", 32, 2 + 16),  # f16 scale, 32 codes of 4 bits
    3: TensorType("Q4_1", 32, 2 + 2 + 16),  # f16 scale, f16 minimum, 32 codes of 4 bits
    6: TensorType("Q5_0", 32, 2 + 4 + 16),  # f16 scale, 32 codes of 5 bits
    7: TensorType("Q5_1", 32, 2 + 2 + 4 + 16),  # f16 scale, f16 minimum, 32 codes of 5 bits
    8: TensorType("Q8_0", 32, 2 + 32),  # f16 scale, 32 signed bytes
    # Super-blocks: scales of 16 or 32 elements, one or two f16 that they are multiples of, codes.
    10: TensorType("Q2_K", 256, 16 + 64 + 2 + 2, "widened to f16"),
    11: TensorType("Q3_K", 256, 32 + 64 + 12 + 2),
    12: TensorType("Q4_K", 256, 2 + 2 + 12 + 128, "rounded scales"),
    13: TensorType("Q5_K", 256, 2 + 2 + 12 + 32 + 128, "rounded scales"),
    14: TensorType("Q6_K", 256, 128 + 64 + 16 + 2, "widened to f16"),
    20: TensorType("IQ4_NL", 32, 2 + 16),  # f16 scale, 32 places in a table
    23: TensorType("IQ4_XS", 256, 2 + 2 + 4 + 128, "rounded scales"),
    30: TensorType("BF16", 1, 2),
    39: TensorType("MXFP4", 32, 1 + 16),  # exponent of the scale, 32 floats of 4 bits
}
"""The tensor types that Stoker reads, by GGUF's number."""

OTHER_TENSOR_TYPE_NAMES = {
    9: "Q8_1",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    21: "IQ3_S",
    22: "IQ2_S",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    34: "TQ1_0",
    35: "TQ2_0",
}
"""Names of the types that Stoker does not read, so that an error can spell them."""


class ValueType(IntEnum):
    """Type of a metadata value."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


SCALAR_FORMATS = {
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.BOOL: "B",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}
"""`struct` codes of the fixed-size value types."""
