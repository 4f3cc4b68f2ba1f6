"""Reading CSV: what is a table, and what is named by its row."""

from __future__ import annotations

import tracemalloc

import pytest

from tasks.vision.tables import rows


def read(path, content):
    path.write_bytes(content)
    return list(rows(path, ("a", "b")))


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_rows_are_counted_by_their_lines_and_columns_found_by_name(mark, end, tmp_path):
    content = mark + end.join([b' "B", extra ,A', b"1,2,3", b"", b'"4\n5", ,"6"', b" 7 ,8,9"])
    assert read(tmp_path / "x.csv", content) == [
        (2, {"a": "3", "b": "1"}), (4, {"a": "6", "b": "4\n5"}), (6, {"a": "9", "b": "7"}),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ": expected the columns a, b; missing a, b; found an empty file"),
        (b"a;b\n1;2\n", ": expected the columns a, b; missing a, b; found a;b"),
        (b"a,b,A\n", ": expected each column once, got a several times"),
        (b"a,b\n1\n", ", row 2: expected 2 values, got 1"),
        (b"a,b\n1,2\n1,2,3\n", ", row 3: expected 2 values, got 3"),
        (b'a,b\n1,2\n"1,2\n3,4\n', ", row 3: expected comma-separated values: unexpected end of data; is a quote open"),
        (b'a,b\n"1"x,2\n', ", row 2: expected comma-separated values"),
        (b'a,b\n1,2\n"' + b"1,2\n" * 50_000, ", row 3: expected comma-separated values: field larger than field limit"),
        (b"a,b\n1,2\n1," + b"9" * 200_000 + b"\n", ", row 3: expected comma-separated values: field larger"),
        (b"a,b\n1,2\n1," + b"9" * (2 << 20) + b"\n", ", row 3: expected a line of at most 1048576 bytes, got a longer"),
        (b"a,b\n1,\0\n", ", row 2: expected text, got a NUL byte"),
        (b"a,b\n1,2\n1,\xe9\n", ", row 3: expected text in UTF-8, got byte 0xe9; save it as CSV UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), ", row 1: expected text in UTF-8, got byte 0xff"),
        (b"a,b\r1,2\r", ", row 1: expected comma-separated values: new-line character"),
    ],
)  # fmt: skip
def test_what_is_no_table_is_named_by_its_row(content, message, tmp_path):
    with pytest.raises(ValueError, match=rf"x\.csv{message}"):
        read(tmp_path / "x.csv", content)


def test_a_line_without_an_end_takes_no_memory(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b"a,b\n" + bytes([57]) * (32 << 20))
    tracemalloc.start()
    with pytest.raises(ValueError, match="row 2: expected a line of at most"):
        list(rows(path, ("a", "b")))
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
