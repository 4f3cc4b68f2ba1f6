"""Find and read the data set of facial expressions in a folder, as 48 x 48 grey images.

fer_2013.py and multi_pie.py describe the layouts. face_sets.py defines the types that they return.
"""

from __future__ import annotations

from pathlib import Path

from .face_sets import SIDE, Expressions, Faces, hold_out, take
from .fer_2013 import FER_CLASSES, TABLES, fer_2013_folders, fer_2013_table, fer_2013_two_tables, is_split
from .listing import listing, visible
from .multi_pie import ALIGNED, LANDMARKS, PIE_CLASSES, TABLE, alignment, multi_pie

__all__ = [
    "ALIGNED", "FER_CLASSES", "LANDMARKS", "PIE_CLASSES", "SIDE", "Expressions", "Faces", "alignment", "hold_out",
    "load", "take",
]  # fmt: skip
TWO_TABLES = ("train.csv", "test.csv")


def load(data_dir: Path) -> Expressions:
    """Return the checked data set in a folder: FER-2013 as a table, two tables or folders, or Multi-PIE.

    Raise FileNotFoundError, with the folder's content, if there is no data set. Raise ValueError, naming the file and
    the row, for input that cannot be read.
    """
    data_dir = Path(data_dir)
    if not data_dir.is_dir():
        found = f"the file {data_dir}; name its folder" if data_dir.exists() else f"none at {data_dir}"
        raise FileNotFoundError(f"data_dir: expected a folder of faces, found {found}")
    inside = visible(data_dir)
    files = {path.name.casefold(): path for path in inside if path.is_file()}
    for name in TABLES:
        if name in files:
            return fer_2013_table(files[name])
    if any(is_split(path.name) for path in inside if path.is_dir()):
        return fer_2013_folders(data_dir)
    if TABLE in files:
        return multi_pie(files[TABLE])
    found = listing(path.name + "/" * path.is_dir() for path in inside)
    halves = [name for name in TWO_TABLES if name in files]
    if len(halves) == 2:
        return fer_2013_two_tables(*(files[name] for name in TWO_TABLES))
    if halves:
        (missing,) = set(TWO_TABLES) - set(halves)
        raise FileNotFoundError(
            f"data_dir: expected {missing} next to {halves[0]}, both with the columns emotion and pixels, or "
            f"{TABLES[0]} or {TABLES[1]}, which hold both sets; found {found} in {data_dir}"
        )
    raise FileNotFoundError(
        f"data_dir: expected FER-2013, as {TABLES[0]}, {TABLES[1]} or as folders train/CLASS and test/CLASS of images, "
        f"or Multi-PIE, as image files with {TABLE}; found {found} in {data_dir}"
    )
