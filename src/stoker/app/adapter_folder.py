"""The folder that a model's adapters may be loaded from."""

from dataclasses import dataclass
from pathlib import Path

from stoker.core.errors import InvalidRequestError, ModelError
from stoker.core.tokens import AdapterRef
from stoker.models.huggingface.files import Quantize
from stoker.worker.config import EngineKind

_SHOWN_CHARS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFolder:
    """Reads adapters for one model, from one folder alone.

    Attributes:
        model: The model's name.
        path: The model's file or folder.
        quantize: How that is served.
        engine: What computes it.
        folder: Where adapters are; None if there are none.
        max_rank: Largest rank of one.
        max_file_bytes: Largest file of weights of one.
    """

    model: str
    path: Path
    quantize: Quantize
    engine: EngineKind
    folder: Path | None
    max_rank: int
    max_file_bytes: int

    def read(self, path: str) -> AdapterRef:
        """Read an adapter and check that it fits the model.

        Args:
            path: Below `folder`, or absolute and inside of it.

        Raises:
            InvalidRequestError: There are no adapters here, the path is not inside of the folder, or the
                adapter cannot be read or does not fit.
        """
        shown = repr(path[:_SHOWN_CHARS])
        if self.engine != "native":
            raise InvalidRequestError(
                f"The model '{self.model}' is computed by llama.cpp, which takes no adapters here. Serve it "
                "with the native engine (engine = native).",
                param="lora_path",
            )
        if self.folder is None:
            raise InvalidRequestError(
                "Adapters are loaded from the folder that the setting lora_dir names, and it is not set.",
                param="lora_path",
            )
        try:
            root = self.folder.resolve()
            found = (root / path).resolve()
        except (OSError, ValueError, RuntimeError) as error:
            raise InvalidRequestError(
                f"'lora_path' is {shown}, which is no path.", param="lora_path"
            ) from error
        if not found.is_relative_to(root) or found == root:
            raise InvalidRequestError(
                f"'lora_path' is {shown}, which is not inside of lora_dir.", param="lora_path"
            )
        # Seldom asked for, and not needed to be ready.
        from stoker.models import open_model  # noqa: PLC0415
        from stoker.models.adapters import AdapterLimits  # noqa: PLC0415
        from stoker.models.adapters.reading import read_adapter  # noqa: PLC0415

        limits = AdapterLimits(max_rank=self.max_rank, max_file_bytes=self.max_file_bytes)
        try:
            with open_model(self.path, self.quantize) as model:
                adapter = read_adapter(found, model.config, limits)
        except ModelError as error:
            raise InvalidRequestError(f"The adapter cannot be loaded: {error}", param="lora_path") from error
        return AdapterRef(str(found), adapter.digest)
