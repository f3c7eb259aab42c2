"""Packs: a model's weights in the layout of the kernels, kept in a file that later starts map.

What is in the weights is the engine's business; here are the file's format (`format`), its reading
(`file`) and the folder that packs are kept in (`folder`). `docs/adr/0029` says why it is so.
"""

from stoker.models.packs.file import PackFile
from stoker.models.packs.folder import NewPart, PackFolder
from stoker.models.packs.format import PackKey

__all__ = ["NewPart", "PackFile", "PackFolder", "PackKey"]
