"""Numbers that GGUF gives to tensor types and to metadata value types."""

from dataclasses import dataclass
from enum import IntEnum


@dataclass(frozen=True, slots=True)
class TensorType:
    """How a tensor's elements are stored.

    Attributes:
        name: GGUF's name.
        block_elements: Consecutive elements along the innermost dimension that form one block.
        block_bytes: Size of one block.
    """

    name: str
    block_elements: int
    block_bytes: int


TENSOR_TYPES = {
    0: TensorType("F32", 1, 4),
    1: TensorType("F16", 1, 2),
    2: TensorType("Q4_0", 32, 2 + 16),  # f16 scale, 32 codes of 4 bits
    3: TensorType("Q4_1", 32, 2 + 2 + 16),  # f16 scale, f16 minimum, 32 codes of 4 bits
    8: TensorType("Q8_0", 32, 2 + 32),  # f16 scale, 32 signed bytes
    30: TensorType("BF16", 1, 2),
}
"""The tensor types that Stoker reads, by GGUF's number."""

OTHER_TENSOR_TYPE_NAMES = {
    6: "Q5_0",
    7: "Q5_1",
    9: "Q8_1",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
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
