"""Models of every architecture that Stoker runs, as GGUF files describe them.

`families` says what the architectures differ in, `keys` reads a file's metadata, `shape` and `rotary` make
the `ModelConfig` of it, `stored` finds its tensors.
"""

from stoker.models.architectures.families import FAMILIES
from stoker.models.architectures.shape import read_config
from stoker.models.architectures.stored import locate_tensors

__all__ = ["FAMILIES", "locate_tensors", "read_config"]
