"""The native CPU engine: a `StepEngine` over the C++ library in ``native/``."""

from stoker.engine.native.engine import NativeEngine
from stoker.engine.native.loader import NativeEngineSettings, load_engine

__all__ = ["NativeEngine", "NativeEngineSettings", "load_engine"]
