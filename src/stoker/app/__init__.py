"""The composition root: the one package that names concrete classes and puts them together."""

from stoker.app.local_model import LocalModel, local_model, model_library, running_generator
from stoker.app.serving import serve
from stoker.app.sockets import OTHER_FILES, allow_connections

__all__ = [
    "OTHER_FILES",
    "LocalModel",
    "allow_connections",
    "local_model",
    "model_library",
    "running_generator",
    "serve",
]
