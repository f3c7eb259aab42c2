"""Which layers the model leaves out when it guesses its own next tokens."""

from stoker.core.errors import SettingsError

AUTO = "auto"


def choose_skipped(setting: str, n_layers: int) -> tuple[int, ...]:
    """Return what the setting ``skip_layers`` means for a model, in order.

    ``auto`` is a stretch in the middle: what the first and the last layers do, no other does.

    Args:
        setting: ``auto``, or layers and ranges of them separated by commas, as in ``8-15,20``.
        n_layers: Layers of the model.

    Raises:
        SettingsError: It is neither, or leaves no layer, or none out.
    """
    if setting == AUTO:
        skipped = set(range(max(1, n_layers // 3), n_layers * 3 // 5))
        if not skipped:
            raise SettingsError(
                f"speculation is skip-layers, but the model has {n_layers} layers, too few to leave some "
                "out: set speculation to prompt-lookup or off"
            )
    else:
        skipped = {layer for part in setting.split(",") for layer in _parse(part.strip(), n_layers)}
    if len(skipped) == n_layers:
        raise SettingsError(f"skip_layers is {setting!r}, all layers of the model; leave it some")
    return tuple(sorted(skipped))


def _parse(part: str, n_layers: int) -> range:
    first, dash, last = part.partition("-")
    ends = (first.strip(), last.strip() if dash else first.strip())
    if not all(each.isascii() and each.isdecimal() for each in ends):
        raise SettingsError(
            f"skip_layers has {part!r}; expected {AUTO}, or layers and ranges of them separated by commas, "
            "as in 8-15,20"
        )
    begin, end = map(int, ends)
    if not begin <= end < n_layers:
        raise SettingsError(
            f"skip_layers has {part!r}, but the model's layers are 0 to {n_layers - 1}; name some of them"
        )
    return range(begin, end + 1)
