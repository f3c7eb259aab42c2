"""``stoker quality``: what a model loses to int8 activations, and which matrices to keep at 16 bits."""

import sys
from pathlib import Path

from stoker.cli.flags import with_settings
from stoker.cli.progress import pull_progress
from stoker.config import Settings
from stoker.core.errors import SettingsError
from stoker.models.library import open_library

MAX_TEXT_BYTES = 1 << 20
N_WINDOWS = 2
WINDOW_TOKENS = 256


@with_settings("model", "home", "quantize", "threads", "isa", "precise")
def quality(settings: Settings, *, text: Path | None = None, by_layer: bool = False) -> None:
    """Measure what the 8-bit activations of each matrix cost a model, and choose what to keep at 16 bits.

    Prints each matrix's mean divergence (of next-token distributions, in nats) from 16 bits, its share of
    the operations, and the value of the setting `precise` that keeps the whole below the budget. Nothing
    is changed: put the value into the settings to use it.

    Args:
        settings: The merged settings.
        text: A text to measure on; unset, the language reference that comes with Python.
        by_layer: Choose among single layers' matrices; takes as many times longer as there are layers.
    """
    # These load NumPy and the native library.
    from stoker.engine.native import NativeEngineSettings, load_engine  # noqa: PLC0415
    from stoker.engine.native.activation_cost import (  # noqa: PLC0415
        KL_BUDGET,
        choose,
        measure_costs,
        measure_divergence,
    )
    from stoker.engine.native.precision import choose_precise, describe  # noqa: PLC0415
    from stoker.models import open_model  # noqa: PLC0415
    from stoker.text import Tokenizer  # noqa: PLC0415
    from stoker.worker.processors import available_processors  # noqa: PLC0415

    words = _read(text)
    with pull_progress(settings.model) as report:
        located = open_library(settings).ensure(settings.model, report)
    with open_model(located.path, settings.quantize) as source:
        current = choose_precise(settings.precise, source.config)
        n_tokens = min(WINDOW_TOKENS, source.config.context_length)
        spec = source.tokenizer
        begin = [spec.bos_token_id] if spec.add_bos and spec.bos_token_id is not None else []
        windows = _windows(Tokenizer(spec).encode(words), begin, n_tokens)
        engine = load_engine(
            source,
            NativeEngineSettings(
                threads=settings.threads or available_processors(),
                isa=settings.isa,
                context_length=n_tokens,
                step_tokens=n_tokens,
                max_running=1,
                precise=settings.precise,
            ),
        )
        costs = measure_costs(engine, source, windows, by_layer=by_layer)
        chosen = choose(costs, KL_BUDGET)
        nothing, now, then = measure_divergence(engine, source, windows, [frozenset(), current, chosen])
    sys.stdout.write(f"{'MATRIX':<12}{'DIVERGENCE':>12}{'OPERATIONS':>12}\n")
    for cost in costs:
        sys.stdout.write(f"{cost.matrix!s:<12}{cost.kl:>12.6f}{cost.share:>12.1%}\n")
    sys.stdout.write(f"all at 8 bits: {nothing:.6f}; as set ({describe(current)}): {now:.6f}\n")
    sys.stdout.write(f"for at most {KL_BUDGET}: precise = {describe(chosen)!r} ({then:.6f})\n")


def _read(text: Path | None) -> str:
    if text is None:
        try:
            from pydoc_data.topics import topics  # noqa: PLC0415 - large
        except ImportError as error:
            raise SettingsError("this Python comes without pydoc_data; name a text with --text") from error
        return "\n\n".join(topics[name] for name in sorted(topics))[:MAX_TEXT_BYTES]
    try:
        with text.open("rb") as file:
            return file.read(MAX_TEXT_BYTES).decode(errors="replace")
    except OSError as error:
        raise SettingsError(f"cannot read the text {text}: {error.strerror}") from error


def _windows(tokens: list[int], begin: list[int], n_tokens: int) -> list[list[int]]:
    """Cut windows at even distances, each begun as the model wants texts to begin."""
    n_text = n_tokens - len(begin)
    if len(tokens) < N_WINDOWS * n_text:
        raise SettingsError(
            f"the text has {len(tokens)} tokens, but {N_WINDOWS * n_text} are measured; name a longer one"
        )
    distance = len(tokens) // N_WINDOWS
    return [begin + tokens[i * distance : i * distance + n_text] for i in range(N_WINDOWS)]
