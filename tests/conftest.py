"""Set up what every test needs.

Each process has one BLAS thread: the products here are small, and the tests already run on all cores. Ctrl-C raises
KeyboardInterrupt, as in a terminal: a program that was started in the background ignores it, and so would the programs
that tests start. The runs and tables of a test draw no pictures, which would take most of their time, unless it uses
the fixture `pictures`. Processes that a test starts draw theirs, unless it uses `undrawn`.
"""

import inspect
import os
import signal
import threading
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
from PIL import Image

from fastweights_np import files
from tasks import figures
from tasks.figures import style

DRAW = [(figures, name, getattr(figures, name)) for name in figures.__all__ if name != "title"]
DRAW.append((style, "save", style.save))  # the figures of the bench


def _a_pixel(draw):
    """Return a function that takes the same arguments as `draw` and writes a picture of one pixel."""

    def write(*arguments, **options):
        given = inspect.signature(draw).bind(*arguments, **options).arguments
        with files.whole(given["path"]) as file:
            Image.new("1", (1, 1)).save(file, "PNG")
        style.plt.close("all")

    return write


@pytest.fixture(scope="session", autouse=True)
def _without_pictures():
    with pytest.MonkeyPatch.context() as patched:
        for module, name, draw in DRAW:
            patched.setattr(module, name, _a_pixel(draw))
        yield


@pytest.fixture
def pictures(monkeypatch):
    """Draw the pictures of this test's runs."""
    for module, name, draw in DRAW:
        monkeypatch.setattr(module, name, draw)


@pytest.fixture(scope="module")
def undrawn():
    """Draw no pictures in the processes that the tests of this module start from now on."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(Path(__file__).parent / "undrawn"), prepend=os.pathsep)
        yield
