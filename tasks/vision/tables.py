"""Read a CSV file row by row, in bounded memory. Every error names the file and the row."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

LONGEST = 1 << 20  # bytes in a line; a row of fer2013.csv has 9,000


def rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (row, values of the wanted columns) for each row after the header.

    The text is UTF-8, with or without a byte-order mark. Spaces around names and values are removed. Names match in
    upper and lower case. A row's number is its line in the file; the header is line 1. Empty lines are skipped.

    Raise ValueError if the file is no such table, lacks a column, or has a row with too many or too few values.
    """
    records = _records(path)
    _, header = next(records, (1, []))
    names = [name.casefold() for name in header]
    wanted = [name.casefold() for name in columns]
    missing = [name for name, key in zip(columns, wanted, strict=True) if key not in names]
    if missing:
        raise ValueError(
            f"{path}: expected the columns {', '.join(columns)}; missing {', '.join(missing)}; "
            f"found {', '.join(header)[:200] or 'an empty file'}"
        )
    twice = [name for name, key in zip(columns, wanted, strict=True) if names.count(key) > 1]
    if twice:
        raise ValueError(f"{path}: expected each column once, got {', '.join(twice)} several times")
    places = [names.index(key) for key in wanted]
    for row, record in records:
        if len(record) != len(header):
            raise ValueError(f"{path}, row {row}: expected {len(header)} values, got {len(record)}")
        yield row, {name: record[place] for name, place in zip(columns, places, strict=True)}


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (row, values) for each record, the header included."""
    reader = csv.reader(_lines(path), strict=True, skipinitialspace=True)
    while True:
        row = reader.line_num + 1  # the record's first line: an open quote includes the lines after it
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(
                f"{path}, row {row}: expected comma-separated values: {error}; is a quote open?"
            ) from error
        if record:
            yield row, [value.strip() for value in record]


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file."""
    with open(path, "rb") as file:
        number = 0
        while line := file.readline(LONGEST + 1):
            number += 1
            if len(line) > LONGEST:
                raise ValueError(f"{path}, row {number}: expected a line of at most {LONGEST} bytes, got a longer one")
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}, row {number}: expected text in UTF-8, got byte 0x{line[error.start]:02x}; "
                    "save it as CSV UTF-8"
                ) from error
            if "\0" in text:
                raise ValueError(f"{path}, row {number}: expected text, got a NUL byte; save it as CSV UTF-8")
            yield text
