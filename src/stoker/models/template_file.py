"""A chat template that the settings name instead of the model's own."""

from pathlib import Path

from stoker.core.errors import SettingsError
from stoker.models.tokenizer_spec import MAX_TEMPLATE_CHARS

_MAX_CHAR_BYTES = 4


def read_template(path: Path) -> str:
    """Return the source of a chat template.

    Raises:
        SettingsError: The file cannot be read, is no UTF-8 text or is too long.
    """
    try:
        if not path.is_file():
            raise SettingsError(f"chat_template names {path}, which is no file.")
        with path.open("rb") as file:
            data = file.read(MAX_TEMPLATE_CHARS * _MAX_CHAR_BYTES + 1)
        source = data.decode()
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"chat_template names {path}, which cannot be read as UTF-8 text: {error}"
        ) from error
    if len(source) > MAX_TEMPLATE_CHARS:
        raise SettingsError(
            f"chat_template names {path}, which has more than {MAX_TEMPLATE_CHARS} characters, the most that "
            "a template may have."
        )
    return source
