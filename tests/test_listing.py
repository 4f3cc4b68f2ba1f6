"""Listing folders: strays, links, and names for messages."""

from __future__ import annotations

import pytest

from tasks.vision.listing import files_under, listing


def test_links_are_followed_and_every_folder_is_visited_once(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "b.png").touch()
    folder = tmp_path / "inside"
    folder.mkdir()
    (folder / "a.png").touch()
    (folder / "loop").symlink_to(folder)
    (folder / "linked").symlink_to(tmp_path / "outside")
    (folder / ".hidden").symlink_to(tmp_path / "outside")
    assert files_under(folder) == [folder / "a.png", folder / "linked" / "b.png"]


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        files_under(tmp_path / "nowhere")


def test_a_listing_is_short():
    assert listing([]) == "nothing"
    assert listing(["a", "b"]) == "a, b"
    assert listing(map(str, range(100))) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 90 more"
