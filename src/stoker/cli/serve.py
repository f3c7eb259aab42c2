"""``stoker serve``."""

import sys

from stoker import app
from stoker.cli.flags import fields_of, with_settings
from stoker.cli.progress import pull_progress
from stoker.config import Settings


@with_settings(*fields_of("Model and folders", "Model sources", "Server", "Engine", "Logs"))
def serve(settings: Settings) -> None:
    """Serve a model over an OpenAI-compatible API.

    The model is pulled first when it is missing. The server runs until SIGINT or SIGTERM.
    """
    with pull_progress(settings.model) as report:
        app.serve(settings, progress=report, announce=_say)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
