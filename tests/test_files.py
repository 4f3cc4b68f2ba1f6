"""Files that are written whole or not at all: what has reached the disk when the new file takes the old one's place."""

from __future__ import annotations

import os

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
