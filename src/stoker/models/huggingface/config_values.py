"""Checked access to the values of a ``config.json``."""

from collections.abc import Mapping
from dataclasses import dataclass

from stoker.core.errors import CorruptFileError, UnsupportedModelError
from stoker.models.huggingface.families import Family, Json
from stoker.models.huggingface.ignored_keys import IGNORED_KEYS
from stoker.models.huggingface.safetensors import shown

_MAX_SHOWN_KEYS = 8
_SMALLEST, _LARGEST = 1e-30, 1e30
"""Within these, a number, its inverse and its root are numbers of 32 bits, too."""


@dataclass(frozen=True, slots=True)
class Values:
    """The values of one object, with those that `transformers` takes for what is left out.

    Attributes:
        label: Where they are, for messages.
        given: What the file says.
        defaults: What is taken for keys that the file leaves out.
    """

    label: str
    given: Mapping[str, Json]
    defaults: Mapping[str, Json]

    def get(self, key: str) -> Json:
        """Return a key's value; None if it is null, or left out and without a default."""
        return self.given.get(key, self.defaults.get(key))

    def integer(self, key: str, largest: int, *, smallest: int = 1) -> int:
        """Return a whole number.

        Raises:
            CorruptFileError: There is none, or it is out of range.
        """
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not smallest <= value <= largest:
            raise self.wrong(key, f"a whole number from {smallest} to {largest}")
        return value

    def optional_integer(self, key: str, largest: int) -> int | None:
        """Return a whole number from 1, or None where there is none."""
        return None if self.get(key) is None else self.integer(key, largest)

    def number(self, key: str) -> float:
        """Return a positive number.

        Raises:
            CorruptFileError: There is none, or it is out of range.
        """
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not _SMALLEST < value < _LARGEST:
            raise self.wrong(key, f"a positive number between {_SMALLEST:g} and {_LARGEST:g}")
        return float(value)

    def optional_number(self, key: str) -> float | None:
        """Return a positive number, or None where there is none."""
        return None if self.get(key) is None else self.number(key)

    def flag(self, key: str) -> bool:
        """Return a truth value; null counts as false."""
        value = self.get(key)
        if not isinstance(value, bool | None):
            raise self.wrong(key, "true or false")
        return bool(value)

    def numbers(self, key: str, length: int) -> tuple[float, ...]:
        """Return a list of positive numbers of this length."""
        value = self.get(key)
        found = value if isinstance(value, list) else []
        numbers = tuple(
            float(each) for each in found if isinstance(each, int | float) and 0 < each < _LARGEST
        )
        if len(found) != length or len(numbers) != length:
            raise self.wrong(key, f"a list of {length} positive numbers")
        return numbers

    def wrong(self, key: str, expected: str) -> CorruptFileError:
        """Return the error for a value that makes no sense."""
        found = shown(str(self.get(key))) if key in self.given else "left out"
        return CorruptFileError(f"{self.label}: {key} is {found}, expected {expected}.")


def check_keys(values: Values, family: Family) -> None:
    """Refuse what would change the computation in ways that are not known.

    Raises:
        UnsupportedModelError: A key has a value that is not computed, or is not known.
    """
    for key, expected in family.fixed.items():
        found = values.get(key)
        if found != expected and (found or expected):
            raise UnsupportedModelError(
                f"{values.label} sets {key} to {shown(str(found))}, which Stoker does not compute for "
                f"{family.model_type} (it runs models where this is {expected!r})."
            )
    known = family.keys | IGNORED_KEYS
    unknown = sorted(key for key, value in values.given.items() if key not in known and value)
    if unknown:
        names = ", ".join(map(shown, unknown[:_MAX_SHOWN_KEYS]))
        raise UnsupportedModelError(
            f"{values.label} has keys that Stoker does not know for {family.model_type}: {names}. They may "
            "change the model's answers; remove them if they do not."
        )
