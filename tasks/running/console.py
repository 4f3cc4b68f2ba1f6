"""Make standard output and error safe for a long run: neither a closed reader nor a console's encoding stops it.

After a reader closes the stream (| head) or the disk is full (> log), further output is discarded. A console without
Greek letters gets their names.
"""

from __future__ import annotations

import io
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

_SIGNS = {"×": "x", "·": "*", "√": "sqrt ", "−": "-", "–": "-", "→": "->", "±": "+-", "─": "-", "│": "|", "║": "|"}


class Output:
    """A text stream that accepts any text and never raises. After the first OSError, `error`, it discards output."""

    def __init__(self, stream: Any) -> None:
        self._stream, self.error = stream, None

    def write(self, text: str) -> int:
        """Write the text in the characters of the stream's encoding."""
        try:
            self._stream.write(spelled(text, getattr(self._stream, "encoding", None) or "utf-8"))
        except OSError as error:
            self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _give_up(self, error: OSError) -> None:
        self.error = self.error or error  # type: ignore[assignment]
        with suppress(OSError, ValueError):  # the buffer is flushed to the null device at exit
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextmanager
def outputs() -> Iterator[tuple[Output, Output]]:
    """Replace sys.stdout and sys.stderr by an Output each within the block."""
    before = sys.stdout, sys.stderr
    made = Output(sys.stdout or io.StringIO()), Output(sys.stderr or io.StringIO())  # None: closed before the start
    sys.stdout, sys.stderr = made
    try:
        yield made
    finally:
        for stream in made:
            stream.flush()
        sys.stdout, sys.stderr = before


def spelled(text: str, encoding: str) -> str:
    """Return the text with names or similar characters for those that the encoding lacks: λ becomes lambda."""
    with suppress(UnicodeEncodeError):
        text.encode(encoding)
        return text
    return "".join(_spelled(character, encoding) for character in text)


def _spelled(character: str, encoding: str) -> str:
    with suppress(UnicodeEncodeError):
        character.encode(encoding)
        return character
    name = unicodedata.name(character, "")
    if name.startswith("GREEK"):
        return name.split()[-1].lower().replace("lamda", "lambda")
    if name.startswith("BOX DRAWINGS"):
        return _SIGNS.get(character, "+")
    similar = unicodedata.normalize("NFKD", character).encode(encoding, "ignore").decode(encoding)
    return _SIGNS.get(character) or similar or character.encode(encoding, "backslashreplace").decode(encoding)
