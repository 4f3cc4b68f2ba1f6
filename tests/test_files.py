"""Files that are written whole or not at all: what has reached the disk when the new file takes the old one's place."""

from __future__ import annotations

import os

import pytest

from fastweights_np import files


def test_the_content_is_on_the_disk_before_the_file_takes_its_place(tmp_path, monkeypatch):
    path, happened = tmp_path / "file", []
    path.write_bytes(b"old")

    def fsync(descriptor, real=os.fsync):
        happened.append(("fsync", os.fstat(descriptor).st_size, path.read_bytes()))
        real(descriptor)

    def replace(source, target, real=os.replace):
        happened.append(("replace", os.stat(source).st_size, path.read_bytes()))
        real(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    files.write_text(path, "newer")
    assert happened == [("fsync", 5, b"old"), ("replace", 5, b"old")]
    assert path.read_bytes() == b"newer"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_an_error_names_the_folder_that_is_missing_or_the_file_and_never_the_temporary_file(tmp_path):
    with pytest.raises(FileNotFoundError) as missing:
        files.write_text(tmp_path / "none" / "file", "")
    assert missing.value.filename == str(tmp_path / "none")
    with pytest.raises(OSError, match="too long") as wrong:
        files.write_text(tmp_path / ("x" * 250), "")  # the temporary name is too long for the file system
    assert wrong.value.filename == str(tmp_path / ("x" * 250))
