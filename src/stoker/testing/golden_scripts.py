"""Scripts beside golden files: what the files were made of, for those who compare with them."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any


def load_script(path: Path) -> Any:
    """Run a script that is in no package, and return it as a module.

    Raises:
        FileNotFoundError: There is none.
    """
    spec = spec_from_file_location(f"golden_{path.parent.name}_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
