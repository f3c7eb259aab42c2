"""Bytes of tokens to text, as they come."""

from codecs import getincrementaldecoder

_Decoder = getincrementaldecoder("utf-8")


class Detokenizer:
    """Decodes UTF-8 from a stream of tokens' bytes, holding incomplete characters back.

    What it returns over its life, `flush` included, is what ``bytes.decode(errors="replace")`` makes
    of all the bytes at once, however they were cut.

    Args:
        held: The beginning of a character that came before.
    """

    def __init__(self, held: bytes = b"") -> None:
        self._decoder = _Decoder(errors="replace")
        self._decoder.decode(held)

    @property
    def held(self) -> bytes:
        """The beginning of a character that is not complete yet."""
        return self._decoder.getstate()[0]

    def feed(self, data: bytes) -> str:
        """Return the characters that are complete by now."""
        return self._decoder.decode(data)

    def flush(self) -> str:
        """Return U+FFFD for what is held, at the end of the stream."""
        return self._decoder.decode(b"", final=True)
