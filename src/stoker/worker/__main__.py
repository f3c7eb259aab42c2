"""``python -m stoker.worker`` is the engine process; the supervisor starts it."""

from stoker.worker.config import EngineConfig
from stoker.worker.loop import LoadedEngine
from stoker.worker.process import engine_main


def load(config: EngineConfig) -> LoadedEngine:
    """Load the engine that the configuration names; an `EngineFactory`."""
    if config.engine == "llamacpp":
        from stoker.worker.llamacpp import load_llamacpp  # noqa: PLC0415

        return load_llamacpp(config)
    from stoker.worker.native import load_native  # noqa: PLC0415

    return load_native(config)


if __name__ == "__main__":
    engine_main(load)
