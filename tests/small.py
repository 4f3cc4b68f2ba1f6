"""Every task at its smallest: the options of a run that takes a second, with made-up data."""

from __future__ import annotations

from pathlib import Path

import numpy

from fastweights_np import checkpoint
from tasks.contexts.base import BaseConfig, train
from tasks.vision import digits
from tests.test_digits import idx
from tests.test_expressions import fer_folders

SEQUENCES = ["--training-size", "24", "--validation-size", "8", "--test-size", "8"]
NETWORK = ["--hidden-size", "8", "--batch-size", "8"]


def mnist_files(folder: Path) -> Path:
    """A made-up MNIST of 30 training and 10 test images."""
    folder.mkdir(exist_ok=True)
    rng = numpy.random.default_rng(0)
    arrays = [each for n in (30, 10) for each in (rng.integers(0, 256, (n, 28, 28)), rng.integers(0, 10, n))]
    for file, array in zip(digits.FILES, arrays, strict=True):
        (folder / file).write_bytes(idx(array))
    return folder


LENGTH = {
    "retrieval": ("epochs", 2), "mnist": ("epochs", 2), "faces": ("epochs", 2), "catch": ("frames", 960),
    "keyvalue": ("epochs", 2), "mqar": ("epochs", 2), "longrecall": ("epochs", 2), "text": ("epochs", 2),
    "fast_slow": ("tasks", 2),
}  # fmt: skip


def without(words: list[str], *options: str) -> list[str]:
    """The command line without these options and their values."""
    places = {words.index(option) for option in options}
    return [word for n, word in enumerate(words) if not {n, n - 1} & places]


def options(task: str, folder: Path) -> list[str]:
    """The command line of a run of 2 epochs, or of 960 frames, without --out. Data are made in the folder."""
    if task == "retrieval":
        return [task, *SEQUENCES, *NETWORK, "--epochs", "2"]
    if task == "keyvalue":
        return [task, "--layer", "delta", "--keys", "6", *NETWORK, "--epochs", "2"]
    if task == "fast_slow":
        made = BaseConfig(5, 8, decay=0.95, rate=0.5, updates=3, seed=0)
        (folder / "bases").mkdir(exist_ok=True)
        checkpoint.save(folder / "bases" / made.path, train(made))
        base = ["--hidden-size", "8", "--base-updates", "3", "--data-dir", str(folder / "bases")]
        size = ["--episodes", "64", "--problems", "4", "--contexts", "2", "--rank", "3", "--interleave", "1"]
        return [task, *base, *size, "--tasks", "2", "--no-second"]
    if task == "mqar":
        return [task, *SEQUENCES, *NETWORK, "--tokens", "16", "--vocabulary", "32", "--epochs", "2"]
    if task == "longrecall":
        sizes = ["--pairs", "2", "--gap", "4", "--validation-size", "4", "--test-size", "4"]
        return [task, *sizes, "--hidden-size", "8", "--batch-size", "2", "--epochs", "2"]
    if task == "text":
        (folder / "text.txt").write_text("the cat sat on the mat, and the dog sat on the log. " * 20)
        sizes = ["--data", str(folder / "text.txt"), "--context", "32", "--validation-size", "99"]
        return [task, *sizes, "--hidden-size", "8", "--batch-size", "2", "--epochs", "2"]
    if task == "mnist":
        return [
            task,
            *NETWORK,
            "--validation-size",
            "6",
            "--epochs",
            "2",
            "--data-dir",
            str(mnist_files(folder / "digits")),
        ]
    if task == "faces":
        faces = fer_folders(folder / "faces")
        return [task, *NETWORK, "--validation-size", "2", "--epochs", "2", "--data-dir", str(faces)]
    game = ["--size", "6", "--visible", "2", "--games", "16", "--method", "a2c", "--frames", "960"]
    return [task, *game, "--hidden-size", "8", "--checkpoint-every", "0"]
