"""``stoker serve``."""

import sys
from contextlib import ExitStack

from stoker import app
from stoker.cli.flags import fields_of, with_source
from stoker.cli.progress import pull_progress
from stoker.config import SettingsSource


@with_source(*fields_of("Model and folders", "Model sources", "Several models", "Server", "Engine", "Logs"))
def serve(source: SettingsSource, *models: str) -> None:
    """Serve models over an OpenAI-compatible API.

    A model is pulled first when it is missing. The server runs until SIGINT or SIGTERM; SIGHUP, or a
    change of the settings file, makes it read its settings again.

    Args:
        source: Where the settings are.
        models: Models to serve, each a name from the catalogue or the path of a GGUF file. Without any, the
            one that `--model` says.
    """
    with ExitStack() as bars:
        app.serve(
            source, models, progress=lambda name: bars.enter_context(pull_progress(name)), announce=_say
        )


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
