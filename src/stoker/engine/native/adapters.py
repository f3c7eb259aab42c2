"""The adapters that the native model has in its slots."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stoker import _native
from stoker.core.errors import CorruptFileError, EngineError, OutOfMemoryError, UnsupportedModelError
from stoker.core.step import StepPlan
from stoker.core.tokens import AdapterRef
from stoker.models.adapters import AdapterLimits
from stoker.models.config import ModelConfig


class AdapterSlots:
    """Reads adapters, and knows which slot of the model each is in.

    `read` is for any thread; the other methods belong to the thread that owns the engine.

    Args:
        config: The model's shape.
        limits: What an adapter may have.
        n_slots: Most adapters at a time.
        float_path: Whether the model computes in fp32.
    """

    def __init__(self, config: ModelConfig, limits: AdapterLimits, *, n_slots: int, float_path: bool) -> None:
        self._config = config
        self._limits = limits
        self._float_path = float_path
        self._free = list(reversed(range(n_slots)))
        self._slots: dict[str, int] = {}

    def read(self, adapter: AdapterRef) -> _native.Adapter:
        """Read and pack an adapter.

        Raises:
            ModelError: It is missing, damaged, has changed, or does not fit the model.
        """
        from stoker.models.adapters.reading import read_adapter  # noqa: PLC0415 - few engines read one

        lora = read_adapter(Path(adapter.path), self._config, self._limits)
        if lora.digest != adapter.digest:
            raise CorruptFileError(
                f"The adapter in {adapter.path} has changed since it was loaded. Unload it and load it again."
            )
        packed = _native.Adapter(n_layers=self._config.n_layers, float_path=self._float_path)
        try:
            for part in lora.parts:
                packed.set(part.target, part.layer, part.down, part.up, part.scale)
            for each in lora.bottlenecks:
                packed.set_bottleneck(
                    each.half,
                    each.layer,
                    each.down,
                    each.bias,
                    each.up,
                    each.up_bias,
                    scale=each.scale,
                    bend=each.bend,
                    of_stream=each.of_stream,
                )
        except ValueError as error:
            raise UnsupportedModelError(f"The adapter in {adapter.path} cannot be run: {error}.") from error
        except MemoryError as error:
            raise OutOfMemoryError(f"There is no memory for the adapter in {adapter.path}.") from error
        return packed

    def place(self, model: _native.Model, digest: str, ready: object) -> None:
        """Put an adapter into a free slot; once is enough.

        Raises:
            EngineError: There is none.
        """
        if digest in self._slots:
            return
        if not isinstance(ready, _native.Adapter) or not self._free:
            raise EngineError(f"there is no slot for one more adapter than {len(self._slots)}")
        slot = self._free[-1]
        try:
            model.set_adapter(slot, ready)
        except (ValueError, MemoryError) as error:
            raise EngineError(f"the engine refused an adapter: {error}") from error
        self._slots[digest] = self._free.pop()

    def drop(self, model: _native.Model, digest: str) -> None:
        """Empty an adapter's slot, if it has one."""
        slot = self._slots.pop(digest, None)
        if slot is not None:
            model.set_adapter(slot, None)
            self._free.append(slot)

    def of_plan(self, plan: StepPlan) -> NDArray[np.int32]:
        """Return the slot of each row's adapter, -1 for none.

        Raises:
            EngineError: The plan names an adapter that is in no slot.
        """
        slots = np.full(len(plan.tokens), -1, np.int32)
        for row, digest in plan.adapters.items():
            slot = self._slots.get(digest)
            if slot is None:
                raise EngineError(f"the plan names the adapter {digest}, which is not in memory")
            slots[row] = slot
        return slots
