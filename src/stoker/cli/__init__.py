"""The command line: parse, call `stoker.app` or `stoker.models`, print.

Commands are imported when they run, so that each starts as fast as it can.
"""

import os
import sys

from cyclopts import App, CycloptsError

from stoker.core.errors import SettingsError, StokerError

EXIT_FAILURE = 1
"""The command was understood and did not succeed."""

EXIT_USAGE = 2
"""An argument, a flag or a setting is wrong."""

EXIT_INTERRUPTED = 130
"""Ended by Ctrl-C, as shells spell it."""


def _version() -> str:
    from importlib.metadata import version  # noqa: PLC0415 - only this flag needs it

    return f"stoker {version('stoker')}"


app = App(
    name="stoker",
    help="Serve open language models on a CPU engine of its own.",
    version=_version,
    help_format="markdown",
)
app.command("stoker.cli.serve:serve", name="serve", help="Serve models over an OpenAI-compatible API.")
app.command("stoker.cli.ps:ps", name="ps", help="List the models of a running server.")
app.command("stoker.cli.ps:load", name="load", help="Have a running server load a model.")
app.command("stoker.cli.ps:unload", name="unload", help="Have a running server unload a model.")
app.command("stoker.cli.ps:sleep", name="sleep", help="Have a running server put a model to sleep.")
app.command("stoker.cli.ps:wake", name="wake", help="Have a running server wake a model.")
app.command("stoker.cli.run:run", name="run", help="Answer one prompt, or chat, without a server.")
app.command("stoker.cli.bench:bench", name="bench", help="Measure a server under load, or the engine.")
app.command("stoker.cli.models:pull", name="pull", help="Fetch a model into the model store.")
app.command("stoker.cli.models:list_models", name="list", help="List the models that are stored or known.")
app.command("stoker.cli.models:show", name="show", help="Show what is known of one model.")
app.command("stoker.cli.merge:merge", name="merge", help="Merge an adapter into a model of its own.")
app.command("stoker.cli.quality:quality", name="quality", help="Measure what 8-bit activations cost a model.")
app.command("stoker.cli.models:remove", name="rm", help="Remove a model from the model store.")


def main(arguments: list[str] | None = None) -> None:
    """Run the command that `arguments` (by default the process's) name, then exit.

    A foreseen error is one line on standard error. The exit status is 0, `EXIT_FAILURE`,
    `EXIT_USAGE` or `EXIT_INTERRUPTED`.
    """
    sys.exit(_run(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: list[str]) -> int:
    try:
        status = app(
            arguments,
            exit_on_error=False,
            print_error=False,
            result_action="return_int_as_exit_code_else_zero",
        )
        sys.stdout.flush()
    except CycloptsError as error:
        return _fail(f"{error} (see stoker --help)", EXIT_USAGE)
    except SettingsError as error:
        return _fail(str(error), EXIT_USAGE)
    except StokerError as error:
        return _fail(str(error), EXIT_FAILURE)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone. Python flushes standard output once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILURE
    return int(status)


def _fail(message: str, status: int) -> int:
    line = " ".join(message.split())
    sys.stderr.write(f"stoker: {line}\n")
    return status
