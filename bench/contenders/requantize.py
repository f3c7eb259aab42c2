"""Write a GGUF file again in another type with llama.cpp.

Usage: python requantize.py SOURCE TARGET Q4_0|Q8_0|Q4_K_M|BF16
"""

import ctypes
import sys

import llama_cpp

FILE_TYPES = {"Q4_0": 2, "Q8_0": 7, "Q4_K_M": 15, "BF16": 32}


def main() -> None:
    """Convert one file."""
    source, target, name = sys.argv[1:]
    params = llama_cpp.llama_model_quantize_default_params()
    params.allow_requantize = True
    params.ftype = FILE_TYPES[name]
    if llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)) != 0:
        sys.exit(f"llama.cpp could not write {target}")


if __name__ == "__main__":
    main()
